"""A running average of the weights that learn: what is validated, kept and, in the end, the result of the stage."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from agcxr.training.tasks import StageTask, load_stage, stage_state


class Averaging(L.Callback):
    """Moves the average towards the weights after every step, and puts it in their place while films are validated.

    `decay` is what the average keeps of itself in a step; at first less, (1 + step) / (10 + step), so that the weights
    it began with are forgotten in a short stage, too. Statistics of batch norms are averaged alike. last.ckpt holds
    both the weights and the average.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.steps = 0
        self._weights: dict[str, Tensor] = {}  # put aside during validation

    def on_train_start(self, trainer: L.Trainer, task: StageTask) -> None:  # type: ignore[override]
        """Begin with the weights as they are, or go on with what last.ckpt held."""
        weights = _copied(task)
        self.average = {key: self.average.get(key, value).to(value.device) for key, value in weights.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, task: StageTask, *step: Any) -> None:  # type: ignore[override]
        """Follow the weights, where the batch ended a step."""
        if trainer.global_step == self.steps:
            return
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps = trainer.global_step
        weights = stage_state(task.model, task.stage)
        real = [key for key, value in weights.items() if value.is_floating_point()]
        get_ema_multi_avg_fn(decay)([self.average[key] for key in real], [weights[key] for key in real], self.steps)
        for key in weights.keys() - real:  # such as a count of batches
            self.average[key].copy_(weights[key])

    def on_validation_start(self, trainer: L.Trainer, task: StageTask) -> None:  # type: ignore[override]
        """Validate the average."""
        self._weights = _copied(task)
        load_stage(task.model, task.stage, self.average)

    def on_validation_end(self, trainer: L.Trainer, task: StageTask) -> None:  # type: ignore[override]
        """Go on learning from the weights."""
        load_stage(task.model, task.stage, self._weights)
        self._weights = {}

    def state_dict(self) -> dict[str, Any]:
        """For last.ckpt: tensors and a number."""
        return {"average": self.average, "steps": self.steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From last.ckpt."""
        self.average, self.steps = dict(state_dict["average"]), state_dict["steps"]


def _copied(task: StageTask) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in stage_state(task.model, task.stage).items()}
