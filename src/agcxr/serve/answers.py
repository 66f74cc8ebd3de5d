"""The JSON that the API speaks. Every answer says that it is for research only."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from agcxr.calibration import MIN_POSITIVES, FindingCalibration, OperatingPoints, Point
from agcxr.data.synthetic import is_synthetic
from agcxr.inference.engine import Engine
from agcxr.inference.prediction import Branch, Prediction
from agcxr.inference.reading import ReadFilm, encode_png
from agcxr.notices import RESEARCH_ONLY
from agcxr.serve.decoder import Unreadable
from agcxr.serve.limits import Limits

MAP_SIDE = 384
"""Longest side of a finding's map, in pixels; the grids beneath are far coarser."""
Millimetres = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
FourNumbers = Annotated[tuple[float, float, float, float], Field(description="x0, y0, x1, y1")]
IDENTITY = "which model: another text where an answer may differ; DICOM results state the same"
PNG = Annotated[str, Field(description="a gray PNG, base64")]


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Mistake(Answer):
    """What went wrong, for programs and for people."""

    code: str = Field(examples=["unreadable"])
    message: str = Field(examples=["not a PNG, JPEG, WebP or DICOM file: it looks like text"])


class ErrorAnswer(Answer):
    error: Mistake
    research_only: str = RESEARCH_ONLY


class PointAnswer(Answer):
    """One operating point, chosen on validation films, and on which side this film lies."""

    threshold: Share = Field(description="on the raw fusion probability")
    calibrated: Share = Field(description="the same threshold on the scale of the calibrated probability")
    above: bool = Field(description="the film is at or over it")


class FindingAnswer(Answer):
    finding: str = Field(examples=["Effusion"])
    fusion: Share = Field(description="raw probability, fusion branch")
    global_: Share = Field(description="raw probability, global branch", alias="global")
    local: Share = Field(description="raw probability, local branch")
    calibrated: Share | None = Field(
        default=None, description="of the fusion; null where the finding was not calibrated"
    )
    operating_points: dict[str, PointAnswer] = Field(description="empty where there are none, so no call can be made")
    uncalibrated: str | None = Field(default=None, description="why there is neither, where other findings have both")


class FilmFacts(Answer):
    """The file, as it was read. Nothing here identifies a patient."""

    width: int
    height: int
    bits: Literal[8, 16]
    format: str = Field(examples=["dicom"])
    view_position: str | None = None
    spacing: tuple[Millimetres, Millimetres] | None = Field(
        default=None, description="of a DICOM film that states it: from row to row, from column to column"
    )
    spacing_at: Literal["detector", "calibrated"] | None = Field(
        default=None, description="detector: what lies before it is smaller than it measures"
    )
    orientation: tuple[str, str] | None = Field(
        default=None, description="of a DICOM film: where its rows and its columns go in the patient, such as L and F"
    )
    notes: tuple[str, ...] = Field(examples=[["inverted (MONOCHROME1)"]])


class IdentityAnswer(Answer):
    """Whose film it is, by its DICOM header; only with ?identity=true, and kept nowhere."""

    patient: str | None = None
    patient_id: str | None = None
    birth_date: str | None = None
    sex: str | None = None
    study_date: str | None = None
    study: str | None = Field(default=None, description="its description")
    accession: str | None = None


class IntakeAnswer(Answer):
    """Whether this is a film that the model may speak about."""

    decision: Literal["accept", "warn", "refuse"]
    reasons: tuple[str, ...]


class DicomAnswer(Answer):
    """Whether POST /v1/dicom makes DICOM results of this film."""

    available: bool
    reason: str | None = Field(default=None, description="why not, in words")


class RegionAnswer(Answer):
    """One of several regions that the local branch saw."""

    box: FourNumbers
    weight: Share = Field(description="how much of what the local branch says is of it; their sum is 1")


