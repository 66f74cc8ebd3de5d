"""FHIR bundles: valid against models of the standard's resources, and saying what the prediction says."""

from __future__ import annotations

import csv
import dataclasses
import json

import cv2
import numpy as np
import pytest
from dicom_made import film, pixels, written

from agcxr.cli import main
from agcxr.dicom.algorithm import RESEARCH_ONLY
from agcxr.dicom.fhir import to_fhir
from agcxr.dicom.source import read_source
from agcxr.intake import Intake
from agcxr.labels import LABELS


def bundle_of(predictor, algorithm, data, **changes):
    prediction = dataclasses.replace(predictor(data), **changes)
    return prediction, to_fhir(prediction, algorithm, "film", read_source(data).dataset)


def resources(bundle: dict, kind: str) -> list[dict]:
    found = [entry["resource"] for entry in bundle["entry"]]
    return [resource for resource in found if resource["resourceType"] == kind]


def components(observation: dict) -> dict[str, object]:
    """Code -> number or code."""
    found = {}
    for part in observation["component"]:
        value = part.get("valueQuantity", {}).get("value")
        code = part["code"].get("coding", [{"code": part["code"]["text"]}])[0]["code"]
        found[code] = part["valueCodeableConcept"]["coding"][0]["code"] if value is None else value
    return found


def test_it_is_valid_with_and_without_a_header_a_call_and_a_refusal(predictor, algorithm):
    bundles = pytest.importorskip("fhir.resources.R4B.bundle", reason="fhir.resources is not installed")
    data = written(film())
    refused = {"intake": Intake("refuse", ("not of the chest",))}
    high = {"fusion_K": np.full(15, 0.9, np.float32)}
    made = [bundle_of(predictor, algorithm, data, **changes)[1] for changes in ({}, refused, high)]
    made.append(to_fhir(predictor(data), dataclasses.replace(algorithm, calibration=None), "film"))
    for bundle in made:
        bundles.Bundle.model_validate(bundle)
    wrong = json.loads(json.dumps(made[0]))
    wrong["entry"][0]["resource"]["status"] = ["final"]
    with pytest.raises(ValueError, match="status"):
        bundles.Bundle.model_validate(wrong)


def test_an_observation_states_what_the_report_states(predictor, algorithm):
    fusion = np.where(np.array(LABELS) == "Effusion", 0.9, 0.1).astype(np.float32)
    prediction, bundle = bundle_of(
        predictor, algorithm, written(film()), fusion_K=fusion, intake=Intake("warn", ("it is odd",))
    )
    region, *findings = resources(bundle, "Observation")
    assert [components(region)[f"{name} of the box in the film"] for name in ("x0", "y0", "x1", "y1")] == [
        pytest.approx(edge, abs=0.006) for edge in prediction.box
    ]
    by_name = {one["code"]["text"]: one for one in findings}
    assert len(by_name) == 15
    assert next(iter(by_name)) == "Pleural effusion"
    states = {name: one["valueCodeableConcept"]["text"] for name, one in by_name.items()}
    assert states.pop("Pleural effusion") == "Present"
    assert set(states.values()) == {"Undetermined"}
    effusion = components(by_name["Pleural effusion"])
    k = LABELS.index("Effusion")
    assert effusion["122157"] == pytest.approx(float(prediction.calibrated_K[k]), abs=1e-6)
    assert (effusion["SCORE_FUSION"], effusion["THRESHOLD"]) == (0.9, 0.5)
    assert (effusion["SENSITIVITY"], effusion["SPECIFICITY"], effusion["POINT_KIND"]) == (0.8, 0.7, "YOUDEN")
    hernia = components(by_name["Diaphragmatic hernia"])
    assert set(hernia) == {"SCORE_FUSION", "SCORE_GLOBAL", "SCORE_LOCAL", "POINT_KIND"}
    assert hernia["POINT_KIND"] == "TOO_RARE"
    (report,) = resources(bundle, "DiagnosticReport")
    assert report["conclusionCode"][0]["coding"] == [
        {
            "system": "http://snomed.info/sct",
            "code": "60046008",
            "display": "Pleural effusion",
        }
    ]
    assert report["conclusion"].endswith("Doubt about this film: it is odd Called: Pleural effusion.")
    assert {one["status"] for one in (report, *findings)} == {"preliminary"}
    notes = {note["text"] for one in findings for note in one["note"]}
    assert notes == {RESEARCH_ONLY, "Doubt about this film: it is odd"}
    assert report["subject"]["identifier"]["value"] == "SECRET-77"
    assert report["effectiveDateTime"] == "2024-05-06"
    text = json.dumps(bundle)
    assert "Secretname" not in text
    assert "19500102" not in text


