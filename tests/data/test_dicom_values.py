"""Stored words -> gray: exact values for HighBit, ranges, padding, tables and windows, and the notes that say so."""

from __future__ import annotations

import io
import struct

import numpy as np
import pydicom
import pytest
from made_films import picture
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless
from test_dicomfile import dataset, lut, read, written

from agcxr.data.radiograph import Radiograph, RadiographError, read_radiograph
from agcxr.dicom.source import read_source


def u16(*values: int) -> np.ndarray:
    return np.array([values], np.uint16)


def i16(*values: int) -> np.ndarray:
    return np.array([values], np.int16)


def shades(values, low, high, top=65535) -> list[list[int]]:
    """The values as gray between black at `low` and white at `high`."""
    unit = np.clip((np.asarray(values, float) - low) / (high - low), 0, 1)
    return [np.rint(unit * top).astype(int).tolist()]


def spliced(data: bytes, keyword: str, vr: str, value: bytes) -> bytes:
    """An explicit little-endian file with one element put in (or exchanged) exactly as its bytes are."""
    tag = Tag(keyword)
    new = struct.pack("<HH2sH", tag.group, tag.elem, vr.encode(), len(value)) + value
    at = 144 + struct.unpack_from("<I", data, 140)[0]
    while True:
        group, element, kind, length = struct.unpack_from("<HH2sH", data, at)
        if (group, element) > (tag.group, tag.elem):
            return data[:at] + new + data[at:]
        end = at + 8 + length
        if kind in (b"OB", b"OW", b"SQ", b"UN"):
            end = at + 12 + struct.unpack_from("<I", data, at + 8)[0]
        if (group, element) == (tag.group, tag.elem):
            return data[:at] + new + data[end:]
        at = end


def read_raw(pixels: np.ndarray, *elements: tuple[str, str, bytes], **changes) -> Radiograph:
    data = written(dataset(pixels, **changes))
    for element in elements:
        data = spliced(data, *element)
    return read_radiograph(data)


# --- where a value stands in its word ---------------------------------------------------------------------------------


@pytest.mark.parametrize("low_bits", [0, 9], ids=["clean", "overlay below"])
@pytest.mark.parametrize("syntax", [None, RLELossless], ids=["plain", "RLE"])
def test_12_bits_at_the_top_of_16(syntax, low_bits):
    values = u16(0, 1, 2048, 4095)
    ds = dataset((values << 4) + np.uint16(low_bits), bits=12, HighBit=15)
    if syntax:
        ds.compress(syntax, generate_instance_uid=False)
    film = read_radiograph(written(ds))
    assert film.pixels_HW.tolist() == read(values, bits=12).pixels_HW.tolist() == shades(values[0], 0, 4095)
    assert film.notes == ("12 bits stored in bits 4 to 15 of 16",)


def test_bits_in_the_middle_and_overlays_on_both_sides():
    film = read((u16(0, 700, 1023) << 2) | u16(0xF003, 0x0001, 0x8002), bits=10, HighBit=11)
    assert film.pixels_HW.tolist() == shades([0, 700, 1023], 0, 1023)


def test_overlay_in_the_upper_bits_is_no_part_of_the_value():
    ds = dataset(u16(0, 2048, 4095) | u16(0x1000, 0xF000, 0x3000), bits=12)
    ds.add_new(0x60000100, "US", 16)  # overlay bits allocated
    ds.add_new(0x60000102, "US", 12)  # overlay bit position
    film = read_radiograph(written(ds))
    assert film.pixels_HW.tolist() == shades([0, 2048, 4095], 0, 4095)
    assert film.notes == ("bits above the 12 stored ones ignored",)


def test_signed_values_get_their_sign_from_the_stored_bits():
    values = i16(-2048, -1, 0, 2047)
    expected = shades(values[0], -2048, 2047)
    assert read(values, bits=12).pixels_HW.tolist() == expected
    assert read(values & np.int16(0x0FFF), bits=12).pixels_HW.tolist() == expected  # upper bits empty
    assert read((values & np.int16(0x0FFF)) | np.int16(0x5000), bits=12).pixels_HW.tolist() == expected  # or overlays
    assert read(values << 4, bits=12, HighBit=15).pixels_HW.tolist() == expected


