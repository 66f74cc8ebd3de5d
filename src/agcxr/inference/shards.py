"""One table by several processes: each does its share of the films and keeps its rows in a file; one merges them.

Process r of w takes the films r, r + w, r + 2 w, ... of the walk, which all processes make alike. Its rows go to
`<out>.shards/<r>.csv` and what it knows of itself to `<r>.json`. Whatever ends a process, the rows it finished are
kept: the same command goes on behind the last of them. When all are done, one process, the foreman, deals the rows
back into the order of the films.

No process holds more than a few rows, and none talks to another but through that folder.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import itertools
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO

from pydantic import ValidationError

from agcxr.config import Frozen
from agcxr.inference.batch import (
    MakeSink,
    Pictures,
    Sink,
    Summary,
    load_engine,
    open_films,
    predicted,
    summarise,
    table_of,
)
from agcxr.inference.films import FilmFile, Films, with_pictures
from agcxr.inference.table import Tally, open_csv, whole_rows
from agcxr.progress import ProgressBar
from agcxr.starter import model_path

BEAT_S = 2.0
"""Between two words of a process about itself."""

PATIENCE_S = 900.0
"""Without a word from a process before the foreman gives it up."""


class Words(Frozen):
    """What decides the rows. A folder of shards belongs to one such job."""

    version: str
    model: str
    fingerprint: str
    """Of the model's files."""
    inputs: tuple[str, ...]
    options: tuple[str, ...]
    """Flags that change rows or what is written beside them."""
    processes: int


class Record(Frozen):
    """What a process says of itself."""

    job: Words
    launch: str
    """Which start of the command it belongs to."""
    rows: int = 0
    done: bool = False
    films: int = 0
    """Of all processes together; known when it is done."""
    walked: str = ""
    """Digest of the names of all films, likewise."""
    ignored: int = 0
    empty: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    averaged: str = ""


@dataclass(frozen=True)
class Shard:
    """The share of a process: rank of world."""

    rank: int
    world: int
    launch: str = ""

    def has(self, film: FilmFile) -> bool:
        """Whether the film is this process's."""
        return film.place % self.world == self.rank


@dataclass(frozen=True)
class Job:
    """A `predict` to be shared. `words` is its identity; the rest says how this process does it."""

    words: Words
    target: Path
    explain: Path | None = None
    leave_out: tuple[Path, ...] = ()
    also: tuple[MakeSink, ...] = ()
    batch_size: int = 16
    workers: int | None = None
    engine: dict[str, Any] = field(default_factory=dict)
    """Of `load_engine`."""

    @property
    def folder(self) -> Path:
        """Where the processes keep their rows."""
        return self.target.with_name(f"{self.target.name}.shards")

    def read(self, rank: int) -> Record | None:
        """What a process last said; None: nothing yet. Raises ValueError for what is no such record."""
        path = self.folder / f"{rank:05d}.json"
        try:
            return Record.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            raise ValueError(f"{path} is no record of this version of agcxr; delete the folder {self.folder}") from None

    def say(self, rank: int, record: Record) -> None:
        """Write a record; it appears whole."""
        beside = self.folder / f"{rank:05d}.json.part"
        beside.write_text(record.model_dump_json(), encoding="utf-8")
        beside.replace(self.folder / f"{rank:05d}.json")

    def check(self) -> None:
        """Raises ValueError where the folder holds the rows of another job."""
        for path in sorted(self.folder.glob("*.json")):
            found = self.read(int(path.stem)) if path.stem.isdigit() else None
            if found is None or found.job == self.words:
                continue
            names = [name for name in Words.model_fields if getattr(found.job, name) != getattr(self.words, name)]
            told = "; ".join(
                f"{name}: {getattr(found.job, name)!r} there, {getattr(self.words, name)!r} now" for name in names
            )
            raise ValueError(
                f"{self.folder} holds finished rows of another job ({told}); the command that began it goes on with "
                "it; or delete that folder to begin anew"
            )

    def clear(self) -> None:
        """Remove what the processes wrote, and the folder where nothing else lies in it."""
        for path in self.folder.iterdir():
            if re.fullmatch(r"\d{5}\.(csv|json|json\.part|log)", path.name):
                path.unlink()
        with suppress(OSError):
            self.folder.rmdir()

    def films(self) -> tuple[Films, Iterator[FilmFile]]:
        """The films and the walk through them, with the names of their pictures where these are asked for."""
        pictures = [self.explain] if self.explain else []
        films, walk = open_films(self.words.inputs, [*pictures, *self.leave_out, self.folder])
        return films, with_pictures(walk) if self.explain else walk


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


