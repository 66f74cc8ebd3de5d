"""Film files among a mix of files, folders and globs, found lazily: memory holds one folder's names at a time."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class FilmFile:
    """A file, where it lies below the input it was found by, and its place among all films of the walk, from 0."""

    path: Path
    relative: Path
    place: int = 0


@dataclass
class Films:
    """The films of `inputs`, in the order given, sorted by name within a folder. Iterate once.

    A file that is named, or matched by a glob's last part, is taken whatever its name. In folders, files count by
    suffix; those without one (as PACS write them) if they begin like DICOM. `ignored` counts the rest, `empty` lists
    inputs without a film, `closed` folders that may not be read; all are complete after the iteration. Links to
    folders are followed, each folder once.

    Raises:
        ValueError: an input that is neither a file, a folder nor a pattern.
    """

    inputs: list[str]
    leave_out: tuple[str | os.PathLike[str], ...] = ()
    """Folders that are not entered: where files are written while the walk goes on."""
    ignored: int = 0
    empty: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    SUFFIXES: ClassVar[frozenset[str]] = frozenset({".png", ".jpg", ".jpeg", ".webp", ".dcm", ".dicom"})

    def __post_init__(self) -> None:
        missing = [name for name in self.inputs if not os.path.exists(name) and not glob.has_magic(name)]
        if missing:
            raise ValueError(
                f"no such file or folder: {', '.join(missing)}; expected films, folders of films, "
                "or glob patterns in quotes such as 'films/**/*.png'"
            )

    def __iter__(self) -> Iterator[FilmFile]:
        place = 0
        for name in self.inputs:
            before = place
            for film in self._of(name):
                yield replace(film, place=place)
                place += 1
            if place == before:
                self.empty.append(name)

    def looked_for(self) -> str:
        """What would have counted, for an error message."""
        known = ", ".join(sorted(self.SUFFIXES))
        return f"in folders {known} files and DICOM files without a suffix count ({self.ignored} other files ignored)"

    def _of(self, name: str) -> Iterator[FilmFile]:
        if os.path.isdir(name):
            yield from self._walk(Path(name), Path(), set())
        elif os.path.exists(name):
            yield FilmFile(Path(name), Path(Path(name).name))
        else:
            yield from self._glob(name)

    def _walk(self, folder: Path, relative: Path, seen: set[tuple[int, int]]) -> Iterator[FilmFile]:
        status = folder.stat()
        key = (status.st_dev, status.st_ino)
        if key in seen or self._left_out(folder):
            return
        seen.add(key)
        found = self._list(folder)
        for name in (name for name, is_folder in found if not is_folder):
            if self._is_film(folder / name):
                yield FilmFile(folder / name, relative / name)
            else:
                self.ignored += 1
        for name in (name for name, is_folder in found if is_folder):
            yield from self._walk(folder / name, relative / name, seen)

    def _glob(self, pattern: str) -> Iterator[FilmFile]:
        """Folders matched by the head of the pattern, one after the other; in each the names its last part matches."""
        head, last = os.path.split(pattern)
        everything = last == "**"
        if everything:
            head, last = pattern, "*"
        heads = glob.iglob(head, recursive=True) if glob.has_magic(head) else [head or os.curdir]
        for folder in sorted(name for name in heads if os.path.isdir(name)):
            if self._left_out(Path(folder)):
                continue
            for name, is_folder in self._list(Path(folder)):
                hidden = name.startswith(".") and not last.startswith(".")
                if hidden or not fnmatch.fnmatch(name, last):
                    continue
                if not is_folder:
                    yield FilmFile(Path(folder) / name, Path(name))
                elif not everything:  # with "**" the folders below are among the heads
                    yield from self._walk(Path(folder) / name, Path(name), set())

    def _list(self, folder: Path) -> list[tuple[str, bool]]:
        """Names in a folder, sorted, and whether each is a folder."""
        try:
            with os.scandir(folder) as entries:
                return sorted((entry.name, entry.is_dir()) for entry in entries)
        except PermissionError:
            self.closed.append(str(folder))
            return []

    def _left_out(self, folder: Path) -> bool:
        return any(os.path.exists(one) and os.path.samefile(folder, one) for one in self.leave_out)

    def _is_film(self, path: Path) -> bool:
        suffix = path.suffix.lower()
        if suffix in self.SUFFIXES:
            return True
        # PACS name files IM000001, or by their UID ("1.2.840.113619...."): no suffix, or one of digits only.
        if path.name == "DICOMDIR" or not (suffix == "" or suffix[1:].isdigit()):
            return False
        try:
            with open(path, "rb") as file:
                return file.read(132)[128:] == b"DICM"
        except OSError:
            return True  # it gets a row that says why it cannot be read


def with_pictures(films: Iterable[FilmFile]) -> Iterator[FilmFile]:
    """The same films; `relative` becomes the name of the film's picture, laid out as the films are.

    Films of one name get numbers in the order of the walk, whether or not they can be read, so that every process that
    walks the same folders gives the same names. Memory holds all names.
    """
    used: set[str] = set()
    for film in films:
        stem = film.relative.with_suffix("") if film.relative.suffix.lower() in Films.SUFFIXES else film.relative
        name, number = f"{stem}.png", 2
        while name in used:
            name, number = f"{stem}-{number}.png", number + 1
        used.add(name)
        yield replace(film, relative=Path(name))
