"""A results folder -> report.html (one file, needs no other) and report.md (pictures as files): the same content."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from agcxr import uncertainty
from agcxr.data.collection_names import AND, collections_in
from agcxr.data.external import UNDER_OTHER_NAMES
from agcxr.data.prepared import Plan, Source
from agcxr.evaluation import apart
from agcxr.evaluation.page import (
    Block,
    CodeBlock,
    FactList,
    Headline,
    Number,
    Page,
    Section,
    Text,
    to_html,
    to_markdown,
)
from agcxr.evaluation.probe import PROBE, Probe
from agcxr.evaluation.published import PAPER, published
from agcxr.evaluation.report_findings import best_and_worst, localised, recipe
from agcxr.evaluation.report_items import items
from agcxr.evaluation.report_known import above_known, known_section, shortcuts_section, with_runs_probe
from agcxr.evaluation.report_pictures import attention, roc_curves, training
from agcxr.evaluation.report_points import operating
from agcxr.evaluation.report_tables import beside_published, fusion_gain, over, per_finding
from agcxr.evaluation.results import PREDICTIONS, Analysis, BranchDifference, CropRow, Results, load_results
from agcxr.evaluation.tables import gap_of, lone, untaught
from agcxr.inference.prediction import BRANCHES
from agcxr.notices import CITATION, HOME, RESEARCH_ONLY
from agcxr.table import NONE, chance, ends, number, p_text, percent, signed, words
from agcxr.training.seeds import Gain, Seeds, seeds_beside

SPLITS = {
    "official": "the official lists",
    "patient": "random, by patient, seed {seed}",
    "image": "random, by image, seed {seed}",
    "test": "all films are test films",
}
ENOUGH_SEEDS = 5


@dataclass(frozen=True)
class Written:
    """The two files."""

    html: Path
    markdown: Path


def report(folder: str | Path, extra: tuple[Section, ...] = (), seeds: Seeds | None = None) -> Written:
    """Write both reports into a results folder. `extra` sections follow the pictures of where it looked. seeds: of the
    evaluated runs that this one is one of; default: those beside RUN, where the folder is RUN/evaluation/SPLIT.

    Raises ValueError where the folder holds no results or its predictions are missing.
    """
    root = Path(folder)
    results, path = load_results(root), root / PREDICTIONS
    if not path.is_file():
        raise ValueError(f"there is no {PREDICTIONS} beside the results in {root}; run `agcxr evaluate` again")
    probe = Probe.load(root) if (root / PROBE).is_file() else None
    return write_report(root, results, pd.read_parquet(path), probe, extra, seeds)


def write_report(
    folder: Path,
    results: Results,
    predictions: pd.DataFrame,
    probe: Probe | None,
    extra: tuple[Section, ...] = (),
    seeds: Seeds | None = None,
) -> Written:
    """`report` of what is at hand. predictions: as predictions.parquet has them; probe: of the evaluation."""
    seeds = seeds or _seeds_beside(folder.resolve(), results.split)
    page = compose(results, predictions, probe, folder, extra, seeds)
    written = Written(folder / "report.html", folder / "report.md")
    written.markdown.write_text(to_markdown(page, folder), encoding="utf-8")
    written.html.write_text(to_html(page, folder), encoding="utf-8")
    return written


def _seeds_beside(folder: Path, split: str) -> Seeds | None:
    """Those of the run that a results folder lies in, at its usual place."""
    return seeds_beside(folder.parents[1], split) if len(folder.parents) > 1 else None


def compose(
    results: Results,
    predictions: pd.DataFrame,
    probe: Probe | None,
    folder: Path,
    extra: tuple[Section, ...] = (),
    seeds: Seeds | None = None,
) -> Page:
    """The report as blocks. folder: holds facts/ of the run and of the films, and the pictures."""
    probes = with_runs_probe(probe, folder)
    sections = [
        _summary(results, seeds, probes),
        _reading(results),
        known_section(results, probes),
        shortcuts_section(probes),
        apart.section(results),
        per_finding(results),
        best_and_worst(results),
        fusion_gain(results),
        localised(results),
        roc_curves(results, predictions),
        operating(results),
        attention(results),
        *extra,
        training(folder),
        beside_published(results, recipe(results, folder / "facts")),
        _facts(results, folder),
        items(results, folder),
        _provider(results),
    ]
    how = results.analysis
    return Page(
        title=f"AG-CNN evaluation: {results.run}",
        subtitle=f"{results.backbone}, {results.split} split of {results.collection or 'a collection without a name'}: "
        f"{how.films:,} films of {how.patients:,} patients",
        notice=RESEARCH_ONLY,
        sections=tuple(section for section in sections if section.blocks),
    )


def _summary(results: Results, seeds: Seeds | None, probes: tuple[Probe, ...]) -> Section:
    analysis = results.analysis
    mean, last = analysis.mean, analysis.mean.branches[-1]
    level = f"{100 * analysis.resampling.level:g} %"
    what = f"AUROC of {words(mean.findings[0])}" if len(mean.findings) == 1 else "Mean AUROC"
    tiles = [
        Number(number(last.auroc.value), f"{what}, {last.branch}", _interval(level, ends(last.auroc))),
        *above_known(results, probes),
    ]
    tiles += [_gain_tile(results, gap, seeds) for gap in mean.gaps if gap.measure == "auroc"]
    tiles.append(_crop_tile(results.crops[0]))
    sentences = list(
        filter(None, [_guesses(analysis), _verdict(results, seeds), power_of(results), untaught(analysis)])
    )
    if analysis.unstated:
        sentences.append(f"Not stated on these films, and so left out: {', '.join(map(words, analysis.unstated))}.")
    return Section("Summary", (*_warnings(results), Headline(tuple(tiles)), *map(Text, sentences)))


def _crop_tile(crops: CropRow) -> Number:
    """How large the boxes are; and how many films have none, where any."""
    detail = f"{percent(crops.fallback_share)} of films: no region stood out" if crops.fallback_share else ""
    if crops.near_whole:
        detail += "; " * bool(detail) + f"{percent(crops.near_whole_share, 0)} of crops nearly the whole view"
    return Number(percent(crops.area_median, 0), "Median box, share of the film", detail)


def _gain_tile(results: Results, gap: BranchDifference, seeds: Seeds | None) -> Number:
    """A difference of branches: over the seeds where several runs were evaluated, else of this run alone."""
    label = f"{gap.branch.capitalize()} minus {gap.against}"
    if seeds is not None and (gain := _gain(seeds, gap.against)):
        shown = f"{ends(gain, sign=True)}, p {chance(gain.p, 0.001)}; patients and training"
        return Number(signed(gain.value), f"{label}, mean of {len(seeds.seeds)} seeds", shown)
    if math.isnan(gap.low):
        return Number(signed(gap.value), label, _interval("", ""))
    shown = f"{ends(gap, sign=True)}, p {p_text(gap, results.analysis.resampling.resamples)}"
    return Number(signed(gap.value), label, f"{shown}; training chance not included")


def _gain(seeds: Seeds, against: str) -> Gain | None:
    """None too where it has no interval."""
    return next((gain for gain in seeds.gains if gain.against == against and not math.isnan(gain.low)), None)


def few_seeds(count: int) -> str:
    """What so few seeds do to an interval over seeds, as a sentence behind others; empty for enough."""
    if count >= ENOUGH_SEEDS:
        return ""
    how = (
        "Two seeds' intervals hold the truth 87 % of the time where training varies" if count == 2 else "Seeds are few"
    )
    return f" {how}; {ENOUGH_SEEDS} are better (agcxr train --seeds {ENOUGH_SEEDS})."


def seeds_section(seeds: Seeds) -> Section:
    """Mean, spread and each run of several seeds."""
    caption = (
        f"{seeds.measure}: {len(seeds.seeds)} runs that differ in their seed alone, and within each run the difference "
        "of its branches. Intervals elsewhere in this report, but for the summary's, are over patients for one run; "
        f"this spread comes on top of them. SD: of a sample.{few_seeds(len(seeds.seeds))}"
    )
    return Section("Other seeds", (replace(seeds.table(places=3), caption=caption),))


def power_of(results: Results) -> str:
    """What these films could show: the least difference seen 4 times in 5, and the chance to see the paper's."""
    analysis = results.analysis
    gap = gap_of(analysis.mean, analysis.branches[0])
    if gap is None or math.isnan(gap.low) or not gap.error > 0:
        return ""
    level = analysis.resampling.level
    least = uncertainty.detectable(gap.error, level)
    text = (
        f"Power: with films and patients like these, intervals would leave out 0 four times in five for a true "
        f"difference of {number(least)}"
    )
    if results.comparable:
        paper = published(PAPER, "fusion").mean_of(analysis.mean.findings)
        paper -= published(PAPER, "global").mean_of(analysis.mean.findings)
        share = percent(uncertainty.power(paper, gap.error, level), 0)
        text += f", and {share} of the time for the paper's ({signed(paper)})" * (not math.isnan(paper))
    return f"{text}. Less is not shown by its absence."


