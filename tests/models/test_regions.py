"""Largest regions against scipy.ndimage.label, on masks made to be hard."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

from agcxr.models import regions
from agcxr.models.regions import largest_region

from . import shapes

ROUTES = ("runs", "tensor")


def expected(mask: np.ndarray, heat: np.ndarray, connectivity: int) -> tuple[list[int], bool]:
    """The box of the largest region, one image at a time with SciPy."""
    structure = np.ones((3, 3)) if connectivity == 8 else ndimage.generate_binary_structure(2, 1)
    label, count = ndimage.label(mask, structure)
    if count == 0:
        return [0, 0, 0, 0], False
    one_to_n = np.arange(1, count + 1)
    size = ndimage.sum_labels(mask, label, one_to_n)
    peak = ndimage.maximum(heat, label, one_to_n)
    flat = label.reshape(-1)
    first = [int(np.argmax(flat == k)) if size[k - 1] == size.max() else flat.size for k in one_to_n]
    best = min(range(count), key=lambda k: (-size[k], -peak[k], first[k]))
    y, x = np.nonzero(label == best + 1)
    return [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1], True


def assert_equal_to_scipy(mask_BHW: np.ndarray, heat_BHW: np.ndarray, connectivity: int, route: str) -> None:
    found = largest_region(
        torch.from_numpy(mask_BHW), torch.from_numpy(heat_BHW.astype(np.float32)), connectivity, route
    )
    wanted = [expected(mask, heat, connectivity) for mask, heat in zip(mask_BHW, heat_BHW, strict=True)]
    assert found.box_B4.dtype == torch.float32
    assert found.box_B4.tolist() == [box for box, _ in wanted]
    assert found.found_B.tolist() == [there for _, there in wanted]


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("n", [32, 45])
def test_hard_masks_with_many_ties(route, connectivity, n):
    rng = np.random.default_rng(n)
    mask = np.stack(list(shapes.hard(n, rng).values()))
    heat = rng.integers(0, 4, mask.shape) / 4  # few values, so that peaks tie as well
    assert_equal_to_scipy(mask, heat, connectivity, route)


@pytest.mark.slow
@pytest.mark.parametrize("connectivity", [4, 8])
def test_hard_masks_at_the_size_of_a_view(connectivity):
    masks = shapes.hard(224, np.random.default_rng(0))
    for name in ("hilbert", "hilbert turned 2", "maze", "maze turned 1", "comb", "spiral", "snake turned 3"):
        mask = torch.from_numpy(masks[name].copy())[None]
        heat = torch.rand(mask.shape, generator=torch.Generator().manual_seed(0))
        by_tensor, by_runs = (largest_region(mask, heat, connectivity, route) for route in ("tensor", "runs"))
        assert by_tensor.box_B4.tolist() == by_runs.box_B4.tolist(), name
        assert bool(by_tensor.found_B), name


@pytest.mark.parametrize("connectivity", [4, 8])
@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (1, 9), (9, 1), (1, 1), (7, 7)])
def test_small_random_masks(route, connectivity, shape):
    rng = np.random.default_rng(1)
    mask = rng.random((150, *shape)) < rng.random((150, 1, 1))
    assert_equal_to_scipy(mask, rng.integers(0, 3, mask.shape) / 2, connectivity, route)


@pytest.mark.parametrize("connectivity", [4, 8])
def test_every_mask_of_four_by_four(connectivity):
    """All 65,536: both routes agree, so the fixed number of rounds is enough on each."""
    mask = torch.tensor(list(itertools.product([False, True], repeat=16))).view(-1, 4, 4)
    heat = torch.rand(mask.shape, generator=torch.Generator().manual_seed(2))
    by_tensor, by_runs = (largest_region(mask, heat, connectivity, route) for route in ("tensor", "runs"))
    assert torch.equal(by_tensor.box_B4, by_runs.box_B4)
    assert torch.equal(by_tensor.found_B, by_runs.found_B)


@pytest.mark.parametrize("route", ROUTES)
def test_ties_go_to_the_highest_peak_then_to_raster_order(route):
    mask = torch.zeros(3, 6, 6, dtype=torch.bool)
    mask[:, 1, 0], mask[:, 0, 2], mask[:, 4, 4] = True, True, True  # (0, 2) comes first in raster order
    heat = torch.full((3, 6, 6), 0.5)
    heat[1, 4, 4] = 0.75
    mask[2, 4, 3] = True
    box = largest_region(mask, heat, 8, route).box_B4.tolist()
    assert box == [[2, 0, 3, 1], [4, 4, 5, 5], [3, 4, 5, 5]]


@pytest.mark.parametrize("route", ROUTES)
def test_regions_of_neighbouring_images_never_join(route):
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[0, 3], mask[1, 0] = True, True
    assert largest_region(mask, mask.float(), 8, route).box_B4.tolist() == [[0, 3, 4, 4], [0, 0, 4, 1]]


def test_a_mask_that_has_not_settled_is_not_found(monkeypatch):
    mask = torch.from_numpy(shapes.snake(64))[None]
    monkeypatch.setattr(regions, "JUMPS", 0)
    found = largest_region(mask, mask.float(), 4, "tensor")
    assert not found.found_B.item()
    assert found.box_B4.tolist() == [[0, 0, 0, 0]]


def test_refusals_say_what_is_expected():
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match="connectivity is 6; expected 4 or 8"):
        largest_region(mask, mask.float(), 6)
    with pytest.raises(ValueError, match="route is 'gpu'; expected"):
        largest_region(mask, mask.float(), 8, "gpu")
    with pytest.raises(ValueError, match=r"heat \(1, 4, 5\); expected a bool mask"):
        largest_region(mask, torch.zeros(1, 4, 5))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("connectivity", [4, 8])
def test_a_gpu_gives_the_same_boxes_without_waiting_for_it(connectivity):
    masks = shapes.hard(64, np.random.default_rng(5))
    mask = torch.from_numpy(np.stack(list(masks.values())))
    heat = torch.rand(mask.shape, generator=torch.Generator().manual_seed(0))
    wanted = largest_region(mask, heat, connectivity, "runs")
    on_gpu = mask.cuda(), heat.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = largest_region(*on_gpu, connectivity)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found.box_B4.cpu(), wanted.box_B4)
