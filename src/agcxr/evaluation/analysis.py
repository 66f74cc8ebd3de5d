"""Scores of branches -> every measure with its uncertainty. Shared by `evaluate`, `score` and subgroups.

Shapes: N films, K labels, B branches, P operating points, R resamples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from agcxr import metrics, uncertainty
from agcxr.delong import Delong, delong
from agcxr.evaluation.estimates import tidy
from agcxr.evaluation.results import (
    Analysis,
    BranchDifference,
    BranchResult,
    FindingResult,
    KindResult,
    MeanResult,
    Measure,
    OperatingResult,
    Resampling,
)
from agcxr.findings import Findings
from agcxr.metrics import Floats
from agcxr.proportions import Clustered, mean_of, paired
from agcxr.uncertainty import FEW_PATIENTS, FEWEST_PATIENTS, RESAMPLES, Difference, Estimate, Replicates, mean_over


@dataclass(frozen=True)
class Scores:
    """What branches said of films, beside the truth."""

    labels: tuple[str, ...]
    branches: tuple[str, ...]
    target_NK: Floats
    """0, 1 or NaN (unknown)."""
    score_BNK: Floats
    """Probabilities in [0, 1]."""
    patient_N: npt.NDArray[np.generic]
    """Names or numbers; or film names, where patients are not known."""
    findings: Findings = None  # type: ignore[assignment]
    """The labels, and perhaps others, with what is known of them; default: what is known of labels so called."""

    def __post_init__(self) -> None:
        if self.findings is None:
            object.__setattr__(self, "findings", Findings.of(self.labels))

    def subset(self, keep_N: npt.NDArray[np.bool_]) -> Scores:
        """The films where `keep_N` is true: a subgroup."""
        return replace(
            self,
            target_NK=self.target_NK[keep_N],
            score_BNK=self.score_BNK[:, keep_N],
            patient_N=self.patient_N[keep_N],
        )


@dataclass(frozen=True)
class Points:
    """Operating points by name, with the threshold of every branch and label (NaN: not defined)."""

    names: tuple[str, ...]
    threshold_PBK: Floats
    positives_K: npt.NDArray[np.number] | None = None
    """Positive films that they were chosen on."""

    @classmethod
    def none(cls, branches: int, labels: int) -> Points:
        """No operating point."""
        return cls((), np.zeros((0, branches, labels)))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Films with the scores of branches beside the truth, and every measure of them: a run's, or those of any program's
    table."""

    scores: Scores
    analysis: Analysis

    @classmethod
    def of(cls, scores: Scores, **how: Any) -> Evaluation:
        """Measured by `analyse`, which takes the rest."""
        return cls(scores, analyse(scores, **how))

    @property
    def estimates(self) -> pd.DataFrame:
        """Every measure as one tidy table, a row an estimate; see `estimates.tidy`."""
        return tidy(results=self.analysis)


def analyse(
    scores: Scores,
    *,
    rng_seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    points: Points | None = None,
    unit: Literal["patient", "film"] = "patient",
) -> Analysis:
    """Every measure with its interval, and the paired differences of the last branch (fusion) from the others.

    A label without positives or without negatives gets NaN, is left out of the mean, and is named there.
    """
    uncertainty.check_level(level)
    films, labels = scores.target_NK.shape
    if films == 0:
        raise ValueError("there are no films to evaluate; check the split or subgroup that was asked for")
    points = points or Points.none(len(scores.branches), labels)
    # As numbers: nearly every measure asks whose the films are, and names are slow to sort.
    scores = replace(scores, patient_N=np.unique(scores.patient_N, return_inverse=True)[1])
    start = time.perf_counter()
    replicates = uncertainty.bootstrap(
        scores.target_NK,
        scores.score_BNK,
        scores.patient_N,
        rng=np.random.default_rng(rng_seed),
        resamples=resamples,
        threshold_PBK=points.threshold_PBK,
    )
    seconds = time.perf_counter() - start
    rarer_K = [uncertainty.patients_of_the_rarer(scores.target_NK[:, k], scores.patient_N) for k in range(labels)]
    results = [_finding(scores, k, replicates, points, level, rarer_K) for k in range(labels)]
    results = _together(results, scores.findings.none)
    kinds = _kinds(scores, results, replicates, level, rarer_K)
    return Analysis(
        films=films,
        patients=len(np.unique(scores.patient_N)),
        branches=scores.branches,
        labels=tuple(results),
        mean=_mean(scores, results, replicates, points, level, rarer_K),
        resampling=Resampling(
            resamples=resamples, level=level, seed=rng_seed, unit=unit, clusters=replicates.clusters, seconds=seconds
        ),
        findings=scores.findings,
        kinds=kinds,
        kinds_gap=_kinds_gap(kinds, scores, replicates, level, rarer_K) if len(scores.branches) > 1 and kinds else None,
    )


