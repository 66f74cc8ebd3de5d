"""Windows cut from the prepared film itself: the pixels of a view drawn whole, without drawing it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from agcxr import geometry
from agcxr.config import Augment
from agcxr.data import augment
from agcxr.data.augment import FilmSource, Views, centre_views, crop_source, map_boxes, random_views, render

VIEW, RESIZE = 56, 64


def films(side: int, n: int = 4) -> torch.Tensor:
    coarse = torch.rand(n, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return (fine * 255).round().to(torch.uint8)


def boxes(n: int = 4, side: int = 14) -> torch.Tensor:
    start = torch.tensor([[0.0, 0], [VIEW - side, VIEW - side], [13, 27], [30, 5]]).expand(n, -1, -1)
    return torch.cat([start, start + side], 2)


def shifted(views: Views) -> Views:
    flip_B = torch.tensor([False, True, False, True])
    return replace(views, flip_B=flip_B)


@pytest.mark.parametrize("contrast", [None, torch.tensor([1.0, 0.7, 1.3, 1.0])])
def test_windows_are_those_of_the_sharp_view(contrast):
    image = films(256)
    views = replace(shifted(centre_views(4, 256, image_size=VIEW, resize=RESIZE)), contrast_B=contrast)
    sharp = render(image, views, 4 * VIEW)
    found = FilmSource(image, views, 0.25).crop(boxes(), VIEW, VIEW)
    wanted = geometry.crop(sharp, 4 * boxes(), VIEW)
    assert found.shape == (4, 4, 1, VIEW, VIEW)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert torch.equal(FilmSource(image, views, 0.25).crop(4 * boxes(), 4 * VIEW, VIEW), found)


@pytest.mark.parametrize("side", [200, 256])
@pytest.mark.parametrize("crop", ["random", "random-resized"])
def test_windows_of_any_view_are_cut_from_the_film_at_their_place(crop, side):
    image = films(side)
    views = random_views(
        4,
        side,
        image_size=VIEW,
        resize=RESIZE,
        augment=Augment(crop=crop, scale_min=0.5),
        generator=torch.Generator().manual_seed(1),
    )
    found = FilmSource(image, views, 0.25).crop(boxes(), VIEW, VIEW)
    film = map_boxes(boxes(), views, VIEW, to="prepared")
    wanted = geometry.crop(image.float() / 255, film, VIEW)
    wanted = torch.where(views.flip_B[:, None, None, None, None], wanted.flip(-1), wanted)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_windows_of_turned_views_are_those_of_the_turned_view():
    image = films(256)
    angle = torch.tensor([0.0, 0.3, -0.2, math.radians(45)])
    views = replace(shifted(centre_views(4, 256, image_size=VIEW, resize=RESIZE)), angle_B=angle, aligned=False)
    inner = boxes()[:, 2:]  # the corners of a turned view lie beyond the film
    found = FilmSource(image, views, 0.25).crop(inner, VIEW, VIEW)
    sharp = render(image, views, 4 * VIEW)
    wanted = geometry.crop(sharp, 4 * inner, VIEW)
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0)  # the sharp view is itself interpolated
    assert (found - wanted).abs().mean() < 2e-3


def test_gradients_pass_to_boxes_that_ask():
    image, views = films(256), shifted(centre_views(4, 256, image_size=VIEW, resize=RESIZE))
    box = boxes()[:, 2:].clone().requires_grad_()
    found = FilmSource(image, views, 0.25).crop(box, VIEW, VIEW)
    plain = FilmSource(image, views, 0.25).crop(box.detach(), VIEW, VIEW)
    torch.testing.assert_close(found.detach()[..., 1:-1, 1:-1], plain[..., 1:-1, 1:-1], atol=1e-4, rtol=0)
    found.square().sum().backward()
    assert (box.grad.abs().sum((1, 2)) > 0).all()


def test_no_view_is_drawn_whole(monkeypatch):
    """From a film of 1,024 pixels with windows of a quarter, a sixteenth of a sharp view's pixels are read for each."""
    image = films(1024, 2)
    views = centre_views(2, 1024, image_size=VIEW, resize=RESIZE)
    drawn, taken = [], []
    plain, patches = augment.render, geometry.patches
    monkeypatch.setattr(augment, "render", lambda *args: drawn.append(args) or plain(*args))
    monkeypatch.setattr(geometry, "patches", lambda *args: taken.append(args[2]) or patches(*args))
    source = crop_source(image, views, resize=RESIZE, window=0.25)
    assert isinstance(source, FilmSource)
    source.crop(boxes(2) + 0.3, VIEW, VIEW)
    assert (drawn, taken) == ([], [258])
    assert isinstance(crop_source(image, views, resize=RESIZE, window=0.0), torch.Tensor)
    assert (
        crop_source(films(64, 2), centre_views(2, 64, image_size=VIEW, resize=RESIZE), resize=64, window=0.25) is None
    )
