from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_films import encode, picture
from PIL import Image

from agcxr.data.radiograph import Radiograph, RadiographError, from_array, is_pixels, read_radiograph, resize, stem

NIH = Path(__file__).parents[3] / "shared" / "nih"


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_8_bit_png_of_every_kind_is_the_same_gray(mode):
    gray = picture()
    image = Image.fromarray(gray)
    if mode == "P":
        image.putpalette(bytes(value for gray in range(256) for value in (gray, gray, gray)))
        image = Image.frombytes("P", image.size, gray.tobytes())
        image.putpalette([value for level in range(256) for value in (level, level, level)])
    else:
        image = image.convert(mode)
    assert image.mode == mode
    film = read_radiograph(saved(image), name="film")
    assert np.array_equal(film.pixels_HW, gray)
    assert (film.pixels_HW.dtype, film.format, film.name) == (np.uint8, "png", "film")
    assert (film.height, film.width) == gray.shape
    assert bool(film.notes) == (mode != "L")


def test_1_bit_png_spans_black_to_white():
    gray = (picture() > 127).astype(np.uint8) * 255
    assert np.array_equal(read_radiograph(saved(Image.fromarray(gray).convert("1"))).pixels_HW, gray)


def test_16_bit_png_keeps_its_depth():
    deep = picture().astype(np.uint16) * 257
    film = read_radiograph(encode(deep))
    assert film.pixels_HW.dtype == np.uint16
    assert np.array_equal(film.pixels_HW, deep)
    assert film.notes == ()
    assert np.array_equal(film.to_uint8(), picture())


def test_12_bits_in_a_16_bit_png_fill_the_range():
    film = read_radiograph(encode(np.array([[0, 2048, 4095]], np.uint16)))
    assert film.pixels_HW.tolist() == [[0, 32776, 65535]]
    assert film.notes == ("12-bit values in 16 bits -> full range",)


def test_every_level_of_16_bits_is_rounded_to_the_nearest_of_8():
    level = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    eight = Radiograph(level, "", "array").to_uint8()
    assert eight.dtype == np.uint8
    assert np.array_equal(eight, np.rint(level / 257))  # 65535 = 255 * 257, which is odd: nothing lies midway


def test_transparency_is_laid_over_black_and_colour_weighed():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(200, 200, 200, 255), (200, 200, 200, 0), (255, 0, 0, 255)]
    film = read_radiograph(saved(Image.fromarray(rgba)))
    assert film.pixels_HW.tolist() == [[200, 0, 76]]
    assert film.notes == ("colour -> luminance", "transparency laid over black")


@pytest.mark.parametrize(("suffix", "kind"), [(".jpg", "jpeg"), (".webp", "webp")])
def test_jpeg_and_webp(suffix, kind, tmp_path):
    path = tmp_path / f"film{suffix}"
    path.write_bytes(encode(picture(64, 48), suffix))
    film = read_radiograph(path)
    assert (film.format, film.name, film.pixels_HW.shape) == (kind, path.name, (64, 48))
    assert np.abs(film.pixels_HW.astype(int) - picture(64, 48)).mean() < 3


def test_jpeg_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    film = read_radiograph(saved(Image.fromarray(picture(32, 48)), "JPEG", exif=exif))
    assert film.pixels_HW.shape == (48, 32)
    assert film.notes == ("turned upright as its EXIF part says",)


def test_ancillary_parts_of_a_png_do_not_matter():
    plain = encode(picture())
    body = b"ICC Profile\0\0not a profile"
    chunk = struct.pack(">I", len(body)) + b"iCCP" + body + struct.pack(">I", zlib.crc32(b"iCCP" + body))
    assert np.array_equal(read_radiograph(plain[:33] + chunk + plain[33:]).pixels_HW, picture())


def png_header(width: int, height: int) -> bytes:
    body = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", body), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    made = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (bytes(1000), "it holds only zeros"),
        (b"hello, this is no picture", "it looks like text"),
        (b"<html>404</html>", "HTML or XML text"),
        (b"\x1f\x8b\x08abc", "gzip data"),
        (encode(picture())[:-200], "truncated PNG: the file stops after"),
        (encode(picture())[:20], "truncated PNG"),
        (encode(picture(64, 64), ".jpg")[:-100], "truncated JPEG: the file stops after"),
        (encode(picture(64, 64), ".jpg")[:30], "truncated JPEG: .* inside its header"),
        (encode(picture(64, 64), ".webp")[:-50], "truncated WebP: .* of .* bytes"),
        (png_header(100_000, 100_000), "100000 x 100000 pixels, more than the 100,000,000 allowed"),
        (png_header(0, 7), "a size of 0 x 7"),
        (png_header(50, 50), "corrupt PNG: its pixels cannot be decoded"),
    ],
)
def test_bad_bytes_have_a_reason(data, reason):
    with pytest.raises(RadiographError, match=reason):
        read_radiograph(data)


