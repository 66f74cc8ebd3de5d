"""Does an exported file answer as the eager model does? On made films, at batch 1 and 5, at several film sizes.

Two things are compared apart: the file's resized film with OpenCV's, in gray levels; and all that follows with the
eager model on the film as the file resized it. For a gray level in a few pixels may move a probability by more than
rounding does, and that is no fault of the network's.

Shapes: N films, R boxes of each, H x W their pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from agcxr.data.phantom import film
from agcxr.data.radiograph import resize
from agcxr.findings import CHESTXRAY14
from agcxr.inference.engine import Engine
from agcxr.inference.onnx_engine import OnnxPredictor
from agcxr.inference.prediction import Bytes
from agcxr.inference.stream import BatchPrediction

PROBABILITY = 1e-5
"""Largest difference of any probability."""
EDGE = 1e-3
"""Largest difference of a box's edge, in pixels of the prepared film. Edges lie on whole pixels of the view."""
HEAT = 1e-3
"""Largest difference of the heatmap. Its scale from lowest to highest magnifies rounding."""
GRAY = 1
"""Largest difference of the crop and of the resized film, in gray levels."""
BATCHES = (1, 5)


@dataclass(frozen=True)
class Parity:
    """Largest differences over `films` answers of both."""

    films: int
    probability: float
    """Also of the weights of boxes."""
    calibrated: float
    """From the calibration applied to the file's own scores; 0 where there is none."""
    edge: float
    """Of boxes, in pixels of the prepared film."""
    boxes: int
    """Films whose boxes differ by more than EDGE, or fall back where the other does not."""
    heat: float
    crop: int
    """Gray levels."""
    gray: int
    """Of the resized film against OpenCV's, in gray levels."""
    pixels: int
    """Of the resized films that differ from OpenCV's."""

    @property
    def good(self) -> bool:
        """Whether every difference is within its limit (NaN is not)."""
        exact = self.boxes == 0 and max(self.crop, self.gray) <= GRAY
        return exact and self.probability <= PROBABILITY and self.calibrated <= PROBABILITY and self.heat <= HEAT

    def __str__(self) -> str:
        return (
            f"Against the eager model on {self.films} films: {self.boxes} boxes differ (edges by {self.edge:.1g} px), "
            f"probabilities by {self.probability:.1e}, calibration by {self.calibrated:.1e}, heat by {self.heat:.1e}, "
            f"crops by {self.crop} gray levels. Against OpenCV, {self.pixels:,} pixels of the resized films differ, by "
            f"{self.gray} gray levels"
        )


def made_films(size: int, n: int = 5) -> tuple[Bytes, ...]:
    """Batches of n films: as prepared, twice that size, and of two sizes at which the file's resize may differ from
    OpenCV's by a gray level. Phantoms, and one of noise."""
    rng, names = np.random.default_rng(0), CHESTXRAY14.names
    drawn = [film(rng, [names[i % len(names)]], size=max(size, 256)).pixels_HW for i in range(n - 1)]
    drawn.append(rng.integers(0, 256, (max(size, 256),) * 2, dtype=np.uint8))
    shapes = [(size, size), (2 * size, 2 * size)]
    shapes += [(2 * size + 37, 3 * size + 11), (size + 7, 4 * size)]
    return tuple(np.stack([_at(one, *shape) for one in drawn]) for shape in shapes)


def compare(path: Path | OnnxPredictor, engine: Engine, batches: Iterable[Bytes]) -> Parity:
    """Run both on every batch (uint8 N x H x W), and on its first film alone.

    Raises ValueError for a file that does not give the resized film, as files of agcxr 0.1 did not.
    """
    exported = path if isinstance(path, OnnxPredictor) else OnnxPredictor(path)
    found = []
    for films_NHW in batches:
        for n in sorted({1, len(films_NHW)}):
            answers = exported.run(films_NHW[:n])
            if "prepared" not in answers:
                raise ValueError(f"{exported.path} does not give the resized film; export it again to compare it")
            eager = engine.predict_arrays(answers["prepared"], batch_size=n, details=True)
            found.append(_differences(exported, answers, eager, films_NHW[:n]))
    return Parity(
        films=sum(one.films for one in found),
        boxes=sum(one.boxes for one in found),
        probability=_most(one.probability for one in found),
        calibrated=_most(one.calibrated for one in found),
        edge=_most(one.edge for one in found),
        heat=_most(one.heat for one in found),
        crop=max(one.crop for one in found),
        gray=max(one.gray for one in found),
        pixels=sum(one.pixels for one in found),
    )


def _differences(
    exported: OnnxPredictor, found: Mapping[str, npt.NDArray[Any]], eager: BatchPrediction, films_NHW: Bytes
) -> Parity:
    height, width = films_NHW.shape[1:]
    box_N4 = found["box"].astype(np.float64) / [width, height, width, height]
    apart_NR4 = np.abs(box_N4 - eager.box_N4)[:, None]
    weight = 0.0
    if eager.box_NR4 is not None and eager.weight_NR is not None:
        apart_NR4 = np.abs(found["boxes"].astype(np.float64) / [width, height, width, height] - eager.box_NR4)
        weight = float(np.abs(found["weights"] - eager.weight_NR).max())
    edge_N = apart_NR4.max((1, 2)) * exported.prepared_size
    branches = (("global", eager.global_NK), ("local", eager.local_NK), ("fusion", eager.fusion_NK))
    calibrated = 0.0
    if exported.calibrated:
        # Isotonic curves rise in steps, where the last bit of a score can decide; so the curve itself is checked.
        calibrated = float(np.abs(exported.calibrated_of(found) - found["calibrated"]).max())
    resized_NSS = np.stack([resize(one, exported.prepared_size) for one in films_NHW])
    levels_NSS = np.abs(found["prepared"].astype(np.int64) - resized_NSS)
    assert eager.heat_NHW is not None
    assert eager.crop_NHW is not None
    return Parity(
        films=len(eager),
        probability=_most([weight, *(float(np.abs(found[name] - expected).max()) for name, expected in branches)]),
        calibrated=calibrated,
        edge=float(edge_N.max()),
        boxes=int((~(edge_N <= EDGE) | (found["fallback"] != eager.fallback_N)).sum()),
        heat=float(np.abs(found["heat"] - eager.heat_NHW).max()),
        crop=int(np.abs(found["crop"].astype(np.int64) - eager.crop_NHW).max()),
        gray=int(levels_NSS.max()),
        pixels=int((levels_NSS > 0).sum()),
    )


def _most(values: Iterable[float]) -> float:
    """The largest; NaN if there is one, which max() could lose."""
    return float(np.max(list(values)))


def _at(pixels_HW: Bytes, height: int, width: int) -> Bytes:
    return np.asarray(cv2.resize(pixels_HW, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
