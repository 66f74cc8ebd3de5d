"""A DICOM file -> gray pixels as they are meant to be seen, and what the file says about the film.

The order is the standard's (PS3.3 C.11, PS3.4 N.2): stored value -> modality LUT or rescale -> VOI LUT or window ->
presentation. All three act on single values, so they are worked out once for the stored values that can occur (a table
of at most 65,536) and the picture is one look-up. Needs the extra `dicom`.
"""

import io
import math
import re
import struct
import unicodedata
import zlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from agcxr.data.decode import Decoded, RadiographError, check_size, fill_16_bits, to_gray

if TYPE_CHECKING:
    from pydicom import Dataset

# What pydicom and its decoders are seen to raise on damaged files: they meet odd values late, in ordinary operations.
BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


LATERAL_VIEWS = frozenset({"LATERAL", "LAT", "LL", "RL", "LLD", "RLD", "LLO", "RLO"})
"""View positions that are not frontal: lateral, lateral decubitus and lateral oblique, left and right."""

CHEST = re.compile("CHEST|THORA|TORA|LUNG")
"""What names a chest within a stated body part, in the languages that share the word (thorax, torax, torace)."""

OTHER = re.compile(
    "SKULL|HEAD|BRAIN|FACE|FACIAL|NOSE|NASAL|ORBIT|SINUS|JAW|MANDIB|MAXILL|TEETH|DENTAL|NECK|SPINE|SACR|COCCYX|BREAST|"
    "ABD|KUB|PELV|HIP|KIDNEY|LIVER|BLADDER|COLON|STOMACH|SHOULDER|SCAPULA|CLAVICLE|HUMER|ELBOW|ARM|RADIUS|ULNA|WRIST|"
    "HAND|FINGER|THUMB|FEMUR|THIGH|KNEE|PATELLA|LEG|TIBIA|FIBULA|ANKLE|FOOT|FEET|HEEL|CALCAN|TOE|EXTREM|LIMB"
)
"""What names another one (the standard's terms of PS3.16 CID 4031, shortened where sites write them differently)."""

PartFits = Literal["yes", "no", "unsure"]


@dataclass(frozen=True)
class Facts:
    """What the header says, read tolerantly: None where it says nothing usable."""

    view_position: str | None = None
    patient_age: int | None = None
    patient_sex: str | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    body_part: str | None = None


def is_lateral(view: str | None) -> bool:
    """Whether a stated view position is none of a frontal film. What is not stated passes."""
    return _folded(view) in LATERAL_VIEWS


def part_fits(part: str | None) -> PartFits:
    """Whether a stated body part is the chest. Sites write it freely ("CHEST PA", "Torax", "LT KNEE"), so words within
    it count; "unsure" where it names both (CHESTABDOMEN) or nothing known (RIB). What is not stated passes."""
    text = _folded(part)
    if not text:
        return "yes"
    chest, other = (bool(words.search(text)) for words in (CHEST, OTHER))
    return "unsure" if chest == other else "yes" if chest else "no"


def _folded(text: str | None) -> str:
    """Upper case without accents."""
    plain = unicodedata.normalize("NFKD", text or "")
    return "".join(one for one in plain if not unicodedata.combining(one)).strip().upper()


