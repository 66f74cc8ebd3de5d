"""An ablation as text: for the terminal, and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agcxr.evaluation.tables import NONE, interval, number, signed
from agcxr.experiments.ablation import Ablation, ArmResult, SeedDifference, SizeStudy, SmallResult
from agcxr.experiments.ablation_size import BRANCHES, FOCAL
from agcxr.experiments.controls import GROUPS, NAMES, TITLES

FEW_SEEDS = 5
"""Fewer are said to be few."""


def fine(value: float) -> str:
    """A difference to three places, or to the first digit that it has, so that "+.000" never hides a sign; 0 is "0"."""
    if value == 0:
        return "0"
    hidden = abs(value) < 0.0005
    return signed(value, -math.floor(math.log10(abs(value))) if hidden else 3)


def span(found: SeedDifference | None) -> str:
    """ "+.012 (+.003 to +.021)"; "+.012" where one patient alone gives no interval; "–" where there is none."""
    if found is None or math.isnan(found.value):
        return NONE
    if math.isnan(found.low):
        return fine(found.value)
    return f"{fine(found.value)} ({fine(found.low)} to {fine(found.high)})"


def strong(found: SeedDifference | None) -> str:
    """`span`, in bold where the interval leaves out 0."""
    return f"**{span(found)}**" if found is not None and found.clear else span(found)


def each_seed(found: SeedDifference | None) -> str:
    """ "+.012 +.010 −.001 (2 of 3)": every seed's difference, and how many have the sign of their mean."""
    if found is None or not found.per_seed:
        return NONE
    return f"{' '.join(map(fine, found.per_seed))} ({found.agreeing} of {len(found.per_seed)})"


def caution(found: Ablation) -> str:
    """How far the seeds carry, in words; empty where they are many."""
    seeds = len(found.seeds)
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


def answer(found: Ablation, *, numbers: bool = True) -> tuple[str, ...]:
    """What attention adds, in sentences no stronger than their intervals; nothing where the controls were not run.
    numbers: with the differences, for where no table stands beside."""
    controls = _controls(found)
    if not controls:
        return ()
    own = found.reference.fusion_over_global
    said = [f"The fusion {_than(own)} its own global branch: {_said(own)}."]
    for what, gaps in _compared_on(found):
        said += [f"{what}, {_branch(name)}: {_compared(gaps[name], numbers)}" for name in BRANCHES if gaps[name]]
    for arm in (arm for arm in controls if arm.name == "whole"):
        gap = arm.local_over_global
        said.append(
            f"The local branch that looks at the whole view {_than(gap)} the global branch, {_said(gap)}: both see the "
            "same view, so this is what more training does without looking closer."
        )
    return tuple(said)


def _compared_on(found: Ablation) -> list[tuple[str, dict[str, dict[str, SeedDifference]]]]:
    """(findings, branch -> control -> attention minus the control): of all findings, then of the small ones."""
    controls = _controls(found)
    sets = [
        (f"All {len(found.findings)} findings", {b: {arm.name: _over(arm, b) for arm in controls} for b in BRANCHES})
    ]
    if found.sizes is not None and found.sizes.small:
        small = found.sizes.small
        gaps = {b: {one.control: one.gap for one in small if one.branch == b} for b in BRANCHES}
        count = len(found.sizes.findings)
        sets.append((f"The {count} small findings" if count > 1 else "The small finding", gaps))
    return sets


def _branch(name: str) -> str:
    return "local branch" if name == "local" else name


def _said(gap: SeedDifference) -> str:
    """`span` with how many seeds have the sign of their mean: "+.012 (+.003 to +.021; 3 of 3 seeds agree)"."""
    said, seeds = span(gap), len(gap.per_seed)
    return f"{said[:-1]}; {gap.agreeing} of {seeds} seeds agree)" if seeds > 1 and said.endswith(")") else said


def _controls(found: Ablation) -> list[ArmResult]:
    return [arm for arm in found.arms if arm.group == "controls" and not arm.reference]


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
            f"the {NAMES.get(name, name)}" + f", {_said(gap)}" * numbers
            for name, gap in gaps.items()
            if _than(gap) == verdict
        ]
        if named:
            parts.append(f"{verdict} {' and '.join(filter(None, [', '.join(named[:-1]), named[-1]]))}")
    return f"attention {'; it '.join(parts)}."


def text(found: Ablation) -> str:
    """One line an arm: local and fusion, and their differences from the reference."""
    head = ["", "Local", "Fusion", "Local − ref.", "Fusion − ref.", "Fusion − global"]
    rows = [head]
    for group, arms in _grouped(found):
        rows.append([TITLES[group], "", "", "", "", ""])  # type: ignore[index]
        for arm in arms:
            local, fusion = arm.branch("local"), arm.branch("fusion")
            gaps = [span(one) for one in (local.against_reference, fusion.against_reference, arm.fusion_over_global)]
            rows.append([f"  {_name(arm)}", interval(local.auroc), interval(fusion.auroc), *gaps])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    conclusions = () if found.sizes is None else found.sizes.conclusions
    said = [*notes(found), *filter(None, [caution(found)]), "", *answer(found), *conclusions]
    return "\n".join([*(line.rstrip() for line in lines), "", *said])


