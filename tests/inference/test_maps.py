"""Grad-CAM against the formula worked out by hand, and maps put where they belong."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from agcxr.inference.maps import FindingMaps, finding_maps, place, profiles
from agcxr.inference.predictor import Predictor
from agcxr.models.agcnn import AGCNN
from agcxr.values import Attention

WHOLE = (0.0, 0.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def model() -> AGCNN:
    torch.manual_seed(0)
    attention = Attention(threshold=0.5, min_side=8)
    return AGCNN("resnet10t", weights="none", image_size=64, resize=72, attention=attention).eval()


@pytest.fixture(scope="module")
def image_B1HW() -> torch.Tensor:
    return torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(1))


def test_profiles_are_bilinear_inside_and_nothing_outside():
    # Two cells over the middle half of eight pixels: centres at pixels 3 and 5, constant beyond them.
    weight = profiles(2, [0.25], [0.75], 8)[0]
    assert weight[0].tolist() == [0, 0, 1, 0.75, 0.25, 0, 0, 0]
    assert weight[1].tolist() == [0, 0, 0, 0.25, 0.75, 1, 0, 0]


def test_a_grid_over_the_whole_film_is_interpolated_like_torch():
    grid = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(grid[:, None], (24, 31), mode="bilinear", align_corners=False)[:, 0]
    np.testing.assert_allclose(place(grid, [WHOLE, WHOLE], 24, 31), expected, atol=1e-6)


def test_a_grid_over_a_box_is_that_of_the_box_and_zero_around_it():
    grid = torch.rand(1, 3, 3, generator=torch.Generator().manual_seed(0))
    film = place(grid, [(0.25, 0.5, 0.75, 1.0)], 16, 32)
    expected = F.interpolate(grid[:, None], (8, 16), mode="bilinear", align_corners=False)[:, 0]
    np.testing.assert_allclose(film[:, 8:, 8:24], expected, atol=1e-6)
    film[:, 8:, 8:24] = 0
    assert not film.any()


def test_an_empty_box_shows_nothing():
    assert not place(np.ones((1, 2, 2)), [(0.5, 0.5, 0.5, 0.5)], 8, 8).any()


def test_place_asks_for_one_box_a_grid():
    with pytest.raises(ValueError, match=r"grids \(2, 3, 3\) and boxes \(1, 4\) do not fit"):
        place(np.ones((2, 3, 3)), [WHOLE], 8, 8)


def test_maps_are_the_formula_of_grad_cam(model, image_B1HW):
    """With average pooling the gradient of a logit is its weight / (h w): map = sum_d w_d f_d / (h w), signed."""
    target = torch.tensor([0, 7, 13])
    maps = finding_maps(model, image_B1HW, target, [WHOLE] * 3)
    with torch.no_grad():
        out = model(image_B1HW)
        feature_local = model.forward_local(out.crop_BCHW).feature_BDhw
    channels = out.feature_BDhw.shape[1]
    fusion = model.fusion_head.weight[target]

    def cam(weight_BD: torch.Tensor, feature_BDhw: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bd,bdhw->bhw", weight_BD, feature_BDhw) / feature_BDhw[0, 0].numel()

    for found, weight, feature in (
        (maps.global_Bhw, model.global_branch.head.weight[target], out.feature_BDhw),
        (maps.local_Bhw, model.local_branch.head.weight[target], feature_local),
        (maps.fusion_global_Bhw, fusion[:, :channels], out.feature_BDhw),
        (maps.fusion_local_Bhw, fusion[:, channels:], feature_local),
    ):
        assert found.shape == (3, 2, 2)
        np.testing.assert_allclose(found, cam(weight, feature).detach(), atol=1e-6)


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_the_closed_form_is_the_definition_by_gradients(pooling, image_B1HW):
    """map = sum_d a_d f_d with a_d the mean over the cells of dy/df_d, for every head (Selvaraju et al. 2017)."""
    torch.manual_seed(2)
    model = AGCNN("resnet10t", weights="none", image_size=64, resize=72, pooling=pooling).eval()
    target = torch.tensor([3, 9, 14])
    maps = finding_maps(model, image_B1HW, target, [WHOLE] * 3)
    with torch.no_grad():
        out = model(image_B1HW)

    def cam(feature_BDhw: torch.Tensor, logits) -> np.ndarray:
        feature = feature_BDhw.detach().clone().requires_grad_()
        (slope,) = torch.autograd.grad(logits(feature)[range(3), target].sum(), feature)
        return (slope.mean((2, 3), keepdim=True) * feature).sum(1).detach().numpy()

    whole, part = model.global_branch, model.local_branch
    view, crop = out.feature_BDhw, out.local_feature_BDhw
    for expected, answer in (
        (cam(view, lambda f: whole.head(whole.pool(f))), maps.global_Bhw),
        (cam(crop, lambda f: part.head(part.pool(f))), maps.local_Bhw),
        (cam(view, lambda f: model.fuse(whole.pool(f), out.pooled_local_BD)), maps.fusion_global_Bhw),
        (cam(crop, lambda f: model.fuse(out.pooled_global_BD, part.pool(f))), maps.fusion_local_Bhw),
    ):
        assert expected.any()
        np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-7)


def test_the_crop_is_the_models_box_in_the_frame_of_the_film(model, image_B1HW):
    window = np.array([[0.1, 0.2, 0.9, 0.8]] * 3)
    maps = finding_maps(model, image_B1HW, torch.tensor([0, 0, 0]), window)
    with torch.no_grad():
        box = model(image_B1HW).box_B4.numpy() / 64
    expected = window[:, [0, 1, 0, 1]] + box * np.array([0.8, 0.6, 0.8, 0.6])
    np.testing.assert_allclose(maps.crop_B4, expected, atol=1e-6)
    assert maps.fallback_B.shape == (3,)


def test_local_maps_lie_inside_their_box_and_the_fusion_adds_both(model, image_B1HW):
    maps = finding_maps(model, image_B1HW, torch.tensor([1, 2, 3]), [(0.0, 0.0, 0.5, 0.5)] * 3)
    centre = (np.arange(96) + 0.5) / 96
    for heat, (x0, y0, x1, y1) in zip(maps.on_film("local", 96, 96), maps.crop_B4, strict=True):
        outside = ((centre < y0) | (centre >= y1))[:, None] | ((centre < x0) | (centre >= x1))
        assert not heat[outside].any()
    assert not maps.on_film("global", 96, 96)[:, 48:].any()
    for rectify in ("minmax", "relu"):
        grids = maps.fusion_global_Bhw, maps.fusion_local_Bhw
        low = [grid.min(axis=(1, 2), keepdims=True) * (rectify == "minmax") for grid in grids]
        parts = place(np.maximum(maps.fusion_global_Bhw - low[0], 0), maps.view_B4, 96, 96)
        parts += place(np.maximum(maps.fusion_local_Bhw - low[1], 0), maps.crop_B4, 96, 96)
        np.testing.assert_allclose(maps.on_film("fusion", 96, 96, rectify), parts, atol=1e-6)
    with pytest.raises(ValueError, match="unknown branch 'both'; expected global, local or fusion"):
        maps.on_film("both", 8, 8)  # type: ignore[arg-type]


def test_signed_maps_are_rectified_above_their_lowest_value_or_above_zero():
    signed = np.array([[[-3.0, -1.0], [-2.0, 1.0]]], dtype=np.float32)
    box = np.array([WHOLE])
    maps = FindingMaps(box, box, np.array([False]), np.abs(signed), signed, -np.abs(signed), signed, signed)
    assert maps.on_film("global", 2, 2).tolist() == [[[0, 2], [1, 4]]]
    assert maps.on_film("global", 2, 2, "relu").tolist() == [[[0, 0], [0, 1]]]
    # Evidence against everywhere still ranks the places; over zero nothing is left of it.
    assert maps.on_film("local", 2, 2).tolist() == [[[0, 2], [1, 2]]]
    assert not maps.on_film("local", 2, 2, "relu").any()
    assert maps.on_film("fusion", 2, 2).tolist() == [[[0, 4], [2, 8]]]
    with pytest.raises(ValueError, match="rectify is 'abs'; expected minmax or relu"):
        maps.on_film("global", 2, 2, "abs")  # type: ignore[arg-type]


def test_maps_have_any_size_of_film(model, image_B1HW):
    maps = finding_maps(model, image_B1HW[:1], torch.tensor([4]), [WHOLE])
    assert maps.on_film("global", 30, 50).shape == (1, 30, 50)
    attention = maps.attention_on_film(64, 64)
    np.testing.assert_allclose(attention, maps.heat_BHW, atol=1e-6)


def test_batched_equals_one_by_one(model, image_B1HW):
    target = torch.tensor([0, 5, 9])
    together = finding_maps(model, image_B1HW, target, [WHOLE] * 3)
    for i in range(3):
        alone = finding_maps(model, image_B1HW[i : i + 1], target[i : i + 1], [WHOLE])
        for branch in ("global", "local", "fusion"):
            np.testing.assert_allclose(alone.on_film(branch, 16, 16)[0], together.on_film(branch, 16, 16)[i], atol=1e-5)


def test_frozen_branches_have_maps_too_and_modes_and_gradients_stay(image_B1HW):
    torch.manual_seed(0)
    model = AGCNN("resnet10t", weights="none", image_size=64, resize=72).freeze("global", "local").train()
    maps = finding_maps(model, image_B1HW, torch.tensor([0, 1, 2]), [WHOLE] * 3)
    assert maps.fusion_global_Bhw.any() or maps.fusion_local_Bhw.any()
    assert model.training
    assert not model.global_branch.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_film_goes_through_the_evaluation_view_of_the_predictor(model):
    films = np.random.default_rng(0).integers(0, 256, (2, 72, 72), dtype=np.uint8)
    predictor = Predictor(model, device="cpu")
    maps = predictor.finding_maps(films, ["Mass", "Nodule"])
    answers = predictor.predict_arrays(films)
    np.testing.assert_allclose(maps.crop_B4, answers.box_N4, atol=1e-6)
    np.testing.assert_allclose(maps.view_B4, [answers.window_4] * 2, atol=1e-9)


def test_a_film_goes_through_the_network_once_whatever_is_asked_of_it(model, monkeypatch):
    films = np.random.default_rng(0).integers(0, 256, (2, 72, 72), dtype=np.uint8)
    predictor, findings = Predictor(model, device="cpu"), ["Mass", "Nodule", "Mass", "Hernia"]
    alone = [predictor.finding_maps(films[i : i + 1], [f]) for i, f in zip((0, 0, 1, 0), findings, strict=True)]
    passes, forward = [], AGCNN.forward

    def counted(self, view, sharp):
        passes.append(len(view))
        return forward(self, view, sharp)

    monkeypatch.setattr(AGCNN, "forward", counted)
    maps = predictor.finding_maps(films[[0, 0, 1, 0]], findings)
    assert passes == [3]  # one that comes again later is not looked for
    assert len(maps) == 4
    for i, each in enumerate(alone):
        np.testing.assert_allclose(maps.crop_B4[i], each.crop_B4[0], atol=1e-6)
        for branch in ("global", "local", "fusion"):
            np.testing.assert_allclose(maps.on_film(branch, 16, 16)[i], each.on_film(branch, 16, 16)[0], atol=1e-5)


def test_sharp_crops_come_from_the_prepared_film():
    torch.manual_seed(0)
    model = AGCNN("resnet10t", weights="none", image_size=64, resize=72, crop_source="prepared")
    predictor = Predictor(model, device="cpu", prepared_size=144)
    films = np.random.default_rng(0).integers(0, 256, (1, 144, 144), dtype=np.uint8)
    maps = predictor.finding_maps(films, ["Mass"])
    crop = predictor.predict_arrays(films, details=True).crop_NHW
    with torch.no_grad():
        feature = model.forward_local(torch.from_numpy(crop)[:, None] / 255).feature_BDhw
    weight = model.local_branch.head.weight[model.labels.index("Mass")]
    expected = torch.einsum("d,bdhw->bhw", weight.detach(), feature) / 4
    assert expected.any()
    np.testing.assert_allclose(maps.local_Bhw, expected, rtol=0.02, atol=1e-4)  # the crop was rounded to 8 bits


def test_what_does_not_fit_is_refused(model, image_B1HW):
    with pytest.raises(ValueError, match=r"3 views, 2 targets and windows \(3, 4\) were given"):
        finding_maps(model, image_B1HW, torch.tensor([0, 1]), [WHOLE] * 3)
    predictor = Predictor(model, device="cpu")
    with pytest.raises(ValueError, match="prepare them with --size 72"):
        predictor.finding_maps(np.zeros((1, 64, 64), np.uint8), ["Mass"])
    with pytest.raises(ValueError, match="the model does not know Scoliosis"):
        predictor.finding_maps(np.zeros((1, 72, 72), np.uint8), ["Scoliosis"])