def test_several_boxes_are_observations_of_their_own_with_their_weights(predictor, algorithm):
    boxes = ((20.0, 30.0, 80.0, 90.0), (110.0, 40.0, 170.5, 100.25))
    several = {"box": boxes[0], "boxes": boxes, "weights": (0.25, 0.75), "fallback": False}
    _, bundle = bundle_of(predictor, algorithm, written(film()), **several)
    first, second, finding = resources(bundle, "Observation")[:3]
    for region, box, weight in ((first, boxes[0], 0.25), (second, boxes[1], 0.75)):
        said = components(region)
        assert [said[f"{name} of the box in the film"] for name in ("x0", "y0", "x1", "y1")] == list(box)
        assert said["REGION_WEIGHT"] == weight
        assert region["valueCodeableConcept"]["coding"][0]["code"] == "ONE_OF_SEVERAL"
    assert "SCORE_FUSION" in components(finding)
    plain = bundle_of(predictor, algorithm, written(film()))[1]
    assert resources(plain, "Observation")[0]["id"] == first["id"] != second["id"]
    assert "REGION_WEIGHT" not in json.dumps(plain)


def test_references_meet_and_the_same_film_gives_the_same_ids(predictor, algorithm):
    data = written(film())
    bundle = bundle_of(predictor, algorithm, data)[1]
    urls = [entry["fullUrl"] for entry in bundle["entry"]]
    (report,) = resources(bundle, "DiagnosticReport")
    used = [one["reference"] for one in report["result"]]
    used += [one["device"]["reference"] for one in resources(bundle, "Observation")]
    assert set(used) == set(urls[1:])
    assert len(set(urls)) == len(urls) == 18
    assert [entry["fullUrl"] for entry in bundle_of(predictor, algorithm, data)[1]["entry"]] == urls
    other = to_fhir(predictor(data), dataclasses.replace(algorithm, fingerprint="0" * 16), "film")
    assert not set(urls) & {entry["fullUrl"] for entry in other["entry"]}


def test_a_refused_film_is_a_cancelled_report_without_numbers(predictor, algorithm):
    _, bundle = bundle_of(predictor, algorithm, written(film()), intake=Intake("refuse", ("not of the chest",)))
    (report,) = resources(bundle, "DiagnosticReport")
    assert (report["status"], resources(bundle, "Observation")) == ("cancelled", [])
    assert report["conclusion"].endswith("Not read: not of the chest.")
    assert "result" not in report


def test_predict_writes_a_bundle_of_each_film(model_folder, tmp_path, capsys):
    (tmp_path / "a.dcm").write_bytes(written(film()))
    cv2.imwrite(str(tmp_path / "b.png"), (pixels() >> 4).astype(np.uint8))
    (tmp_path / "c.png").write_bytes(b"no film")
    flags = ["--out", str(tmp_path / "out.csv"), "--fhir", str(tmp_path / "fhir"), "--dicom", str(tmp_path / "dicom")]
    flags += ["--objects", "pm,pr"]
    assert (
        main(["predict", str(model_folder), *(str(tmp_path / name) for name in ("a.dcm", "b.png", "c.png")), *flags])
        == 1
    )
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["fhir"] for row in rows] == [str(tmp_path / f"fhir/00000{n}.json") for n in (1, 2)] + [""]
    assert sorted(path.name for path in (tmp_path / "dicom/000001").iterdir()) == ["pm.dcm", "pr.dcm"]
    first, second = (json.loads((tmp_path / f"fhir/00000{n}.json").read_text()) for n in (1, 2))
    assert "subject" in resources(first, "DiagnosticReport")[0]
    assert "subject" not in resources(second, "DiagnosticReport")[0]
