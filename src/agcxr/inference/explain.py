"""A Prediction as a picture: the film with its box, the attention on it, the crop, and the findings beneath; what was
doubtful about the film above them, and which model said it, how and when at the foot.

Drawn with Pillow at fixed pixel positions (no global state, so it may run in threads); the heat uses the perceptually
uniform map "inferno" (see overlay.py).

Shapes: H, W height and width; 3 the RGB channels. Pictures are uint8; heat is float in [0, 1].
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from agcxr.calibration import Point
from agcxr.inference.identity import NAME
from agcxr.inference.lettering import Colour, font, short_name, shorten
from agcxr.inference.lettering import fitting as _fitting
from agcxr.inference.lettering import lines_of as _lines
from agcxr.inference.lettering import text_at as _text
from agcxr.inference.lettering import width_of as _width_of
from agcxr.inference.overlay import (
    ACCENT,
    LETTERED,
    WARNING,
    box_words,
    colours,
    draw_box,
    draw_boxes,
    heaviest_first,
    overlay,
)
from agcxr.inference.prediction import Box, Bytes, Prediction
from agcxr.notices import RESEARCH_ONLY

BACKGROUND: Colour = (11, 13, 16)
PANEL: Colour = (0, 0, 0)
TRACK: Colour = (34, 38, 44)
TEXT: Colour = (232, 234, 237)
MUTED: Colour = (140, 147, 157)

WIDTH = 1600
MARGIN = 44
GAP = 22
HEADER = 92
ROW = 33
"""Of the facts beneath the film."""
FINDING = 26
"""Of the findings."""
MOST_ROWS = 30
"""Findings that a picture lists, those of highest rank, and all that are called; tables and answers hold the rest."""
DOUBT = 25
"""Of a line of a warning."""
POINT_WORDS: dict[Point, str] = {
    "youden": "Youden's point",
    "sensitivity95": "95 % sensitivity",
    "specificity95": "95 % specificity",
}


def picture(
    prediction: Prediction,
    film_HW: Bytes | None = None,
    *,
    time: datetime | None = None,
    truth: Collection[str] | None = None,
) -> Image.Image:
    """The figure of the method, 1600 pixels wide: original with box | attention | crop, and all findings, called ones
    first. Warnings about the film stand above it; the model, its operating point and the time at the foot. Of several
    boxes each has its number and its weight, and the heaviest are shown as crops.

    Of a refused film: the film and the reasons, and nothing that the model says of it.

    Args:
        prediction: of any engine.
        film_HW: uint8 pixels of the film at any scale; default: those the prediction kept.
        time: when it is drawn, with its zone where known; None leaves it out.
        truth: the findings that the film's labels state, marked in the table; None: the labels are not known.

    Raises:
        ValueError: neither `film_HW` nor `prediction.film_HW` holds the film.
    """
    film = prediction.film_HW if film_HW is None else film_HW
    if film is None:
        raise ValueError(
            f"the prediction of {prediction.name} kept no film; pass film_HW=radiograph.to_uint8(), "
            "or predict with keep_film=1024"
        )
    doubts = _doubts(prediction)
    layout = _layout(prediction, len(doubts))
    if prediction.refused:
        layout = replace(layout, height=layout.caption_y + 74)
    canvas = Image.new("RGB", (WIDTH, layout.height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    _header(draw, prediction)
    if prediction.refused:
        _refusal(canvas, draw, prediction, film, layout)
    else:
        _warning(draw, doubts)
        _panels(canvas, draw, prediction, film, layout)
        _facts(draw, prediction, layout)
        _findings(draw, prediction, layout, truth)
    _text(draw, (MARGIN, layout.height - 34), RESEARCH_ONLY, 15, MUTED)
    _text(draw, (WIDTH - MARGIN, layout.height - 34), " · ".join(_source(prediction, time)), 15, MUTED, anchor="rs")
    return canvas


def to_png(
    prediction: Prediction,
    film_HW: Bytes | None = None,
    *,
    time: datetime | None = None,
    truth: Collection[str] | None = None,
) -> bytes:
    """`picture` as a PNG file, whose metadata say the same: for research only, the model, the time, the warnings."""
    time = time or datetime.now().astimezone()
    texts = {
        "Title": "Attention-guided reading of a chest radiograph",
        "Description": RESEARCH_ONLY,
        "Software": f"{NAME} {version(NAME)}",
        "Creation Time": time.isoformat(timespec="seconds"),
        "Model": prediction.model,
        "Operating point": _point(prediction),
        "Warning": "" if prediction.intake is None else "; ".join(prediction.intake.reasons),
    }
    info, out = PngInfo(), io.BytesIO()
    for name, text in texts.items():
        if text:
            info.add_itxt(name, text)
    # Level 4 is three times as quick as the default and a few per cent larger.
    picture(prediction, film_HW, time=time, truth=truth).save(out, format="PNG", pnginfo=info, compress_level=4)
    return out.getvalue()


def save_picture(
    prediction: Prediction,
    path: str | os.PathLike[str],
    film_HW: Bytes | None = None,
    *,
    truth: Collection[str] | None = None,
) -> Path:
    """Write `to_png` into a file. Returns the path."""
    data = to_png(prediction, film_HW, truth=truth)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return target


@dataclass(frozen=True)
class _Layout:
    """Pixel positions on the canvas."""

    film: tuple[int, int, int, int]
    heat: tuple[int, int, int, int]
    crop: tuple[int, int, int, int]
    caption_y: int
    table_y: int
    height: int


def _layout(prediction: Prediction, doubts: int) -> _Layout:
    """Three panels of one height that fill the width. Very tall or wide films are letterboxed in a moderate cell.

    doubts: lines of warnings above them.
    """
    aspect = float(np.clip(prediction.width / prediction.height, 0.72, 1.45))
    side = round((WIDTH - 2 * MARGIN - 2 * GAP) / (2 * aspect + 1))
    wide = (WIDTH - 2 * MARGIN - 2 * GAP - side) // 2
    left, top = MARGIN, HEADER + (doubts * DOUBT + 32 if doubts else 0)
    heat_x, crop_x = left + wide + GAP, left + 2 * (wide + GAP)
    caption_y = top + side + 30
    table_y = caption_y + 84
    return _Layout(
        film=(left, top, wide, side),
        heat=(heat_x, top, wide, side),
        crop=(crop_x, top, side, side),
        caption_y=caption_y,
        table_y=table_y,
        height=table_y
        + 32
        + max(
            (len(_rows(prediction)) + bool(_left_out(prediction))) * FINDING + 8,
            max(5, min(len(prediction.boxes), LETTERED)) * ROW,
        )
        + 52,
    )


def _header(draw: ImageDraw.ImageDraw, prediction: Prediction) -> None:
    _text(draw, (MARGIN, 54), short_name(prediction.name), 27, TEXT)
    size = f"{prediction.width} x {prediction.height} px"
    facts = " · ".join((size, *prediction.notes))
    _text(draw, (WIDTH - MARGIN, 54), shorten(facts, 80), 18, MUTED, anchor="rs")


def _doubts(prediction: Prediction) -> list[str]:
    """Lines of what is doubtful about a film that was read all the same."""
    if prediction.intake is None or prediction.refused:
        return []
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    reasons = (f"Warning: {reason}" for reason in prediction.intake.reasons)
    return [line for reason in reasons for line in _lines(draw, reason, 19, WIDTH - 2 * MARGIN - 24)]


def _warning(draw: ImageDraw.ImageDraw, doubts: list[str]) -> None:
    """Above the panels, marked as a refusal is."""
    if not doubts:
        return
    draw.rectangle((MARGIN, HEADER - 8, MARGIN + 4, HEADER + len(doubts) * DOUBT), fill=WARNING)
    for i, line in enumerate(doubts):
        _text(draw, (MARGIN + 24, HEADER + 14 + i * DOUBT), line, 19, WARNING)


def _source(prediction: Prediction, time: datetime | None) -> list[str]:
    """Who says it, how and when; as far as that is known."""
    parts = [f"Model: {NAME} {prediction.model}"] if prediction.model else []
    if not prediction.refused:
        parts.append(f"Operating point: {_point(prediction)}")
    if time is not None:
        zone = time.strftime("%z")
        parts.append(f"{time:%Y-%m-%d %H:%M}" + (f" UTC{zone[:3]}:{zone[3:5]}" if zone else ""))
    return parts


def _point(prediction: Prediction) -> str:
    """The operating point in use, in words."""
    cut = prediction.cut
    return "none, so nothing is called" if cut is None or bool(np.isnan(cut.score_K).all()) else POINT_WORDS[cut.point]


def _refusal(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, prediction: Prediction, film: Bytes, layout: _Layout
) -> None:
    """The plain film, and the reasons beside it."""
    x, y, wide, high = layout.film
    draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=PANEL)
    scale = min(wide / prediction.width, high / prediction.height)
    width, height = max(round(prediction.width * scale), 1), max(round(prediction.height * scale), 1)
    shown = Image.fromarray(_fit(film, width, height)).convert("RGB")
    canvas.paste(shown, (x + (wide - width) // 2, y + (high - height) // 2))
    _text(draw, (x, layout.caption_y), "Film", 18, TEXT)
    left = layout.heat[0]
    draw.rectangle((left, y, left + 5, y + high - 1), fill=WARNING)
    _text(draw, (left + 34, y + 46), "Refused", 44, WARNING)
    base = y + 104
    reasons = () if prediction.intake is None else prediction.intake.reasons
    for words, ink in (*((one, TEXT) for one in reasons), ("No findings, box or attention are shown.", MUTED)):
        for line in _lines(draw, f"{words[:1].upper()}{words[1:]}", 25, WIDTH - MARGIN - left - 34):
            _text(draw, (left + 34, base), line, 25, ink)
            base += 35
        base += 17


def _panels(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, prediction: Prediction, film: Bytes, layout: _Layout
) -> None:
    for cell in (layout.film, layout.heat, layout.crop):
        draw.rectangle((cell[0], cell[1], cell[0] + cell[2] - 1, cell[1] + cell[3] - 1), fill=PANEL)
    scale = min(layout.film[2] / prediction.width, layout.film[3] / prediction.height)
    width, height = max(round(prediction.width * scale), 1), max(round(prediction.height * scale), 1)
    shown = _fit(film, width, height)
    warm = overlay(shown, prediction.heat_in_original(height, width))
    view, *boxes = (_scaled(edges, scale, scale) for edges in (prediction.window, *prediction.boxes))
    line = 1 if prediction.fallback else 3
    for cell, image in ((layout.film, shown), (layout.heat, warm)):
        boxed = draw_boxes(draw_box(image, view, TEXT, 1), boxes, prediction.weights, line)
        canvas.paste(Image.fromarray(boxed), (cell[0] + (cell[2] - width) // 2, cell[1] + (cell[3] - height) // 2))
    x, y, side, _ = layout.crop
    if len(boxes) > 1:
        _crops(canvas, draw, prediction, film, layout)
    else:
        crop = _outlined(prediction.crop_HW, prediction.box, side, line)
        canvas.paste(Image.fromarray(crop), (x + (side - crop.shape[1]) // 2, y + (side - crop.shape[0]) // 2))
    _captions(canvas, draw, prediction, layout)


def _scaled(box: Box, across: float, down: float) -> Box:
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


def _outlined(crop: Bytes, box: Box, side: int, line: int) -> Bytes:
    """A crop in the shape of its box, as large as goes into a square of `side`."""
    across, down = box[2] - box[0], box[3] - box[1]
    wide, high = (max(round(side * edge / max(across, down)), 1) for edge in (across, down))
    return draw_box(_fit(crop, wide, high), (0, 0, wide, high), ACCENT, line)


def _crops(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, prediction: Prediction, film: Bytes, layout: _Layout
) -> None:
    """The heaviest boxes side by side in rows, cut from the film, as a prediction keeps no more than the first crop."""
    x, y, side, _ = layout.crop
    order = heaviest_first(prediction.weights)[:LETTERED]
    columns = int(np.ceil(np.sqrt(len(order))))
    cell = (side - (columns - 1) * GAP // 2) // columns
    rows, label = -(-len(order) // columns), 24
    top = y + (side - rows * cell - (rows - 1) * GAP // 2) // 2
    height, width = film.shape
    for i, n in enumerate(order):
        left, upper = x + i % columns * (cell + GAP // 2), top + i // columns * (cell + GAP // 2)
        x0, y0, x1, y1 = map(round, _scaled(prediction.boxes[n], width / prediction.width, height / prediction.height))
        x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
        crop = _outlined(film[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)], prediction.boxes[n], cell - label, 2)
        place = left + (cell - crop.shape[1]) // 2, upper + label + (cell - label - crop.shape[0]) // 2
        canvas.paste(Image.fromarray(crop), place)
        _text(draw, (place[0], place[1] - 7), box_words(n, prediction.weights[n]), 15, ACCENT)


def _captions(canvas: Image.Image, draw: ImageDraw.ImageDraw, prediction: Prediction, layout: _Layout) -> None:
    _text(draw, (layout.film[0], layout.caption_y), "Film", 18, TEXT)
    _text(draw, (layout.heat[0], layout.caption_y), "Attention, global branch", 18, TEXT)
    several = len(prediction.boxes) > 1
    _text(draw, (layout.crop[0], layout.caption_y), f"Crop{'s' * several}, local branch", 18, TEXT)
    height, width = prediction.crop_HW.shape
    notes = {
        layout.film: "thin outline: the view, all that the model sees",
        layout.heat: "boxes: in the order taken, with their weights in the local branch"
        if several
        else "box: the largest region over tau, not always the brightest spot",
        layout.crop: f"cut from the film; the branch sees each stretched to {width} x {height} px"
        if several
        else f"shown in its own shape; the branch sees it stretched to {width} x {height} px",
    }
    for (x, *_), words in notes.items():
        _text(draw, (x, layout.caption_y + 23), words, 15, MUTED)
    right, steps = layout.heat[0] + layout.heat[2], 84
    ramp = np.broadcast_to(colours()[np.linspace(40, 255, steps).astype(int)], (8, steps, 3))
    _text(draw, (right, layout.caption_y), "high", 15, MUTED, anchor="rs")
    canvas.paste(Image.fromarray(np.ascontiguousarray(ramp)), (right - 42 - steps, layout.caption_y - 10))
    _text(draw, (right - 50 - steps, layout.caption_y), "low", 15, MUTED, anchor="rs")


def _facts(draw: ImageDraw.ImageDraw, prediction: Prediction, layout: _Layout) -> None:
    """Under the film, on the lines of the table: where the box is, in the film's pixels, or why there is none; or where
    the heaviest of several are."""
    x0, y0, x1, y1 = prediction.box
    several = len(prediction.boxes)
    title, ink = "Attended region", ACCENT
    if several > 1:
        most = f", the {LETTERED} heaviest of {several}" if several > LETTERED else ""
        title = f"Attended regions{most}, in pixels of the film"
    elif prediction.fallback:
        title, ink = "No region stood out: the whole view was used", WARNING
    share = (x1 - x0) * (y1 - y0) / (prediction.width * prediction.height)
    rows: Sequence[tuple[str, str]] = (
        ("Left to right", f"{x0:.0f} to {x1:.0f} px"),
        ("Top to bottom", f"{y0:.0f} to {y1:.0f} px"),
        ("Size", f"{x1 - x0:.0f} x {y1 - y0:.0f} px"),
        ("Share of the film", f"{share:.1%}"),
    )
    if several > 1:
        rows = [
            (box_words(n, prediction.weights[n]), _edges(prediction.boxes[n]))
            for n in heaviest_first(prediction.weights)[:LETTERED]
        ]
    _text(draw, (MARGIN, layout.table_y), title, 15, ink)
    for i, (name, value) in enumerate(rows):
        y = layout.table_y + 32 + i * ROW
        _text(draw, (MARGIN, y), name, 18, MUTED)
        _text(draw, (MARGIN + (100 if several > 1 else 190), y), value, 18, TEXT)


def _edges(box: Box) -> str:
    x0, y0, x1, y1 = box
    return f"{x0:.0f} to {x1:.0f} across, {y0:.0f} to {y1:.0f} down"


@dataclass(frozen=True)
class _Row:
    """A finding in the table: its bar, and whether it is called."""

    finding: str
    bar: float
    threshold: float
    """On the scale of the bar; NaN for none."""
    called: bool | None
    fitted: bool
    """Whether the bar is a calibrated probability, where there are such."""


def _rows(prediction: Prediction) -> list[_Row]:
    """The first MOST_ROWS findings and all called ones: these first, then those calibrated, each by probability; "none
    of them" last."""
    shown = prediction.fusion_K if prediction.calibrated_K is None else prediction.calibrated_K
    cut = prediction.cut
    thresholds = [np.nan] * len(shown) if cut is None else cut.probability_K.tolist()
    fitted = [True] * len(shown) if cut is None else cut.fitted_K.tolist()
    rows = [
        _Row(*row)
        for row in zip(prediction.labels, shown.tolist(), thresholds, prediction.calls(), fitted, strict=True)
    ]
    places = prediction.ranked()
    none = [k for k in places if prediction.labels[k] == prediction.findings.none]
    most = max(MOST_ROWS, sum(map(bool, prediction.calls())))
    return [rows[k] for k in (*[k for k in places if k not in none][:most], *none)]


