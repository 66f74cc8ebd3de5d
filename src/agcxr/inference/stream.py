"""What engines are made of (engine.py), whatever computes: films read ahead in threads, batches, and answers in film
coordinates. No torch.

Shape suffixes: N films, B films of a batch, R boxes of a film, D features, K labels, S side of the prepared film, H W
pixels of the view, 4 a box (x0, y0, x1, y1) with exclusive end.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from agcxr.calibration import OperatingPoints
from agcxr.data.isolation import ChildError
from agcxr.data.radiograph import Radiograph, RadiographError, from_array, is_pixels, read_file, resize
from agcxr.findings import Findings
from agcxr.inference.films import FilmFile, Films
from agcxr.inference.novelty import judge_distance, judge_kind
from agcxr.inference.prediction import Box, Bytes, Failure, Floats, Prediction
from agcxr.inference.reading import PreparedFilm, Wish, read_apart, shrunk
from agcxr.intake import judge


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
    """The first box of each film."""
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
    """What the local branch saw in the first box; None unless details were asked for."""
    box_NR4: npt.NDArray[np.float64] | None = None
    """All boxes, in the order in which they were taken, without area where a film has fewer; None: one a film."""
    weight_NR: Floats | None = None
    """How much of what the local branch says is of each box: in [0, 1], the sum of a row 1; 0 where there is none."""

    def __len__(self) -> int:
        return len(self.fallback_N)

    def __getitem__(self, rows: slice) -> BatchPrediction:
        """Some of the films."""
        return replace(self, **{name: value[rows] for name, value in self._columns().items()})

    def boxes_of(self, row: int) -> tuple[npt.NDArray[np.float64], tuple[float, ...]]:
        """The boxes of a film, R4, as many as it has, and their weights."""
        if self.box_NR4 is None or self.weight_NR is None:
            return self.box_N4[row : row + 1], (1.0,)
        box_R4, weight_R = self.box_NR4[row], self.weight_NR[row]
        present_R = (box_R4[:, 2:] > box_R4[:, :2]).all(1)
        return box_R4[present_R], tuple(map(float, weight_R[present_R]))

    def _columns(self) -> dict[str, Any]:
        """What has a row a film."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if "_N" in field.name}
        return {name: value for name, value in values.items() if value is not None}


Item = TypeVar("Item")
Film: TypeAlias = str | os.PathLike[str] | bytes | npt.NDArray[Any] | Radiograph | Remote | PreparedFilm | Any
"""Any: a torch tensor or a PIL image, neither of which is imported for its name alone."""


def read_film(film: Film, size: int, keep_film: int) -> PreparedFilm:
    """A film for an engine that takes S = `size`. One that was read before, in another process, stays as it is.

    Raises RadiographError where it cannot be read.
    """
    if isinstance(film, PreparedFilm):
        return film
    if not isinstance(film, Radiograph) and not is_pixels(film):
        return _read_apart(film, size, keep_film)
    radiograph = film if isinstance(film, Radiograph) else from_array(film, _name(film))
    return PreparedFilm(
        name=radiograph.name,
        image_SS=resize(radiograph.pixels_HW, size),
        height=radiograph.height,
        width=radiograph.width,
        notes=radiograph.notes,
        intake=judge(radiograph),
        film_HW=shrunk(radiograph, keep_film) if keep_film else None,
    )


def read_ahead(
    films: Iterable[Film], size: int, keep_film: int, decoders: ThreadPoolExecutor, ahead: int
) -> Iterator[PreparedFilm | Failure]:
    """Films as `read_film` reads them, in order, at most `ahead` of them waiting; a Failure where one cannot be."""
    waiting: deque[Future[PreparedFilm | Failure]] = deque()
    for film in films:
        waiting.append(decoders.submit(read_or_failure, film, size, keep_film))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def read_or_failure(film: Film, size: int, keep_film: int) -> PreparedFilm | Failure:
    """`read_film`, or why it cannot be read."""
    try:
        return read_film(film, size, keep_film)
    except RadiographError as error:
        return Failure(_name(film), str(error))


