"""The fast bootstrap equals scikit-learn on every resample; DeLong equals a plain double loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from agcxr import uncertainty
from agcxr.delong import delong
from agcxr.metrics import auroc, average_precision


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """120 films of 40 patients, 3 labels (one rare, one with unknowns), 2 branches, heavy ties in the second."""
    rng = np.random.default_rng(5)
    target = (rng.random((120, 3)) < [0.4, 0.0, 0.3]).astype(float)
    target[[7, 60], 1] = 1
    target[rng.random(120) < 0.2, 2] = np.nan
    score = np.stack([rng.random((120, 3)), rng.integers(4, size=(120, 3)) / 4])
    return target, score, (np.arange(120) % 40).astype(str)


def drawn(patient: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """The weights N x R, drawn the plain way."""
    rng = np.random.default_rng(seed)
    names = np.unique(patient)
    columns = []
    for _ in range(resamples):
        draw = names[rng.integers(len(names), size=len(names))]
        columns.append([np.count_nonzero(draw == name) for name in patient])
    return np.array(columns, dtype=float).T


def test_every_resample_equals_scikit_learn(case) -> None:  # type: ignore[no-untyped-def]
    target, score, patient = case
    threshold = np.broadcast_to(np.array([0.25, 0.5])[:, None, None], (2, 2, 3))
    found = uncertainty.bootstrap(
        target, score, patient, rng=np.random.default_rng(1), resamples=60, threshold_PBK=threshold
    )
    weight = drawn(patient, 60, 1)
    absent = 0
    for r in range(60):
        for k in range(3):
            keep = ~np.isnan(target[:, k]) & (weight[:, r] > 0)
            y, w = target[keep, k], weight[keep, r]
            if len(set(y)) < 2:
                absent += 1
                assert np.isnan(found.auroc_BKR[:, k, r]).all()
                assert np.isnan(found.average_precision_BKR[:, k, r]).all()
                continue
            for b in range(2):
                p = score[b, keep, k]
                assert found.auroc_BKR[b, k, r] == pytest.approx(
                    reference.roc_auc_score(y, p, sample_weight=w), abs=1e-10
                )
                # Rows repeated as often as drawn: the definition itself, without weights.
                rows = np.repeat(np.arange(len(y)), w.astype(int))
                assert found.auroc_BKR[b, k, r] == pytest.approx(reference.roc_auc_score(y[rows], p[rows]), abs=1e-10)
                assert found.average_precision_BKR[b, k, r] == pytest.approx(
                    reference.average_precision_score(y[rows], p[rows]), abs=1e-10
                )
                assert found.brier_BKR[b, k, r] == pytest.approx(np.mean((p - y)[rows] ** 2), abs=1e-10)
                for i, at in enumerate((0.25, 0.5)):
                    called = p[rows] >= at
                    assert found.sensitivity_PBKR[i, b, k, r] == pytest.approx(called[y[rows] == 1].mean())
                    assert found.specificity_PBKR[i, b, k, r] == pytest.approx(1 - called[y[rows] == 0].mean())
    assert absent > 0, "the rare label must vanish in some resamples for this test to show anything"


def test_chunks_do_not_matter(case, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    target, score, patient = case
    whole = uncertainty.bootstrap(target, score, patient, rng=np.random.default_rng(2), resamples=20)
    monkeypatch.setattr(uncertainty, "CHUNK_BYTES", 4 * 40 * 3)
    parts = uncertainty.bootstrap(target, score, patient, rng=np.random.default_rng(2), resamples=20)
    np.testing.assert_array_equal(whole.auroc_BKR, parts.auroc_BKR)
    np.testing.assert_array_equal(whole.brier_BKR, parts.brier_BKR)
    assert whole.clusters == 40


def test_films_of_a_patient_move_together() -> None:
    weight = np.concatenate(list(uncertainty.cluster_weights(["a", "b", "a", "c"], 50, np.random.default_rng(0))), 1)
    np.testing.assert_array_equal(weight[0], weight[2])
    np.testing.assert_array_equal(weight[[0, 1, 3]].sum(axis=0), 3)


def test_clusters_widen_the_interval() -> None:
    # Each film copied 5 times: as clusters the interval is that of the originals, as films it is far too narrow.
    rng = np.random.default_rng(0)
    target = np.repeat(rng.integers(2, size=(60, 1)), 5, axis=0)
    score = np.repeat(rng.random((1, 60, 1)), 5, axis=1)
    patient = np.repeat(np.arange(60), 5)

    def width(cluster: np.ndarray) -> float:
        found = uncertainty.bootstrap(target, score, cluster, rng=np.random.default_rng(1), resamples=300)
        part = uncertainty.interval(0.5, found.auroc_BKR[0, 0])
        return part.high - part.low

    assert width(patient) > 1.8 * width(np.arange(300))


def test_absent_label_is_nan_throughout() -> None:
    found = uncertainty.bootstrap(np.zeros((4, 1)), np.zeros((1, 4, 1)), range(4), rng=np.random.default_rng(0))
    part = uncertainty.interval(float("nan"), found.auroc_BKR[0, 0])
    assert np.isnan([part.low, part.high]).all()
    assert part.left_out == uncertainty.RESAMPLES


def test_interval_and_p_by_hand() -> None:
    replicate = np.r_[np.arange(1, 100), np.nan]
    part = uncertainty.interval(50, replicate, level=0.5)
    assert part == uncertainty.Estimate(value=50, low=25.5, high=74.5, left_out=1)
    # 3 of 99 at or under 0: p = 2 * (3 + 1) / (99 + 1).
    assert uncertainty.difference(47, replicate - 3).p == 0.08
    assert uncertainty.difference(50, replicate).p == 0.02
    assert uncertainty.difference(0, np.zeros(9)).p == 1.0
    assert np.isnan(uncertainty.difference(float("nan"), replicate).p)
    with pytest.raises(ValueError, match="level is 95"):
        uncertainty.interval(0.5, replicate, level=95)


def test_the_least_p_is_of_the_resamples_that_were_used() -> None:
    found = uncertainty.difference(0.5, np.array([np.nan] * 20 + [0.5] * 79))
    assert (found.p, found.left_out) == (2 / 80, 20)
    assert uncertainty.p_floor(99, found.left_out) == found.p
    assert uncertainty.p_floor(999, 0) == 0.002


def test_p_is_uniform_when_nothing_differs() -> None:
    # Two exchangeable scores: p < .1 must come up about a tenth of the time.
    low = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        target = rng.integers(2, size=(80, 1))
        score = rng.random((2, 80, 1)) + 0.3 * target
        found = uncertainty.bootstrap(target, np.clip(score, 0, 2) / 2, range(80), rng=rng, resamples=200)
        gap = auroc(target, score[0]) - auroc(target, score[1])
        low += uncertainty.difference(gap, found.auroc_BKR[0, 0] - found.auroc_BKR[1, 0]).p < 0.1
    assert 0 <= low <= 14


def plain_delong(target: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong 1988 from its definition: every positive against every negative."""
    kernel = []
    for score in scores:
        pos, neg = score[target == 1], score[target == 0]
        kernel.append((pos[:, None] > neg).astype(float) + 0.5 * (pos[:, None] == neg))
    area = np.array([k.mean() for k in kernel])
    size = len(scores)
    covariance = np.empty((size, size))
    for a in range(size):
        for b in range(size):
            ten = [(k.mean(axis=1) - v) for k, v in ((kernel[a], area[a]), (kernel[b], area[b]))]
            one = [(k.mean(axis=0) - v) for k, v in ((kernel[a], area[a]), (kernel[b], area[b]))]
            m, n = kernel[a].shape
            covariance[a, b] = ten[0] @ ten[1] / (m - 1) / m + one[0] @ one[1] / (n - 1) / n
    return area, covariance


