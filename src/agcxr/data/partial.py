"""The unfinished prepared folder OUT.partial: which films are done, surviving kill -9, and becoming OUT at once.

Pixels are on disk before the journal says so; a film the journal does not name is read again.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TextIO

import numpy as np

from agcxr.data.croissant import write_croissant
from agcxr.data.workers import Done, Target

FLUSH_SECONDS = 2.0
"""At most this much work is lost by a kill."""


@dataclass(frozen=True)
class Settings:
    """What the pixels in images.npy depend on. Other settings (split, seed) may change between a kill and the rerun."""

    size: int
    films: int
    film_list: str
    images: str
    resize_rule: str


class Partial:
    """Context manager of OUT.partial: lock, images.npy and journal.

    width_N, height_N: original sizes of the films in the order of the settings' film list; 0 until a film is done.
    """

    def __init__(self, out: Path, settings: Settings, say: Callable[[str], None]) -> None:
        self.out, self.settings, self.say = out, settings, say
        self.folder = out.with_name(out.name + ".partial")
        self.width_N = np.zeros(settings.films, np.int32)  # arrays, as a hundred thousand objects take their room
        self.height_N = np.zeros(settings.films, np.int32)
        self.count = 0
        self._pending: list[Done] = []
        self._flushed = time.monotonic()
        # Waiting for the disk here would keep the next job from workers that have none.
        self._flusher = ThreadPoolExecutor(1, thread_name_prefix="flush")
        self._flushing: Future[None] | None = None

    def __enter__(self) -> Self:
        _check_ours(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder)
        _keep_or_clear(self.folder, self.settings, self.say)
        images = self.folder / "images.npy"
        self.offset = _write_header(None, self.settings.films, self.settings.size)
        if not (self.folder / "settings.json").exists():
            _create(images, self.settings)
            _replace(self.folder / "settings.json", json.dumps(asdict(self.settings), indent=1))
        self._load_journal()
        self._images: BinaryIO = images.open("r+b")
        self._journal: TextIO = (self.folder / "journal.csv").open("a")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        self._flusher.shutdown()
        self._journal.close()
        self._images.close()
        self._lock.close()

    @property
    def target(self) -> Target:
        return Target(str(self.folder / "images.npy"), self.offset, self.settings.size)

    @property
    def done_N(self) -> np.ndarray:
        """Which rows are done, bool."""
        return self.width_N > 0

    def has(self, row: int) -> bool:
        """Whether this row is done."""
        return bool(self.width_N[row])

    def add(self, done: Done) -> None:
        """A film was written, one that was not done. It counts once flushed."""
        self._keep(done.row, done.width, done.height)
        self._pending.append(done)
        if time.monotonic() - self._flushed > FLUSH_SECONDS and (self._flushing is None or self._flushing.done()):
            self._begin_flush()

    def _keep(self, row: int, width: int, height: int) -> None:
        self.count += not self.has(row)
        self.width_N[row], self.height_N[row] = width, height

    def flush(self) -> None:
        """What was added is on the disk when this returns."""
        self._begin_flush()
        assert self._flushing is not None
        self._flushing.result()

    def _begin_flush(self) -> None:
        """In the background; raises what the flush before it could not write."""
        if self._flushing is not None:
            self._flushing.result()
        self._flushing = self._flusher.submit(self._write, self._pending)
        self._pending, self._flushed = [], time.monotonic()

    def _write(self, films: list[Done]) -> None:
        """Pixels to the disk first, then their names to the journal."""
        if films:
            os.fsync(self._images.fileno())
            self._journal.writelines(f"{d.row},{d.width},{d.height}\n" for d in films)
            self._journal.flush()
            os.fsync(self._journal.fileno())

    def close_gaps(self) -> np.ndarray:
        """Move the last films into the places of the missing ones: int array, place -> row of the settings' film list.

        May be repeated: the moved films stay where they were until `finish` cuts the file.
        """
        good = np.flatnonzero(self.done_N)
        order = np.arange(len(good))
        gaps = order[~np.isin(order, good)]
        order[gaps] = good[good >= len(good)]
        area = self.settings.size**2
        for gap in gaps:
            self._images.seek(self.offset + int(order[gap]) * area)
            pixels = self._images.read(area)
            self._images.seek(self.offset + int(gap) * area)
            self._images.write(pixels)
        self._images.flush()
        os.fsync(self._images.fileno())
        return order

    def _load_journal(self) -> None:
        path = self.folder / "journal.csv"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        for line in lines:
            if line.endswith("\n"):  # else the kill came while it was written
                self._keep(*(int(part) for part in line.split(",")))
        rows = np.flatnonzero(self.done_N)
        _replace(path, "".join(f"{row},{self.width_N[row]},{self.height_N[row]}\n" for row in rows))


def finish(partial: Path, out: Path, films: int, size: int) -> None:
    """Cut images.npy to its films and give the folder its name. May be repeated after a kill at any point."""
    with (partial / "images.npy").open("r+b") as file:
        offset = _write_header(file, films, size)
        file.truncate(offset + films * size * size)
        file.flush()
        os.fsync(file.fileno())
    write_croissant(partial)
    for name in ("journal.csv", "settings.json", "lock"):
        (partial / name).unlink(missing_ok=True)
    if out.is_dir():
        out.rmdir()  # empty: checked at the start, and refused by the system otherwise
    partial.rename(out)


def _check_ours(folder: Path) -> None:
    ours = {"images.npy", "lock", "journal.csv", "journal.csv.new", "settings.json.new"}
    if not folder.exists() or (folder / "settings.json").exists() or (folder / "plan.json").exists():
        return
    if not {entry.name for entry in folder.iterdir()} <= ours:
        raise ValueError(
            f"{folder} exists and is not an unfinished prepared folder; move it away or choose another --out"
        )


def _keep_or_clear(folder: Path, settings: Settings, say: Callable[[str], None]) -> None:
    """Called with the lock held."""
    path = folder / "settings.json"
    if path.exists():
        old, new = json.loads(path.read_text()), asdict(settings)
        different = [name for name in new if old.get(name) != new[name]]
        if not different:
            return
        say(f"{folder} was begun with other settings ({', '.join(different)}): starting over")
    for entry in folder.iterdir():
        if entry.name != "lock":
            entry.unlink()


def _lock(folder: Path) -> BinaryIO:
    file = (folder / "lock").open("wb")
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise ValueError(f"another process is preparing {folder} at this moment; wait for it or stop it") from error
    return file


def _create(path: Path, settings: Settings) -> None:
    with path.open("wb") as file:
        offset = _write_header(file, settings.films, settings.size)
        file.truncate(offset + settings.films * settings.size**2)  # sparse: takes disk as films arrive


def _write_header(file: BinaryIO | None, films: int, size: int) -> int:
    """Write the .npy header (if a file is given); its length, which is the same for every number of films."""
    import io

    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": (films, size, size)})
    header = buffer.getvalue()
    assert len(header) == 128, "the .npy header must not change its length with the number of films"
    if file is not None:
        file.seek(0)
        file.write(header)
    return len(header)


def _replace(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
