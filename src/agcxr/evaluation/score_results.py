"""What `score` found, typed, and as text: for a terminal, and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from agcxr.calibration import MIN_POSITIVES
from agcxr.evaluation.estimates import tidy
from agcxr.evaluation.results import Analysis
from agcxr.evaluation.tables import (
    POSITIVES,
    Column,
    Row,
    apart,
    at_point,
    counted,
    delong_interval,
    gap_of,
    measured,
    notes,
    p_of,
    prevalence,
    table,
    with_mean,
)
from agcxr.table import NONE, Table, chance, interval, number, plain, to_markdown, to_text, words
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
        parts = [f"{title}\n\n{to_text(shown)}" for title, shown in _tables(self)]
        return "\n\n".join([*parts, "\n".join(_remarks(self))])

    def markdown(self) -> str:
        """The same as Markdown."""
        beside = f" beside those of {self.against}" if self.against else ""
        parts = [f"# Scores of {self.predictions}{beside}", f"Labels: {self.labels_file}. Research use only."]
        for title, shown in _tables(self):
            parts += [f"## {title}", to_markdown(shown)]
        parts += ["## Films", "\n".join(f"- {plain(line)}" for line in _remarks(self))]
        return "\n\n".join(parts) + "\n"

    def save(self, file: Path) -> None:
        """Write results as .json, tables as .md, or every estimate in one tidy table as .csv (see `estimates.tidy`)."""
        check_out([file])
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".csv":
            tidy(results=self.analysis).to_csv(file, index=False)
            return
        text = self.markdown() if file.suffix == ".md" else self.model_dump_json(indent=1) + "\n"
        file.write_text(text, encoding="utf-8")


def check_out(files: Sequence[Path]) -> None:
    """ValueError for a file that cannot be written, before the work is done."""
    for file in files:
        if file.suffix not in (".json", ".md", ".csv"):
            raise ValueError(f"cannot write {file}; expected results as .json, tables as .md, or all estimates as .csv")


def _tables(scored: Scored) -> Iterator[tuple[str, Table]]:
    """Each with its title."""
    analysis = scored.analysis
    yield _auroc(analysis)
    if len(analysis.branches) > 1:
        yield "Average precision", _precision(analysis)
    for p, _ in enumerate(analysis.mean.branches[-1].points):
        if _pointed(analysis, p):
            yield _at_point(analysis, p)


def _pointed(analysis: Analysis, p: int) -> bool:
    """Some finding has this operating point."""
    return not all(math.isnan(result.branches[-1].points[p].threshold) for result in analysis.stated)


def _auroc(analysis: Analysis) -> tuple[str, Table]:
    """AUROC with the counts of each finding; DeLong's opinion on its interval, or on a difference."""
    films = counted("Films", lambda result: f"{result.positives + result.negatives:,}")
    if len(analysis.branches) > 1:
        title, what = "AUROC", "DeLong's p is a second opinion that takes"
        columns = (*measured(analysis), apart(analysis), p_of(analysis), _delong_p(analysis))
    else:
        title, what = "AUROC and average precision", "DeLong's intervals are a second opinion that takes"
        precision = measured(analysis, "average_precision", "Average precision")
        columns = (*measured(analysis, title="AUROC"), Column("DeLong", delong_interval), *precision)
    several = analysis.resampling.unit == "patient" and analysis.patients < analysis.films
    second = f"{what} films as independent" + "; patients have several here, which makes it too sure" * several
    caption = "\n".join((*notes(analysis), f"{second}."))
    return title, table(with_mean(analysis.stated, analysis.mean), (films, POSITIVES, *columns), caption)


def _delong_p(analysis: Analysis) -> Column:
    def p(row: Row) -> str:
        gap = gap_of(row, analysis.branches[0])
        return chance(gap.delong_p, 0.001) if gap else NONE

    return Column("DeLong p", p)


