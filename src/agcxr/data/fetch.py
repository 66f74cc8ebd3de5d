"""One file over HTTPS into a folder, resumed where a connection broke.

The bytes go to `NAME.part`; `NAME.part.json` beside it remembers which version of the file they belong to (its ETag or
date), so that a later attempt, or a later run, asks only for the rest and never joins halves of two versions.
`NAME` appears by one rename, after every check. Standard library only.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import threading
import urllib.error
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from http.client import HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from agcxr.data.web import (
    CHUNK,
    WORTH_RETRYING,
    Broken,
    FetchError,
    number_in,
    open_url,
    read_some,
    whole_length,
)

LONGEST_WAIT = 120.0
"""Seconds; also the most that a server's Retry-After is given."""


class Stopped(Exception):
    """The stop event was set; the part is kept."""


class _Damaged(Exception):
    """All bytes are there and they are wrong. `short`: they end too early."""

    def __init__(self, reason: str, short: bool = False) -> None:
        super().__init__(reason)
        self.short = short


@dataclass(frozen=True)
class Remote:
    """A file to fetch. What is not known (None, "") is not checked."""

    name: str
    url: str
    bytes: int | None = None
    sha256: str = ""
    md5: str = ""


@dataclass(frozen=True)
class Patience:
    """When to give up: after `attempts` in a row that brought no new byte; waits of backoff * 1, 2, 4, ... seconds."""

    attempts: int = 6
    backoff: float = 1.0
    timeout: float = 60.0
    """Seconds without a single byte until a connection counts as broken."""


@dataclass(frozen=True)
class Fetched:
    """A file that is complete on disk."""

    name: str
    path: Path
    bytes: int
    received: int
    """Bytes that came over the network in this call; 0 if the file was there already."""
    checked: str
    """The strongest check it passed now: sha256, md5, gzip (its own checksums), size, or "" (it was there)."""


