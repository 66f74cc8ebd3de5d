"""How sure a measure is: a bootstrap over patients, paired between branches.

Films of one patient are alike, so whole patients are drawn with replacement and every film of a patient counts as
often as its patient was drawn. All branches see the same draws, which makes their differences paired.

Shapes: N films, C clusters (patients), K labels, B branches, R resamples, P operating points.

The speed: a resample only changes how often a patient counts, not the order of the scores. Films are sorted once per
branch and label, and cut at the positives; the weight between two cuts, for all resamples at once, is a product of a
sparse matrix (films of each patient in each stretch) with how often each patient was drawn. AUROC and AP of each
resample follow exactly, ties included.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy import sparse, stats

from agcxr.machine import cores
from agcxr.metrics import Floats, known
from agcxr.values import Number, Record

In = TypeVar("In")
Out = TypeVar("Out")

CHUNK_BYTES = 6 * 2**20
"""Weights held at once; what stays in a cache is fastest. Results do not change: resamples are drawn singly."""
Counts = npt.NDArray[np.float32]
"""How often something counts: whole numbers, exact in float32 up to 16 million, at half the memory of float64."""


RESAMPLES = 10_000
"""The ends of an interval move by less than .001 then; of 1,000 by up to .003."""
FEWEST_PATIENTS = 2
"""Of one patient there is no interval and no p: a resample has that patient or has nothing."""
FEW_PATIENTS = 20
"""Under so many, intervals and p are rough: they are marked."""
SAME = 1e-12
"""Ends no farther apart come from resamples that are all the same, and so say nothing of chance."""


class Estimate(Record):
    """A measure with its interval: NaN ends where there is none."""

    value: Number
    low: Number
    high: Number
    left_out: int = 0
    """Resamples that lacked a class and so gave no value."""

    @property
    def clear(self) -> bool:
        """The interval leaves out 0."""
        return self.low > 0 or self.high < 0


class Difference(Estimate):
    """A paired difference, with a two-sided p of "no difference" (at least `p_floor`)."""

    p: Number
    error: Number = Field(default=math.nan, exclude=True)
    """Standard error: the standard deviation of the resamples."""


@dataclass(frozen=True)
class Replicates:
    """Every measure on every resample; NaN where the resample lacks a class."""

    auroc_BKR: Floats
    average_precision_BKR: Floats
    brier_BKR: Floats
    sensitivity_PBKR: Floats
    specificity_PBKR: Floats
    clusters: int
    """How many patients there are (or films, where each is its own cluster)."""


def cluster_weights(cluster_N: npt.ArrayLike, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Chunks N x r of how often each film counts in each resample: as often as its cluster was drawn.

    As many clusters are drawn as there are, with replacement. Successive chunks together have `resamples` columns.
    """
    name, cluster = np.unique(np.asarray(cluster_N), return_inverse=True)
    for count in _drawn(len(name), resamples, rng, step=CHUNK_BYTES // (8 * max(1, len(cluster)))):
        yield count[cluster].astype(np.float64)


def resample(
    measure: Callable[[Floats], Sequence[Floats]], cluster_N: npt.ArrayLike, resamples: int, rng: np.random.Generator
) -> tuple[Floats, ...]:
    """What `measure` makes of the films on resamples over clusters (patients): of weights N x r, as `cluster_weights`
    has them, some arrays ... x r; all resamples together ... x R."""
    return _joined(in_threads(measure, cluster_weights(cluster_N, resamples, rng)))


def _joined(chunks: Iterable[Sequence[Floats]]) -> tuple[Floats, ...]:
    return tuple(np.concatenate(part, axis=-1) for part in zip(*chunks, strict=True))


def in_threads(work: Callable[[In], Out], chunks: Iterable[In]) -> Iterator[Out]:
    """`work` of each chunk, in their order, as many at once as there are cores: NumPy and SciPy let others compute
    meanwhile. No more chunks are held than that."""
    at_once = cores()
    with ThreadPoolExecutor(at_once) as pool:
        waiting: deque[Future[Out]] = deque()
        for chunk in chunks:
            waiting.append(pool.submit(work, chunk))
            if len(waiting) > at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _drawn(clusters: int, resamples: int, rng: np.random.Generator, *, step: int) -> Iterator[Counts]:
    """Chunks C x r, r about `step`, of how often each cluster was drawn."""
    if clusters == 0:
        raise ValueError("no films were given; a bootstrap needs at least one")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}; {RESAMPLES:,} is usual")
    step = max(1, step)
    for start in range(0, resamples, step):
        count = np.empty((clusters, min(step, resamples - start)), np.float32)
        for column in range(count.shape[1]):
            draw = rng.integers(clusters, size=clusters)
            count[:, column] = np.bincount(draw, minlength=clusters)
        yield count