def _precision(analysis: Analysis) -> Table:
    measure: Literal["average_precision"] = "average_precision"
    columns = (prevalence(number), *measured(analysis, measure), apart(analysis, measure), p_of(analysis, measure))
    caption = "That of a useless score is the prevalence."
    return table(with_mean(analysis.stated, analysis.mean), columns, caption)


def _at_point(analysis: Analysis, p: int) -> tuple[str, Table]:
    """Sensitivity and specificity of the last branch, and their differences from the first."""
    first, last = analysis.branches[0], analysis.branches[-1]
    name = analysis.mean.branches[-1].points[p].point
    have = [result for result in analysis.stated if not math.isnan(result.branches[-1].points[p].threshold)]
    rows: list[Row] = [*have, analysis.mean]
    columns = [
        counted("Threshold", lambda result: number(result.branches[-1].points[p].threshold)),
        at_point(p, "sensitivity", "Sensitivity"),
        at_point(p, "specificity", "Specificity"),
    ]
    if any(gap_of(row, first, "sensitivity", name) for row in rows):
        columns += [
            apart(analysis, "sensitivity", name, title=f"Sens. − {first}"),
            apart(analysis, "specificity", name, title=f"Spec. − {first}"),
        ]
    absent = ", ".join(words(result.finding) for result in analysis.stated if result not in have)
    title = TITLES.get(name, name) + (f", {last}" if len(analysis.branches) > 1 else "")
    caption = f"No such point ({NEEDED}): {absent}." if absent else ""
    return title, table(with_mean(have, analysis.mean), columns, caption)


def _remarks(scored: Scored) -> Iterator[str]:
    """What was scored and what was not, a sentence each."""
    for branch in scored.analysis.mean.branches:
        which = f", {branch.branch}" if len(scored.analysis.branches) > 1 else ""
        yield f"Mean over findings{which}: Brier score {interval(branch.brier)}, ECE {number(branch.ece)}."
    points = range(len(scored.analysis.mean.branches[-1].points))
    if points and not any(_pointed(scored.analysis, p) for p in points):
        yield f"No operating points: no finding has enough films to choose them on ({NEEDED})."
    for chosen_on in scored.points_from:
        which = f" of {' and '.join(chosen_on.branches)}" if scored.against else ""
        films = f"{_films(chosen_on.films)} of {chosen_on.file}"
        yield f"Thresholds{which} were chosen on {films}; a film is called at or over them."
        if chosen_on.patients_shared:
            who = "patient there is" if chosen_on.patients_shared == 1 else "patients there are"
            yield f"Caution: {chosen_on.patients_shared:,} {who} among the scored ones too, by their names."
    yield f"{_films(scored.films)}, matched by {scored.matched_by}."
    unmatched = [
        f"{count:,} {what}{'s' * (count != 1)} without {lack}"
        for count, what, lack in (
            (scored.predictions_without_labels, "prediction", "labels"),
            (scored.labels_without_predictions, "labelled film", "prediction"),
        )
        if count
    ]
    if unmatched:
        yield f"Not scored: {', '.join(unmatched)}."
    if scored.without_score:
        yield f"Left out: {_films(scored.without_score)} without a single score."
    if missing := [
        f"{words(finding.finding)} {finding.without_score:,}" for finding in scored.findings if finding.without_score
    ]:
        yield f"Films that lack a score, left out of that finding alone: {', '.join(missing)}."
    if scored.not_scored:
        yield f"Not scored, for they hold only 0 and 1 (labels or calls): columns {', '.join(scored.not_scored)}."
    for reason, names in scored.left_out.items():
        yield f"Findings {reason}: {', '.join(map(words, names))}."
    for file, names in scored.not_read.items():
        yield f"Columns of {file} that were not read, as they name no finding of ours: {', '.join(names)}."
    for note in scored.notes:
        yield f"Labels: {note}."
    if scored.patients_from is None:
        yield "No patient column was found: every film was taken as its own patient."
    else:
        yield f"Patients: from {scored.patients_from}."


def _films(count: int) -> str:
    return f"{count:,} film{'s' * (count != 1)}"