# --- one process's share ----------------------------------------------------------------------------------------------


def do_shard(job: Job, shard: Shard, look: Callable[[], object] = lambda: None) -> None:
    """Predict this process's films, behind those that an earlier start finished. `look` is called every other second.

    Raises ValueError where the folder belongs to another job, another process is at the same share, or the films are
    not those of the earlier start.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    job.check()
    before = job.read(shard.rank)
    if before is not None and before.done:
        job.say(shard.rank, before.model_copy(update={"launch": shard.launch}))
        return
    with _own(job, shard) as file:
        job.say(shard.rank, Record(job=job.words, launch=shard.launch, rows=0 if before is None else before.rows))
        engine = load_engine(job.words.model, **job.engine)
        sinks: list[Sink] = [Pictures(job.explain)] if job.explain else []
        sinks += [make(engine) for make in job.also]
        table = table_of(engine, sinks)
        rows = _cut_to_whole_rows(file, table.columns)
        films, walk = job.films()
        walked = Walked(walk)
        mine = _behind_the_kept(filter(shard.has, walked), job.folder / f"{shard.rank:05d}.csv", rows, job.folder)
        beat = Beat(job, shard, rows, look)
        with open_csv(file.fileno(), "a") as text:
            out = csv.writer(text)
            for cells in predicted(engine, table, mine, sinks, batch_size=job.batch_size, workers=job.workers):
                out.writerow(cells)
                beat.row(text)
        record = Record(
            job=job.words,
            launch=shard.launch,
            rows=beat.rows,
            done=True,
            films=walked.films,
            walked=walked.digest.hexdigest(),
            ignored=films.ignored,
            empty=tuple(films.empty),
            closed=tuple(films.closed),
            averaged=engine.words,
        )
        job.say(shard.rank, record)


class Walked:
    """All films, counted and their names digested on the way."""

    def __init__(self, walk: Iterable[FilmFile]) -> None:
        self._walk, self.films, self.digest = walk, 0, hashlib.blake2b(digest_size=16)

    def __iter__(self) -> Iterator[FilmFile]:
        for film in self._walk:
            self.films += 1
            self.digest.update(os.fsencode(film.path) + b"\0")
            yield film


class Beat:
    """Counts rows, and now and then writes them down and says how many there are."""

    def __init__(self, job: Job, shard: Shard, rows: int, look: Callable[[], object]) -> None:
        self._job, self._shard, self.rows, self._look = job, shard, rows, look
        self._last = time.monotonic()

    def row(self, file: IO[str]) -> None:
        """One more."""
        self.rows += 1
        if time.monotonic() - self._last < BEAT_S:
            return
        file.flush()
        self._job.say(self._shard.rank, Record(job=self._job.words, launch=self._shard.launch, rows=self.rows))
        self._look()
        self._last = time.monotonic()


@contextmanager
def _own(job: Job, shard: Shard) -> Iterator[BinaryIO]:
    """The file of this share's rows, for this process alone."""
    path = job.folder / f"{shard.rank:05d}.csv"
    with open(path, "a+b") as file:
        if sys.platform != "win32":
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"another process is writing {path}: the same command still runs, here or on another machine; wait "
                    "for it, or end it first"
                ) from None
            except OSError as error:
                if error.errno not in (errno.ENOLCK, errno.ENOTSUP):  # some network file systems know no locks
                    raise
        yield file


def _cut_to_whole_rows(file: BinaryIO, columns: Sequence[str]) -> int:
    """Leave the header and the whole rows of an earlier start in the file; return how many rows these are."""
    file.seek(0)
    size = rows = 0
    for cells, raw in whole_rows(file):
        if (cells != list(columns)) if not size else (len(cells) != len(columns)):
            break
        rows += bool(size)
        size += len(raw)
    file.truncate(size)
    if not size:
        head = io.StringIO()
        csv.writer(head).writerow(columns)
        file.write(head.getvalue().encode())
    file.flush()
    return rows


