"""One film and its Prediction -> three DICOM objects: report, picture, segmentation.

All three belong to the film's patient and study, refer to it, name the algorithm and its version, and say that they are
for research only. UIDs follow from the film's UID and the model's version.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

import numpy as np
import pydicom
from highdicom import UID, AlgorithmIdentificationSequence
from highdicom.sc import SCImage
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr import ComprehensiveSR
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DA, TM

from agcxr.data.radiograph import RadiographError
from agcxr.dicom import codes
from agcxr.dicom.algorithm import MODEL_NAME, NAME, RESEARCH_ONLY, Algorithm, derived_uid
from agcxr.dicom.region import region_mask
from agcxr.dicom.report import content, region_tracking, reservations
from agcxr.dicom.source import OF_THE_FILM, VERBATIM, Source
from agcxr.inference.explain import picture
from agcxr.inference.prediction import Prediction

Role = Literal["sr", "sc", "seg"]
SERIES: dict[Role, tuple[int, str]] = {
    "sr": (9901, "AGCXR report (research use only)"),
    "sc": (9902, "AGCXR explained picture (research use only)"),
    "seg": (9903, "AGCXR attended region (research use only)"),
}
"""Number and description of the series that each object is alone in."""
ROLES: tuple[Role, ...] = tuple(SERIES)


def parse_roles(text: str) -> tuple[Role, ...]:
    """ "sr,sc" -> ("sr", "sc"). Raises ValueError for anything but names of results with commas between."""
    names = {name.strip().lower() for name in text.split(",")}
    if unknown := names.difference(SERIES):
        raise ValueError(
            f"{text!r} names no results ({', '.join(sorted(unknown)) or 'empty'}); expected sr,sc,seg or some"
        )
    return tuple(role for role in ROLES if role in names)


class Refused(ValueError):
    """No results for this film, and why, in words."""


@dataclass(frozen=True, eq=False)
class Results:
    """The objects for one film, those that were asked for."""

    sr: Dataset | None = None
    sc: Dataset | None = None
    seg: Dataset | None = None

    def __iter__(self) -> Iterator[tuple[Role, Dataset]]:
        every: tuple[tuple[Role, Dataset | None], ...] = (("sr", self.sr), ("sc", self.sc), ("seg", self.seg))
        return ((role, dataset) for role, dataset in every if dataset is not None)


def make_results(
    source: Source, prediction: Prediction, algorithm: Algorithm, roles: Collection[Role] = ROLES
) -> Results:
    """The objects for a film.

    Args:
        source: header of the film.
        prediction: of that film; it must have kept its pixels (`keep_film`).
        algorithm: the model that predicted.
        roles: which objects.

    Raises:
        Refused: it is no film that the model may speak about.
        RadiographError: the header states another size than the film has.
    """
    header = source.dataset
    if (header.Rows, header.Columns) != (prediction.height, prediction.width):
        raise RadiographError(
            f"the header states {header.Columns} x {header.Rows} pixels, the film has "
            f"{prediction.width} x {prediction.height}"
        )
    if prediction.intake is not None and prediction.intake.decision == "refuse":
        raise Refused("; ".join(prediction.intake.reasons))
    # The name may be a file's, and file names may name patients.
    prediction = replace(prediction, name="Chest film", model=algorithm.version)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote names and identifiers of the film, valid or not
        plain = _without_lists(source)
        time = _now(header)
        made = {role: _MAKERS[role](plain, prediction, algorithm, time) for role in roles}
        for dataset in made.values():
            _take_over(dataset, header, *VERBATIM, *OF_THE_FILM)
        return Results(**made)


def to_bytes(dataset: Dataset) -> bytes:
    """The file of a data set (PS3.10)."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def to_zip(results: Results) -> bytes:
    """A .zip with sr.dcm, sc.dcm and seg.dcm, made in memory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as file:
        for role, dataset in results:
            file.writestr(f"{role}.dcm", to_bytes(dataset))
    return buffer.getvalue()


def result_uid(sop_instance_uid: str, algorithm: Algorithm, role: Role) -> str:
    """SOP Instance UID of a film's result."""
    return derived_uid(sop_instance_uid, algorithm.version, role)


def _without_lists(source: Source) -> Source:
    """For constructors that take one name of a patient: some headers have several, against the rule."""
    header = Dataset()
    header.update(source.dataset)
    name = header.PatientName
    if isinstance(name, pydicom.multival.MultiValue):
        del header.PatientName  # the element is the source's too
        header.PatientName = name[0]
    return replace(source, dataset=header)


