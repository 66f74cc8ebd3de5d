"""Subgroups of a split: does the fusion rank and calibrate alike for all? Sex, age, view, and how much a film shows.

Shapes: N films, K labels, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from agcxr import metrics, uncertainty
from agcxr.evaluation.agreement import AgreementMeasures, BinnedScores, reflected, replicates
from agcxr.evaluation.calibration_report import Group, GroupFinding, Grouping, LeftOut
from agcxr.metrics import Floats
from agcxr.uncertainty import Estimate

AGES = (40.0, 60.0, 80.0)
"""Years at which bands begin, after the first."""
AGE_BANDS = ("Under 40", "40 to 59", "60 to 79", "80 and over")
COUNTS = ("No finding", "One finding", "Two findings", "Three or more")
SEXES = {"F": "Women", "M": "Men"}
VIEWS = {"PA": "PA, standing", "AP": "AP, mostly lying", "LATERAL": "Lateral"}
PATIENTS = 20
POSITIVES = 10
NOTHING = Estimate(value=float("nan"), low=float("nan"), high=float("nan"))


@dataclass(frozen=True)
class Division:
    """A property, and each film's group by name ("" where the film does not say)."""

    by: str
    names: tuple[str, ...]
    group_N: npt.NDArray[np.object_]


@dataclass(frozen=True)
class GroupFilms:
    """The findings of the films, the fusion's score, and the probability made of it."""

    findings: tuple[str, ...]
    target_NK: Floats
    score_NK: Floats
    probability_NK: Floats
    patient_N: npt.NDArray[np.object_]

    def some(self, keep_N: npt.NDArray[np.bool_]) -> GroupFilms:
        """The films where `keep_N` is true."""
        arrays = (self.target_NK, self.score_NK, self.probability_NK, self.patient_N)
        return GroupFilms(self.findings, *(array[keep_N] for array in arrays))  # type: ignore[arg-type]

    @property
    def patients(self) -> int:
        return len(np.unique(self.patient_N))

    def common(self, positives: int) -> tuple[int, ...]:
        """Columns with at least so many positive and so many negative films."""
        enough = ((self.target_NK == 1).sum(0) >= positives) & ((self.target_NK == 0).sum(0) >= positives)
        return tuple(np.flatnonzero(enough).tolist())


@dataclass(frozen=True)
class _Measured:
    """A group's films and their measures, on the films and on resamples."""

    films: GroupFilms
    auroc_K: Floats
    auroc_KR: Floats
    now_K: list[AgreementMeasures]
    then_K: list[AgreementMeasures]


def divisions(predictions: pd.DataFrame, target_NK: Floats) -> tuple[Division, ...]:
    """The four properties, the number of findings only where more than one is stated. `predictions` has the columns age
    (years), sex (F, M), view; `target_NK`: the findings."""
    age = predictions["age"].to_numpy(np.float64)
    band = np.array([*AGE_BANDS, ""], dtype=object)[np.where(np.isnan(age), len(AGE_BANDS), np.digitize(age, AGES))]
    stated_NK = target_NK[:, ~np.isnan(target_NK).all(axis=0)]
    counted = (Division("Findings on the film", COUNTS, _counted(stated_NK)),) if stated_NK.shape[1] > 1 else ()
    return (
        Division("Sex", tuple(SEXES.values()), _named(predictions["sex"], SEXES)),
        Division("Age", AGE_BANDS, band),
        Division("View", tuple(VIEWS.values()), _named(predictions["view"], VIEWS)),
        *counted,
    )


def measure_groups(
    films: GroupFilms,
    parts: Sequence[Division],
    *,
    resamples: int,
    seed: int,
    level: float = 0.95,
    patients: int = PATIENTS,
    positives: int = POSITIVES,
) -> tuple[Grouping, ...]:
    """Every cut's groups, but for those of fewer than `patients`; findings need `positives` of both classes."""
    whole = _measure(films, resamples, seed)
    out = []
    for cut in parts:
        measured, left_out = {}, []
        for name in cut.names:
            own = films.some(cut.group_N == name)
            if own.patients >= patients:
                measured[name] = _measure(own, resamples, seed)
            elif len(own.patient_N):
                left_out.append(LeftOut(name=name, films=len(own.patient_N), patients=own.patients))
        compared = _compared(whole, list(measured.values()), positives)
        out.append(
            Grouping(
                by=cut.by,
                compared=tuple(films.findings[k] for k in compared),
                everyone=_group("All films", whole, compared, positives, level),
                groups=tuple(_group(name, group, compared, positives, level) for name, group in measured.items()),
                left_out=tuple(left_out),
                unknown=int((cut.group_N == "").sum()),
            )
        )
    return tuple(out)


