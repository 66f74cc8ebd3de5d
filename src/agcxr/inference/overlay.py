"""What is laid over a film in pictures, reports and notebooks: heat in colours, and boxes.

Shapes: H, W height and width; 3 the RGB channels. Pictures are uint8; heat is float in [0, 1].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from agcxr.inference.lettering import Colour, text_at, width_of

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

ACCENT: Colour = (77, 208, 225)
WARNING: Colour = (255, 179, 71)
FAINTEST = 0.35
"""Opacity of a box that weighs nothing beside the heaviest."""
LETTERED = 9
"""Boxes of a film that pictures letter, the heaviest; of more, the letters would hide the film."""


@lru_cache(maxsize=1)
def colours() -> Bytes:
    """The 256 RGB steps of the colour map."""
    steps = np.arange(256, dtype=np.uint8)[:, None]
    return np.asarray(cv2.applyColorMap(steps, cv2.COLORMAP_INFERNO)[:, 0, ::-1], np.uint8)


def overlay(film_HW: Bytes, heat_HW: Floats, strength: float = 0.72) -> Bytes:
    """The heat over the film as RGB, HxWx3: cold parts stay the plain film, hot ones take the colour of the map.

    Args:
        film_HW: uint8.
        heat_HW: float in [0, 1], the same shape (`Prediction.heat_in_original(*film.shape)`).
        strength: opacity at heat 1, in [0, 1].
    """
    if film_HW.shape != heat_HW.shape:
        raise ValueError(
            f"film is {film_HW.shape} and heat {heat_HW.shape}; "
            "make the heat with heat_in_original(height, width) of that film"
        )
    heat = np.clip(heat_HW, 0, 1)
    colour = colours()[(heat * 255).astype(np.uint8)].astype(np.float32)
    # Opacity rises late, so that the anatomy under weak attention stays as readable as on the film.
    alpha = (strength * np.clip((heat - 0.25) / 0.75, 0, 1) ** 0.75)[..., None].astype(np.float32)
    # The film's light shows through the colour: bones and vessels remain visible where the heat is highest.
    light = film_HW.astype(np.float32)[..., None]
    mixed = (1 - alpha) * light + alpha * colour * (0.5 + 0.5 * light / 255)
    return mixed.round().astype(np.uint8)


def draw_box(image: Bytes, box: tuple[float, float, float, float], colour: Colour = ACCENT, width: int = 3) -> Bytes:
    """A copy of a gray HxW or RGB HxWx3 picture with a box, as RGB. The line lies inside the box, a dark one around it.

    `box` is (x0, y0, x1, y1) in pixels of `image`, exclusive end.
    """
    out = Image.fromarray(image).convert("RGB")
    x0, y0 = round(box[0]), round(box[1])
    x1, y1 = max(round(box[2]), x0 + 1), max(round(box[3]), y0 + 1)
    draw = ImageDraw.Draw(out)
    draw.rectangle((x0 - 1, y0 - 1, x1, y1), outline=(0, 0, 0), width=1)
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=colour, width=width)
    return np.asarray(out)


def draw_boxes(
    image: Bytes, boxes: Sequence[tuple[float, float, float, float]], weights: Sequence[float], width: int = 3
) -> Bytes:
    """`draw_box` for every box: the heaviest solid and on top, the others fainter the less they weigh, the heaviest
    `LETTERED` of several with number and weight. `weights`: one a box, 0 or more."""
    if len(boxes) == 1:
        return draw_box(image, boxes[0], ACCENT, width)
    order = heaviest_first(weights)
    out = Image.fromarray(image).convert("RGB")
    for n in reversed(order):
        boxed = Image.fromarray(draw_box(np.asarray(out), boxes[n], ACCENT, width))
        out = Image.blend(out, boxed, FAINTEST + (1 - FAINTEST) * weights[n] / max(weights[order[0]], 1e-9))
    for n in reversed(order[:LETTERED]):
        _letter(out, boxes[n], box_words(n, weights[n]))
    return np.asarray(out)


def heaviest_first(weights: Sequence[float]) -> list[int]:
    """Places of the boxes by their weight; of equal ones, those that were taken first."""
    return sorted(range(len(weights)), key=lambda n: -weights[n])


def box_words(n: int, weight: float) -> str:
    """Number of a box, in the order in which they were taken, and its weight."""
    return f"{n + 1} · {weight:.0%}"


def _letter(image: Image.Image, box: tuple[float, float, float, float], words: str) -> None:
    """Words above a box, or at its upper edge where there is no room, on a dark ground."""
    draw, high = ImageDraw.Draw(image), 19
    wide = width_of(draw, words, 14) + 10
    x = max(min(round(box[0]), image.width - wide), 0)
    y = round(box[1]) - high if box[1] >= high else max(round(box[1]), 0)
    draw.rectangle((x, y, x + wide - 1, y + high - 1), fill=(0, 0, 0))
    text_at(draw, (x + 5, y + 14), words, 14, ACCENT)
