"""Learning rates at chosen steps, and what decays."""

import pytest
import torch
from torch import nn

from agcxr.config import Stage, paper, paper_densenet
from agcxr.training.optimise import lr_factor, optimiser


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