def fewest(target_NK: Floats, patient_N: npt.NDArray[np.object_]) -> tuple[int, int, int]:
    """Patients that means over findings rest on: the fewest with a label of one; the fewest with one, or without it;
    and for all of them together those with any, or lacking any, whichever are fewer. 0 for no findings."""
    pairs = [
        (uncertainty.patients_with_a_label(target, patient_N), uncertainty.patients_of_the_rarer(target, patient_N))
        for target in target_NK.T
    ]
    pooled = min(len(np.unique(patient_N[(target_NK == label).any(axis=1)])) for label in (0, 1))
    return (*(min(counts) for counts in zip(*pairs, strict=True)), pooled) if pairs else (0, 0, 0)  # type: ignore[return-value]


def _counted(stated_NK: Floats) -> npt.NDArray[np.object_]:
    """How many findings a film shows; "" where it does not state them all: one that is not stated is not absent."""
    shown_N = np.minimum((stated_NK == 1).sum(axis=1), len(COUNTS) - 1)
    return np.where(np.isnan(stated_NK).any(axis=1), "", np.array(COUNTS, dtype=object)[shown_N])


def _named(column: pd.Series, names: dict[str, str]) -> npt.NDArray[np.object_]:
    return np.array([names.get(str(value), "") for value in column], dtype=object)


def _measure(films: GroupFilms, resamples: int, seed: int) -> _Measured:
    rng = np.random.default_rng(seed)
    ranked = uncertainty.bootstrap(films.target_NK, films.score_NK[None], films.patient_N, rng=rng, resamples=resamples)
    columns = zip(films.target_NK.T, films.probability_NK.T, strict=True)
    tallies = [BinnedScores.of(target, probability, groups=1) for target, probability in columns]
    once = np.ones((len(films.patient_N), 1))
    return _Measured(
        films=films,
        auroc_K=metrics.auroc_table(films.target_NK, films.score_NK),
        auroc_KR=ranked.auroc_BKR[0],
        now_K=[tally.measures(once) for tally in tallies],
        then_K=replicates(tallies, films.patient_N, resamples=resamples, seed=seed),
    )


def _compared(whole: _Measured, groups: list[_Measured], positives: int) -> tuple[int, ...]:
    """Findings common in every group, but for groups in which fewer than half of the findings are common."""
    everywhere = set(whole.films.common(positives))
    commons = [set(group.films.common(positives)) for group in groups]
    for common in commons:
        if 2 * len(common) >= len(set(whole.films.common(positives))):
            everywhere &= common
    return tuple(sorted(everywhere)) if any(commons) else ()


def _group(name: str, group: _Measured, compared: tuple[int, ...], positives: int, level: float) -> Group:
    common = group.films.common(positives)
    ks = list(compared) if compared and set(compared) <= set(common) else []
    auroc, ece = NOTHING, NOTHING
    *_, pooled = fewest(group.films.target_NK, group.films.patient_N)
    if ks:
        labelled, rarer, _ = fewest(group.films.target_NK[:, ks], group.films.patient_N)
        auroc = _interval(float(group.auroc_K[ks].mean()), group.auroc_KR[ks].mean(axis=0), level, rarer)
        value = float(np.mean([group.now_K[k].ece[0] for k in ks]))
        ece = reflected(value, np.mean([group.then_K[k].ece for k in ks], axis=0), level, patients=labelled)
    return Group(
        name=name,
        films=len(group.films.patient_N),
        patients=group.films.patients,
        positives=int((group.films.target_NK == 1).sum()),
        auroc=auroc,
        observed_expected=_interval(float(_pooled(group.now_K)[0]), _pooled(group.then_K), level, pooled, ratio=True),
        ece=ece,
        findings=tuple(_finding(group, k, level) for k in common),
    )


def _finding(group: _Measured, k: int, level: float) -> GroupFinding:
    target, now, then = group.films.target_NK[:, k], group.now_K[k], group.then_K[k]
    rarer = uncertainty.patients_of_the_rarer(target, group.films.patient_N)
    labelled = uncertainty.patients_with_a_label(target, group.films.patient_N)
    return GroupFinding(
        finding=group.films.findings[k],
        positives=int((target == 1).sum()),
        negatives=int((target == 0).sum()),
        few_patients=0 < rarer < uncertainty.FEW_PATIENTS,
        auroc=_interval(float(group.auroc_K[k]), group.auroc_KR[k], level, rarer, student=True),
        observed_expected=_interval(float(now.ratio[0]), then.ratio, level, rarer, ratio=True),
        ece=reflected(float(now.ece[0]), then.ece, level, patients=labelled),
    )


def _pooled(measures_K: list[AgreementMeasures]) -> Floats:
    """All findings together: positives over expected."""
    observed = np.sum([measures.observed for measures in measures_K], axis=0)
    expected = np.sum([measures.expected for measures in measures_K], axis=0)
    return np.divide(observed, expected, out=np.full_like(expected, np.nan), where=expected > 0)


def _interval(
    value: float, replicate_R: Floats, level: float, patients: int, *, student: bool = False, ratio: bool = False
) -> Estimate:
    """`ratio`: of what was seen to what was expected, which may be over 1."""
    return uncertainty.interval(value, replicate_R, level, patients=patients, student=student, share=not ratio)
