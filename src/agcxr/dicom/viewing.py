"""Objects that viewers show by themselves: the attention as a Parametric Map, the box as a Presentation State, called
films as Key Objects.

Frame: graphics of a presentation state in PIXEL units are (column, row) with 0\\0 at the top left corner of the first
pixel (PS3.3 C.10.5), which is this project's own frame, so boxes go in as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from highdicom.color import CIELabColor
from highdicom.content import ModalityLUTTransformation, PresentationLUTTransformation, VOILUTTransformation
from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.pm import DerivedPixelContrastValues, ImageFlavorValues, ParametricMap, RealWorldValueMapping
from highdicom.pr import (
    AnnotationUnitsValues,
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GraphicTypeValues,
    GrayscaleSoftcopyPresentationState,
    SoftcopyVOILUTTransformation,
    TextJustificationValues,
    TextObject,
)
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import DA, TM

from agcxr.dicom import codes
from agcxr.dicom.algorithm import NAME, RESEARCH_ONLY, Algorithm, derived_uid
from agcxr.dicom.objects import common, requests_of, take_over
from agcxr.dicom.report import called, observer, region_name, region_tracking, reservations
from agcxr.dicom.source import Source
from agcxr.inference.prediction import Prediction

STEPS = (1 << 16) - 1
"""Stored values of the attention: 0 to STEPS stand for 0 to 1."""
ORANGE = CIELabColor(70, 35, 65)
"""Of the box."""


def attention_map(source: Source, prediction: Prediction, algorithm: Algorithm, time: datetime) -> Dataset:
    """The attention on the film's own grid, in [0, 1] by its real world values; 0 where the model saw nothing."""
    values = RealWorldValueMapping(
        lut_label="ATTENTION",
        lut_explanation="Attention of a model, 0 to 1",
        unit=codes.NO_UNITS,
        value_range=(0, STEPS),
        slope=1 / STEPS,
        intercept=0,
        quantity_definition=codes.SALIENCY,
    )
    heat = prediction.heat_in_original()
    result = ParametricMap(
        source_images=[_placed(source, algorithm)],
        pixel_array=np.rint(heat * STEPS).astype(np.uint16)[None],
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[values],
        voi_lut_transformations=[VOILUTTransformation(window_center=STEPS / 2, window_width=STEPS)],
        content_label="ATTENTION",
        content_description="Where a model attended. Research use only.",
        content_creator_name=f"{NAME}^",
        image_flavor=ImageFlavorValues.VOLUME,
        derived_pixel_contrast=DerivedPixelContrastValues.QUANTITY,
        **common(source, algorithm, "pm", time),
    )
    result.PatientOrientation = source.dataset.get("PatientOrientation")
    result.BodyPartExamined = source.dataset.get("BodyPartExamined") or "CHEST"
    take_over(result, source.dataset, "RequestAttributesSequence")
    result.ImageComments = "\r\n".join(reservations(prediction))
    for item in (*result.DimensionOrganizationSequence, *result.DimensionIndexSequence):  # drawn at random till here
        item.DimensionOrganizationUID = derived_uid(source.sop_instance_uid, algorithm.version, "map", "dimensions")
    return result


def _placed(source: Source, algorithm: Algorithm) -> Dataset:
    """The film's header with a frame of reference of the map's own, which its class requires (PS3.3 A.75): a plane of
    a frontal film, from the patient's right to the left and from head to foot, with the film's spacing or 1 mm. It says
    nothing of where the patient was; the map lies on the film pixel by pixel."""
    header = source.dataset
    film = Dataset()
    film.update(header)
    film.FrameOfReferenceUID = derived_uid(source.sop_instance_uid, algorithm.version, "map", "frame")
    film.PositionReferenceIndicator = None
    film.ImagePositionPatient, film.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 0, -1]
    spacing = _numbers(header, "PixelSpacing") or _numbers(header, "ImagerPixelSpacing")
    film.PixelSpacing = spacing if len(spacing) == 2 and min(spacing) > 0 else [1, 1]
    film.SliceThickness = None
    return film


def key_object(source: Source, prediction: Prediction, algorithm: Algorithm, time: datetime) -> Dataset:
    """A film with calls, as one of interest; its description names what was called."""
    findings = ", ".join(
        codes.finding_code(prediction.labels[k], prediction.findings).meaning for k in called(prediction)
    )
    return KeyObjectSelectionDocument(
        evidence=[source.dataset],
        content=KeyObjectSelection(
            document_title=codes.OF_INTEREST,
            referenced_objects=[source.dataset],
            observer_device_context=observer(algorithm),
            description=f"Called by {NAME} {algorithm.version}: {findings}. {RESEARCH_ONLY}",
        ),
        requested_procedures=requests_of(source.dataset),
        **_some(common(source, algorithm, "ko", time), "manufacturer_model_name", *VERSION),
    )


VERSION = ("software_versions", "device_serial_number")


