"""What a recipe may add to the published ones: each changes what it says and nothing else, and resumes exactly."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from test_stages import curve, same_metrics, same_weights
from tiny import tiny_config, write_prepared

from agcxr import metrics
from agcxr.config import Augment, Fusion, Local, Stage, Train
from agcxr.data.dataset import Shard
from agcxr.labels import FINDINGS, LABELS
from agcxr.models.agcnn import AGCNN
from agcxr.ridge import fit_head
from agcxr.training import frozen, run_folder, stages
from agcxr.training.stages import train
from agcxr.training.tasks import StageTask, Validation, stage_state

torch.set_num_threads(1)

EVERYTHING: dict[str, Any] = {
    "batch_size": 4,
    "accumulate": 2,
    "optimiser": "adamw",
    "weight_decay": 0.05,
    "schedule": "cosine",
    "warm_up_epochs": 0.5,
    "layer_decay": 0.8,
    "ema": 0.9,
    "lr": 3e-3,
}


def strong_like(**changes: Any) -> Train:
    """All that `strong` adds, tiny; but for fixed norms, which random weights cannot have."""
    return tiny_config(
        heads="probe",
        normal_weight=0.5,
        augment=Augment(crop="random-resized", scale_min=0.5, flip=0.0, rotation=5, contrast=0.1),
        global_=Stage(epochs=3, **EVERYTHING),
        local=Local(epochs=2, min_side=4, start="global", crop_source="prepared", **EVERYTHING),
        fusion=Fusion(epochs=3, start="global", cached_views=2, **EVERYTHING),
        **changes,
    )


def only_global(**changes: Any) -> Train:
    """One stage that matters; the others are one short epoch."""
    once = {"epochs": 1, "batch_size": 8}
    first = {"epochs": 1, "batch_size": 8, "optimiser": "adamw", "lr": 3e-3} | changes
    return tiny_config(global_=Stage(**first), local=Local(min_side=4, **once), fusion=Fusion(cached_views=1, **once))


@pytest.fixture(scope="module")
def half_known(tmp_path_factory) -> Path:
    """Most labels of every other film are unknown, so that batches never know as many."""
    prepared = write_prepared(tmp_path_factory.mktemp("films") / "prepared", parts={"train": 29, "val": 13})
    index = pd.read_parquet(prepared / "index.parquet")
    index.loc[::2, list(LABELS[2:])] = np.nan
    index.to_parquet(prepared / "index.parquet")
    return prepared


def trained_stage(prepared: Path, made: Train, out: Path, name: str = "global") -> dict[str, torch.Tensor]:
    """The last weights of one stage from the first ones."""
    torch.manual_seed(0)
    model, opened = stages.build(made), stages.open_prepared(prepared)
    data = stages.Data(stages.films(opened, "train"), stages.films(opened, "val"))
    stages.train_stage(name, model, made, data, stages.RunFolder(out), progress=False)
    return stage_state(model, name)


@pytest.mark.parametrize("loss", ["bce", "balanced-dataset", "balanced-finding", "asymmetric"])
def test_two_batches_a_step_are_one_of_twice_the_size(half_known, tmp_path, loss):
    """A network without batch norm; 29 films, so that the last step is short and its batches are of 3 and 2 films."""
    common = {"epochs": 2, "optimiser": "sgd", "lr": 0.05, "schedule": "cosine", "warm_up_epochs": 0.5}
    whole, halves = (
        trained_stage(
            half_known,
            only_global(**common, batch_size=size, accumulate=accumulate).model_copy(
                update={"backbone": "test_convnext2", "image_size": 64, "loss": loss}
            ),
            tmp_path / str(size),
        )
        for size, accumulate in ((8, 1), (4, 2))
    )
    for key, value in whole.items():
        torch.testing.assert_close(halves[key], value, atol=2e-6, rtol=1e-4)
    assert curve(tmp_path / "8", "global", "val_loss") == pytest.approx(curve(tmp_path / "4", "global", "val_loss"))


def test_the_average_is_that_of_the_weights_after_every_step_and_is_validated(prepared, tmp_path, monkeypatch):
    seen: list[dict[str, torch.Tensor]] = []

    def note(self: StageTask, *given: Any) -> None:
        if self.stage == "global":
            seen.append({key: value.clone() for key, value in stage_state(self.model, "global").items()})

    monkeypatch.setattr(StageTask, "on_train_start", note)
    monkeypatch.setattr(StageTask, "on_train_batch_end", note)
    summary = train(prepared, only_global(ema=0.3), tmp_path / "run", progress=False)
    assert len(seen) == 1 + 3  # 24 of 25 films by 8
    best = load_file(tmp_path / "run" / "global" / "best.safetensors")
    for key, value in best.items():
        average = seen[0][key].double()
        for step, weights in enumerate(seen[1:]):
            decay = min(0.3, (1 + step) / (10 + step))
            average = decay * average + (1 - decay) * weights[key].double()
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), average, atol=1e-6, rtol=1e-5)
        else:
            assert torch.equal(value, seen[-1][key])
    assert not torch.equal(best["head.weight"], seen[-1]["head.weight"])
    last = torch.load(tmp_path / "run" / "global" / "last.ckpt", weights_only=True)
    assert torch.equal(last["state_dict"]["model.global_branch.head.weight"], seen[-1]["head.weight"])
    model = AGCNN.from_pretrained(tmp_path / "run")
    assert torch.equal(model.global_branch.head.weight, best["head.weight"])
    assert summary.stage("global").val_auc == pytest.approx(global_auc(model, prepared), abs=1e-6)
    model.global_branch.load_state_dict(seen[-1])
    assert summary.stage("global").val_auc != pytest.approx(global_auc(model, prepared), abs=1e-6)


def global_auc(model: AGCNN, prepared: Path) -> float:
    """Mean AUROC of the global branch on the validation films, findings with both classes."""
    films, made = stages.films(stages.open_prepared(prepared), "val"), tiny_config()
    film = films.read(np.arange(len(films)), np.arange(len(films)))
    with torch.inference_mode():
        view = frozen.picture(film, frozen.centre(len(films), films, made), made).view_B1HW
        logit_NK = model.eval().forward_global(view).logit_BK.numpy()
    return float(np.nanmean(metrics.auroc_table(films.label_NK, logit_NK)[: len(FINDINGS)]))


def test_settings_that_ask_for_nothing_change_no_digit(prepared, tmp_path):
    """A patience that is never used up, an accumulation of one, all layers alike."""
    train(prepared, only_global(epochs=2), tmp_path / "plain", progress=False)
    nothing = {"patience": 9, "layer_decay": 1.0, "warm_up_epochs": 0, "accumulate": 1, "ema": 0}
    train(prepared, only_global(epochs=2, **nothing), tmp_path / "again", progress=False)
    same_metrics(tmp_path / "plain", tmp_path / "again")
    same_weights(tmp_path / "plain", tmp_path / "again")


NORMS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize("norms", ["batch", "fixed"])
def test_fixed_norms_keep_their_statistics_and_learn_the_rest(prepared, whole, tmp_path, norms):
    made = only_global(epochs=1).model_copy(update={"weights": str(whole), "norms": norms})
    trained = trained_stage(prepared, made, tmp_path / norms)
    first = AGCNN.from_pretrained(whole).global_branch.state_dict()
    of_norms = [key for key in trained if key.endswith(NORMS)]
    assert of_norms
    assert {torch.equal(trained[key], first[key]) for key in of_norms} == {norms == "fixed"}
    assert not any(
        torch.equal(trained[key], first[key]) for key in trained if key.endswith(("conv.weight", "bn1.bias"))
    )


def test_fixed_norms_are_those_of_every_part_and_can_be_let_go(whole):
    model = AGCNN.from_pretrained(whole)
    model.fixed_norms = True
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    model.train()
    assert norms
    assert not any(norm.training for norm in norms)
    assert model.training
    assert model.global_branch.backbone.training
    model.fixed_norms = False
    assert all(norm.training for norm in norms if model.train())


@pytest.mark.parametrize("part", ["global", "local"])
def test_a_probed_head_is_fitted_to_the_features_before_the_first_step(prepared, whole, tmp_path, monkeypatch, part):
    """Of the branch that learns; a local branch that starts from the global one keeps the head that came with it."""
    heads: dict[tuple[str, str], torch.Tensor] = {}

    def note(self: StageTask) -> None:
        heads[out.name, self.stage] = self.model.part(self.stage).state_dict()["head.weight"].clone()

    monkeypatch.setattr(StageTask, "on_train_start", lambda self: note(self) if self.stage != "fusion" else None)
    made = only_global(epochs=1).model_copy(update={"weights": str(whole), "heads": "probe"})
    for out, start in ((tmp_path / "weights", "weights"), (tmp_path / "global", "global")):
        train(
            prepared,
            made.model_copy(update={"local": made.local.model_copy(update={"start": start})}),
            out,
            progress=False,
        )
    films = stages.films(stages.open_prepared(prepared), "train")
    film = films.read(np.arange(len(films)), np.arange(len(films)))
    model = stages.build(made).eval()
    if part == "local":
        model.global_branch.load_state_dict(load_file(tmp_path / "weights" / "global" / "best.safetensors"))
    with torch.inference_mode():
        shown = frozen.picture(film, frozen.centre(len(films), films, made), made)
        feature = frozen.branches(model, shown)[part == "local"]
    expected = torch.from_numpy(fit_head(feature.numpy(), films.label_NK, films.patient_N)[0])
    torch.testing.assert_close(heads["weights", part].double(), expected, atol=1e-4, rtol=1e-3)
    if part == "local":
        trained = load_file(tmp_path / "global" / "global" / "best.safetensors")["head.weight"]
        assert torch.equal(heads["global", "local"], trained)


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory) -> Path:
    """An uninterrupted run of all that `strong` adds."""
    out = tmp_path_factory.mktemp("strong") / "whole"
    train(prepared, strong_like(), out, progress=False)
    return out


@pytest.mark.parametrize("where", [("global", 1, 3), ("local", 1, 0), ("fusion", 2, 1)], ids=lambda where: where[0])
def test_resumed_equals_uninterrupted(prepared, whole, tmp_path, monkeypatch, where):
    """Also in the middle of a step of two batches: weights, average and everything drawn."""
    plain = StageTask.training_step

    def stops(self: StageTask, shown: Any, batch_idx: int) -> Any:
        if (self.stage, self.current_epoch, batch_idx) == where:
            raise KeyboardInterrupt
        return plain(self, shown, batch_idx)

    monkeypatch.setattr(StageTask, "training_step", stops)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        train(prepared, strong_like(), tmp_path / "stopped", progress=False)
    monkeypatch.undo()
    assert len(curve(tmp_path / "stopped", where[0], "epoch")) == where[1]
    train(prepared, strong_like(), tmp_path / "stopped", resume=True, progress=False)
    same_metrics(whole, tmp_path / "stopped")
    same_weights(whole, tmp_path / "stopped")


def test_the_same_seed_is_the_same_run_and_earlier_branches_stay(prepared, whole, tmp_path):
    train(prepared, strong_like(), tmp_path / "again", progress=False)
    same_metrics(whole, tmp_path / "again")
    same_weights(whole, tmp_path / "again")
    model = AGCNN.from_pretrained(whole)
    for stage in ("global", "local", "fusion"):
        best = load_file(whole / stage / "best.safetensors")
        assert all(torch.equal(value, best[key]) for key, value in model.part(stage).state_dict().items())


def falling(monkeypatch: pytest.MonkeyPatch, aucs: list[float]) -> None:
    """Validation answers these, an epoch each."""

    def scored(self: StageTask) -> None:
        self._scored.clear()
        value = aucs[self.current_epoch] if self.stage == "global" else 0.5
        self.validation = Validation(1.0, (value,) * len(LABELS))

    monkeypatch.setattr(StageTask, "on_validation_epoch_end", scored)


@pytest.mark.parametrize(
    ("aucs", "patience", "epochs", "best"),
    [
        ([0.6, 0.5, 0.5, 0.5, 0.5, 0.5], 2, 3, 1),
        ([0.5, 0.6, 0.55, 0.7, 0.6, 0.6], 2, 6, 4),
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.5], 1, 2, 1),
        ([0.6, 0.5, 0.5, 0.5, 0.5, 0.5], 0, 6, 1),
        ([0.6, 0.5, 0.5, 0.5, 0.5, 0.5], 6, 6, 1),
    ],
)
def test_patience_is_epochs_without_a_better_one(prepared, tmp_path, monkeypatch, aucs, patience, epochs, best):
    falling(monkeypatch, aucs)
    summary = train(prepared, only_global(epochs=6, patience=patience), tmp_path / "run", progress=False)
    assert len(curve(tmp_path / "run", "global", "epoch")) == epochs
    assert (summary.stage("global").epochs, summary.stage("global").best_epoch) == (epochs, best)
    assert summary.stage("local").epochs == 1


def test_a_stage_that_stopped_early_stops_again(prepared, tmp_path, monkeypatch):
    """Killed after its last epoch, before it was marked done."""
    made = only_global(epochs=6, patience=1)
    falling(monkeypatch, [0.6, 0.5, 0.7, 0.7, 0.7, 0.7])
    train(prepared, made, tmp_path / "run", progress=False)
    before = load_file(tmp_path / "run" / "model" / "model.safetensors")
    (tmp_path / "run" / "global" / "done.json").unlink()
    shutil.rmtree(tmp_path / "run" / "model")
    summary = train(prepared, made, tmp_path / "run", resume=True, progress=False)
    assert summary.stage("global").epochs == 2
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_layers_learn_at_their_own_rate(prepared):
    made = only_global(layer_decay=0.5, weight_decay=0.1)
    opened = stages.open_prepared(prepared)
    data = stages.Data(stages.films(opened, "train"), stages.films(opened, "val"))
    model = stages.build(made)
    task = StageTask(model, made, "global", data)
    task._shard = lambda: Shard()  # type: ignore[method-assign]
    groups = task.configure_optimizers()["optimizer"].param_groups
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    branch = model.global_branch
    assert {rate[id(parameter)] for parameter in branch.head.parameters()} == {3e-3}
    assert rate[id(branch.backbone.net.conv1[0].weight)] == min(rate.values()) < 3e-3 / 8
    assert {group["weight_decay"] for group in groups for p in group["params"] if p.ndim <= 1} == {0.0}
    assert {group["weight_decay"] for group in groups for p in group["params"] if p.ndim > 1} == {0.1}
    assert sum(len(group["params"]) for group in groups) == len(list(branch.parameters()))


def test_fp16_needs_a_gpu_and_scales_its_gradients_there(prepared, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ValueError, match=r"precision is fp16, which is for CUDA GPUs.*; leave it to auto, or give --prec"
    ):
        train(prepared, only_global().model_copy(update={"precision": "fp16"}), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    words = {name: stages._precision(name) for name in ("fp32", "bf16", "fp16")}
    assert words == {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
    kept = run_folder.resolved(only_global().model_copy(update={"precision": "fp16"}))
    assert kept.precision == "fp16"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_fp16_trains_and_resumes_its_scale(prepared, tmp_path):
    made = strong_like().model_copy(update={"precision": "fp16"})
    summary = train(prepared, made, tmp_path / "run", progress=False)
    assert all(0 <= stage.val_auc <= 1 for stage in summary.stages)
    last = torch.load(tmp_path / "run" / "global" / "last.ckpt", weights_only=True)
    assert last["MixedPrecision"]["scale"] > 0
