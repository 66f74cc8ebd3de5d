"""A DICOM file -> gray pixels as they are meant to be seen, and what the file says about the film.

Bytes -> data set (`dicom_bytes`) -> a sound header (`dicom_header`) -> stored words, decoded here -> gray
(`dicom_values`). Needs the extra `dicom`.
"""

import io
import re
import struct
import unicodedata
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from agcxr.data.decode import Decoded, RadiographError, check_size
from agcxr.data.dicom_bytes import fit_pixels, read_dataset
from agcxr.data.dicom_header import age, mend, mend_samples, number_of, shown, spacing, values_of
from agcxr.data.dicom_values import shown_pixels
from agcxr.extras import needs

if TYPE_CHECKING:
    from pydicom import Dataset
    from pydicom.uid import UID

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
    except ImportError as error:
        raise RadiographError(needs("reading DICOM files", "dicom")) from error
    broken = (*BROKEN, pydicom.errors.BytesLengthException, pydicom.errors.InvalidDicomError)
    try:
        notes: list[str] = []
        dataset, stated_bytes = read_dataset(Bounded(data, max_pixels), broken, notes)
        mend(dataset, notes)
        stored = _stored_pixels(dataset, max_pixels, stated_bytes, notes)
        pixels_HW = shown_pixels(dataset, stored, notes)
        _orientation(dataset, notes)
        facts = _facts(dataset, notes)
    except RadiographError:
        raise
    except broken as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RadiographError(f"DICOM that cannot be read: {reason[:300]}") from error
    return Decoded(pixels_HW, "dicom", tuple(notes)), facts


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


def _stored_pixels(dataset: "Dataset", max_pixels: int, stated_bytes: int, notes: list[str]) -> NDArray:
    """Stored words H x W or H x W x 3 of 8 or 16 bits, every stated size checked before it is believed."""
    frames = int(dataset.NumberOfFrames)
    if frames != 1:
        raise RadiographError(f"DICOM of {frames} frames; a radiograph is one picture")
    width, height = int(dataset.Columns), int(dataset.Rows)
    check_size(width, height, max_pixels)
    if dataset["PixelData"].is_undefined_length:
        return _encapsulated_pixels(dataset, max_pixels, notes)
    pixels = _native_pixels(dataset, stated_bytes, notes)
    if pixels.shape[:2] != (height, width):
        raise RadiographError(f"DICOM whose pixels are {pixels.shape}, not the {height} x {width} of its header")
    return pixels


def _encapsulated_pixels(dataset: "Dataset", max_pixels: int, notes: list[str]) -> NDArray:
    """Pixels in fragments are compressed whatever the transfer syntax says (PS3.5 A.4): the codestream names itself."""
    from pydicom.uid import AllTransferSyntaxes

    from agcxr.data.compressed import compressed_pixels

    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax in AllTransferSyntaxes and not syntax.is_encapsulated:
        notes.append(f"compressed pixels under the transfer syntax {syntax.name}")
    bits, high = dataset.BitsStored, dataset.HighBit
    pixels, stream_notes = compressed_pixels(dataset, max_pixels)
    notes += stream_notes
    if dataset.BitsStored == bits and dataset.HighBit != high:
        notes.append(f"HighBit {high} ignored: the compressed values have {bits} bits")
    return pixels


def _native_pixels(dataset: "Dataset", stated_bytes: int, notes: list[str]) -> NDArray:
    from pydicom.pixels import pixel_array

    samples, allocated, bits = dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored
    if allocated not in (1, 8, 16, 32) or bits > 16 or samples not in (1, 3):
        raise RadiographError(
            f"DICOM of {samples} x {allocated} bits a pixel, {bits} stored; expected 1 or 3 samples of at most 16 bits"
        )
    mend_samples(dataset, stated_bytes, notes)
    fit_pixels(dataset, stated_bytes, notes)
    syntax = _native_syntax(dataset)
    # Which bits of a word count is for `shown_pixels` to say: pydicom takes the lowest, whatever the header says.
    # A view saves a copy, where the words lie in the file as in memory.
    is_view = syntax.is_little_endian and dataset.SamplesPerPixel == 1 and dataset.BitsAllocated > 1
    pixels = np.asarray(pixel_array(dataset, correct_unused_bits=False, view_only=is_view))
    if allocated == 32:
        pixels = (pixels >> dataset.HighBit + 1 - bits).astype(pixels.dtype.kind + "2")
        dataset.BitsAllocated, dataset.HighBit = 16, bits - 1
        notes.append(f"{bits} bits stored in {allocated}")
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _native_syntax(dataset: "Dataset") -> "UID":
    """A bare data set (no preamble, no meta header) does not name its encoding; pydicom found out while reading."""
    from pydicom.uid import AllTransferSyntaxes, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not syntax:
        is_implicit, is_little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
        syntax = dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit
    if syntax not in AllTransferSyntaxes:
        raise RadiographError(f"DICOM of the transfer syntax {syntax}, which is none of the standard's")
    return syntax


def _facts(dataset: "Dataset", notes: list[str]) -> Facts:
    view, part, sex = (
        " ".join(map(str, values_of(dataset, name))).strip().upper()
        for name in ("ViewPosition", "BodyPartExamined", "PatientSex")
    )
    sex = sex[:1] if sex[:1] in ("M", "F", "O") else ""
    return Facts(view or None, age(dataset, notes), sex or None, spacing(dataset, notes), part or None)


def _orientation(dataset: "Dataset", notes: list[str]) -> None:
    """Record how the film lies where that is not the usual way. Nothing is turned: the pixels are as they were sent."""
    directions = [str(value).upper()[:1] for value in values_of(dataset, "PatientOrientation")]
    if any(directions) and directions != ["L", "F"]:
        notes.append(f"patient orientation {shown(directions)}, not L\\F; shown as stored")
    if any(str(value).upper() == "YES" for value in values_of(dataset, "FieldOfViewHorizontalFlip")):
        notes.append("FieldOfViewHorizontalFlip YES; shown as stored")
    if any(map(number_of, rotation := values_of(dataset, "FieldOfViewRotation"))):
        notes.append(f"FieldOfViewRotation {shown(rotation)}; shown as stored")
