from __future__ import annotations

import builtins
import io
import struct
import tracemalloc

import numpy as np
import pydicom
import pytest
from made_films import encode, picture
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
    generate_uid,
)

from agcxr.data.dicomfile import is_lateral, part_fits
from agcxr.data.radiograph import RadiographError, read_radiograph


def dataset(pixels: np.ndarray, **changes) -> Dataset:
    """A digital radiograph of uint8 or uint16/int16 pixels, as plain as it can be."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3, "RGB") if pixels.ndim == 3 else (1, "MONOCHROME2")
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    bits = changes.pop("bits", 8 * pixels.dtype.itemsize)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 * pixels.dtype.itemsize, bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    ds["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for name, value in changes.items():
        setattr(ds, name, value)
    return ds


def written(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def read(pixels: np.ndarray, **changes):
    return read_radiograph(written(dataset(pixels, **changes)))


def deep() -> np.ndarray:
    """12-bit pixels with all of the range."""
    values = picture().astype(np.uint16) * 16
    values[0, 0] = 4095
    return values


@pytest.mark.parametrize("pixels", [picture(), deep(), picture().astype(np.uint16) * 257], ids=["8", "12", "16"])
def test_dicom_equals_png_of_the_same_pixels(pixels):
    film, png = read(pixels), read_radiograph(encode(pixels))
    assert film.format == "dicom"
    assert film.pixels_HW.dtype == png.pixels_HW.dtype
    assert np.array_equal(film.pixels_HW, png.pixels_HW)


def test_12_bits_stored_fill_16():
    film = read(np.array([[0, 2048, 4095]], np.uint16), bits=12)
    assert film.pixels_HW.tolist() == [[0, 32776, 65535]]


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", "IDENTITY", False),
    ],
)
def test_presentation(photometric, shape, inverted):
    changes = {"PhotometricInterpretation": photometric} | ({"PresentationLUTShape": shape} if shape else {})
    film = read(picture(), **changes)
    assert np.array_equal(film.pixels_HW, 255 - picture() if inverted else picture())
    assert bool(film.notes) == inverted


def test_monochrome1_inverts_within_the_bits_that_are_used():
    film = read(np.array([[0, 2048, 4095]], np.uint16), PhotometricInterpretation="MONOCHROME1")
    assert film.pixels_HW.tolist() == [[65535, 32759, 0]]


def test_window_linear_after_rescale():
    # PS3.3 C.11.2.1.2: with center 100 and width 101, modality values 49.5 and less are black, 149.5 and more white.
    film = read(
        np.array([[0, 49, 50, 100, 150, 255]], np.uint8),
        RescaleSlope=2,
        RescaleIntercept=-100,
        WindowCenter=[100, 7],
        WindowWidth=[101, 9],
    )
    # (2v - 100 - 99.5) / 100 + 0.5 for v = 100 is 0.505
    assert film.pixels_HW.tolist() == [[0, 0, 0, 129, 255, 255]]
    assert film.notes == ("window 100/101 LINEAR",)


def test_window_exact_and_sigmoid():
    pixels = np.array([[0, 50, 100, 150, 200]], np.uint8)
    exact = read(pixels, WindowCenter=100, WindowWidth=100, VOILUTFunction="LINEAR_EXACT")
    assert exact.pixels_HW.tolist() == [[0, 0, 128, 255, 255]]
    sigmoid = read(pixels, WindowCenter=100, WindowWidth=100, VOILUTFunction="SIGMOID")
    assert sigmoid.pixels_HW.tolist() == np.rint(255 / (1 + np.exp(-4 * (pixels - 100.0) / 100))).astype(int).tolist()


def test_impossible_window_is_ignored_and_named():
    film = read(picture(), WindowCenter=100, WindowWidth=0)
    assert np.array_equal(film.pixels_HW, picture())
    assert film.notes == ("window 100/0 ignored: its width is impossible",)


def lut(first: int, values: list[int], bits: int, vr: str) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(values), first, bits])
    item.add_new("LUTData", vr, values if vr == "US" else np.array(values, "<u2").tobytes())
    return item


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_voi_lut_comes_before_the_window_and_states_too_many_bits(vr):
    film = read(
        np.array([[0, 10, 11, 12, 13, 200]], np.uint16),
        VOILUTSequence=[lut(10, [0, 1000, 3000, 4095], 16, vr)],
        WindowCenter=5,
        WindowWidth=3,
    )
    expected = [round(value * 65535 / 4095) for value in (0, 0, 1000, 3000, 4095, 4095)]
    assert film.pixels_HW.tolist() == [expected]
    assert film.notes == ("VOI LUT",)


def test_modality_lut():
    film = read(np.array([[0, 1, 2, 9]], np.uint16), ModalityLUTSequence=[lut(0, [0, 255, 100], 8, "US")])
    assert film.pixels_HW.tolist() == [[0, 65535, 25700, 25700]]


def test_signed_pixels_use_their_whole_range():
    film = read(np.array([[-2048, 0, 2047]], np.int16), bits=12)
    assert film.pixels_HW.tolist() == [[0, 32776, 65535]]


def test_colour_and_palette():
    gray = picture()
    assert np.array_equal(read(np.stack([gray] * 3, -1)).pixels_HW, gray)
    palette = dataset(gray, PhotometricInterpretation="PALETTE COLOR")
    for color in ("Red", "Green", "Blue"):
        setattr(palette, f"{color}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(palette, f"{color}PaletteColorLookupTableData", (np.arange(256, dtype="<u2") * 257).tobytes())
    assert np.array_equal(read_radiograph(written(palette)).to_uint8(), gray)


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless, JPEG2000Lossless],
    ids=lambda uid: uid.name,
)
def test_transfer_syntaxes(syntax, bits):
    pixels = picture(64, 48) if bits == 8 else np.tile(deep(), (2, 2))
    ds = dataset(pixels, bits=bits)
    if syntax.is_encapsulated:
        ds.compress(syntax, generate_instance_uid=False)
    else:
        ds.file_meta.TransferSyntaxUID = syntax
    assert np.array_equal(read_radiograph(written(ds)).pixels_HW, read_radiograph(encode(pixels)).pixels_HW)


def test_big_endian():
    ds = dataset(deep(), bits=12)
    ds.PixelData = deep().astype(">u2").tobytes()
    ds.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True, little_endian=False, implicit_vr=False)
    assert np.array_equal(read_radiograph(buffer.getvalue()).pixels_HW, read_radiograph(encode(deep())).pixels_HW)


@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.parametrize("syntax", ["JPEGLosslessProcess14", "JPEGLosslessProcess14_1", "JPEGLSLossless"])
def test_transfer_syntaxes_written_by_gdcm(syntax, bits, tmp_path):
    gdcm = pytest.importorskip("gdcm")
    pixels = picture() if bits == 8 else deep()
    plain, packed = tmp_path / "plain.dcm", tmp_path / "packed.dcm"
    plain.write_bytes(written(dataset(pixels, bits=bits)))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(packed))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    assert pydicom.dcmread(packed).file_meta.TransferSyntaxUID.is_compressed
    assert np.array_equal(read_radiograph(packed).pixels_HW, read_radiograph(encode(pixels)).pixels_HW)


def test_facts_are_read_tolerantly():
    film = read(picture(), ViewPosition="PA", PatientAge="057Y", PatientSex="F", PixelSpacing=[0.14, 0.15])
    assert (film.view_position, film.patient_age, film.patient_sex) == ("PA", 57, "F")
    assert film.pixel_spacing_mm == (0.14, 0.15)
    ages = {"060Y": 60, "000Y": 0, "052W": 0, "411Y": None, "": None}
    assert {text: read(picture(), PatientAge=text).patient_age for text in ages} == ages
    film = read(picture(), PatientAge="018M", ImagerPixelSpacing=[0.2, 0.2])
    assert (film.patient_age, film.view_position, film.patient_sex, film.pixel_spacing_mm) == (
        1,
        None,
        None,
        (0.2, 0.2),
    )


@pytest.mark.parametrize("stated", [{}, {"BodyPartExamined": ""}])
def test_no_body_part(stated):
    assert read(picture(), **stated).body_part is None


def test_body_part_is_read():
    assert read(picture(), BodyPartExamined="KNEE").body_part == "KNEE"
    assert read_radiograph(encode(picture())).body_part is None


@pytest.mark.parametrize(
    ("part", "fits"),
    [
        *((part, "yes") for part in (None, "", "CHEST", "Thorax", "CHEST PA", "TÓRAX", "THORAX AP", "LUNG")),
        *((part, "no") for part in ("KNEE", "SECRETKNEE", "LSPINE", "ABDOMEN", "skull", "FOREARM", "PELVIS")),
        *((part, "unsure") for part in ("RIB", "CHESTABDOMEN", "THORACIC SPINE", "GENOU", "UNKNOWN", "HEART")),
    ],
)
def test_which_body_parts_fit(part, fits):
    assert part_fits(part) == fits


def test_which_views_are_lateral():
    assert all(is_lateral(view) for view in ("LATERAL", "LAT", "ll ", "RL", "LLD", "RLD", "LLO", "RLO"))
    assert not any(is_lateral(view) for view in (None, "", "PA", "AP", "AP SUPINE"))


def test_without_preamble_and_meta():
    buffer = io.BytesIO()
    ds = dataset(picture())
    del ds.file_meta
    ds.save_as(buffer, implicit_vr=True, little_endian=True)
    assert buffer.getvalue()[:2] == b"\x08\x00"
    film = read_radiograph(buffer.getvalue())
    assert np.array_equal(film.pixels_HW, picture())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"NumberOfFrames": 3}, "DICOM of 3 frames; a radiograph is one picture"),
        ({"Rows": 60000, "Columns": 60000}, "60000 x 60000 pixels, more than the"),
        ({"Rows": 0}, "a size of 30 x 0"),
        ({"Rows": 400}, "DICOM that cannot be read"),
        ({"SamplesPerPixel": 5}, "expected 1 or 3 samples"),
    ],
)
def test_bad_dicom_has_a_reason(changes, reason):
    with pytest.raises(RadiographError, match=reason):
        read(picture(), **changes)


def test_no_pixels_and_truncation():
    ds = dataset(picture())
    del ds.PixelData
    with pytest.raises(RadiographError, match=r"DICOM without pixels \(Digital X-Ray Image Storage"):
        read_radiograph(written(ds))
    with pytest.raises(RadiographError, match="DICOM that cannot be read"):
        read_radiograph(written(dataset(picture()))[:-400])


def test_deflated_bomb_is_refused_in_bounded_memory():
    ds = dataset(picture())
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.add_new(0x00091010, "OB", bytes(80 << 20))
    with pytest.raises(RadiographError, match="deflated DICOM that grows beyond"):
        read_radiograph(written(ds), max_pixels=10_000)


@pytest.mark.parametrize(
    "hide",
    [
        pytest.param(lambda data: data, id="nowhere"),
        # (0002,0001) File Meta Information Version of 3,000 bytes, before the transfer syntax.
        pytest.param(
            lambda data: data[:144] + b"\x02\x00\x01\x00OB\0\0" + struct.pack("<I", 3000) + bytes(3000) + data[158:],
            id="behind a long element",
        ),
        pytest.param(lambda data: data[:132] + data[144:], id="without a group length"),
        pytest.param(lambda data: data[132:144] + data[144:], id="without a preamble"),
    ],
)
def test_no_header_hides_a_deflated_bomb(hide):
    ds = dataset(picture())
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.add_new(0x00091010, "OB", bytes(80 << 20))
    data = hide(written(ds))
    tracemalloc.start()
    try:
        with pytest.raises(RadiographError, match="deflated DICOM that grows beyond"):
            read_radiograph(data, max_pixels=10_000)
        assert tracemalloc.get_traced_memory()[1] < 30 << 20
    finally:
        tracemalloc.stop()


def test_deflated_film_behind_a_long_header_is_read():
    ds = dataset(picture())
    ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    ds.file_meta.PrivateInformationCreatorUID, ds.file_meta.PrivateInformation = "1.2.3", bytes(5000)
    assert np.array_equal(read_radiograph(written(ds)).pixels_HW, picture())


def test_missing_extra_names_the_cure(monkeypatch):
    real = builtins.__import__

    def without_pydicom(name, *args, **kwargs):
        if name == "pydicom":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    data = written(dataset(picture()))
    monkeypatch.setattr(builtins, "__import__", without_pydicom)
    with pytest.raises(RadiographError, match=r"uv pip install 'agcxr\[dicom\]'"):
        read_radiograph(data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless])
def test_mutated_dicom_never_raises_anything_else(syntax):
    ds = dataset(deep(), bits=12, WindowCenter=2000, WindowWidth=3000, PatientAge="057Y", PixelSpacing=[0.1, 0.1])
    if syntax.is_encapsulated:
        ds.compress(syntax, generate_instance_uid=False)
    ds.file_meta.TransferSyntaxUID = syntax
    whole = np.frombuffer(written(ds), np.uint8)
    rng = np.random.default_rng(3)
    header, reasons = min(len(whole), 1200), set()
    for _ in range(200):
        data = whole.copy()
        places = rng.integers(128, header, rng.integers(1, 6))
        data[places] = rng.integers(0, 256, len(places))
        cut = rng.integers(200, len(data) + 1) if rng.random() < 0.3 else len(data)
        try:
            film = read_radiograph(data[:cut].tobytes(), max_pixels=10**6)
        except RadiographError as error:
            reasons.add(str(error))
        else:
            assert film.pixels_HW.dtype in (np.uint8, np.uint16)
    assert len(reasons) > 5
    assert all(reasons)
