"""The largest connected region of each mask of a batch, as a box.

Two routes with equal results: on a CPU the runs of all masks at once (a run is a stretch of mask pixels in a line);
elsewhere, and in exported models, tensor operations only, a fixed number of them, so that a GPU never waits for the
host.

Shapes: B masks of H x W pixels; R runs of all masks; N nodes of a mask's graph; K neighbours of a node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from agcxr.geometry import plain_cpu

Route = Literal["auto", "runs", "tensor"]

JUMPS = 3
"""Pointer jumps a round. With three, the worst masks found (mazes, space-filling curves) settle in 7 rounds at 224."""


@dataclass(frozen=True)
class Regions:
    """One region an image."""

    box_B4: Tensor
    """float32, (x0, y0, x1, y1) in pixels of the mask, exclusive end; zeros where nothing was found."""
    found_B: Tensor
    """False where the mask is empty."""


def largest_region(mask_BHW: Tensor, heat_BHW: Tensor, connectivity: int = 8, route: Route = "auto") -> Regions:
    """Box of the region with the most pixels; ties go to the highest heat inside, then to the first in raster order.

    Raises ValueError for another connectivity than 4 or 8, an unknown route, or shapes that differ.
    """
    if connectivity not in (4, 8):
        raise ValueError(f"connectivity is {connectivity!r}; expected 4 or 8")
    if route not in ("auto", "runs", "tensor"):
        raise ValueError(f"route is {route!r}; expected 'auto', 'runs' or 'tensor'")
    if mask_BHW.ndim != 3 or mask_BHW.shape != heat_BHW.shape or mask_BHW.dtype != torch.bool:
        raise ValueError(
            f"mask is {mask_BHW.dtype} {tuple(mask_BHW.shape)}, heat {tuple(heat_BHW.shape)}; "
            "expected a bool mask B x H x W and a heat of the same shape"
        )
    if route == "auto":
        route = "runs" if plain_cpu(mask_BHW) else "tensor"
    return (_by_runs if route == "runs" else _tensor)(mask_BHW, heat_BHW, connectivity)


# --- the CPU route ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Runs:
    """Stretches of mask pixels in the lines of all masks, in raster order.

    Places count through one long array: the masks after each other, an empty line above each, an empty column at its
    left, one empty place at the end. So no run goes on into the next line or mask.
    """

    start_R: np.ndarray
    stop_R: np.ndarray
    """Exclusive."""
    height: int
    width: int

    @classmethod
    def of(cls, mask_BHW: np.ndarray) -> _Runs:
        _, height, width = mask_BHW.shape
        flat = _laid_out(mask_BHW)
        edge = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        return cls(edge[::2], edge[1::2], height, width)

    @property
    def line(self) -> int:
        """Places of a line."""
        return self.width + 1

    @property
    def image_R(self) -> np.ndarray:
        """The mask each run belongs to."""
        return self.start_R // (self.line * (self.height + 1))

    def labels(self, connectivity: int) -> tuple[int, np.ndarray]:
        """How many regions there are, and the region of each run. Runs that touch in neighbouring lines are linked."""
        reach = int(connectivity == 8)  # corners count
        first = np.searchsorted(self.stop_R, self.start_R + self.line - reach, side="right")
        last = np.searchsorted(self.start_R, self.stop_R + self.line + reach, side="left")
        links_R = np.maximum(last - first, 0)  # of each run to those in the line below, which follow each other
        end_R = np.cumsum(links_R)
        below = np.arange(links_R.sum()) + np.repeat(first - (end_R - links_R), links_R)
        graph = csr_array((np.ones(len(below), np.int8), below, np.concatenate([[0], end_R])), shape=(len(end_R),) * 2)
        return connected_components(graph, directed=False)


def _laid_out(value_BHW: np.ndarray) -> np.ndarray:
    """The long array of _Runs; zeros where it is empty."""
    batch, height, width = value_BHW.shape
    flat = np.zeros(batch * (height + 1) * (width + 1) + 1, value_BHW.dtype)
    flat[:-1].reshape(batch, height + 1, width + 1)[:, 1:, 1:] = value_BHW
    return flat


def _by_runs(mask_BHW: Tensor, heat_BHW: Tensor, connectivity: int) -> Regions:
    """All masks at once: their runs, what is connected, and the bounds of the runs of the largest region of each."""
    batch = len(mask_BHW)
    runs = _Runs.of(mask_BHW.cpu().numpy())
    box, found = np.zeros((batch, 4), np.float32), np.zeros(batch, bool)
    if len(runs.start_R):
        count, label_R = runs.labels(connectivity)
        image_R = runs.image_R
        image = np.zeros(count, np.int64)  # of each region
        image[label_R] = image_R
        size = np.bincount(label_R, runs.stop_R - runs.start_R, count)
        largest = np.zeros(batch)
        np.maximum.at(largest, image, size)
        found = largest > 0
        candidate = np.flatnonzero(size == largest[image])
        if len(candidate) > np.count_nonzero(found):
            candidate = _by_peak_then_first(candidate, image, label_R, runs, heat_BHW)
        owner, position = np.unique(image[candidate], return_index=True)
        chosen = np.full(batch, -1)
        chosen[owner] = candidate[position]
        kept = np.flatnonzero(label_R == chosen[image_R])
        place, left = np.divmod(runs.start_R[kept], runs.line)
        top, right = place % (runs.height + 1), left + runs.stop_R[kept] - runs.start_R[kept]
        begin = np.searchsorted(image_R[kept], owner)
        bounds = (np.minimum, left - 1), (np.minimum, top - 1), (np.maximum, right - 1), (np.maximum, top)
        box[owner] = np.stack([bound.reduceat(value, begin) for bound, value in bounds], 1)
    return Regions(torch.from_numpy(box), torch.from_numpy(found))


def _by_peak_then_first(
    candidate: np.ndarray, image: np.ndarray, label_R: np.ndarray, runs: _Runs, heat_BHW: Tensor
) -> np.ndarray:
    """Candidate regions in the order of their image, then the highest heat, then the first pixel in raster order.

    `image` is each region's image, `label_R` each run's region.
    """
    rank = np.full(len(image), -1)
    rank[candidate] = np.arange(len(candidate))
    tied = np.flatnonzero(rank[label_R] >= 0)
    region, start = rank[label_R[tied]], runs.start_R[tied]
    heat = _laid_out(heat_BHW.float().cpu().numpy())
    highest = np.maximum.reduceat(heat, np.stack([start, runs.stop_R[tied]], 1).ravel())[::2]
    peak = np.full(len(candidate), -np.inf, np.float32)
    first = np.full(len(candidate), np.iinfo(np.int64).max)
    np.maximum.at(peak, region, highest)
    np.minimum.at(first, region, start)
    return candidate[np.lexsort((first, -peak, image[candidate]))]


# --- the tensor route -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Graph:
    """A mask as a graph whose connected components are the mask's regions."""

    neighbour_BKN: Tensor
    """Node index of each neighbour; the node itself where there is none."""
    size_BN: Tensor
    """Mask pixels in the node."""
    peak_BN: Tensor
    """Highest heat of its mask pixels; -inf without any."""
    first_BN: Tensor
    """Raster index of its first mask pixel; H * W without any."""
    step: int
    """Pixels along a node's side."""


