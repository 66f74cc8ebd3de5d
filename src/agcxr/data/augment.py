"""Views: which part of a prepared film the network sees, drawn and rendered for a whole batch on its device.

The recipe "resize to 256, cut 224" is a window of 224/256 of the film's side, wherever that window lies. So a view
is a window in prepared pixels and a flip, whatever the size that was prepared: from a film prepared at 512 the same
window gives the same picture by area averaging, or, rendered larger, a sharper one of the same place. A view may also
be turned about its centre, and its gray values spread.

Shape suffixes: B views, R boxes of each, S side of a prepared film, H W side of a rendered view, 4 a box (x0, y0, x1,
y1) with exclusive ends, pixel i covering [i, i + 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

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
    angle_B: by how much the window is turned about its centre before the flip, so that the film appears turned the
        other way; radians, clockwise on the film, float32. None: not at all.
    contrast_B: what gray values are multiplied by about middle gray, float32. None: 1.
    """

    window_B4: Tensor
    flip_B: Tensor
    image_size: int
    side: float
    aligned: bool
    angle_B: Tensor | None = None
    contrast_B: Tensor | None = None

    def __len__(self) -> int:
        return len(self.window_B4)

    def __getitem__(self, which: Tensor | slice) -> Views:
        """Some of the views: an index tensor, a mask or a slice."""
        return self._each(lambda tensor: tensor[which])

    def to(self, device: torch.device | str) -> Views:
        """The same views on another device (asynchronously where it can be)."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Views:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **changed)


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
    aspect (paper, torchvision's rule, not rounded to whole pixels); `none` keeps the central window. With `zoom` the
    side of the first and the last differs from view to view. Each is flipped with probability `augment.flip`, turned by
    up to `rotation` degrees, and spread by up to `contrast`.
    """
    _check(prepared_size, image_size, resize)
    pixel = prepared_size / resize
    centre = centre_views(n, prepared_size, image_size=image_size, resize=resize)
    views = replace(centre, flip_B=torch.rand(n, generator=generator) < augment.flip)
    if augment.crop == "random-resized":
        views = replace(views, window_B4=_random_resized(n, augment, generator) * prepared_size, aligned=False)
    elif augment.zoom:
        views = replace(views, window_B4=_zoomed(views, prepared_size, augment, generator), aligned=False)
    elif augment.crop == "random":
        start_B2 = torch.randint(resize - image_size + 1, (n, 2), generator=generator) * pixel
        views = replace(views, window_B4=torch.cat([start_B2, start_B2 + image_size * pixel], 1))
    if augment.rotation:
        angle_B = math.radians(augment.rotation) * (2 * torch.rand(n, generator=generator) - 1)
        views = replace(views, angle_B=angle_B, aligned=False)
    if augment.contrast:
        views = replace(views, contrast_B=1 + augment.contrast * (2 * torch.rand(n, generator=generator) - 1))
    return views


def _zoomed(views: Views, prepared_size: int, augment: Augment, generator: torch.Generator) -> Tensor:
    """Square windows in prepared pixels, n x 4: the side uniform about that of an unscaled one, cut to the film; in the
    middle, or with `random` anywhere."""
    n = len(views)
    factor_B1 = 1 + augment.zoom * (2 * torch.rand(n, 1, generator=generator) - 1)
    side_B1 = (views.side * factor_B1).clamp(max=prepared_size)
    share_B2 = torch.full((n, 2), 0.5) if augment.crop == "none" else torch.rand(n, 2, generator=generator)
    start_B2 = share_B2 * (prepared_size - side_B1)
    return torch.cat([start_B2, start_B2 + side_B1], 1)


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


def crop_source(image_B1SS: Tensor, views: Views, *, resize: int, window: float) -> Tensor | FilmSource | None:
    """What crops are cut from at the films' own depth: the views drawn as large as that, B1HW; or, for windows of that
    share of the view's side, the films themselves. None where the plain views show every pixel."""
    size = sharp_size(image_B1SS.shape[-1], image_size=views.image_size, resize=resize)
    if size is None:
        return None
    return FilmSource(image_B1SS, views, window) if window else render(image_B1SS, views, size)


