"""Sections of the report that are made of measures: results -> blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from agcxr.evaluation import published
from agcxr.evaluation.charts import ForestRow, forest
from agcxr.evaluation.page import Block, Chart, Section
from agcxr.evaluation.results import Analysis, BranchDifference, FindingResult, Results
from agcxr.evaluation.tables import (
    POSITIVES,
    Column,
    Row,
    apart,
    delong_interval,
    few_patients,
    gap_of,
    measured,
    named,
    p_of,
    prevalence,
    table,
    with_mean,
)
from agcxr.table import BOLD, NONE, Cell, Table, chance, ends, number, p_text, signed, words


def over(findings: Sequence[str]) -> str:
    """Of what a mean is, to begin a sentence with."""
    return f"On {words(findings[0])}" if len(findings) == 1 else f"Over {len(findings)} findings"


def beside(results: Results) -> tuple[Column, ...]:
    """Published fusion AUROCs of the same findings, for real films."""

    def column(title: str, source: str) -> Column:
        row_of_source = published.published(source, "fusion")
        return Column(
            title,
            lambda row: number(
                row_of_source.of(row.finding) if isinstance(row, FindingResult) else row_of_source.mean_of(row.findings)
            ),
        )

    if not results.comparable:
        return ()
    return column("Lite", published.LITE), column("Paper", published.PAPER)


def per_finding(results: Results) -> Section:
    """AUROC a finding, beside the published fusion for real films; then average precision and calibration."""
    analysis = results.analysis
    last = analysis.branches[-1]
    gain = Column(apart(analysis).title, lambda row: _above_guessing(row, analysis))
    columns = (POSITIVES, *measured(analysis, strong=last), gain, p_of(analysis), *beside(results))
    caption = f"AUROC with {100 * analysis.resampling.level:g} % intervals. {BOLD} {_means(results)}".strip()
    aurocs = table(
        with_mean(analysis.stated, analysis.mean),
        columns,
        f"{caption} {few_patients(analysis)}",
        accent=1 + len(analysis.branches),
    )
    return Section("Per finding", (aurocs, _precision(analysis)))


def _above_guessing(row: Row, analysis: Analysis) -> Cell | str:
    """The difference from the first branch, not bold where both are nearer to guessing from below: that is no gain."""
    shown = apart(analysis).of(row)
    if isinstance(shown, Cell) and shown.strong and not shown.worse:
        return replace(shown, strong=any(row.branches[b].auroc.value > 0.5 for b in (0, -1)))
    return shown


def _means(results: Results) -> str:
    """What is in the means, and what Lite and Paper are."""
    mean, none = results.analysis.mean, results.analysis.findings.none
    text = f"{words(none)} is not in the mean. " if none and len(mean.findings) > 1 else ""
    if not results.comparable:
        return text.strip()
    text += "Lite and Paper: published fusion AUROCs with ResNet-50, measured on other films and splits"
    return (
        f"{text}, averaged over the same findings." if 1 < len(mean.findings) < len(published.FINDINGS) else f"{text}."
    )


def _precision(analysis: Analysis) -> Table:
    """Average precision, Brier and ECE of the findings that have both classes."""
    columns = (
        prevalence(),
        *measured(analysis, "average_precision", "AP {}"),
        Column("Brier fusion", lambda row: number(row.branches[-1].brier.value)),
        Column("ECE fusion", lambda row: number(row.branches[-1].ece)),
    )
    caption = (
        "Average precision of a useless score equals the prevalence. Brier score and expected calibration error (15 "
        f"bins of equal width) are of the raw probabilities; 0 is best. {few_patients(analysis)}"
    )
    return table(_defined(analysis), columns, caption, accent=1 + len(analysis.branches))


def _defined(analysis: Analysis) -> tuple[Row, ...]:
    return with_mean((result for result in analysis.labels if result.defined), analysis.mean)


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
            f"{signed(gap.value)}, p {p_text(gap, analysis.resampling.resamples)}",
            strong,
        )

    gaps = sorted(
        ((named(r), gap_of(r, first)) for r in analysis.labels if r.defined and r.finding != analysis.findings.none),
        key=lambda pair: -pair[1].value if pair[1] else 0,
    )
    rows = [row(name, gap) for name, gap in gaps]
    if len(analysis.mean.findings) > 1:
        rows.append(row(named(analysis.mean), gap_of(analysis.mean, first), strong=True))
    svg = forest(rows, low_side=f"{first} better", high_side=f"{last} better", name=f"{last} minus {first}, AUROC")
    caption = (
        f"Difference in AUROC, {last} minus {first}, paired on the same films, with "
        f"{100 * analysis.resampling.level:g} % intervals over patients. Solid: the interval leaves out 0. "
        + f"The intervals are not corrected for looking at {len(gaps)} findings; {_after_holm(results)}. "
        * (len(gaps) > 1)
        + few_patients(analysis)
    ).strip()
    chart = Chart(svg, "differences.svg", caption)
    return Section("What fusion adds", (chart, _second_opinion(analysis), *_every_gap(analysis)))


def _after_holm(results: Results) -> str:
    """Which differences remain when all are looked at."""
    analysis = results.analysis
    gaps = [(r.finding, gap_of(r, analysis.branches[0])) for r in analysis.labels]
    sure = [words(name) for name, gap in gaps if gap and gap.holm < 1 - analysis.resampling.level]
    return f"by Holm's p {', '.join(sure) or 'none'} would still be called"


def _every_gap(analysis: Analysis) -> tuple[Block, ...]:
    """The last branch minus each other one, in both measures, folded away."""
    last = analysis.branches[-1].capitalize()

    def against(other: str) -> Table:
        columns = (
            apart(analysis, "auroc", against=other, title="AUROC"),
            p_of(analysis, "auroc", other),
            apart(analysis, "average_precision", against=other, title="Average precision"),
            p_of(analysis, "average_precision", other),
        )
        return table(_defined(analysis), columns, BOLD, folded=f"{last} minus {other}, finding by finding")

    return tuple(map(against, analysis.branches[:-1]))


def _second_opinion(analysis: Analysis) -> Table:
    first, last = analysis.branches[0], analysis.branches[-1]

    def of_gap(title: str, shown: Callable[[BranchDifference], str]) -> Column:
        return Column(title, lambda row: shown(gap) if (gap := gap_of(row, first)) else NONE)

    columns = (
        Column(f"AUROC {last}", lambda row: number(row.branches[-1].auroc.value)),
        Column("Bootstrap interval", lambda row: ends(row.branches[-1].auroc)),
        Column("DeLong interval", delong_interval),
        Column("p bootstrap", p_of(analysis).of),
        of_gap("Holm", lambda gap: number(gap.holm)),
        of_gap("BH", lambda gap: number(gap.false_discovery)),
        of_gap("p DeLong", lambda gap: chance(gap.delong_p, 0.001)),
    )
    caption = (
        "DeLong takes films as independent. It agrees with the bootstrap where patients have one film each; where they "
        f"have several its intervals are too narrow. Here: {analysis.films:,} films of {analysis.patients:,} patients."
        " Holm and BH (Benjamini and Hochberg): p of the bootstrap for all findings at once, so that at .05 no finding "
        f"is likely to be called by chance, or few of those called are. {few_patients(analysis)}"
    )
    return table([r for r in analysis.labels if r.defined and gap_of(r, first)], columns, caption)


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
    published_rows = [
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
    beside = Table(head, (*ours, *published_rows), caption, texts=(0, 1), stacked=True)
    first = (recipes,) if recipes else ()
    return Section("Beside published numbers", (*first, beside, context) if whole else (*first, beside))
