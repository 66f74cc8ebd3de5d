"""Where the films lie: folders of any depth, .tar.gz archives as downloaded, or both. Files are found by stem.

So a table that says 00000013_005.png finds images/00000013_005.jpg, images_001/images/00000013_005.png or the member
images/00000013_005.png of images_001.tar.gz. Folders are listed at once; archives can only be read from front to back,
so they are listed only when asked to (`list_archive`) and otherwise read in one pass (`walk_archive`).
"""

import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agcxr.data.radiograph import SUFFIXES, stem, without_suffix

ARCHIVES = (".tar.gz", ".tgz", ".tar")

MAX_MEMBER = 1 << 30
"""Bytes of the largest archive member that is read into memory."""

BROKEN_ARCHIVE = (tarfile.TarError, OSError, EOFError, zlib.error)


@dataclass(frozen=True)
class ImageFiles:
    """The films that were found.

    by_path: path below its folder without extension ("images_001/images/00000013_005") -> file. by_stem: stem -> file
    (the first in sorted order). archives: to be read front to back. duplicates: stems found more than once, how often.
    """

    folders: tuple[Path, ...]
    by_path: dict[str, str]
    by_stem: dict[str, str]
    archives: tuple[Path, ...]
    duplicates: dict[str, int]

    def find(self, image_id: str) -> str | None:
        """File of an image named as in a table. Folders in the name count: the longest part of it that exists wins."""
        parts = without_suffix(image_id).strip("/").split("/")
        for start in range(len(parts) - 1):
            path = self.by_path.get("/".join(parts[start:]))
            if path is not None:
                return path
        if len(parts) > 1 and parts[-1] in self.duplicates:
            return None  # many files of that name, none in the folder that is asked for
        return self.by_stem.get(parts[-1])


def find_files(places: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> ImageFiles:
    """List the films (PNG, JPEG, WebP, DICOM by extension) and archives under one or several folders or archives.

    Raises ValueError for a place that does not exist or if nothing at all is found.
    """
    listed = [places] if isinstance(places, str | os.PathLike) else places
    roots = tuple(Path(place) for place in listed)
    by_path: dict[str, str] = {}
    by_stem: dict[str, str] = {}
    duplicates: dict[str, int] = {}
    archives: list[Path] = []
    for root in roots:
        if not root.exists():
            raise ValueError(f"{root} does not exist; expected a folder of images or a .tar.gz archive")
        for path in _walk(root) if root.is_dir() else [root]:
            if path.name.lower().endswith(ARCHIVES):
                archives.append(path)
            elif path.name.lower().endswith(SUFFIXES):
                key, below = stem(path.name), without_suffix(path.relative_to(root).as_posix())
                below = key if below == key else below  # one string for both tables
                if key in by_stem:
                    duplicates[key] = duplicates.get(key, 1) + 1
                by_stem.setdefault(key, str(path))
                by_path.setdefault(below, str(path))
    if not by_stem and not archives:
        raise ValueError(
            f"no images under {', '.join(map(str, roots))}; expected files {', '.join((*SUFFIXES, *ARCHIVES))}"
        )
    return ImageFiles(roots, by_path, by_stem, tuple(archives), duplicates)


def _walk(root: Path) -> Iterator[Path]:
    """All files below, sorted; links are followed once; names with a leading dot (macOS remains) are left out."""
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder, name)


def walk_archive(path: str | os.PathLike[str]) -> Iterator[tuple[str, tarfile.TarInfo, tarfile.TarFile]]:
    """(stem, member, archive) of each film of a .tar or .tar.gz, front to back, nothing unpacked.

    The member must be read, if at all, before the next is asked for. Raises BROKEN_ARCHIVE where the archive breaks.
    """
    with tarfile.open(path, "r|*", bufsize=1 << 20) as archive:
        for member in archive:
            name = member.name.rsplit("/", 1)[-1]
            if member.isfile() and not name.startswith(".") and name.lower().endswith(SUFFIXES):
                yield stem(name), member, archive


def read_member(member: tarfile.TarInfo, archive: tarfile.TarFile) -> bytes:
    """Bytes of a member. Raises ValueError for one that is too large to be a film."""
    if member.size > MAX_MEMBER:
        raise ValueError(f"a file of {member.size:,} bytes; no radiograph needs more than {MAX_MEMBER:,}")
    file = archive.extractfile(member)
    return file.read() if file else b""


def list_archive(path: str | os.PathLike[str], say: Callable[[str], None]) -> tuple[str, ...]:
    """Stems of an archive's films; nothing is decoded. `say` hears of an archive that breaks off."""
    stems = []
    try:
        for key, _, _ in walk_archive(path):
            stems.append(key)
    except BROKEN_ARCHIVE as error:
        say(why_broken(path, error))
    return tuple(stems)


def why_broken(path: str | os.PathLike[str], error: Exception) -> str:
    """One of BROKEN_ARCHIVE in words."""
    return f"{path} breaks off: {str(error) or type(error).__name__}"
