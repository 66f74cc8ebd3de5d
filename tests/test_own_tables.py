"""Four tables of other findings than the fifteen over real films, each through every command to the DICOM report: three
findings, the 30 of CXR-LT, one, and CheXpert's 14 with uncertain labels."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from starlette.testclient import TestClient

from agcxr.cli import main
from agcxr.config import Local, Stage, Train, to_yaml
from agcxr.data.external_terms import CHEXPERT_COLUMNS
from agcxr.data.prepared import read_plan
from agcxr.dicom.codes import finding_code
from agcxr.evaluation.results import load_results
from agcxr.findings import CHESTXRAY14, CXR_LT_30, Findings
from agcxr.inference.load import load_engine
from agcxr.models.checkpoint import CARD_FILE, read_card
from agcxr.serve.app import create_app
from serve import make

NIH = Path(__file__).parents[2] / "shared" / "nih"
FILMS = 160
THREE = ("Tuberculosis", "Rib fracture", "Großes Herz")
SIGNS = {"Tuberculosis": "Infiltration", "Rib fracture": "Mass", "Großes Herz": "Cardiomegaly"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (NIH / "images").is_dir(), reason="the real films of ../shared/nih are not here"),
]


def rows() -> pd.DataFrame:
    """The first films, and a column of 0 and 1 for each of the fifteen."""
    table = pd.read_csv(NIH / "Data_Entry_2017_v2020.csv.gz").assign(stem=lambda t: t["Image Index"].str[:-4])
    table = table[table["stem"].isin([path.stem for path in (NIH / "images").iterdir()])].head(FILMS)
    seen = table["Finding Labels"].str.get_dummies("|").reindex(columns=list(CHESTXRAY14.labels), fill_value=0)
    return pd.concat([table[["stem", "Patient ID"]], seen], axis=1).reset_index(drop=True)


def prepare_three(root: Path) -> list[str]:
    """A file of findings with an alias and a code of the clinic's own."""
    table, rng = rows(), np.random.default_rng(0)
    own = table[["stem", "Patient ID"]].assign(**{name: table[sign] for name, sign in SIGNS.items()})
    own["unremarkable"] = (own[list(THREE)].sum(axis=1) == 0).astype(int)
    own.loc[rng.random(len(own)) < 0.1, "Tuberculosis"] = -1
    own.rename(columns={"Großes Herz": "COR"}).to_csv(root / "labels.csv", index=False)
    code = {"scheme": "99CLINIC", "value": "COR", "meaning": "Großes Herz"}
    findings = {"name": "Klinik", "labels": [*THREE, "unremarkable"], "none": "unremarkable"}
    findings |= {"short": {"Großes Herz": "Herz"}, "localised": ["Großes Herz"]}
    findings |= {"aliases": {"cor": "Großes Herz"}, "codes": {"Großes Herz": code}}
    (root / "clinic.json").write_text(json.dumps(findings))
    return [*of_table(root), "--findings", str(root / "clinic.json"), "--uncertain", "ones"]


def prepare_thirty(root: Path) -> list[str]:
    """As the challenge's table: its own spellings; what the NIH does not state is drawn."""
    table, rng = rows(), np.random.default_rng(1)
    own = table[["stem", "Patient ID"]].copy()
    for label in CXR_LT_30.labels:
        known = CXR_LT_30.column(label, CHESTXRAY14)
        drawn = (rng.random(len(own)) < 0.15) & (table["No Finding"] == 0)
        own[label] = table[known] if known else drawn.astype(int)
    own.to_csv(root / "labels.csv", index=False)
    return [*of_table(root), "--findings", "cxr-lt-30"]


def prepare_one(root: Path) -> list[str]:
    table = rows()
    own = table[["stem", "Patient ID"]].assign(Tuberculosis=np.where(table["Infiltration"] == 1, "yes", "no"))
    own.to_csv(root / "labels.csv", index=False)
    return of_table(root)


def of_table(root: Path) -> list[str]:
    words = ["table", "--table", str(root / "labels.csv"), "--images", str(NIH / "images")]
    return [*words, "--image-column", "stem", "--patient-column", "Patient ID"]


def prepare_chexpert(root: Path) -> list[str]:
    """A table in CheXpert's layout: 1, 0, -1 and blank, films in folders of patients and studies."""
    table, rng = rows(), np.random.default_rng(2)
    patient = table["Patient ID"].astype(str).str.zfill(5)
    own = pd.DataFrame({"Path": "CheXpert/train/patient" + patient + "/study1/" + table["stem"] + ".jpg"})
    own = own.assign(Sex="Male", Age=60, **{"Frontal/Lateral": "Frontal", "AP/PA": "PA"})
    for label in CHEXPERT_COLUMNS:
        known = CHESTXRAY14.canonical(label)
        own[label] = table[known].astype(float) if known else (rng.random(len(own)) < 0.3).astype(float)
        own.loc[rng.random(len(own)) < 0.2, label] = np.nan
        if label != "No Finding":
            own.loc[rng.random(len(own)) < 0.15, label] = -1.0
    own.to_csv(root / "labels.csv", index=False)
    for path, stem in zip(own["Path"], table["stem"], strict=True):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(NIH / "images" / f"{stem}.jpg", root / path)
    words = ["chexpert", "--images", str(root / "CheXpert"), "--labels", str(root / "labels.csv"), "--split", "patient"]
    return [*words, "--findings", "own", "--uncertain", "smoothed"]


