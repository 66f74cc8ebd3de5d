"""Calibration measures and subgroups: by hand, against the plain definitions, and on scores with a known fault."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluated import write_prepared, write_run
from scored import fitted, write_results

from agcxr import metrics
from agcxr.calibration import Calibration
from agcxr.evaluation.agreement import BinnedScores, reflected, replicates
from agcxr.evaluation.analysis import analyse
from agcxr.evaluation.calibration_report import CalibrationReport
from agcxr.evaluation.evaluate import to_scores
from agcxr.evaluation.groups import AGE_BANDS, GroupFilms, divisions, measure_groups
from agcxr.evaluation.interpret import interpret
from agcxr.evaluation.page import Page, Section, to_html, to_markdown
from agcxr.evaluation.report_scores import meaning_sections
from agcxr.evaluation.results import Results
from agcxr.evaluation.study import study
from agcxr.labels import LABELS


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return fitted(2000)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("scores")
    return folder, write_results(folder)


@pytest.fixture(scope="module")
def found(results: tuple[Path, Results], calibration: Calibration) -> CalibrationReport:
    folder, evaluated = results
    return interpret(pd.read_parquet(folder / "predictions.parquet"), evaluated, calibration)


def once(target: list[float], probability: list[float]):
    return BinnedScores.of(np.array(target), np.array(probability)).measures(np.ones((len(target), 1)))


def test_measures_by_hand() -> None:
    # two bins: .2 said of 4 films, 2 positive; .9 said of 1, positive; the unknown film is left out
    m = once([1, 1, 0, 0, 1, math.nan], [0.2, 0.2, 0.2, 0.2, 0.9, 0.5])
    assert m.ece[0] == pytest.approx((4 * 0.3 + 1 * 0.1) / 5)
    assert m.brier[0] == pytest.approx((2 * 0.64 + 2 * 0.04 + 0.01) / 5)
    assert (m.observed[0], m.expected[0]) == (3, pytest.approx(1.7))
    assert m.ratio[0] == pytest.approx(3 / 1.7)
    # all said .2 (odds 1/4), half positive (odds 1): the logits lack ln 4
    assert once([1, 0], [0.2, 0.2]).in_the_large[0] == pytest.approx(math.log(4))
    assert math.isnan(once([0, 0], [0.2, 0.2]).in_the_large[0])
    # .5 said of 8 films: the share's error is normal with variance 8/4, so E|error| = sqrt(2/pi * 2) / 8
    assert BinnedScores.of(np.ones(8), np.full(8, 0.5)).chance_ece == pytest.approx(math.sqrt(4 / math.pi) / 8)
    with pytest.raises(ValueError, match=r"probabilities must lie in \[0, 1\], found 0.5 to 2"):
        BinnedScores.of([0, 1], [0.5, 2])


def test_weights_count_films_as_often_as_repeating_them_does() -> None:
    rng = np.random.default_rng(0)
    target, probability, weight = rng.integers(2, size=300).astype(float), rng.random(300), rng.integers(4, size=300)
    target[:9] = np.nan
    weighted = BinnedScores.of(target, probability, groups=400).measures(weight[:, None].astype(float))
    again = np.repeat(target, weight), np.repeat(probability, weight)
    assert weighted.ece[0] == pytest.approx(metrics.ece(*again))
    assert weighted.brier[0] == pytest.approx(metrics.brier(*again))
    repeated = BinnedScores.of(*again, groups=400).measures(np.ones((len(again[0]), 1)))
    assert weighted.in_the_large[0] == pytest.approx(repeated.in_the_large[0])
    coarse = BinnedScores.of(target, probability).measures(weight[:, None].astype(float))
    assert coarse.in_the_large[0] == pytest.approx(weighted.in_the_large[0], abs=2e-3)


def test_replicates_repeat_and_the_ece_interval_allows_for_its_bias() -> None:
    rng = np.random.default_rng(1)
    probability = rng.random(400)
    target = (rng.random(400) < probability).astype(float)
    tally = BinnedScores.of(target, probability)
    patients = np.arange(400) // 2
    first, second = (replicates([tally], patients, resamples=200, seed=3)[0] for _ in range(2))
    np.testing.assert_array_equal(first.ece, second.ece)
    value = float(tally.measures(np.ones((400, 1))).ece[0])
    assert first.ece.mean() > value  # a percentile interval would lie above
    own = reflected(value, first.ece, 0.95)
    assert 0 <= own.low < 0.02
    assert own.high < np.quantile(first.ece, 0.975)
    above = reflected(0.05, np.full(200, 0.08), 0.95)  # every resample is larger: the interval holds the value
    assert (above.low, above.high) == (pytest.approx(0.02), 0.05)
    assert math.isnan(reflected(math.nan, first.ece, 0.95).low)


def test_calibration_mends_the_scores_and_the_oracle_mends_the_shift(found: CalibrationReport) -> None:
    raw, calibrated, corrected = found.mean
    assert [fit.version for fit in found.mean] == ["raw", "calibrated", "corrected"]
    assert raw.ece.value > 0.4 > 0.1 > calibrated.ece.value > corrected.ece.value
    assert calibrated.ece.value > 2 * calibrated.ece_by_chance
    assert calibrated.observed_expected.high < 0.85  # findings are rarer here than where it was fitted
    assert corrected.observed_expected.value == pytest.approx(0.94, abs=0.06)
    assert calibrated.in_the_large.value < -0.4
    assert abs(corrected.in_the_large.value) < 0.2
    assert found.mean_brier_change.high < 0
    for one in found.findings:
        assert one.fit("raw").ece.low <= one.fit("raw").ece.high
        assert sum(b.films for b in one.bins) == one.films == 1600
        assert all(b.low <= b.frequency <= b.high for b in one.bins)


def test_labels_agree_with_plain_measures(found: CalibrationReport, results: tuple[Path, Results]) -> None:
    frame = pd.read_parquet(results[0] / "predictions.parquet")
    one = next(one for one in found.findings if one.finding == "Edema")
    target, score = frame["label_Edema"], frame["fusion_Edema"]
    fit = one.fit("raw")
    assert fit.ece.value == pytest.approx(metrics.ece(target, score))
    assert fit.brier.value == pytest.approx(metrics.brier(target, score))
    assert fit.observed_expected.value == pytest.approx(target.sum() / score.sum())
    assert fit.brier.value == pytest.approx(results[1].analysis.label("Edema").branches[-1].brier.value)
    assert one.prevalence == pytest.approx(target.mean())


def test_groups_are_cut_and_counted(found: CalibrationReport, results: tuple[Path, Results]) -> None:
    frame = pd.read_parquet(results[0] / "predictions.parquet")
    sex, age, view, shown = found.groupings
    assert [grouping.by for grouping in found.groupings] == ["Sex", "Age", "View", "Findings on the film"]
    women, men = sex.groups
    assert (women.films, men.films) == ((frame["sex"] == "F").sum(), (frame["sex"] == "M").sum())
    assert women.auroc.low > men.auroc.high  # made so
    assert sex.everyone.auroc.value == pytest.approx(
        np.mean([metrics.auroc(frame[f"label_{name}"], frame[f"fusion_{name}"]) for name in sex.compared])
    )
    assert age.unknown == 4
    assert sum(group.films for group in (*age.groups, *age.left_out)) == 1600 - 4
    assert [group.name for group in view.groups] == ["PA, standing", "AP, mostly lying"]
    none = shown.groups[0]
    assert (none.name, none.positives, none.findings) == ("No finding", 0, ())
    assert math.isnan(none.auroc.value)
    assert none.observed_expected.value == 0
    assert all(not math.isnan(group.auroc.value) for group in shown.groups[1:])


def test_small_groups_are_named_and_left_out() -> None:
    frame = pd.DataFrame({"age": [39, 40, 59.9, 60, 80, np.nan] * 10, "sex": ["F", "M", ""] * 20, "view": ["PA"] * 60})
    rng = np.random.default_rng(0)
    target = rng.integers(2, size=(60, 2)).astype(float)
    sex, age, view, _ = divisions(frame, target)
    assert age.group_N[:6].tolist() == [*AGE_BANDS[:1], *AGE_BANDS[1:2] * 2, *AGE_BANDS[2:], ""]
    assert sex.group_N[:3].tolist() == ["Women", "Men", ""]
    score = rng.random((60, 2))
    films = GroupFilms(("Mass", "Nodule"), target, score, score, np.arange(60).astype(object))
    by_age, by_view = measure_groups(films, (age, view), resamples=5, seed=0, positives=3)
    assert [(one.name, one.films, one.patients) for one in by_age.left_out] == [
        ("Under 40", 10, 10),
        ("60 to 79", 10, 10),
        ("80 and over", 10, 10),
    ]
    assert [group.name for group in by_age.groups] == ["40 to 59"]
    assert by_age.unknown == 10
    assert by_age.compared == ("Mass", "Nodule")
    assert [group.name for group in by_view.groups] == ["PA, standing"]
    (rare,) = measure_groups(films, (view,), resamples=5, seed=0, positives=40)
    assert rare.compared == ()
    assert math.isnan(rare.groups[0].auroc.value)


def test_films_with_unknown_findings_are_in_no_group_by_their_number(found: CalibrationReport, tmp_path: Path) -> None:
    frame = pd.DataFrame({"age": [50.0] * 4, "sex": ["F"] * 4, "view": ["PA"] * 4})
    unknown = math.nan
    target = np.array([[0, 0, unknown], [1, 1, unknown], [unknown, 0, unknown], [unknown, 1, unknown]])
    *_, counted = divisions(frame, target)  # the third is stated nowhere
    assert counted.group_N.tolist() == ["No finding", "Two findings", "", ""]
    assert [one.by for one in divisions(frame, target[:, 1:])] == [
        "Sex",
        "Age",
        "View",
    ]  # one finding: nothing to count
    fewer = tuple(one.model_copy(update={"films": 0}) if one.finding == "Hernia" else one for one in found.findings)
    told = found.model_copy(update={"findings": fewer})
    shown = to_html(Page("t", "s", "n", (Section("Summary", ()), *meaning_sections(told))), tmp_path)
    assert "Counted among the 13 findings that these films state." in shown


def test_a_map_that_leaves_scores_as_they_are_is_no_gain(found: CalibrationReport, tmp_path: Path) -> None:
    told = found.model_copy(update={"method": "none"})
    shown = to_html(Page("t", "s", "n", (Section("Summary", ()), *meaning_sections(told))), tmp_path)
    assert "the mean calibration error (ECE) is ." in shown
    assert "raw score</span>" not in shown


def test_findings_of_few_patients_in_a_group_are_marked(found: CalibrationReport, tmp_path: Path) -> None:
    """Nine patients with Mass, one with all nodules: marked both, and one patient gives no interval."""
    target = np.zeros((80, 2))
    target[:36:4, 0] = target[40:60, 1] = 1
    patient = np.arange(80).astype(object)
    patient[40:60] = 40
    frame = pd.DataFrame({"age": [50.0] * 80, "sex": ["F"] * 80, "view": ["PA"] * 80})
    score = np.random.default_rng(0).random((80, 2))
    films = GroupFilms(("Mass", "Nodule"), target, score, score, patient)
    (sex,) = measure_groups(films, divisions(frame, target)[:1], resamples=20, seed=0, positives=5)
    mass, nodule = sex.groups[0].findings
    assert (mass.few_patients, nodule.few_patients) == (True, True)
    assert not math.isnan(mass.auroc.low)
    assert not math.isnan(nodule.auroc.value)
    assert np.isnan([nodule.auroc.low, nodule.observed_expected.high]).all()
    told = found.model_copy(update={"groupings": (sex,)})
    shown = to_html(Page("t", "s", "n", (Section("Summary", ()), *meaning_sections(told))), tmp_path)
    assert "20†" in shown
    assert "† Fewer than 20 patients with the finding, or without it" in shown


def test_what_rests_on_one_patient_is_the_same_in_both_files(tmp_path: Path) -> None:
    results = write_results(tmp_path, count=200)
    frame = pd.read_parquet(tmp_path / "predictions.parquet")
    one, labels = frame["patient"] == "p4", ("Hernia", "Mass", "Edema")
    frame["label_Hernia"], frame["label_Mass"] = one.astype(float), (~one).astype(float)
    frame["label_Edema"] = np.where(one, [1.0, 0.0] * 100, math.nan)
    results = results.model_copy(update={"analysis": analyse(to_scores(frame, LABELS), resamples=40)})
    found = interpret(frame, results, fitted(400))
    for finding in (*labels, "Effusion"):
        raw = found.findings[LABELS.index(finding)].fits[0]
        brier = results.analysis.label(finding).branches[-1].brier
        assert [raw.brier.low, raw.brier.high] == pytest.approx([brier.low, brier.high], nan_ok=True)
        # With it, or without it, is one patient; of Edema no other is known.
        assert math.isnan(raw.observed_expected.low) == math.isnan(raw.in_the_large.low) == (finding in labels)
        change = found.findings[LABELS.index(finding)].brier_change
        assert math.isnan(raw.brier.low) == math.isnan(raw.ece.low) == math.isnan(change.low) == (finding == "Edema")


def test_without_a_calibration_scores_are_as_they_are(results: tuple[Path, Results], tmp_path: Path) -> None:
    folder, evaluated = results
    bare = interpret(pd.read_parquet(folder / "predictions.parquet"), evaluated, None)
    assert [fit.version for fit in bare.mean] == ["raw"]
    assert math.isnan(bare.mean_brier_change.value)
    page = Page("t", "s", "n", (Section("Summary", ()), *meaning_sections(bare)))
    assert "The checkpoint holds no calibration" in to_html(page, tmp_path)


def test_scores_json_is_written_and_read(found: CalibrationReport, tmp_path: Path) -> None:
    found.save(tmp_path / "results")
    assert CalibrationReport.load(tmp_path / "results").model_dump_json() == found.model_dump_json()
    with pytest.raises(ValueError, match=r"there is no scores.json in .*; make it with `agcxr evaluate RUN"):
        CalibrationReport.load(tmp_path)
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"is not a results file of this version \(split: Field required\); run `agcxr evaluate`"
    ):
        CalibrationReport.load(tmp_path)


def test_sections_say_it_in_both_formats(found: CalibrationReport, tmp_path: Path) -> None:
    page = Page("t", "s", "n", (Section("Summary", ()), *meaning_sections(found)))
    html, text = to_html(page, tmp_path), to_markdown(page, tmp_path)
    for shown in (html, text):
        assert "That is an oracle, not a result" in shown
        assert "Each finding, by sex" in shown
        assert "Not known of 4 films." in shown
        assert not re.search(r"\bnan\b", shown)
    assert html.count('aria-label="Reliability of') == 15
    for chart in re.findall(r"<svg.*?</svg>", html, re.S):
        ElementTree.fromstring(chart)
        assert "nan" not in chart
    files = re.findall(r"\]\((pictures/[^)]+)\)", text)
    assert len(files) == 5
    assert all((tmp_path / name).is_file() for name in files)


def test_study_of_a_tiny_run_has_all_of_it(tmp_path: Path, calibration: Calibration) -> None:
    write_prepared(tmp_path / "prepared", boxed=False)
    run = write_run(tmp_path / "run")
    done = study(run, tmp_path / "prepared", resamples=5, device="cpu", progress=False)
    assert done.meaning.method is None
    frame = pd.read_parquet(done.folder / "predictions.parquet")
    assert {"age", "sex", "view"} <= set(frame.columns)
    html = done.report.html.read_text(encoding="utf-8")
    assert "<h2>What a score means</h2>" in html
    assert "<h2>Subgroups</h2>" in html