def _some(given: dict[str, Any], *without: str) -> dict[str, Any]:
    """Without what a constructor does not take."""
    return {name: value for name, value in given.items() if name not in without}


def presentation_state(source: Source, prediction: Prediction, algorithm: Algorithm, time: datetime) -> Dataset:
    """The boxes on the film, several with number and weight, with what was called and that it is for research only."""
    header = source.dataset
    layer = GraphicLayer("AGCXR", order=1, description="Region a model attended to", display_color=ORANGE)
    count = len(prediction.boxes)
    boxes = [_outline(header, prediction, algorithm, n) for n in range(count)]
    weights = [_weight(prediction, n) for n in range(count)] if count > 1 else []
    text = TextObject(
        text_value=_caption(prediction, algorithm),
        units=AnnotationUnitsValues.DISPLAY,
        bounding_box=(0.02, 0.80, 0.98, 0.99),
        text_justification=TextJustificationValues.LEFT,
    )
    film = Dataset()
    film.update(header)
    film.SamplesPerPixel = 1
    state = GrayscaleSoftcopyPresentationState(
        referenced_images=[film],
        **_display(header),
        content_label="AGCXR",
        content_description="Region a model attended to. Research use only.",
        content_creator_name=f"{NAME}^",
        graphic_layers=[layer],
        graphic_annotations=[
            GraphicAnnotation(
                referenced_images=[header], graphic_layer=layer, graphic_objects=boxes, text_objects=[text, *weights]
            )
        ],
        **_some(common(source, algorithm, "pr", time), "content_date", "content_time"),
    )
    state.BodyPartExamined = header.get("BodyPartExamined") or "CHEST"
    state.PresentationCreationDate, state.PresentationCreationTime = DA(time.date()), TM(time.time())
    take_over(state, header, "RequestAttributesSequence")
    return state


def _outline(header: Dataset, prediction: Prediction, algorithm: Algorithm, n: int) -> GraphicObject:
    x0, y0, x1, y1 = prediction.boxes[n]
    return GraphicObject(
        graphic_type=GraphicTypeValues.POLYLINE,
        graphic_data=np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]),
        units=AnnotationUnitsValues.PIXEL,
        tracking_id=region_name(prediction, n),
        tracking_uid=region_tracking(header, algorithm, n),
    )


def _weight(prediction: Prediction, n: int) -> TextObject:
    """Number and weight of a box, at its upper left corner."""
    x0, y0, _, _ = prediction.boxes[n]
    return TextObject(
        text_value=f"{n + 1}: {prediction.weights[n]:.0%}",
        units=AnnotationUnitsValues.PIXEL,
        anchor_point=(x0, y0),
        anchor_point_visible=False,
    )


def is_gray(source: Source) -> bool:
    """Whether a presentation state in gray may refer to the film."""
    return str(source.dataset.get("PhotometricInterpretation")) in ("MONOCHROME1", "MONOCHROME2")


def _display(header: Dataset) -> dict[str, Any]:
    """Modality, VOI and presentation LUT of the film, as far as its header states them in numbers (a viewer applies
    those of the presentation state in place of the film's)."""
    given: dict[str, Any] = {
        "presentation_lut_transformation": PresentationLUTTransformation(
            presentation_lut_shape="INVERSE" if header.PhotometricInterpretation == "MONOCHROME1" else "IDENTITY"
        )
    }
    intercept, slope = header.get("RescaleIntercept"), header.get("RescaleSlope")
    if intercept is not None and slope is not None:
        given["modality_lut_transformation"] = ModalityLUTTransformation(
            rescale_intercept=float(intercept), rescale_slope=float(slope), rescale_type="US"
        )
    centers, widths = (_numbers(header, keyword) for keyword in ("WindowCenter", "WindowWidth"))
    function = header.get("VOILUTFunction") or "LINEAR"
    if centers and len(centers) == len(widths) and min(widths) >= 1:
        window = SoftcopyVOILUTTransformation(
            window_center=centers[0], window_width=widths[0], voi_lut_function=function
        )
        given["voi_lut_transformations"] = [window]
    return given


def _numbers(header: Dataset, keyword: str) -> list[float]:
    value = header.get(keyword)
    values = value if isinstance(value, Sequence | MultiValue) and not isinstance(value, str) else [value]
    return [float(number) for number in values if number is not None]


def _caption(prediction: Prediction, algorithm: Algorithm) -> str:
    lines = [f"{NAME} {algorithm.version}", *reservations(prediction)]
    for k in called(prediction):
        share = None if prediction.calibrated_K is None else float(prediction.calibrated_K[k])
        name = codes.finding_code(prediction.labels[k], prediction.findings).meaning
        lines.append(f"{name}: called" if share is None else f"{name}: called, probability {share:.2f}")
    return "\r\n".join([*lines, *([] if called(prediction) else ["No finding called"])])
