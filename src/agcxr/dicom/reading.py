"""The file of a film -> what results take over from its header, and the film ready for the model; in a process apart.

Whatever a sender's bytes hold, the node itself never looks into them: header, sequences, deflated and plain pixels and
compressed ones are read here, in bounded memory and time (see agcxr/data/isolation.py).

Run as `python -m agcxr.dicom.reading` by itself.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from agcxr.data.codecs import REHEARSAL_HW, load_decoders
from agcxr.data.isolation import Answer, Children, address_space, confine, limit_time, serve
from agcxr.data.radiograph import RadiographError
from agcxr.dicom.source import Source, read_source, why_not_read
from agcxr.inference.stream import PreparedFilm, read_film
from agcxr.intake import Intake

SECONDS = 10.0
"""For a film to be read, and a second more for each 4 million bytes of its file."""
MEMORY = 4 << 30
"""Bytes that reading may take for any film; 100 million pixels of 16 bits need about half."""
KEPT = 1024
"""Longest side of the 8-bit film that pictures are drawn of."""

_children = Children("agcxr.dicom.reading")


class Ignored(ValueError):
    """A film that is not for this model by its header, and why, in words that quote nothing of it."""


def read_apart(file: bytes, size: int, patience: float = 1) -> tuple[Source, PreparedFilm]:
    """Header and film, S = `size` its prepared side. `patience`: how many times the usual seconds it may take.

    Raises:
        RadiographError: it cannot be read; the message may quote the film.
        Ignored: it is no film for the model.
        NotStarted: the process cannot start.
        ChildError: it crashed, or took too long.
    """
    seconds = patience * (SECONDS + len(file) / 4e6)
    head, *arrays = _children.ask([json.dumps({"size": size, "seconds": seconds}).encode(), file], seconds)
    answer: dict[str, Any] = json.loads(head)
    if "ignored" in answer:
        raise Ignored(str(answer["ignored"]))
    if "reason" in answer:
        raise RadiographError(str(answer["reason"]))
    header, image, shown = arrays
    read = PreparedFilm(
        name="Chest film",
        image_SS=np.frombuffer(image, np.uint8).reshape(size, size).copy(),
        height=int(answer["height"]),
        width=int(answer["width"]),
        notes=tuple(answer["notes"]),
        intake=Intake(answer["intake"]["decision"], tuple(answer["intake"]["reasons"])),
        film_HW=np.frombuffer(shown, np.uint8).reshape(answer["shown"]).copy(),
    )
    return Source.from_json(header), read


def _answers(_: object) -> Answer:
    load_decoders()
    read_film(REHEARSAL_HW, 64, KEPT)
    base = address_space()
    confine(base + MEMORY if base else None)
    return _answer


def _answer(question: list[bytes]) -> list[bytes]:
    asked: dict[str, Any] = json.loads(question[0])
    arrays: list[bytes] = []
    try:
        with limit_time(int(2 * asked["seconds"]) + 1):
            head, arrays = _read(question[1], int(asked["size"]))
    except Ignored as error:
        head = {"ignored": str(error)}
    except RadiographError as error:
        head = {"reason": str(error)}
    except MemoryError:
        head = {"reason": "reading it needs more memory than a radiograph may"}
    except Exception as error:  # the wall between hostile files and the node: whatever a decoder raises ends here
        head = {"reason": f"it cannot be read ({type(error).__name__})"}
    return [json.dumps(head).encode(), *arrays]


def _read(file: bytes, size: int) -> tuple[dict[str, Any], list[bytes]]:
    source = read_source(file)
    if reason := why_not_read(source):
        raise Ignored(reason)
    read = read_film(file, size, KEPT)
    assert read.film_HW is not None
    assert read.intake is not None
    head = {
        "height": read.height,
        "width": read.width,
        "notes": read.notes,
        "intake": asdict(read.intake),
        "shown": read.film_HW.shape,
    }
    return head, [source.to_json(), read.image_SS.tobytes(), read.film_HW.tobytes()]


if __name__ == "__main__":
    serve(_answers)
