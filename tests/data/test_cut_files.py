"""Files that end too early: what is whole is read; what is not is said to be cut off, with how much of it is there."""

from __future__ import annotations

import io
import re
import struct
import zlib

import cv2
import numpy as np
import pytest
from made_films import encode, picture
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)
from test_dicomfile import dataset, deep, read, written

from agcxr.data.radiograph import RadiographError, read_radiograph

END = b"\xfe\xff\xdd\xe0\0\0\0\0"


def compressed(syntax=JPEG2000Lossless) -> bytes:
    """A whole film whose last 8 bytes are the sequence delimiter."""
    ds = dataset(picture(64, 48))
    if syntax == JPEGBaseline8Bit:
        ds.file_meta.TransferSyntaxUID = syntax
        ds.PixelData = encapsulate([encode(picture(64, 48), ".jpg")])
        ds["PixelData"].is_undefined_length = True
    else:
        ds.compress(syntax, generate_instance_uid=False)
    data = written(ds)
    assert data.endswith(END)
    return data


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless, JPEGBaseline8Bit], ids=lambda uid: uid.name)
@pytest.mark.parametrize(
    ("cut", "tail"),
    [(8, b""), (7, b""), (4, b""), (1, b""), (8, b"\xfe\xff\xdd"), (8, bytes(100)), (8, b"trailing rubbish")],
)
def test_a_missing_end_mark_loses_no_film(syntax, cut, tail):
    whole = read_radiograph(compressed(syntax))
    film = read_radiograph(compressed(syntax)[:-cut] + tail)
    assert np.array_equal(film.pixels_HW, whole.pixels_HW)
    missing = cut > 4 or (cut == 8)
    assert (film.notes == ("the mark at the end of its pixels is missing",)) == missing


def test_a_fragment_that_lacks_only_its_padding_is_whole():
    ds = dataset(picture(64, 48))
    stream = encode(picture(64, 48), ".jpg")
    stream = stream[:-2] + b"\xff" * (1 - len(stream) % 2) + stream[-2:]  # fill bytes before a mark are allowed
    assert len(stream) % 2
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].is_undefined_length = True
    whole = read_radiograph(written(ds))
    assert np.array_equal(read_radiograph(written(ds)[: -len(END) - 1]).pixels_HW, whole.pixels_HW)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless, JPEGBaseline8Bit], ids=lambda uid: uid.name)
def test_a_cut_fragment_is_told_with_its_bytes(syntax):
    data = compressed(syntax)
    (size,) = struct.unpack_from("<I", data, data.rfind(b"\xfe\xff\x00\xe0") + 4)
    with pytest.raises(
        RadiographError, match=rf"cut off, only {size - 92:,} of {size:,} bytes of a compressed fragment"
    ):
        read_radiograph(data[:-100])


def test_two_fragments_of_one_frame_of_which_one_is_cut():
    ds = dataset(picture(64, 48))
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    ds.PixelData = encapsulate([encode(picture(64, 48), ".jpg")], fragments_per_frame=2, has_bot=False)
    ds["PixelData"].is_undefined_length = True
    assert read_radiograph(written(ds)).pixels_HW.shape == (64, 48)
    with pytest.raises(RadiographError, match="cut off, only .* of .* bytes of a compressed fragment"):
        read_radiograph(written(ds)[:-60])


def test_cut_before_the_first_fragment():
    data = compressed()
    start = data.rfind(b"\xfe\xff\x00\xe0")
    for end in (start, start + 5, start - 8):
        with pytest.raises(RadiographError, match="cut off before the first fragment of its pixels"):
            read_radiograph(data[:end])


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
def test_uncompressed_pixels_state_the_fraction(syntax):
    ds = dataset(deep(), bits=12)
    if syntax:
        ds.file_meta.TransferSyntaxUID = syntax
    with pytest.raises(
        RadiographError, match=r"it is cut off, only 1,800 of 2,400 bytes of its pixels \(75 %\) are there$"
    ):
        read_radiograph(written(ds)[:-600])
    with pytest.raises(RadiographError, match=r"it is cut off, only 0 of 2,400 bytes of its pixels \(0 %\) are there$"):
        read_radiograph(written(ds)[:-2400])


