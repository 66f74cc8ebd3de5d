"""What an evaluation found, typed, and its file results.json.

A number that does not exist (the AUROC of a label without positives) is NaN in Python and null in the file.
Intervals are percentiles of a bootstrap over patients unless a field says DeLong; those of mean
average precision are basic ones, those of sensitivity and specificity as `proportions` has them.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from agcxr.data.collection_names import collections_in
from agcxr.data.synthetic import is_synthetic
from agcxr.evaluation import published
from agcxr.findings import CHESTXRAY14, Findings
from agcxr.uncertainty import Difference, Estimate
from agcxr.values import Number, Record

RESULTS = "results.json"
PREDICTIONS = "predictions.parquet"
FORMAT = 1

Measure = Literal["auroc", "average_precision", "sensitivity", "specificity"]


class Stored(Record):
    """A value object with a file of its own, FILE, in a results folder."""

    FILE: ClassVar[str]

    def save(self, folder: Path) -> Path:
        """Write the file; whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / self.FILE
        partial = target.with_name(f"{self.FILE}.partial")
        partial.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        partial.replace(target)
        return target

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read the file. ValueError says what is missing or wrong and which command makes it."""
        path = Path(folder) / cls.FILE
        if not path.is_file():
            raise ValueError(f"there is no {cls.FILE} in {folder}; make it with `agcxr evaluate RUN --data PREPARED`")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(
                f"{path} is not a results file of this version ({where}: {first['msg']}); run `agcxr evaluate` again"
            ) from error


class BranchDifference(Difference):
    """A paired difference between two branches on the same films: `value` = branch - against."""

    branch: str
    against: str
    measure: Measure
    point: str = ""
    """The operating point of a sensitivity or specificity, each branch at its own threshold."""
    delong_p: Number = math.nan
    """AUROC of one finding only; takes films as independent."""
    error: Number = math.nan
    holm: Number = math.nan
    """Of one finding only: p for all findings at once, no false one among them (Holm)."""
    false_discovery: Number = math.nan
    """The same, few false ones among those called (Benjamini and Hochberg)."""


class OperatingResult(Record):
    """Sensitivity and specificity where films are called positive at score >= threshold."""

    point: str
    threshold: Number
    sensitivity: Estimate
    specificity: Estimate


class BranchResult(Record):
    """All measures of one branch (of one finding, or their means)."""

    branch: str
    auroc: Estimate
    average_precision: Estimate
    brier: Estimate
    ece: Number = math.nan
    delong_low: Number = math.nan
    """DeLong's interval of the AUROC: right for one film a patient, too narrow for several."""
    delong_high: Number = math.nan
    points: tuple[OperatingResult, ...] = ()


class FindingResult(Record):
    """One label: its counts, its branches and their differences."""

    finding: str
    positives: int
    negatives: int
    unknown: int
    """Films whose label is unknown; they are left out."""
    positive_patients: int
    few_patients: bool = False
    """Fewer than 20 patients have it, or lack it: intervals and p are rough. Of fewer than 2 there are none."""
    branches: tuple[BranchResult, ...]
    gaps: tuple[BranchDifference, ...] = ()
    chosen_on: int | None = None
    """Positive films among those that the thresholds of the operating points were chosen on; None: not known."""

    @property
    def stated(self) -> bool:
        """Some film says whether it has the finding or not; a partly labelled collection leaves some out altogether."""
        return self.positives + self.negatives > 0

    @property
    def defined(self) -> bool:
        """Both classes are present, so the finding has an AUROC."""
        return self.positives > 0 and self.negatives > 0


class MeanResult(Record):
    """Means over the findings that have both classes ("none of them" is not one)."""

    findings: tuple[str, ...]
    left_out: tuple[str, ...]
    """Findings without a positive or without a negative film."""
    branches: tuple[BranchResult, ...]
    gaps: tuple[BranchDifference, ...] = ()


class KindResult(Record):
    """Means over the findings of a kind (see `findings.Findings.localised`)."""

    kind: Literal["localised", "diffuse"]
    mean: MeanResult


class Resampling(Record):
    """How the intervals were made."""

    resamples: int
    level: float
    seed: int
    unit: Literal["patient", "film"]
    """What was drawn. Films where patients are not known: intervals are then too narrow for repeated patients."""
    clusters: int
    seconds: float


