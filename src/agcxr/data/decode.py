"""PNG, JPEG and WebP bytes -> pixels. Headers are read before anything is decoded, so that a small file cannot ask for
a huge picture and a cut file is named as such instead of being filled up with gray.

Shapes: H, W the picture; C its channels in OpenCV's order (B, G, R[, A]).
"""

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from agcxr.data.exif import upright
from agcxr.data.synthetic import MARK, NOTE

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
"""The chunks that make the pixels. Profiles, texts and times are left out: they may be broken or hide a bomb."""

JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Second bytes of the markers that state a JPEG's size (SOF0-15 without DHT, JPG and DAC)."""
JPEG_END = b"\xff\xd9"
"""Ends the coded pixels of a JPEG, JPEG-LS and JPEG 2000 and occurs nowhere within them."""
JPEG_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
JPEG_ONE_SCAN = frozenset({0xC0, 0xC1, 0xC3})
"""Frames whose pixels may all stand in one scan: baseline, extended, lossless."""
JPEG_FILL = re.compile(rb"\xff+")
JPEG_MARK = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
"""What cannot stand inside coded pixels, where 0xFF is followed by less or by a restart mark."""

JPEG_SCANS = 64
"""Passes over the picture in one JPEG; a few bytes each can ask for seconds of work. Real files have at most 12."""
MOST_SEGMENTS = 4096
"""Parts of a JPEG before its pixels. Real files have at most some hundreds (colour profiles, thumbnails)."""
MOST_CHUNKS = 1 << 18
"""Parts of a PNG. Writers cut the pixels into parts of some kilobytes, so that real files have some thousands."""


class RadiographError(ValueError):
    """A file that cannot be used as a radiograph; the message gives the reason in words for people."""


NO_END_MARK = "the mark at its end is missing"

JPEG_ROUNDING = 6
"""Gray levels by which the channels of a gray picture differ after a JPEG in colour."""


