"""Stored pixels of a DICOM image -> gray as it is meant to be seen.

The order is the standard's (PS3.3 C.11, PS3.4 N.2, PS3.5 8.1.1): stored word -> stored value -> modality LUT or rescale
-> VOI LUT or window -> presentation. All act on single values, so they are worked out once for the words that can occur
(a table of at most 65,536) and the picture is one look-up. Functions append to `notes` what was done, in words.
"""

from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from agcxr.data.decode import Pixels, RadiographError, fill_16_bits, to_gray
from agcxr.data.dicom_header import TEXT, entry, functional_group, items, number, number_of, shown, values_of, whole

if TYPE_CHECKING:
    from pydicom import Dataset

Table = NDArray[np.float64]
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def shown_pixels(dataset: "Dataset", stored: NDArray, notes: list[str]) -> Pixels:
    """Stored words H x W (or H x W x 3: colour, and gray written so) of at most 16 bits -> gray H x W, bright = dense.

    uint8 where 8 bits or fewer are stored, else uint16; the range of the VOI output (or, without one, of the stored
    values that occur) fills it. Padding is black. Raises RadiographError for what cannot be shown.
    """
    if stored.dtype not in (np.uint8, np.int8, np.uint16, np.int16):
        raise RadiographError(f"DICOM of {stored.dtype} pixels; expected integers of at most 16 bits")
    words = stored.view(f"u{stored.dtype.itemsize}")
    bits, shift = _bits(dataset, words, notes)
    if stored.ndim == 3:
        color_HW3 = words >> shift & 2**bits - 1 if shift or bits < 8 * words.itemsize else words
        if dataset.PhotometricInterpretation not in ("MONOCHROME1", "MONOCHROME2"):
            return _gray(color_HW3, notes)
        words, gray_notes = to_gray(color_HW3, order="RGB")
        stored, shift = words, 0
        notes += gray_notes
    is_signed = stored.dtype.kind == "i"
    values = _stored_values(8 * words.itemsize, bits, shift, signed=is_signed)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return _palette(dataset, words, values, notes)
    limits = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if is_signed else (0, 2**bits - 1)
    seen = _seen(words) if "PixelPaddingValue" in dataset else None
    is_padding = None if seen is None else _padding(dataset, seen, values, limits, notes)
    modality, has_lut = _modality(dataset, values, limits, notes)
    unit = _voi(dataset, modality, notes)
    if unit is None:
        low, high = int(stored.min()), int(stored.max())
        if shift or has_lut or is_padding is not None or low < limits[0] or high > limits[1]:
            low, high = _ends(_seen(words) if seen is None else seen, modality if has_lut else values, is_padding)
        low, high = _round_range(low, high, bits - is_signed)
        ends = (low, high) if has_lut else sorted(modality[[_word(values, low), _word(values, high)]])
        unit = np.clip((modality - ends[0]) / max(ends[1] - ends[0], 1e-12), 0, 1)
    unit = _presentation(dataset, unit, notes)
    if is_padding is not None:
        unit[is_padding] = 0
    top, dtype = (255, np.uint8) if bits <= 8 else (65535, np.uint16)
    return _pick(np.rint(unit * top).astype(dtype), words)


def _pick(table: NDArray[Any], words: NDArray[Any]) -> Any:
    """table[words]; OpenCV is several times faster with bytes."""
    return cv2.LUT(words, table) if words.itemsize == 1 else np.ascontiguousarray(table[words])


def _bits(dataset: "Dataset", words: NDArray, notes: list[str]) -> tuple[int, int]:
    """How many bits of a word hold its value, and how many lie below them. Overlays of old may fill the others."""
    bits, width = int(dataset.BitsStored), 8 * words.itemsize
    shift = int(dataset.HighBit) + 1 - bits
    if not shift and not dataset.PixelRepresentation and bits < width and words.max() >= 2**bits:
        notes.append(f"bits above the {bits} stored ones ignored")
    if shift:
        notes.append(f"{bits} bits stored in bits {shift} to {shift + bits - 1} of {width}")
    return bits, shift


def _stored_values(width: int, bits: int, shift: int, *, signed: bool) -> NDArray[np.int32]:
    """The value of every possible word."""
    values = np.arange(2**width, dtype=np.int32)
    if bits < width:
        values = values >> shift & 2**bits - 1
    return values - ((values >> bits - 1) << bits) if signed else values


def _word(values: NDArray[np.int32], value: int) -> int:
    """A word that stands for the value."""
    return int(np.flatnonzero(values == np.clip(value, values.min(), values.max()))[0])


def _seen(words: NDArray) -> NDArray[np.bool_]:
    """Which of the possible words occur."""
    size = 2 ** (8 * words.itemsize)
    return cv2.calcHist([words], [0], None, [size], [0, size]).ravel() > 0


def _ends(seen: NDArray[np.bool_], values: NDArray, is_padding: NDArray[np.bool_] | None) -> tuple[int, int]:
    """Lowest and highest of the values that occur, without padding."""
    occurring = values[seen if is_padding is None else seen & ~is_padding]
    return int(occurring.min()), int(occurring.max())


