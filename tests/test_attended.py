"""Whether attention chooses a place: shares and plateaus by hand, and a network that ends in ReLU6."""

import re

import numpy as np
import pytest
import torch

from agcxr import config
from agcxr.attended import Attended, plateau, view_share
from agcxr.inference.predictor import Predictor
from agcxr.models.agcnn import AGCNN
from agcxr.models.attention import attend


def test_shares_are_of_the_view_not_of_the_film():
    boxes = [[0.1, 0.1, 0.9, 0.9], [0.1, 0.1, 0.5, 0.5], [0.1, 0.1, 0.9, 0.82]]
    np.testing.assert_allclose(view_share(boxes, [0.1, 0.1, 0.9, 0.9]), [1, 0.25, 0.9])


def test_a_plateau_is_what_shares_the_highest_value():
    heat = np.zeros((4, 10, 10), np.float32)
    heat[0, 3, 3] = 1
    heat[1, :, :5] = 1
    heat[2, :2] = 1 - 1e-7  # equal but for the rounding of the interpolation
    np.testing.assert_allclose(plateau(heat), [0.01, 0.5, 0.2, 1])


def test_one_cell_that_stands_out_is_no_plateau_wherever_it_lies():
    for at in ((0, 0), (3, 0), (3, 3)):
        grid = torch.zeros(1, 1, 7, 7)
        grid[0, 0][at] = 1
        assert plateau(attend(grid, 224).heat_BHW.numpy())[0] < 0.006


def test_films_are_counted_at_the_bounds():
    found = Attended.of([0.9, np.float32(0.9), 0.8999, 1.0], [False, False, False, True], [0.1, 0.11, 0.0, 1.0])
    assert found == Attended(films=4, near_whole=3, fallbacks=1, plateaus=2)


@pytest.mark.parametrize(
    ("films", "near_whole", "fallbacks", "plateaus", "words"),
    [
        (100, 50, 0, 10, None),
        (0, 0, 0, 0, None),
        (100, 90, 40, 0, None),
        (100, 95, 9, 97, "in 97 % of the heatmaps more than 10 % of the view shares the highest value"),
        (100, 20, 0, 11, "in 11 % of the heatmaps"),
        (100, 71, 20, 0, "71 % of 100 crops hold 90 % of the view or more.* Train with a higher --local.threshold$"),
    ],
)
def test_what_is_warned_of(films, near_whole, fallbacks, plateaus, words):
    warning = Attended(films, near_whole, fallbacks, plateaus).warning("max")
    if words is None:
        assert warning == ""
    else:
        assert re.search(words, warning), warning


def test_the_cure_is_another_statistic_than_the_one_in_use():
    ends = {
        name: Attended(9, 9, 0, 9).warning(name).rpartition("--local.statistic ")[2] for name in ("max", "l1", "l2")
    }
    assert ends == {"max": "l2 or l1", "l1": "l2", "l2": "l1"}


def clipped(statistic, strength):
    """EfficientNet-Lite at random, its last norm so strong that features reach the clip at 6, as after training."""
    torch.manual_seed(0)
    attention = config.Attention(statistic=statistic, min_side=4)
    model = AGCNN("tf_efficientnet_lite0", weights="none", image_size=160, resize=160, attention=attention).eval()
    with torch.no_grad():
        model.global_branch.backbone.net.bn2.weight.mul_(strength)
    return model


def films(n=6):
    grid = torch.rand(n, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    view = torch.nn.functional.interpolate(grid, 160, mode="bilinear")[:, 0]
    return (view * 255).round().to(torch.uint8).numpy()


def counted(statistic, strength):
    answers = Predictor(clipped(statistic, strength), device="cpu").predict_arrays(films())
    return Attended.of(view_share(answers.box_N4, answers.window_4), answers.fallback_N, answers.plateau_N)


@pytest.mark.parametrize("strength", [0.6, 1.0])  # some cells at the clip, and all of them
def test_max_meets_the_clip_of_relu6_and_l2_and_l1_choose(strength):
    found = {name: counted(name, strength) for name in ("max", "l1", "l2")}
    assert found["max"].plateaus == found["max"].films == 6
    assert found["max"].near_whole >= 5
    assert "as where a network's last activation is clipped (ReLU6)" in found["max"].warning("max")
    for name in ("l1", "l2"):
        assert found[name].plateaus == 0
        assert found[name].near_whole <= 1
        assert found[name].warning(name) == ""


def test_unclipped_features_choose_with_max():
    assert counted("max", 0.1) == Attended(films=6, near_whole=0, fallbacks=0, plateaus=0)
