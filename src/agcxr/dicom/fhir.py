"""`agcxr predict --fhir`: a film's answer as FHIR R4, a Bundle of DiagnosticReport, Observations and Device.

It states what the DICOM report states, with the same codes: a finding is Present, Absent or Undetermined, a probability
only where it was calibrated. All is preliminary. Of the patient it holds the identifier, where the film has one.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from agcxr.calibration import Point
from agcxr.data.radiograph import RadiographError
from agcxr.dicom import codes
from agcxr.dicom.algorithm import MODEL_NAME, NAME, RESEARCH_ONLY, Algorithm, uuid_of
from agcxr.dicom.files import as_read, is_picture
from agcxr.dicom.report import DIGITS, called, reasons_of, region_kind, reservations
from agcxr.dicom.source import read_source
from agcxr.inference.films import FilmFile
from agcxr.inference.prediction import Prediction

if TYPE_CHECKING:
    from agcxr.inference.engine import Engine

Json = dict[str, Any]
SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "RADLEX": "http://radlex.org",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    codes.SCHEME: "urn:agcxr:codes",
}
"""Designators of coding schemes in DICOM -> their addresses in FHIR; one that a findings file gives has a URN of its
name."""
IMAGING = {
    "coding": [{"system": "http://loinc.org", "code": "18748-4", "display": "Diagnostic imaging study"}],
    "text": "Chest film read by a model, for research only",
}
CATEGORY = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD"}]}
ONE = {"unit": "1", "system": "http://unitsofmeasure.org", "code": "1"}
OBSERVED = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "imaging"}]}


class FhirFiles:
    """Writes the FHIR Bundle of each film: OUT/<n>.json, n the film's row from 1.

    Args:
        engine: what answers.
        folder: OUT.
    """

    columns = ("fhir",)

    def __init__(self, engine: Engine, folder: Path) -> None:
        self._folder = folder
        self._algorithm = as_read(engine.algorithm, engine.scale)

    def save(self, film: FilmFile, prediction: Prediction) -> tuple[str]:
        """The column has the file."""
        data = film.read()
        bundle = to_fhir(prediction, self._algorithm, hashlib.sha256(data).hexdigest(), _header(data))
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{film.place + 1:06d}.json"
        path.write_text(json.dumps(bundle, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return (str(path),)


def to_fhir(prediction: Prediction, algorithm: Algorithm, film: str, header: Dataset | None = None) -> Json:
    """A Bundle of type collection.

    Args:
        prediction: of the film. One that was refused gives a cancelled report with the reasons, and no observation.
        film: what tells the film from others where it has no header: its resources' ids follow from that (else from its
            UID) and the model.
        header: of a DICOM film, as `Source.dataset`.
    """
    film = film if header is None else str(header.SOPInstanceUID)

    def address(*parts: str) -> str:
        return uuid_of(film, algorithm.version, "fhir", *parts).urn

    device = address("device")
    about = {**_about(header), "device": {"reference": device}}
    observations = [] if prediction.refused else _observations(prediction, algorithm, about, address)
    report: Json = {
        "resourceType": "DiagnosticReport",
        "status": "cancelled" if prediction.refused else "preliminary",
        "category": [CATEGORY],
        "code": IMAGING,
        **{name: value for name, value in _about(header).items() if name != "derivedFrom"},
        **({"imagingStudy": _about(header)["derivedFrom"]} if header is not None else {}),
        "issued": datetime.now().astimezone().isoformat(timespec="seconds"),
        "conclusion": _conclusion(prediction),
    }
    if observations:
        report["result"] = [{"reference": url} for url, _ in observations]
    present = [] if prediction.refused else called(prediction)
    if present:
        report["conclusionCode"] = [
            _concept(codes.finding_code(prediction.labels[k], prediction.findings)) for k in present
        ]
    resources = [(address("report"), report), *observations, (device, _device(algorithm))]
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "timestamp": report["issued"],
        "entry": [{"fullUrl": url, "resource": {**resource, "id": url[-36:]}} for url, resource in resources],
    }


def _observations(prediction: Prediction, algorithm: Algorithm, about: Json, address: Any) -> list[tuple[str, Json]]:
    notes = [{"text": text} for text in reservations(prediction)]
    common = {"resourceType": "Observation", "status": "preliminary", "category": [OBSERVED], **about, "note": notes}
    found = [
        (address("region", *([str(n + 1)] if n else [])), {**common, **_region(prediction, n)})
        for n in range(len(prediction.boxes))
    ]
    for k in prediction.ranked():
        label = prediction.labels[k]
        found.append((address("finding", label), {**common, **_finding(prediction, algorithm, k)}))
    return found


def _region(prediction: Prediction, n: int) -> Json:
    """Box n, with its weight where there are several."""
    pixels = {"unit": "px", "system": "http://unitsofmeasure.org", "code": "{pixels}"}
    edges = zip(("x0", "y0", "x1", "y1"), prediction.boxes[n], strict=True)
    components: list[Json] = [
        {
            "code": {"text": f"{name} of the box in the film"},
            "valueQuantity": {"value": round(float(edge), 2), **pixels},
        }
        for name, edge in edges
    ]
    if len(prediction.boxes) > 1:
        weight = {"value": round(prediction.weights[n], DIGITS), **ONE}
        components.append({"code": _concept(codes.REGION_WEIGHT), "valueQuantity": weight})
    return {
        "code": _concept(codes.REGION),
        "valueCodeableConcept": _concept(region_kind(prediction)),
        "component": components,
    }


def _finding(prediction: Prediction, algorithm: Algorithm, k: int) -> Json:
    cut, side = prediction.cut, prediction.calls()[k]
    fitted = cut is None or bool(cut.fitted_K[k])
    numbers: list[tuple[Code, float]] = [
        (codes.SCORE, float(prediction.fusion_K[k])),
        (codes.SCORE_GLOBAL, float(prediction.global_K[k])),
        (codes.SCORE_LOCAL, float(prediction.local_K[k])),
    ]
    if prediction.calibrated_K is not None and fitted:
        numbers.insert(0, (codes.PROBABILITY, float(prediction.calibrated_K[k])))
    kinds: list[tuple[Code, Code]] = []
    state = codes.UNDETERMINED
    if side is not None and cut is not None:
        state, point = (codes.PRESENT if side else codes.ABSENT), cut.point
        numbers += [(codes.THRESHOLD, float(cut.score_K[k])), *_measured(algorithm, prediction.labels[k], point)]
        kinds.append((codes.POINT_KIND, codes.POINTS[point]))
    else:
        kinds.append((codes.POINT_KIND, codes.NOT_FITTED if fitted else codes.TOO_RARE))
    return {
        "code": _concept(codes.finding_code(prediction.labels[k], prediction.findings)),
        "valueCodeableConcept": _concept(state),
        "component": [
            *(
                {"code": _concept(code), "valueQuantity": {"value": round(value, DIGITS), **ONE}}
                for code, value in numbers
            ),
            *({"code": _concept(code), "valueCodeableConcept": _concept(value)} for code, value in kinds),
        ],
    }


def _measured(algorithm: Algorithm, label: str, point: Point) -> list[tuple[Code, float]]:
    """Sensitivity and specificity of the operating point on validation films."""
    points = algorithm.calibration.findings[label].points if algorithm.calibration else None
    if points is None:
        return []
    return [(codes.SENSITIVITY, points[point].sensitivity), (codes.SPECIFICITY, points[point].specificity)]


def _conclusion(prediction: Prediction) -> str:
    if prediction.refused:
        return " ".join([RESEARCH_ONLY, f"Not read: {'; '.join(reasons_of(prediction))}."])
    names = [codes.finding_code(prediction.labels[k], prediction.findings).meaning for k in called(prediction)]
    calls = f"Called: {', '.join(names)}." if names else "No finding called."
    return " ".join([*reservations(prediction), calls])


def _device(algorithm: Algorithm) -> Json:
    return {
        "resourceType": "Device",
        "status": "active",
        "manufacturer": NAME,
        "serialNumber": algorithm.fingerprint,
        "deviceName": [{"name": f"{NAME} {MODEL_NAME}", "type": "model-name"}],
        "version": [{"value": algorithm.version}],
        "property": [{"type": {"text": "parameter"}, "valueCode": [{"text": text}]} for text in algorithm.parameters],
        "note": [{"text": RESEARCH_ONLY}],
    }


def _about(header: Dataset | None) -> Json:
    """Patient, time and study; empty where there is no header."""
    if header is None:
        return {}
    about: Json = {
        "derivedFrom": [
            {
                "type": "ImagingStudy",
                "identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{header.StudyInstanceUID}"},
            }
        ]
    }
    if patient := str(header.get("PatientID") or "").strip():
        issuer = str(header.get("IssuerOfPatientID") or "").strip()
        identifier = {"value": patient, **({"assigner": {"display": issuer}} if issuer else {})}
        about["subject"] = {"type": "Patient", "identifier": identifier}
    date = str(header.get("StudyDate") or "")
    if re.fullmatch(r"\d{8}", date):
        about["effectiveDateTime"] = f"{date[:4]}-{date[4:6]}-{date[6:]}"
    return about


def _header(data: bytes) -> Dataset | None:
    """Of a DICOM film; None of others, and of one whose header results cannot refer to."""
    if is_picture(data):
        return None
    try:
        return read_source(data).dataset
    except RadiographError:
        return None


def _concept(code: Code) -> Json:
    system = SYSTEMS.get(code.scheme_designator, f"urn:agcxr:scheme:{quote(code.scheme_designator)}")
    return {"coding": [{"system": system, "code": code.value, "display": code.meaning}], "text": code.meaning}
