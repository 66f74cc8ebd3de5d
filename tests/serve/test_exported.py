"""`agcxr serve model.onnx`: the run's answers, without torch."""

import os
import sys

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from agcxr.cli import main
from agcxr.inference.predictor import Predictor
from agcxr.serve.app import create_app
from agcxr.serve.limits import Limits

from . import make

NO_TORCH = """
from pathlib import Path

Path(__file__).with_name("was_imported").touch()
raise ImportError("torch was to stay out")
"""


@pytest.fixture(scope="module")
def onnx_file(model_folder, tmp_path_factory):
    for name in ("onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="the extra `export` is not installed")
    from agcxr.inference.export import write

    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    write(Predictor.from_pretrained(model_folder, device="cpu"), path)
    return path


@pytest.fixture(scope="module")
def film():
    return {"file": ("a.png", make.encode(make.pixels(130, 90, dtype=np.uint16)))}


def test_its_answers_are_those_of_the_run(onnx_file, film, client):
    from agcxr.inference.onnx_engine import OnnxPredictor

    engine = OnnxPredictor(onnx_file, threads=1)
    with TestClient(create_app(engine, limits=Limits(decoders=1)), base_url="http://localhost") as exported:
        (told,), (expected,) = (one.post("/v1/predict", files=film).json()["films"] for one in (exported, client))
        for mine, theirs in zip(told["findings"], expected["findings"], strict=True):
            assert mine["finding"] == theirs["finding"]
            for number in ("fusion", "global", "local", "calibrated"):
                assert mine[number] == pytest.approx(theirs[number], abs=1e-4)
            assert mine["operating_points"] == theirs["operating_points"]
        assert told["attention"]["box"] == pytest.approx(expected["attention"]["box"], abs=0.01)
        model, other = (one.get("/v1/model").json() for one in (exported, client))
        assert (model["maps"], model["backbone"], model["image_size"]) == (False, "test_resnet", 64)
        assert model["model"] != other["model"]  # the last digits of its answers may differ
        response = exported.post("/v1/map?finding=Mass", files=film)
        assert (response.status_code, response.json()["error"]["code"]) == (501, "no_maps")


def test_the_command_serves_it_without_torch(onnx_file, film, tmp_path):
    (tmp_path / "torch.py").write_text(NO_TORCH)  # found before the real one, by the decoders too
    paths = (str(tmp_path), os.environ.get("PYTHONPATH"))
    env = {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [sys.executable, "-m", "agcxr", "serve", str(onnx_file), "--port", "0", "--no-check-films"]
    with make.running(onnx_file, tmp_path / "log", command=command, env=env) as server:
        answer = httpx.post(f"{server.url}/v1/predict?pictures=true", files=film, timeout=60).json()
        assert answer["films"][0]["status"] == "read"
        assert httpx.post(f"{server.url}/v1/picture", files=film, timeout=60).status_code == 200
        assert httpx.get(f"{server.url}/v1/model").json()["precision"].startswith("fp32")
    assert not (tmp_path / "was_imported").exists()


def test_a_device_that_it_cannot_use_is_refused(onnx_file, capsys):
    assert main(["serve", str(onnx_file), "--port", "0", "--device", "cuda"]) == 2
    assert "is an exported file: it answers on the CPU; for cuda give the run folder" in capsys.readouterr().err