def markdown(found: Ablation) -> str:
    """table.md: the answer, how to read it, every group as a table, then what was found by size."""
    parts = [f"# Ablation on {found.collection or found.data}, {found.split} films", ""]
    parts += [f"**{caution(found)}**", ""] * bool(caution(found))
    parts += [*_answer(found), "![Every arm](figure.png)", ""]
    parts += ["## How to read this", "", *(f"- {note}" for note in notes(found))]
    parts += ["- In bold: differences whose interval leaves out 0.", ""]
    for group, arms in _grouped(found):
        parts += [f"## {TITLES[group]}", "", *_group(found, arms), ""]  # type: ignore[index]
    if found.sizes is not None:
        parts += _sizes(found, found.sizes)
    parts += _folded("Settings of the reference", ["```yaml", found.base.rstrip(), "```"])
    facts = f"Compared with {', '.join(found.machine.versions)} on {found.machine.processor}; {found.made}."
    return "\n".join([*parts, facts, ""])


def notes(found: Ablation) -> tuple[str, ...]:
    """What a reader must know about the numbers."""
    many = len(found.seeds) > 1
    over = f"{len(found.findings)} finding{'s' * (len(found.findings) > 1)}"
    said = [
        f"Mean AUROC over {over} on {found.films:,} films of {found.patients:,} patients, "
        f"{'mean of ' if many else ''}seed{'s' * many} {', '.join(map(str, found.seeds))}.",
        _intervals(found),
        "The reference (ref.) is the method with its settings as given; another arm changes one option, and what must "
        "follow from it.",
    ]
    if many:
        said.append("Each seed: its own difference, and in how many seeds it has the sign of their mean.")
    if any(arm.group == "controls" for arm in found.arms):
        said.append(
            "The controls see as many pixels and train as long as attention, from the same global branch (the whole "
            "view: the pixels that the global branch sees), but look elsewhere."
        )
    if found.left_out:
        said.append(f"Left out for want of a class: {', '.join(found.left_out)}.")
    if any(arm.branch("fusion").paper == arm.branch("fusion").paper for arm in found.arms):
        said.append(
            "Paper: Guan et al. 2018, ResNet-50 on 112,120 films split by image, without intervals; "
            "compare its differences, not its values."
        )
    return tuple(said)


def _intervals(found: Ablation) -> str:
    """How the intervals were made and what they cover."""
    how = found.resampled
    drawn = f"{how.resamples:,} resamples of the {how.patients:,} patients"
    same = "the same for every arm and branch, so that differences are paired"
    if how.over_seeds:
        made = (
            "cover other patients and training again, which are taken as the cases and the readers of a multi-reader "
            "multi-case study (Obuchowski and Rockette 1995, Hillis 2007): they are made of the spread between the "
            f"seeds and of {drawn}, {same}"
        )
    else:
        made = f"cover other patients, not training again: percentiles of {drawn}, {same}"
    level = f"{100 * how.level:g} %"
    return f"{level} intervals {made}. They are not corrected for the number of arms, findings and sizes."


def _grouped(found: Ablation) -> list[tuple[str, list[ArmResult]]]:
    groups = [group for group in GROUPS if any(arm.group == group for arm in found.arms)]
    return [(group, [arm for arm in found.arms if arm.group == group]) for group in groups]


def _name(arm: ArmResult) -> str:
    name = NAMES.get(arm.name, arm.name) if arm.group == "controls" else arm.name
    return f"{name} (ref.)" if arm.reference else name


def _group(found: Ablation, arms: Sequence[ArmResult]) -> list[str]:
    many = len(found.seeds) > 1
    paper = any(arm.branch("fusion").paper == arm.branch("fusion").paper for arm in arms)
    head = ["Arm", "Global", "Local", "Fusion", "Local − ref.", "Fusion − ref."]
    head += ["Local − own global", "Fusion − own global"]
    head += ["Fusion − ref., each seed"] * many + ["Validation", "Median box", "Fallbacks"]
    head += ["Paper: local", "Paper: fusion", "Paper: fusion − ref."] * paper
    rows = []
    for arm in arms:
        whole, local, fusion = (arm.branch(name) for name in ("global", "local", "fusion"))
        row = [_name(arm), *(interval(one.auroc) for one in (whole, local, fusion))]
        row += [strong(local.against_reference), strong(fusion.against_reference)]
        row += [strong(arm.local_over_global), strong(arm.fusion_over_global)]
        row += [each_seed(fusion.against_reference)] * many
        row += [number(arm.validation_auroc), f"{100 * arm.box_area:.0f} %", f"{100 * arm.fallbacks:.0f} %"]
        published = [number(local.paper), number(fusion.paper), signed(fusion.paper_against_reference)]
        rows.append(row + published * paper)
    return table(head, rows)


