"""Small SVG charts as strings, without a plotting library: they follow the page's light or dark colours.

Lines and texts have classes (`accent`, `ink`, `muted`) that the page's style sheet colours; `standalone` adds
a style of its own, for files. Data coordinates grow upwards; NaN breaks a line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

Role = Literal["accent", "ink", "muted"]
DIGIT = 7.2
"""Width of a digit in the charts' 11 px, in the widest of their fonts; a point and a sign are narrower or as wide."""

STYLE = """
svg{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;font-size:11px}
.line{fill:none;stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}
.line.accent{stroke:var(--accent);stroke-width:2}.line.ink{stroke:var(--ink)}.line.muted{stroke:var(--muted)}
.bar{stroke-width:1.2;opacity:.55}.bar.accent{stroke:var(--accent)}.bar.ink{stroke:var(--ink)}.bar.muted{stroke:var(--muted)}
.dash{stroke-dasharray:4 3}.grid{stroke:var(--rule);stroke-width:1}.zero{stroke:var(--muted);stroke-width:1}
.dot.accent{fill:var(--accent)}.dot.ink{fill:var(--ink)}.dot.muted{fill:var(--muted)}
.hollow{fill:var(--paper);stroke-width:1.6}.hollow.accent{stroke:var(--accent)}.hollow.muted{stroke:var(--muted)}
text{fill:var(--ink);font-variant-numeric:tabular-nums}text.soft{fill:var(--muted)}text.strong{font-weight:600}
.band{fill:var(--accent);opacity:.08}
"""
COLOURS = """
:root{--paper:#ffffff;--ink:#1b1f24;--muted:#6b7480;--rule:#e3e6ea;--accent:#0a6c8f}
@media(prefers-color-scheme:dark){:root{--paper:#14171b;--ink:#e6e9ed;--muted:#949daa;--rule:#2c323a;--accent:#56b9dc}}
"""


@dataclass(frozen=True)
class Line:
    """A series of points in data coordinates."""

    x: Sequence[float]
    y: Sequence[float]
    role: Role = "accent"
    dashed: bool = False
    mark: int | None = None
    """Index of a point to mark with a dot."""
    spread: Sequence[tuple[float, float]] = ()
    """(low, high) of every point: drawn as a bar through a dot, as far as the axis goes."""
    joined: bool = True
    """Else dots alone: what goes up and down by chance is no curve."""


@dataclass(frozen=True)
class Axis:
    """A range and where it is labelled."""

    low: float
    high: float
    ticks: tuple[float, ...]
    places: int = 1
    title: str = ""

    def label(self, value: float) -> str:
        """A tick's text, without a leading zero."""
        if value == 0:
            return "0"
        text = f"{value:.{self.places}f}"
        return (text.replace("0.", ".", 1) if abs(value) < 1 else text).replace("-", "−")


def axis_over(values: Sequence[float], *, places: int = 2, title: str = "", include: Sequence[float] = ()) -> Axis:
    """An axis with three or four round ticks that holds the values; 0 to 1 where there are none."""
    real = [float(v) for v in (*values, *include) if math.isfinite(v)]
    if not real:
        return Axis(0, 1, (0, 0.5, 1), places, title)
    low, high = min(real), max(real)
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    rough = (high - low) / 3
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) + (abs(step / power - 2.5) < 1e-9)
    ticks = tuple(round(i * step, 10) for i in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks, digits, title)


def lines(
    series: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    width: int = 220,
    height: int = 150,
    diagonal: bool = False,
    name: str = "",
) -> str:
    """A line chart with hairline grid. `name` is read out by screen readers."""
    left = max(32, 10 + math.ceil(DIGIT * max(len(y.label(tick)) for tick in y.ticks)))
    right, top, bottom = 8, 8, 32 if x.title else 20
    plot_w, plot_h = width - left - right, height - top - bottom

    def at(vx: float, vy: float) -> tuple[float, float]:
        return (
            left + (vx - x.low) / (x.high - x.low) * plot_w,
            top + (y.high - vy) / (y.high - y.low) * plot_h,
        )

    parts = []
    for tick in y.ticks:
        _, py = at(x.low, tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - right}" y1="{py:.1f}" y2="{py:.1f}"/>')
        parts.append(f'<text class="soft" x="{left - 5}" y="{py + 3.5:.1f}" text-anchor="end">{y.label(tick)}</text>')
    for i, tick in enumerate(x.ticks):
        px, _ = at(tick, y.low)
        anchor = "end" if i == len(x.ticks) - 1 and len(x.ticks) > 1 else "middle"
        parts.append(
            f'<text class="soft" x="{px:.1f}" y="{top + plot_h + 13}" text-anchor="{anchor}">{x.label(tick)}</text>'
        )
    if x.title:
        place = f'x="{left + plot_w / 2:.1f}" y="{height - 4}" text-anchor="middle"'
        parts.append(f'<text class="soft" {place}>{escape(x.title)}</text>')
    if diagonal:
        (x0, y0), (x1, y1) = at(x.low, y.low), at(x.high, y.high)
        parts.append(f'<line class="grid" x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"/>')
    for line in series:
        parts += [*_spread(line, y, at), _line(line, at) if line.joined else _dots(line, at)]
    return _svg(width, height, parts, name)


