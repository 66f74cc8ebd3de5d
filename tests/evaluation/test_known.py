"""What was known before training, in every evaluation: rows, differences, what is left out and why."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from evaluated import SIZE, write_prepared, write_run

from agcxr import config
from agcxr.data.prepared import open_prepared
from agcxr.evaluation import study as studies
from agcxr.evaluation.known import by_split, first_features
from agcxr.evaluation.probe import Design, Inputs, Probe, Trained, frozen_features, measure
from agcxr.evaluation.results import BranchDifference
from agcxr.evaluation.study import study
from agcxr.metrics import auroc
from agcxr.models.backbones import Backbone, at_hand
from agcxr.table import signed

OPTIONS = {"resamples": 20, "maps": False, "pictures": False, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films of two views, and a run that started from weights on disk."""
    root = tmp_path_factory.mktemp("known")
    prepared = write_prepared(root / "prepared", boxed=False)
    index = pd.read_parquet(prepared / "index.parquet")
    index.assign(view=np.where(np.arange(len(index)) % 3, "PA", "AP")).to_parquet(prepared / "index.parquet")
    torch.manual_seed(1)
    torch.save(Backbone("resnet10t", in_channels=3, weights="none").net.state_dict(), root / "first.pth")
    run = write_run(root / "run")
    config.to_yaml(config.demo().model_copy(update={"weights": str(root / "first.pth")}), run / "config.yaml")
    return root


@pytest.fixture(scope="module")
def done(folder: Path) -> studies.Study:
    return study(folder / "run", folder / "prepared", **OPTIONS)


def test_every_evaluation_measures_both_rows_and_the_difference_of_its_scores(
    folder: Path, done: studies.Study
) -> None:
    probe, analysis = Probe.load(done.folder), done.results.analysis
    assert done.probe is not None
    assert probe.model_dump_json() == done.probe.model_dump_json()
    assert probe.rows == ("metadata", "features")
    assert (probe.model, probe.features, probe.absent) == ("run", 512, ())
    assert probe.films == "fitted on 30 films of the other parts, measured on the 48 of test"
    assert probe.source == f"resnet10t as before training ({folder / 'first.pth'} weights), views of 56 x 56"
    assert tuple(one.finding for one in probe.findings) == analysis.mean.findings
    model = analysis.mean.branches[-1].auroc.value
    for gap, mean in zip(probe.gaps, probe.mean, strict=True):
        assert (gap.branch, gap.value) == ("fusion", pytest.approx(model - mean.value, abs=1e-9))
        assert gap.low <= gap.value <= gap.high
    assert [gap.against for gap in probe.gaps] == ["metadata", "features"]


