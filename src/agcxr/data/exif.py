"""The orientation of a picture's EXIF part (Exif 2.32, 4.6.4 A), one rule for JPEG, PNG and WebP.

The part is a small TIFF that anybody may have written: nothing in it is followed but its first directory, and what lies
outside of it is not there.
"""

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

ORIENTATION = 0x0112
SIZES = {1: "B", 3: "H", 4: "I"}
"""TIFF types of whole numbers: BYTE, SHORT (the right one), LONG."""

TURNS = {
    1: "",
    2: "mirrored left to right as its EXIF part says",
    3: "turned by 180 degrees as its EXIF part says",
    4: "mirrored top to bottom as its EXIF part says",
    5: "mirrored and turned upright as its EXIF part says (transposed)",
    6: "turned upright as its EXIF part says",
    7: "mirrored and turned upright as its EXIF part says (transposed about the other diagonal)",
    8: "turned upright as its EXIF part says (counter-clockwise)",
}


def orientation(part: bytes | memoryview) -> int | None:
    """The stated orientation, 1 to 8 where it is a valid one; None where none is stated or the part is broken."""
    part = bytes(part[:65536]).removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(part[:4])
    if order is None or len(part) < 8:
        return None
    (start,) = struct.unpack_from(f"{order}I", part, 4)
    if start + 2 > len(part):
        return None
    (entries,) = struct.unpack_from(f"{order}H", part, start)
    for at in range(start + 2, min(start + 2 + 12 * entries, len(part) - 11), 12):
        tag, kind, count = struct.unpack_from(f"{order}HHI", part, at)
        if tag == ORIENTATION:
            is_number = kind in SIZES and count == 1
            return int(struct.unpack_from(order + SIZES[kind], part, at + 8)[0]) if is_number else None
    return None


def upright(pixels_HW: NDArray[Any], part: bytes | memoryview) -> tuple[NDArray[Any], tuple[str, ...]]:
    """H x W as stored -> H x W (W x H where it lay on its side) as it is to be seen, with notes."""
    stated = orientation(part) if part else None
    if stated is None or stated == 1:
        return pixels_HW, ()
    if stated not in TURNS:
        return pixels_HW, (f"EXIF orientation {stated} ignored: it is none of 1 to 8",)
    if stated >= 5:
        pixels_HW = pixels_HW.T
    if stated in (2, 3, 6, 7):
        pixels_HW = pixels_HW[:, ::-1]
    if stated in (3, 4, 7, 8):
        pixels_HW = pixels_HW[::-1]
    return np.ascontiguousarray(pixels_HW), (TURNS[stated],)
