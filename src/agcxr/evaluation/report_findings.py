"""Sections of the report on which findings do best and worst, and what each recipe was trained on."""

from __future__ import annotations

import math
from pathlib import Path

from agcxr import config
from agcxr.data.prepared import Plan
from agcxr.evaluation.page import Section, Text
from agcxr.evaluation.published import FINDINGS, LITE, PAPER, published
from agcxr.evaluation.report_tables import beside
from agcxr.evaluation.results import Results
from agcxr.evaluation.tables import POSITIVES, apart, measured, named, table
from agcxr.table import BOLD, NONE, Cell, Table, ends, number, p_text, percent, signed, words

EACH = 3
FILMS = {LITE: (12_120, "by patient"), PAPER: (112_120, "by image")}
"""Of training, validation and test together, and how they were split."""


def best_and_worst(results: Results) -> Section:
    """The findings that the last branch ranks best and worst, beside the published ones; none for fewer than four."""
    analysis = results.analysis
    ranked = sorted(
        (r for r in analysis.labels if r.finding in analysis.mean.findings), key=lambda r: -r.branches[-1].auroc.value
    )
    each = min(EACH, len(ranked) // 2)
    if each < 2:
        return Section("Best and worst findings", ())
    places = [*range(each), *range(len(ranked) - each, len(ranked))]
    auroc = measured(analysis, title="{} AUROC", strong=analysis.branches[-1])[-1]
    columns = (POSITIVES, auroc, apart(analysis), *beside(results))
    best, worst = ranked[each - 1].branches[-1].auroc, ranked[-each].branches[-1].auroc
    overlap = "do not overlap" if best.low > worst.high else "overlap, so which findings these are is partly chance"
    caption = (
        f"The {each} findings of {len(ranked)} with the highest AUROC and the {each} with the lowest. The intervals of "
        f"the last of the best and the first of the worst {overlap}. {BOLD}"
    )
    names = [f"{i + 1}. {named(ranked[i])}" for i in places]
    shown = table([ranked[i] for i in places], columns, caption, names=names)
    return Section("Best and worst findings", (shown,))


def localised(results: Results) -> Section:
    """Does looking closer help where the sign lies in one place? Means over both kinds of findings."""
    analysis, kinds = results.analysis, results.analysis.kinds
    if not kinds:
        return Section("Localised against diffuse", ())
    which = "; ".join(
        f"{each.kind.capitalize()}: {', '.join(words(name) for name in each.mean.findings)}" for each in kinds
    )
    caption = (
        "Mean AUROC over the findings whose sign usually lies in one place, and over those that spread over a lung or "
        f"more: a grouping of ours, for the method should help the first more. {which}. {BOLD}"
    )
    shown = table(
        [each.mean for each in kinds],
        (*measured(analysis), apart(analysis)),
        caption,
        names=[Cell(f"{each.kind.capitalize()}, {len(each.mean.findings)}", strong=True) for each in kinds],
        first="Findings",
        accent=len(analysis.branches),
    )
    return Section("Localised against diffuse", (*_kinds_apart(results), shown))


def _kinds_apart(results: Results) -> tuple[Text, ...]:
    gap, how = results.analysis.kinds_gap, results.analysis.resampling
    if gap is None or math.isnan(gap.low):
        return ()
    first, last = results.analysis.branches[0], results.analysis.branches[-1]
    more = "more" if gap.low > 0 else "less" if gap.high < 0 else "not surely more or less"
    p = p_text(gap, how.resamples)
    return (
        Text(
            f"The {last} gains {more} over the {first} branch where signs lie in one place than where they spread: "
            f"{signed(gap.value)} ({ends(gap, sign=True)}, p {p})."
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
        published_means = (published(source, branch).mean_of(mean.findings) for branch in ("global", "fusion"))
        rows.append(row(source, f"{count:,}", how, preset, (next(published_means), next(published_means))))
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
