"""What was measured on annotated boxes, typed, with tables for a terminal: where the model looks, what a crop shows."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from agcxr.evaluation.boxes import IOBB_LEVELS, IOU_LEVELS, MEASURES
from agcxr.evaluation.results import LeakResult, Stored
from agcxr.inference.maps import Rectify
from agcxr.table import DAGGER, Cell, Table, cell, difference, number, p_text, to_text, words
from agcxr.uncertainty import FEW_PATIENTS, Difference, Estimate
from agcxr.values import Number, Record

MEAN = "mean"
"""In place of a finding: the mean over the findings that have boxes, each weighing the same."""
WHOLE = "Mean"
"""The same in coverage.json."""

Method = Literal["random", "prior", "attention", "global", "local", "fusion", "ceiling", "ceiling-crop"]
METHODS: tuple[Method, ...] = (
    "random",
    "prior",
    "attention",
    "global",
    "local",
    "fusion",
    "ceiling",
    "ceiling-crop",
)
FLOORS: tuple[Method, ...] = ("random", "prior")
LOOKS: tuple[Method, ...] = ("attention", "global", "local", "fusion")
CAM: dict[Rectify, str] = {"minmax": "Grad-CAM (min-max)", "relu": "Grad-CAM (ReLU)"}
"""Signed maps made 0 or more: over their lowest value, or cut at 0 as by Selvaraju et al."""
TITLES: dict[str, str] = {
    "random": "floor: random map",
    "prior": "floor: centre prior",
    "attention": "attention box",
    "global": "Grad-CAM, global",
    "local": "Grad-CAM, local",
    "fusion": "Grad-CAM, fusion",
    "ceiling": "ceiling: global grid",
    "ceiling-crop": "ceiling: grid of the crop",
}


class MeasureEstimate(Estimate):
    """One of boxes.MEASURES as a mean over cases, in [0, 1], with its 95 % interval (NaN: cases of one patient)."""

    name: str
    left_out: int = Field(default=0, exclude=True)


class MethodScore(Record):
    """One method on one finding (or MEAN). A case is a film and a finding that has boxes on it."""

    method: Method
    finding: str
    cases: int
    films: int
    patients: int
    empty: int
    """Cases whose map is 0 everywhere, so that it has no box and scores 0; only Grad-CAM can be empty."""
    measures: tuple[MeasureEstimate, ...]

    def of(self, measure: str) -> MeasureEstimate:
        """A measure by its name in boxes.MEASURES."""
        for estimate in self.measures:
            if estimate.name == measure:
                return estimate
        raise ValueError(f"unknown measure {measure!r}; expected one of {', '.join(MEASURES)}")


class FloorDifference(Difference):
    """A method minus a floor on the same cases (paired), with its 95 % interval. Left out are resamples without a case
    of the finding (for MEAN: of some finding)."""

    method: Method
    floor: Method
    finding: str
    measure: str


class PublishedAccuracies(Record):
    """Accuracies from the literature, mean of the 8 findings of the NIH boxes."""

    source: str
    overlap: Literal["iou", "iobb"]
    accuracies: tuple[float, ...]
    """At IOU_LEVELS or IOBB_LEVELS."""

    @property
    def by_measure(self) -> dict[str, float]:
        """By the names of boxes.MEASURES."""
        levels = IOU_LEVELS if self.overlap == "iou" else IOBB_LEVELS
        return {f"{self.overlap}>{level:g}": value for level, value in zip(levels, self.accuracies, strict=True)}


PUBLISHED = (
    PublishedAccuracies(source="Wang 2017", overlap="iobb", accuracies=(0.629, 0.486, 0.330, 0.244, 0.209)),
    PublishedAccuracies(source="Grad-CAM++", overlap="iou", accuracies=(0.62, 0.42, 0.28, 0.18, 0.10)),
    PublishedAccuracies(source="random map", overlap="iou", accuracies=(0.29, 0.17, 0.10, 0.05, 0.03)),
)
"""NIH ChestX-ray14 boxes; comparable with runs on those boxes only, and there with the definitions in mind."""


class Crops(Record):
    """Telemetry of the attention box on the films that show a finding (MEAN: on all films counted, once each)."""

    finding: str
    films: int
    area: float
    """Mean area as a share of the film, fallbacks included."""
    area_low: float
    """The 5th percentile."""
    area_median: float
    area_high: float
    """The 95th percentile."""
    fallbacks: int
    """Films on which no region stood out, so that the crop is the whole view."""

    @property
    def fallback_share(self) -> float:
        """Fallbacks among the films."""
        return self.fallbacks / self.films


class CaseExample(Record):
    """A case in the picture: where the fusion map's box lies, and the annotated boxes, as fractions of the film."""

    rank: Literal["best", "median", "worst"]
    finding: str
    image_id: str
    row: int
    iou: float
    found: tuple[float, float, float, float]
    annotated: tuple[tuple[float, float, float, float], ...]


