"""The work of `agcxr predict`: any mix of files, folders and globs in; a CSV with one row a film out.

Everything streams: folders are walked as films are needed, rows are written as they come, so memory does not grow with
the number of films. The CSV appears under its name only when it is complete.

Its columns: `image`; `prob_<Finding>` of the fusion, then `global_` and `local_` ones; where the checkpoint holds a
calibration, `calibrated_` ones of the fusion (empty for findings too rare in validation) and `call_` ones (1 or 0,
empty without a threshold); `box_x0` ... `box_y1` in pixels of the original film; `width`, `height`; `fallback` (0 or
1); `intake` (accept, warn or refuse) and `intake_reason`; `error`; with pictures also `picture`. A film that cannot be
read is a row with only `image` and `error`.
"""

from __future__ import annotations

import csv
import itertools
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from tqdm import tqdm

from agcxr.calibration import Point, Prevalence
from agcxr.inference.explain import save_picture
from agcxr.inference.films import FilmFile, Films
from agcxr.inference.onnx_engine import OnnxPredictor, is_exported
from agcxr.inference.prediction import Failure, Precision, Prediction

if TYPE_CHECKING:
    from agcxr.inference.predictor import Predictor

KEPT_FILM = 1024
"""Longest side of the film kept for a picture, in pixels."""


