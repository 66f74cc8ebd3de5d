"""Cross-validation: films parted anew, a run a fold, begun and resumed as a whole, evaluated as one."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import short, write_prepared

from agcxr import metrics
from agcxr.calibration import fit_calibration
from agcxr.cli import main
from agcxr.config import from_yaml, to_yaml
from agcxr.data.prepared import open_prepared
from agcxr.evaluation.calibration_report import CalibrationReport
from agcxr.evaluation.probe import Probe
from agcxr.evaluation.results import load_results
from agcxr.experiments import folds as evaluation
from agcxr.experiments.folds import evaluate_folds, out_of_fold
from agcxr.models.checkpoint import read_card
from agcxr.table import to_text
from agcxr.training.folds import read_folds, train_folds
from agcxr.training.seeds import read_seeds

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    """Patients whom the folder's own split has on both sides; folds part all of them anew."""
    return write_prepared(tmp_path_factory.mktemp("films") / "prepared")


@pytest.fixture(scope="module")
def crossed(films, tmp_path_factory) -> Path:
    """Two folds by the command line, and evaluated by it."""
    folder = tmp_path_factory.mktemp("crossed")
    to_yaml(short(), folder / "settings.yaml")
    out = folder / "out"
    words = ["--data", str(films), "--config", str(folder / "settings.yaml"), "--out", str(out)]
    assert main(["train", *words, "--folds", "2"]) == 0
    assert main(["evaluate", str(out), "--data", str(films), "--resamples", "50"]) == 0
    return out


def test_pooled_films_have_what_was_known_before_in_the_same_folds(films, crossed):
    probe, results = Probe.load(crossed / "evaluation" / "test"), load_results(crossed / "evaluation" / "test")
    assert probe.films == "fitted as the run was, in its 2 folds, measured on their 40 test films"
    assert (probe.model, probe.rows) == (results.run, ("metadata",))
    assert probe.absent[0].startswith("Frozen features are left out: the run started from random weights")
    model = results.analysis.mean.branches[-1].auroc.value
    assert probe.gaps[0].value == pytest.approx(model - probe.mean[0].value)
    text = (crossed / "evaluation" / "test" / "report.md").read_text(encoding="utf-8")
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert headings[:2] == ["How to read this", "What is known without training"]


def test_every_film_is_tested_once_by_a_model_that_never_saw_its_patient(films, crossed):
    whole = open_prepared(films)
    pooled = pd.read_parquet(crossed / "evaluation" / "test" / "predictions.parquet")
    assert pooled["row"].tolist() == list(range(len(whole.index)))
    for fold in (1, 2):
        parted = open_prepared(crossed / "films" / f"fold-{fold}")
        assert parted.plan.leak_check.clean
        assert parted.plan.split.rule == f"fold {fold} of 2"
        tested = pooled[pooled["fold"] == fold]
        assert set(tested["row"]) == set(np.flatnonzero(parted.index["split"] == "test"))
        card = read_card(crossed / f"fold-{fold}" / "model" / "config.json")
        assert card.train_patients.known(tested["patient"]) == ()
        assert card.calibration is not None
        own = pd.read_parquet(crossed / f"fold-{fold}" / "evaluation" / "test" / "predictions.parquet")
        for column in ("global_Mass", "fusion_Mass", "label_Mass", "box_x0"):
            assert tested[column].tolist() == pytest.approx(own.sort_values("row")[column].tolist(), nan_ok=True)
        assert np.array_equal(parted.images, whole.images)
        assert (crossed / "films" / f"fold-{fold}" / "images.npy").is_symlink()