def _kinds(
    scores: Scores, results: Sequence[FindingResult], replicates: Replicates, level: float, rarer_K: Sequence[int]
) -> tuple[KindResult, ...]:
    """Means over localised and over diffuse findings, without operating points; none where either kind is missing."""
    no_points = Points.none(len(scores.branches), len(scores.labels))
    both = (scores.findings.localised, scores.findings.diffuse)
    localised, spread = (_mean(scores, results, replicates, no_points, level, rarer_K, among) for among in both)
    if not (localised.findings and spread.findings):
        return ()
    return KindResult(kind="localised", mean=localised), KindResult(kind="diffuse", mean=spread)


def _kinds_gap(
    kinds: Sequence[KindResult], scores: Scores, replicates: Replicates, level: float, rarer_K: Sequence[int]
) -> Difference:
    gain_KR = replicates.auroc_BKR[-1] - replicates.auroc_BKR[0]
    ks = [[scores.labels.index(name) for name in kind.mean.findings] for kind in kinds]
    first, second = (kind.mean.branches[-1].auroc.value - kind.mean.branches[0].auroc.value for kind in kinds)
    replicate_R = mean_over(gain_KR[ks[0]]) - mean_over(gain_KR[ks[1]])
    return uncertainty.difference(first - second, replicate_R, level, patients=_fewest(rarer_K, (*ks[0], *ks[1])))


def pairs(branches: Sequence[str]) -> Iterable[tuple[int, int]]:
    """The comparisons made: the last branch against each other one."""
    return ((len(branches) - 1, other) for other in range(len(branches) - 1))


def _fewest(rarer_K: Sequence[int], ks: Sequence[int]) -> int:
    """On how many patients a mean over these findings rests: those of the finding that has the fewest."""
    return min((rarer_K[k] for k in ks), default=0)


def _finding(
    scores: Scores, k: int, replicates: Replicates, points: Points, level: float, rarer_K: Sequence[int]
) -> FindingResult:
    """`rarer_K`: patients with each finding, or without it, whichever are fewer."""
    target, rarer = scores.target_NK[:, k], rarer_K[k]
    positive = target == 1
    second = delong(target if rarer >= FEWEST_PATIENTS else np.full_like(target, np.nan), scores.score_BNK[:, :, k])
    branches = tuple(
        _branch(scores, b, k, replicates, points, level, second, rarer) for b in range(len(scores.branches))
    )
    return FindingResult(
        finding=scores.labels[k],
        positives=int(positive.sum()),
        negatives=int((target == 0).sum()),
        unknown=int(np.isnan(target).sum()),
        positive_patients=len(np.unique(scores.patient_N[positive])),
        few_patients=0 < rarer < FEW_PATIENTS,
        branches=branches,
        gaps=tuple(_gaps(scores, branches, replicates, points, level, rarer_K, [k], [[k]] * len(points.names), second)),
        chosen_on=None if points.positives_K is None else int(points.positives_K[k]),
    )


def _branch(
    scores: Scores,
    b: int,
    k: int,
    replicates: Replicates,
    points: Points,
    level: float,
    second: Delong,
    patients: int,
) -> BranchResult:
    target, score = scores.target_NK[:, k], scores.score_BNK[b, :, k]

    def interval(value: float, replicate_R: Floats, patients: int = patients, *, student: bool = True) -> Estimate:
        return uncertainty.interval(value, replicate_R, level, patients=patients, student=student)

    operating = tuple(
        _operating(scores, replicates, points, p, b, [k], float(points.threshold_PBK[p, b, k]), level, patients)
        for p in range(len(points.names))
    )
    low, high = second.interval(b, level)
    labelled = uncertainty.patients_with_a_label(target, scores.patient_N)
    return BranchResult(
        branch=scores.branches[b],
        auroc=interval(metrics.auroc(target, score), replicates.auroc_BKR[b, k]),
        average_precision=interval(metrics.average_precision(target, score), replicates.average_precision_BKR[b, k]),
        brier=interval(metrics.brier(target, score), replicates.brier_BKR[b, k], labelled, student=False),
        ece=metrics.ece(target, score),
        delong_low=low,
        delong_high=high,
        points=operating,
    )


