"""The work of `agcxr predict`: any mix of files, folders and globs in; a CSV with one row a film out (see table.py).

Everything streams: folders are walked as films are needed, rows are written as they come, so memory does not grow with
the number of films. The CSV appears under its name only when it is complete.
"""

from __future__ import annotations

import csv
import itertools
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from agcxr.calibration import Point, Prevalence, parse_prevalence
from agcxr.inference.engine import Engine
from agcxr.inference.films import FilmFile, Films, with_pictures
from agcxr.inference.load import load_engine
from agcxr.inference.onnx_engine import RuntimeName
from agcxr.inference.prediction import Precision, Prediction, ViewSet
from agcxr.inference.stream import Film, to_film
from agcxr.inference.table import Table, Tally, Value, cells_of, open_csv
from agcxr.preflight import check_free
from agcxr.progress import ProgressBar

KEPT_FILM = 1024
"""Longest side of the film kept for a picture, in pixels."""


class Sink(Protocol):
    """Writes something of each film that was read beside its row: pictures, DICOM results."""

    @property
    def columns(self) -> tuple[str, ...]:
        """That it adds to the table."""
        ...

    def save(self, film: FilmFile, prediction: Prediction) -> Sequence[str | None]:
        """Write, and say what goes into the columns. `prediction` holds its film, at most KEPT_FILM pixels long."""


MakeSink: TypeAlias = Callable[[Any], Sink]
"""Of the engine that answers."""


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
    refused: int = 0
    """Rows of films that the model may not speak about; their rows hold no probabilities."""
    written: int = 0
    """Films with DICOM results."""
    without: tuple[tuple[str, int], ...] = ()
    """Reasons why films have none although they were asked for, with their counts, the commonest first."""
    averaged: str = ""
    """Over which models and views; see `Engine.words`."""

    @property
    def status(self) -> int:
        """Of the command: 1 where a film could not be read, or has no DICOM results although they were asked for."""
        return 1 if self.failed or self.without else 0

    def __str__(self) -> str:
        rate = self.films / self.seconds if self.seconds else 0.0
        parts = [f"{self.films:,} films in {self.seconds:.1f} s ({rate:.1f}/s)"]
        parts += [f"{self.failed:,} could not be read (see the column `error`)"] if self.failed else []
        parts += [f"{self.refused:,} refused at intake (see `intake_reason`)"] if self.refused else []
        parts += [f"{self.ignored:,} other files ignored"] if self.ignored else []
        parts += [f"no film in {', '.join(self.empty)}"] if self.empty else []
        parts += [f"no permission to read the folder {', '.join(self.closed)}"] if self.closed else []
        parts += [f"DICOM results of {self.written:,} films"] if self.written or self.without else []
        parts += [f"{count:,} without: {reason}" for reason, count in self.without[:5]]
        parts += [self.averaged] if self.averaged else []
        return f"{'; '.join(parts)}; written to {self.csv}"


