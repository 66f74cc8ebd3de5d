"""How sure a share is: of hits, of films called rightly, of any values in [0, 1]; and whether it differs from chance.

A resample of five films without a hit has none either, so the percentiles of a bootstrap end where they begin and any
chance above 0 lies outside. Intervals here come from the binomial distribution, by as many films as those of so many
patients are worth; tests from each film's own chance, or from turning patients' differences round.

Shapes: N films (or cases), C clusters (patients), R resamples. Weights sum to 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from agcxr import uncertainty
from agcxr.metrics import Floats
from agcxr.uncertainty import FEW_PATIENTS, FEWEST_PATIENTS, Difference, Estimate

DRAWS, SUMS = 10_000, 2**12


@dataclass(frozen=True)
class Clustered:
    """How much each film counts in a mean, and whose film it is."""

    weight_N: Floats
    cluster_N: npt.NDArray[np.intp]
    """0 to C - 1."""
    clusters: int
    finding_N: npt.NDArray[np.intp]
    """0 to `findings` - 1; the mean is over so many."""
    findings: int

    @classmethod
    def of(cls, cluster_N: npt.ArrayLike, finding_N: npt.ArrayLike | None = None) -> Clustered:
        """Every film counts the same; with `finding_N` every finding does, and each of its films the same in it. Raises
        ValueError for no films."""
        name, cluster = np.unique(np.asarray(cluster_N), return_inverse=True)
        if not len(cluster):
            raise ValueError("no films were given; a share needs at least one")
        finding = np.zeros(len(cluster)) if finding_N is None else np.asarray(finding_N)
        _, which, films = np.unique(finding, return_inverse=True, return_counts=True)
        return cls(1 / (films[which] * len(films)), cluster, len(name), which, len(films))

    @property
    def films(self) -> float:
        """Films of equal weight that know as much: Kish's n, N where weights are equal."""
        return float(1 / np.square(self.weight_N).sum())

    def mean(self, value_N: Floats) -> float:
        """Over findings, of the means over their films."""
        return float(np.mean([value_N[self.finding_N == f].mean() for f in range(self.findings)]))

    def sums(self, value_N: Floats) -> Floats:
        """Weighted sum of each cluster, C numbers."""
        return np.bincount(self.cluster_N, self.weight_N * value_N, minlength=self.clusters).astype(np.float64)

    def effective(self, value_N: Floats, level: float) -> float:
        """Independent films that know the mean of these values as well (Korn and Graubard 1998).

        n over the design effect of clustering, which is at least 1; times the ratio of the t quantiles, for the
        design effect is itself estimated from few clusters. Values that are all the same tell no design effect: as many
        as clusters, as if films of a patient were one.
        """
        mean = self.mean(value_N)
        spread = float(self.weight_N @ (value_N - mean) ** 2)
        if self.clusters < 2 or spread < 1e-15:
            return min(self.films, float(self.clusters))
        error = self.sums(value_N - mean)
        alone = spread / (self.films - 1)  # variance of the mean, were each film a patient's only one
        design = max(1.0, self.clusters / (self.clusters - 1) * float(error @ error) / alone)
        tails = np.array([max(1.0, self.films - 1), self.clusters - 1])
        of_films, of_clusters = np.asarray(stats.t.ppf((1 + level) / 2, tails))
        return float(self.films / design * min(1.0, of_films / of_clusters) ** 2)


def share(value_N: npt.ArrayLike, sample: Clustered, level: float = 0.95) -> tuple[float, float, float]:
    """(Share, low, high) of values in [0, 1]: Clopper and Pearson's interval at the effective number of films.

    It holds for any values in [0, 1], for none vary more about their mean than 0 and 1 do. NaN ends of one patient.
    """
    value = np.asarray(value_N, dtype=np.float64)
    mean = sample.mean(value)
    if sample.clusters < 2:
        return mean, float("nan"), float("nan")
    return (mean, *uncertainty.binomial_ends(mean, sample.effective(value, level), level))


