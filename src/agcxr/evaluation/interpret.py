"""predictions.parquet and the checkpoint's calibration -> what the scores mean on the split: scores.json.

Shapes: N films, K labels, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from agcxr import metrics, uncertainty
from agcxr.calibration import Calibration, Scale
from agcxr.evaluation.agreement import AgreementMeasures, BinnedScores, reflected, replicates
from agcxr.evaluation.calibration_report import (
    DIAGRAM_BINS,
    DIAGRAM_POSITIVES,
    Bin,
    CalibrationReport,
    FindingAgreement,
    Fit,
    Grouping,
    Version,
)
from agcxr.evaluation.groups import NOTHING, PATIENTS, POSITIVES, GroupFilms, divisions, fewest, measure_groups
from agcxr.evaluation.results import Results
from agcxr.metrics import Floats
from agcxr.uncertainty import Estimate

MOST_RESAMPLES = 1000
"""Each of them is solved for the calibration in the large, in every group of films: more would take longer than the
network."""


@dataclass(frozen=True)
class _Scores:
    """The fusion's scores in each version, and the truth."""

    labels: tuple[str, ...]
    target_NK: Floats
    versions: dict[Version, Floats]


@dataclass(frozen=True)
class _Agreed:
    """One label's measures in each version, on the films and on resamples."""

    tally: dict[Version, BinnedScores]
    now: dict[Version, AgreementMeasures]
    then: dict[Version, AgreementMeasures]


def interpret(
    frame: pd.DataFrame,
    results: Results,
    calibration: Calibration | None,
    *,
    as_predicted: bool = False,
    patients: int = PATIENTS,
    positives: int = POSITIVES,
) -> CalibrationReport:
    """Measure an evaluation's predictions, `frame` as predictions.parquet has them; seed and resamples (up to
    MOST_RESAMPLES) are the evaluation's.

    calibration: the checkpoint's; without one, scores are measured as they are, and with `as_predicted` beside them the
    calibrated probabilities of the predictions, made by several calibrations, each on films that it was not fitted on.
    patients, positives: smaller groups and rarer findings are left out of the subgroups.
    """
    how = results.analysis.resampling
    how = how.model_copy(update={"resamples": min(how.resamples, MOST_RESAMPLES)})
    labels = tuple(result.finding for result in results.analysis.labels)
    scores = _scores(frame, labels, calibration, as_predicted)
    patient_N = frame["patient"].to_numpy(dtype=object)
    agreed = _agree(scores, patient_N, how.resamples, how.seed)
    none = results.analysis.findings.none
    averaged = [k for k, result in enumerate(results.analysis.labels) if result.defined and result.finding != none]
    rests_on = fewest(scores.target_NK[:, averaged], patient_N)
    return CalibrationReport(
        split=results.split,
        films=len(frame),
        patients=results.analysis.patients,
        method=calibration.method if calibration else None,
        log_loss={str(kind): loss for kind, loss in calibration.log_loss.items()} if calibration else {},
        fitted_on=calibration.fitted_on if calibration else None,
        fitted_here=results.points_fitted_here,
        findings=tuple(
            _finding(scores, k, agreed[k], calibration, how.level, results.analysis.labels[k].few_patients, patient_N)
            for k in range(len(scores.labels))
        ),
        mean=_mean([agreed[k] for k in averaged], how.level, *rests_on),
        mean_brier_change=_change([agreed[k] for k in averaged], how.level, rests_on[0]),
        averaged=tuple(scores.labels[k] for k in averaged),
        groupings=_groups(frame, scores, none, patient_N, how.resamples, how.seed, how.level, (patients, positives)),
        group_patients=patients,
        group_positives=positives,
        resamples=how.resamples,
        level=how.level,
        seed=how.seed,
        none=none,
        asked=len(results.analysis.findings.names),
    )


def _scores(
    frame: pd.DataFrame, labels: tuple[str, ...], calibration: Calibration | None, as_predicted: bool
) -> _Scores:
    target_NK = frame[[f"label_{name}" for name in labels]].to_numpy(np.float64)
    raw = frame[[f"fusion_{name}" for name in labels]].to_numpy(np.float64)
    versions: dict[Version, Floats] = {"raw": raw}
    if as_predicted:
        versions["calibrated"] = frame[[f"calibrated_{name}" for name in labels]].to_numpy(np.float64)
    if calibration is not None:
        versions["calibrated"] = Scale.of(calibration, labels).probabilities(raw)
        shares = {label: float(np.nanmean(target_NK[:, k])) for k, label in enumerate(labels) if _both(target_NK[:, k])}
        fitted = calibration.findings
        own = {name: share for name, share in shares.items() if name in fitted and fitted[name].enough}
        versions["corrected"] = Scale.of(calibration, labels, prevalence=own).probabilities(raw)
    return _Scores(labels, target_NK, versions)


def _both(target_N: Floats) -> bool:
    return bool((target_N == 1).any() and (target_N == 0).any())


def _agree(scores: _Scores, patient_N: np.ndarray, resamples: int, seed: int) -> list[_Agreed]:
    keys = [(k, version) for k in range(len(scores.labels)) for version in scores.versions]
    tallies = [BinnedScores.of(scores.target_NK[:, k], scores.versions[version][:, k]) for k, version in keys]
    then = replicates(tallies, patient_N, resamples=resamples, seed=seed)
    once = np.ones((len(patient_N), 1))
    out = [_Agreed({}, {}, {}) for _ in scores.labels]
    for (k, version), tally, many in zip(keys, tallies, then, strict=True):
        out[k].tally[version], out[k].now[version], out[k].then[version] = tally, tally.measures(once), many
    return out