def settings(root: Path) -> Path:
    stage = {"epochs": 1, "batch_size": 16}
    made = Train(
        backbone="test_resnet",
        weights="none",
        image_size=112,
        resize=128,
        precision="fp32",
        global_=Stage(**stage),
        local=Local(min_side=4, **stage),
    )
    to_yaml(made, root / "config.yaml")
    return root / "config.yaml"


@pytest.mark.parametrize(
    ("name", "prepare", "labels"),
    [
        ("three", prepare_three, (*THREE, "unremarkable")),
        ("thirty", prepare_thirty, CXR_LT_30.labels),
        ("one", prepare_one, ("Tuberculosis",)),
        ("chexpert", prepare_chexpert, CHEXPERT_COLUMNS),
    ],
)
def test_a_table_goes_through_every_command(
    name: str, prepare: Callable[[Path], list[str]], labels: tuple[str, ...], tmp_path: Path
) -> None:
    prepared, run = tmp_path / "prepared", tmp_path / "run"
    assert main(["prepare", *prepare(tmp_path), "--size", "128", "--out", str(prepared)]) == 0
    findings = read_plan(prepared).findings
    assert findings.labels == labels
    assert main(["train", "--data", str(prepared), "--config", str(settings(tmp_path)), "--out", str(run)]) == 0
    answered = read_card(run / "model" / CARD_FILE).labels  # all but what these few films did not teach
    assert set(answered) <= set(labels)
    assert len(answered) > len(labels) - 3
    assert main(["evaluate", str(run), "--resamples", "50"]) == 0
    results = load_results(run / "evaluation" / "test")
    assert set(results.analysis.mean.findings) <= set(findings.names)
    page = (run / "evaluation" / "test" / "report.html").read_text(encoding="utf-8")
    assert all(label.replace("_", " ") in page for label in results.analysis.mean.findings)

    film = tmp_path / "film.dcm"
    image = cv2.imread(str(next((NIH / "images").iterdir())), cv2.IMREAD_GRAYSCALE)
    film.write_bytes(make.dicom(image, BodyPartExamined="CHEST"))
    out = {key: tmp_path / key for key in ("dicom", "fhir", "explained")}
    words = ["--dicom", str(out["dicom"]), "--fhir", str(out["fhir"]), "--explain", str(out["explained"])]
    assert main(["predict", str(run), str(film), "--out", str(tmp_path / "p.csv"), *words]) == 0
    assert main(["export", str(run), "--out", str(tmp_path / "model.onnx")]) == 0
    assert main(["predict", str(tmp_path / "model.onnx"), str(film), "--out", str(tmp_path / "q.csv")]) == 0
    eager, exported = (_row(tmp_path / file) for file in ("p.csv", "q.csv"))
    columns = [f"prob_{label}" for label in answered]
    assert [key for key in eager if key.startswith("prob_")] == columns
    assert [float(eager[key]) for key in columns] == pytest.approx([float(exported[key]) for key in columns], abs=2e-6)

    findings = findings.restricted(answered)
    _check_dicom(out["dicom"], findings)
    bundle = next(out["fhir"].rglob("*.json")).read_text(encoding="utf-8")
    codes = [finding_code(label, findings).value for label in findings.names]
    assert [code for code in codes if f'"code": "{code}"' not in bundle] == []
    assert all(cv2.imread(str(path)) is not None for path in out["explained"].rglob("*.png"))
    for source in (run, tmp_path / "model.onnx"):
        with TestClient(create_app(load_engine(source)), base_url="http://localhost") as client:
            answer = client.post("/v1/predict", files={"files": ("film.dcm", film.read_bytes(), "application/dicom")})
            assert {row["finding"] for row in answer.json()["films"][0]["findings"]} == set(answered)
            assert client.post("/v1/dicom", content=film.read_bytes()).status_code == 200


def _row(path: Path) -> dict[str, str]:
    return next(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def _check_dicom(folder: Path, findings: Findings) -> None:
    """The report says every finding by its code, standard or private."""
    every = [pydicom.dcmread(path) for path in folder.rglob("*.dcm")]
    assert {each.Modality for each in every} >= {"SR", "SEG"}
    report = str(next(each for each in every if each.Modality == "SR"))
    codes = [finding_code(label, findings).value for label in findings.names]
    assert [code for code in codes if f"'{code}'" not in report] == []
