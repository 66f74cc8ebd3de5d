"""`agcxr download nih`: the archives of ChestX-ray14, several at once, each resumed where it broke.

The links are one table, nih_archives.csv beside this file, which a table of the user's own can replace. A row without
a link is a file that has no public one: people fetch it themselves, and are told which of them are still missing.
"""

from __future__ import annotations

import csv
import queue
import re
import shlex
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from agcxr.data.fetch import Fetched, Patience, Remote, fetch, held_bytes, size_of
from agcxr.data.web import Broken, FetchError, check_url
from agcxr.notices import CITED, HOME
from agcxr.progress import ProgressBar

LONGEST_QUESTION = 15.0
"""Seconds to wait for a file's size, before the first byte."""
COLUMNS = ("name", "url", "bytes", "sha256", "md5")
LISTS = ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv", "train_val_list.txt", "test_list.txt")
TERMS = f"""\
NIH ChestX-ray14: no restriction on use. Wherever the films appear, the NIH asks for
  - this link: {HOME}
  - this citation: {CITED[0]}
    {CITED[1]}
  - the acknowledgement that the NIH Clinical Center is the data provider."""


class DownloadError(OSError):
    """Some files could not be had; the message names each with its reason. The others are complete."""


def read_table(path: str | Path | None = None) -> tuple[Remote, ...]:
    """The files of a CSV `name,url,bytes,sha256,md5` (all but the name may be blank: no public link, not known).

    Without a path: the package's own table. Raises ValueError that names the line.
    """
    if path is None:
        with as_file(files("agcxr.data") / "nih_archives.csv") as own:
            return read_table(own)
    with _opened(Path(path)) as file:
        reader = csv.DictReader(file)
        header = tuple(reader.fieldnames or ())
        if not {"name", "url"} <= set(header) <= set(COLUMNS):
            raise ValueError(f"{path}: the header is {','.join(header)!r}, expected {','.join(COLUMNS)!r}")
        remotes = tuple(_remote(row, f"{path}, line {reader.line_num}") for row in reader)
    names = [remote.name for remote in remotes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}: {', '.join(twice)} more than once; every file needs a name of its own")
    if not any(remote.url for remote in remotes):
        raise ValueError(f"{path}: no links in the table, expected a line for each file")
    return remotes


def table_text() -> str:
    """The package's own table, to save, edit and give back."""
    return (files("agcxr.data") / "nih_archives.csv").read_text(encoding="utf-8")


def download_nih(
    out: str | Path,
    *,
    table: str | Path | None = None,
    only: Sequence[str] = (),
    parallel: int = 4,
    check_gzip: bool = True,
    recheck: bool = False,
    patience: Patience | None = None,
    progress: bool = True,
) -> tuple[Fetched, ...]:
    """Fetch the files of the table that have links into `out`, `parallel` at a time; returns them in its order.

    Files that are there are left alone (`recheck` runs the checks on them); parts are resumed, also after Ctrl-C or a
    kill. `only`: names from the table. `check_gzip`: read each archive without a hash in the table to its end, against
    the checksums inside it. Raises DownloadError after the others are done if some cannot be had, or at once if the
    disk is too small; ValueError for a bad table or name.
    """
    if parallel < 1:
        raise ValueError(f"parallel is {parallel}; expected 1 or more files at a time")
    patience = patience or Patience()
    known = read_table(table)
    remotes = _chosen(known, only)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    print(TERMS, flush=True)
    total = _check_space(remotes, out, parallel, patience.timeout)
    stop = threading.Event()
    with _Bar(total, sum(held_bytes(remote, out) for remote in remotes), progress) as bar:

        def work(remote: Remote) -> Fetched:
            return fetch(
                remote,
                out,
                patience=patience,
                check_gzip=check_gzip,
                recheck=recheck,
                stop=stop,
                on_bytes=bar.move,
            )

        done, failed = _collect(remotes, work, parallel, stop, bar)
    if failed:
        raise DownloadError(f"{len(failed)} of {len(remotes)} files are missing:\n  " + "\n  ".join(failed))
    print(_what_next(out, known), flush=True)
    return tuple(done[remote.name] for remote in remotes)


def _remote(row: dict[str, str], where: str) -> Remote:
    """One line of the table, checked."""
    name, url = (row["name"] or "").strip(), (row["url"] or "").strip()
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or name.endswith((".part", ".json")):
        raise ValueError(f"{where}: the name is {name!r}, expected a plain file name such as images_001.tar.gz")
    size, hashes = (row.get("bytes") or "").strip(), {}
    if size and not (size.isdecimal() and int(size) > 0):
        raise ValueError(
            f"{where}: bytes is {size!r}, expected a positive whole number, or nothing where it is not known"
        )
    for kind, digits in (("sha256", 64), ("md5", 32)):
        hashes[kind] = (row.get(kind) or "").strip()
        if hashes[kind] and not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", hashes[kind]):
            raise ValueError(f"{where}: {kind} is {hashes[kind]!r}, expected {digits} hexadecimal digits, or nothing")
    try:
        _ = url and check_url(url)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return Remote(name, url, int(size) if size else None, **hashes)


def _chosen(remotes: tuple[Remote, ...], only: Sequence[str]) -> tuple[Remote, ...]:
    linked = tuple(remote for remote in remotes if remote.url)
    names = [remote.name for remote in linked]
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"no link for {', '.join(unknown)} in the table; it has {', '.join(names)}")
    return tuple(remote for remote in linked if not only or remote.name in only)


