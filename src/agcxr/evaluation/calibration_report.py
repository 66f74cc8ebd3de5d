"""What the fusion's scores mean on a split, typed, and its file scores.json. Definitions: docs/scores.md."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from agcxr.calibration import MIN_POSITIVES, FittedOn
from agcxr.evaluation.results import Stored
from agcxr.findings import CHESTXRAY14
from agcxr.uncertainty import Estimate
from agcxr.values import Number, Record

SCORES = "scores.json"
Version = Literal["raw", "calibrated", "corrected"]
DIAGRAM_BINS, DIAGRAM_POSITIVES = 10, 10
"""Of a reliability diagram: the most points, and the fewest positive films behind each."""


class Bin(Record):
    """A point of a reliability diagram."""

    probability: Number
    """Mean of the bin's films."""
    frequency: Number
    """Share of positives among them, with Wilson's 95 % interval (films taken as independent)."""
    low: Number
    high: Number
    films: int


class Fit(Record):
    """How far one version of the probabilities agrees with the labels."""

    version: Version
    """`raw`: the score. `calibrated`: the checkpoint's map. `corrected`: that, moved to this split's own prevalence,
    which nobody knows beforehand (an oracle)."""
    brier: Estimate
    ece: Estimate
    """Basic bootstrap interval, ended at 0."""
    ece_by_chance: Number
    """Of right probabilities on as many films."""
    observed_expected: Estimate
    in_the_large: Estimate


class FindingAgreement(Record):
    """One label's scores before and after calibration."""

    finding: str
    films: int
    positives: int
    few_patients: bool = False
    """As in results.json: what rests on the positives (observed / expected, in the large) is rough."""
    curve: str | None
    """Kind of the map; None without a calibration, "none" where validation held too few films for one."""
    fitted_films: int
    fitted_positives: int
    """Of the validation films that it was fitted on."""
    fits: tuple[Fit, ...]
    brier_change: Estimate
    """Calibrated minus raw; below 0 is better. NaN without a calibration."""
    bins: tuple[Bin, ...]
    """Of the calibrated probabilities (raw without a calibration), of as equal a number of positives as ties allow."""
    raw_bins: tuple[Bin, ...]

    @property
    def prevalence(self) -> float:
        return self.positives / self.films if self.films else float("nan")

    @property
    def fitted_prevalence(self) -> float:
        return self.fitted_positives / self.fitted_films if self.fitted_films else float("nan")

    @property
    def calibrated(self) -> bool:
        """Validation held enough films with and without it."""
        return min(self.fitted_positives, self.fitted_films - self.fitted_positives) >= MIN_POSITIVES

    def fit(self, version: Version) -> Fit | None:
        """One version, where it was measured."""
        return next((fit for fit in self.fits if fit.version == version), None)


class GroupFinding(Record):
    """A finding common enough in a group."""

    finding: str
    positives: int
    negatives: int
    few_patients: bool = False
    """As of `FindingAgreement`, in the group."""
    auroc: Estimate
    observed_expected: Estimate
    ece: Estimate


class Group(Record):
    """Films of one kind."""

    name: str
    films: int
    patients: int
    positives: int
    """Findings on the films, all 14 together."""
    auroc: Estimate
    """Mean over the grouping's `compared` findings; NaN where some of them are too rare here."""
    observed_expected: Estimate
    """All findings together: positives over the sum of their probabilities."""
    ece: Estimate
    """Mean over the grouping's `compared` findings."""
    findings: tuple[GroupFinding, ...]

    def of(self, finding: str) -> GroupFinding | None:
        """A finding's numbers, where it is common enough."""
        return next((result for result in self.findings if result.finding == finding), None)


class LeftOut(Record):
    """A group too small to be measured."""

    name: str
    films: int
    patients: int


class Grouping(Record):
    """The split cut into groups, by one property of the films."""

    by: str
    compared: tuple[str, ...]
    """The same findings in every group, so that means compare."""
    everyone: Group
    groups: tuple[Group, ...]
    left_out: tuple[LeftOut, ...]
    unknown: int
    """Films that do not say."""


class CalibrationReport(Stored):
    """All of it, as stored in scores.json."""

    FILE = SCORES

    format: Literal[1] = 1
    split: str
    films: int
    patients: int
    method: str | None
    """The calibration's kind of map; None: the checkpoint holds no calibration, so scores are as they are."""
    log_loss: dict[str, float]
    """Of each kind, cross-validated on the validation films; the least was taken."""
    fitted_on: FittedOn | None = None
    """The films that the calibration was fitted on, as the checkpoint says; None: it does not, or holds none."""
    fitted_here: bool = False
    """They are these films, so the calibration looks better here than it is."""
    findings: tuple[FindingAgreement, ...]
    mean: tuple[Fit, ...]
    """Means over the findings that have both classes here; ratios are of all positives over all expected."""
    mean_brier_change: Estimate
    averaged: tuple[str, ...]
    groupings: tuple[Grouping, ...]
    group_patients: int
    """Groups of fewer patients are left out."""
    group_positives: int
    """Findings with fewer positive or negative films in a group are left out of it."""
    resamples: int
    level: float
    seed: int
    none: str | None = CHESTXRAY14.none
    """The label that says that there is none of the findings."""
    asked: int = len(CHESTXRAY14.names)
    """Findings that the films state or the model answers for."""

    @model_serializer(mode="wrap")
    def _without_the_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        usual = {"none": CHESTXRAY14.none, "asked": len(CHESTXRAY14.names)}
        dumped: dict[str, Any] = dump(self)
        return {name: value for name, value in dumped.items() if name not in usual or value != usual[name]}

    @property
    def mapped(self) -> bool:
        """Calibration made other numbers of the scores; the kind "none" leaves them as they are."""
        return self.method not in (None, "none")
