"""What a calibration is fitted on: refused, described and said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from evaluated import write_prepared, write_run

from agcxr.calibration import Calibration, Curve, FindingCalibration, films_digest
from agcxr.cli import main
from agcxr.data.prepared import Prepared, open_prepared
from agcxr.evaluation.evaluate import evaluate
from agcxr.evaluation.leak import PatientLeak
from agcxr.evaluation.report import report
from agcxr.evaluation.study import Study, study
from agcxr.experiments import calibrate as module
from agcxr.experiments.calibrate import calibrate, calibrate_once
from agcxr.models.agcnn import AGCNN
from agcxr.models.checkpoint import CARD_FILE, Card, Patients, read_card


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Patients p0 to p2 in train, p3 to p14 in val."""
    return open_prepared(write_prepared(tmp_path_factory.mktemp("films") / "prepared"))


def card(run: Path) -> Card:
    return read_card(run / "model" / CARD_FILE)


def measured(run: Path, films: Prepared, split: str, out: Path, allow_leak: bool = False) -> Study:
    return study(
        run,
        films,
        split,
        out=out,
        resamples=5,
        allow_leak=allow_leak,
        device="cpu",
        maps=False,
        pictures=False,
        progress=False,
    )


def test_patients_of_training_are_refused_unless_allowed(
    films: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", trained_on=("p3", "p4", "p0"))
    with pytest.raises(
        PatientLeak,
        match=r"2 of the 12 patients of 'val' \(4 of 24 films\), so it is surer of them .* calibrate on films that "
        r"share no patients with training, or pass --allow-leak to go on and have the card and reports say so",
    ):
        calibrate(run, films, progress=False)
    assert card(run).calibration is None
    assert main(["calibrate", str(run), "--data", str(films.folder)]) == 2
    assert "pass --allow-leak" in capsys.readouterr().err
    assert main(["calibrate", str(run), "--data", str(films.folder), "--allow-leak"]) == 0
    words = (
        "24 validation films of a collection without a name, not those of its training, 2 of whose patients it was "
        "trained on"
    )
    out = capsys.readouterr().out
    rest = "13 had fewer than 10 films with the finding, or without it: raw scores, no calls"
    assert f"Calibrated 2 of 15 findings by keeping their scores on {words}; {rest}; stored in {run}" in out
    assert f"What tells far films was left as it was: {films.folder} is not known to hold" in out
    text = measured(run, films, "test", tmp_path / "out").report.markdown.read_text(encoding="utf-8")
    assert f"The calibration was fitted on {words}." in text
    assert f"Thresholds were chosen on {words}, and those of the fusion are kept in the checkpoint; a film" in text


def test_where_no_finding_has_enough_films_none_is_said_to_be_calibrated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rare = FindingCalibration(curve=Curve(kind="none"), prevalence=0.1, positives=1, films=10)
    found = Calibration(method="none", log_loss={}, findings={"Mass": rare, "Hernia": rare})
    monkeypatch.setattr(module, "calibrate", lambda *given, **more: found)
    assert main(["calibrate", "RUN", "--data", "PREPARED"]) == 0
    assert capsys.readouterr().out.startswith(f"Calibrated 0 of 2 findings on {found.words}; 2 had fewer than 10 films")


def test_a_run_that_was_just_trained_is_calibrated_on_a_split_by_image_too(films: Prepared, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", trained_on=("p0", "p1", "p2", "p3"))
    calibrate_once(run, films.folder)
    found = card(run).calibration
    assert found is not None
    assert found.fitted_on is not None
    assert found.fitted_on.shared_patients == 1


@pytest.mark.parametrize(
    ("trained_on", "whose", "training"),
    [
        (("p0", "p1", "p2"), "nih", True),
        (("p0", "p1", "p2"), None, True),
        (("p0", "p1", "p2"), "chexpert", False),
        (("p0", "p1"), "nih", False),
        (("p0", "p1", "p2", "p99"), "nih", False),
        (None, None, None),
    ],
)
def test_the_training_films_are_described_where_they_are_those_of_training(
    trained_on: tuple[str, ...] | None,
    whose: str | None,
    training: bool | None,
    films: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    described = []
    monkeypatch.setattr(module, "describe_features", lambda folder, films, **how: described.append(folder))
    plan = films.plan.model_copy(update={"source": films.plan.source.model_copy(update={"collection": "nih"})})
    run = write_run(tmp_path / "run")
    patients = None if trained_on is None else Patients.of(trained_on, salt="salt", collection=whose)
    kept = card(run).model_copy(update={"train_patients": patients})
    AGCNN.from_pretrained(run).save_pretrained(run / "model", card=kept)
    found = calibrate(run, replace(films, plan=plan), progress=False)
    assert found.fitted_on is not None
    assert (found.fitted_on.of_training, found.fitted_on.collection) == (training, "nih")
    assert described == ([run / "model"] if training else [])
    assert (
        found.words
        == {
            True: "the 24 validation films of its training",
            False: "24 validation films of nih, not those of its training",
            None: "24 validation films of nih (whether it was trained on their patients could not be checked: the "
            "checkpoint does not name its training patients)",
        }[training]
    )


def test_measured_where_it_was_fitted_is_said(films: Prepared, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    calibrate(run, films, progress=False)
    there, apart = (measured(run, films, split, tmp_path / split) for split in ("val", "test"))
    assert there.results.points_from == (
        "these very films: the 24 validation films of its training, and are kept in the checkpoint"
    )
    assert (there.results.points_fitted_here, apart.results.points_fitted_here) == (True, False)
    kept = card(run).calibration
    assert kept is not None
    effusion, fitted = there.results.analysis.label("Effusion").branches[-1].points[0], kept.findings["Effusion"]
    assert fitted.points is not None
    assert effusion.sensitivity.value == pytest.approx(fitted.points["youden"].sensitivity)
    texts = [one.report.markdown.read_text(encoding="utf-8") for one in (there, apart)]
    for said, where in (
        ("So sensitivity and specificity look better here than they are", [True, False]),
        ("These are the films that the calibration was fitted on, so it looks better here than it is.", [True, False]),
        ("lands elsewhere here is shift and chance", [False, True]),
        ("The calibration was fitted on", [False, False]),
    ):
        assert [said in text for text in texts] == where
    other = replace(films, index=films.index.assign(image_id="other " + films.index["image_id"]))
    elsewhere = evaluate(run, other, "val", out=tmp_path / "out", resamples=5, examples=0, progress=False).results
    assert elsewhere.points_from == "the 24 validation films of its training, and are kept in the checkpoint"
    assert not elsewhere.points_fitted_here
    assert "shift and chance" in report(tmp_path / "out").markdown.read_text(encoding="utf-8")


def test_a_checkpoint_that_does_not_say_is_taken_by_its_counts(films: Prepared, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    found = calibrate(run, films, progress=False)
    old = Calibration.model_validate(found.model_dump(mode="json", exclude={"fitted_on"}))
    assert old.fitted_on is None
    AGCNN.from_pretrained(run).save_pretrained(run / "model", card=card(run).model_copy(update={"calibration": old}))
    words = "the validation films that its calibration was fitted on"
    for split, said in (
        ("val", f"these very films: {words}, and are kept in the checkpoint"),
        ("test", f"{words}, and those of the fusion are kept in the checkpoint"),
    ):
        out = tmp_path / split
        done = evaluate(run, films, split, out=out, resamples=5, examples=0, progress=False).results
        assert (done.points_from, done.points_fitted_here) == (said, split == "val")


def test_films_are_the_same_by_names_patients_and_collection(films: Prepared, tmp_path: Path) -> None:
    assert films_digest(["a", "b"], ["1", "2"]) == films_digest(["b", "a"], ["2", "1"])
    assert films_digest(["a", "b"], ["1", "2"]) != films_digest(["a", "b"], ["2", "1"])
    found = calibrate(write_run(tmp_path / "run"), films, progress=False).fitted_on
    assert found is not None
    ours = found.model_copy(update={"collection": "nih"})
    assert [ours.same(ours.digest, whose) for whose in ("nih", None, "chexpert")] == [True, True, False]
    assert found.same(found.digest, "chexpert")
    assert not found.same("other", None)
