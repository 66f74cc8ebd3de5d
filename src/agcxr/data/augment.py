"""Views: which part of a prepared film the network sees, drawn and rendered for a whole batch on its device.

The recipe "resize to 256, cut 224" is a window of 224/256 of the film's side, wherever that window lies. So a view
is a window in prepared pixels and a flip, whatever the size that was prepared: from a film prepared at 512 the same
window gives the same picture by area averaging, or, rendered larger, a sharper one of the same place.

Shape suffixes: B views, S side of a prepared film, H W side of a rendered view, 4 a box (x0, y0, x1, y1) with
exclusive ends, pixel i covering [i, i + 1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from agcxr import geometry
from agcxr.config import Augment

ATTEMPTS = 10
"""Of drawing a random-resized window that fits into the film, as in torchvision; then the whole film."""


@dataclass(frozen=True)
class Views:
    """B views of films of one prepared size.

    window_B4: the part of the film the view shows, in pixels of the prepared film, float32.
    flip_B: whether it is then mirrored left to right, bool.
    image_size: side of the network's input in pixels.
    side: side of an unscaled window in prepared pixels (image_size / resize of the film's side).
    aligned: every window is `side` wide and high and begins on a whole pixel of the film resized to `resize`.
    """

    window_B4: Tensor
    flip_B: Tensor
    image_size: int
    side: float
    aligned: bool

    def __len__(self) -> int:
        return len(self.window_B4)

    def __getitem__(self, which: Tensor | slice) -> Views:
        """Some of the views: an index tensor, a mask or a slice."""
        return replace(self, window_B4=self.window_B4[which], flip_B=self.flip_B[which])

    def to(self, device: torch.device | str) -> Views:
        """The same views on another device (asynchronously where it can be)."""
        return replace(
            self,
            window_B4=self.window_B4.to(device, non_blocking=True),
            flip_B=self.flip_B.to(device, non_blocking=True),
        )


def centre_views(n: int, prepared_size: int, *, image_size: int, resize: int) -> Views:
    """The evaluation view, n times: resize to `resize`, cut the central `image_size`, no flip."""
    _check(prepared_size, image_size, resize)
    pixel = prepared_size / resize
    start = (resize - image_size) // 2 * pixel
    window_4 = torch.tensor([start, start, start + image_size * pixel, start + image_size * pixel])
    return Views(window_4.expand(n, 4).clone(), torch.zeros(n, dtype=torch.bool), image_size, image_size * pixel, True)


def random_views(
    n: int, prepared_size: int, *, image_size: int, resize: int, augment: Augment, generator: torch.Generator
) -> Views:
    """n training views. The same generator state gives the same views, whatever the prepared size shows.

    `random` cuts image_size from the film resized to `resize` (lite); `random-resized` a window of random area and
    aspect (paper, torchvision's rule, not rounded to whole pixels); `none` keeps the central window. Each is flipped
    with probability `augment.flip`.
    """
    _check(prepared_size, image_size, resize)
    pixel = prepared_size / resize
    centre = centre_views(n, prepared_size, image_size=image_size, resize=resize)
    flip_B = torch.rand(n, generator=generator) < augment.flip
    if augment.crop == "none":
        return replace(centre, flip_B=flip_B)
    if augment.crop == "random-resized":
        window_B4 = _random_resized(n, augment, generator) * prepared_size
        return replace(centre, window_B4=window_B4, flip_B=flip_B, aligned=False)
    start_B2 = torch.randint(resize - image_size + 1, (n, 2), generator=generator) * pixel
    return replace(centre, window_B4=torch.cat([start_B2, start_B2 + image_size * pixel], 1), flip_B=flip_B)


def _random_resized(n: int, augment: Augment, generator: torch.Generator) -> Tensor:
    """Windows as fractions of the film, n x 4: area uniform, aspect log-uniform, the first attempt that fits."""
    draw = torch.rand(n, ATTEMPTS, 2, generator=generator)
    area = augment.scale_min + (1 - augment.scale_min) * draw[..., 0]
    ratio = torch.exp((2 * draw[..., 1] - 1) * math.log(augment.ratio_max))
    width, height = (area * ratio).sqrt(), (area / ratio).sqrt()
    fits = (width <= 1) & (height <= 1)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    size = torch.cat([width.gather(1, first), height.gather(1, first)], 1)
    size = torch.where(fits.any(1, keepdim=True), size, torch.ones_like(size))
    start = torch.rand(n, 2, generator=generator) * (1 - size)
    return torch.cat([start, start + size], 1)


def _check(prepared_size: int, image_size: int, resize: int) -> None:
    if not 0 < image_size <= resize:
        raise ValueError(
            f"image_size is {image_size} and resize {resize}; a view is cut from the resized film, "
            "so 0 < image_size <= resize is needed"
        )
    if prepared_size < 1:
        raise ValueError(f"the prepared films have a side of {prepared_size}; expected at least 1 pixel")


def sharp_size(prepared_size: int, *, image_size: int, resize: int) -> int | None:
    """Side at which a view shows every prepared pixel; None where the plain view already does."""
    size = image_size * prepared_size // resize
    return size if size > image_size else None


def render(image_B1SS: Tensor, views: Views, size: int | None = None) -> Tensor:
    """Draw the views: uint8 films on any device -> float32 B1HW in [0, 1], H = W = size (default: the image size).

    Films prepared larger than the view needs are first averaged over areas, so that a film prepared at a multiple of
    `resize` gives the view of the film prepared at `resize` (up to the rounding of the smaller one to 8 bits).
    Aligned windows are then exact slices; others are sampled bilinearly.
    """
    if image_B1SS.dtype != torch.uint8 or image_B1SS.ndim != 4 or image_B1SS.shape[1] != 1:
        raise ValueError(
            f"films are {image_B1SS.dtype} {tuple(image_B1SS.shape)}; expected uint8 of shape (B, 1, S, S)"
        )
    if len(views) != len(image_B1SS):
        raise ValueError(f"there are {len(image_B1SS)} films but {len(views)} views; expected one view a film")
    size = size or views.image_size
    prepared = image_B1SS.shape[-1]
    grid = min(prepared, round(prepared * size / views.side))  # side of the film at the view's resolution
    window_B4 = views.window_B4 * (grid / prepared)
    flip_B111 = views.flip_B[:, None, None, None]
    if views.aligned and size % views.image_size == 0 and abs(grid * views.side / prepared - size) < 1e-3:
        factor, rest = divmod(prepared, grid)
        if rest == 0:  # cut first: an area average of whole blocks
            view = _slices(image_B1SS, window_B4.round().long() * factor, size * factor)
            view = torch.where(flip_B111, view.flip(-1), view).float()
            return (F.avg_pool2d(view, factor) if factor > 1 else view).div_(255)
        view = _slices(_area(image_B1SS, grid), window_B4.round().long(), size)
    else:
        view = geometry.crop(_area(image_B1SS, grid), window_B4, size)
    return torch.where(flip_B111, view.flip(-1), view).div_(255)


def _area(image_B1SS: Tensor, grid: int) -> Tensor:
    """Float films of side `grid`, averaged over areas."""
    image = image_B1SS.float()
    return image if grid == image.shape[-1] else F.interpolate(image, (grid, grid), mode="area")


def _slices(image_B1SS: Tensor, window_B4: Tensor, size: int) -> Tensor:
    """image[b, :, y0:y0+size, x0:x0+size] for every b at once: windows over a strided view, one gather."""
    every = torch.arange(len(image_B1SS), device=image_B1SS.device)
    windows = image_B1SS[:, 0].unfold(1, size, 1).unfold(2, size, 1)  # B, y0, x0, H, W: no copy
    return windows[every, window_B4[:, 1], window_B4[:, 0]][:, None]


def map_boxes(box_B4: Tensor, views: Views, size: int, *, to: str) -> Tensor:
    """Boxes between the view rendered at `size` and the prepared film; flips and windows honoured, nothing clamped.

    `to="prepared"`: from view pixels to prepared pixels; `to="view"`: the inverse.
    """
    window_B4 = views.window_B4
    start_B2, side_B2 = window_B4[:, :2], window_B4[:, 2:] - window_B4[:, :2]
    if to == "prepared":
        return _mirrored(box_B4, views.flip_B, size) * (side_B2 / size).repeat(1, 2) + start_B2.repeat(1, 2)
    if to == "view":
        return _mirrored((box_B4 - start_B2.repeat(1, 2)) * (size / side_B2).repeat(1, 2), views.flip_B, size)
    raise ValueError(f"boxes can be mapped to 'prepared' or 'view', not {to!r}")


def _mirrored(box_B4: Tensor, flip_B: Tensor, size: int) -> Tensor:
    x0, y0, x1, y1 = box_B4.unbind(1)
    return torch.where(flip_B[:, None], torch.stack([size - x1, y0, size - x0, y1], 1), box_B4)


def within(box_B4: Tensor, size: int, min_side: float) -> tuple[Tensor, Tensor]:
    """Boxes cut to the view, and which of them fell back to the whole view (a side under min_side was left)."""
    box_B4 = box_B4.clamp(0, size)
    lost_B = (box_B4[:, 2:] - box_B4[:, :2]).amin(1) < min_side
    return torch.where(lost_B[:, None], geometry.whole(box_B4, size), box_B4), lost_B
