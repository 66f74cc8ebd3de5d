"""Films -> rows of images.npy, by several processes that survive one film's crash.

A worker decodes, resizes and writes its rows into the file by itself; only numbers and reasons travel back, so memory
does not grow with the number of films. Spawned, because forks of a process with threads (OpenCV, torch) can hang.
"""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from typing import Any, BinaryIO

import cv2

from agcxr.data.archives import BROKEN_ARCHIVE, walk_archive, why_broken
from agcxr.data.radiograph import MAX_PIXELS, RadiographError, read_radiograph, resize, stem

CHUNK = 16
"""Films a message: little enough to share out evenly, enough to make the messages cheap."""


@dataclass(frozen=True)
class Target:
    """images.npy: row i starts at byte `offset` + i * size * size."""

    path: str
    offset: int
    size: int
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True, slots=True)
class Done:
    """One film: written (width, height: its original size) or, with a reason, not. `row` -1: a remark on an archive."""

    row: int
    width: int = 0
    height: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Files:
    """Films to read by path: (row, path)."""

    films: tuple[tuple[int, str], ...]

    def without(self, rows: set[int]) -> "Files":
        return Files(tuple(film for film in self.films if film[0] not in rows))

    def __len__(self) -> int:
        return len(self.films)


@dataclass(frozen=True)
class Archive:
    """Films to pick from an archive. rows: a .tar's by stem, a .zip's by their names in it."""

    path: str
    rows: dict[str, int] = field(repr=False)

    def without(self, rows: set[int]) -> "Archive":
        return replace(self, rows={name: row for name, row in self.rows.items() if row not in rows})

    def __len__(self) -> int:
        return len(self.rows)


Job = Files | Archive


def run_jobs(jobs: Iterable[Job], target: Target, workers: int) -> Iterator[list[Done]]:
    """Work through the jobs, each asked for when a worker is free; yields results as they come, in any order.
    workers = 1 works in this process."""
    if workers <= 1:
        with open(target.path, "r+b") as file:
            for job in jobs:
                yield from _work(job, target, file, lambda row: None)
        return
    first = list(islice(jobs := iter(jobs), workers))
    pool = _Pool(chain(first, jobs), target, len(first))
    try:
        yield from pool.results()
    finally:
        pool.close()


def _work(job: Job, target: Target, file: BinaryIO, starting: Callable[[int], None]) -> Iterator[list[Done]]:
    """Results in batches. `starting` hears each row before it is decoded: if the decoder crashes, its film is known."""
    batch: list[Done] = []
    if isinstance(job, Files):
        for row, path in job.films:
            starting(row)
            batch.append(_film(row, path, target, file))
        yield batch
        return
    left = dict(job.rows)
    try:
        for member in walk_archive(job.path, left):
            row = left.pop(member.name if member.name in left else stem(member.name))
            starting(row)
            try:
                batch.append(_film(row, member.read(), target, file))
            except RadiographError as error:
                batch.append(Done(row, reason=str(error)))
            if len(batch) >= CHUNK:
                yield batch
                batch = []
    except BROKEN_ARCHIVE as error:
        batch.append(Done(-1, reason=why_broken(job.path, error)))
    yield batch


def _film(row: int, source: str | bytes, target: Target, file: BinaryIO) -> Done:
    try:
        film = read_radiograph(source, max_pixels=target.max_pixels)
        pixels_SS = resize(film.pixels_HW, target.size)
    except RadiographError as error:
        return Done(row, reason=str(error))
    except cv2.error as error:  # from the resize, of shapes that OpenCV does not take
        return Done(row, reason=f"cannot be resized: {str(error).strip()}")
    file.seek(target.offset + row * target.size * target.size)
    file.write(pixels_SS.tobytes())
    file.flush()
    return Done(row, film.width, film.height)


def _worker(pipe: Connection, target: Target, current: Any) -> None:
    """Process: takes jobs until the pipe closes. Answers lists of Done, then None when the job is finished."""
    import warnings

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    warnings.simplefilter("ignore")  # odd values in DICOM headers: nobody reads a worker's screen
    cv2.setNumThreads(1)
    try:
        pipe.send(None)
        with open(target.path, "r+b") as file:
            while True:
                for batch in _work(pipe.recv(), target, file, lambda row: setattr(current, "value", row)):
                    pipe.send(batch)
                current.value = -1
                pipe.send(None)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


@dataclass
class _Seat:
    """One worker process, the rows it has reported of its job, and the row it is at (shared memory)."""

    process: Any
    pipe: Connection
    current: Any
    job: Job | None = None
    reported: set[int] = field(default_factory=set)
    ready: bool = False


class _Pool:
    def __init__(self, jobs: Iterator[Job], target: Target, workers: int) -> None:
        self.context = multiprocessing.get_context("spawn")
        self.target = target
        self.jobs = jobs
        self.again: list[Job] = []  # what dead workers left of theirs
        self.seats = [self._seat() for _ in range(workers)]

    def _seat(self) -> _Seat:
        ours, theirs = self.context.Pipe()
        current = self.context.RawValue("q", -1)
        process = self.context.Process(target=_worker, args=(theirs, self.target, current), daemon=True)
        process.start()
        theirs.close()
        return _Seat(process, ours, current)

    def results(self) -> Iterator[list[Done]]:
        """Until every job is done and every worker at rest."""
        while self.seats:
            pipes: dict[Any, _Seat] = {seat.pipe: seat for seat in self.seats}
            for pipe in wait(list(pipes)):
                seat = pipes[pipe]
                try:
                    message = seat.pipe.recv()
                except (EOFError, ConnectionResetError):
                    yield self._lost(seat)
                    continue
                if message is None:
                    self._next(seat)
                else:
                    seat.reported |= {done.row for done in message}
                    yield message

    def _next(self, seat: _Seat) -> None:
        seat.ready, seat.reported, seat.job = True, set(), None
        seat.job = self.again.pop() if self.again else next(self.jobs, None)
        if seat.job is None:
            self.seats.remove(seat)
            seat.pipe.close()
            seat.process.join()
            return
        try:
            seat.pipe.send(seat.job)
        except (BrokenPipeError, ConnectionResetError):
            return  # it died between two jobs: the next wait finds its pipe closed

    def _lost(self, seat: _Seat) -> list[Done]:
        """A worker died: its film is to blame, the rest of its job goes to a new one."""
        seat.process.join()
        code = seat.process.exitcode
        self.seats.remove(seat)
        seat.pipe.close()
        if not seat.ready:
            raise RuntimeError(
                f"a worker process could not start (exit status {code}); if your own script runs this, put the call "
                'under `if __name__ == "__main__":`, or use workers=1'
            )
        row = seat.current.value
        if row < 0 or row in seat.reported:
            raise RuntimeError(f"a worker process ended between two films ({_death(code)}); run again to continue")
        if seat.job is not None:
            rest = seat.job.without(seat.reported | {row})
            if len(rest):
                self.again.append(rest)
        self.seats.append(self._seat())
        return [Done(row, reason=f"the decoder crashed on it ({_death(code)})")]

    def close(self) -> None:
        for seat in self.seats:
            seat.pipe.close()
        for seat in self.seats:
            seat.process.terminate()
            seat.process.join()
        self.seats = []


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.strsignal(-code) or f"signal {-code}"
    return f"exit status {code}"