@pytest.mark.parametrize("seed", range(8))
def test_delong_equals_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target = np.r_[0, 0, 1, 1, rng.integers(2, size=90)].astype(float)
    score = np.stack([rng.random(94), rng.integers(6, size=94) / 6, rng.random(94) + target])
    area, covariance = plain_delong(target, score)
    found = delong(np.r_[target, np.nan], np.c_[score, [0.5, 0.5, 0.5]])
    np.testing.assert_allclose(found.auroc_B, area, atol=1e-9)
    np.testing.assert_allclose(found.covariance_BB, covariance, atol=1e-9)
    assert found.auroc_B[0] == pytest.approx(auroc(target, score[0]), abs=1e-12)


def test_delong_interval_and_test_by_hand() -> None:
    # Positives 3, 1; negatives 2, 0: shares of negatives under them 1 and 1/2; of positives over them 1/2 and 1.
    found = delong([1, 1, 0, 0], [[3, 1, 2, 0], [3, 1, 2, 0], [0, 2, 1, 3]])
    np.testing.assert_allclose(found.auroc_B, [0.75, 0.75, 0.25])
    assert found.covariance_BB[0, 0] == pytest.approx(0.125 / 2 + 0.125 / 2)
    assert found.interval(0) == pytest.approx((0.75 - 1.959964 * 0.125**0.5, 1.0), abs=1e-6)
    assert found.p(0, 1) == 1.0
    # The reversed score: the covariance is -1/8, so z = .5 / sqrt(.5).
    assert found.p(0, 2) == pytest.approx(0.479500, abs=1e-6)