@pytest.mark.parametrize(
    ("high", "note"),
    [
        (3, "HighBit 3 is impossible with 12 of 16 bits"),
        (16, "HighBit 16 is impossible with 12 of 16 bits"),
        (None, None),
    ],
)
def test_missing_and_impossible_high_bits_are_noted(high, note):
    ds = dataset(u16(0, 2048, 4095), bits=12)
    del ds.HighBit
    if high is not None:
        ds.HighBit = high
    film = read_radiograph(written(ds))
    assert film.pixels_HW.tolist() == shades([0, 2048, 4095], 0, 4095)
    assert film.notes == (*([note] if note else []), "HighBit taken as 11")


@pytest.mark.parametrize("bits", [0, 17, 255])
def test_impossible_bits_stored_are_all_that_are_allocated(bits):
    film = read(u16(0, 2048, 4095), BitsStored=bits, HighBit=15)
    assert film.pixels_HW.tolist() == shades([0, 2048, 4095], 0, 4095)
    assert film.notes[:2] == (f"BitsStored {bits} is impossible in 16 bits", "BitsStored taken as 16")


def test_two_bytes_a_sample_are_16_bits_allocated():
    film = read(u16(0, 2048, 4095), BitsAllocated=8, BitsStored=12, HighBit=11)
    assert film.pixels_HW.tolist() == shades([0, 2048, 4095], 0, 4095)
    assert film.notes == ("BitsAllocated taken as 16: BitsStored is 12, and each sample has two bytes",)


def test_a_codestream_has_no_unused_bits():
    ds = dataset(np.tile(u16(0, 1000, 4095, 4095), (64, 16)), bits=12)
    ds.compress(JPEG2000Lossless, generate_instance_uid=False)
    ds.HighBit = 15
    film = read_radiograph(written(ds))
    assert film.pixels_HW[:1, :4].tolist() == shades([0, 1000, 4095, 4095], 0, 4095)
    assert film.notes == ("HighBit 15 ignored: the compressed values have 12 bits",)


def test_8_bits_at_the_top_of_16_stay_8():
    film = read(u16(0, 128, 255) << 8, bits=8, HighBit=15)
    assert film.pixels_HW.dtype == np.uint8
    assert film.pixels_HW.tolist() == [[0, 128, 255]]


def test_colour_of_12_bits_at_the_top():
    gray = np.repeat(u16(0, 2048, 4095)[..., None], 3, -1)
    assert read(gray << 4, bits=12, HighBit=15).pixels_HW.tolist() == shades([0, 2048, 4095], 0, 4095)


@pytest.mark.parametrize("high", [11, 15, 31])
@pytest.mark.parametrize("order", ["<", ">"])
def test_12_bits_in_32(high, order):
    ds = dataset(u16(0, 2048, 4095), bits=12, BitsAllocated=32, HighBit=high)
    ds.PixelData = (np.array([0, 2048, 4095], f"{order}u4") << high - 11).astype(f"{order}u4").tobytes()
    if order == ">":
        ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    film = read_radiograph(written(ds))
    assert film.pixels_HW.tolist() == shades([0, 2048, 4095], 0, 4095)
    assert film.notes == ("12 bits stored in 32",)


@pytest.mark.parametrize("bits", [12, 16])
def test_signed_values_in_32_bits(bits):
    ds = dataset(i16(-2048, -1, 0, 2047), bits=bits, BitsAllocated=32)
    ds.PixelData = np.array([-2048, -1, 0, 2047], "<i4").tobytes()
    assert read_radiograph(written(ds)).pixels_HW.tolist() == shades([-2048, -1, 0, 2047], -2048, 2047)


def test_more_than_16_bits_stored_are_refused():
    ds = dataset(u16(0, 1), BitsAllocated=32, BitsStored=17, HighBit=16, PixelData=bytes(8))
    with pytest.raises(RadiographError, match="DICOM of 1 x 32 bits a pixel, 17 stored; expected 1 or 3 samples of at"):
        read_radiograph(written(ds))


# --- samples a pixel of uncompressed films against the photometric interpretation -------------------------------------

COLOR = np.array([[[10, 20, 30], [200, 100, 10]]], np.uint8)
LUMINANCE = [[18, 120]]


@pytest.mark.parametrize(("stated", "expected"), [("MONOCHROME2", LUMINANCE), ("MONOCHROME1", [[237, 135]])])
def test_three_samples_labelled_gray(stated, expected):
    film = read(COLOR, PhotometricInterpretation=stated)
    assert film.pixels_HW.tolist() == expected
    assert film.notes[:2] == (f"3 samples a pixel under {stated}", "colour -> luminance")