def test_the_report_says_first_what_was_known(done: studies.Study) -> None:
    text, probe = done.report.markdown.read_text(encoding="utf-8"), done.probe
    assert probe is not None
    headings = [line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")]
    assert headings[:2] == ["How to read this", "What is known without training"]
    assert probe.verdict in text.replace("\\", "")
    assert "| Scores | Mean AUROC | Same view | Fusion − this |" in text
    assert f"{signed(probe.gaps[1].value)} (" in text
    assert "## Shortcuts" in text
    html = done.report.html.read_text(encoding="utf-8")
    assert "nan" not in html.split("<main>")[1]


def test_without_the_probe_that_of_an_earlier_evaluation_goes(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert study(folder / "run", folder / "prepared", out=out, **OPTIONS).probe is not None
    assert (out / "probe.json").is_file()
    assert study(folder / "run", folder / "prepared", out=out, probe=False, **OPTIONS).probe is None
    assert not (out / "probe.json").exists()


def test_first_weights_that_cannot_be_had_are_left_out_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    films, rows = open_prepared(folder / "prepared"), np.arange(4)

    def why(**changes: object) -> str:
        config.to_yaml(config.demo().model_copy(update=changes), tmp_path / "config.yaml")
        features, sentence = first_features(tmp_path, films, rows, "cpu", False)
        assert features is None
        return sentence

    start = "Frozen features are left out: "
    assert first_features(tmp_path, films, rows, "cpu", False)[1] == (
        f"{start}{tmp_path.name} has no config.yaml to say which weights it started from."
    )
    assert why(weights="none").startswith(f"{start}the run started from random weights")
    assert why(weights="gone.pth") == (
        f"{start}the weights that the run started from, gone.pth of resnet10t, are not on this machine, and an "
        "evaluation downloads nothing."
    )
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    assert why(weights=str(tmp_path / "bad.pth")).startswith(f"{start}the run's first weights cannot be loaded (")
    (tmp_path / "config.yaml").write_text("backbone: [")
    assert first_features(tmp_path, films, rows, "cpu", False)[0] is None


def test_frozen_features_are_those_of_the_first_weights(folder: Path) -> None:
    films, rows = open_prepared(folder / "prepared"), np.array([3, 5])
    found, _ = first_features(folder / "run", films, rows, "cpu", False)
    expected = frozen_features(films, "resnet10t", str(folder / "first.pth"), image_size=56, progress=False)
    np.testing.assert_allclose(found, expected[rows], rtol=1e-4, atol=1e-5)
    assert films.images.shape[1] == SIZE


def test_weights_are_at_hand_or_not(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert at_hand("resnet10t", "none")
    assert at_hand("resnet10t", str(folder / "first.pth"))
    assert not at_hand("resnet10t", "gone.pth")
    assert not at_hand("resnet10t", "hf:nobody/nothing")
    assert not at_hand("vgg11.tv_in1k", "imagenet")


def test_films_without_others_are_measured_in_folds_by_patient(folder: Path) -> None:
    films = open_prepared(folder / "prepared")
    rows = np.flatnonzero(films.index["split"] == "test")
    alone = type(films)(films.folder, films.images, films.index.assign(split="test"), films.boxes, films.plan)
    design = by_split(alone, rows, "test")
    assert design is not None
    assert design.words == "5 folds by patient over 48 films of 24 patients, pooled"
    assert design.measured_M.tolist() == rows.tolist()
    assert by_split(alone, rows[:2], "test") is None  # of one patient


def made(score_M: np.ndarray, target_M: np.ndarray, **facts: object) -> Probe:
    """A probe of 40 fitted and 40 measured films with one finding, by metadata."""
    blank = {"view": None, "sex": None, "age": np.nan, "follow_up": pd.array([pd.NA] * 80, dtype="Int64")}
    index = pd.DataFrame({"patient": [f"p{n}" for n in range(80)], "width": 9, "height": 9}).assign(**(blank | facts))
    target = np.concatenate([target_M, target_M])[:, None]
    design = Design([(np.arange(40), np.arange(40, 80))], "words")
    return measure(
        index,
        target,
        ["Mass"],
        Inputs.of(index, None, "None here."),
        design,
        Trained("run", "fusion", score_M[:, None]),
        resamples=200,
    )


def test_a_model_is_compared_with_the_view_by_exact_values() -> None:
    rng = np.random.default_rng(0)
    target = np.tile([1.0, 1.0, 0.0, 0.0], 10)
    view = np.tile(["AP", "PA", "PA", "AP"], 20)
    view[40::8] = "AP"
    probe = made(target + rng.normal(size=40) / 100, target, view=view)
    assert (probe.rows, probe.metadata) == (("metadata",), ("view",))
    assert probe.absent == ("None here.",)
    (gap,) = probe.gaps
    assert gap.value == pytest.approx(1 - probe.mean[0].value)
    assert probe.verdict == (
        f"In mean AUROC the fusion is clearly better than metadata alone ({signed(gap.value)}, {signed(gap.low)} to "
        f"{signed(gap.high)})."
    )


def test_films_without_metadata_have_no_such_row() -> None:
    target = np.tile([1.0, 0.0], 20)
    probe = made(target, target)
    assert (probe.rows, probe.gaps, probe.verdict, probe.mean) == ((), (), "", ())
    assert probe.absent == ("Metadata are left out: these films state no view, sex, age, follow-up.", "None here.")
    assert str(probe).startswith("Metadata are left out")


def gap(against: str, value: float, low: float, high: float) -> BranchDifference:
    return BranchDifference(branch="fusion", against=against, measure="auroc", value=value, low=low, high=high, p=0.5)


@pytest.mark.parametrize(
    ("gaps", "sentence"),
    [
        (
            [gap("metadata", 0.1, 0.05, 0.15), gap("features", 0.01, -0.01, 0.03)],
            "In mean AUROC the fusion is clearly better than metadata alone (+.100, +.050 to +.150), and is not "
            "clearly better than frozen features alone (+.010, −.010 to +.030). It is not shown to have learnt "
            "more than that.",
        ),
        (
            [gap("metadata", 0.1, 0.05, 0.15), gap("features", 0.02, 0.01, 0.03)],
            "In mean AUROC the fusion is clearly better than metadata alone (+.100, +.050 to +.150) and frozen "
            "features alone (+.020, +.010 to +.030).",
        ),
        (
            [gap("features", -0.02, -0.03, -0.01)],
            "In mean AUROC the fusion is clearly worse than frozen features alone (−.020, −.030 to −.010). It is not "
            "shown to have learnt more than that.",
        ),
        (
            [gap("metadata", 0.1, math.nan, math.nan)],
            "In mean AUROC the fusion is not clearly better than metadata alone (+.100, no interval: too few "
            "patients). It is not shown to have learnt more than that.",
        ),
    ],
)
def test_the_verdict_is_no_stronger_than_the_intervals(gaps: list[BranchDifference], sentence: str) -> None:
    target = np.tile([1.0, 0.0], 20)
    assert made(target, target).model_copy(update={"gaps": tuple(gaps)}).verdict == sentence


def test_the_models_auroc_in_a_difference_is_the_evaluations(done: studies.Study) -> None:
    frame = pd.read_parquet(done.folder / "predictions.parquet")
    findings = done.results.analysis.mean.findings
    assert done.probe is not None
    own = np.mean([auroc(frame[f"label_{name}"], frame[f"fusion_{name}"]) for name in findings])
    assert done.probe.gaps[0].value + done.probe.mean[0].value == pytest.approx(own, abs=1e-9)