class Analysis(Record):
    """Every measure of a set of scores."""

    films: int
    patients: int
    branches: tuple[str, ...]
    labels: tuple[FindingResult, ...]
    mean: MeanResult
    resampling: Resampling
    findings: Findings = CHESTXRAY14
    """What is known of the labels, and of findings that the films state and the model does not answer for. Files of
    before this field are about the fifteen, and what is about these does not say so."""
    kinds: tuple[KindResult, ...] = ()
    """Where both kinds have a finding with both classes."""
    kinds_gap: Difference | None = None
    """What the last branch gains over the first in the mean of the localised findings, minus the same of the diffuse
    ones; paired."""

    @model_serializer(mode="wrap")
    def _without_the_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = dump(self)
        return {name: value for name, value in dumped.items() if name != "findings" or not self.findings.is_default}

    @property
    def stated(self) -> tuple[FindingResult, ...]:
        """The labels that these films say anything of."""
        return tuple(result for result in self.labels if result.stated)

    @property
    def unstated(self) -> tuple[str, ...]:
        """The others."""
        return tuple(result.finding for result in self.labels if not result.stated)

    def label(self, finding: str) -> FindingResult:
        """The result of one label; ValueError names those there are."""
        for result in self.labels:
            if result.finding == finding:
                return result
        raise ValueError(f"no result for {finding!r}; there are {', '.join(r.finding for r in self.labels)}")


class CollectionResult(Record):
    """The measures on the films of one of several collections."""

    collection: str
    films: int
    patients: int
    labels: tuple[FindingResult, ...]
    """As of all films together."""
    mean: MeanResult


class CropRow(Record):
    """Attention boxes of a group of films: areas as shares of the prepared film."""

    group: str
    films: int
    fallbacks: int
    area_low: Number
    """10th percentile."""
    area_median: Number
    area_high: Number
    """90th percentile."""
    near_whole: int | None = None
    """Crops of at least 90 % of the view, fallbacks among them; None in files of before it was counted."""
    plateaus: int | None = None
    """Heatmaps of which more than a tenth of the view has the highest value; None in files of before."""

    @property
    def near_whole_share(self) -> float:
        return math.nan if self.near_whole is None or not self.films else self.near_whole / self.films

    @property
    def fallback_share(self) -> float:
        return self.fallbacks / self.films if self.films else math.nan


class LeakResult(Record):
    """Patients of the split whom the checkpoint saw in training."""

    checked: bool
    why: str = ""
    """Why it was not checked; empty: the checkpoint names no training patients."""
    shared_patients: int
    shared_films: int
    allowed: bool

    @property
    def unchecked(self) -> str:
        """Why nothing is known of leakage, in words; empty where it was checked."""
        return "" if self.checked else self.why or "the checkpoint does not name its training patients"


class BranchProbability(Record):
    """What a branch said of the example's finding."""

    branch: str
    probability: float


class ExampleResult(Record):
    """A film shown in the report."""

    kind: Literal["best", "median", "worst"]
    """By IoU of the attention box with the annotated one; without boxes, by the probability of the true finding."""
    image_id: str
    row: int
    finding: str
    """The boxed finding; for films without boxes, the most probable of the true ones."""
    iou: Number
    iobb: Number
    """NaN without boxes."""
    fallback: bool
    truth: tuple[str, ...]
    """Labels that are positive."""
    film: str
    """Pictures, relative to the results folder: film with boxes, attention on it, crop."""
    attention: str
    crop: str
    probabilities: tuple[BranchProbability, ...]


class Environment(Record):
    """Where and with what the evaluation ran."""

    device: str
    processor: str
    cores: int
    python: str
    versions: tuple[str, ...]
    """As "torch 2.14.1"."""
    seconds: float
    films_per_second: float


class Results(Stored):
    """An evaluation of a run on a split, as stored in results.json."""

    FILE = RESULTS

    format: Literal[1] = 1
    run: str
    """Name of the run's folder."""
    backbone: str
    split: str
    collection: str | None = None
    """Whose films they are, as the prepared folder says: `nih`, `rsna`, `phantom, seed 0`, ...; None: not known."""
    made: str
    """Date and time, UTC, ISO 8601."""
    analysis: Analysis
    same_view: tuple[Estimate, ...] = ()
    """Mean AUROC of each branch over pairs of films of one view; none where the films are of one view."""
    collections: tuple[CollectionResult, ...] = Field(default=(), exclude_if=lambda each: not each)
    """Each collection apart, where the films are of several."""
    same_collection: tuple[Estimate, ...] = Field(default=(), exclude_if=lambda each: not each)
    """Mean AUROC of each branch over pairs of films of one collection, where the films are of several."""
    crops: tuple[CropRow, ...]
    """All films first, then a row a label over its positive films."""
    attention: str = ""
    """Where attention hardly chooses a place: how often, and what to do."""
    leak: LeakResult
    points_from: str
    """The films that the thresholds of the operating points were chosen on, in words."""
    points_fitted_here: bool = False
    """They are the evaluated films themselves, so calibration and points look better here than they are."""
    examples: tuple[ExampleResult, ...]
    environment: Environment

    @property
    def comparable(self) -> bool:
        """Published numbers may stand beside these: of real films, and of no finding that was not published."""
        names = [result.finding for result in self.analysis.stated if result.finding != self.analysis.findings.none]
        return not self.synthetic and set(names) <= set(published.FINDINGS)

    @property
    def synthetic(self) -> bool:
        """Some of the films were drawn by a program."""
        return any(map(is_synthetic, collections_in(self.collection)))


def load_results(folder: str | Path) -> Results:
    """results.json of a results folder; see `Stored.load`."""
    return Results.load(folder)
