"""Views: exact on integer windows, the same picture whatever the prepared size, boxes that go there and back."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from agcxr import geometry
from agcxr.config import Augment
from agcxr.data.augment import Views, centre_views, map_boxes, random_views, render, sharp_size, within

NO_FLIP = Augment(flip=0.0)


def films(n: int, side: int, seed: int = 0) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 1, side, side), dtype=np.uint8)
    return torch.from_numpy(pixels)


def smooth_films(n: int, side: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.stack([cv2.resize(rng.integers(0, 256, (9, 9), dtype=np.uint8), (side, side)) for _ in range(n)])


def draw(n: int, side: int, augment: Augment, seed: int = 0, image_size: int = 224, resize: int = 256) -> Views:
    generator = torch.Generator().manual_seed(seed)
    return random_views(n, side, image_size=image_size, resize=resize, augment=augment, generator=generator)


def test_the_whole_film_is_unchanged():
    image = films(2, 64)
    views = centre_views(2, 64, image_size=64, resize=64)
    assert torch.equal(render(image, views), image.float() / 255)


def test_centre_view_is_the_central_slice():
    image = films(3, 256)
    views = centre_views(3, 256, image_size=224, resize=256)
    assert views.window_B4.tolist() == [[16, 16, 240, 240]] * 3
    assert not views.flip_B.any()
    assert torch.equal(render(image, views), image[:, :, 16:240, 16:240].float() / 255)


def test_random_views_are_slices_and_flips():
    image = films(8, 256)
    views = draw(8, 256, Augment(flip=0.5))
    assert views.flip_B.any()
    assert not views.flip_B.all()
    shown = render(image, views)
    for i, (x0, y0, x1, y1) in enumerate(views.window_B4.int().tolist()):
        assert (x1 - x0, y1 - y0) == (224, 224)
        expected = image[i, :, y0:y1, x0:x1].float() / 255
        assert torch.equal(shown[i], expected.flip(-1) if views.flip_B[i] else expected)


def test_random_windows_reach_every_place():
    starts = draw(4000, 256, NO_FLIP).window_B4[:, :2]
    assert starts.min() == 0
    assert starts.max() == 32
    assert len(starts.unique(dim=0)) > 900  # of 33 x 33


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_flips_have_their_probability(share):
    flips = draw(4000, 256, Augment(flip=share)).flip_B.float().mean().item()
    assert flips == pytest.approx(share, abs=0.03)


def test_no_crop_still_flips():
    views = draw(64, 256, Augment(crop="none"))
    assert views.window_B4.unique(dim=0).tolist() == [[16, 16, 240, 240]]
    assert 0 < views.flip_B.sum() < 64


@pytest.mark.parametrize("crop", ["random", "random-resized", "none"])
@pytest.mark.parametrize("prepared", [256, 384, 512])
def test_views_do_not_depend_on_the_prepared_size(crop, prepared):
    """Same generator, same place of the film."""
    small, large = draw(16, 256, Augment(crop=crop), 5), draw(16, prepared, Augment(crop=crop), 5)
    assert torch.equal(small.flip_B, large.flip_B)
    torch.testing.assert_close(small.window_B4 * (prepared / 256), large.window_B4)


@pytest.mark.parametrize("crop", ["random", "random-resized", "none"])
def test_a_film_of_512_gives_the_view_of_256(crop):
    """Area averaging on the fly equals area averaging in prepare, up to the latter's rounding to 8 bits."""
    large = smooth_films(4, 512)
    small = np.stack([cv2.resize(film, (256, 256), interpolation=cv2.INTER_AREA) for film in large])
    of_large = render(torch.from_numpy(large)[:, None], draw(4, 512, Augment(crop=crop)))
    of_small = render(torch.from_numpy(small)[:, None], draw(4, 256, Augment(crop=crop)))
    assert of_large.shape == (4, 1, 224, 224)
    torch.testing.assert_close(of_large, of_small, atol=0.6 / 255, rtol=0)


