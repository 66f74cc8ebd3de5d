"""The one resize rule (OpenCV's INTER_AREA) in tensor operations, for the exported file: equal to OpenCV's to the bit.

OpenCV averages over areas where neither side grows, and otherwise interpolates between two pixels with 11-bit weights.
Either way each line of the result takes a few neighbouring lines of the film ("taps"), columns first. It rounds every
product and every sum to float32, tap after tap, and means that lie midway between two gray levels fall to one side or
the other by that rounding. So the operations here are the same ones in the same order; a product of matrices is not.
(OpenCV's algorithm: modules/imgproc/src/resize.cpp, computeResizeAreaTab, ResizeArea_Invoker, ResizeAreaFast_Invoker,
HResizeLinear and VResizeLinear; as built for x86-64, where a product and a sum are two roundings.)

Shape suffixes: B films, H x W their pixels, S side of the prepared film, N lines of the film along one axis, K taps,
M lines along the other axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

LEAST = 1e-3
"""Of a pixel's side: OpenCV leaves out a tap that covers no more."""
EPSILON = 2.0**-52
LEVELS = 2048
"""Steps of a weight between two pixels."""


def resize(films_BHW: Tensor, size: int) -> Tensor:
    """RESIZE_RULE: films uint8 B x H x W -> gray levels 0 ... 255 as float32, B x S x S. Any B, H, W >= 1.

    Equal to `cv2.resize(..., INTER_AREA)` where running sums are rounded to float32 each, as ONNX Runtime's are. (By
    torch itself, whose running sums carry double precision, a few pixels differ by one gray level.)
    """
    down, across = _axis(films_BHW.shape[1], size), _axis(films_BHW.shape[2], size)
    grows = (down.count < size) | (across.count < size)
    whole = down.whole & across.whole & ~grows
    # Columns as rows, so that a tap copies whole runs of memory.
    columns_BWH = films_BHW.transpose(1, 2)
    column_KS = torch.where(grows, across.first_S + across.tap_K1, across.area_first_S + across.tap_K1)
    weight_KS = torch.where(grows, across.between_KS(inside=True), across.area_KS(whole))
    rows_BHS = _sums(columns_BWH, across.clipped(column_KS), weight_KS).transpose(1, 2)
    sums_BSS = _sums(rows_BHS, down.clipped(down.area_first_S + down.tap_K1), down.area_KS(whole))
    # Where both ratios are whole, the sums are of whole pixels, hence exact; the one division comes last.
    area = torch.where(whole, down.count * across.count / size**2, 1.0)
    mean_BSS = sums_BSS * _over(1.0, area.float())
    half = (down.count == 2 * size) & (across.count == 2 * size)
    mean_BSS = torch.where(half, torch.floor(mean_BSS + 0.5), torch.round(mean_BSS))
    return torch.where(grows, _between(rows_BHS, down), mean_BSS).clamp(0, 255)


def _sums(lines_BNM: Tensor, line_KS: Tensor, weight_KS: Tensor) -> Tensor:
    """Weighted sums of K lines each -> float32 B x S x M; rounded product by product and sum by sum, in order."""
    taps_BLM = lines_BNM.index_select(1, line_KS.flatten())
    taps_BKSM = taps_BLM.reshape(taps_BLM.shape[0], line_KS.shape[0], line_KS.shape[1], taps_BLM.shape[2])
    return (taps_BKSM.float() * weight_KS[..., None]).cumsum(1)[:, -1]


def _between(rows_BHS: Tensor, down: _Axis) -> Tensor:
    """Where a side grows: rows, whole numbers of 1 / 2048 gray levels, mixed as OpenCV's integers mix them."""
    weight_2S = down.between_KS(inside=False)
    parts = []
    for tap in (0, 1):
        row_BSS = rows_BHS.index_select(1, down.clipped(down.first_S + tap))
        sixteenth_BSS = torch.floor(row_BSS / 16).double()
        parts.append(torch.floor(sixteenth_BSS * (weight_2S[tap][:, None] / 65536)))
    return torch.floor((parts[0] + parts[1] + 2) / 4).float()