@pytest.mark.parametrize("stated", ["RGB", "YBR_FULL", "YBR_RCT"])
def test_one_sample_labelled_colour(stated):
    film = read(np.array([[0, 128, 255]], np.uint8), PhotometricInterpretation=stated)
    assert film.pixels_HW.tolist() == [[0, 128, 255]]
    assert film.notes == (f"one sample a pixel under {stated}",)


def test_the_bytes_tell_how_many_samples_there_are():
    film = read(COLOR, SamplesPerPixel=1, PhotometricInterpretation="RGB")
    assert film.pixels_HW.tolist() == LUMINANCE
    assert film.notes[0] == "SamplesPerPixel taken as 3: there are as many bytes, and it is RGB"
    film = read(np.array([[0, 128]], np.uint8), SamplesPerPixel=3, PlanarConfiguration=0)
    assert film.pixels_HW.tolist() == [[0, 128]]
    assert film.notes == ("SamplesPerPixel taken as 1: there are as many bytes, and it is MONOCHROME2",)


def test_cut_colour_labelled_gray_is_cut():
    data = written(dataset(np.tile(COLOR, (20, 20, 1)), PhotometricInterpretation="MONOCHROME2"))
    with pytest.raises(RadiographError, match="it is cut off, only 800 of 2,400 bytes of its pixels"):
        read_radiograph(data[:-1600])


# --- the range without a window ---------------------------------------------------------------------------------------


def test_signed_values_from_0_up_are_as_unsigned_ones():
    values = [0, 1000, 4095]
    assert read(i16(*values)).pixels_HW.tolist() == read(u16(*values)).pixels_HW.tolist() == shades(values, 0, 4095)


def test_signed_values_below_0_fill_the_range():
    for values in ([-1024, 0, 3071], [-32768, -30000, -28673], [-1, 2000, 4095]):
        assert read(i16(*values)).pixels_HW.tolist() == shades(values, values[0], values[-1])


def test_signed_8_bits():
    assert read(np.array([[-128, 0, 127]], np.int8)).pixels_HW.tolist() == [[0, 128, 255]]
    assert read(np.array([[0, 64, 127]], np.int8)).pixels_HW.tolist() == shades([0, 64, 127], 0, 127, 255)


def test_a_flat_film_is_no_error():
    assert read(i16(-5, -5)).pixels_HW.tolist() == [[0, 0]]
    assert read(u16(0, 0)).pixels_HW.tolist() == [[0, 0]]


def test_negative_slope_turns_the_range_round():
    film = read(u16(0, 1000, 4095), RescaleSlope=-1, RescaleIntercept=4095)
    assert film.pixels_HW.tolist() == shades([4095, 3095, 0], 0, 4095)


def test_smallest_and_largest_pixel_value_are_not_believed():
    film = read(u16(0, 1000, 4095), SmallestImagePixelValue=900, LargestImagePixelValue=901)
    assert film.pixels_HW.tolist() == shades([0, 1000, 4095], 0, 4095)


# --- padding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_outside_the_range_and_black(photometric):
    values = [0, 1000, 4095]
    film = read(u16(*values, 65535), PixelPaddingValue=65535, PhotometricInterpretation=photometric)
    ends = (4095, 0) if photometric == "MONOCHROME1" else (0, 4095)
    assert film.pixels_HW.tolist() == [shades(values, *ends)[0] + [0]]
    assert film.notes[0] == "padding 65535 -> black"


@pytest.mark.parametrize("vr", ["SS", "US"])
def test_signed_padding_in_both_signs(vr):
    value = int(np.int16(-2000).astype(np.uint16)) if vr == "US" else -2000
    ds = dataset(i16(-2000, 0, 1000, 4095))
    ds.add_new("PixelPaddingValue", vr, value)
    film = read_radiograph(written(ds))
    assert film.pixels_HW.tolist() == [[0, *shades([0, 1000, 4095], 0, 4095)[0]]]
    assert film.notes == ("padding -2000 -> black",)


def test_unsigned_padding_written_with_a_sign():
    ds = dataset(u16(0, 1000, 4095, 65535))
    ds.add_new("PixelPaddingValue", "SS", -1)
    assert read_radiograph(written(ds)).pixels_HW.tolist() == [[*shades([0, 1000, 4095], 0, 4095)[0], 0]]


