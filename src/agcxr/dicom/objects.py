"""What DICOM results have in common: the kinds there are, their series, equipment, UIDs, and the film they refer to."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from highdicom import UID
from pydicom.dataset import Dataset

from agcxr.dicom import codes
from agcxr.dicom.algorithm import MODEL_NAME, NAME, Algorithm, derived_uid
from agcxr.dicom.source import Source

Role = Literal["sr", "sc", "seg", "sr3d", "pm", "ko", "pr", "status"]
SERIES: dict[Role, tuple[int, str]] = {
    "sr": (9901, "AGCXR report (research use only)"),
    "sc": (9902, "AGCXR explained picture (research use only)"),
    "seg": (9903, "AGCXR attended region (research use only)"),
    "sr3d": (9904, "AGCXR report, AIR (research use only)"),
    "pm": (9905, "AGCXR attention map (research use only)"),
    "ko": (9906, "AGCXR called films (research use only)"),
    "pr": (9907, "AGCXR attended box (research use only)"),
    "status": (9908, "AGCXR film not read (research use only)"),
}
"""Number and description of the series that each object is alone in."""
SOP_CLASSES: dict[Role, str] = {
    "sr": "1.2.840.10008.5.1.4.1.1.88.33",
    "sc": "1.2.840.10008.5.1.4.1.1.7",
    "seg": "1.2.840.10008.5.1.4.1.1.66.4",
    "sr3d": "1.2.840.10008.5.1.4.1.1.88.34",
    "pm": "1.2.840.10008.5.1.4.1.1.30",
    "ko": "1.2.840.10008.5.1.4.1.1.88.59",
    "pr": "1.2.840.10008.5.1.4.1.1.11.1",
    "status": "1.2.840.10008.5.1.4.1.1.88.33",
}
"""Comprehensive SR, Secondary Capture, Segmentation, Comprehensive 3D SR, Parametric Map, Key Object Selection,
Grayscale Softcopy Presentation State, Comprehensive SR."""
ROLES: tuple[Role, ...] = ("sr", "sc", "seg")
"""What is made where nothing else is asked for."""


def parse_roles(text: str) -> tuple[Role, ...]:
    """ "sr,sc" -> ("sr", "sc"). Raises ValueError for anything but names of results with commas between."""
    names = {name.strip().lower() for name in text.split(",")}
    if unknown := names.difference(SERIES):
        raise ValueError(
            f"{text!r} names no results ({', '.join(sorted(unknown)) or 'empty'}); expected {','.join(SERIES)} or some"
        )
    return tuple(role for role in SERIES if role in names)


def result_uid(sop_instance_uid: str, algorithm: Algorithm, role: Role) -> str:
    """SOP Instance UID of a film's result."""
    return derived_uid(sop_instance_uid, algorithm.version, role)


def requests_of(header: Dataset) -> list[Dataset] | None:
    """The requests that the film answers, as a report names them (PS3.3 C.17.2); None where the film names none."""
    items = []
    for given in header.get("RequestAttributesSequence", ()):
        item = Dataset()
        item.StudyInstanceUID = given.get("StudyInstanceUID") or header.StudyInstanceUID
        item.AccessionNumber = given.get("AccessionNumber") or header.get("AccessionNumber")
        for keyword in ("RequestedProcedureID", "RequestedProcedureDescription"):
            setattr(item, keyword, given.get(keyword))
        item.PlacerOrderNumberImagingServiceRequest = item.FillerOrderNumberImagingServiceRequest = None
        item.ReferencedStudySequence = []
        item.RequestedProcedureCodeSequence = given.get("RequestedProcedureCodeSequence", [])
        if issuer := given.get("IssuerOfAccessionNumberSequence"):
            item.IssuerOfAccessionNumberSequence = issuer
        items.append(item)
    return items or None


def common(source: Source, algorithm: Algorithm, role: Role, time: datetime) -> dict[str, Any]:
    """Series, equipment and UIDs: what all constructors ask for."""
    film, (number, description) = source.sop_instance_uid, SERIES[role]
    return {
        "series_instance_uid": UID(derived_uid(film, algorithm.version, role, "series")),
        "series_number": number,
        "series_description": description,
        "sop_instance_uid": UID(result_uid(film, algorithm, role)),
        "instance_number": 1,
        "manufacturer": NAME,
        "manufacturer_model_name": MODEL_NAME,
        "software_versions": algorithm.version,
        "device_serial_number": algorithm.fingerprint,
        "content_date": time.date(),
        "content_time": time.time(),
        "series_date": time.date(),
        "series_time": time.time(),
    }


def take_over(result: Dataset, header: Dataset, *keywords: str) -> None:
    """Those of a film's elements that it has."""
    for keyword in keywords:
        if keyword in header:
            result.add(header[keyword])


def reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = codes.SOURCE_IMAGE[:3]
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item
