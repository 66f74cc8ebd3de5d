"""Arrays in, numbers out: ranking, operating points, calibration and boxes.

Shapes: N films, K labels, M boxes. Targets are 0, 1 or NaN (unknown: that film is left out of that label); scores
are any real numbers where only the ranking counts, and probabilities in [0, 1] where their value does. A measure
that a label cannot have (no positives, no negatives) is NaN: callers name it and leave it out of means.
Intervals are in `agcxr.uncertainty`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def known(
    target_N: npt.ArrayLike, score_N: npt.ArrayLike, weight_N: npt.ArrayLike | None = None
) -> tuple[npt.NDArray[np.bool_], Floats, Floats]:
    """Checked (positive, score, weight) of the films whose target is known.

    Raises ValueError for unequal lengths, targets other than 0, 1, NaN, scores that are NaN or infinite, and
    negative weights.
    """
    target = np.asarray(target_N, dtype=np.float64).ravel()
    score = np.asarray(score_N, dtype=np.float64).ravel()
    weight = np.ones_like(target) if weight_N is None else np.asarray(weight_N, dtype=np.float64).ravel()
    if not len(target) == len(score) == len(weight):
        raise ValueError(
            f"{len(target)} targets, {len(score)} scores and {len(weight)} weights were given; "
            "expected one of each per film"
        )
    keep = ~np.isnan(target)
    target, score, weight = target[keep], score[keep], weight[keep]
    if odd := sorted(set(target.tolist()) - {0.0, 1.0}):
        raise ValueError(f"targets must be 0, 1 or NaN (unknown), found {odd[:3]}; threshold or map them first")
    if bad := int(np.count_nonzero(~np.isfinite(score))):
        raise ValueError(f"{bad} of {len(score)} scores are NaN or infinite; leave those films out, or mend the model")
    if np.any(weight < 0):
        raise ValueError(f"weights must be 0 or more, found {weight.min():g}; a weight says how often a film counts")
    return target == 1, score, weight


def _steps(positive: npt.NDArray[np.bool_], score: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """Distinct scores from high to low, with the positive and negative weight at each (ties are one step)."""
    value, group = np.unique(-score, return_inverse=True)
    steps = len(value)
    return (
        -value,
        np.bincount(group, weight * positive, minlength=steps).astype(np.float64),
        np.bincount(group, weight * ~positive, minlength=steps).astype(np.float64),
    )


def auroc(target_N: npt.ArrayLike, score_N: npt.ArrayLike, weight_N: npt.ArrayLike | None = None) -> float:
    """Area under the ROC curve: the chance that a positive film outranks a negative one, ties counting half.

    NaN where there is no positive or no negative film. Equal to scikit-learn's `roc_auc_score`.
    """
    _, pos, neg = _steps(*known(target_N, score_N, weight_N))
    pairs = pos.sum() * neg.sum()
    if pairs == 0:
        return float("nan")
    below = neg.sum() - np.cumsum(neg)
    return float(np.dot(pos, below + neg / 2) / pairs)


def auroc_table(target_NK: npt.ArrayLike, score_NK: npt.ArrayLike) -> Floats:
    """AUROC of every label, K numbers, NaN where it is undefined."""
    target, score = np.asarray(target_NK), np.asarray(score_NK)
    if target.shape != score.shape or target.ndim != 2:
        raise ValueError(f"targets {target.shape} and scores {score.shape} must both be films x labels")
    return np.array([auroc(target[:, k], score[:, k]) for k in range(target.shape[1])], dtype=np.float64)


def average_precision(target_N: npt.ArrayLike, score_N: npt.ArrayLike, weight_N: npt.ArrayLike | None = None) -> float:
    """Average precision: precision at each distinct score, weighted by the recall gained there (no interpolation).

    A useless score has an AP of the prevalence. NaN where there is no positive or no negative film.
    """
    _, pos, neg = _steps(*known(target_N, score_N, weight_N))
    if pos.sum() * neg.sum() == 0:
        return float("nan")
    here = pos > 0
    true, false = np.cumsum(pos)[here], np.cumsum(neg)[here]
    return float(np.dot(pos[here] / pos.sum(), true / (true + false)))


@dataclass(frozen=True)
class Roc:
    """A ROC curve from (0, 0) to (1, 1): one point per distinct score, called positive from that score up."""

    false_positive_rate: Floats
    true_positive_rate: Floats
    threshold: Floats
    """The first is infinite: nothing is called positive."""


def roc(target_N: npt.ArrayLike, score_N: npt.ArrayLike) -> Roc:
    """All points of the ROC curve. NaN rates where there is no positive or no negative film."""
    value, pos, neg = _steps(*known(target_N, score_N))

    def rate(count: Floats) -> Floats:
        total = count.sum()
        return np.concatenate([[0.0], np.cumsum(count)]) / (total if total else np.nan)

    return Roc(rate(neg), rate(pos), np.concatenate([[np.inf], value]))


def brier(target_N: npt.ArrayLike, probability_N: npt.ArrayLike) -> float:
    """Mean squared error of the probability, 0 is best; NaN without films."""
    positive, probability, _ = known(target_N, probability_N)
    _check_probability(probability)
    return float(np.mean((probability - positive) ** 2)) if len(positive) else float("nan")


@dataclass(frozen=True)
class Reliability:
    """Films grouped by probability: what was said and what was seen, for the bins that hold films."""

    probability: Floats
    """Mean probability of the bin's films."""
    frequency: Floats
    """Share of positives among them."""
    count: npt.NDArray[np.int64]

    @property
    def expected_error(self) -> float:
        """ECE: mean |frequency - probability| over the films."""
        total = int(self.count.sum())
        gap = np.abs(self.frequency - self.probability)
        return float(np.dot(gap, self.count) / total) if total else float("nan")


