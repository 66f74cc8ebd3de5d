"""From a stage's settings to an optimiser and a learning rate for every step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from agcxr.config import Stage

WARM_UP, START, END = 0.3, 1 / 25, 1e-4
"""Of `onecycle`: the share of steps that warm up, and the factors it starts from and ends at."""


def optimiser(parameters: Sequence[nn.Parameter], stage: Stage) -> torch.optim.Optimizer:
    """SGD with momentum on all parameters (as published), or AdamW that decays matrices and kernels only."""
    if stage.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=stage.lr, momentum=stage.momentum, weight_decay=stage.weight_decay, fused=True
        )
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": stage.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=stage.lr, fused=True)


def lr_factor(stage: Stage, step: int, steps_per_epoch: int) -> float:
    """What the stage's lr is multiplied by at optimiser step `step` (from 0).

    `step` falls by step_factor after every step_epochs epochs, step_drops times at most (0: no limit); `cosine` falls
    from 1 to 0 over the stage; `onecycle` climbs along a cosine from 1/25 to 1 in the first 30 % of the
    steps and then falls to 1e-4.
    """
    if stage.schedule == "constant":
        return 1.0
    if stage.schedule == "step":
        drops = step // steps_per_epoch // stage.step_epochs
        return float(stage.step_factor ** (min(drops, stage.step_drops) if stage.step_drops else drops))
    total = stage.epochs * steps_per_epoch
    if stage.schedule == "cosine":
        return _cosine(1.0, 0.0, step / total)
    peak = max(1.0, WARM_UP * total)
    if step < peak:
        return _cosine(START, 1.0, step / peak)
    return _cosine(1.0, END, (step - peak) / max(1.0, total - peak))


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2
