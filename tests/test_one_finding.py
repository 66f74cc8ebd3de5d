"""A table that states Pneumonia alone, through every command: no other finding speaks anywhere."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from starlette.testclient import TestClient

from agcxr.cli import main
from agcxr.config import Augment, Fusion, Local, Stage, Train, to_yaml
from agcxr.data import phantom
from agcxr.data.prepared import open_prepared
from agcxr.dicom.results import make_results
from agcxr.dicom.source import read_source
from agcxr.evaluation.results import load_results
from agcxr.evaluation.study import study
from agcxr.experiments.ablate import ablate
from agcxr.inference.explain import _rows
from agcxr.inference.onnx_engine import OnnxPredictor
from agcxr.inference.predictor import Predictor
from agcxr.labels import LABELS
from agcxr.models.agcnn import AGCNN
from agcxr.models.checkpoint import CARD_FILE, read_card
from agcxr.serve.app import create_app
from agcxr.serve.limits import Limits

torch.set_num_threads(1)

OTHERS = [label for label in LABELS if label != "Pneumonia"]
FILMS, SIDE = 60, 96


def names(text: str) -> list[str]:
    """The other labels that a text names, as columns or as people write them."""
    return [label for label in OTHERS if label in text or label.replace("_", " ") in text]


def settings(**changes) -> Train:
    common = {"epochs": 1, "batch_size": 16}
    return Train(
        **(
            {
                "backbone": "test_resnet",
                "weights": "none",
                "image_size": 48,
                "resize": 56,
                "augment": Augment(flip=0.5),
                "global_": Stage(**common),
                "local": Local(min_side=4, **common),
                "fusion": Fusion(**common),
                "precision": "fp32",
            }
            | changes
        )
    )


def film(seed: int) -> np.ndarray:
    findings = ("Pneumonia",) if seed % 3 == 0 else ()
    drawn = phantom.film(np.random.default_rng(seed), findings, size=128).pixels_HW
    return cv2.resize(drawn, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for n in range(FILMS):
        cv2.imwrite(str(folder / f"{n:02}.png"), film(n))
    return folder


def prepared_of(films: Path, folder: Path, columns: dict[str, list[object]]) -> Path:
    rows = {"Path": [f"{n:02}.png" for n in range(FILMS)], "Patient": [n // 2 for n in range(FILMS)]}
    folder.mkdir(parents=True)
    pd.DataFrame(rows | columns).to_csv(folder / "table.csv", index=False)
    command = ["prepare", "table", "--table", str(folder / "table.csv"), "--images", str(films)]
    command += ["--image-column", "Path", "--patient-column", "Patient", "--size", "64", "--out", str(folder / "out")]
    assert main(command) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def prepared(films, tmp_path_factory) -> Path:
    pneumonia = [int(n % 3 == 0) for n in range(FILMS)]
    return prepared_of(films, tmp_path_factory.mktemp("table") / "t", {"Pneumonia": pneumonia})


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    to_yaml(settings(), folder / "config.yaml")
    command = ["train", "--data", str(prepared), "--config", str(folder / "config.yaml")]
    assert main([*command, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    assert main(["export", str(run), "--out", str(path)]) == 0
    return path


def test_the_card_counts_what_was_taught(run, prepared):
    index = open_prepared(prepared).index
    train = index.loc[index["split"] == "train", "Pneumonia"]
    card = read_card(run / "model" / CARD_FILE)
    assert card.taught == {"Pneumonia": (int((train == 1).sum()), int((train == 0).sum()))}
    assert card.labels == ("Pneumonia",)
    assert card.model.labels == LABELS  # the network's outputs stay, so that stages and weights fit as ever


def test_training_scores_nothing_else(run):
    done = json.loads((run / "fusion" / "done.json").read_text())
    assert [name for name, auc in done["val_auc_per_finding"].items() if auc is not None] == ["Pneumonia"]
    assert done["val_auc"] == done["val_auc_per_finding"]["Pneumonia"]


def test_predict_has_columns_of_one_finding(run, exported, films, tmp_path):
    heads, scores = [], []
    for engine in (run, exported):
        out, pictures = (tmp_path / f"{Path(engine).stem}{name}" for name in (".csv", "-pictures"))
        command = ["predict", str(engine), str(films / "00.png"), "--out", str(out), "--explain", str(pictures)]
        assert main(command) == 0
        with out.open(newline="") as file:
            (row,) = csv.DictReader(file)
        heads.append(list(row))
        scores.append([float(row[f"{branch}_Pneumonia"]) for branch in ("prob", "global", "local")])
    assert heads[0] == heads[1]
    assert [name for name in heads[0] if "_" in name][:5] == [
        f"{kind}_Pneumonia" for kind in ("prob", "global", "local", "calibrated", "call")
    ]
    assert not names(" ".join(heads[0]))
    assert scores[0] == pytest.approx(scores[1], abs=2e-6)


def test_a_prediction_knows_one_finding(run, films):
    predictor = Predictor.from_pretrained(run, device="cpu")
    answer = predictor(films / "00.png")
    assert answer.labels == predictor.labels == ("Pneumonia",)
    assert [len(one) for one in (answer.global_K, answer.local_K, answer.fusion_K, answer.calls())] == [1] * 4
    assert [one.finding for one in answer.top()] == ["Pneumonia"]
    assert [row.finding for row in _rows(answer)] == ["Pneumonia"]  # of the picture
    with pytest.raises(ValueError, match="unknown finding 'Effusion'; this model knows Pneumonia$"):
        answer.probability("Effusion")
    with pytest.raises(ValueError, match="the model does not know Effusion; it knows Pneumonia$"):
        predictor.finding_maps(np.zeros((1, 64, 64), np.uint8), ["Effusion"])
    with pytest.raises(ValueError, match="prevalence names 'Effusion', which this model does not know; it knows Pneu"):
        Predictor.from_pretrained(run, device="cpu", prevalence={"Effusion": 0.1})


def test_its_maps_are_those_of_its_own_output(run):
    predictor = Predictor.from_pretrained(run, device="cpu")
    film_1SS = cv2.resize(film(0), (64, 64), interpolation=cv2.INTER_AREA)[None]
    narrow = predictor.finding_maps(film_1SS, ["Pneumonia"])
    network = AGCNN.from_pretrained(run)
    assert network.card is not None
    network.card = network.card.model_copy(update={"taught": None, "calibration": None})
    wide = Predictor(network, device="cpu").finding_maps(film_1SS, ["Pneumonia"])
    assert np.array_equal(narrow.global_Bhw, wide.global_Bhw)


def test_evaluation_is_of_one_finding(run, prepared, capsys):
    assert main(["evaluate", str(run), "--data", str(prepared), "--resamples", "50"]) == 0
    said = capsys.readouterr().out
    folder = run / "evaluation" / "test"
    results = load_results(folder)
    assert [one.finding for one in results.analysis.labels] == ["Pneumonia"]
    assert results.analysis.mean.findings == ("Pneumonia",)
    assert {row.group for row in results.crops} == {"All films", "Pneumonia"}
    silent = "The model was not taught, and so says nothing of: "
    before, _, after = said.partition(silent)
    assert not names(before)
    assert after.startswith("Atelectasis, Cardiomegaly, Effusion, Infiltration, Mass, Nodule, Pneumothorax, Cons")
    assert "Mean of" not in before  # it would repeat the only row
    assert not names((folder / "scores.json").read_text() + (folder / "results.json").read_text())
    assert not names(" ".join(pd.read_parquet(folder / "predictions.parquet").columns))
    page = (folder / "report.md").read_text()
    measured = page[: page.index("## Data, configuration, hardware")]  # then the prepared folder's plan
    assert measured.count(silent) == 1
    assert not names(measured.replace(next(line for line in measured.splitlines() if line.startswith(silent)), ""))


def test_an_exported_file_says_what_it_knows(exported, run):
    engine, eager = OnnxPredictor(exported), Predictor.from_pretrained(run, device="cpu")
    assert engine.labels == ("Pneumonia",)
    assert engine.facts.card["taught"] == {"Pneumonia": list(read_card(run / "model" / CARD_FILE).taught["Pneumonia"])}
    found = engine.run(np.stack([film(1), film(2)]))
    assert [found[name].shape for name in ("global", "local", "fusion", "calibrated")] == [(2, 1)] * 4
    images = np.stack([cv2.resize(film(n), (64, 64), interpolation=cv2.INTER_AREA) for n in (1, 2)])
    assert engine.predict_arrays(images).fusion_NK == pytest.approx(eager.predict_arrays(images).fusion_NK, abs=2e-6)


@pytest.mark.parametrize("kind", ["run", "exported"])
def test_the_page_answers_for_one_finding(kind, run, exported, films):
    engine = Predictor.from_pretrained(run, device="cpu") if kind == "run" else OnnxPredictor(exported)
    data = (films / "00.png").read_bytes()
    with TestClient(create_app(engine, limits=Limits(decoders=1)), base_url="http://localhost") as client:
        model = client.get("/v1/model").json()
        assert [one["label"] for one in model["labels"]] == ["Pneumonia"]
        response = client.post("/v1/predict", files={"files": ("a.png", data)})
        (answer,) = response.json()["films"]
        assert [one["finding"] for one in answer["findings"]] == ["Pneumonia"]
        assert not names(response.text)
        refused = client.post("/v1/map?finding=Effusion", files={"file": ("a.png", data)})
        assert refused.status_code == 422
        assert refused.json()["error"]["message"] == "this model does not know that finding; it knows Pneumonia"
        made = client.post("/v1/dicom", files={"file": ("a.dcm", _dicom(film(0)))})
        with zipfile.ZipFile(io.BytesIO(made.content)) as file:
            report = pydicom.dcmread(io.BytesIO(file.read("sr.dcm")))
        assert _measured(report) == ["Pneumonia"]


def test_the_dicom_report_measures_one_finding(run):
    data = _dicom(film(0))
    predictor = Predictor.from_pretrained(run, device="cpu")
    made = dict(make_results(read_source(data), predictor(data), predictor.algorithm))
    assert _measured(made["sr"]) == ["Pneumonia"]
    assert not names(str(made["sr"]))


def _measured(report: pydicom.Dataset) -> list[str]:
    """Meanings of the findings that a structured report states to be present, absent or undetermined."""
    return [
        item.ConceptNameCodeSequence[0].CodeMeaning
        for item in report.iterall()
        if item.keyword == "ContentSequence"
        for item in item.value
        if "ConceptCodeSequence" in item
        and item.ConceptCodeSequence[0].CodeMeaning in ("Present", "Absent", "Undetermined")
    ]


def _dicom(pixels: np.ndarray) -> bytes:
    from serve.make import dicom

    return dicom(pixels.astype(np.uint16) * 16, BodyPartExamined="CHEST")


# --- where a run comes from -------------------------------------------------------------------------------------------


def test_an_old_card_counts_all_as_taught(run, films, tmp_path):
    """As before; and for the label that both answer for to the bit."""
    network = AGCNN.from_pretrained(run)
    assert network.card is not None
    network.save_pretrained(tmp_path / "old", network.card.model_copy(update={"taught": None}))
    text = json.loads((tmp_path / "old" / CARD_FILE).read_text())
    del text["taught"]
    (tmp_path / "old" / CARD_FILE).write_text(json.dumps(text))
    old, new = (Predictor.from_pretrained(one, device="cpu") for one in (tmp_path / "old", run))
    assert old.labels == LABELS
    wide, narrow = old(films / "03.png"), new(films / "03.png")
    k = LABELS.index("Pneumonia")
    for branch in ("global", "local", "fusion"):
        assert wide.branch(branch).shape == (15,)
        assert wide.branch(branch)[k] == narrow.branch(branch)[0]
    assert old.algorithm.fingerprint != new.algorithm.fingerprint


def test_a_model_taught_everything_answers_as_one_that_does_not_say(films):
    torch.manual_seed(0)
    network = AGCNN("test_resnet", weights="none", image_size=48, resize=56)
    plain = Predictor(network, device="cpu")(films / "00.png")
    network.card = network.new_card(taught=dict.fromkeys(LABELS, (3, 4)))
    told = Predictor(network, device="cpu")(films / "00.png")
    assert told.labels == plain.labels == LABELS
    for branch in ("global", "local", "fusion"):
        assert np.array_equal(told.branch(branch), plain.branch(branch))


def test_an_ablation_compares_the_arms_on_what_they_were_taught(prepared, tmp_path, capsys):
    found = ablate(prepared, settings(), tmp_path / "out", only=["start"], resamples=20).results
    assert (found.findings, found.left_out) == (("Pneumonia",), tuple(OTHERS[:-1]))
    assert "Mean AUROC over 1 finding on" in capsys.readouterr().out


def test_a_model_of_no_finding_alone_is_evaluated(films, tmp_path, capsys):
    clear = [int(n % 3 != 0) for n in range(FILMS)]
    data = prepared_of(films, tmp_path / "table", {"No Finding": clear})
    to_yaml(settings(), tmp_path / "config.yaml")
    out = tmp_path / "run"
    assert main(["train", "--data", str(data), "--config", str(tmp_path / "config.yaml"), "--out", str(out)]) == 0
    done = study(out, data, resamples=20)
    assert [one.finding for one in done.results.analysis.labels] == ["No Finding"]
    assert done.results.analysis.mean.findings == ()
    assert "says nothing of: Atelectasis, Cardiomegaly" in capsys.readouterr().out


def test_boxes_of_other_findings_are_not_measured(run, prepared, tmp_path, capsys):
    """Test films whose boxes are all of a finding that the model does not know have nothing to measure it by."""
    films = open_prepared(prepared)
    test = films.index[films.index["split"] == "test"]
    rows = test.index.to_numpy()
    boxes = pd.DataFrame(
        {"image_id": test["image_id"], "finding": "Effusion", "x0": 0.2, "y0": 0.2, "x1": 0.6, "y1": 0.7, "row": rows}
    )
    done = study(run, replace(films, boxes=boxes), resamples=20, out=tmp_path / "none")
    assert done.localization is None
    assert not (tmp_path / "none" / "coverage.json").exists()
    assert "What the crop shows" not in capsys.readouterr().out
    own = boxes.assign(finding=["Pneumonia", "Effusion"] * (len(boxes) // 2) + ["Pneumonia"] * (len(boxes) % 2))
    done = study(run, replace(films, boxes=own), resamples=20, out=tmp_path / "some")
    assert done.localization is not None
    covered = json.loads((tmp_path / "some" / "coverage.json").read_text())
    assert [row["finding"] for row in covered["rows"]] == ["Pneumonia", "Mean"]
    assert {one.finding for one in done.results.examples} == {"Pneumonia"}
