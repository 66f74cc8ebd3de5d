"""The report's section on runs of other seeds."""

from __future__ import annotations

from agcxr.evaluation.page import Cell, Section, Table
from agcxr.evaluation.report import few_seeds
from agcxr.evaluation.tables import number, signed
from agcxr.training.seeds import Seeds, Spread


def seeds_section(found: Seeds) -> Section:
    """Mean, spread and each run as a section of a report."""
    head = ("Branch", "Mean", "SD", "Least", "Most", *(f"Seed {seed}" for seed in found.seeds))

    def row(one: Spread) -> tuple[Cell, ...]:
        said = signed if one.difference else number
        spread = (number(one.sd), *(said(value) for value in (one.low, one.high, *one.values)))
        return (Cell(one.name.capitalize()), Cell(said(one.mean), strong=True), *map(Cell, spread))

    caption = (
        f"{found.measure}: {len(found.seeds)} runs that differ in their seed alone, and within each run the difference "
        "of its branches. Intervals elsewhere in this report, but for the summary's, are over patients for one run; "
        f"this spread comes on top of them. SD: of a sample.{few_seeds(len(found.seeds))}"
    )
    table = Table(head, tuple(map(row, found.spreads)), caption, summary=any(one.difference for one in found.spreads))
    return Section("Other seeds", (table,))