@dataclass(frozen=True)
class _Version:
    """What the server said about the file that the part belongs to."""

    url: str
    total: int | None
    etag: str
    modified: str

    @property
    def validator(self) -> str:
        """For If-Range, which accepts a strong ETag or a date (RFC 9110, 13.1.5)."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified

    def contradicts(self, other: _Version) -> bool:
        """The two answers cannot be about the same bytes."""
        if self.etag and other.etag:
            return self.etag != other.etag
        if self.modified and other.modified and self.modified != other.modified:
            return True
        return None not in (self.total, other.total) and self.total != other.total

    def updated(self, other: _Version) -> _Version:
        """What a later answer about the same bytes said, with the earlier one where it was silent."""
        return _Version(self.url, other.total or self.total, other.etag or self.etag, other.modified or self.modified)


def fetch(
    remote: Remote,
    folder: str | Path,
    *,
    patience: Patience | None = None,
    check_gzip: bool = True,
    recheck: bool = False,
    stop: threading.Event | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Fetched:
    """Bring one file into `folder` and return it complete and checked; a file already there is left alone.

    `check_gzip` reads a .gz without a known hash to its end, against the checksums inside it. `recheck` does the checks
    for files that are there already. `on_bytes` hears of every change of the bytes held (negative when a part is
    thrown away). Raises FetchError when the file cannot be had, Stopped once `stop` is set; both keep a good part.
    """
    folder = Path(folder)
    final = folder / remote.name
    if final.exists():
        return _already(remote, final, check_gzip and recheck, recheck)
    folder.mkdir(parents=True, exist_ok=True)
    return _Transfer(remote, folder, patience or Patience(), check_gzip, stop or threading.Event(), on_bytes).run()


def size_of(remote: Remote, timeout: float = 60.0) -> int | None:
    """Bytes of the file as the server states them, asked for with a one-byte range; None if it does not say.

    Raises FetchError if it cannot be asked.
    """
    try:
        with open_url(remote.url, {"Range": "bytes=0-0"}, timeout) as response:
            return whole_length(response)
    except urllib.error.HTTPError as error:
        with error:
            raise FetchError(f"{remote.name}: {error}") from error
    except Broken as error:
        raise FetchError(f"{remote.name}: {error}") from error


def held_bytes(remote: Remote, folder: str | Path) -> int:
    """Bytes of the file that are on disk already, whole or in part."""
    folder = Path(folder)
    return max((p.stat().st_size for p in (folder / remote.name, _part(folder, remote)) if p.exists()), default=0)


class _Transfer:
    """The attempts at one file. Its state between attempts is the part and the note on disk."""

    def __init__(
        self,
        remote: Remote,
        folder: Path,
        patience: Patience,
        check_gzip: bool,
        stop: threading.Event,
        on_bytes: Callable[[int], None] | None,
    ) -> None:
        self.remote, self.patience, self.check_gzip = remote, patience, check_gzip
        self.final, self.part = folder / remote.name, _part(folder, remote)
        self.note = self.part.with_name(self.part.name + ".json")
        self.stop = stop
        self.on_bytes = on_bytes or (lambda count: None)
        self.received = 0
        self.joined = False  # the part holds bytes of more than one answer
        self.short_at = -1  # size at which the archive was found to end too early
        if self._version() is None:  # bytes of unknown origin are of no use
            self._discard()

    def run(self) -> Fetched:
        failures, best = 0, self._held()
        while True:
            try:
                self._attempt()
                checked = self._check()
                break
            except Broken as error:
                # Progress is a new record, so that a server which always starts anew and breaks cannot hold us forever.
                failures = 1 if self._held() > best else failures + 1
                best = max(best, self._held())
                if failures >= self.patience.attempts:
                    raise FetchError(
                        f"{self.remote.name}: gave up after {failures} attempts without progress ({error}); "
                        f"{self._held():,} bytes are kept, run the same command again to go on"
                    ) from error
                self._wait(failures, error.after)
        size = self._held()
        os.replace(self.part, self.final)
        self.note.unlink(missing_ok=True)
        return Fetched(self.remote.name, self.final, size, self.received, checked)

    def _attempt(self) -> None:
        """Ask for what is missing and write it. Returns when the server has no more."""
        held, known = self._held(), self._version()
        whole = self.remote.bytes or (known.total if known else None)
        if held and held == whole and held != self.short_at:
            return  # an earlier run received everything and was stopped before the checks
        headers = {}
        if held and known:
            headers["Range"] = f"bytes={held}-"
            if known.validator:
                headers["If-Range"] = known.validator
        try:
            response = open_url(self.remote.url, headers, self.patience.timeout)
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(error, held)
        with response:
            start = self._agree(response, held, known)
            self._receive(response, start)

    def _refused(self, error: urllib.error.HTTPError, held: int) -> None:
        """An HTTP error: 416 may only mean that we hold everything."""
        if error.code == 416 and held:
            total = number_in(r"bytes \*/(\d+)", error.headers.get("Content-Range"))
            if total != held:
                self._discard()
                raise Broken(f"the server's file is {total} bytes, the part {held}: starting anew")
            if self.remote.bytes and held < self.remote.bytes:
                raise FetchError(
                    f"{self.remote.name}: the server has {held:,} bytes, the table says {self.remote.bytes:,}; "
                    "correct the table if the file was replaced"
                )
            return
        if error.code in WORTH_RETRYING:
            after = error.headers.get("Retry-After", "")
            raise Broken(f"HTTP {error.code} {error.reason}", float(after) if after.isdigit() else None)
        raise FetchError(
            f"{self.remote.name}: HTTP {error.code} {error.reason} from {urlsplit(self.remote.url).hostname}; "
            "the link may have been moved: give a table with a current one"
        )

    def _agree(self, response: HTTPResponse, held: int, known: _Version | None) -> int:
        """Where the bytes of this answer belong. Throws the part away where it does not fit them."""
        headers = response.headers
        told = _Version(
            self.remote.url, whole_length(response), headers.get("ETag", ""), headers.get("Last-Modified", "")
        )
        start = 0
        if response.status == 206:
            start = number_in(r"bytes (\d+)-", headers.get("Content-Range")) or 0
            if start != held or known is None or known.contradicts(told):
                self._discard()
                raise Broken("the file changed on the server: starting anew")
        elif response.status != 200:
            raise FetchError(f"{self.remote.name}: unexpected answer HTTP {response.status}")
        if self.remote.bytes and told.total and told.total > self.remote.bytes:
            raise FetchError(
                f"{self.remote.name}: the server offers {told.total:,} bytes, the table says {self.remote.bytes:,}; "
                "correct the table if the file was replaced"
            )
        if start == 0:
            self._discard()
        self.joined = start > 0
        self._remember(told if known is None or start == 0 else known.updated(told))
        return start

    def _remember(self, version: _Version) -> None:
        draft = self.note.with_name(self.note.name + ".new")
        draft.write_text(json.dumps(asdict(version)), encoding="utf-8")
        os.replace(draft, self.note)

    def _receive(self, response: HTTPResponse, size: int) -> None:
        """Append the body. Every chunk is flushed, so that a kill loses nothing."""
        total = whole_length(response)
        limit = self.remote.bytes or total
        wrong = ""
        with self.part.open("ab") as out:
            while chunk := read_some(response):
                if size == 0 and (meant := _not_meant(self.remote, chunk)):
                    kind = response.headers.get_content_type()
                    wrong = f"the server sent {kind}, not {meant}; the link may have expired (try it in a browser)"
                    break
                size += len(chunk)
                if limit and size > limit:
                    wrong = f"the server sends more than the {limit:,} bytes expected"
                    break
                out.write(chunk)
                out.flush()
                self.received += len(chunk)
                self.on_bytes(len(chunk))
                if self.stop.is_set():
                    raise Stopped(self.remote.name)
            os.fsync(out.fileno())
        if wrong:
            self._discard()
            raise FetchError(f"{self.remote.name}: {wrong}")
        expected = max(total or 0, self.remote.bytes or 0)
        if size < expected:
            raise Broken(f"the connection ended at {size:,} of {expected:,} bytes")

    def _check(self) -> str:
        """The name of the check passed. Wrong bytes are thrown away, and tried again where resuming may be to blame."""
        try:
            return _checked(self.part, self.remote, self.check_gzip)
        except _Damaged as error:
            held = self._held()
            if error.short and held != self.short_at:  # a length that was too small: the server may have more
                self.short_at = held
                if known := self._version():
                    self._remember(replace(known, total=None))
                raise Broken(str(error)) from error
            joined, self.joined = self.joined, False
            self._discard()
            if joined:
                raise Broken(str(error)) from error
            raise FetchError(
                f"{self.remote.name}: {error}; what came is no good and was removed. Run again, and if it stays so the "
                "file on the server is damaged or the table is out of date"
            ) from error

    def _wait(self, failures: int, asked: float | None) -> None:
        seconds = asked if asked is not None else self.patience.backoff * 2 ** (failures - 1)
        if self.stop.wait(min(seconds, LONGEST_WAIT)):
            raise Stopped(self.remote.name)

    def _held(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _version(self) -> _Version | None:
        """What the part belongs to; None if that is not known or the table now points elsewhere."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            version = _Version(**note)
        except (FileNotFoundError, TypeError, ValueError):  # no note, or one cut off by a kill: as good as none
            return None
        return version if version.url == self.remote.url else None

    def _discard(self) -> None:
        if held := self._held():
            self.on_bytes(-held)
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def _not_meant(remote: Remote, start: bytes) -> str:
    """What the file should be, where its first bytes say that it is not; else ""."""
    if _gzipped(remote):
        return "" if b"\x1f\x8b".startswith(start[:2]) else "a gzip archive"
    return "a table" if remote.name.endswith((".csv", ".txt")) and start.lstrip()[:1] == b"<" else ""