def _interval(level: str, span: str) -> str:
    return f"{level} interval {span}" if span else "no interval: too few patients"


def _warnings(results: Results) -> tuple[Block, ...]:
    out = []
    if results.synthetic:
        out.append(
            Text(
                f"Synthetic films ({results.collection}): a program drew them. These numbers say nothing of real films "
                "or patients, and no published numbers compare.",
                warning=True,
            )
        )
    if results.attention:
        out.append(Text(f"{results.attention}.", True))
    if results.leak.shared_patients:
        out.append(
            Text(
                f"Leak: {results.leak.shared_patients:,} patients ({results.leak.shared_films:,} films) of this split "
                "were seen in training. It was evaluated all the same on request; the numbers are too good.",
                warning=True,
            )
        )
    if results.leak.unchecked:
        out.append(Text(f"Leakage could not be checked: {results.leak.unchecked}.", True))
    if results.split == "val":
        out.append(
            Text(
                "These are the validation films: the epoch of every branch, the calibration and the thresholds were "
                "chosen on them, so every number here looks better than it is. Measure on test films.",
                True,
            )
        )
    if results.analysis.patients < 200:
        out.append(Text(f"Only {results.analysis.patients:,} patients: read the intervals before the values.", True))
    return tuple(out)


def _guesses(analysis: Analysis) -> str:
    """Whether the branches are told from guessing at all, where they are not."""
    better = [b for b in analysis.mean.branches if b.auroc.low > 0.5]
    if better or all(math.isnan(b.auroc.low) for b in analysis.mean.branches):
        return ""
    last = analysis.mean.branches[-1]
    return (
        f"No branch is told from guessing: the mean AUROC of the {last.branch} is {number(last.auroc.value)} "
        f"({ends(last.auroc)}), and guessing gives .500. What follows compares guesses."
    )