@dataclass(frozen=True, eq=False)
class _Axis:
    """One axis of the films: N lines to `size`. Computed in float64 as OpenCV does, to its last bit."""

    count: Tensor
    """N, float64. In an export it is known only when the file runs."""
    size: int
    tap_K1: Tensor
    """0 ... K - 1, float64; K is the most lines that one line of the result takes."""

    @cached_property
    def inverse(self) -> Tensor:
        return _over(self.size, self.count)

    @cached_property
    def scale(self) -> Tensor:
        return _over(1.0, self.inverse)  # OpenCV's way to write N / S

    @cached_property
    def whole(self) -> Tensor:
        return (self.scale - torch.round(self.scale)).abs() < EPSILON

    @cached_property
    def line_S(self) -> Tensor:
        return torch.arange(self.size, dtype=torch.float64)

    @cached_property
    def first_S(self) -> Tensor:
        """The upper of two neighbours."""
        return torch.floor(self.line_S * self.scale)

    @cached_property
    def area_first_S(self) -> Tensor:
        """The first line of an area."""
        low_S, inner_S, _ = self._area
        return torch.where(inner_S - low_S > LEAST, inner_S - 1, inner_S)

    def clipped(self, line: Tensor) -> Tensor:
        """As indices, the last line instead of those beyond."""
        return torch.minimum(line, self.count - 1).long()

    def area_KS(self, whole: Tensor) -> Tensor:
        """Shares of the lines from `area_first_S` on, float32; ones instead if `whole`."""
        low_S, inner_S, last_S = self._area
        cell_S = torch.minimum(self.scale, self.count - low_S)
        beyond_S = low_S + self.scale - last_S
        beyond_S = torch.where(beyond_S > LEAST, torch.minimum(beyond_S.clamp(max=1), cell_S), 0.0)
        line_KS = self.area_first_S + self.tap_K1
        covered_KS = torch.where(line_KS < inner_S, inner_S - low_S, 1.0)
        covered_KS = torch.where(line_KS < last_S, covered_KS, torch.where(line_KS == last_S, beyond_S, 0.0))
        share_KS = covered_KS / cell_S
        return torch.where(whole, torch.ceil(share_KS), share_KS).float()

    @cached_property
    def _area(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of each line of the result: where it begins, its first whole line, and the line that it ends in."""
        low_S = self.line_S * self.scale
        last_S = torch.minimum(torch.floor(low_S + self.scale), self.count - 1)
        return low_S, torch.minimum(torch.ceil(low_S), last_S), last_S

    def between_KS(self, *, inside: bool) -> Tensor:
        """Weights of the lines from `first_S` on, whole numbers of 1 / 2048; K is 2 unless `inside`.

        inside: nothing of a line beyond the last one. (Across, OpenCV asks for that; down, it repeats the last line.)
        """
        second_S = ((self.line_S + 1) - (self.first_S + 1) * self.inverse).float()
        second_S = torch.where(second_S <= 0, 0.0, second_S - torch.floor(second_S))
        if inside:
            second_S = torch.where(self.first_S >= self.count - 1, 0.0, second_S)
        weight_2S = torch.round(torch.stack([1 - second_S, second_S]) * LEVELS)
        if not inside:
            return weight_2S
        weight_KS = torch.where(self.tap_K1 == 0, weight_2S[0], torch.where(self.tap_K1 == 1, weight_2S[1], 0.0))
        return weight_KS.float()


def _axis(n: int, size: int) -> _Axis:
    # An area of a ratio r begins anywhere in a pixel, so it meets r pixels or, unless r is whole, one more begun at
    # either end.
    taps = (n + size - 1) // size + (n % size + size - 1) // size
    return _Axis(count(n), size, torch.arange(taps, dtype=torch.float64)[:, None])


def _over(number: float, by: Tensor) -> Tensor:
    """A true division: `number / by` would be traced as a reciprocal and a product, which are other last bits."""
    return torch.tensor(number, dtype=by.dtype) / by


def count(n: int) -> Tensor:
    """A side as a float64 scalar; in an export the side is known only when the file runs."""
    return torch.arange(n, dtype=torch.float64)[-1] + 1
