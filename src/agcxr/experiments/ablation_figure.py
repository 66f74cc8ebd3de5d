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

from agcxr.experiments.ablation import Ablation, ArmResult, BinResult, SizeStudy
from agcxr.experiments.ablation_size import BRANCHES, FOCAL
from agcxr.experiments.controls import NAMES, TITLES, USUAL
from agcxr.table import number, signed

PAPER_WHITE, INK, MUTED, RULE, ACCENT, WARM = "#ffffff", "#1b1f24", "#6b7480", "#e3e6ea", "#0a6c8f", "#b3541e"
ROW, HEAD, SPACE = 0.27, 0.38, 0.14
"""Inches: a row, a group's heading, and the space under a group."""
MARKS = {"fusion": ("o", 5.0, ACCENT, -0.06), "local": ("s", 4.4, MUTED, 0.06)}
"""Of a branch: shape, size, colour, and how far under the middle of its row. Hollow is kept for "includes 0"."""
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "agcxr",
    "axes.unicode_minus": True,
}


def draw_arms(ablation: Ablation) -> dict[str, bytes]:
    """{"png": ..., "svg": ...}: a row an arm; mean AUROC, then each branch's difference from the reference, on a scale
    of its own: the local branch's are many times the fusion's."""
    rows, heads, y = _places(ablation)
    height = y + 1.35
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, height), facecolor=PAPER_WHITE)
        FigureCanvasAgg(figure)
        bottom, top = 0.78 / height, 1 - 0.57 / height
        places = ((0.19, 0.31), (0.54, 0.205), (0.785, 0.205))
        left, middle, right = axes = [figure.add_axes((x, bottom, w, top - bottom)) for x, w in places]
        for axis in axes:
            frame(axis, y)
        for group, at in heads:
            left.text(
                -0.57, at, TITLES[group], transform=left.get_yaxis_transform(), weight="bold", color=INK, va="center"
            )
        for arm, at in rows:
            _label(left, arm, at)
            _values(left, arm, at)
            for axis, name in ((middle, "fusion"), (right, "local")):
                _gap(axis, arm, name, at)
        left.axvline(ablation.reference.branch("global").auroc.value, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
        titles = ("Mean AUROC", "Fusion − reference", "Local − reference")
        for axis, title in zip(axes, titles, strict=True):
            axis.set_title(title, loc="left", color=INK, fontsize=10, weight="bold", pad=8)
            _ticks(axis, signed_ticks=axis is not left)
        for axis in (middle, right):
            axis.axvline(0, color=MUTED, lw=1, zorder=1)
        _legend(figure, ablation)
        return save(figure)


def draw_sizes(study: SizeStudy) -> dict[str, bytes]:
    """{"png": ..., "svg": ...}: AUROC, attention minus each control, by diameter of nodules and masses; a panel a
    branch. Sensitivities stay in the tables: a range holds a dozen films, and most differences are exactly 0."""
    focal = [result for result in study.bins if result.finding in FOCAL]
    controls = list(dict.fromkeys(result.control for result in study.bins))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 6.2), facecolor=PAPER_WHITE, layout="constrained")
        FigureCanvasAgg(figure)
        for axis, branch in zip(figure.subplots(len(BRANCHES), 1), BRANCHES, strict=True):
            _by_size(axis, [result for result in focal if result.branch == branch], controls)
            title = f"{branch.capitalize()}: AUROC, attention minus control (under 0: worse)"
            axis.set_title(title, loc="left", fontsize=9.5, weight="bold", color=INK)
        axis.set_xlabel("Diameter of the film's largest sign, cm", color=MUTED)
        keys = [
            Line2D([], [], color=colour, marker="o", ls="", mfc=colour, label=f"− {NAMES.get(name, name)}")
            for name, colour in zip(controls, _colours(controls), strict=True)
        ]
        keys.append(
            Line2D([], [], color=MUTED, marker="o", ls="", mfc=PAPER_WHITE, label="hollow: interval includes 0")
        )
        figure.legend(handles=keys, loc="outside lower center", ncols=len(keys), frameon=False, labelcolor=INK)
        return save(figure)


# --- the arms ---------------------------------------------------------------------------------------------------------


def _places(ablation: Ablation) -> tuple[list[tuple[ArmResult, float]], list[tuple[str, float]], float]:
    """Rows and headings with their places, in inches from the top; and the height of all."""
    rows: list[tuple[ArmResult, float]] = []
    heads: list[tuple[str, float]] = []
    y = 0.0
    for group in USUAL:
        own = [arm for arm in ablation.arms if arm.group == group]
        if own:
            heads.append((group, y + 0.12))
            y += HEAD
            rows += [(arm, y + i * ROW) for i, arm in enumerate(own)]
            y += len(own) * ROW + SPACE
    return rows, heads, y - SPACE


def frame(axis: Axes, height: float) -> None:
    """Rows from 0 to `height` inches from the top, a faint grid."""
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
        -0.55,
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
    for name, (shape, size, colour, shift) in MARKS.items():
        branch = arm.branch(name)
        if not math.isfinite(branch.auroc.value):
            continue
        _seeds(axis, branch.per_seed, at + shift, colour)
        _line(axis, branch.auroc.low, branch.auroc.high, at + shift, colour)
        axis.plot([branch.auroc.value], [at + shift], shape, ms=size, mfc=colour, mec=colour, mew=1.4, zorder=3)