def test_the_pooled_report_has_folds_power_and_calibration(crossed):
    results = load_results(crossed / "evaluation" / "test")
    assert (results.run, results.split, results.analysis.films) == ("out, 2 folds", "pooled test", 40)
    text = (crossed / "evaluation" / "test" / "report.md").read_text()
    assert "## Folds\n" in text
    assert "## Subgroups\n" in text
    assert "| Branch | Pooled | Mean of folds | SD | Fold 1 | Fold 2 |" in text
    folds = [load_results(crossed / f"fold-{fold}" / "evaluation" / "test").analysis.mean for fold in (1, 2)]
    mean = np.mean([one.branches[2].auroc.value for one in folds])
    fusion = next(line for line in text.splitlines() if line.startswith("| Fusion |"))
    assert f"| {mean:.3f}".replace("0.", ".") in fusion
    assert "Calibrated probabilities are out-of-fold" in text
    pooled = pd.read_parquet(crossed / "evaluation" / "test" / "predictions.parquet")
    fits = {
        fit.version: fit
        for one in CalibrationReport.load(crossed / "evaluation" / "test").findings
        if one.finding == "Mass"
        for fit in one.fits
    }
    for version, kind in (("raw", "fusion"), ("calibrated", "calibrated")):
        expected = metrics.brier(pooled["label_Mass"], pooled[f"{kind}_Mass"])
        assert fits[version].brier.value == pytest.approx(expected)
    assert text.count("Power: with films and patients like these") == 1


