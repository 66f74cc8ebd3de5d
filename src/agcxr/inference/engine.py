"""The engine: films in, Predictions out, whatever computes (predictor.py, onnx_engine.py, ensemble.py). No torch.

A backend supplies `_predict` and says what it is; reading, batching, threads, intake and the way back to the film are
here. `load.load_engine` opens one; whoever holds it need not know which.

Shape suffixes: N films, B films of a batch, K labels, S side of the prepared film.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from agcxr.calibration import POINTS, Calibration, Curve, FindingCalibration, OperatingPoints, Point, Prevalence, Scale
from agcxr.data.radiograph import RadiographError
from agcxr.findings import Findings
from agcxr.inference.identity import Algorithm
from agcxr.inference.prediction import Bytes, Failure, Prediction, ViewSet
from agcxr.inference.stream import (
    BatchPrediction,
    Film,
    PreparedFilm,
    batches,
    each_film,
    joined,
    prediction_of,
    read_ahead,
    read_film,
)
from agcxr.machine import cores
from agcxr.progress import ProgressBar

if TYPE_CHECKING:
    from agcxr.data.prepared import Pixels
    from agcxr.inference.maps import FindingMaps


@dataclass(frozen=True)
class About:
    """What may be told of a model to anybody: nothing of the machine but the kind of device."""

    backbone: str
    image_size: int
    """Side of the view, in pixels."""
    attention: dict[str, Any]
    device: str
    precision: str
    metrics: dict[str, float | None]
    trained_on: str | None = None
    """The collection that it learnt on, such as "nih" or "phantom, seed 0"; None: not known."""


class Engine(ABC):
    """A model that answers for films: in torch, as an exported file, or the average of several."""

    prepared_size: int
    """Side S that films are resized to."""
    scale: Scale | None
    """How scores are read; None for a model that is not calibrated."""
    views: ViewSet = "plain"
    """Over which every answer is averaged."""
    has_maps = False
    """Whether `finding_maps` can be made: it takes gradients."""

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """Order of every probability vector."""

    @property
    def findings(self) -> Findings:
        """The labels and what is known of them: names, order, codes, which of them says "none of the others"."""
        return Findings.of(self.labels)

    @property
    @abstractmethod
    def window(self) -> tuple[float, ...]:
        """The part of every film that the network sees, (x0, y0, x1, y1) as fractions of it."""

    @property
    @abstractmethod
    def algorithm(self) -> Algorithm:
        """The model as answers name it; the first call hashes its weights."""

    @property
    @abstractmethod
    def about(self) -> About:
        """Network and device; of an average, those of its first model."""

    @property
    def crops(self) -> int:
        """Boxes of a film that the local branch sees, at most."""
        return int(self.about.attention.get("crops", 1))

    @abstractmethod
    def _predict(self, images_BSS: Bytes, details: bool) -> BatchPrediction:
        """Answers for prepared films, uint8 B x S x S; with heatmaps and crops where `details` are wanted."""

    @property
    def members(self) -> tuple[Engine, ...]:
        """The models that answer, each by itself; the box, the heatmap and the crop are the first's."""
        return (self,)

    @property
    def looks(self) -> int:
        """Models times views that an answer is the average of."""
        return 1

    @property
    def words(self) -> str:
        """That answers are averages, and of what; empty for one model on one view."""
        return ""

    @property
    def calibration(self) -> Calibration | None:
        """What the checkpoint holds."""
        return None if self.scale is None else self.scale.calibration

    @property
    def own(self) -> Calibration | None:
        """The calibration of the fusion's score; None too where calibrated probabilities are the members' average."""
        return self.calibration

    @property
    def calibrated(self) -> bool:
        """Whether answers hold calibrated probabilities too."""
        return self.scale is not None

    @cached_property
    def cuts(self) -> dict[Point, OperatingPoints]:
        """Every operating point, at the prevalence in use; none without a calibration."""
        scale = self.scale
        return {} if scale is None else {point: replace(scale, point=point).cut for point in POINTS}

    def __repr__(self) -> str:
        """On one line: what is predicted, from what, and whether scores are calibrated."""
        method = "uncalibrated" if self.scale is None else f"calibration {self.scale.calibration.method}"
        films = f"films resized to {self.prepared_size} px"
        return f"{type(self).__name__}({', '.join([*self._facts(), f'{len(self.labels)} labels', films, method])})"

    def _facts(self) -> Sequence[str]:
        """What else its repr says."""
        return [self.words] if self.words else []

    def __call__(self, film: Film, *, keep_film: int = 1024) -> Prediction:
        """Predict one film.

        Args:
            film: a path, the bytes of a file, pixels (an array, a torch tensor or a PIL image: see
                `radiograph.from_array`) or a Radiograph.
            keep_film: longest side of the 8-bit film kept in the Prediction for pictures; 0 keeps none.

        Raises:
            RadiographError: it cannot be read, with the reason.
        """
        try:
            read = read_film(film, self.prepared_size, keep_film)
        except RadiographError as error:
            if not isinstance(film, str | os.PathLike):
                raise
            raise RadiographError(f"{os.fspath(film)}: {error}") from error
        return self.answer([read])[0]

    def stream(
        self, films: Iterable[Film] | Film, *, batch_size: int = 16, workers: int | None = None, keep_film: int = 0
    ) -> Iterator[Prediction | Failure]:
        """Predict any number of films, in their order; memory holds a few batches whatever their number.

        `films`: an iterable of them, or one path: of a film, a folder, an archive, or a pattern such as "films/*.png".

        Threads decode ahead while the network works. A film that cannot be read is a Failure in its place. Closing
        the iterator early stops the threads. Arguments as in `__call__`; `workers`: default one a core.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        decoders = ThreadPoolExecutor(workers or cores(), "agcxr-decode")
        network = ThreadPoolExecutor(1, "agcxr-network")
        try:
            running: deque[Future[list[Prediction | Failure]]] = deque()
            read = read_ahead(each_film(films), self.prepared_size, keep_film, decoders, 2 * batch_size)
            for batch in batches(read, batch_size):
                running.append(network.submit(self._answer, batch))
                if len(running) > 1:  # one batch is computed while the caller works on the one before
                    yield from running.popleft().result()
            while running:
                yield from running.popleft().result()
        finally:
            for pool in (decoders, network):
                pool.shutdown(wait=True, cancel_futures=True)

    def predict_arrays(
        self,
        images_NSS: Pixels,
        rows: npt.ArrayLike | None = None,
        *,
        batch_size: int = 32,
        details: bool = False,
        progress: bool = False,
    ) -> BatchPrediction:
        """Predict films that are prepared already, such as the memory-mapped pixels of a prepared folder.

        Args:
            images_NSS: uint8, S x S with the model's prepared size; read a batch at a time.
            rows: which of them, in the order of the answer; default: all.
            details: also return heatmaps and crops (0.25 MB a film at 224 pixels).
            progress: show a bar.

        Raises:
            ValueError: they are of another size or type.
        """
        self._check_prepared(images_NSS)
        chosen = np.arange(len(images_NSS)) if rows is None else np.asarray(rows, dtype=np.int64)
        if not len(chosen):
            return self._predict(np.zeros((1, *images_NSS.shape[1:]), np.uint8), details)[:0]
        parts = []
        with ProgressBar(total=len(chosen), desc="predict", unit=" films", disable=not progress) as bar:
            for start in range(0, len(chosen), batch_size):
                some = chosen[start : start + batch_size]
                parts.append(self._predict(np.asarray(images_NSS[some]), details))
                bar.update(len(some))
        return joined(parts)

    def answer(self, films: Sequence[PreparedFilm]) -> list[Prediction]:
        """A batch of films that were read before, here or in another process, through the model at once, in order."""
        answers = self._predict(np.stack([film.image_SS for film in films]), True)
        cut, model = None if self.scale is None else self.scale.cut, self.algorithm.version
        trained_on, findings = self.about.trained_on, self.findings
        return [prediction_of(film, answers, row, findings, cut, model, trained_on) for row, film in enumerate(films)]

    def finding_maps(self, images_BSS: Bytes, findings: Sequence[str]) -> FindingMaps:
        """Grad-CAM of one finding on each prepared film; a film with several findings is repeated.

        Raises ValueError where there are no gradients (`has_maps`), for films of another size, unknown findings.
        """
        raise ValueError("an exported file has no gradients, so no maps of single findings; give the run itself")

    def _check_prepared(self, images_NSS: Pixels) -> None:
        size = self.prepared_size
        if images_NSS.dtype != np.uint8 or images_NSS.shape[1:] != (size, size):
            raise ValueError(
                f"films are {images_NSS.dtype} {images_NSS.shape}; this model expects uint8 (N, {size}, {size}): "
                f"prepare them with --size {size}"
            )

    def _answer(self, batch: list[PreparedFilm | Failure]) -> list[Prediction | Failure]:
        """`answer` with failures in their places."""
        films = [film for film in batch if isinstance(film, PreparedFilm)]
        predictions = iter(self.answer(films) if films else ())
        return [film if isinstance(film, Failure) else next(predictions) for film in batch]


def scale_of(
    calibration: Calibration | None, findings: Findings, point: Point, prevalence: Prevalence | None
) -> Scale | None:
    """How scores are read; None for a model that is not calibrated. Raises ValueError where a prevalence is asked of
    such a one, and as `Scale.of`."""
    if calibration is not None:
        return Scale.of(calibration, findings.labels, point, prevalence, findings)
    if prevalence is not None:
        raise ValueError(
            f"the model is not calibrated, so its scores cannot be corrected for a prevalence of {prevalence}; "
            "leave the prevalence out, or calibrate the model (see docs/scores.md)"
        )
    return None


def trained_on(collection: str | None, calibration: Calibration | None) -> str | None:
    """The collection that a model learnt on: the one its card names, or that of its training's validation films."""
    fitted_on = None if calibration is None else calibration.fitted_on
    if collection is None and fitted_on is not None and fitted_on.of_training:
        return fitted_on.collection
    return collection


def mean_scale(scales: Sequence[Scale], labels: tuple[str, ...]) -> Scale:
    """What can be said of the average of several calibrated probabilities: which labels are calibrated in all of them,
    on how many validation films at least, and at which prevalence. It has neither curves nor thresholds of its own."""
    first = scales[0]
    findings: dict[str, FindingCalibration] = {}
    for label in labels:
        each = [scale.calibration.findings.get(label) for scale in scales]
        fewest = min(
            (one for one in each if one), key=lambda one: min(one.positives, one.films - one.positives), default=None
        )
        if fewest is not None and all(each):
            findings[label] = fewest.model_copy(update={"curve": Curve(kind="none"), "points": None})
    fitted_on = first.calibration.fitted_on
    shared = fitted_on if all(scale.calibration.fitted_on == fitted_on for scale in scales) else None
    calibration = first.calibration.model_copy(update={"findings": findings, "fitted_on": shared})
    return Scale(calibration, labels, first.point, first.prevalence_K[[first.labels.index(label) for label in labels]])
