"""The bytes of a film -> what a model takes of it, in the decoding sandbox: the one door of page, node and predict.

Whatever a stranger's file holds, no process of ours looks into it: headers, sequences, plain and compressed pixels are
read in processes apart (agcxr/data/isolation.py), in bounded memory and time. One that dies takes one film with it.
PNG, JPEG and WebP have processes of their own, which start three times as fast as those that know DICOM.

Run as `python -m agcxr.inference.reading` by itself. In: a Wish as JSON, the file; out: a head as JSON and, unless it
says why there is no film, four frames: prepared film, PNG, shown film, header. The last three may be empty.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from agcxr.data.codecs import REHEARSAL_HW, load_decoders
from agcxr.data.isolation import Answer, Children, address_space, confine, limit_time, serve
from agcxr.data.radiograph import MAX_PIXELS, Radiograph, RadiographError, from_array, read_radiograph, resize
from agcxr.inference import readers
from agcxr.inference.readers import Start
from agcxr.intake import Intake

if TYPE_CHECKING:
    from agcxr.inference.prediction import Bytes

SECONDS = 30.0
"""For a film to be read, and a second more for each million bytes of its file."""
PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF")
"""How files begin that need no DICOM to be read."""

Judge = Callable[[Radiograph], Intake]
"""Looks at a film before the network does (`agcxr.intake.judge`). It runs in the decoding process: a plain function of
a module."""
ReadHeader = Callable[[bytes], tuple[bytes, str | None]]
"""What results take over from a DICOM file, and why there can be none. As Judge. Raises RadiographError."""


class NoResults(ValueError):
    """A film of which there can be no results, by its header, and why, in words that quote nothing of it."""


@dataclass(frozen=True)
class Wish:
    """What is wanted of a file."""

    size: int
    """Side S that the film is resized to."""
    pixels: int = MAX_PIXELS
    """Most that it may have, as its header states them."""
    shown: int = 0
    """The film in 8 bits, no side longer than this; 0: not wanted."""
    png: bool = False
    """The film at its full depth as a lossless PNG."""
    header: Literal["", "beside", "first"] = ""
    """Of a DICOM film, what results take over; "first": where there can be none, nothing is decoded (NoResults)."""
    seconds: float = 0
    """To take; 0: by the size of the file."""


@dataclass(frozen=True, eq=False)
class PreparedFilm:
    """A film ready for an engine, uint8 S x S, and what its Prediction says about it."""

    name: str
    image_SS: Bytes
    height: int
    width: int
    notes: tuple[str, ...]
    intake: Intake | None
    """What the pixels say; None where nobody looked."""
    film_HW: Bytes | None


@dataclass(frozen=True, eq=False)
class ReadFilm(PreparedFilm):
    """A film read from a file, and what that said."""

    bits: int
    """8 or 16: the depth of the pixels."""
    format: str
    view_position: str | None
    no_results: str | None
    """Why there are no DICOM results of this film; None where there can be, or nobody asked."""
    png: bytes | None
    header: bytes | None
    """Of a DICOM film, where it was asked for: what results take over."""


def read_apart(file: bytes, wish: Wish, children: Children | None = None) -> ReadFilm:
    """Read a file in a process apart; `children`: those for it, by default ones that judge films and read no header.

    Raises:
        RadiographError: it cannot be read; the message may quote the film.
        NoResults: see Wish.header.
        NotStarted: the process cannot start.
        ChildError: it crashed, or took too long.
    """
    seconds = wish.seconds or SECONDS + len(file) / 1e6
    if children is None:
        children = readers.PICTURES if file.startswith(PICTURES) else readers.DICOM
    return received(children.ask(question(file, replace(wish, seconds=seconds)), seconds))


def question(file: bytes, wish: Wish) -> list[bytes]:
    """As a process is asked it."""
    return [json.dumps(asdict(wish)).encode(), file]


def received(frames: list[bytes]) -> ReadFilm:
    """An answer. Raises RadiographError and NoResults as `read_apart`."""
    head: dict[str, Any] = json.loads(frames[0])
    if "reason" in head:
        raise RadiographError(str(head["reason"]))
    if "no film" in head:
        raise NoResults(str(head["no film"]))
    image, png, shown, header = frames[1:]
    intake = head["intake"]
    return ReadFilm(
        name="",
        image_SS=np.frombuffer(image, np.uint8).reshape(head["size"]).copy(),
        width=int(head["width"]),
        height=int(head["height"]),
        bits=int(head["bits"]),
        format=str(head["format"]),
        notes=tuple(head["notes"]),
        view_position=head["view_position"],
        intake=None if intake is None else Intake(intake["decision"], tuple(intake["reasons"])),
        no_results=head["no_results"],
        png=png or None,
        film_HW=np.frombuffer(shown, np.uint8).reshape(head["shown"]).copy() if shown else None,
        header=header or None,
    )


# --- in the process apart ---------------------------------------------------------------------------------------------


def _answers(start: dict[str, Any]) -> Answer:
    given = Start(**start)
    judge, read_header = _function(given.judge), None
    with contextlib.suppress(ImportError):  # without the extra there are no headers to read
        read_header = _function(given.read_header)
    if given.dicom:
        load_decoders()
    cv2.setNumThreads(1)
    if judge is not None:
        judge(from_array(REHEARSAL_HW))
    base = address_space()
    confine(base + given.memory if base else None)
    return lambda frames: _answer(frames[1], Wish(**json.loads(frames[0])), judge, read_header)


def _function(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function) if name else None


def _answer(file: bytes, wish: Wish, judge: Judge | None, read_header: ReadHeader | None) -> list[bytes]:
    arrays: list[bytes] = []
    try:
        with limit_time(int(2 * wish.seconds) + 1):
            head, arrays = _read(file, wish, judge, read_header)
    except NoResults as error:
        head = {"no film": str(error)}
    except RadiographError as error:
        head = {"reason": str(error)}
    except MemoryError:
        head = {"reason": "reading it needs more memory than a radiograph may"}
    except Exception as error:  # the wall between hostile files and the work: whatever a decoder raises ends here
        head = {"reason": f"it cannot be read ({type(error).__name__})"}
    return [json.dumps(head).encode(), *arrays]


def _read(
    file: bytes, wish: Wish, judge: Judge | None, read_header: ReadHeader | None
) -> tuple[dict[str, Any], list[bytes]]:
    header, no_results = b"", None
    if wish.header == "first" and read_header is not None:
        header, no_results = read_header(file)
        if no_results is not None:
            raise NoResults(no_results)
    film = read_radiograph(file, max_pixels=wish.pixels)
    if wish.header == "beside" and read_header is not None and film.format == "dicom":
        try:
            header, no_results = read_header(file)
        except RadiographError as error:
            no_results = str(error)
    intake = None if judge is None else judge(film)
    image_SS = resize(film.pixels_HW, wish.size)
    shown_HW = shrunk(film, wish.shown) if wish.shown else None
    head = {
        "size": image_SS.shape,
        "shown": None if shown_HW is None else shown_HW.shape,
        "width": film.width,
        "height": film.height,
        "bits": film.pixels_HW.dtype.itemsize * 8,
        "format": film.format,
        "notes": film.notes,
        "view_position": film.view_position,
        "intake": None if intake is None else asdict(intake),
        "no_results": no_results,
    }
    png = encode_png(film.pixels_HW) if wish.png else b""
    return head, [image_SS.tobytes(), png, b"" if shown_HW is None else shown_HW.tobytes(), header]


def encode_png(pixels_HW: Any, level: int = 1) -> bytes:
    """Gray uint8 or uint16 -> a PNG of the same depth."""
    done, data = cv2.imencode(".png", pixels_HW, [cv2.IMWRITE_PNG_COMPRESSION, level])
    if not done:
        raise RadiographError(f"a picture of {pixels_HW.dtype} {pixels_HW.shape} cannot be written as PNG")
    return data.tobytes()


def shrunk(film: Radiograph, longest: int) -> Bytes:
    """The film in 8 bits, no side longer than `longest`, aspect kept."""
    pixels_HW = film.to_uint8()
    scale = longest / max(pixels_HW.shape)
    if scale >= 1:
        return pixels_HW
    height, width = (max(round(side * scale), 1) for side in pixels_HW.shape)
    return np.asarray(cv2.resize(pixels_HW, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


if __name__ == "__main__":
    serve(_answers)