def test_calibration_of_a_fold_is_fitted_on_the_others():
    draw = np.random.default_rng(0)
    n, name = 300, "Mass"
    score = draw.random(n)
    frame = pd.DataFrame({"patient": [f"p{i // 2}" for i in range(n)], "fold": 1 + np.arange(n) // 2 % 3})
    frame[f"fusion_{name}"], frame[f"label_{name}"] = score, (draw.random(n) < score**2).astype(float)
    found = out_of_fold(frame, (name,))
    for fold in (1, 2, 3):
        others, own = frame[frame["fold"] != fold], frame["fold"] == fold
        fitted = fit_calibration(
            others[[f"label_{name}"]].to_numpy(),
            others[[f"fusion_{name}"]].to_numpy(),
            others["patient"].to_numpy(object),
            (name,),
        )
        expected = fitted.probabilities(frame.loc[own, [f"fusion_{name}"]].to_numpy(), (name,))[:, 0]
        assert found.loc[own, f"calibrated_{name}"].tolist() == pytest.approx(expected.tolist())
    # Other labels of its own change nothing for a fold.
    turned = frame.assign(**{f"label_{name}": frame[f"label_{name}"].where(frame["fold"] != 1, 0.0)})
    again = out_of_fold(turned, (name,))
    assert again.loc[frame["fold"] == 1, f"calibrated_{name}"].equals(
        found.loc[frame["fold"] == 1, f"calibrated_{name}"]
    )


def test_resume_leaves_finished_folds_and_makes_the_missing_one(films, crossed, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(crossed, out, symlinks=True)
    weights = (out / "fold-2" / "model" / "model.safetensors").read_bytes()
    kept = (out / "fold-1" / "model" / "config.json").stat().st_mtime_ns
    shutil.rmtree(out / "fold-2")
    assert main(["train", "--out", str(out), "--resume"]) == 2
    assert f"{out} holds folds; say how many with --folds 2, or give --out" in capsys.readouterr().err
    assert main(["train", "--out", str(out), "--folds", "2", "--resume"]) == 0
    assert (out / "fold-2" / "model" / "model.safetensors").read_bytes() == weights
    assert (out / "fold-1" / "model" / "config.json").stat().st_mtime_ns == kept
    assert f"Next: agcxr evaluate {out}\n" in capsys.readouterr().out


def test_refusals(films, crossed, tmp_path):
    config = from_yaml(crossed / "fold-1" / "config.yaml")
    with pytest.raises(ValueError, match="already holds folds; go on with them by --resume"):
        train_folds(films, config, crossed, 2, progress=False)
    with pytest.raises(ValueError, match=r"was begun with 2 folds of the films in .*, with one run each; give"):
        train_folds(films, config, crossed, 3, resume=True, progress=False)
    with pytest.raises(ValueError, match="with one run each; give the same --folds, --data and --seeds"):
        train_folds(films, config, crossed, 2, seeds=(0,), resume=True, progress=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    with pytest.raises(ValueError, match="is not empty and holds no folds"):
        train_folds(films, config, tmp_path / "full", 2, progress=False)
    with pytest.raises(ValueError, match=r"30 folds of \d+ patients; expected at least 2 folds"):
        train_folds(films, config, tmp_path / "many", 30, progress=False)
    assert not (tmp_path / "many").exists()
    with pytest.raises(ValueError, match="pooled over their test films, but split is 'val'"):
        evaluate_folds(crossed, films, "val", progress=False)
    other = tmp_path / "other"
    shutil.copytree(films, other)
    plan = json.loads((other / "plan.json").read_text()) | {"fingerprint": "1" * 16}
    (other / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(ValueError, match=re.escape(f"{other} holds other films than {crossed} was trained on")):
        evaluate_folds(crossed, other, progress=False)
    with pytest.raises(ValueError, match=r"there is no folds.json in .*; make it with `agcxr train --folds 5"):
        read_folds(tmp_path)


def test_findings_that_some_fold_does_not_answer_for_are_left_out_and_named(films, crossed, tmp_path, monkeypatch):
    plain = evaluation.evaluate

    def silent(run: Path, *given, **options):
        """The second fold's model was never taught two labels."""
        done = plain(run, *given, **options)
        if run.name != "fold-2":
            return done
        names, path = ("Mass", "No Finding"), done.folder / "predictions.parquet"
        frame = pd.read_parquet(path)
        frame[[column for column in frame if not column.endswith(names)]].to_parquet(path)
        kept = tuple(one for one in done.results.analysis.labels if one.finding not in names)
        analysis = done.results.analysis.model_copy(update={"labels": kept})
        return replace(done, results=done.results.model_copy(update={"analysis": analysis}))

    monkeypatch.setattr(evaluation, "evaluate", silent)
    (written,) = evaluate_folds(crossed, films, out=tmp_path, resamples=20, progress=False)
    assert (
        "Left out, as the model of some fold does not answer for it: Mass, No Finding." in written.markdown.read_text()
    )
    found = [one.finding for one in load_results(tmp_path).analysis.labels]
    everything = [one.finding for one in load_results(crossed / "evaluation" / "test").analysis.labels]
    assert found == [name for name in everything if name not in ("Mass", "No Finding")]


def test_folds_take_over_the_stages_of_the_same_folds(films, crossed, tmp_path, capsys):
    config = short()
    config = config.model_copy(update={"fusion": config.fusion.model_copy(update={"start": "mean"})})
    to_yaml(config, tmp_path / "settings.yaml")
    words = ["--data", str(films), "--config", str(tmp_path / "settings.yaml"), "--reuse", str(crossed)]
    assert main(["train", *words, "--out", str(tmp_path / "out"), "--folds", "2"]) == 0
    for fold, stage, same in (("fold-1", "global", True), ("fold-2", "local", True), ("fold-2", "fusion", False)):
        weights = [(folder / fold / stage / "best.safetensors").read_bytes() for folder in (crossed, tmp_path / "out")]
        assert (weights[0] == weights[1]) is same
    capsys.readouterr()
    assert main(["train", *words, "--out", str(tmp_path / "three"), "--folds", "3"]) == 2
    assert "holds other folds than these" in capsys.readouterr().err
    assert not (tmp_path / "three").exists()


def test_reuse_is_for_runs_of_one_seed(films, tmp_path, capsys):
    words = ["--data", str(films), "--out", str(tmp_path / "out"), "--reuse", str(tmp_path)]
    assert main(["train", *words, "--folds", "2", "--seeds", "2"]) == 2
    assert "--reuse is for runs of one seed" in capsys.readouterr().err


def test_folds_of_several_seeds(films, tmp_path, capsys):
    out = tmp_path / "out"
    found = train_folds(films, short(), out, 2, seeds=(0, 3), progress=False)
    assert found == read_folds(out)
    splits = [open_prepared(folder).index["split"] for folder in found.films(out)]
    assert (splits[0] != splits[1]).any()
    reports = evaluate_folds(out, films, resamples=20)
    assert [one.html.parent.name for one in reports] == ["test-seed0", "test-seed3"]
    spread = read_seeds(out / "evaluation")
    assert spread.seeds == (0, 3)
    assert spread.measure.endswith("pooled test films of 2 folds")
    fusion = next(one for one in spread.spreads if one.name == "fusion")
    for seed, value in zip((0, 3), fusion.values, strict=True):
        folder = out / "evaluation" / f"test-seed{seed}"
        assert load_results(folder).analysis.mean.branches[2].auroc.value == value
        text = (folder / "report.md").read_text()
        assert "## Folds\n" in text
        assert "## Other seeds\n" in text
    assert to_text(spread.table()) in capsys.readouterr().out
