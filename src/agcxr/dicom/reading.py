"""The file of a film -> what results take over from its header, and the film ready for the model; in a process apart.

Whatever a sender's bytes hold, the node itself never looks into them (see agcxr/inference/reading.py).
"""

from __future__ import annotations

from dataclasses import asdict, replace

from agcxr.data.isolation import Children
from agcxr.dicom.source import Source
from agcxr.inference.readers import MODULE, Start
from agcxr.inference.reading import PreparedFilm, Wish
from agcxr.inference.reading import read_apart as read_file_apart

SECONDS = 10.0
"""For a film to be read, and a second more for each BYTES_A_SECOND of its file."""
BYTES_A_SECOND = 4e6
KEPT = 1024
"""Longest side of the 8-bit film that pictures are drawn of."""

_children = Children(MODULE, asdict(Start(read_header="agcxr.dicom.source:read_header")))


def read_apart(file: bytes, size: int, patience: float = 1) -> tuple[Source, PreparedFilm]:
    """Header and film, S = `size` its prepared side. `patience`: how many times the usual seconds it may take.

    Raises as `agcxr.inference.reading.read_apart`; NoResults where it is no film for the model, before it is decoded.
    """
    wish = Wish(size, shown=KEPT, header="first", seconds=patience * (SECONDS + len(file) / BYTES_A_SECOND))
    film = read_file_apart(file, wish, _children)
    assert film.header is not None
    return Source.from_json(film.header), replace(film, name="Chest film")
