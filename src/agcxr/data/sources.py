"""Where films lie: folders of any depth, .zip and .tar archives, or all of them. The one finder of films.

`Walk` finds the films and archives below a folder, for `prepare` and `predict` alike. `find_files` lists them by name,
so a table that says 00000013_005.png finds images/00000013_005.jpg, images_001/images/00000013_005.png or the member
images/00000013_005.png of an archive. Folders and .zip archives are listed at once; a .tar can only be read from front
to back, so it is listed only when asked to (`list_archive`) and otherwise read in one pass (`walk_archive`).
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agcxr.data.archives import ARCHIVES, HEAD, is_archive, is_film, is_zip, list_archive
from agcxr.data.radiograph import SUFFIXES, without_suffix


@dataclass
class Walk:
    """The films and archives below `folder`, sorted by name within a folder, files before folders. Iterate once, over
    (file, its path below the folder); memory holds one folder's names at a time.

    Links to folders are followed, each folder once. `leave_out`: folders that are not entered. Complete after the
    iteration: `ignored` files that are neither, by number, `odd`, the first of them, and `closed` folders that may not
    be read.
    """

    folder: Path
    leave_out: tuple[str | os.PathLike[str], ...] = ()
    ignored: int = 0
    odd: str = ""
    closed: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[Path, Path]]:
        return self._below(self.folder, Path(), set())

    def _below(self, folder: Path, relative: Path, seen: set[tuple[int, int]]) -> Iterator[tuple[Path, Path]]:
        status = folder.stat()
        key = (status.st_dev, status.st_ino)
        if key in seen or is_left_out(folder, self.leave_out):
            return
        seen.add(key)
        special: list[str] = []
        names = list_folder(folder, self.closed, special)
        for name in (name for name, is_folder in names if not is_folder):
            path = folder / name
            if is_film_file(path) or (is_archive(name) and not name.startswith(".")):
                yield path, relative / name
            else:
                self.ignored += 1
                self.odd = self.odd or name
        self.ignored += len(special)
        self.odd = self.odd or next(iter(special), "")
        for name in (name for name, is_folder in names if is_folder):
            yield from self._below(folder / name, relative / name, seen)


def list_folder(folder: Path, closed: list[str], special: list[str] | None = None) -> list[tuple[str, bool]]:
    """Names in a folder, sorted, and whether each is a folder; `closed` gets one that may not be read, `special` the
    names of pipes and devices: whatever they are called, reading one would wait for ever."""
    try:
        with os.scandir(folder) as entries:
            names = []
            for entry in entries:
                if entry.is_file() or entry.is_dir() or entry.is_symlink():
                    names.append((entry.name, entry.is_dir()))
                elif special is not None:
                    special.append(entry.name)
            return sorted(names)
    except PermissionError:
        closed.append(str(folder))
        return []


def is_left_out(folder: Path, leave_out: Sequence[str | os.PathLike[str]]) -> bool:
    """Whether a folder is one of those that are not entered."""
    return any(os.path.exists(other) and os.path.samefile(folder, other) for other in leave_out)


def is_film_file(path: Path) -> bool:
    """Whether a file is a film, by its suffix or its first bytes; see `archives.is_film`."""
    return is_film(path.name, lambda: _head(path))


def _head(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        return b""  # reading a pipe would wait for ever
    with open(path, "rb") as file:
        return file.read(HEAD)


@dataclass(frozen=True)
class ImageFiles:
    """The films that were found.

    by_path: path below its folder or .zip without extension ("images_001/images/00000013_005") -> file, a .zip's member
    as "films.zip/images/00000013_005.png". by_stem: stem -> file (the first in sorted order). archives: .tar files, to
    be read front to back. zipped: files that are members -> their .zip and their names in it. duplicates: stems found
    more than once, how often; doubled: likewise paths. notes: what was odd, for people.
    """

    folders: tuple[Path, ...]
    by_path: dict[str, str]
    by_stem: dict[str, str]
    archives: tuple[Path, ...]
    duplicates: dict[str, int]
    doubled: frozenset[str] = frozenset()
    zipped: dict[str, tuple[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def find(self, image_id: str) -> str | None:
        """File of an image named as in a table. Folders in the name count: the longest part of it that exists wins."""
        path = self._path_of(image_id)
        if path is not None:
            return self.by_path[path]
        parts = _parts(image_id)
        if len(parts) > 1 and parts[-1] in self.duplicates:
            return None  # many files of that name, none in the folder that is asked for
        return self.by_stem.get(parts[-1])

    def is_ambiguous(self, image_id: str) -> bool:
        """Whether other files go by the name as well as the one that `find` gives."""
        path = self._path_of(image_id)
        return path in self.doubled if path is not None else _parts(image_id)[-1] in self.duplicates

    def _path_of(self, image_id: str) -> str | None:
        parts = _parts(image_id)
        tails = ("/".join(parts[start:]) for start in range(len(parts) - 1))
        return next((tail for tail in tails if tail in self.by_path), None)


def find_files(places: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> ImageFiles:
    """List the films (PNG, JPEG, WebP by extension, DICOM also by content) and archives under one or several folders or
    archives.

    Raises ValueError for a place that does not exist or if nothing at all is found.
    """
    given = [places] if isinstance(places, str | os.PathLike) else places
    listing = _Listing(tuple(map(Path, given)))
    for root in listing.roots:
        if not root.exists():
            raise ValueError(f"{root} does not exist; expected a folder of images, or a .zip or .tar.gz archive")
        walk = Walk(root)
        for path, below in walk if root.is_dir() else [(root, Path(root.name))]:
            listing.add(path, below)
        listing.others += [f"{walk.ignored:,} other files there, such as {walk.odd}"] if walk.ignored else []
        listing.notes += [f"no permission to read the folder {folder}" for folder in walk.closed]
    listing.look_into_zips()
    if not listing.by_stem and not listing.archives:
        places, known = ", ".join(map(str, listing.roots)), ", ".join((*SUFFIXES, *ARCHIVES))
        raise ValueError(
            f"no images under {places}; expected files {known}, or DICOM files of any name"
            + "".join(f"; {text}" for text in (*listing.others, *listing.notes))
        )
    return listing.files()


@dataclass
class _Listing:
    """`ImageFiles` in the making."""

    roots: tuple[Path, ...]
    by_path: dict[str, str] = field(default_factory=dict)
    by_stem: dict[str, str] = field(default_factory=dict)
    archives: list[Path] = field(default_factory=list)
    zips: list[tuple[Path, Path]] = field(default_factory=list)
    duplicates: dict[str, int] = field(default_factory=dict)
    doubled: set[str] = field(default_factory=set)
    zipped: dict[str, tuple[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    def add(self, path: Path, below: Path) -> None:
        if is_zip(path):
            self.zips.append((path, below))
        elif is_archive(path.name):
            self.archives.append(path)
        else:
            self._film(str(path), below.as_posix())

    def look_into_zips(self) -> None:
        """Last, as files that are unpacked already go before those of the same names in a .zip."""
        for path, below in self.zips:
            names = list_archive(path, self.notes.append)
            self.others += [] if names else [f"no films in {path}"]
            for name in names:
                file = f"{path}/{name}"
                self.zipped.setdefault(file, (str(path), name))
                self._film(file, (below.parent / name.lstrip("/\\")).as_posix())

    def _film(self, file: str, below: str) -> None:
        path = without_suffix(below)
        key = path.rsplit("/", 1)[-1]
        path = key if path == key else path  # one string for both tables
        if key in self.by_stem:
            self.duplicates[key] = self.duplicates.get(key, 1) + 1
        if path in self.by_path:
            self.doubled.add(path)
        self.by_stem.setdefault(key, file)
        self.by_path.setdefault(path, file)

    def files(self) -> ImageFiles:
        return ImageFiles(
            self.roots,
            self.by_path,
            self.by_stem,
            tuple(self.archives),
            self.duplicates,
            frozenset(self.doubled),
            self.zipped,
            tuple(self.notes),
        )


def _parts(image_id: str) -> list[str]:
    return without_suffix(image_id).strip("/").split("/")
