"""Findings of a table of one's own, from the CSV through every layer to the DICOM report."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from starlette.testclient import TestClient

from agcxr.cli import main
from agcxr.config import Augment, Fusion, Local, Stage, Train, to_yaml
from agcxr.data import phantom
from agcxr.data.prepared import open_prepared
from agcxr.dicom.report import content
from agcxr.evaluation.results import load_results
from agcxr.findings import CHESTXRAY14, Findings
from agcxr.inference.export import facts
from agcxr.inference.onnx_engine import Facts, _findings
from agcxr.inference.predictor import Predictor
from agcxr.models.checkpoint import CARD_FILE, read_card
from agcxr.serve.app import create_app

OWN = Findings.of(["Tuberculosis", "Rib fracture", "Gerät im Bild", "Normal"])
FILMS = 60


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """60 films: three findings with unknown and uncertain cells, and one for none of them; by the commands of users."""
    root = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    table = pd.DataFrame({name: rng.random(FILMS) < 0.4 for name in OWN.names}).astype(int).astype(str)
    table["Normal"] = np.where((table == "1").any(axis=1), "", "1")
    table.loc[::9, "Rib fracture"], table.loc[4::9, "Gerät im Bild"] = "-1", ""
    for n in range(FILMS):
        drawn = phantom.film(np.random.default_rng(n), [], size=64).pixels_HW
        cv2.imwrite(str(root / f"{n:02}.png"), drawn)
    table.insert(0, "file", [f"{n:02}.png" for n in range(FILMS)])
    table.insert(1, "who", [n // 2 for n in range(FILMS)])
    table.to_csv(root / "labels.csv", index=False)
    command = ["prepare", "table", "--table", str(root / "labels.csv"), "--images", str(root), "--size", "64"]
    command += ["--image-column", "file", "--patient-column", "who", "--uncertain", "smoothed"]
    assert main([*command, "--out", str(root / "prepared")]) == 0
    return root / "prepared"


@pytest.fixture(scope="module")
def run(prepared) -> Path:
    common = {"epochs": 1, "batch_size": 16}
    settings = Train(
        backbone="test_resnet",
        weights="none",
        image_size=48,
        resize=56,
        augment=Augment(flip=0.5),
        global_=Stage(**common),
        local=Local(min_side=4, **common),
        fusion=Fusion(**common),
        precision="fp32",
    )
    to_yaml(settings, prepared.parent / "config.yaml")
    folder = prepared.parent / "run"
    command = ["train", "--data", str(prepared), "--config", str(prepared.parent / "config.yaml"), "--out", str(folder)]
    assert main(command) == 0
    assert main(["evaluate", str(folder), "--data", str(prepared), "--resamples", "50"]) == 0
    return folder


def test_the_prepared_folder_and_the_card_carry_the_set(prepared, run):
    plan = open_prepared(prepared).plan
    card = read_card(run / "model" / CARD_FILE)
    assert plan.findings == card.findings == OWN
    assert card.model.labels == OWN.labels
    header = (run / "fusion" / "metrics.csv").read_text().splitlines()[0]
    assert header.endswith("auc_Tuberculosis,auc_Rib fracture,auc_Gerät im Bild,auc_Normal")


def test_means_and_reports_are_over_its_findings(run):
    results = load_results(run / "evaluation" / "test")
    assert set(results.analysis.mean.findings) | set(results.analysis.mean.left_out) == set(OWN.names)
    assert not results.comparable
    page = (run / "evaluation" / "test" / "report.html").read_text(encoding="utf-8")
    assert "Gerät im Bild" in page
    assert "Normal is not in the mean." in page
    assert "Guan" not in page
    assert "Atelectasis" not in page


def test_answers_name_it_and_say_none_of_them_last(run, prepared):
    prediction = Predictor.from_pretrained(run)(prepared.parent / "00.png")
    assert prediction.findings == OWN
    assert prediction.labels[prediction.ranked()[-1]] == "Normal"
    assert {score.finding for score in prediction.top(9)} == set(OWN.names)
    assert prediction.probability("TB") == prediction.probability("Tuberculosis")


def test_the_page_takes_names_of_any_length_and_letters(run, prepared):
    with TestClient(create_app(Predictor.from_pretrained(run)), base_url="http://localhost") as client:
        film = {"files": ("film.png", (prepared.parent / "00.png").read_bytes(), "image/png")}
        findings = client.post("/v1/predict", files=film).json()["films"][0]["findings"]
        assert [row["finding"] for row in findings][-1] == "Normal"
        answer = client.post("/v1/map", params={"finding": "Gerät im Bild"}, files=film)
        assert (answer.status_code, answer.json()["finding"]) == (200, "Gerät im Bild")


def test_an_exported_file_carries_it_and_one_of_before_means_what_it_says(run):
    engine = Predictor.from_pretrained(run)
    known = facts(engine)
    assert known.labels == OWN.labels
    assert _findings(known, Path("m.onnx")) == OWN
    given = {**OWN.model_dump(mode="json"), "none": None, "codes": {}}
    changed = Facts.model_validate({**known.model_dump(), "card": {**known.card, "findings": given}})
    assert _findings(changed, Path("m.onnx")).none is None
    broken = Facts.model_validate({**known.model_dump(), "card": {**known.card, "findings": {"labels": ["x"]}}})
    with pytest.raises(ValueError, match="the findings in m.onnx lack its label 'Tuberculosis'; export it again"):
        _findings(broken, Path("m.onnx"))


def test_the_dicom_report_speaks_its_codes(run, prepared):
    predictor = Predictor.from_pretrained(run)
    prediction = predictor(prepared.parent / "00.png")
    header = pydicom.Dataset()
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.3"
    report = str(content(header, prediction, predictor.algorithm)[0])
    for words in ("56717001", "33737001", "Gerät im Bild", "None of the 3 findings"):
        assert words in report
    assert "46621007" not in report  # atelectasis


def test_own_predictions_are_scored_against_own_labels(run, tmp_path):
    frame = pd.read_parquet(run / "evaluation" / "test" / "predictions.parquet")
    scores = frame[["image_id", *(f"fusion_{name}" for name in OWN.labels)]]
    scores.rename(columns=lambda name: name.replace("fusion_", "prob_")).to_csv(tmp_path / "p.csv", index=False)
    command = ["score", str(tmp_path / "p.csv"), "--labels", str(run.parent / "labels.csv"), "--image-column", "file"]
    pd.read_csv(tmp_path / "p.csv").rename(columns={"image_id": "file"}).to_csv(tmp_path / "p.csv", index=False)
    assert main([*command, "--resamples", "20", "--out", str(tmp_path / "scored.json")]) == 0
    scored = json.loads((tmp_path / "scored.json").read_text())
    assert {one["finding"] for one in scored["findings"]} == set(OWN.labels)


def test_a_model_of_the_fifteen_meets_own_labels_by_what_they_mean(prepared):
    films = open_prepared(prepared)
    renamed = Findings.of(["Tuberculosis", "Pleural Effusion", "Gerät im Bild", "Normal"])
    assert CHESTXRAY14.column("Effusion", renamed) == "Pleural Effusion"
    with pytest.raises(ValueError, match="states none of the model's labels, Mass, so there is nothing to compare"):
        films.targets(np.arange(2), ["Mass"])
    assert films.unstated(CHESTXRAY14) == CHESTXRAY14.names
