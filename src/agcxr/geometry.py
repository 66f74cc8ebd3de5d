"""Boxes and crops: cutting an axis-aligned box out of each image of a batch.

Boxes are (x0, y0, x1, y1) in pixels with an exclusive end; pixel i covers [i, i + 1). Scaling an image therefore
scales its boxes by the same ratio.

Shapes: B images, R boxes of each, C channels, H x W pixels of the source, h x w pixels of the crop, N pixels along one
axis. A box without area stands for none.
"""

from __future__ import annotations

import cv2
import numpy as np
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
    """The whole image of that size as a box for every row of `box_B4`, or `box_BR4` (same dtype and device)."""
    height, width = pair(size)
    zero = torch.zeros_like(box_B4[..., 0])
    return torch.stack([zero, zero, box_B4[..., 0] * 0 + width, box_B4[..., 0] * 0 + height], dim=-1)


def scale_boxes(box_B4: Tensor, from_size: int | tuple[int, int], to_size: int | tuple[int, int]) -> Tensor:
    """Boxes in pixels of a `from_size` image -> the same regions in pixels of a `to_size` image of the same view; one
    an image or several."""
    (from_h, from_w), (to_h, to_w) = pair(from_size), pair(to_size)
    x_ratio, y_ratio = to_w / from_w, to_h / from_h
    x0, y0, x1, y1 = box_B4.unbind(-1)
    return torch.stack([x0 * x_ratio, y0 * y_ratio, x1 * x_ratio, y1 * y_ratio], dim=-1)


def present(box_BR4: Tensor) -> Tensor:
    """Which boxes have an area, bool BR."""
    return (box_BR4[..., 2:] > box_BR4[..., :2]).all(-1)