def _gap(axis: Axes, arm: ArmResult, name: str, at: float) -> None:
    """An arm's difference from the reference, and the paper's."""
    (shape, size, colour, _), branch = MARKS[name], arm.branch(name)
    if arm.reference:
        axis.plot([0], [at], shape, ms=size, color=INK, zorder=3)
    gap = branch.against_reference
    if gap is not None and math.isfinite(gap.value):
        _seeds(axis, gap.per_seed, at, colour)
        _line(axis, gap.low, gap.high, at, colour)
        face = colour if gap.clear else PAPER_WHITE
        axis.plot([gap.value], [at], shape, ms=size, mfc=face, mec=colour, mew=1.4, zorder=3)
    if not arm.reference and math.isfinite(branch.paper_against_reference):
        axis.plot([branch.paper_against_reference], [at], "x", ms=5, mec=WARM, mew=1.6, zorder=4)


def _line(axis: Axes, low: float, high: float, at: float, colour: str) -> None:
    if math.isfinite(low):
        axis.plot([low, high], [at, at], color=colour, lw=1.6, solid_capstyle="round", zorder=2)


def _seeds(axis: Axes, each: Sequence[float], at: float, colour: str) -> None:
    if len(each) > 1:
        axis.plot(each, [at] * len(each), "|", color=colour, ms=6, mew=0.9, zorder=2)


def _ticks(axis: Axes, *, signed_ticks: bool) -> None:
    low, high = axis.get_xlim()
    axis.set_xlim(low, high)
    axis.xaxis.set_major_locator(MaxNLocator(5 if not signed_ticks else 4, steps=[1, 2, 2.5, 5, 10]))
    step = axis.get_xticks()[1] - axis.get_xticks()[0]
    places = max(
        2, -math.floor(math.log10(step) + 1e-9) + (abs(step * 10 ** -math.floor(math.log10(step)) - 2.5) < 1e-6)
    )

    def said(value: float, _: object) -> str:
        value = round(value, 9)
        return "0" if value == 0 else signed(value, places) if signed_ticks else number(value, places)

    axis.xaxis.set_major_formatter(FuncFormatter(said))


def _legend(figure: Figure, ablation: Ablation) -> None:
    dashed = Line2D([], [], color=MUTED, lw=1, ls=(0, (4, 3)), label="reference's global branch")
    keys = [
        *(
            Line2D([], [], color=colour, marker=shape, ms=size, lw=1.6, label=name)
            for name, (shape, size, colour, _) in MARKS.items()
        ),
        dashed,
    ]
    published = (
        branch.paper_against_reference for arm in ablation.arms if not arm.reference for branch in arm.branches
    )
    if any(math.isfinite(value) for value in published):
        keys.append(Line2D([], [], color=WARM, marker="x", ms=5, mew=1.6, ls="", label="in the paper"))
    figure.legend(
        handles=keys,
        loc="lower center",
        ncols=len(keys),
        frameon=False,
        labelcolor=INK,
        bbox_to_anchor=(0.5, 0.03 / figure.get_size_inches()[1]),
    )
    many = len(ablation.seeds) > 1
    height = figure.get_size_inches()[1]
    level = f"{100 * ablation.resampled.level:g} %"
    how = (
        f"{ablation.films:,} {ablation.split} films of {ablation.patients:,} patients; {level} intervals over patients"
    )
    how += f" and {len(ablation.seeds)} seeds (ticks)" if many else f", seed {ablation.seeds[0]}"
    figure.text(
        0.5,
        0.42 / height,
        f"{how}; left of 0: worse; hollow: the interval includes 0.",
        ha="center",
        color=MUTED,
        fontsize=8,
    )


# --- by size ----------------------------------------------------------------------------------------------------------


def _colours(controls: Sequence[str]) -> list[str]:
    return [(ACCENT, WARM, "#5b5ea6", "#4d7c3a")[i % 4] for i in range(len(controls))]


def _by_size(axis: Axes, results: Sequence[BinResult], controls: Sequence[str]) -> None:
    axis.set_facecolor(PAPER_WHITE)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.grid(axis="y", color=RULE, lw=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(length=0, colors=MUTED, labelsize=8)
    axis.axhline(0, color=MUTED, lw=1, zorder=1)
    ranges = sorted(
        dict.fromkeys((result.finding, result.low_cm, result.high_cm) for result in results), key=lambda at: at[2]
    )
    for i, (control, colour) in enumerate(zip(controls, _colours(controls), strict=True)):
        for result in results:
            gap = result.auroc_gap
            if result.control != control or not math.isfinite(gap.value):
                continue
            x = ranges.index((result.finding, result.low_cm, result.high_cm)) + 0.7 * ((i + 0.5) / len(controls) - 0.5)
            axis.plot([x, x], [gap.low, gap.high], color=colour, lw=1.6, solid_capstyle="round", zorder=2)
            face = colour if gap.clear else PAPER_WHITE
            axis.plot([x], [gap.value], "o", ms=5, mfc=face, mec=colour, mew=1.4, zorder=3)
    for at in range(len(ranges) - 1):
        axis.axvline(at + 0.5, color=RULE, lw=0.8, zorder=0)
    axis.set_xlim(-0.5, len(ranges) - 0.5)
    axis.set_xticks(range(len(ranges)), [f"{low:g}–{high:g}\n{finding}" for finding, low, high in ranges])
    axis.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if abs(value) < 1e-9 else signed(value, 2)))


def save(figure: Figure) -> dict[str, bytes]:
    """{"png": ..., "svg": ...}."""
    out = {}
    for kind, options in (("png", {"dpi": 160}), ("svg", {"metadata": {"Date": None}})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, **options)  # type: ignore[arg-type]
        out[kind] = buffer.getvalue()
    return out
