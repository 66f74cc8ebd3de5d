"""An analysis as tables: a row a finding, the mean last, and a column a measure; and what stands in words below."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from agcxr.evaluation.results import Analysis, BranchDifference, FindingResult, MeanResult, Measure
from agcxr.table import (
    DAGGER,
    NONE,
    Cell,
    Table,
    cell,
    dagger_note,
    difference,
    ends,
    p_text,
    percent,
    to_text,
    words,
)
from agcxr.uncertainty import Estimate

Row: TypeAlias = FindingResult | MeanResult
Side = Literal["sensitivity", "specificity"]


@dataclass(frozen=True)
class Column:
    """What a table shows of each row."""

    title: str
    of: Callable[[Row], Cell | str]
    group: str = ""
    """A name over it; equal neighbours share one."""


def table(
    rows: Sequence[Row],
    columns: Sequence[Column],
    caption: str = "",
    *,
    names: Sequence[Cell | str] = (),
    first: str = "Finding",
    **look: Any,
) -> Table:
    """These columns of the rows. names: of the rows, under `first`; default: see `named`. look: as of `Table`."""
    look = {"summary": bool(rows) and isinstance(rows[-1], MeanResult) and not names} | look
    return Table(
        head=(first, *(column.title for column in columns)),
        rows=tuple(
            (name, *(column.of(row) for column in columns))
            for name, row in zip(names or map(named, rows), rows, strict=True)
        ),
        groups=("", *(column.group for column in columns)) if any(column.group for column in columns) else (),
        caption=caption.strip(),
        **look,
    )


def with_mean(findings: Iterable[FindingResult], mean: MeanResult) -> tuple[Row, ...]:
    """The rows of findings, and their mean where it would not repeat the row of the only one."""
    return (*findings, mean) if len(mean.findings) > 1 else tuple(findings)


def named(row: Row) -> str:
    """The finding as people write it, with a dagger where few patients have it (see `few_patients`); or the mean."""
    if isinstance(row, FindingResult):
        return words(row.finding) + DAGGER * row.few_patients
    return f"Mean of {len(row.findings)}"


# --- columns ----------------------------------------------------------------------------------------------------------


def counted(title: str, of: Callable[[FindingResult], str], group: str = "") -> Column:
    """Of findings alone; empty for their mean."""
    return Column(title, lambda row: of(row) if isinstance(row, FindingResult) else "", group)


POSITIVES = counted("Positives", lambda result: f"{result.positives:,}")


def prevalence(shown: Callable[[float], str] = percent) -> Column:
    """Share of positives among the films that state the finding."""
    return counted("Prevalence", lambda result: shown(result.positives / (result.positives + result.negatives)))


def measured(
    analysis: Analysis,
    measure: Literal["auroc", "average_precision"] = "auroc",
    title: str = "{}",
    strong: str | None = None,
) -> tuple[Column, ...]:
    """A measure of every branch with its interval, a column each. strong: the branch that is bold."""
    return tuple(
        Column(
            capitalised(title.format(name)),
            lambda row, b=b, name=name: cell(getattr(row.branches[b], measure), strong=name == strong),  # type: ignore[misc]
        )
        for b, name in enumerate(analysis.branches)
    )


def capitalised(text: str) -> str:
    """Its first letter large, the others as they are."""
    return text[:1].upper() + text[1:]


def apart(
    analysis: Analysis, measure: Measure = "auroc", point: str = "", against: str = "", title: str = "", group: str = ""
) -> Column:
    """The paired difference of the last branch from another (default: the first), of a measure, at a point."""
    other = against or analysis.branches[0]
    return Column(
        title or capitalised(f"{analysis.branches[-1]} − {other}"),
        lambda row: difference(gap_of(row, other, measure, point)),
        group,
    )


def p_of(analysis: Analysis, measure: Measure = "auroc", against: str = "") -> Column:
    """The p of such a difference."""
    other = against or analysis.branches[0]
    return Column("p", lambda row: p_text(gap_of(row, other, measure), analysis.resampling.resamples))


def at_point(p: int, side: Side, title: str, group: str = "", places: int = 3) -> Column:
    """Sensitivity or specificity of the last branch at its p-th operating point."""
    return Column(title, lambda row: cell(getattr(row.branches[-1].points[p], side), places), group)


def gap_of(row: Row, against: str, measure: Measure = "auroc", point: str = "") -> BranchDifference | None:
    """The difference from a branch, if it was measured; `point`: at which operating point."""
    wanted = (against, measure, point)
    return next((gap for gap in row.gaps if (gap.against, gap.measure, gap.point) == wanted), None)


def delong_interval(row: Row) -> str:
    """Of the AUROC of the last branch, as a second opinion."""
    branch = row.branches[-1]
    delong = Estimate(value=branch.auroc.value, low=branch.delong_low, high=branch.delong_high)
    return ends(delong) or NONE


# --- for a terminal ---------------------------------------------------------------------------------------------------


def auroc_table(analysis: Analysis) -> Table:
    """AUROC per finding and branch with intervals, the difference of the last branch from the first, counts."""
    paired = (apart(analysis), p_of(analysis)) if len(analysis.branches) > 1 else ()
    return table(with_mean(analysis.stated, analysis.mean), (POSITIVES, *measured(analysis), *paired))


def text_table(analysis: Analysis) -> str:
    """`auroc_table`; then, in words, what was left out."""
    return "\n".join([to_text(auroc_table(analysis)), *notes(analysis)])


# --- in words ---------------------------------------------------------------------------------------------------------


def few_patients(analysis: Analysis) -> str:
    """What the dagger means, for under a table; empty where it stands nowhere."""
    return dagger_note(any(result.few_patients for result in analysis.labels), analysis.resampling.unit)


def untaught(analysis: Analysis) -> str:
    """Which findings the model has no answer for; empty where it has one for all."""
    answered = {result.finding for result in analysis.labels}
    names = [words(finding) for finding in analysis.findings.names if finding not in answered]
    return f"The model was not taught, and so says nothing of: {', '.join(names)}." if names else ""


def lone(analysis: Analysis) -> str:
    """Why a mean has no interval: the findings of it that have none. Empty where it has one."""
    if len(analysis.mean.findings) < 2 or not math.isnan(analysis.mean.branches[-1].auroc.low):
        return ""
    of_mean = [r for r in analysis.labels if r.finding in analysis.mean.findings]
    without = [words(r.finding) for r in of_mean if math.isnan(r.branches[-1].auroc.low)]
    if not without:
        return ""
    return f"The mean has no interval, for {' and '.join(without)} {'has' if len(without) == 1 else 'have'} none."


def notes(analysis: Analysis) -> list[str]:
    """What a reader must know about the numbers: intervals, and findings and resamples left out."""
    how = analysis.resampling
    unit = "patients" if how.unit == "patient" else "films (patients are not known, so intervals may be too narrow)"
    lines = [
        f"AUROC with {100 * how.level:g} % intervals: {how.resamples:,} resamples of {how.clusters:,} {unit}; "
        f"seed {how.seed}."
    ]
    lines += filter(None, [few_patients(analysis)])
    if analysis.unstated:
        lines.append(f"Not stated on these films, and left out: {', '.join(map(words, analysis.unstated))}.")
    absent = [result for result in analysis.stated if not result.defined]
    if absent:
        why = ", ".join(
            f"{words(result.finding)} (no {'positives' if result.positives == 0 else 'negatives'})" for result in absent
        )
        lines.append(f"Undefined, and left out of the mean: {why}.")
    mean_lost = analysis.mean.branches[0].auroc.left_out
    if why := lone(analysis):
        lines.append(why)
    elif mean_lost and analysis.mean.findings:
        rare = min(
            (r for r in analysis.labels if r.finding in analysis.mean.findings), key=lambda r: r.positive_patients
        )
        lines.append(
            f"{mean_lost:,} resamples lacked a class of some finding and are left out of the mean's interval "
            f"(rarest: {words(rare.finding)}, {rare.positives} films of {rare.positive_patients} "
            f"{'patient' if rare.positive_patients == 1 else 'patients'})."
        )
    return lines