def test_a_header_that_asks_for_more_than_there_is():
    with pytest.raises(
        RadiographError, match=r"holds 1,200 of 12,000 bytes of its pixels \(10 %\): cut off before, or its"
    ):
        read(picture(), Rows=400)
    ds = dataset(picture())
    ds.PixelData = b""
    with pytest.raises(RadiographError, match="its PixelData is empty, 0 of 1,200 bytes"):
        read_radiograph(written(ds))


@pytest.mark.parametrize("extra", [1, 2, 1000])
def test_more_bytes_than_pixels_are_fine(extra):
    ds = dataset(picture())
    ds.PixelData = picture().tobytes() + b"\xab" * extra + b"\0" * (extra % 2)
    film = read_radiograph(written(ds))
    assert np.array_equal(film.pixels_HW, picture())
    assert film.notes == ()
    if extra == 1000:
        film = read_radiograph(written(ds)[:-500])
        assert np.array_equal(film.pixels_HW, picture())
        assert film.notes == ("the file is cut off after its pixels",)


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_an_odd_number_of_pixels_with_and_without_padding(syntax):
    odd = picture(15, 13)
    ds = dataset(odd)
    data = written(ds) if syntax is None else _in(ds, syntax)
    assert np.array_equal(read_radiograph(data).pixels_HW, odd)
    if syntax != ExplicitVRBigEndian:
        assert np.array_equal(read_radiograph(data[:-1]).pixels_HW, odd)


def _in(ds: Dataset, syntax) -> bytes:
    buffer = io.BytesIO()
    ds.file_meta.TransferSyntaxUID = syntax
    little = syntax.is_little_endian
    ds.save_as(buffer, enforce_file_format=True, implicit_vr=syntax.is_implicit_VR, little_endian=little)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "tail", [b"\0" * 1001, b"\xff" * 64, b"trailing rubbish", b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff"]
)
def test_what_follows_the_pixels_does_not_matter(tail):
    assert np.array_equal(read_radiograph(written(dataset(picture())) + tail).pixels_HW, picture())


def test_a_cut_element_behind_the_pixels_does_not_matter():
    ds = dataset(picture())
    ds.add_new(0xFFFAFFFA, "SQ", [Dataset()])
    ds[0xFFFAFFFA].is_undefined_length = True
    assert np.array_equal(read_radiograph(written(ds)[:-6]).pixels_HW, picture())


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_every_cut_of_a_header_has_a_reason_in_words():
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [2, 0, 16], b"\0\0\0\1"
    ds = dataset(picture(), PatientName="Somebody", StudyDescription="Chest", VOILUTSequence=[item])
    ds["VOILUTSequence"].is_undefined_length = True
    data = written(ds)
    start = data.rfind(b"\xe0\x7f\x10\x00")
    cut = 0
    for end in range(140, start + 12):
        with pytest.raises(RadiographError) as caught:
            read_radiograph(data[:end])
        cut += "it is cut off" in str(caught.value)
        assert "cut off" in str(caught.value) or "DICOM without pixels (Digital X-Ray" in str(caught.value)
    assert cut > 0.95 * (start - 140)


def test_without_pixels_is_said_of_whole_files_only():
    ds = dataset(picture())
    del ds.PixelData
    with pytest.raises(RadiographError, match=r"DICOM without pixels .*; a file cut off before them looks the same"):
        read_radiograph(written(ds))
    with pytest.raises(
        RadiographError, match=f"cut off, the file stops after {len(written(ds)) - 1:,} bytes, inside its header"
    ):
        read_radiograph(written(ds)[:-1])
    for name in ("Rows", "Columns"):
        del ds[name]
    with pytest.raises(
        RadiographError, match=r"DICOM without pixels \(Digital X-Ray Image Storage - For Presentation\)$"
    ):
        read_radiograph(written(ds))


@pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", "f4"), ("DoubleFloatPixelData", "f8")])
def test_floating_point_pixels_are_named(keyword, dtype):
    ds = dataset(picture())
    del ds.PixelData
    setattr(ds, keyword, picture().astype(dtype).tobytes())
    with pytest.raises(
        RadiographError, match="pixels are floating point numbers; expected integers of at most 16 bits"
    ):
        read_radiograph(written(ds))