def _rightly(scores: Scores, points: Points, p: int, b: int, ks: Sequence[int], positive: bool) -> Floats:
    """1 where a film is called rightly at an operating point, else 0: of all films with each finding of `ks` (or
    without it), one finding after the other, as `_sample` has them."""
    of_films = []
    for k in ks:
        own = scores.target_NK[:, k] == positive
        of_films.append((scores.score_BNK[b, own, k] >= points.threshold_PBK[p, b, k]) == positive)
    return np.concatenate(of_films).astype(np.float64)


def _sample(scores: Scores, ks: Sequence[int], positive: bool) -> Clustered | None:
    """Those films' patients and findings; None where there are none."""
    own = [scores.target_NK[:, k] == positive for k in ks]
    if not any(films.any() for films in own):
        return None
    finding = np.repeat(np.arange(len(own)), [films.sum() for films in own])
    return Clustered.of(np.concatenate([scores.patient_N[films] for films in own]), finding)


def _operating(
    scores: Scores,
    replicates: Replicates,
    points: Points,
    p: int,
    b: int,
    ks: Sequence[int],
    threshold: float,
    level: float,
    patients: int,
) -> OperatingResult:
    """A branch at an operating point, of a finding or of the mean over several (which has no threshold): the share of
    films called rightly among those with the finding and among those without it; over several findings the mean of
    their shares. NaN without a threshold, or without such films."""

    def rightly(positive: bool, replicate_KR: Floats) -> Estimate:
        replicate_R = mean_over(replicate_KR[list(ks)])
        sample = _sample(scores, ks, positive)
        if sample is None or np.isnan(points.threshold_PBK[p, b, list(ks)]).any():
            return uncertainty.interval(float("nan"), replicate_R, level, patients=patients)
        right_N = _rightly(scores, points, p, b, ks, positive)
        return mean_of(right_N, sample, replicate_R, level, patients=patients)

    return OperatingResult(
        point=points.names[p],
        threshold=threshold,
        sensitivity=rightly(True, replicates.sensitivity_PBKR[p, b]),
        specificity=rightly(False, replicates.specificity_PBKR[p, b]),
    )


def _mean(
    scores: Scores,
    results: Sequence[FindingResult],
    replicates: Replicates,
    points: Points,
    level: float,
    rarer_K: Sequence[int],
    among: Sequence[str] | None = None,
) -> MeanResult:
    """Over those of some findings (default: all) that have both classes, and at an operating point a threshold. A mean
    rests on the patients of the finding that has the fewest."""
    names = scores.findings.names if among is None else among
    findings = [k for k, result in enumerate(results) if result.finding in names]
    used = [k for k in findings if results[k].defined]
    alone = len(used) == 1
    pointed = [_pointed(threshold_BK, used) for threshold_BK in points.threshold_PBK]

    whose = scores.patient_N
    labelled = min((uncertainty.patients_with_a_label(scores.target_NK[:, k], whose) for k in used), default=0)

    def interval(
        value: Iterable[float], replicate_KR: Floats, patients: int | None = None, *, basic: bool = False
    ) -> Estimate:
        own, replicate_R = _fewest(rarer_K, used) if patients is None else patients, mean_over(replicate_KR[used])
        wide = alone and patients is None
        return uncertainty.interval(_average(value), replicate_R, level, patients=own, student=wide, basic=basic)

    branches = []
    for b, name in enumerate(scores.branches):
        own = [results[k].branches[b] for k in used]
        precision = (r.average_precision.value for r in own)
        branches.append(
            BranchResult(
                branch=name,
                auroc=interval((r.auroc.value for r in own), replicates.auroc_BKR[b]),
                average_precision=interval(precision, replicates.average_precision_BKR[b], basic=not alone),
                brier=interval((r.brier.value for r in own), replicates.brier_BKR[b], patients=labelled),
                ece=_average(r.ece for r in own),
                points=tuple(
                    _operating(scores, replicates, points, p, b, ks, math.nan, level, _fewest(rarer_K, ks))
                    for p, ks in enumerate(pointed)
                ),
            )
        )
    return MeanResult(
        findings=tuple(results[k].finding for k in used),
        left_out=tuple(results[k].finding for k in findings if not results[k].defined),
        branches=tuple(branches),
        gaps=tuple(_gaps(scores, branches, replicates, points, level, rarer_K, used, pointed)),
    )


