"""Sections of the report that are made of measures: results -> blocks."""

from __future__ import annotations

import math

from agcxr.evaluation import published
from agcxr.evaluation.charts import ForestRow, forest
from agcxr.evaluation.page import (
    Block,
    Cell,
    Chart,
    Section,
    Table,
)
from agcxr.evaluation.results import BranchResult, Gap, Interval, Results
from agcxr.evaluation.tables import NONE, chance, few_patients, gap_of, marked, number, p_floor, signed
from agcxr.labels import FINDINGS, NO_FINDING, SHORT

POINT_NAMES = {
    "youden": "Youden",
    "sensitivity95": "95 % sensitivity",
    "specificity95": "95 % specificity",
}


def words(finding: str) -> str:
    """A finding as people write it."""
    return finding.replace("_", " ")


def span(found: Interval | Gap, sign: bool = False) -> str:
    """The interval alone, as ".790–.833", or "+.010 to +.030" with signs."""
    if math.isnan(found.low):
        return ""
    return f"{signed(found.low)} to {signed(found.high)}" if sign else f"{number(found.low)}–{number(found.high)}"


def percent(value: float, places: int = 1) -> str:
    """A share as "12.3 %"."""
    return NONE if math.isnan(value) else f"{100 * value:.{places}f} %"


def per_finding(results: Results) -> Section:
    """AUROC a finding beside the published fusion, then average precision and calibration."""
    analysis = results.analysis
    first, last = analysis.branches[0], analysis.branches[-1]
    lite, paper = (published.published(source, "fusion") for source in (published.LITE, published.PAPER))
    head = (
        "Finding",
        "Positives",
        *(name.capitalize() for name in analysis.branches),
        f"{last.capitalize()} − {first}",
        "p",
        "Lite",
        "Paper",
    )

    def row(name: str, positives: str, branches: tuple[BranchResult, ...], gaps: tuple[Gap, ...], *ends: float):  # type: ignore[no-untyped-def]
        gap = gap_of(gaps, first)
        cells = [
            Cell(number(b.auroc.value), span(b.auroc), strong=b.branch == last and not math.isnan(b.auroc.value))
            for b in branches
        ]
        difference = Cell(signed(gap.value), span(gap, True), gap.low > 0 or gap.high < 0) if gap else Cell(NONE)
        shown = chance(gap.p, p_floor(analysis, gap)) if gap else NONE
        return (Cell(name), Cell(positives), *cells, difference, Cell(shown), *(Cell(number(v)) for v in ends))

    rows = [
        row(marked(r), f"{r.positives:,}", r.branches, r.gaps, lite.of(r.finding), paper.of(r.finding))
        for r in analysis.labels
    ]
    mean = analysis.mean
    rows.append(row(f"Mean of {len(mean.findings)}", "", mean.branches, mean.gaps, lite.mean, paper.mean))
    level = f"{100 * analysis.resampling.level:g} %"
    caption = (
        f"AUROC with {level} intervals; differences in bold have an interval that leaves out 0. {NO_FINDING} is not in "
        "the mean. Lite and Paper: published fusion AUCs with ResNet-50, measured on other films and splits."
        f" {few_patients(analysis)}"
    ).strip()
    accent = 2 + len(analysis.branches) - 1
    return Section(
        "Per finding", (Table(head, tuple(rows), caption, summary=True, accent=accent), *_precision(results))
    )


def _precision(results: Results) -> tuple[Block, ...]:
    """Average precision, Brier and ECE of the findings that have both classes."""
    analysis = results.analysis
    head = ("Finding", "Prevalence", *(f"AP {name}" for name in analysis.branches), "Brier fusion", "ECE fusion")
    rows = []
    for r in analysis.labels:
        if r.defined:
            share = Cell(percent(r.positives / (r.positives + r.negatives)))
            cells = [Cell(number(b.average_precision.value), span(b.average_precision)) for b in r.branches]
            last = r.branches[-1]
            rows.append((Cell(marked(r)), share, *cells, Cell(number(last.brier.value)), Cell(number(last.ece))))
    mean = analysis.mean.branches
    rows.append(
        (
            Cell(f"Mean of {len(analysis.mean.findings)}"),
            Cell(""),
            *(Cell(number(b.average_precision.value), span(b.average_precision)) for b in mean),
            Cell(number(mean[-1].brier.value)),
            Cell(number(mean[-1].ece)),
        )
    )
    caption = (
        "Average precision of a useless score equals the prevalence. Brier score and expected calibration error (15 "
        "bins of equal width) are of the raw probabilities; 0 is best."
        f" {few_patients(analysis)}"
    ).strip()
    return (Table(head, tuple(rows), caption, summary=True, accent=1 + len(mean)),)


def fusion_gain(results: Results) -> Section:
    """The differences as a forest plot, and DeLong as a second opinion."""
    analysis = results.analysis
    first, last = analysis.branches[0], analysis.branches[-1]

    def row(name: str, gap: Gap | None, strong: bool = False) -> ForestRow:
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
        ((marked(r), gap_of(r.gaps, first)) for r in analysis.labels if r.defined and r.finding != NO_FINDING),
        key=lambda pair: -pair[1].value if pair[1] else 0,
    )
    rows = [row(name, gap) for name, gap in found]
    rows.append(row(f"Mean of {len(analysis.mean.findings)}", gap_of(analysis.mean.gaps, first), strong=True))
    svg = forest(rows, low_side=f"{first} better", high_side=f"{last} better", name=f"{last} minus {first}, AUROC")
    caption = (
        f"Difference in AUROC, {last} minus {first}, paired on the same films, with "
        f"{100 * analysis.resampling.level:g} % intervals over patients. Solid: the interval leaves out 0. The "
        f"intervals are not corrected for looking at {len(found)} findings. {few_patients(analysis)}"
    ).strip()
    chart = Chart(svg, "differences.svg", caption)
    return Section("What fusion adds", (chart, *_second_opinion(results), *_every_gap(results)))


