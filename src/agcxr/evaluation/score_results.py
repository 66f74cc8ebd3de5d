"""What `score` found, typed, and as text: for a terminal, and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from agcxr.calibration import MIN_POSITIVES
from agcxr.evaluation.results import Analysis, BranchDifference, BranchResult, FindingResult, MeanResult
from agcxr.evaluation.tables import (
    NONE,
    aligned,
    chance,
    gap_of,
    interval,
    marked,
    notes,
    number,
    p_floor,
    table_rows,
    words,
)
from agcxr.values import Record

NEEDED = f"it takes {MIN_POSITIVES} films with the finding and {MIN_POSITIVES} without it"
TITLES = {
    "youden": "Youden's point",
    "sensitivity95": "Point of 95 % sensitivity",
    "specificity95": "Point of 95 % specificity",
}


class Counted(Record):
    """The films of a finding."""

    finding: str
    films: int
    """With a label and the scores of every branch: what was scored."""
    without_score: int
    """Lacking the score of a branch; left out of this finding alone."""
    unknown: int
    """With every score, whose label is unknown."""


class ChosenOn(Record):
    """Films that operating points were chosen on."""

    file: str
    labels_file: str
    branches: tuple[str, ...]
    films: int
    patients_shared: int
    """Patients who have films among the scored ones too; by name."""


class Scored(Record):
    """What `score` found."""

    predictions: str
    against: str | None
    labels_file: str
    films: int
    """Films with labels and at least one score; what was scored."""
    findings: tuple[Counted, ...]
    predictions_without_labels: int
    labels_without_predictions: int
    without_score: int
    """Films without a single score (files their program could not read); left out."""
    left_out: dict[str, tuple[str, ...]]
    """Findings on one side only, by the reason; a column without a single score is none."""
    not_scored: tuple[str, ...] = ()
    """Kinds of columns that hold nothing but 0 and 1 beside others with probabilities: labels or calls."""
    not_read: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Columns of each file that are neither image, patient, score nor label, but for those that agcxr and the NIH
    write."""
    notes: tuple[str, ...] = ()
    """What was odd in the labels."""
    matched_by: str
    """What of the images' names is the same."""
    patients_from: str | None
    """The file whose patient column was used, or the paths; None: every film counts as its own patient."""
    points_from: tuple[ChosenOn, ...] = ()
    analysis: Analysis

    def __str__(self) -> str:
        parts = [_in_lines(sheet) for sheet in _sheets(self)]
        return "\n\n".join([*parts, "\n".join(_remarks(self))])

    def markdown(self) -> str:
        """The same as Markdown."""
        beside = f" beside those of {self.against}" if self.against else ""
        parts = [f"# Scores of {self.predictions}{beside}", f"Labels: {self.labels_file}. Research use only."]
        for sheet in _sheets(self):
            parts += [f"## {sheet.title}", _in_pipes(sheet.rows), "\n".join(sheet.notes)]
        parts += ["## Films", "\n".join(f"- {_escaped(line)}" for line in _remarks(self))]
        return "\n\n".join(part for part in parts if part) + "\n"

    def save(self, file: Path) -> None:
        """Write results as .json, or tables as .md."""
        check_out([file])
        file.parent.mkdir(parents=True, exist_ok=True)
        text = self.markdown() if file.suffix == ".md" else self.model_dump_json(indent=1) + "\n"
        file.write_text(text, encoding="utf-8")


def check_out(files: Sequence[Path]) -> None:
    """ValueError for a file that cannot be written, before the work is done."""
    for file in files:
        if file.suffix not in (".json", ".md"):
            raise ValueError(f"cannot write {file}; expected results as .json or tables as .md")


@dataclass(frozen=True)
class Sheet:
    """One table: head, a row a finding, the mean; and what to know of it."""

    title: str
    rows: Sequence[Sequence[str]]
    notes: tuple[str, ...] = ()


def _in_lines(sheet: Sheet) -> str:
    return "\n".join([sheet.title, "", *aligned(sheet.rows), *sheet.notes])


def _in_pipes(rows: Sequence[Sequence[str]]) -> str:
    rule = [":--", *("--:" for _ in rows[0][1:])]
    return "\n".join(f"| {' | '.join(map(_escaped, row))} |" for row in (rows[0], rule, *rows[1:]))


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def _sheets(found: Scored) -> Iterator[Sheet]:
    yield _auroc(found)
    if len(found.analysis.branches) > 1:
        yield _precision(found.analysis)
    for p, _ in enumerate(found.analysis.mean.branches[-1].points):
        if _pointed(found.analysis, p):
            yield _at_point(found, p)


def _pointed(analysis: Analysis, p: int) -> bool:
    """Some finding has this operating point."""
    return not all(math.isnan(one.branches[-1].points[p].threshold) for one in analysis.stated)


def _auroc(found: Scored) -> Sheet:
    """AUROC with the counts of each finding; DeLong's opinion on its interval, or on a difference."""
    analysis = found.analysis
    paired = len(analysis.branches) > 1
    head, *body = table_rows(analysis)
    films = ["Films", *(f"{one.positives + one.negatives:,}" for one in analysis.stated), ""]
    if paired:
        more = [["DeLong p", *(_delong_p(one, analysis) for one in analysis.stated), NONE]]
        title, what = "AUROC", "DeLong's p is a second opinion that takes"
    else:
        head[2] = "AUROC"
        ends = [one.branches[-1] for one in _results(analysis)]
        more = [["DeLong", *map(_delong, ends)], ["Average precision", *(interval(b.average_precision) for b in ends)]]
        title, what = "AUROC and average precision", "DeLong's intervals are a second opinion that takes"
    rows = [[row[0], count, *row[1:], *end] for row, count, *end in zip([head, *body], films, *more, strict=True)]
    several = analysis.resampling.unit == "patient" and analysis.patients < analysis.films
    second = f"{what} films as independent" + "; patients have several here, which makes it too sure" * several
    return Sheet(title, rows, (*notes(analysis), f"{second}."))