def test_a_cut_deflated_file():
    ds = dataset(picture())
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    with pytest.raises(RadiographError, match="cut off"):
        read_radiograph(written(ds)[:-100])


# --- PNG, JPEG, WebP --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [12, 8, 1])
def test_a_png_whose_end_mark_is_missing(cut):
    for pixels in (picture(), deep()):
        film = read_radiograph(encode(pixels)[:-cut])
        assert np.array_equal(film.pixels_HW, read_radiograph(encode(pixels)).pixels_HW)
        assert film.notes[0] == "the mark at its end is missing"


@pytest.mark.parametrize("cut", [13, 16, 100])
def test_a_png_whose_pixels_are_cut(cut):
    with pytest.raises(RadiographError, match="truncated PNG: the file stops after"):
        read_radiograph(encode(picture())[:-cut])


def test_a_png_without_an_end_mark_is_no_bomb():
    body = struct.pack(">IIBBBBB", 10, 10, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", body), (b"IDAT", zlib.compress(bytes(50 << 20)))]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part)) for kind, part in parts
    )
    with pytest.raises(RadiographError, match="truncated PNG"):
        read_radiograph(data)


@pytest.mark.parametrize("colour", [False, True])
def test_a_jpeg_whose_end_mark_is_missing(colour):
    pixels = np.stack([picture(64, 64)] * 3, -1) if colour else picture(64, 64)
    data = encode(pixels, ".jpg")
    for cut in (1, 2):
        film = read_radiograph(data[:-cut])
        assert np.array_equal(film.pixels_HW, read_radiograph(data).pixels_HW)
        assert film.notes[0] == "the mark at its end is missing"
    for cut in (5, 8, 20, 100):
        with pytest.raises(RadiographError, match="truncated JPEG: the file stops after"):
            read_radiograph(data[:-cut])


def test_a_progressive_jpeg_may_lack_a_scan():
    buffer = io.BytesIO()
    Image.fromarray(picture(64, 64)).save(buffer, "JPEG", progressive=True)
    with pytest.raises(RadiographError, match="truncated JPEG"):
        read_radiograph(buffer.getvalue()[:-2])


@pytest.mark.parametrize("interval", [1, 3])
def test_a_jpeg_cut_where_a_restart_mark_is_due(interval):
    data = cv2.imencode(".jpg", picture(40, 48), [cv2.IMWRITE_JPEG_RST_INTERVAL, interval])[1].tobytes()
    whole = read_radiograph(data).pixels_HW
    assert len(re.findall(rb"\xff[\xd0-\xd7]", data)) == 30 // interval - 1
    for end in range(data.index(b"\xff\xda") + 10, len(data) - 2):
        with pytest.raises(RadiographError, match="truncated JPEG: the file stops after"):
            read_radiograph(data[:end])
    for end in (len(data) - 2, len(data) - 1):
        assert np.array_equal(read_radiograph(data[:end]).pixels_HW, whole)


def test_a_thumbnail_does_not_make_a_cut_jpeg_whole():
    thumbnail = encode(picture(8, 8), ".jpg")
    part = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail
    data = encode(picture(64, 64), ".jpg")
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(part) + 2) + part + data[2:]
    assert read_radiograph(data).notes == ()
    with pytest.raises(RadiographError, match="truncated JPEG"):
        read_radiograph(data[:-100])


def test_a_webp_whose_last_parts_are_cut():
    exif = Image.Exif()
    exif[0x010E] = "a description"
    buffer = io.BytesIO()
    Image.fromarray(picture(64, 48)).save(buffer, "WEBP", lossless=True, exif=exif)
    data = buffer.getvalue()
    start = data.rfind(b"EXIF")
    for end in (start, start + 4, start + 12, len(data) - 1):
        assert np.array_equal(read_radiograph(data[:end]).pixels_HW, picture(64, 48))
    with pytest.raises(RadiographError, match="truncated WebP: .* of .* bytes"):
        read_radiograph(data[: start - 20])
