"""The report's section on where the model looks: localization.json -> blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable

from agcxr.evaluation import localization
from agcxr.evaluation.coverage import MEAN, Coverage, Covered, no_interval
from agcxr.evaluation.localization import (
    FLOORS,
    METHODS,
    FloorDifference,
    Localization,
    MeasureEstimate,
    Method,
    TableRow,
    table_rows,
)
from agcxr.evaluation.page import Block, Cell, Heading, Picture, Section, Table, Text, Wide
from agcxr.evaluation.report_tables import BOLD, cell, difference
from agcxr.evaluation.tables import DAGGER, chance, ends, number, signed, words
from agcxr.uncertainty import FEW_PATIENTS, Difference, p_floor

ORDER = ("hit", "energy", "iou", *(name for name in localization.COLUMNS if ">" in name))
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


def looks(found: Localization, picture: str | None) -> Section:
    """Boxes and maps against the annotated boxes, between floor and ceiling. picture: its file, where there is one."""
    said = (
        "Of every finding the film on which the fusion's map meets the annotation best, the median one and the worst. "
        "Amber: annotated. Blue, dashed: the attended box. Green: the box of the map."
    )
    blocks: list[Block] = [*map(Text, _said(found)), _measured(found), Heading("How often the peak is inside")]
    blocks.append(_hits(found))
    if picture is not None:
        blocks += [Heading("Best, median and worst of the fusion's map"), Wide(Picture(picture, said))]
    if _several(found):
        blocks += [Heading("Every measure, finding by finding"), *(_measured(found, name) for name in found.findings)]
    return Section("Where it looks, measured", tuple(blocks))


def crops(shown: Coverage) -> Section:
    """What the attended crop shows of the annotated lesions."""
    return Section("What the crop shows", (_covered(shown),))


def _several(found: Localization) -> bool:
    """There is more than one finding, so that a mean over them is another number than its own."""
    return len(found.findings) > 1


def _said(found: Localization) -> tuple[str, ...]:
    head = f"{found.cases:,} boxed findings on {found.films:,} films of {found.patients:,} patients. "
    how = f"Map thresholds and the centre prior were fitted on {found.fitted}; a peak needs no threshold. "
    chosen: dict[str, list[str]] = {}
    for one in found.thresholds:
        chosen.setdefault(found.title(one.method).removeprefix("floor: "), []).append(number(one.value, 2))
    shares = "; ".join(f"{name} {' and '.join(values)}" for name, values in chosen.items())
    how += f"Chosen, as shares of a map's maximum: {shares}. "
    how += "Definitions: docs/localization.md." + "".join(f" Left out: {reason}." for reason in found.left_out)
    return (
        head + _against(found, "attention", "The attention's peak"),
        _against(found, "fusion", f"The peak of the fusion's {localization.CAM[found.rectify]}"),
        _cam(found),
        how,
    )


def _cam(found: Localization) -> str:
    """How the signed maps became maps of 0 or more, and how many of them say nothing."""
    way = {
        "minmax": "Grad-CAM is signed. Here a map's lowest value is subtracted (min-max), so that it ranks places also "
        "where everything speaks against the finding; Selvaraju et al. cut it at 0 (ReLU).",
        "relu": "Grad-CAM is signed, and cut at 0 (ReLU) as by Selvaraju et al.",
    }[found.rectify]
    return f"{way} Maps that are 0 everywhere have no box and score 0: {found.empty}."


def _against(found: Localization, method: Method, name: str) -> str:
    """The hit rate beside both floors, in a sentence no stronger than the intervals."""
    hit = found.score(method).of("hit")
    gaps = [found.gap(method, floor) for floor in FLOORS]
    if any(math.isnan(gap.low) for gap in gaps):
        beside = " and ".join(f"{100 * found.score(f).of('hit').value:.0f} % ({found.title(f)})" for f in FLOORS)
        return (
            f"{name} lies inside the annotated box in {100 * hit.value:.0f} % of the cases, beside {beside}, without "
            "an interval: too few patients for any claim."
        )
    than = [_than(gap) for gap in gaps]
    whose = ("that of a random map", "that of a map that only knows where the finding usually lies (centre prior;")
    shown = [f"{signed(gap.value)}, {ends(gap, sign=True)})" for gap in gaps]
    over = ", mean over findings" if _several(found) else ""
    return (
        f"{name} lies inside the annotated box in {100 * hit.value:.0f} % of the cases{over}: {than[0]} "
        f"{whose[0]} ({shown[0]}, {'and' if than[0] == than[1] else 'but'} {than[1]} {whose[1]} {shown[1]}."
    )


def _than(gap: FloorDifference) -> str:
    if gap.low > 0:
        return "more often than"
    return "less often than" if gap.high < 0 else "not surely more often than"


def _covered(shown: Coverage) -> Table:
    rows = [row for row in shown.rows if row.finding != MEAN or len(shown.rows) > 2]

    def beside(row: Covered, floor: float, gap: Difference) -> tuple[Cell | str, ...]:
        least = p_floor(shown.resamples, gap.left_out)
        return number(floor), difference(gap, why=no_interval(row.finding)), chance(gap.p, least)

    return Table(
        head=("Finding", "Boxes", "Coverage", "Chance", "Difference", "p", "Centre", "Difference", "p"),
        groups=("", "", "", *("At a random place",) * 3, *("In the centre",) * 3),
        rows=tuple(
            (
                _named(row.finding, row.patients),
                f"{row.boxes:,}",
                number(row.coverage),
                *beside(row, row.chance, row.over_chance),
                *beside(row, row.centre, row.over_centre),
            )
            for row in rows
        ),
        summary=len(rows) > 1,
        caption="Coverage: the share of an annotated box that lies inside the attended crop. Chance: of an equally "
        "large crop at a random place in the view; centre: of one in its middle, which knows where lungs are and "
        f"nothing of the film. {BOLD}{_note(row.patients for row in rows)}",
    )


def _named(finding: str, patients: int) -> str:
    """The finding of a row, with a dagger where boxes of few patients are behind it; see `_note`."""
    if finding in (MEAN, localization.MEAN):
        return "Mean over findings"
    return words(finding) + DAGGER * (patients < FEW_PATIENTS)


def _note(patients: Iterable[int]) -> str:
    """What the dagger means; empty where it stands nowhere."""
    few = any(count < FEW_PATIENTS for count in patients)
    return f" {DAGGER} Boxes of fewer than {FEW_PATIENTS} patients: intervals and p are rough." if few else ""


def _measured(found: Localization, finding: str = localization.MEAN) -> Table:
    """Every measure of every method, with intervals; for the mean also the published rows."""
    mean = finding == localization.MEAN
    lines = table_rows(found, finding)
    name = finding if _several(found) else found.findings[0]
    title = "Mean over findings" if name == localization.MEAN else f"{words(name)}, {lines[0].cases:,} cases"
    caption = (
        "Hit: the peak lies inside the box. Energy: the share of the map inside the box. IoU: mean overlap of the "
        "map's box with the annotated one, then the share of cases over each threshold; IoBB: intersection over the "
        "area of the found box. 95 % intervals over patients."
    )
    if found.published:
        caption += " Published rows are of the NIH's boxes and compare with runs on those only."
        if found.rectify == "minmax":
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
        rows=tuple(_line(line) for line in lines),
        caption=caption if mean else "",
        folded="" if mean else title,
        stacked=True,
    )


def _line(line: TableRow) -> tuple[Cell | str, ...]:
    cells = dict(zip(localization.COLUMNS, line.cells, strict=True))
    bare = line.kind == "published"
    return (Cell(_title(line.title), strong=line.kind == "ours"), *(_cell(cells[name], bare) for name in ORDER))


def _hits(found: Localization) -> Table:
    def row(finding: str) -> tuple[Cell | str, ...]:
        scores = [found.score(method, finding).of("hit") for method in METHODS]
        gaps = [found.gap("attention", floor, finding) for floor in FLOORS]
        why = no_interval(MEAN if finding == localization.MEAN else finding)
        return (
            _named(finding, found.score("random", finding).patients),
            f"{found.score('random', finding).cases:,}",
            *(_cell(score) for score in scores),
            *(difference(gap, 2, why=why) for gap in gaps),
        )

    groups = (SHORT[method][0].replace(CAM, localization.CAM[found.rectify]) for method in METHODS)
    shown = (*found.findings, localization.MEAN) if _several(found) else found.findings
    note = _note(found.score("random", finding).patients for finding in found.findings)
    return Table(
        head=("Hit rate", "Cases", *(SHORT[method][1] for method in METHODS), "random", "prior"),
        groups=("", "", *groups, "Attention −", "Attention −"),
        rows=tuple(map(row, shown)),
        caption=f"Differences are paired. {BOLD} Ceiling: the best that one cell of the feature grid can do, of the "
        f"whole view's grid and of the crop's.{note}",
        summary=_several(found),
        stacked=True,
    )


def _title(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cell(measured: MeasureEstimate | None, bare: bool = False) -> Cell:
    if measured is None:
        return Cell("")
    return Cell(number(measured.value, 2)) if bare else cell(measured, 2)