@dataclass(frozen=True)
class SortedCurve:
    """One branch's scores of one label, sorted once and cut at the scores G that positive films have."""

    positive_GC: sparse.csr_array
    """Positive films of each cluster at each such score, from high to low."""
    negative_SC: sparse.csr_array
    """Negative films of each in S = 2 G + 1 stretches: above the first such score, at it, between it and the next."""

    @classmethod
    def of(
        cls, target_N: npt.ArrayLike, score_N: npt.ArrayLike, cluster_N: npt.NDArray[np.intp], clusters: int
    ) -> SortedCurve | None:
        """None where a class is absent. cluster_N: each film's cluster, 0 to `clusters` - 1."""
        target = np.asarray(target_N, dtype=np.float64)
        whose = cluster_N[~np.isnan(target)]
        positive, score, _ = known(target, score_N)
        if positive.all() or not positive.any():
            return None
        cut = np.unique(-score[positive])
        left = np.searchsorted(cut, -score, side="left")
        right = np.searchsorted(cut, -score, side="right")
        return cls(
            _tally(left[positive], whose[positive], len(cut), clusters),
            _tally((left + right)[~positive], whose[~positive], 2 * len(cut) + 1, clusters),
        )

    def measures(self, count_CR: Counts) -> tuple[Floats, Floats]:
        """(AUROC, AP) of each resample, R numbers each; NaN where a class has no weight."""
        pos = self.positive_GC @ count_CR
        neg = np.cumsum(self.negative_SC @ count_CR, axis=0)
        above, through, total_neg = neg[0:-1:2], neg[1::2], neg[-1].astype(np.float64)
        true = np.cumsum(pos, axis=0)
        total_pos = true[-1].astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            # Negatives below a positive count one, those at its score a half.
            mean_above = np.einsum("gr,gr->r", pos, above + through, dtype=np.float64) / 2
            auroc = 1 - mean_above / (total_pos * total_neg)
            called = true + through
            precision = np.divide(true, called, out=np.zeros(true.shape), where=called > 0, dtype=np.float64)
            ap = np.einsum("gr,gr->r", pos, precision) / total_pos
        absent = (total_pos == 0) | (total_neg == 0)
        return np.where(absent, np.nan, auroc), np.where(absent, np.nan, ap)


def _tally(row: npt.NDArray[np.int64], column: npt.NDArray[np.intp], rows: int, columns: int) -> sparse.csr_array:
    """How many films there are of each row and column."""
    return sparse.csr_array((np.ones(len(row), np.float32), (row, column)), shape=(rows, columns))