def _round_range(low: int, high: int, bits: int) -> tuple[int, int]:
    """Values from 0 up fill the whole number of bits that the highest needs, since many 12-bit films say 16 (as in
    PNGs); values that go below 0 have no natural black, so the lowest is black and the highest white. At least 8 bits.
    """
    if low < 0:
        return low, max(high, low + 2 ** min(8, bits + 1) - 1)
    return 0, 2 ** max(min(8, bits), high.bit_length()) - 1


def _padding(
    dataset: "Dataset", seen: NDArray[np.bool_], values: NDArray[np.int32], limits: tuple[int, int], notes: list[str]
) -> NDArray[np.bool_] | None:
    """Which words are no part of the film (PS3.3 C.7.5.1.1.2); None where there is no such pixel."""
    value = whole(dataset, "PixelPaddingValue", notes)
    if value is None:
        return None
    limit = whole(dataset, "PixelPaddingRangeLimit", notes)
    first, last = (_within(value, limits), _within(value if limit is None else limit, limits))
    if first is None or last is None:
        # A value that the stored bits cannot hold may still stand in the words as they are.
        is_padding = np.arange(len(values)) == value % len(values)
    else:
        is_padding = (values >= min(first, last)) & (values <= max(first, last))
    text = f"{value if first is None else first}" + ("" if limit is None or last is None else f" to {last}")
    if not (seen & is_padding).any():
        return None
    if not (seen & ~is_padding).any():
        notes.append(f"padding {text} ignored: every pixel has it")
        return None
    notes.append(f"padding {text} -> black")
    return is_padding


def _within(value: int, limits: tuple[int, int]) -> int | None:
    """The value as one between the limits: signed values are written without sign and the other way round."""
    for candidate in (value, value - 2**16, value + 2**16, value - 2**8):
        if limits[0] <= candidate <= limits[1]:
            return candidate
    return None


def _modality(
    dataset: "Dataset", values: NDArray[np.int32], limits: tuple[int, int], notes: list[str]
) -> tuple[Table, bool]:
    """Stored values -> modality values, and whether a table made them: else slope and intercept, else unchanged."""
    place = functional_group(dataset, "PixelValueTransformationSequence", ("RescaleSlope", "RescaleIntercept"))
    rescale = [number(place, name, notes) for name in ("RescaleSlope", "RescaleIntercept")]
    for item in items(dataset, "ModalityLUTSequence")[:1]:
        if (lut := _lut(dataset, item, *limits)) is not None:
            if rescale != [None, None]:
                notes.append("rescale ignored: there is a modality LUT")
            return _looked_up(lut, values), True
        notes.append("modality LUT ignored: it states no table")
    slope, intercept = rescale
    if slope == 0:
        notes.append("RescaleSlope ignored: 0")
    modality = values.astype(np.float64)
    if slope or intercept:
        slope, intercept = slope or 1.0, intercept or 0.0
        if all(np.isfinite(limit * slope + intercept) for limit in limits):
            modality = modality * slope + intercept
        else:
            notes.append(f"rescale {slope:g} x + {intercept:g} ignored: its values are beyond all numbers")
    return modality, False


def _voi(dataset: "Dataset", modality: Table, notes: list[str]) -> Table | None:
    """Modality values -> 0..1: the VOI LUT, else the first possible window; None where there is neither."""
    place = functional_group(dataset, "FrameVOILUTSequence", ("WindowCenter", "WindowWidth", "VOILUTSequence"))
    window_notes: list[str] = []
    window = _window_of(place, window_notes)
    luts = items(place, "VOILUTSequence")
    for number_, item in enumerate(luts, start=1):
        try:
            lut = _lut(dataset, item, float(modality.min()), float(modality.max()))
        except RadiographError as error:
            if window is None and number_ == len(luts):
                raise
            notes.append(f"VOI LUT ignored: {str(error).removeprefix('DICOM with ')}")
            continue
        if lut is not None:
            notes.append("VOI LUT" if len(luts) == 1 else f"VOI LUT, number {number_} of {len(luts)}")
            return np.clip(_looked_up(lut, modality) / _bit_range(lut[1]), 0, 1)
        notes.append("VOI LUT ignored: it states no table")
    notes += window_notes
    if window is None:
        return None
    center, width, kind = window
    notes.append(f"window {center:g}/{width:g} {kind}")
    return _window(modality, center, width, kind)


def _window_of(place: "Dataset", notes: list[str]) -> tuple[float, float, str] | None:
    """(center, width, function) of the first window that is possible."""
    kind = str((values_of(place, "VOILUTFunction") or [""])[0]).upper() or "LINEAR"
    if kind not in FUNCTIONS:
        notes.append(f"VOI LUT function {kind[:20]} is none of {', '.join(FUNCTIONS)}; LINEAR is used")
        kind = "LINEAR"
    centers, widths = values_of(place, "WindowCenter"), values_of(place, "WindowWidth")
    for stated in zip_longest(centers, widths, fillvalue=""):
        center, width = map(number_of, stated)
        if center is None or width is None:
            text = "/".join(shown([value]).strip('"') for value in stated)
            notes.append(f"window {text} ignored: not two numbers")
        elif width >= 1 or (width > 0 and kind != "LINEAR"):
            return center, width, kind
        else:
            notes.append(f"window {center:g}/{width:g} ignored: its width is impossible")
    return None