def poisson_binomial(chance_N: npt.ArrayLike, cluster_N: npt.ArrayLike, *, alike: bool = False) -> Floats:
    """Probabilities of 0 to N hits, N + 1 numbers, where film n hits with its own chance, patients independently.

    alike: films of a patient hit together, as far as their chances let them (a film never misses where another of less
    chance hits); else each for itself. The two ends of what films of a patient can have in common.
    """
    chance, cluster = np.asarray(chance_N, dtype=np.float64), np.asarray(cluster_N)
    each = cluster if alike else np.arange(len(chance))
    groups = [chance[each == name] for name in np.unique(each)]
    found = np.ones(1)
    for group in groups:
        at_least = np.r_[1.0, np.sort(group)[::-1], 0.0]
        found = np.convolve(found, -np.diff(at_least))
    return found


def p_of_chance(hit_N: npt.ArrayLike, chance_N: npt.ArrayLike, cluster_N: npt.ArrayLike) -> float:
    """Two-sided p of "every film hits with its own chance": twice the smaller tail of the exact distribution.

    Films of a patient may hit together or not; the larger p of both counts. They are the same with a film a patient.
    hit_N: 0 or 1, or between where several peaks tie (taken towards chance).
    """
    total, tails = float(np.asarray(hit_N, dtype=np.float64).sum()), []
    for alike in (False, True):
        of_hits = poisson_binomial(chance_N, cluster_N, alike=alike)
        under = of_hits[: int(np.ceil(total - 1e-9)) + 1].sum()
        over = of_hits[int(np.floor(total + 1e-9)) :].sum()
        tails.append(2 * min(under, over))
    return float(min(1.0, max(tails)))


def p_of_flips(difference_C: npt.ArrayLike) -> float:
    """Two-sided p of "either side could be the better one": the share of the ways to turn patients' differences round
    whose sum is as far from 0. With one film a patient and hits as values it is McNemar's test. Exact for fewer than
    FEW_PATIENTS patients with a difference and no more than SUMS different sums; else by the normal distribution."""
    apart = np.asarray(difference_C, dtype=np.float64)
    apart = apart[np.abs(apart) > 1e-12]
    sums, ways = np.zeros(1), np.ones(1)
    for one in apart[:FEW_PATIENTS]:
        sums, place = np.unique(np.round(np.r_[sums + one, sums - one], 12), return_inverse=True)
        ways = np.bincount(place, np.r_[ways, ways]).astype(np.float64)
        if len(sums) > SUMS:
            break
    if len(apart) >= FEW_PATIENTS or len(sums) > SUMS:
        return float(2 * stats.norm.sf(abs(apart.sum()) / np.sqrt(np.square(apart).sum())))
    return float(ways[np.abs(sums) >= abs(apart.sum()) - 1e-9].sum() / ways.sum())


def mean_of(
    value_N: npt.ArrayLike,
    sample: Clustered,
    replicate_R: Floats,
    level: float = 0.95,
    *,
    patients: int | None = None,
) -> Estimate:
    """The mean of values in [0, 1] with its interval: `share` for hits and misses of a finding, and where some patients
    have nothing but 0 (or but 1) and fewer than FEW_PATIENTS anything else; else percentiles of the resamples.
    patients: how many it rests on, where that is fewer than the sample has (a mean rests on its rarest finding)."""
    value = np.asarray(value_N, dtype=np.float64)
    patients = _rests_on(sample, patients)
    found = uncertainty.interval(sample.mean(value), replicate_R, level, patients=patients)
    if patients < FEWEST_PATIENTS or not _bare(value, sample):
        return found
    _, low, high = share(value, sample, level)
    return found.model_copy(update={"low": low, "high": high})