def test_delong_needs_two_of_each() -> None:
    found = delong([1, 0, 0], [[0.5, 0.1, 0.2]])
    assert np.isnan(found.auroc_B).all()
    assert np.isnan(found.p(0, 0))
    assert delong([1, 1, 0, 0], [[4, 3, 1, 0], [0, 1, 3, 4]]).p(0, 1) == 0.0


def test_bad_shapes_are_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="1 clusters do not fit"):
        uncertainty.bootstrap(np.zeros((2, 1)), np.zeros((1, 2, 1)), ["a"], rng=rng)
    with pytest.raises(ValueError, match="no films were given"):
        next(uncertainty.cluster_weights([], 5, rng))
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        next(uncertainty.cluster_weights(["a"], 0, rng))


def test_holm_and_benjamini_hochberg_by_hand() -> None:
    p = [0.04, 0.01, math.nan, 0.03, 0.005]
    np.testing.assert_allclose(uncertainty.holm(p), [0.06, 0.03, math.nan, 0.06, 0.02])
    np.testing.assert_allclose(uncertainty.false_discovery(p), [0.04, 0.02, math.nan, 0.04, 0.02])
    assert np.isnan(uncertainty.holm([math.nan])).all()
    assert np.isnan(uncertainty.false_discovery([math.nan])).all()
    assert uncertainty.holm([0.6, 0.9]).tolist() == [1.0, 1.0]


def test_power_by_hand() -> None:
    # A standard error of .0125, as of 652 films of the NIH: .035 is seen 4 times in 5, the paper's .027 in 58 of 100.
    assert uncertainty.detectable(0.0125) == pytest.approx(0.0125 * (1.959964 + 0.841621), abs=1e-6)
    assert uncertainty.power(0.027, 0.0125) == pytest.approx(0.58, abs=0.005)
    assert uncertainty.power(uncertainty.detectable(0.2), 0.2) == pytest.approx(0.8)
    assert uncertainty.power(0.01, 0.0) == 1.0
    replicate = np.random.default_rng(0).normal(size=4000) / 80
    assert uncertainty.difference(0.0, replicate).error == pytest.approx(replicate.std(ddof=1))


def test_threads_keep_the_order_of_the_chunks() -> None:
    assert list(uncertainty.in_threads(lambda n: n * n, range(50))) == [n * n for n in range(50)]
    with pytest.raises(ZeroDivisionError):
        list(uncertainty.in_threads(lambda n: 1 / n, [1, 0]))


