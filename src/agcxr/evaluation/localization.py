"""What `localize` found, as typed JSON, and the table of it beside the published rows."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

from pydantic import Field

from agcxr.evaluation.boxes import IOBB_LEVELS, IOU_LEVELS, MEASURES
from agcxr.evaluation.results import LeakResult
from agcxr.evaluation.tables import DAGGER, NONE, chance, ends, number, signed
from agcxr.inference.maps import Rectify
from agcxr.uncertainty import FEW_PATIENTS, Difference, Estimate, p_floor
from agcxr.values import Record

MEAN = "mean"
"""In place of a finding: the mean over the findings that have boxes, each weighing the same."""

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


class Score(Record):
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
        for found in self.measures:
            if found.name == measure:
                return found
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


class Localization(Record):
    """All of it. Boxes are fractions of the film; docs/localization.md defines every number."""

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
    scores: tuple[Score, ...]
    gaps: tuple[FloorDifference, ...]
    crops: tuple[Crops, ...]
    """On the scored films only; results.json has those of the whole split."""
    examples: tuple[CaseExample, ...]
    published: tuple[PublishedAccuracies, ...] = PUBLISHED

    @property
    def findings(self) -> tuple[str, ...]:
        """Findings with scored boxes, in the order of the labels."""
        return tuple(score.finding for score in self.scores if score.method == "random" and score.finding != MEAN)

    def score(self, method: str, finding: str = MEAN) -> Score:
        """One method on one finding. Raises ValueError where there is none."""
        for found in self.scores:
            if (found.method, found.finding) == (method, finding):
                return found
        raise ValueError(
            f"no score of {method!r} on {finding!r}; "
            f"there are {', '.join(METHODS)} on {', '.join((*self.findings, MEAN))}"
        )

    def gap(self, method: str, floor: str, finding: str = MEAN, measure: str = "hit") -> FloorDifference:
        """A method minus a floor. Raises ValueError where it was not computed."""
        for found in self.gaps:
            if (found.method, found.floor, found.finding, found.measure) == (method, floor, finding, measure):
                return found
        raise ValueError(f"no difference of {method!r} and {floor!r} in {measure!r} on {finding!r} was computed")

    def title(self, method: str) -> str:
        """A method's name, and how its maps were made."""
        return TITLES[method].replace("Grad-CAM", CAM[self.rectify])

    @property
    def empty(self) -> str:
        """How many maps are 0 everywhere, in words."""
        counts = ", ".join(f"{method} {self.score(method).empty:,}" for method in ("global", "local", "fusion"))
        return f"{counts} of {self.cases:,} each"

    def save(self, path: str | Path) -> Path:
        """Write as JSON."""
        path = Path(path)
        path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Localization:
        """Read what `save` wrote."""
        return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))


COLUMNS: tuple[str, ...] = (
    *(f"iou>{level:g}" for level in IOU_LEVELS),
    *(f"iobb>{level:g}" for level in IOBB_LEVELS),
    "hit",
    "energy",
    "iou",
)
"""Columns of the table, names of MEASURES."""


@dataclass(frozen=True)
class TableRow:
    """A line of the table: a title, what kind of line it is, and a cell per column (None: not known)."""

    title: str
    kind: Literal["floor", "ours", "ceiling", "published"]
    cases: int | None
    cells: tuple[MeasureEstimate | None, ...]
    """One per COLUMNS. Published numbers have no interval: their low and high equal their value."""


def table_rows(found: Localization, finding: str = MEAN) -> tuple[TableRow, ...]:
    """The lines for one finding; for MEAN with the published rows, which are means of the eight NIH findings."""
    rows = [_row(found.title(method), found.score(method, finding)) for method in METHODS]
    if finding == MEAN:
        rows += [_published_row(published) for published in found.published]
    return tuple(rows)


def _row(title: str, score: Score) -> TableRow:
    kind: Literal["floor", "ours", "ceiling"] = "ours"
    if score.method in FLOORS:
        kind = "floor"
    elif score.method not in LOOKS:
        kind = "ceiling"
    return TableRow(title, kind, score.cases, tuple(score.of(name) for name in COLUMNS))


def _published_row(published: PublishedAccuracies) -> TableRow:
    levels = IOU_LEVELS if published.overlap == "iou" else IOBB_LEVELS
    known = {f"{published.overlap}>{t:g}": v for t, v in zip(levels, published.accuracies, strict=True)}
    cells = tuple(
        MeasureEstimate(name=name, value=known[name], low=known[name], high=known[name]) if name in known else None
        for name in COLUMNS
    )
    return TableRow(f"published: {published.source}", "published", None, cells)