@pytest.mark.parametrize("edges", [(60000, 65535), (65535, 60000)])
def test_a_range_of_padding_in_either_order(edges):
    film = read(u16(0, 4095, 60000, 63000, 65535), PixelPaddingValue=edges[0], PixelPaddingRangeLimit=edges[1])
    assert film.pixels_HW.tolist() == [[0, 65535, 0, 0, 0]]
    assert film.notes == (f"padding {edges[0]} to {edges[1]} -> black",)


def test_padding_under_a_window_and_after_inversion():
    changes = {"WindowCenter": 2048, "WindowWidth": 4096, "PixelPaddingValue": 4000}
    plain = read(u16(0, 4000, 4095), **changes)
    assert plain.pixels_HW.tolist() == [[0, 0, 65535]]
    turned = read(u16(0, 4000, 4095), PhotometricInterpretation="MONOCHROME1", **changes)
    assert turned.pixels_HW.tolist() == [[65535, 0, 0]]


def test_padding_between_the_values_is_padding_all_the_same():
    # PS3.3 C.7.5.1.1.2: no pixel of the native image has the value.
    assert read(u16(0, 2000, 4095), PixelPaddingValue=2000).pixels_HW.tolist() == [[0, 0, 65535]]


def test_padding_that_the_stored_bits_cannot_hold_is_looked_for_in_the_words():
    film = read(u16(0, 1000, 4095, 0xFFFF), bits=12, PixelPaddingValue=0xFFFF)
    assert film.pixels_HW.tolist() == [[*shades([0, 1000, 4095], 0, 4095)[0], 0]]


def test_padding_stored_at_the_top_of_the_word():
    film = read(u16(0, 1000, 2047, 4095) << 4, bits=12, HighBit=15, PixelPaddingValue=4095)
    assert film.pixels_HW.tolist() == [[*shades([0, 1000, 2047], 0, 2047)[0], 0]]


def test_padding_that_is_not_there_and_padding_that_is_everything():
    assert read(u16(0, 4095), PixelPaddingValue=5000).notes == ()
    film = read(u16(7, 7), PixelPaddingValue=7)
    assert film.notes == ("padding 7 ignored: every pixel has it",)
    assert film.pixels_HW.tolist() == shades([7, 7], 0, 255)
    assert read(u16(0, 4095), PixelPaddingRangeLimit=4095).pixels_HW.tolist() == [
        [0, 65535]
    ]  # a limit alone says nothing


# --- tables -----------------------------------------------------------------------------------------------------------


def table(first: int, depth: int, entries: int, vr: str, data, descriptor_vr: str = "US") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", descriptor_vr, [entries, first, depth])
    item.add_new("LUTData", vr, data)
    return item


def test_table_data_have_no_sign_whatever_their_vr():
    values = [0, 30000, 40000, 65535]
    signed = np.array(values, np.uint16).astype(np.int16).tolist()
    film = read(u16(0, 1, 2, 3), VOILUTSequence=[table(0, 16, 4, "SS", signed)])
    assert film.pixels_HW.tolist() == [values]


@pytest.mark.parametrize("name", ["ModalityLUTSequence", "VOILUTSequence"])
def test_first_mapped_value_40000_under_ss(name):
    film = read(u16(39999, 40000, 40001, 50000), **{name: [table(40000 - 65536, 16, 3, "US", [0, 400, 65535], "SS")]})
    assert film.pixels_HW.tolist() == [[0, 0, 400, 65535]]


def test_first_mapped_value_below_0_of_signed_pixels():
    for first, vr in ((-2, "SS"), (65534, "US")):
        film = read(i16(-3, -2, -1, 0, 1), VOILUTSequence=[table(first, 16, 3, "US", [10, 20, 65535], vr)])
        assert film.pixels_HW.tolist() == [[10, 10, 20, 65535, 65535]]


def test_a_rescale_to_below_0_makes_the_first_mapped_value_signed():
    film = read(
        u16(0, 1000, 2000),
        RescaleSlope=1,
        RescaleIntercept=-1000,
        VOILUTSequence=[table(64536, 16, 2001, "US", list(range(2001)))],
    )
    assert film.pixels_HW.tolist() == shades([0, 1000, 2000], 0, 2047)


