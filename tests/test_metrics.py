"""Literal examples worked out by hand, and agreement with scikit-learn on random data with ties and weights."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from agcxr import metrics

# Ranked high to low: + (.9), - (.8), + (.4), - (.4), - (.1). Pairs won: 3 + (1 + 1/2) of 6.
TARGET = [1, 0, 1, 0, 0]
SCORE = [0.9, 0.8, 0.4, 0.4, 0.1]


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    films = int(rng.integers(5, 200))
    target = np.r_[0, 1, rng.integers(2, size=films)]
    score = rng.integers(rng.integers(2, 60), size=films + 2) / 60
    return target, score, np.r_[1, 1, rng.integers(0, 4, size=films)].astype(float)


def test_auroc_by_hand() -> None:
    assert metrics.auroc(TARGET, SCORE) == 4.5 / 6


def test_average_precision_by_hand() -> None:
    # Half the recall at precision 1/1, half at the tied step, where 2 of 4 are positive.
    assert metrics.average_precision(TARGET, SCORE) == 0.5 * 1 + 0.5 * 2 / 4


def test_roc_by_hand() -> None:
    curve = metrics.roc(TARGET, SCORE)
    assert curve.threshold.tolist() == [np.inf, 0.9, 0.8, 0.4, 0.1]
    assert curve.true_positive_rate.tolist() == [0, 0.5, 0.5, 1, 1]
    np.testing.assert_allclose(curve.false_positive_rate, [0, 0, 1 / 3, 2 / 3, 1])


@pytest.mark.parametrize("measure", [metrics.auroc, metrics.average_precision])
def test_unknown_targets_are_left_out(measure) -> None:  # type: ignore[no-untyped-def]
    assert measure([*TARGET, np.nan, np.nan], [*SCORE, 1.0, 0.0]) == measure(TARGET, SCORE)


@pytest.mark.parametrize("measure", [metrics.auroc, metrics.average_precision])
@pytest.mark.parametrize("target", [[1, 1], [0, 0], [np.nan, 1]])
def test_absent_class_is_nan(measure, target) -> None:  # type: ignore[no-untyped-def]
    assert np.isnan(measure(target, [0.1, 0.2]))


def test_tables_have_nan_for_absent_labels() -> None:
    target = np.array([[1, 0], [0, 0], [1, 0]])
    score = np.array([[0.9, 0.5], [0.1, 0.5], [0.8, 0.5]])
    np.testing.assert_equal(metrics.auroc_table(target, score), [1.0, np.nan])
    with pytest.raises(ValueError, match=r"targets \(3, 2\) and scores \(3,\) must both be films x labels"):
        metrics.auroc_table(target, score[:, 0])


@pytest.mark.parametrize("seed", range(20))
def test_equal_to_scikit_learn(seed: int) -> None:
    target, score, weight = random_case(seed)
    assert metrics.auroc(target, score) == pytest.approx(reference.roc_auc_score(target, score), abs=1e-12)
    assert metrics.auroc(target, score, weight) == pytest.approx(
        reference.roc_auc_score(target, score, sample_weight=weight), abs=1e-12
    )
    assert metrics.average_precision(target, score, weight) == pytest.approx(
        reference.average_precision_score(target, score, sample_weight=weight), abs=1e-12
    )
    assert metrics.brier(target, score) == pytest.approx(reference.brier_score_loss(target, score), abs=1e-12)
    false, true, threshold = reference.roc_curve(target, score, drop_intermediate=False)
    curve = metrics.roc(target, score)
    np.testing.assert_allclose(curve.false_positive_rate, false, atol=1e-12)
    np.testing.assert_allclose(curve.true_positive_rate, true, atol=1e-12)
    np.testing.assert_array_equal(curve.threshold, threshold)


def test_auroc_does_not_see_a_monotone_change() -> None:
    target, score, _ = random_case(3)
    assert metrics.auroc(target, np.exp(7 * score)) == metrics.auroc(target, score)
    assert metrics.auroc(target, -score) == pytest.approx(1 - metrics.auroc(target, score))


def test_brier_by_hand() -> None:
    assert metrics.brier([1, 0, np.nan], [0.8, 0.4, 0.9]) == pytest.approx((0.04 + 0.16) / 2)
    with pytest.raises(ValueError, match=r"probabilities must lie in \[0, 1\], found -1 to 2; apply the sigmoid"):
        metrics.brier([1, 0], [2, -1])


def test_reliability_by_hand() -> None:
    table = metrics.reliability([0, 1, 1, 1], [0.1, 0.3, 0.9, 1.0], bins=2)
    np.testing.assert_allclose(table.probability, [0.2, 0.95])
    assert table.frequency.tolist() == [0.5, 1.0]
    assert table.count.tolist() == [2, 2]
    assert table.expected_error == pytest.approx((2 * 0.3 + 2 * 0.05) / 4)
    assert metrics.ece([0, 1, 1, 1], [0.1, 0.3, 0.9, 1.0], bins=2) == table.expected_error


def test_reliability_by_positives_and_empty() -> None:
    target, probability = [0, 0, 0, 1, 0, 1, 1, 1, 0], [0.01, 0.01, 0.02, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9]
    table = metrics.reliability(target, probability, bins=2, by="positives")
    assert table.count.tolist() == [6, 3]  # two positives each, and the negatives as they fall
    assert table.frequency.tolist() == [2 / 6, 2 / 3]
    tied = metrics.reliability([1, 1, 1, 0], [0.5, 0.5, 0.5, 0.1], bins=3, by="positives")
    assert tied.count.tolist() == [1, 3]
    assert metrics.reliability([0, 0], [0.2, 0.4], bins=3, by="positives").count.tolist() == [2]
    assert np.isnan(metrics.ece([np.nan], [0.5]))
    assert np.isnan(metrics.brier([np.nan], [0.5]))
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        metrics.ece([0, 1], [0.5, 0.5], bins=0)


def test_iou_and_iobb_by_hand() -> None:
    detected = [[0, 0, 4, 2], [0, 0, 2, 2], [0, 0, 1, 1], [3, 3, 3, 5], [1, 1, 2, 2]]
    truth = [[2, 0, 6, 2], [0, 0, 2, 2], [1, 1, 2, 2], [0, 0, 9, 9], [0, 0, 4, 4]]
    np.testing.assert_allclose(metrics.box_iou(detected, truth), [4 / 12, 1, 0, 0, 1 / 16])
    np.testing.assert_allclose(metrics.box_iobb(detected, truth), [4 / 8, 1, 0, 0, 1])


def test_boxes_are_checked() -> None:
    with pytest.raises(ValueError, match="2 detected and 1 true boxes"):
        metrics.box_iou([[0, 0, 1, 1]] * 2, [[0, 0, 1, 1]])
    with pytest.raises(ValueError, match=r"rows of \(x0, y0, x1, y1\), got an array of shape \(1, 3\)"):
        metrics.box_area([0, 0, 1])


@pytest.mark.parametrize(
    ("target", "score", "weight", "message"),
    [
        ([1, 0], [0.5], None, "2 targets, 1 scores and 2 weights"),
        ([1, 2], [0.5, 0.1], None, r"targets must be 0, 1 or NaN \(unknown\), found \[2.0\]"),
        ([1, 0], [np.nan, 0.1], None, "1 of 2 scores are NaN or infinite"),
        ([1, 0], [0.5, 0.1], [1, -1], "weights must be 0 or more, found -1"),
    ],
)
def test_bad_input_is_named(target, score, weight, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        metrics.auroc(target, score, weight)
