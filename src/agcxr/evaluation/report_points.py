"""The report's section on operating points: sensitivity and specificity at thresholds of the validation films."""

from __future__ import annotations

import math

from agcxr.evaluation.page import Block, Section, Text
from agcxr.evaluation.report_tables import over
from agcxr.evaluation.results import Analysis, FindingResult, Results
from agcxr.evaluation.tables import Side, apart, at_point, counted, few_patients, gap_of, table, with_mean
from agcxr.table import BOLD, NONE, Table, interval

NAMES = {"youden": "Youden", "sensitivity95": "95 % sensitivity", "specificity95": "95 % specificity"}
SIDES: dict[Side, str] = {"sensitivity": "Sens.", "specificity": "Spec."}


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
    columns = [counted("Positives", lambda r: NONE if r.chosen_on is None else f"{r.chosen_on:,}", "Validation")]
    for p, point in enumerate(shown[0].branches[-1].points):
        columns += [at_point(p, side, title, _name(point.point), places=2) for side, title in SIDES.items()]
    caption = (
        f"Fusion. Thresholds were chosen on {results.points_from}; a film is called positive at or over its threshold. "
        f"{_what_it_shows(results)} {few_patients(results.analysis)}"
    )
    return table(shown, columns, caption)


def _name(point: str) -> str:
    return NAMES.get(point, point)


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
    rows = [r for r in shown if any(gap.point for gap in r.gaps)]
    if not rows:
        return ()
    averaged = [r.finding for r in shown if r.finding != analysis.findings.none]
    columns = [
        apart(analysis, side, point, title=title, group=_name(point))
        for point in points
        for side, title in SIDES.items()
    ]
    caption = (
        f"{last.capitalize()} minus {first} on the same films, each at its own thresholds from the same validation "
        "films. Read both sides of a point together: a threshold that lies lower by chance gains sensitivity and "
        f"loses specificity. Means are over the findings that have the point. {BOLD}"
    )
    folded = f"{last.capitalize()} minus {first} at these points, finding by finding"
    mean = analysis.mean.model_copy(update={"findings": tuple(averaged)})
    compared = table(with_mean(rows, mean), columns, caption, folded=folded, stacked=True)
    return (*_mean_differences(analysis, averaged, points), compared)


def _mean_differences(analysis: Analysis, averaged: list[str], points: list[str]) -> tuple[Text, ...]:
    """The mean differences in a sentence."""
    first, last = analysis.branches[0], analysis.branches[-1]
    parts = []
    for point in points:
        gaps = {side: gap_of(analysis.mean, first, side, point) for side in SIDES}
        each = [f"{side} {interval(gap, sign=True)}" for side, gap in gaps.items() if gap]
        parts += [f"at {_name(point)}, {' and '.join(each)}"] if each else []
    if not parts:
        return ()
    return (Text(f"{over(averaged)}, {last} minus {first}, paired: {'; '.join(parts)}."),)