def _tensor(mask_BHW: Tensor, heat_BHW: Tensor, connectivity: int) -> Regions:
    _, height, width = mask_BHW.shape
    graph = _graph(mask_BHW, heat_BHW.float(), connectivity)
    root_BN, settled_B = _components(graph.neighbour_BKN)
    chosen_B1, found_B1 = _choose(graph, root_BN, height * width)
    node_bhw = (root_BN == chosen_B1).view(-1, -(-height // graph.step), -(-width // graph.step))
    pixel_BHW = node_bhw.repeat_interleave(graph.step, 1).repeat_interleave(graph.step, 2)[:, :height, :width]
    found_B = found_B1[:, 0] & settled_B
    box_B4 = _bounds(pixel_BHW & mask_BHW) * found_B[:, None]
    return Regions(box_B4.float(), found_B)


def _graph(mask_BHW: Tensor, heat_BHW: Tensor, connectivity: int) -> _Graph:
    """4-connectivity: a node a pixel. 8-connectivity: a node a 2 x 2 block, whose mask pixels always touch."""
    step = 1 if connectivity == 4 else 2
    _, height, width = mask_BHW.shape
    raster_BHW = torch.arange(height * width, device=mask_BHW.device).view(1, height, width).expand_as(mask_BHW)
    first = torch.where(mask_BHW, raster_BHW, height * width)
    peak = torch.where(mask_BHW, heat_BHW, float("-inf"))
    mask_PBhw = _split(mask_BHW, step, False)
    if step == 1:
        m = mask_PBhw[0]
        links = [(0, 1, m[:, :, :-1] & m[:, :, 1:]), (1, 0, m[:, :-1] & m[:, 1:])]
    else:
        a, b, c, d = mask_PBhw.unbind(0)  # upper left, upper right, lower left, lower right pixel of each block
        links = [
            (0, 1, (b | d)[:, :, :-1] & (a | c)[:, :, 1:]),
            (1, 0, (c | d)[:, :-1] & (a | b)[:, 1:]),
            (1, 1, d[:, :-1, :-1] & a[:, 1:, 1:]),
            (1, -1, c[:, :-1, 1:] & b[:, 1:, :-1]),
        ]
    return _Graph(
        neighbour_BKN=_neighbours(links, mask_PBhw.shape[1:]),
        size_BN=mask_PBhw.sum(0).flatten(1),
        peak_BN=_split(peak, step, float("-inf")).amax(0).flatten(1),
        first_BN=_split(first, step, height * width).amin(0).flatten(1),
        step=step,
    )


def _split(value_BHW: Tensor, step: int, fill: float) -> Tensor:
    """The pixels of each step x step block as the first axis (step^2, B, h, w), padded at the right and bottom."""
    _, height, width = value_BHW.shape
    padded = F.pad(value_BHW, (0, -width % step, 0, -height % step), value=fill)
    return torch.stack([padded[:, dy::step, dx::step] for dy in range(step) for dx in range(step)])


def _neighbours(links: list[tuple[int, int, Tensor]], shape: torch.Size) -> Tensor:
    """Links (dy, dx, whether the node and the one at that offset touch) -> index of each neighbour, both ways."""
    batch, height, width = shape
    own_1hw = torch.arange(height * width, device=links[0][2].device).view(1, height, width)
    found = []
    for dy, dx, link in links:
        offset = dy * width + dx
        left, right = max(-dx, 0), max(dx, 0)
        there = F.pad(link, (left, right, 0, dy))  # seen from the upper (or left) node
        back = F.pad(link, (right, left, dy, 0))
        found += [own_1hw + offset * there, own_1hw - offset * back]
    return torch.stack([index.expand(batch, height, width).flatten(1) for index in found], dim=1)


def _components(neighbour_BKN: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest node of each node's component, and whether every label has settled.

    Each round every node, and the root it points to, takes the smallest label among its neighbours; then pointers jump
    (FastSV, Zhang et al. 2020). Labels only fall. log2(N) + 2 rounds are twice what the worst masks found need, and an
    unsettled mask is reported, so that it can never give a wrong box.
    """
    batch, k, n = neighbour_BKN.shape
    flat_BM = neighbour_BKN.reshape(batch, k * n)
    label_BN = torch.arange(n, device=flat_BM.device).expand(batch, n)
    for _ in range((n - 1).bit_length() + 2):
        nearest_BN = torch.minimum(label_BN.gather(1, flat_BM).view(batch, k, n).amin(1), label_BN)
        hooked_BN = label_BN.scatter_reduce(1, label_BN, nearest_BN, "amin")
        label_BN = torch.minimum(hooked_BN, nearest_BN)
        for _ in range(JUMPS):
            label_BN = label_BN.gather(1, label_BN)
    settled_B = (label_BN.gather(1, flat_BM).view(batch, k, n) == label_BN[:, None]).flatten(1).all(1)
    return label_BN, settled_B


def _choose(graph: _Graph, root_BN: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """The root of the region to keep, and whether there is one; both B x 1."""
    size_BN = torch.zeros_like(graph.size_BN).scatter_add(1, root_BN, graph.size_BN)
    peak_BN = graph.peak_BN.scatter_reduce(1, root_BN, graph.peak_BN, "amax")
    first_BN = graph.first_BN.scatter_reduce(1, root_BN, graph.first_BN, "amin")
    most_B1 = size_BN.amax(1, keepdim=True)
    largest_BN = size_BN == most_B1
    peak_BN = torch.where(largest_BN, peak_BN, float("-inf"))
    first_BN = torch.where(largest_BN & (peak_BN == peak_BN.amax(1, keepdim=True)), first_BN, pixels)
    # int32, because ONNX Runtime has ArgMin of int64 only since 1.20.
    return first_BN.int().argmin(1, keepdim=True), most_B1 > 0


def _bounds(mask_BHW: Tensor) -> Tensor:
    """Bounding box of all true pixels of each mask, int64 B x 4 (meaningless where none is true)."""
    _, height, width = mask_BHW.shape
    column, row = torch.arange(width, device=mask_BHW.device), torch.arange(height, device=mask_BHW.device)
    in_x_BW, in_y_BH = mask_BHW.any(1), mask_BHW.any(2)
    return torch.stack(
        [
            torch.where(in_x_BW, column, width).amin(1),
            torch.where(in_y_BH, row, height).amin(1),
            torch.where(in_x_BW, column + 1, 0).amax(1),
            torch.where(in_y_BH, row + 1, 0).amax(1),
        ],
        dim=1,
    )
