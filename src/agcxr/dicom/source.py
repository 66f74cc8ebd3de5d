"""The film a result refers to: what may be taken over from its header, on a copy.

Only what is named here is copied, so private attributes, free text about the patient and whatever else a header holds
stay behind. Identifiers are copied to the letter, valid or not: a result must land in its patient and study.
"""

from __future__ import annotations

import datetime
import json
import re
import warnings
from dataclasses import dataclass
from typing import Any

import pydicom
from pydicom import config
from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.valuerep import PersonName, validate_value

from agcxr.data.dicom_header import FILM_CLASSES, SECONDARY_CAPTURE, number_of, put, values_of, whole
from agcxr.data.dicomfile import BROKEN, Bounded, is_lateral, part_fits
from agcxr.data.patients import age_years
from agcxr.data.radiograph import MAX_PIXELS, RadiographError

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
    "TimezoneOffsetFromUTC",
)
DISPLAY = (
    "PhotometricInterpretation",
    "RescaleIntercept",
    "RescaleSlope",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "PixelSpacing",
    "ImagerPixelSpacing",
)
"""How the film is to be shown: for results that say it anew."""
CODE = ("CodeValue", "CodingSchemeDesignator", "CodingSchemeVersion", "CodeMeaning")
ISSUER = ("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType")
SEQUENCES: dict[str, tuple[str, ...]] = {
    "IssuerOfAccessionNumberSequence": ISSUER,
    "IssuerOfPatientIDQualifiersSequence": ISSUER[1:],
    "RequestedProcedureCodeSequence": CODE,
    "ScheduledProtocolCodeSequence": CODE,
    "RequestAttributesSequence": (
        "StudyInstanceUID",
        "AccessionNumber",
        "IssuerOfAccessionNumberSequence",
        "RequestedProcedureID",
        "RequestedProcedureDescription",
        "RequestedProcedureCodeSequence",
        "ScheduledProcedureStepID",
        "ScheduledProcedureStepDescription",
        "ScheduledProtocolCodeSequence",
    ),
}
"""What is taken over from the items of a sequence: who issued a number, and which request the film answers."""
ITEMS = 16
"""Of a sequence, at most; requests have one or two."""
DATE = re.compile(r"(\d{4})([./-]?)(\d{2})\2(\d{2})", re.ASCII)
ZONE = re.compile(r"(?!-0000)(?:-(?:0[0-9]|1[01])[0-5][0-9]|-1200|\+(?:0[0-9]|1[0-3])[0-5][0-9]|\+1400)", re.ASCII)
"""From -1200 to +1400; UTC itself is +0000 (PS3.3 C.12.1.1.8)."""
TIME = re.compile(r"(\d{2})(?::?(\d{2})(?::?(\d{2})(\.\d+)?)?)?", re.ASCII)

OF_THE_FILM = (
    "IssuerOfPatientIDQualifiersSequence",
    "PatientAge",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "StudyDescription",
    "IssuerOfAccessionNumberSequence",
    "TimezoneOffsetFromUTC",
)
"""Of patient and study, in every result where the film has it."""

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
        told = json.loads(data)
        return cls(_read(told["fields"]), tuple(told["emptied"]))


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


def read_header(file: bytes) -> tuple[bytes, str | None]:
    """What results take over, as JSON, and why there are none of this film. Raises RadiographError as `read_source`."""
    source = read_source(file)
    return source.to_json(), why_not_read(source)


def why_not_read(source: Source) -> str | None:
    """Why a film is not one for this model, in words; None where it may be one. What a header leaves open passes."""
    header = source.dataset
    if part_fits(str(header.get("BodyPartExamined") or "")) == "no":
        return "not a film of the chest"
    if is_lateral(str(header.get("ViewPosition") or "")):
        return "not a frontal view"
    if str(header.get("Manufacturer") or "").lower() == "agcxr":
        return "a result of agcxr itself"
    if header.SOPClassUID == SECONDARY_CAPTURE and header.get("Modality") not in (None, "CR", "DX", "RG", "OT"):
        return "a secondary capture of another modality"
    return None


def is_uid(text: str) -> bool:
    """Whether an archive can tell objects by it: digits and dots, at most 64. (Many lack the finer rules.)"""
    return 0 < len(text) <= 64 and set(text) <= set("0123456789.")


def _source(given: Dataset) -> Source:
    kept = Dataset()
    emptied: list[str] = []
    for keyword in UIDS:
        texts = _texts(given, keyword)
        if len(texts) != 1 or not is_uid(texts[0]):
            raise RadiographError(f"DICOM without a usable {keyword}, so that no result can refer to it")
        put(kept, keyword, texts[0])
    if kept.SOPClassUID not in FILM_CLASSES:
        raise RadiographError(
            f"DICOM results are made for {', '.join(FILM_CLASSES.values())}; this is {kept.SOPClassUID.name}"
        )
    for keyword in (*TYPE_2, *OPTIONAL):
        usable = _taken(given, keyword, emptied)
        if usable is not None or keyword in TYPE_2:
            put(kept, keyword, usable)
    for keyword in (
        "IssuerOfAccessionNumberSequence",
        "IssuerOfPatientIDQualifiersSequence",
        "RequestAttributesSequence",
    ):
        if items := _items(given, keyword, emptied):
            put(kept, keyword, items)
    for keyword in DISPLAY:
        if (usable := _taken(given, keyword, [])) is not None:
            put(kept, keyword, usable)
    for keyword in ("Rows", "Columns"):
        if (size := whole(given, keyword, [])) is None:
            raise RadiographError(f"DICOM without a usable {keyword}")
        put(kept, keyword, size)
    put(kept, "SpecificCharacterSet", "ISO_IR 192")
    # A frame of reference without positions in it (some CR and DX state one) locates nothing: results refer to pixels.
    return Source(kept, tuple(emptied))


