"""A Prediction as HTML for notebooks: what the intake says, film, attention and crop, and a row a finding.

Shapes: H, W height and width of a picture.
"""

from __future__ import annotations

import base64
from html import escape
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from agcxr.inference.overlay import draw_boxes, overlay

SIDE = 320
"""Height of a picture, in pixels."""


def to_html(prediction: Any) -> str:
    """A fragment without scripts or outside files. prediction: a Prediction, which itself calls this.

    Of a refused film: the film and the reasons, and nothing that the model says of it.
    """
    facts = (f"{prediction.width} x {prediction.height} px", *prediction.notes)
    parts = [f"<div><b>{escape(prediction.name)}</b> &middot; {escape(' · '.join(facts))}"]
    if prediction.intake is not None and prediction.intake.reasons:
        parts.append(f'<p style="color:#b45309"><b>{escape(prediction.intake.words)}</b></p>')
    parts += [f'<div style="display:flex;gap:8px;flex-wrap:wrap">{_pictures(prediction)}</div>']
    if not prediction.refused:
        parts.append(_table(prediction))
    return "".join([*parts, "</div>"])


def _pictures(prediction: Any) -> str:
    film_HW = prediction.film_HW
    if film_HW is None or prediction.refused:
        return "" if film_HW is None else _image("film", film_HW)
    height, width = film_HW.shape
    across, down = width / prediction.width, height / prediction.height
    boxes = [(x0 * across, y0 * down, x1 * across, y1 * down) for x0, y0, x1, y1 in prediction.boxes]
    heated_HW3 = overlay(film_HW, prediction.heat_in_original(height, width))
    film_HW3, attention_HW3 = (draw_boxes(image, boxes, prediction.weights) for image in (film_HW, heated_HW3))
    crop = "crop" if len(boxes) == 1 else "crop 1"
    shown = {"film": film_HW3, "attention": attention_HW3, crop: prediction.crop_HW}
    return "".join(_image(title, pixels) for title, pixels in shown.items())


def _image(title: str, pixels: NDArray[np.uint8]) -> str:
    ordered = pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., ::-1])
    done, data = cv2.imencode(".png", ordered)
    assert done, "an 8-bit picture can always be encoded"
    source = f"data:image/png;base64,{base64.b64encode(data.tobytes()).decode()}"
    return (
        f'<figure style="margin:0"><img alt="{title}" src="{source}" style="height:{SIDE}px">'
        f"<figcaption>{title}</figcaption></figure>"
    )


def _table(prediction: Any) -> str:
    """Findings in the order of reading, with the fusion's probability; called ones are bold."""
    calibrated = prediction.shows_calibrated
    heads = "".join(f"<th>{name}</th>" for name in ("finding", *(["calibrated"] if calibrated else []), "fusion"))
    rows, calls = [], prediction.calls()
    for k in prediction.ranked():
        name = escape(prediction.labels[k].replace("_", " "))
        values = ([prediction.calibrated_K[k]] if calibrated else []) + [prediction.fusion_K[k]]
        cells = "".join(f"<td>{value:.2f}</td>" for value in values)
        rows.append(f"<tr><td>{f'<b>{name}</b> called' if calls[k] else name}</td>{cells}</tr>")
    return f"<table><tr>{heads}</tr>{''.join(rows)}</table>"
