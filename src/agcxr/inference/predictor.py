"""Films in, Predictions out: the only way that images reach a model outside training.

Preprocessing is the checkpoint's: Radiograph -> the one resize rule to S x S -> the evaluation view -> the model.

Shape suffixes: N films, B films of a batch, K labels, S side of the prepared film, H W pixels of the view, 4 a box
(x0, y0, x1, y1) with exclusive end.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from agcxr.calibration import Calibration, Cut, Point, Prevalence, Scale
from agcxr.data.augment import centre_views, map_boxes, render, sharp_size
from agcxr.data.radiograph import RESIZE_RULE, Radiograph, RadiographError, from_array, read_radiograph, resize
from agcxr.inference.novelty import FeatureStatistics, judge_distance
from agcxr.inference.prediction import Bytes, Failure, Floats, Precision, Prediction
from agcxr.intake import Intake, judge
from agcxr.models.agcnn import AGCNN

__all__ = ["BatchPrediction", "Failure", "Film", "Prediction", "Predictor"]

Film: TypeAlias = str | os.PathLike[str] | bytes | npt.NDArray[Any] | Radiograph


@dataclass(frozen=True, eq=False)
class BatchPrediction:
    """Answers for N prepared films, row by row. Boxes and the window are FRACTIONS of the film in [0, 1]."""

    labels: tuple[str, ...]
    global_NK: Floats
    local_NK: Floats
    fusion_NK: Floats
    """Probabilities: sigmoids of the logits."""
    box_N4: npt.NDArray[np.float64]
    fallback_N: npt.NDArray[np.bool_]
    window_4: npt.NDArray[np.float64]
    """The part of every film that the view shows."""
    calibrated_NK: Floats | None = None
    """Of the fusion; None where the checkpoint holds no calibration."""
    distance_N: npt.NDArray[np.float64] | None = None
    """From the training films, see novelty.py; None where the checkpoint does not know them."""
    heat_NHW: Floats | None = None
    """Attention in [0, 1] on the grid of the view; None unless details were asked for."""
    crop_NHW: Bytes | None = None
    """What the local branch saw; None unless details were asked for."""

    def __len__(self) -> int:
        return len(self.fallback_N)

    def __getitem__(self, rows: slice) -> BatchPrediction:
        """Some of the films."""
        return replace(self, **{name: value[rows] for name, value in self._columns().items()})

    def _columns(self) -> dict[str, Any]:
        """What has a row a film."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if "_N" in field.name}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, eq=False)
class _Read:
    """A film ready for the model, and what its Prediction says about it."""

    name: str
    image_SS: Bytes
    height: int
    width: int
    notes: tuple[str, ...]
    intake: Intake
    film_HW: Bytes | None


