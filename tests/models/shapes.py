"""Masks that are hard to label, made in code."""

from __future__ import annotations

import itertools

import numpy as np


def spiral(n: int, step: int = 2) -> np.ndarray:
    """One path, a pixel wide, winding from the rim of an n x n mask to its middle."""
    mask = np.zeros((n, n), bool)
    lengths = [n - 1] * 3
    for side in range(n - 1 - step, 0, -step):
        lengths += [side, side]
    y = x = 0
    for turn, length in enumerate(lengths):
        dy, dx = ((0, 1), (1, 0), (0, -1), (-1, 0))[turn % 4]
        for _ in range(length):
            mask[y, x] = True
            y, x = y + dy, x + dx
        mask[y, x] = True
    return mask


def snake(n: int) -> np.ndarray:
    """Lines joined at alternating ends: one path over the whole mask."""
    mask = np.zeros((n, n), bool)
    mask[::2] = True
    for row in range(1, n - 1, 2):
        mask[row, -1 if row % 4 == 1 else 0] = True
    return mask


def comb(n: int) -> np.ndarray:
    """Teeth that meet in the last line only."""
    mask = np.zeros((n, n), bool)
    mask[:, ::2] = True
    mask[-1] = True
    return mask


def maze(n: int, rng: np.random.Generator) -> np.ndarray:
    """A random spanning tree of the even pixels."""
    k = (n + 1) // 2
    mask, seen, stack = np.zeros((2 * k - 1, 2 * k - 1), bool), np.zeros((k, k), bool), [(0, 0)]
    mask[::2, ::2] = seen[0, 0] = True
    while stack:
        y, x = stack[-1]
        steps = [(dy, dx) for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)) if 0 <= y + dy < k and 0 <= x + dx < k]
        steps = [(dy, dx) for dy, dx in steps if not seen[y + dy, x + dx]]
        if not steps:
            stack.pop()
            continue
        dy, dx = steps[rng.integers(len(steps))]
        seen[y + dy, x + dx] = mask[2 * y + dy, 2 * x + dx] = True
        stack.append((y + dy, x + dx))
    return np.pad(mask, (0, n - len(mask)))


def hilbert(n: int) -> np.ndarray:
    """A space-filling curve of the largest order that fits."""
    order = int(np.log2((n + 1) // 2))
    side = 2**order
    points = [_hilbert_point(step, side) for step in range(side * side)]
    mask = np.zeros((n, n), bool)
    for (y0, x0), (y1, x1) in itertools.pairwise(points):
        mask[2 * y0, 2 * x0] = mask[2 * y1, 2 * x1] = mask[y0 + y1, x0 + x1] = True
    return mask


def _hilbert_point(step: int, side: int) -> tuple[int, int]:
    x = y = 0
    scale = 1
    while scale < side:
        right = 1 & (step // 2)
        up = 1 & (step ^ right)
        if up == 0:
            if right == 1:
                x, y = scale - 1 - x, scale - 1 - y
            x, y = y, x
        x, y = x + scale * right, y + scale * up
        step //= 4
        scale *= 2
    return y, x


def hard(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """All of them at n x n, each also turned, and random masks around the percolation threshold."""
    base = {
        "spiral": spiral(n),
        "wide spiral": spiral(n, 4),
        "snake": snake(n),
        "comb": comb(n),
        "maze": maze(n, rng),
        "hilbert": hilbert(n),
        "checkers": np.indices((n, n)).sum(0) % 2 == 0,
        "full": np.ones((n, n), bool),
        "empty": np.zeros((n, n), bool),
        "one pixel": np.eye(n, dtype=bool) & (np.arange(n) == n // 2),
        "dust": np.kron(np.ones((n // 3, n // 3), bool), np.eye(3, dtype=bool) & (np.arange(3) == 1)),
    }
    base["dust"] = np.pad(base["dust"], (0, n - len(base["dust"])))
    turned = {f"{name} turned {turns}": np.rot90(mask, turns) for name, mask in base.items() for turns in (1, 2, 3)}
    noise = {f"random {share}": rng.random((n, n)) < share for share in (0.05, 0.3, 0.41, 0.45, 0.5, 0.593, 0.65, 0.9)}
    return {**base, **turned, **noise}
