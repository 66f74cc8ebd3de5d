"""`agcxr predict --engine ray`: above one machine's reach, on Ray Data. Film URIs in, Parquet out.

Actors hold a model each and answer for batches of URIs; the films' bytes are fetched where they are read. The columns
are those of the CSV (see table.py), typed, and `place`, the film's place among all, from 0. A single .parquet file has
its rows in that order; a folder has parts, each in order within itself.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from agcxr.calibration import Point, parse_prevalence
from agcxr.data.dicomweb import is_study
from agcxr.data.radiograph import SUFFIXES
from agcxr.inference.batch import summarise, table_of
from agcxr.inference.films import FilmFile, Films
from agcxr.inference.launch import Request
from agcxr.inference.load import load_engine
from agcxr.inference.onnx_engine import is_exported
from agcxr.inference.stream import Film, Remote
from agcxr.inference.table import EDGES, Table, Tally

BATCHES = 4
"""Of the network in one call of an actor, so that decoding and computing overlap within it."""

FETCHERS = 16
"""Threads of an actor that fetch and decode remote films; they mostly wait."""


@dataclass(frozen=True)
class Found:
    """What a walk found; complete after it."""

    ignored: int
    empty: tuple[str, ...]
    closed: tuple[str, ...]


def predict_on_ray(request: Request, out: str, *, actors: int = 1, nodes: int = 1) -> int:
    """Do a request on the Ray cluster that RAY_ADDRESS names, or on one made of this machine. Returns the exit status.

    Args:
        request: its `out` is not used.
        out: a .parquet file, or a folder or URI for many.
        actors: how many models; each gets a GPU where the cluster has any.
        nodes: must be 1: which machines there are, the cluster knows.

    Raises ValueError where Ray is not installed, for what this engine does not do, and as `predict_files`.
    """
    ray = _ray()
    _check(request, out, nodes)
    start = time.perf_counter()
    began = not ray.is_initialized()
    if began:
        _begin(ray)
    try:
        blocks, found = _listed(ray, request.inputs, BATCHES * request.batch_size)
        answers = _answers(ray, request, blocks, actors)
        tally = _write(answers, out)
    finally:
        if began:
            ray.shutdown()
    seconds = time.perf_counter() - start
    summary = summarise(Path(request.out), tally, found.ignored, found.empty, found.closed, seconds)
    print(str(summary).removesuffix(str(request.out)) + out, file=sys.stderr)
    return summary.status


def _ray() -> Any:
    # Under `uv run` Ray would pack the working folder and build the environment anew for every worker.
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    import ray
    import ray.data

    return ray


def _check(request: Request, out: str, nodes: int) -> None:
    if request.explain or request.dicom or request.fhir:
        raise ValueError(
            "--engine ray writes the table only; for pictures or DICOM results leave it out: --devices and --nodes "
            "share films over processes too (see docs/scale.md)"
        )
    if (request.precision, request.runtime) != ("fp32", "onnxruntime"):
        raise ValueError(
            "--engine ray computes in fp32, exported files on ONNX Runtime: leave out --precision, --runtime"
        )
    if request.others or request.views != "plain":
        raise ValueError("--engine ray computes one model on one view: leave out --also and --views, or the engine")
    if nodes != 1:
        raise ValueError(
            f"--nodes is {nodes}, but a Ray cluster knows its machines: leave it out; --devices is the number of actors"
        )
    if out.lower().endswith(".csv"):
        raise ValueError(f"--engine ray writes Parquet, and --out is {out}; give a .parquet file, a folder or a URI")
    if not out.lower().endswith(".parquet") and "://" not in out and Path(out).exists() and any(Path(out).iterdir()):
        raise ValueError(f"{out} is a folder with files in it; give the name of a new one")


def _begin(ray: Any) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody unless asked for
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
    else:
        ray.init(include_dashboard=False, log_to_driver=False)


# --- the films --------------------------------------------------------------------------------------------------------


def _listed(ray: Any, inputs: Sequence[str], size: int) -> tuple[list[Any], Found]:
    """References to blocks of (place, image), `size` films each, in Ray's store, and what the walk found."""
    if any(map(is_study, inputs)):
        raise ValueError("--engine ray reads no DICOMweb service; leave it out, or save the films as files first")
    Films([name for name in inputs if "://" not in name])  # what does not exist is told before anything is listed
    walks: list[Films] = []

    def below(name: str) -> Iterator[str]:
        if "://" in name:
            return _remote(name)
        walks.append(Films([name]))
        return map(_path, walks[-1])

    names = itertools.chain.from_iterable(map(below, inputs))
    blocks, place = [], 0
    while some := list(itertools.islice(names, size)):
        numbers = np.arange(place, place + len(some))
        blocks.append(ray.put(pa.table({"place": numbers, "image": pa.array(some, pa.string())})))
        place += len(some)
    if not place:
        raise ValueError(f"no film found in {', '.join(inputs)}; expected films, folders of films, globs or URIs")
    empty = tuple(one for walk in walks for one in walk.empty)
    closed = tuple(one for walk in walks for one in walk.closed)
    return blocks, Found(sum(walk.ignored for walk in walks), empty, closed)


