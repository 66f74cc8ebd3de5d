"""An ablation as text for the terminal, and as a page."""

from __future__ import annotations

from collections.abc import Sequence

from agcxr.evaluation.page import Block, CodeBlock, Heading, Page, PictureFile, Section, Text, Wide
from agcxr.experiments.ablation import Ablation, ArmResult, SeedDifference, SizeStudy, SmallResult
from agcxr.experiments.ablation_size import BRANCHES, FOCAL
from agcxr.experiments.controls import NAMES, TITLES, USUAL
from agcxr.notices import RESEARCH_ONLY
from agcxr.table import (
    BOLD,
    NONE,
    Cell,
    Table,
    cell,
    difference,
    interval,
    number,
    percent,
    signed,
    to_text,
    words,
)

FEW_SEEDS = 5
"""Fewer are said to be few."""


def each_seed(gap: SeedDifference | None) -> str:
    """ "+.012 +.010 −.001 (2 of 3)": every seed's difference, and how many have the sign of their mean."""
    if gap is None or not gap.per_seed:
        return NONE
    return f"{' '.join(signed(value, None) for value in gap.per_seed)} ({gap.agreeing} of {len(gap.per_seed)})"


def caution(ablation: Ablation) -> str:
    """How far the seeds carry, in words; empty where they are many."""
    seeds = len(ablation.seeds)
    if seeds == 1:
        return (
            "One seed: the intervals cover other patients, not training again, which moves differences too; "
            "--seeds 3 or more shows by how much."
        )
    if seeds < FEW_SEEDS:
        return (
            f"{seeds} seeds are few: how much training alone moves a difference is judged from {seeds} values, so the "
            "intervals are wide where it moves, and what they do not show may still be there."
        )
    return ""


def answer(ablation: Ablation, *, numbers: bool = True) -> tuple[str, ...]:
    """What attention adds, in sentences no stronger than their intervals; nothing where the controls were not run.
    numbers: with the differences, for where no table stands beside."""
    controls = _controls(ablation)
    if not controls:
        return ()
    own = ablation.reference.fusion_over_global
    sentences = [f"The fusion {_than(own)} its own global branch: {_with_seeds(own)}."]
    for what, gaps in _compared_on(ablation):
        sentences += [f"{what}, {_branch(name)}: {_compared(gaps[name], numbers)}" for name in BRANCHES if gaps[name]]
    for arm in (arm for arm in controls if arm.name == "whole"):
        gap = arm.local_over_global
        sentences.append(
            f"The local branch that looks at the whole view {_than(gap)} the global branch, {_with_seeds(gap)}: both "
            "see the same view, so this is what more training does without looking closer."
        )
    return tuple(sentences)


def _compared_on(ablation: Ablation) -> list[tuple[str, dict[str, dict[str, SeedDifference]]]]:
    """(findings, branch -> control -> attention minus the control): of all findings, then of the small ones."""
    controls = _controls(ablation)
    sets = [
        (f"All {len(ablation.findings)} findings", {b: {arm.name: _over(arm, b) for arm in controls} for b in BRANCHES})
    ]
    if ablation.sizes is not None and ablation.sizes.small:
        small = ablation.sizes.small
        gaps = {b: {result.control: result.gap for result in small if result.branch == b} for b in BRANCHES}
        count = len(ablation.sizes.findings)
        sets.append((f"The {count} small findings" if count > 1 else "The small finding", gaps))
    return sets


def _branch(name: str) -> str:
    return "local branch" if name == "local" else name


def _with_seeds(gap: SeedDifference) -> str:
    """The difference with how many seeds have the sign of their mean: "+.012 (+.003 to +.021; 3 of 3 seeds agree)"."""
    shown, seeds = interval(gap, None, sign=True), len(gap.per_seed)
    return f"{shown[:-1]}; {gap.agreeing} of {seeds} seeds agree)" if seeds > 1 and shown.endswith(")") else shown


def _controls(ablation: Ablation) -> list[ArmResult]:
    return [arm for arm in ablation.arms if arm.group == "controls" and not arm.reference]


