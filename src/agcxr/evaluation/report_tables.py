"""Sections of the report that are made of measures: results -> blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

from agcxr.evaluation import published
from agcxr.evaluation.charts import ForestRow, forest
from agcxr.evaluation.page import (
    Block,
    Cell,
    Chart,
    Section,
    Table,
)
from agcxr.evaluation.results import BranchDifference, BranchResult, Results
from agcxr.evaluation.tables import NONE, chance, ends, few_patients, gap_of, marked, number, p_floor, signed, words
from agcxr.uncertainty import Estimate

Cells: TypeAlias = tuple[Cell, ...]
WORSE = "▾"
BOLD = f"Differences in bold have an interval that leaves out 0; {WORSE} marks those for the worse."


def over(findings: Sequence[str]) -> str:
    """Of what a mean is, to begin a sentence with."""
    return f"On {words(findings[0])}" if len(findings) == 1 else f"Over {len(findings)} findings"


def mean_row(findings: Sequence[str], cells: Iterable[Iterable[Cell]], name: str = "Mean of {}") -> tuple[Cells, ...]:
    """The last row of a table; none where it would repeat the row of the only finding."""
    if len(findings) < 2:
        return ()
    return ((Cell(name.format(len(findings))), *(cell for part in cells for cell in part)),)


def cell(found: Estimate | None, places: int = 3, *, strong: bool = False) -> Cell:
    """A value with its interval, softer; "–" where it is not known."""
    if found is None or math.isnan(found.value):
        return Cell(NONE)
    return Cell(number(found.value, places), ends(found, places), strong=strong)


def difference(
    found: Estimate | None, places: int = 3, *, soft: bool = True, lower_is_better: bool = False, why: str = ""
) -> Cell:
    """A difference with its interval (`soft`), or why it has none: bold where that leaves out 0, and marked where it is
    for the worse; "–" where it was not measured."""
    if found is None:
        return Cell(NONE)
    worse = found.clear and (found.high < 0) != lower_is_better
    span = ends(found, places, sign=True) or why if soft else ""
    return Cell(f"{WORSE} " * worse + signed(found.value, places), span, strong=found.clear, worse=worse)


def percent(value: float, places: int = 1) -> str:
    """A share as "12.3 %"."""
    return NONE if math.isnan(value) else f"{100 * value:.{places}f} %"


def per_finding(results: Results) -> Section:
    """AUROC a finding, beside the published fusion for real films; then average precision and calibration."""
    analysis = results.analysis
    first, last = analysis.branches[0], analysis.branches[-1]
    beside = (published.LITE, published.PAPER) if results.comparable else ()
    theirs = [published.published(source, "fusion") for source in beside]
    titles = (*(name.capitalize() for name in analysis.branches), f"{last.capitalize()} − {first}", "p")
    head = ("Finding", "Positives", *titles, *("Lite", "Paper")[: len(beside)])

    def cells(branches: tuple[BranchResult, ...], gaps: tuple[BranchDifference, ...]) -> Cells:
        gap = gap_of(gaps, first)
        found = [cell(b.auroc, strong=b.branch == last) for b in branches]
        apart = difference(gap)
        if apart.strong and not apart.worse and all(b.auroc.value <= 0.5 for b in (branches[0], branches[-1])):
            apart = replace(apart, strong=False)  # nearer to guessing from below is no gain
        return (*found, apart, Cell(chance(gap.p, p_floor(analysis, gap)) if gap else NONE))

    rows: list[Cells] = []
    for r in analysis.stated:
        known = (Cell(number(one.of(r.finding))) for one in theirs)
        rows.append((Cell(marked(r)), Cell(f"{r.positives:,}"), *cells(r.branches, r.gaps), *known))
    mean = analysis.mean
    ends = [Cell(number(one.mean_of(mean.findings))) for one in theirs]
    last_row = mean_row(mean.findings, ([Cell("")], cells(mean.branches, mean.gaps), ends))
    caption = f"AUROC with {100 * analysis.resampling.level:g} % intervals. {BOLD} {_means(results)}"
    table = Table(
        head,
        (*rows, *last_row),
        f"{caption} {few_patients(analysis)}".strip(),
        summary=bool(last_row),
        accent=1 + len(analysis.branches),
    )
    return Section("Per finding", (table, *_precision(results)))


def _means(results: Results) -> str:
    """What is in the means, and what Lite and Paper are."""
    mean, none = results.analysis.mean, results.analysis.findings.none
    said = f"{words(none)} is not in the mean. " if none and len(mean.findings) > 1 else ""
    if not results.comparable:
        return said.strip()
    said += "Lite and Paper: published fusion AUROCs with ResNet-50, measured on other films and splits"
    return (
        f"{said}, averaged over the same findings." if 1 < len(mean.findings) < len(published.FINDINGS) else f"{said}."
    )


def _precision(results: Results) -> tuple[Block, ...]:
    """Average precision, Brier and ECE of the findings that have both classes."""
    analysis = results.analysis
    head = ("Finding", "Prevalence", *(f"AP {name}" for name in analysis.branches), "Brier fusion", "ECE fusion")

    def cells(branches: tuple[BranchResult, ...]) -> Cells:
        found = [cell(b.average_precision) for b in branches]
        return (*found, Cell(number(branches[-1].brier.value)), Cell(number(branches[-1].ece)))

    rows: list[Cells] = [
        (Cell(marked(r)), Cell(percent(r.positives / (r.positives + r.negatives))), *cells(r.branches))
        for r in analysis.labels
        if r.defined
    ]
    last_row = mean_row(analysis.mean.findings, ([Cell("")], cells(analysis.mean.branches)))
    caption = (
        "Average precision of a useless score equals the prevalence. Brier score and expected calibration error (15 "
        f"bins of equal width) are of the raw probabilities; 0 is best. {few_patients(analysis)}"
    ).strip()
    accent = 1 + len(analysis.branches)
    return (Table(head, (*rows, *last_row), caption, summary=bool(last_row), accent=accent),)


def fusion_gain(results: Results) -> Section:
    """The differences as a forest plot, and DeLong as a second opinion."""
    analysis = results.analysis
    first, last = analysis.branches[0], analysis.branches[-1]

    def row(name: str, gap: BranchDifference | None, strong: bool = False) -> ForestRow:
        if gap is None or math.isnan(gap.value):
            return ForestRow(name, math.nan, math.nan, math.nan, NONE)
        return ForestRow(
            name,
            gap.value,
            gap.low,
            gap.high,
            f"{signed(gap.value)}, p {chance(gap.p, p_floor(analysis, gap))}",
            strong,
        )

    found = sorted(
        (
            (marked(r), gap_of(r.gaps, first))
            for r in analysis.labels
            if r.defined and r.finding != analysis.findings.none
        ),
        key=lambda pair: -pair[1].value if pair[1] else 0,
    )
    rows = [row(name, gap) for name, gap in found]
    if len(analysis.mean.findings) > 1:
        rows.append(row(f"Mean of {len(analysis.mean.findings)}", gap_of(analysis.mean.gaps, first), strong=True))
    svg = forest(rows, low_side=f"{first} better", high_side=f"{last} better", name=f"{last} minus {first}, AUROC")
    caption = (
        f"Difference in AUROC, {last} minus {first}, paired on the same films, with "
        f"{100 * analysis.resampling.level:g} % intervals over patients. Solid: the interval leaves out 0. "
        + f"The intervals are not corrected for looking at {len(found)} findings; {_after_holm(results)}. "
        * (len(found) > 1)
        + few_patients(analysis)
    ).strip()
    chart = Chart(svg, "differences.svg", caption)
    return Section("What fusion adds", (chart, *_second_opinion(results), *_every_gap(results)))


def _after_holm(results: Results) -> str:
    """Which differences remain when all are looked at."""
    analysis = results.analysis
    found = [(r.finding, gap_of(r.gaps, analysis.branches[0])) for r in analysis.labels]
    sure = [words(name) for name, gap in found if gap and gap.holm < 1 - analysis.resampling.level]
    return f"by Holm's p {', '.join(sure) or 'none'} would still be called"


def _every_gap(results: Results) -> tuple[Block, ...]:
    """The last branch minus each other one, in both measures, folded away."""
    analysis = results.analysis
    last = analysis.branches[-1]

    def cells(gaps: tuple[BranchDifference, ...], against: str) -> Cells:
        found = [gap_of(gaps, against, measure) for measure in ("auroc", "average_precision")]
        pairs = [(difference(gap), Cell(chance(gap.p, p_floor(analysis, gap)) if gap else NONE)) for gap in found]
        return tuple(cell for pair in pairs for cell in pair)

    out = []
    for against in analysis.branches[:-1]:
        rows = tuple((Cell(marked(r)), *cells(r.gaps, against)) for r in analysis.labels if r.defined)
        last_row = mean_row(analysis.mean.findings, (cells(analysis.mean.gaps, against),))
        head = ("Finding", "AUROC", "p", "Average precision", "p")
        title = f"{last.capitalize()} minus {against}, finding by finding"
        out.append(Table(head, (*rows, *last_row), BOLD, summary=bool(last_row), folded=title))
    return tuple(out)


def _second_opinion(results: Results) -> tuple[Block, ...]:
    analysis = results.analysis
    first, last = analysis.branches[0], analysis.branches[-1]
    head = (
        "Finding",
        f"AUROC {last}",
        "Bootstrap interval",
        "DeLong interval",
        "p bootstrap",
        "Holm",
        "BH",
        "p DeLong",
    )
    rows = []
    for r in analysis.labels:
        gap, branch = gap_of(r.gaps, first), r.branches[-1]
        if r.defined and gap:
            delong = (
                NONE if math.isnan(branch.delong_low) else f"{number(branch.delong_low)}–{number(branch.delong_high)}"
            )
            values = (
                number(branch.auroc.value),
                ends(branch.auroc),
                delong,
                chance(gap.p, p_floor(analysis, gap)),
                number(gap.holm, 3),
                number(gap.false_discovery, 3),
                chance(gap.delong_p, 0.001),
            )
            rows.append((Cell(marked(r)), *map(Cell, values)))
    caption = (
        "DeLong takes films as independent. It agrees with the bootstrap where patients have one film each; where they "
        f"have several its intervals are too narrow. Here: {analysis.films:,} films of {analysis.patients:,} patients."
        " Holm and BH (Benjamini and Hochberg): p of the bootstrap for all findings at once, so that at .05 no finding "
        f"is likely to be called by chance, or few of those called are. {few_patients(analysis)}"
    ).strip()
    return (Table(head, tuple(rows), caption),)


def beside_published(results: Results, recipes: Table | None = None) -> Section:
    """All published rows under those of this run, over the same findings; none for synthetic films, and for
    findings that were not published. recipes: a table of
    what each was trained on, to go first."""
    analysis = results.analysis
    columns = [r for r in analysis.stated if r.finding in published.FINDINGS]
    if not results.comparable or not columns:
        return Section("Beside published numbers", ())
    head = ("Source", "Branch", "Mean", *(analysis.findings.short_name(r.finding) for r in columns))
    whole = len(analysis.mean.findings) == len(published.FINDINGS)
    ours = [
        (
            Cell("This run", strong=True),
            Cell(branch),
            Cell(number(analysis.mean.branches[b].auroc.value), strong=True),
            *(Cell(number(r.branches[b].auroc.value)) for r in columns),
        )
        for b, branch in enumerate(analysis.branches)
    ]
    theirs = [
        (
            Cell(row.source),
            Cell(row.branch),
            Cell(number(row.mean_of(analysis.mean.findings))),
            *(Cell(number(row.of(r.finding))) for r in columns),
        )
        for row in published.PUBLISHED
    ]
    caption = (
        "Guan et al. 2018 (arXiv:1801.09927) split 112,120 films by image, so patients stand on both sides; the lite "
        "recipe splits 12,120 films by patient. None of these numbers was measured on the films of this report."
    )
    caption += " Published means are over the same findings as those of this run." * (not whole)
    context = Table(("Elsewhere, mean AUROC", "Range"), tuple((Cell(c.what), Cell(c.mean)) for c in published.CONTEXT))
    beside = Table(head, (*ours, *theirs), caption, texts=(0, 1), stacked=True)
    first = (recipes,) if recipes else ()
    return Section("Beside published numbers", (*first, beside, context) if whole else (*first, beside))