def _spread(line: Line, y: Axis, at) -> list[str]:  # type: ignore[no-untyped-def]
    parts = []
    for vx, vy, (low, high) in zip(line.x, line.y, line.spread, strict=True) if line.spread else ():
        (px, top), (_, bottom), (_, middle) = at(vx, min(high, y.high)), at(vx, max(low, y.low)), at(vx, vy)
        parts.append(f'<line class="bar {line.role}" x1="{px:.1f}" x2="{px:.1f}" y1="{top:.1f}" y2="{bottom:.1f}"/>')
        if line.joined:
            parts.append(f'<circle class="dot {line.role}" cx="{px:.1f}" cy="{middle:.1f}" r="2.4"/>')
    return parts


def _dots(line: Line, at) -> str:  # type: ignore[no-untyped-def]
    places = [at(vx, vy) for vx, vy in zip(line.x, line.y, strict=True) if math.isfinite(vx) and math.isfinite(vy)]
    return "".join(f'<circle class="dot {line.role}" cx="{px:.1f}" cy="{py:.1f}" r="2.4"/>' for px, py in places)


def _line(line: Line, at) -> str:  # type: ignore[no-untyped-def]
    steps, pen = [], "M"
    for vx, vy in zip(line.x, line.y, strict=True):
        if not (math.isfinite(vx) and math.isfinite(vy)):
            pen = "M"
            continue
        px, py = at(vx, vy)
        steps.append(f"{pen}{px:.1f} {py:.1f}")
        pen = "L"
    dash = " dash" if line.dashed else ""
    out = f'<path class="line {line.role}{dash}" d="{"".join(steps)}"/>'
    if len(steps) == 1 or line.mark is not None:
        i = line.mark if line.mark is not None else next(i for i, v in enumerate(line.y) if math.isfinite(v))
        if math.isfinite(line.y[i]):
            px, py = at(line.x[i], line.y[i])
            out += f'<circle class="dot {line.role}" cx="{px:.1f}" cy="{py:.1f}" r="3"/>'
    return out


@dataclass(frozen=True)
class ForestRow:
    """A difference with its interval; `clear` where the interval leaves out 0."""

    name: str
    value: float
    low: float
    high: float
    text: str
    strong: bool = False

    @property
    def clear(self) -> bool:
        return self.low > 0 or self.high < 0


def forest(rows: Sequence[ForestRow], *, low_side: str, high_side: str, name: str, width: int = 440) -> str:
    """Differences as dots on their intervals around a line at 0; solid where the interval leaves out 0."""
    left, right, top, step = 112, 100, 26, 22
    extent = [v for row in rows for v in (row.low, row.high, row.value) if math.isfinite(v)]
    axis = axis_over(extent, include=(0.0,))
    plot = width - left - right
    height = top + step * len(rows) + 30

    def px(value: float) -> float:
        return left + (value - axis.low) / (axis.high - axis.low) * plot

    foot = top + step * len(rows)
    parts = [
        f'<text class="soft" x="{px(0) - 6:.1f}" y="14" text-anchor="end">← {escape(low_side)}</text>',
        f'<text class="soft" x="{px(0) + 6:.1f}" y="14">{escape(high_side)} →</text>',
    ]
    for tick in axis.ticks:
        style = "zero" if tick == 0 else "grid"
        parts.append(f'<line class="{style}" x1="{px(tick):.1f}" x2="{px(tick):.1f}" y1="{top - 4}" y2="{foot}"/>')
        text = f"{'+' if tick > 0 else ''}{axis.label(tick)}"
        parts.append(f'<text class="soft" x="{px(tick):.1f}" y="{foot + 16}" text-anchor="middle">{text}</text>')
    for i, row in enumerate(rows):
        parts += _forest_row(row, top + step * (i + 0.5), px, width)
    return _svg(width, height, parts, name)