@dataclass(frozen=True)
class Request:
    """What `agcxr predict` was asked for, as far as the table goes."""

    model: str
    inputs: tuple[str, ...]
    out: str
    """A CSV; on Ray also a .parquet file, or a folder or URI for many."""
    explain: Path | None = None
    dicom: Path | None = None
    objects: str = "sr,sc,seg"
    """DICOM results."""
    fhir: Path | None = None
    point: Point = "youden"
    prevalence: str | None = None
    batch_size: int = 16
    precision: Precision = "fp32"
    runtime: RuntimeName = "onnxruntime"
    others: tuple[str, ...] = ()
    """Models averaged with `model`."""
    views: ViewSet = "plain"
    overwrite: bool = False
    """What is there of the table, and in `folders`, is replaced."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """That are written into."""
        return tuple(folder for folder in (self.explain, self.dicom, self.fhir) if folder)

    @property
    def engine(self) -> dict[str, Any]:
        """Arguments of `load_engine` behind the model."""
        prevalence = None if self.prevalence is None else parse_prevalence(self.prevalence)
        options = {"precision": self.precision, "runtime": self.runtime, "others": self.others, "views": self.views}
        return {"point": self.point, "prevalence": prevalence, **options}


def predict_here(request: Request, also: Sequence[MakeSink] = ()) -> int:
    """Do a request in this process. Returns the exit status. Raises ValueError as `check_alone`, `check_free` and
    `predict_files`."""
    check_alone(os.environ)
    check_free([request.out], request.folders, overwrite=request.overwrite)
    summary = predict_files(
        request.model,
        request.inputs,
        request.out,
        explain_dir=request.explain,
        batch_size=request.batch_size,
        also=also,
        leave_out=request.folders,
        **request.engine,
    )
    return summary.status


def check_alone(environ: Mapping[str, str]) -> None:
    """Raises ValueError in one of several processes of torchrun or srun, which would all write the same table."""
    for rank, world in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        if rank in environ and environ.get(world, "1") not in ("", "1"):
            raise ValueError(
                f"{world} says that {environ[world]} processes were started, and each would write the whole table: "
                "start the command once, with --devices; for several machines on a Ray cluster (see docs/scale.md)"
            )


def predict_files(
    model: str | os.PathLike[str],
    inputs: Sequence[str],
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
    also: Sequence[MakeSink] = (),
    leave_out: Sequence[str | os.PathLike[str]] = (),
    runtime: RuntimeName = "onnxruntime",
    others: Sequence[str] = (),
    views: ViewSet = "plain",
) -> Summary:
    """Predict every film among `inputs`, in this process.

    Args:
        model: run folder, model folder, hub id, or a file that `agcxr export` wrote (torch is not imported then).
        inputs: files, folders (searched at any depth), archives and glob patterns, in any mix. A film given twice gets
            two rows.
        explain_dir: write a picture per film into this folder.
        workers: threads that decode films; default: one a core.
        point, prevalence: for a calibrated model, where findings are called and how common they are; see `Predictor`.
        progress: show a bar with the rate, and the summary, on stderr.
        also: what else is written of each film; made from the loaded engine.
        leave_out: folders in which no films are looked for, such as those that `also` writes into.
        runtime: of an exported file.
        others, views: further models, and views of every film, to average over; see `load_engine`.

    Raises ValueError where an input does not exist, no input holds a film, or `out_csv` is a folder; nothing is written
    then.
    """
    target = checked_target(out_csv)
    pictures = Path(explain_dir) if explain_dir else None
    films, walk = open_films(inputs, [*([pictures] if pictures else []), *leave_out])
    looks: dict[str, Any] = {"others": others, "views": views}
    engine = load_engine(model, device, precision, point, prevalence, runtime=runtime, **looks)
    start = time.perf_counter()
    sinks = [make(engine) for make in also]
    options: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "progress": progress}
    tally = write_predictions(engine, walk, target, pictures, sinks=sinks, **options)
    seconds = time.perf_counter() - start
    summary = summarise(target, tally, films.ignored, films.empty, films.closed, seconds, engine.words)
    if progress:
        print(summary, file=sys.stderr)
    return summary


def checked_target(out_csv: str | os.PathLike[str]) -> Path:
    """The CSV to write. Raises ValueError where that cannot be its name."""
    target = Path(out_csv)
    if target.is_dir():
        raise ValueError(f"{target} is a folder; expected the name of a CSV file to write, such as {target}/films.csv")
    if target.suffix.lower() == ".parquet":
        raise ValueError(f"{target} is the name of a Parquet file, which --engine ray writes; expected that of a CSV")
    return target


def open_films(inputs: Sequence[str], leave_out: Sequence[str | os.PathLike[str]]) -> tuple[Films, Iterator[FilmFile]]:
    """The films of `inputs` and the walk through them, begun: there is one. Raises ValueError as `predict_files`."""
    if not inputs:
        raise ValueError("no films were given; expected files, folders or glob patterns after the model")
    films = Films(list(inputs), leave_out=tuple(leave_out))
    walk = iter(films)
    first = next(walk, None)  # before the model is loaded: a mistyped folder should not cost seconds
    if first is None:
        raise ValueError(f"no film found in {', '.join(inputs)}; {films.looked_for()}")
    return films, itertools.chain([first], walk)


def summarise(
    target: Path,
    tally: Tally,
    ignored: int,
    empty: Sequence[str],
    closed: Sequence[str],
    seconds: float,
    averaged: str = "",
) -> Summary:
    """The walk must have come to its end."""
    return Summary(
        target,
        tally.rows,
        tally.failed + len(closed),
        ignored,
        tuple(empty),
        tuple(closed),
        seconds,
        refused=tally.refused,
        written=tally.written,
        without=tuple(tally.without.most_common()),
        averaged=averaged,
    )


def write_predictions(
    engine: Engine,
    films: Iterable[FilmFile],
    target: Path,
    explain_dir: Path | None = None,
    *,
    sinks: Sequence[Sink] = (),
    batch_size: int = 16,
    workers: int | None = None,
    progress: bool = False,
) -> Tally:
    """Stream films through an engine into a CSV.

    Until the last row the file is called `<target>.partial`; an interruption leaves that behind, complete to its end.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    if explain_dir:
        films, sinks = with_pictures(films), [Pictures(explain_dir), *sinks]
    table = table_of(engine, sinks)
    tally = Tally(table.columns)
    bar = ProgressBar(desc="predict", unit=" films", disable=not progress, smoothing=0.1)
    with open_csv(partial, "w") as file, bar:
        rows = csv.writer(file)
        rows.writerow(table.columns)
        for row in predicted(engine, table, films, sinks, batch_size=batch_size, workers=workers):
            rows.writerow(cells_of(table.columns, row))
            tally.add(row)
            bar.update()
            if tally.failed:
                bar.set_postfix(failed=tally.failed, refresh=False)
    os.replace(partial, target)
    return tally