@dataclass(frozen=True)
class Decoded:
    """pixels_HW (uint8 or uint16, as stored), the format's name, and what had to be done to get there."""

    pixels_HW: Pixels
    format: str
    notes: tuple[str, ...] = ()


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse sizes no radiograph has, before memory is asked for."""
    if width < 1 or height < 1:
        raise RadiographError(f"its header states a size of {width} x {height} pixels")
    if width * height > max_pixels:
        raise RadiographError(
            f"its header states {width} x {height} pixels, more than the {max_pixels:,} allowed (max_pixels)"
        )


def to_gray(pixels_HWC: NDArray, *, order: str) -> tuple[Pixels, tuple[str, ...]]:
    """1, 3 or 4 channels (`order` "BGR" or "RGB") -> H x W of the same depth, with notes.

    Channels that are equal stay exactly what they are; true colour is weighed as luminance (ITU-R BT.601). Transparency
    is laid over black, the colour of air.
    """
    if pixels_HWC.ndim == 2:
        return np.ascontiguousarray(pixels_HWC), ()
    channels = pixels_HWC.shape[2]
    if channels == 1:
        return np.ascontiguousarray(pixels_HWC[..., 0]), ()
    if channels not in (3, 4):
        raise RadiographError(f"it has {channels} channels; expected 1 (gray), 3 (colour) or 4 (colour and alpha)")
    color_HW3 = np.ascontiguousarray(pixels_HWC[..., :3])
    first_HW = np.ascontiguousarray(color_HW3[..., 0])
    is_gray = np.array_equal(first_HW, color_HW3[..., 1]) and np.array_equal(first_HW, color_HW3[..., 2])
    if is_gray:
        gray_HW, notes = first_HW, ["three equal channels -> gray"]
    else:
        gray_HW = cv2.cvtColor(color_HW3, cv2.COLOR_BGR2GRAY if order == "BGR" else cv2.COLOR_RGB2GRAY)
        notes = ["colour -> luminance"]
    if channels == 4:
        top = np.iinfo(gray_HW.dtype).max
        alpha_HW = pixels_HWC[..., 3]
        if (alpha_HW != top).any():
            gray_HW = np.rint(gray_HW.astype(np.float64) * alpha_HW / top).astype(gray_HW.dtype)
            notes.append("transparency laid over black")
    return gray_HW, tuple(notes)


def fill_16_bits(pixels_HW: Pixels) -> tuple[Pixels, tuple[str, ...]]:
    """uint16 whose brightest pixel needs fewer bits -> the same over the full 0..65535 (12-bit films in 16-bit files).

    The range is the smallest whole number of bits (at least 8) that holds the brightest pixel. uint8 is left alone.
    """
    if pixels_HW.dtype == np.uint8:
        return pixels_HW, ()
    bits = max(8, int(pixels_HW.max()).bit_length())
    if bits == 16:
        return pixels_HW, ()
    scaled_HW = (pixels_HW.astype(np.float32) * (65535 / (2**bits - 1)) + 0.5).astype(np.uint16)
    return scaled_HW, (f"{bits}-bit values in 16 bits -> full range",)


def decode_png(data: bytes, max_pixels: int) -> Decoded:
    """PNG of any depth and colour type -> gray of its own depth. Every chunk's checksum is verified."""
    chunks = _png_chunks(data)
    if not chunks:
        raise RadiographError(f"truncated PNG: the file stops after {len(data):,} bytes, inside its header")
    if chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise RadiographError("PNG without a header")
    width, height, depth, color, _, _, _ = struct.unpack(">IIBBBBB", chunks[0][1])
    check_size(width, height, max_pixels)
    notes: tuple[str, ...] = ()
    if chunks[-1][0] != b"IEND":
        if not _png_is_whole(chunks, 8 * width * height + 16 * height + 1024):
            raise RadiographError(f"truncated PNG: the file stops after {len(data):,} bytes, before its end mark")
        chunks.append((b"IEND", memoryview(b"")))
        notes = (NO_END_MARK,)
        data = _png_join(chunks)
    elif any(kind not in PNG_KEPT for kind, _ in chunks):
        data = _png_join(chunks)
    if color == 0 and depth <= 8:
        gray_HW: Pixels = _decode(data, "PNG", cv2.IMREAD_GRAYSCALE)
    else:
        gray_HW, colour_notes = to_gray(_decode(data, "PNG", cv2.IMREAD_UNCHANGED), order="BGR")
        gray_HW, range_notes = fill_16_bits(gray_HW)
        notes += (("palette -> gray", *colour_notes[1:]) if color == 3 else colour_notes) + range_notes
    gray_HW, turn_notes = upright(gray_HW, next((body for kind, body in chunks if kind == b"eXIf"), b""))
    if any(kind == b"tEXt" and body == MARK for kind, body in chunks):
        notes += (NOTE,)
    return Decoded(gray_HW, "png", notes + turn_notes)


def _png_is_whole(chunks: list[tuple[bytes, memoryview]], limit: int) -> bool:
    """Whether the packed pixels of a PNG without an end mark come to their own end, within `limit` unpacked bytes."""
    inflater, size = zlib.decompressobj(), 0
    try:
        for pending in (body for kind, body in chunks if kind == b"IDAT"):
            while len(pending) and not inflater.eof and size <= limit:
                size += len(inflater.decompress(pending, 1 << 20))
                pending = memoryview(inflater.unconsumed_tail)
    except zlib.error:
        return False
    return inflater.eof


