"""Any file -> Radiograph: gray pixels and what is known about the film. And THE one resize rule.

PNG (8 and 16 bits; gray, colour, palette, with or without alpha), JPEG, WebP and DICOM. Shapes: H, W the film; S the
side of the prepared image.
"""

import os
import stat
import unicodedata
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from agcxr.data.decode import (
    PNG_SIGNATURE,
    Decoded,
    Pixels,
    RadiographError,
    check_size,
    decode_jpeg,
    decode_png,
    decode_webp,
    fill_16_bits,
    to_gray,
)

__all__ = [
    "MAX_PIXELS",
    "RESIZE_RULE",
    "SUFFIXES",
    "Radiograph",
    "RadiographError",
    "from_array",
    "is_pixels",
    "read_radiograph",
    "resize",
    "stem",
    "without_suffix",
]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".dcm", ".dicom", ".ima")
"""Extensions of films, left out when files and names are compared (names may hold other dots: DICOM UIDs do)."""

MAX_PIXELS = 100_000_000
"""Default limit on width x height; the largest detectors make films of about 20 million pixels."""

RESIZE_RULE = "opencv INTER_AREA straight to size x size, then to 8 bits; aspect ratio not kept"
"""The one resize rule, as recorded in plan.json and in checkpoints. (The NIH's own 1024 x 1024 were made this way.)"""


@dataclass(frozen=True, eq=False)
class Radiograph:
    """One film.

    pixels_HW: uint8 or uint16, contiguous, bright = dense (bone is white); uint16 spans 0..65535.
    format: "png", "jpeg", "webp", "dicom" or "array". notes: what was done to get here ("inverted (MONOCHROME1)").
    pixel_spacing_mm: (row, column) distance as DICOM states it. Facts a file does not state are None.
    """

    pixels_HW: Pixels
    name: str
    format: str
    notes: tuple[str, ...] = ()
    view_position: str | None = None
    patient_age: int | None = None
    patient_sex: str | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    body_part: str | None = None

    @property
    def height(self) -> int:
        return int(self.pixels_HW.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels_HW.shape[1])

    def to_uint8(self) -> NDArray[np.uint8]:
        """H x W in 8 bits, of the film's own size."""
        return _to_uint8(self.pixels_HW)


def read_radiograph(
    source: str | os.PathLike[str] | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> Radiograph:
    """Read a film from a path or from the bytes of a file. The content decides the format, not the name.

    Raises RadiographError, and nothing else, with the reason in words: missing, empty, truncated, corrupt, too large
    (more than max_pixels, known before decoding), or not a picture at all. A note of the error names the path:
    tracebacks show it; tables and answers, which name the film already, do not.
    """
    try:
        return _read(source, name, max_pixels)
    except RadiographError as error:
        if isinstance(source, str | os.PathLike):
            error.add_note(f"the file: {os.fspath(source)}")
        raise


def _read(source: str | os.PathLike[str] | bytes, name: str | None, max_pixels: int) -> Radiograph:
    if isinstance(source, bytes | bytearray | memoryview):
        data, name = bytes(source), name or "bytes"
    else:
        name = name or Path(source).name
        data = read_file(source, max_pixels)
    if data.startswith(PNG_SIGNATURE):
        return _made(decode_png(data, max_pixels), name)
    if data.startswith(b"\xff\xd8\xff"):
        return _made(decode_jpeg(data, max_pixels), name)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _made(decode_webp(data, max_pixels), name)
    # Bare data sets, without DICOM's mark, begin with an element of group 2 or 8.
    if data[128:132] == b"DICM" or (data[:2] in (b"\x02\x00", b"\x08\x00") and data[3:4] == b"\x00"):
        from agcxr.data.dicomfile import decode_dicom

        decoded, facts = decode_dicom(data, max_pixels)
        return _made(decoded, name, **asdict(facts))
    raise RadiographError(f"not a PNG, JPEG, WebP or DICOM file: {_looks_like(data)}")


def is_pixels(film: object) -> bool:
    """Whether `from_array` takes it: a numpy array, a torch tensor or a PIL image."""
    libraries = {kind.__module__.split(".")[0] for kind in type(film).__mro__}
    return isinstance(film, np.ndarray) or not libraries.isdisjoint(("torch", "PIL"))


def from_array(array: Any, name: str = "array") -> Radiograph:
    """Pixels -> Radiograph, gray of 8 or 16 bits (floats keep 16). They must be bright = dense.

    Args:
        array: H x W (or H x W x 1, 3 RGB, 4 RGBA) of uint8, uint16 or float in [0, 1]; uint16 that uses fewer bits is
            spread over 16. A torch tensor of these, on any device; it may have its channels first (C x H x W). Or a
            PIL image of any mode, turned as its EXIF part says; of mode I its values in 0..65535, of mode F in [0, 1].

    Raises RadiographError for anything else.
    """
    array = _plain_array(array)
    if array.ndim not in (2, 3):
        raise RadiographError(f"an array of shape {array.shape}; expected one film: H x W, or H x W x 3 (RGB)")
    check_size(array.shape[1], array.shape[0], MAX_PIXELS)
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise RadiographError(f"a float array from {low:g} to {high:g}; expected 0 to 1 (or give uint8 or uint16)")
        gray_HW, notes = to_gray(np.rint(array * 65535).astype(np.uint16), order="RGB")
    elif array.dtype in (np.uint8, np.uint16):
        gray_HW, notes = to_gray(array, order="RGB")
        gray_HW, more = fill_16_bits(gray_HW)
        notes += more
    else:
        raise RadiographError(f"an array of {array.dtype}; expected uint8, uint16 or float in [0, 1]")
    return Radiograph(gray_HW, name, "array", notes)


def _plain_array(pixels: Any) -> NDArray[Any]:
    """As numpy has it, channels last."""
    if hasattr(pixels, "getbands"):
        return _of_image(pixels)
    if not hasattr(pixels, "detach"):
        return np.asarray(pixels)
    tensor = pixels.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.float()  # numpy has no bfloat16
    array: NDArray[Any] = tensor.numpy()
    first = array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4)
    return np.moveaxis(array, 0, -1) if first else array


