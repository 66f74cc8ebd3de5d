"""Learning rates at chosen steps, and what decays."""

import math

import pytest
import torch
from torch import nn

from agcxr.config import Stage, paper, paper_densenet
from agcxr.models.backbones import Backbone
from agcxr.training.optimise import layer_scales, lr_factor, optimiser


def factors(schedule: str, steps: list[int], **changes) -> list[float]:
    stage = Stage(epochs=10, schedule=schedule, **changes)
    return [lr_factor(stage, step, 10) for step in steps]


def test_constant():
    assert factors("constant", [0, 99]) == [1, 1]


def test_step_falls_after_every_so_many_epochs():
    found = factors("step", [0, 39, 40, 79, 80], step_epochs=4, step_factor=0.1)
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01])


@pytest.mark.parametrize(("drops", "last"), [(1, 0.1), (2, 0.01), (3, 1e-3), (9, 1e-3), (0, 1e-3)])
def test_step_falls_so_often_at_most(drops, last):
    found = factors("step", [0, 29, 30, 99], step_epochs=3, step_factor=0.1, step_drops=drops)
    assert found == pytest.approx([1, 1, 0.1, last])


def test_the_paper_s_rate_falls_once():
    """ "lr 0.01 (/10 after epoch 20)": nothing is said of another fall after epoch 40 of 50."""
    for stage in (paper().global_, paper().local, paper_densenet().fusion):
        found = [stage.lr * lr_factor(stage, epoch * 100, 100) for epoch in (0, 19, 20, 39, 40, 49)]
        assert found == pytest.approx([0.01, 0.01, 0.001, 0.001, 0.001, 0.001])


def test_cosine_falls_to_nothing():
    assert factors("cosine", [0, 50, 100]) == pytest.approx([1, 0.5, 0])


def test_onecycle_climbs_and_falls():
    assert factors("onecycle", [0, 15, 30, 65, 100]) == pytest.approx([0.04, 0.52, 1, 0.50005, 1e-4])


def test_sgd_is_as_published():
    found = optimiser(list(nn.Linear(2, 2).parameters()), Stage(lr=0.01, momentum=0.9, weight_decay=1e-4))
    assert isinstance(found, torch.optim.SGD)
    (group,) = found.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.01, 0.9, 1e-4, False)


def test_adamw_decays_matrices_only():
    layer = nn.Linear(2, 2)
    found = optimiser(list(layer.parameters()), Stage(optimiser="adamw", weight_decay=0.1))
    assert [(group["weight_decay"], group["params"]) for group in found.param_groups] == [
        (0.1, [layer.weight]),
        (0.0, [layer.bias]),
    ]


def test_a_warm_up_climbs_in_equal_steps_to_the_schedule():
    assert factors("constant", [0, 1, 3, 4, 99], warm_up_epochs=0.4) == pytest.approx([0.2, 0.4, 0.8, 1, 1])
    assert factors("step", [0, 4, 20], warm_up_epochs=0.4, step_epochs=2, step_factor=0.5) == pytest.approx(
        [0.2, 1, 0.5]
    )


def test_a_cosine_falls_over_what_the_warm_up_leaves():
    assert factors("cosine", [19, 20, 60, 100], warm_up_epochs=2) == pytest.approx([20 / 21, 1, 0.5, 0])
    assert all(0 < factor <= 1 for factor in factors("cosine", list(range(100)), warm_up_epochs=10))


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "onecycle"])
def test_no_warm_up_changes_no_digit(schedule):
    for step in range(101):
        share = {"cosine": step / 100}.get(schedule)
        found = lr_factor(Stage(epochs=10, schedule=schedule, step_epochs=2), step, 10)
        if schedule == "constant":
            assert found == 1.0
        elif schedule == "step":
            assert found == 0.1 ** (step // 10 // 2)
        elif schedule == "cosine":
            assert found == (1 + math.cos(math.pi * share)) / 2


def test_groups_have_their_share_of_the_rate():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    scale = dict.fromkeys(first.parameters(), 0.5)
    parameters = [*first.parameters(), *second.parameters()]
    found = optimiser(parameters, Stage(optimiser="adamw", lr=0.1, weight_decay=0.2), scale)
    assert [(group["lr"], group["weight_decay"], group["params"]) for group in found.param_groups] == [
        (0.1, 0.2, [second.weight]),
        (0.1, 0.0, [second.bias]),
        (0.05, 0.2, [first.weight]),
        (0.05, 0.0, [first.bias]),
    ]
    found = optimiser(parameters, Stage(lr=0.1, weight_decay=0.2), scale)
    assert [(group["lr"], group["weight_decay"], group["params"]) for group in found.param_groups] == [
        (0.1, 0.2, list(second.parameters())),
        (0.05, 0.2, list(first.parameters())),
    ]


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("test_resnet", "conv1.0.weight", "layer4.0.conv1.weight"),
        ("tf_efficientnet_lite0", "conv_stem.weight", "conv_head.weight"),
        ("test_convnext2", "stem.0.weight", "stages.3.blocks.0.conv_dw.weight"),
        ("test_vit", "patch_embed.proj.weight", "blocks.5.mlp.fc2.weight"),
    ],
)
def test_layers_learn_the_slower_the_earlier_they_are(name, first, last):
    net = Backbone(name, weights="none").net
    scales = {key: layer_scales(net, 0.5)[parameter] for key, parameter in net.named_parameters()}
    assert max(scales.values()) == 1
    assert scales[first] == min(scales.values()) < scales[last]
    assert {round(math.log2(scale)) for scale in scales.values()} == {-i for i in range(len(set(scales.values())))}
