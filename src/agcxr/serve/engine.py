"""What answers: a Predictor, or an exported file, behind the server.

Films come prepared (S x S) and are answered in pixels of the original.

Shapes: S side of the prepared film, H, W height and width of a map, N films of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from agcxr.calibration import POINTS, Cut, FindingCalibration, Point
from agcxr.inference.engine import FilmEngine
from agcxr.inference.identity import Algorithm
from agcxr.inference.novelty import judge_distance
from agcxr.inference.onnx_engine import OnnxPredictor
from agcxr.inference.prediction import Box, Branch, Bytes, Prediction
from agcxr.inference.stream import BatchPrediction
from agcxr.intake import Intake
from agcxr.serve.decoder import Read
from agcxr.serve.problem import Problem

if TYPE_CHECKING:
    from agcxr.inference.predictor import Predictor

MAP_SIDE = 384
"""Longest side of a finding's map, in pixels; the grids beneath are far coarser."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What the model says of a film, and whether it may: the opinion about its pixels and about its features."""

    prediction: Prediction
    intake: Intake | None

    @property
    def refused(self) -> bool:
        return self.intake is not None and self.intake.decision == "refuse"


@dataclass(frozen=True, eq=False)
class FindingMap:
    """Where one finding is read: `heat_HW` over the whole film, scaled so that its peak is 255."""

    finding: str
    branch: Branch
    heat_HW: Bytes
    empty: bool
    """Nothing on the film speaks for the finding."""


@dataclass(frozen=True)
class About:
    """What may be told of a model. It says nothing of the machine but the kind of device."""

    backbone: str
    image_size: int
    attention: dict[str, Any]
    device: str
    precision: str
    maps: bool
    """Whether maps of single findings can be made."""
    metrics: dict[str, float | None] = field(default_factory=dict)
    average: str | None = None
    """Over which models and views answers are averaged."""


class Engine:
    """The model as the server uses it. Not for two threads at once: the batcher has one."""

    def __init__(self, predictor: FilmEngine, about: About) -> None:
        self.predictor, self.about = predictor, about

    @classmethod
    def of(cls, predictor: FilmEngine) -> Engine:
        """Over whatever answers; what is told of an average is told of its first model, but for what it averages."""
        first: Any = predictor.members[0]
        single = cls.exported(first) if isinstance(first, OnnxPredictor) else cls.eager(first)
        return cls(predictor, replace(single.about, average=predictor.words or None))

    @classmethod
    def eager(cls, predictor: Predictor) -> Engine:
        """Over a model in torch."""
        model = predictor.model
        about = About(
            backbone=model.backbone_name,
            image_size=model.image_size,
            attention=model.attention.model_dump(mode="json"),
            device=predictor.device.type,
            precision=predictor.precision,
            maps=True,
            metrics=dict(model.card.metrics) if model.card else {},
        )
        return cls(predictor, about)

    @classmethod
    def exported(cls, predictor: OnnxPredictor) -> Engine:
        """Over an exported file; it has no gradients, so no maps of findings."""
        card = predictor.facts.card
        model: Any = card.get("model", {})
        metrics: Any = card.get("metrics", {})
        about = About(
            backbone=str(model.get("backbone", "unknown")),
            image_size=predictor.facts.image_size,
            attention=dict(model.get("attention", {})),
            device="cpu",
            precision=f"{predictor.precision}, {predictor.runtime}",
            maps=False,
            metrics=dict(metrics or {}),
        )
        return cls(predictor, about)

    @property
    def size(self) -> int:
        """Side S of the films that `readings` takes."""
        return self.predictor.prepared_size

    @property
    def labels(self) -> tuple[str, ...]:
        return self.predictor.labels

    @property
    def algorithm(self) -> Algorithm:
        """How answers and DICOM results name the model; the first call hashes its weights."""
        return self.predictor.algorithm

    @cached_property
    def cuts(self) -> dict[Point, Cut]:
        """Every operating point, at the prevalence that the predictor was told; none without a calibration."""
        scale = self.predictor.scale
        return {} if scale is None else {point: replace(scale, point=point).cut for point in POINTS}

    def calibration_of(self, label: str) -> FindingCalibration | None:
        """One label's calibration and operating points, where the checkpoint holds them."""
        calibration = self.predictor.calibration
        return None if calibration is None else calibration.findings.get(label)

    def readings(self, films: list[Read]) -> list[Reading]:
        """Answers for a batch, in order."""
        films_NSS = np.stack([film.small_SS for film in films])
        answers = self.predictor.predict_arrays(films_NSS, batch_size=len(films), details=True)
        intakes = [_intake(film, answers, row) for row, film in enumerate(films)]
        return [
            Reading(self._prediction(film, answers, row, intake), intake)
            for row, (film, intake) in enumerate(zip(films, intakes, strict=True))
        ]

    def map(self, film: Read, finding: str, branch: Branch) -> FindingMap:
        """Grad-CAM of one finding, over the whole film. Raises Problem where the engine has no gradients."""
        if not self.about.maps:
            raise Problem(501, "no_maps", "an exported file has no maps of single findings; serve the run itself")
        from agcxr.inference.maps import film_maps

        scale = min(MAP_SIDE / max(film.width, film.height), 1)
        height, width = max(round(film.height * scale), 1), max(round(film.width * scale), 1)
        predictor: Any = self.predictor.members[0]
        heat_HW = film_maps(predictor, film.small_SS[None], [finding]).on_film(branch, height, width)[0]
        peak = float(heat_HW.max())
        shown = np.zeros_like(heat_HW) if peak <= 0 else heat_HW / peak
        return FindingMap(finding, branch, np.rint(shown * 255).astype(np.uint8), peak <= 0)

    def _prediction(self, film: Read, answers: BatchPrediction, row: int, intake: Intake | None) -> Prediction:
        assert answers.heat_NHW is not None
        assert answers.crop_NHW is not None
        scale = np.array([film.width, film.height, film.width, film.height])
        return Prediction(
            name="",
            labels=answers.labels,
            global_K=answers.global_NK[row],
            local_K=answers.local_NK[row],
            fusion_K=answers.fusion_NK[row],
            box=_box(answers.box_N4[row] * scale),
            fallback=bool(answers.fallback_N[row]),
            heat_HW=answers.heat_NHW[row].copy(),  # a kept Prediction must not keep its whole batch
            window=_box(answers.window_4 * scale),
            crop_HW=answers.crop_NHW[row].copy(),
            height=film.height,
            width=film.width,
            notes=film.notes,
            calibrated_K=None if answers.calibrated_NK is None else answers.calibrated_NK[row],
            cut=None if self.predictor.scale is None else self.predictor.scale.cut,
            model=self.algorithm.version,
            intake=intake,
            film_HW=film.shown_HW,
        )


def _intake(film: Read, answers: BatchPrediction, row: int) -> Intake | None:
    """The check of the pixels, made when the film was decoded, and the distance of its features, where known."""
    if film.intake is None or answers.distance_N is None:
        return film.intake
    return film.intake & judge_distance(float(answers.distance_N[row]))


def _box(edges: Any) -> Box:
    x0, y0, x1, y1 = (float(edge) for edge in edges)
    return (x0, y0, x1, y1)