def covered(box_B4: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels (height, width) whose centre lies in each image's box: bool BHW."""
    height, width = size
    x_W = torch.arange(width, device=box_B4.device) + 0.5
    y_H = torch.arange(height, device=box_B4.device) + 0.5
    x0, y0, x1, y1 = box_B4[..., None].unbind(1)
    return ((y0 <= y_H) & (y_H < y1))[:, :, None] & ((x0 <= x_W) & (x_W < x1))[:, None]


def crop(image_BCHW: Tensor, box_BR4: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Cut the boxes b out of image b and resize them bilinearly to `size`; in the image's dtype. `box_B4`, one an
    image, gives BChw; `box_BR4` gives BRChw.

    Boxes are in pixels of `image_BCHW` and may be fractional. Half-pixel centres (align_corners=False), samples
    clamped to the box's own pixels: with integer boxes this equals
    `F.interpolate(image[:, :, y0:y1, x0:x1], size, mode="bilinear", align_corners=False)`. The whole image at its own
    size comes back unchanged. No antialiasing when a box is larger than `size`, as in the published recipe.
    Coordinates and sums are float32 also under autocast. Boxes partly or wholly outside read the nearest edge pixels.
    No gradient passes to the boxes; see `sample`.

    Raises ValueError for shapes or dtypes that do not fit.
    """
    _check(image_BCHW, box_BR4)
    if box_BR4.ndim == 2:
        return crop(image_BCHW, box_BR4[:, None], size)[:, 0]
    height, width = pair(size)
    with torch.autocast(image_BCHW.device.type, enabled=False):
        source, box = image_BCHW.float(), box_BR4.detach().float()
        if plain_cpu(source):
            cut = crop_alike(source, box, (height, width)) if box.shape[1] > 1 else None
            return (_crop_on_cpu(source, box, height, width) if cut is None else cut).to(image_BCHW.dtype)
        # A bilinear resize of an axis-aligned box is separable: rows first, then the columns as rows of the transpose,
        # so that both steps copy whole contiguous lines.
        rows_BRChW = _lines(source[:, None], box[..., 1], box[..., 3], height)
        out_BRCwh = _lines(rows_BRChW.transpose(3, 4), box[..., 0], box[..., 2], width)
        return out_BRCwh.transpose(3, 4).contiguous().to(image_BCHW.dtype)


def crop_alike(image_BCHW: Tensor, box_BR4: Tensor, size: tuple[int, int]) -> Tensor | None:
    """`crop` of boxes that are all of one size, of whole pixels, inside the image: on a CPU, in a fraction of the time.
    Float32, in the image's own units, which may be whole numbers; no other pixel of the image is read. None for boxes
    that are not alike, and elsewhere."""
    if not plain_cpu(image_BCHW) or not box_BR4.numel():
        return None
    box_A4 = box_BR4.detach().reshape(-1, 4).numpy()
    corner_A4 = box_A4.astype(np.int64)
    wide, high = corner_A4[0, 2:] - corner_A4[0, :2]
    alike = (box_A4 == corner_A4).all() and (corner_A4[:, 2:] - corner_A4[:, :2] == (wide, high)).all()
    inside = (corner_A4[:, :2] >= 0).all() and (corner_A4[:, 2:] <= image_BCHW.shape[:1:-1]).all()
    if not alike or not inside or min(wide, high) < 1:
        return None
    (batch, channels), count = image_BCHW.shape[:2], box_BR4.shape[1]
    place = np.lib.stride_tricks.sliding_window_view(image_BCHW.numpy(), (high, wide), axis=(2, 3))
    x0_A, y0_A = corner_A4[:, 0], corner_A4[:, 1]
    patch_ACHW = place[np.repeat(np.arange(batch), count), :, y0_A, x0_A].astype(np.float32, copy=False)
    # The columns of all lines at once, which OpenCV does fastest; then the lines.
    height, width = size
    line = torch.from_numpy(cv2.resize(patch_ACHW.reshape(-1, wide), (width, patch_ACHW.size // wide)))
    tap_1hT, weight_1hT = _two(*_taps(torch.zeros(1), torch.full((1,), float(high)), height, int(high)))
    tap_PhT = (torch.arange(batch * count * channels) * int(high))[:, None, None] + tap_1hT
    return mixed(line, tap_PhT, weight_1hT.expand_as(tap_PhT)).view(batch, count, channels, height, width)


def patches(image_BCHW: Tensor, corner_BR2: Tensor, side: int) -> Tensor:
    """The squares of `side` pixels whose upper left pixels (x, y, whole numbers) these are, in the image's dtype:
    BRC side side. Raises ValueError for a side larger than the image."""
    if side > min(image_BCHW.shape[2:]):
        raise ValueError(f"squares of {side} pixels do not fit in images of {tuple(image_BCHW.shape[2:])}")
    every = torch.arange(len(image_BCHW), device=image_BCHW.device)[:, None]
    place = image_BCHW.unfold(2, side, 1).unfold(3, side, 1).movedim(1, 3)  # B, y0, x0, C, side, side: no copy
    return place[every, corner_BR2[..., 1], corner_BR2[..., 0]]


def sample(image_BCHW: Tensor, box_BR4: Tensor, size: int | tuple[int, int]) -> Tensor:
    """As `crop` of BR boxes inside the image, by an affine grid, so that gradients pass to the boxes. Near their edges
    it reads pixels beyond them."""
    height, width = pair(size)
    batch, count = box_BR4.shape[:2]
    with torch.autocast(image_BCHW.device.type, enabled=False):
        extent_2 = box_BR4.new_tensor([image_BCHW.shape[3], image_BCHW.shape[2]])
        half_BR2 = (box_BR4[..., 2:] - box_BR4[..., :2]) / extent_2
        centre_BR2 = (box_BR4[..., 2:] + box_BR4[..., :2]) / extent_2 - 1  # the image is from -1 to 1
        theta = torch.cat([torch.diag_embed(half_BR2), centre_BR2[..., None]], -1).flatten(0, 1).float()
        place = F.affine_grid(theta, [batch * count, 1, height, width], align_corners=False)
        source = image_BCHW.float()[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)
        cut = F.grid_sample(source, place, mode="bilinear", padding_mode="border", align_corners=False)
    return cut.unflatten(0, (batch, count)).to(image_BCHW.dtype)


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


def _crop_on_cpu(source_BCHW: Tensor, box_BR4: Tensor, height: int, width: int) -> Tensor:
    """`crop` in the same two steps, each a single pass over memory; OpenCV is what transposes fastest.

    Shape suffixes: P planes = B x R x C, T taps, A crops = B x R.
    """
    batch, channels, rows, columns = source_BCHW.shape
    count = box_BR4.shape[1]
    planes = batch * count * channels
    if not planes:
        return source_BCHW.new_zeros(batch, count, channels, height, width)
    box_A4 = box_BR4.flatten(0, 1)
    source_AC = torch.arange(batch * channels).view(batch, 1, channels).expand(-1, count, -1).flatten(0, 1)
    tap_AhT, weight_AhT = _two(*_taps(box_A4[:, 1], box_A4[:, 3], height, rows))
    tap_AChT = source_AC[:, :, None, None] * rows + tap_AhT[:, None]
    line = mixed(source_BCHW.reshape(-1, columns), tap_AChT, weight_AhT[:, None].expand_as(tap_AChT))
    line = torch.from_numpy(cv2.transpose(line.numpy())).view(columns * planes, height)
    # The lines are now (column, plane). Taken in the order (column of the crop, plane), their transpose is the answer.
    plane_AC = torch.arange(planes).view(batch * count, channels)
    tap_AwT, weight_AwT = _two(*_taps(box_A4[:, 0], box_A4[:, 2], width, columns))
    tap_wACT = tap_AwT.transpose(0, 1)[:, :, None] * planes + plane_AC[:, :, None]
    line = mixed(line, tap_wACT, weight_AwT.transpose(0, 1)[:, :, None].expand_as(tap_wACT))
    out = cv2.transpose(line.view(width, planes * height).numpy())
    return torch.from_numpy(out).view(batch, count, channels, height, width)


def _two(first_Bn: Tensor, second_Bn: Tensor, weight_Bn: Tensor) -> tuple[Tensor, Tensor]:
    """Both taps of each sample and both weights, B n 2."""
    return torch.stack([first_Bn, second_Bn], 2), torch.stack([1 - weight_Bn, weight_Bn], 2)


def _lines(source_BQCNM: Tensor, low_BR: Tensor, high_BR: Tensor, n: int) -> Tensor:
    """Interpolate `n` lines along the fourth axis between the edges low and high -> B R C n M. Q: R, or 1 where all
    boxes of an image are lines of the same one."""
    batch, sources, channels, length, across = source_BQCNM.shape
    count = low_BR.shape[1]
    first_An, second_An, weight_An = _taps(low_BR.flatten(), high_BR.flatten(), n, length)
    flat = source_BQCNM.reshape(batch * sources * channels * length, across)
    start_BQC = torch.arange(batch * sources * channels, device=flat.device).view(batch, sources, channels) * length
    start_AC1 = start_BQC.expand(-1, count, -1).reshape(batch * count, channels, 1)
    shape = (batch * count, channels, n, across)
    first = flat.index_select(0, (start_AC1 + first_An[:, None]).flatten()).view(shape)
    second = flat.index_select(0, (start_AC1 + second_An[:, None]).flatten()).view(shape)
    return torch.lerp(first, second, weight_An[:, None, :, None]).view(batch, count, *shape[1:])


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
    if box_B4.ndim not in (2, 3) or box_B4.shape[-1] != 4 or box_B4.shape[0] != image_BCHW.shape[0]:
        raise ValueError(
            f"boxes have shape {tuple(box_B4.shape)}; expected {image_BCHW.shape[0]} x 4, one (x0, y0, x1, y1) an image"
        )