@dataclass(frozen=True)
class FilmSource:
    """Films and the views they are seen by, to cut windows of the views from at full depth: only the pixels under the
    windows are read, and no view is drawn.

    image_B1SS: gray levels. window: the side of the windows as a share of a view's, of views as large as a film at
    most.
    """

    image_B1SS: Tensor
    views: Views
    window: float

    def crop(self, box_BR4: Tensor, view_size: int, size: int) -> Tensor:
        """The windows (in pixels of views of `view_size`) at `size`: float32 BR1HW in [0, 1], with the views' flip,
        turn and contrast. Gradients pass to boxes that ask for them. A box larger than a window is not cut right."""
        views = self.views
        if views.angle_B is not None or box_BR4.requires_grad:
            cut = self._turned(box_BR4, view_size, size)
        else:
            cut = self._upright(map_boxes(box_BR4, views, view_size, to="prepared"), size)
        flip_B = views.flip_B.view(-1, 1, 1, 1, 1)
        return _spread(torch.where(flip_B, cut.flip(-1), cut) / 255, views)

    def _upright(self, film_BR4: Tensor, size: int) -> Tensor:
        """Boxes of the films (their pixels) in gray levels."""
        if torch.compiler.is_compiling():
            return geometry.crop(self.image_B1SS.float(), film_BR4, size)
        alike = geometry.crop_alike(self.image_B1SS, film_BR4, (size, size))
        if alike is not None:
            return alike
        patch_BR1PP, corner_BR2 = self._patches((film_BR4[..., :2] + film_BR4[..., 2:]) / 2, 1.0)
        local_BR4 = film_BR4 - torch.cat([corner_BR2, corner_BR2], 2)
        cut = geometry.crop(patch_BR1PP.flatten(0, 1), local_BR4.flatten(0, 1), size)
        return cut.unflatten(0, film_BR4.shape[:2])

    def _turned(self, box_BR4: Tensor, view_size: int, size: int) -> Tensor:
        """By an affine grid, before the flip."""
        views = self.views
        unit_BR4 = _mirrored(box_BR4, views.flip_B[:, None, None], view_size) * (2 / view_size) - 1
        half_BR2 = (unit_BR4[..., 2:] - unit_BR4[..., :2]) / 2
        turn_B22 = _turn(views) * ((views.window_B4[:, 2:] - views.window_B4[:, :2]) / 2)[:, None]
        middle_B2 = (views.window_B4[:, 2:] + views.window_B4[:, :2]) / 2
        offset_BR2 = torch.einsum("bij,brj->bri", turn_B22, (unit_BR4[..., 2:] + unit_BR4[..., :2]) / 2)
        centre_BR2 = middle_B2[:, None] + offset_BR2
        patch_BR1PP, corner_BR2 = self._patches(centre_BR2.detach(), 1.0 if views.angle_B is None else math.sqrt(2))
        side = patch_BR1PP.shape[-1]
        theta = torch.cat(
            [turn_B22[:, None] * half_BR2[:, :, None], (centre_BR2 - corner_BR2 - side / 2)[..., None]], 3
        )
        theta_A23 = (theta * (2 / side)).flatten(0, 1)
        with torch.autocast(theta.device.type, enabled=False):
            place = F.affine_grid(theta_A23, [len(theta_A23), 1, size, size], align_corners=False)
            cut = F.grid_sample(
                patch_BR1PP.flatten(0, 1), place, mode="bilinear", padding_mode="border", align_corners=False
            )
        return cut.unflatten(0, box_BR4.shape[:2])

    def _patches(self, centre_BR2: Tensor, wider: float) -> tuple[Tensor, Tensor]:
        """Squares of the films about these places that hold a window, float32 BR1PP, and their corners (x, y)."""
        film = self.image_B1SS.shape[-1]
        side = min(film, math.ceil(wider * self.window * film) + 2)
        corner_BR2 = (centre_BR2 - side / 2).round().clamp(0, film - side).long()
        return geometry.patches(self.image_B1SS, corner_BR2, side).float(), corner_BR2


def _turn(views: Views) -> Tensor:
    """How the axes of a view lie on its film, B22."""
    angle_B = torch.zeros_like(views.window_B4[:, 0]) if views.angle_B is None else views.angle_B
    cos_B, sin_B = angle_B.cos(), angle_B.sin()
    return torch.stack([torch.stack([cos_B, -sin_B], 1), torch.stack([sin_B, cos_B], 1)], 1)


