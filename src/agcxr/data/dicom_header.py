"""Numbers of a DICOM header as people and machines write them: read tolerantly, and what cannot be read is noted.

pydicom refuses an element whole for one value that is no number ("0,14\\0,14"), so text is taken as it stands in the
file. Functions append to `notes` what a reader should know, in words.
"""

import math
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from agcxr.data.decode import RadiographError
from agcxr.data.patients import age_years

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.tag import BaseTag

TEXT = frozenset({"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"})
"""Value representations that are text; several values are parted by backslashes."""

GRAY = frozenset({"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"})
COLOR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"})
"""Photometric interpretations of one and of three samples a pixel."""

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
FILM_CLASSES: dict[str, str] = {
    "1.2.840.10008.5.1.4.1.1.1": "CR image",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX image, for presentation",
    SECONDARY_CAPTURE: "Secondary Capture image",
}
"""SOP classes that chest films come in. DX "for processing" is not among them: its pixels are not meant to be seen."""

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@cache
def entry(keyword: str) -> "tuple[BaseTag, str]":
    """Tag and value representation of the standard's dictionary."""
    from pydicom.datadict import dictionary_VR, tag_for_keyword
    from pydicom.tag import Tag

    number = tag_for_keyword(keyword)
    assert number is not None, keyword
    return Tag(number), dictionary_VR(number)


def values_of(dataset: "Dataset", keyword: str) -> list[Any]:
    """The values of an element, each text without its padding or a number; [] where the element is absent."""
    from pydicom.dataelem import RawDataElement
    from pydicom.errors import BytesLengthException

    tag, usual_kind = entry(keyword)
    if tag not in dataset:
        return []
    element = dataset.get_item(tag)
    kind = str(element.VR or "UN")
    if kind == "UN":
        kind = usual_kind
    if isinstance(element, RawDataElement) and isinstance(element.value, bytes) and kind in TEXT:
        value: Any = element.value.decode("latin-1").split("\\")
    else:
        try:
            value = dataset[tag].value
        except (BytesLengthException, ValueError, TypeError, NotImplementedError):
            return [""]
    if isinstance(value, str | bytes | int | float) or value is None:
        value = [value]
    return [_plain(item) for item in value] or [""]


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | bytes):
        text = value.decode("latin-1") if isinstance(value, bytes) else value or ""
        return text.strip(" \0\t\r\n")
    return value


def number_of(value: Any) -> float | None:
    """A finite number, or text that is one; a decimal comma is a decimal point. None for everything else."""
    if isinstance(value, str):
        text = value.replace(",", ".") if value.count(",") == 1 and "." not in value else value
        value = float(text) if NUMBER.fullmatch(text) else math.nan
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def number(dataset: "Dataset", keyword: str, notes: list[str]) -> float | None:
    """The first value of an element that should have one; None where it is absent or no number."""
    values = values_of(dataset, keyword)
    if not values:
        return None
    result = number_of(values[0])
    if result is None:
        notes.append(f"{keyword} ignored: {shown(values)}")
    elif len(values) > 1:
        notes.append(f"{keyword} has {len(values)} values; the first, {result:g}, is used")
    return result


def shown(values: list[Any]) -> str:
    """Values that are not what they should be, for a note."""
    texts = (f"{number:g}" if (number := number_of(value)) is not None else str(value) for value in values)
    text = "\\".join(texts)
    return f'"{text[:40]}"' if text.strip("\\ ") else "blank"


def whole(dataset: "Dataset", keyword: str, notes: list[str]) -> int | None:
    """As `number`, for whole numbers."""
    result = number(dataset, keyword, notes)
    if result is not None and not result.is_integer():
        notes.append(f"{keyword} ignored: {result:g} is no whole number")
        return None
    return None if result is None else int(result)


def pair(dataset: "Dataset", keyword: str, notes: list[str]) -> tuple[float, float] | None:
    """Two numbers above 0 (row, column); None where they are absent or not that."""
    values = values_of(dataset, keyword)
    numbers = [number_of(value) for value in values]
    if len(numbers) == 2 and (first := numbers[0]) and (second := numbers[1]) and min(first, second) > 0:
        return first, second
    if values:
        notes.append(f"{keyword} ignored: {shown(values)}; expected two numbers above 0")
    return None


def functional_group(dataset: "Dataset", macro: str, keywords: tuple[str, ...]) -> "Dataset":
    """Where an enhanced image states `keywords`: its frame's functional group, the shared one, else the data set."""
    for place in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for group in items(dataset, place)[:1]:
            for item in items(group, macro)[:1]:
                if any(keyword in item for keyword in keywords):
                    return item
    return dataset


def items(dataset: "Dataset", keyword: str) -> "list[Dataset]":
    """The items of a sequence; [] where it is absent, empty or no sequence."""
    from pydicom.sequence import Sequence

    value = dataset.get(keyword)
    return list(value) if isinstance(value, Sequence) else []