def _pointed(threshold_BK: Floats, used: Sequence[int]) -> list[int]:
    """The findings with a threshold in every branch that has any."""
    have_BK = threshold_BK[~np.isnan(threshold_BK).all(axis=1)]
    return [k for k in used if not np.isnan(have_BK[:, k]).any()]


def _gaps(
    scores: Scores,
    branches: Sequence[BranchResult],
    replicates: Replicates,
    points: Points,
    level: float,
    rarer_K: Sequence[int],
    used: Sequence[int],
    pointed: Sequence[Sequence[int]],
    delong: Delong | None = None,
) -> Iterator[BranchDifference]:
    """Every paired difference, of a finding or of the mean over several. used: which they are; pointed: which of them
    at each operating point.

    Sensitivity and specificity are compared where both branches have a threshold, each its own.
    """
    for a, b in pairs([branch.branch for branch in branches]):
        for measure, p, replicate_BKR in _measures(replicates, points):
            value = _value(branches[a], measure, p) - _value(branches[b], measure, p)
            if p is not None and math.isnan(value):
                continue
            ks = list(used if p is None else pointed[p])
            replicate_R, patients = mean_over(replicate_BKR[a, ks] - replicate_BKR[b, ks]), _fewest(rarer_K, ks)
            positive = measure == "sensitivity"
            sample = None if p is None else _sample(scores, ks, positive)
            if p is None or sample is None:
                gap = uncertainty.difference(value, replicate_R, level, patients=patients, student=len(used) == 1)
            else:
                own_N, other_N = (_rightly(scores, points, p, side, ks, positive) for side in (a, b))
                gap = paired(own_N - other_N, sample, replicate_R, level, patients=patients)
            yield BranchDifference(
                **dict(gap),
                branch=branches[a].branch,
                against=branches[b].branch,
                measure=measure,
                point="" if p is None else points.names[p],
                delong_p=delong.p(a, b) if delong and measure == "auroc" else math.nan,
            )


def _together(results: Sequence[FindingResult], none: str | None) -> list[FindingResult]:
    """The findings' differences with their p for all findings at once, measure by measure."""
    family: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for k, result in enumerate(results):
        for g, gap in enumerate(result.gaps if result.finding != none else ()):
            family.setdefault((gap.against, gap.measure, gap.point), []).append((k, g))
    gaps = [list(result.gaps) for result in results]
    for places in family.values():
        p = [gaps[k][g].p for k, g in places]
        for (k, g), sure, few_false in zip(places, uncertainty.holm(p), uncertainty.false_discovery(p), strict=True):
            gaps[k][g] = gaps[k][g].model_copy(update={"holm": float(sure), "false_discovery": float(few_false)})
    return [result.model_copy(update={"gaps": tuple(own)}) for result, own in zip(results, gaps, strict=True)]


def _measures(replicates: Replicates, points: Points) -> Iterator[tuple[Measure, int | None, Floats]]:
    """What is compared: the measure, its operating point where it has one, and its resamples, B x K x R."""
    yield "auroc", None, replicates.auroc_BKR
    yield "average_precision", None, replicates.average_precision_BKR
    for p in range(len(points.names)):
        yield "sensitivity", p, replicates.sensitivity_PBKR[p]
        yield "specificity", p, replicates.specificity_PBKR[p]


def _value(branch: BranchResult, measure: Measure, point: int | None) -> float:
    estimate: Estimate = getattr(branch if point is None else branch.points[point], measure)
    return estimate.value


def _average(values: Iterable[float]) -> float:
    """NaN for none at all, and where one of them is NaN."""
    listed = list(values)
    return float(np.mean(listed)) if listed else float("nan")
