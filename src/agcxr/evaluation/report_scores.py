"""The report's sections on what a score means and on subgroups: scores.json -> blocks."""

from __future__ import annotations

import math

from agcxr.evaluation.calibration_report import (
    DIAGRAM_POSITIVES,
    Bin,
    CalibrationReport,
    FindingAgreement,
    Fit,
    Group,
    Grouping,
    Version,
)
from agcxr.evaluation.charts import Line, RangeRow, axis_over, lines, ranges
from agcxr.evaluation.page import Block, Cell, Heading, Legend, Multiples, Section, Table, Text
from agcxr.evaluation.report_tables import BOLD, cell, difference, over, percent
from agcxr.evaluation.tables import DAGGER, NONE, dagger_note, number, signed, words
from agcxr.uncertainty import Estimate

CELL = (170, 170)
MAPS = {"none": "none", "temperature": "temperature", "platt": "Platt", "isotonic": "isotonic"}


def meaning_sections(found: CalibrationReport) -> tuple[Section, Section]:
    """What a score means, and the same for subgroups."""
    return scores(found), subgroups(found)


def scores(found: CalibrationReport) -> Section:
    """Reliability diagrams, ECE and Brier before and after, and the shift of prevalence."""
    blocks: list[Block] = [*_said(found), *_diagrams(found), _errors(found)]
    if any(one.calibrated for one in found.findings):
        blocks += [Heading("Where findings are more or less common"), Text(_shift(found)), _prevalence(found)]
    return Section("What a score means", tuple(blocks))


def _said(found: CalibrationReport) -> list[Block]:
    mean = {fit.version: fit for fit in found.mean}
    if found.method is None:
        return [
            Text(
                "The checkpoint holds no calibration, so a score is only an order: a score of .3 does not mean 30 %. "
                "The table says how far off it is."
            )
        ]
    kinds = ", ".join(f"{MAPS.get(kind, kind)} {number(loss, 4)}" for kind, loss in found.log_loss.items())
    stated = [one for one in found.findings if one.films]
    rare = [words(one.finding) for one in stated if not one.calibrated]
    if len(rare) == len(stated):
        return [
            Text(
                "No finding was common enough among the validation films to be calibrated, so probabilities are the "
                "raw scores: only an order."
            )
        ]
    if found.method == "none":
        text = (
            f"No map of the scores had a smaller log loss on the validation films than the scores themselves ({kinds})."
        )
    else:
        text = (
            f"Each finding's score is turned into a probability by a map of the kind {MAPS[found.method]}, chosen on "
            f"the validation films by log loss over 5 folds of patients ({kinds})."
        )
    if rare:
        text += f" Too rare there to be calibrated, so left as they are: {', '.join(rare)}."
    out: list[Block] = [Text(text)]
    if found.fitted_on and (found.fitted_on.shared_patients or not found.fitted_on.of_training):
        out.append(Text(f"The calibration was fitted on {found.fitted_on.words}."))
    if found.fitted_here:
        out.append(Text("These are the films that the calibration was fitted on, so it looks better here than it is."))
    if "calibrated" in mean:
        out.append(Text(_gain(found, mean["raw"], mean["calibrated"])))
    return out


def _gain(found: CalibrationReport, raw: Fit, after: Fit) -> str:
    """What calibration did to the ECE, and how many findings the probabilities expect."""
    if not after.observed_expected.value > 0:
        return "No finding occurs on these films."
    mean = "the calibration error (ECE)" if len(found.averaged) == 1 else "the mean calibration error (ECE)"
    went = f"goes from {number(raw.ece.value)} to" if found.mapped else "is"
    return (
        f"{over(found.averaged)} {mean} {went} {number(after.ece.value)}; right probabilities would show "
        f"{number(after.ece_by_chance)} on as many films. Of {_total(found):,} findings on these films, the "
        f"probabilities expect {_total(found) / after.observed_expected.value:,.0f}."
    )


def _total(found: CalibrationReport) -> int:
    return sum(one.positives for one in found.findings if one.finding in found.averaged)