def test_0_entries_are_65536():
    data = np.arange(65536, dtype="<u2")[::-1].tobytes()
    film = read(u16(0, 1, 65535), VOILUTSequence=[table(0, 16, 0, "OW", data)])
    assert film.pixels_HW.tolist() == [[65535, 65534, 0]]


@pytest.mark.parametrize("packed", [True, False], ids=["two to a word", "one to a word"])
@pytest.mark.parametrize("big", [False, True], ids=["little endian", "big endian"])
def test_8_bit_tables(packed, big):
    entries = np.array([0, 50, 100, 255], np.uint8)
    words = entries.view("<u2") if packed else entries.astype("<u2")
    ds = dataset(np.array([[0, 1, 2, 3]], np.uint8))
    ds.VOILUTSequence = [table(0, 8, 4, "OW", words.astype(">u2" if big else "<u2").tobytes())]
    assert read_radiograph(encoded(ds, big=big)).pixels_HW.tolist() == [entries.tolist()]


def encoded(ds: Dataset, *, big: bool) -> bytes:
    buffer = io.BytesIO()
    if big:
        ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        if ds.BitsAllocated == 16:
            ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True, little_endian=not big, implicit_vr=False)
    return buffer.getvalue()


def test_big_endian_tables_are_read_as_such():
    ds = dataset(u16(0, 1, 2))
    ds.VOILUTSequence = [table(0, 16, 3, "OW", np.array([0, 1000, 65535], ">u2").tobytes())]
    assert read_radiograph(encoded(ds, big=True)).pixels_HW.tolist() == [[0, 1000, 65535]]


@pytest.mark.parametrize("vr", ["OW", "US"])
@pytest.mark.parametrize("name", ["VOILUTSequence", "ModalityLUTSequence"])
def test_a_short_table_is_refused_and_never_read_as_bytes(name, vr):
    data = np.array([0, 9, 99], "<u2").tobytes() if vr == "OW" else [0, 9, 99]
    with pytest.raises(RadiographError, match="^DICOM with a look-up table of 3 values where it states 4$"):
        read(u16(0, 1), **{name: [table(0, 16, 4, vr, data)]})


@pytest.mark.parametrize("depth", [10, 12, 16])
def test_only_8_bit_tables_may_be_bytes(depth):
    with pytest.raises(RadiographError, match="look-up table of 2 values where it states 4"):
        read(u16(0, 1), VOILUTSequence=[table(0, depth, 4, "OW", b"\0\1\2\3")])


@pytest.mark.parametrize(
    ("item", "note"),
    [
        (Dataset(), "VOI LUT ignored: it states no table"),
        (table(0, 16, 4, "US", [1, 2, 3]), "VOI LUT ignored: a look-up table of 3 values where it states 4"),
    ],
)
def test_a_bad_table_beside_a_good_window(item, note):
    film = read(u16(0, 2048, 4095), VOILUTSequence=[item], WindowCenter=2048, WindowWidth=4096)
    assert film.pixels_HW.tolist() == read(u16(0, 2048, 4095), WindowCenter=2048, WindowWidth=4096).pixels_HW.tolist()
    assert film.notes == (note, "window 2048/4096 LINEAR")


def test_empty_tables_alone():
    assert read(u16(0, 4095), VOILUTSequence=[Dataset()]).pixels_HW.tolist() == [[0, 65535]]
    assert read(u16(0, 4095), VOILUTSequence=[]).notes == ()
    film = read(u16(0, 4095), ModalityLUTSequence=[Dataset()], RescaleSlope=-1, RescaleIntercept=0)
    assert film.notes == ("modality LUT ignored: it states no table",)
    assert film.pixels_HW.tolist() == [[65535, 0]]


def test_several_voi_luts():
    good = table(0, 16, 2, "US", [0, 65535])
    film = read(u16(0, 1), VOILUTSequence=[good, table(0, 16, 2, "US", [65535, 0])])
    assert film.pixels_HW.tolist() == [[0, 65535]]
    assert film.notes == ("VOI LUT, number 1 of 2",)
    assert read(u16(0, 1), VOILUTSequence=[Dataset(), good]).notes == (
        "VOI LUT ignored: it states no table",
        "VOI LUT, number 2 of 2",
    )


def test_a_modality_lut_comes_before_a_rescale():
    film = read(u16(0, 1, 2), ModalityLUTSequence=[lut(0, [0, 255, 100], 8, "US")], RescaleSlope=-3, RescaleIntercept=9)
    assert film.pixels_HW.tolist() == [[0, 65535, 25700]]
    assert film.notes == ("rescale ignored: there is a modality LUT",)


