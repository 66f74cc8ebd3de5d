"""What runs in a decoding process: films come in on stdin, pixels go out on stdout.

Run as `python -m agcxr.serve.decode_child` by decoder.py, which says why; agcxr/data/isolation.py carries the frames.
In: a Wish as JSON, the file; out: a head as JSON and, unless it holds a reason, four frames: the prepared film, the
PNG, the shown film, the header. The last three may be empty.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import cv2
import numpy as np

from agcxr.data.codecs import REHEARSAL_HW, load_decoders
from agcxr.data.isolation import Answer, confine, serve
from agcxr.data.radiograph import Radiograph, RadiographError, from_array, read_radiograph, resize
from agcxr.inference.prediction import Bytes
from agcxr.intake import Intake

Judge = Callable[[Radiograph], Intake]
"""Looks at a film before the network does (`agcxr.intake.judge`). It runs in the decoding process: a plain function of
a module."""


@dataclass(frozen=True)
class Start:
    """size: side S that films are resized to. memory: bytes of address space. judge: "module:function" or ""."""

    size: int
    pixels: int
    memory: int
    judge: str = ""


@dataclass(frozen=True)
class Wish:
    """What is wanted besides the prepared film."""

    png: bool = False
    """The film at its full depth as a lossless PNG."""
    shown: int = 0
    """The film in 8 bits, no side longer than this; 0: not wanted."""
    header: bool = False
    """Of a DICOM film, what results take over from it (`agcxr.dicom.source.Source.to_json`)."""


def encode_png(pixels_HW: Any, level: int = 1) -> bytes:
    """Gray uint8 or uint16 -> a PNG of the same depth."""
    done, data = cv2.imencode(".png", pixels_HW, [cv2.IMWRITE_PNG_COMPRESSION, level])
    if not done:
        raise RadiographError(f"a picture of {pixels_HW.dtype} {pixels_HW.shape} cannot be written as PNG")
    return data.tobytes()


def _answers(start: dict[str, Any]) -> Answer:
    given = Start(**start)
    judge = _function(given.judge) if given.judge else None
    load_decoders()
    with contextlib.suppress(ImportError):  # without the extra there are no headers to read
        import_module("agcxr.dicom.source")
    if judge is not None:
        judge(from_array(REHEARSAL_HW))
    confine(given.memory)
    return lambda question: _answer(question[1], Wish(**json.loads(question[0])), given, judge)


def _function(name: str) -> Judge:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)  # type: ignore[no-any-return]


def _answer(data: bytes, wish: Wish, start: Start, judge: Judge | None) -> list[bytes]:
    try:
        head, arrays = _decode(data, wish, start, judge)
    except RadiographError as error:
        head, arrays = {"reason": str(error)}, []
    except MemoryError:
        head, arrays = {"reason": "decoding it needs more memory than a radiograph may"}, []
    except Exception as error:  # the wall between hostile files and the server: whatever a decoder raises ends here
        head, arrays = {"reason": f"it cannot be decoded ({type(error).__name__})"}, []
    return [json.dumps(head).encode(), *arrays]


def _decode(data: bytes, wish: Wish, start: Start, judge: Judge | None) -> tuple[dict[str, Any], list[bytes]]:
    film = read_radiograph(data, max_pixels=start.pixels)
    intake = None if judge is None else judge(film)
    small_SS = resize(film.pixels_HW, start.size)
    shown_HW = _shown(film, wish.shown) if wish.shown else None
    header, no_results = _header(data, film.format)
    head = {
        "small": small_SS.shape,
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
    shown = b"" if shown_HW is None else shown_HW.tobytes()
    return head, [small_SS.tobytes(), png, shown, header if wish.header else b""]


def _header(data: bytes, kind: str) -> tuple[bytes, str | None]:
    """What DICOM results take over from a film, and why there can be none."""
    if kind != "dicom":
        return b"", "not a DICOM film, so there is no study to put DICOM results in"
    from agcxr.dicom.source import read_source, why_not_read

    try:
        source = read_source(data)
        return source.to_json(), why_not_read(source)
    except RadiographError as error:
        return b"", str(error)


def _shown(film: Radiograph, longest: int) -> Bytes:
    pixels_HW = film.to_uint8()
    scale = min(longest / max(pixels_HW.shape), 1)
    width, height = max(round(film.width * scale), 1), max(round(film.height * scale), 1)
    return np.asarray(cv2.resize(pixels_HW, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


if __name__ == "__main__":
    serve(_answers)