class Predictor:
    """A model with its preprocessing. Holds no state between films; may be used from several threads.

    Args:
        model: put into eval mode, moved to `device` and laid out channels-last, in place.
        device: "cpu", "cuda", "cuda:1", ...; default: a GPU where there is one.
        precision: "fp32", or "bf16" for speed where the hardware computes in it.
        prepared_size: side S that films are resized to; default: what the model was trained on, as its checkpoint
            says, or the side its views are cut from.
        point: operating point at which findings are called, where the checkpoint holds a calibration.
        prevalence: of the findings where the films come from; calibrated probabilities are corrected for it.
    """

    def __init__(
        self,
        model: AGCNN,
        *,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
        prepared_size: int | None = None,
        point: Point = "youden",
        prevalence: Prevalence | None = None,
    ) -> None:
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision is {precision!r}; expected 'fp32' or 'bf16'")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.precision = precision
        self.model = model.eval().to(self.device).to(memory_format=torch.channels_last)
        self.prepared_size = prepared_size or _trained_on(model) or model.resize
        self.scale = _scale(model, point, prevalence)
        known = model.card.feature_statistics if model.card else None
        self.statistics = None if known is None else FeatureStatistics.model_validate(known)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        precision: Precision = "fp32",
        point: Point = "youden",
        prevalence: Prevalence | None = None,
    ) -> Predictor:
        """From a run folder (its final model), a model folder or a hub id.

        Raises:
            ValueError: there is no finished model, or it was trained on films resized by another rule, or a prevalence
                is asked of a model that is not calibrated.
        """
        network = AGCNN.from_pretrained(Path(source))
        return cls(network, device=device, precision=precision, point=point, prevalence=prevalence)

    @property
    def labels(self) -> tuple[str, ...]:
        """Order of every probability vector."""
        return tuple(self.model.labels)

    @property
    def calibration(self) -> Calibration | None:
        """What the checkpoint holds."""
        return None if self.scale is None else self.scale.calibration

    @property
    def calibrated(self) -> bool:
        """Whether answers hold calibrated probabilities too."""
        return self.scale is not None

    def __call__(self, film: Film, *, keep_film: int = 1024) -> Prediction:
        """Predict one film.

        Args:
            film: a path, the bytes of a file, an array (see `radiograph.from_array`) or a Radiograph.
            keep_film: longest side of the 8-bit film kept in the Prediction for pictures; 0 keeps none.

        Raises:
            RadiographError: it cannot be read, with the reason.
        """
        (prediction,) = self._answer([self._read(film, keep_film)])
        assert isinstance(prediction, Prediction)
        return prediction

    def stream(
        self, films: Iterable[Film], *, batch_size: int = 16, workers: int | None = None, keep_film: int = 0
    ) -> Iterator[Prediction | Failure]:
        """Predict any number of films, in their order; memory holds a few batches whatever their number.

        Threads decode ahead while the network works. A film that cannot be read is a Failure in its place. Closing
        the iterator early stops the threads. Arguments as in `__call__`; `workers`: default one a core.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        decoders = ThreadPoolExecutor(workers or _cores(), "agcxr-decode")
        network = ThreadPoolExecutor(1, "agcxr-network")
        try:
            running: deque[Future[list[Prediction | Failure]]] = deque()
            for batch in _batches(self._decoded(films, decoders, 2 * batch_size, keep_film), batch_size):
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
        images_NSS: Bytes,
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
        """
        size = self.prepared_size
        if images_NSS.dtype != np.uint8 or images_NSS.shape[1:] != (size, size):
            raise ValueError(
                f"films are {images_NSS.dtype} {images_NSS.shape}; this model expects uint8 (N, {size}, {size}): "
                f"prepare them with --size {size}"
            )
        chosen = np.arange(len(images_NSS)) if rows is None else np.asarray(rows, dtype=np.int64)
        if not len(chosen):
            return self._predict(np.zeros((1, size, size), np.uint8), details)[:0]
        parts = []
        with tqdm(total=len(chosen), unit=" films", disable=not progress) as bar:
            for start in range(0, len(chosen), batch_size):
                some = chosen[start : start + batch_size]
                parts.append(self._predict(np.asarray(images_NSS[some]), details))
                bar.update(len(some))
        return _joined(parts)

    @torch.inference_mode()
    def _predict(self, images_BSS: Bytes, details: bool) -> BatchPrediction:
        model, size, known = self.model, self.prepared_size, self.statistics
        views = centre_views(len(images_BSS), size, image_size=model.image_size, resize=model.resize).to(self.device)
        image_B1SS = torch.from_numpy(np.ascontiguousarray(images_BSS)).to(self.device)[:, None]
        view = render(image_B1SS, views)
        sharp = self._sharp_size()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            out = model(view, None if sharp is None else render(image_B1SS, views, sharp))
        box_B4 = map_boxes(out.box_B4.float(), views, model.image_size, to="prepared")
        fusion_NK = _probability(out.fusion_BK)
        calibrated = None if self.scale is None else self.scale.probabilities(fusion_NK)
        window_4 = centre_views(1, size, image_size=model.image_size, resize=model.resize).window_B4[0]
        return BatchPrediction(
            labels=self.labels,
            global_NK=_probability(out.global_BK),
            local_NK=_probability(out.local_BK),
            fusion_NK=fusion_NK,
            box_N4=box_B4.cpu().double().numpy() / size,
            fallback_N=out.fallback_B.cpu().numpy(),
            window_4=window_4.double().numpy() / size,
            calibrated_NK=None if calibrated is None else calibrated.astype(np.float32),
            distance_N=None if known is None else known.distance(out.pooled_global_BD.float().cpu().numpy()),
            heat_NHW=out.heat_BHW.float().cpu().numpy() if details else None,
            crop_NHW=_gray(out.crop_BCHW) if details else None,
        )

    def _sharp_size(self) -> int | None:
        """Side of the view that crops are cut from, where it is a sharper one than the network's."""
        if self.model.crop_source != "prepared":
            return None
        return sharp_size(self.prepared_size, image_size=self.model.image_size, resize=self.model.resize)

    def _read(self, film: Film, keep_film: int) -> _Read:
        radiograph = _radiograph(film)
        return _Read(
            name=radiograph.name,
            image_SS=resize(radiograph.pixels_HW, self.prepared_size),
            height=radiograph.height,
            width=radiograph.width,
            notes=radiograph.notes,
            intake=judge(radiograph),
            film_HW=_shrunk(radiograph, keep_film) if keep_film else None,
        )

    def _read_or_failure(self, film: Film, keep_film: int) -> _Read | Failure:
        try:
            return self._read(film, keep_film)
        except RadiographError as error:
            return Failure(_name(film), str(error))

    def _decoded(
        self, films: Iterable[Film], decoders: ThreadPoolExecutor, ahead: int, keep_film: int
    ) -> Iterator[_Read | Failure]:
        """Films as they were decoded, in order, at most `ahead` of them waiting."""
        waiting: deque[Future[_Read | Failure]] = deque()
        for film in films:
            waiting.append(decoders.submit(self._read_or_failure, film, keep_film))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _answer(self, batch: list[_Read | Failure]) -> list[Prediction | Failure]:
        """A batch through the network, in film coordinates; failures keep their places."""
        read = [film for film in batch if isinstance(film, _Read)]
        if not read:
            return list(batch)  # type: ignore[arg-type]  # only failures
        answers = self._predict(np.stack([film.image_SS for film in read]), details=True)
        row, cut = iter(range(len(read))), None if self.scale is None else self.scale.cut
        return [film if isinstance(film, Failure) else _prediction(film, answers, next(row), cut) for film in batch]


