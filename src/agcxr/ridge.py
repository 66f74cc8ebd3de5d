"""Ridge regressions on features, their penalty found by folds of patients; and the linear head that one makes.

Shapes: N films, D features, K labels, V penalties.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import GroupKFold

from agcxr import metrics
from agcxr.calibration import logistic
from agcxr.metrics import Floats

PENALTIES: tuple[float, ...] = tuple(10.0 ** np.arange(-3, 4.1, 0.5))
"""Of the ridge, per feature of unit deviation and D features; the best is found by folds of the training patients."""
FOLDS = 5
Round: TypeAlias = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]
"""Rows to fit on, and rows held out."""


@dataclass(frozen=True)
class Ridge:
    """A fitted ridge. Scores are distances from the training mean: were that added, folds that hold out more positive
    films would get lower scores, and films of several folds could not be ranked together."""

    penalty: float
    mean_D: Floats
    scale_D: Floats
    weight_DK: Floats

    def __call__(self, feature_ND: npt.ArrayLike) -> Floats:
        """Scores N x K, any real numbers: only their order counts."""
        return (np.asarray(feature_ND, np.float64) - self.mean_D) / self.scale_D @ self.weight_DK


def fit_ridge(
    feature_ND: npt.ArrayLike,
    target_NK: npt.ArrayLike,
    patient_N: npt.ArrayLike,
    *,
    penalties: tuple[float, ...] = PENALTIES,
    seed: int = 0,
) -> Ridge:
    """Fit K ridges of one penalty: the best mean AUROC over inner folds of patients.

    feature_ND: finite numbers. target_NK: 0, 1 or NaN (unknown: taken as the label's mean, which teaches nothing).
    Raises ValueError for unequal lengths, features that are not finite, or fewer than two patients.
    """
    return _fit(feature_ND, target_NK, patient_N, penalties, seed)[0]


def fit_head(
    feature_ND: npt.ArrayLike, target_NK: npt.ArrayLike, patient_N: npt.ArrayLike, *, seed: int = 0
) -> tuple[Floats, Floats]:
    """A linear head on these features: weights K x D and biases K, whose logits are those of probabilities.

    The ridge ranks films; how far its scores are to be trusted is learned, by logistic regression, from those of
    held-out patients. A label known of one class alone has weights 0. Arguments and errors as of `fit_ridge`.
    """
    ridge, score_NK = _fit(feature_ND, target_NK, patient_N, PENALTIES, seed)
    target_NK = np.asarray(target_NK, np.float64)
    weight_KD, bias_K = np.zeros(ridge.weight_DK.T.shape), np.zeros(len(ridge.weight_DK.T))
    for k, (target_N, score_N) in enumerate(zip(target_NK.T, score_NK.T, strict=True)):
        known_N = ~np.isnan(target_N)
        positives, films = target_N[known_N].sum(), known_N.sum()
        if positives in (0, films):
            bias_K[k] = np.log((positives + 0.5) / (films - positives + 0.5))
            continue
        unit = score_N[known_N].std() or 1.0
        slope, bias = logistic(target_N[known_N], score_N[known_N] / unit, intercept=True)
        weight_KD[k] = slope / unit * ridge.weight_DK[:, k] / ridge.scale_D
        bias_K[k] = bias - weight_KD[k] @ ridge.mean_D
    return weight_KD, bias_K


def _fit(
    feature_ND: npt.ArrayLike,
    target_NK: npt.ArrayLike,
    patient_N: npt.ArrayLike,
    penalties: tuple[float, ...],
    seed: int,
) -> tuple[Ridge, Floats]:
    """The ridge, and the scores N x K that folds with its penalty gave the patients held out."""
    feature, target = np.asarray(feature_ND, np.float64), np.asarray(target_NK, np.float64)
    patient = np.asarray(patient_N)
    if not len(feature) == len(target) == len(patient):
        raise ValueError(f"{len(feature)} rows of features, {len(target)} of labels and {len(patient)} patients")
    if not np.isfinite(feature).all():
        raise ValueError("features must be finite numbers; some are NaN or infinite: leave those films out")
    score_VNK = np.zeros((len(penalties), *target.shape))
    for train, test in patient_folds(patient, FOLDS, seed):
        for v, ridge in enumerate(_path(feature[train], target[train], penalties)):
            score_VNK[v, test] = ridge(feature[test])
    auroc_V = [_mean_auroc(target, score_NK) for score_NK in score_VNK]
    best = int(np.argmax(np.nan_to_num(auroc_V, nan=-1.0)))
    return next(_path(feature, target, penalties[best : best + 1])), score_VNK[best]


def patient_folds(patient_N: npt.ArrayLike, folds: int, seed: int) -> Iterator[Round]:
    """(rows to fit on, rows held out), `folds` times; every patient is held out once. ValueError for one patient."""
    patient = np.asarray(patient_N)
    count = min(folds, len(np.unique(patient)))
    if count < 2:
        raise ValueError(f"films of {count} patient; folds by patient need at least 2")
    return iter(GroupKFold(count, shuffle=True, random_state=seed).split(patient, groups=patient))


def held_out(
    feature_ND: npt.ArrayLike,
    target_NK: npt.ArrayLike,
    patient_N: npt.ArrayLike,
    rounds: Sequence[Round],
    seed: int = 0,
) -> tuple[Floats, tuple[float, ...]]:
    """Scores N x K of the films that some round holds out, by a ridge fitted on the others of that round (NaN: held out
    by none), and the penalty of each round."""
    feature, target, patient = (
        np.asarray(feature_ND, np.float64),
        np.asarray(target_NK, np.float64),
        np.asarray(patient_N),
    )
    score_NK, penalties = np.full(target.shape, np.nan), []
    for fit, test in rounds:
        ridge = fit_ridge(feature[fit], target[fit], patient[fit], seed=seed)
        score_NK[test] = ridge(feature[test])
        penalties.append(ridge.penalty)
    return score_NK, tuple(penalties)


def rounds_within(patient_N: npt.ArrayLike, group_N: npt.ArrayLike, seed: int = 0) -> list[Round]:
    """Folds by patient inside each group of films; ValueError for a group of one patient."""
    patient, group = np.asarray(patient_N), np.asarray(group_N)
    rounds = []
    for name in np.unique(group):
        own = np.flatnonzero(group == name)
        rounds += [(own[fit], own[test]) for fit, test in patient_folds(patient[own], FOLDS, seed)]
    return rounds


def _path(feature_ND: Floats, target_NK: Floats, penalties: tuple[float, ...]) -> Iterator[Ridge]:
    """One ridge for each penalty, from one decomposition of the smaller of both products of the features."""
    mean_D, scale_D = feature_ND.mean(0), feature_ND.std(0)
    scale_D = np.where(scale_D > 1e-9 * (1 + np.abs(mean_D)), scale_D, np.inf)  # a constant feature says nothing
    unit_ND = (feature_ND - mean_D) / scale_D
    known_NK = ~np.isnan(target_NK)
    mean_K = np.where(known_NK, target_NK, 0).sum(0) / np.maximum(known_NK.sum(0), 1)
    away_NK = np.where(known_NK, target_NK - mean_K, 0)
    films, size = unit_ND.shape
    wide = size > films
    value, vector = np.linalg.eigh(unit_ND @ unit_ND.T if wide else unit_ND.T @ unit_ND)
    turned = vector.T @ (away_NK if wide else unit_ND.T @ away_NK)
    for penalty in penalties:
        solved = vector @ (turned / (np.maximum(value, 0) + penalty * films)[:, None])
        yield Ridge(penalty, mean_D, scale_D, unit_ND.T @ solved if wide else solved)


def _mean_auroc(target_NK: Floats, score_NK: Floats) -> float:
    """Over the labels that have both classes; NaN where none has."""
    auroc_K = metrics.auroc_table(target_NK, score_NK)
    known_K = ~np.isnan(auroc_K)
    return float(auroc_K[known_K].mean()) if known_K.any() else float("nan")