def _diagrams(found: CalibrationReport) -> list[Block]:
    shown = [one for one in found.findings if 0 < one.positives < one.films]
    if not shown:
        return []
    version: Version = "calibrated" if found.mapped else "raw"
    legend: list[tuple[str, bool, str]] = [("accent", False, f"{version}, with intervals")]
    legend += [("muted", False, "raw score, without intervals")] if found.mapped else []
    notes = tuple(number(fit.ece.value) if (fit := one.fit(version)) else "" for one in shown)
    caption = (
        "Share of films with the finding (up) against the probability given (right), a dot for each of up to "
        f"{max(len(one.bins) for one in shown)} groups of as equal a number of positive films as ties allow, at least "
        f"{DIAGRAM_POSITIVES} in each where there are as many; the number is the ECE ({version}). On the thin diagonal "
        "a probability of 30 % means that 30 of 100 such films show the finding; below it, probabilities are too high. "
        "Axes differ: rare findings have small probabilities. Bars: Wilson's 95 % intervals, cut at the axis."
    )
    return [
        Legend(tuple(legend)),  # type: ignore[arg-type]
        Multiples(
            tuple(_diagram(one, raw_too=found.mapped) for one in shown),
            tuple(words(one.finding) for one in shown),
            notes,
            "reliability.svg",
            CELL,
            caption,
            5,
        ),
    ]


def _diagram(one: FindingAgreement, *, raw_too: bool) -> str:
    parts = [*one.bins, *(one.raw_bins if raw_too else ())]
    axis = axis_over([v for b in parts for v in (b.probability, b.frequency)], include=(0.0,))
    series = [_series(one.raw_bins, "muted")] if raw_too else []
    series.append(_series(one.bins, "accent"))
    return lines(
        series, axis, axis, width=CELL[0], height=CELL[1], diagonal=True, name=f"Reliability of {words(one.finding)}"
    )


def _series(bins: tuple[Bin, ...], role: str) -> Line:
    x, y = [b.probability for b in bins], [b.frequency for b in bins]
    if role == "muted":
        return Line(x, y, "muted", joined=False)
    return Line(x, y, "accent", spread=tuple((b.low, b.high) for b in bins), joined=False)


def _errors(found: CalibrationReport) -> Table:
    """ECE and Brier score before and after."""
    after = found.mapped
    head = (
        "Finding",
        "Positives",
        *(("Map",) if after else ()),
        "Raw",
        *(("Calibrated",) if after else ()),
        "By chance",
    )
    head += ("Raw", *(("Calibrated", "Change") if after else ()))
    texts = len(head) - (3 if after else 1)
    groups = (*([""] * (3 if after else 2)), *(["ECE"] * (3 if after else 2)), *(["Brier score"] * (len(head) - texts)))

    def row(name: str, positives: str, curve: str, fits: dict[Version, Fit], change: Estimate) -> tuple[Cell, ...]:
        last = fits["calibrated" if after else "raw"]
        cells = [Cell(name), Cell(positives), *([Cell(curve)] if after else []), cell(fits["raw"].ece)]
        cells += [cell(last.ece)] if after else []
        cells += [Cell(number(last.ece_by_chance)), cell(fits["raw"].brier)]
        if after:
            apart = difference(change, soft=False, lower_is_better=True)
            cells += [cell(last.brier), apart]
        return tuple(cells)

    rows = [
        row(
            words(one.finding),
            f"{one.positives:,}",
            MAPS.get(one.curve or "", NONE) if one.calibrated else NONE,
            {fit.version: fit for fit in one.fits},
            one.brier_change,
        )
        for one in found.findings
        if one.films
    ]
    several = len(found.averaged) > 1
    if several:
        mean = {fit.version: fit for fit in found.mean}
        rows.append(row(f"Mean of {len(found.averaged)}", "", "", mean, found.mean_brier_change))
    caption = (
        "ECE: mean distance between probability and share of positives, over 15 bins of equal width. By chance: what "
        f"right probabilities would show on as many films. Brier score: mean squared error. 0 is best for both. {BOLD} "
        f"{_level(found)} intervals over patients; those of the ECE allow for its being too large on few films, and "
        "are widened to hold it."
    )
    return Table(head, tuple(rows), caption, summary=several, groups=groups, accent=4 if after else None)