def reliability(
    target_N: npt.ArrayLike,
    probability_N: npt.ArrayLike,
    *,
    bins: int = 15,
    by: Literal["width", "positives"] = "width",
) -> Reliability:
    """Bins of equal width on [0, 1] (the last includes 1), or of as equal a number of positive films as ties allow:
    bins of equal numbers of films would crowd at 0 where the finding is rare."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    positive, probability, _ = known(target_N, probability_N)
    _check_probability(probability)
    if by == "width":
        group = np.minimum((probability * bins).astype(np.int64), bins - 1)
    else:
        among = np.sort(probability[positive])
        edges = among[len(among) * np.arange(1, bins) // bins] if len(among) else np.ones(bins - 1)
        group = np.searchsorted(edges, probability, side="right")
    count = np.bincount(group, minlength=bins)
    held = count > 0
    size = count[held]
    return Reliability(
        np.bincount(group, probability, minlength=bins)[held] / size,
        np.bincount(group, positive, minlength=bins)[held] / size,
        size.astype(np.int64),
    )


def ece(target_N: npt.ArrayLike, probability_N: npt.ArrayLike, *, bins: int = 15) -> float:
    """Expected calibration error over bins of equal width: mean |frequency - probability|, 0 is best."""
    return reliability(target_N, probability_N, bins=bins).expected_error


def _check_probability(probability: Floats) -> None:
    if len(probability) and (probability.min() < 0 or probability.max() > 1):
        raise ValueError(
            f"probabilities must lie in [0, 1], found {probability.min():g} to {probability.max():g}; "
            "apply the sigmoid to logits first"
        )


def box_area(box_M4: npt.ArrayLike) -> Floats:
    """Area of boxes (x0, y0, x1, y1), exclusive end, in any one unit; 0 for an empty or inverted box."""
    box = _boxes(box_M4)
    side = np.clip(box[:, 2:] - box[:, :2], 0, None)
    return side[:, 0] * side[:, 1]


def box_iou(detected_M4: npt.ArrayLike, truth_M4: npt.ArrayLike) -> Floats:
    """Intersection over union of each detected box with the truth of the same row; 0 where both are empty."""
    shared = _intersection(detected_M4, truth_M4)
    union = box_area(detected_M4) + box_area(truth_M4) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def box_iobb(detected_M4: npt.ArrayLike, truth_M4: npt.ArrayLike) -> Floats:
    """Intersection over the area of the DETECTED box (Wang 2017): 1 for any box that lies inside the truth.

    It rewards small boxes; 0 for an empty detected box.
    """
    shared = _intersection(detected_M4, truth_M4)
    area = box_area(detected_M4)
    return np.divide(shared, area, out=np.zeros_like(shared), where=area > 0)


def _intersection(a_M4: npt.ArrayLike, b_M4: npt.ArrayLike) -> Floats:
    a, b = _boxes(a_M4), _boxes(b_M4)
    if len(a) != len(b):
        raise ValueError(f"{len(a)} detected and {len(b)} true boxes were given; expected as many, row beside row")
    return box_area(np.concatenate([np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])], axis=1))


def _boxes(box_M4: npt.ArrayLike) -> Floats:
    box = np.atleast_2d(np.asarray(box_M4, dtype=np.float64))
    if box.ndim != 2 or box.shape[1] != 4:
        raise ValueError(f"boxes must be rows of (x0, y0, x1, y1), got an array of shape {box.shape}")
    return box
