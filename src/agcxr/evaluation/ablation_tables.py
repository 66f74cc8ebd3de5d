"""An ablation as text: for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from agcxr.evaluation.ablation import Ablation, ArmResult, Paired, SizeStudy, SmallResult
from agcxr.evaluation.ablation_size import BRANCHES, Advantage
from agcxr.evaluation.controls import GROUPS, TITLES
from agcxr.evaluation.tables import NONE, interval, number, signed

NAMES = {"whole": "whole view", "random": "random box", "centre": "centre box", "attention": "attention"}
"""Arms of the controls, as people say them."""


def span(found: Paired | None) -> str:
    """ "+.012 (+.003 to +.021)"; "+.012" where one patient alone gives no interval; "–" where there is none."""
    if found is None or found.value != found.value:
        return NONE
    if found.low != found.low:
        return signed(found.value)
    return f"{signed(found.value)} ({signed(found.low)} to {signed(found.high)})"


def strong(found: Paired | None) -> str:
    """`span`, in bold where the interval leaves out 0."""
    return f"**{span(found)}**" if found is not None and found.clear else span(found)


def answer(found: Ablation, *, numbers: bool = True) -> tuple[str, ...]:
    """What attention adds, in sentences no stronger than their intervals; nothing where the controls were not run.
    numbers: with the differences, for where no table stands beside."""
    controls = _controls(found)
    if not controls:
        return ()
    gaps = {name: {arm.name: _over(arm, name) for arm in controls} for name in ("fusion", "local")}
    said = [
        f"The fusion {_than(found.reference.fusion_over_global)} its own global branch: "
        f"{span(found.reference.fusion_over_global)}.",
        f"All {len(found.findings)} findings, fusion: {_compared(gaps['fusion'], numbers)}",
        f"All {len(found.findings)} findings, local branch: {_compared(gaps['local'], numbers)}",
    ]
    if found.sizes is not None:
        for branch in reversed(BRANCHES):
            small = {one.control: one.gap for one in found.sizes.small if one.branch == branch}
            name = "local branch" if branch == "local" else branch
            if small:
                said.append(f"The {len(found.sizes.findings)} small findings, {name}: {_compared(small, numbers)}")
    return tuple(said)


def _controls(found: Ablation) -> list[ArmResult]:
    return [arm for arm in found.arms if arm.group == "controls" and not arm.reference]


def _over(arm: ArmResult, branch: str) -> Paired:
    """The reference minus an arm."""
    gap = arm.branch(branch).against_reference
    assert gap is not None
    return gap.turned()


def _than(gap: Paired) -> str:
    return "is better than" if gap.low > 0 else "is worse than" if gap.high < 0 else "is not shown to differ from"


def _compared(gaps: dict[str, Paired], numbers: bool) -> str:
    """ "attention is better than the random box, +.010 (...); it is not shown to differ from the whole view, ..."."""
    parts = []
    for verdict in ("is better than", "is not shown to differ from", "is worse than"):
        named = [
            f"the {NAMES.get(name, name)}" + f", {span(gap)}" * numbers
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
    return "\n".join([*(line.rstrip() for line in lines), "", *notes(found), "", *answer(found), *conclusions])


def markdown(found: Ablation) -> str:
    """table.md: the answer, every group as a table, then what was found by size, then how to read it."""
    parts = [f"# Ablation on {found.collection or found.data}, {found.split} films", "", *_answer(found)]
    parts += ["![Every arm](figure.png)", ""]
    for group, arms in _grouped(found):
        parts += [f"## {TITLES[group]}", "", *_group(found, arms), ""]  # type: ignore[index]
    if found.sizes is not None:
        parts += _sizes(found)
    parts += ["## How to read this", "", *(f"- {note}" for note in notes(found))]
    parts += ["- In bold: differences whose interval leaves out 0.", ""]
    parts += ["Settings of the reference:", "", "```yaml", found.base.rstrip(), "```", ""]
    facts = f"Compared with {', '.join(found.machine.versions)} on {found.machine.processor}; {found.made}."
    return "\n".join([*parts, facts, ""])


def notes(found: Ablation) -> tuple[str, ...]:
    """What a reader must know about the numbers."""
    how = found.resampled
    seeds = ", ".join(map(str, found.seeds))
    many = len(found.seeds) > 1
    drawn = " and of the seeds" if how.over_seeds else ""
    said = [
        f"Mean AUROC over {len(found.findings)} findings on {found.films:,} films of {found.patients:,} patients, "
        f"{'mean of ' if many else ''}seed{'s' * many} {seeds}.",
        f"{100 * how.level:g} % intervals: {how.resamples:,} resamples of the patients{drawn}, the same for every arm "
        "and branch, so that differences are paired. They are not corrected for the number of arms.",
        "The reference (ref.) is the method with the settings below; every other arm changes one option.",
    ]
    if not many:
        said.append("One seed: the spread from training again is not in the intervals; run with --seeds 3 to have it.")
    if how.over_seeds and len(found.seeds) < 5:
        said.append(f"With {len(found.seeds)} seeds the spread between runs is itself known only roughly.")
    if found.left_out:
        said.append(f"Left out for want of a class: {', '.join(found.left_out)}.")
    if any(arm.branch("fusion").paper == arm.branch("fusion").paper for arm in found.arms):
        said.append(
            "Paper: Guan et al. 2018, ResNet-50 on 112,120 films split by image, without intervals; "
            "compare its differences, not its values."
        )
    return tuple(said)


def _grouped(found: Ablation) -> list[tuple[str, list[ArmResult]]]:
    groups = [group for group in GROUPS if any(arm.group == group for arm in found.arms)]
    return [(group, [arm for arm in found.arms if arm.group == group]) for group in groups]


def _name(arm: ArmResult) -> str:
    name = NAMES.get(arm.name, arm.name) if arm.group == "controls" else arm.name
    return f"{name} (ref.)" if arm.reference else name


def _group(found: Ablation, arms: Sequence[ArmResult]) -> list[str]:
    many = len(found.seeds) > 1
    paper = any(arm.branch("fusion").paper == arm.branch("fusion").paper for arm in arms)
    head = ["Arm", "Global", "Local", "Fusion", "Local − ref.", "Fusion − ref.", "Fusion − own global"]
    head += ["Fusion, each seed"] * many + ["Validation", "Median box", "Fallbacks"]
    head += ["Paper: local", "Paper: fusion", "Paper: fusion − ref."] * paper
    rows = []
    for arm in arms:
        whole, local, fusion = (arm.branch(name) for name in ("global", "local", "fusion"))
        row = [_name(arm), *(interval(one.auroc) for one in (whole, local, fusion))]
        row += [strong(local.against_reference), strong(fusion.against_reference), strong(arm.fusion_over_global)]
        row += [" ".join(number(value) for value in fusion.per_seed)] * many
        row += [number(arm.validation_auroc), f"{100 * arm.box_area:.0f} %", f"{100 * arm.fallbacks:.0f} %"]
        published = [number(local.paper), number(fusion.paper), signed(fusion.paper_against_reference)]
        rows.append(row + published * paper)
    return table(head, rows)


def _answer(found: Ablation) -> list[str]:
    """The answer at the top of the page: attention minus each control."""
    controls, study = _controls(found), found.sizes
    if not controls:
        return []
    head = ["Mean AUROC, attention minus", "Fusion", "Local"]
    head += [] if study is None else ["Fusion, small findings", "Local, small findings", "Nodules and masses, fusion"]
    rows = []
    for arm in controls:
        row = [f"the {NAMES.get(arm.name, arm.name)}", *(strong(_over(arm, name)) for name in ("fusion", "local"))]
        if study is not None:
            small = {(one.branch, one.control): one.gap for one in study.small}
            row += [strong(small.get((name, arm.name))) for name in ("fusion", "local")]
            row.append(_reach(Advantage.of(study.bins, "fusion", arm.name)))
        rows.append(row)
    said = [f"- {one[0].upper()}{one[1:]}" for one in answer(found, numbers=False)]
    return ["## What attention adds", "", *table(head, rows), "", *said, ""]


def _reach(at: Advantage) -> str:
    if not at.focal:
        return NONE
    if not at.run:
        return "no advantage shown"
    reach = f"better from {at.run[0].low_cm:g} cm"
    return f"{reach} to {at.run[-1].high_cm:g} cm{', the largest there are' if at.endless else ''}"


def _sizes(found: Ablation) -> list[str]:
    study = found.sizes
    assert study is not None
    names = ", ".join(name.replace("_", " ") for name in study.findings)
    parts = ["## By the size of the lesion", "", "![By size](sizes.png)", ""]
    parts += [*(f"- {said}" for said in study.conclusions), ""]
    parts += [f"### Small findings ({names})", ""]
    for branch in reversed(BRANCHES):
        rows = [one for one in (*study.each, *study.small) if one.branch == branch]
        parts += [*_by_finding(rows, branch), ""]
    parts += ["### By diameter of the film's largest sign", "", "AUROC against all films without the finding:", ""]
    parts += _by_bin(study, "AUROC")
    percent = f"{100 * study.specificity:g} %"
    return [
        *parts,
        "<details><summary>Sensitivity</summary>",
        "",
        f"At the score that {percent} of the films without the finding stay under, chosen for each arm and held fixed "
        "in the resamples:",
        "",
        *_by_bin(study, "sensitivity"),
        "</details>",
        "",
    ]


def _minus(controls: Sequence[str]) -> list[str]:
    return [f"− {NAMES.get(name, name)}" for name in controls]


def _by_finding(rows: Sequence[SmallResult], branch: str) -> list[str]:
    """A row a finding, the mean last: AUROC with attention, and its differences from each control."""
    controls = list(dict.fromkeys(one.control for one in rows))
    lines = []
    for finding in dict.fromkeys(one.finding for one in rows):
        own = {one.control: one for one in rows if one.finding == finding}
        gaps = [strong(own[control].gap) for control in controls]
        name = "Mean" if finding == "mean" else finding.replace("_", " ")
        lines.append([name, interval(next(iter(own.values())).auroc), *gaps])
    return table([branch.capitalize(), "Attention", *_minus(controls)], lines)


def _by_bin(study: SizeStudy, measure: str) -> list[str]:
    """A row a range of diameters, a table a branch."""
    controls = list(dict.fromkeys(one.control for one in study.bins))
    parts = []
    for branch in reversed(BRANCHES):
        lines = []
        here = [one for one in study.bins if one.branch == branch]
        for key in dict.fromkeys((one.finding, one.low_cm, one.high_cm, one.films) for one in here):
            own = {one.control: one for one in here if (one.finding, one.low_cm, one.high_cm, one.films) == key}
            any_one = next(iter(own.values()))
            value = any_one.auroc if measure == "AUROC" else any_one.sensitivity
            gaps = [own[name].auroc_gap if measure == "AUROC" else own[name].sensitivity_gap for name in controls]
            finding, low, high, films = key
            row = [finding.replace("_", " "), f"{low:g}–{high:g} cm", str(films), interval(value)]
            lines.append([*row, *map(strong, gaps)])
        head = [f"{branch.capitalize()}: finding", "Diameter", "Films", "Attention", *_minus(controls)]
        parts += [*table(head, lines), ""]
    return parts


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