def _report(source: Source, prediction: Prediction, algorithm: Algorithm, time: datetime) -> Dataset:
    return ComprehensiveSR(
        evidence=[source.dataset],
        content=content(source.dataset, prediction, algorithm, source.emptied)[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        coding_schemes=[codes.scheme()],
        requested_procedures=_requests(source.dataset),
        **_common(source, algorithm, "sr", time),
    )


def _picture(source: Source, prediction: Prediction, algorithm: Algorithm, time: datetime) -> Dataset:
    header = source.dataset
    image = SCImage.from_ref_dataset(
        ref_dataset=header,
        pixel_array=np.asarray(picture(prediction, time=time).convert("RGB")),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **_common(source, algorithm, "sc", time),
    )
    image.add_new("PatientOrientation", "CS", None)  # several panels in one picture: no direction is true of all
    image.ConversionType = "WSD"
    image.DateOfSecondaryCapture, image.TimeOfSecondaryCapture = DA(time.date()), TM(time.time())
    image.ImageComments = "\r\n".join(reservations(prediction))
    image.DerivationDescription = f"{NAME} {algorithm.version}: film, attention, crop and scores in one picture"
    image.SourceImageSequence = [_reference(header)]
    image.BodyPartExamined = header.get("BodyPartExamined") or "CHEST"
    _take_over(image, header, "RequestAttributesSequence", "BurnedInAnnotation", "LossyImageCompression")
    if header.get("LossyImageCompression") == "01":
        _take_over(image, header, "LossyImageCompressionRatio", "LossyImageCompressionMethod")
    return image


def _segmentation(source: Source, prediction: Prediction, algorithm: Algorithm, time: datetime) -> Dataset:
    label = "Whole view (no region stood out)" if prediction.fallback else "Attended region"
    segment = SegmentDescription(
        segment_number=1,
        segment_label=label,
        segmented_property_category=codes.REGION_CATEGORY,
        segmented_property_type=codes.REGION,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=f"{NAME} {MODEL_NAME}",
            family=codes.ALGORITHM_FAMILY,
            version=algorithm.version,
            source=NAME,
            parameters=dict(parameter.split(" ", 1) for parameter in algorithm.parameters),
        ),
        tracking_uid=region_tracking(source.dataset, algorithm),
        tracking_id="Attended region",
    )
    segment.SegmentDescription = RESEARCH_ONLY
    result = Segmentation(
        source_images=[source.dataset],
        pixel_array=region_mask(prediction, algorithm.attention).astype(np.uint8),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        content_label="ATTENDED_REGION",
        content_description="Region a model attended to. Research use only.",
        content_creator_name=f"{NAME}^",
        **_common(source, algorithm, "seg", time),
    )
    # Its grid is the film's, so the film's directions hold; empty where the film states none.
    result.PatientOrientation = source.dataset.get("PatientOrientation")
    result.BodyPartExamined = source.dataset.get("BodyPartExamined") or "CHEST"
    _take_over(result, source.dataset, "RequestAttributesSequence")
    for item in (*result.DimensionOrganizationSequence, *result.DimensionIndexSequence):  # drawn at random till here
        item.DimensionOrganizationUID = derived_uid(source.sop_instance_uid, algorithm.version, "dimensions")
    return result


_MAKERS: dict[Role, Callable[[Source, Prediction, Algorithm, datetime], Dataset]] = {
    "sr": _report,
    "sc": _picture,
    "seg": _segmentation,
}


def _now(header: Dataset) -> datetime:
    """In the film's time zone where it states one, since its results state that too; else in this machine's."""
    zone = header.get("TimezoneOffsetFromUTC")
    return datetime.now().astimezone() if zone is None else datetime.now(datetime.strptime(zone, "%z").tzinfo)


def _requests(header: Dataset) -> list[Dataset] | None:
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


def _common(source: Source, algorithm: Algorithm, role: Role, time: datetime) -> dict[str, Any]:
    """Series, equipment and UIDs: what all three constructors ask for."""
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


def _take_over(result: Dataset, header: Dataset, *keywords: str) -> None:
    """Those of a film's elements that it has."""
    for keyword in keywords:
        if keyword in header:
            result.add(header[keyword])


def _reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = codes.SOURCE_IMAGE[:3]
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item