def _items(given: Dataset, keyword: str, emptied: list[str]) -> list[Dataset]:
    """The items of a sequence, cut down to SEQUENCES; without those that hold nothing or half of a code."""
    try:
        value = given[keyword].value if keyword in given else []
    except (*BROKEN, BytesLengthException):
        value = None
    if not isinstance(value, pydicom.Sequence | list):
        emptied.append(keyword)
        return []
    return [kept for item in value[:ITEMS] if len(kept := _item(item, SEQUENCES[keyword], emptied))]


def _item(given: Dataset, keywords: tuple[str, ...], emptied: list[str]) -> Dataset:
    kept = Dataset()
    for keyword in keywords:
        if keyword in SEQUENCES:
            if items := _items(given, keyword, emptied):
                put(kept, keyword, items)
        elif (usable := _taken(given, keyword, emptied)) is not None:
            put(kept, keyword, usable)
    together = {"UniversalEntityID", "UniversalEntityIDType"}, {*CODE} - {"CodingSchemeVersion"}
    for needed in together:  # the standard has all of them or none
        if needed <= set(keywords) and not all(keyword in kept for keyword in needed):
            for keyword in needed:
                kept.pop(keyword, None)
    return Dataset() if list(kept.keys()) == [tag_for_keyword("CodingSchemeVersion")] else kept


def _taken(given: Dataset, keyword: str, emptied: list[str]) -> str | list[str] | None:
    """The values of an element as they may stand in a valid object; None where there are none, or none that can."""
    texts = _texts(given, keyword)
    if not any(texts):
        return None
    usable = _usable(keyword, texts)
    if usable is None:
        emptied.append(keyword)
    return usable


def _texts(given: Dataset, keyword: str) -> list[str]:
    """The values of an element as text without padding, by its character set, else as the bytes stand; [] where it is
    absent."""
    if keyword not in given:
        return []
    try:
        value = given[keyword].value
    except (*BROKEN, BytesLengthException):
        value = values_of(given, keyword)
    values = list(value) if isinstance(value, list | tuple | pydicom.multival.MultiValue) else [value]
    if not all(isinstance(one, str | int | float | PersonName | None) for one in values):
        return [type(value).__name__]  # a sequence or bytes, where text belongs: no value, but no absent one either
    return ["" if one is None else str(one).strip(" \0\t\r\n") for one in values]


def _usable(keyword: str, texts: list[str]) -> str | list[str] | None:
    """The values as they may stand in a valid object; None where none can."""
    if keyword in VERBATIM:
        return "\\".join(texts)
    count = dictionary_VM(keyword)
    if count.isdecimal() and len(texts) != int(count):
        return None
    kind = {"PatientSex": "CODE", "TimezoneOffsetFromUTC": "ZONE"}.get(keyword) or dictionary_VR(keyword)
    values = [_mended(kind, text) for text in texts]
    usable = [value for value in values if value is not None]
    if len(usable) < len(values):
        return None
    return usable if len(usable) > 1 else usable[0]


def _mended(kind: str, text: str) -> str | None:
    """One value as its value representation has it (PS3.5 6.2), where it can only mean one thing; else None."""
    if kind == "DA":
        return _date(text)
    if kind == "TM":
        return _time(text)
    if kind == "AS":
        return _age(text)
    if kind == "CODE":
        return text.upper() if text.upper() in ("M", "F", "O") else None
    if kind == "ZONE":
        return text if ZONE.fullmatch(text) else None
    if kind == "CS":
        text = text.upper()
    if kind == "DS" and (size := number_of(text)) is not None:
        text = text if len(text) <= 16 and "," not in text else f"{size:.10g}"
    try:
        validate_value(kind, text, config.RAISE)
    except (ValueError, TypeError):
        return None
    return text


def _date(text: str) -> str | None:
    """YYYYMMDD of a day that was; also as ISO 8601 and ACR-NEMA write it. A range is no day."""
    match = DATE.fullmatch(text)
    try:
        return (
            f"{datetime.date(int(match[1]), int(match[3]), int(match[4])):%Y%m%d}"
            if match and match[1] > "1000"
            else None
        )
    except ValueError:
        return None


def _time(text: str) -> str | None:
    """HHMMSS.FFFFFF or less of it; also with colons, as ACR-NEMA and ISO 8601 write it."""
    match = TIME.fullmatch(text)
    if not match or int(match[1]) > 23 or int(match[2] or 0) > 59 or int(match[3] or 0) > 60:
        return None
    return "".join(part or "" for part in match.groups()[:3]) + (match[4] or "")[:7]


def _age(text: str) -> str | None:
    """Three digits and a unit as they stand; an age that people wrote otherwise, in years."""
    years = age_years(text)
    if years is None:
        return None
    return text if re.fullmatch(r"[0-9]{3}[DWMY]", text) else f"{int(years):03d}Y"


def _plain(value: object) -> int | str | list[Any] | None:
    """As JSON has it: an item of a sequence is an object."""
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, pydicom.Sequence):
        return [{element.keyword: _plain(element.value) for element in item} for item in value]
    return [str(one) for one in value] if isinstance(value, list | pydicom.multival.MultiValue) else str(value)


def _read(fields: dict[str, Any]) -> Dataset:
    """What `_plain` made of a data set."""
    dataset = Dataset()
    for keyword, value in fields.items():
        put(dataset, keyword, [_read(item) for item in value] if keyword in SEQUENCES else value)
    return dataset