def _check_space(remotes: Sequence[Remote], out: Path, parallel: int, timeout: float) -> int | None:
    """Bytes of all files together (None where a server does not tell), after a check that the rest fits on the disk."""
    missing = [remote for remote in remotes if not (out / remote.name).exists()]
    sizes = {remote.name: (out / remote.name).stat().st_size for remote in remotes if remote not in missing}
    unknown, silent = [], []
    stop = threading.Event()
    ask = min(timeout, LONGEST_QUESTION)
    for remote, size in _run(missing, lambda one: one.bytes or size_of(one, ask), parallel, stop):
        if isinstance(size, int):
            sizes[remote.name] = size
        else:
            unknown.append(remote.name)
            silent += [size] if isinstance(size, FetchError) and isinstance(size.__cause__, Broken) else []
    if missing and len(silent) == len(missing):
        raise DownloadError(f"no server answers ({silent[0]}); is this machine online? Run the same command again")
    need = sum(sizes[one.name] - held_bytes(one, out) for one in missing if one.name in sizes)
    free = shutil.disk_usage(out).free
    if need > free:
        raise DownloadError(
            f"{need / 1e9:.1f} GB are still to come and {out} has {free / 1e9:.1f} GB free; choose another folder, or "
            "some files with --only"
        )
    if unknown:
        print(
            f"The size of {', '.join(unknown)} is not known before it comes: no check of the disk for it.", flush=True
        )
    return None if unknown else sum(sizes.values())


def _collect(
    remotes: Sequence[Remote],
    work: Callable[[Remote], Fetched],
    parallel: int,
    stop: threading.Event,
    bar: _Bar,
) -> tuple[dict[str, Fetched], list[str]]:
    """Results by name, and the reasons of those that failed. A line is printed as each ends."""
    done: dict[str, Fetched] = {}
    failed = []
    try:
        for remote, result in _run(remotes, work, parallel, stop):
            if isinstance(result, Fetched):
                done[remote.name] = result
                how = f"checked by {result.checked}" if result.checked else "was there"
                bar.say(f"{remote.name}: {result.bytes:,} bytes, {how} ({len(done)} of {len(remotes)})")
            else:
                failed.append(str(result) if isinstance(result, FetchError) else f"{remote.name}: {result}")
                bar.say(f"failed: {failed[-1]}")
    except KeyboardInterrupt:
        stop.set()
        bar.say("Stopped. What has come is kept: run the same command again to go on.")
        raise
    return done, failed


@dataclass(frozen=True)
class _Ended:
    """The end of one job, as a worker reports it."""

    remote: Remote
    result: object
    error: BaseException | None


def _run(
    remotes: Sequence[Remote], work: Callable[[Remote], object], parallel: int, stop: threading.Event
) -> Iterator[tuple[Remote, object]]:
    """Do the jobs on `parallel` threads; yield each with its result, or its FetchError or OSError, as it ends.

    The threads are daemons and the parts are flushed as they grow, so that Ctrl-C never waits for a silent connection.
    """
    waiting, ended = deque(remotes), queue.SimpleQueue[_Ended]()

    def worker() -> None:
        while not stop.is_set():
            try:
                remote = waiting.popleft()
            except IndexError:
                return
            try:
                ended.put(_Ended(remote, work(remote), None))
            except BaseException as error:  # handed to the main thread, which raises it
                ended.put(_Ended(remote, None, error))

    threads = [threading.Thread(target=worker, daemon=True) for _ in range(min(parallel, len(remotes)))]
    for thread in threads:
        thread.start()
    try:
        for _ in remotes:
            end = ended.get()
            if end.error is not None and not isinstance(end.error, FetchError | OSError):
                raise end.error
            yield end.remote, end.result if end.error is None else end.error
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=2.0)


class _Bar:
    """One progress bar for all files, moved from several threads. Silent where nobody watches (not a terminal)."""

    def __init__(self, total: int | None, held: int, progress: bool) -> None:
        disable = None if progress else True
        self._bar = ProgressBar(total=total, initial=held, unit="B", unit_scale=True, disable=disable, desc="download")
        self._lock = threading.Lock()

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def move(self, count: int) -> None:
        with self._lock:
            self._bar.update(count)

    def say(self, line: str) -> None:
        tqdm.write(line)


def _what_next(out: Path, known: Sequence[Remote]) -> str:
    """What is here, what people must fetch themselves and where, and the next command."""
    archives = [remote.name for remote in known if remote.name not in LISTS]
    here = [name for name in archives if (out / name).exists()]
    some = "" if len(here) == len(archives) else f"{len(here)} of {len(archives)} "
    lines = [f"The {some}archives are in {out}; prepare reads them as they are, there is no need to unpack them."]
    found = {name: _spelt(out, name) for name in LISTS}
    if missing := [name for name, path in found.items() if path is None]:
        lines += [
            f"Still missing there: {', '.join(missing)}.",
            f"They have no direct public link: open {HOME} in a browser and save them into {out}",
            "(or give links of your own with --table). Then:",
        ]
    else:
        lines.append("Next:")
    labels, boxes = (shlex.quote(str(out / (found[name] or name))) for name in LISTS[:2])
    folder, subset = shlex.quote(str(out)), " --subset" if some else ""
    flags = f"--images {folder} --labels {labels} --boxes {boxes} --lists {folder}{subset}"
    return "\n".join([*lines, f"  agcxr prepare nih {flags} --out PREPARED"])


def _spelt(out: Path, name: str) -> str | None:
    """The name under which a list is in the folder: also gzipped, and the labels' first version; None if it is not."""
    spellings = (name, f"{name}.gz", older := name.replace("_v2020", ""), f"{older}.gz") if ".csv" in name else (name,)
    return next((one for one in spellings if (out / one).is_file()), None)


def _opened(path: Path) -> TextIO:
    try:
        return path.open(newline="", encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"the table {path} cannot be read: {error.strerror}; expected {','.join(COLUMNS)}") from error