def _finding(
    scores: _Scores,
    k: int,
    agreed: _Agreed,
    calibration: Calibration | None,
    level: float,
    few_patients: bool,
    patient_N: np.ndarray,
) -> FindingAgreement:
    label, target = scores.labels[k], scores.target_NK[:, k]
    labelled = uncertainty.patients_with_a_label(target, patient_N)
    rarer = uncertainty.patients_of_the_rarer(target, patient_N)
    fitted = calibration.findings.get(label) if calibration else None
    last: Version = "calibrated" if "calibrated" in agreed.now else "raw"
    return FindingAgreement(
        finding=label,
        films=int((~np.isnan(target)).sum()),
        positives=int((target == 1).sum()),
        few_patients=few_patients,
        curve=fitted.curve.kind if fitted else None,
        fitted_films=fitted.films if fitted else 0,
        fitted_positives=fitted.positives if fitted else 0,
        fits=tuple(_fit(version, agreed, level, labelled, rarer) for version in agreed.now),
        brier_change=_change([agreed], level, labelled),
        bins=_bins(target, scores.versions[last][:, k]),
        raw_bins=_bins(target, scores.versions["raw"][:, k]),
    )


def _fit(version: Version, agreed: _Agreed, level: float, labelled: int, rarer: int) -> Fit:
    """`labelled`: patients whom errors rest on. `rarer`: those with the finding, or without it, whichever are fewer; on
    them rest ratios to what is expected."""
    now, then = agreed.now[version], agreed.then[version]
    return Fit(
        version=version,
        brier=_interval(now.brier[0], then.brier, level, labelled),
        ece=reflected(float(now.ece[0]), then.ece, level, patients=labelled),
        ece_by_chance=agreed.tally[version].chance_ece,
        observed_expected=_interval(now.ratio[0], then.ratio, level, rarer, share=False),
        in_the_large=_interval(now.in_the_large[0], then.in_the_large, level, rarer, share=False),
    )


def _mean(agreed: list[_Agreed], level: float, labelled: int, rarer: int, pooled: int) -> tuple[Fit, ...]:
    """Over findings; the ratio is of their sums, so that rare findings do not dominate it. Patients: see `fewest`."""
    fits = []
    for version in agreed[0].now if agreed else ():
        now, then = [label.now[version] for label in agreed], [label.then[version] for label in agreed]

        def over(
            name: Literal["brier", "ece", "in_the_large", "observed", "expected"], many: list[AgreementMeasures]
        ) -> Floats:
            return np.asarray(np.mean([getattr(measures, name) for measures in many], axis=0))

        fits.append(
            Fit(
                version=version,
                brier=_interval(over("brier", now)[0], over("brier", then), level, labelled),
                ece=reflected(float(over("ece", now)[0]), over("ece", then), level, patients=labelled),
                ece_by_chance=_average(label.tally[version].chance_ece for label in agreed),
                observed_expected=_interval(
                    over("observed", now)[0] / over("expected", now)[0],
                    over("observed", then) / over("expected", then),
                    level,
                    pooled,
                    share=False,
                ),
                in_the_large=_interval(
                    over("in_the_large", now)[0], over("in_the_large", then), level, rarer, share=False
                ),
            )
        )
    return tuple(fits)


def _change(agreed: list[_Agreed], level: float, patients: int) -> Estimate:
    """What calibration does to the Brier score, mean over labels; NaN without a calibration."""
    if not agreed or "calibrated" not in agreed[0].now:
        return NOTHING
    now, then = (
        np.mean([getattr(label, at)["calibrated"].brier - getattr(label, at)["raw"].brier for label in agreed], axis=0)
        for at in ("now", "then")
    )
    return _interval(now[0], then, level, patients, share=False)


def _average(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _bins(target_N: Floats, probability_N: Floats) -> tuple[Bin, ...]:
    most = int((target_N == 1).sum()) // DIAGRAM_POSITIVES
    curve = metrics.reliability(target_N, probability_N, bins=min(max(1, most), DIAGRAM_BINS), by="positives")
    rows = zip(curve.probability.tolist(), curve.frequency.tolist(), curve.count.tolist(), strict=True)
    out = []
    for probability, frequency, films in rows:
        wilson = stats.binomtest(round(frequency * films), films).proportion_ci(method="wilson")
        out.append(Bin(probability=probability, frequency=frequency, low=wilson.low, high=wilson.high, films=films))
    return tuple(out)


def _groups(
    frame: pd.DataFrame,
    scores: _Scores,
    none: str | None,
    patient_N: np.ndarray,
    resamples: int,
    seed: int,
    level: float,
    least: tuple[int, int],
) -> tuple[Grouping, ...]:
    findings = tuple(label for label in scores.labels if label != none)
    if not findings:  # the model answers for "none of them" alone
        return ()
    columns = [scores.labels.index(name) for name in findings]
    probability = scores.versions.get("calibrated", scores.versions["raw"])
    films = GroupFilms(
        findings,
        scores.target_NK[:, columns],
        scores.versions["raw"][:, columns],
        probability[:, columns],
        patient_N,
    )
    return measure_groups(
        films,
        divisions(frame, films.target_NK),
        resamples=resamples,
        seed=seed,
        level=level,
        patients=least[0],
        positives=least[1],
    )


def _interval(value: float, replicate_R: Floats, level: float, patients: int, *, share: bool = True) -> Estimate:
    return uncertainty.interval(float(value), replicate_R, level, patients=patients, share=share)