def test_sizes_that_are_no_multiples_are_resized_first():
    image = torch.from_numpy(smooth_films(2, 300))[:, None]
    shown = render(image, draw(2, 300, NO_FLIP))
    windows = draw(2, 256, NO_FLIP).window_B4.int().tolist()
    resized = F.interpolate(image.float(), (256, 256), mode="area") / 255
    for i, (x0, y0, x1, y1) in enumerate(windows):
        torch.testing.assert_close(shown[i], resized[i, :, y0:y1, x0:x1])


def test_sharp_view_shows_every_prepared_pixel():
    image = films(2, 512)
    views = draw(2, 512, NO_FLIP)
    size = sharp_size(512, image_size=224, resize=256)
    assert size == 448
    assert sharp_size(256, image_size=224, resize=256) is None
    sharp = render(image, views, size)
    x0, y0, x1, y1 = views.window_B4[1].int().tolist()
    assert torch.equal(sharp[1], image[1, :, y0:y1, x0:x1].float() / 255)
    torch.testing.assert_close(F.avg_pool2d(sharp, 2), render(image, views))


def test_random_resized_windows_keep_their_bounds():
    augment = Augment(crop="random-resized", scale_min=0.08, ratio_max=4 / 3)
    box = draw(5000, 256, augment).window_B4
    side = box[:, 2:] - box[:, :2]
    area, ratio = side.prod(1) / 256**2, side[:, 0] / side[:, 1]
    assert box.min() >= 0
    assert box.max() <= 256 + 1e-4
    assert area.min() + 1e-6 >= 0.08
    assert area.max() <= 1
    assert ratio.min() >= 3 / 4 - 1e-4
    assert ratio.max() <= 4 / 3 + 1e-4
    assert area.mean() == pytest.approx(0.48, abs=0.02)  # under (0.08 + 1) / 2: large long windows do not fit


