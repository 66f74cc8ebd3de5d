"""Windows of one size where a heatmap is highest, one after the other: each takes the heat in it away from the next.

The mean heat of every window is found at once, on a lattice of 64 x 64 places (or the grid's cells, where it has more),
by sums over rectangles. Heat is counted there in whole levels, so that these sums are exact in float32 whatever their
order: equal places are equal on every device, alone and in a batch, and the first in reading order is taken.

Shapes: B images, R windows of each, h x w cells of the grid, I x J places of the lattice, H x W pixels of the view.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from agcxr import geometry

LATTICE = 64
EXACT = 2**24
"""float32 holds all whole numbers up to here."""
SHARPNESS = 10.0
"""Of the centre of a window's heat (0 to 1): the higher, the nearer to its peak."""


def windows(heat_Bhw: Tensor, size: tuple[int, int], share: float, count: int) -> Tensor:
    """Boxes of `share` of the view's sides, box_BR4 in whole pixels of a view of that size (height, width).

    heat_Bhw: in [0, 1] on the grid, not upsampled. Each window is the one with the highest mean heat, once that in the
    windows before it is taken as 0. Where no heat is left, there is none: a box of zeros.
    """
    level = lattice(heat_Bhw)
    rows, columns = level.shape[1:]
    level = (level * (EXACT // (rows * columns) - 1)).round()
    high, wide = (max(1, round(share * side)) for side in (rows, columns))
    row_I, column_J = torch.arange(rows, device=level.device), torch.arange(columns, device=level.device)
    boxes = []
    for taken in range(count):
        sum_BN = _sums(level, high, wide).flatten(1)
        best_B = sum_BN.argmax(1)
        across = columns - wide + 1
        top_B, left_B = best_B // across, best_B % across
        box_B4 = _box(left_B, top_B, (wide, high), (columns, rows), size, share)
        boxes.append(torch.where(sum_BN.amax(1, keepdim=True) > 0, box_B4, torch.zeros_like(box_B4)))
        if taken < count - 1:
            in_BI = (row_I >= top_B[:, None]) & (row_I < top_B[:, None] + high)
            in_BJ = (column_J >= left_B[:, None]) & (column_J < left_B[:, None] + wide)
            level = torch.where(in_BI[:, :, None] & in_BJ[:, None], 0.0, level)
    return torch.stack(boxes, 1)


def centred(box_BR4: Tensor, heat_Bhw: Tensor, size: tuple[int, int]) -> Tensor:
    """The same boxes, each moved so that its centre is that of the heat in it (a soft argmax), within the view.
    Gradients pass from the boxes to the heat; a box of zeros stays so."""
    heat_BIJ = lattice(heat_Bhw)
    rows, columns = heat_BIJ.shape[1:]
    height, width = size
    x_J = (torch.arange(columns, device=heat_BIJ.device) + 0.5) * (width / columns)
    y_I = (torch.arange(rows, device=heat_BIJ.device) + 0.5) * (height / rows)
    x0, y0, x1, y1 = box_BR4[..., None].unbind(2)
    inside = ((y0 <= y_I) & (y_I < y1))[..., None] & ((x0 <= x_J) & (x_J < x1))[:, :, None]
    some = geometry.present(box_BR4)
    held = torch.where(inside | ~some[..., None, None], SHARPNESS * heat_BIJ[:, None], float("-inf"))
    weight = held.flatten(2).softmax(2).view_as(held)
    centre_BR2 = torch.stack([(weight.sum(2) * x_J).sum(2), (weight.sum(3) * y_I).sum(2)], 2)
    side_BR2 = box_BR4[..., 2:] - box_BR4[..., :2]
    room_BR2 = torch.tensor([width, height], device=side_BR2.device) - side_BR2
    start_BR2 = torch.minimum((centre_BR2 - side_BR2 / 2).clamp(min=0), room_BR2)
    return torch.where(some[..., None], torch.cat([start_BR2, start_BR2 + side_BR2], 2), box_BR4)


def lattice(heat_Bhw: Tensor) -> Tensor:
    """The heat at the places of the lattice, bilinearly: BIJ."""
    places = (max(LATTICE, heat_Bhw.shape[1]), max(LATTICE, heat_Bhw.shape[2]))
    return F.interpolate(heat_Bhw[:, None], places, mode="bilinear", align_corners=False)[:, 0]


def _sums(level_BIJ: Tensor, high: int, wide: int) -> Tensor:
    """The sum over every high x wide rectangle of the lattice, by its upper left place."""
    total = F.pad(level_BIJ, (1, 0, 1, 0)).cumsum(1).cumsum(2)
    below, above = total[:, high:], total[:, :-high]
    return (below[:, :, wide:] - below[:, :, :-wide]) - (above[:, :, wide:] - above[:, :, :-wide])


def _box(
    left_B: Tensor, top_B: Tensor, span: tuple[int, int], places: tuple[int, int], size: tuple[int, int], share: float
) -> Tensor:
    """Boxes of whole pixels about the middle of rectangles of the lattice; span and places as (columns, rows)."""
    start = []
    for first_B, cells, of, length in zip((left_B, top_B), span, places, size[::-1], strict=True):
        side = max(1, round(share * length))
        middle = (first_B + cells / 2) * (length / of)
        start.append(((middle - side / 2).round().clamp(0, length - side), side))
    (x0, wide), (y0, high) = start
    return torch.stack([x0, y0, x0 + wide, y0 + high], 1).float()