def spacing(dataset: "Dataset", notes: list[str]) -> tuple[float, float] | None:
    """Distance of rows and of columns in mm: in the patient, else at the detector, else of the scanned film."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        place = functional_group(dataset, "PixelMeasuresSequence", (keyword,))
        if (result := pair(place, keyword, notes)) is not None:
            return result
    return None


def age(dataset: "Dataset", notes: list[str]) -> int | None:
    """Whole years. Ages are written in days, weeks, months or years ("018M"), and by hand ("60", "60.0", "60 y")."""
    text = "\\".join(str(value) for value in values_of(dataset, "PatientAge")).upper()
    if not text:
        return None
    years = age_years(text)
    if years is None:
        notes.append(f"PatientAge ignored: {shown([text])}")
        return None
    return int(years)


def mend(dataset: "Dataset", notes: list[str]) -> None:
    """Make the numbers that decoding rests on plain ones, within `dataset`.

    What is missing or impossible gets the only value it can have, and a note. Raises RadiographError where there is
    none: without rows, columns or bits allocated pixels cannot be read.
    """
    for keyword in ("Rows", "Columns", "BitsAllocated"):
        value = whole(dataset, keyword, notes)
        if value is None:
            text = shown(stated) if (stated := values_of(dataset, keyword)) else "missing"
            raise RadiographError(f"DICOM whose {keyword} is {text}; expected a whole number")
        put(dataset, keyword, value)
    frames = whole(dataset, "NumberOfFrames", notes)
    _default(dataset, "NumberOfFrames", frames or None, 1, notes)
    _default(dataset, "SamplesPerPixel", whole(dataset, "SamplesPerPixel", notes), 1, notes)
    _default(dataset, "PixelRepresentation", whole(dataset, "PixelRepresentation", notes), 0, notes)
    if dataset.SamplesPerPixel > 1:
        _default(dataset, "PlanarConfiguration", whole(dataset, "PlanarConfiguration", notes), 0, notes)
    photometric = str((values_of(dataset, "PhotometricInterpretation") or [""])[0]).upper()
    usual = "RGB" if dataset.SamplesPerPixel == 3 else "MONOCHROME2"
    _default(dataset, "PhotometricInterpretation", photometric or None, usual, notes)
    _mend_bits(dataset, notes)


def _mend_bits(dataset: "Dataset", notes: list[str]) -> None:
    """Bits allocated, bits stored and high bit that fit together (PS3.5 8.1.1)."""
    bits = whole(dataset, "BitsStored", notes)
    samples = dataset.Rows * dataset.Columns * dataset.SamplesPerPixel
    if dataset.BitsAllocated == 8 and bits and 8 < bits <= 16 and len(dataset.PixelData) == 2 * samples:
        notes.append(f"BitsAllocated taken as 16: BitsStored is {bits}, and each sample has two bytes")
        put(dataset, "BitsAllocated", 16)
    allocated = dataset.BitsAllocated
    if bits is not None and not 1 <= bits <= allocated:
        notes.append(f"BitsStored {bits} is impossible in {allocated} bits")
        bits = None
    _default(dataset, "BitsStored", bits, allocated, notes)
    bits = int(dataset.BitsStored)
    high = whole(dataset, "HighBit", notes)
    if high is not None and not bits - 1 <= high < allocated:
        notes.append(f"HighBit {high} is impossible with {bits} of {allocated} bits")
        high = None
    _default(dataset, "HighBit", high, bits - 1, notes)


def mend_samples(dataset: "Dataset", pixel_bytes: int, notes: list[str]) -> None:
    """Samples a pixel (1 or 3) of uncompressed pixels and a photometric interpretation that fit together: where they do
    not, the bytes that the file states tell which is right."""
    samples, stated = int(dataset.SamplesPerPixel), str(dataset.PhotometricInterpretation)
    expected = 1 if stated in GRAY else 3 if stated in COLOR else samples
    if samples == expected:
        return
    # Chroma of half the width (YBR_FULL_422) takes one sample's bytes together.
    is_color = pixel_bytes >= 2 * (dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8)
    if is_color == (expected == 3):
        notes.append(f"SamplesPerPixel taken as {expected}: there are as many bytes, and it is {stated}")
        put(dataset, "SamplesPerPixel", expected)
        if expected == 3:
            _default(dataset, "PlanarConfiguration", whole(dataset, "PlanarConfiguration", notes), 0, notes)
        return
    notes.append(f"{samples} samples a pixel under {stated}" if samples > 1 else f"one sample a pixel under {stated}")
    if samples == 1:
        put(dataset, "PhotometricInterpretation", "MONOCHROME2")
    elif stated == "PALETTE COLOR":
        put(dataset, "PhotometricInterpretation", "RGB")


def _default(dataset: "Dataset", keyword: str, value: int | str | None, default: int | str, notes: list[str]) -> None:
    if value is None and (keyword in dataset or keyword != "NumberOfFrames"):
        notes.append(f"{keyword} taken as {default}")
    put(dataset, keyword, default if value is None else value)


def put(dataset: "Dataset", keyword: str, value: object) -> None:
    """Set without pydicom's own check, which raises for what is refused in better words later, and quotes it."""
    from pydicom import config
    from pydicom.dataelem import DataElement

    tag, kind = entry(keyword)
    element = dataset.get_item(tag) if tag in dataset else None
    if not isinstance(element, DataElement) or type(element.value) is not type(value) or element.value != value:
        dataset.add(DataElement(tag, kind, value, validation_mode=config.IGNORE))
