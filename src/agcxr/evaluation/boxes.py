"""Definitions of localisation, arrays -> numbers: from a map to a box, and how well either meets annotated boxes.

docs/localization.md has the formulas. Shapes: B annotated boxes of one finding on one film; M maps or boxes that are
scored; N annotated boxes, a crop each; T map thresholds; H, W pixels of the frame; h, w cells of a feature grid;
V = len(MEASURES).
Frame: boxes are (x0, y0, x1, y1) as FRACTIONS of the film's width and height, exclusive end. IoU, IoBB and shares of
energy do not change when an axis is scaled, so these numbers equal those in pixels of the original film.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from agcxr.inference.maps import profiles
from agcxr.metrics import Floats, box_area, box_iobb, box_iou

Maps = npt.NDArray[np.float32]

IOU_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""A box is correct if IoU > T, at the thresholds of the literature."""
IOBB_LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""A box is correct if IoBB > T (Wang 2017)."""
MEASURES: tuple[str, ...] = (
    "iou",
    *(f"iou>{level:g}" for level in IOU_LEVELS),
    "iobb",
    *(f"iobb>{level:g}" for level in IOBB_LEVELS),
    "hit",
    "energy",
)
"""What is measured of each case: means of overlaps, accuracies at the levels, pointing game, energy inside."""


def map_boxes(heat_HW: Maps, threshold_T: npt.ArrayLike) -> Floats:
    """The box of a map at each threshold, T x 4.

    The pixels over threshold x maximum form regions (8 neighbours); the box bounds the largest, of several as large
    the one with the highest peak, then the first in reading order. A map without a positive value has the empty box
    (0, 0, 0, 0), which overlaps nothing. heat_HW: 0 or more; thresholds in [0, 1).
    """
    thresholds = np.atleast_1d(np.asarray(threshold_T, dtype=np.float64))
    if thresholds.min() < 0 or thresholds.max() >= 1:
        raise ValueError(
            f"map thresholds must lie in [0, 1), got {thresholds.tolist()}; give them as shares of the map's maximum"
        )
    peak = float(heat_HW.max())
    boxes = np.zeros((len(thresholds), 4))
    if not peak > 0:
        return boxes
    for at, threshold in enumerate(thresholds):
        boxes[at] = _largest(heat_HW, np.asarray(heat_HW > threshold * peak, dtype=np.uint8))
    return boxes


def _largest(heat_HW: Maps, mask_HW: npt.NDArray[np.uint8]) -> Floats:
    height, width = mask_HW.shape
    _, label_HW, stats, _ = cv2.connectedComponentsWithStats(mask_HW, connectivity=8)
    pixels = stats[1:, cv2.CC_STAT_AREA]
    largest = 1 + np.flatnonzero(pixels == pixels.max())
    if len(largest) > 1:
        # OpenCV does not promise an order of its labels: peak first, then the first pixel in reading order.
        order = [(-float(heat_HW[label_HW == i].max()), int(np.argmax(label_HW.ravel() == i)), i) for i in largest]
        largest = np.array([min(order)[2]])
    x, y, w, h = stats[largest[0], :4]
    return np.array([x / width, y / height, (x + w) / width, (y + h) / height])


def coverage(box_B4: npt.ArrayLike, height: int, width: int) -> Floats:
    """Share of every pixel that the boxes cover, H x W in [0, 1]; 1 - prod(1 - share) where several meet."""
    open_HW = np.ones((height, width))
    for x0, y0, x1, y1 in np.atleast_2d(np.asarray(box_B4, dtype=np.float64)):
        open_HW *= 1 - np.outer(_covered(y0, y1, height), _covered(x0, x1, width))
    return 1 - open_HW


def _covered(start: float, stop: float, size: int) -> Floats:
    """Share of each of `size` pixels in a row that [start, stop) covers."""
    pixel = np.arange(size)
    return np.clip(np.minimum(pixel + 1, stop * size) - np.maximum(pixel, start * size), 0, 1)


def inside(box_B4: npt.ArrayLike, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Pixels whose centre lies in one of the boxes, H x W."""
    box = np.atleast_2d(np.asarray(box_B4, dtype=np.float64))
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    across_BW = (x >= box[:, [0]]) & (x < box[:, [2]])
    down_BH = (y >= box[:, [1]]) & (y < box[:, [3]])
    return np.einsum("bh,bw->hw", down_BH, across_BW).astype(bool)