def _every_gap(results: Results) -> tuple[Block, ...]:
    """The last branch minus each other one, in both measures, folded away."""
    analysis = results.analysis
    last = analysis.branches[-1]

    def cells(gap: Gap | None) -> tuple[Cell, Cell]:
        if gap is None:
            return Cell(NONE), Cell(NONE)
        clear = gap.low > 0 or gap.high < 0
        return Cell(signed(gap.value), span(gap, True), clear), Cell(chance(gap.p, p_floor(analysis, gap)))

    out = []
    for against in analysis.branches[:-1]:
        rows = [
            (Cell(name), *cells(gap_of(gaps, against)), *cells(gap_of(gaps, against, "average_precision")))
            for name, gaps in (
                *((marked(r), r.gaps) for r in analysis.labels if r.defined),
                (f"Mean of {len(analysis.mean.findings)}", analysis.mean.gaps),
            )
        ]
        head = ("Finding", "AUROC", "p", "Average precision", "p")
        title = f"{last.capitalize()} minus {against}, finding by finding"
        out.append(Table(head, tuple(rows), summary=True, folded=title))
    return tuple(out)


def _second_opinion(results: Results) -> tuple[Block, ...]:
    analysis = results.analysis
    first, last = analysis.branches[0], analysis.branches[-1]
    head = ("Finding", f"AUROC {last}", "Bootstrap interval", "DeLong interval", "p bootstrap", "p DeLong")
    rows = []
    for r in analysis.labels:
        gap, branch = gap_of(r.gaps, first), r.branches[-1]
        if r.defined and gap:
            delong = (
                NONE if math.isnan(branch.delong_low) else f"{number(branch.delong_low)}–{number(branch.delong_high)}"
            )
            values = (
                number(branch.auroc.value),
                span(branch.auroc),
                delong,
                chance(gap.p, p_floor(analysis, gap)),
                chance(gap.delong_p, 0.001),
            )
            rows.append((Cell(marked(r)), *map(Cell, values)))
    caption = (
        "DeLong takes films as independent. It agrees with the bootstrap where patients have one film each; where they "
        f"have several its intervals are too narrow. Here: {analysis.films:,} films of {analysis.patients:,} patients."
        f" {few_patients(analysis)}"
    ).strip()
    return (Table(head, tuple(rows), caption),)


def operating(results: Results) -> Section:
    """Sensitivity and specificity of the fusion at its operating points."""
    names = [point.point for point in results.analysis.labels[0].branches[-1].points]
    if not names:
        return Section("Operating points", ())
    head = ("Finding", *(side for _ in names for side in ("Sens.", "Spec.")))
    groups = ("", *(POINT_NAMES.get(name, name) for name in names for _ in range(2)))
    rows = []
    for r in results.analysis.labels:
        points = r.branches[-1].points
        if r.defined and any(not math.isnan(p.threshold) for p in points):
            cells = [Cell(number(v.value, 2), _short(v)) for p in points for v in (p.sensitivity, p.specificity)]
            rows.append((Cell(marked(r)), *cells))
    caption = (
        f"Fusion. Thresholds were chosen on {results.points_from}; a film is called positive at or over its threshold. "
        "That a point named 95 % lands elsewhere here is the shift between the films it was chosen on and these."
        f" {few_patients(results.analysis)}"
    ).strip()
    return Section("Operating points", (Table(head, tuple(rows), caption, groups=groups),) if rows else ())


def _short(found: Interval) -> str:
    return "" if math.isnan(found.low) else f"{number(found.low, 2)}–{number(found.high, 2)}"


def beside_published(results: Results) -> Section:
    """All published rows under those of this run."""
    head = ("Source", "Branch", "Mean", *(SHORT[f] for f in FINDINGS))
    ours = [
        (
            Cell("This run", strong=True),
            Cell(branch),
            Cell(number(results.analysis.mean.branches[b].auroc.value), strong=True),
            *(
                Cell(
                    number(
                        next((r.branches[b].auroc.value for r in results.analysis.labels if r.finding == f), math.nan)
                    )
                )
                for f in FINDINGS
            ),
        )
        for b, branch in enumerate(results.analysis.branches)
    ]
    theirs = [
        (Cell(row.source), Cell(row.branch), Cell(number(row.mean)), *(Cell(number(v)) for v in row.auroc))
        for row in published.PUBLISHED
    ]
    caption = (
        "Guan et al. 2018 (arXiv:1801.09927) split 112,120 films by image, so patients stand on both sides; the lite "
        "recipe splits 12,120 films by patient. None of these numbers was measured on the films of this report."
    )
    context = Table(
        ("Elsewhere, mean AUC", "Range"), tuple((Cell(c.what), Cell(c.mean)) for c in published.CONTEXT), texts=(0,)
    )
    beside = Table(head, (*ours, *theirs), caption, texts=(0, 1), stacked=True)
    return Section("Beside published numbers", (beside, context))
