"""The orientation of the EXIF part: one rule for JPEG, PNG and WebP, noted, and safe against hostile parts."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from made_films import encode, picture
from PIL import Image, ImageOps

from agcxr.data.exif import TURNS, orientation, upright
from agcxr.data.radiograph import read_radiograph

FILM = picture(32, 48)


def tiff(value: int, *, order: str = "<", kind: int = 3, count: int = 1, tag: int = 0x0112) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    packed = struct.pack(order + {1: "B3x", 3: "H2x", 4: "I"}.get(kind, "I"), value)
    return mark + struct.pack(order + "IHHHI", 8, 1, tag, kind, count) + packed + bytes(4)


def with_part(suffix: str, part: bytes, *, before: bytes = b"") -> bytes:
    data = encode(FILM, suffix)
    if suffix == ".jpg":
        body = b"Exif\0\0" + part
        return data[:2] + before + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    if suffix == ".png":
        chunk = struct.pack(">I", len(part)) + b"eXIf" + part + struct.pack(">I", zlib.crc32(b"eXIf" + part))
        return data[:33] + chunk + data[33:]
    buffer = io.BytesIO()
    Image.fromarray(FILM).save(buffer, "WEBP", lossless=True, exif=b"Exif\0\0" + part)
    return buffer.getvalue()


def plain(suffix: str) -> np.ndarray:
    return FILM if suffix == ".webp" else read_radiograph(encode(FILM, suffix)).pixels_HW


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_orientation_of_every_format_is_pillows(suffix, value, order):
    film = read_radiograph(with_part(suffix, tiff(value, order=order)))
    image = Image.fromarray(plain(suffix))
    image.getexif()[0x0112] = value
    assert np.array_equal(film.pixels_HW, np.asarray(ImageOps.exif_transpose(image)))
    assert film.pixels_HW.flags.c_contiguous
    assert [note for note in film.notes if "EXIF" in note] == ([TURNS[value]] if value > 1 else [])


def test_where_the_first_pixel_goes():
    corners = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    ends = {1: 1, 2: 3, 3: 6, 4: 4, 5: 1, 6: 4, 7: 6, 8: 3}
    for value, first in ends.items():
        turned, _ = upright(corners, tiff(value))
        assert turned[0, 0] == first
        assert turned.shape == ((2, 3) if value < 5 else (3, 2))


def test_16_bit_pngs_are_turned_too():
    deep = FILM.astype(np.uint16) * 257
    part = tiff(6)
    chunk = struct.pack(">I", len(part)) + b"eXIf" + part + struct.pack(">I", zlib.crc32(b"eXIf" + part))
    data = encode(deep)
    film = read_radiograph(data[:-12] + chunk + data[-12:])  # the part may follow the pixels
    assert np.array_equal(film.pixels_HW, np.rot90(deep, -1))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientations_that_are_none_are_noted(suffix, value):
    film = read_radiograph(with_part(suffix, tiff(value)))
    assert np.array_equal(film.pixels_HW, plain(suffix))
    assert film.notes[-1] == f"EXIF orientation {value} ignored: it is none of 1 to 8"


@pytest.mark.parametrize("kind", [1, 3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
def test_whole_numbers_of_every_size(kind, order):
    assert orientation(tiff(6, order=order, kind=kind)) == 6
    assert orientation(b"Exif\0\0" + tiff(6, order=order, kind=kind)) == 6


def test_the_part_need_not_be_the_first():
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x/>"
    other = b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp
    film = read_radiograph(with_part(".jpg", tiff(3), before=other + b"\xff\xff\xfe\0\x04hi"))
    assert np.array_equal(film.pixels_HW, plain(".jpg")[::-1, ::-1])
    assert film.notes == ("turned by 180 degrees as its EXIF part says",)


HOSTILE = {
    "empty": b"",
    "no TIFF": b"rubbish that is long enough to be one",
    "only its mark": b"II*\0",
    "offset outside": b"II*\0\xff\xff\xff\xff" + bytes(20),
    "offset into itself": b"II*\0\0\0\0\0" + bytes(20),
    "offset at the very end": b"II*\0\x0a\0\0\0\0\0",
    "more entries than bytes": b"II*\0\x08\0\0\0\xff\xff" + bytes(4),
    "text as type": tiff(6, kind=2),
    "unknown type": tiff(6, kind=99),
    "huge count": tiff(6, count=2**32 - 1),
    "no count": tiff(6, count=0),
    "another tag": tiff(6, tag=0x0111),
    "a loop of directories": tiff(6, tag=0x8769)[:-4] + struct.pack("<I", 8),
    "cut in the entry": tiff(6)[:-6],
}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("part", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_parts_are_ignored(suffix, part):
    film = read_radiograph(with_part(suffix, part))
    assert np.array_equal(film.pixels_HW, plain(suffix))
    assert not [note for note in film.notes if "EXIF" in note]


def test_any_bytes_are_survived():
    rng = np.random.default_rng(5)
    for _ in range(2000):
        part = bytearray(tiff(6))
        for place in rng.integers(0, len(part), 4):
            part[place] = rng.integers(0, 256)
        value = orientation(bytes(part[: rng.integers(0, len(part) + 1)]))
        assert value is None or value >= 0
