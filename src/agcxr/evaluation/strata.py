"""AUROC where a property of the films, such as the view position, cannot help: among films alike in it, or balanced.

Shapes: N films, K findings, B branches, R resamples, M measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from agcxr import uncertainty
from agcxr.metrics import Floats
from agcxr.uncertainty import Difference, Estimate

RESAMPLES = 1000
"""At most: each costs more than one of the plain AUROC."""

Measure: TypeAlias = Callable[[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike | None], Floats]
"""Of (targets N, scores N, how often each film counts in each of R resamples N x R): R numbers."""


def codes(value_N: pd.Series) -> npt.NDArray[np.intp]:
    """A number for each value of a property; films that do not state it are a group of their own."""
    return np.asarray(pd.factorize(value_N, use_na_sentinel=False)[0], np.intp)


def matched_auroc(
    target_N: npt.ArrayLike, score_N: npt.ArrayLike, stratum_N: npt.ArrayLike, weight_NR: npt.ArrayLike | None = None
) -> Floats:
    """AUROC over the pairs of one positive and one negative film of the same stratum, R numbers.

    weight_NR: how often each film counts in each resample (default: once, R = 1). NaN where no stratum has a pair.
    With one stratum it is the AUROC.
    """
    target, score, stratum, weight = _checked(target_N, score_N, stratum_N, weight_NR)
    won_R, pairs_R = np.zeros(weight.shape[1]), np.zeros(weight.shape[1])
    for name in np.unique(stratum):
        own = stratum == name
        positive = target[own] == 1
        if positive.all() or not positive.any():
            continue
        count_NR = weight[own].astype(np.float32)
        size_R = count_NR[positive].sum(0, dtype=np.float64) * count_NR[~positive].sum(0, dtype=np.float64)
        won_R += np.nan_to_num(_auroc(target[own], score[own], count_NR)) * size_R
        pairs_R += size_R
    return np.divide(won_R, pairs_R, out=np.full_like(won_R, np.nan), where=pairs_R > 0)


def balanced_auroc(
    target_N: npt.ArrayLike, score_N: npt.ArrayLike, stratum_N: npt.ArrayLike, weight_NR: npt.ArrayLike | None = None
) -> Floats:
    """AUROC where the negative films are weighted so that each stratum has the same share of them as of the positive
    ones (the distribution among cases, as in Janes and Pepe 2009): a score that knows the stratum alone gets .5.

    weight_NR: as for `matched_auroc`. Strata without a negative film are left out, having nothing to be balanced by;
    NaN for a resample in which another stratum has lost all of them, or where a class is absent.
    """
    target, score, stratum, weight = _checked(target_N, score_N, stratum_N, weight_NR)
    positive = target == 1
    keep = np.isin(stratum, np.unique(stratum[~positive]))
    target, score, stratum, weight, positive = target[keep], score[keep], stratum[keep], weight[keep], positive[keep]
    if positive.all() or not positive.any():
        return np.full(weight.shape[1], np.nan)
    count_NR = weight.astype(np.float64)
    lost_R = np.zeros(weight.shape[1], dtype=bool)
    for name in np.unique(stratum):
        with_it, without = (stratum == name) & positive, (stratum == name) & ~positive
        cases_R, controls_R = count_NR[with_it].sum(0), count_NR[without].sum(0)
        count_NR[without] *= np.divide(cases_R, controls_R, out=np.zeros_like(cases_R), where=controls_R > 0)
        lost_R |= (controls_R == 0) & (cases_R > 0)
    return np.where(lost_R, np.nan, _auroc(target, score, count_NR))


def plain_auroc(target_N: npt.ArrayLike, score_N: npt.ArrayLike, weight_NR: npt.ArrayLike | None = None) -> Floats:
    """AUROC of all pairs, R numbers."""
    return matched_auroc(target_N, score_N, np.zeros(len(np.asarray(target_N)), np.intp), weight_NR)


def _checked(
    target_N: npt.ArrayLike, score_N: npt.ArrayLike, stratum_N: npt.ArrayLike, weight_NR: npt.ArrayLike | None
) -> tuple[Floats, Floats, npt.NDArray[np.generic], npt.NDArray[np.generic]]:
    """Of the films whose target is known."""
    target, score, stratum = np.asarray(target_N, np.float64), np.asarray(score_N, np.float64), np.asarray(stratum_N)
    weight = np.ones((len(target), 1)) if weight_NR is None else np.asarray(weight_NR)
    keep = ~np.isnan(target)
    return target[keep], score[keep], stratum[keep], weight[keep]


def _auroc(target_N: Floats, score_N: Floats, weight_NR: npt.NDArray[np.floating]) -> Floats:
    """Of films of both classes, each with a weight of its own."""
    curve = uncertainty.SortedCurve.of(target_N, score_N, np.arange(len(target_N)), len(target_N))
    assert curve is not None
    return curve.measures(weight_NR)[0]


@dataclass(frozen=True)
class Averages:
    """Several measures of several branches, each the mean over the findings that have them all."""

    value_MBK: Floats
    """Of every finding; NaN where it has none."""
    value_MB: Floats
    replicate_MBR: Floats
    patients: int
    """Of the rarer class of the rarest finding in the mean."""
    findings: int
    """In the mean."""

    def interval(self, m: int, b: int, level: float = 0.95) -> Estimate:
        """One measure of one branch."""
        value, replicate_R = float(self.value_MB[m, b]), self.replicate_MBR[m, b]
        alone = self.findings == 1
        return uncertainty.interval(value, replicate_R, level, patients=self.patients, student=alone)

    def change(self, m: int, against: int, b: int, level: float = 0.95) -> Difference:
        """One measure minus another, of one branch."""
        value = float(self.value_MB[m, b] - self.value_MB[against, b])
        replicate_R = self.replicate_MBR[m, b] - self.replicate_MBR[against, b]
        alone = self.findings == 1
        return uncertainty.difference(value, replicate_R, level, patients=self.patients, student=alone)


def averages(
    measures: Sequence[Measure],
    target_NK: npt.ArrayLike,
    score_BNK: npt.ArrayLike,
    patient_N: npt.ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Averages:
    """All measures on the films and on the same resamples of patients."""
    target, score = np.asarray(target_NK, np.float64), np.asarray(score_BNK, np.float64)
    shape = (len(measures), len(score))
    values = [m(t, s, None)[0] for m in measures for b in score for t, s in zip(target.T, b.T, strict=True)]
    value_MBK = np.array(values, np.float64).reshape(*shape, target.shape[1])
    used = np.flatnonzero(~np.isnan(value_MBK).any(axis=(0, 1)))

    def means(weight_NR: npt.ArrayLike) -> list[Floats]:
        """R numbers of every measure and branch."""
        return [
            uncertainty.mean_over(np.stack([m(target[:, k], b[:, k], weight_NR) for k in used]))
            for m in measures
            for b in score
        ]

    if not len(used) or not len(score):
        return Averages(value_MBK, np.full(shape, np.nan), np.full((*shape, resamples), np.nan), 0, 0)
    replicates = uncertainty.resample(means, patient_N, resamples, np.random.default_rng(seed))
    replicate_MBR = np.stack(replicates).reshape(*shape, resamples)
    fewest = min(uncertainty.patients_of_the_rarer(target[:, k], patient_N) for k in used)
    return Averages(value_MBK, value_MBK[:, :, used].mean(axis=2), replicate_MBR, fewest, len(used))


def same_view(
    target_NK: npt.ArrayLike,
    score_BNK: npt.ArrayLike,
    patient_N: npt.ArrayLike,
    view_N: pd.Series,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Estimate, ...]:
    """Mean `matched_auroc` over K findings of each of B branches, its interval over patients.

    What is left of an AUROC where the view position cannot help. None for no findings, for a finding without a pair
    of one view, and for films of one view or of no known view, of which it would be the AUROC again.
    """
    target, score, view = np.asarray(target_NK, np.float64), np.asarray(score_BNK, np.float64), codes(view_N)
    if not target.shape[1] or view_N.nunique() < 2:
        return ()
    means = averages([within(view)], target, score, patient_N, resamples=resamples, seed=seed)
    return tuple(means.interval(0, b, level) for b in range(len(score))) if means.findings == target.shape[1] else ()


def within(stratum_N: npt.ArrayLike) -> Measure:
    """`matched_auroc` by these strata."""
    return lambda target_N, score_N, weight_NR: matched_auroc(target_N, score_N, stratum_N, weight_NR)


def balanced(stratum_N: npt.ArrayLike) -> Measure:
    """`balanced_auroc` by these strata."""
    return lambda target_N, score_N, weight_NR: balanced_auroc(target_N, score_N, stratum_N, weight_NR)