def conclusion(results: Results) -> str:
    """Whether the branches are told from guessing, and how the fusion compares with the global branch, of one run."""
    return " ".join(filter(None, (_guesses(results.analysis), _verdict(results))))


def _verdict(results: Results, seeds: Seeds | None = None) -> str:
    """The comparison in a sentence, no stronger than its interval: over seeds where several runs were evaluated."""
    mean = results.analysis.mean
    gap = gap_of(mean, results.analysis.branches[0])
    where, unstated = over(mean.findings), results.analysis.unstated
    lacking = [words(name) for name in mean.left_out if name not in unstated]
    why = f" {reason}" if (reason := lone(results.analysis)) else ""
    left = f" Left out for want of a class: {', '.join(lacking)}." if lacking else ""
    if gap is None or math.isnan(gap.value):
        return f"No mean AUROC is defined on this split.{left}"
    if math.isnan(gap.low):
        return (
            f"{where} the {gap.branch} minus the {gap.against} branch is {signed(gap.value)}, without an interval: too "
            f"few patients for any claim.{why}{left}"
        )
    if seeds is None or (gain := _gain(seeds, gap.against)) is None:
        scope = " The interval is over patients, of one run: training chance is not included."
        return f"{where} {_compared(gap, f'(interval {ends(gap, sign=True)})')}{scope}{left}"
    span = f"(interval {ends(gain, sign=True)})"
    own = f" This run alone: {signed(gap.value)} ({ends(gap, sign=True)}, patients alone)."
    many = f"{where}, in the mean of {len(seeds.seeds)} seeds, for other patients and training again,"
    return f"{many} {_compared(gain, span)}{few_seeds(len(seeds.seeds))}{own}{left}"


def _compared(gap: BranchDifference | Gain, span: str) -> str:
    amount = f"by {signed(gap.value)} {span}"
    if gap.low > 0:
        return f"the {gap.branch} ranks films better than the {gap.against} branch, {amount}."
    if gap.high < 0:
        return f"the {gap.branch} ranks films worse than the {gap.against} branch, {amount}."
    return (
        f"the {gap.branch} differs from the {gap.against} branch {amount}: the interval includes 0, so "
        "this split does not show that attention-guided fusion helps."
    )


def _facts(results: Results, folder: Path) -> Section:
    analysis, here = results.analysis, results.environment
    how = analysis.resampling
    rows = [
        ("Run", f"{results.run} ({results.backbone})"),
        ("Evaluated", f"{results.made[:16].replace('T', ' ')} UTC, split {results.split}"),
        ("Films, patients", f"{analysis.films:,}, {analysis.patients:,}"),
        *_plan_facts(folder / "facts" / "plan.json"),
        ("Leak check", _leak(results)),
        (
            "Intervals",
            f"{how.resamples:,} resamples of {how.clusters:,} {how.unit}s, seed {how.seed}, {how.seconds:.1f} s",
        ),
        (
            "Left out of the mean's interval",
            lone(analysis) or f"{analysis.mean.branches[-1].auroc.left_out:,} resamples that lacked a class",
        ),
        ("Evaluation device", here.device),
        ("Processor", f"{here.processor}, {here.cores} cores"),
        ("Time", f"{here.seconds:.0f} s in all; {here.films_per_second:.1f} films/s through the network"),
        ("Versions", f"Python {here.python}, {', '.join(here.versions)}"),
        *_run_facts(folder / "facts" / "run.json"),
    ]
    blocks: list[Block] = [FactList(tuple(rows))]
    for title, name in (("Configuration (config.yaml)", "config.yaml"), ("Films (plan.json)", "plan.json")):
        path = folder / "facts" / name
        if path.is_file():
            blocks.append(CodeBlock(title, path.read_text(encoding="utf-8")))
    return Section("Data, configuration, hardware", tuple(blocks))


