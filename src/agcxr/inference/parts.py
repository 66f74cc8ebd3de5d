"""The finished rows of a large `predict`, in parts that whoever writes them writes whole, and the table made of them.

A part holds the rows of some films in a row, in Parquet, and is named by the place of the first. They lie beside the
table (`<out>.parts`), or are the table where that is a folder. What is there is kept, whatever ends the command: the
same command goes on behind it.
"""

from __future__ import annotations

import csv
import errno
import io
import itertools
import os
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs
from pydantic import ValidationError

from agcxr.inference.remote import file_system, is_uri
from agcxr.inference.table import EDGES, Table, Tally, Value, cells_of, open_csv
from agcxr.values import Frozen

JOB, WALK, MARK = "_job.json", "_walk.json", ".begun"
LIVES = 3
"""How many processes may die of the same part."""


class Job(Frozen):
    """What decides the rows: parts belong to one such job."""

    version: str
    model: str
    fingerprint: str
    """Of the model's files."""
    inputs: tuple[str, ...]
    options: tuple[str, ...]
    """Flags that change rows or what is written beside them."""
    films: int
    """Of a part."""


class Walked(Frozen):
    """What a walk through all films came upon."""

    films: int
    ignored: int
    empty: tuple[str, ...]
    closed: tuple[str, ...]


class Parts:
    """The folder of a table's parts. `out`: a CSV, a .parquet file, or a folder or URI for the parts themselves."""

    def __init__(self, out: str) -> None:
        self.out, self.is_file = out, not is_uri(out) and out.lower().endswith((".csv", ".parquet"))
        self.where = f"{out}.parts" if self.is_file else out
        if is_uri(out):
            self._system, self._root = file_system(out)
        else:
            self._system, self._root = fs.LocalFileSystem(), str(Path(self.where).absolute())

    @property
    def begun(self) -> bool:
        """Whether a job is under way here, perhaps one that ended before its end."""
        return self._is_there(JOB)

    def begin(self, job: Job) -> None:
        """Make the folder. Raises ValueError where it holds anything but parts of the same job."""
        entries = self._entries()
        if not entries:
            self._system.create_dir(self._root, recursive=True)
        elif JOB not in entries:
            raise ValueError(f"{self.where} is a folder with files in it; give the name of a new one")
        else:
            self._check(job)
            for name in entries:
                if name.endswith(MARK):  # who began that ended with the command
                    self._system.delete_file(f"{self._root}/{name}")
            return
        self.write(JOB, job.model_dump_json().encode())

    def _check(self, job: Job) -> None:
        try:
            before = Job.model_validate_json(self.read(JOB))
        except ValidationError:
            raise ValueError(
                f"{self.where}/{JOB} is no record of this version of agcxr; delete the folder {self.where}"
            ) from None
        there, now = before.model_dump(), job.model_dump()
        if names := [name for name in now if there[name] != now[name]]:
            differences = "; ".join(f"{name}: {there[name]!r} there, {now[name]!r} now" for name in names)
            raise ValueError(
                f"{self.where} holds finished rows of another job ({differences}); the command that began it goes on "
                "with it; or delete that folder to begin anew"
            )

    @contextmanager
    def owned(self) -> Iterator[None]:
        """For this process alone. Raises ValueError where another one writes the same table."""
        if is_uri(self.out) or sys.platform == "win32":
            yield
            return
        import fcntl

        with open(Path(self._root) / JOB, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"another process is writing {self.where}: the same command still runs, here or on another "
                    "machine; wait for it, or end it first"
                ) from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # some network file systems know no locks
                    raise
            yield

    def places(self) -> list[int]:
        """Of the first films of the parts that are there, sorted."""
        return sorted(place for name in self._entries() if (place := _place(name)) is not None)

    def rows(self) -> int:
        """Finished so far."""
        return sum(pq.read_metadata(self._open(place)).num_rows for place in self.places())

    def images(self, place: int) -> list[str]:
        """The films of a part."""
        return [str(image) for image in pq.read_table(self._open(place), columns=["image"])["image"].to_pylist()]

    def begin_part(self, place: int) -> None:
        """Note that somebody begins a part, until it is written. Raises ValueError where LIVES of them died of it."""
        names = [self._mark(place, life) for life in range(LIVES)]
        free = next((name for name in names if not self._is_there(name)), None)
        if free is None:
            raise ValueError(
                f"the {LIVES} processes that read the films from number {place:,} on have died of it: out of memory? "
                f"Try a smaller --batch-size, or fewer --devices. {self.kept()}"
            )
        self.write(free, b"")

    def write_part(self, place: int, rows: pa.Table) -> None:
        """The part appears whole."""
        buffer = io.BytesIO()
        pq.write_table(rows, buffer)
        self.write(f"{place:012d}.parquet", buffer.getvalue())
        for life in range(LIVES):
            if self._is_there(name := self._mark(place, life)):
                self._system.delete_file(f"{self._root}/{name}")

    def kept(self) -> str:
        """What is finished, and how to go on."""
        return f"{self.rows():,} finished rows are kept in {self.where}; the same command goes on behind them"

    def write(self, name: str, data: bytes) -> None:
        """A file of the folder; it appears whole."""
        local = isinstance(self._system, fs.LocalFileSystem)  # object stores show nothing until all is there
        beside = f"{self._root}/_{name}.{uuid.uuid4().hex}" if local else f"{self._root}/{name}"
        with self._system.open_output_stream(beside) as stream:
            stream.write(data)
        if local:
            os.replace(beside, f"{self._root}/{name}")

    def read(self, name: str) -> bytes:
        """A file of the folder."""
        with self._system.open_input_stream(f"{self._root}/{name}") as stream:
            return bytes(stream.read())

    def finish(self) -> tuple[Tally, Walked]:
        """Put the table together, in the order of the films, and take away what only served to go on.

        Raises ValueError where the parts are not those of the films.
        """
        walked = Walked.model_validate_json(self.read(WALK))
        rows, partial = self._in_order(walked.films), Path(f"{self.out}.partial")
        if not self.is_file:
            tally = _counted(rows)
        elif self.out.lower().endswith(".csv"):
            tally = _counted(_as_csv(rows, partial))
        else:
            tally = _counted(_as_parquet(rows, partial))
        for name in self._entries():
            if name.startswith("_") or (self.is_file and _place(name) is not None):
                self._system.delete_file(f"{self._root}/{name}")
        if self.is_file:
            os.replace(partial, self.out)
            with suppress(OSError):  # something else lies there
                Path(self._root).rmdir()
        return tally, walked

    def _in_order(self, films: int) -> Iterator[pa.RecordBatch]:
        """Rows of all parts. Memory holds a batch."""
        place = 0
        for start in self.places():
            if start != place:
                break
            with self._open(start) as file:
                for rows in pq.ParquetFile(file).iter_batches():
                    place += len(rows)
                    yield rows
        if place != films:
            raise ValueError(
                f"{self.where} has lost rows: film {place + 1:,} of {films:,} is not there; delete it to begin anew"
            )

    def _mark(self, place: int, life: int) -> str:
        return f"_{place:012d}.{life}{MARK}"

    def _is_there(self, name: str) -> bool:
        return bool(self._system.get_file_info(f"{self._root}/{name}").type == fs.FileType.File)

    def _entries(self) -> list[str]:
        selector = fs.FileSelector(self._root, allow_not_found=True)
        return [entry.base_name for entry in self._system.get_file_info(selector)]

    def _open(self, place: int) -> pa.NativeFile:
        return self._system.open_input_file(f"{self._root}/{place:012d}.parquet")