def _shift(found: CalibrationReport) -> str:
    moved = [
        (abs(math.log(one.prevalence / one.fitted_prevalence)), one)
        for one in found.findings
        if one.finding in found.averaged and one.fitted_positives > 0 and one.positives > 0
    ]
    mean = {fit.version: fit for fit in found.mean}
    text = (
        "Calibrated probabilities assume that findings are as common as among the validation films. Where they are "
        "not, every probability is off in one direction, though films are ranked as well as before."
    )
    if moved:
        _, most = max(moved, key=lambda pair: pair[0])
        text += (
            f" The largest shift here: {words(most.finding)}, {percent(most.fitted_prevalence)} there and "
            f"{percent(most.prevalence)} here."
        )
    if "corrected" in mean:
        before, after = (number(mean[one].observed_expected.value, 2) for one in ("calibrated", "corrected"))  # type: ignore[index]
        text += (
            f" All findings together, observed over expected is {before}; told the prevalence of this very split, it "
            f"becomes {after}. "
            "That is an oracle, not a result: in use the prevalence must be known from elsewhere "
            "(agcxr predict --prevalence)."
        )
    return text


def _prevalence(found: CalibrationReport) -> Table:
    head = (
        "Finding",
        "Validation",
        "Here",
        "Calibrated",
        "Corrected",
        "Calibrated",
        "Corrected",
        "Calibrated",
        "Corrected",
    )
    groups = ("", "Share of films", "Share of films", *(["Observed / expected"] * 2), *(["In the large"] * 2))
    groups += ("ECE", "ECE")

    def row(name: str, there: str, here: str, fits: dict[Version, Fit]) -> tuple[Cell, ...]:
        pair = [fits[version] for version in ("calibrated", "corrected") if version in fits]  # type: ignore[index]
        cells = [cell(fit.observed_expected, 2) for fit in pair]
        cells += [Cell(signed(fit.in_the_large.value, 2)) for fit in pair]
        return (Cell(name), Cell(there), Cell(here), *cells, *(Cell(number(fit.ece.value)) for fit in pair))

    rows = [
        row(
            words(one.finding) + DAGGER * one.few_patients,
            percent(one.fitted_prevalence),
            percent(one.prevalence),
            {fit.version: fit for fit in one.fits},
        )
        for one in found.findings
        if 0 < one.positives < one.films
    ]
    several = len(found.averaged) > 1
    if several:
        rows.append(row(f"All {len(found.averaged)} findings", "", "", {fit.version: fit for fit in found.mean}))
    caption = (
        "Observed / expected: positive films over the sum of probabilities; under 1, probabilities are too high. In "
        "the large: what must be added to the logits for the two to be equal (of the findings together: the mean). "
        "Corrected (oracle): odds multiplied by the ratio of this split's prior odds to the validation films'. "
        f"{_level(found)} intervals over patients. {dagger_note(any(one.few_patients for one in found.findings))}"
    ).strip()
    return Table(head, tuple(rows), caption, summary=several, groups=groups)


def subgroups(found: CalibrationReport) -> Section:
    """AUROC and calibration in groups of films; empty where the model answers for no finding."""
    if not found.groupings:
        return Section("Subgroups", ())
    blocks: list[Block] = [
        Text(
            "Does the fusion serve all alike? Ranking (AUROC) and probabilities in groups of these films. Means are "
            "over the same findings in every group of a kind, those with at least "
            f"{found.group_positives} films with and without in each; a group in which fewer than half of the findings "
            "are that common has no mean. Groups differ in more than their name: a difference is no proof of a cause."
        )
    ]
    for grouping in found.groupings:
        if grouping.groups:
            blocks += [Heading(f"By {grouping.by.lower()}"), *_grouping(grouping, found)]
        elif grouping.left_out or grouping.unknown:
            blocks += [Heading(f"By {grouping.by.lower()}"), Text(_left_out(grouping, found) or "Nothing is known.")]
    return Section("Subgroups", tuple(blocks))


