"""Compressed frames and DICOM files around them, made in code. The two JPEG encoders are the textbook's (ITU-T T.81)
with codes of eight bits for every symbol, so that any precision and any header can be written."""

from __future__ import annotations

import io
import struct
from itertools import pairwise

import cv2
import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

ADOBE_RGB, ADOBE_YCC = (b"Adobe\x00\x64\x00\x00\x00\x00" + bytes([mark]) for mark in (0, 1))
ZIGZAG = sorted(range(64), key=lambda i: (i // 8 + i % 8, i // 8 if (i // 8 + i % 8) % 2 else i % 8))
SYNTAX = {
    "JPEG": JPEGBaseline8Bit,
    "JPEG 12": JPEGExtended12Bit,
    "JPEG lossless": JPEGLosslessSV1,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
    "RLE": RLELossless,
}


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def _huffman(place: int, symbols: list[int]) -> bytes:
    return segment(0xC4, bytes([place, *[0] * 7, len(symbols), *[0] * 8, *symbols]))


def _number(value: int) -> tuple[int, str]:
    """(category, its bits) of a difference or a coefficient."""
    size = abs(value).bit_length()
    if size == 16:
        return 16, ""
    return size, format(value if value >= 0 else value + (1 << size) - 1, f"0{size}b") if size else ""


def _coded(bits: list[str]) -> bytes:
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")


def _header(sof: int, pixels: np.ndarray, bits: int, names: bytes, app: bytes) -> bytes:
    parts = b"".join(bytes([name, 0x11, 0]) for name in names)
    marks = segment(0xEE, app) if app else b""
    return marks + segment(sof, struct.pack(">BHHB", bits, *pixels.shape[:2], len(names)) + parts)


def dct(pixels: np.ndarray, bits: int = 12, *, sof: int = 0xC1, step: int = 1) -> bytes:
    """One component by the cosine transform: baseline (8 bits), extended (8 or 12), progressive (sof 0xC2: the means,
    then the rest)."""
    symbols = [run << 4 | size for run in range(16) for size in range(1, 15)] + [0x00, 0xF0]
    code = {symbol: format(i, "08b") for i, symbol in enumerate(symbols)}
    height, width = pixels.shape
    padded = np.pad(pixels.astype(np.float64), ((0, -height % 8), (0, -width % 8)), mode="edge") - (1 << bits - 1)
    means: list[str] = []
    rests: list[str] = []
    before = 0
    for y in range(0, padded.shape[0], 8):
        for x in range(0, padded.shape[1], 8):
            block = np.rint(cv2.dct(padded[y : y + 8, x : x + 8]) / step).astype(int).ravel()[ZIGZAG].tolist()
            size, tail = _number(block[0] - before)
            means.append(format(size, "08b") + tail)
            before, kept, out = block[0], [0, *(k for k in range(1, 64) if block[k])], []
            for last, k in pairwise(kept):
                run = k - last - 1
                out += [code[0xF0]] * (run // 16)
                size, tail = _number(block[k])
                out += [code[run % 16 << 4 | size], tail]
            if kept[-1] != 63:
                out.append(code[0])
            rests.append("".join(out))
    tables = segment(0xDB, bytes([0]) + bytes([step]) * 64)
    head = tables + _header(sof, pixels, bits, b"\1", b"") + _huffman(0x00, list(range(16))) + _huffman(0x10, symbols)
    if sof == 0xC2:
        scans = [(0, 0, means), (1, 63, rests)]
    else:
        scans = [(0, 63, [mean + rest for mean, rest in zip(means, rests, strict=True)])]
    body = b"".join(segment(0xDA, bytes([1, 1, 0, low, high, 0])) + _coded(coded) for low, high, coded in scans)
    return b"\xff\xd8" + head + body + b"\xff\xd9"


def lossless(pixels: np.ndarray, bits: int, *, names: bytes = b"\1\2\3", app: bytes = b"") -> bytes:
    """One or three components, each predicted from the left (process 14, selection value 1)."""
    values = (pixels[..., None] if pixels.ndim == 2 else pixels).astype(int)
    names = names[: values.shape[2]]
    ahead = np.empty_like(values)
    ahead[:, 1:], ahead[1:, 0], ahead[0, 0] = values[:, :-1], values[:-1, 0], 1 << bits - 1
    steps = (values - ahead + 32768) % 65536 - 32768
    out: list[str] = []
    for value in steps.ravel().tolist():
        size, tail = _number(-value if value == -32768 else value)
        out += [format(size, "08b"), tail]
    scan = segment(0xDA, bytes([len(names), *(byte for name in names for byte in (name, 0)), 1, 0, 0]))
    head = _header(0xC3, pixels, bits, names, app) + _huffman(0x00, list(range(17)))
    return b"\xff\xd8" + head + scan + _coded(out) + b"\xff\xd9"


def film(pixels: np.ndarray, bits: int | None = None, **changes) -> Dataset:
    """A digital radiograph, not compressed."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = (3, "RGB") if pixels.ndim == 3 else (1, "MONOCHROME2")
    if pixels.ndim == 3:
        ds.PlanarConfiguration = 0
    bits = bits or 8 * pixels.dtype.itemsize
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 * pixels.dtype.itemsize, bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    ds["PixelData"].VR = "OW"
    for name, value in changes.items():
        setattr(ds, name, value)
    return ds


def coded(pixels: np.ndarray, kind: str, bits: int | None = None) -> bytes:
    """The frame alone, by the encoder of its kind, without loss. (JPEG: as good as.)"""
    bits = bits or 8 * pixels.dtype.itemsize
    if kind == "JPEG":
        if pixels.ndim == 2:
            return dct(pixels, 8, sof=0xC0)
        return without_marks(cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes())
    if kind == "JPEG 12":
        return dct(pixels, 12)
    if kind == "JPEG lossless":
        return lossless(pixels, bits)
    if kind == "JPEG 2000":
        import openjpeg.utils

        space = {} if pixels.ndim == 2 else {"photometric_interpretation": 1, "use_mct": False}
        return bytes(openjpeg.utils.encode_array(pixels, bits_stored=bits, **space))
    ds = film(pixels, bits)
    ds.compress(SYNTAX[kind], generate_instance_uid=False)
    return get_frame(ds.PixelData, 0, number_of_frames=1)


def without_marks(jpeg: bytes) -> bytes:
    """A JPEG without its first segment (JFIF)."""
    assert jpeg[2:4] == b"\xff\xe0"
    return jpeg[:2] + jpeg[4 + int.from_bytes(jpeg[4:6], "big") :]


def around(frame: bytes, kind: str, ds: Dataset, **changes) -> bytes:
    """The DICOM file of a frame, with the header of `ds` and its changes, whatever they say."""
    for name, value in changes.items():
        setattr(ds, name, value)
    ds.file_meta.TransferSyntaxUID = SYNTAX[kind]
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return plain(ds)


def plain(ds: Dataset) -> bytes:
    """The file of a data set as it is."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()
