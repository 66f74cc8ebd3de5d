"""Compressed DICOM: the codestream's own header against the file's."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import openjpeg.utils
import pydicom
import pytest
from coded_films import ADOBE_RGB, ADOBE_YCC, SYNTAX, around, coded, dct, film, lossless, plain, segment, without_marks
from made_films import encode, picture
from PIL import Image
from pydicom.encaps import encapsulate

from agcxr.data import codecs
from agcxr.data.codestream import read_codestream
from agcxr.data.compressed import compressed_pixels
from agcxr.data.decode import decode_jpeg
from agcxr.data.radiograph import RadiographError, read_radiograph

KINDS = [kind for kind in SYNTAX if kind != "JPEG 12"]
LOSSLESS = [kind for kind in KINDS if kind != "JPEG"]
NATIVE = "1.2.840.10008.1.2.1"
gray = picture(48, 64)


def deep(bits: int = 12) -> np.ndarray:
    values = gray.astype(np.uint16) * (2 ** (bits - 8))
    values[0, 0] = 2**bits - 1
    return values


def colour() -> np.ndarray:
    return np.stack([gray, gray[::-1], np.full_like(gray, 90)], axis=-1)


def luminance(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)


@pytest.mark.parametrize("kind", KINDS)
def test_what_agrees_reads_as_the_same_pixels(kind):
    found = read_radiograph(around(coded(gray, kind), kind, film(gray)))
    assert np.abs(found.pixels_HW.astype(int) - gray).max() <= (1 if kind == "JPEG" else 0)
    assert found.notes == ()


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_every_depth(kind, bits):
    found = read_radiograph(around(coded(deep(bits), kind, bits), kind, film(deep(bits), bits)))
    assert np.array_equal(found.pixels_HW, read_radiograph(plain(film(deep(bits), bits))).pixels_HW)


@pytest.mark.parametrize("sof", [0xC1, 0xC2], ids=["sequential", "progressive"])
def test_jpeg_extended_of_12_bits(sof):
    found = read_radiograph(around(dct(deep(), sof=sof), "JPEG 12", film(deep(), 12)))
    assert np.abs(found.pixels_HW.astype(int) - read_radiograph(encode(deep())).pixels_HW).max() <= 65535 / 4095 + 1
    assert found.pixels_HW.max() == 65535


def test_jpeg_extended_of_12_bits_does_not_run_over():
    """Coarse steps overshoot black and white: clamped, not wrapped around."""
    steps = np.where(np.mgrid[:48, :64][1] % 13 < 6, 0, 4095).astype(np.uint16)
    found = read_radiograph(around(dct(steps, step=100), "JPEG 12", film(steps, 12))).pixels_HW.astype(int)
    assert np.abs(found - steps.astype(int) * 65535 // 4095).max() < 65535 / 10


def test_jpeg_of_8_bits_in_the_extended_and_progressive_processes():
    for sof in (0xC1, 0xC2):
        found = read_radiograph(around(dct(gray, 8, sof=sof), "JPEG 12", film(gray)))
        assert np.abs(found.pixels_HW.astype(int) - gray).max() <= 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "RLE"])
@pytest.mark.parametrize(
    ("rows", "columns"), [(64, 48), (96, 128), (24, 32), (48, 63)], ids=["exchanged", "smaller", "larger", "narrower"]
)
def test_two_sizes_are_refused_with_both_named(kind, rows, columns):
    data = around(coded(gray, kind), kind, film(gray), Rows=rows, Columns=columns)
    words = rf"its {kind} codestream is 64 x 48 pixels where its header states {columns} x {rows} \(width x height\)"
    with pytest.raises(RadiographError, match=words):
        read_radiograph(data)


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        (64, 48, r"its RLE rows are 64 pixels long where its header states 48 x 64"),
        (96, 128, r"its RLE holds fewer pixels than the 128 x 96"),
        (24, 32, r"its RLE holds more pixels than the 32 x 24"),
    ],
)
def test_rle_states_no_size_but_tells_it(rows, columns, words):
    noisy = np.random.default_rng(0).integers(0, 40, (48, 64)).astype(np.uint8) // 20
    with pytest.raises(RadiographError, match=words):
        read_radiograph(around(coded(noisy, "RLE"), "RLE", film(noisy), Rows=rows, Columns=columns))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stated", ["MONOCHROME2", "MONOCHROME1"])
def test_three_components_labelled_gray(kind, stated):
    rgb = np.stack([gray] * 3, axis=-1)
    for pixels, light, tolerance in ((rgb, gray, 0), (colour(), luminance(colour()), 0)):
        ds = film(gray, PhotometricInterpretation=stated)
        found = read_radiograph(around(coded(pixels, kind), kind, ds))
        expected = 255 - light if stated == "MONOCHROME1" else light
        tolerance = 2 if kind == "JPEG" else 0
        assert np.abs(found.pixels_HW.astype(int) - expected).max() <= tolerance
        assert f"in the {kind} codestream, not 1 ({stated}) as in the header" in found.notes[0]


@pytest.mark.parametrize("kind", KINDS)
def test_one_component_labelled_colour(kind):
    data = around(coded(gray, kind), kind, film(colour()))
    found = read_radiograph(data)
    assert np.abs(found.pixels_HW.astype(int) - gray).max() <= (1 if kind == "JPEG" else 0)
    assert found.notes == (f"one component in the {kind} codestream, not 3 (RGB) as in the header",)


@pytest.mark.parametrize("kind", KINDS)
def test_planar_configuration_is_the_codestreams(kind):
    data = [around(coded(colour(), kind), kind, film(colour()), PlanarConfiguration=value) for value in (0, 1)]
    first, second = (read_radiograph(one).pixels_HW for one in data)
    assert np.array_equal(first, second)
    assert np.abs(first.astype(int) - luminance(colour())).max() <= (2 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stored", [8, 12, 16])
def test_8_bits_in_a_header_of_16(kind, stored):
    """PS3.5 8.2: the codestream tells how many bits there are."""
    found = read_radiograph(around(coded(gray, kind), kind, film(gray.astype(np.uint16), stored)))
    exact = np.abs(found.to_uint8().astype(int) - gray).max()
    assert exact <= (1 if kind == "JPEG" else 0)
    if kind != "RLE" and stored > 8:
        assert found.notes == (f"8 bits of the {kind} codestream, not the {stored} of the header",)


@pytest.mark.parametrize("kind", ["JPEG lossless", "JPEG-LS", "JPEG 2000"])
@pytest.mark.parametrize(("allocated", "stored"), [(16, 8), (8, 8), (16, 16), (16, 10)])
def test_12_bits_in_another_header(kind, allocated, stored):
    header = film(gray if allocated == 8 else deep(), stored)
    found = read_radiograph(around(coded(deep(), kind, 12), kind, header))
    assert np.array_equal(found.pixels_HW, read_radiograph(encode(deep())).pixels_HW)
    assert f"12 bits of the {kind} codestream, not the {stored} of the header" in found.notes


def test_16_bits_that_hold_12_keep_to_the_header():
    """Encoders write whole bytes for any depth."""
    found = read_radiograph(around(lossless(deep(), 16), "JPEG lossless", film(deep(), 12)))
    assert np.array_equal(found.pixels_HW, read_radiograph(encode(deep())).pixels_HW)
    assert found.notes == ()


def test_16_bits_that_hold_more_than_the_header():
    found = read_radiograph(around(lossless(deep(16), 16), "JPEG lossless", film(deep(16), 12)))
    assert np.array_equal(found.pixels_HW, deep(16))
    assert found.notes == ("16 bits of the JPEG lossless codestream, not the 12 of the header",)


@pytest.mark.parametrize("kind", ["JPEG lossless", "JPEG-LS", "JPEG 2000", "RLE"])
@pytest.mark.parametrize("bits", [12, 16])
def test_signed_pixels(kind, bits):
    """JPEG knows no signs: the bits are those of two's complement."""
    values = np.linspace(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, gray.size).reshape(gray.shape).astype(np.int16)
    bare = values.view(np.uint16) & np.uint16(2**bits - 1)
    found = read_radiograph(around(coded(bare, kind, bits), kind, film(values, bits)))
    assert np.array_equal(found.pixels_HW, read_radiograph(plain(film(values, bits))).pixels_HW)