def _place(name: str) -> int | None:
    """Of a part's first film, by its name."""
    stem, _, suffix = name.partition(".")
    return int(stem) if suffix == "parquet" and len(stem) == 12 and stem.isdigit() else None


def schema_of(table: Table) -> pa.Schema:
    """The types of the columns, with `place` before them."""
    kinds = {
        **dict.fromkeys(("image", "boxes", "intake", "intake_reason", "error", *table.also), pa.string()),
        **dict.fromkeys((*EDGES, "view_share", "plateau"), pa.float64()),
        "width": pa.int32(),
        "height": pa.int32(),
        "fallback": pa.int8(),
        **{name: pa.int8() for name in table.columns if name.startswith("call_")},
    }
    return pa.schema([("place", pa.int64()), *((name, kinds.get(name, pa.float32())) for name in table.columns)])


def rows_of(table: Table, start: int, rows: Sequence[Sequence[Value]]) -> pa.Table:
    """Rows of films from `start` on as a part has them."""
    schema = schema_of(table)
    columns = [range(start, start + len(rows)), *(list(column) for column in zip(*rows, strict=True))]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


def _counted(batches: Iterator[pa.RecordBatch]) -> Tally:
    tally = Tally(("error", "intake"))
    for batch in batches:
        if not tally.rows:
            tally = Tally([name for name in ("error", "intake", "dicom", "dicom_reason") if name in batch.schema.names])
        for row in zip(*(batch[name].to_pylist() for name in tally.columns), strict=True):
            tally.add(row)
    return tally


def _as_csv(batches: Iterator[pa.RecordBatch], path: Path) -> Iterator[pa.RecordBatch]:
    """Written on the way, as one process writes them."""
    with open_csv(path, "w") as file:
        out = csv.writer(file)
        columns: list[str] = []
        for batch in batches:
            if not columns:
                columns = batch.schema.names[1:]
                out.writerow(columns)
            rows = zip(*(column.to_pylist() for column in batch.columns[1:]), strict=True)
            out.writerows(cells_of(columns, row) for row in rows)
            yield batch


def _as_parquet(batches: Iterator[pa.RecordBatch], path: Path) -> Iterator[pa.RecordBatch]:
    """Written on the way."""
    first = next(batches)
    with pq.ParquetWriter(path, first.schema) as out:
        for batch in itertools.chain([first], batches):
            out.write_batch(batch)
            yield batch