def test_the_basic_interval_holds_a_mean_average_precision() -> None:
    """A film drawn twice stands beside itself, which makes average precision larger in a resample: percentiles lie too
    high, as far over the value as that is over the truth. 6 findings of 5 to 30 %, scores that know a little."""
    share = np.linspace(0.05, 0.3, 6)

    def films(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
        target = (rng.random((count, 6)) < share).astype(float)
        return target, stats.norm.cdf(rng.normal(size=(count, 6)) + 0.4 * target)

    def mean(target: np.ndarray, score: np.ndarray) -> float:
        return float(np.mean([average_precision(target[:, k], score[:, k]) for k in range(6)]))

    truth, held = mean(*films(np.random.default_rng(1), 200_000)), np.zeros(2)
    for seed in range(100):
        target, score = films(np.random.default_rng(seed), 250)
        rng = np.random.default_rng(seed)
        found = uncertainty.bootstrap(target, score[None], range(250), rng=rng, resamples=200)
        replicate = found.average_precision_BKR[0].mean(axis=0)
        for i, basic in enumerate((False, True)):
            ends = uncertainty.interval(mean(target, score), replicate, basic=basic)
            held[i] += ends.low <= truth <= ends.high
    assert held[1] >= 88  # of 100; 95 are meant
    assert held[0] < 80


def test_percentiles_of_few_patients_are_as_wide_as_student_s_t() -> None:
    """Of normal resamples with the deviation sqrt((n - 1) / n) s / sqrt(n) the ends and p are those of the t test."""
    n, mean = 8, 0.05
    quantile = (np.arange(200_000) + 0.5) / 200_000
    replicate = mean + 0.02 * np.sqrt((n - 1) / n) * stats.norm.ppf(quantile)
    found = uncertainty.difference(mean, replicate, patients=n, student=True)
    half = stats.t.ppf(0.975, n - 1) * 0.02
    assert (found.low, found.high) == (pytest.approx(mean - half, abs=1e-4), pytest.approx(mean + half, abs=1e-4))
    assert found.p == pytest.approx(2 * stats.t.sf(mean / 0.02, n - 1), rel=0.01)
    plain = uncertainty.difference(mean, replicate, patients=n)
    assert plain.high - plain.low < 0.8 * (found.high - found.low)
    many = uncertainty.difference(mean, replicate, patients=100_000, student=True)
    assert many.high == pytest.approx(plain.high, abs=1e-4)


def test_resamples_that_are_all_the_same_leave_the_ends_to_the_patients() -> None:
    ones = np.ones(1000)
    perfect = uncertainty.interval(1.0, ones, patients=5)  # 5 pairs, each ranked rightly: .025 ** (1 / 5)
    assert (perfect.low, perfect.high) == (pytest.approx(0.025**0.2), 1)
    assert uncertainty.interval(1.0, ones, patients=5, basic=True).low == pytest.approx(0.025**0.2)
    tied = uncertainty.interval(0.5, ones / 2, patients=5)
    assert tied.low < 0.2 < 0.8 < tied.high
    ratio = uncertainty.interval(1.0, ones, patients=5, share=False)  # of no bounds, so there are no such ends
    assert (ratio.low, ratio.high) == (1, 1)
    same = uncertainty.difference(0.0, 0 * ones, patients=5)
    assert (same.p, same.low, same.high) == (1, -same.high, pytest.approx(stats.norm.ppf(0.975) * np.sqrt(2) / 7))
    for patients, clear in ((5, False), (6, True)):
        better = uncertainty.difference(1.0, ones, patients=patients)
        assert better.p == 2.0 ** (1 - patients)
        assert (better.low > 0) == clear
    assert np.isnan(uncertainty.interval(1.0, ones, patients=1).low)


def test_so_few_resamples_that_no_p_excludes_0_give_no_clear_difference() -> None:
    few, more = (uncertainty.difference(0.5, np.linspace(0.4, 0.6, resamples)) for resamples in (38, 40))
    assert (few.p, few.low) == (2 / 39, 0)
    assert more.p == 2 / 41
    assert more.low > 0.4
    assert uncertainty.difference(0.5, np.linspace(0.4, 0.6, 40), level=0.99).low == 0


@pytest.mark.parametrize(("patients", "films"), [(12, 1), (20, 2), (30, 1), (8, 5)])
def test_branches_as_good_as_each_other_are_not_clearly_apart(patients: int, films: int) -> None:
    """Plain percentiles called 6 to 9 in 100 such differences clear."""
    rng, clear, measured = np.random.default_rng(0), 0, 0
    who = np.repeat(np.arange(patients), films)
    for _ in range(200):
        ill = 0.7 * rng.normal(size=patients)[who] + 0.7 * rng.normal(size=len(who))
        target = (ill > 0.5).astype(float)
        shared = target + rng.normal(size=len(who)) + 0.5 * rng.normal(size=patients)[who]
        score = (shared + rng.normal(size=(2, len(who))))[:, :, None]
        replicate = uncertainty.bootstrap(target[:, None], score, who, rng=rng, resamples=200).auroc_BKR
        rarer = uncertainty.patients_of_the_rarer(target, who)
        if rarer < uncertainty.FEWEST_PATIENTS:
            continue
        gap = auroc(target, score[0, :, 0]) - auroc(target, score[1, :, 0])
        found = uncertainty.difference(gap, replicate[0, 0] - replicate[1, 0], patients=rarer, student=True)
        measured, clear = measured + 1, clear + (found.low > 0 or found.high < 0)
    assert clear <= 0.05 * measured + 2
