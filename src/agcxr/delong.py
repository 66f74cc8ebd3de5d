"""DeLong's covariance of AUROCs: a second opinion on the bootstrap's, which takes films as independent.

Shapes: N films, B scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from agcxr.metrics import Floats, known


@dataclass(frozen=True)
class Delong:
    """AUROCs of B scores on the same films with their covariance (DeLong 1988). Takes the films as independent."""

    auroc_B: Floats
    covariance_BB: Floats

    def interval(self, branch: int = 0, level: float = 0.95) -> tuple[float, float]:
        """Normal interval, cut to [0, 1]."""
        half = stats.norm.ppf((1 + level) / 2) * np.sqrt(max(0.0, self.covariance_BB[branch, branch]))
        value = self.auroc_B[branch]
        return float(np.clip(value - half, 0, 1)), float(np.clip(value + half, 0, 1))

    def p(self, a: int, b: int) -> float:
        """Two-sided p of equal AUROCs; 1 where the difference and its variance are both 0."""
        gap = self.auroc_B[a] - self.auroc_B[b]
        variance = self.covariance_BB[a, a] + self.covariance_BB[b, b] - 2 * self.covariance_BB[a, b]
        # Identical rankings leave rounding noise instead of 0.
        if abs(gap) < 1e-15 and variance < 1e-15:
            return 1.0
        if np.isnan(variance):
            return float("nan")
        return float(2 * stats.norm.sf(abs(gap) / np.sqrt(variance))) if variance > 0 else 0.0


def delong(target_N: npt.ArrayLike, score_BN: npt.ArrayLike) -> Delong:
    """DeLong's covariance by midranks in O(N log N) (Sun and Xu 2014).

    Meant for one film a patient: with several the intervals are too narrow. NaN where a class has fewer than two
    films, for then the variance has no estimate.
    """
    score = np.atleast_2d(np.asarray(score_BN, dtype=np.float64))
    masked = [known(target_N, row) for row in score]
    positive = masked[0][0]
    pos = np.stack([row[positive] for _, row, _ in masked])
    neg = np.stack([row[~positive] for _, row, _ in masked])
    branches, m, n = len(score), pos.shape[1], neg.shape[1]
    if m < 2 or n < 2:
        return Delong(np.full(branches, np.nan), np.full((branches, branches), np.nan))
    both = stats.rankdata(np.concatenate([pos, neg], axis=1), axis=1)
    # Share of negatives under each positive, and of positives over each negative; ties count half.
    under_BM = (both[:, :m] - stats.rankdata(pos, axis=1)) / n
    over_BN = 1 - (both[:, m:] - stats.rankdata(neg, axis=1)) / m
    covariance = np.atleast_2d(np.cov(under_BM)) / m + np.atleast_2d(np.cov(over_BN)) / n
    return Delong(under_BM.mean(axis=1), covariance)