def _over(arm: ArmResult, branch: str) -> SeedDifference:
    """The reference minus an arm."""
    gap = arm.branch(branch).against_reference
    assert gap is not None
    return gap.turned()


def _than(gap: SeedDifference) -> str:
    return "is better than" if gap.low > 0 else "is worse than" if gap.high < 0 else "is not shown to differ from"


def _compared(gaps: dict[str, SeedDifference], numbers: bool) -> str:
    """ "attention is better than the random box, +.010 (...); it is not shown to differ from the whole view, ..."."""
    parts = []
    for verdict in ("is better than", "is not shown to differ from", "is worse than"):
        named = [
            f"the {NAMES.get(name, name)}" + f", {_with_seeds(gap)}" * numbers
            for name, gap in gaps.items()
            if _than(gap) == verdict
        ]
        if named:
            parts.append(f"{verdict} {' and '.join(filter(None, [', '.join(named[:-1]), named[-1]]))}")
    return f"attention {'; it '.join(parts)}."


def text(ablation: Ablation) -> str:
    """One line an arm: local and fusion, and their differences from the reference."""
    rows: list[tuple[Cell | str, ...]] = []
    for group, arms in _grouped(ablation):
        rows.append((TITLES[group], "", "", "", "", ""))
        for arm in arms:
            local, fusion = arm.branch("local"), arm.branch("fusion")
            gaps = (local.against_reference, fusion.against_reference, arm.fusion_over_global)
            aurocs = (cell(local.auroc), cell(fusion.auroc))
            rows.append((f"  {_name(arm)}", *aurocs, *(difference(gap, None) for gap in gaps)))
    head = ("Arm", "Local", "Fusion", "Local − ref.", "Fusion − ref.", "Fusion − global")
    conclusions = () if ablation.sizes is None else ablation.sizes.conclusions
    sentences = [*notes(ablation), *filter(None, [caution(ablation)]), "", *answer(ablation), *conclusions]
    return "\n".join([*[to_text(Table(head, tuple(rows))), ""] * bool(rows), *sentences])


def ablation_page(ablation: Ablation, *first: Section) -> Page:
    """The answer, how to read it, every group as a table, then what was found by size; before them other sections. Its
    pictures are figure.png and, by size, sizes.png."""
    few = [Text(caution(ablation), warning=True)] if caution(ablation) else []
    every = [Wide(PictureFile("figure.png", "Every arm beside the reference"))] * bool(_grouped(ablation))
    answers = (*few, *_answer(ablation), *every)
    facts = f"Compared with {', '.join(ablation.machine.versions)} on {ablation.machine.processor}; {ablation.made}."
    sections = (
        *first,
        *[Section("What attention adds", answers)] * bool(answers),
        Section("How to read this", tuple(map(Text, (*notes(ablation), BOLD)))),
        *(Section(TITLES[group], (_group(ablation, arms),)) for group, arms in _grouped(ablation)),
        *(_sizes(ablation.sizes) if ablation.sizes is not None else ()),
        Section("Settings", (CodeBlock("Settings of the reference", ablation.base.rstrip()), Text(facts))),
    )
    films = f"{ablation.films:,} films of {ablation.patients:,} patients"
    return Page(
        f"Ablation on {ablation.collection or ablation.data}, {ablation.split} films", films, RESEARCH_ONLY, sections
    )


def notes(ablation: Ablation) -> tuple[str, ...]:
    """What a reader must know about the numbers."""
    many = len(ablation.seeds) > 1
    over = f"{len(ablation.findings)} finding{'s' * (len(ablation.findings) > 1)}"
    sentences = [
        f"Mean AUROC over {over} on {ablation.films:,} films of {ablation.patients:,} patients, "
        f"{'mean of ' if many else ''}seed{'s' * many} {', '.join(map(str, ablation.seeds))}.",
        _intervals(ablation),
        "The reference (ref.) is the method with its settings as given; another arm changes one option, and what must "
        "follow from it.",
    ]
    if many:
        sentences.append("Each seed: its own difference, and in how many seeds it has the sign of their mean.")
    if any(arm.group == "controls" for arm in ablation.arms):
        sentences.append(
            "The controls see as many pixels and train as long as attention, from the same global branch (the whole "
            "view: the pixels that the global branch sees), but look elsewhere."
        )
    if ablation.left_out:
        sentences.append(f"Left out for want of a class: {', '.join(ablation.left_out)}.")
    if any(arm.branch("fusion").paper == arm.branch("fusion").paper for arm in ablation.arms):
        sentences.append(
            "Paper: Guan et al. 2018, ResNet-50 on 112,120 films split by image, without intervals; "
            "compare its differences, not its values."
        )
    return tuple(sentences)


