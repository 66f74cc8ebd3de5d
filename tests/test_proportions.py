"""Shares: intervals that hold the truth at 0 and 1, and tests that are not clear where nothing is there."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from agcxr import uncertainty
from agcxr.proportions import (
    Clustered,
    against_chance,
    mean_of,
    p_of_chance,
    p_of_flips,
    paired,
    poisson_binomial,
    share,
)

BOOTSTRAP = 100


def resampled(value_N: np.ndarray, sample: Clustered, rng: np.random.Generator) -> np.ndarray:
    """Means on resamples of clusters."""
    draw = rng.integers(sample.clusters, size=(BOOTSTRAP, sample.clusters))
    weight = np.stack([np.bincount(row, minlength=sample.clusters) for row in draw])[:, sample.cluster_N]
    return weight @ value_N / weight.sum(axis=1)


@pytest.mark.parametrize(("hits", "films"), [(0, 5), (0, 85), (5, 5), (1, 33), (40, 85)])
def test_with_a_film_a_patient_it_is_clopper_and_pearsons_interval(hits: int, films: int) -> None:
    exact = stats.binomtest(hits, films).proportion_ci(method="exact")
    mean, low, high = share(np.arange(films) < hits, Clustered.of(range(films)))
    assert (mean, low, high) == pytest.approx((hits / films, exact.low, exact.high), abs=1e-9)


def test_films_of_a_patient_count_less() -> None:
    # Four films of each of 10 patients, all of a patient alike: 10 films are known, not 40.
    value, cluster = np.repeat(np.arange(10) < 5, 4), np.repeat(np.arange(10), 4)
    sample = Clustered.of(cluster)
    # Design effect 4 * 10 / 9 * 39 / 40, and the quantiles of t with 39 and 9 degrees of freedom.
    expected = 40 / (4 * 10 / 9 * 39 / 40) * (stats.t.ppf(0.975, 39) / stats.t.ppf(0.975, 9)) ** 2
    assert sample.effective(value.astype(float), 0.95) == pytest.approx(expected)
    assert share(value, sample)[1] < stats.binomtest(20, 40).proportion_ci(method="exact").low
    assert sample.effective(np.zeros(40), 0.95) == 10
    none = stats.binomtest(0, 10).proportion_ci(method="exact")
    assert share(np.zeros(40), sample) == pytest.approx((0, 0, none.high), abs=1e-9)


def test_findings_weigh_the_same_in_a_mean() -> None:
    sample = Clustered.of(["a", "b", "c", "d"], ["Mass", "Mass", "Mass", "Hernia"])
    np.testing.assert_allclose(sample.weight_N, [1 / 6, 1 / 6, 1 / 6, 1 / 2])
    assert sample.mean(np.array([1.0, 0, 0, 1])) == pytest.approx(2 / 3)
    assert sample.films == pytest.approx(3)


def test_one_patient_has_no_interval_and_no_films_are_refused() -> None:
    mean, low, high = share([1, 0], Clustered.of(["a", "a"]))
    assert (mean, math.isnan(low), math.isnan(high)) == (0.5, True, True)
    with pytest.raises(ValueError, match="no films were given; a share needs at least one"):
        Clustered.of([])


@pytest.mark.parametrize("each", [1, 3])
@pytest.mark.parametrize("films", [5, 10, 33, 85])
@pytest.mark.parametrize("truth", [0.0, 0.02, 0.5, 1.0])
def test_intervals_hold_the_truth(truth: float, films: int, each: int) -> None:
    """Also where films of a patient are alike half of the time: at least .93 of 95 % intervals."""
    rng, cluster = np.random.default_rng(0), np.arange(films) // each
    sample, held = Clustered.of(cluster), 0
    for _ in range(200):
        own, shared = rng.random(films) < truth, (rng.random(sample.clusters) < truth)[cluster]
        _, low, high = share(np.where(rng.random(sample.clusters)[cluster] < 0.5, shared, own), sample)
        held += low <= truth <= high
        assert low < high
    assert held >= 0.93 * 200


def test_poisson_binomial_by_hand() -> None:
    # Misses .5 * .8, hits .5 * .2, else one.
    np.testing.assert_allclose(poisson_binomial([0.5, 0.2], ["a", "b"]), [0.4, 0.5, 0.1])
    # Films of one patient hit together: both .2 of the time, the likelier one alone .3.
    np.testing.assert_allclose(poisson_binomial([0.5, 0.2], ["a", "a"], alike=True), [0.5, 0.3, 0.2])
    np.testing.assert_allclose(poisson_binomial([0.3] * 6, range(6)), stats.binom.pmf(range(7), 6, 0.3))


def test_p_of_chance_by_hand() -> None:
    assert p_of_chance([0] * 5, [0.05] * 5, range(5)) == 1  # 2 * .95^5 is over 1
    assert p_of_chance([0] * 85, [0.05] * 85, range(85)) == pytest.approx(2 * 0.95**85)
    assert p_of_chance([1, 1], [0.1, 0.2], ["a", "b"]) == pytest.approx(2 * 0.02)
    assert p_of_chance([1, 1], [0.1, 0.2], ["a", "a"]) == pytest.approx(2 * 0.1)  # together as often as the rarer one
    assert p_of_chance([0.5], [0.01], ["a"]) == 1  # a tied peak is taken towards chance


def test_p_of_flips_is_mcnemars() -> None:
    assert p_of_flips([1] * 5 + [0] * 80) == 2 / 2**5
    assert p_of_flips([1] * 8 + [-1] * 2) == pytest.approx(stats.binomtest(8, 10).pvalue)
    assert p_of_flips([0, 0]) == 1
    assert p_of_flips([1] * 30 + [-1] * 10) == pytest.approx(2 * stats.norm.sf(20 / 40**0.5))
    # Sums of unlike differences are too many to list; the normal distribution is near them.
    unlike = np.random.default_rng(0).random(15) - 0.3
    signs = np.where(np.arange(2**15)[:, None] >> np.arange(15) & 1, 1, -1)
    exact = (np.abs(signs @ unlike) >= unlike.sum() - 1e-9).mean()
    assert p_of_flips(unlike) == pytest.approx(exact, abs=0.02)


def test_no_hit_in_few_films_is_no_less_than_chance() -> None:
    """As 0 of 5, 0 of 33 and 0 of 85 were called surely worse: the last one is, where chance is 5 %."""
    for films, clear in ((5, False), (33, False), (85, True)):
        hit, chance, sample = np.zeros(films), np.full(films, 0.05), Clustered.of(range(films))
        found = against_chance(hit, chance, sample, np.full(BOOTSTRAP, -0.05))
        assert found.value == pytest.approx(-0.05)
        assert (found.high < 0) == clear == (found.p < 0.05)
        old = uncertainty.difference(-0.05, np.full(BOOTSTRAP, -0.05))
        assert old.low == old.high == -0.05


@pytest.mark.parametrize("alike", [0.0, 1.0])
@pytest.mark.parametrize(("films", "each"), [(5, 1), (33, 1), (33, 3), (85, 1), (85, 3)])
@pytest.mark.parametrize("chance", [0.02, 0.1])
def test_nothing_is_clear_where_there_is_no_effect(chance: float, films: int, each: int, alike: float) -> None:
    rng, cluster = np.random.default_rng(0), np.arange(films) // each
    sample, clear = Clustered.of(cluster), 0
    for _ in range(200):
        own = np.clip(chance * rng.uniform(0.3, 1.7, films), 0, 1)
        luck = np.where(
            rng.random(sample.clusters)[cluster] < alike, rng.random(sample.clusters)[cluster], rng.random(films)
        )
        hit = (luck < own).astype(float)
        found = against_chance(hit, own, sample, resampled(hit - own, sample, rng))
        clear += found.low > 0 or found.high < 0
    assert clear <= 0.05 * 200


def test_a_mean_over_findings_of_few_hits_is_not_clear_either() -> None:
    rng, clear = np.random.default_rng(0), 0
    finding, patient = np.repeat(["Mass", "Nodule", "Hernia"], [5, 12, 9]), np.arange(26) // 2
    sample = Clustered.of(patient, finding)
    for _ in range(40):
        chance = rng.uniform(0.02, 0.1, 26)
        hit = (rng.random(26) < chance).astype(float)
        found = against_chance(hit, chance, sample, resampled(hit - chance, sample, rng))
        clear += found.low > 0 or found.high < 0
    assert clear <= 0.05 * 40
    sure = against_chance(np.ones(26), np.full(26, 0.1), sample, np.full(BOOTSTRAP, 0.9))
    assert sure.low > 0
    assert sure.p < 0.001


@pytest.mark.parametrize("films", [5, 10, 33, 85])
@pytest.mark.parametrize("apart", [0.0, 0.02, 0.1, 0.3])
def test_paired_calls_that_differ_by_chance_are_not_clear(apart: float, films: int) -> None:
    rng, sample, clear = np.random.default_rng(0), Clustered.of(range(films)), 0
    for _ in range(200):
        luck = rng.random(films)
        difference = np.where(luck < apart, 1.0, np.where(luck < 2 * apart, -1.0, 0.0))
        found = paired(difference, sample, resampled(difference, sample, rng))
        clear += found.low > 0 or found.high < 0
        assert found.low < found.high
    assert clear <= 0.06 * 200


def test_five_calls_that_agree_are_not_clear_and_six_are() -> None:
    for films, clear in ((5, False), (6, True)):
        found = paired(np.ones(films), Clustered.of(range(films)), np.ones(BOOTSTRAP))
        assert (found.value, found.p, found.high) == (1, 2 / 2**films, 1)
        assert (found.low > 0) == clear


def test_values_between_keep_their_percentiles() -> None:
    rng = np.random.default_rng(0)
    value, sample = rng.uniform(0.4, 0.6, 12), Clustered.of(range(12))
    replicate = resampled(value, sample, rng)
    assert mean_of(value, sample, replicate) == uncertainty.interval(value.mean(), replicate)
    overlap = np.r_[np.zeros(30), [0.3, 0.2]]  # few with any: as wide as hits of the same mean could be
    few = Clustered.of(range(32))
    assert mean_of(overlap, few, resampled(overlap, few, rng)).high == pytest.approx(share(overlap, few)[2])