def _leak(results: Results) -> str:
    if results.leak.unchecked:
        return f"not possible: {results.leak.unchecked}"
    if results.leak.shared_patients:
        return f"{results.leak.shared_patients:,} patients shared with training; allowed on request"
    return "no patient of this split was trained on"


def _plan_facts(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        return []
    plan = Plan.model_validate_json(path.read_bytes())
    parts = ", ".join(f"{p.part} {p.images:,} films of {p.patients:,} patients" for p in plan.counts.parts)
    return [
        ("Source", _source(plan.source)),
        ("Split", f"{SPLITS.get(plan.split.rule, plan.split.rule).format(seed=plan.split.seed)}: {parts}"),
        ("Between the parts", str(plan.leak_check)),
        ("Prepared films", f"{plan.size} x {plan.size}, {plan.resize_rule}; {plan.counts.rejected:,} rejected"),
        ("Annotated boxes", f"{plan.counts.boxes:,} on {plan.counts.boxed_images:,} films"),
    ]


def _source(source: Source) -> str:
    """Whose films, and in which layout they came where that is another's."""
    if source.collection is None:
        return f"{source.name} (whose patients they are is not stated)"
    layout = "" if source.collection == source.name else f", in the layout of {source.name}"
    return f"{source.collection}{layout}"


def _run_facts(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        return []
    run = json.loads(path.read_text(encoding="utf-8"))
    took = sorted(run.get("stage_seconds", {}).items(), key=lambda stage: BRANCHES.index(stage[0].split("+")[0]))
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took)
    return [("Trained on", str(run.get("hardware", NONE))), ("Training time", stages or NONE)]


def _provider(results: Results) -> Section:
    """What the NIH asks for wherever its films appear, also under the names of other collections."""
    collections = collections_in(results.collection)
    others = [name for name in collections if UNDER_OTHER_NAMES.get(name) == "nih"]
    if "nih" not in collections and not others:
        return Section("Where the films come from", ())
    renamed = f", {'also ' * ('nih' in collections)}under names given by {AND.join(others)}" if others else ""
    which = "The films are" if len(collections) == 1 else "Some of the films are"
    return Section(
        "Where the films come from",
        (
            Text(f"{which} of the NIH's ChestX-ray14{renamed}: {HOME}. The NIH Clinical Center is the data provider."),
            Text(CITATION),
        ),
    )


def _reading(results: Results) -> Section:
    how = results.analysis.resampling
    return Section(
        "How to read this",
        (
            Text(
                "AUROC is the chance that a film with the finding gets a higher score than one without it: .5 is "
                "guessing, 1 is perfect. It says nothing about which threshold to use, nor whether a score of .3 "
                "means 30 %."
            ),
            Text(
                f"An interval says where the value could lie for other patients drawn like these. It comes from "
                f"{how.resamples:,} resamples of whole {how.unit}s; every branch sees the same ones, so differences "
                "are paired. It does not cover other hospitals, other label sources, or "
                "training again with another seed."
            ),
            Text(
                "The epoch of every branch, the calibration and the thresholds were chosen on the validation films. "
                "What is said of those (training curves, a run's validation AUROC) is optimistic for that reason; "
                "compare runs and settings on it, and take no result from it."
            ),
            Text(_labels(results)),
            Text(f"{RESEARCH_ONLY} The scores must not be used in the care of patients."),
        ),
    )


def _labels(results: Results) -> str:
    """What the truth here is worth."""
    if results.synthetic:
        return (
            "Labels and boxes of synthetic films are what was drawn, so they hold no errors. What a model makes of "
            "drawn signs is no measure of what it makes of disease."
        )
    if results.collection is None:
        return (
            "Labels are as the table states them. Where they were read from reports, some are wrong, and no number "
            "here is the accuracy of a diagnosis."
        )
    return (
        "Labels of the public collections were read from reports by programs and are partly wrong, so no number here "
        "is the accuracy of a diagnosis."
    )
