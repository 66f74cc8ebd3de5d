"""Sections of the report on which findings do best and worst, and what each recipe was trained on."""

from __future__ import annotations

import math
from pathlib import Path

from agcxr import config
from agcxr.data.prepared import Plan
from agcxr.evaluation.page import Cell, Section, Table, Text
from agcxr.evaluation.published import FINDINGS, LITE, PAPER, published
from agcxr.evaluation.report_tables import BOLD, cell, difference, percent
from agcxr.evaluation.results import FindingResult, KindResult, Results
from agcxr.evaluation.tables import NONE, chance, gap_of, marked, number, signed, words
from agcxr.uncertainty import p_floor

EACH = 3
FILMS = {LITE: (12_120, "by patient"), PAPER: (112_120, "by image")}
"""Of training, validation and test together, and how they were split."""


def best_and_worst(results: Results) -> Section:
    """The findings that the last branch ranks best and worst, beside the published ones; none for fewer than four."""
    analysis = results.analysis
    first, last = analysis.branches[0], analysis.branches[-1]
    ranked = sorted(
        (r for r in analysis.labels if r.finding in analysis.mean.findings), key=lambda r: -r.branches[-1].auroc.value
    )
    each = min(EACH, len(ranked) // 2)
    if each < 2:
        return Section("Best and worst findings", ())
    beside = (LITE, PAPER) if results.comparable else ()

    def row(place: int, r: FindingResult) -> tuple[Cell, ...]:
        gap, auroc = gap_of(r.gaps, first), r.branches[-1].auroc
        apart = difference(gap)
        theirs = (Cell(number(published(source, "fusion").of(r.finding))) for source in beside)
        name = Cell(f"{place}. {marked(r)}")
        return (name, Cell(f"{r.positives:,}"), cell(auroc, strong=True), apart, *theirs)

    places = [*range(each), *range(len(ranked) - each, len(ranked))]
    head = ("Finding", "Positives", f"{last.capitalize()} AUROC", f"{last.capitalize()} − {first}")
    rows = tuple(row(i + 1, ranked[i]) for i in places)
    best, worst = ranked[each - 1].branches[-1].auroc, ranked[-each].branches[-1].auroc
    apart = best.low > worst.high
    said = "do not overlap" if apart else "overlap, so which findings these are is partly chance"
    caption = (
        f"The {each} findings of {len(ranked)} with the highest AUROC and the {each} with the lowest. The intervals of "
        f"the last of the best and the first of the worst {said}. {BOLD}"
    )
    return Section("Best and worst findings", (Table((*head, *("Lite", "Paper")[: len(beside)]), rows, caption),))


def localised(results: Results) -> Section:
    """Does looking closer help where the sign lies in one place? Means over both kinds of findings."""
    analysis = results.analysis
    first, last = analysis.branches[0], analysis.branches[-1]
    if not analysis.kinds:
        return Section("Localised against diffuse", ())

    def row(one: KindResult) -> tuple[Cell, ...]:
        gap = gap_of(one.mean.gaps, first)
        apart = difference(gap)
        aurocs = (cell(b.auroc) for b in one.mean.branches)
        return (Cell(f"{one.kind.capitalize()}, {len(one.mean.findings)}", strong=True), *aurocs, apart)

    head = ("Findings", *(b.capitalize() for b in analysis.branches), f"{last.capitalize()} − {first}")
    rows = tuple(map(row, analysis.kinds))
    which = "; ".join(
        f"{one.kind.capitalize()}: {', '.join(words(name) for name in one.mean.findings)}" for one in analysis.kinds
    )
    caption = (
        "Mean AUROC over the findings whose sign usually lies in one place, and over those that spread over a lung or "
        f"more: a grouping of ours, for the method should help the first more. {which}. {BOLD}"
    )
    table = Table(head, rows, caption, accent=len(head) - 2)
    return Section("Localised against diffuse", (*_kinds_apart(results), table))


def _kinds_apart(results: Results) -> tuple[Text, ...]:
    gap, how = results.analysis.kinds_gap, results.analysis.resampling
    if gap is None or math.isnan(gap.low):
        return ()
    first, last = results.analysis.branches[0], results.analysis.branches[-1]
    more = "more" if gap.low > 0 else "less" if gap.high < 0 else "not surely more or less"
    p = chance(gap.p, p_floor(how.resamples, gap.left_out))
    return (
        Text(
            f"The {last} gains {more} over the {first} branch where signs lie in one place than where they spread: "
            f"{signed(gap.value)} ({signed(gap.low)} to {signed(gap.high)}, p {p})."
        ),
    )


def recipe(results: Results, facts: Path) -> Table | None:
    """This run, the lite recipe and the paper in one table: films, epochs, batch, mean AUROC and its share of the
    paper's. None for synthetic films or other findings. facts: the results' folder with config.yaml and plan.json, if
    there are."""
    mean = results.analysis.mean
    if not results.comparable or not mean.findings:
        return None
    paper = published(PAPER, "fusion").mean_of(mean.findings)
    settings, (films, split) = _settings(facts / "config.yaml"), _films(facts / "plan.json")

    def row(
        name: str, films: str, split: str, how: config.Train | None, aurocs: tuple[float, float]
    ) -> tuple[Cell, ...]:
        share = percent(aurocs[1] / paper)
        cells = (films, split, *_schedule(how), *map(number, aurocs), share)
        return (Cell(name, strong=how is settings), *map(Cell, cells))

    own = tuple(mean.branches[b].auroc.value for b in (0, -1))
    rows = [row("This run", films, split, settings, (own[0], own[1]))]
    for source, preset in ((LITE, config.lite()), (PAPER, config.paper())):
        count, how = FILMS[source]
        theirs = (published(source, branch).mean_of(mean.findings) for branch in ("global", "fusion"))
        rows.append(row(source, f"{count:,}", how, preset, (next(theirs), next(theirs))))
    head = ("Recipe", "Films", "Split", "Epochs", "Batch", "Global", "Fusion", "Of the paper's")
    some = "finding" if len(mean.findings) == 1 else f"{len(mean.findings)} findings"
    what = f"the {some}" if len(mean.findings) == len(FINDINGS) else f"the same {some}"
    caption = (
        "Films of training, validation and test together; epochs and batch of the global / local / fusion stage; mean "
        f"AUROC over {what}, and the fusion's as a share of the paper's. Other films, splits and budgets: a share says "
        "how far a run came, not how good a method is."
    )
    return Table(head, tuple(rows), caption, texts=(0, 2))


def _settings(path: Path) -> config.Train | None:
    """None where there are none, or those of another version."""
    try:
        return config.from_yaml(path)
    except ValueError:
        return None


def _films(path: Path) -> tuple[str, str]:
    """How many were prepared, and how they were split."""
    if not path.is_file():
        return NONE, NONE
    plan = Plan.model_validate_json(path.read_bytes())
    names = {"official": "official lists", "patient": "by patient", "image": "by image"}
    return f"{plan.counts.prepared:,}", names.get(plan.split.rule, plan.split.rule)


def _schedule(how: config.Train | None) -> tuple[str, str]:
    """Epochs and batch of the three stages, as far as they are known."""
    if how is None:
        return NONE, NONE
    stages = (how.global_, how.local, how.fusion)
    return " / ".join(str(s.epochs) for s in stages), " / ".join(str(s.batch_size) for s in stages)
