"""A Prediction as a Structured Report (TID 1500): findings with their scores, each box as a region of the film.

Frame: image-relative coordinates of a report are (column, row) with 0\\0 at the top left corner of the first pixel
(PS3.3 C.18.6.1), which is this project's own frame, so boxes go in as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from agcxr.dicom import codes
from agcxr.dicom.algorithm import MODEL_NAME, NAME, RESEARCH_ONLY, Algorithm, derived_uid
from agcxr.inference.prediction import Prediction

DIGITS = 6


def content(
    header: Dataset, prediction: Prediction, algorithm: Algorithm, emptied: tuple[str, ...] = ()
) -> sr.MeasurementReport:
    """The content tree. `header`: of the film (`Source.dataset`). `emptied`: attributes whose values could not stay."""
    groups = [
        *(_region(header, prediction, algorithm, n) for n in range(len(prediction.boxes))),
        *(_finding(header, prediction, algorithm, k) for k in prediction.ranked()),
    ]
    return _document(groups, reservations(prediction), algorithm, emptied)


def refusal(
    header: Dataset, prediction: Prediction, algorithm: Algorithm, emptied: tuple[str, ...] = ()
) -> sr.MeasurementReport:
    """The content tree of a film that the model may not speak about: that, and why; no scores."""
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            derived_uid(str(header.SOPInstanceUID), algorithm.version, "status"), "Film not read"
        ),
        algorithm_id=_identification(algorithm, whole=True),
        qualitative_evaluations=[sr.QualitativeEvaluation(codes.RESULT_STATUS, codes.NOT_ATTEMPTED)],
        source_images=[sr.SourceImageForMeasurementGroup(str(header.SOPClassUID), str(header.SOPInstanceUID))],
    )
    comments = [RESEARCH_ONLY, *(f"No results: {reason}" for reason in reasons_of(prediction))]
    return _document([group], comments, algorithm, emptied)


def observer(algorithm: Algorithm) -> sr.ObserverContext:
    """The model as the device that observed."""
    return sr.ObserverContext(
        observer_type=sr.CodedConcept.from_code(codes.DEVICE),
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=derived_uid(algorithm.version, "device"),
            name=NAME,
            manufacturer_name=NAME,
            model_name=MODEL_NAME,
            serial_number=algorithm.fingerprint,
        ),
    )


def _document(
    groups: Sequence[Any],
    comments: list[str],
    algorithm: Algorithm,
    emptied: tuple[str, ...],
) -> sr.MeasurementReport:
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer(algorithm)),
        procedure_reported=codes.CHEST_FILM,
        imaging_measurements=groups,
        title=codes.REPORT,
    )
    if emptied:
        comments.append(f"Left empty or out, since the film's header holds no valid value: {', '.join(emptied)}")
    for text in comments:
        report[0].ContentSequence.append(
            sr.TextContentItem(name=codes.COMMENT, value=text, relationship_type=sr.RelationshipTypeValues.CONTAINS)
        )
    return report


def reservations(prediction: Prediction) -> list[str]:
    """What every result says of itself: for research only, and what is doubtful about its film."""
    return [RESEARCH_ONLY, *(f"Doubt about this film: {reason}" for reason in reasons_of(prediction))]


def reasons_of(prediction: Prediction) -> tuple[str, ...]:
    """Why a film is doubtful, or refused; empty where it is neither."""
    return () if prediction.intake is None else prediction.intake.reasons


def called(prediction: Prediction) -> list[int]:
    """Places of the findings that are called, in the order of reading."""
    calls = prediction.calls()
    return [k for k in prediction.ranked() if calls[k] and prediction.labels[k] != prediction.findings.none]


def has_call(prediction: Prediction) -> bool:
    """Whether any finding is called."""
    return bool(called(prediction))


def region_tracking(header: Dataset, algorithm: Algorithm, n: int = 0) -> str:
    """UID by which the report, the segmentation and the presentation state name the same region, from 0."""
    return derived_uid(str(header.SOPInstanceUID), algorithm.version, "region", *([str(n + 1)] if n else []))


def region_name(prediction: Prediction, n: int) -> str:
    """What they call it: numbered where there are several."""
    return f"Attended region {n + 1}" if len(prediction.boxes) > 1 else "Attended region"


def region_kind(prediction: Prediction) -> Code:
    """How the regions of a film came about."""
    if len(prediction.boxes) > 1:
        return codes.ONE_OF_SEVERAL
    return codes.WHOLE_VIEW if prediction.fallback else codes.ATTENDED


def _identification(algorithm: Algorithm, *, whole: bool = False) -> sr.AlgorithmIdentification:
    """Name and version; `whole`: with the parameters too, said once in a report."""
    return sr.AlgorithmIdentification(
        name=f"{NAME} {MODEL_NAME}",
        version=algorithm.version,
        parameters=list(algorithm.parameters) if whole else None,
        family=codes.ALGORITHM_FAMILY,
        manufacturer=NAME,
    )


def _region(
    header: Dataset, prediction: Prediction, algorithm: Algorithm, n: int
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """Box n, with its weight where there are several."""
    x0, y0, x1, y1 = prediction.boxes[n]
    several = len(prediction.boxes) > 1
    region = sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]),
        source_image=sr.SourceImageForRegion(str(header.SOPClassUID), str(header.SOPInstanceUID)),
    )
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(region_tracking(header, algorithm, n), region_name(prediction, n)),
        referenced_region=region,
        finding_type=codes.REGION,
        algorithm_id=_identification(algorithm, whole=not n),
        measurements=[_number(codes.REGION_WEIGHT, prediction.weights[n])] if several else None,
        qualitative_evaluations=[sr.QualitativeEvaluation(codes.REGION_KIND, region_kind(prediction))],
    )


def _finding(
    header: Dataset, prediction: Prediction, algorithm: Algorithm, k: int
) -> sr.MeasurementsAndQualitativeEvaluations:
    """One label: the three scores; where validation held enough films, the calibrated probability, the operating point,
    on which side of it, and so whether the finding is present or absent. Else it is undetermined: nothing is stated
    that was not calibrated. Only what is present is the group's Finding: whoever reads no more reads no more than that.
    """
    label, cut = prediction.labels[k], prediction.cut
    fitted = cut is None or bool(cut.fitted_K[k])
    numbers = [
        _number(codes.SCORE, float(prediction.fusion_K[k])),
        _number(codes.SCORE_GLOBAL, float(prediction.global_K[k])),
        _number(codes.SCORE_LOCAL, float(prediction.local_K[k])),
    ]
    if prediction.calibrated_K is not None and fitted:
        numbers.append(_number(codes.PROBABILITY, float(prediction.calibrated_K[k])))
    concept, state = codes.finding_code(label, prediction.findings), codes.UNDETERMINED
    point = [(codes.POINT_KIND, codes.NOT_FITTED if fitted else codes.TOO_RARE)]
    side = prediction.calls()[k]
    if side is not None and cut is not None:
        kind, state = cut.point, codes.PRESENT if side else codes.ABSENT
        numbers.append(_number(codes.THRESHOLD, float(cut.score_K[k])))
        points = algorithm.calibration.findings[label].points if algorithm.calibration else None
        if points is not None:
            numbers.append(_number(codes.SENSITIVITY, points[kind].sensitivity))
            numbers.append(_number(codes.SPECIFICITY, points[kind].specificity))
        point = [(codes.POINT_KIND, codes.POINTS[kind]), (codes.CALL, codes.AT_OR_ABOVE if side else codes.BELOW)]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            derived_uid(str(header.SOPInstanceUID), algorithm.version, "finding", label), label.replace("_", " ")
        ),
        finding_type=concept if state == codes.PRESENT and label != prediction.findings.none else None,
        algorithm_id=_identification(algorithm),
        measurements=numbers,
        qualitative_evaluations=[sr.QualitativeEvaluation(name, value) for name, value in ((concept, state), *point)],
        source_images=[sr.SourceImageForMeasurementGroup(str(header.SOPClassUID), str(header.SOPInstanceUID))],
    )


def _number(name: Code, value: float) -> sr.Measurement:
    return sr.Measurement(name=name, value=round(value, DIGITS), unit=codes.NO_UNITS)
