"""Synthetic films to try the page with, drawn when they are first asked for."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from agcxr.data.phantom import film
from agcxr.data.synthetic import marked
from agcxr.inference.reading import encode_png

SIZE = 1024


@dataclass(frozen=True)
class Example:
    """A film to draw. depth: 16 shows that the page keeps the full depth."""

    id: str
    title: str
    findings: tuple[str, ...]
    seed: int
    depth: int = 8

    def png(self) -> bytes:
        """The film, SIZE x SIZE, marked as synthetic; the same bytes every time."""
        pixels_HW = film(np.random.default_rng(self.seed), self.findings, size=SIZE, difficulty=0.15).pixels_HW
        if self.depth == 16:
            # A little blur fills the new levels with true values between the old ones.
            smooth_HW = cv2.GaussianBlur(pixels_HW.astype(np.float32), (0, 0), 0.7)
            return marked(encode_png(np.rint(smooth_HW * 257).clip(0, 65535).astype(np.uint16)))
        return marked(encode_png(pixels_HW))


EXAMPLES: tuple[Example, ...] = (
    Example("effusion", "Effusion", ("Effusion",), 11, 16),
    Example("cardiomegaly", "Large heart", ("Cardiomegaly",), 5),
    Example("mass", "Mass", ("Mass",), 23),
    Example("clear", "Nothing drawn in", (), 2),
)
