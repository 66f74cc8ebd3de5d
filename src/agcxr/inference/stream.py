"""Films in, Predictions out, whatever computes: reading ahead in threads, batches, and answers in film coordinates.

An engine computes a BatchPrediction of prepared films (engine.py); everything around it is here. No torch.

Shape suffixes: N films, B films of a batch, D features, K labels, S side of the prepared film, H W pixels of the view,
4 a box (x0, y0, x1, y1) with exclusive end.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from agcxr.calibration import Cut
from agcxr.data.radiograph import Radiograph, RadiographError, from_array, read_radiograph, resize
from agcxr.inference.novelty import judge_distance
from agcxr.inference.prediction import Bytes, Failure, Floats, Prediction
from agcxr.intake import Intake, judge


@dataclass(frozen=True)
class Remote:
    """A film whose bytes are fetched when its turn comes, in the threads that decode. `read` may raise OSError."""

    name: str
    read: Callable[[], bytes]


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
    plateau_N: npt.NDArray[np.float64] | None = None
    """Share of the view that has the heatmap's highest value, see attended.py."""
    feature_ND: Floats | None = None
    """Pooled features of the global branch; None where the engine gives none."""
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
class Read:
    """A film ready for an engine, and what its Prediction says about it."""

    name: str
    image_SS: Bytes
    height: int
    width: int
    notes: tuple[str, ...]
    intake: Intake
    film_HW: Bytes | None


Film: TypeAlias = str | os.PathLike[str] | bytes | npt.NDArray[Any] | Radiograph | Remote | Read


Compute = Callable[[Bytes, bool], BatchPrediction]
"""Prepared films, uint8 B x S x S, and whether heatmaps and crops are wanted -> answers."""


@dataclass(frozen=True, eq=False)
class Desk:
    """Takes films of any kind for one engine and hands back its answers.

    size: side S of the films that `compute` takes. cut, version: operating point and model named in Predictions.
    """

    compute: Compute
    size: int
    cut: Cut | None = None
    version: Callable[[], str] = str

    def one(self, film: Film, keep_film: int) -> Prediction:
        """Predict one film. Raises RadiographError where it cannot be read."""
        (prediction,) = self._answer([read_film(film, self.size, keep_film)])
        assert isinstance(prediction, Prediction)
        return prediction

    def stream(
        self, films: Iterable[Film], batch_size: int, workers: int | None, keep_film: int
    ) -> Iterator[Prediction | Failure]:
        """Any number of films, in their order; memory holds a few batches whatever their number.

        `workers` threads (default: one a core) decode ahead while one computes. A film that cannot be read is a
        Failure in its place. Closing the iterator early stops the threads.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1")
        decoders = ThreadPoolExecutor(workers or cores(), "agcxr-decode")
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

    def arrays(
        self,
        images_NSS: Bytes,
        rows: npt.ArrayLike | None = None,
        *,
        batch_size: int = 32,
        details: bool = False,
        progress: bool = False,
    ) -> BatchPrediction:
        """Films that are prepared already, such as the memory-mapped pixels of a prepared folder.

        images_NSS: uint8 of side `size`, read a batch at a time. rows: which of them, in the order of the answer.
        Raises ValueError for films of another size or type.
        """
        size = self.size
        if images_NSS.dtype != np.uint8 or images_NSS.shape[1:] != (size, size):
            raise ValueError(
                f"films are {images_NSS.dtype} {images_NSS.shape}; this model expects uint8 (N, {size}, {size}): "
                f"prepare them with --size {size}"
            )
        chosen = np.arange(len(images_NSS)) if rows is None else np.asarray(rows, dtype=np.int64)
        if not len(chosen):
            return self.compute(np.zeros((1, size, size), np.uint8), details)[:0]
        parts = []
        with tqdm(total=len(chosen), unit=" films", disable=not progress) as bar:
            for start in range(0, len(chosen), batch_size):
                some = chosen[start : start + batch_size]
                parts.append(self.compute(np.asarray(images_NSS[some]), details))
                bar.update(len(some))
        return _joined(parts)

    def _read_or_failure(self, film: Film, keep_film: int) -> Read | Failure:
        try:
            return read_film(film, self.size, keep_film)
        except RadiographError as error:
            return Failure(_name(film), str(error))

    def _decoded(
        self, films: Iterable[Film], decoders: ThreadPoolExecutor, ahead: int, keep_film: int
    ) -> Iterator[Read | Failure]:
        """Films as they were decoded, in order, at most `ahead` of them waiting."""
        waiting: deque[Future[Read | Failure]] = deque()
        for film in films:
            waiting.append(decoders.submit(self._read_or_failure, film, keep_film))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _answer(self, batch: list[Read | Failure]) -> list[Prediction | Failure]:
        """A batch through the engine, in film coordinates; failures keep their places."""
        read = [film for film in batch if isinstance(film, Read)]
        if not read:
            return list(batch)  # type: ignore[arg-type]  # only failures
        answers = self.compute(np.stack([film.image_SS for film in read]), True)
        row, model = iter(range(len(read))), self.version()
        return [
            film if isinstance(film, Failure) else _prediction(film, answers, next(row), self.cut, model)
            for film in batch
        ]


def read_film(film: Film, size: int, keep_film: int) -> Read:
    """A film for an engine that takes S = `size`. One that was read before, in another process, stays as it is.

    Raises RadiographError where it cannot be read.
    """
    if isinstance(film, Read):
        return film
    radiograph = _radiograph(film)
    return Read(
        name=radiograph.name,
        image_SS=resize(radiograph.pixels_HW, size),
        height=radiograph.height,
        width=radiograph.width,
        notes=radiograph.notes,
        intake=judge(radiograph),
        film_HW=_shrunk(radiograph, keep_film) if keep_film else None,
    )


def _radiograph(film: Film) -> Radiograph:
    if isinstance(film, Radiograph):
        return film
    if isinstance(film, np.ndarray):
        return from_array(film)
    if isinstance(film, Remote):
        return read_radiograph(_fetched(film), name=film.name)
    if isinstance(film, str | os.PathLike | bytes | bytearray | memoryview):
        return read_radiograph(film, name=_name(film))
    raise TypeError(f"a film is a path, bytes, a numpy array or a Radiograph, not {type(film).__name__}")


def _fetched(film: Remote) -> bytes:
    try:
        return film.read()
    except OSError as error:
        raise RadiographError(f"{film.name} cannot be fetched: {error}") from error


def _name(film: Film) -> str:
    """How answers call a film: a path as it was given."""
    if isinstance(film, Radiograph | Remote | Read):
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


def _prediction(film: Read, answers: BatchPrediction, row: int, cut: Cut | None, model: str) -> Prediction:
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
        model=model,
        features=None if answers.feature_ND is None else answers.feature_ND[row].copy(),
        film_HW=film.film_HW,
    )


def _joined(parts: list[BatchPrediction]) -> BatchPrediction:
    columns = [part._columns() for part in parts]
    joined: dict[str, Any] = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    return replace(parts[0], **joined)


def _batches(films: Iterator[Read | Failure], size: int) -> Iterator[list[Read | Failure]]:
    batch: list[Read | Failure] = []
    for film in films:
        batch.append(film)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
