"""The measures beside scikit-learn's, what is left out and named, the file that keeps them, and the printed table."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from agcxr.evaluation import tables
from agcxr.evaluation.analysis import Points, Scores, analyse
from agcxr.evaluation.published import CONTEXT, LITE, PAPER, PUBLISHED, published
from agcxr.evaluation.results import Analysis
from agcxr.labels import FINDINGS, LABELS
from agcxr.table import chance, interval, number, signed
from agcxr.uncertainty import Estimate, mean_over

USED = ("Effusion", "Mass", "Hernia", "Fibrosis", "No Finding")


def make_scores(films: int = 300, seed: int = 0) -> Scores:
    """Effusion and Mass are common, Hernia has two films, Fibrosis none; the fusion is best by making."""
    rng = np.random.default_rng(seed)
    target = (rng.random((films, 5)) < [0.3, 0.2, 0, 0, 0.5]).astype(float)
    target[[3, 40], 2] = 1
    target[5, 0] = np.nan
    signal = np.nan_to_num(target)[None] * np.array([0.2, 0.1, 0.4])[:, None, None]
    return Scores(
        labels=USED,
        branches=("global", "local", "fusion"),
        target_NK=target,
        score_BNK=0.6 * rng.random((3, films, 5)) + signal,
        patient_N=(np.arange(films) // 3).astype(str).astype(object),
    )


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    scores = make_scores()
    points = Points(("half",), np.full((1, 3, 5), 0.5))
    return analyse(scores, resamples=200, points=points)


def test_values_equal_scikit_learn(analysis: Analysis) -> None:
    scores = make_scores()
    for k, result in enumerate(analysis.labels):
        if not result.defined:
            continue
        keep = ~np.isnan(scores.target_NK[:, k])
        for b, branch in enumerate(result.branches):
            y, p = scores.target_NK[keep, k], scores.score_BNK[b, keep, k]
            assert branch.auroc.value == pytest.approx(roc_auc_score(y, p))
            assert branch.average_precision.value == pytest.approx(average_precision_score(y, p))
            assert branch.points[0].sensitivity.value == pytest.approx((p[y == 1] >= 0.5).mean())
            assert branch.auroc.low <= branch.auroc.value <= branch.auroc.high
    effusion = analysis.label("Effusion")
    assert effusion.unknown == 1
    assert effusion.positives + effusion.negatives == 299


def test_undefined_findings_are_nan_and_named(analysis: Analysis) -> None:
    fibrosis = analysis.label("Fibrosis")
    assert not fibrosis.defined
    assert all(math.isnan(branch.auroc.value) for branch in fibrosis.branches)
    assert analysis.mean.findings == ("Effusion", "Mass", "Hernia")
    assert analysis.mean.left_out == ("Fibrosis",)
    table = tables.text_table(analysis)
    assert "Undefined, and left out of the mean: Fibrosis (no positives)." in table
    assert "Mean of 3" in table


def test_mean_is_over_findings_and_its_resamples_are_counted(analysis: Analysis) -> None:
    for b, branch in enumerate(analysis.mean.branches):
        values = [analysis.label(name).branches[b].auroc.value for name in analysis.mean.findings]
        assert branch.auroc.value == pytest.approx(np.mean(values))
    lost = analysis.label("Hernia").branches[0].auroc.left_out
    # Two patients of 100 carry the hernias: both missing with probability (98/100)^100 = .13.
    assert 10 < lost < 50
    assert analysis.mean.branches[0].auroc.left_out == lost
    assert f"{lost} resamples lacked a class of some finding" in tables.text_table(analysis)


def test_one_patient_has_no_interval_and_few_are_marked() -> None:
    scores = make_scores()
    target = scores.target_NK.copy()
    target[:, [1, 2]] = 0
    target[[3, 4], 2] = 1  # both films of patient 1
    target[: 3 * 19, 1] = 1  # one patient too few
    few = analyse(replace(scores, target_NK=target), resamples=60)
    hernia, mass = few.label("Hernia"), few.label("Mass")
    assert (hernia.positives, hernia.positive_patients, hernia.few_patients) == (2, 1, True)
    assert (mass.positive_patients, mass.few_patients) == (19, True)
    assert not few.label("Effusion").few_patients
    assert not few.label("Fibrosis").few_patients  # undefined, which is said elsewhere
    for branch in hernia.branches:
        assert 0 < branch.auroc.value < 1
        ends = [branch.auroc.low, branch.average_precision.high, branch.delong_low]
        assert np.isnan(ends).all()
        assert branch.brier.low < branch.brier.value < branch.brier.high  # it rests on all films
    assert all(np.isnan([gap.low, gap.high, gap.p, gap.delong_p]).all() for gap in hernia.gaps)
    assert not np.isnan([mass.branches[0].auroc.low, mass.gaps[0].p]).any()
    lines = tables.text_table(few).splitlines()
    row = next(line.split() for line in lines if line.startswith("Hernia†"))
    assert row == [
        "Hernia†",
        "2",
        *(number(branch.auroc.value) for branch in hernia.branches),
        signed(hernia.gaps[0].value),
        "–",
    ]
    note = "† Fewer than 20 patients with the finding, or without it: its interval and p are rough; with fewer than 2"
    assert lines.count(f"{note} there are none.") == 1
    known = np.full_like(target, math.nan)
    known[:3] = target[:3]
    alone = analyse(replace(scores, target_NK=known), resamples=60).label("Mass").branches[0].brier
    assert alone.value > 0
    assert np.isnan([alone.low, alone.high]).all()  # of all films, one patient's are labelled
    target[: 3 * 20, 1] = 1
    enough = analyse(replace(scores, target_NK=1 - target), resamples=5)  # now few lack it
    assert not enough.label("Mass").few_patients
    assert enough.label("Hernia").few_patients
    assert np.isnan(enough.label("Hernia").branches[0].auroc.low)


def test_a_mean_has_an_interval_only_where_each_of_its_findings_has_one() -> None:
    """Hernia's films are one patient's: the mean over Effusion, Mass and Hernia claims nothing but a Brier score."""
    scores = make_scores()
    target = scores.target_NK.copy()
    target[[3, 40], 2], target[[3, 4], 2] = 0, 1
    threshold = np.full((2, 3, 5), 0.5)
    threshold[1, :, 2] = math.nan  # the second point leaves Hernia out
    lone = analyse(replace(scores, target_NK=target), resamples=60, points=Points(("all", "two"), threshold))
    branch = lone.mean.branches[-1]
    assert lone.mean.findings == ("Effusion", "Mass", "Hernia")
    assert np.isnan([branch.auroc.low, branch.average_precision.high, branch.points[0].sensitivity.low]).all()
    assert 0.5 < branch.auroc.value < 1
    assert branch.brier.low < branch.brier.value < branch.brier.high
    assert branch.points[1].sensitivity.low < branch.points[1].sensitivity.value
    claimed = {(gap.measure, gap.point) for gap in lone.mean.gaps if not math.isnan(gap.p)}
    assert claimed == {("sensitivity", "two"), ("specificity", "two")}
    text = tables.text_table(lone)
    assert "The mean has no interval, for Hernia has none." in text
    assert "lacked a class of some finding" not in text
    target[40, 2] = 1  # of two patients there is one
    again = analyse(replace(scores, target_NK=target), resamples=60)
    assert not np.isnan([again.mean.branches[0].auroc.low, *(gap.p for gap in again.mean.gaps)]).any()
    assert tables.lone(again) == ""


def test_a_resample_without_a_finding_has_no_mean() -> None:
    found = mean_over(np.array([[0.2, math.nan, 0.4], [0.4, 0.6, 0.8]]))
    np.testing.assert_allclose(found, [0.3, math.nan, 0.6])
    assert np.isnan(mean_over(np.empty((0, 2)))).tolist() == [True, True]


def test_gaps_are_paired_and_signed(analysis: Analysis) -> None:
    gap = tables.gap_of(analysis.label("Effusion"), "global")
    assert gap is not None
    result = analysis.label("Effusion").branches
    assert gap.value == pytest.approx(result[2].auroc.value - result[0].auroc.value)
    assert gap.low > 0
    assert 2 / 201 < gap.p < 0.02  # no resample under 0, as Student's t has it
    assert gap.delong_p < 0.01
    mean = tables.gap_of(analysis.mean, "local", "average_precision")
    assert mean is not None
    assert math.isnan(mean.delong_p)


def test_gaps_at_operating_points_are_paired_too(analysis: Analysis) -> None:
    effusion = analysis.label("Effusion")
    gap = tables.gap_of(effusion, "local", "specificity", "half")
    assert gap is not None
    fusion, local = effusion.branches[2].points[0], effusion.branches[1].points[0]
    assert gap.value == pytest.approx(fusion.specificity.value - local.specificity.value)
    assert gap.low <= gap.value <= gap.high
    mean = tables.gap_of(analysis.mean, "global", "sensitivity", "half")
    assert mean is not None
    each = [tables.gap_of(analysis.label(name), "global", "sensitivity", "half") for name in analysis.mean.findings]
    assert mean.value == pytest.approx(np.mean([one.value for one in each if one]))
    assert tables.gap_of(effusion, "global", "sensitivity") is None  # of no point


def test_branches_without_thresholds_have_no_gaps_there_and_rare_findings_no_part_in_the_mean() -> None:
    scores, threshold = make_scores(), np.full((2, 3, 5), 0.5)
    threshold[0, :2] = np.nan  # as of a checkpoint, which holds the fusion's
    threshold[:, 2, USED.index("Hernia")] = np.nan
    positives = np.array([31, 22, 2, 0, 40])
    found = analyse(scores, resamples=20, points=Points(("kept", "chosen"), threshold, positives))
    mass, hernia = found.label("Mass"), found.label("Hernia")
    assert {gap.point for gap in mass.gaps} == {"", "chosen"}
    assert {gap.point for gap in hernia.gaps} == {""}
    assert (mass.chosen_on, hernia.chosen_on) == (22, 2)
    common = [found.label(name).branches[2].points[0].sensitivity.value for name in ("Effusion", "Mass")]
    assert found.mean.branches[2].points[0].sensitivity.value == pytest.approx(np.mean(common))
    assert tables.gap_of(found.mean, "global", "sensitivity", "kept") is None
    assert tables.gap_of(found.mean, "global", "sensitivity", "chosen") is not None


def test_findings_that_no_film_states_are_not_called_absent() -> None:
    scores = make_scores()
    scores.target_NK[:, [1, 4]] = np.nan
    found = analyse(scores, resamples=5)
    assert found.unstated == ("Mass", "No Finding")
    table = tables.text_table(found)
    assert "Not stated on these films, and left out: Mass, No Finding." in table
    assert not re.search(r"^Mass", table, re.M)
    assert "Undefined, and left out of the mean: Fibrosis (no positives)." in table


def test_seed_decides() -> None:
    scores = make_scores(60)
    one, again, other = (analyse(scores, resamples=30, rng_seed=seed).mean.model_dump_json() for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_subset_and_no_films() -> None:
    scores = make_scores(60)
    keep = np.arange(60) < 30
    assert analyse(scores.subset(keep), resamples=5).films == 30
    with pytest.raises(ValueError, match="there are no films to evaluate"):
        analyse(scores.subset(keep & False), resamples=5)


def test_analysis_survives_its_file(analysis: Analysis, tmp_path: Path) -> None:
    path = tmp_path / "analysis.json"
    path.write_text(analysis.model_dump_json())
    assert "NaN" not in path.read_text()
    again = Analysis.model_validate_json(path.read_text())
    assert again.model_dump_json() == analysis.model_dump_json()
    assert math.isnan(again.label("Fibrosis").branches[0].auroc.value)
    with pytest.raises(ValueError, match="no result for 'Edema'; there are Effusion"):
        again.label("Edema")


def test_numbers_are_set_for_reading() -> None:
    assert [number(v) for v in (0.8124, 1.0, math.nan, 12.5)] == [".812", "1.000", "–", "12.500"]
    assert [signed(v) for v in (0.012, -0.003, math.nan)] == ["+.012", "−.003", "–"]
    assert [chance(p, 2 / 1001) for p in (2 / 1001, 0.0123, 0.345, math.nan)] == ["≤.002", ".012", ".34", "–"]
    small = [chance(p, 2 / 10_001) for p in (2 / 10_001, 0.0004, 0.0012)]
    assert small == ["≤.0002", ".0004", ".001"]  # never .000
    assert interval(Estimate(value=0.8, low=0.75, high=0.85)) == ".800 (.750–.850)"


def test_published_rows_agree_with_their_means() -> None:
    assert len(PUBLISHED) == 9
    for row in PUBLISHED:
        assert len(row.auroc) == len(FINDINGS)
        assert row.mean == pytest.approx(np.mean(row.auroc), abs=0.0011), (row.source, row.branch)
    assert published(PAPER, "fusion").of("Hernia") == 0.903
    assert published(LITE, "global").of("Nodule") == 0.623
    assert math.isnan(published(LITE, "global").of(LABELS[-1]))
    assert all(context.mean for context in CONTEXT)
    with pytest.raises(ValueError, match="nothing published for 'Me' 'fusion'; there is Guan 2018, ResNet-50 global"):
        published("Me", "fusion")