def _grouping(grouping: Grouping, found: CalibrationReport) -> list[Block]:
    everyone, groups = grouping.everyone, grouping.groups
    charts = [
        ranges(
            [
                RangeRow(g.name, v.value, v.low, v.high, number(v.value, places), "ink" if g is everyone else "accent")
                for g in (everyone, *groups)
                for v in (pick(g),)
            ],
            reference=reference,
            name=f"{title} by {grouping.by.lower()}",
        )
        for title, pick, places, reference in (
            ("Mean AUROC", lambda g: g.auroc, 3, everyone.auroc.value),
            ("Observed / expected", lambda g: g.observed_expected, 2, 1.0),
        )
    ]
    size = (440, 24 * (len(groups) + 1) + 32)
    compared = f"over {len(grouping.compared)} findings" if grouping.compared else "no finding is common in all groups"
    file = f"groups-{grouping.by.lower().split()[0]}.svg"
    titles, notes = ("Mean AUROC", "Observed / expected findings"), (compared, "1 is best")
    caption = " ".join(part for part in (_about(grouping, found), _left_out(grouping, found)) if part)
    return [
        Multiples(tuple(charts), titles, notes, file, size, columns=2),
        _counts(grouping, caption),
        *_by_finding(grouping, found),
    ]


def _about(grouping: Grouping, found: CalibrationReport) -> str:
    if grouping.by.startswith("Findings"):
        stated = [one for one in found.findings if one.films and one.finding != found.none]
        among = f"Counted among the {len(stated)} findings that these films state. " * (len(stated) < found.asked)
        return (
            f"{among}Read with care: films are grouped here by the truth itself, so even perfect probabilities expect "
            "too many findings where there are none and too few where there are several; only the AUROCs and false "
            "alarms say something of the model."
        )
    return ""


def _left_out(grouping: Grouping, found: CalibrationReport) -> str:
    parts = [f"{one.name} ({one.films:,} films of {one.patients:,} patients)" for one in grouping.left_out]
    said = f"Left out, with fewer than {found.group_patients} patients: {', '.join(parts)}." if parts else ""
    if grouping.unknown:
        said += f" Not known of {grouping.unknown:,} films."
    return said.strip()


def _counts(grouping: Grouping, caption: str) -> Table:
    def row(group: Group) -> tuple[Cell, ...]:
        counts = (f"{group.films:,}", f"{group.patients:,}", f"{group.positives:,}")
        return (
            Cell(group.name, strong=group is grouping.everyone),
            *map(Cell, counts),
            cell(group.auroc),
            cell(group.observed_expected, 2),
            cell(group.ece),
        )

    head = ("Group", "Films", "Patients", "Findings", "Mean AUROC", "Observed / expected", "Mean ECE")
    names = ", ".join(words(name) for name in grouping.compared)
    said = f"{caption} Means over {names}." if names else caption
    return Table(head, tuple(row(group) for group in (grouping.everyone, *grouping.groups)), said.strip())


def _by_finding(grouping: Grouping, found: CalibrationReport) -> list[Block]:
    groups = [group for group in grouping.groups if group.findings]
    names = [one.finding for one in found.findings if any(group.of(one.finding) for group in groups)]
    if not names:
        return []

    def cells(group: Group, name: str) -> tuple[Cell, ...]:
        one = group.of(name)
        if one is None:
            return (Cell(NONE), Cell(NONE), Cell(NONE))
        return Cell(f"{one.positives:,}{DAGGER * one.few_patients}"), cell(one.auroc), cell(one.observed_expected, 2)

    head = ("Finding", *(side for _ in groups for side in ("Positives", "AUROC", "Obs. / exp.")))
    over = ("", *(group.name for group in groups for _ in range(3)))
    rows = tuple((Cell(words(name)), *(cell for g in groups for cell in cells(g, name))) for name in names)
    caption = f"{NONE}: fewer than {found.group_positives} films with the finding, or without it, in the group."
    caption = f"{caption} {dagger_note(any(one.few_patients for g in groups for one in g.findings))}".strip()
    return [Table(head, rows, caption, groups=over, folded=f"Each finding, by {grouping.by.lower()}")]


def _level(found: CalibrationReport) -> str:
    return f"{100 * found.level:g} %"