def _of_image(image: Any) -> NDArray[Any]:
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("L", "RGB", "RGBA", "F") or upright.mode.startswith("I;16"):
        array = np.asarray(upright)
        return array.astype(np.uint16) if upright.mode.startswith("I;16") else array
    if upright.mode != "I":
        return np.asarray(upright.convert("RGBA" if upright.has_transparency_data else "RGB"))
    array = np.asarray(upright)
    if array.min() < 0 or array.max() > 65535:
        raise RadiographError(f"an image of mode I from {array.min()} to {array.max()}; expected values in 0..65535")
    return array.astype(np.uint16)


def resize(pixels_HW: Pixels, size: int) -> NDArray[np.uint8]:
    """H x W (uint8 or uint16) -> S x S uint8 by RESIZE_RULE; a film that is S x S already is not resampled."""
    if pixels_HW.shape == (size, size):
        return _to_uint8(pixels_HW)
    return _to_uint8(cv2.resize(pixels_HW, (size, size), interpolation=cv2.INTER_AREA))


def stem(name: str) -> str:
    """ "images/00000013_005.png" -> "00000013_005"; only the extensions of films are cut off."""
    return without_suffix(name).rsplit("/", 1)[-1]


def without_suffix(name: str) -> str:
    """ "images\\00000013_005.png" -> "images/00000013_005". Accented letters are composed: macOS stores them apart."""
    name = unicodedata.normalize("NFC", name).replace("\\", "/")
    head, dot, tail = name.rpartition(".")
    return head if dot and f".{tail.lower()}" in SUFFIXES else name


def _to_uint8(pixels_HW: NDArray[Any]) -> NDArray[np.uint8]:
    if pixels_HW.dtype == np.uint8:
        return np.ascontiguousarray(pixels_HW, np.uint8)
    return np.asarray(_eight_bits()[pixels_HW])


@cache
def _eight_bits() -> NDArray[np.uint8]:
    """Of each level of 16 bits, rounded to the nearest. Looked up in half the time that it takes to compute."""
    return ((np.arange(65536, dtype=np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _made(decoded: Decoded, name: str, **facts: Any) -> Radiograph:
    return Radiograph(decoded.pixels_HW, name, decoded.format, decoded.notes, **facts)


def read_file(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> bytes:
    """The bytes of a film's file. Raises RadiographError where it is none, or larger than any film."""
    max_bytes = 8 * max_pixels + (64 << 20)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise RadiographError("a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file")
        if status.st_size > max_bytes:
            raise RadiographError(f"a file of {status.st_size:,} bytes; no radiograph needs more than {max_bytes:,}")
        with open(path, "rb") as file:
            return file.read(max_bytes)
    except FileNotFoundError as error:
        raise RadiographError("no such file") from error
    except (OSError, ValueError) as error:
        if isinstance(error, RadiographError):
            raise
        raise RadiographError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _looks_like(data: bytes) -> str:
    if not data:
        return "the file is empty"
    known = {b"\x1f\x8b": "gzip data", b"PK": "a zip archive", b"GIF8": "a GIF", b"BM": "a BMP", b"%PDF": "a PDF"}
    known |= {b"II*\x00": "a TIFF", b"MM\x00*": "a TIFF", b"<": "HTML or XML text (a failed download?)"}
    for start, what in known.items():
        if data.startswith(start):
            return f"it looks like {what}"
    head = data[:512]
    if not any(head):
        return "it holds only zeros (an unfinished download or copy?)"
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head):
        return "it looks like text"
    return f"it starts with {head[:8].hex(' ')}"