def _path(film: FilmFile) -> str:
    """What actors read a film by. ValueError for a member of an archive, which another machine cannot."""
    if film.fetch is not None:
        raise ValueError(f"--engine ray does not look into archives, and {film.path} is in one: unpack it")
    return str(film.path)


def _remote(uri: str) -> Iterator[str]:
    """The film of a URI, or the films by name below it, sorted."""
    system, path = _filesystem(uri)
    (info,) = system.get_file_info([path])
    if info.type == fs.FileType.File:
        yield uri
        return
    if info.type == fs.FileType.NotFound:
        raise ValueError(f"there is nothing at {uri}; expected a film, or a folder of films")
    root = uri.rstrip("/")
    below = system.get_file_info(fs.FileSelector(path, recursive=True))
    for one in sorted(below, key=lambda one: str(one.path)):
        if one.type == fs.FileType.File and Path(one.path).suffix.lower() in SUFFIXES:
            yield root + str(one.path)[len(path.rstrip("/")) :]


def _filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise ValueError(f"{uri} cannot be opened ({error}); expected s3://, gs://, hdfs:// or file://") from error
    return system, path


def _fetch(uri: str) -> bytes:
    system, path = _filesystem(uri)
    with system.open_input_stream(path) as stream:
        return bytes(stream.read())


# --- the actors -------------------------------------------------------------------------------------------------------


class Answerer:
    """An actor: a model, and batches of films through it.

    Args:
        model, point, prevalence, batch_size: of the request.
        device: "cuda" (Ray shows an actor its own GPU only) or "cpu".
        threads: of an exported file, and that decode.
    """

    def __init__(
        self, model: str, point: Point, prevalence: str | None, batch_size: int, device: str | None, threads: int
    ) -> None:
        wanted = None if prevalence is None else parse_prevalence(prevalence)
        self._engine = load_engine(model, device, "fp32", point, wanted, threads=threads)
        self._table, self._batch_size, self._threads = table_of(self._engine, ()), batch_size, threads

    def __call__(self, block: dict[str, npt.NDArray[Any]]) -> pa.Table:
        """place and image of some films -> their rows."""
        images = [str(image) for image in block["image"]]
        remote = any("://" in image for image in images)
        films: Iterator[Film] = (Remote(image, partial(_fetch, image)) if "://" in image else image for image in images)
        workers = max(FETCHERS, self._threads) if remote else self._threads
        answers = self._engine.stream(films, batch_size=self._batch_size, workers=workers)
        rows = [self._table.values(image, answer) for image, answer in zip(images, answers, strict=True)]
        schema = schema_of(self._table)
        columns = [pa.array(block["place"], pa.int64())]
        columns += [
            pa.array([row[k] for row in rows], kind) for k, kind in enumerate(field.type for field in list(schema)[1:])
        ]
        return pa.table(columns, schema=schema)


