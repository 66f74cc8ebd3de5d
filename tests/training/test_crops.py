"""Stages with several crops, maps of evidence and a gradient through the place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import short, tiny_config

from agcxr import config
from agcxr.config import Local, Train
from agcxr.data.dataset import films
from agcxr.data.prepared import open_prepared
from agcxr.models.agcnn import AGCNN
from agcxr.training import frozen, losses, stages
from agcxr.training.stages import train
from agcxr.training.tasks import Data, Shown, StageTask

torch.set_num_threads(1)

SEVERAL = {"crops": 3, "window": 0.3, "min_side": 4}
OPTIONS = [
    {"statistic": "learned", "pool": "gated", **SEVERAL},
    {"statistic": "cam", "pool": "max", "crops": 2, "min_side": 4, "attention_per": "image", "start": "global"},
]


def data_of(prepared: Path) -> Data:
    opened = open_prepared(prepared)
    return Data(films(opened, "train"), films(opened, "val"))


def built(made: Train) -> AGCNN:
    torch.manual_seed(0)
    return stages.build(made)


def shown(data: Data, made: Train, n: int = 6) -> Shown:
    film = data.train.read(np.arange(n), np.arange(n))
    return Shown(film, frozen.centre(n, data.train, made), torch.arange(n))


def same_weights(one: Path, two: Path) -> None:
    first, second = load_file(one / "model" / "model.safetensors"), load_file(two / "model" / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("options", OPTIONS, ids=["learned, gated", "cam, regions"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(prepared, tmp_path, monkeypatch, options):
    made = tiny_config(local=Local(epochs=2, batch_size=8, **options))
    made = made.model_copy(update={"global_": made.global_.model_copy(update={"epochs": 2, "schedule": "constant"})})
    train(prepared, made, tmp_path / "whole", progress=False)
    plain = StageTask.training_step

    def stopped_in(stage: str, *, resume: bool) -> None:
        def stops(self, batch, batch_idx):
            if (self.stage, self.current_epoch, batch_idx) == (stage, 1, 1):
                raise KeyboardInterrupt
            return plain(self, batch, batch_idx)

        monkeypatch.setattr(StageTask, "training_step", stops)
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            train(prepared, made, tmp_path / "stopped", resume=resume, progress=False)
        monkeypatch.undo()
        assert (tmp_path / "stopped" / stage / "last.ckpt").exists()

    stopped_in("global", resume=False)
    stopped_in("local", resume=True)
    train(prepared, made, tmp_path / "stopped", resume=True, progress=False)
    same_weights(tmp_path / "whole", tmp_path / "stopped")
    model = AGCNN.from_pretrained(tmp_path / "whole")
    assert model.attention == made.local.attention()
    assert model.crop_pool == made.local.pool
    best = load_file(tmp_path / "whole" / "global" / "best.safetensors")  # frozen since, statistics and maps too
    assert all(torch.equal(value, best[key]) for key, value in model.global_branch.state_dict().items())
    assert ("maps.weight" in best) == (options["statistic"] == "learned")
    assert model.evidence_of is not None
    assert not {"No Finding", "Pleural_Thickening", "Hernia"} & set(model.evidence_of)  # none, and never taught


def test_the_learned_maps_add_their_own_term_to_the_global_stage(prepared):
    data, made = data_of(prepared), short(local={"statistic": "learned", "top_share": 0.25})
    task = StageTask(built(made), made, "global", data)
    batch = shown(data, made)
    logit_PBK = task._logits(batch, None)
    assert logit_PBK.shape == (2, 6, 15)
    out = task.model.eval().forward_global(frozen.picture(batch.film, batch.views, made).view_B1HW)
    logit_PBK = task._logits(batch, None)
    maps = task.model.evidence(out.feature_BDhw)
    torch.testing.assert_close(logit_PBK[0], out.logit_BK)
    torch.testing.assert_close(logit_PBK[1], losses.top_share(maps, 0.25))
    loss = task._loss(logit_PBK, batch.film.label_BK)
    torch.testing.assert_close(loss, sum(task.loss(one, batch.film.label_BK) for one in logit_PBK))
    loss.backward()
    assert task.model.global_branch.maps.weight.grad.abs().max() > 0
    local = StageTask(built(made), made, "local", data)
    assert local._logits(batch, None).shape == (1, 6, 15)


def test_a_gate_learns_with_the_local_branch(prepared):
    data, made = data_of(prepared), short(local={"pool": "gated", **SEVERAL})
    model = built(made)
    task = StageTask(model, made, "local", data)
    batch = shown(data, made)
    task._loss(task._logits(batch, None), batch.film.label_BK).backward()
    assert model.local_branch.gate.score.weight.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in model.global_branch.parameters())


@pytest.mark.parametrize("gradient", ["none", "place"])
def test_the_local_branch_teaches_the_global_one_where_to_look(prepared, gradient):
    """The loss of the crops alone: it reaches the global branch through the place, or not at all."""
    data = data_of(prepared)
    made = short(strategy="GL_F", local={"statistic": "cam", "gradient": gradient, **SEVERAL})
    task = StageTask(built(made), made, "global+local", data)
    batch = shown(data, made)
    logit_PBK = task._logits(batch, None)
    task.loss(logit_PBK[1], batch.film.label_BK).backward()
    learns = [p.grad is not None and bool(p.grad.abs().max() > 0) for p in task.model.global_branch.parameters()]
    assert any(learns) == (gradient == "place")
    assert any(p.grad is not None for p in task.model.local_branch.parameters())


@pytest.mark.parametrize("strategy", ["G_L_F", "G_LF"])
def test_a_gradient_to_a_frozen_branch_is_refused(strategy):
    local = Local(gradient="place", window=0.3)
    with pytest.raises(ValueError, match=f"with strategy {strategy} the global branch is frozen while the local one"):
        Train(strategy=strategy, local=local)
    for other in ("GLF", "GL_F", "G_L_F-finetune"):
        assert Train(strategy=other, local=local).local.gradient == "place"


@pytest.mark.parametrize(
    ("local", "message"),
    [
        ({"pool": "gated"}, r"local.pool is 'gated', but local.crops is 1, and one needs no weighing; set local.crops"),
        ({"crops": 2, "look": "whole"}, r"local.crops is 2, but local.look 'whole' shows the whole view, which is one"),
        ({"crops": 2, "look": "centre"}, r"cannot be laid side by side about the centre; set local.window to the"),
        ({"window": 0.05}, r"local.window is 0.05, 11 of 224 pixels of the view, and boxes have 16 at least; raise it"),
        ({"crops": 0}, r"local.crops is 0: Input should be greater than or equal to 1"),
        ({"window": 1.0}, r"local.window is 1.0: Input should be less than 1"),
        ({"top_share": 0}, r"local.top_share is 0: Input should be greater than 0"),
        ({"statistic": "camm"}, r"expected 'max', 'l1', 'l2', 'cam' or 'learned' \(did you mean 'cam'\?\)"),
        ({"gradient": "place"}, r"local.gradient is 'place', but a box as large as the region found has no side"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(local, message):
    with pytest.raises(ValueError, match=message):
        config.from_dict({"local": local})
