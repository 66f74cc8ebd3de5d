"""`agcxr predict` by several devices or machines, on Ray Data: those of a cluster, or of this one.

One task walks through the films and packs them into batches, a batch a row of the dataset; what only the walk can read
(members of archives, DICOMweb) goes with its bytes. Actors hold an engine each and write the rows of a batch as a part
(see parts.py), with pictures and DICOM results beside it. So the driver sees counts only, everything in between is some
batches, whatever the number of films, and a batch whose actor died is done again by another one.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from agcxr import __version__
from agcxr.data.radiograph import RadiographError
from agcxr.inference.batch import (
    MakeSink,
    Pictures,
    Request,
    check_alone,
    open_films,
    predicted,
    summarise,
    table_of,
)
from agcxr.inference.ensemble import all_runs, average_file
from agcxr.inference.films import FilmFile, remote_film, with_pictures
from agcxr.inference.load import load_engine
from agcxr.inference.onnx_engine import is_exported
from agcxr.inference.parts import WALK, Job, Parts, Walked, rows_of
from agcxr.inference.remote import is_uri
from agcxr.inference.stream import batches
from agcxr.preflight import check_free
from agcxr.progress import ProgressBar
from agcxr.starter import model_path

BATCHES = 4
"""Of the network in one part, so that decoding and computing overlap within it."""

FETCHERS = 16
"""Threads of an actor that fetch and decode remote films; they mostly wait."""


def predict_on_ray(request: Request, *, devices: int = 1, nodes: int = 1, also: Sequence[MakeSink] = ()) -> int:
    """Do a request on the Ray cluster that RAY_ADDRESS names, or on one made of this machine. Returns the exit status.

    Args:
        request: all machines must see its model, films and folders under the same paths, or as URIs.
        devices: actors; each gets a GPU where the cluster has any.
        nodes: must be 1: which machines there are, the cluster knows.
        also: what else is written of each film; made from the loaded engine.

    Raises:
        ValueError: Ray is not installed; devices that are not there; finished rows of another job; results that are
            there already (unless the request overwrites them); as `predict_files`.
        ChildProcessError: an actor died again and again; what is finished is kept, and it says how to go on.
    """
    _check(devices, nodes, os.environ)
    start, parts = time.perf_counter(), Parts(request.out)
    check_free([request.out], overwrite=request.overwrite)
    if not parts.begun:  # else the folders hold what the same job, which goes on, has written
        check_free(folders=request.folders, overwrite=request.overwrite)
    ray = _ray()
    open_films(request.inputs, request.folders)  # a mistyped folder is told before anything is started
    parts.begin(_job(request))
    with parts.owned(), _Cluster(ray):
        cpus, gpus = _share(ray, request, devices)
        work = Work(request, tuple(also), os.getcwd(), cpus, "cuda" if gpus else "cpu")
        averaged = _run(ray, work, parts, devices, gpus)
    tally, walked = parts.finish()
    seconds = time.perf_counter() - start
    summary = summarise(Path(request.out), tally, walked.ignored, walked.empty, walked.closed, seconds, averaged)
    print(f"{str(summary).removesuffix(str(summary.csv))}{request.out} by {devices} actors", file=sys.stderr)
    return summary.status


def _check(devices: int, nodes: int, environ: Mapping[str, str]) -> None:
    if devices < 1:
        raise ValueError(f"--devices is {devices}; expected at least 1")
    if nodes != 1:
        raise ValueError(
            f"--nodes is {nodes}, but a Ray cluster knows its machines: leave it out; --devices is the number of actors"
        )
    check_alone(environ)


def _ray() -> Any:
    # Under `uv run` Ray would pack the working folder and build the environment anew for every worker.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody unless asked for
    os.environ.setdefault("RAY_worker_niceness", "0")  # its workers are the command, and no work beside it
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its messages are about itself
    import ray
    import ray.data

    return ray


def _job(request: Request) -> Job:
    """The identity of a request."""
    runs = all_runs(request.model, request.others)
    averaged = len(runs) > 1 or request.views != "plain"
    files = (*runs, *[str(average_file(request.model, request.views))] * averaged)
    other = {"model", "inputs", "out", "batch_size", "overwrite"}
    asked = {field.name: getattr(request, field.name) for field in fields(request) if field.name not in other}
    return Job(
        version=__version__,
        model=request.model,
        fingerprint=" ".join(map(fingerprint, files)),
        inputs=request.inputs,
        options=tuple(f"{name} {value}" for name, value in asked.items()),
        films=BATCHES * request.batch_size,
    )


def fingerprint(model: str) -> str:
    """Of a model's files, 16 hex digits; of a hub id, its name (0.2 s for 200 MB)."""
    root = model_path(model)
    folder = root if (root / "config.json").is_file() else root / "model"
    digest = hashlib.blake2b(model.encode() if not root.exists() else b"", digest_size=8)
    for path in (root, folder / "config.json", folder / "model.safetensors"):
        if path.is_file():
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