class AttentionAnswer(Answer):
    """Where the model looked, in pixels of the original film, exclusive end."""

    box: FourNumbers
    window: FourNumbers = Field(description="the part of the film that the model saw")
    fallback: bool = Field(description="no region stood out, so the local branch saw the whole window")
    boxes: tuple[RegionAnswer, ...] | None = Field(
        default=None,
        description="in the order in which they were taken, the first of them `box`; null where there is but that one",
    )


class PicturesAnswer(Answer):
    """Only with ?pictures=true."""

    heat: PNG | None = Field(
        default=None, description="attention, to be laid over attention.window; null for a refused film"
    )
    crop: PNG | None = Field(default=None, description="what the local branch saw; null for a refused film")
    thumbnail: PNG = Field(description="the film as prepared: square, to be stretched to the film's shape")


class FilmAnswer(Answer):
    index: int = Field(description="place in the request, from 0")
    name: str = Field(description="as given in the request; kept nowhere")
    status: Literal["read", "refused", "unreadable"]
    reason: str | None = Field(default=None, description="why there are no findings")
    film: FilmFacts | None = None
    identity: IdentityAnswer | None = Field(default=None, description="null unless asked for, and of other files")
    intake: IntakeAnswer | None = Field(default=None, description="null where this server has no intake check")
    findings: tuple[FindingAnswer, ...] | None = Field(default=None, description="most probable first, No Finding last")
    attention: AttentionAnswer | None = None
    dicom: DicomAnswer | None = Field(default=None, description="null where there are no findings")
    pictures: PicturesAnswer | None = None


class PredictAnswer(Answer):
    research_only: str = RESEARCH_ONLY
    version: str = Field(default_factory=lambda: version("agcxr"))
    model: str = Field(description=IDENTITY)
    films: tuple[FilmAnswer, ...]
    error: Mistake | None = Field(default=None, description="set, with status 422, where no film could be read")


class MapAnswer(Answer):
    """Where one finding is read (Grad-CAM), over the whole film."""

    research_only: str = RESEARCH_ONLY
    finding: str
    branch: Branch
    empty: bool = Field(description="nothing on the film speaks for the finding")
    heat: PNG = Field(description="to be laid over the whole film; its peak is 255")


class LabelAnswer(Answer):
    label: str
    calibrated: bool
    prevalence: float | None = Field(description="share of positive validation films")
    operating_points: dict[str, dict[str, float]] = Field(description="threshold, sensitivity, specificity")


class ModelAnswer(Answer):
    research_only: str = RESEARCH_ONLY
    version: str = Field(default_factory=lambda: version("agcxr"))
    model: str = Field(description=IDENTITY)
    backbone: str
    image_size: int
    prepared_size: int
    attention: dict[str, str | float | int]
    maps: bool = Field(description="whether /v1/map answers")
    dicom: bool = Field(description="whether /v1/dicom answers")
    device: str
    precision: str
    trained_on: str | None = Field(
        default=None, description="the collection that the model learnt on; null: not known", examples=["nih"]
    )
    synthetic: bool = Field(default=False, description="it learnt on synthetic films only")
    average: str | None = Field(default=None, description="over which models and views answers are averaged")
    calibration: str | None
    intake: bool
    labels: tuple[LabelAnswer, ...]
    metrics: dict[str, float | None]
    limits: dict[str, float]


class ExampleAnswer(Answer):
    id: str
    title: str
    findings: tuple[str, ...] = Field(description="what was drawn into this synthetic film")


