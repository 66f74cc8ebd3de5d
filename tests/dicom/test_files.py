from __future__ import annotations

import csv
import subprocess
import sys

import cv2
import pydicom
from dicom_made import film, pixels, written

from agcxr.cli import main
from agcxr.dicom.objects import result_uid
from agcxr.inference.onnx_engine import OnnxPredictor
from agcxr.inference.predictor import Predictor


def test_predict_writes_dicom_beside_the_rows(model_folder, tmp_path, capsys):
    films = tmp_path / "films"
    films.mkdir()
    (films / "a.dcm").write_bytes(written(film(1)))
    cv2.imwrite(str(films / "b.png"), (pixels(seed=2) // 16).astype("uint8"))
    (films / "c.dcm").write_bytes(written(film(3)))
    (films / "d.dcm").write_bytes(b"nothing")
    table, out = tmp_path / "p.csv", tmp_path / "out"
    status = main(["predict", str(model_folder), str(films), "--out", str(table), "--dicom", str(out)])
    assert status == 1
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert len(rows) == 4
    assert [row["dicom"] for row in rows] == [str(out / "000001"), "", str(out / "000003"), ""]
    assert rows[1]["dicom_reason"].startswith("not a DICOM file")
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.dcm")) == [
        f"{folder}/{role}.dcm" for folder in ("000001", "000003") for role in ("sc", "seg", "sr")
    ]
    report = pydicom.dcmread(out / "000003" / "sr.dcm")
    assert report.StudyInstanceUID == film(3).StudyInstanceUID
    said = capsys.readouterr().err
    assert "DICOM results of 2 films" in said
    assert "1 without: not a DICOM file" in said


def test_a_film_that_is_none_for_the_model_has_no_dicom_results(model_folder, tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(written(film(1, Manufacturer="agcxr")))
    flags = ["--out", str(tmp_path / "p.csv"), "--dicom", str(tmp_path / "out")]
    assert (
        main(["predict", str(model_folder), str(path), *flags]) == 1
    )  # the film is in the table, but results were asked for
    (row,) = csv.DictReader((tmp_path / "p.csv").read_text().splitlines())
    assert (row["dicom"], row["dicom_reason"]) == ("", "a result of agcxr itself")
    assert row["prob_Effusion"]


def test_another_precision_makes_other_objects(predictor):
    plain = predictor.algorithm
    half = Predictor(predictor.model, device="cpu", precision="bf16")
    assert half.algorithm.version != plain.version
    assert "precision bf16" in half.algorithm.parameters
    assert Predictor(predictor.model, device="cpu", precision="fp32").algorithm.version == plain.version


def test_without_failures_the_status_is_0(model_folder, tmp_path, capsys):
    path = tmp_path / "a.dcm"
    path.write_bytes(written(film(1)))
    flags = ["--out", str(tmp_path / "p.csv"), "--dicom", str(tmp_path / "out")]
    assert main(["predict", str(model_folder), str(path), *flags]) == 0
    assert "DICOM results of 1 films" in capsys.readouterr().err


def test_another_reading_says_so_and_makes_other_objects(model_folder, tmp_path):
    path = tmp_path / "a.dcm"
    path.write_bytes(written(film(1)))
    plain = ["predict", str(model_folder), str(path), "--out", str(tmp_path / "p.csv"), "--overwrite", "--dicom"]
    assert main([*plain, str(tmp_path / "plain")]) == 0
    assert main([*plain, str(tmp_path / "other"), "--point", "sensitivity95", "--prevalence", "Effusion=0.1"]) == 0
    one, other = (pydicom.dcmread(tmp_path / name / "000001" / "sr.dcm") for name in ("plain", "other"))
    assert one.SOPInstanceUID != other.SOPInstanceUID
    added = {e.value for e in other.iterall() if e.keyword == "TextValue"}
    added -= {e.value for e in one.iterall() if e.keyword == "TextValue"}
    assert {"operating point sensitivity95", "prevalence of Effusion 0.1"} <= added


def test_the_node_command_says_what_is_wrong(model_folder, tmp_path, capsys):
    flags = ["--queue", str(tmp_path / "q.sqlite")]
    assert main(["dicom-node", str(model_folder), "--send-to", "nowhere", *flags]) == 2
    assert "expected TITLE@host:port" in capsys.readouterr().err
    assert main(["dicom-node", str(tmp_path), "--send-to", "A@h:1", *flags]) == 2
    assert "agcxr dicom-node:" in capsys.readouterr().err
    assert main(["dicom-node", str(tmp_path / "absent.onnx"), "--send-to", "A@h:1", *flags]) == 2
    assert "expected one written by `agcxr export RUN --out model.onnx`" in capsys.readouterr().err
    assert not (tmp_path / "q.sqlite").exists()


def test_the_node_command_says_what_an_exported_file_needs(onnx_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    flags = ["--send-to", "A@h:1", "--queue", str(tmp_path / "q.sqlite")]
    assert main(["dicom-node", str(onnx_file), *flags]) == 2
    assert "agcxr dicom-node: an exported file needs ONNX Runtime: install `onnxruntime`" in capsys.readouterr().err


def test_predict_writes_dicom_of_an_exported_file_without_torch(onnx_file, tmp_path):
    (tmp_path / "a.dcm").write_bytes(written(film(1)))
    words = ["predict", str(onnx_file), str(tmp_path / "a.dcm"), "--out", str(tmp_path / "p.csv")]
    code = f"""
import sys
from agcxr.cli import main

status = main({[*words, "--dicom", str(tmp_path / "out")]!r})
print(status, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False"]
    report = pydicom.dcmread(tmp_path / "out" / "000001" / "sr.dcm")
    assert report.SOPInstanceUID == result_uid(film(1).SOPInstanceUID, OnnxPredictor(onnx_file).algorithm, "sr")
