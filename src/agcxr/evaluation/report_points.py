"""The report's section on operating points: sensitivity and specificity at thresholds of the validation films."""

from __future__ import annotations

import math

from agcxr.evaluation.page import Block, Cell, Section, Table, Text
from agcxr.evaluation.report_tables import BOLD, cell, difference, mean_row, over
from agcxr.evaluation.results import Analysis, BranchDifference, FindingResult, Results
from agcxr.evaluation.tables import NONE, few_patients, gap_of, interval, marked

NAMES = {"youden": "Youden", "sensitivity95": "95 % sensitivity", "specificity95": "95 % specificity"}
SIDES = ("sensitivity", "specificity")


def operating(results: Results) -> Section:
    """What the fusion's calls reach at each point, and how far its branches differ there."""
    analysis = results.analysis
    shown = [r for r in analysis.stated if r.defined and any(_known(p.threshold) for p in r.branches[-1].points)]
    if not shown:
        return Section("Operating points", ())
    return Section("Operating points", (_reached(results, shown), *_compared(analysis, shown)))


def _known(value: float) -> bool:
    return not math.isnan(value)


def _reached(results: Results, shown: list[FindingResult]) -> Table:
    points = shown[0].branches[-1].points
    head = ("Finding", "Positives", *(side for _ in points for side in ("Sens.", "Spec.")))
    groups = ("", "Validation", *(NAMES.get(point.point, point.point) for point in points for _ in SIDES))
    rows = []
    for r in shown:
        cells = [cell(value, 2) for p in r.branches[-1].points for value in (p.sensitivity, p.specificity)]
        rows.append((Cell(marked(r)), Cell(NONE if r.chosen_on is None else f"{r.chosen_on:,}"), *cells))
    caption = (
        f"Fusion. Thresholds were chosen on {results.points_from}; a film is called positive at or over its threshold. "
        f"{_what_it_shows(results)} {few_patients(results.analysis)}"
    ).strip()
    return Table(head, tuple(rows), caption, groups=groups)


def _what_it_shows(results: Results) -> str:
    """What sensitivity and specificity say of other films: nothing where the thresholds were chosen on these."""
    if results.points_fitted_here:
        return (
            "So sensitivity and specificity look better here than they are: each point was put where these very films "
            "allow it, and a point named 95 % reaches that by its choice alone. The intervals do not allow for it; "
            "measure on films apart."
        )
    return (
        "That a point named 95 % lands elsewhere here is shift and chance: what differs between those films and these, "
        "and which films happened to be among either. The fewer positives validation held, the more of it is chance; "
        "the intervals hold the chance in these films alone."
    )


def _compared(analysis: Analysis, shown: list[FindingResult]) -> tuple[Block, ...]:
    """The fusion minus the global branch at each point, where both have thresholds."""
    first, last = analysis.branches[0], analysis.branches[-1]
    points = [point.point for point in shown[0].branches[-1].points]

    def cells(gaps: tuple[BranchDifference, ...]) -> list[Cell]:
        found = [gap_of(gaps, first, side, point) for point in points for side in SIDES]
        return [difference(gap) for gap in found]

    rows = [(Cell(marked(r)), *cells(r.gaps)) for r in shown if any(gap.point for gap in r.gaps)]
    if not rows:
        return ()
    averaged = [r.finding for r in shown if r.finding != analysis.findings.none]
    mean = mean_row(averaged, (cells(analysis.mean.gaps),))
    head = ("Finding", *(side for _ in points for side in ("Sens.", "Spec.")))
    groups = ("", *(NAMES.get(point, point) for point in points for _ in SIDES))
    caption = (
        f"{last.capitalize()} minus {first} on the same films, each at its own thresholds from the same validation "
        "films. Read both sides of a point together: a threshold that lies lower by chance gains sensitivity and "
        f"loses specificity. Means are over the findings that have the point. {BOLD}"
    )
    folded = f"{last.capitalize()} minus {first} at these points, finding by finding"
    table = Table(head, (*rows, *mean), caption, groups=groups, folded=folded, summary=bool(mean), stacked=True)
    return (*_said(analysis, averaged, points), table)


def _said(analysis: Analysis, averaged: list[str], points: list[str]) -> tuple[Text, ...]:
    """The mean differences in a sentence."""
    first, last = analysis.branches[0], analysis.branches[-1]
    parts = []
    for point in points:
        found = {side: gap_of(analysis.mean.gaps, first, side, point) for side in SIDES}
        each = [f"{side} {interval(gap, sign=True)}" for side, gap in found.items() if gap]
        parts += [f"at {NAMES.get(point, point)}, {' and '.join(each)}"] if each else []
    if not parts:
        return ()
    return (Text(f"{over(averaged)}, {last} minus {first}, paired: {'; '.join(parts)}."),)
