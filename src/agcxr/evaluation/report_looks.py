"""The report's section on where the model looks: localization.json -> blocks."""

from __future__ import annotations

from agcxr.evaluation.coverage import MEAN, Coverage
from agcxr.evaluation.localization import COLUMNS, METHODS, TITLES, Localization, Measured, TableRow, table_rows
from agcxr.evaluation.page import Block, Cell, Example, Gallery, Picture, Section, Table, Text
from agcxr.evaluation.report_tables import words
from agcxr.evaluation.tables import NONE, chance, number, signed

OVERLAPS = tuple(name for name in COLUMNS if ">" in name)
WHOLE = ("hit", "energy", "iou")
NAMES = {"hit": "Hit", "energy": "Energy", "iou": "IoU"}


def looks(found: Localization, picture: str) -> Section:
    """Boxes and maps against the annotated boxes, between their floor and their ceiling. picture: its file's name."""
    blocks: list[Block] = [Text(_said(found))]
    blocks += [_compared(found), _overlaps(found), _hits(found)]
    blocks.append(Gallery("Best, median and worst of the fusion map", (Example("", "", (Picture(picture, ""),)),)))
    return Section("Where it looks, measured", tuple(blocks))


def crops(shown: Coverage) -> Section:
    """What the attended crop shows of the annotated lesions."""
    return Section("What the crop shows", (_covered(shown),))


def _said(found: Localization) -> str:
    gap = found.gap("attention", "random")
    verdict = "more often than" if gap.low > 0 else "less often than" if gap.high < 0 else "no surer than"
    return (
        f"{found.cases:,} boxed findings on {found.films:,} films of {found.patients:,} patients. The peak of the "
        f"attention lies inside the annotated box {verdict} that of a random map ({signed(gap.value)}, 95 % interval "
        f"{signed(gap.low)} to {signed(gap.high)}). Map thresholds and the centre prior were fitted on {found.fitted}. "
        "Definitions: docs/localization.md." + "".join(f" Left out: {reason}." for reason in found.left_out)
    )


def _covered(shown: Coverage) -> Table:
    return Table(
        head=("What the crop shows", "Boxes", "Coverage", "Chance", "Difference", "p"),
        rows=tuple(
            (
                words(row.finding) if row.finding != MEAN else "Mean over findings",
                f"{row.boxes:,}",
                number(row.coverage),
                number(row.chance),
                Cell(
                    signed(row.gap),
                    "one patient" if row.gap_low != row.gap_low else f"{signed(row.gap_low)} to {signed(row.gap_high)}",
                    strong=row.gap_low > 0,
                ),
                chance(row.p, 2 / (shown.resamples + 1)),
            )
            for row in shown.rows
        ),
        summary=True,
        caption="Coverage: the share of an annotated box that lies inside the attended crop. Chance: of an equally "
        "large crop at a random place in the view.",
    )


def _compared(found: Localization) -> Table:
    def row(line: TableRow) -> tuple[Cell | str, ...]:
        cells = dict(zip(COLUMNS, line.cells, strict=True))
        return (Cell(_title(line.title), strong=line.kind == "ours"), *(_cell(cells[name]) for name in WHOLE))

    lines = [line for line in table_rows(found) if line.kind != "published"]
    return Table(
        head=("Mean over findings", *(NAMES[name] for name in WHOLE)),
        rows=tuple(row(line) for line in lines),
        caption="Hit: the peak lies inside the box. Energy: the share of the map inside the box. IoU: mean overlap of "
        "the map's box with the annotated one. 95 % intervals over patients.",
    )


def _overlaps(found: Localization) -> Table:
    def row(line: TableRow) -> tuple[Cell | str, ...]:
        cells = dict(zip(COLUMNS, line.cells, strict=True))
        texts = ("" if (m := cells[name]) is None else number(m.value, 2) for name in OVERLAPS)
        return (Cell(_title(line.title), strong=line.kind == "ours"), *texts)

    return Table(
        head=("Share of boxes with", *(f"> {name.split('>')[1]}" for name in OVERLAPS)),
        groups=("", *("IoU" if name.startswith("iou") else "IoBB" for name in OVERLAPS)),
        rows=tuple(row(line) for line in table_rows(found)),
        caption="IoBB: intersection over the area of the found box. Published rows are on the NIH's boxes.",
    )


def _hits(found: Localization) -> Table:
    def row(finding: str) -> tuple[Cell | str, ...]:
        gap = found.gap("attention", "random", finding)
        scores = [found.score(method, finding).of("hit") for method in METHODS]
        return (
            words(finding),
            f"{found.score('random', finding).cases:,}",
            *(number(score.value, 2) for score in scores),
            Cell(signed(gap.value, 2), f"{signed(gap.low, 2)} to {signed(gap.high, 2)}", strong=gap.low > 0),
            chance(gap.p, 2 / found.resamples),
        )

    return Table(
        head=("Hit rate", "Cases", *(_title(TITLES[method]) for method in METHODS), "Attention − random", "p"),
        rows=tuple(row(finding) for finding in found.findings),
    )


def _title(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cell(measured: Measured | None) -> Cell:
    if measured is None:
        return Cell(NONE)
    return Cell(number(measured.value, 3), f"{number(measured.low, 2)}–{number(measured.high, 2)}")
