"""An analysis as text for a terminal: one line a finding, branches side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

from agcxr import uncertainty
from agcxr.evaluation.results import Analysis, BranchDifference, BranchResult, FindingResult
from agcxr.uncertainty import FEW_PATIENTS, FEWEST_PATIENTS, Estimate

NONE, DAGGER = "–", "†"


def number(value: float, places: int = 3) -> str:
    """ ".812", "1.000", "–" for NaN: areas under curves without their leading zero."""
    if math.isnan(value):
        return NONE
    text = f"{value:.{places}f}"
    return text[1:] if text.startswith("0.") else text


def signed(value: float, places: int = 3) -> str:
    """ "+.012", "−.003" with a true minus sign, "–" for NaN."""
    if math.isnan(value):
        return NONE
    return f"{'−' if value < 0 else '+'}{number(abs(value), places)}"


def chance(p: float, floor: float) -> str:
    """A p value: "≤.002" at the floor that the number of resamples sets, else two to four places."""
    if math.isnan(p):
        return NONE
    at_floor = p <= floor * 1.0001
    shown = floor if at_floor else p
    enough = max(3, math.ceil(-math.log10(shown)))  # one digit at least that is not 0
    text = number(shown, enough if at_floor or p < 0.1 else 2)
    return f"≤{text}" if at_floor else text


def ends(found: Estimate, places: int = 3, *, sign: bool = False) -> str:
    """The interval alone: ".790–.833", with signs "+.010 to +.030"; empty where there is none."""
    if math.isnan(found.low):
        return ""
    if sign:
        return f"{signed(found.low, places)} to {signed(found.high, places)}"
    return f"{number(found.low, places)}–{number(found.high, places)}"


def interval(found: Estimate, places: int = 3, *, sign: bool = False) -> str:
    """ ".812 (.790–.833)", with signs "+.012 (+.003 to +.021)"; ".812" where one patient alone gives no interval; "–"
    where there is no value."""
    value = signed(found.value, places) if sign else number(found.value, places)
    span = "" if math.isnan(found.value) else ends(found, places, sign=sign)
    return f"{value} ({span})" if span else value


def words(finding: str) -> str:
    """A finding as people write it."""
    return finding.replace("_", " ")


def marked(result: FindingResult) -> str:
    """The finding as people write it, with a dagger where few patients have it (see `few_patients`)."""
    return words(result.finding) + DAGGER * result.few_patients


def few_patients(analysis: Analysis) -> str:
    """What the dagger means, for under a table; empty where it stands nowhere."""
    return dagger_note(any(result.few_patients for result in analysis.labels), analysis.resampling.unit)


def dagger_note(stands: bool, unit: str = "patient") -> str:
    """The same, for tables of other results."""
    if not stands:
        return ""
    return (
        f"{DAGGER} Fewer than {FEW_PATIENTS} {unit}s with the finding, or without it: its interval and p are rough; "
        f"with fewer than {FEWEST_PATIENTS} there are none."
    )


def untaught(analysis: Analysis) -> str:
    """Which findings the model has no answer for; empty where it has one for all."""
    answered = {result.finding for result in analysis.labels}
    names = [words(finding) for finding in analysis.findings.names if finding not in answered]
    return f"The model was not taught, and so says nothing of: {', '.join(names)}." if names else ""


def lone(analysis: Analysis) -> str:
    """Why a mean has no interval: the findings of it that have none. Empty where it has one."""
    if len(analysis.mean.findings) < 2 or not math.isnan(analysis.mean.branches[-1].auroc.low):
        return ""
    of_mean = [r for r in analysis.labels if r.finding in analysis.mean.findings]
    without = [words(r.finding) for r in of_mean if math.isnan(r.branches[-1].auroc.low)]
    if not without:
        return ""
    return f"The mean has no interval, for {' and '.join(without)} {'has' if len(without) == 1 else 'have'} none."


def p_floor(analysis: Analysis, gap: BranchDifference) -> float:
    """The smallest p that the bootstrap can give for a difference."""
    return uncertainty.p_floor(analysis.resampling.resamples, gap.left_out)


def gap_of(
    gaps: Sequence[BranchDifference], against: str, measure: str = "auroc", point: str = ""
) -> BranchDifference | None:
    """The difference from a branch, if it was measured; `point`: at which operating point."""
    wanted = (against, measure, point)
    return next((gap for gap in gaps if (gap.against, gap.measure, gap.point) == wanted), None)


def text_table(analysis: Analysis) -> str:
    """AUROC per finding and branch with intervals, the difference of the last branch from the first, counts, and the
    mean over the findings; then, in words, what was left out."""
    return "\n".join([*aligned(table_rows(analysis)), *notes(analysis)])


def table_rows(analysis: Analysis) -> list[list[str]]:
    """The cells of `text_table`: head, a row a finding, the mean."""
    first, last = analysis.branches[0], analysis.branches[-1]
    paired = len(analysis.branches) > 1
    head = ["Finding", "Positives", *(name.capitalize() for name in analysis.branches)]
    head += [f"{last.capitalize()} − {first}", "p"] if paired else []
    rows = [head]
    rows += [
        _row(analysis, marked(result), f"{result.positives:,}", result.branches, result.gaps)
        for result in analysis.stated
    ]
    mean = analysis.mean
    return [*rows, _row(analysis, f"Mean of {len(mean.findings)}", "", mean.branches, mean.gaps)]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table for a terminal: the first column set left, a rule under the head and over the last row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    rule = "─" * len(lines[0])
    return [lines[0].rstrip(), rule, *(line.rstrip() for line in lines[1:-1]), rule, lines[-1].rstrip()]


def _row(
    analysis: Analysis, name: str, positives: str, branches: Sequence[BranchResult], gaps: Sequence[BranchDifference]
) -> list[str]:
    row = [name, positives, *(interval(branch.auroc) for branch in branches)]
    if len(branches) > 1:
        gap = gap_of(gaps, analysis.branches[0])
        if gap is None or math.isnan(gap.value):
            return [*row, NONE, NONE]
        row += [interval(gap, sign=True), chance(gap.p, p_floor(analysis, gap))]
    return row


def notes(analysis: Analysis) -> list[str]:
    """What a reader must know about the numbers: intervals, and findings and resamples left out."""
    how = analysis.resampling
    unit = "patients" if how.unit == "patient" else "films (patients are not known, so intervals may be too narrow)"
    lines = [
        f"AUROC with {100 * how.level:g} % intervals: {how.resamples:,} resamples of {how.clusters:,} {unit}; "
        f"seed {how.seed}."
    ]
    lines += [said] if (said := few_patients(analysis)) else []
    if analysis.unstated:
        lines.append(f"Not stated on these films, and left out: {', '.join(map(words, analysis.unstated))}.")
    absent = [result for result in analysis.stated if not result.defined]
    if absent:
        why = ", ".join(
            f"{words(result.finding)} (no {'positives' if result.positives == 0 else 'negatives'})" for result in absent
        )
        lines.append(f"Undefined, and left out of the mean: {why}.")
    mean_lost = analysis.mean.branches[0].auroc.left_out
    if why := lone(analysis):
        lines.append(why)
    elif mean_lost and analysis.mean.findings:
        rare = min(
            (r for r in analysis.labels if r.finding in analysis.mean.findings), key=lambda r: r.positive_patients
        )
        lines.append(
            f"{mean_lost:,} resamples lacked a class of some finding and are left out of the mean's interval "
            f"(rarest: {words(rare.finding)}, {rare.positives} films of {rare.positive_patients} "
            f"{'patient' if rare.positive_patients == 1 else 'patients'})."
        )
    return lines
