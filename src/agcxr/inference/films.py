"""Film files among files, folders, archives, globs, URIs and DICOMweb studies, found lazily.

What counts as a film in a folder or an archive is said where films are found for all commands, in data/sources.py.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from agcxr.data.archives import ARCHIVES, BROKEN_ARCHIVE, Member, is_archive, is_zip, walk_archive, why_broken
from agcxr.data.dicom_header import FILM_CLASSES
from agcxr.data.dicomweb import DicomWeb, Instance, ServiceError, is_study, parse_study
from agcxr.data.radiograph import SUFFIXES, RadiographError
from agcxr.data.sources import Walk, is_left_out, list_folder
from agcxr.inference.remote import fetch, films_below, is_uri


@dataclass(frozen=True)
class FilmFile:
    """A film, where it lies below the input it was found by, and its place among all films of the walk, from 0.

    path: of its file; of an archive's member the archive's with the member's name behind it. fetch: its bytes, where
    they are no file's. uri: of a remote film.
    """

    path: Path
    relative: Path
    place: int = 0
    fetch: Callable[[], bytes] | None = None
    uri: str = ""

    @property
    def name(self) -> str:
        """As rows have it."""
        return self.uri or str(self.path)

    def read(self) -> bytes:
        """The bytes. Raises OSError, and RadiographError for members that cannot be read."""
        return self.path.read_bytes() if self.fetch is None else self.fetch()


@dataclass
class Films:
    """The films of `inputs`, in the order given, sorted by name within a folder. Iterate once.

    A file that is named, or matched by a glob's last part, is taken whatever its name; in archives (.zip, .tar.gz) and
    folders, files count by suffix, and others if they begin like DICOM. An archive that breaks off is a film that
    cannot be read. `ignored` counts the rest, `empty` lists inputs without a film, `closed` folders that may not be
    read; all are complete after the iteration. Links to folders are followed, each folder once.

    Raises:
        ValueError: an input that is neither a file, a folder nor a pattern.
    """

    inputs: list[str]
    leave_out: tuple[str | os.PathLike[str], ...] = ()
    """Folders that are not entered: where files are written while the walk goes on."""
    ignored: int = 0
    empty: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        files = [name for name in self.inputs if not is_study(name) and not is_uri(name)]
        missing = [name for name in files if not os.path.exists(name) and not glob.has_magic(name)]
        if missing:
            raise ValueError(
                f"no such file or folder: {', '.join(missing)}; expected films, folders of films, archives, "
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
        known = ", ".join(sorted((*SUFFIXES, *ARCHIVES)))
        return f"in folders {known} files and DICOM files of any name count ({self.ignored} other files ignored)"

    def _of(self, name: str) -> Iterator[FilmFile]:
        if is_study(name):
            yield from self._study(name)
        elif is_uri(name):
            yield from map(remote_film, films_below(name))
        elif os.path.isdir(name):
            yield from self._walk(Path(name), Path())
        elif os.path.exists(name):
            yield from self._file(Path(name), Path(Path(name).name))
        else:
            yield from self._glob(name)

    def _study(self, name: str) -> Iterator[FilmFile]:
        """The films of a study of a DICOMweb service, without pictures that agcxr made; each is fetched when its turn
        comes. Its path is the study's UID and its own."""
        root, study = parse_study(name)
        service = DicomWeb(root)
        try:
            for instance in service.instances(study):
                if instance.sop_class not in FILM_CLASSES or instance.manufacturer == "agcxr":
                    self.ignored += 1
                    continue
                path = Path(study, f"{instance.uid}.dcm")
                yield FilmFile(path, path, fetch=partial(_fetched, service, instance))
        except ServiceError as error:
            raise ValueError(f"the list of a study could not be had from {root}: {error}") from error

    def _walk(self, folder: Path, relative: Path) -> Iterator[FilmFile]:
        walk = Walk(folder, self.leave_out)
        for path, below in walk:
            yield from self._file(path, relative / below)
        self.ignored += walk.ignored
        self.closed += walk.closed

    def _file(self, path: Path, relative: Path) -> Iterator[FilmFile]:
        """The film that a file is, or those in an archive; these lie in a folder of its name."""
        if not is_archive(path.name) or not path.is_file():
            yield FilmFile(path, relative)
            return
        suffix = max((end for end in ARCHIVES if path.name.lower().endswith(end)), key=len)
        folder = relative.with_name(path.name[: -len(suffix)] or path.name)
        try:
            for member in walk_archive(path, pass_over=self._ignore):
                # A .tar gives a member once, in passing; a .zip when its turn comes, which may be in another thread.
                fetch = member.read if is_zip(path) else _read_now(member)
                yield FilmFile(Path(f"{path}/{member.name}"), folder / _inside(member.name), fetch=fetch)
        except BROKEN_ARCHIVE as error:
            yield FilmFile(path, relative, fetch=_refusal(why_broken(path, error)))

    def _ignore(self, name: str) -> None:
        self.ignored += 1

    def _glob(self, pattern: str) -> Iterator[FilmFile]:
        """Folders matched by the head of the pattern, one after the other; in each the names its last part matches."""
        head, last = os.path.split(pattern)
        everything = last == "**"
        if everything:
            head, last = pattern, "*"
        heads = glob.iglob(head, recursive=True) if glob.has_magic(head) else [head or os.curdir]
        for folder in sorted(name for name in heads if os.path.isdir(name)):
            if is_left_out(Path(folder), self.leave_out):
                continue
            for name, is_folder in list_folder(Path(folder), self.closed):
                hidden = name.startswith(".") and not last.startswith(".")
                if hidden or not fnmatch.fnmatch(name, last):
                    continue
                if not is_folder:
                    yield from self._file(Path(folder) / name, Path(name))
                elif not everything:  # with "**" the folders below are among the heads
                    yield from self._walk(Path(folder) / name, Path(name))


def remote_film(uri: str) -> FilmFile:
    """The film of a URI; it is fetched when its turn comes."""
    path = Path(_inside(uri.partition("://")[2]))
    return FilmFile(path, Path(path.name or "film"), fetch=partial(fetch, uri), uri=uri)


def _fetched(service: DicomWeb, instance: Instance) -> bytes:
    try:
        return service.fetch(instance)
    except ServiceError as error:
        raise RadiographError(f"the archive did not give this film: {error}") from error


def _read_now(member: Member) -> Callable[[], bytes]:
    try:
        data = member.read()
    except RadiographError as error:
        return _refusal(str(error))
    return lambda: data


def _refusal(reason: str) -> Callable[[], bytes]:
    def fetch() -> bytes:
        raise RadiographError(reason)

    return fetch


def _inside(name: str) -> Path:
    """A member's name as a path that leads nowhere else: archives may name "../x", "/x" or "C:\\x"."""
    parts = name.replace("\\", "/").replace(":", "_").replace("\0", "_").split("/")
    return Path(*(part for part in parts if part not in ("", ".", "..")))


def with_pictures(films: Iterable[FilmFile]) -> Iterator[FilmFile]:
    """The same films; `relative` becomes the name of the film's picture, laid out as the films are.

    Films of one name get numbers in the order of the walk, whether or not they can be read, so that every process that
    walks the same folders gives the same names. Memory holds all names.
    """
    used: set[str] = set()
    for film in films:
        stem = film.relative.with_suffix("") if film.relative.suffix.lower() in SUFFIXES else film.relative
        name, number = f"{stem}.png", 2
        while name in used:
            name, number = f"{stem}-{number}.png", number + 1
        used.add(name)
        yield replace(film, relative=Path(name))
