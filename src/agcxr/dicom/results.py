"""One film and its Prediction -> DICOM objects: report, picture, segmentation, and what viewers and IHE AIR ask for.

All belong to the film's patient and study, refer to it, name the algorithm and its version, and say that they are
for research only. UIDs follow from the film's UID and the model's version.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import numpy as np
import pydicom
from highdicom import AlgorithmIdentificationSequence
from highdicom.sc import SCImage
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from highdicom.sr import Comprehensive3DSR, ComprehensiveSR
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DA, TM

from agcxr.data.radiograph import RadiographError
from agcxr.dicom import codes
from agcxr.dicom.algorithm import MODEL_NAME, NAME, RESEARCH_ONLY, Algorithm, derived_uid
from agcxr.dicom.objects import ROLES, SERIES, Role, common, reference, requests_of, take_over
from agcxr.dicom.region import region_mask
from agcxr.dicom.report import content, has_call, reasons_of, refusal, region_name, region_tracking, reservations
from agcxr.dicom.source import OF_THE_FILM, VERBATIM, Source
from agcxr.dicom.viewing import attention_map, is_gray, key_object, presentation_state
from agcxr.inference.explain import picture
from agcxr.inference.prediction import Prediction


class Refused(ValueError):
    """No results for this film, and why, in words."""


@dataclass(frozen=True, eq=False)
class Results:
    """The objects for one film, those that were asked for and that it has."""

    sr: Dataset | None = None
    sc: Dataset | None = None
    seg: Dataset | None = None
    sr3d: Dataset | None = None
    pm: Dataset | None = None
    ko: Dataset | None = None
    pr: Dataset | None = None
    status: Dataset | None = None

    def __iter__(self) -> Iterator[tuple[Role, Dataset]]:
        every: Iterator[tuple[Role, Dataset | None]] = ((role, getattr(self, role)) for role in SERIES)
        return ((role, dataset) for role, dataset in every if dataset is not None)


def make_results(
    source: Source, prediction: Prediction, algorithm: Algorithm, roles: Collection[Role] = ROLES
) -> Results:
    """The objects for a film.

    Args:
        source: header of the film.
        prediction: of that film; it must have kept its pixels (`keep_film`).
        algorithm: the model that predicted.
        roles: which objects. A Key Object is made of a film with a call only, a Presentation State of one that is
            gray; the status of one that the model may not speak about only, and of such a film nothing else.

    Raises:
        Refused: it is no film that the model may speak about, and its status is not among `roles`.
        RadiographError: the header states another size than the film has.
    """
    header = source.dataset
    if (header.Rows, header.Columns) != (prediction.height, prediction.width):
        raise RadiographError(
            f"the header states {header.Columns} x {header.Rows} pixels, the film has "
            f"{prediction.width} x {prediction.height}"
        )
    refused = prediction.intake is not None and prediction.intake.decision == "refuse"
    if refused and "status" not in roles:
        raise Refused("; ".join(reasons_of(prediction)))
    has = {"status": False, "ko": has_call(prediction), "pr": is_gray(source)}
    wanted = {"status"} if refused else {role for role in roles if has.get(role, True)}
    # The name may be a file's, and file names may name patients.
    prediction = replace(prediction, name="Chest film", model=algorithm.version)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote names and identifiers of the film, valid or not
        plain = _without_lists(source)
        time = _now(header)
        made = {role: _MAKERS[role](plain, prediction, algorithm, time) for role in roles if role in wanted}
        for dataset in made.values():
            take_over(dataset, header, *VERBATIM, *OF_THE_FILM)
        return Results(**made)


def to_bytes(dataset: Dataset) -> bytes:
    """The file of a data set (PS3.10)."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def to_zip(results: Results) -> bytes:
    """A .zip with sr.dcm, sc.dcm ..., made in memory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as file:
        for role, dataset in results:
            file.writestr(f"{role}.dcm", to_bytes(dataset))
    return buffer.getvalue()


def _without_lists(source: Source) -> Source:
    """For constructors that take one name of a patient: some headers have several, against the rule."""
    header = Dataset()
    header.update(source.dataset)
    name = header.PatientName
    if isinstance(name, pydicom.multival.MultiValue):
        del header.PatientName  # the element is the source's too
        header.PatientName = name[0]
    return replace(source, dataset=header)


def _report(source: Source, prediction: Prediction, algorithm: Algorithm, time: datetime, role: Role = "sr") -> Dataset:
    """A structured report; sr3d says the same in the class that IHE AIR names, status why there are no results."""
    make = Comprehensive3DSR if role == "sr3d" else ComprehensiveSR
    what = refusal if role == "status" else content
    return make(
        evidence=[source.dataset],
        content=what(source.dataset, prediction, algorithm, source.emptied)[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        coding_schemes=[codes.scheme()],
        requested_procedures=requests_of(source.dataset),
        **common(source, algorithm, role, time),
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
        **common(source, algorithm, "sc", time),
    )
    image.add_new("PatientOrientation", "CS", None)  # several panels in one picture: no direction is true of all
    image.ConversionType = "WSD"
    image.DateOfSecondaryCapture, image.TimeOfSecondaryCapture = DA(time.date()), TM(time.time())
    image.ImageComments = "\r\n".join(reservations(prediction))
    image.DerivationDescription = f"{NAME} {algorithm.version}: film, attention, crop and scores in one picture"
    image.SourceImageSequence = [reference(header)]
    image.BodyPartExamined = header.get("BodyPartExamined") or "CHEST"
    take_over(image, header, "RequestAttributesSequence", "BurnedInAnnotation", "LossyImageCompression")
    if header.get("LossyImageCompression") == "01":
        take_over(image, header, "LossyImageCompressionRatio", "LossyImageCompressionMethod")
    return image


def _segmentation(source: Source, prediction: Prediction, algorithm: Algorithm, time: datetime) -> Dataset:
    """A segment for each box."""
    segments = [_segment(source, prediction, algorithm, n) for n in range(len(prediction.boxes))]
    masks = [region_mask(prediction, algorithm.attention, n).astype(np.uint8) for n in range(len(segments))]
    result = Segmentation(
        source_images=[source.dataset],
        pixel_array=masks[0] if len(masks) == 1 else np.stack(masks, axis=-1)[None],
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=segments,
        content_label="ATTENDED_REGION",
        content_description="Region a model attended to. Research use only.",
        content_creator_name=f"{NAME}^",
        **common(source, algorithm, "seg", time),
    )
    # Its grid is the film's, so the film's directions hold; empty where the film states none.
    result.PatientOrientation = source.dataset.get("PatientOrientation")
    result.BodyPartExamined = source.dataset.get("BodyPartExamined") or "CHEST"
    take_over(result, source.dataset, "RequestAttributesSequence")
    for item in (*result.DimensionOrganizationSequence, *result.DimensionIndexSequence):  # drawn at random till here
        item.DimensionOrganizationUID = derived_uid(source.sop_instance_uid, algorithm.version, "dimensions")
    return result


def _segment(source: Source, prediction: Prediction, algorithm: Algorithm, n: int) -> SegmentDescription:
    name = region_name(prediction, n)
    if len(prediction.boxes) > 1:
        label = f"{name} (weight {prediction.weights[n]:.2f})"
    else:
        label = "Whole view (no region stood out)" if prediction.fallback else name
    segment = SegmentDescription(
        segment_number=n + 1,
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
        tracking_uid=region_tracking(source.dataset, algorithm, n),
        tracking_id=name,
    )
    segment.SegmentDescription = RESEARCH_ONLY
    return segment


_MAKERS: dict[Role, Callable[[Source, Prediction, Algorithm, datetime], Dataset]] = {
    "sr": _report,
    "sc": _picture,
    "seg": _segmentation,
    "sr3d": partial(_report, role="sr3d"),
    "pm": attention_map,
    "ko": key_object,
    "pr": presentation_state,
    "status": partial(_report, role="status"),
}


def _now(header: Dataset) -> datetime:
    """In the film's time zone where it states one, since its results state that too; else in this machine's."""
    zone = header.get("TimezoneOffsetFromUTC")
    return datetime.now().astimezone() if zone is None else datetime.now(datetime.strptime(zone, "%z").tzinfo)
