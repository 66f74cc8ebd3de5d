"""Numbers as people read them, and the one table of them: as text for a terminal, as Markdown, and in pages as HTML.

An `Estimate` becomes a `Cell` here and nowhere else: a value, and its interval as softer text beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from agcxr.uncertainty import FEW_PATIENTS, FEWEST_PATIENTS, Difference, Estimate, p_floor

NONE, DAGGER, WORSE = "–", "†", "▾"
BOLD = f"Differences in bold have an interval that leaves out 0; {WORSE} marks those for the worse."


# --- numbers ----------------------------------------------------------------------------------------------------------


def number(value: float, places: int = 3) -> str:
    """ ".812", "1.000", "–" for NaN: areas under curves without their leading zero."""
    if math.isnan(value):
        return NONE
    text = f"{value:.{places}f}"
    return text[1:] if text.startswith("0.") else text


def signed(value: float, places: int | None = 3) -> str:
    """ "+.012", "−.003" with a true minus sign, "–" for NaN. places: None for three, or as many as it takes to see a
    digit that is not 0, so that "+.000" never hides a sign; 0 is then "0"."""
    if math.isnan(value):
        return NONE
    if places is None:
        if value == 0:
            return "0"
        places = 3 if abs(value) >= 0.0005 else -math.floor(math.log10(abs(value)))
    return f"{'−' if value < 0 else '+'}{number(abs(value), places)}"


def percent(value: float, places: int = 1) -> str:
    """A share as "12.3 %"."""
    return NONE if math.isnan(value) else f"{100 * value:.{places}f} %"


def chance(p: float, floor: float) -> str:
    """A p value: "≤.002" at the floor that the number of resamples sets, else two to four places."""
    if math.isnan(p):
        return NONE
    at_floor = p <= floor * 1.0001
    shown = floor if at_floor else p
    enough = max(3, math.ceil(-math.log10(shown)))  # one digit at least that is not 0
    text = number(shown, enough if at_floor or p < 0.1 else 2)
    return f"≤{text}" if at_floor else text


def p_text(gap: Difference | None, resamples: int) -> str:
    """The p of a difference from so many resamples; "–" where it was not measured."""
    return NONE if gap is None else chance(gap.p, p_floor(resamples, gap.left_out))


def ends(estimate: Estimate, places: int | None = 3, *, sign: bool = False) -> str:
    """The interval alone: ".790–.833", with signs "+.010 to +.030"; empty where there is none."""
    if math.isnan(estimate.low):
        return ""
    if sign or places is None:
        return f"{signed(estimate.low, places)} to {signed(estimate.high, places)}"
    return f"{number(estimate.low, places)}–{number(estimate.high, places)}"


def interval(estimate: Estimate, places: int | None = 3, *, sign: bool = False) -> str:
    """ ".812 (.790–.833)", with signs "+.012 (+.003 to +.021)"; ".812" where one patient alone gives no interval; "–"
    where there is no value."""
    if math.isnan(estimate.value):
        return NONE
    value = signed(estimate.value, places) if sign or places is None else number(estimate.value, places)
    span = ends(estimate, places, sign=sign)
    return f"{value} ({span})" if span else value


def words(finding: str) -> str:
    """A finding as people write it."""
    return finding.replace("_", " ")


def dagger_note(stands: bool, unit: str = "patient") -> str:
    """What the dagger means, for under a table; empty where it stands nowhere."""
    if not stands:
        return ""
    return (
        f"{DAGGER} Fewer than {FEW_PATIENTS} {unit}s with the finding, or without it: its interval and p are rough; "
        f"with fewer than {FEWEST_PATIENTS} there are none."
    )


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A value, and softer text beside it."""

    text: str
    soft: str = ""
    strong: bool = False
    worse: bool = False
    """Strong, marked, and in the colour of warnings."""

    @property
    def marked(self) -> str:
        """The value with its mark."""
        return f"{WORSE} {self.text}" if self.worse else self.text