def hit(heat_HW: Maps, inside_HW: npt.NDArray[np.bool_]) -> float:
    """Pointing game: 1 if the map's highest pixel is inside, else 0.

    Of several highest pixels the share that is inside, which is the mean over a fair choice among them. A map
    without a positive value points nowhere: 0.
    """
    peak = heat_HW.max()
    return float(inside_HW[heat_HW == peak].mean()) if peak > 0 else 0.0


def energy(heat_HW: Maps, coverage_HW: Floats) -> float:
    """Share of the map's sum that lies in the boxes (edge pixels by their covered share); 0 for an all-zero map."""
    total = float(heat_HW.sum(dtype=np.float64))
    return float((heat_HW * coverage_HW).sum(dtype=np.float64)) / total if total > 0 else 0.0


def overlaps(found_M4: npt.ArrayLike, box_B4: npt.ArrayLike) -> tuple[Floats, Floats]:
    """(IoU, IoBB) of each found box with the annotated box it meets best, M numbers each."""
    detected = np.atleast_2d(np.asarray(found_M4, dtype=np.float64))
    box = np.atleast_2d(np.asarray(box_B4, dtype=np.float64))
    pairs = np.repeat(detected, len(box), axis=0), np.tile(box, (len(detected), 1))
    shape = (len(detected), len(box))
    return box_iou(*pairs).reshape(shape).max(axis=1), box_iobb(*pairs).reshape(shape).max(axis=1)


def measures(iou_M: npt.ArrayLike, iobb_M: npt.ArrayLike, hit_M: npt.ArrayLike, energy_M: npt.ArrayLike) -> Floats:
    """M x V: the columns of MEASURES from overlaps, hits and energies (accuracies are 0 or 1: strictly over T)."""
    iou, iobb = np.asarray(iou_M, dtype=np.float64), np.asarray(iobb_M, dtype=np.float64)
    hits, share = np.broadcast_to(hit_M, iou.shape), np.broadcast_to(energy_M, iou.shape)
    columns = [iou, *(iou > t for t in IOU_LEVELS), iobb, *(iobb > t for t in IOBB_LEVELS), hits, share]
    return np.stack(columns, axis=-1).astype(np.float64)


def measure(found_M4: npt.ArrayLike, heat_HW: Maps, box_B4: npt.ArrayLike) -> Floats:
    """M x V: a map and boxes made of it against the annotated boxes of its finding."""
    height, width = heat_HW.shape
    pointed, within = hit(heat_HW, inside(box_B4, height, width)), energy(heat_HW, coverage(box_B4, height, width))
    return measures(*overlaps(found_M4, box_B4), pointed, within)


def grid_boxes(grid: tuple[int, int], frame_4: npt.ArrayLike) -> Floats:
    """Every box made of whole cells of an h x w grid that covers `frame_4` of the film: h(h+1)w(w+1)/4 rows."""
    x0, y0, x1, y1 = np.asarray(frame_4, dtype=np.float64)
    rows, columns = grid
    top, bottom = np.triu_indices(rows + 1, k=1)
    left, right = np.triu_indices(columns + 1, k=1)
    across = np.stack([x0 + (x1 - x0) * left / columns, x0 + (x1 - x0) * right / columns], axis=1)
    down = np.stack([y0 + (y1 - y0) * top / rows, y0 + (y1 - y0) * bottom / rows], axis=1)
    a, d = np.tile(across, (len(down), 1)), np.repeat(down, len(across), axis=0)
    return np.stack([a[:, 0], d[:, 0], a[:, 1], d[:, 1]], axis=1)


