"""The figures of an ablation, as PNG and SVG, in the report's colours."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from agcxr.evaluation.ablation import Ablation, ArmBranch, ArmResult, BinResult, SizeStudy
from agcxr.evaluation.ablation_tables import NAMES
from agcxr.evaluation.controls import GROUPS, TITLES
from agcxr.evaluation.tables import number, signed

PAPER_WHITE, INK, MUTED, RULE, ACCENT, WARM = "#ffffff", "#1b1f24", "#6b7480", "#e3e6ea", "#0a6c8f", "#b3541e"
ROW, HEAD, SPACE = 0.27, 0.38, 0.14
"""Inches: a row, a group's heading, and the space under a group."""
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "agcxr",
    "axes.unicode_minus": True,
}


def draw_arms(found: Ablation) -> dict[str, bytes]:
    """{"png": ..., "svg": ...}: a row an arm; mean AUROC, then the difference from the reference."""
    rows, heads, y = _places(found)
    height = y + 1.35
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, height), facecolor=PAPER_WHITE)
        FigureCanvasAgg(figure)
        bottom, top = 0.78 / height, 1 - 0.57 / height
        left = figure.add_axes((0.2, bottom, 0.36, top - bottom))
        right = figure.add_axes((0.615, bottom, 0.36, top - bottom))
        for axis in (left, right):
            _frame(axis, y)
        for group, at in heads:
            left.text(
                -0.51, at, TITLES[group], transform=left.get_yaxis_transform(), weight="bold", color=INK, va="center"
            )
        for arm, at in rows:
            _label(left, arm, at)
            _values(left, arm, at)
            _gaps(right, arm, at)
        left.axvline(found.reference.branch("global").auroc.value, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
        right.axvline(0, color=MUTED, lw=1, zorder=1)
        _ticks(left, signed_ticks=False)
        _ticks(right, signed_ticks=True)
        left.set_title("Mean AUROC", loc="left", color=INK, fontsize=10, weight="bold", pad=8)
        right.set_title(
            "Arm minus reference (left of 0: worse)", loc="left", color=INK, fontsize=10, weight="bold", pad=8
        )
        _legend(figure, found)
        return _files(figure)


def draw_sizes(study: SizeStudy) -> dict[str, bytes]:
    """{"png": ..., "svg": ...}: attention minus each control, by diameter; a panel a branch and kind of finding."""
    focal = [one for one in study.bins if one.finding in ("Nodule", "Mass")]
    controls = list(dict.fromkeys(one.control for one in study.bins))
    branches = list(dict.fromkeys(one.branch for one in study.bins))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 2.75 * max(1, len(branches)) + 0.9), facecolor=PAPER_WHITE, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(max(1, len(branches)), 2, squeeze=False, sharex=True)
        for axes, branch in zip(grid, branches, strict=False):
            for axis, measure in zip(axes, ("AUROC", "Sensitivity"), strict=True):
                here = [one for one in focal if one.branch == branch]
                _by_size(axis, here, controls, measure, study)
                axis.set_title(
                    f"{branch.capitalize()}: {_measure(measure, study)}", loc="left", fontsize=9.5, weight="bold"
                )
        for axis in grid[-1]:
            axis.set_xlabel("Diameter of the film's largest sign, cm", color=MUTED)
        keys = [
            Line2D([], [], color=colour, marker="o", ls="", mfc=colour, label=f"attention − {NAMES.get(name, name)}")
            for name, colour in zip(controls, _colours(controls), strict=True)
        ]
        keys.append(
            Line2D([], [], color=MUTED, marker="o", ls="", mfc=PAPER_WHITE, label="hollow: interval includes 0")
        )
        figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, labelcolor=INK)
        return _files(figure)


# --- the arms ---------------------------------------------------------------------------------------------------------


