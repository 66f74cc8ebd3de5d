"""Compressed frames -> samples, by OpenCV, GDCM, OpenJPEG and CharLS in a process of its own (see isolation.py).

The first compressed film starts the process; it lives as long as this one does and serves film after film. Threads
that decode at the same time get one each. Films that are not compressed DICOM never come here.

Run as `python -m agcxr.data.codecs` by itself.
"""

from __future__ import annotations

import contextlib
import json
import struct
from codecs import lookup
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from agcxr.data.codestream import Codestream
from agcxr.data.decode import JPEG_END, RadiographError, jpeg_segments, whole_jpeg
from agcxr.data.isolation import (
    Answer,
    ChildError,
    Children,
    address_space,
    confine,
    is_isolated,
    limit_memory,
    limit_time,
    serve,
)
from agcxr.extras import needs

SECONDS = 30.0
"""For a film to be decoded, and a second more for each million samples. JPEG 2000 needs about a tenth of that."""
MEMORY = 1 << 30
"""Bytes that a decoder may take for any film, and 48 more for each sample."""

SAMPLES = ("uint8", "uint16", "int8", "int16")

READERS = (
    *("numpy.ma", "pydicom", "pydicom.encaps", "pydicom.pixels", "openjpeg.utils", "gdcm"),
    *("agcxr.data.compressed", "agcxr.data.dicomfile"),
)
"""Modules that are otherwise imported with the first film that needs them."""

REHEARSAL_HW = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
"""A film to read while files can still be opened, for whatever else the first one loads."""

_children = Children("agcxr.data.codecs")


def decode_isolated(frame: bytes, stream: Codestream, rows: int, columns: int) -> NDArray:
    """Samples as they were coded: rows x columns, or x 3, of 8 or 16 bits. Raises RadiographError with the reason,
    whatever becomes of the decoder."""
    if is_isolated():
        return _decode(frame, stream, rows, columns)
    samples = rows * columns * stream.components
    question = {"stream": asdict(stream), "rows": rows, "columns": columns}
    try:
        head, *arrays = _children.ask([json.dumps(question).encode(), frame], SECONDS + samples / 1e6)
        answer = json.loads(head)
        if "reason" in answer:
            raise RadiographError(str(answer["reason"]))
        shape = (rows, columns) if stream.components == 1 else (rows, columns, 3)
        if answer["dtype"] not in SAMPLES:
            raise ValueError(f"pixels of {answer['dtype']}")
        return np.frombuffer(arrays[0], answer["dtype"]).reshape(shape).copy()
    except ChildError as error:
        raise RadiographError(str(error)) from error


def _decode(frame: bytes, stream: Codestream, rows: int, columns: int) -> NDArray:
    """In the process that may crash."""
    if stream.kind == "RLE":
        pixels = _rle(frame, stream, rows, columns)
    elif stream.kind == "JPEG 2000":
        end = b"" if stream.unended_at is None else JPEG_END
        pixels = _j2k(frame[stream.start : stream.unended_at] + end)
    elif stream.kind == "JPEG" and stream.bits == 8:
        pixels = _whole(frame, stream, lambda data: _jpeg(data, stream))
    else:
        pixels = _whole(frame, stream, lambda data: _dicom(data, stream, rows, columns))
    shape = (rows, columns) if stream.components == 1 else (rows, columns, 3)
    if pixels.shape != shape or pixels.dtype.name not in SAMPLES:
        raise RadiographError(f"its {stream.kind} decodes to {pixels.dtype} {pixels.shape}; expected {shape}")
    return np.ascontiguousarray(pixels)


def _whole(frame: bytes, stream: Codestream, decode: Callable[[bytes], NDArray]) -> NDArray:
    if stream.unended_at is None:
        return decode(frame)
    if stream.kind == "JPEG-LS":
        # Decoders refuse a cut one (by more than a byte) at once if it has an end mark; without, some never come back.
        return decode(frame.removesuffix(b"\0").removesuffix(b"\xff") + JPEG_END)
    pixels = whole_jpeg(frame, decode)
    if pixels is None:
        raise RadiographError(f"truncated {stream.kind}: it stops after {len(frame):,} bytes, before its end mark")
    return pixels