def _words(finding: str) -> str:
    """A label as people write it."""
    return finding.replace("_", " ")


def _left_out(prediction: Prediction) -> str:
    """How many findings have no row; none of them is called."""
    left = len(prediction.labels) - len(_rows(prediction))
    return f"and {left} more, none of them called; the table and the API hold all" if left else ""


def _findings(
    draw: ImageDraw.ImageDraw, prediction: Prediction, layout: _Layout, truth: Collection[str] | None
) -> None:
    """A row a finding: its probability as a bar with the threshold on it, the scores of the three branches, and a dot
    before those of the labels, where they are known."""
    cut = prediction.cut
    calibrated = prediction.shows_calibrated
    judged = cut is not None and not bool(np.isnan(cut.score_K).all())
    none, rows = prediction.findings.none, _rows(prediction)
    name_x = layout.heat[0]
    longest = max(_width_of(draw, _words(row.finding), 18) for row in rows)
    bar_x = name_x + min(max(longest + 14, 200), 320)
    branches = {"Fusion": WIDTH - MARGIN - 180, "Global": WIDTH - MARGIN - 90, "Local": WIDTH - MARGIN}
    value_x = branches["Fusion"] - 96 if calibrated else branches["Fusion"]
    bar_end, head_y = value_x - 76, layout.table_y
    title = "Calibrated probability" if calibrated else "Probability, uncalibrated"
    if cut is not None and judged:
        title += f"; | threshold: {POINT_WORDS[cut.point]}"
    _text(draw, (name_x, head_y), title, 15, MUTED)
    if truth is not None:
        dot_x = name_x + round(draw.textlength(title, font=font(15))) + 26
        _dot(draw, dot_x, head_y)
        _text(draw, (dot_x + 12, head_y), "in the film's labels", 15, MUTED)
    if calibrated:
        _text(draw, (value_x, head_y), "Probability", 15, ACCENT, anchor="rs")
    for name, x in branches.items():
        _text(draw, (x, head_y), name, 15, ACCENT if name == "Fusion" and not calibrated else MUTED, anchor="rs")
    for i, row in enumerate(rows):
        base = head_y + 30 + i * FINDING + (8 if row.finding == none else 0)
        quiet = row.finding == none or (judged and not row.called)
        ink, fill = (MUTED, MUTED) if quiet else (TEXT, ACCENT)
        _text(draw, (name_x, base), _fitting(draw, _words(row.finding), 18, bar_x - name_x - 14), 18, ink)
        if truth is not None and row.finding in truth:
            _dot(draw, name_x - 13, base)
        _bar(draw, (bar_x, bar_end, base), row, fill)
        if calibrated:
            # "raw": too rare in validation to be calibrated, so the bar is the fusion's score.
            _text(draw, (value_x, base), f"{row.bar:.2f}" if row.fitted else "raw", 18, ink, anchor="rs")
        for name, x in branches.items():
            value = prediction.probability(row.finding, name.lower())  # type: ignore[arg-type]
            first = name == "Fusion" and not calibrated
            _text(draw, (x, base), f"{value:.2f}", 18, ink if first else MUTED, anchor="rs")
    _text(draw, (name_x, head_y + 38 + len(rows) * FINDING), _left_out(prediction), 15, MUTED)


def _dot(draw: ImageDraw.ImageDraw, x: int, base: int) -> None:
    """Of a finding that the labels state, around x on the line `base`."""
    draw.ellipse((x - 4, base - 10, x + 4, base - 2), fill=WARNING)


def _bar(draw: ImageDraw.ImageDraw, place: tuple[int, int, int], row: _Row, fill: Colour) -> None:
    """`place`: left, right, and the line the row stands on."""
    left, right, base = place
    draw.rectangle((left, base - 11, right, base - 4), fill=TRACK)
    length = round((right - left) * row.bar)
    if length:
        draw.rectangle((left, base - 11, left + length, base - 4), fill=fill)
    if not np.isnan(row.threshold):
        x = left + round((right - left) * row.threshold)
        for top, bottom in ((base - 17, base - 13), (base - 2, base + 2)):  # the bar between them stays whole
            draw.rectangle((x - 1, top, x, bottom), fill=TEXT)


def _fit(image: Bytes, width: int, height: int) -> Bytes:
    """Resize for the eye: area averaging down, cubic up."""
    smaller = width < image.shape[1]
    return np.asarray(
        cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC), dtype=np.uint8
    )