def film_answer(
    index: int,
    name: str,
    read: ReadFilm | Unreadable,
    prediction: Prediction | None,
    engine: Engine,
    *,
    pictures: bool = False,
    identity: bool = False,
    no_dicom: str | None = None,
) -> FilmAnswer:
    """The answer for one film; `prediction` is None for one that could not be read or whose pixels were refused.

    `no_dicom`: why this server makes no DICOM results of any film.
    """
    if isinstance(read, Unreadable):
        return FilmAnswer(index=index, name=name, status="unreadable", reason=read.reason)
    intake = read.intake if prediction is None else prediction.intake
    told = None if prediction is None or prediction.refused else prediction
    return FilmAnswer(
        index=index,
        name=name,
        status="refused" if told is None else "read",
        reason="; ".join(intake.reasons) if told is None and intake else None,
        film=_facts(read),
        identity=_identity(read) if identity else None,
        intake=None if intake is None else IntakeAnswer(decision=intake.decision, reasons=intake.reasons),
        findings=None if told is None else _findings(told, engine),
        attention=None if told is None else _attention(told),
        dicom=None if told is None else _dicom(read.no_results or no_dicom),
        pictures=_pictures(read, told) if pictures else None,
    )


def map_answer(engine: Engine, film: ReadFilm, finding: str, branch: Branch) -> MapAnswer:
    """Grad-CAM of one finding over the whole film, its peak at 255; empty where nothing speaks for the finding."""
    scale = min(MAP_SIDE / max(film.width, film.height), 1)
    height, width = max(round(film.height * scale), 1), max(round(film.width * scale), 1)
    heat_HW = engine.finding_maps(film.image_SS[None], [finding]).on_film(branch, height, width)[0]
    peak = float(heat_HW.max())
    shown = np.zeros_like(heat_HW) if peak <= 0 else heat_HW / peak
    heat = _base64(encode_png(np.rint(shown * 255).astype(np.uint8)))
    return MapAnswer(finding=finding, branch=branch, empty=peak <= 0, heat=heat)


def model_answer(engine: Engine, limits: Limits, *, intake: bool, dicom: bool) -> ModelAnswer:
    """What a client may know of the model and of the limits."""
    about, calibration = engine.about, engine.calibration
    return ModelAnswer(
        model=engine.algorithm.version,
        backbone=about.backbone,
        image_size=about.image_size,
        prepared_size=engine.prepared_size,
        attention=about.attention,
        maps=engine.has_maps,
        dicom=dicom,
        device=about.device,
        precision=about.precision,
        trained_on=about.trained_on,
        synthetic=is_synthetic(about.trained_on),
        average=engine.words or None,
        calibration=None if calibration is None else calibration.method,
        intake=intake,
        labels=tuple(_label(engine, label) for label in engine.labels),
        metrics=about.metrics,
        limits={
            "file_bytes": limits.file_bytes,
            "request_bytes": limits.request_bytes,
            "files": limits.files,
            "pixels": limits.pixels,
            "seconds": limits.work,
        },
    )


def _label(engine: Engine, label: str) -> LabelAnswer:
    known = _calibration_of(engine, label)
    points = {} if known is None or not known.enough or known.points is None else known.points
    return LabelAnswer(
        label=label,
        calibrated=known is not None and known.enough,
        prevalence=None if known is None else known.prevalence,
        operating_points={str(name): point.model_dump() for name, point in points.items()},
    )


def _calibration_of(engine: Engine, label: str) -> FindingCalibration | None:
    """One label's calibration and operating points, where the checkpoint holds them."""
    return None if engine.calibration is None else engine.calibration.findings.get(label)


def _facts(read: ReadFilm) -> FilmFacts:
    header = _header(read)
    orientation = header.get("PatientOrientation")
    return FilmFacts(
        width=read.width,
        height=read.height,
        bits=read.bits,  # type: ignore[arg-type]
        format=read.format,
        view_position=read.view_position,
        orientation=tuple(orientation) if isinstance(orientation, list) and len(orientation) == 2 else None,
        **_spacing(header),
        notes=read.notes,
    )


def _header(read: ReadFilm) -> dict[str, Any]:
    """What the header of a DICOM film says, by keyword; empty of other films."""
    return dict(json.loads(read.header)["fields"]) if read.header else {}