@pytest.mark.parametrize("coded_as", [np.int16, np.uint16])
@pytest.mark.parametrize("stated", [np.int16, np.uint16])
def test_signs_of_jpeg_2000_are_the_headers(coded_as, stated):
    """Encoders get them wrong: the bits are those that the header speaks of."""
    bits = np.linspace(0, 4095, gray.size).reshape(gray.shape).astype(np.uint16)
    numbers = (bits.astype(np.int16) << 4 >> 4) if coded_as == np.int16 else bits
    values = (bits.astype(np.int16) << 4 >> 4) if stated == np.int16 else bits
    found = read_radiograph(around(coded(numbers, "JPEG 2000", 12), "JPEG 2000", film(values, 12)))
    assert np.array_equal(found.pixels_HW, read_radiograph(plain(film(values, 12))).pixels_HW)
    assert any("a sign as in the header, not as in the codestream" in note for note in found.notes) == (
        coded_as != stated
    )


FILES = Path(pydicom.__file__).parent / "data" / "test_files"
OTHERS = sorted(
    path.name
    for pattern in ("*jpeg*", "*J2K*", "*jls*", "*rle.dcm", "SC_rgb_dcmtk*", "JPEG*", "*_K?.dcm", "*RLE*")
    for path in FILES.glob(pattern)
    if not any(word in path.name for word in ("32bit", "frame", "rtdose"))
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(set(OTHERS)) or [""])
def test_files_of_other_programs(name):
    """pydicom's own examples, written by GDCM, DCMTK and devices: as pydicom reads them."""
    if not name:
        pytest.skip("pydicom came without its examples")
    ds = pydicom.dcmread(FILES / name)
    if not ds.file_meta.TransferSyntaxUID.is_encapsulated:
        pytest.skip("not compressed")
    try:
        expected = ds.pixel_array
    except RuntimeError:
        pytest.skip("pydicom does not read it here")
    found, _ = compressed_pixels(ds, 10**7)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= (
        1 if ds.file_meta.TransferSyntaxUID.name.startswith("JPEG B") else 0
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["JPEG-lossy.dcm", "JPGExtended.dcm"])
def test_jpeg_extended_of_12_bits_by_other_programs(name):
    """The values at two places are those of pydicom's own tests (made with libjpeg)."""
    if not (FILES / name).exists():
        pytest.skip("pydicom came without its examples")
    found, _ = compressed_pixels(pydicom.dcmread(FILES / name), 10**7)
    assert (found.dtype, found.shape) == (np.uint16, (1024, 256))
    assert (int(found[420, 140]), int(found[230, 120])) == (244, 95)