class Threshold(Record):
    """A map threshold (share of the maximum), chosen on `fitted_on` cases and used for `used_for` others."""

    method: Method
    value: float
    fitted_on: int
    used_for: int


class Localization(Stored):
    """All of it. Boxes are fractions of the film; docs/localization.md defines every number."""

    FILE = "localization.json"

    run: str
    split: str
    rectify: Rectify
    """How signed Grad-CAM maps became maps of 0 or more."""
    seed: int
    resamples: int
    cases: int
    films: int
    patients: int
    grid: tuple[int, int]
    """Cells of the global feature grid, rows and columns."""
    window: tuple[float, float, float, float]
    """The part of the film that the network sees."""
    fitted: str
    """On which films map thresholds and the centre prior were fitted, in words."""
    left_out: tuple[str, ...]
    """What was not scored, and why."""
    leak: LeakResult
    """Patients of the scored films whom the model was trained on."""
    thresholds: tuple[Threshold, ...]
    scores: tuple[MethodScore, ...]
    gaps: tuple[FloorDifference, ...]
    crops: tuple[Crops, ...]
    """On the scored films only; results.json has those of the whole split."""
    examples: tuple[CaseExample, ...]
    published: tuple[PublishedAccuracies, ...] = PUBLISHED

    @property
    def findings(self) -> tuple[str, ...]:
        """Findings with scored boxes, in the order of the labels."""
        return tuple(score.finding for score in self.scores if score.method == "random" and score.finding != MEAN)

    def score(self, method: str, finding: str = MEAN) -> MethodScore:
        """One method on one finding. Raises ValueError where there is none."""
        for score in self.scores:
            if (score.method, score.finding) == (method, finding):
                return score
        raise ValueError(
            f"no score of {method!r} on {finding!r}; "
            f"there are {', '.join(METHODS)} on {', '.join((*self.findings, MEAN))}"
        )

    def gap(self, method: str, floor: str, finding: str = MEAN, measure: str = "hit") -> FloorDifference:
        """A method minus a floor. Raises ValueError where it was not computed."""
        for gap in self.gaps:
            if (gap.method, gap.floor, gap.finding, gap.measure) == (method, floor, finding, measure):
                return gap
        raise ValueError(f"no difference of {method!r} and {floor!r} in {measure!r} on {finding!r} was computed")

    def title(self, method: str) -> str:
        """A method's name, and how its maps were made."""
        return TITLES[method].replace("Grad-CAM", CAM[self.rectify])

    @property
    def empty(self) -> str:
        """How many maps are 0 everywhere, in words."""
        counts = ", ".join(f"{method} {self.score(method).empty:,}" for method in ("global", "local", "fusion"))
        return f"{counts} of {self.cases:,} each"

    def __str__(self) -> str:
        """For a terminal: every method's means, and the hit rate of the attention's peak per finding."""
        measures = {"hit": "Hit", "energy": "Energy", "iou": "IoU", "iou>0.1": "IoU > .1"}
        means = Table(
            head=("Mean over findings", *measures.values()),
            rows=tuple(
                (self.title(method), *(cell(self.score(method).of(name), 2) for name in measures)) for method in METHODS
            ),
        )
        few = any(self.score("random", finding).patients < FEW_PATIENTS for finding in self.findings)
        note = f"{DAGGER} Boxes of fewer than {FEW_PATIENTS} patients: p is rough, of one patient there is none."
        peaks = Table(
            head=("Hit rate of the peak", "Cases", "Random map", "Attention", "Difference", "p", "Centre prior"),
            rows=tuple(self._peak(finding) for finding in self.findings),
            caption=note if few else "",
        )
        head = f"Where it looks: {self.cases:,} boxed findings on {self.films:,} {self.split} films"
        return f"{head}\n\n{to_text(means)}\n\n{to_text(peaks)}"

    def _peak(self, finding: str) -> tuple[Cell | str, ...]:
        floor, attention, prior = (self.score(method, finding) for method in ("random", "attention", "prior"))
        gap = self.gap("attention", "random", finding)
        return (
            words(finding) + DAGGER * (attention.patients < FEW_PATIENTS),
            f"{attention.cases:,}",
            *(number(score.of("hit").value, 2) for score in (floor, attention)),
            difference(gap, 2, soft=False),
            p_text(gap, self.resamples),
            number(prior.of("hit").value, 2),
        )


