"""From features to boxes, against a plain NumPy and SciPy version of the same sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from agcxr.models import attention
from agcxr.models.attention import Attention, attend, elsewhere

SIZE = 56
ROUTES = ("runs", "tensor")


def features(n: int = 12, channels: int = 5, grid: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, channels, grid, grid, generator=torch.Generator().manual_seed(seed))


def upsampled(grid: np.ndarray, size: int) -> np.ndarray:
    """Bilinear with half-pixel centres, written out."""
    n = len(grid)
    at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    low = np.minimum(at.astype(int), n - 1)
    high, part = np.minimum(low + 1, n - 1), at - low
    rows = grid[low] * (1 - part)[:, None] + grid[high] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, high] * part


def plain(
    feature: np.ndarray, statistic="max", normalise="minmax", threshold=0.7, at="input", connectivity=8, min_side=1
):
    magnitude = np.abs(feature.astype(np.float64))
    grid = {"max": magnitude.max(0), "l1": magnitude.sum(0), "l2": np.sqrt((magnitude**2).sum(0))}[statistic]
    heat = upsampled(grid, SIZE) if at == "input" else grid
    heat = (heat - heat.min()) / (heat.max() - heat.min())
    cut = threshold if normalise == "minmax" else np.sort(heat.ravel())[max(1, int(np.ceil(threshold * heat.size))) - 1]
    mask = heat > cut
    label, _ = ndimage.label(mask, np.ones((3, 3)) if connectivity == 8 else None)
    count = np.bincount(label.ravel())[1:]
    y, x = ndimage.find_objects(label)[int(count.argmax())]
    scale = SIZE / len(heat)
    box = [x.start * scale, y.start * scale, x.stop * scale, y.stop * scale]
    fallback = min(box[2] - box[0], box[3] - box[1]) < min_side
    return ([0, 0, SIZE, SIZE] if fallback else box), fallback, np.sort(count)[-2:].tolist()


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"statistic": "l1"},
        {"statistic": "l2", "connectivity": 4},
        {"threshold": 0.3},
        {"threshold": 0.9, "min_side": 9},
        {"normalise": "percentile", "threshold": 0.8},
        {"normalise": "percentile", "threshold": 0.0},
        {"at": "grid", "threshold": 0.5},
        {"at": "grid", "connectivity": 4, "normalise": "percentile", "threshold": 0.6},
    ],
    ids=str,
)
def test_boxes_equal_a_plain_version(options, route):
    feature = features()
    found = attend(feature, SIZE, **{"min_side": 1, **options}, route=route)
    compared = 0
    for k in range(len(feature)):
        box, fallback, largest = plain(feature[k].numpy(), **options)
        if len(largest) == 2 and largest[0] == largest[1]:
            continue  # ties have their own tests
        compared += 1
        assert found.box_B4[k].tolist() == pytest.approx(box, abs=1e-4)
        assert found.fallback_B[k].item() == fallback
    assert compared > 5


@pytest.mark.parametrize("at", ["input", "grid"])
def test_heat_and_mask_have_the_size_of_the_view_and_lie_in_0_1(at):
    found = attend(features(), (48, 64), at=at)
    assert found.heat_BHW.shape == found.mask_BHW.shape == (12, 48, 64)
    assert found.heat_BHW.dtype == found.box_B4.dtype == torch.float32
    assert found.mask_BHW.dtype == found.fallback_B.dtype == torch.bool
    assert found.heat_BHW.min() >= 0
    assert found.heat_BHW.max() <= 1
    if at == "input":
        assert torch.equal(found.heat_BHW.amax((1, 2)), torch.ones(12))
        assert torch.equal(found.mask_BHW, found.heat_BHW > 0.7)


def test_worked_example():
    feature = torch.zeros(1, 2, 4, 4)
    feature[0, 1, 1, 2] = -3.0
    grid = attend(feature, 32, at="grid", min_side=8)
    assert grid.box_B4.tolist() == [[16, 8, 24, 16]]
    assert not grid.fallback_B.item()
    assert grid.mask_BHW.sum() == 64
    # Upsampled, along a line through the peak: 15/16, 13/16, 11/16, 9/16 ... to each side; 11/15 > 0.7 > 9/15.
    fine = attend(feature, 32, min_side=1)
    assert fine.box_B4.tolist() == [[17, 9, 23, 15]]
    assert attend(feature, 32, min_side=6).fallback_B.tolist() == [False]
    assert attend(feature, 32, min_side=7).box_B4.tolist() == [[0, 0, 32, 32]]


def test_a_percentile_keeps_out_the_share_it_says():
    found = attend(features(), 224, normalise="percentile", threshold=0.9, min_side=1)
    assert found.mask_BHW.float().mean((1, 2)).tolist() == pytest.approx([0.1] * 12, abs=1e-3)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("options", [{}, {"at": "grid"}, {"normalise": "percentile", "threshold": 0.5}], ids=str)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -7.3, float("nan"), float("inf")])
def test_constant_and_broken_maps_fall_back_to_the_whole_view(value, options, route):
    feature = features(3)
    feature[1] = value
    if not np.isfinite(value):
        feature[1] = 1.0
        feature[1, 2, 3, 3] = value
    found = attend(feature, (40, 50), **options, min_side=1, route=route)
    assert found.fallback_B.tolist() == [False, True, False]
    assert found.box_B4[1].tolist() == [0, 0, 50, 40]
    assert found.heat_BHW[1].abs().max() == 0
    assert not found.mask_BHW[1].any()
    others = attend(feature[[0, 2]], (40, 50), **options, min_side=1, route=route)
    assert torch.equal(others.box_B4, found.box_B4[[0, 2]])


def test_batched_equals_single_and_layout_does_not_matter():
    feature = features(16, 64)
    together = attend(feature, 224)
    for k in range(16):
        alone = attend(feature[k : k + 1], 224)
        assert torch.equal(alone.box_B4[0], together.box_B4[k])
        assert torch.equal(alone.heat_BHW[0], together.heat_BHW[k])
    other = attend(feature.to(memory_format=torch.channels_last), 224)
    assert torch.equal(other.box_B4, together.box_B4)


@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="only x86 processors take the shortcut"
)
@pytest.mark.parametrize(
    ("grid", "size"),
    [
        ((7, 7), (224, 224)),
        ((7, 7), (112, 112)),
        ((14, 5), (97, 131)),
        ((16, 16), (512, 512)),
        ((3, 9), (320, 320)),
        ((7, 7), (64, 64)),
        ((2, 3), (5, 2)),
        ((1, 4), (96, 96)),
    ],
)
def test_the_shortcut_upsamples_to_the_bits_of_interpolate(grid, size):
    map_Bhw = torch.rand(9, *grid, generator=torch.Generator().manual_seed(0)) * 5
    wanted = torch.nn.functional.interpolate(map_Bhw[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    assert torch.equal(attention._upsampled(map_Bhw, size), wanted)


def test_autocast_changes_nothing_and_no_gradient_flows():
    feature = features().requires_grad_()
    plainly = attend(feature, 224)
    with torch.autocast("cpu", torch.bfloat16):
        cast = attend(feature, 224)
    assert torch.equal(plainly.heat_BHW, cast.heat_BHW)
    assert torch.equal(plainly.box_B4, cast.box_B4)
    assert not plainly.heat_BHW.requires_grad
    assert attend(feature.bfloat16(), 224).heat_BHW.dtype == torch.float32


def test_export_takes_the_tensor_route_and_gives_the_same_boxes():
    class Look(torch.nn.Module):
        def forward(self, feature):
            found = attend(feature, 56)
            return found.heat_BHW, found.box_B4, found.fallback_B

    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(Look(), (features(4),), dynamic_shapes={"feature": {0: batch}})
    feature = features(9, seed=3)
    heat, box, fallback = exported.module()(feature)
    eager = attend(feature, 56)
    torch.testing.assert_close(heat, eager.heat_BHW, atol=1e-6, rtol=0)
    assert torch.equal(box, eager.box_B4)
    assert torch.equal(fallback, eager.fallback_B)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_attends_without_a_host_synchronisation():
    feature = features(32, 256)
    wanted = attend(feature, 224)
    on_gpu = feature.cuda()
    attend(on_gpu, 224)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = attend(on_gpu, 224)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found.box_B4.cpu(), wanted.box_B4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"statistic": "mean"}, "statistic is 'mean'; expected one of 'max', 'l1', 'l2'"),
        ({"normalise": "sum"}, "normalise is 'sum'; expected one of 'minmax', 'percentile'"),
        ({"at": "pixel"}, "at is 'pixel'; expected one of 'input', 'grid'"),
        ({"threshold": 1.0}, "threshold is 1.0; heat lies in"),
        ({"connectivity": 6}, "connectivity is 6; expected 4 or 8"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        attend(features(), 56, **options)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"features are torch.float32 of shape \(7, 7\); expected float B x D x h x w"):
        attend(torch.zeros(7, 7), 56)


# --- controls: boxes of the same size elsewhere -----------------------------------------------------------------------


def seen(*boxes: tuple[float, float, float, float]) -> Attention:
    box_B4 = torch.tensor(boxes)
    n = len(boxes)
    whole = torch.tensor([tuple(box) == (0, 0, 40, 32) for box in boxes])
    return Attention(torch.zeros(n, 32, 40), torch.zeros(n, 32, 40, dtype=torch.bool), box_B4[:, None], whole)


def test_controls_keep_the_size_of_the_box():
    view_BCHW = torch.rand(3, 1, 32, 40, generator=torch.Generator().manual_seed(0))
    found = seen((2, 3, 12, 23), (0, 0, 40, 32), (1.5, 0, 21.25, 8))
    assert elsewhere(found, "attention", view_BCHW) is found
    centre = elsewhere(found, "centre", view_BCHW)
    assert centre.box_B4.tolist() == [[15, 6, 25, 26], [0, 0, 40, 32], [10, 12, 29.75, 20]]
    assert centre.fallback_B.tolist() == [False, True, False]
    whole = elsewhere(found, "whole", view_BCHW)
    assert whole.box_B4.tolist() == [[0, 0, 40, 32]] * 3
    assert not whole.fallback_B.any()
    random = elsewhere(found, "random", view_BCHW).box_B4
    torch.testing.assert_close(random[:, 2:] - random[:, :2], found.box_B4[:, 2:] - found.box_B4[:, :2])
    assert (random[:, :2] == random[:, :2].floor()).all()
    assert (random >= 0).all()
    assert (random[:, 2:] <= torch.tensor([40, 32])).all()
    with pytest.raises(ValueError, match="look is 'left'; expected one of 'attention', 'random', 'centre', 'whole'"):
        elsewhere(found, "left", view_BCHW)


def test_random_places_are_uniform_and_follow_from_the_view_alone():
    n = 4000
    view_BCHW = torch.randint(256, (n, 1, 32, 40), generator=torch.Generator().manual_seed(1)) / 255
    found = seen(*[(0, 0, 31, 30)] * n)
    box = elsewhere(found, "random", view_BCHW).box_B4
    for axis, places in ((0, 10), (1, 3)):
        count = torch.bincount(box[:, axis].long(), minlength=places).float()
        assert len(count) == places
        assert ((count - n / places).square() / (n / places)).sum() < 30  # chi squared, 9 degrees: p < .0005 beyond
    assert abs(torch.corrcoef(box[:, :2].T)[0, 1]) < 0.06
    alone = torch.cat([elsewhere(seen((0, 0, 31, 30)), "random", view_BCHW[i : i + 1]).box_B4 for i in range(20)])
    assert torch.equal(alone, box[:20])
    darker = view_BCHW[:20] - 1 / 255 * (torch.arange(32 * 40).view(1, 1, 32, 40) == 77) * (view_BCHW[:20] > 0)
    assert (elsewhere(seen(*[(0, 0, 31, 30)] * 20), "random", darker).box_B4 != box[:20]).any(1).sum() > 10
