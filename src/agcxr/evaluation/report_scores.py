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
from agcxr.evaluation.page import Block, Heading, Legend, Multiples, Section, Text
from agcxr.evaluation.report_tables import over
from agcxr.table import BOLD, DAGGER, NONE, Cell, Table, cell, dagger_note, difference, number, percent, signed, words
from agcxr.uncertainty import Estimate

CELL = (170, 170)
MAPS = {"none": "none", "temperature": "temperature", "platt": "Platt", "isotonic": "isotonic"}


def meaning_sections(report: CalibrationReport) -> tuple[Section, Section]:
    """What a score means, and the same for subgroups."""
    return scores(report), subgroups(report)


def scores(report: CalibrationReport) -> Section:
    """Reliability diagrams, ECE and Brier before and after, and the shift of prevalence."""
    blocks: list[Block] = [*_calibration_text(report), *_diagrams(report), _errors(report)]
    if any(finding.calibrated for finding in report.findings):
        blocks += [Heading("Where findings are more or less common"), Text(_shift(report)), _prevalence(report)]
    return Section("What a score means", tuple(blocks))


def _calibration_text(report: CalibrationReport) -> list[Block]:
    mean = {fit.version: fit for fit in report.mean}
    if report.method is None:
        return [
            Text(
                "The checkpoint holds no calibration, so a score is only an order: a score of .3 does not mean 30 %. "
                "The table says how far off it is."
            )
        ]
    kinds = ", ".join(f"{MAPS.get(kind, kind)} {number(loss, 4)}" for kind, loss in report.log_loss.items())
    stated = [finding for finding in report.findings if finding.films]
    rare = [words(finding.finding) for finding in stated if not finding.calibrated]
    if len(rare) == len(stated):
        return [
            Text(
                "No finding was common enough among the validation films to be calibrated, so probabilities are the "
                "raw scores: only an order."
            )
        ]
    if report.method == "none":
        text = (
            f"No map of the scores had a smaller log loss on the validation films than the scores themselves ({kinds})."
        )
    else:
        text = (
            f"Each finding's score is turned into a probability by a map of the kind {MAPS[report.method]}, chosen on "
            f"the validation films by log loss over 5 folds of patients ({kinds})."
        )
    if rare:
        text += f" Too rare there to be calibrated, so left as they are: {', '.join(rare)}."
    out: list[Block] = [Text(text)]
    if report.fitted_on and (report.fitted_on.shared_patients or not report.fitted_on.of_training):
        out.append(Text(f"The calibration was fitted on {report.fitted_on.words}."))
    if report.fitted_here:
        out.append(Text("These are the films that the calibration was fitted on, so it looks better here than it is."))
    if "calibrated" in mean:
        out.append(Text(_gain(report, mean["raw"], mean["calibrated"])))
    return out


def _gain(report: CalibrationReport, raw: Fit, after: Fit) -> str:
    """What calibration did to the ECE, and how many findings the probabilities expect."""
    if not after.observed_expected.value > 0:
        return "No finding occurs on these films."
    mean = "the calibration error (ECE)" if len(report.averaged) == 1 else "the mean calibration error (ECE)"
    went = f"goes from {number(raw.ece.value)} to" if report.mapped else "is"
    return (
        f"{over(report.averaged)} {mean} {went} {number(after.ece.value)}; right probabilities would show "
        f"{number(after.ece_by_chance)} on as many films. Of {_total(report):,} findings on these films, the "
        f"probabilities expect {_total(report) / after.observed_expected.value:,.0f}."
    )


def _total(report: CalibrationReport) -> int:
    return sum(finding.positives for finding in report.findings if finding.finding in report.averaged)