def _jpeg(frame: bytes, stream: Codestream) -> NDArray:
    """By libjpeg. Marks of applications are left out (they turn pictures and convert colours), and Adobe's is put in,
    which says that nothing is to be converted: the components come out as they are."""
    parts, scan = [b"\xff\xd8"], 0
    if stream.components == 3:
        parts.append(b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00")
    for marker, start, end in jpeg_segments(frame):
        scan = start
        if marker not in (*range(0xE0, 0xF0), 0xDA):
            parts.append(frame[start:end])
    data = np.frombuffer(b"".join([*parts, frame[scan:]]), np.uint8)
    flags = cv2.IMREAD_COLOR if stream.components == 3 else cv2.IMREAD_GRAYSCALE
    pixels = cv2.imdecode(data, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise RadiographError("corrupt JPEG: its pixels cannot be decoded")
    return pixels if stream.components == 1 else pixels[..., ::-1]


def _j2k(frame: bytes) -> NDArray:
    """By OpenJPEG, which also reads the high-throughput part."""
    try:
        from openjpeg.utils import decode
    except ImportError as error:
        raise RadiographError(needs("JPEG 2000", "dicom")) from error
    try:
        return decode(frame, 0)
    except (RuntimeError, ValueError) as error:
        raise RadiographError("corrupt JPEG 2000: its pixels cannot be decoded") from error


def _dicom(frame: bytes, stream: Codestream, rows: int, columns: int) -> NDArray:
    """By pydicom's decoders, told what the codestream says."""
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEGLosslessSV1, JPEGLSLossless

    # GDCM reads every process of JPEG by the codestream, extended with 12 bits too; pydicom lets it under this name.
    decoder = get_decoder(JPEGLSLossless if stream.kind == "JPEG-LS" else JPEGLosslessSV1)
    options: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "number_of_frames": 1,
        "samples_per_pixel": stream.components,
        "photometric_interpretation": "MONOCHROME2" if stream.components == 1 else "RGB",
        "planar_configuration": 0,
        "bits_allocated": 8 if stream.bits <= 8 else 16,
        "bits_stored": stream.bits,
        "pixel_representation": 0,
        "pixel_keyword": "PixelData",
    }
    if not decoder.is_available:
        raise RadiographError(needs(stream.kind, "dicom"))
    try:
        pixels, _ = decoder.as_array(encapsulate([frame]), raw=True, **options)
    except (RuntimeError, ValueError) as error:  # of every decoder that was tried
        raise RadiographError(f"corrupt {stream.kind}: its pixels cannot be decoded") from error
    return np.asarray(pixels)


def _rle(frame: bytes, stream: Codestream, rows: int, columns: int) -> NDArray:
    """PS3.5 G.3: PackBits, a segment a byte of each component, the upper byte first. Never grows beyond the picture."""
    segments = stream.components * stream.bits // 8
    offsets = (*struct.unpack_from(f"<{segments}I", frame, 4), len(frame))
    planes = [_unpacked(frame[offsets[i] : offsets[i + 1]], rows, columns) for i in range(segments)]
    if stream.bits == 16:
        planes = [(high.astype(np.uint16) << 8) | low for high, low in zip(planes[::2], planes[1::2], strict=True)]
    return planes[0] if stream.components == 1 else np.stack(planes, axis=-1)


def _unpacked(segment: bytes, rows: int, columns: int) -> NDArray:
    size, at, out, ends = rows * columns, 0, bytearray(), []
    while len(out) < size and at < len(segment):
        head = segment[at]
        if head < 128:
            out += segment[at + 1 : at + 2 + head]
            at += head + 2
        elif head > 128:
            out += segment[at + 1 : at + 2] * (257 - head)
            at += 2
        else:
            at += 1
        ends.append(len(out))
    if len(out) < size or len(out) - size > 1 or segment[at:].strip(b"\0"):
        state = "fewer" if len(out) < size else "more"
        raise RadiographError(
            f"its RLE holds {state} pixels than the {columns} x {rows} (width x height) that its header states: "
            "they cannot both be right"
        )
    if columns != rows and _crossed(ends, columns) and not _crossed(ends, rows):
        # Runs end with the rows (PS3.5 G.3.1), so they tell how long a row is.
        raise RadiographError(
            f"its RLE rows are {rows} pixels long where its header states {columns} x {rows} (width x height): "
            "they cannot both be right"
        )
    return np.frombuffer(bytes(out[:size]), np.uint8).reshape(rows, columns)


def _crossed(ends: Sequence[int], width: int) -> bool:
    """Whether a run goes on beyond the end of a row of `width`."""
    stops = np.asarray(ends, np.int64)
    starts = np.concatenate([[0], stops[:-1]])
    return bool((starts // width != (np.maximum(stops, starts + 1) - 1) // width).any())


def load_decoders() -> None:
    """In a process that decodes, before it gives up opening files: whatever reads films is imported, character sets
    too, and takes one thread."""
    for module in READERS:
        with contextlib.suppress(ImportError):
            import_module(module)
    with contextlib.suppress(ImportError):
        for name in import_module("pydicom.charset").python_encoding.values():
            lookup(name)
    cv2.setNumThreads(1)


def _answers(_: object) -> Answer:
    load_decoders()
    base = address_space()
    confine()

    def answer(question: list[bytes]) -> list[bytes]:
        asked: dict[str, Any] = json.loads(question[0])
        stream, rows, columns = Codestream(**asked["stream"]), asked["rows"], asked["columns"]
        samples = rows * columns * stream.components
        if base:
            limit_memory(base + MEMORY + 48 * samples)
        try:
            with limit_time(int(2 * SECONDS + samples / 1e6)):
                pixels = _decode(question[1], stream, rows, columns)
                return [json.dumps({"dtype": pixels.dtype.name}).encode(), pixels.tobytes()]
        except RadiographError as error:
            reason = str(error)
        except MemoryError:
            reason = "decoding it needs more memory than a radiograph may"
        except Exception as error:  # the wall between hostile files and the work: whatever a decoder raises ends here
            reason = f"corrupt {stream.kind}: {' '.join(str(error).split())[:300] or type(error).__name__}"
        return [json.dumps({"reason": reason}).encode()]

    return answer


if __name__ == "__main__":
    serve(_answers)