def _intervals(ablation: Ablation) -> str:
    """How the intervals were made and what they cover."""
    how = ablation.resampled
    drawn = f"{how.resamples:,} resamples of the {how.patients:,} patients"
    same = "the same for every arm and branch, so that differences are paired"
    if how.over_seeds:
        how_made = (
            "cover other patients and training again, which are taken as the cases and the readers of a multi-reader "
            "multi-case study (Obuchowski and Rockette 1995, Hillis 2007): they are made of the spread between the "
            f"seeds and of {drawn}, {same}"
        )
    else:
        how_made = f"cover other patients, not training again: percentiles of {drawn}, {same}"
    level = f"{100 * how.level:g} %"
    return f"{level} intervals {how_made}. They are not corrected for the number of arms, findings and sizes."


def _grouped(ablation: Ablation) -> list[tuple[str, list[ArmResult]]]:
    groups = [group for group in USUAL if any(arm.group == group for arm in ablation.arms)]
    return [(group, [arm for arm in ablation.arms if arm.group == group]) for group in groups]


def _name(arm: ArmResult) -> str:
    name = NAMES.get(arm.name, arm.name) if arm.group == "controls" else arm.name
    return f"{name} (ref.)" if arm.reference else name


def _group(ablation: Ablation, arms: Sequence[ArmResult]) -> Table:
    many = len(ablation.seeds) > 1
    paper = any(arm.branch("fusion").paper == arm.branch("fusion").paper for arm in arms)
    head = ["Arm", "Global", "Local", "Fusion", "Local − ref.", "Fusion − ref."]
    head += ["Local − own global", "Fusion − own global"]
    head += ["Fusion − ref., each seed"] * many + ["Validation", "Median box", "Fallbacks"]
    head += ["Paper: local", "Paper: fusion", "Paper: fusion − ref."] * paper
    rows = []
    for arm in arms:
        whole, local, fusion = (arm.branch(name) for name in ("global", "local", "fusion"))
        row: list[Cell | str] = [_name(arm), *(cell(branch.auroc) for branch in (whole, local, fusion))]
        gaps = (local.against_reference, fusion.against_reference, arm.local_over_global, arm.fusion_over_global)
        row += [difference(gap, None) for gap in gaps]
        row += [each_seed(fusion.against_reference)] * many
        row += [number(arm.validation_auroc), percent(arm.box_area, 0), percent(arm.fallbacks, 0)]
        published = [number(local.paper), number(fusion.paper), signed(fusion.paper_against_reference)]
        rows.append((*row, *published * paper))
    return Table(tuple(head), tuple(rows), stacked=True)


def _answer(ablation: Ablation) -> list[Block]:
    """The answer at the top of the page: attention minus each control."""
    if not _controls(ablation):
        return []
    many = len(ablation.seeds) > 1
    head = ["Mean AUROC, attention minus", "Findings"]
    for name in BRANCHES:
        head += [name.capitalize(), *[f"{name.capitalize()}, each seed"] * many]
    rows = []
    for what, gaps in _compared_on(ablation):
        for control in gaps[BRANCHES[0]]:
            row: list[Cell | str] = [f"the {NAMES.get(control, control)}", what[0].lower() + what[1:]]
            for name in BRANCHES:
                row += [difference(gaps[name][control], None), *[each_seed(gaps[name][control])] * many]
            rows.append(tuple(row))
    return [Table(tuple(head), tuple(rows), texts=(0, 1), stacked=True), *map(Text, answer(ablation, numbers=False))]