def _gzipped(remote: Remote) -> bool:
    return remote.name.endswith((".gz", ".tgz"))


def _part(folder: Path, remote: Remote) -> Path:
    return folder / f"{remote.name}.part"


def _already(remote: Remote, path: Path, check_gzip: bool, recheck: bool) -> Fetched:
    size = path.stat().st_size
    cure = "move it away and run again to fetch it anew"
    if remote.bytes is not None and size != remote.bytes:
        raise FetchError(f"{path} is there with {size:,} bytes, the table says {remote.bytes:,}; {cure}")
    try:
        checked = _checked(path, remote, check_gzip) if recheck else ""
    except _Damaged as error:
        raise FetchError(f"{path} is there but {error}; {cure}") from error
    return Fetched(remote.name, path, size, 0, checked)


def _checked(path: Path, remote: Remote, check_gzip: bool) -> str:
    """The strongest check that can be made of a whole file. Raises _Damaged."""
    for kind, wanted in (("sha256", remote.sha256), ("md5", remote.md5)):
        if wanted:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, kind).hexdigest()
            if found != wanted.lower():
                raise _Damaged(f"its {kind} is {found}, the table says {wanted.lower()}")
            return kind
    if not check_gzip or not _gzipped(remote):
        return "size"
    try:
        with gzip.open(path) as stream:
            while stream.read(CHUNK):
                pass
    except EOFError as error:
        raise _Damaged(f"the archive ends too early, after {path.stat().st_size:,} bytes", short=True) from error
    except (OSError, zlib.error) as error:
        raise _Damaged(f"the archive is damaged ({error})") from error
    return "gzip"