def test_random_resized_samples_the_window_bilinearly():
    image = films(2, 256)
    views = draw(2, 256, Augment(crop="random-resized", flip=1.0))
    expected = geometry.crop(image.float() / 255, views.window_B4, 224).flip(-1)
    torch.testing.assert_close(render(image, views), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("crop", ["random", "random-resized"])
@pytest.mark.parametrize("prepared", [256, 512])
def test_batched_equals_one_by_one(crop, prepared):
    image, views = films(5, prepared), draw(5, prepared, Augment(crop=crop))
    one_by_one = torch.cat([render(image[i : i + 1], views[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(render(image, views), one_by_one, atol=1e-7, rtol=0)


def test_boxes_map_to_the_film_and_back():
    views = draw(50, 512, Augment(crop="random-resized"))
    box = torch.rand(50, 4, generator=torch.Generator().manual_seed(1)) * 100
    box = torch.cat([box[:, :2], box[:, :2] + 5 + box[:, 2:]], 1)
    there = map_boxes(box, views, 224, to="prepared")
    torch.testing.assert_close(map_boxes(there, views, 224, to="view"), box, atol=1e-3, rtol=1e-4)


def test_boxes_follow_window_and_flip():
    plain = Views(torch.tensor([[16.0, 32, 240, 256]]), torch.tensor([False]), 224, 224, True)
    flipped = Views(plain.window_B4, torch.tensor([True]), 224, 224, True)
    box = torch.tensor([[10.0, 20, 30, 60]])
    assert map_boxes(box, plain, 224, to="prepared").tolist() == [[26, 52, 46, 92]]
    assert map_boxes(box, flipped, 224, to="prepared").tolist() == [[210, 52, 230, 92]]
    assert map_boxes(box, plain, 448, to="prepared").tolist() == [[21, 42, 31, 62]]


def test_a_mapped_box_shows_the_same_pixels():
    image = films(6, 256)
    views = draw(6, 256, Augment(flip=0.5))
    box = torch.tensor([[40.0, 50, 90, 120]]).repeat(6, 1)
    of_view = geometry.crop(render(image, views), box, 64)
    of_film = geometry.crop(image.float() / 255, map_boxes(box, views, 224, to="prepared"), 64)
    of_film = torch.where(views.flip_B[:, None, None, None], of_film.flip(-1), of_film)
    torch.testing.assert_close(of_view, of_film, atol=1e-5, rtol=0)


def test_boxes_are_cut_to_the_view_or_fall_back():
    box, lost = within(torch.tensor([[-5.0, 10, 40, 300], [220, 0, 260, 100], [0, 0, 16, 16]]), 224, 16)
    assert box.tolist() == [[0, 10, 40, 224], [0, 0, 224, 224], [0, 0, 16, 16]]
    assert lost.tolist() == [False, True, False]


@pytest.mark.parametrize("window", [[16.0, 32, 80, 96], [10.0, 20, 90, 60]], ids=["square", "long"])
def test_a_view_turned_by_nothing_is_the_plain_one(window):
    image, box = films(1, 128), torch.tensor([window])
    plain = Views(box, torch.tensor([True]), 32, 32, False)
    turned = Views(box, torch.tensor([True]), 32, 32, False, angle_B=torch.zeros(1))
    inner = (..., slice(2, -2), slice(2, -2))  # a plain view does not mix in pixels beyond its window's edge
    torch.testing.assert_close(render(image, turned, 64)[inner], render(image, plain, 64)[inner], atol=1e-5, rtol=0)


def test_a_quarter_turn_of_the_window_is_exact():
    """Clockwise on the film: what was up on the right of the window is now up on its left."""
    image = films(2, 64)
    views = Views(torch.tensor([[0.0, 0, 64, 64]] * 2), torch.tensor([False, True]), 64, 64, False)
    views = replace(views, angle_B=torch.full((2,), math.pi / 2))
    expected = torch.rot90(image.float() / 255, 1, (2, 3))
    shown = render(image, views)
    torch.testing.assert_close(shown[0], expected[0], atol=2e-5, rtol=0)
    torch.testing.assert_close(shown[1], expected[1].flip(-1), atol=2e-5, rtol=0)


def test_a_long_window_turns_without_shear():
    """Every sample of the turned window lies where the rotation of the film says: gray values are a plane there."""
    y, x = torch.meshgrid(torch.arange(100.0), torch.arange(100.0), indexing="ij")
    image = (2 * x + 0.5 * y).round().to(torch.uint8)[None, None]
    views = Views(torch.tensor([[30.0, 40, 70, 60]]), torch.tensor([False]), 20, 20, False, torch.tensor([0.5]))
    u, v = (torch.arange(20) + 0.5) * 2 - 20, (torch.arange(20) + 0.5) - 10
    column = 50 + math.cos(0.5) * u[None, :] - math.sin(0.5) * v[:, None] - 0.5
    row = 50 + math.sin(0.5) * u[None, :] + math.cos(0.5) * v[:, None] - 0.5
    torch.testing.assert_close(render(image, views)[0, 0] * 255, 2 * column + 0.5 * row, atol=0.6, rtol=0)


def test_turned_views_do_not_round_under_autocast():
    image, views = films(2, 64), draw(2, 64, Augment(rotation=10), image_size=56, resize=64)
    with torch.autocast("cpu", torch.bfloat16):
        shown = render(image, views)
    assert torch.equal(shown, render(image, views))


@pytest.mark.parametrize("crop", ["random", "random-resized", "none"])
def test_turned_and_spread_views_are_the_same_place_of_the_film_at_every_size(crop):
    augment = Augment(crop=crop, rotation=10, contrast=0.3)
    small, large = draw(8, 256, augment, 5), draw(8, 512, augment, 5)
    assert torch.equal(small.angle_B, large.angle_B)
    assert torch.equal(small.contrast_B, large.contrast_B)
    film = smooth_films(8, 512)
    halved = np.stack([cv2.resize(one, (256, 256), interpolation=cv2.INTER_AREA) for one in film])
    of_large, of_small = (
        render(torch.from_numpy(one)[:, None], views) for one, views in ((film, large), (halved, small))
    )
    torch.testing.assert_close(of_large, of_small, atol=1 / 255, rtol=0)
    one_by_one = torch.cat([render(torch.from_numpy(film[i : i + 1])[:, None], large[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(of_large, one_by_one, atol=1e-6, rtol=0)


def test_angles_and_contrast_have_their_range():
    views = draw(4000, 256, Augment(rotation=5, contrast=0.2))
    degrees = views.angle_B.rad2deg()
    assert (degrees.min().item(), degrees.max().item()) == (pytest.approx(-5, abs=0.02), pytest.approx(5, abs=0.02))
    assert degrees.mean().item() == pytest.approx(0, abs=0.15)
    contrast = views.contrast_B
    assert (contrast.min().item(), contrast.max().item()) == (
        pytest.approx(0.8, abs=1e-3),
        pytest.approx(1.2, abs=1e-3),
    )


@pytest.mark.parametrize("crop", ["random", "random-resized", "none"])
def test_turning_and_spreading_draw_the_windows_and_flips_of_before(crop):
    plain, more = (draw(16, 256, Augment(crop=crop, **also)) for also in ({}, {"rotation": 5, "contrast": 0.1}))
    assert torch.equal(plain.window_B4, more.window_B4)
    assert torch.equal(plain.flip_B, more.flip_B)
    assert (plain.angle_B, plain.contrast_B) == (None, None)


def test_contrast_is_about_middle_gray_and_stays_in_range():
    image = torch.tensor([0, 51, 102, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    views = replace(centre_views(1, 2, image_size=2, resize=2), contrast_B=torch.tensor([2.0]))
    torch.testing.assert_close(render(image, views).flatten(), torch.tensor([0, 0, 0.3, 1.0]))


@pytest.mark.parametrize(("crop", "place"), [("random", "anywhere"), ("none", "the middle")])
def test_zoomed_windows_stay_on_the_film(crop, place):
    box = draw(4000, 256, Augment(crop=crop, zoom=0.5), image_size=200, resize=256).window_B4
    side = box[:, 2:] - box[:, :2]
    torch.testing.assert_close(side[:, 0], side[:, 1])
    assert (side.min().item(), side.max().item()) == (pytest.approx(100, abs=0.5), pytest.approx(256, abs=1e-3))
    assert box.min() >= -1e-3
    assert box.max() <= 256 + 1e-3
    centred = (box[:, :2] + box[:, 2:] - 256).abs().max().item() < 1e-3
    assert centred == (place == "the middle")


def test_a_turned_view_maps_no_boxes():
    views = draw(2, 64, Augment(rotation=5), image_size=56, resize=64)
    with pytest.raises(ValueError, match=r"boxes cannot be mapped through views that are turned; .* augment.rotation"):
        map_boxes(torch.zeros(2, 4), views, 56, to="view")


def test_some_of_the_views_on_another_device():
    views = draw(4, 64, Augment(rotation=5, contrast=0.1), image_size=56, resize=64)
    some = views[torch.tensor([2, 0])].to("meta")
    assert len(some) == 2
    for name in ("window_B4", "flip_B", "angle_B", "contrast_B"):
        assert getattr(some, name).device.type == "meta"
        assert torch.equal(getattr(views[torch.tensor([2, 0])], name), getattr(views, name)[torch.tensor([2, 0])])
    assert (some.image_size, some.side) == (views.image_size, views.side)


def test_refusals():
    views = centre_views(2, 64, image_size=32, resize=64)
    with pytest.raises(ValueError, match=r"expected uint8 of shape \(B, 1, S, S\)"):
        render(torch.zeros(2, 1, 64, 64), views)
    with pytest.raises(ValueError, match="there are 3 films but 2 views"):
        render(films(3, 64), views)
    with pytest.raises(ValueError, match="image_size is 300 and resize 256"):
        centre_views(1, 256, image_size=300, resize=256)
    with pytest.raises(ValueError, match="the prepared films have a side of 0"):
        centre_views(1, 0, image_size=30, resize=256)
    with pytest.raises(ValueError, match="not 'film'"):
        map_boxes(torch.zeros(2, 4), views, 32, to="film")