def _scale(model: AGCNN, point: Point, prevalence: Prevalence | None) -> Scale | None:
    calibration = model.card.calibration if model.card else None
    if calibration is not None:
        return Scale.of(calibration, tuple(model.labels), point, prevalence)
    if prevalence is not None:
        raise ValueError(
            f"the model is not calibrated, so its scores cannot be corrected for a prevalence of {prevalence}; "
            "leave the prevalence out, or calibrate the model (see docs/scores.md)"
        )
    return None


def _trained_on(model: AGCNN) -> int | None:
    """Side of the prepared films that the model was trained on, where its card says so."""
    if model.card is None:
        return None
    given = model.card.preprocessing
    if given.resize_rule != RESIZE_RULE:
        raise ValueError(
            f"the model was trained on films resized by the rule {given.resize_rule!r}, and this version of agcxr "
            f"resizes by {RESIZE_RULE!r}; predict with the version that trained it, {model.card.versions.get('agcxr')}"
        )
    return given.prepared_size


def _radiograph(film: Film) -> Radiograph:
    if isinstance(film, Radiograph):
        return film
    if isinstance(film, np.ndarray):
        return from_array(film)
    if isinstance(film, str | os.PathLike | bytes | bytearray | memoryview):
        return read_radiograph(film, name=_name(film))
    raise TypeError(f"a film is a path, bytes, a numpy array or a Radiograph, not {type(film).__name__}")


def _name(film: Film) -> str:
    """How answers call a film: a path as it was given."""
    if isinstance(film, Radiograph):
        return film.name
    if isinstance(film, str | os.PathLike):
        return os.fspath(film)
    return "array" if isinstance(film, np.ndarray) else "bytes"


def _shrunk(radiograph: Radiograph, longest: int) -> Bytes:
    """The film in 8 bits, no side longer than `longest`, aspect kept."""
    film = radiograph.to_uint8()
    scale = longest / max(film.shape)
    if scale >= 1:
        return film
    height, width = (max(round(side * scale), 1) for side in film.shape)
    return np.asarray(cv2.resize(film, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _prediction(film: _Read, answers: BatchPrediction, row: int, cut: Cut | None) -> Prediction:
    assert answers.heat_NHW is not None
    assert answers.crop_NHW is not None
    scale = np.array([film.width, film.height, film.width, film.height])
    x0, y0, x1, y1 = (answers.box_N4[row] * scale).tolist()
    wx0, wy0, wx1, wy1 = (answers.window_4 * scale).tolist()
    return Prediction(
        name=film.name,
        labels=answers.labels,
        global_K=answers.global_NK[row],
        local_K=answers.local_NK[row],
        fusion_K=answers.fusion_NK[row],
        box=(x0, y0, x1, y1),
        fallback=bool(answers.fallback_N[row]),
        heat_HW=answers.heat_NHW[row].copy(),  # a kept Prediction must not keep its whole batch
        window=(wx0, wy0, wx1, wy1),
        crop_HW=answers.crop_NHW[row].copy(),
        height=film.height,
        width=film.width,
        notes=film.notes,
        intake=film.intake & judge_distance(1.0 if answers.distance_N is None else float(answers.distance_N[row])),
        calibrated_K=None if answers.calibrated_NK is None else answers.calibrated_NK[row],
        cut=cut,
        film_HW=film.film_HW,
    )


def _joined(parts: list[BatchPrediction]) -> BatchPrediction:
    columns = [part._columns() for part in parts]
    joined: dict[str, Any] = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    return replace(parts[0], **joined)


def _probability(logit_BK: Tensor) -> Floats:
    return logit_BK.float().sigmoid().cpu().numpy()


def _gray(image_BCHW: Tensor) -> Bytes:
    return (image_BCHW[:, 0].float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _batches(films: Iterator[_Read | Failure], size: int) -> Iterator[list[_Read | Failure]]:
    batch: list[_Read | Failure] = []
    for film in films:
        batch.append(film)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