def _forest_row(row: ForestRow, y: float, px, width: int) -> list[str]:  # type: ignore[no-untyped-def]
    weight = " strong" if row.strong else ""
    parts = [f'<text class="{weight.strip()}" x="0" y="{y + 4:.1f}">{escape(row.name)}</text>']
    if math.isfinite(row.value):
        role = "accent" if row.clear else "muted"
        if math.isfinite(row.low):
            parts.append(
                f'<line class="line {role}" x1="{px(row.low):.1f}" x2="{px(row.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
        dot = f"dot {role}" if row.clear else f"hollow {role}"
        parts.append(f'<circle class="{dot}" cx="{px(row.value):.1f}" cy="{y:.1f}" r="{4.5 if row.strong else 3.6}"/>')
    soft = "" if row.clear else "soft"
    parts.append(
        f'<text class="{soft}{weight}" x="{width}" y="{y + 4:.1f}" text-anchor="end">{escape(row.text)}</text>'
    )
    return parts


@dataclass(frozen=True)
class RangeRow:
    """A value with its interval; NaN is said by `text` alone."""

    name: str
    value: float
    low: float
    high: float
    text: str
    role: Role = "accent"


def ranges(rows: Sequence[RangeRow], *, reference: float, name: str, width: int = 440) -> str:
    """Values as dots on their intervals, one below the other, around a dashed line at `reference` (NaN: none)."""
    left, right, top, step = 122, 62, 8, 24
    extent = [v for row in rows for v in (row.low, row.high, row.value) if math.isfinite(v)]
    axis = axis_over(extent, include=(reference,))
    plot, foot = width - left - right, top + step * len(rows)

    def px(value: float) -> float:
        return left + (value - axis.low) / (axis.high - axis.low) * plot

    parts = []
    for tick in axis.ticks:
        x = f"{px(tick):.1f}"
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{top}" y2="{foot}"/>')
        parts.append(f'<text class="soft" x="{x}" y="{foot + 16}" text-anchor="middle">{axis.label(tick)}</text>')
    if math.isfinite(reference):
        x = f"{px(reference):.1f}"
        parts.append(f'<line class="zero dash" x1="{x}" x2="{x}" y1="{top}" y2="{foot}"/>')
    for i, row in enumerate(rows):
        y, strong = top + step * (i + 0.5), ' class="strong"' if row.role == "ink" else ""
        parts.append(f'<text{strong} x="0" y="{y + 4:.1f}">{escape(row.name)}</text>')
        parts.append(f'<text{strong} x="{width - 16}" y="{y + 4:.1f}" text-anchor="end">{escape(row.text)}</text>')
        if math.isfinite(row.value):
            ends = f'x1="{px(row.low):.1f}" x2="{px(row.high):.1f}"' if math.isfinite(row.low) else ""
            parts += [f'<line class="line {row.role}" {ends} y1="{y:.1f}" y2="{y:.1f}"/>'] if ends else []
            parts.append(f'<circle class="dot {row.role}" cx="{px(row.value):.1f}" cy="{y:.1f}" r="4"/>')
    return _svg(width, foot + 24, parts, name)


def grid(
    charts: Sequence[str], titles: Sequence[str], columns: int, cell: tuple[int, int], notes: Sequence[str] = ()
) -> str:
    """Several charts of one size as one, each under its title, with a softer note at the other end of the line."""
    width, height = cell
    rows = math.ceil(len(charts) / columns)
    parts = []
    for i, (chart, title, note) in enumerate(zip(charts, titles, notes or [""] * len(charts), strict=True)):
        x, y = (i % columns) * (width + 16), (i // columns) * (height + 30)
        parts.append(f'<text class="strong" x="{x + 4}" y="{y + 14}">{escape(title)}</text>')
        if note:
            end = f'x="{x + width - 8}" y="{y + 14}" text-anchor="end"'
            parts.append(f'<text class="soft" {end}>{escape(note)}</text>')
        parts.append(chart.replace("<svg ", f'<svg x="{x}" y="{y + 20}" width="{width}" height="{height}" ', 1))
    return _svg(columns * (width + 16) - 16, rows * (height + 30), parts, "")


def standalone(svg: str) -> str:
    """A chart as a file: with its own colours for light and dark, and the name space."""
    head = '<svg xmlns="http://www.w3.org/2000/svg" style="background:var(--paper)" '
    return svg.replace("<svg ", head, 1).replace(">", f"><style>{COLOURS}{STYLE}</style>", 1) + "\n"


def _svg(width: float, height: float, parts: Sequence[str], name: str) -> str:
    label = f'role="img" aria-label="{escape(name)}"' if name else 'aria-hidden="true"'
    return f'<svg viewBox="0 0 {width:g} {height:g}" {label}>{"".join(parts)}</svg>'
