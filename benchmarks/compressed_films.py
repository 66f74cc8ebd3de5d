"""Compressed DICOM films, whose decoders run in a process of their own, beside the same decoders in this process.

1024 x 1024 films as JPEG 2000, JPEG-LS and RLE, read to a Radiograph one after the other. What the wall costs is the
way of a film's bytes and pixels between two processes. Films that are not compressed DICOM must not pay at all: no
process may have been started for them.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import cv2
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from agcxr.data import codecs, isolation
from agcxr.data.radiograph import read_radiograph
from benchmarks import materials
from benchmarks.materials import Settings
from benchmarks.measure import Fact, Found, Row, alternate

THEME = "compressed"

LIMITS = """
The decoders themselves, called in this process, where a film that crashes one would end everything. The process that
decodes is running before the clock starts; its start, once a run, is given by itself.
"""


def run(settings: Settings) -> Iterator[Found]:
    """A row a transfer syntax, and what plain films start."""
    paths = materials.film_files(settings.folder / "films", settings.pick(8, 2))
    plain = [path.read_bytes() for path in paths]
    for data in plain:
        read_radiograph(data)
    pixels = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE) for data in plain]
    for image in pixels:
        read_radiograph(_dicom(image, ExplicitVRLittleEndian))
    yield Fact(
        "decoding processes started by PNG films and DICOM films that are not compressed",
        str(len(codecs._children.idle)),
    )
    first = _dicom(pixels[0], JPEGLSLossless)
    started = alternate({"first": lambda: _first(first)}, settings.pick(3, 1))["first"].seconds
    yield Fact("the first compressed film, its process's start included, s", f"{np.median(started):.2f}")
    for syntax in (JPEG2000Lossless, JPEGLSLossless, RLELossless):
        films = [_dicom(image, syntax) for image in pixels]
        sides = {"apart": lambda films=films: _read(films), "here": lambda films=films: _read(films, here=True)}
        found = alternate(sides, settings.pick(5, 1))
        title = f"read {len(films)} films, {syntax.name}"
        yield Row(title, "decoded in this process", len(films), found["apart"], found["here"], peer=False, target=0.9)
    yield Fact("films", materials.films_are())


def _read(films: list[bytes], here: bool = False) -> None:
    isolation._isolated = here
    try:
        for film in films:
            read_radiograph(film)
    finally:
        isolation._isolated = False


def _first(film: bytes) -> None:
    codecs._children.stop()
    read_radiograph(film)


def _dicom(pixels_HW: np.ndarray, syntax: pydicom.uid.UID) -> bytes:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds.Rows, ds.Columns = pixels_HW.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = pixels_HW.tobytes()
    ds["PixelData"].VR = "OW"
    if syntax.is_compressed:
        ds.compress(syntax, generate_instance_uid=False)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()