def test_entries_of_a_modality_lut_that_do_not_occur_take_no_range():
    film = read(u16(0, 1, 2), ModalityLUTSequence=[table(0, 16, 4, "US", [0, 2000, 4095, 65535])])
    assert film.pixels_HW.tolist() == shades([0, 2000, 4095], 0, 4095)


def test_presentation_lut_sequence_takes_the_place_of_the_photometric_interpretation():
    film = read(
        np.array([[0, 128, 255]], np.uint8),
        PresentationLUTSequence=[table(0, 8, 256, "OW", np.arange(256)[::-1].astype("u1").tobytes())],
        PhotometricInterpretation="MONOCHROME1",
    )
    assert film.pixels_HW.tolist() == [[255, 127, 0]]
    assert film.notes == ("presentation LUT",)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("depth", "dtype"), [(8, "u1"), (16, "u2")])
def test_palettes_of_both_depths_and_orders(depth, dtype, big):
    ds = dataset(np.array([[0, 1, 2, 3]], np.uint8), PhotometricInterpretation="PALETTE COLOR")
    entries = np.array([0, 50, 100, 255], dtype) * (257 if depth == 16 else 1)
    words = entries.view("<u2").astype(">u2" if big else "<u2").tobytes()
    for color in ("Red", "Green", "Blue"):
        ds.add_new(f"{color}PaletteColorLookupTableDescriptor", "US", [4, 0, depth])
        ds.add_new(f"{color}PaletteColorLookupTableData", "OW", words)
    assert read_radiograph(encoded(ds, big=big)).to_uint8().tolist() == [[0, 50, 100, 255]]


# --- windows ----------------------------------------------------------------------------------------------------------

WINDOW = {"WindowCenter": 1000, "WindowWidth": 1001}