def _png_chunks(data: bytes) -> list[tuple[bytes, memoryview]]:
    """The whole chunks up to the end mark (or, in a cut file, up to the first that is not whole)."""
    view, at, chunks = memoryview(data), len(PNG_SIGNATURE), []
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, end = bytes(view[at + 4 : at + 8]), at + 12 + length
        if end > len(data):
            break
        (stated,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(view[at + 4 : end - 4]) != stated:
            raise RadiographError(f"corrupt PNG: the checksum of its {kind!r} part at byte {at} is wrong")
        chunks.append((kind, view[at + 8 : end - 4]))
        if len(chunks) > MOST_CHUNKS:
            raise RadiographError(f"a PNG of more than {MOST_CHUNKS:,} parts")
        if kind == b"IEND":
            return chunks
        at = end
    return chunks


def _png_join(chunks: list[tuple[bytes, memoryview]]) -> bytes:
    parts: list[bytes | memoryview] = [PNG_SIGNATURE]
    for kind, body in chunks:
        if kind in PNG_KEPT:
            crc = zlib.crc32(body, zlib.crc32(kind))
            parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", crc)]
    return b"".join(parts)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(second byte of its marker, start, end) of a JPEG's segments, up to and with the header of its first scan.

    Raises RadiographError for a broken one. JPEG-LS is written in the same way.
    """
    at = 2
    for _ in range(MOST_SEGMENTS):
        if at < len(data) and data[at] != 0xFF:
            raise RadiographError(f"corrupt JPEG: no marker at byte {at}")
        fill = JPEG_FILL.match(data, at)
        at = at if fill is None else fill.end() - 1  # any number of fill bytes may stand before a marker
        if at + 4 > len(data):
            raise RadiographError(f"truncated JPEG: the file stops after {len(data):,} bytes, inside its header")
        marker = data[at + 1]
        if marker in (0x01, *range(0xD0, 0xD9)):
            at += 2
            continue
        end = at + 2 + int(struct.unpack_from(">H", data, at + 2)[0])
        if marker in (0x00, 0xD9) or end < at + 4:
            raise RadiographError("corrupt JPEG: no frame header before the pixels")
        if end > len(data):
            raise RadiographError(f"truncated JPEG: the file stops after {len(data):,} bytes, inside its header")
        yield marker, at, end
        if marker == 0xDA:
            return
        at = end
    raise RadiographError(f"a JPEG of more than {MOST_SEGMENTS:,} parts before its pixels")


def jpeg_frame(data: bytes) -> tuple[int, int, int, int]:
    """(width, height, channels, bits) that a JPEG's frame header states. Raises RadiographError for a broken one."""
    for marker, start, end in jpeg_segments(data):
        if marker in JPEG_SIZES and end >= start + 10:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, start + 4)
            return width, height, channels, bits
    raise RadiographError("corrupt JPEG: no frame header before the pixels")


def check_scans(data: bytes) -> None:
    """Refuse a JPEG that asks for endless work; what follows its end mark does not count."""
    if data.count(b"\xff\xda") <= JPEG_SCANS:
        return
    scans, at = 0, max(start for _, start, _ in jpeg_segments(data))
    while scans <= JPEG_SCANS and (mark := JPEG_MARK.search(data, at)) and data[mark.end() - 1] != 0xD9:
        at = mark.end()
        if data[at - 1] == 0xDA:
            scans += 1
        else:
            at += int.from_bytes(data[at : at + 2], "big")
    if scans > JPEG_SCANS:
        raise RadiographError(f"a JPEG of more than {JPEG_SCANS} scans")


def decode_jpeg(data: bytes, max_pixels: int) -> Decoded:
    """8-bit JPEG -> gray (colour by its own luminance channel), turned upright where its EXIF part says so."""
    width, height, channels, bits = jpeg_frame(data)
    check_size(width, height, max_pixels)
    check_scans(data)
    if bits != 8 or channels not in (1, 3):
        raise RadiographError(f"a JPEG of {channels} channels with {bits} bits; expected 1 or 3 with 8 bits")
    notes: tuple[str, ...] = ()
    segments = list(jpeg_segments(data))
    # Inside the coded pixels 0xFF is always followed by 0 or a restart mark, so only a whole file has this after them.
    if data.rfind(JPEG_END) < segments[-1][1]:
        whole_HW = whole_jpeg(data, _jpeg_gray)
        if whole_HW is None:
            raise RadiographError(f"truncated JPEG: the file stops after {len(data):,} bytes, before its end mark")
        pixels_HW, data, notes = whole_HW, data + JPEG_END, (NO_END_MARK,)
    else:
        pixels_HW = _jpeg_gray(data)
    notes += () if channels == 1 else (_jpeg_colour(data),)
    parts = (data[start + 4 : end] for marker, start, end in segments if marker == 0xE1)
    pixels_HW, turn_notes = upright(pixels_HW, next((part[6:] for part in parts if part.startswith(b"Exif\0")), b""))
    return Decoded(pixels_HW, "jpeg", notes + turn_notes)


