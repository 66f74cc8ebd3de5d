"""What the header of a compressed picture says of itself, read before any decoder is: size, components, bits, colour.

JPEG (ITU-T T.81), JPEG-LS (T.87), JPEG 2000 and its high-throughput part (T.800, T.814; bare or in JP2 boxes) and
DICOM's RLE (PS3.5 G). Every walk is bounded; a header that contradicts itself is refused.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from agcxr.data.decode import JPEG_END, JPEG_SIZES, RadiographError, check_scans, jpeg_segments

Kind = Literal["JPEG", "JPEG lossless", "JPEG-LS", "JPEG 2000", "RLE"]
Color = Literal["RGB", "YBR"]

J2K_START = b"\xff\x4f\xff\x51"
JP2_START = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
JLS_FRAME, JLS_PARAMETERS = 0xF7, 0xF8

DCT = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})
"""Second bytes of the frame headers of baseline, extended and progressive JPEG, by Huffman or arithmetic codes."""
LOSSLESS = frozenset({0xC3, 0xCB})

MOST_BOXES = 256
"""Boxes of a JP2, segments of a JPEG 2000 main header. Real ones have about 10."""
MOST_TILES = 65535
"""The standard's own limit (T.800 A.4.2)."""


@dataclass(frozen=True)
class Codestream:
    """width, height: 0 where the format does not state them (RLE). bits: precision of a sample; RLE knows whole bytes.
    color: of three components, where the stream itself tells; start: byte of the frame at which it begins. is_signed:
    None where the format knows no signs (all but JPEG 2000)."""

    kind: Kind
    width: int
    height: int
    components: int
    bits: int
    color: Color | None = None
    evidence: str = ""
    """What tells the colour, in words."""
    start: int = 0
    is_signed: bool | None = None
    unended_at: int | None = None
    """Byte where its end mark should stand; None where it has one."""


def read_codestream(frame: bytes) -> Codestream:
    """Header of one compressed frame. Raises RadiographError for what is none, is damaged, or no decoder here reads."""
    if frame[:2] == b"\xff\xd8":
        return _jpeg(frame)
    if frame[:4] == J2K_START:
        return _j2k(frame, 0, None)
    if frame[:12] == JP2_START:
        return _jp2(frame)
    if len(frame) >= 64 and 1 <= int.from_bytes(frame[:4], "little") <= 15:
        return _rle(frame)
    raise RadiographError("its compressed pixels are none of JPEG, JPEG-LS, JPEG 2000 and RLE")


def _jpeg(frame: bytes) -> Codestream:
    marker, body, application, scan = 0, b"", {}, 0
    for number, scan, end in jpeg_segments(frame):
        part = frame[scan + 4 : end]
        if number in JPEG_SIZES or number == JLS_FRAME:
            if body:
                raise RadiographError("corrupt JPEG: two frame headers")
            marker, body = number, part
        elif number in (0xE0, 0xEE):
            application[number] = part[:16]
        elif number == JLS_PARAMETERS and part[:1] in (b"\2", b"\3"):
            raise RadiographError("a JPEG-LS with mapping tables, which no decoder here reads")
    if len(body) < 6 or len(body) != 6 + 3 * body[5]:
        raise RadiographError("corrupt JPEG: its frame header is missing or of the wrong length")
    bits, height, width, components = struct.unpack_from(">BHHB", body)
    kind: Kind
    if marker in DCT:
        kind = "JPEG"
    elif marker in LOSSLESS:
        kind = "JPEG lossless"
    elif marker == JLS_FRAME:
        kind = "JPEG-LS"
    else:
        raise RadiographError("a hierarchical JPEG, which no decoder here reads")
    if not 2 <= bits <= 16:
        raise RadiographError(f"corrupt {kind}: {bits} bits a sample")
    check_scans(frame)
    color, evidence = _jpeg_color(kind, body[6:], application) if components == 3 else (None, "")
    unended_at = None if frame.rfind(JPEG_END) > scan else len(frame)
    return Codestream(kind, width, height, components, bits, color, evidence, unended_at=unended_at)


def _jpeg_color(kind: Kind, components: bytes, application: dict[int, bytes]) -> tuple[Color | None, str]:
    """Of three components: letters for names, then JFIF, Adobe's mark, and chroma that is treated unlike the first."""
    names, sampling, tables = components[0::3], components[1::3], components[2::3]
    if names in (b"RGB", b"rgb"):
        return "RGB", "its components are named R, G, B"
    if application.get(0xE0, b"").startswith(b"JFIF\0"):
        return "YBR", "JFIF"
    adobe = application.get(0xEE, b"")
    if adobe.startswith(b"Adobe") and len(adobe) >= 12 and adobe[11] in (0, 1):
        return ("YBR" if adobe[11] else "RGB"), f"Adobe's mark says {'YCbCr' if adobe[11] else 'RGB'}"
    if kind == "JPEG" and (sampling[0] != sampling[1] or tables[0] != tables[1]):
        return "YBR", "its second and third components are coarser than the first"
    return None, ""


