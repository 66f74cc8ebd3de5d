"""Small predictions, films and checkpoints for the tests of this folder."""

import cv2
import numpy as np

from agcxr.data import phantom
from agcxr.inference.prediction import Prediction
from agcxr.labels import LABELS


def film(height=60, width=50, seed=0):
    """A smooth gray picture that differs from seed to seed, uint8."""
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    phase = np.random.default_rng(seed).random(4) * 6
    wave = np.sin(7 * x + phase[0]) + np.sin(9 * y + phase[1]) + np.sin(5 * (x + y) + phase[2])
    return np.clip(127 + 40 * wave, 0, 255).astype(np.uint8)


def chest(height, width, seed=0):
    """A phantom's film of this size, uint8, which the intake does not refuse as it does `film`."""
    drawn = phantom.film(np.random.default_rng(seed), (), size=256).pixels_HW
    return cv2.resize(drawn, (width, height), interpolation=cv2.INTER_AREA)


def prediction(**changes):
    """A Prediction of a 50 x 60 film with made-up numbers."""
    fields = {
        "name": "films/a.png",
        "labels": LABELS,
        "global_K": np.full(15, 0.25, np.float32),
        "local_K": np.full(15, 0.5, np.float32),
        "fusion_K": np.linspace(0, 1, 15, dtype=np.float32),
        "box": (10.0, 12.0, 30.0, 40.0),
        "fallback": False,
        "heat_HW": np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8),
        "window": (3.0, 4.0, 47.0, 56.0),
        "crop_HW": film(32, 32),
        "height": 60,
        "width": 50,
        "film_HW": film(),
    }
    return Prediction(**(fields | changes))