def table_of(engine: Engine, sinks: Sequence[Sink]) -> Table:
    """The columns of an engine's answers and of what is written beside them."""
    also = tuple(name for sink in sinks for name in sink.columns)
    return Table(engine.labels, engine.calibrated, also, several=engine.crops > 1)


def predicted(
    engine: Engine,
    table: Table,
    films: Iterable[FilmFile],
    sinks: Sequence[Sink],
    *,
    batch_size: int = 16,
    workers: int | None = None,
) -> Iterator[list[Value]]:
    """The rows of films in order; what the sinks write is on disk when a row comes."""
    waiting: deque[FilmFile] = deque()
    inputs = _remembered(films, waiting)
    for result in engine.stream(inputs, batch_size=batch_size, workers=workers, keep_film=KEPT_FILM if sinks else 0):
        film = waiting.popleft()
        also: list[str | None] = []
        if isinstance(result, Prediction):
            for sink in sinks:
                also += sink.save(film, result)
        yield table.values(film.name, result, also)


def _remembered(films: Iterable[FilmFile], waiting: deque[FilmFile]) -> Iterator[Film]:
    """The films for the engine, which keeps their order; `waiting` holds those under way."""
    for film in films:
        waiting.append(film)
        yield to_film(film)


class Pictures:
    """Writes pictures into a folder, named as `films.with_pictures` has it. truth: by the name of a film's file, the
    findings that its labels state."""

    columns = ("picture",)

    def __init__(self, folder: Path, truth: Mapping[str, Collection[str]] | None = None) -> None:
        self._folder, self._truth = folder, truth or {}

    def save(self, film: FilmFile, prediction: Prediction) -> tuple[str]:
        """The column has the picture's path."""
        from agcxr.inference.explain import save_picture  # a table alone needs no drawing

        truth = self._truth.get(film.path.name)
        return (str(save_picture(prediction, self._folder / film.relative, truth=truth)),)
