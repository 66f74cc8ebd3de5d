"""The figure of the group `budget`: every arm against the whole view of equal cost, and by diameter."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from agcxr.experiments.ablation import BudgetArm, BudgetStudy, SeedDifference
from agcxr.experiments.ablation_figure import ACCENT, INK, MUTED, PAPER_WHITE, RULE, STYLE, WARM, frame, save
from agcxr.experiments.budget import ORACLE
from agcxr.experiments.controls import LARGER, REFERENCE
from agcxr.table import number, signed

ROW = 0.3
"""Inches."""
BY_SIZE = {REFERENCE: ACCENT, ORACLE: WARM, "random": MUTED}
"""Arms shown by diameter, and their colours."""


def draw_budget(study: BudgetStudy) -> dict[str, bytes]:
    """{"png": ..., "svg": ...}: a row an arm, its cost and AUROCs, each minus that of the larger whole view; under
    them the small finding's by diameter."""
    rows = len(study.arms) * ROW
    height = rows + 1.15 + (2.6 if study.bins else 0)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, height), facecolor=PAPER_WHITE)
        FigureCanvasAgg(figure)
        top, bottom = 1 - 0.65 / height, 1 - (0.65 + rows) / height
        axes = [figure.add_axes((x, bottom, 0.27, top - bottom)) for x in (0.41, 0.71)]
        titles = (f"{study.finding}s", "All findings")
        for axis, title, field in zip(axes, titles, ("small_gap", "overall_gap"), strict=True):
            frame(axis, rows)
            axis.axvline(0, color=MUTED, lw=1, zorder=1)
            for i, arm in enumerate(study.arms):
                _gap(axis, arm, getattr(arm, field), (i + 0.5) * ROW)
            _signed(axis)
            axis.set_title(title, loc="left", color=INK, fontsize=9.5, weight="bold", pad=8)
        _labels(axes[0], study)
        figure.text(0.41, 1 - 0.2 / height, f"AUROC minus that of the {LARGER}", color=MUTED, fontsize=8.5)
        if study.bins:
            _by_size(figure.add_axes((0.075, 0.42 / height, 0.905, 1.75 / height)), study)
        return save(figure)


def _labels(axis: Axes, study: BudgetStudy) -> None:
    place = axis.get_yaxis_transform()
    columns = ((-1.5, "left"), (-0.62, "right"), (-0.36, "right"), (-0.06, "right"))
    heads = ("", "million\noperations", f"{study.finding}\nAUROC", "all\nfindings")
    for (x, side), head in zip(columns, heads, strict=True):
        axis.text(x, -0.09, head, transform=place, ha=side, va="bottom", color=MUTED, fontsize=8)
    for i, arm in enumerate(study.arms):
        weight = "bold" if arm.name == REFERENCE else "normal"
        cells = (arm.name, f"{arm.operations / 1e6:,.1f}", number(arm.small.value), number(arm.overall.value))
        for (x, side), cell in zip(columns, cells, strict=True):
            axis.text(x, (i + 0.5) * ROW, cell, transform=place, ha=side, va="center", color=INK, weight=weight)


def _gap(axis: Axes, arm: BudgetArm, gap: SeedDifference, at: float) -> None:
    colour = ACCENT if arm.name.startswith(REFERENCE) else WARM if arm.name == ORACLE else MUTED
    if arm.name == LARGER:
        axis.plot([0], [at], "o", ms=5, color=INK, zorder=3)
    elif math.isfinite(gap.value):
        if len(gap.per_seed) > 1:
            axis.plot(gap.per_seed, [at] * len(gap.per_seed), "|", color=colour, ms=6, mew=0.9, zorder=2)
        _point(axis, gap, (at, at), colour, upright=False)


def _point(axis: Axes, gap: SeedDifference, at: tuple[float, float], colour: str, *, upright: bool) -> None:
    """The value and its interval; hollow where that includes 0."""
    turn = 1 if upright else -1  # plot takes x before y
    if math.isfinite(gap.low):
        axis.plot(*(at, (gap.low, gap.high))[::turn], color=colour, lw=1.6, solid_capstyle="round", zorder=2)
    face = colour if gap.clear else PAPER_WHITE
    axis.plot(*((at[0],), (gap.value,))[::turn], "o", ms=5, mfc=face, mec=colour, mew=1.4, zorder=3)


def _signed(axis: Axes) -> None:
    axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if abs(value) < 1e-9 else signed(value, 2)))


def _by_size(axis: Axes, study: BudgetStudy) -> None:
    axis.set_facecolor(PAPER_WHITE)
    for side in axis.spines.values():
        side.set_visible(False)
    axis.grid(axis="y", color=RULE, lw=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(length=0, colors=MUTED, labelsize=8)
    axis.axhline(0, color=MUTED, lw=1, zorder=1)
    ranges = list(dict.fromkeys((one.low_cm, one.high_cm, one.films) for one in study.bins))
    shown = [name for name in BY_SIZE if any(one.arm == name for one in study.bins)]
    for i, name in enumerate(shown):
        for one in study.bins:
            if one.arm == name and math.isfinite(one.gap.value):
                x = ranges.index((one.low_cm, one.high_cm, one.films)) + 0.5 * ((i + 0.5) / len(shown) - 0.5)
                _point(axis, one.gap, (x, x), BY_SIZE[name], upright=True)
    axis.set_xlim(-0.5, len(ranges) - 0.5)
    axis.set_xticks(range(len(ranges)), [f"{low:g}–{high:g} cm, {films} films" for low, high, films in ranges])
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: "0" if abs(value) < 1e-9 else signed(value, 2)))
    axis.set_title(f"{study.finding}s by diameter", loc="left", color=INK, fontsize=9.5, weight="bold")
    _key(axis, shown)


def _key(axis: Axes, shown: Sequence[str]) -> None:
    for i, name in enumerate(shown):
        axis.text(0.42 + 0.13 * i, 1.04, f"● {name}", transform=axis.transAxes, color=BY_SIZE[name], fontsize=9)
    axis.text(1, 1.04, "hollow: includes 0", transform=axis.transAxes, color=MUTED, fontsize=8, ha="right")
