"""What runs in a decoding process: films come in on stdin, pixels go out on stdout.

Run as `python -m agcxr.serve.decode_child` by decoder.py, which says why. Frames are 8 bytes of length and that many
bytes. First in: a Start as JSON. Then, again and again, in: a Wish as JSON, the file; out: a head as JSON and, unless
it holds a reason, four frames: the prepared film, the PNG, the shown film, the header. The last three may be empty.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import IO, Any

import numpy as np

from agcxr.data.radiograph import Radiograph, RadiographError, read_radiograph, resize
from agcxr.inference.prediction import Bytes
from agcxr.intake import Intake

JPEG_SCANS = 64
"""Passes over the picture in one JPEG; a few bytes each can ask for seconds of work. Real files have at most 12."""


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


def write_frame(stream: IO[bytes], data: bytes) -> None:
    stream.write(struct.pack("<Q", len(data)))
    stream.write(data)
    stream.flush()


def read_frame(stream: IO[bytes]) -> bytes:
    """Raises EOFError where the other side has gone."""
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    (length,) = struct.unpack("<Q", head)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def encode_png(pixels_HW: Any, level: int = 1) -> bytes:
    """Gray uint8 or uint16 -> a PNG of the same depth."""
    import cv2

    done, data = cv2.imencode(".png", pixels_HW, [cv2.IMWRITE_PNG_COMPRESSION, level])
    if not done:
        raise RadiographError(f"a picture of {pixels_HW.dtype} {pixels_HW.shape} cannot be written as PNG")
    return data.tobytes()


def main() -> None:
    """Answer until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is the server's to handle
    inward, outward = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    start = Start(**json.loads(read_frame(inward)))
    judge = _function(start.judge) if start.judge else None
    _confine(start.memory)
    write_frame(outward, b"ready")
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            wish, data = Wish(**json.loads(read_frame(inward))), read_frame(inward)
            for frame in _answer(data, wish, start, judge):
                write_frame(outward, frame)


def _function(name: str) -> Judge:
    module, _, function = name.partition(":")
    return getattr(import_module(module), function)  # type: ignore[no-any-return]


def _confine(memory: int) -> None:
    """Silence, no files, bounded memory. Imports come first: they need more."""
    import cv2

    with contextlib.suppress(ImportError):
        import pydicom.pixels  # noqa: F401
    cv2.setNumThreads(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    try:
        import resource
    except ImportError:
        return  # Windows has no such limits
    for what, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(what)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS does not know the first
            resource.setrlimit(what, (value, value))


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
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > JPEG_SCANS:
        raise RadiographError(f"a JPEG of more than {JPEG_SCANS} scans")
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
    import cv2

    pixels_HW = film.to_uint8()
    scale = min(longest / max(pixels_HW.shape), 1)
    width, height = max(round(film.width * scale), 1), max(round(film.height * scale), 1)
    return np.asarray(cv2.resize(pixels_HW, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


if __name__ == "__main__":
    main()