def _places(found: Ablation) -> tuple[list[tuple[ArmResult, float]], list[tuple[str, float]], float]:
    """Rows and headings with their places, in inches from the top; and the height of all."""
    rows: list[tuple[ArmResult, float]] = []
    heads: list[tuple[str, float]] = []
    y = 0.0
    for group in GROUPS:
        own = [arm for arm in found.arms if arm.group == group]
        if own:
            heads.append((group, y + 0.12))
            y += HEAD
            rows += [(arm, y + i * ROW) for i, arm in enumerate(own)]
            y += len(own) * ROW + SPACE
    return rows, heads, y - SPACE


def _frame(axis: Axes, height: float) -> None:
    axis.set_facecolor(PAPER_WHITE)
    axis.set_ylim(height, -0.05)
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)
    axis.grid(axis="x", color=RULE, lw=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(axis="x", length=0, colors=MUTED, labelsize=8)


def _label(axis: Axes, arm: ArmResult, at: float) -> None:
    name = NAMES.get(arm.name, arm.name)
    weight = "bold" if arm.reference else "normal"
    place = axis.get_yaxis_transform()
    axis.text(
        -0.49,
        at,
        f"{name}{' (ref.)' if arm.reference else ''}",
        transform=place,
        va="center",
        color=INK,
        weight=weight,
    )
    axis.text(
        -0.03, at, number(arm.branch("fusion").auroc.value), transform=place, va="center", ha="right", color=ACCENT
    )


def _values(axis: Axes, arm: ArmResult, at: float) -> None:
    for name, colour, face, shift in (("local", MUTED, PAPER_WHITE, 0.05), ("fusion", ACCENT, ACCENT, -0.05)):
        one = arm.branch(name)
        if not math.isfinite(one.auroc.value):
            continue
        axis.plot(
            [one.auroc.low, one.auroc.high], [at + shift] * 2, color=colour, lw=1.6, solid_capstyle="round", zorder=2
        )
        if len(one.per_seed) > 1:
            axis.plot(one.per_seed, [at + shift] * len(one.per_seed), "|", color=colour, ms=5, mew=0.9, zorder=2)
        axis.plot([one.auroc.value], [at + shift], "o", ms=5, mfc=face, mec=colour, mew=1.4, zorder=3)


def _gaps(axis: Axes, arm: ArmResult, at: float) -> None:
    if arm.reference:
        axis.plot([0], [at], "o", ms=5, color=INK, zorder=3)
    for name, colour, shift in (("local", MUTED, 0.05), ("fusion", ACCENT, -0.05)):
        _gap(axis, arm.branch(name), at + shift, colour)
    published = arm.branch("fusion").paper_against_reference
    if not arm.reference and math.isfinite(published):
        axis.plot([published], [at], "D", ms=4.2, mfc=PAPER_WHITE, mec=WARM, mew=1.2, zorder=4)


def _gap(axis: Axes, one: ArmBranch, at: float, colour: str) -> None:
    gap = one.against_reference
    if gap is None or not math.isfinite(gap.value):
        return
    if math.isfinite(gap.low):
        axis.plot([gap.low, gap.high], [at, at], color=colour, lw=1.6, solid_capstyle="round", zorder=2)
    axis.plot([gap.value], [at], "o", ms=5, mfc=colour if gap.clear else PAPER_WHITE, mec=colour, mew=1.4, zorder=3)


def _ticks(axis: Axes, *, signed_ticks: bool) -> None:
    low, high = axis.get_xlim()
    axis.set_xlim(low, high)
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    step = axis.get_xticks()[1] - axis.get_xticks()[0]
    places = max(
        2, -math.floor(math.log10(step) + 1e-9) + (abs(step * 10 ** -math.floor(math.log10(step)) - 2.5) < 1e-6)
    )

    def said(value: float, _: object) -> str:
        value = round(value, 9)
        return "0" if value == 0 else signed(value, places) if signed_ticks else number(value, places)

    axis.xaxis.set_major_formatter(FuncFormatter(said))


def _legend(figure: Figure, found: Ablation) -> None:
    dashed = Line2D([], [], color=MUTED, lw=1, ls=(0, (4, 3)), label="reference's global branch")
    keys = [
        Line2D([], [], color=ACCENT, marker="o", ms=5, lw=1.6, label="fusion"),
        Line2D([], [], color=MUTED, marker="o", ms=5, lw=1.6, mfc=PAPER_WHITE, label="local"),
        dashed,
    ]
    published = (arm.branch("fusion").paper_against_reference for arm in found.arms if not arm.reference)
    if any(math.isfinite(value) for value in published):
        keys.append(Line2D([], [], color=WARM, marker="D", ms=4.2, mfc=PAPER_WHITE, ls="", label="paper's fusion"))
    figure.legend(
        handles=keys,
        loc="lower center",
        ncols=len(keys),
        frameon=False,
        labelcolor=INK,
        bbox_to_anchor=(0.5, 0.03 / figure.get_size_inches()[1]),
    )
    many = len(found.seeds) > 1
    height = figure.get_size_inches()[1]
    level = f"{100 * found.resampled.level:g} %"
    how = f"{found.films:,} {found.split} films of {found.patients:,} patients; {level} intervals over patients"
    how += f" and {len(found.seeds)} seeds (ticks: each seed)" if many else f", seed {found.seeds[0]}"
    figure.text(
        0.5,
        0.42 / height,
        f"{how}; at the right, solid: the interval leaves out 0.",
        ha="center",
        color=MUTED,
        fontsize=8,
    )


# --- by size ----------------------------------------------------------------------------------------------------------


def _colours(controls: Sequence[str]) -> list[str]:
    return [(ACCENT, WARM, "#5b5ea6", "#4d7c3a")[i % 4] for i in range(len(controls))]


def _measure(measure: str, study: SizeStudy) -> str:
    return "AUROC" if measure == "AUROC" else f"sensitivity at {100 * study.specificity:g} % specificity"


def _by_size(axis: Axes, found: Sequence[BinResult], controls: Sequence[str], measure: str, study: SizeStudy) -> None:
    axis.set_facecolor(PAPER_WHITE)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.grid(axis="y", color=RULE, lw=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(length=0, colors=MUTED, labelsize=8)
    axis.axhline(0, color=MUTED, lw=1, zorder=1)
    ranges = sorted(dict.fromkeys((one.finding, one.low_cm, one.high_cm) for one in found), key=lambda at: at[2])
    for i, (control, colour) in enumerate(zip(controls, _colours(controls), strict=True)):
        for one in found:
            gap = one.auroc_gap if measure == "AUROC" else one.sensitivity_gap
            if one.control != control or not math.isfinite(gap.value):
                continue
            x = ranges.index((one.finding, one.low_cm, one.high_cm)) + 0.7 * ((i + 0.5) / len(controls) - 0.5)
            axis.plot([x, x], [gap.low, gap.high], color=colour, lw=1.6, solid_capstyle="round", zorder=2)
            face = colour if gap.clear else PAPER_WHITE
            axis.plot([x], [gap.value], "o", ms=5, mfc=face, mec=colour, mew=1.4, zorder=3)
    for at in range(len(ranges) - 1):
        axis.axvline(at + 0.5, color=RULE, lw=0.8, zorder=0)
    axis.set_xlim(-0.5, len(ranges) - 0.5)
    axis.set_xticks(range(len(ranges)), [f"{low:g}–{high:g}\n{finding}" for finding, low, high in ranges])
    axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if abs(value) < 1e-9 else signed(value, 2)))


def _files(figure: Figure) -> dict[str, bytes]:
    out = {}
    for kind, options in (("png", {"dpi": 160}), ("svg", {"metadata": {"Date": None}})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, **options)  # type: ignore[arg-type]
        out[kind] = buffer.getvalue()
    return out