def _spacing(header: dict[str, Any]) -> dict[str, Any]:
    """The film's own spacing where it was calibrated, else that of the detector (PS3.3 10.7.1.3)."""
    at_detector, own = header.get("ImagerPixelSpacing"), header.get("PixelSpacing")
    spacing = own or at_detector
    if not isinstance(spacing, list) or len(spacing) != 2 or min(map(float, spacing)) <= 0:
        return {}
    kind = "detector" if own is None or own == at_detector else "calibrated"
    return {"spacing": tuple(map(float, spacing)), "spacing_at": kind}


def _identity(read: ReadFilm) -> IdentityAnswer | None:
    header = _header(read)
    keywords = {
        "patient": "PatientName",
        "patient_id": "PatientID",
        "birth_date": "PatientBirthDate",
        "sex": "PatientSex",
        "study_date": "StudyDate",
        "study": "StudyDescription",
        "accession": "AccessionNumber",
    }
    texts = {name: str(header.get(keyword) or "") or None for name, keyword in keywords.items()}
    return IdentityAnswer(**texts) if header else None


def _attention(prediction: Prediction) -> AttentionAnswer:
    regions = tuple(
        RegionAnswer(box=box, weight=min(weight, 1.0))  # as float32 a weight may be a hair over 1
        for box, weight in zip(prediction.boxes, prediction.weights, strict=True)
    )
    return AttentionAnswer(
        box=prediction.box,
        window=prediction.window,
        fallback=prediction.fallback,
        boxes=regions if len(regions) > 1 else None,
    )


def _findings(prediction: Prediction, engine: Engine) -> tuple[FindingAnswer, ...]:
    rows = []
    for k, label in enumerate(prediction.labels):
        fusion = float(prediction.fusion_K[k])
        known = _calibration_of(engine, label)
        fitted = prediction.cut is None or bool(prediction.cut.fitted_K[k])
        calibrated = None if prediction.calibrated_K is None or not fitted else float(prediction.calibrated_K[k])
        rows.append(
            FindingAnswer.model_validate(
                {
                    "finding": label,
                    "fusion": fusion,
                    "global": float(prediction.global_K[k]),
                    "local": float(prediction.local_K[k]),
                    "calibrated": calibrated,
                    "operating_points": _points(fusion, k, engine.cuts) if fitted else {},
                    "uncalibrated": None if fitted else _too_rare(known),
                }
            )
        )

    def place(row: FindingAnswer) -> tuple[bool, bool, float, float]:
        return row.finding == prediction.findings.none, row.calibrated is None, -(row.calibrated or 0), -row.fusion

    return tuple(sorted(rows, key=place))


def _points(fusion: float, k: int, cuts: Mapping[Point, OperatingPoints]) -> dict[str, PointAnswer]:
    """The operating points of label k that the checkpoint holds, and where a film of this raw score lies."""
    found = {name: (float(cut.score_K[k]), float(cut.probability_K[k])) for name, cut in cuts.items()}
    return {
        name: PointAnswer(threshold=score, calibrated=probability, above=fusion >= score)
        for name, (score, probability) in found.items()
        if not math.isnan(score)
    }


def _too_rare(known: FindingCalibration | None) -> str:
    if known is None:
        return "not labelled in the validation films, so raw scores only and no call"
    having, lacking = known.positives, known.films - known.positives
    count = f"{having} with it" if having <= lacking else f"{lacking} without it"
    return (
        f"too few validation films to calibrate ({count}; {MIN_POSITIVES} are needed), so raw scores only and no call"
    )


def _dicom(reason: str | None) -> DicomAnswer:
    return DicomAnswer(available=reason is None, reason=reason)


def _pictures(read: ReadFilm, prediction: Prediction | None) -> PicturesAnswer:
    thumbnail = _base64(encode_png(read.image_SS))
    if prediction is None:
        return PicturesAnswer(thumbnail=thumbnail)
    heat_HW = (prediction.heat_HW.clip(0, 1) * 255).round().astype("uint8")
    return PicturesAnswer(
        heat=_base64(encode_png(heat_HW)), crop=_base64(encode_png(prediction.crop_HW)), thumbnail=thumbnail
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
