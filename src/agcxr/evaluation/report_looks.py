"""The report's section on where the model looks: localization.json -> blocks."""

from __future__ import annotations

import math
from dataclasses import replace

from agcxr.evaluation.boxes import MEASURES
from agcxr.evaluation.localization import CAM as CAMS
from agcxr.evaluation.localization import (
    FLOORS,
    LOOKS,
    MEAN,
    METHODS,
    Coverage,
    FloorDifference,
    Localization,
    Method,
    boxed,
    crop_table,
    few_boxed,
    no_interval,
)
from agcxr.evaluation.page import Block, Heading, PictureFile, Section, Text, Wide
from agcxr.evaluation.tables import capitalised
from agcxr.table import BOLD, Cell, Table, cell, difference, ends, number, signed, words

ORDER = ("hit", "energy", "iou", *(name for name in MEASURES if ">" in name))
"""Columns of the tables, names of boxes.MEASURES."""
CAM = "Grad-CAM"
SHORT: dict[Method, tuple[str, str]] = {
    "random": ("Floor", "Random map"),
    "prior": ("Floor", "Centre prior"),
    "attention": ("", "Attention"),
    "global": (CAM, "Global"),
    "local": (CAM, "Local"),
    "fusion": (CAM, "Fusion"),
    "ceiling": ("Ceiling", "Grid"),
    "ceiling-crop": ("Ceiling", "Crop's grid"),
}
"""(over it, name) of a method's column."""


def looks(localization: Localization, picture: str | None) -> Section:
    """Boxes and maps against the annotated boxes, between floor and ceiling. picture: its file, where there is one."""
    caption = (
        "Of every finding the film on which the fusion's map meets the annotation best, the median one and the worst. "
        "Amber: annotated. Blue, dashed: the attended box. Green: the box of the map."
    )
    blocks: list[Block] = [
        *map(Text, _sentences(localization)),
        _measured(localization),
        Heading("How often the peak is inside"),
    ]
    blocks.append(_hits(localization))
    if picture is not None:
        blocks += [Heading("Best, median and worst of the fusion's map"), Wide(PictureFile(picture, caption))]
    if _several(localization):
        blocks += [
            Heading("Every measure, finding by finding"),
            *(_measured(localization, name) for name in localization.findings),
        ]
    return Section("Where it looks, measured", tuple(blocks))


def crops(shown: Coverage) -> Section:
    """What the attended crop shows of the annotated lesions."""
    table = crop_table(shown)
    caption = (
        "Coverage: the share of an annotated box that lies inside the attended crop. Chance: of an equally large crop "
        "at a random place in the view; centre: of one in its middle, which knows where lungs are and nothing of the "
        f"film. {BOLD} {table.caption}"
    )
    return Section("What the crop shows", (replace(table, caption=caption.strip()),))


def _several(localization: Localization) -> bool:
    """There is more than one finding, so that a mean over them is another number than its own."""
    return len(localization.findings) > 1


def _sentences(localization: Localization) -> tuple[str, ...]:
    head = (
        f"{localization.cases:,} boxed findings on {localization.films:,} films of {localization.patients:,} patients. "
    )
    how = f"Map thresholds and the centre prior were fitted on {localization.fitted}; a peak needs no threshold. "
    chosen: dict[str, list[str]] = {}
    for threshold in localization.thresholds:
        chosen.setdefault(localization.title(threshold.method).removeprefix("floor: "), []).append(
            number(threshold.value, 2)
        )
    shares = "; ".join(f"{name} {' and '.join(values)}" for name, values in chosen.items())
    how += f"Chosen, as shares of a map's maximum: {shares}. "
    how += "Definitions: docs/localization.md." + "".join(f" Left out: {reason}." for reason in localization.left_out)
    return (
        head + _against(localization, "attention", "The attention's peak"),
        _against(localization, "fusion", f"The peak of the fusion's {CAMS[localization.rectify]}"),
        _cam(localization),
        how,
    )


def _cam(localization: Localization) -> str:
    """How the signed maps became maps of 0 or more, and how many of them say nothing."""
    way = {
        "minmax": "Grad-CAM is signed. Here a map's lowest value is subtracted (min-max), so that it ranks places also "
        "where everything speaks against the finding; Selvaraju et al. cut it at 0 (ReLU).",
        "relu": "Grad-CAM is signed, and cut at 0 (ReLU) as by Selvaraju et al.",
    }[localization.rectify]
    return f"{way} Maps that are 0 everywhere have no box and score 0: {localization.empty}."


