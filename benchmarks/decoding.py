"""Bare decoding, for limits: nothing but pixels. Light to import, since worker processes import it too."""

from __future__ import annotations

import cv2


def bare(path: str) -> int:
    """OpenCV: read, decode to gray, resize to 256 by area. Returns a pixel so that nobody can leave the work out."""
    pixels = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
    return int(cv2.resize(pixels, (256, 256), interpolation=cv2.INTER_AREA)[0, 0])


def one_thread() -> None:
    """Start of a worker process: the cores are shared out by process."""
    cv2.setNumThreads(1)


def pillow(path: str) -> int:
    """As peers do, on one core."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as file:
        film = file.convert("L").resize((256, 256), Image.Resampling.BILINEAR)
    return int(np.asarray(film)[0, 0])