def render(image_B1SS: Tensor, views: Views, size: int | None = None) -> Tensor:
    """Draw the views: uint8 films on any device -> float32 B1HW in [0, 1], H = W = size (default: the image size).

    Films prepared larger than the view needs are first averaged over areas, so that a film prepared at a multiple of
    `resize` gives the view of the film prepared at `resize` (up to the rounding of the smaller one to 8 bits).
    Aligned windows are then exact slices; others are sampled bilinearly, outside the film its nearest edge.
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
            return _spread((F.avg_pool2d(view, factor) if factor > 1 else view).div_(255), views)
        view = _slices(_area(image_B1SS, grid), window_B4.round().long(), size)
    elif views.angle_B is None:
        view = geometry.crop(_area(image_B1SS, grid), window_B4, size)
    else:
        view = _turned(_area(image_B1SS, grid), window_B4, _turn(views), size)
    return _spread(torch.where(flip_B111, view.flip(-1), view).div_(255), views)


def _turned(image_B1GG: Tensor, window_B4: Tensor, turn_B22: Tensor, size: int) -> Tensor:
    """The windows (pixels of these films) turned about their centres, sampled bilinearly -> B1HW."""
    grid = image_B1GG.shape[-1]
    half_B2 = (window_B4[:, 2:] - window_B4[:, :2]) / grid  # in grid_sample's units the film is from -1 to 1
    centre_B2 = (window_B4[:, 2:] + window_B4[:, :2]) / grid - 1
    theta_B23 = torch.cat([turn_B22 * half_B2[:, None], centre_B2[:, :, None]], 2)
    with torch.autocast(image_B1GG.device.type, enabled=False):
        place = F.affine_grid(theta_B23, [len(turn_B22), 1, size, size], align_corners=False)
        return F.grid_sample(image_B1GG, place, mode="bilinear", padding_mode="border", align_corners=False)


def _spread(view_B1HW: Tensor, views: Views) -> Tensor:
    """The views with their contrast, in [0, 1]: about middle gray, so that a sharper view is changed alike."""
    if views.contrast_B is None:
        return view_B1HW
    contrast = views.contrast_B.view(-1, *[1] * (view_B1HW.ndim - 1))
    return ((view_B1HW - 0.5) * contrast + 0.5).clamp_(0, 1)


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
    """Boxes (one a view, or several, BR4) between the view rendered at `size` and the prepared film; flips and windows
    honoured, nothing clamped.

    `to="prepared"`: from view pixels to prepared pixels; `to="view"`: the inverse. Raises ValueError for views that
    are turned: upright boxes do not stay upright.
    """
    if views.angle_B is not None:
        raise ValueError(
            "boxes cannot be mapped through views that are turned; let attention be taken of every view, or set "
            "augment.rotation to 0"
        )
    each = (slice(None), None) if box_B4.ndim == 3 else (slice(None),)
    window_B4, flip_B1 = views.window_B4[each], views.flip_B[each][..., None]
    start_B2, side_B2 = window_B4[..., :2], window_B4[..., 2:] - window_B4[..., :2]
    start_B4 = torch.cat([start_B2, start_B2], -1)
    if to == "prepared":
        return _mirrored(box_B4, flip_B1, size) * torch.cat([side_B2 / size] * 2, -1) + start_B4
    if to == "view":
        return _mirrored((box_B4 - start_B4) * torch.cat([size / side_B2] * 2, -1), flip_B1, size)
    raise ValueError(f"boxes can be mapped to 'prepared' or 'view', not {to!r}")


def _mirrored(box_B4: Tensor, flip_B1: Tensor, size: int) -> Tensor:
    x0, y0, x1, y1 = box_B4.unbind(-1)
    return torch.where(flip_B1, torch.stack([size - x1, y0, size - x0, y1], -1), box_B4)


def within(box_BR4: Tensor, size: int, min_side: float) -> tuple[Tensor, Tensor]:
    """Boxes cut to the view, and which of them were lost: a side under min_side was left. The first of a view (or the
    only one, B4) is then the whole view, and a further one is none."""
    box_BR4 = box_BR4.clamp(0, size)
    lost_BR = (box_BR4[..., 2:] - box_BR4[..., :2]).amin(-1) < min_side
    instead_BR4 = geometry.whole(box_BR4, size)
    if box_BR4.ndim == 3:
        instead_BR4[:, 1:] = 0
    return torch.where(lost_BR[..., None], instead_BR4, box_BR4), lost_BR