def _window(values: Table, center: float, width: float, kind: str) -> Table:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3 with the output range 0..1."""
    if kind == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if kind == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _presentation(dataset: "Dataset", unit: Table, notes: list[str]) -> Table:
    """0..1 -> 0..1, bright = dense: by presentation LUT (PS3.3 C.11.6), its shape or the photometric interpretation."""
    for item in items(dataset, "PresentationLUTSequence")[:1]:
        if (lut := _lut(dataset, item, 0, 65535)) is not None:
            notes.append("presentation LUT")
            return np.clip(lut[1][np.rint(unit * (len(lut[1]) - 1)).astype(int)] / _bit_range(lut[1]), 0, 1)
        notes.append("presentation LUT ignored: it states no table")
    shape = "".join(map(str, values_of(dataset, "PresentationLUTShape")[:1])).upper()
    photometric = str(dataset.PhotometricInterpretation)
    if shape == "INVERSE" or (photometric == "MONOCHROME1" and shape != "IDENTITY"):
        notes.append(f"inverted ({photometric}{', presentation LUT shape INVERSE' if shape else ''})")
        return 1 - unit
    return unit


def _lut(dataset: "Dataset", item: "Dataset", lo: float, hi: float, name: str = "LUT") -> tuple[int, Table] | None:
    """(first value mapped, table) of a LUT item for values lo..hi; None for an empty one (PS3.3 C.11.1.1).

    Data are words without sign whatever their VR says. Only tables of 8 bits may be packed two to a word.
    """
    _, little = dataset.original_encoding
    descriptor, words = (_words(item, name + part, little=bool(little)) for part in ("Descriptor", "Data"))
    if len(descriptor) != 3 or not len(words):
        return None
    entries, first, depth = map(int, descriptor)
    entries = entries or 65536
    if depth == 8 and len(words) < entries:
        words = words.view(np.uint8)
    if len(words) < entries:
        raise RadiographError(f"DICOM with a look-up table of {len(words)} values where it states {entries}")
    # The first value has the sign of what is mapped; files get it wrong, so a table beside all values is one of them.
    starts = (first - 65536, first) if lo < 0 and first > 32767 else (first, first - 65536)
    start = next((start for start in starts if start <= hi and start + entries > lo), starts[0])
    return start, words[:entries].astype(np.float64)


def _words(item: "Dataset", keyword: str, *, little: bool) -> NDArray[np.uint16]:
    """An element as little-endian words, from its bytes where they are there; empty where it is absent or is none."""
    tag, _ = entry(keyword)
    element = item.get_item(tag) if tag in item else None
    if element is not None and isinstance(element.value, bytes) and element.VR not in TEXT:
        raw = element.value + b"\0" * (len(element.value) % 2)
        return np.frombuffer(raw, "<u2" if little else ">u2").astype("<u2")
    numbers = [number_of(value) for value in values_of(item, keyword)]
    if None in numbers:
        return np.zeros(0, "<u2")
    return (np.asarray(numbers, np.float64).astype(np.int64) & 0xFFFF).astype("<u2")


def _looked_up(lut: tuple[int, Table], values: NDArray) -> Table:
    """Values before the table get its first entry, values behind it the last."""
    first, table = lut
    return table[np.clip(np.rint(values) - first, 0, len(table) - 1).astype(int)]


def _bit_range(lut: Table) -> float:
    """Top of a table's output range: the whole number of bits its largest value needs (files overstate the depth)."""
    return float(2 ** max(8, int(lut.max()).bit_length()) - 1)


def _palette(dataset: "Dataset", words: NDArray, values: NDArray[np.int32], notes: list[str]) -> Pixels:
    if "RedPaletteColorLookupTableData" not in dataset:
        from pydicom.pixels import apply_color_lut  # segmented tables

        return _gray(apply_color_lut(values[words], dataset), notes)
    names = [f"{color}PaletteColorLookupTable" for color in ("Red", "Green", "Blue")]
    luts = [_lut(dataset, dataset, float(values.min()), float(values.max()), name) for name in names]
    if not all(luts):
        raise RadiographError("DICOM of PALETTE COLOR that states no palette")
    color_N3 = np.stack([_looked_up(lut, values) for lut in luts if lut], axis=1)
    dtype = np.uint8 if color_N3.max() <= 255 else np.uint16
    return _gray(color_N3.astype(dtype)[words], notes)


def _gray(color_HW3: NDArray, notes: list[str]) -> Pixels:
    if color_HW3.dtype not in (np.uint8, np.uint16):
        raise RadiographError(f"colour DICOM of {color_HW3.dtype}; expected 8 or 16 bits without sign")
    gray_HW, gray_notes = to_gray(color_HW3, order="RGB")
    gray_HW, range_notes = fill_16_bits(gray_HW)
    notes += [*gray_notes, *range_notes]
    return gray_HW
