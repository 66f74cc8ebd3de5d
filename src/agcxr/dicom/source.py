"""The film a result refers to: what may be taken over from its header, on a copy.

Only what is named here is copied, so private attributes, free text about the patient and whatever else a header holds
stay behind. Identifiers are copied to the letter, valid or not: a result must land in its patient and study.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass

import pydicom
from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.valuerep import PersonName, validate_value

from agcxr.data.dicom_header import whole
from agcxr.data.dicomfile import BROKEN, Bounded, is_lateral, part_fits
from agcxr.data.radiograph import MAX_PIXELS, RadiographError

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
FILM_CLASSES: dict[str, str] = {
    "1.2.840.10008.5.1.4.1.1.1": "CR image",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX image, for presentation",
    SECONDARY_CAPTURE: "Secondary Capture image",
}
"""SOP classes that chest films come in. DX "for processing" is not among them: its pixels are not meant to be seen."""

UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
)
"""Must be present in every object, but may be empty."""
OPTIONAL = (
    "IssuerOfPatientID",
    "PatientAge",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "StudyDescription",
    "Modality",
    "Manufacturer",
    "BodyPartExamined",
    "ViewPosition",
    "PatientOrientation",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "BurnedInAnnotation",
)
VERBATIM = ("PatientName", "PatientID", "IssuerOfPatientID", "AccessionNumber", "StudyID")
"""Copied even where the value breaks a rule: an archive matches by them."""


@dataclass(frozen=True, eq=False)
class Source:
    """A film's header, cut down to what results take over, every type-2 attribute present, text in UTF-8."""

    dataset: Dataset
    emptied: tuple[str, ...]
    """Attributes whose values no valid object could hold."""

    @property
    def sop_instance_uid(self) -> str:
        return str(self.dataset.SOPInstanceUID)

    def to_json(self) -> bytes:
        """For another process; it holds what the header says of the patient."""
        fields = {element.keyword: _plain(element.value) for element in self.dataset}
        return json.dumps({"fields": fields, "emptied": self.emptied}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Source:
        """What `to_json` wrote."""
        told, dataset = json.loads(data), Dataset()
        for keyword, value in told["fields"].items():
            _put(dataset, keyword, value)
        return cls(dataset, tuple(told["emptied"]))


def read_source(data: bytes) -> Source:
    """Header of a DICOM file -> Source. Raises RadiographError for a file that results cannot refer to."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values of the header
            return _source(
                pydicom.dcmread(Bounded(data, MAX_PIXELS), stop_before_pixels=True, force=data[128:132] != b"DICM")
            )
    except RadiographError:
        raise
    except (*BROKEN, BytesLengthException, InvalidDicomError) as error:
        raise RadiographError(f"DICOM header that cannot be read ({type(error).__name__})") from error


def why_not_read(source: Source) -> str | None:
    """Why a film is not one for this model, in words; None where it may be one. What a header leaves open passes."""
    header = source.dataset
    if part_fits(str(header.get("BodyPartExamined") or "")) == "no":
        return "not a film of the chest"
    if is_lateral(str(header.get("ViewPosition") or "")):
        return "not a frontal view"
    if str(header.get("Manufacturer") or "").lower() == "agcxr":
        return "a result of agcxr itself"
    if header.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7" and header.get("Modality") not in (
        None,
        "CR",
        "DX",
        "RG",
        "OT",
    ):
        return "a secondary capture of another modality"
    return None


def is_uid(text: str) -> bool:
    """Whether an archive can tell objects by it: digits and dots, at most 64. (Many lack the finer rules.)"""
    return 0 < len(text) <= 64 and set(text) <= set("0123456789.")


def _source(given: Dataset) -> Source:
    kept = Dataset()
    emptied: list[str] = []
    for keyword in UIDS:
        value = str(given.get(keyword) or "")
        if not is_uid(value):
            raise RadiographError(f"DICOM without a usable {keyword}, so that no result can refer to it")
        _put(kept, keyword, value)
    if kept.SOPClassUID not in FILM_CLASSES:
        raise RadiographError(
            f"DICOM results are made for {', '.join(FILM_CLASSES.values())}; this is {kept.SOPClassUID.name}"
        )
    for keyword in (*TYPE_2, *OPTIONAL):
        usable = _usable(given, keyword)
        if usable is None and keyword in given and not given[keyword].is_empty:
            emptied.append(keyword)
        if usable is not None or keyword in TYPE_2:
            _put(kept, keyword, usable)
    for keyword in ("Rows", "Columns"):
        if (size := whole(given, keyword, [])) is None:
            raise RadiographError(f"DICOM without a usable {keyword}")
        _put(kept, keyword, size)
    _put(kept, "SpecificCharacterSet", "ISO_IR 192")
    # A frame of reference without positions in it (some CR and DX state one) locates nothing: results refer to pixels.
    return Source(kept, tuple(emptied))


def _usable(given: Dataset, keyword: str) -> object | None:
    """The value as it may stand in a valid object, text decoded; None where there is none."""
    try:
        value = given[keyword].value
    except (*BROKEN, BytesLengthException):
        return None
    if value is None or value == "":
        return None
    if isinstance(value, PersonName):
        return str(value)
    values = [str(one) for one in value] if isinstance(value, list | tuple | pydicom.multival.MultiValue) else value
    if keyword == "PatientSex" and value not in ("M", "F", "O"):
        return None
    if keyword in VERBATIM:
        return str(value)
    try:
        for one in values if isinstance(values, list) else [str(value)]:
            validate_value(dictionary_VR(keyword), one, config.RAISE)
    except ValueError:
        return None
    return values if isinstance(values, list) else str(value)


def _plain(value: object) -> int | str | list[str] | None:
    if value is None or isinstance(value, int):
        return value
    return [str(one) for one in value] if isinstance(value, list | pydicom.multival.MultiValue) else str(value)


def _put(dataset: Dataset, keyword: str, value: object) -> None:
    """Set without pydicom's own check, which warns by quoting the value."""
    tag = tag_for_keyword(keyword)
    assert tag is not None
    dataset.add(DataElement(tag, dictionary_VR(keyword), value, validation_mode=config.IGNORE))