def _jp2(frame: bytes) -> Codestream:
    """JP2 boxes around a codestream: `colr` may name the colour space, `pclr` is a palette, `jp2c` holds the stream."""
    space: int | None = None
    for kind, start, end in _boxes(frame, 0, len(frame)):
        if kind == b"jp2h":
            for inner, at, stop in _boxes(frame, start, end):
                if inner == b"pclr":
                    raise RadiographError("a JPEG 2000 with a palette, which no decoder here reads")
                if inner == b"colr" and stop - at >= 7 and frame[at] == 1:
                    (space,) = struct.unpack_from(">I", frame, at + 3)
        elif kind == b"jp2c":
            if frame[start : start + 4] != J2K_START:
                break
            return _j2k(frame, start, space)
    raise RadiographError("corrupt JPEG 2000: its boxes hold no codestream")


def _boxes(frame: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, start, end of its content)."""
    for _ in range(MOST_BOXES):
        if at + 8 > end:
            return
        length, kind = struct.unpack_from(">I4s", frame, at)
        start = at + 8
        if length == 1 and at + 16 <= end:
            (length,) = struct.unpack_from(">Q", frame, start)
            start = at + 16
        stop = end if length == 0 else min(at + length, end)
        if stop < start:
            return
        yield kind, start, stop
        at = stop


def _j2k(frame: bytes, start: int, space: int | None) -> Codestream:
    """SIZ (T.800 A.5.1), and of COD whether the components were transformed."""
    if len(frame) < start + 45:
        raise RadiographError(f"truncated JPEG 2000: it stops after {len(frame):,} bytes, inside its header")
    length, _, right, bottom, left, top, tile_w, tile_h, tile_x, tile_y, components = struct.unpack_from(
        ">HH8IH", frame, start + 4
    )
    body = frame[start + 42 : start + 42 + 3 * components]
    if not components or length != 38 + 3 * components or len(body) < 3 * components:
        raise RadiographError("corrupt JPEG 2000: its size header is of the wrong length")
    if len({body[i : i + 3] for i in range(0, len(body), 3)}) != 1 or 0 in body[1:3]:
        raise RadiographError("a JPEG 2000 whose components differ in bits or size, which no decoder here reads")
    precision, step_x, step_y = body[:3]
    if not tile_w or not tile_h or tile_x > left or tile_y > top or right <= left or bottom <= top:
        raise RadiographError("corrupt JPEG 2000: impossible tiles")
    if -(-(right - tile_x) // tile_w) * -(-(bottom - tile_y) // tile_h) > MOST_TILES:
        raise RadiographError(f"corrupt JPEG 2000: more than {MOST_TILES:,} tiles")
    width, height = -(-right // step_x) - -(-left // step_x), -(-bottom // step_y) - -(-top // step_y)
    color: Color | None = None
    evidence = ""
    is_transformed, tiles = _main_header(frame, start + 4 + length)
    if components == 3 and is_transformed:
        color, evidence = "RGB", "the codestream transforms its colours itself"
    elif components == 3 and space in (16, 18):
        color, evidence = ("RGB", "its box says sRGB") if space == 16 else ("YBR", "its box says sYCC")
    bits, is_signed = (precision & 0x7F) + 1, bool(precision & 0x80)
    unended_at = _unended_at(frame, tiles)
    return Codestream("JPEG 2000", width, height, components, bits, color, evidence, start, is_signed, unended_at)


def _main_header(frame: bytes, at: int) -> tuple[bool, int]:
    """(whether COD states a multiple component transformation, where the tiles begin)."""
    is_transformed = False
    for _ in range(MOST_BOXES):
        if at + 9 > len(frame) or frame[at] != 0xFF or frame[at + 1] == 0x90:
            break
        if frame[at + 1] == 0x52:
            is_transformed = frame[at + 8] == 1
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return is_transformed, at


def _unended_at(frame: bytes, at: int) -> int | None:
    """Where the tile-parts end, by the lengths that they state (T.800 A.4.2), if nothing but half of the end mark and
    the zero that makes a frame even stands there. (Such a zero may also stand in for a last byte that was cut off.)"""
    for _ in range(MOST_TILES):
        length = int.from_bytes(frame[at + 6 : at + 10], "big")
        if frame[at : at + 2] != b"\xff\x90" or length < 14:  # 0: as far as the end mark
            return None
        at += length
        if at <= len(frame) and frame[at:] in (b"", b"\0", b"\xff", b"\xff\0"):
            return at if frame[at - 1] else None
    return None


def _rle(frame: bytes) -> Codestream:
    """A segment a byte of each component (PS3.5 G.2): their number tells components and bytes."""
    segments = int.from_bytes(frame[:4], "little")
    if segments not in (1, 2, 3, 6):
        raise RadiographError(f"an RLE picture of {segments} segments; expected 1 or 3 samples of 1 or 2 bytes")
    offsets = struct.unpack_from(f"<{segments}I", frame, 4)
    if offsets[0] != 64 or any(b <= a for a, b in zip(offsets, (*offsets[1:], len(frame)), strict=True)):
        raise RadiographError("corrupt RLE: its segments are out of order or beyond its end")
    components = 3 if segments % 3 == 0 else 1
    return Codestream("RLE", 0, 0, components, 8 * segments // components)