def bootstrap(
    target_NK: npt.ArrayLike,
    score_BNK: npt.ArrayLike,
    cluster_N: npt.ArrayLike,
    *,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    threshold_PBK: npt.ArrayLike | None = None,
) -> Replicates:
    """All measures of all branches and labels on resamples over clusters (patients).

    target_NK: 0, 1 or NaN (unknown). score_BNK: probabilities. cluster_N: the patient of each film. threshold_PBK:
    operating points; a film is called positive when its score is at or over the threshold (NaN: not defined).
    """
    target = np.asarray(target_NK, dtype=np.float64)
    score = np.asarray(score_BNK, dtype=np.float64)
    branches, films, labels = score.shape
    if target.shape != (films, labels) or len(np.asarray(cluster_N)) != films:
        raise ValueError(
            f"targets {target.shape}, scores {score.shape} and {len(np.asarray(cluster_N))} clusters do not fit; "
            "expected films x labels, branches x films x labels, and one cluster per film"
        )
    threshold = np.zeros((0, branches, labels)) if threshold_PBK is None else np.asarray(threshold_PBK, np.float64)
    pairs = [(b, k) for b in range(branches) for k in range(labels)]
    name, cluster = np.unique(np.asarray(cluster_N), return_inverse=True)
    curves = [SortedCurve.of(target[:, k], score[b, :, k], cluster, len(name)) for b, k in pairs]
    sums = Sums.of(target, score, threshold, cluster, len(name))

    def measured(count_CR: Counts) -> tuple[Floats, ...]:
        nothing = np.full(count_CR.shape[1], np.nan)
        ranked = [curve.measures(count_CR) if curve else (nothing, nothing) for curve in curves]
        auroc, ap = (np.stack(part).reshape(branches, labels, -1) for part in zip(*ranked, strict=True))
        return (auroc, ap, *sums.measures(count_CR))

    counts = _drawn(len(name), resamples, rng, step=CHUNK_BYTES // (4 * max(1, len(name))))
    auroc, ap, brier, sensitivity, specificity = _joined(in_threads(measured, counts))
    return Replicates(auroc, ap, brier, sensitivity, specificity, clusters=len(name))


@dataclass(frozen=True)
class Sums:
    """What each cluster adds to Brier scores, sensitivities and specificities: ratios of weighted sums over films."""

    positive_CK: Floats
    negative_CK: Floats
    error_CBK: Floats
    hit_CPBK: Floats
    clear_CPBK: Floats
    undefined_PBK: Floats
    """NaN where there is no operating point, else 1."""

    @classmethod
    def of(
        cls,
        target_NK: Floats,
        score_BNK: Floats,
        threshold_PBK: Floats,
        cluster_N: npt.NDArray[np.intp],
        clusters: int,
    ) -> Sums:
        """cluster_N: each film's cluster, 0 to `clusters` - 1."""
        films = sparse.csr_array(
            (np.ones(len(cluster_N)), (cluster_N, np.arange(len(cluster_N)))), shape=(clusters, len(cluster_N))
        )

        def total(film_NX: npt.NDArray[np.generic]) -> Floats:
            return films @ film_NX.astype(np.float64)

        def totals(of_branches: list[npt.NDArray[np.generic]]) -> Floats:
            return np.stack([total(film_NK) for film_NK in of_branches], axis=1)

        positive, negative = target_NK == 1, target_NK == 0
        wrong = [np.where(np.isnan(target_NK), 0.0, (s - np.nan_to_num(target_NK)) ** 2) for s in score_BNK]
        shape = (clusters, *threshold_PBK.shape)
        hit, clear = np.empty(shape), np.empty(shape)
        for p, threshold_BK in enumerate(threshold_PBK):
            called = [s >= at for s, at in zip(score_BNK, threshold_BK, strict=True)]
            hit[:, p] = totals([positive & c for c in called])
            clear[:, p] = totals([negative & ~c for c in called])
        undefined = np.where(np.isnan(threshold_PBK), np.nan, 1.0)
        return cls(total(positive), total(negative), totals(wrong), hit, clear, undefined)

    def measures(self, count_CR: Counts) -> tuple[Floats, Floats, Floats]:
        """(Brier B x K x R, sensitivity and specificity P x B x K x R); NaN where a class has no weight."""
        exact_CR = count_CR.astype(np.float64)

        def drawn(sum_CX: Floats) -> Floats:
            return np.tensordot(sum_CX, exact_CR, axes=(0, 0))

        pos, neg = drawn(self.positive_CK), drawn(self.negative_CK)
        undefined = self.undefined_PBK[..., None]
        with np.errstate(invalid="ignore", divide="ignore"):
            brier = drawn(self.error_CBK) / (pos + neg)
            return brier, drawn(self.hit_CPBK) / pos * undefined, drawn(self.clear_CPBK) / neg * undefined


def mean_over(replicate_KR: Floats) -> Floats:
    """Mean over K findings on each resample, R numbers; NaN where the resample lacks any of them, for a mean over
    other findings is another measure. `interval` and `difference` leave such resamples out and count them."""
    return replicate_KR.mean(axis=0) if len(replicate_KR) else np.full(replicate_KR.shape[-1], np.nan)


def patients_of_the_rarer(target_N: npt.ArrayLike, patient_N: npt.ArrayLike) -> int:
    """How many patients have a film with the finding (1), or one without it (0), whichever are fewer. NaN: unknown."""
    target, patient = np.asarray(target_N), np.asarray(patient_N)
    return min(len(np.unique(patient[target == label])) for label in (0, 1))


def patients_with_a_label(target_N: npt.ArrayLike, patient_N: npt.ArrayLike) -> int:
    """How many patients have a film that is known to show the finding or not to: what a Brier score or an ECE rests
    on. NaN: unknown."""
    return len(np.unique(np.asarray(patient_N)[~np.isnan(np.asarray(target_N, dtype=np.float64))]))


def interval(
    value: float,
    replicate_R: Floats,
    level: float = 0.95,
    *,
    patients: int | None = None,
    student: bool = False,
    basic: bool = False,
    share: bool = True,
) -> Estimate:
    """Percentile interval of the resamples that have the measure; NaN ends where the value or all of them lack it.

    patients: how many the measure rests on (of two classes: `patients_of_the_rarer`; of both together:
    `patients_with_a_label`); fewer than two have no interval. None: not known, and taken as enough.
    student: as wide as Student's t makes an interval of so many patients (`widened`).
    basic: the basic interval, 2 value - percentiles, in [0, 1]: for measures that chance only makes larger, so that a
    resample is too large twice.
    share: the measure lies in [0, 1]. Where every resample has the same value (an AUROC of 1), its ends are then
    `binomial_ends` of so many patients: positive and negative films make at least as many independent pairs.
    """
    have = replicate_R[~np.isnan(replicate_R)]
    left_out = len(replicate_R) - len(have)
    low, high = _percentiles(value, have, level, patients, student)
    if basic:
        low, high = (float(np.clip(2 * value - end, 0, 1)) for end in (high, low))
    if share and patients is not None and high - low < SAME:
        low, high = binomial_ends(value, patients, level)
    return Estimate(value=float(value), low=low, high=high, left_out=left_out)


def difference(
    value: float, replicate_R: Floats, level: float = 0.95, *, patients: int | None = None, student: bool = False
) -> Difference:
    """Interval and p of a paired difference from its values on the resamples; `patients` and `student` as for
    `interval`.

    p = 2 min(share of resamples at or under 0, at or over 0), counting the data themselves as one more resample; so
    it is never 0: see `p_floor`. An interval whose p does not exclude 0 holds it: so few resamples that no p can.
    Where every resample has the same value, p is that of as many patients who all differ alike (the sign test), and
    the interval that of `paired_ends`.
    """
    have = replicate_R[~np.isnan(replicate_R)]
    left_out = len(replicate_R) - len(have)
    low, high = _percentiles(value, have, level, patients, student)
    if np.isnan(low):
        return Difference(value=float(value), low=low, high=high, left_out=left_out, p=math.nan)
    under, over = int(np.count_nonzero(have <= 0)), int(np.count_nonzero(have >= 0))
    p = min(1.0, 2 * (1 + min(under, over)) / (len(have) + 1))
    if student and patients is not None:
        p = float(2 * stats.t.sf(stats.norm.isf(p / 2) / np.sqrt(patients / (patients - 1)), patients - 1))
    if patients is not None and high - low < SAME:
        low, high = paired_ends(max(value, 0.0), max(-value, 0.0), patients, level)
        p = 1.0 if abs(value) < SAME else max(p, 2.0 ** (1 - patients))
    if p >= 1 - level:
        low, high = min(low, 0.0), max(high, 0.0)
    error = float(have.std(ddof=1)) if len(have) > 1 else float("nan")
    return Difference(value=float(value), low=low, high=high, left_out=left_out, p=p, error=error)


def binomial_ends(share: float, films: float, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a share of so many independent films; of 0 or 1 one end is exact."""
    hits, tail = share * films, (1 - level) / 2
    low = 0.0 if hits < SAME else round(float(stats.beta.ppf(tail, hits, films - hits + 1)), 12)
    high = 1.0 if films - hits < SAME else round(float(stats.beta.ppf(1 - tail, hits + 1, films - hits)), 12)
    return min(low, share), max(high, share)


def paired_ends(better: float, worse: float, films: float, level: float = 0.95) -> tuple[float, float]:
    """Bonett and Price's (2012) interval of the difference of the shares of independent films that are better and
    worse, one film added to each."""
    better, worse = ((films * share + 1) / (films + 2) for share in (better, worse))
    half = float(stats.norm.ppf((1 + level) / 2)) * np.sqrt((better + worse - (better - worse) ** 2) / (films + 2))
    low, high = np.clip([better - worse - half, better - worse + half], -1, 1).tolist()
    return low, high


def widened(level: float, patients: int) -> float:
    """The level whose percentiles are as wide as Student's t makes them, which of few patients are else too narrow
    (Hesterberg 2015, "expanded percentiles")."""
    half = stats.t.ppf((1 + level) / 2, patients - 1) * np.sqrt(patients / (patients - 1))
    return float(1 - 2 * stats.norm.sf(half))


def p_floor(resamples: int, left_out: int) -> float:
    """The smallest p that `difference` can give: 2 / (R + 1) for the R resamples that have the measure, those that were
    left out not among them; .002 for 1,000."""
    return 2 / (resamples - left_out + 1)


def check_level(level: float) -> None:
    """ValueError for what is no share."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level:g}; expected a share between 0 and 1, such as 0.95")


def _percentiles(value: float, have: Floats, level: float, patients: int | None, student: bool) -> tuple[float, float]:
    check_level(level)
    if np.isnan(value) or len(have) == 0 or (patients is not None and patients < FEWEST_PATIENTS):
        return float("nan"), float("nan")
    if student and patients is not None:
        level = widened(level, patients)
    low, high = np.quantile(have, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def holm(p_K: npt.ArrayLike) -> Floats:
    """p values of K tests at once, so that the chance of any false finding among them stays at the level (Holm 1979).
    NaN where there is no test."""
    p = np.asarray(p_K, dtype=np.float64)
    order = np.argsort(p)[: int(np.count_nonzero(~np.isnan(p)))]
    out = np.full_like(p, np.nan)
    out[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return out


def false_discovery(p_K: npt.ArrayLike) -> Floats:
    """p values of K tests at once, so that the expected share of false ones among those called stays at the level
    (Benjamini and Hochberg 1995). NaN where there is no test."""
    p = np.asarray(p_K, dtype=np.float64)
    out, tested = np.full_like(p, np.nan), ~np.isnan(p)
    if tested.any():
        out[tested] = stats.false_discovery_control(p[tested])
    return out


def detectable(error: float, level: float = 0.95, power: float = 0.8) -> float:
    """The least difference whose interval would leave out 0 in `power` of such samples, from its standard error."""
    return float(error * (stats.norm.ppf((1 + level) / 2) + stats.norm.ppf(power)))


def power(difference: float, error: float, level: float = 0.95) -> float:
    """In which share of such samples the interval of a true difference would leave out 0 on its side."""
    return float(stats.norm.cdf(abs(difference) / error - stats.norm.ppf((1 + level) / 2))) if error > 0 else 1.0
