"""From a stage's settings to an optimiser and a learning rate for every step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from timm.optim import param_groups_layer_decay
from torch import nn

from agcxr.config import Stage

WARM_UP, START, END = 0.3, 1 / 25, 1e-4
"""Of `onecycle`: the share of steps that warm up, and the factors it starts from and ends at."""


def optimiser(
    parameters: Sequence[nn.Parameter], stage: Stage, scale: Mapping[nn.Parameter, float] | None = None
) -> torch.optim.Optimizer:
    """SGD with momentum and weight decay on all parameters (as published), or AdamW that decays matrices and kernels
    only, no norms and no biases. `scale`: what the stage's lr is multiplied by for some parameters; others have 1."""
    scale, adamw = scale or {}, stage.optimiser == "adamw"
    members: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in parameters:
        plain = adamw and parameter.ndim <= 1
        members.setdefault((-scale.get(parameter, 1.0), plain), []).append(parameter)
    groups = [
        {"params": members[key], "lr": -key[0] * stage.lr, "weight_decay": 0.0 if key[1] else stage.weight_decay}
        for key in sorted(members)
    ]
    if adamw:
        return torch.optim.AdamW(groups, lr=stage.lr, fused=True)
    return torch.optim.SGD(groups, lr=stage.lr, momentum=stage.momentum, fused=True)


def layer_scales(net: nn.Module, layer_decay: float) -> dict[nn.Parameter, float]:
    """What the learning rate of each parameter of a timm network is multiplied by: 1 for its last block, and
    `layer_decay` times as much for every block before (BEiT, arXiv:2106.08254; blocks as timm counts them)."""
    groups = param_groups_layer_decay(net, layer_decay=layer_decay)
    return {parameter: group["lr_scale"] for group in groups for parameter in group["params"]}


def lr_factor(stage: Stage, step: int, steps_per_epoch: int) -> float:
    """What the stage's lr is multiplied by at optimiser step `step` (from 0).

    `step` falls by step_factor after every step_epochs epochs, step_drops times at most (0: no limit); `cosine` falls
    from 1 to 0 over the stage; `onecycle` climbs along a cosine from 1/25 to 1 in the first 30 % of the steps and then
    falls to 1e-4. With warm_up_epochs the others first climb in equal steps to what they are after it; a cosine falls
    over the steps that are left.
    """
    warm = stage.warm_up_epochs * steps_per_epoch
    return min(1.0, (step + 1) / (warm + 1)) * _scheduled(stage, step, steps_per_epoch, warm)


def _scheduled(stage: Stage, step: int, steps_per_epoch: int, warm: float) -> float:
    if stage.schedule == "constant":
        return 1.0
    if stage.schedule == "step":
        drops = step // steps_per_epoch // stage.step_epochs
        return float(stage.step_factor ** (min(drops, stage.step_drops) if stage.step_drops else drops))
    total = stage.epochs * steps_per_epoch
    if stage.schedule == "cosine":
        return _cosine(1.0, 0.0, max(0.0, step - warm) / max(1.0, total - warm))
    peak = max(1.0, WARM_UP * total)
    if step < peak:
        return _cosine(START, 1.0, step / peak)
    return _cosine(1.0, END, (step - peak) / max(1.0, total - peak))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2