def _results(analysis: Analysis) -> tuple[FindingResult | MeanResult, ...]:
    return (*analysis.stated, analysis.mean)


def _delong(branch: BranchResult) -> str:
    return NONE if math.isnan(branch.delong_low) else f"{number(branch.delong_low)}–{number(branch.delong_high)}"


def _delong_p(result: FindingResult, analysis: Analysis) -> str:
    gap = gap_of(result.gaps, analysis.branches[0])
    return chance(gap.delong_p, 0.001) if gap else NONE


def _precision(analysis: Analysis) -> Sheet:
    first, last = analysis.branches[0], analysis.branches[-1]
    rows = [["Finding", "Prevalence", *(name.capitalize() for name in analysis.branches)]]
    rows[0] += [f"{last.capitalize()} − {first}", "p"]
    for one in _results(analysis):
        share = NONE
        if isinstance(one, FindingResult):
            share = number(one.positives / (one.positives + one.negatives))
        gap = gap_of(one.gaps, first, "average_precision")
        p = chance(gap.p, p_floor(analysis, gap)) if gap else NONE
        rows.append([_name(one), share, *(interval(b.average_precision) for b in one.branches), _difference(gap), p])
    rows[-1][1] = ""
    return Sheet("Average precision", rows, ("That of a useless score is the prevalence.",))


def _at_point(found: Scored, p: int) -> Sheet:
    """Sensitivity and specificity of the last branch, and their differences from the first."""
    analysis = found.analysis
    first, last = analysis.branches[0], analysis.branches[-1]
    name = analysis.mean.branches[-1].points[p].point
    gaps = [gap for one in _results(analysis) for gap in one.gaps if gap.point == name]
    paired = any(gap.against == first for gap in gaps)
    rows = [["Finding", "Threshold", "Sensitivity", "Specificity"]]
    rows[0] += [f"Sens. − {first}", f"Spec. − {first}"] if paired else []
    absent = []
    for one in _results(analysis):
        at = one.branches[-1].points[p]
        if isinstance(one, FindingResult) and math.isnan(at.threshold):
            absent.append(words(one.finding))
            continue
        row = [_name(one), number(at.threshold), interval(at.sensitivity), interval(at.specificity)]
        row += [_difference(gap_of(one.gaps, first, "sensitivity", name))] * paired
        row += [_difference(gap_of(one.gaps, first, "specificity", name))] * paired
        rows.append(row)
    rows[-1][:2] = ["Mean", ""]
    title = TITLES.get(name, name) + (f", {last}" if len(analysis.branches) > 1 else "")
    return Sheet(title, rows, (f"No such point ({NEEDED}): {', '.join(absent)}.",) if absent else ())


def _name(one: FindingResult | MeanResult) -> str:
    return marked(one) if isinstance(one, FindingResult) else f"Mean of {len(one.findings)}"


def _difference(gap: BranchDifference | None) -> str:
    return NONE if gap is None else interval(gap, sign=True)


def _remarks(found: Scored) -> Iterator[str]:
    """What was scored and what was not, a sentence each."""
    for branch in found.analysis.mean.branches:
        which = f", {branch.branch}" if len(found.analysis.branches) > 1 else ""
        yield f"Mean over findings{which}: Brier score {interval(branch.brier)}, ECE {number(branch.ece)}."
    points = range(len(found.analysis.mean.branches[-1].points))
    if points and not any(_pointed(found.analysis, p) for p in points):
        yield f"No operating points: no finding has enough films to choose them on ({NEEDED})."
    for one in found.points_from:
        which = f" of {' and '.join(one.branches)}" if found.against else ""
        yield f"Thresholds{which} were chosen on {_films(one.films)} of {one.file}; a film is called at or over them."
        if one.patients_shared:
            who = "patient there is" if one.patients_shared == 1 else "patients there are"
            yield f"Caution: {one.patients_shared:,} {who} among the scored ones too, by their names."
    yield f"{_films(found.films)}, matched by {found.matched_by}."
    unmatched = [
        f"{count:,} {what}{'s' * (count != 1)} without {lack}"
        for count, what, lack in (
            (found.predictions_without_labels, "prediction", "labels"),
            (found.labels_without_predictions, "labelled film", "prediction"),
        )
        if count
    ]
    if unmatched:
        yield f"Not scored: {', '.join(unmatched)}."
    if found.without_score:
        yield f"Left out: {_films(found.without_score)} without a single score."
    if missing := [f"{words(one.finding)} {one.without_score:,}" for one in found.findings if one.without_score]:
        yield f"Films that lack a score, left out of that finding alone: {', '.join(missing)}."
    if found.not_scored:
        yield f"Not scored, for they hold only 0 and 1 (labels or calls): columns {', '.join(found.not_scored)}."
    for reason, names in found.left_out.items():
        yield f"Findings {reason}: {', '.join(map(words, names))}."
    for file, names in found.not_read.items():
        yield f"Columns of {file} that were not read, as they name no finding of ours: {', '.join(names)}."
    for note in found.notes:
        yield f"Labels: {note}."
    if found.patients_from is None:
        yield "No patient column was found: every film was taken as its own patient."
    else:
        yield f"Patients: from {found.patients_from}."


def _films(count: int) -> str:
    return f"{count:,} film{'s' * (count != 1)}"
