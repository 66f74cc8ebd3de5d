"""Where to look: feature maps -> heatmap -> mask -> box of the largest connected region (paper section 3.2).

Several boxes are taken one after the other, each where those before it are not: further regions, or windows of one size
(windows.py). `elsewhere` gives the controls: boxes of the same sizes that attention did not place.

Shapes: B images, R boxes of each, D channels, h x w feature grid, H x W pixels of the view.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agcxr import config, geometry
from agcxr.models.regions import Route, largest_region
from agcxr.models.windows import centred, windows

FLAT = 1e-6
"""A heatmap whose range is under this share of its largest value is constant up to float32 rounding."""

SMALL = 128
"""torch resizes to a height and width of up to so many together by another kernel, which rounds otherwise."""


@dataclass(frozen=True)
class Attention:
    """What a network attends to, in pixels of the view."""

    heat_BHW: Tensor
    """float32 in [0, 1]; all zeros where the map is constant or not finite."""
    mask_BHW: Tensor
    """bool: heat above the threshold (all regions, not only the largest)."""
    box_BR4: Tensor
    """float32 (x0, y0, x1, y1), exclusive end, in the order in which they were taken. The first is always one; where
    the heat has no more places, the rest are none: without area."""
    fallback_B: Tensor
    """bool: no usable region, so the first box is the whole view, and the only one."""

    @property
    def box_B4(self) -> Tensor:
        """The first box of each view: the largest region, or the whole view."""
        return self.box_BR4[:, 0]


def attend(
    feature_BDhw: Tensor,
    image_size: int | tuple[int, int],
    *,
    statistic: str = "max",
    normalise: str = "minmax",
    threshold: float = 0.7,
    at: str = "input",
    connectivity: int = 8,
    min_side: int = 16,
    crops: int = 1,
    window: float = 0.0,
    gradient: str = "none",
    route: Route = "auto",
) -> Attention:
    """Boxes of each image where its heatmap is high: by default one, of the largest region over the threshold.

    - `statistic` over the channels: `max` max|f|, `l1` sum|f|, `l2` sqrt(sum f^2); `cam` and `learned`, for maps of
      evidence, max f.
    - `at`: threshold the heatmap upsampled bilinearly to `image_size` (`input`) or on the feature grid (`grid`; the
      box is then scaled to the view).
    - `normalise`: `minmax` scales the map that is thresholded to [0, 1] per image and keeps heat > `threshold`;
      `percentile` keeps what exceeds the `threshold` quantile, so at least that share of pixels is kept out.
    - `connectivity` 4 or 8; the region with the most pixels wins, ties by the highest peak, then raster order.
    - `crops`: how many boxes, greedily; what a box covers is not over the threshold for the next ones.
    - `window`: boxes of this share of the view's sides, where the mean heat is highest; 0: those of regions.
    - `gradient`: `none`, or `place`: windows are centred on the heat in them and pass gradients to the features.
    - A constant map, one with NaN or infinite values, an empty mask, or a box with a side under `min_side` pixels of
      the view: the whole view, with `fallback_B` true.
    - `route`: how regions are found (see models/regions.py); results are equal.

    Raises ValueError for an option or a shape it does not know.
    """
    _check(feature_BDhw, statistic, normalise, threshold, at)
    size = geometry.pair(image_size)
    with torch.autocast(feature_BDhw.device.type, enabled=False), torch.no_grad():
        grid_Bhw = _statistic(feature_BDhw.detach(), statistic)
        usable_B = _usable(grid_Bhw)
        grid_Bhw = torch.where(usable_B[:, None, None], grid_Bhw, 0.0)
        heat = _rescaled(_upsampled(grid_Bhw, size) if at == "input" else grid_Bhw.clone())
        mask = _above(heat, _quantile(heat, threshold) if normalise == "percentile" else threshold)
        if window:
            fallback_B, box_BR4 = ~usable_B, windows(_rescaled(grid_Bhw), size, window, crops)
            first_B4 = torch.where(fallback_B[:, None], geometry.whole(box_BR4[:, 0], size), box_BR4[:, 0])
            box_BR4 = torch.cat([first_B4[:, None], box_BR4[:, 1:]], 1)
        else:
            box_BR4, fallback_B = _regions(heat, mask, size, connectivity, min_side, crops, route)
        if at == "grid":
            heat = _upsampled(heat, size).clamp(0, 1)
            mask = F.interpolate(mask[:, None].float(), size, mode="nearest-exact")[:, 0] > 0
    if gradient == "place":
        with torch.autocast(feature_BDhw.device.type, enabled=False):
            box_BR4 = centred(box_BR4, _heat_with_gradient(feature_BDhw, statistic, usable_B), size)
    return Attention(heat, mask, box_BR4, fallback_B)


def _regions(
    heat: Tensor, mask: Tensor, size: tuple[int, int], connectivity: int, min_side: int, crops: int, route: Route
) -> tuple[Tensor, Tensor]:
    """The boxes of the largest regions in pixels of the view, BR4, and which views have none, B. Each box takes its
    pixels away from the mask; from the first one that is too small on, there are none."""
    boxes: list[Tensor] = []
    none_B = fallback_B = torch.zeros_like(mask[:, 0, 0])
    for taken in range(crops):
        region = largest_region(mask, heat, connectivity, route)
        box_B4 = geometry.scale_boxes(region.box_B4, (heat.shape[1], heat.shape[2]), size)
        side_B = torch.minimum(box_B4[:, 2] - box_B4[:, 0], box_B4[:, 3] - box_B4[:, 1])
        none_B = none_B | ~region.found_B | (side_B < min_side)
        instead_B4 = torch.zeros_like(box_B4) if taken else geometry.whole(box_B4, size)
        boxes.append(torch.where(none_B[:, None], instead_B4, box_B4))
        fallback_B = fallback_B if taken else none_B
        if taken < crops - 1:
            mask = mask & ~geometry.covered(region.box_B4, (heat.shape[1], heat.shape[2]))
    return torch.stack(boxes, 1), fallback_B


@torch.no_grad()
def elsewhere(found: Attention, look: str, view_BCHW: Tensor) -> Attention:
    """The same attention with other boxes: what a control of the method is shown.

    - `attention`: as it is. `whole`: the whole view; nothing fell back to it.
    - `centre`: boxes of the same size side by side about the middle of the view, in rows. `random`: of the same size,
      each at a whole-pixel place that is uniform over where it fits and follows from the pixels of the view alone, so
      that a view gets the same boxes alone and in a batch, today and tomorrow. Where attention fell back to the whole
      view, so do both.

    view_BCHW: float in [0, 1], the view whose pixels the box is in. Raises ValueError for another `look`.
    """
    if look == "attention":
        return found
    box_BR4 = found.box_BR4
    height, width = view_BCHW.shape[2:]
    if look == "whole":
        whole_BR4 = geometry.whole(box_BR4, (height, width))
        return replace(found, box_BR4=whole_BR4, fallback_B=torch.zeros_like(found.fallback_B))
    side_BR2 = box_BR4[..., 2:] - box_BR4[..., :2]
    room_BR2 = torch.tensor([width, height], device=side_BR2.device) - side_BR2
    count = box_BR4.shape[1]
    if look == "centre":
        apart_R2 = _side_by_side(count, side_BR2.device)
        start_BR2 = torch.minimum((room_BR2 / 2 + apart_R2 * side_BR2).floor().clamp(min=0), room_BR2)
    elif look == "oracle":
        raise ValueError(
            "a model with look 'oracle' is shown its crops by annotations, which a film alone does not have; it is a "
            "ceiling to compare others with (agcxr ablate --only budget), so give a model of another look"
        )
    elif look == "random":
        start_BR2 = (_uniform(view_BCHW, count) * (room_BR2.floor() + 1)).floor()
    else:
        known = ", ".join(map(repr, get_args(config.Look)))
        raise ValueError(f"look is {look!r}; expected one of {known}")
    moved_BR4 = torch.cat([start_BR2, start_BR2 + side_BR2], 2)
    return replace(found, box_BR4=torch.where(geometry.present(box_BR4)[..., None], moved_BR4, box_BR4))


def _side_by_side(count: int, device: torch.device) -> Tensor:
    """Where boxes lie that fill rows about a centre, in sides of a box from it: R x (across, down)."""
    rows = math.isqrt(count)
    columns = -(-count // rows)
    place_R = torch.arange(count, device=device)
    return torch.stack([place_R % columns - (columns - 1) / 2, place_R // columns - (rows - 1) / 2], 1)


def _uniform(view_BCHW: Tensor, count: int) -> Tensor:
    """Pairs of numbers in [0, 1) for each view, BR2 float32: a hash of its 8-bit pixels, in whole numbers, so exact."""
    pixel_BN = (view_BCHW[:, 0].float() * 255).round().long().flatten(1)
    place_N = torch.arange(pixel_BN.shape[1], device=pixel_BN.device)
    weight_N2 = torch.stack([place_N * 48271 % 2147483647, place_N * 69621 % 2147483647], 1) + 1
    hash_B2 = torch.stack([(pixel_BN * weight_N2[:, i]).sum(1) for i in range(2)], 1)
    pairs = []
    for _ in range(count):
        for _ in range(2):  # multiplication wraps around at 64 bits; the upper half is then as good as random
            hash_B2 = hash_B2 * 0x1E3779B97F4A7C15
            hash_B2 = hash_B2 ^ (hash_B2 >> 32 & 0xFFFFFFFF)
        pairs.append((hash_B2 >> 20 & 0xFFFFFF).float() / 2**24)
    return torch.stack(pairs, 1)


def _statistic(feature_BDhw: Tensor, statistic: str) -> Tensor:
    """One float32 number a grid cell."""
    if statistic in ("cam", "learned"):
        return feature_BDhw.amax(1).float()
    if statistic == "max":
        kept = torch.is_grad_enabled()  # what is changed in place has no gradient
        if feature_BDhw.stride(1) == 1 and feature_BDhw.dtype == torch.float32 and not kept:  # two passes, no copy
            return torch.maximum(feature_BDhw.amax(1), feature_BDhw.amin(1).neg_())
        return feature_BDhw.abs().amax(1).float()
    order = 1 if statistic == "l1" else 2
    return torch.linalg.vector_norm(feature_BDhw, order, dim=1, dtype=torch.float32)


def _heat_with_gradient(feature_BDhw: Tensor, statistic: str, usable_B: Tensor) -> Tensor:
    """The heat on the grid in [0, 1], 0 where it is not usable; its scale is a constant to gradients."""
    grid_Bhw = _statistic(feature_BDhw, statistic)
    low_B, high_B = (bound.detach()[:, None, None] for bound in (grid_Bhw.amin((1, 2)), grid_Bhw.amax((1, 2))))
    usable_B11 = usable_B[:, None, None]
    span_B11 = torch.where(usable_B11, high_B - low_B, 1.0)
    return torch.where(usable_B11, (grid_Bhw - low_B) / span_B11, 0.0)


def _upsampled(map_Bhw: Tensor, size: tuple[int, int]) -> Tensor:
    """F.interpolate, bilinear with half-pixel centres; on x86 processors the same bits in a sixth of the time."""
    if not geometry.plain_cpu(map_Bhw) or map_Bhw.shape[1] < 2 or sum(size) <= SMALL or not len(map_Bhw):
        return _interpolated(map_Bhw, size)
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):  # nothing is known of the rounding elsewhere
        return _interpolated(map_Bhw, size)
    # Separable: few rows to full width by F.interpolate itself, then the rows between them. It rounds the product of
    # the second row and adds the first one's in one fused step, hence the order of the taps.
    batch, rows, _ = map_Bhw.shape
    line_NW = _interpolated(map_Bhw, (rows, size[1])).reshape(batch * rows, size[1])
    tap_H2, weight_H2 = _row_taps(rows, size[0])
    tap_BH2 = (torch.arange(batch) * rows)[:, None, None] + tap_H2
    return geometry.mixed(line_NW, tap_BH2, weight_H2.expand_as(tap_BH2)).view(batch, *size)


def _row_taps(rows: int, size: int) -> tuple[Tensor, Tensor]:
    """The second and the first row that F.interpolate mixes for each of `size`, and its own weights: what it makes of
    the identity matrix. A row more than there is, so that the weights past the last centre can be told apart."""
    one = torch.eye(rows + 1)[:, None, :, None]
    scale = (size / rows, 1.0)
    weight_HN = F.interpolate(one, scale_factor=scale, mode="bilinear", align_corners=False)[:, 0, :size, 0].T
    first_H = (weight_HN > 0).to(torch.uint8).argmax(1)
    tap_H2 = torch.stack([first_H + 1, first_H], 1)
    return tap_H2.clamp(max=rows - 1), weight_HN.gather(1, tap_H2)


def _interpolated(map_Bhw: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(map_Bhw[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def _above(heat_BHW: Tensor, cut: Tensor | float) -> Tensor:
    """heat > cut; NumPy is five times as fast at it as torch on a CPU."""
    if not geometry.plain_cpu(heat_BHW):
        return heat_BHW > cut
    return torch.from_numpy(heat_BHW.numpy() > (cut.numpy() if isinstance(cut, Tensor) else np.float32(cut)))


def _usable(grid_Bhw: Tensor) -> Tensor:
    """Whether each map is finite and not constant. Any NaN makes both comparisons false."""
    low_B, high_B = grid_Bhw.flatten(1).amin(1), grid_Bhw.flatten(1).amax(1)
    reach_B = torch.maximum(high_B, -low_B)  # evidence may be below 0 everywhere
    return (high_B - low_B > FLAT * reach_B) & (reach_B < float("inf"))


def _rescaled(map_Bhw: Tensor) -> Tensor:
    """Each map to [0, 1] by its own minimum and maximum, in place; a map of zeros stays so."""
    low_B, high_B = map_Bhw.flatten(1).amin(1), map_Bhw.flatten(1).amax(1)  # aminmax is 20 times slower on a CPU
    span_B = torch.where(high_B > low_B, high_B - low_B, 1.0)
    return map_Bhw.sub_(low_B[:, None, None]).div_(span_B[:, None, None])


def _quantile(heat_BHW: Tensor, share: float) -> Tensor:
    """The value that at least `share` of each map's pixels do not exceed, B x 1 x 1."""
    flat = heat_BHW.flatten(1)
    rank = max(1, math.ceil(share * flat.shape[1]))
    return flat.sort(dim=1).values[:, rank - 1, None, None]


def _check(feature_BDhw: Tensor, statistic: str, normalise: str, threshold: float, at: str) -> None:
    if feature_BDhw.ndim != 4 or not feature_BDhw.is_floating_point():
        raise ValueError(
            f"features are {feature_BDhw.dtype} of shape {tuple(feature_BDhw.shape)}; expected float B x D x h x w"
        )
    fields = config.Attention.model_fields
    for name, value in (("statistic", statistic), ("normalise", normalise), ("at", at)):
        known = get_args(fields[name].annotation)
        if value not in known:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}")
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold is {threshold!r}; heat lies in [0, 1], so expected 0 <= threshold < 1")
