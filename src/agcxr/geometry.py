"""Boxes and crops: cutting an axis-aligned box out of each image of a batch.

Boxes are (x0, y0, x1, y1) in pixels with an exclusive end; pixel i covers [i, i + 1). Scaling an image therefore
scales its boxes by the same ratio.

Shapes: B images, C channels, H x W pixels of the source, h x w pixels of the crop, N pixels along one axis.
"""

from __future__ import annotations

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a size given as one side or as both. Raises ValueError for a side under one pixel."""
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"a size of {height} x {width} pixels; both sides must be at least 1")
    return height, width


def whole(box_B4: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The whole image of that size as a box for every row of `box_B4` (same dtype and device)."""
    height, width = pair(size)
    return torch.stack(
        [torch.zeros_like(box_B4[:, 0])] * 2 + [box_B4[:, 0] * 0 + width, box_B4[:, 0] * 0 + height], dim=1
    )


def scale_boxes(box_B4: Tensor, from_size: int | tuple[int, int], to_size: int | tuple[int, int]) -> Tensor:
    """Boxes in pixels of a `from_size` image -> the same regions in pixels of a `to_size` image of the same view."""
    (from_h, from_w), (to_h, to_w) = pair(from_size), pair(to_size)
    x_ratio, y_ratio = to_w / from_w, to_h / from_h
    return torch.stack(
        [box_B4[:, 0] * x_ratio, box_B4[:, 1] * y_ratio, box_B4[:, 2] * x_ratio, box_B4[:, 3] * y_ratio], dim=1
    )