class Engine(Protocol):
    """What answers: `Predictor`, or any other way to run a model."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def calibrated(self) -> bool: ...

    def stream(
        self, films: Iterable[Any], *, batch_size: int = ..., workers: int | None = ..., keep_film: int = ...
    ) -> Iterator[Prediction | Failure]: ...


@dataclass(frozen=True)
class Summary:
    """What a `predict` did."""

    csv: Path
    films: int
    """Rows written."""
    failed: int
    """Rows with an error, and folders that may not be read."""
    ignored: int
    """Files in the given folders that are no films by name."""
    empty: tuple[str, ...]
    """Inputs in which no film was found."""
    closed: tuple[str, ...]
    """Folders that may not be read."""
    seconds: float

    def __str__(self) -> str:
        rate = self.films / self.seconds if self.seconds else 0.0
        parts = [f"{self.films:,} films in {self.seconds:.1f} s ({rate:.1f}/s)"]
        parts += [f"{self.failed:,} could not be read (see the column `error`)"] if self.failed else []
        parts += [f"{self.ignored:,} other files ignored"] if self.ignored else []
        parts += [f"no film in {', '.join(self.empty)}"] if self.empty else []
        parts += [f"no permission to read the folder {', '.join(self.closed)}"] if self.closed else []
        return f"{'; '.join(parts)}; written to {self.csv}"


def predict_files(
    model: str | os.PathLike[str],
    inputs: list[str],
    out_csv: str | os.PathLike[str],
    *,
    explain_dir: str | os.PathLike[str] | None = None,
    batch_size: int = 16,
    workers: int | None = None,
    device: str | None = None,
    precision: Precision = "fp32",
    point: Point = "youden",
    prevalence: Prevalence | None = None,
    progress: bool = True,
    wrap: Callable[[Predictor], Engine] | None = None,
) -> Summary:
    """Predict every film among `inputs`.

    Args:
        model: run folder, model folder, hub id, or a file that `agcxr export` wrote (torch is not imported then).
        inputs: files, folders (searched at any depth) and glob patterns, in any mix. A film given twice gets two rows.
        explain_dir: write a picture per film into this folder.
        workers: threads that decode films; default: one a core.
        point, prevalence: for a calibrated model, where findings are called and how common they are; see `Predictor`.
        progress: show a bar with the rate, and the summary, on stderr.
        wrap: makes of the loaded model the engine that answers in its place, such as one that keeps more.

    Raises ValueError where an input does not exist, no input holds a film, or `out_csv` is a folder; nothing is written
    then.
    """
    target = Path(out_csv)
    if not inputs:
        raise ValueError("no films were given; expected files, folders or glob patterns after the model")
    if target.is_dir():
        raise ValueError(f"{target} is a folder; expected the name of a CSV file to write, such as {target}/films.csv")
    films = Films(inputs, leave_out=explain_dir)
    walk = iter(films)
    first = next(walk, None)  # before the model is loaded: a mistyped folder should not cost seconds
    if first is None:
        raise ValueError(f"no film found in {', '.join(inputs)}; {films.looked_for()}")
    engine = _engine(model, device, precision, point, prevalence, wrap)
    start = time.perf_counter()
    options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "progress": progress}
    pictures = Path(explain_dir) if explain_dir else None
    rows, failed = write_predictions(engine, itertools.chain([first], walk), target, pictures, **options)
    summary = _summary(films, target, rows, failed, time.perf_counter() - start)
    if progress:
        print(summary, file=sys.stderr)
    return summary


def _engine(
    model: str | os.PathLike[str],
    device: str | None,
    precision: Precision,
    point: Point,
    prevalence: Prevalence | None,
    wrap: Callable[[Predictor], Engine] | None,
) -> Engine:
    """What answers for `model`. Torch is imported only where it computes."""
    if is_exported(model):
        if wrap is not None or precision != "fp32" or device not in (None, "cpu"):
            raise ValueError(
                f"{model} is an exported file: it answers on the CPU in fp32, with a table and pictures; for DICOM "
                "results, another device or precision give the run folder"
            )
        return OnnxPredictor(model, point=point, prevalence=prevalence)
    from agcxr.inference.predictor import Predictor

    eager = Predictor.from_pretrained(model, device=device, precision=precision, point=point, prevalence=prevalence)
    return eager if wrap is None else wrap(eager)


def _summary(films: Films, target: Path, rows: int, failed: int, seconds: float) -> Summary:
    """Films must have been walked to the end."""
    closed = tuple(films.closed)
    return Summary(target, rows, failed + len(closed), films.ignored, tuple(films.empty), closed, seconds)


def write_predictions(
    engine: Engine,
    films: Iterable[FilmFile],
    target: Path,
    explain_dir: Path | None = None,
    *,
    batch_size: int = 16,
    workers: int | None = None,
    progress: bool = False,
) -> tuple[int, int]:
    """Stream films through an engine into a CSV. Returns how many rows were written, and how many are errors.

    Until the last row the file is called `<target>.partial`; an interruption leaves that behind, complete to its end.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    waiting: deque[FilmFile] = deque()
    count = failed = 0
    results = engine.stream(
        _remembered(films, waiting),
        batch_size=batch_size,
        workers=workers,
        keep_film=KEPT_FILM if explain_dir else 0,
    )
    pictures = _Pictures(explain_dir) if explain_dir else None
    # A file name that is not valid UTF-8 must not end the run, nor make a CSV that other programs cannot open.
    with (
        open(partial, "w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        tqdm(unit=" films", disable=not progress, smoothing=0.1) as bar,
    ):
        table = _Table(file, engine, pictures is not None)
        for result in results:
            film = waiting.popleft()
            picture = ""
            if pictures and isinstance(result, Prediction):
                picture = str(pictures.save(result, film))
            table.write(film, result, picture)
            count += 1
            failed += isinstance(result, Failure)
            bar.update()
            if failed:
                bar.set_postfix(failed=failed, refresh=False)
    os.replace(partial, target)
    return count, failed


def _remembered(films: Iterable[FilmFile], waiting: deque[FilmFile]) -> Iterator[Path]:
    """The paths for the engine, which keeps their order; `waiting` holds those under way."""
    for film in films:
        waiting.append(film)
        yield film.path


class _Table:
    """Rows of the CSV."""

    def __init__(self, file: TextIO, engine: Engine, pictures: bool) -> None:
        self._pictures = pictures
        self._calibrated = engine.calibrated
        prefixes = ("prob", "global", "local", *(["calibrated", "call"] if engine.calibrated else []))
        self._values = len(prefixes) * len(engine.labels) + 9
        self._rows = csv.writer(file)
        self._rows.writerow(
            [
                "image",
                *(f"{prefix}_{label}" for prefix in prefixes for label in engine.labels),
                *("box_x0", "box_y0", "box_x1", "box_y1", "width", "height", "fallback"),
                *("intake", "intake_reason", "error"),
                *(["picture"] if pictures else []),
            ]
        )

    def write(self, film: FilmFile, result: Prediction | Failure, picture: str) -> None:
        last = [picture] if self._pictures else []
        if isinstance(result, Failure):
            self._rows.writerow([str(film.path), *([""] * self._values), result.reason, *last])
            return
        branches = [result.fusion_K, result.global_K, result.local_K]
        meaning: list[int | str] = []
        if self._calibrated:
            assert result.calibrated_K is not None
            fitted = [True] * len(result.labels) if result.cut is None else result.cut.fitted_K.tolist()
            meaning = [f"{p:.6f}" if have else "" for p, have in zip(result.calibrated_K, fitted, strict=True)]
            meaning += ["" if call is None else int(call) for call in result.calls()]
        self._rows.writerow(
            [
                str(film.path),
                *(f"{p:.6f}" for branch in branches for p in branch),
                *meaning,
                *(f"{edge:.2f}" for edge in result.box),
                result.width,
                result.height,
                int(result.fallback),
                *(("", "") if result.intake is None else (result.intake.decision, "; ".join(result.intake.reasons))),
                "",
                *last,
            ]
        )


class _Pictures:
    """Writes pictures into a folder, laid out as the films were; films of one name get numbers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[Path] = set()

    def save(self, prediction: Prediction, film: FilmFile) -> Path:
        stem = film.relative.with_suffix("") if film.relative.suffix.lower() in Films.SUFFIXES else film.relative
        name = stem.with_name(f"{stem.name}.png")
        for number in itertools.count(2):
            if name not in self._used:
                break
            name = stem.with_name(f"{stem.name}-{number}.png")
        self._used.add(name)
        return save_picture(prediction, self._folder / name)