def schema_of(table: Table) -> pa.Schema:
    """The types of the columns, with `place` before them."""
    texts = {"image", "intake", "intake_reason", "error"}
    whole = {"width": pa.int32(), "height": pa.int32(), "fallback": pa.int8()}

    def kind(name: str) -> pa.DataType:
        if name in texts:
            return pa.string()
        return pa.int8() if name.startswith("call_") else whole.get(name, _FLOATS.get(name, pa.float32()))

    return pa.schema([("place", pa.int64()), *((name, kind(name)) for name in table.columns)])


_FLOATS = dict.fromkeys(EDGES, pa.float64())


def _answers(ray: Any, request: Request, blocks: list[Any], actors: int) -> Any:
    """The rows as a dataset that is still to be computed."""
    have = ray.cluster_resources()
    gpu = have.get("GPU", 0) >= 1 and not is_exported(request.model)
    kind, there = ("GPUs", have.get("GPU", 0)) if gpu else ("processor cores", have.get("CPU", 0))
    if not 1 <= actors <= there:
        raise ValueError(
            f"{actors} devices were asked for, but the cluster has {there:.0f} {kind}; "
            f"give --devices {there:.0f} or fewer"
        )
    cpus = max(1, int(have.get("CPU", 1)) // actors)
    arguments = {
        "model": request.model if not Path(request.model).exists() else str(Path(request.model).absolute()),
        "point": request.point,
        "prevalence": request.prevalence,
        "batch_size": request.batch_size,
        "device": "cuda" if gpu else "cpu",
        "threads": cpus,
    }
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = sys.stderr.isatty()
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    return ray.data.from_arrow_refs(blocks).map_batches(
        Answerer,
        fn_constructor_kwargs=arguments,
        batch_size=BATCHES * request.batch_size,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=cpus,
        num_gpus=1 if gpu else 0,
    )


# --- the table --------------------------------------------------------------------------------------------------------


def _write(answers: Any, out: str) -> Tally:
    """Write the parts, and for a .parquet file put them together. Counts what the rows say."""
    free = {"num_cpus": 0}  # writing is light, and must not wait for a core that an actor holds
    if "://" in out or not out.lower().endswith(".parquet"):
        where = out if "://" in out else str(Path(out).absolute())
        answers.write_parquet(where, ray_remote_args=free)
        system, path = _filesystem(where) if "://" in where else (fs.LocalFileSystem(), where)
        return _count(ds.dataset(path, filesystem=system, format="parquet"))
    target = Path(out).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{target.name}.parts-", dir=target.parent) as folder:
        answers.write_parquet(folder, ray_remote_args=free)
        whole = target.with_name(f"{target.name}.partial")
        _join(list(Path(folder).glob("*.parquet")), whole)
    tally = _count(ds.dataset(whole, format="parquet"))
    os.replace(whole, target)
    return tally


def _join(parts: Sequence[Path], whole: Path) -> None:
    """Parts into one file, in the order of the films. Memory holds a batch."""
    ordered = sorted(
        parts, key=lambda part: next(pq.ParquetFile(part).iter_batches(1, columns=["place"]))[0][0].as_py()
    )
    place = 0
    with pq.ParquetWriter(whole, pq.read_schema(ordered[0])) as writer:
        for part in ordered:
            for batch in pq.ParquetFile(part).iter_batches():
                if batch["place"].to_numpy().tolist() != list(range(place, place + len(batch))):
                    raise RuntimeError(f"{part} does not go on with film {place}: Ray gave rows out of order")
                place += len(batch)
                writer.write_batch(batch)


def _count(rows: ds.Dataset) -> Tally:
    tally = Tally(("error", "intake"))
    for batch in rows.to_batches(columns=list(tally.columns)):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            tally.add(row)
    return tally
