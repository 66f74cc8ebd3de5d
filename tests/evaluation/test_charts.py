"""Axes are round, lines are where they belong, gaps break them."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from agcxr.evaluation.charts import DIGIT, Axis, ForestRow, Line, axis_over, forest, grid, lines, standalone

SVG = "{http://www.w3.org/2000/svg}"


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.61, 0.79], (0.6, 0.7, 0.8)),
        ([0.2, 0.5], (0.2, 0.3, 0.4, 0.5)),
        ([-0.03, 0.21], (-0.1, 0.0, 0.1, 0.2, 0.3)),
        ([1.0, 9.0], (0.0, 5.0, 10.0)),
        ([0.7], (0.64, 0.66, 0.68, 0.7, 0.72, 0.74, 0.76)),
        ([math.nan], (0, 0.5, 1)),
    ],
)
def test_axes_are_round_and_hold_the_values(values: list[float], ticks: tuple[float, ...]) -> None:
    axis = axis_over(values)
    if values != [0.7]:
        assert axis.ticks == ticks
    assert (axis.low, axis.high) == (axis.ticks[0], axis.ticks[-1])
    assert all(axis.low <= v <= axis.high for v in values if math.isfinite(v))
    assert len(axis.ticks) <= 6


def test_ticks_are_written_short() -> None:
    axis = Axis(-1, 1, (), places=2)
    assert [axis.label(v) for v in (0, 0.25, -0.5, 1)] == ["0", ".25", "−.50", "1.00"]


@pytest.mark.parametrize("tick", [0.5, 0.8125, 12.125])
def test_labels_of_the_axis_are_not_cut(tick: float) -> None:
    axis = Axis(0, 20, (0, tick), places=len(str(tick).split(".")[1]))
    root = drawn(lines([Line([0, 1], [0, 1])], Axis(0, 1, (0, 1)), axis))
    (label,) = (text for text in root.iter("text") if text.text == axis.label(tick))
    assert label.get("text-anchor") == "end"
    assert float(label.attrib["x"]) >= DIGIT * (len(axis.label(tick)) - 1)  # a point is narrower than a digit


def test_a_line_goes_through_its_points_and_breaks_at_nan() -> None:
    unit = Axis(0, 1, (0, 1))
    root = drawn(lines([Line([0, 0.5, 0.75, 1], [0, math.nan, 0.5, 1])], unit, unit, width=140, height=128))
    (path,) = (each for each in root.iter("path") if "line" in each.attrib["class"].split())
    steps = re.findall(r"([ML])([\d.]+) ([\d.]+)", path.attrib["d"])
    assert [pen for pen, *_ in steps] == ["M", "M", "L"]
    (x0, y0), (x1, y1), (x2, y2) = ((float(x), float(y)) for _, x, y in steps)
    assert (x1 - x0) / (x2 - x0) == pytest.approx(0.75, abs=0.01)
    assert (y0 - y1) / (y0 - y2) == pytest.approx(0.5, abs=0.01)  # data grow upwards, pixels downwards


def test_points_that_make_no_curve_are_dots() -> None:
    axis = axis_over([0, 1])
    dots = lines([Line([0.2, 0.5, math.nan], [0.4, 0.1, 0.3], joined=False)], axis, axis)
    assert dots.count("<circle") == 2
    assert "<path" not in dots
    barred = lines([Line([0.2, 0.5], [0.4, 0.1], spread=((0.3, 0.6), (0.0, 0.2)), joined=False)], axis, axis)
    assert (barred.count("<circle"), barred.count('class="bar accent"')) == (2, 2)


def test_single_points_get_a_dot_and_empty_lines_none() -> None:
    unit = Axis(0, 1, (0, 1))
    assert "<circle" in lines([Line([0.5], [0.5])], unit, unit)
    assert "<circle" not in lines([Line([0.5], [math.nan])], unit, unit)


def test_forest_marks_what_leaves_out_zero() -> None:
    rows = [
        ForestRow("A & B", 0.1, 0.05, 0.15, "+.100"),
        ForestRow("C", 0.1, -0.05, 0.25, "+.100"),
        ForestRow("D", math.nan, math.nan, math.nan, "–"),
    ]
    svg = forest(rows, low_side="a", high_side="b", name="x")
    assert svg.count('class="dot accent"') == 1
    assert svg.count('class="hollow muted"') == 1
    assert "A &amp; B" in svg
    assert "nan" not in svg


def test_files_stand_alone() -> None:
    unit = Axis(0, 1, (0, 1))
    chart = lines([Line([0, 1], [0, 1])], unit, unit, width=100, height=80, name="a chart")
    text = standalone(grid([chart] * 3, ["a", "b", "c"], 2, (100, 80), ["", "", "1 is best"]))
    root = ElementTree.fromstring(text)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    cells = [(float(svg.attrib["x"]), float(svg.attrib["y"])) for svg in root.iter(f"{SVG}svg") if svg is not root]
    assert len(set(cells)) == len({x for x, _ in cells}) + 1 == 3  # two columns, and one in the second row
    assert all(x + 100 <= width and y + 80 <= height for x, y in cells)
    (note,) = (each for each in root.iter(f"{SVG}text") if each.text == "1 is best")
    assert note.get("text-anchor") == "end"
    assert float(note.attrib["x"]) <= 100
    assert "prefers-color-scheme:dark" in text