def _behind_the_kept(films: Iterator[FilmFile], csv_file: Path, rows: int, folder: Path) -> Iterator[FilmFile]:
    """The films without those whose rows are kept. Raises ValueError where these are not the first ones."""
    with open(csv_file, "rb") as file:
        kept = itertools.islice(whole_rows(file), 1, 1 + rows)
        for cells, _ in kept:
            film = next(films, None)
            if film is None or cells[0] != str(film.path).encode(errors="backslashreplace").decode():
                raise ValueError(
                    f"the films have changed since {folder} was begun: its next film is {cells[0]}, and now "
                    f"{'there are no more' if film is None else f'it is {film.path}'}; delete that folder to begin anew"
                )
    yield from films


# --- the whole --------------------------------------------------------------------------------------------------------


class Foreman:
    """Watches all processes, shows how far they are, and merges.

    Args:
        launch: the start of the command that all processes must have checked in with.
        progress: show a bar for the whole, and the summary, on stderr.
    """

    def __init__(self, job: Job, world: int, launch: str, *, progress: bool = True) -> None:
        self._job, self._world, self._launch, self._progress = job, world, launch, progress
        self._bar = ProgressBar(desc="predict", unit=" films", disable=not progress, smoothing=0.1)
        self._heard: dict[int, tuple[float, Record | None]] = {}
        self._start, self._looked = time.perf_counter(), False

    def look(self) -> list[Record | None]:
        """What all processes last said; moves the bar."""
        records = [self._job.read(rank) for rank in range(self._world)]
        for rank, record in enumerate(records):
            if rank not in self._heard or self._heard[rank][1] != record:
                self._heard[rank] = (time.monotonic(), record)
        rows = sum(record.rows for record in records if record)
        if not self._looked:
            self._bar.initial = self._bar.n = rows  # finished by an earlier start: no part of the rate
        self._looked = True
        if rows > self._bar.n:
            self._bar.update(rows - self._bar.n)
        return records

    def wait(self) -> None:
        """Until all are done. Raises ChildProcessError where one has not said a word for a long time."""
        while True:
            records = self.look()
            missing = [
                rank
                for rank, record in enumerate(records)
                if record is None or not record.done or record.launch != self._launch
            ]
            if not missing:
                return
            silent = [rank for rank in missing if time.monotonic() - self._heard[rank][0] > PATIENCE_S]
            if silent:
                raise ChildProcessError(
                    f"nothing was heard of process {', '.join(map(str, silent))} of {self._world} for "
                    f"{PATIENCE_S / 60:.0f} minutes. {self.kept()}"
                )
            time.sleep(0.5)

    def kept(self) -> str:
        """What is finished, and how to go on."""
        rows = sum(record.rows for record in self.look() if record)
        return f"{rows:,} finished rows are kept in {self._job.folder}; the same command goes on behind them"

    def merge(self) -> Summary:
        """The table, in the order of the films; the shards are gone then. Raises ValueError where they do not fit."""
        self._bar.close()
        job, records = self._job, [record for record in self.look() if record]
        if len({(record.films, record.walked) for record in records}) > 1:
            raise ValueError(
                f"the processes did not see the same films ({', '.join(f'{record.films:,}' for record in records)}): "
                f"did files come or go meanwhile, or do machines see other folders? Delete {job.folder} to begin anew"
            )
        tally = _deal(job, self._world, records[0].films)
        job.clear()
        first, seconds = records[0], time.perf_counter() - self._start
        summary = summarise(job.target, tally, first.ignored, first.empty, first.closed, seconds, first.averaged)
        if self._progress:
            print(f"{summary} by {self._world} processes", file=sys.stderr)
        return summary

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.close()


def _deal(job: Job, world: int, films: int) -> Tally:
    """Rows of all shards in turn, byte by byte as they are."""
    partial = job.target.with_name(f"{job.target.name}.partial")
    with ExitStack() as stack:
        files = [stack.enter_context(open(job.folder / f"{rank:05d}.csv", "rb")) for rank in range(world)]
        shards = [whole_rows(file) for file in files]
        heads = [next(shard, ([], b"")) for shard in shards]
        tally = Tally(heads[0][0])
        out = stack.enter_context(open(partial, "wb"))
        out.write(heads[0][1])
        for place in range(films):
            row = next(shards[place % world], None)
            if row is None:
                raise ValueError(
                    f"{job.folder / f'{place % world:05d}.csv'} has lost rows: film {place + 1:,} of {films:,} is not "
                    f"there; delete {job.folder} to begin anew"
                )
            tally.add(row[0])
            out.write(row[1])
    os.replace(partial, job.target)
    return tally