def crop(image_BCHW: Tensor, box_B4: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Cut box b out of image b and resize it bilinearly to `size`; returns BChw in the image's dtype.

    `box_B4` is in pixels of `image_BCHW` and may be fractional. Half-pixel centres (align_corners=False), samples
    clamped to the box's own pixels: with integer boxes this equals
    `F.interpolate(image[:, :, y0:y1, x0:x1], size, mode="bilinear", align_corners=False)`. The whole image at its own
    size comes back unchanged. No antialiasing when a box is larger than `size`, as in the published recipe.
    Coordinates and sums are float32 also under autocast. Boxes partly or wholly outside read the nearest edge pixels.

    Raises ValueError for shapes or dtypes that do not fit.
    """
    _check(image_BCHW, box_B4)
    height, width = pair(size)
    with torch.autocast(image_BCHW.device.type, enabled=False):
        source, box = image_BCHW.float(), box_B4.detach().float()
        if plain_cpu(source):
            return _crop_on_cpu(source, box, height, width).to(image_BCHW.dtype)
        # A bilinear resize of an axis-aligned box is separable: rows first, then the columns as rows of the transpose,
        # so that both steps copy whole contiguous lines.
        rows_BChW = _lines(source, box[:, 1], box[:, 3], height)
        out_BCwh = _lines(rows_BChW.transpose(2, 3), box[:, 0], box[:, 2], width)
        return out_BCwh.transpose(2, 3).contiguous().to(image_BCHW.dtype)


def plain_cpu(value: Tensor) -> bool:
    """Whether the shortcuts of a CPU may be taken: nothing is traced or exported, and no gradient is asked for."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return value.device.type == "cpu" and not traced and not (value.requires_grad and torch.is_grad_enabled())


def mixed(line_NM: Tensor, tap_T: Tensor, weight_T: Tensor) -> Tensor:
    """Weighted sums of lines, in one pass over memory -> one line a row of `tap_T`, float32.

    tap_T: (..., T) whole numbers, which lines; weight_T: of the same shape, the weight of each. The sum is taken in
    the order of the taps.
    """
    taps = tap_T.shape[-1]
    return F.embedding_bag(tap_T.reshape(-1, taps), line_NM, mode="sum", per_sample_weights=weight_T.reshape(-1, taps))


def _crop_on_cpu(source_BCHW: Tensor, box_B4: Tensor, height: int, width: int) -> Tensor:
    """`crop` in the same two steps, each a single pass over memory; OpenCV is what transposes fastest.

    Shape suffixes: P planes = B x C, T taps.
    """
    batch, channels, rows, columns = source_BCHW.shape
    planes = batch * channels
    if not planes:
        return source_BCHW.new_zeros(batch, channels, height, width)
    plane_BC = torch.arange(planes).view(batch, channels)
    tap_BhT, weight_BhT = _two(*_taps(box_B4[:, 1], box_B4[:, 3], height, rows))
    tap_BChT = plane_BC[:, :, None, None] * rows + tap_BhT[:, None]
    line = mixed(source_BCHW.reshape(-1, columns), tap_BChT, weight_BhT[:, None].expand_as(tap_BChT))
    line = torch.from_numpy(cv2.transpose(line.numpy())).view(columns * planes, height)
    # The lines are now (column, plane). Taken in the order (column of the crop, plane), their transpose is the answer.
    tap_BwT, weight_BwT = _two(*_taps(box_B4[:, 0], box_B4[:, 2], width, columns))
    tap_wBCT = tap_BwT.transpose(0, 1)[:, :, None] * planes + plane_BC[:, :, None]
    line = mixed(line, tap_wBCT, weight_BwT.transpose(0, 1)[:, :, None].expand_as(tap_wBCT))
    out = cv2.transpose(line.view(width, planes * height).numpy())
    return torch.from_numpy(out).view(batch, channels, height, width)


def _two(first_Bn: Tensor, second_Bn: Tensor, weight_Bn: Tensor) -> tuple[Tensor, Tensor]:
    """Both taps of each sample and both weights, B n 2."""
    return torch.stack([first_Bn, second_Bn], 2), torch.stack([1 - weight_Bn, weight_Bn], 2)


def _lines(source_BCNM: Tensor, low_B: Tensor, high_B: Tensor, n: int) -> Tensor:
    """Interpolate `n` lines along the third axis between the edges low and high of each image -> B C n M."""
    batch, channels, length, across = source_BCNM.shape
    first_Bn, second_Bn, weight_Bn = _taps(low_B, high_B, n, length)
    flat = source_BCNM.reshape(batch * channels * length, across)
    start_BC1 = (torch.arange(batch * channels, device=flat.device) * length).view(batch, channels, 1)
    first = flat.index_select(0, (start_BC1 + first_Bn[:, None]).flatten()).view(batch, channels, n, across)
    second = flat.index_select(0, (start_BC1 + second_Bn[:, None]).flatten()).view(batch, channels, n, across)
    return torch.lerp(first, second, weight_Bn[:, None, :, None])


def _taps(low_B: Tensor, high_B: Tensor, n: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two source lines of each of `n` samples, and the second one's weight.

    Positions are kept relative to the box as long as possible: that is how F.interpolate rounds them, and a small
    number keeps more of its float32 fraction.
    """
    base_B = low_B.floor()
    extent_B = high_B - low_B
    step = torch.arange(n, device=low_B.device, dtype=torch.float32) + 0.5
    inside_Bn = (step * (extent_B / n)[:, None] - 0.5).clamp(min=0)  # 0: the centre of the box's first pixel
    inside_Bn = torch.minimum(inside_Bn, (extent_B - 1).clamp(min=0)[:, None]) + (low_B - base_B)[:, None]
    whole_Bn = inside_Bn.floor()
    first_Bn = base_B.long()[:, None] + whole_Bn.long()
    return first_Bn.clamp(0, length - 1), (first_Bn + 1).clamp(0, length - 1), inside_Bn - whole_Bn


def _check(image_BCHW: Tensor, box_B4: Tensor) -> None:
    if image_BCHW.ndim != 4 or not image_BCHW.is_floating_point():
        raise ValueError(
            f"image is {image_BCHW.dtype} of shape {tuple(image_BCHW.shape)}; expected a float tensor B x C x H x W "
            "(divide uint8 pixels by 255 first)"
        )
    if box_B4.ndim != 2 or box_B4.shape[1] != 4 or box_B4.shape[0] != image_BCHW.shape[0]:
        raise ValueError(
            f"boxes have shape {tuple(box_B4.shape)}; expected {image_BCHW.shape[0]} x 4, one (x0, y0, x1, y1) an image"
        )
