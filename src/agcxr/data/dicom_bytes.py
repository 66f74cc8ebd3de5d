"""The bytes of a DICOM file -> its data set with pixels that are whole, or where the file is cut off.

pydicom reads the header; the pixel element is taken here. So nothing behind the pixels matters, a missing end mark
loses no film, and a cut file is told as one.
"""

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

from agcxr.data.decode import JPEG_END, RadiographError

if TYPE_CHECKING:
    from pydicom import Dataset

PIXELS, FLOAT_PIXELS, DOUBLE_PIXELS = 0x7FE00010, 0x7FE00008, 0x7FE00009
ROWS = 0x00280010
ITEM, END = 0xFFFEE000, 0xFFFEE0DD
UNDEFINED = 0xFFFFFFFF
LONG = frozenset({b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN"})
"""Explicit value representations of pixels: their length has four bytes and stands after two more."""


def read_dataset(source: io.BytesIO, broken: tuple[type[Exception], ...], notes: list[str]) -> tuple["Dataset", int]:
    """The data set up to its pixels, and how many bytes of pixels the file states (what is there may be less).

    `broken`: what pydicom raises on damaged files. Encapsulated pixels are checked here, fragment by fragment; others
    by `fit_pixels`, once the header is known to be sound. Raises RadiographError for a cut file and one without pixels.
    """
    import pydicom
    from pydicom.uid import AllTransferSyntaxes

    data = source.getvalue()
    try:
        dataset = pydicom.dcmread(source, stop_before_pixels=True, force=data[128:132] != b"DICM")
    except broken as error:
        is_deflate = isinstance(error, zlib.error)
        is_cut = "truncated stream" in str(error) if is_deflate else source.tell() == len(data)
        if isinstance(error, RadiographError) or not is_cut:
            raise
        raise RadiographError(_cut_header(data)) from error
    buffer: Any = dataset.buffer
    head = buffer.read(8)
    order = "<" if dataset.original_encoding[1] else ">"
    tag = _tag(head, order) if len(head) == 8 else 0
    if tag in (FLOAT_PIXELS, DOUBLE_PIXELS):
        raise RadiographError("DICOM whose pixels are floating point numbers; expected integers of at most 16 bits")
    if tag != PIXELS:
        raise RadiographError(_cut_header(data) if _is_cut(dataset, buffer) else _without_pixels(dataset))
    kind, length = _kind_and_length(head, buffer, order, implicit=bool(dataset.original_encoding[0]))
    value = buffer.read(length)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    is_encapsulated = length == UNDEFINED or (syntax in AllTransferSyntaxes and syntax.is_encapsulated)
    if is_encapsulated:
        value = _whole_fragments(value, notes)
        length = len(value)
    dataset.add_new(PIXELS, kind, value)
    dataset["PixelData"].is_undefined_length = is_encapsulated
    return dataset, length


def fit_pixels(dataset: "Dataset", stated: int, notes: list[str]) -> None:
    """Shorten uncompressed PixelData to the bytes that the header needs. Raises RadiographError where it has fewer."""
    bits = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel) * int(dataset.BitsAllocated)
    needed = -(-bits // 8)
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        needed = needed // 3 * 2
    size = len(dataset.PixelData)
    if size < needed:
        share = f"{size:,} of {needed:,} bytes of its pixels ({100 * size / needed:.0f} %)"
        raise RadiographError(
            f"DICOM that cannot be read: it is cut off, only {share} are there"
            if stated > size
            else f"DICOM that cannot be read: it holds {share}: cut off before, or its header is wrong"
            if size
            else f"DICOM that cannot be read: its PixelData is empty, 0 of {needed:,} bytes"
        )
    if stated > size:
        notes.append("the file is cut off after its pixels")
    even = needed + needed % 2
    if size > even:
        dataset["PixelData"].value = dataset.PixelData[:even]


def _tag(head: bytes, order: str) -> int:
    group, element = struct.unpack_from(f"{order}HH", head)
    return group << 16 | element


def _kind_and_length(head: bytes, buffer: Any, order: str, *, implicit: bool) -> tuple[str, int]:
    if head[4:6] in LONG and (not implicit or head[6:8] == b"\0\0"):
        rest = buffer.read(4)
        return head[4:6].decode(), int(struct.unpack(f"{order}L", rest)[0]) if len(rest) == 4 else 0
    return "OW", int(struct.unpack_from(f"{order}L", head, 4)[0])


def _whole_fragments(value: bytes, notes: list[str]) -> bytes:
    """Encapsulated pixels (PS3.5 A.4) up to their end mark, or to their last fragment where the mark is missing."""
    at, fragments = 0, -1  # the first item is the offset table
    while at + 8 <= len(value):
        tag, (length,) = _tag(value[at : at + 4], "<"), struct.unpack_from("<L", value, at + 4)
        if tag != ITEM:
            break
        if at + 8 + length > len(value):
            rest = value[at + 8 :]
            if fragments < 0 or not rest.rstrip(b"\0").endswith(JPEG_END):
                raise RadiographError(
                    f"DICOM that cannot be read: it is cut off, only {len(rest):,} of {length:,} bytes of a "
                    "compressed fragment of its pixels are there"
                )
            rest += b"\0" * (len(rest) % 2)
            value = value[: at + 4] + struct.pack("<L", len(rest)) + rest
            length = len(rest)
        at, fragments = at + 8 + length, fragments + 1
    if at == 0 or fragments < 1:
        raise RadiographError("DICOM that cannot be read: it is cut off before the first fragment of its pixels")
    if value[at : at + 4] != struct.pack("<HH", END >> 16, END & 0xFFFF):
        notes.append("the mark at the end of its pixels is missing")
    return value[:at]


def _cut_header(data: bytes) -> str:
    return f"DICOM that cannot be read: it is cut off, the file stops after {len(data):,} bytes, inside its header"


def _is_cut(dataset: "Dataset", buffer: Any) -> bool:
    """Whether the file stops within an element. One cut between two elements looks like a whole one."""
    from pydicom.dataelem import RawDataElement

    size = buffer.seek(0, io.SEEK_END)
    elements = [*dataset.file_meta.elements(), *dataset.elements()]
    last = elements[-1] if elements else None
    if not len(dataset) or last is None:
        return True
    if not isinstance(last, RawDataElement) or last.length == UNDEFINED:
        return False
    return bool(last.value_tell + last.length != size)


def _without_pixels(dataset: "Dataset") -> str:
    uid = dataset.get("SOPClassUID")
    name = str(getattr(uid, "name", None) or "of no stated class")
    may_be_cut = "Rows" in dataset or max(dataset.keys()) < ROWS
    return f"DICOM without pixels ({name}){'; a file cut off before them looks the same' if may_be_cut else ''}"