def _answer(found: Ablation) -> list[str]:
    """The answer at the top of the page: attention minus each control."""
    if not _controls(found):
        return []
    many = len(found.seeds) > 1
    head = ["Mean AUROC, attention minus", "Findings"]
    for name in BRANCHES:
        head += [name.capitalize(), *[f"{name.capitalize()}, each seed"] * many]
    rows = []
    for what, gaps in _compared_on(found):
        for control in gaps[BRANCHES[0]]:
            row = [f"the {NAMES.get(control, control)}", what[0].lower() + what[1:]]
            for name in BRANCHES:
                row += [strong(gaps[name][control]), *[each_seed(gaps[name][control])] * many]
            rows.append(row)
    said = [f"- {one}" for one in answer(found, numbers=False)]
    return ["## What attention adds", "", *table(head, rows), "", *said, ""]


def _sizes(found: Ablation, study: SizeStudy) -> list[str]:
    parts = ["## By the size of the lesion", "", _small(study), ""]
    if any(one.finding in FOCAL for one in study.bins):
        parts += ["![By size](sizes.png)", ""]
        parts.append(
            "Nodules and masses, AUROC of the films whose largest sign has a diameter in a range against all films "
            "without the finding. Better, worse: the interval of the difference leaves out 0; undecided: it includes 0."
        )
        parts += ["", *(f"- {said}" for said in study.conclusions), ""]
    if study.findings:
        parts += [f"### Small findings ({', '.join(map(_words, study.findings))})", ""]
    for branch in BRANCHES:
        rows = [one for one in (*study.each, *study.small) if one.branch == branch]
        parts += [*_by_finding(rows, branch), ""] * bool(rows)
    sensitivity = (
        f"At the score that {100 * study.specificity:g} % of the films without the finding stay under, chosen for each "
        "arm and held fixed in the resamples:"
    )
    parts += _folded("AUROC by the diameter of the film's largest sign", _by_bin(study, "AUROC"))
    return parts + _folded("Sensitivity by diameter", [sensitivity, "", *_by_bin(study, "sensitivity")])


def _small(study: SizeStudy) -> str:
    """Which findings are called small, by which rule, with the diameters that decided it."""
    rule = f"Small are the findings half of whose signs in lesions.csv are at most {study.small_cm:g} cm wide"
    if not study.diameters:
        return f"{rule}: {', '.join(map(_words, study.findings))}."
    sides = []
    for small in (True, False):
        named = [
            f"{_words(o.finding)} {o.median_cm:.1f}"
            for o in study.diameters
            if (o.median_cm <= study.small_cm) == small
        ]
        sides.append(", ".join(named) or "none")
    return (
        f"{rule} (diameter_cm; in the phantom's, of a circle of the sign's area). Median diameters in cm, small: "
        f"{sides[0]}; not small: {sides[1]}. Masses are shown by diameter for they go on where nodules end, at 3 cm."
    )


def _words(finding: str) -> str:
    return finding.replace("_", " ")


def _folded(title: str, lines: Sequence[str]) -> list[str]:
    return [f"<details><summary>{title}</summary>", "", *lines, "", "</details>", ""]


def _minus(controls: Sequence[str]) -> list[str]:
    return [f"− {NAMES.get(name, name)}" for name in controls]


def _by_finding(rows: Sequence[SmallResult], branch: str) -> list[str]:
    """A row a finding, the mean last: AUROC with attention, and its differences from each control."""
    controls = list(dict.fromkeys(one.control for one in rows))
    lines = []
    for finding in dict.fromkeys(one.finding for one in rows):
        own = {one.control: one for one in rows if one.finding == finding}
        gaps = [strong(own[control].gap) for control in controls]
        name = "Mean" if finding == "mean" else _words(finding)
        lines.append([name, interval(next(iter(own.values())).auroc), *gaps])
    return table([branch.capitalize(), "Attention", *_minus(controls)], lines)


def _by_bin(study: SizeStudy, measure: str) -> list[str]:
    """A row a range of diameters, a table a branch."""
    controls = list(dict.fromkeys(one.control for one in study.bins))
    parts = []
    for branch in BRANCHES:
        lines = []
        here = [one for one in study.bins if one.branch == branch]
        for key in dict.fromkeys((one.finding, one.low_cm, one.high_cm, one.films) for one in here):
            own = {one.control: one for one in here if (one.finding, one.low_cm, one.high_cm, one.films) == key}
            any_one = next(iter(own.values()))
            value = any_one.auroc if measure == "AUROC" else any_one.sensitivity
            gaps = [own[name].auroc_gap if measure == "AUROC" else own[name].sensitivity_gap for name in controls]
            finding, low, high, films = key
            row = [_words(finding), f"{low:g}–{high:g} cm", str(films), interval(value)]
            lines.append([*row, *map(strong, gaps)])
        head = [f"{branch.capitalize()}: finding", "Diameter", "Films", "Attention", *_minus(controls)]
        parts += [*table(head, lines), ""]
    return parts


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