def decode_dicom(data: bytes, max_pixels: int) -> tuple[Decoded, Facts]:
    """One-frame DICOM image -> Decoded (bright = dense) and Facts.

    Pixels are uint8 where 8 bits or fewer are stored, else uint16 with the range of the VOI output (or, without one, of
    the stored values) filling 0..65535. Raises RadiographError for everything that cannot be shown.
    """
    try:
        import pydicom
        from pydicom.errors import BytesLengthException, InvalidDicomError
    except ImportError as error:
        raise RadiographError("DICOM files need an extra: uv add 'agcxr[dicom]' (or pip install)") from error
    try:
        dataset = pydicom.dcmread(Bounded(data, max_pixels), force=data[128:132] != b"DICM")
        _state_syntax(dataset)
        stored, notes = _stored_pixels(dataset, max_pixels)
        decoded = _present(dataset, stored)
        decoded = replace(decoded, notes=notes + decoded.notes)
        facts = _facts(dataset)
    except RadiographError:
        raise
    except (*BROKEN, BytesLengthException, InvalidDicomError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RadiographError(f"DICOM that cannot be read: {reason[:300]}") from error
    return decoded, facts


class Bounded(io.BytesIO):
    """A DICOM file for pydicom, which inflates a deflated one whole, after one `read` of all that is left. What
    comes out is counted there first, in bounded memory, whatever the header says."""

    def __init__(self, data: bytes, max_pixels: int) -> None:
        super().__init__(data)
        self._max_pixels = max_pixels

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size is None or size < 0:
            _check_inflated(data, self._max_pixels)
        return data


def _check_inflated(data: bytes, max_pixels: int) -> None:
    limit = 6 * max_pixels + (64 << 20)
    inflater, pending, size = zlib.decompressobj(-zlib.MAX_WBITS), data, 0
    while pending and not inflater.eof:
        size += len(inflater.decompress(pending, 1 << 20))
        pending = inflater.unconsumed_tail
        if size > limit:
            raise RadiographError(f"deflated DICOM that grows beyond {limit:,} bytes (max_pixels = {max_pixels:,})")


def _state_syntax(dataset: "Dataset") -> None:
    """A bare data set (no preamble, no meta header) does not name its encoding; pydicom found out while reading."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in dataset.file_meta:
        is_implicit, is_little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit


def _stored_pixels(dataset: "Dataset", max_pixels: int) -> tuple[NDArray, tuple[str, ...]]:
    """Stored values H x W (integers) or colour H x W x 3, and notes. Stated sizes are checked, then believed."""
    from pydicom.pixels import pixel_array

    if "PixelData" not in dataset:
        raise RadiographError(f"DICOM without pixels ({_class_name(dataset)})")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise RadiographError(f"DICOM of {frames} frames; a radiograph is one picture")
    width, height = int(dataset.Columns), int(dataset.Rows)
    check_size(width, height, max_pixels)
    if int(dataset.BitsAllocated) not in (1, 8, 16) or int(dataset.get("SamplesPerPixel", 1)) not in (1, 3):
        raise RadiographError(
            f"DICOM of {dataset.get('SamplesPerPixel', 1)} x {dataset.BitsAllocated} bits a pixel; "
            "expected 1 or 3 samples of at most 16 bits"
        )
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed and syntax.is_encapsulated:
        from agcxr.data.compressed import compressed_pixels

        return compressed_pixels(dataset, max_pixels)
    pixels = np.asarray(pixel_array(dataset))
    if pixels.shape[:2] != (height, width):
        raise RadiographError(f"DICOM whose pixels are {pixels.shape}, not the {height} x {width} of its header")
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False), ()


def _present(dataset: "Dataset", stored: NDArray) -> Decoded:
    notes: tuple[str, ...] = ()
    if stored.ndim == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
        gray_HW, notes = _color(dataset, stored)
        return Decoded(gray_HW, "dicom", notes)
    if stored.dtype not in (np.uint8, np.int8, np.uint16, np.int16):
        raise RadiographError(f"DICOM of {stored.dtype} pixels; expected integers of at most 16 bits")
    bits = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    modality = _modality(dataset, stored.dtype, bits)
    unit, voi_notes = _voi(dataset, modality, stored)
    shape = str(dataset.get("PresentationLUTShape") or "").upper()
    photometric = str(dataset.PhotometricInterpretation)
    notes += voi_notes
    if shape == "INVERSE" or (photometric == "MONOCHROME1" and shape != "IDENTITY"):
        unit = 1 - unit
        notes += (f"inverted ({photometric}{', presentation LUT shape INVERSE' if shape else ''})",)
    top, dtype = (255, np.uint8) if bits <= 8 else (65535, np.uint16)
    table = np.rint(unit * top).astype(dtype)
    index = stored.view(np.uint8 if stored.dtype.itemsize == 1 else np.uint16)
    return Decoded(np.ascontiguousarray(table[index]), "dicom", notes)


def _color(dataset: "Dataset", stored: NDArray) -> tuple[Any, tuple[str, ...]]:
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        stored = apply_color_lut(stored, dataset)
    if stored.dtype not in (np.uint8, np.uint16):
        raise RadiographError(f"colour DICOM of {stored.dtype}; expected 8 or 16 bits without sign")
    gray_HW, notes = to_gray(stored, order="RGB")
    gray_HW, more = fill_16_bits(gray_HW)
    return gray_HW, notes + more


@dataclass(frozen=True)
class _Values:
    """The value of every possible stored number (indexed by its bits), and the range lo..hi that they can take."""

    table: NDArray[np.float64]
    lo: float
    hi: float


def _modality(dataset: "Dataset", dtype: np.dtype, bits: int) -> _Values:
    """Stored values -> modality values: the sequence's table, else slope and intercept, else unchanged."""
    stored = np.arange(2 ** (8 * dtype.itemsize)).astype(np.uint8 if dtype.itemsize == 1 else np.uint16)
    values = stored.view(dtype).astype(np.float64)
    if dataset.get("ModalityLUTSequence"):
        first, lut = _lut(dataset.ModalityLUTSequence[0], dtype.kind == "i")
        return _Values(lut[np.clip(values - first, 0, len(lut) - 1).astype(int)], 0.0, _bit_range(lut))
    lo, hi = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dtype.kind == "i" else (0, 2**bits - 1)
    slope, intercept = float(dataset.get("RescaleSlope") or 1), float(dataset.get("RescaleIntercept") or 0)
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise RadiographError(f"DICOM with the rescale {slope} x + {intercept}")
    ends = sorted((lo * slope + intercept, hi * slope + intercept))
    return _Values(values * slope + intercept, *ends)


def _voi(dataset: "Dataset", modality: _Values, stored: NDArray) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Modality values -> 0..1: the VOI LUT, else the first window, else the range of the stored values."""
    values = modality.table
    if dataset.get("VOILUTSequence"):
        first, lut = _lut(dataset.VOILUTSequence[0], modality.lo < 0)
        mapped = lut[np.clip(np.rint(values) - first, 0, len(lut) - 1).astype(int)]
        return np.clip(mapped / _bit_range(lut), 0, 1), ("VOI LUT",)
    center, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    kind = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if center is not None and width is not None:
        if width >= 1 or (width > 0 and kind != "LINEAR"):
            return _window(values, center, width, kind), (f"window {center:g}/{width:g} {kind}",)
        ignored: tuple[str, ...] = (f"window {center:g}/{width:g} ignored: its width is impossible",)
    else:
        ignored = ()
    lo, hi = modality.lo, modality.hi
    if stored.dtype == np.uint16 and not dataset.get("ModalityLUTSequence"):
        # Many 12-bit films say 16 bits: without a window the brightest pixel tells how many are used (as in PNGs).
        top = 2 ** max(8, int(stored.max()).bit_length()) - 1
        lo, hi = sorted((float(values[0]), float(values[min(top, 65535)])))
    return np.clip((values - lo) / max(hi - lo, 1e-12), 0, 1), ignored


def _window(values: NDArray[np.float64], center: float, width: float, kind: str) -> NDArray[np.float64]:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3 with the output range 0..1."""
    if kind == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if kind == "LINEAR_EXACT":
        return np.clip((values - center) / width + 0.5, 0, 1)
    if width == 1:
        return (values > center - 0.5).astype(np.float64)
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def _lut(item: "Dataset", signed: bool) -> tuple[int, NDArray[np.float64]]:
    """(first value mapped, table) of a LUT item; data stored as words, bytes or numbers (PS3.3 C.11.1.1)."""
    entries, first, _ = (int(value) for value in item.LUTDescriptor)
    entries = (entries & 0xFFFF) or 65536
    if signed and first > 32767:
        first -= 65536
    raw = item.LUTData
    if isinstance(raw, bytes):
        numbers = np.frombuffer(raw, np.uint8 if len(raw) < 2 * entries else np.dtype("<u2"))
    else:
        numbers = np.atleast_1d(np.asarray(raw, np.int64))
    if len(numbers) < entries:
        raise RadiographError(f"DICOM with a look-up table of {len(numbers)} values where it states {entries}")
    return first, numbers[:entries].astype(np.float64)


def _bit_range(lut: NDArray[np.float64]) -> float:
    """Top of a table's output range: the whole number of bits its largest value needs (files overstate the depth)."""
    return float(2 ** max(8, int(lut.max()).bit_length()) - 1)


def _first(value: Any) -> float | None:
    """First of one or several numbers; None where there is none that is finite."""
    try:
        number = float(value if isinstance(value, str | int | float) else value[0])
    except (TypeError, ValueError, LookupError):
        return None
    return number if math.isfinite(number) else None


def _facts(dataset: "Dataset") -> Facts:
    view, part = (str(dataset.get(name) or "").strip().upper() or None for name in ("ViewPosition", "BodyPartExamined"))
    sex = str(dataset.get("PatientSex") or "").strip().upper()[:1]
    text = str(dataset.get("PatientAge") or "").strip().upper()
    age = None
    if text.rstrip("DWMY").isdecimal():
        # Ages are written in days, weeks, months or years; whole years are kept.
        per_year = {"D": 365.25, "W": 52.18, "M": 12.0}.get(text[-1], 1.0)
        age = int(int(text.rstrip("DWMY")) / per_year)
    spacing = None
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        value = dataset.get(name)
        if spacing is None and value is not None and not isinstance(value, str | float) and len(value) == 2:
            pair = (float(value[0]), float(value[1]))
            spacing = pair if all(math.isfinite(v) and v > 0 for v in pair) else None
    return Facts(view, age, sex if sex in ("M", "F", "O") else None, spacing, part)


def _class_name(dataset: "Dataset") -> str:
    uid = dataset.get("SOPClassUID")
    return str(getattr(uid, "name", None) or "of no stated class")