def _read_apart(film: Film, size: int, keep_film: int) -> PreparedFilm:
    """What a file holds is a stranger's: it is read in the sandbox."""
    try:
        return replace(read_apart(_bytes(film), Wish(size, shown=keep_film)), name=_name(film))
    except ChildError as error:
        raise RadiographError(str(error)) from error
    except RadiographError as error:
        if isinstance(film, str | os.PathLike):
            error.add_note(f"the file: {os.fspath(film)}")
        raise


def _bytes(film: Film) -> bytes:
    if isinstance(film, bytes | bytearray | memoryview):
        return bytes(film)
    if isinstance(film, Remote):
        return _fetched(film)
    if isinstance(film, str | os.PathLike):
        return read_file(film)
    raise TypeError(
        "a film is a path, bytes, pixels (a numpy array, a torch tensor or a PIL image) or a Radiograph, not "
        f"{type(film).__name__}"
    )


def _fetched(film: Remote) -> bytes:
    try:
        return film.read()
    except OSError as error:
        raise RadiographError(f"{film.name} cannot be fetched: {error}") from error


def _name(film: Film) -> str:
    """How answers call a film: a path as it was given."""
    if isinstance(film, Radiograph | Remote | PreparedFilm):
        return film.name
    if isinstance(film, str | os.PathLike):
        return os.fspath(film)
    if is_pixels(film):
        return str(getattr(film, "filename", "") or "array")  # an image that PIL opened knows its file
    return "bytes"


def each_film(films: Iterable[Film] | Film) -> Iterable[Film]:
    """Films one by one: of a path those that it leads to, which may be many (a folder, an archive, a pattern); a film
    by itself; else what `films` iterates over. Raises ValueError for a path that leads nowhere."""
    if isinstance(films, str | os.PathLike):
        return map(to_film, Films([os.fspath(films)]))
    alone = isinstance(films, bytes | bytearray | memoryview | Radiograph | Remote | PreparedFilm)
    if alone or (is_pixels(films) and len(getattr(films, "shape", "HW")) == 2):
        return [films]
    return cast(Iterable[Film], films)


def to_film(file: FilmFile) -> Path | Remote:
    """A film that was found, for an engine."""
    return file.path if file.fetch is None else Remote(file.name, file.fetch)


def prediction_of(
    film: PreparedFilm,
    answers: BatchPrediction,
    row: int,
    findings: Findings,
    cut: OperatingPoints | None,
    model: str,
    trained_on: str | None,
) -> Prediction:
    """One row of an engine's answers, in film coordinates. findings, cut, model, trained_on: what is known of the
    labels, the operating point, who answered, and the collection that it learnt on."""
    assert answers.heat_NHW is not None
    assert answers.crop_NHW is not None
    scale = np.array([film.width, film.height, film.width, film.height])
    distance = 1.0 if answers.distance_N is None else float(answers.distance_N[row])
    box_R4, weights = answers.boxes_of(row)
    boxes: tuple[Box, ...] = tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in (box_R4 * scale).tolist())
    wx0, wy0, wx1, wy1 = (answers.window_4 * scale).tolist()
    return Prediction(
        name=film.name,
        labels=answers.labels,
        findings=findings,
        global_K=answers.global_NK[row],
        local_K=answers.local_NK[row],
        fusion_K=answers.fusion_NK[row],
        box=boxes[0],
        boxes=boxes,
        weights=weights,
        fallback=bool(answers.fallback_N[row]),
        heat_HW=answers.heat_NHW[row].copy(),  # a kept Prediction must not keep its whole batch
        window=(wx0, wy0, wx1, wy1),
        crop_HW=answers.crop_NHW[row].copy(),
        height=film.height,
        width=film.width,
        notes=film.notes,
        intake=film.intake and film.intake & judge_distance(distance) & judge_kind(trained_on, film.notes),
        calibrated_K=None if answers.calibrated_NK is None else answers.calibrated_NK[row],
        cut=cut,
        model=model,
        features=None if answers.feature_ND is None else answers.feature_ND[row].copy(),
        film_HW=film.film_HW,
    )


def joined(parts: list[BatchPrediction]) -> BatchPrediction:
    """Answers for several batches as those for one."""
    columns = [part._columns() for part in parts]
    joined: dict[str, Any] = {name: np.concatenate([column[name] for column in columns]) for name in columns[0]}
    return replace(parts[0], **joined)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Items in lists of `size`; the last may be shorter."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