def _diagrams(report: CalibrationReport) -> list[Block]:
    shown = [finding for finding in report.findings if 0 < finding.positives < finding.films]
    if not shown:
        return []
    version: Version = "calibrated" if report.mapped else "raw"
    legend: list[tuple[str, bool, str]] = [("accent", False, f"{version}, with intervals")]
    legend += [("muted", False, "raw score, without intervals")] if report.mapped else []
    notes = tuple(number(fit.ece.value) if (fit := finding.fit(version)) else "" for finding in shown)
    caption = (
        "Share of films with the finding (up) against the probability given (right), a dot for each of up to "
        f"{max(len(finding.bins) for finding in shown)} groups of as equal a number of positive films as ties allow, "
        f"at least {DIAGRAM_POSITIVES} in each where there are as many; the number is the ECE ({version}). On the thin "
        "diagonal a probability of 30 % means that 30 of 100 such films show the finding; below it, probabilities are "
        "too high. Axes differ: rare findings have small probabilities. Bars: Wilson's 95 % intervals, cut at the axis."
    )
    return [
        Legend(tuple(legend)),  # type: ignore[arg-type]
        Multiples(
            tuple(_diagram(finding, raw_too=report.mapped) for finding in shown),
            tuple(words(finding.finding) for finding in shown),
            notes,
            "reliability.svg",
            CELL,
            caption,
            5,
        ),
    ]


def _diagram(finding: FindingAgreement, *, raw_too: bool) -> str:
    parts = [*finding.bins, *(finding.raw_bins if raw_too else ())]
    axis = axis_over([v for b in parts for v in (b.probability, b.frequency)], include=(0.0,))
    series = [_series(finding.raw_bins, "muted")] if raw_too else []
    series.append(_series(finding.bins, "accent"))
    return lines(
        series,
        axis,
        axis,
        width=CELL[0],
        height=CELL[1],
        diagonal=True,
        name=f"Reliability of {words(finding.finding)}",
    )


def _series(bins: tuple[Bin, ...], role: str) -> Line:
    x, y = [b.probability for b in bins], [b.frequency for b in bins]
    if role == "muted":
        return Line(x, y, "muted", joined=False)
    return Line(x, y, "accent", spread=tuple((b.low, b.high) for b in bins), joined=False)


def _errors(report: CalibrationReport) -> Table:
    """ECE and Brier score before and after."""
    after = report.mapped
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
            words(finding.finding),
            f"{finding.positives:,}",
            MAPS.get(finding.curve or "", NONE) if finding.calibrated else NONE,
            {fit.version: fit for fit in finding.fits},
            finding.brier_change,
        )
        for finding in report.findings
        if finding.films
    ]
    several = len(report.averaged) > 1
    if several:
        mean = {fit.version: fit for fit in report.mean}
        rows.append(row(f"Mean of {len(report.averaged)}", "", "", mean, report.mean_brier_change))
    caption = (
        "ECE: mean distance between probability and share of positives, over 15 bins of equal width. By chance: what "
        f"right probabilities would show on as many films. Brier score: mean squared error. 0 is best for both. {BOLD} "
        f"{_level(report)} intervals over patients; those of the ECE allow for its being too large on few films, and "
        "are widened to hold it."
    )
    return Table(head, tuple(rows), caption, summary=several, groups=groups, accent=4 if after else None)


def _shift(report: CalibrationReport) -> str:
    moved = [
        (abs(math.log(finding.prevalence / finding.fitted_prevalence)), finding)
        for finding in report.findings
        if finding.finding in report.averaged and finding.fitted_positives > 0 and finding.positives > 0
    ]
    mean = {fit.version: fit for fit in report.mean}
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
        before, after = (number(mean[version].observed_expected.value, 2) for version in ("calibrated", "corrected"))  # type: ignore[index]
        text += (
            f" All findings together, observed over expected is {before}; told the prevalence of this very split, it "
            f"becomes {after}. "
            "That is an oracle, not a result: in use the prevalence must be known from elsewhere "
            "(agcxr predict --prevalence)."
        )
    return text


def _prevalence(report: CalibrationReport) -> Table:
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
            words(finding.finding) + DAGGER * finding.few_patients,
            percent(finding.fitted_prevalence),
            percent(finding.prevalence),
            {fit.version: fit for fit in finding.fits},
        )
        for finding in report.findings
        if 0 < finding.positives < finding.films
    ]
    several = len(report.averaged) > 1
    if several:
        rows.append(row(f"All {len(report.averaged)} findings", "", "", {fit.version: fit for fit in report.mean}))
    caption = (
        "Observed / expected: positive films over the sum of probabilities; under 1, probabilities are too high. In "
        "the large: what must be added to the logits for the two to be equal (of the findings together: the mean). "
        "Corrected (oracle): odds multiplied by the ratio of this split's prior odds to the validation films'. "
        f"{_level(report)} intervals over patients. "
        f"{dagger_note(any(finding.few_patients for finding in report.findings))}"
    ).strip()
    return Table(head, tuple(rows), caption, summary=several, groups=groups)