def test_one_changed_byte_of_a_png_is_seen():
    data = bytearray(encode(picture()))
    data[len(data) // 2] ^= 1
    with pytest.raises(RadiographError, match="corrupt PNG: the checksum of its b'IDAT' part at byte 33 is wrong"):
        read_radiograph(bytes(data))


def test_bad_paths_have_a_reason(tmp_path):
    with pytest.raises(RadiographError, match="no such file") as told:
        read_radiograph(tmp_path / "absent.png")
    assert str(told.value) == "no such file"
    assert told.value.__notes__ == [f"the file: {tmp_path / 'absent.png'}"]  # a traceback shows it
    with pytest.raises(RadiographError, match="a folder"):
        read_radiograph(tmp_path)
    with pytest.raises(RadiographError, match="cannot be read: .*null"):
        read_radiograph("a\0b")
    huge = tmp_path / "huge.png"
    with huge.open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(RadiographError, match="a file of 2,147,483,648 bytes"):
        read_radiograph(huge)


def test_max_pixels_holds_before_decoding():
    with pytest.raises(RadiographError, match="30 x 40 pixels, more than the 1,199 allowed"):
        read_radiograph(encode(picture()), max_pixels=1199)
    assert read_radiograph(encode(picture()), max_pixels=1200).width == 30


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_mutated_files_never_raise_anything_else(suffix):
    rng = np.random.default_rng(7)
    whole, reasons = np.frombuffer(encode(picture(24, 24), suffix), np.uint8), set()
    for _ in range(300):
        data = whole.copy()
        places = rng.integers(0, len(data), rng.integers(1, 8))
        data[places] = rng.integers(0, 256, len(places))
        try:
            film = read_radiograph(data[: rng.integers(1, len(data) + 1)].tobytes(), max_pixels=10**6)
        except RadiographError as error:
            reasons.add(str(error))
        else:
            assert film.pixels_HW.ndim == 2
    assert len(reasons) > 5
    assert all(reasons)


def test_from_array():
    gray = picture()
    assert np.array_equal(from_array(gray).pixels_HW, gray)
    assert np.array_equal(from_array(np.stack([gray] * 3, -1)).pixels_HW, gray)
    assert np.array_equal(from_array(gray / 255).to_uint8(), gray)
    assert from_array(np.array([[[255, 0, 0]]], np.uint8)).pixels_HW.tolist() == [[76]]  # red, not blue
    for wrong, reason in [
        (gray.astype(int), "int64; expected uint8"),
        (gray.astype(float), "from 0 to 255; expected 0 to 1"),
        (np.full((2, 2), np.nan), "from nan"),
        (gray[0], "shape"),
        (np.zeros((0, 4), np.uint8), "a size of 4 x 0"),
        (np.zeros((4, 4, 2), np.uint8), "2 channels"),
    ]:
        with pytest.raises(RadiographError, match=reason):
            from_array(wrong)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "I", "I;16", "1", "F"])
def test_an_image_of_any_mode_is_its_pixels(mode):
    gray = np.where(picture() > 127, 255, 0).astype(np.uint8)
    if mode == "F":
        image = Image.fromarray((gray / 255).astype(np.float32))
    elif mode.startswith("I"):
        image = Image.fromarray(gray.astype(np.uint16) * 257).convert(mode)
    else:
        image = Image.fromarray(gray).convert(mode)
    assert image.mode == mode
    made = from_array(image)
    assert np.array_equal(made.to_uint8(), gray)
    assert is_pixels(image)


def test_an_image_is_turned_as_its_exif_part_says():
    image = Image.fromarray(picture())
    image.getexif()[0x0112] = 3
    assert np.array_equal(from_array(image).pixels_HW, picture()[::-1, ::-1])


def test_values_out_of_the_range_of_a_film_are_refused():
    with pytest.raises(RadiographError, match="mode I from -1 to 7; expected values in 0..65535"):
        from_array(Image.fromarray(np.array([[-1, 7]] * 2, np.int32)))
    with pytest.raises(RadiographError, match=r"a float array from -1 to 2; expected 0 to 1"):
        from_array(torch.tensor([[-1.0, 2.0]]))
    with pytest.raises(RadiographError, match=r"shape \(2, 3, 8, 8\); expected one film: H x W"):
        from_array(torch.zeros(2, 3, 8, 8))