@dataclass(frozen=True)
class Table:
    """Rows of cells. The first column is text, the others are numbers; the last row may be a summary."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    caption: str = ""
    summary: bool = False
    accent: int | None = None
    """A column that matters most."""
    texts: tuple[int, ...] = (0,)
    """Columns that are set left."""
    groups: tuple[str, ...] = ()
    """A name over each column; equal neighbours share one."""
    folded: str = ""
    """Folded away under this title."""
    stacked: bool = False
    """Softer texts under their values, for tables of many columns."""

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, plain texts as cells too."""
        return [[Cell(each) if isinstance(each, str) else each for each in row] for row in self.rows]

    @property
    def titles(self) -> list[str]:
        """A name a column, with the one over it."""
        over = self.groups or ("",) * len(self.head)
        return [f"{group} {name}".strip() for group, name in zip(over, self.head, strict=True)]


def cell(estimate: Estimate | None, places: int = 3, *, strong: bool = False) -> Cell:
    """A value with its interval, softer; "–" where it is not known."""
    if estimate is None or math.isnan(estimate.value):
        return Cell(NONE)
    return Cell(number(estimate.value, places), ends(estimate, places), strong=strong)


def difference(
    estimate: Estimate | None,
    places: int | None = 3,
    *,
    soft: bool = True,
    lower_is_better: bool = False,
    without: str = "",
) -> Cell:
    """A difference with its interval (`soft`), or why it is `without` one: bold where that leaves out 0, and marked
    where it is for the worse; "–" where it was not measured."""
    if estimate is None or math.isnan(estimate.value):
        return Cell(NONE)
    worse = estimate.clear and (estimate.high < 0) != lower_is_better
    span = ends(estimate, places, sign=True) or without if soft else ""
    return Cell(signed(estimate.value, places), span, strong=estimate.clear, worse=worse)


def to_text(table: Table) -> str:
    """Lines for a terminal: texts set left, numbers right, a rule under the head and over a summary; then the caption.
    Nothing is bold, and so nothing marked."""
    bodies = [[f"{each.text} ({each.soft})" if each.soft else each.text for each in row] for row in table.cells]
    widths = [max(map(len, column)) for column in zip(table.head, *bodies, strict=True)]

    def line(row: Sequence[str]) -> str:
        columns = zip(row, widths, strict=True)
        return "  ".join(
            text.ljust(width) if i in table.texts else text.rjust(width) for i, (text, width) in enumerate(columns)
        )

    head, *lines = map(line, [table.head, *bodies])
    rule = "─" * len(head)
    last = [rule, lines.pop()] if table.summary and lines else []
    out = [*_over(table, widths), head, rule, *lines, *last, table.caption]
    return "\n".join(text.rstrip() for text in out if text)


def _over(table: Table, widths: Sequence[int]) -> list[str]:
    """The names over the columns, each in the middle of its own; none where there are none."""
    runs = groupby(zip(table.groups, widths, strict=False), lambda column: column[0])
    return ["  ".join(group.center(sum(width + 2 for _, width in columns) - 2) for group, columns in runs)]


def to_markdown(table: Table) -> str:
    """GitHub's Markdown; the caption is a paragraph of its own."""
    rule = [":--" if i in table.texts else "--:" for i in range(len(table.head))]
    rows: Sequence[Sequence[str]] = [
        list(map(plain, table.titles)),
        rule,
        *(list(map(_markdown_cell, row)) for row in table.cells),
    ]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{text}\n\n{plain(table.caption)}" if table.caption else text


def _markdown_cell(each: Cell) -> str:
    text = f"**{plain(each.marked)}**" if each.strong else plain(each.marked)
    return f"{text} ({plain(each.soft)})" if each.soft else text


def plain(text: str) -> str:
    """Text that Markdown takes as it is."""
    for mark in "\\`*_|<>[]":
        text = text.replace(mark, f"\\{mark}")
    return text