def whole_jpeg(data: bytes, decode: Callable[[bytes], NDArray]) -> NDArray | None:
    """Pixels of a JPEG of one scan that lacks its end mark, if all are there: then neither bits put behind them nor the
    restart mark that may be due there, with bits of its own, change anything. None for a cut one."""
    *_, (_, scan, _) = segments = list(jpeg_segments(data))
    *_, channels, _ = jpeg_frame(data)
    if not any(marker in JPEG_ONE_SCAN for marker, _, _ in segments) or data[scan + 4 : scan + 5] != bytes([channels]):
        return None
    coded = data if data.endswith(b"\xff\0") else data.rstrip(b"\0")  # DICOM fills up to an even length
    coded = coded.rstrip(b"\xff")
    due = bytes([0xFF, 0xD0 + len(JPEG_RESTART.findall(coded, scan)) % 8])
    bits = (b"\x00" * 64, b"\x55" * 64, b"\xaa" * 64)
    try:
        first = decode(coded + JPEG_END)
        others = (decode(coded + mark + tail + JPEG_END) for mark in (b"", due) for tail in bits)
        if all(np.array_equal(first, other) for other in others):
            return first
    except RadiographError:
        pass  # a decoder that stops where bits are missing
    return None


def _jpeg_gray(data: bytes) -> NDArray:
    return _decode(data, "JPEG", cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)


def _jpeg_colour(data: bytes) -> str:
    """What became of a JPEG's three channels: gray ones differ by rounding only. An eighth of the size tells."""
    small_HW3 = _decode(data, "JPEG", cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION)
    spread_HW = small_HW3.max(axis=2) - small_HW3.min(axis=2)
    return "three equal channels -> gray" if spread_HW.max() <= JPEG_ROUNDING else "colour -> luminance"


def decode_webp(data: bytes, max_pixels: int) -> Decoded:
    """Still WebP, lossy or lossless -> 8-bit gray."""
    width, height = _webp_size(data)
    check_size(width, height, max_pixels)
    data, chunks = _webp_chunks(data)
    gray_HW, notes = to_gray(_decode(data, "WebP", cv2.IMREAD_UNCHANGED), order="BGR")
    gray_HW, turn_notes = upright(gray_HW, chunks.get(b"EXIF", b""))
    return Decoded(gray_HW, "webp", notes + turn_notes)


def _webp_chunks(data: bytes) -> tuple[bytes, dict[bytes, memoryview]]:
    """(the file, its parts by name). Of a cut file only the whole parts, if the pixels are among them."""
    view, at = memoryview(data), 12
    chunks: dict[bytes, memoryview] = {}
    stated = 8 + int.from_bytes(data[4:8], "little")
    while at + 8 <= min(len(data), stated):
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if end > len(data):
            break
        chunks.setdefault(data[at : at + 4], view[at + 8 : end])
        at = end + end % 2
    if len(data) < stated:
        if not chunks.keys() & {b"VP8 ", b"VP8L"}:
            raise RadiographError(f"truncated WebP: {len(data):,} of {stated:,} bytes")
        whole = data[12:at] + b"\0" * (at - len(data))
        data = b"RIFF" + struct.pack("<I", 4 + len(whole)) + b"WEBP" + whole
    return data, chunks


def _webp_size(data: bytes) -> tuple[int, int]:
    if len(data) < 30:
        raise RadiographError(f"truncated WebP: the file stops after {len(data):,} bytes, inside its header")
    kind = data[12:16]
    if kind == b"VP8X":
        if data[20] & 0x02:
            raise RadiographError("an animated WebP; a radiograph is one picture")
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + ((bits >> 14) & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise RadiographError(f"corrupt WebP: its first part is {kind!r}")


def _decode(data: bytes, what: str, flags: int) -> NDArray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError) as error:
        raise RadiographError(f"corrupt {what}: {str(error).strip() or 'out of memory'}") from error
    if pixels is None or pixels.size == 0:
        raise RadiographError(f"corrupt {what}: its pixels cannot be decoded")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise RadiographError(f"a {what} of {pixels.dtype} pixels; expected 8 or 16 bits")
    return pixels
