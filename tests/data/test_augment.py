"""Views: exact on integer windows, the same picture whatever the prepared size, boxes that go there and back."""

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