@pytest.mark.parametrize("place", ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"])
def test_a_window_and_a_rescale_in_the_functional_groups(place):
    group, voi, rescale, spacing = Dataset(), Dataset(), Dataset(), Dataset()
    voi.WindowCenter, voi.WindowWidth = 1000, 1001
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, -100
    spacing.PixelSpacing = [0.2, 0.3]
    group.FrameVOILUTSequence, group.PixelValueTransformationSequence = [voi], [rescale]
    group.PixelMeasuresSequence = [spacing]
    pixels = u16(0, 300, 550, 800, 4095)
    film = read(pixels, **{place: [group]})
    assert film.pixels_HW.tolist() == read(pixels, RescaleSlope=2, RescaleIntercept=-100, **WINDOW).pixels_HW.tolist()
    assert film.notes == ("window 1000/1001 LINEAR",)
    assert film.pixel_spacing_mm == (0.2, 0.3)


def test_the_frame_comes_before_what_is_shared():
    groups = []
    for center in (1000, 3000):
        voi, group = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = center, 1001
        group.FrameVOILUTSequence = [voi]
        groups.append(group)
    film = read(u16(0, 4095), PerFrameFunctionalGroupsSequence=groups[:1], SharedFunctionalGroupsSequence=groups[1:])
    assert film.notes == ("window 1000/1001 LINEAR",)


@pytest.mark.parametrize("empty", [Sequence([]), Sequence([Dataset()])])
def test_empty_functional_groups(empty):
    film = read(u16(0, 4095), SharedFunctionalGroupsSequence=empty, PerFrameFunctionalGroupsSequence=empty, **WINDOW)
    assert film.notes == ("window 1000/1001 LINEAR",)


@pytest.mark.parametrize(
    ("center", "width", "note"),
    [
        (b"Unknown ", b"400 ", "window Unknown/400 ignored: not two numbers"),
        (b"", b"400 ", "window blank/400 ignored: not two numbers"),
        (b"40", b"  ", "window 40/blank ignored: not two numbers"),
        (b"40", b"nan ", "window 40/nan ignored: not two numbers"),
        (b"40", b"-5", "window 40/-5 ignored: its width is impossible"),
    ],
)
def test_windows_that_are_none_are_noted(center, width, note):
    film = read_raw(u16(0, 2048, 4095), ("WindowCenter", "DS", center), ("WindowWidth", "DS", width))
    assert film.pixels_HW.tolist() == shades([0, 2048, 4095], 0, 4095)
    assert film.notes == (note,)


def test_a_decimal_comma_is_a_decimal_point():
    film = read_raw(u16(0, 2048, 4095), ("WindowCenter", "DS", b"1000,5"), ("WindowWidth", "DS", b"1e3 "))
    assert film.notes == ("window 1000.5/1000 LINEAR",)


def test_the_first_possible_window_of_several():
    film = read_raw(u16(0, 4095), ("WindowCenter", "DS", b"x\\1000\\7"), ("WindowWidth", "DS", b"5\\1001"))
    assert film.notes == ("window x/5 ignored: not two numbers", "window 1000/1001 LINEAR")


def test_half_a_window_is_none():
    assert read(u16(0, 4095), WindowCenter=40).notes == ("window 40/blank ignored: not two numbers",)


def test_an_unknown_voi_function_is_linear():
    film = read(u16(0, 1000, 4095), VOILUTFunction="FOO", **WINDOW)
    assert film.pixels_HW.tolist() == read(u16(0, 1000, 4095), **WINDOW).pixels_HW.tolist()
    assert film.notes == (
        "VOI LUT function FOO is none of LINEAR, LINEAR_EXACT, SIGMOID; LINEAR is used",
        "window 1000/1001 LINEAR",
    )
    half = read(u16(0, 4095), VOILUTFunction="FOO", WindowCenter=1, WindowWidth=0.5)
    assert half.notes[-1] == "window 1/0.5 ignored: its width is impossible"


# --- rescale and other numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slope", "intercept", "notes"),
    [
        (b"0 ", b"0 ", ("RescaleSlope ignored: 0",)),
        (b"", b"", ("RescaleSlope ignored: blank", "RescaleIntercept ignored: blank")),
        (b"NaN ", b"0 ", ('RescaleSlope ignored: "NaN"',)),
        (b"1 ", b"inf ", ('RescaleIntercept ignored: "inf"',)),
        (b"1\\2 ", b"0 ", ("RescaleSlope has 2 values; the first, 1, is used",)),
        (b"1e308 ", b"0 ", ("rescale 1e+308 x + 0 ignored: its values are beyond all numbers",)),
        (b"1,0 ", b"0 ", ()),
    ],
)
def test_rescales_that_are_none(slope, intercept, notes):
    film = read_raw(u16(0, 2048, 4095), ("RescaleSlope", "DS", slope), ("RescaleIntercept", "DS", intercept))
    assert film.pixels_HW.tolist() == shades([0, 2048, 4095], 0, 4095)
    assert film.notes == notes


@pytest.mark.parametrize(
    ("value", "expected", "note"),
    [
        (b"0,14\\0,15 ", (0.14, 0.15), None),
        (b" 0.14 \\ 0.15", (0.14, 0.15), None),
        (b"", None, "PixelSpacing ignored: blank; expected two numbers above 0"),
        (b"\\ ", None, "PixelSpacing ignored: blank; expected two numbers above 0"),
        (b"Unknown ", None, 'PixelSpacing ignored: "Unknown"; expected two numbers above 0'),
        (b"0.14", None, 'PixelSpacing ignored: "0.14"; expected two numbers above 0'),
        (b"0.14\\0.14\\1 ", None, 'PixelSpacing ignored: "0.14\\0.14\\1"; expected two numbers above 0'),
        (b"0\\0 ", None, 'PixelSpacing ignored: "0\\0"; expected two numbers above 0'),
        (b"-1\\1", None, 'PixelSpacing ignored: "-1\\1"; expected two numbers above 0'),
        (b"inf\\1 ", None, 'PixelSpacing ignored: "inf\\1"; expected two numbers above 0'),
        (b"1_0\\1 ", None, 'PixelSpacing ignored: "1_0\\1"; expected two numbers above 0'),
    ],
)
def test_spacings(value, expected, note):
    film = read_raw(picture(), ("PixelSpacing", "DS", value))
    assert film.pixel_spacing_mm == expected
    assert film.notes == ((note,) if note else ())
    assert np.array_equal(film.pixels_HW, picture())


def test_spacing_falls_back_to_the_detector_and_the_scanner():
    raw = ("PixelSpacing", "DS", b"Unknown ")
    assert read_raw(picture(), raw, ImagerPixelSpacing=[0.2, 0.3]).pixel_spacing_mm == (0.2, 0.3)
    assert read_raw(picture(), raw, NominalScannedPixelSpacing=[0.4, 0.5]).pixel_spacing_mm == (0.4, 0.5)