def against_chance(
    value_N: npt.ArrayLike,
    chance_N: npt.ArrayLike,
    sample: Clustered,
    replicate_R: Floats,
    level: float = 0.95,
    *,
    patients: int | None = None,
) -> Difference:
    """Mean of values in [0, 1] minus that of what each film's own chance gives; `replicate_R` is of the difference.

    Where `mean_of` has no percentiles, the interval is `share`'s less the mean chance, and p that of `p_of_chance`; an
    interval whose p does not exclude 0 is widened to hold it. Elsewhere as `uncertainty.difference`.
    """
    value, chance = np.asarray(value_N, dtype=np.float64), np.asarray(chance_N, dtype=np.float64)
    mean = sample.mean(chance)
    patients = _rests_on(sample, patients)
    found = uncertainty.difference(sample.mean(value) - mean, replicate_R, level, patients=patients)
    if patients < FEWEST_PATIENTS or not _bare(value, sample):
        return found
    _, low, high = share(value, sample, level)
    alone = sample.findings == 1
    p = p_of_chance(value, chance, sample.cluster_N) if alone else _p_of_draws(value, chance, sample)
    return _holding_zero(found, low - mean, high - mean, p, level)


def paired(
    difference_N: npt.ArrayLike,
    sample: Clustered,
    replicate_R: Floats,
    level: float = 0.95,
    *,
    patients: int | None = None,
) -> Difference:
    """Mean of the differences of two methods' values in [0, 1] on the same films; `replicate_R` is of that mean.

    p is that of `p_of_flips`, or of the resamples where that is larger, and an interval whose p does not exclude 0 is
    widened to hold it. Where some patients have no difference (or the largest) and fewer than FEW_PATIENTS another, the
    interval is Bonett and Price's (2012, one film added to those where either is better) at the effective number of
    films, and p that of the flips alone; elsewhere percentiles.
    """
    apart = np.asarray(difference_N, dtype=np.float64)
    patients = _rests_on(sample, patients)
    found = uncertainty.difference(sample.mean(apart), replicate_R, level, patients=patients)
    if patients < FEWEST_PATIENTS:
        return found
    p = p_of_flips(sample.sums(apart))
    if not _few_other_than((-1.0, 0.0, 1.0), apart, sample):
        return _holding_zero(found, found.low, found.high, float(np.fmax(p, found.p)), level)
    films = sample.effective(apart, level)
    better, worse = (float(sample.weight_N @ np.maximum(side * apart, 0)) for side in (1, -1))
    low, high = uncertainty.paired_ends(better, worse, films, level)
    return _holding_zero(found, low, high, p, level)


def _rests_on(sample: Clustered, patients: int | None) -> int:
    return sample.clusters if patients is None else min(patients, sample.clusters)


def _bare(value_N: Floats, sample: Clustered) -> bool:
    """A finding's hits and misses, or few patients with anything else beside some without."""
    binary = sample.findings == 1 and bool(np.isin(value_N, (0.0, 1.0)).all())
    return binary or _few_other_than((0.0, 1.0), value_N, sample)


def _few_other_than(values: tuple[float, ...], value_N: Floats, sample: Clustered) -> bool:
    """Some patients have nothing but one of these values, and fewer than FEW_PATIENTS others anything else: too few for
    resamples to show how many there might be."""
    others = (len(np.unique(sample.cluster_N[np.abs(value_N - value) > 1e-12])) for value in values)
    return any(count < min(FEW_PATIENTS, sample.clusters) for count in others)


def _holding_zero(found: Difference, low: float, high: float, p: float, level: float) -> Difference:
    low, high = min(low, found.value), max(high, found.value)
    if p >= 1 - level:
        low, high = min(low, 0.0), max(high, 0.0)
    return Difference(value=found.value, low=low, high=high, left_out=found.left_out, p=p)


def _p_of_draws(value_N: Floats, chance_N: Floats, sample: Clustered) -> float:
    """`p_of_chance` of a weighted mean, by DRAWS draws from each film's own chance, the data counted as one more."""
    total, tails = float(sample.weight_N @ value_N), []
    rng = np.random.default_rng(0)
    for count, whose_N in ((len(value_N), np.arange(len(value_N))), (sample.clusters, sample.cluster_N)):
        under = over = 1
        for start in range(0, DRAWS, 500):
            drawn_R = (rng.random((min(500, DRAWS - start), count))[:, whose_N] < chance_N) @ sample.weight_N
            under, over = under + int((drawn_R <= total + 1e-12).sum()), over + int((drawn_R >= total - 1e-12).sum())
        tails.append(2 * min(under, over) / (DRAWS + 1))
    return float(min(1.0, max(tails)))