def _sizes(study: SizeStudy) -> tuple[Section, ...]:
    blocks: list[Block] = [Text(_small(study))]
    if any(each.finding in FOCAL for each in study.bins):
        caption = (
            "Nodules and masses, AUROC of the films whose largest sign has a diameter in a range against all films "
            "without the finding. Better, worse: the interval of the difference leaves out 0; undecided: it includes 0."
        )
        blocks += [Wide(PictureFile("sizes.png", caption)), *map(Text, study.conclusions)]
    if study.findings:
        blocks.append(Heading(f"Small findings ({', '.join(map(words, study.findings))})"))
    for branch in BRANCHES:
        rows = [each for each in (*study.each, *study.small) if each.branch == branch]
        blocks += [_by_finding(rows, branch)] * bool(rows)
    for branch in BRANCHES:
        blocks.append(_by_bin(study, branch, "AUROC", ""))
    sensitivity = (
        f"At the score that {100 * study.specificity:g} % of the films without the finding stay under, chosen for each "
        "arm and held fixed in the resamples."
    )
    for branch in BRANCHES:
        blocks.append(_by_bin(study, branch, "sensitivity", sensitivity))
    return (Section("By the size of the lesion", tuple(blocks)),)


def _small(study: SizeStudy) -> str:
    """Which findings are called small, by which rule, with the diameters that decided it."""
    rule = f"Small are the findings half of whose signs in lesions.csv are at most {study.small_cm:g} cm wide"
    if not study.diameters:
        return f"{rule}: {', '.join(map(words, study.findings))}."
    sides = []
    for small in (True, False):
        named = [
            f"{words(size.finding)} {size.median_cm:.1f}"
            for size in study.diameters
            if (size.median_cm <= study.small_cm) == small
        ]
        sides.append(", ".join(named) or "none")
    return (
        f"{rule} (diameter_cm; in the phantom's, of a circle of the sign's area). Median diameters in cm, small: "
        f"{sides[0]}; not small: {sides[1]}. Masses are shown by diameter for they go on where nodules end, at 3 cm."
    )


def _minus(controls: Sequence[str]) -> list[str]:
    return [f"− {NAMES.get(name, name)}" for name in controls]


def _by_finding(rows: Sequence[SmallResult], branch: str) -> Table:
    """A row a finding, the mean last: AUROC with attention, and its differences from each control."""
    controls = list(dict.fromkeys(row.control for row in rows))
    lines: list[tuple[Cell | str, ...]] = []
    for finding in dict.fromkeys(row.finding for row in rows):
        own = {row.control: row for row in rows if row.finding == finding}
        gaps = [difference(own[control].gap, None) for control in controls]
        name = "Mean" if finding == "mean" else words(finding)
        lines.append((name, cell(next(iter(own.values())).auroc), *gaps))
    return Table((branch.capitalize(), "Attention", *_minus(controls)), tuple(lines), summary=len(lines) > 1)


def _by_bin(study: SizeStudy, branch: str, measure: str, caption: str) -> Table:
    """A row a range of diameters."""
    controls = list(dict.fromkeys(each.control for each in study.bins))
    lines: list[tuple[Cell | str, ...]] = []
    here = [each for each in study.bins if each.branch == branch]
    for finding, low, high, films in dict.fromkeys((b.finding, b.low_cm, b.high_cm, b.films) for b in here):
        own = {b.control: b for b in here if (b.finding, b.low_cm, b.high_cm, b.films) == (finding, low, high, films)}
        value = next(iter(own.values()))
        gaps = [own[name].auroc_gap if measure == "AUROC" else own[name].sensitivity_gap for name in controls]
        auroc = cell(value.auroc if measure == "AUROC" else value.sensitivity)
        row = (words(finding), f"{low:g}–{high:g} cm", str(films), auroc)
        lines.append((*row, *(difference(gap, None) for gap in gaps)))
    head = ("Finding", "Diameter", "Films", "Attention", *_minus(controls))
    folded = f"{measure[0].upper()}{measure[1:]} by the diameter of the film's largest sign, {branch}"
    return Table(head, tuple(lines), caption, folded=folded)