def text_table(found: Localization, finding: str = MEAN) -> str:
    """The lines as text: every value, and under ours its 95 % interval."""
    lines = [f"{'mean over findings' if finding == MEAN else finding:<26}" + _cells(COLUMNS)]
    for row in table_rows(found, finding):
        lines.append(f"{row.title:<26}" + _cells(tuple("" if c is None else number(c.value) for c in row.cells)))
        if row.kind == "ours":
            lines.append(" " * 26 + _cells(tuple("" if c is None else _ends(c) for c in row.cells)))
    return "\n".join(lines)


def _cells(texts: tuple[str, ...]) -> str:
    return "".join(f"{text:>10}" for text in texts)


def _short(value: float) -> str:
    return number(value, 2)


def _ends(found: MeasureEstimate) -> str:
    return ends(found, 2) or NONE


def hit_table(found: Localization) -> str:
    """Per finding, the pointing game: both floors, the four looks and the ceiling."""
    lines = [f"{'hit rate':<20}{'cases':>6}" + "".join(f"{method:>13}" for method in METHODS)]
    for finding in (*found.findings, MEAN):
        scores = [found.score(method, finding) for method in METHODS]
        cells = "".join(f"{number(score.of('hit').value):>13}" for score in scores)
        lines.append(f"{finding:<20}{scores[0].cases:>6}{cells}")
    return "\n".join(lines)


def summary(found: Localization) -> str:
    """A few lines for a terminal: every method's means, and the hit rate of the attention's peak per finding."""
    head = f"Where it looks: {found.cases:,} boxed findings on {found.films:,} {found.split} films"
    lines = [head, f"{'Mean over findings':<26}{'Hit':>6}{'95 % interval':>16}{'Energy':>8}{'IoU':>7}{'IoU>.1':>8}"]
    for method in METHODS:
        score = found.score(method)
        hit, energy, iou, touching = (score.of(name) for name in ("hit", "energy", "iou", "iou>0.1"))
        lines.append(
            f"{found.title(method):<26}{_short(hit.value):>6}{_ends(hit):>16}"
            f"{_short(energy.value):>8}{_short(iou.value):>7}{_short(touching.value):>8}"
        )
    columns = ("Hit rate of the peak", "Cases", "Random map", "Attention", "Difference", "p", "Centre prior")
    lines.append("{:<26}{:>6}{:>16}{:>12}{:>12}{:>7}{:>14}".format(*columns))
    for finding in found.findings:
        luck, seen, usual = (found.score(method, finding) for method in ("random", "attention", "prior"))
        gap = found.gap("attention", "random", finding)
        name = finding.replace("_", " ") + DAGGER * (seen.patients < FEW_PATIENTS)
        lines.append(
            f"{name:<26}{seen.cases:>6}{_short(luck.of('hit').value):>16}"
            f"{_short(seen.of('hit').value):>12}{signed(gap.value, 2):>12}"
            f"{chance(gap.p, p_floor(found.resamples, gap.left_out)):>7}"
            f"{_short(usual.of('hit').value):>14}"
        )
    if any(found.score("random", finding).patients < FEW_PATIENTS for finding in found.findings):
        lines.append(f"{DAGGER} Boxes of fewer than {FEW_PATIENTS} patients: p is rough, of one patient there is none.")
    return "\n".join(lines)


def print_table(found: Localization, *, per_finding: bool = False, file: TextIO | None = None) -> None:
    """Print the table of means with the published rows and the hit rates; `per_finding`: a table of each as well."""
    out = file or sys.stdout
    print(f"where it looks: {found.cases} boxed findings on {found.films} {found.split} films", file=out)
    print(f"fitted on {found.fitted}", file=out)
    if found.leak.shared_patients:
        print(f"LEAK: the model was trained on {found.leak.shared_patients} of these patients", file=out)
    if found.leak.unchecked:
        print(f"leakage could not be checked: {found.leak.unchecked}", file=out)
    for reason in found.left_out:
        print(f"left out: {reason}", file=out)
    print(f"{CAM[found.rectify]} maps that are 0 everywhere, and score 0: {found.empty}", file=out)
    if found.published:
        print(
            "published rows are of the 984 NIH boxes, 8 findings; they compare with runs on those boxes only", file=out
        )
    for finding in (MEAN, *(found.findings if per_finding else ())):
        print("\n" + text_table(found, finding), file=out)
    print("\n" + hit_table(found), file=out)