@pytest.mark.parametrize(
    ("keyword", "vr", "value", "note"),
    [
        ("NumberOfFrames", "IS", b"1 ", None),
        ("NumberOfFrames", "IS", b"", "NumberOfFrames ignored: blank"),
        ("NumberOfFrames", "IS", b"many", 'NumberOfFrames ignored: "many"'),
        ("NumberOfFrames", "IS", b"0 ", "NumberOfFrames taken as 1"),
        ("Rows", "IS", b"40", None),
        ("Columns", "LO", b"30", None),
        ("BitsStored", "US", b"", "BitsStored ignored: blank"),
        ("SamplesPerPixel", "US", b"", "SamplesPerPixel ignored: blank"),
        ("PixelRepresentation", "US", b"", "PixelRepresentation ignored: blank"),
        ("PhotometricInterpretation", "CS", b"", "PhotometricInterpretation taken as MONOCHROME2"),
        ("Rows", "US", b"\x28\0\x28\0", "Rows has 2 values; the first, 40, is used"),
        ("BitsStored", "US", b"\x08", "BitsStored ignored: blank"),
    ],
)
def test_numbers_that_decoding_rests_on(keyword, vr, value, note):
    film = read_raw(picture(), (keyword, vr, value))
    assert np.array_equal(film.pixels_HW, picture())
    assert note in film.notes if note else film.notes == ()


@pytest.mark.parametrize(("value", "shown"), [(b"", "blank"), (b"some", '"some"')])
def test_without_rows_there_is_no_picture(value, shown):
    with pytest.raises(RadiographError, match=f"^DICOM whose Rows is {shown}; expected a whole number$"):
        read_raw(picture(), ("Rows", "IS", value))
    ds = dataset(picture())
    del ds.Columns
    with pytest.raises(RadiographError, match="^DICOM whose Columns is missing; expected a whole number$"):
        read_radiograph(written(ds))


def test_results_know_the_size_of_a_film_whose_rows_are_text():
    ds = dataset(picture(), StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.4")
    source = read_source(spliced(written(ds), "Rows", "IS", b"40"))
    assert (source.dataset.Rows, source.dataset.Columns) == (40, 30)


@pytest.mark.parametrize("keyword", ["ViewPosition", "BodyPartExamined", "PatientSex", "PresentationLUTShape"])
def test_a_broken_fact_refuses_no_film(keyword):
    film = read_raw(picture(), (keyword, "US", b"\1\2\3"))
    assert np.array_equal(film.pixels_HW, picture())
    assert (film.view_position, film.body_part, film.patient_sex) == (None, None, None)


@pytest.mark.parametrize(
    ("value", "years"),
    [
        (b"057Y", 57),
        (b"57", 57),
        (b"57.0", 57),
        (b"57 Y", 57),
        (b"57y ", 57),
        (b"018M", 1),
        (b"104W", 1),
        (b"400D", 1),
        (b"000Y", 0),
        (b"999Y", None),
        (b"Unknown ", None),
        (b"-5", None),
    ],
)
def test_ages(value, years):
    film = read_raw(picture(), ("PatientAge", "AS", value))
    assert film.patient_age == years
    assert film.notes == (() if years is not None else (f'PatientAge ignored: "{value.decode().strip().upper()}"',))


def test_implicit_files_are_read_alike():
    ds = dataset(i16(-2000, 0, 4095), PixelPaddingValue=-2000, VOILUTSequence=[lut(0, list(range(4096)), 16, "US")])
    ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    assert read_radiograph(written(ds)).pixels_HW.tolist() == [[0, 0, 65535]]


def test_how_a_film_lies_is_recorded():
    assert (
        read(picture(), PatientOrientation=["L", "F"], FieldOfViewHorizontalFlip="NO", FieldOfViewRotation=0).notes
        == ()
    )
    film = read(picture(), PatientOrientation=["R", "F"], FieldOfViewHorizontalFlip="YES", FieldOfViewRotation=180)
    assert np.array_equal(film.pixels_HW, picture())
    assert film.notes == (
        'patient orientation "R\\F", not L\\F; shown as stored',
        "FieldOfViewHorizontalFlip YES; shown as stored",
        'FieldOfViewRotation "180"; shown as stored',
    )