def ceiling(box_B4: npt.ArrayLike, grid: tuple[int, int], frame_4: npt.ArrayLike, size: int) -> Floats:
    """V numbers: the best that a feature grid lying over `frame_4` of the film can reach on these annotated boxes.

    Overlaps: the best box of whole cells, for IoU and for IoBB each its own. Hit and energy: the best map with one
    cell alight, placed on a frame of `size` x `size` pixels; no other non-negative map on that grid has a larger
    share of its energy inside.
    """
    iou, iobb = overlaps(grid_boxes(grid, frame_4), box_B4)
    x0, y0, x1, y1 = np.asarray(frame_4, dtype=np.float64)
    down_hH, across_wW = profiles(grid[0], [y0], [y1], size)[0], profiles(grid[1], [x0], [x1], size)[0]
    total_hw = np.outer(down_hH.sum(axis=1), across_wW.sum(axis=1))
    within_hw = down_hH @ coverage(box_B4, size, size) @ across_wW.T
    share = np.divide(within_hw, total_hw, out=np.zeros_like(within_hw), where=total_hw > 0).max()
    # The peak of a lone cell, all its tied pixels: a real map can have any one of them as its highest.
    peak_hH, peak_wW = (p * (p == p.max(axis=1, keepdims=True)) > 0 for p in (down_hH, across_wW))
    hits = (peak_hH.astype(float) @ inside(box_B4, size, size) @ peak_wW.T.astype(float)).max() > 0
    return measures([iou.max()], [iobb.max()], float(hits), share)[0]


def prior_map(box_K4: npt.ArrayLike, size: int) -> Maps:
    """The centre prior: mean cover of K annotated boxes, one map of `size` x `size` in [0, 1]."""
    boxes = np.atleast_2d(np.asarray(box_K4, dtype=np.float64))
    if boxes.size == 0:
        raise ValueError("a centre prior needs at least one annotated box, got none")
    # A box's cover is an outer product, so the sum over boxes is one matrix product.
    down_KH, across_KW = (np.stack([_covered(b[i], b[i + 2], size) for b in boxes]) for i in (1, 0))
    return (down_KH.T @ across_KW / len(boxes)).astype(np.float32)


# --- what a crop shows of a lesion ------------------------------------------------------------------------------------


def covered(found_N4: Floats, annotated_N4: Floats) -> Floats:
    """Share of each annotated box inside the found one."""
    low = np.maximum(found_N4[:, :2], annotated_N4[:, :2])
    high = np.minimum(found_N4[:, 2:], annotated_N4[:, 2:])
    return np.prod(np.clip(high - low, 0, None), axis=1) / box_area(annotated_N4)


def covered_by_chance(found_N4: Floats, annotated_N4: Floats, window_4: Floats) -> Floats:
    """Expected `covered` of a box as large as the found one, placed uniformly inside the window the network sees."""
    mean = np.ones(len(found_N4))
    for axis in (0, 1):
        side = found_N4[:, 2 + axis] - found_N4[:, axis]
        mean *= _mean_overlap(
            side, annotated_N4[:, axis], annotated_N4[:, 2 + axis], window_4[axis], window_4[2 + axis]
        )
    return mean / box_area(annotated_N4)


def centred(found_N4: Floats, window_4: Floats) -> Floats:
    """Boxes as large as the found ones, in the centre of the window the network sees."""
    middle_2 = (window_4[:2] + window_4[2:]) / 2
    half_N2 = (found_N4[:, 2:] - found_N4[:, :2]) / 2
    return np.concatenate([middle_2 - half_N2, middle_2 + half_N2], axis=1)


def _mean_overlap(side_N: Floats, low_N: Floats, high_N: Floats, start: float, end: float) -> Floats:
    """Mean length of [u, u + side] ∩ [low, high] for u uniform in [start, end - side].

    As u grows the overlap gains slope 1 at low - side, and loses, regains or loses it at high - side, low and high; so
    its antiderivative is a sum of four half squares.
    """
    room = np.maximum(end - start - side_N, 0)
    stuck = room < 1e-12  # the box fills the window: it has one place
    u0, u1 = np.full_like(side_N, start), start + np.where(stuck, 1e-9, room)

    def total(u: Floats) -> Floats:
        signs = ((low_N - side_N, 1), (high_N - side_N, -1), (low_N, -1), (high_N, 1))
        return sum((sign * 0.5 * np.maximum(u - at, 0) ** 2 for at, sign in signs), np.zeros_like(u))

    moving = (total(u1) - total(u0)) / (u1 - u0)
    fixed = np.clip(np.minimum(start + side_N, high_N) - np.maximum(start, low_N), 0, None)
    return np.where(stuck, fixed, moving)
