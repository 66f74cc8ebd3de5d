"""What answers: a Predictor behind the server. Films come prepared (S x S), answers are in pixels of the original.

Shapes: S side of the prepared film, H, W height and width of a map.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from agcxr.calibration import FindingCalibration
from agcxr.data.radiograph import Radiograph
from agcxr.inference.prediction import Box, Branch, Bytes, Prediction
from agcxr.serve.decoder import Read

if TYPE_CHECKING:
    from agcxr.inference.predictor import Predictor

MAP_SIDE = 384
"""Longest side of a finding's map, in pixels; the grids beneath are far coarser."""


@dataclass(frozen=True, eq=False)
class FindingMap:
    """Where one finding is read: `heat_HW` over the whole film, scaled so that its peak is 255."""

    finding: str
    branch: Branch
    heat_HW: Bytes
    empty: bool
    """Nothing on the film speaks for the finding."""


class Engine:
    """The model as the server uses it. Not for two threads at once: the batcher has one."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @property
    def size(self) -> int:
        """Side S of the films that `answers` takes."""
        return self.predictor.prepared_size

    @property
    def labels(self) -> tuple[str, ...]:
        return self.predictor.labels

    def calibration_of(self, label: str) -> FindingCalibration | None:
        """One label's calibration and operating points, where the checkpoint holds them."""
        calibration = self.predictor.calibration
        return None if calibration is None else calibration.findings.get(label)

    def answers(self, films: list[Read]) -> list[Prediction]:
        """Predictions for a batch, in order."""
        prepared = (Radiograph(film.small_SS, "", film.format, film.notes) for film in films)
        found = self.predictor.stream(prepared, batch_size=len(films), workers=1)
        return [self._on_film(answer, film) for answer, film in zip(found, films, strict=True)]

    def map(self, film: Read, finding: str, branch: Branch) -> FindingMap:
        """Grad-CAM of one finding, over the whole film."""
        from agcxr.inference.maps import film_maps

        scale = min(MAP_SIDE / max(film.width, film.height), 1)
        height, width = max(round(film.height * scale), 1), max(round(film.width * scale), 1)
        heat_HW = film_maps(self.predictor, film.small_SS[None], [finding]).on_film(branch, height, width)[0]
        peak = float(heat_HW.max())
        shown = np.zeros_like(heat_HW) if peak <= 0 else heat_HW / peak
        return FindingMap(finding, branch, np.rint(shown * 255).astype(np.uint8), peak <= 0)

    def _on_film(self, answer: object, film: Read) -> Prediction:
        assert isinstance(answer, Prediction)  # a prepared film can always be read
        across, down = film.width / self.size, film.height / self.size

        def grow(box: Box) -> Box:
            return (box[0] * across, box[1] * down, box[2] * across, box[3] * down)

        return replace(
            answer,
            box=grow(answer.box),
            window=grow(answer.window),
            width=film.width,
            height=film.height,
            film_HW=film.shown_HW,
        )
