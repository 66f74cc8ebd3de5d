"""What the group `budget` found, as text for the terminal and as a section of the ablation's page."""

from __future__ import annotations

from agcxr.evaluation.page import Block, Heading, PictureFile, Section, Text, Wide
from agcxr.experiments.ablation import BudgetArm, BudgetStudy, Planned
from agcxr.experiments.ablation_tables import each_seed
from agcxr.experiments.controls import LARGER, REFERENCE, TITLES
from agcxr.table import NONE, Cell, Table, cell, difference, interval, number, percent, to_text

LEVEL = 0.05
"""Of p after Holm's correction, under which a planned comparison is an answer."""


def verdict(planned: Planned) -> str:
    """No stronger than the corrected p."""
    if not planned.p_holm < LEVEL:
        return "not shown"
    return "yes" if planned.gap.value > 0 else "no, the other way round"


def text(study: BudgetStudy) -> str:
    """Cost and AUROC of every arm, the planned comparisons, and what no table holds."""
    return "\n\n".join([to_text(_arms(study)), to_text(_planned(study)), "\n".join(sentences(study))])


def section(study: BudgetStudy) -> Section:
    """The planned comparisons, every arm, where crops lie, and the ranges of diameter; its picture is budget.png."""
    every = Wide(PictureFile("budget.png", f"Every arm's AUROC minus that of the {LARGER}"))
    blocks: list[Block] = [_planned(study), every, _arms(study), *map(Text, sentences(study))]
    if study.bins:
        blocks += [Heading("By diameter"), _bins(study)]
    return Section(TITLES["budget"], tuple(blocks))


def sentences(study: BudgetStudy) -> tuple[str, ...]:
    """The share of the oracle's gain, what a place alone tells, and where crops and peaks lie."""
    small, out = f"{study.finding.lower()}s", []
    if study.share_of_oracle is not None:
        share = study.share_of_oracle
        out.append(
            f"Attention has {percent(share.value)} of the oracle's gain over the {LARGER} ({percent(share.low)} to "
            f"{percent(share.high)}, over patients)."
        )
    if study.place_alone is not None:
        out.append(
            f"The oracle's places alone (place, size and number) tell films with {small} from others with AUROC "
            f"{interval(study.place_alone)}; .5 is nothing."
        )
    for name, gap in study.crop_gaps.items():
        out.append(f"Share of the boxes in attention's crops minus that of {name}: {interval(gap, None, sign=True)}.")
    if study.floors is not None:
        out.append(
            f"On the {study.floors.films} films with {small}, a point at random lies in a box in "
            f"{percent(study.floors.point)}."
        )
        if study.peak_gap is not None:
            out.append(
                f"The likeliest pixel of the training films' boxes lies in one in {percent(study.floors.prior)}; how "
                f"often attention's peak does, minus that: {interval(study.peak_gap, None, sign=True)}."
            )
    return tuple(out)


def _planned(study: BudgetStudy) -> Table:
    head = ("Question", "Difference of", "AUROC of", "Value", "Each seed", "p after Holm", "Answer")
    rows = [
        (
            planned.asks,
            f"{planned.arm} − {planned.against}",
            f"{study.finding.lower()}s" if planned.on == "small" else "all findings",
            difference(planned.gap, None),
            each_seed(planned.gap),
            "under .001" if planned.p_holm < 0.001 else number(planned.p_holm),
            verdict(planned),
        )
        for planned in study.planned
    ]
    return Table(head, tuple(rows), texts=(0, 1, 2, 6), stacked=True)


def _arms(study: BudgetStudy) -> Table:
    head = ["Arm", "View", "Million operations a film", "Steps", f"{study.finding}s", f"− {LARGER}"]
    head += ["All findings", f"− {LARGER}", "Box in the crops", "Peak in a box"]
    return Table(tuple(head), tuple(_row(arm) for arm in study.arms), stacked=True)


def _row(arm: BudgetArm) -> tuple[Cell | str, ...]:
    small, overall = (NONE if arm.name == LARGER else difference(gap, None) for gap in (arm.small_gap, arm.overall_gap))
    name = f"{arm.name} (ref.)" if arm.name == REFERENCE else arm.name
    costs = (f"{arm.side} px", f"{arm.operations / 1e6:,.1f}", f"{arm.steps:,.0f}")
    return (name, *costs, cell(arm.small), small, cell(arm.overall), overall, cell(arm.crop_share), cell(arm.peak_hit))


def _bins(study: BudgetStudy) -> Table:
    """A row an arm, a column a range."""
    ranges = list(dict.fromkeys((row.low_cm, row.high_cm, row.films) for row in study.bins))
    head = (f"AUROC, − {LARGER}", *(f"{low:g}–{high:g} cm ({films} films)" for low, high, films in ranges))
    rows: list[tuple[Cell | str, ...]] = []
    for name in dict.fromkeys(row.arm for row in study.bins):
        own = {(row.low_cm, row.high_cm, row.films): row for row in study.bins if row.arm == name}
        values = [cell(own[at].auroc) if name == LARGER else difference(own[at].gap, None) for at in ranges]
        rows.append((name, *values))
    caption = (
        f"Films with the largest sign in a range, against all without. The {LARGER} by itself, the others minus it."
    )
    return Table(head, tuple(rows), caption, stacked=True)
