"""An ablation as text: for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from agcxr.evaluation.ablation import Ablation, ArmResult, Paired
from agcxr.evaluation.controls import GROUPS, TITLES
from agcxr.evaluation.tables import NONE, interval, number, signed


def span(found: Paired | None) -> str:
    """ "+.012 (+.003 to +.021)"; "–" where there is none."""
    if found is None or found.value != found.value:
        return NONE
    return f"{signed(found.value)} ({signed(found.low)} to {signed(found.high)})"


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
    return "\n".join([*(line.rstrip() for line in lines), "", *notes(found), *conclusions])


def markdown(found: Ablation) -> str:
    """table.md: every group as a table, then what was found by size, then how to read it."""
    parts = [f"# Ablation on {found.data}, {found.split} films", "", "![Every arm](figure.png)", ""]
    for group, arms in _grouped(found):
        parts += [f"## {TITLES[group]}", "", *_group(found, arms), ""]  # type: ignore[index]
    if found.sizes is not None:
        parts += _sizes(found)
    parts += ["## How to read this", "", *(f"- {note}" for note in notes(found)), ""]
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
    return f"{arm.name} (ref.)" if arm.reference else arm.name


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
        row += [span(local.against_reference), span(fusion.against_reference), span(arm.fusion_over_global)]
        row += [" ".join(number(value) for value in fusion.per_seed)] * many
        row += [number(arm.validation_auroc), f"{100 * arm.box_area:.0f} %", f"{100 * arm.fallbacks:.0f} %"]
        published = [number(local.paper), number(fusion.paper), signed(fusion.paper_against_reference)]
        rows.append(row + published * paper)
    return table(head, rows)


def _sizes(found: Ablation) -> list[str]:
    study = found.sizes
    assert study is not None
    parts = ["## By the size of the lesion", "", "![By size](sizes.png)", ""]
    parts += [*(f"- {said}" for said in study.conclusions), ""]
    words = ", ".join(name.replace("_", " ") for name in study.findings)
    parts += [f"Mean AUROC over the small findings ({words}):", ""]
    small = [
        [one.branch, one.control, interval(one.auroc), interval(one.auroc_control), span(one.gap)]
        for one in study.small
    ]
    parts += [*table(["Branch", "Against", "Attention", "Control", "Difference"], small), ""]
    percent = f"{100 * study.specificity:g} %"
    parts += [
        f"By diameter of the film's largest sign. Sensitivity at the score that {percent} of the films without the "
        "finding stay under, chosen for each arm and held fixed in the resamples:",
        "",
    ]
    head = ["Finding", "Diameter", "Films", "Branch", "Against", "AUROC", "Control", "Difference"]
    rows = [
        [
            one.finding.replace("_", " "),
            f"{one.low_cm:g}–{one.high_cm:g} cm",
            str(one.films),
            one.branch,
            one.control,
            interval(one.auroc),
            interval(one.auroc_control),
            span(one.auroc_gap),
            interval(one.sensitivity),
            interval(one.sensitivity_control),
            span(one.sensitivity_gap),
        ]
        for one in study.bins
    ]
    return [*parts, *table([*head, "Sensitivity", "Control", "Difference"], rows), ""]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
