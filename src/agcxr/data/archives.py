"""Films inside .zip and .tar archives, read where they lie: nothing is unpacked, so a member's path is only a name.

A .tar (.tar.gz, .tar.bz2, .tar.xz) can only be read from front to back; a .zip lists its members, and each can be read
alone. Folders, links, hidden files and macOS's __MACOSX are passed over.
"""

import io
import lzma
import os
import stat
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import IO

from agcxr.data.radiograph import SUFFIXES, RadiographError, stem

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVES = (*TARS, ".zip")

MAX_MEMBER = 1 << 30
"""Bytes of the largest member that is read into memory, counted as they come out, whatever its header says."""

MAX_MEMBER_OF_SMALL = 1 << 27
MAX_RATIO = 100
"""Bytes of the largest member, and how many times its packed size a larger one may have: many are read at once, and a
few MB of zeros unpack to many GB. Films shrink to a third; only empty ones to a thousandth."""

STEP, SMALL_STEP = 1 << 16, 4096
"""Bytes read at once, and where all that is packed in them comes out at once: bzip2 makes 80 MB of 4 kB."""

BROKEN_ARCHIVE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,
    OSError,
    EOFError,
    UnicodeError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)
"""What is raised where an archive breaks off, or is none."""

_OPENING = threading.Lock()
"""Members of a zip are read by several threads at once, and a ZipFile counts its open members without a lock."""

HEAD = 132
"""First bytes of a file, in which DICOM's mark stands."""


@dataclass
class Member:
    """A file in an archive. name: its path in there, as it is written. size: bytes, as stated; packed: those that it
    takes up in the file, at most. A .tar gives it once: before the next member is asked for."""

    name: str
    size: int
    packed: int
    open: Callable[[], IO[bytes]]
    step: int = STEP
    """Bytes read at once."""
    _file: IO[bytes] | None = None
    _start: bytes = b""

    def head(self) -> bytes:
        """The first HEAD bytes. Raises RadiographError as `read`."""
        self._file = self.open()
        self._start = self._some(HEAD)
        return self._start

    def read(self) -> bytes:
        """The bytes. Raises RadiographError for what is encrypted, damaged or too large to be a film."""
        limit = min(MAX_MEMBER, max(MAX_MEMBER_OF_SMALL, MAX_RATIO * self.packed))
        if self.size > MAX_MEMBER:
            raise RadiographError(f"a file of {self.size:,} bytes; no radiograph needs more than {MAX_MEMBER:,}")
        if self.size > limit:
            raise RadiographError(
                f"a file of {self.size:,} bytes packed into {self.packed:,}; no radiograph packs so well"
            )
        self._file = self._file or self.open()
        data = io.BytesIO()
        data.write(self._start)
        try:
            while part := self._some(self.step):
                data.write(part)
                if data.tell() > limit:
                    raise RadiographError(f"a file that grows beyond {limit:,} bytes in its archive")
        finally:
            self.close()
        return data.getvalue()

    def close(self) -> None:
        """Let go of what `head` or `read` opened."""
        if self._file is not None:
            with _OPENING:
                self._file.close()
        self._file, self._start = None, b""

    def _some(self, size: int) -> bytes:
        """Damage in a zip is one member's; in a .tar it is the archive's, and is raised as it is."""
        assert self._file is not None
        try:
            return self._file.read(size)
        except (*BROKEN_ARCHIVE, ValueError) as error:
            if isinstance(self._file, zipfile.ZipExtFile):
                raise RadiographError(f"damaged in its archive: {error}") from error
            raise


def is_archive(name: str) -> bool:
    """Whether a file is an archive by its name."""
    return name.lower().endswith(ARCHIVES)


