"""The run: pinned curves, frozen branches, the same result after a kill, and refusals that name the cure."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tiny import short, tiny_config, write_prepared

from agcxr import config
from agcxr.config import Fusion, Local, Stage, Train
from agcxr.models.agcnn import AGCNN
from agcxr.models.backbones import Backbone
from agcxr.models.checkpoint import read_card
from agcxr.training import frozen, keeper, stages
from agcxr.training.keeper import duration
from agcxr.training.stages import RunSummary, train
from agcxr.training.tasks import Shown, stage_state

torch.set_num_threads(1)
STAGES = ("global", "local", "fusion")


@pytest.fixture(scope="session")
def run(prepared, tmp_path_factory) -> RunSummary:
    """An uninterrupted run that the tests look at."""
    return train(prepared, tiny_config(), tmp_path_factory.mktemp("run") / "run", progress=False)


@dataclass(frozen=True)
class Stopped:
    killed: Path
    interrupted: Path
    exits: tuple[int, ...]
    out: str
    err: str


def table(folder: Path, stage: str) -> list[dict[str, str]]:
    with (folder / stage / "metrics.csv").open() as handle:
        return list(csv.DictReader(handle))


def curve(folder: Path, stage: str, column: str) -> list[float]:
    return [float(row[column]) for row in table(folder, stage)]


def same_metrics(one: Path, two: Path, names: tuple[str, ...] = STAGES) -> None:
    timed = {"seconds", "films_per_s"}
    for stage in names:
        rows = [table(folder, stage) for folder in (one, two)]
        untimed = [[{k: v for k, v in row.items() if k not in timed} for row in part] for part in rows]
        assert untimed[0] == untimed[1]


def same_weights(one: Path, two: Path) -> None:
    first, second = load_file(one / "model" / "model.safetensors"), load_file(two / "model" / "model.safetensors")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_curves_are_pinned(run):
    found = {stage: curve(run.folder, stage, "train_loss") for stage in STAGES}
    assert found == {
        "global": pytest.approx([0.6985, 0.6660, 0.6316], abs=2e-3),
        "local": pytest.approx([0.6822, 0.6369, 0.6186], abs=2e-3),
        "fusion": pytest.approx([0.6926, 0.6600, 0.6386], abs=2e-3),
    }


def test_the_folder_holds_what_it_should(run):
    assert {path.name for path in run.folder.iterdir()} == {
        *("config.yaml", "plan.json", "run.json", "global", "local", "fusion", "model"),
    }
    for stage in STAGES:
        names = {path.name for path in (run.folder / stage).iterdir()}
        assert names >= {"last.ckpt", "best.safetensors", "metrics.csv", "done.json"}
        assert not [name for name in names if name.endswith(".part")]
    state = json.loads((run.folder / "run.json").read_text())
    assert state["status"] == "finished"
    assert set(state["stage_seconds"]) == set(STAGES)


def test_the_model_is_made_of_the_best_parts(run):
    model = AGCNN.from_pretrained(run.folder)
    for stage in STAGES:
        best = load_file(run.folder / stage / "best.safetensors")
        assert all(torch.equal(value, best[key]) for key, value in model.part(stage).state_dict().items())
        scores = curve(run.folder, stage, "val_auc")
        assert run.stage(stage).val_auc == max(scores)
        assert run.stage(stage).best_epoch == scores.index(max(scores)) + 1


def test_the_card_says_where_the_model_comes_from(run, prepared):
    card = read_card(run.model / "config.json")
    assert card.preprocessing.prepared_size == tiny.SIZE
    assert card.metrics == {f"{stage}_val_auc": run.stage(stage).val_auc for stage in STAGES}
    assert card.seed == 0
    assert card.train_patients is not None
    index = stages.open_prepared(prepared).index
    patients = index.loc[index["split"] == "train", "patient"]
    assert card.train_patients.known(index["patient"]) == tuple(sorted(set(patients)))


def test_findings_without_both_classes_are_named_and_left_out(run, prepared, capsys, tmp_path):
    summary = run.stage("global")
    assert summary.absent == ("Pleural_Thickening", "Hernia")
    per_finding = summary.val_auc_per_finding
    assert np.isnan([per_finding["Hernia"], per_finding["Pleural_Thickening"]]).all()
    known = [auc for auc in per_finding.values() if not np.isnan(auc)]
    assert len(known) == 12
    assert summary.val_auc == pytest.approx(np.mean(known))
    assert json.loads((run.folder / "global" / "done.json").read_text())["val_auc_per_finding"]["Hernia"] is None
    assert table(run.folder, "global")[0]["auc_Hernia"] == ""
    once = tiny_config(global_=Stage(epochs=1), local=Local(epochs=1), fusion=Fusion(epochs=1, cached_views=1))
    train(prepared, once, tmp_path / "run")
    said = capsys.readouterr().out
    assert "Validation lacks a positive or a negative film of Pleural_Thickening, Hernia: left out of the mean" in said
    assert "global  epoch 1/1  loss 0." in said


def test_earlier_branches_stay_as_they_are(run):
    """Neither weights nor batch-norm statistics of the global branch move in stages II and III."""
    model = AGCNN.from_pretrained(run.folder)
    best = load_file(run.folder / "global" / "best.safetensors")
    statistics = [key for key in best if "running_mean" in key]
    assert statistics
    assert all(torch.equal(model.global_branch.state_dict()[key], best[key]) for key in best)


@pytest.mark.parametrize("stage", ["local", "fusion"])
def test_frozen_branches_get_no_gradients_and_keep_their_statistics(prepared, tmp_path, stage):
    config = tiny_config(global_=Stage(epochs=1), local=Local(epochs=1), fusion=Fusion(epochs=1))
    data = _data(prepared)
    model = _model(config)
    before = {name: {k: v.clone() for k, v in model.part(name).state_dict().items()} for name in STAGES}
    folder = stages.RunFolder(tmp_path)
    stages.train_stage(stage, model, config, data, folder, progress=False)
    for name in STAGES:
        unchanged = all(torch.equal(v, before[name][k]) for k, v in model.part(name).state_dict().items())
        assert unchanged == (name != stage)
        if name != stage:
            assert all(p.grad is None and not p.requires_grad for p in model.part(name).parameters())


@pytest.fixture(scope="session")
def stopped(prepared, tmp_path_factory) -> Stopped:
    """One run killed in the middle of the second epoch of every stage, started again each time; another by Ctrl-C."""
    killed, interrupted = (tmp_path_factory.mktemp("stopped") / name for name in ("killed", "interrupted"))
    jobs = [f"{killed}={stage}:1:1={int(signal.SIGKILL)}" for stage in STAGES]
    jobs.append(f"{interrupted}=global:1:1={int(signal.SIGINT)}")
    child = subprocess.run(
        [sys.executable, tiny.__file__, str(prepared), *jobs],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    exits = tuple(int(line.split()[1]) for line in child.stdout.splitlines() if line.startswith("exit"))
    return Stopped(killed, interrupted, exits, child.stdout, child.stderr)


def test_resumed_equals_uninterrupted(run, stopped, prepared):
    assert stopped.exits[:3] == (-signal.SIGKILL,) * 3
    assert json.loads((stopped.killed / "run.json").read_text())["status"] == "running"
    assert [len(curve(stopped.killed, stage, "epoch")) for stage in STAGES] == [3, 3, 1]
    finished = train(prepared, tiny_config(), stopped.killed, resume=True, progress=False)
    same_metrics(run.folder, stopped.killed)
    same_weights(run.folder, stopped.killed)
    assert [(s.best_epoch, s.val_auc) for s in finished.stages] == [(s.best_epoch, s.val_auc) for s in run.stages]
    again = train(prepared, tiny_config(), stopped.killed, resume=True, progress=False)  # nothing is left to do
    assert [s.val_auc for s in again.stages] == [s.val_auc for s in run.stages]


def test_ctrl_c_says_how_to_go_on(stopped):
    assert stopped.exits[3] == 130
    assert f"Stopped. Whole epochs are kept in {stopped.interrupted}; the same command with --resume" in stopped.out
    assert "Traceback" not in stopped.err
    assert json.loads((stopped.interrupted / "run.json").read_text())["status"] == "interrupted"
    assert len(curve(stopped.interrupted, "global", "epoch")) == 1


@pytest.mark.parametrize(("rate", "shown"), [(12.345, "12.35"), (999.9, "999.9"), (10080.0, "10,080")])
def test_films_a_second_are_told_in_plain_digits(rate, shown):
    assert keeper._rate(rate) == shown


def test_an_existing_run_needs_resume(run, prepared):
    with pytest.raises(ValueError, match=r"already holds a run; go on with it by --resume, or give --out a new folder"):
        train(prepared, tiny_config(), run.folder)


def test_other_settings_cannot_resume(run, prepared):
    other = tiny_config(seed=3, local=tiny_config().local.model_copy(update={"threshold": 0.5}))
    with pytest.raises(ValueError, match=r"local\.threshold: 0\.7 -> 0\.5; seed: 0 -> 3\. Give the settings"):
        train(prepared, other, run.folder, resume=True)


def test_other_films_cannot_resume(run, tmp_path):
    others = write_prepared(tmp_path / "others", parts={"train": 9, "val": 4})
    with pytest.raises(ValueError, match="was begun on other films than"):
        train(others, tiny_config(), run.folder, resume=True)


def test_a_folder_with_other_things_is_left_alone(prepared, tmp_path):
    (tmp_path / "holiday.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no run; give --out a new or an empty folder"):
        train(prepared, tiny_config(), tmp_path, resume=True)


def test_divergence_is_named(prepared, tmp_path):
    wild = tiny_config(global_=Stage(epochs=2, batch_size=8, lr=1e30))
    with pytest.raises(ValueError, match=r"training diverged: the validation loss of the global stage .* --global\.lr"):
        train(prepared, wild, tmp_path / "run", progress=False)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"


def test_a_batch_norm_of_one_value_is_told_with_its_cures(prepared, tmp_path):
    """SKNet pools its features before a batch norm, where one film has one value a channel."""
    alone = tiny_config(backbone="skresnet18", image_size=64, global_=Stage(epochs=1, batch_size=1))
    words = (
        r"a batch norm of skresnet18 cannot learn from one value a channel: 1 film a step and device, pooled\. "
        r"Give --global\.batch-size 2 or more for each device \(and as many films\)"
    )
    with pytest.raises(ValueError, match=words):
        train(prepared, alone, tmp_path / "run", progress=False)


def test_a_map_of_one_cell_is_refused_before_anything_is_trained(prepared, tmp_path):
    alone = tiny_config(backbone="resnet10t", image_size=32, global_=Stage(epochs=1, batch_size=1))
    with pytest.raises(ValueError, match=r"makes 1 x 1 cells of a view of 32 x 32 pixels.*give a larger --image-size"):
        train(prepared, alone, tmp_path / "run", progress=False)


@pytest.mark.parametrize(("statistic", "warned"), [("max", True), ("l2", False)])
def test_a_network_that_ends_in_relu6_is_warned_of_before_the_local_branch_trains(
    prepared, tmp_path, capsys, statistic, warned
):
    net = Backbone("tf_efficientnet_lite0", 1, "none").net
    with torch.no_grad():
        net.bn2.weight.mul_(1000)  # some channel reaches the clip at every cell
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    made = short(
        backbone="tf_efficientnet_lite0",
        weights=str(tmp_path / "weights.safetensors"),
        image_size=64,
        local={"statistic": statistic},
    )
    train(prepared, made, tmp_path / "run")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("Attention", " local"))]
    assert [line.startswith("Attention hardly chooses a place: in ") for line in lines[:1]] == [warned]
    assert all(line.startswith(" local") for line in lines[warned:])  # before the local stage, and once


def test_a_run_that_failed_before_its_first_epoch_leaves_the_folder_free(prepared, tmp_path):
    with pytest.raises(ValueError, match="unknown backbone"):
        train(prepared, tiny_config(backbone="resnet10q"), tmp_path / "run", progress=False)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]
    once = {
        part: getattr(tiny_config(), part).model_copy(update={"epochs": 1}) for part in ("global_", "local", "fusion")
    }
    train(prepared, tiny_config(**once), tmp_path / "run", progress=False)
    first = json.loads((tmp_path / "run" / "run.json").read_text())
    assert first["status"] == "finished"
    # A resumed run keeps its beginning, and its seconds add up.
    first |= {"status": "interrupted", "seconds": 1000.0}
    (tmp_path / "run" / "run.json").write_text(json.dumps(first))
    train(prepared, tiny_config(**once), tmp_path / "run", resume=True, progress=False)
    again = json.loads((tmp_path / "run" / "run.json").read_text())
    assert again["begun"] == first["begun"]
    assert again["data"] == str(prepared.resolve())
    assert again["status"] == "finished"
    assert again["seconds"] >= first["seconds"]


def test_no_finding_with_both_classes(tmp_path):
    """One validation film: every AUROC is undefined; the loss chooses, nothing crashes, the mean is NaN, not 0."""
    folder = write_prepared(tmp_path / "prepared", parts={"train": 8, "val": 1})
    once = tiny_config(global_=Stage(epochs=2), local=Local(epochs=1), fusion=Fusion(epochs=1))
    summary = train(folder, once, tmp_path / "run", progress=False)
    losses = curve(tmp_path / "run", "global", "val_loss")
    assert np.isnan(summary.stage("global").val_auc)
    assert summary.stage("global").best_epoch == losses.index(min(losses)) + 1
    assert read_card(summary.model / "config.json").metrics["fusion_val_auc"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"local": Local(epochs=1, batch_size=8, attention_per="image", min_side=4), "in_channels": 3},
        {"local": Local(epochs=1, batch_size=8, crop_source="prepared", min_side=4), "image_size": 36, "resize": 40},
        {"loss": "balanced-dataset", "pooling": "max", "normalisation": "mean"},
        {"loss": "asymmetric", "precision": "bf16", "fusion": Fusion(epochs=2, cached_views=2, batch_size=8)},
    ],
    ids=["per-image", "sharp", "paper-like", "bf16-cached"],
)
def test_options_train(prepared, tmp_path, changes):
    common = {"batch_size": 8}
    once = {
        "global_": Stage(epochs=1, **common),
        "local": Local(epochs=1, **common),
        "fusion": Fusion(epochs=1, **common),
    }
    summary = train(prepared, tiny_config(**(once | changes)), tmp_path / "run", progress=False)
    assert [stage.stage for stage in summary.stages] == ["global", "local", "fusion"]
    assert all(0 <= stage.val_auc <= 1 for stage in summary.stages)


@pytest.mark.parametrize("strategy", [name for name in config.STRATEGIES if name != "G_L_F"])
def test_strategies_train_what_they_name(prepared, tmp_path, strategy):
    made = short(strategy=strategy)
    summary = train(prepared, made, tmp_path / "run", progress=False)
    assert tuple(stage.stage for stage in summary.stages) == config.STRATEGIES[strategy]
    model, last = AGCNN.from_pretrained(tmp_path / "run"), made.stages[-1]
    best = load_file(tmp_path / "run" / last / "best.safetensors")
    learned = stage_state(model, last)
    assert learned.keys() == best.keys()
    assert all(torch.equal(value, best[key]) for key, value in learned.items())
    assert made.stage(last).batch_size == 4
    if strategy == "G_LF":  # the global branch stays as its own stage left it, the others learn
        first = load_file(tmp_path / "run" / "global" / "best.safetensors")
        assert all(torch.equal(value, first[key]) for key, value in model.part("global").state_dict().items())
    if strategy == "G_L_F-finetune":
        first = load_file(tmp_path / "run" / "global" / "best.safetensors")
        assert not all(torch.equal(value, first[key]) for key, value in model.part("global").state_dict().items())


def test_the_loss_of_a_joint_stage_is_the_sum_and_its_gradients_reach_every_part(prepared):
    data = _data(prepared)
    made = short(strategy="GLF")
    task = stages.StageTask(_model(made), made, "global+local+fusion", data)
    film = data.train.read(np.arange(4), np.arange(4))
    shown = Shown(film, frozen.centre(4, data.train, made), torch.arange(4))
    logit_PBK = task._logits(shown, None)
    view = frozen.picture(film, shown.views, made)
    out = task.model(view.view_B1HW)
    for p, logit_BK in enumerate((out.global_BK, out.local_BK, out.fusion_BK)):
        torch.testing.assert_close(logit_PBK[p], logit_BK, atol=2e-3, rtol=1e-2)  # batch norm has moved in between
    loss = task._loss(logit_PBK, film.label_BK)
    torch.testing.assert_close(loss, sum(task.loss(one, film.label_BK) for one in logit_PBK))
    loss.backward()
    assert all(any(w.grad is not None for w in task.model.part(part).parameters()) for part in STAGES)


def test_a_joint_strategy_resumes_as_if_it_had_not_stopped(prepared, tmp_path, monkeypatch):
    made = short(strategy="G_LF")
    made = made.model_copy(update={"local": made.local.model_copy(update={"epochs": 2})})
    whole = train(prepared, made, tmp_path / "whole", progress=False)
    plain = stages.StageTask.training_step

    def stops(self, shown, batch_idx):
        if (self.stage, self.current_epoch, batch_idx) == ("local+fusion", 1, 1):
            raise KeyboardInterrupt
        return plain(self, shown, batch_idx)

    monkeypatch.setattr(stages.StageTask, "training_step", stops)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        train(prepared, made, tmp_path / "stopped", progress=False)
    monkeypatch.undo()
    assert len(curve(tmp_path / "stopped", "local+fusion", "epoch")) == 1
    resumed = train(prepared, made, tmp_path / "stopped", resume=True, progress=False)
    same_metrics(tmp_path / "whole", tmp_path / "stopped", made.stages)
    same_weights(tmp_path / "whole", tmp_path / "stopped")
    assert [s.val_auc for s in resumed.stages] == [s.val_auc for s in whole.stages]


@pytest.mark.parametrize("look", ["random", "centre", "whole"])
def test_controls_train_and_are_remembered(prepared, tmp_path, look):
    train(prepared, short(local={"look": look, "crop_source": "prepared"}), tmp_path / "run", progress=False)
    card = read_card(tmp_path / "run" / "model" / "config.json")
    assert card.model.look == look
    assert AGCNN.from_pretrained(tmp_path / "run").look_at == look


def test_what_learns_cannot_be_computed_once():
    with pytest.raises(ValueError, match=r"fusion\.cached_views is 2, but with strategy GLF .* set it to 0"):
        tiny_config(strategy="GLF", fusion=Fusion(cached_views=2))
    with pytest.raises(ValueError, match=r"local\.attention_per is 'image', but .* GL_F .* set it to 'view'"):
        tiny_config(strategy="GL_F", local=Local(attention_per="image"))


def _model(config: Train) -> AGCNN:
    torch.manual_seed(0)
    return stages.build(config)


def _data(prepared: Path) -> stages.Data:
    opened = stages.open_prepared(prepared)
    return stages.Data(stages.films(opened, "train"), stages.films(opened, "val"))


@pytest.mark.parametrize(
    ("seconds", "words"), [(45.4, "45 s"), (89, "89 s"), (90, "2 min"), (5340, "89 min"), (12000, "3 h 20 min")]
)
def test_durations_are_told_in_two_units(seconds, words):
    assert duration(seconds) == words


def test_how_long_it_will_take_is_said_once_there_is_a_rate(prepared, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(keeper, "WORTH_SAYING_S", 0.0)
    monkeypatch.setattr(keeper, "TIMED_S", 0.0)
    monkeypatch.setattr(keeper, "FIRST_STEPS", 1)
    made = tiny_config(
        global_=Stage(epochs=3, batch_size=8), local=Local(epochs=2, batch_size=25), fusion=Fusion(epochs=1)
    )
    train(prepared, made, tmp_path / "run")
    lines = [line for line in capsys.readouterr().out.splitlines() if " at most, at " in line]
    time = r"\d+ s"
    expected = (
        rf"global  about {time} for 3 epochs at most, at [\d.,]+ films/s; "
        rf"with the stages behind it {time}, if theirs run as fast. Validation is not counted.",
        # Its first step is the whole epoch: the rate is that of the epoch, and one is left.
        rf" local  about {time} for 1 epoch at most, at [\d.,]+ films/s; "
        rf"with the stages behind it {time}, if theirs run as fast. Validation is not counted.",
    )
    assert len(lines) == 2  # of the fusion, nothing is left when there is a rate
    for line, words in zip(lines, expected, strict=True):
        assert re.fullmatch(words, line), line
    monkeypatch.undo()
    train(prepared, made, tmp_path / "again")
    assert " at most, at " not in capsys.readouterr().out  # seconds are over before they are read


def test_a_resumed_run_says_what_it_skips(run, prepared, tmp_path, capsys):
    begun = shutil.copytree(run.folder, tmp_path / "run")
    (begun / "fusion" / "done.json").unlink()
    shutil.rmtree(begun / "model")
    train(prepared, tiny_config(), begun, resume=True)
    said = capsys.readouterr().out
    assert " Done already, and skipped: global, local. fusion goes on after its last whole epoch.\n" in said
    train(prepared, tiny_config(), run.folder, resume=True)
    said = capsys.readouterr().out
    assert said == f"Nothing is left to train: global, local, fusion are done in {run.folder}.\n"