class _Cluster:
    """Ray, begun and ended here unless the process has begun it before."""

    def __init__(self, ray: Any) -> None:
        self._ray, self._ours = ray, not ray.is_initialized()

    def __enter__(self) -> None:
        if self._ours:
            local = {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
            self._ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)

    def __exit__(self, *error: object) -> None:
        if self._ours:
            self._ray.shutdown()


def _share(ray: Any, request: Request, devices: int) -> tuple[int, int]:
    """Cores and GPUs of an actor. Raises ValueError for more actors than the cluster has devices."""
    have = ray.cluster_resources()
    gpu = have.get("GPU", 0) >= 1 and not is_exported(request.model)
    kind, there = ("GPUs", have.get("GPU", 0)) if gpu else ("processor cores", have.get("CPU", 0))
    if devices > there:
        raise ValueError(
            f"{devices} devices were asked for, but the cluster has {there:.0f} {kind}; "
            f"give --devices {there:.0f} or fewer"
        )
    return max(1, int(have.get("CPU", 1)) // devices), int(gpu)


def _run(ray: Any, work: Work, parts: Parts, devices: int, gpus: int) -> str:
    """Until all parts are there. Returns what answers are averages of (see `Engine.words`)."""
    rows, averaged = parts.rows(), ""
    try:
        with ProgressBar(desc="predict", unit=" films", smoothing=0.1, initial=rows) as bar:
            for batch in _dataset(ray, work, devices, gpus).iter_batches(batch_size=None, prefetch_batches=0):
                if error := next((text for text in batch["error"] if text), None):
                    raise ValueError(error)
                averaged = str(batch["averaged"][0]) or averaged
                bar.update(int(batch["films"].sum()))
    except ray.exceptions.RayError as error:
        raise ChildProcessError(
            f"the actors did not finish ({str(error).splitlines()[0][:200]}). {parts.kept()}"
        ) from error
    return averaged


def _dataset(ray: Any, work: Work, devices: int, gpus: int) -> Any:
    """The counts of all batches, still to be computed."""
    from ray.data.block import BlockMetadata
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Walk(ray.data.Datasource):  # type: ignore[misc, name-defined]
        def estimate_inmemory_data_size(self) -> None:
            return None

        def get_read_tasks(self, *_: object, **__: object) -> list[Any]:
            unknown = dict.fromkeys(("num_rows", "size_bytes", "input_files", "exec_stats"))
            return [ray.data.ReadTask(work.walk, BlockMetadata(**unknown))]

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # a row is a batch of films: each a block of its own, and on its way at once
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    found = ray.data.read_datasource(Walk(), override_num_blocks=1, num_cpus=0, scheduling_strategy=here)
    return found.map_batches(
        Answerer,
        fn_constructor_args=(work,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=devices),
        num_cpus=work.threads,
        num_gpus=gpus,
    )


# --- in the workers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """What the walk and the actors must know."""

    request: Request
    also: tuple[MakeSink, ...]
    folder: str
    """In which the command was given."""
    threads: int
    """That decode, and of an exported file."""
    device: str
    """ "cuda" (Ray shows an actor its own GPU only) or "cpu"."""

    def enter(self) -> Parts:
        """Names mean here what they mean where the command was given."""
        if os.path.isdir(self.folder):
            os.chdir(self.folder)
        return Parts(self.request.out)

    def walk(self) -> Iterator[pa.Table]:
        """All batches whose rows are not there yet, one a table of one row; at last a row that says what is wrong."""
        wrong = ""
        try:
            yield from map(_packed, self._left(self.enter()))
        except (ValueError, OSError) as error:
            wrong = str(error)
        yield pa.table({"place": [-1], "error": [wrong]})

    def _left(self, parts: Parts) -> Iterator[list[FilmFile]]:
        request, there = self.request, set(parts.places())
        own = [] if is_uri(request.out) else [Path(parts.where)]
        films, walk = open_films(request.inputs, [*own, *request.folders])
        count = 0
        for batch in batches(with_pictures(walk) if request.explain else walk, BATCHES * request.batch_size):
            count += len(batch)
            if batch[0].place not in there:
                yield batch
                continue
            for image, film in itertools.zip_longest(parts.images(batch[0].place), batch):
                if film is None or image != _text(film.name):
                    now = "there are no more" if film is None else f"it is {film.name}"
                    raise ValueError(
                        f"the films have changed since {parts.where} was begun: its next film is {image}, and now "
                        f"{now}; delete that folder to begin anew"
                    )
        walked = Walked(films=count, ignored=films.ignored, empty=tuple(films.empty), closed=tuple(films.closed))
        parts.write(WALK, walked.model_dump_json().encode())


def _packed(batch: list[FilmFile]) -> pa.Table:
    """A batch as a row. Names are bytes, as a file system may hold any."""
    films = [
        {"name": os.fsencode(film.name), "relative": os.fsencode(film.relative), **_carried(film)} for film in batch
    ]
    kind = pa.struct([("name", pa.binary()), ("relative", pa.binary()), ("data", pa.binary()), ("reason", pa.string())])
    return pa.table({"place": [batch[0].place], "films": pa.array([films], pa.list_(kind))})


def _carried(film: FilmFile) -> dict[str, bytes | str]:
    """The bytes of a film that only the walk can read, or why it cannot."""
    if film.fetch is None or film.uri:
        return {}
    try:
        return {"data": film.fetch()}
    except RadiographError as error:
        return {"reason": str(error)}
    except OSError as error:
        return {"reason": f"{film.name} cannot be fetched: {error}"}


def _unpacked(films: Sequence[Mapping[str, Any]], start: int) -> Iterator[FilmFile]:
    for place, film in enumerate(films, start):
        name, relative = os.fsdecode(film["name"]), Path(os.fsdecode(film["relative"]))
        uri = name if is_uri(name) else ""
        fetch = remote_film(uri).fetch if uri else None
        if film["data"] is not None or film["reason"] is not None:
            fetch = partial(_given, film["data"], film["reason"])
        yield FilmFile(Path(name), relative, place, fetch, uri)


def _given(data: bytes | None, reason: str | None) -> bytes:
    if data is None:
        raise RadiographError(reason or "it is empty")
    return data


class Answerer:
    """An actor: an engine, and batches of films through it. What is wrong is an answer too, so that it is told once."""

    def __init__(self, work: Work) -> None:
        self._work, self._parts = work, work.enter()
        self._answer: Callable[[int, Sequence[Mapping[str, Any]]], None] | None = None
        self._averaged = ""

    def __call__(self, row: pa.Table) -> pa.Table:
        """A batch -> how many films it has, when their rows are written."""
        (batch,) = row.to_pylist()
        films = batch.get("films") or ()
        error = batch.get("error")
        try:
            if error is None:
                self._write(batch["place"], films)
        except (ValueError, OSError) as problem:
            error = str(problem)
        told = {"films": [len(films)], "averaged": [self._averaged], "error": [error or ""]}
        return pa.table(told)

    def _write(self, start: int, films: Sequence[Mapping[str, Any]]) -> None:
        self._answer = self._answer or self._begun()
        self._answer(start, films)

    def _begun(self) -> Callable[[int, Sequence[Mapping[str, Any]]], None]:
        """The engine is loaded with the first batch, where somebody hears what is wrong with it."""
        work, request = self._work, self._work.request
        on_file = {"threads": work.threads} if is_exported(request.model) else {"device": work.device}
        engine = load_engine(request.model, **on_file, **request.engine)
        sinks = [*([Pictures(request.explain)] if request.explain else []), *(make(engine) for make in work.also)]
        table, self._averaged = table_of(engine, sinks), engine.words

        def answer(start: int, films: Sequence[Mapping[str, Any]]) -> None:
            remote = any(b"://" in film["name"] for film in films)
            workers = max(FETCHERS, work.threads) if remote else work.threads
            size = request.batch_size
            rows = predicted(engine, table, _unpacked(films, start), sinks, batch_size=size, workers=workers)
            self._parts.begin_part(start)
            self._parts.write_part(start, rows_of(table, start, [[_text(str(row[0])), *row[1:]] for row in rows]))

        return answer


def _text(name: str) -> str:
    """A name as tables hold it: valid UTF-8."""
    return name.encode(errors="backslashreplace").decode()
