"""Pixels of a compressed DICOM file. Header and codestream are compared before any decoder runs.

Where they differ, the codestream controls how it is decompressed (PS3.5 8.2): components, their layout, bits and colour
are read as the encoder wrote them, and a note says so. Where nothing says which is right (two sizes), the film is
refused with both named.
"""

from __future__ import annotations

import struct
from itertools import islice
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from agcxr.data.codecs import decode_isolated
from agcxr.data.codestream import Codestream, read_codestream
from agcxr.data.decode import NO_END_MARK, RadiographError, check_size
from agcxr.data.dicom_header import GRAY

if TYPE_CHECKING:
    from pydicom import Dataset

OVERLAYS = range(0x6000, 0x6020)


def compressed_pixels(dataset: Dataset, max_pixels: int) -> tuple[NDArray, tuple[str, ...]]:
    """Stored values H x W, or H x W x 3 as RGB, and notes of what differed.

    The data set is sound (`dicom_header.mend`); its attributes of the pixels are made to say what these hold. Raises
    RadiographError.
    """
    frame = _frame(dataset.PixelData)
    try:
        stream = read_codestream(frame)
    except RadiographError as error:
        syntax = dataset.file_meta.get("TransferSyntaxUID")
        raise RadiographError(f"{error} (transfer syntax {syntax.name if syntax else 'not stated'})") from None
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if stream.kind != "RLE":
        check_size(stream.width, stream.height, max_pixels)
        if (stream.width, stream.height) != (columns, rows):
            raise RadiographError(
                f"its {stream.kind} codestream is {stream.width} x {stream.height} pixels where its header states "
                f"{columns} x {rows} (width x height): they cannot both be right"
            )
    if stream.components not in (1, 3):
        raise RadiographError(f"its {stream.kind} codestream has {stream.components} components; expected 1 or 3")
    if stream.bits > 16:
        raise RadiographError(f"its {stream.kind} codestream has {stream.bits} bits a sample; expected at most 16")
    pixels, notes = _true_bits(dataset, stream, decode_isolated(frame, stream, rows, columns))
    pixels, more = _true_color(dataset, stream, pixels)
    return pixels, notes + more + (() if stream.unended_at is None else (NO_END_MARK,))


def _frame(pixel_data: bytes) -> bytes:
    """The one frame: all fragments behind the offset table, whatever that states."""
    from pydicom.encaps import generate_fragments

    try:
        return b"".join(islice(generate_fragments(pixel_data), 1, None))
    except (ValueError, struct.error) as error:
        raise RadiographError("its compressed pixels do not stand in fragments as they must (PS3.5 A.4)") from error


def _true_bits(dataset: Dataset, stream: Codestream, pixels: NDArray) -> tuple[NDArray, tuple[str, ...]]:
    """Samples -> stored values of the bits and the sign that they have.

    A precision of whole bytes is how some encoders write any depth, so there the header's BitsStored holds as far as
    the pixels keep to it. Signs: JPEG has none, and JPEG 2000's are often wrong; PixelRepresentation tells.
    """
    allocated, precision = 8 * pixels.dtype.itemsize, stream.bits
    stated, high = int(dataset.BitsStored), int(dataset.HighBit)
    is_signed = stream.components == 1 and dataset.PixelRepresentation == 1
    pixels = pixels.view(f"u{pixels.dtype.itemsize}")
    pixels = pixels if precision == allocated else pixels & np.array(2**precision - 1, pixels.dtype)
    keeps = precision == allocated and stated <= precision
    if keeps and high == stated - 1 and not _has_overlays(dataset):
        keeps = _fits(pixels, stated, is_signed)
    bits = stated if keeps or stated == precision else precision
    if bits != stated or high >= precision:
        high = bits - 1
    if high == bits - 1 and bits < allocated:
        unused = allocated - bits
        pixels = (pixels << unused).view(f"i{pixels.dtype.itemsize}" if is_signed else pixels.dtype) >> unused
    elif is_signed:
        pixels = pixels.view(f"i{pixels.dtype.itemsize}")
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, bits, high
    dataset.PixelRepresentation = int(is_signed)
    notes: tuple[str, ...] = ()
    if bits != stated:
        notes += (f"{bits} bits of the {stream.kind} codestream, not the {stated} of the header",)
    if stream.is_signed is not None and stream.is_signed != is_signed and stream.components == 1:
        notes += (f"samples {'with' if is_signed else 'without'} a sign as in the header, not as in the codestream",)
    return pixels, notes


def _fits(pixels: NDArray, bits: int, is_signed: bool) -> bool:
    """Whether values written in whole bytes need no more than `bits`, with or without their sign spread over all."""
    if int(pixels.max()) < 2**bits:
        return True
    values = pixels.view(f"i{pixels.dtype.itemsize}")
    return is_signed and int(values.min()) >= -(2 ** (bits - 1)) and int(values.max()) < 2 ** (bits - 1)


def _has_overlays(dataset: Dataset) -> bool:
    """Overlays may stand in the unused bits of old films."""
    return any(tag >> 16 in OVERLAYS for tag in dataset.keys())  # noqa: SIM118  (elements would be read)


def _true_color(dataset: Dataset, stream: Codestream, pixels: NDArray) -> tuple[NDArray, tuple[str, ...]]:
    """One component is gray, three are RGB or YCbCr: what the codestream says of itself, else what the header says."""
    stated = str(dataset.PhotometricInterpretation)
    is_gray_stated = stated in GRAY
    samples = int(dataset.get("SamplesPerPixel") or 1)
    notes: tuple[str, ...] = ()
    dataset.SamplesPerPixel = stream.components
    if stream.components == 1:
        if samples != 1 or not is_gray_stated:
            notes = (f"one component in the {stream.kind} codestream, not {samples} ({stated}) as in the header",)
        if not is_gray_stated:
            dataset.PhotometricInterpretation = "MONOCHROME2"
        return pixels, notes
    color = stream.color
    if color is None:
        # JPEG files without any mark are YCbCr by their own convention; the other formats transform nothing.
        color = "YBR" if stated.startswith("YBR_") and not stated.startswith(("YBR_ICT", "YBR_RCT")) else "RGB"
        if is_gray_stated and stream.kind == "JPEG":
            color = "YBR"
    name = "YCbCr" if color == "YBR" else "RGB"
    undone = stream.color == "RGB" and stated in ("YBR_ICT", "YBR_RCT")  # the transformation that the decoder undoes
    if is_gray_stated or samples != 3:
        notes = (
            f"three components ({name}) in the {stream.kind} codestream, not {samples} ({stated}) as in the header",
        )
    elif color != stated[:3] and not undone:
        notes = (f"{name}, not {stated} as in the header: {stream.evidence or 'not transformed'}",)
    if color == "YBR":
        pixels = _rgb(pixels, int(dataset.BitsStored))
    if stated not in ("MONOCHROME1", "MONOCHROME2"):
        dataset.PhotometricInterpretation = "RGB"
    return pixels, notes


def _rgb(pixels_HW3: NDArray, bits: int) -> NDArray:
    """YCbCr of the full range (ITU-R BT.601, as JPEG writes it) -> RGB of the same depth."""
    unused = 8 * pixels_HW3.dtype.itemsize - bits
    order = np.ascontiguousarray(pixels_HW3[..., [0, 2, 1]] << unused)
    return np.right_shift(cv2.cvtColor(order, cv2.COLOR_YCrCb2RGB), unused)