def ycc(rgb: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]])


def keep_rgb(rgb: np.ndarray) -> bytes:
    """A JPEG of R, G and B as they are: libjpeg names its components so and writes Adobe's mark."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=100, keep_rgb=True, subsampling=0)
    return buffer.getvalue()


@pytest.mark.parametrize("stated", ["RGB", "YBR_FULL", "YBR_FULL_422", "MONOCHROME2"])
def test_jpeg_colour_is_what_the_encoder_meant(stated):
    samples = 1 if stated == "MONOCHROME2" else 3
    jfif = cv2.imencode(".jpg", colour()[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    adobe = without_marks(jfif)[:2] + segment(0xEE, ADOBE_YCC) + without_marks(jfif)[2:]
    as_rgb = keep_rgb(colour())
    for frame in (jfif, without_marks(jfif), adobe, as_rgb):
        header = film(colour(), PhotometricInterpretation=stated, SamplesPerPixel=samples)
        found = read_radiograph(around(frame, "JPEG", header)).pixels_HW.astype(int)
        assert np.abs(found - luminance(colour())).max() <= 3
        assert np.abs(found - decode_jpeg(frame, 10**6).pixels_HW).max() <= 2


@pytest.mark.parametrize(
    ("names", "app", "stated", "coded_as"),
    [
        (b"RGB", b"", "YBR_FULL", "RGB"),
        (b"\1\2\3", ADOBE_RGB, "YBR_FULL", "RGB"),
        (b"\1\2\3", ADOBE_YCC, "RGB", "YBR"),
        (b"\1\2\3", b"", "RGB", "RGB"),
        (b"\1\2\3", b"", "YBR_FULL", "YBR"),
    ],
)
def test_lossless_colour(names, app, stated, coded_as):
    pixels = colour() if coded_as == "RGB" else ycc(colour())
    frame = lossless(pixels, 8, names=names, app=app)
    found = read_radiograph(around(frame, "JPEG lossless", film(pixels, PhotometricInterpretation=stated)))
    assert np.abs(found.pixels_HW.astype(int) - luminance(colour())).max() <= (0 if coded_as == "RGB" else 2)
    differs = coded_as != stated[:3]
    assert any("as in the header" in note for note in found.notes) == differs


@pytest.mark.parametrize("stated", ["RGB", "YBR_RCT", "YBR_ICT", "YBR_FULL", "YBR_FULL_422"])
def test_jpeg_2000_that_transforms_its_colours_is_rgb(stated):
    frame = bytes(openjpeg.utils.encode_array(colour(), photometric_interpretation=1, use_mct=True))
    assert read_codestream(frame).color == "RGB"
    found = read_radiograph(around(frame, "JPEG 2000", film(colour(), PhotometricInterpretation=stated)))
    assert np.array_equal(found.pixels_HW, luminance(colour()))
    assert (len(found.notes) == 2) == stated.startswith("YBR_FULL")


@pytest.mark.parametrize("kind", ["JPEG 2000", "JPEG-LS", "RLE"])
def test_ycbcr_that_only_the_header_names(kind):
    frame = coded(ycc(colour()), kind)
    found = read_radiograph(around(frame, kind, film(colour(), PhotometricInterpretation="YBR_FULL")))
    assert np.abs(found.pixels_HW.astype(int) - luminance(colour())).max() <= 2


def jp2(frame: bytes, space: int) -> bytes:
    def box(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I4s", len(body) + 8, kind) + body

    head = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return head + box(b"jp2h", box(b"colr", b"\1\0\0" + struct.pack(">I", space))) + box(b"jp2c", frame)


def test_jpeg_2000_in_its_own_boxes():
    """Not conformant (PS3.5 A.4.4) and met all the same; the box tells the colours."""
    found = read_radiograph(around(jp2(coded(deep(), "JPEG 2000", 12), 17), "JPEG 2000", film(deep(), 12)))
    assert np.array_equal(found.pixels_HW, read_radiograph(encode(deep())).pixels_HW)
    frame = jp2(coded(ycc(colour()), "JPEG 2000"), 18)
    found = read_radiograph(around(frame, "JPEG 2000", film(colour())))
    assert found.notes[0] == "YCbCr, not RGB as in the header: its box says sYCC"
    assert np.abs(found.pixels_HW.astype(int) - luminance(colour())).max() <= 2


def test_the_offset_table_is_not_believed():
    frame = coded(gray, "JPEG-LS")
    data = around(frame, "JPEG-LS", film(gray))
    body = encapsulate([frame], fragments_per_frame=3)
    for table in (b"", struct.pack("<I", 0), struct.pack("<II", 0, 4), struct.pack("<I", 10**9), bytes(3)):
        start = 8 + int.from_bytes(body[4:8], "little")
        item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(table)) + table + body[start:]
        whole = data.replace(encapsulate([frame]), item)
        assert len(whole) != len(data) or table
        assert np.array_equal(read_radiograph(whole).pixels_HW, gray)


@pytest.mark.parametrize("kind", ["JPEG", "JPEG lossless", "JPEG-LS", "JPEG 2000"])
def test_the_codestream_tells_its_own_kind(kind):
    """A wrong transfer syntax is no reason to refuse what can be read."""
    wrong = "JPEG 2000" if kind != "JPEG 2000" else "JPEG-LS"
    found = read_radiograph(around(coded(gray, kind), wrong, film(gray)))
    assert np.abs(found.pixels_HW.astype(int) - gray).max() <= (1 if kind == "JPEG" else 0)


def renamed(data: bytes, old: str, new: str) -> bytes:
    """The file with another transfer syntax, written under its old length."""
    at, size = data.index(old.encode()), len(old) + len(old) % 2
    return data[:at] + new.encode().ljust(size, b"\0") + data[at + size :]


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize(("syntax", "note"), [(NATIVE, ("Explicit VR Little Endian",)), ("1.2.3.4.5", ())])
def test_pixels_in_fragments_are_compressed_whatever_the_syntax_says(kind, syntax, note):
    data = around(coded(gray, kind), kind, film(gray))
    right = str(SYNTAX[kind])
    film_ = read_radiograph(renamed(data, right, syntax))
    assert np.array_equal(film_.pixels_HW, gray)
    assert film_.notes == tuple(f"compressed pixels under the transfer syntax {name}" for name in note)


def test_a_syntax_of_nobody_without_fragments_is_named():
    with pytest.raises(RadiographError, match=r"the transfer syntax 1\.2\.3\.4\.5, which is none of the standard's"):
        read_radiograph(renamed(plain(film(gray)), NATIVE, "1.2.3.4.5"))


@pytest.mark.parametrize("samples", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_samples_and_bits_allocated_are_the_codestreams(kind, samples):
    ds = film(gray, SamplesPerPixel=samples, BitsAllocated=32)
    found = read_radiograph(around(coded(gray, kind), kind, ds))
    assert np.abs(found.pixels_HW.astype(int) - gray).max() <= (1 if kind == "JPEG" else 0)
    note = f"one component in the {kind} codestream, not {samples} (MONOCHROME2) as in the header"
    assert (note in found.notes) == (samples > 1)


def test_a_mapping_table_of_jpeg_ls_is_refused():
    frame = coded(gray, "JPEG-LS")
    scan = frame.index(b"\xff\xda")
    for part, readable in ((1, True), (2, False)):
        body = struct.pack(">B5H", 1, 255, 3, 7, 21, 64) if part == 1 else bytes([2, 1, 1, *range(255, -1, -1)])
        data = around(frame[:scan] + segment(0xF8, body) + frame[scan:], "JPEG-LS", film(gray))
        if readable:
            assert np.array_equal(read_radiograph(data).pixels_HW, gray)
        else:
            with pytest.raises(RadiographError, match="a JPEG-LS with mapping tables, which no decoder here reads"):
                read_radiograph(data)


def test_a_palette_of_jpeg_2000_is_refused():
    palette = struct.pack(">I4s", 14, b"pclr") + bytes([0, 1, 1, 7, 0, 0])
    data = jp2(coded(gray, "JPEG 2000"), 17)
    start = data.index(b"jp2h")
    (length,) = struct.unpack_from(">I", data, start - 4)
    end = start - 4 + length
    data = data[: start - 4] + struct.pack(">I", length + len(palette)) + data[start:end] + palette + data[end:]
    with pytest.raises(RadiographError, match="a JPEG 2000 with a palette, which no decoder here reads"):
        read_radiograph(around(data, "JPEG 2000", film(gray)))


@pytest.mark.parametrize("kind", ["JPEG", "JPEG lossless", "JPEG-LS", "JPEG 2000"])
@pytest.mark.parametrize("cut", [1, 2])
def test_a_codestream_that_lacks_only_its_end_mark_is_read(kind, cut):
    frame = coded(gray, kind)
    found = read_radiograph(around(frame[: frame.rindex(b"\xff\xd9") + 2 - cut], kind, film(gray)))
    assert np.array_equal(found.pixels_HW, read_radiograph(around(frame, kind, film(gray))).pixels_HW)
    assert found.notes == ("the mark at its end is missing",)


@pytest.mark.parametrize("kind", ["JPEG", "JPEG lossless", "JPEG-LS", "JPEG 2000"])
def test_a_codestream_that_lacks_more_is_refused_without_delay(kind, monkeypatch):
    monkeypatch.setattr(codecs, "SECONDS", 5)  # a cut JPEG-LS hangs some decoders
    frame = coded(gray, kind)
    end = frame.rindex(b"\xff\xd9")
    for cut in (2, 3, 4, 5, 6, 10, 20, 50):
        with pytest.raises(RadiographError, match="truncated JPEG|corrupt JPEG.*: its pixels cannot be decoded"):
            read_radiograph(around(frame[: end - cut], kind, film(gray)))


def test_a_thumbnail_does_not_make_a_cut_jpeg_whole():
    thumbnail = segment(0xE1, b"Exif\0\0" + encode(picture(8, 8), ".jpg"))
    frame = coded(gray, "JPEG")
    data = around(frame[:2] + thumbnail + frame[2:], "JPEG", film(gray))
    assert np.abs(read_radiograph(data).pixels_HW.astype(int) - gray).max() <= 1
    with pytest.raises(RadiographError, match="truncated JPEG: it stops after"):
        read_radiograph(around(frame[:2] + thumbnail + frame[2:-200], "JPEG", film(gray)))


def test_marks_of_applications_neither_turn_nor_recolour():
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
    frame = coded(gray, "JPEG")
    hidden = segment(0xE5, b"\xff\xc0\x00\x0b\x08\x00\x10\x00\x10\x01\x01\x11\x00")
    frame = frame[:2] + segment(0xE1, exif) + hidden + b"\xff\xff\xff" + frame[2:]
    assert read_codestream(frame).width == 64
    found = read_radiograph(around(frame, "JPEG", film(gray)))
    assert found.pixels_HW.shape == gray.shape
    assert np.abs(found.pixels_HW.astype(int) - gray).max() <= 1


def test_endless_scans_inside_dicom():
    data = cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = data.rfind(b"\xff\xc4")
    for times in (20, 80):
        frame = data[:-2] + data[last:-2] * times + b"\xff\xd9"
        if times == 20:
            read_radiograph(around(frame, "JPEG", film(gray)))
            continue
        with pytest.raises(RadiographError, match=r"a JPEG of more than 64 scans \(transfer syntax JPEG Baseline"):
            read_radiograph(around(frame, "JPEG", film(gray)))


@pytest.mark.parametrize("body", [b"", b"\xfe\xff", b"\xfe\xff\x00\xe0\x03\0\0\0" + bytes(3), bytes(64)])
def test_pixels_that_are_in_no_fragments(body):
    ds = film(gray)
    ds.file_meta.TransferSyntaxUID = SYNTAX["JPEG-LS"]
    ds.PixelData = body
    with pytest.raises(RadiographError, match=r"its compressed pixels do not stand in fragments|none of JPEG"):
        compressed_pixels(ds, 10**6)


def siz(**changes: int) -> bytes:
    """A JPEG 2000 codestream whose size header has been changed."""
    frame = bytearray(coded(gray, "JPEG 2000"))
    fields = ("right", "bottom", "left", "top", "tile_w", "tile_h", "tile_x", "tile_y")
    for name, value in changes.items():
        if name in fields:
            struct.pack_into(">I", frame, 8 + 4 * fields.index(name), value)
        elif name == "components":
            struct.pack_into(">H", frame, 40, value)
        else:
            frame[{"precision": 42, "step_x": 43}[name]] = value
    return bytes(frame)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (siz(tile_w=1, tile_h=1, right=50000, bottom=50000), "50000 x 50000 pixels|more than 65,535 tiles"),
        (siz(tile_w=0), "impossible tiles"),
        (siz(left=100), "impossible tiles"),
        (siz(tile_x=5), "impossible tiles"),
        (siz(components=16384), "size header is of the wrong length"),
        (siz(components=0), "size header is of the wrong length"),
        (siz(precision=31), "32 bits a sample; expected at most 16"),
        (siz(step_x=0), "differ in bits or size"),
        (siz(right=4_000_000_000, bottom=4_000_000_000, tile_w=4_000_000_000, tile_h=4_000_000_000), "more than the"),
        (coded(gray, "JPEG 2000")[:40], "truncated JPEG 2000"),
        (coded(gray, "JPEG lossless")[:-20], "truncated JPEG lossless: it stops after"),
        (dct(gray, 8, sof=0xC2)[:-2], "truncated JPEG: it stops after"),
        (coded(gray, "JPEG-LS")[:-20], "corrupt JPEG-LS: its pixels cannot be decoded"),
        *((coded(gray, "JPEG 2000")[:-cut], "corrupt JPEG 2000: its pixels cannot be decoded") for cut in (3, 4, 20)),
        (b"\xff\xd8\xff\xd9", "inside its header|no frame header"),
        (b"\xff\xd8" + segment(0xC5, b"\x08\0\x30\0\x40\1\1\x11\0") + segment(0xDA, b"\1\1\0\0\x3f\0"), "hierarchical"),
        (jp2(b"nothing", 17), "its boxes hold no codestream"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x08jp2h" * 100_000, "its boxes hold no codestream"),
        (struct.pack("<16I", 5, 64, *[0] * 14) + bytes(9), "an RLE picture of 5 segments"),
        (struct.pack("<16I", 2, 64, 10**9, *[0] * 13) + bytes(9), "out of order or beyond its end"),
        (b"\0\0\1\xb3" + bytes(99), "none of JPEG, JPEG-LS, JPEG 2000 and RLE"),
    ],
)
def test_hostile_headers_have_a_reason(frame, reason):
    with pytest.raises(RadiographError, match=reason):
        read_radiograph(around(frame, "JPEG 2000", film(gray)))


def test_an_rle_bomb_stops_at_the_size_of_the_picture():
    bomb = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 5_000_000
    with pytest.raises(RadiographError, match="more pixels than the 64 x 48"):
        read_radiograph(around(bomb, "RLE", film(gray)))


@pytest.mark.parametrize("kind", SYNTAX)
def test_damaged_frames_have_a_reason_or_pixels(kind):
    rng = np.random.default_rng(5)
    pixels, bits = (deep(), 12) if kind == "JPEG 12" else (gray, 8)
    whole, reasons = coded(pixels, kind, bits), set()
    for _ in range(40):
        frame = np.frombuffer(whole, np.uint8).copy()
        places = rng.integers(0, len(frame), rng.integers(1, 6))
        frame[places] = rng.integers(0, 256, len(places))
        try:
            found = read_radiograph(around(frame.tobytes(), kind, film(pixels, bits)), max_pixels=10**6)
        except RadiographError as error:
            reasons.add(str(error))
        else:
            assert found.pixels_HW.shape == gray.shape
    assert all(reasons)
    assert reasons