def is_zip(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a .zip by its name."""
    return os.fspath(path).lower().endswith(".zip")


def is_film(name: str, head: Callable[[], bytes]) -> bool:
    """Whether a file is a film: by its suffix, else by its first HEAD bytes, since DICOM files go by any name.

    `head` is asked only where the suffix does not tell. Where it raises RadiographError or OSError, a file without a
    suffix counts as a film, so that somebody says why it cannot be read.
    """
    base = name.rsplit("/", 1)[-1]
    if base.lower().endswith(SUFFIXES):
        return not base.startswith("._")  # what macOS leaves beside a file
    if base.startswith("._") or base.upper() == "DICOMDIR" or is_archive(base):
        return False
    # PACS name files IM000001, or by their UID ("1.2.840.113619...."): no suffix, or one of digits only.
    suffix = PurePosixPath(base).suffix
    nameless = suffix == "" or suffix[1:].isdigit()
    try:
        start = head()
    except (RadiographError, OSError):
        return nameless
    return start[128:132] == b"DICM" or (nameless and _is_bare_dicom(start))


def walk_archive(
    path: str | os.PathLike[str],
    wanted: Container[str] | None = None,
    pass_over: Callable[[str], None] = lambda name: None,
) -> Iterator[Member]:
    """The films of an archive, in its order. wanted: only those whose name or stem is among these. `pass_over` hears
    the names of other files. Raises BROKEN_ARCHIVE where the archive breaks off, or is none."""
    for member in (_zip_members if is_zip(path) else _tar_members)(path):
        if wanted is not None and member.name not in wanted and stem(member.name) not in wanted:
            continue
        parts = member.name.replace("\\", "/").split("/")
        if parts[-1].startswith(".") or "__MACOSX" in parts:
            continue
        if is_film(parts[-1], member.head):
            yield member
        else:
            pass_over(member.name)
            member.close()


def list_archive(path: str | os.PathLike[str], say: Callable[[str], None]) -> tuple[str, ...]:
    """Names of an archive's films; nothing is decoded. `say` hears of an archive that breaks off, and of archives
    within it, which are not looked into."""
    names: list[str] = []
    others: list[str] = []
    try:
        names += (member.name for member in walk_archive(path, pass_over=others.append))
    except BROKEN_ARCHIVE as error:
        say(why_broken(path, error))
    if within := [name for name in others if is_archive(name)]:
        say(f"{path} holds {len(within)} archives, which are not looked into (such as {within[0]}): unpack it")
    return tuple(names)


def why_broken(path: str | os.PathLike[str], error: Exception) -> str:
    """One of BROKEN_ARCHIVE in words, or that the archive is of another kind than its name says."""
    other = _other_kind(path)
    reason = f"it is a {other} archive; name it so" if other else str(error) or type(error).__name__
    return f"{path} breaks off: {reason}"


def _other_kind(path: str | os.PathLike[str]) -> str | None:
    try:
        if is_zip(path):
            return ".tar" if tarfile.is_tarfile(path) else None
        with open(path, "rb") as file:
            return ".zip" if file.read(4) == b"PK\x03\x04" else None
    except BROKEN_ARCHIVE:
        return None


def _tar_members(path: str | os.PathLike[str]) -> Iterator[Member]:
    packed = os.path.getsize(path)
    with tarfile.open(path, "r|*", bufsize=1 << 20) as archive:
        for info in archive:
            if info.isfile():
                yield Member(info.name, info.size, packed, partial(_extracted, archive, info))


def _extracted(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    assert file is not None  # only links and folders have none
    return file


def _zip_members(path: str | os.PathLike[str]) -> Iterator[Member]:
    whole = os.path.getsize(path)
    archive = zipfile.ZipFile(path)  # closed with the last of its members, which are read when their turn comes
    for info in archive.infolist():
        if not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16):
            plain = info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            step = STEP if plain else SMALL_STEP
            packed = min(info.compress_size, whole)  # which the archive may overstate
            yield Member(info.filename, info.file_size, packed, partial(_opened, archive, info), step)


def _opened(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    if info.flag_bits & 1:
        raise RadiographError("encrypted in its archive; unpack the archive with its password and give the folder")
    try:
        with _OPENING:
            return archive.open(info)
    except (*BROKEN_ARCHIVE, RuntimeError, ValueError) as error:
        raise RadiographError(f"cannot be read from its archive: {error}") from error


def _is_bare_dicom(head: bytes) -> bool:
    """A data set without DICOM's mark: an element of group 2 or 8, then its value representation or a short length."""
    if head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3:4] != b"\x00":
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    return explicit or 0 < int.from_bytes(head[4:8], "little") <= (4 if head[2:3] == b"\x00" else 64)