def test_tensors_have_their_channels_first_or_last():
    colour_HW3 = np.random.default_rng(0).integers(0, 255, (9, 8, 3), dtype=np.uint8)
    expected = from_array(colour_HW3).pixels_HW
    tensor = torch.from_numpy(colour_HW3)
    for given in (tensor, tensor.permute(2, 0, 1), tensor.permute(2, 0, 1).requires_grad_(False)):
        assert np.array_equal(from_array(given).pixels_HW, expected)
    half = torch.full((4, 4), 0.5, dtype=torch.bfloat16)
    assert from_array(half).pixels_HW[0, 0] == 32768
    assert not is_pixels([[1]])


def test_resize_is_area_averaging_and_leaves_the_right_size_alone():
    gray = picture(64, 64)
    assert np.array_equal(resize(gray, 64), gray)
    blocks = gray.reshape(32, 2, 32, 2).mean((1, 3))
    assert np.abs(resize(gray, 32) - blocks).max() <= 0.5
    assert resize(picture(64, 48), 32).shape == (32, 32)
    deep = gray.astype(np.uint16) * 257
    assert np.abs(resize(deep, 32) - blocks).max() <= 0.51
    assert resize(deep, 64).dtype == np.uint8


def test_stem_cuts_only_extensions_of_films():
    assert stem("images/00000013_005.png") == stem("00000013_005.JPG") == "00000013_005"
    assert stem("1.2.840.113.7.dcm") == stem("1.2.840.113.7") == "1.2.840.113.7"


@pytest.mark.skipif(not NIH.is_dir(), reason="the real films (../shared/nih) are not here")
def test_real_films_equal_pillow():
    names = ["00000003_000.png", "00000004_000.png", "00000347_000.png"]  # gray; RGBA with an ICC profile; RGBA
    for name in names:
        film = read_radiograph(NIH / "full" / name)
        with Image.open(NIH / "full" / name) as image:
            assert np.array_equal(film.pixels_HW, np.asarray(image.convert("RGB"))[..., 0])
        assert bool(film.notes) == (name != names[0])
    jpeg = NIH / "images" / "00000001_000.jpg"
    assert np.array_equal(read_radiograph(jpeg).pixels_HW, cv2.imread(str(jpeg), cv2.IMREAD_GRAYSCALE))


def progressive(scans: int) -> bytes:
    """A progressive JPEG whose last scan stands there again and again."""
    data = cv2.imencode(".jpg", picture(64, 64), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    last = data.rfind(b"\xff\xc4")
    return data[:-2] + data[last:-2] * scans + b"\xff\xd9"


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded():
    read_radiograph(progressive(20))
    with pytest.raises(RadiographError, match="a JPEG of more than 64 scans"):
        read_radiograph(progressive(80))
    hidden = progressive(80)
    hidden = hidden[:-2] + b"\xff\xfe\x00\x04\xff\xd9" + hidden[-2:]
    with pytest.raises(RadiographError, match="a JPEG of more than 64 scans"):
        read_radiograph(hidden)


def test_what_follows_a_jpeg_is_not_of_it():
    """Telephones write a second picture or a film behind the first."""
    data = encode(picture(), ".jpg")
    assert np.array_equal(read_radiograph(data + b"\xff\xda" * 100).pixels_HW, read_radiograph(data).pixels_HW)
    thumbnail = b"\xff\xe1\x00\xcc" + b"\xff\xda" * 101
    assert np.array_equal(read_radiograph(data[:2] + thumbnail + data[2:]).pixels_HW, read_radiograph(data).pixels_HW)


def test_headers_without_end_are_refused_in_no_time():
    jpeg, png = encode(picture(), ".jpg"), encode(picture())
    begun = time.monotonic()
    with pytest.raises(RadiographError, match="a JPEG of more than 4,096 parts before its pixels"):
        read_radiograph(jpeg[:2] + b"\xff\xfe\x00\x02" * 5_000_000 + jpeg[2:])
    fill = jpeg[:2] + b"\xff" * 20_000_000 + jpeg[3:]
    assert np.array_equal(read_radiograph(fill).pixels_HW, read_radiograph(jpeg).pixels_HW)
    empty = struct.pack(">I4sI", 0, b"teXt", zlib.crc32(b"teXt"))
    with pytest.raises(RadiographError, match="a PNG of more than 262,144 parts"):
        read_radiograph(png[:33] + empty * 2_000_000 + png[33:])
    assert time.monotonic() - begun < 20
