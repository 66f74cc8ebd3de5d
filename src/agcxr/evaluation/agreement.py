"""How far probabilities agree with what was found: Brier, ECE, observed against expected; on films and on resamples.

Definitions with formulas are in docs/intervals.md. Shapes: N films, R resamples, B bins, G groups of like
probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from agcxr import metrics, uncertainty
from agcxr.metrics import Floats
from agcxr.uncertainty import Estimate

BINS = 15
"""Of equal width, for the ECE; as `metrics.ece`."""
GROUPS = 128
"""Of equal size, that the calibration-in-the-large of a resample is solved over."""
EPSILON = 1e-7
STEPS = 30


class AgreementMeasures(NamedTuple):
    """One number each on the films themselves, R numbers each on resamples. NaN where there is nothing to measure."""

    brier: Floats
    ece: Floats
    observed: Floats
    """Positive films."""
    expected: Floats
    """Sum of the probabilities."""
    in_the_large: Floats
    """What must be added to the logits for observed and expected to be equal; 0 is best."""

    @property
    def ratio(self) -> Floats:
        """Observed / expected; 1 is best, under 1 the probabilities are too high."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.expected > 0, self.observed / self.expected, np.nan)


@dataclass(frozen=True)
class BinnedScores:
    """One label's probabilities, binned once: every measure of a resample is made of weighted sums."""

    sums_MN: sparse.csr_array
    """Rows: films, probability and positives of each ECE bin; squared error; films of each group."""
    logit_G: Floats
    """Mean logit of each group."""
    chance_ece: float
    """What the ECE would be on average if the probabilities were right, by the luck of so few films alone."""

    @classmethod
    def of(cls, target_N: npt.ArrayLike, probability_N: npt.ArrayLike, groups: int = GROUPS) -> BinnedScores:
        """Targets 0, 1 or NaN (unknown: left out); probabilities in [0, 1]. ValueError for others."""
        target = np.asarray(target_N, dtype=np.float64)
        positive, probability, _ = metrics.known(target, probability_N)
        if len(probability) and (probability.min() < 0 or probability.max() > 1):
            raise ValueError(
                f"probabilities must lie in [0, 1], found {probability.min():g} to {probability.max():g}; "
                "apply the sigmoid to logits first"
            )
        film = np.flatnonzero(~np.isnan(target))
        bins = np.minimum((probability * BINS).astype(np.int64), BINS - 1)
        group, logit_G = _groups(probability, groups)
        parts = (
            (bins, np.ones(len(film))),
            (BINS + bins, probability),
            (2 * BINS + bins, positive.astype(np.float64)),
            (np.full(len(film), 3 * BINS), (probability - positive) ** 2),
            (3 * BINS + 1 + group, np.ones(len(film))),
        )
        rows, values = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        shape = (3 * BINS + 1 + len(logit_G), len(target))
        variance = np.bincount(bins, probability * (1 - probability), minlength=BINS)
        chance = np.sqrt(2 / np.pi * variance).sum() / len(film) if len(film) else np.nan
        return cls(sparse.csr_array((values, (rows, np.tile(film, len(parts)))), shape=shape), logit_G, float(chance))

    def measures(self, weight_NR: Floats) -> AgreementMeasures:
        """`weight_NR`: how often each film counts."""
        sums = self.sums_MN @ weight_NR
        count, probability, positive = (sums[i * BINS : (i + 1) * BINS] for i in range(3))
        films, observed = count.sum(axis=0), positive.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return AgreementMeasures(
                brier=sums[3 * BINS] / films,
                ece=np.abs(positive - probability).sum(axis=0) / films,
                observed=observed,
                expected=probability.sum(axis=0),
                in_the_large=_in_the_large(self.logit_G, sums[3 * BINS + 1 :], observed, films),
            )


def replicates(
    tallies: list[BinnedScores], cluster_N: npt.ArrayLike, *, resamples: int, seed: int
) -> list[AgreementMeasures]:
    """Every tally's measures on the same resamples of whole clusters (patients)."""
    rng, width = np.random.default_rng(seed), len(AgreementMeasures._fields)
    flat = uncertainty.resample(
        lambda weight_NR: [each for tally in tallies for each in tally.measures(weight_NR)], cluster_N, resamples, rng
    )
    return [AgreementMeasures(*flat[start : start + width]) for start in range(0, len(flat), width)]


def reflected(value: float, replicate_R: Floats, level: float, *, patients: int | None = None) -> Estimate:
    """The basic bootstrap interval, 2 value - percentiles, in [0, 1]: for measures that noise only makes larger.
    Widened to the value itself where it would not hold it. `patients` as for `uncertainty.interval`.

    An ECE measured on few films is too large, and on a resample of them too large twice; a percentile interval would
    lie above the truth.
    """
    estimate = uncertainty.interval(value, replicate_R, level, patients=patients, basic=True)
    return estimate.model_copy(update={"low": min(estimate.low, value), "high": max(estimate.high, value)})


def _groups(probability_N: Floats, most: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Films of like probability together: exact where there are no more distinct values than groups."""
    values, group = np.unique(probability_N, return_inverse=True)
    if len(values) > most:
        edges = np.quantile(probability_N, np.arange(1, most) / most)
        group = np.unique(np.searchsorted(edges, probability_N, side="right"), return_inverse=True)[1]
    clipped = np.clip(probability_N, EPSILON, 1 - EPSILON)
    logit = np.log(clipped) - np.log1p(-clipped)
    return group.astype(np.int64), np.bincount(group, logit) / np.maximum(np.bincount(group), 1)


def _in_the_large(logit_G: Floats, count_GR: Floats, observed_R: Floats, films_R: Floats) -> Floats:
    """a with sum of sigmoid(logit + a) = observed, by Newton's method; NaN where all films or none are positive."""
    shift = np.zeros(len(observed_R))
    if not len(logit_G):
        return shift + np.nan
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-(logit_G[:, None] + shift)))
        slope = np.maximum((count_GR * p * (1 - p)).sum(axis=0), 1e-12)
        step = np.clip((observed_R - (count_GR * p).sum(axis=0)) / slope, -2, 2)
        shift = shift + step
        if np.abs(step[(observed_R > 0) & (observed_R < films_R)]).max(initial=0) < 1e-6:
            break
    return np.where((observed_R > 0) & (observed_R < films_R), shift, np.nan)