def subgroups(report: CalibrationReport) -> Section:
    """AUROC and calibration in groups of films; empty where the model answers for no finding."""
    if not report.groupings:
        return Section("Subgroups", ())
    blocks: list[Block] = [
        Text(
            "Does the fusion serve all alike? Ranking (AUROC) and probabilities in groups of these films. Means are "
            "over the same findings in every group of a kind, those with at least "
            f"{report.group_positives} films with and without in each; a group in which fewer than half of the "
            "findings are that common has no mean. Groups differ in more than their name: a difference is no "
            "proof of a cause."
        )
    ]
    for grouping in report.groupings:
        if grouping.groups:
            blocks += [Heading(f"By {grouping.by.lower()}"), *_grouping(grouping, report)]
        elif grouping.left_out or grouping.unknown:
            blocks += [Heading(f"By {grouping.by.lower()}"), Text(_left_out(grouping, report) or "Nothing is known.")]
    return Section("Subgroups", tuple(blocks))


def _grouping(grouping: Grouping, report: CalibrationReport) -> list[Block]:
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
    caption = " ".join(part for part in (_about(grouping, report), _left_out(grouping, report)) if part)
    return [
        Multiples(tuple(charts), titles, notes, file, size, columns=2),
        _counts(grouping, caption),
        *_by_finding(grouping, report),
    ]


def _about(grouping: Grouping, report: CalibrationReport) -> str:
    if grouping.by.startswith("Findings"):
        stated = [finding for finding in report.findings if finding.films and finding.finding != report.none]
        among = f"Counted among the {len(stated)} findings that these films state. " * (len(stated) < report.asked)
        return (
            f"{among}Read with care: films are grouped here by the truth itself, so even perfect probabilities expect "
            "too many findings where there are none and too few where there are several; only the AUROCs and false "
            "alarms say something of the model."
        )
    return ""


def _left_out(grouping: Grouping, report: CalibrationReport) -> str:
    parts = [f"{group.name} ({group.films:,} films of {group.patients:,} patients)" for group in grouping.left_out]
    sentence = f"Left out, with fewer than {report.group_patients} patients: {', '.join(parts)}." if parts else ""
    if grouping.unknown:
        sentence += f" Not known of {grouping.unknown:,} films."
    return sentence.strip()


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
    text = f"{caption} Means over {names}." if names else caption
    return Table(head, tuple(row(group) for group in (grouping.everyone, *grouping.groups)), text.strip())


def _by_finding(grouping: Grouping, report: CalibrationReport) -> list[Block]:
    groups = [group for group in grouping.groups if group.findings]
    names = [finding.finding for finding in report.findings if any(group.of(finding.finding) for group in groups)]
    if not names:
        return []

    def cells(group: Group, name: str) -> tuple[Cell, ...]:
        finding = group.of(name)
        if finding is None:
            return (Cell(NONE), Cell(NONE), Cell(NONE))
        return (
            Cell(f"{finding.positives:,}{DAGGER * finding.few_patients}"),
            cell(finding.auroc),
            cell(finding.observed_expected, 2),
        )

    head = ("Finding", *(side for _ in groups for side in ("Positives", "AUROC", "Obs. / exp.")))
    over = ("", *(group.name for group in groups for _ in range(3)))
    rows = tuple((Cell(words(name)), *(cell for g in groups for cell in cells(g, name))) for name in names)
    caption = f"{NONE}: fewer than {report.group_positives} films with the finding, or without it, in the group."
    caption = f"{caption} {dagger_note(any(finding.few_patients for g in groups for finding in g.findings))}".strip()
    return [Table(head, rows, caption, groups=over, folded=f"Each finding, by {grouping.by.lower()}")]


def _level(report: CalibrationReport) -> str:
    return f"{100 * report.level:g} %"
