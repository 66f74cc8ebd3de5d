"""What an ablation is measured by: resamples that arms share, seeds as readers, and lesion sizes by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from agcxr import metrics
from agcxr.config import Train
from agcxr.evaluation.analysis import Scores
from agcxr.experiments.ablation import (
    BinResult,
    Draws,
    Estimate,
    SeedDifference,
    arm_branches,
    over_branch,
    over_seeds,
    sample,
    usable,
)
from agcxr.experiments.ablation_size import (
    bins,
    conclusions,
    diameters,
    ranged_findings,
    read_lesions,
    size_study,
    small_findings,
)
from agcxr.experiments.controls import arms
from agcxr.table import difference

LABELS = ("Nodule", "Mass", "No Finding")
NAN = math.nan


def made(n: int = 120, noise: float = 1.0, seed: int = 0) -> Scores:
    """Labels of n films of n / 2 patients, and scores of three branches that follow them through noise."""
    target = (np.random.default_rng(0).random((n, 3)) < 0.4).astype(np.float64)
    rng = np.random.default_rng([seed, 1])
    score = 1 / (1 + np.exp(-(target[None] + noise * rng.standard_normal((3, n, 3)))))
    patient = np.array([f"p{i // 2}" for i in range(n)], dtype=object)
    return Scores(LABELS, ("global", "local", "fusion"), target, score, patient)


# --- statistics -------------------------------------------------------------------------------------------------------


def test_the_mean_leaves_out_no_finding_and_findings_without_a_class():
    scores = made()
    assert usable(scores) == ([0, 1], ())
    target = scores.target_NK.copy()
    target[:, 1] = 0
    assert usable(replace(scores, target_NK=target)) == ([0], ("Mass",))


def test_one_seed_is_the_bootstrap_over_patients_alone():
    scores, draws = made(), Draws(50, 0.95, 0)
    found = sample([scores], [0, 1], draws)
    by_hand = np.mean([metrics.auroc(scores.target_NK[:, k], scores.score_BNK[2, :, k]) for k in (0, 1)])
    assert found.value_SB[0, 2] == pytest.approx(by_hand)
    np.testing.assert_allclose(found.replicate_SBR[0], draws.bootstrap(scores).auroc_BKR[:, :2].mean(1))
    interval = draws.interval(found.value_SB[:, 2], found.replicate_SBR[:, 2])
    assert (interval.low, interval.high) == pytest.approx(np.quantile(found.replicate_SBR[0, 2], [0.025, 0.975]))


def test_where_patients_do_not_matter_the_seeds_make_students_interval():
    value_S = np.array([0.010, 0.012, 0.017])
    same_SR = np.repeat(value_S[:, None], 20, 1)
    low, high, p, left_out = over_seeds(value_S, same_SR, 0.95)
    known = stats.ttest_1samp(value_S, 0)
    assert (low, high, p) == pytest.approx((*known.confidence_interval(0.95), known.pvalue))
    assert left_out == 0
    with_a_gap = same_SR.copy()
    with_a_gap[1, :4] = NAN  # resamples without a class
    assert over_seeds(value_S, with_a_gap, 0.95) == pytest.approx((low, high, p, 4))
    assert np.isnan(over_seeds(value_S, same_SR, 0.95, patients=1)[:3]).all()


def test_where_seeds_agree_the_patients_make_the_interval():
    rng = np.random.default_rng(0)
    replicate_R = 0.02 + 0.01 * rng.standard_normal(4000)
    low, high, p, _ = over_seeds(np.full(3, 0.02), np.stack([replicate_R] * 3), 0.95)
    assert (low, high) == pytest.approx((0.02 - 0.0196, 0.02 + 0.0196), abs=5e-4)
    assert p == pytest.approx(2 * stats.norm.sf(2), abs=5e-3)
    assert over_seeds(np.zeros(3), np.zeros((3, 9)), 0.95) == (0, 0, 1, 0)
    apart_SR = 0.02 + 0.01 * rng.standard_normal((3, 4000))  # what each seed makes of the patients, nothing in common
    low, high, _, _ = over_seeds(np.full(3, 0.02), apart_SR, 0.95)
    assert high - low == pytest.approx(2 * 0.0196 / np.sqrt(3), rel=0.03)


def test_intervals_of_three_seeds_hold_the_truth_as_often_as_they_say():
    """Truth 0: patients that all seeds share, training, and what a training makes of these patients."""
    rng, held = np.random.default_rng(0), []
    for _ in range(600):
        value_S = 0.5 * rng.standard_normal() + rng.standard_normal(3) + 0.2 * rng.standard_normal(3)
        again_SR = value_S[:, None] + 0.5 * rng.standard_normal(200) + 0.2 * rng.standard_normal((3, 200))
        low, high, _, _ = over_seeds(value_S, again_SR, 0.95)
        held.append(low <= 0 <= high)
    assert 0.92 < np.mean(held) < 0.97  # seeds drawn with replacement: .90, and .74 without patients


def test_differences_are_paired():
    scores, draws = made(), Draws(50, 0.95, 0)
    one, two = sample([scores], [0, 1], draws), sample([scores], [0, 1], draws)
    gap = draws.paired(one.value_SB[:, 2] - two.value_SB[:, 2], one.replicate_SBR[:, 2] - two.replicate_SBR[:, 2])
    assert (gap.value, gap.low, gap.high, gap.clear) == (0, 0, 0, False)
    noise = draws.paired(np.array([1e-16]), np.full((1, 50), 1e-17))
    assert (noise.low, noise.clear) == (0, False)
    seeds = draws.paired(np.array([0.01, -0.002, 0.016]), np.zeros((3, 50)))
    assert (seeds.value, seeds.per_seed, seeds.agreeing) == (pytest.approx(0.008), (0.01, -0.002, 0.016), 2)
    assert (seeds.turned().per_seed, seeds.turned().agreeing) == ((-0.01, 0.002, -0.016), 2)
    near = draws.interval(np.array([0.999, 0.95]), np.zeros((2, 50)))
    assert near.high == 1  # no AUROC is higher


# --- by size ----------------------------------------------------------------------------------------------------------


def lesions(*rows: tuple[str, str, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["image_id", "finding", "diameter_cm"])


def test_small_findings_by_their_median():
    table = lesions(
        ("a", "Nodule", 2), ("a", "Hernia", 3), ("b", "Hernia", 3.9), ("a", "Effusion", 9), ("b", "Mass", 6)
    )
    assert small_findings(table) == ("Nodule", "Hernia")
    assert small_findings(table, 3.2) == ("Nodule",)
    assert ranged_findings(table) == ("Mass", "Nodule", "Hernia")  # masses go on where nodules end
    assert [(one.finding, one.signs, one.median_cm) for one in diameters(table)] == [
        ("Nodule", 1, 2), ("Hernia", 2, 3.45), ("Mass", 1, 6), ("Effusion", 1, 9),
    ]  # fmt: skip


def test_bins_go_by_the_largest_sign_of_a_film():
    scores = made()
    films = [f"{i}.png" for i in range(120)]
    positive = np.flatnonzero(scores.target_NK[:, 0] == 1)
    rows = [(f"{i}.png", "Nodule", 1 + 0.01 * n) for n, i in enumerate(positive)]
    rows += [(f"{positive[0]}.png", "Nodule", 2.5)]  # a second, larger one
    found = bins(films, LABELS, scores.target_NK, lesions(*rows), ("Nodule",))
    assert [one.finding for one in found] == ["Nodule"] * len(found)
    assert found[-1].target_N[positive[0]] == 1
    assert np.isnan(found[0].target_N[positive[0]])
    assert sum(one.films for one in found) == len(positive)
    assert all(((one.target_N == 0) == (scores.target_NK[:, 0] == 0)).all() for one in found)
    assert all(a.high_cm == b.low_cm for a, b in pairwise(found))
    with pytest.raises(ValueError, match="the lesions name fewer than 5 films of the split for each of Nodule"):
        bins(films, LABELS, scores.target_NK, lesions(("other.png", "Nodule", 1.0)), ("Nodule",))


def test_where_only_the_small_ones_gain_the_advantage_ends_there():
    """Attention knows all nodules, the control only those of 2 cm or more."""
    scores = made(400, noise=1.5)
    films = [f"{i}.png" for i in range(400)]
    positive = np.flatnonzero(scores.target_NK[:, 0] == 1)
    size = np.linspace(1, 2.99, len(positive))
    table = lesions(*[(f"{i}.png", "Nodule", d) for i, d in zip(positive, size, strict=True)])
    clever, blind = scores.score_BNK.copy(), scores.score_BNK.copy()
    clever[:, positive, 0] = blind[:, positive, 0] = 0.99
    blind[:, positive[size < 2], 0] = 0.5
    by_arm = {"attention": [replace(scores, score_BNK=clever)], "centre": [replace(scores, score_BNK=blind)]}
    found = size_study(films, table, by_arm, "attention", Draws(100, 0.95, 0))
    assert found.findings == ("Nodule",)
    small = next(one for one in found.small if one.branch == "fusion")
    assert small.gap.low > 0
    first, last = found.bins[0], found.bins[3]
    assert first.sensitivity.value == last.sensitivity.value == 1
    assert first.sensitivity_gap.low > 0.2
    assert last.auroc_gap.value == 0
    assert last.auroc_gap.low < 0 < last.auroc_gap.high  # alike on these few patients is not alike on all
    assert found.conclusions[0].startswith(
        "Fusion, attention against the centre box, 4 ranges of 1 to 3 cm: better at 1–"
    )
    assert " The advantage ends at 2 cm: above it, none is shown." in found.conclusions[0]


def test_a_bin_of_one_patient_has_no_interval():
    scores = made(400, noise=1.5)
    positive = scores.target_NK[:, 0] == 1
    one = replace(scores, patient_N=np.where(positive, "one", scores.patient_N.astype(object)))
    table = lesions(*[(f"{i}.png", "Nodule", 1.5) for i in np.flatnonzero(positive)])
    by_arm = {"attention": [one], "centre": [replace(one, score_BNK=one.score_BNK * 0.5)]}
    found = size_study([f"{i}.png" for i in range(400)], table, by_arm, "attention", Draws(20, 0.95, 0))
    for row in found.bins:
        assert 0 < row.auroc.value < 1
        ends = [row.auroc.low, row.auroc_gap.low, row.auroc_gap.p, row.sensitivity.high, row.sensitivity_gap.high]
        assert np.isnan(ends).all()
    assert all(math.isnan(row.gap.low) and math.isnan(row.auroc.high) for row in (*found.each, *found.small))
    assert difference(found.bins[0].auroc_gap, None).text == "0"
    assert found.conclusions[0].endswith("cm: better at none; worse at none; undecided at all.")


def test_a_mean_over_a_finding_of_one_patient_has_no_interval():
    scores = made(400)
    target = scores.target_NK.copy()
    target[:, 1] = [1.0, 1.0] + [0.0] * 398  # both films of one patient
    for findings, bare in (([0], False), ([0, 1], True)):
        both = [replace(scores, target_NK=target), replace(made(400, seed=1), target_NK=target)]
        for by_seed in (both[:1], both):
            draws = Draws(20, 0.95, 0)
            sampled = sample(by_seed, findings, draws)
            gap = over_branch(2, 0, sampled, draws)
            (arm,) = arm_branches(arms(Train())[0], ("global",), sampled, sampled, draws)
            assert [math.isnan(one) for one in (gap.low, gap.p, arm.auroc.low)] == [bare] * 3


def row(low: float, high: float, gap_low: float, finding: str = "Nodule") -> BinResult:
    whole = Estimate(value=0.8, low=0.7, high=0.9)
    gap = SeedDifference(value=gap_low + 0.05, low=gap_low, high=gap_low + 0.1, p=0.1)
    same = {"auroc": whole, "auroc_control": whole, "sensitivity": whole, "sensitivity_control": whole}
    return BinResult(
        finding=finding, low_cm=low, high_cm=high, films=20, branch="local", control="whole", auroc_gap=gap,
        sensitivity_gap=gap, **same,
    )  # fmt: skip


SMALLER, LARGER = "1–2 cm (Nodule)", "3.2–7 cm (Mass)"


@pytest.mark.parametrize(
    ("gaps", "said"),
    [
        ((-0.05, -0.02, -0.03), "better at none; worse at none; undecided at all."),
        (
            (0.01, -0.02, -0.2),
            f"better at {SMALLER}; worse at {LARGER}; undecided at 2–3 cm (Nodule). The advantage ends at 2 cm: above "
            "it, none is shown.",
        ),
        ((0.01, -0.02, 0.01), f"better at {SMALLER}, {LARGER}; worse at none; undecided at 2–3 cm (Nodule)."),
        ((-0.2, -0.2, 0.01), f"better at {LARGER}; worse at 1–3 cm (Nodule); undecided at none."),
        ((0.02, 0.02, 0.01), "better at all; worse at none; undecided at none."),
        ((-0.2, -0.2, -0.2), "better at none; worse at all; undecided at none."),
    ],
)
def test_conclusions_in_words(gaps, said):
    """ "Ends" only where the better ranges are the smallest ones without a gap."""
    found = [row(1, 2, gaps[0]), row(2, 3, gaps[1]), row(3.2, 7, gaps[2], "Mass")]
    assert conclusions(found) == (f"Local, attention against the whole view, 3 ranges of 1 to 7 cm: {said}",)


def test_lesion_tables_are_checked(tmp_path):
    path = tmp_path / "lesions.csv"
    path.write_text("image,finding\na.png,Nodule\n")
    with pytest.raises(ValueError, match="has no column 'diameter_cm'; expected the lesions.csv of `agcxr phantom`"):
        read_lesions(path)
    path.write_text("image,finding,diameter_cm\na.png,Dragon,2\n")
    with pytest.raises(ValueError, match="names the finding 'Dragon'"):
        read_lesions(path)


def test_seeds_that_all_rank_every_film_rightly_are_no_surer_than_their_patients() -> None:
    draws, ones = Draws(100, 0.95, 0), np.ones((3, 100))
    perfect = draws.interval(ones[:, 0], ones, 6)
    assert (perfect.low, perfect.high) == (pytest.approx(0.025 ** (1 / 6)), 1)
    alike = draws.paired(0 * ones[:, 0], 0 * ones, 6)
    assert alike.low < 0 < alike.high
    assert alike.p == 1