# --- what the crop shows ----------------------------------------------------------------------------------------------


class Covered(Record):
    """One finding (or the mean over findings): shares in [0, 1]; `gap` is coverage minus chance, paired, 95 %. Its
    interval and p are NaN where all boxes (for the mean: of some finding) are of one patient, who says nothing of
    others."""

    finding: str
    boxes: int
    patients: int
    coverage: float
    chance: float
    gap: float
    gap_low: Number
    gap_high: Number
    p: Number
    left_out: int = 0
    """Resamples without a box of the finding (for the mean: of some finding)."""
    centre: Number = math.nan
    """Of a box of the same size in the centre of the view; NaN in files of before it was measured, as its gap."""
    centre_gap: Number = math.nan
    centre_gap_low: Number = math.nan
    centre_gap_high: Number = math.nan
    centre_p: Number = math.nan

    @property
    def over_chance(self) -> Difference:
        """Coverage minus chance."""
        return Difference(value=self.gap, low=self.gap_low, high=self.gap_high, p=self.p, left_out=self.left_out)

    @property
    def over_centre(self) -> Difference:
        """Coverage minus that of a box in the centre."""
        low, high, p = self.centre_gap_low, self.centre_gap_high, self.centre_p
        return Difference(value=self.centre_gap, low=low, high=high, p=p, left_out=self.left_out)


class Coverage(Stored):
    """All findings with boxes in the split, then their mean."""

    FILE = "coverage.json"

    resamples: int
    rows: tuple[Covered, ...]

    def of(self, finding: str) -> Covered:
        """One finding's row. Raises ValueError where it has no boxes."""
        for row in self.rows:
            if row.finding == finding:
                return row
        raise ValueError(f"no boxes of {finding!r}; there are {', '.join(row.finding for row in self.rows)}")


def crop_table(coverage: Coverage) -> Table:
    """A row a finding, the mean last: coverage beside chance, and beside a crop in the middle."""
    rows = [row for row in coverage.rows if row.finding != WHOLE or len(coverage.rows) > 2]

    def beside(row: Covered, floor: float, gap: Difference) -> tuple[Cell | str, ...]:
        return number(floor), difference(gap, without=no_interval(row.finding)), p_text(gap, coverage.resamples)

    return Table(
        head=("Finding", "Boxes", "Coverage", "Chance", "Difference", "p", "Centre", "Difference", "p"),
        groups=("", "", "", *("At a random place",) * 3, *("In the centre",) * 3),
        rows=tuple(
            (
                boxed(row.finding, row.patients),
                f"{row.boxes:,}",
                number(row.coverage),
                *beside(row, row.chance, row.over_chance),
                *beside(row, row.centre, row.over_centre),
            )
            for row in rows
        ),
        summary=len(rows) > 1,
        caption=few_boxed(row.patients for row in rows),
    )


def boxed(finding: str, patients: int) -> str:
    """The finding of a row, with a dagger where boxes of few patients are behind it; see `few_boxed`."""
    return "Mean over findings" if finding in (MEAN, WHOLE) else words(finding) + DAGGER * (patients < FEW_PATIENTS)


def few_boxed(patients: Iterable[int]) -> str:
    """What the dagger means; empty where it stands nowhere."""
    few = any(count < FEW_PATIENTS for count in patients)
    return f"{DAGGER} Boxes of fewer than {FEW_PATIENTS} patients: intervals and p are rough." if few else ""


def no_interval(finding: str) -> str:
    """Why a row has none."""
    return "no interval" if finding in (MEAN, WHOLE) else "one patient"
