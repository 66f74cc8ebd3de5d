"""Films by URI: s3://, gs://, hdfs://, file://, https:// and whatever else Arrow's or fsspec's file systems open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from agcxr.data.archives import MAX_MEMBER
from agcxr.data.radiograph import SUFFIXES, RadiographError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

NATIVE = ("file", "s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss", "mock")
"""Schemes that Arrow opens by itself; others go through fsspec."""


def is_uri(name: str) -> bool:
    """Whether an input is a URI rather than a file of this machine."""
    return "://" in name


def file_system(uri: str) -> tuple[FileSystem, str]:
    """What opens a URI, and the path in it. Raises ValueError where nothing does."""
    import pyarrow as pa
    from pyarrow import fs

    native = uri.partition("://")[0].lower() in NATIVE
    try:
        return fs.FileSystem.from_uri(uri if native else f"fsspec+{uri}")  # type: ignore[no-any-return]
    except (pa.ArrowException, ValueError, ImportError, OSError) as error:
        raise ValueError(
            f"{uri} cannot be opened ({error}); expected s3://, gs://, hdfs://, file:// or https://"
        ) from error


def films_below(uri: str) -> Iterator[str]:
    """The film of a URI, or the films by name below it, sorted. Raises ValueError where there is nothing."""
    from pyarrow import fs

    system, path = file_system(uri)
    if uri.partition("://")[0].lower() in ("http", "https"):
        yield uri  # a web server lists nothing, and says whether the film is there when it is fetched
        return
    (info,) = system.get_file_info([path])
    if info.type == fs.FileType.File:
        yield uri
        return
    if info.type == fs.FileType.NotFound:
        raise ValueError(f"there is nothing at {uri}; expected a film, or a folder of films")
    root, start = uri.rstrip("/"), len(path.rstrip("/"))
    below = system.get_file_info(fs.FileSelector(path, recursive=True))
    for entry in sorted(below, key=lambda entry: str(entry.path)):
        if entry.type == fs.FileType.File and os.path.splitext(entry.path)[1].lower() in SUFFIXES:
            yield root + str(entry.path)[start:]


def fetch(uri: str) -> bytes:
    """The bytes of a film. Raises OSError, and RadiographError for more than any film has."""
    system, path = file_system(uri)
    with system.open_input_stream(path) as stream:
        data = bytes(stream.read(MAX_MEMBER + 1))
    if len(data) > MAX_MEMBER:
        raise RadiographError(f"a file of more than {MAX_MEMBER:,} bytes; no radiograph needs so many")
    return data