def _against(localization: Localization, method: Method, name: str) -> str:
    """The hit rate beside both floors, in a sentence no stronger than the intervals."""
    hit = localization.score(method).of("hit")
    gaps = [localization.gap(method, floor) for floor in FLOORS]
    if any(math.isnan(gap.low) for gap in gaps):
        beside = " and ".join(
            f"{100 * localization.score(f).of('hit').value:.0f} % ({localization.title(f)})" for f in FLOORS
        )
        return (
            f"{name} lies inside the annotated box in {100 * hit.value:.0f} % of the cases, beside {beside}, without "
            "an interval: too few patients for any claim."
        )
    than = [_than(gap) for gap in gaps]
    whose = ("that of a random map", "that of a map that only knows where the finding usually lies (centre prior;")
    shown = [f"{signed(gap.value)}, {ends(gap, sign=True)})" for gap in gaps]
    over = ", mean over findings" if _several(localization) else ""
    return (
        f"{name} lies inside the annotated box in {100 * hit.value:.0f} % of the cases{over}: {than[0]} "
        f"{whose[0]} ({shown[0]}, {'and' if than[0] == than[1] else 'but'} {than[1]} {whose[1]} {shown[1]}."
    )


def _than(gap: FloorDifference) -> str:
    if gap.low > 0:
        return "more often than"
    return "less often than" if gap.high < 0 else "not surely more often than"


def _measured(localization: Localization, finding: str = MEAN) -> Table:
    """Every measure of every method, with intervals; for the mean also the published rows."""
    mean = finding == MEAN
    scores = [localization.score(method, finding) for method in METHODS]
    name = finding if _several(localization) else localization.findings[0]
    title = "Mean over findings" if name == MEAN else f"{words(name)}, {scores[0].cases:,} cases"
    rows: list[tuple[Cell | str, ...]] = [
        (
            Cell(capitalised(localization.title(score.method)), strong=score.method in LOOKS),
            *(cell(score.of(name), 2) for name in ORDER),
        )
        for score in scores
    ]
    for published in localization.published if mean else ():
        accuracies = published.by_measure
        values = (number(accuracies[name], 2) if name in accuracies else "" for name in ORDER)
        rows.append((f"Published: {published.source}", *values))
    caption = (
        "Hit: the peak lies inside the box. Energy: the share of the map inside the box. IoU: mean overlap of the "
        "map's box with the annotated one, then the share of cases over each threshold; IoBB: intersection over the "
        "area of the found box. 95 % intervals over patients."
    )
    if localization.published:
        caption += " Published rows are of the NIH's boxes and compare with runs on those only."
        if localization.rectify == "minmax":
            caption += " Published Grad-CAM maps are cut at 0: `agcxr evaluate --rectify relu` measures ours so."
    names = ("Hit", "Energy", "Mean", *(f"> {name.split('>')[1].removeprefix('0')}" for name in ORDER[3:]))
    return Table(
        head=(title if mean else "", *names),
        groups=(
            "",
            "",
            "",
            *("IoU" if name.startswith("iou") and not name.startswith("iobb") else "IoBB" for name in ORDER[2:]),
        ),
        rows=tuple(rows),
        caption=caption if mean else "",
        folded="" if mean else title,
        stacked=True,
    )


def _hits(localization: Localization) -> Table:
    def row(finding: str) -> tuple[Cell | str, ...]:
        scores = [localization.score(method, finding).of("hit") for method in METHODS]
        gaps = [localization.gap("attention", floor, finding) for floor in FLOORS]
        why = no_interval(finding)
        return (
            boxed(finding, localization.score("random", finding).patients),
            f"{localization.score('random', finding).cases:,}",
            *(cell(score, 2) for score in scores),
            *(difference(gap, 2, without=why) for gap in gaps),
        )

    groups = (SHORT[method][0].replace(CAM, CAMS[localization.rectify]) for method in METHODS)
    shown = (*localization.findings, MEAN) if _several(localization) else localization.findings
    note = few_boxed(localization.score("random", finding).patients for finding in localization.findings)
    return Table(
        head=("Hit rate", "Cases", *(SHORT[method][1] for method in METHODS), "random", "prior"),
        groups=("", "", *groups, "Attention −", "Attention −"),
        rows=tuple(map(row, shown)),
        caption=f"Differences are paired. {BOLD} Ceiling: the best that one cell of the feature grid can do, of the "
        f"whole view's grid and of the crop's. {note}".strip(),
        summary=_several(localization),
        stacked=True,
    )
