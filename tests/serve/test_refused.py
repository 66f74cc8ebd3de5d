"""Films that the model may not speak about: by their pixels, or by what the network makes of them."""

import importlib

import numpy as np
from starlette.testclient import TestClient

from agcxr import intake
from agcxr.inference.predictor import Predictor
from agcxr.serve.app import create_app
from agcxr.serve.limits import Limits

from . import make
from .test_api import decode, send

INTAKE = """
from agcxr.intake import Intake

def refuse_wide(film):
    if film.width > film.height:
        return Intake("refuse", ("a frontal chest film is not wider than high",))
    return Intake("warn", ("this check is made up",))
"""


def test_the_place_of_the_intake_check(engine, tmp_path, monkeypatch):
    (tmp_path / "made_up_intake.py").write_text(INTAKE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # for the decoding process
    monkeypatch.syspath_prepend(tmp_path)
    judge = importlib.import_module("made_up_intake").refuse_wide
    app = create_app(engine, limits=Limits(decoders=1), judge=judge)
    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/v1/model").json()["intake"] is True
        wide, high = make.encode(make.pixels(50, 80)), make.encode(make.pixels(80, 50))
        first, second = send(client, ("w.png", wide), ("h.png", high)).json()["films"]
        assert (first["status"], first["reason"]) == ("refused", "a frontal chest film is not wider than high")
        assert first["findings"] is None
        assert first["attention"] is None
        assert first["film"]["width"] == 80
        assert first["pictures"] is None
        (looked,) = send(client, ("w.png", wide), path="/v1/predict?pictures=true").json()["films"]
        assert decode(looked["pictures"].pop("thumbnail")).shape == (73, 73)
        assert looked["pictures"] == {"heat": None, "crop": None}
        assert second["intake"] == {"decision": "warn", "reasons": ["this check is made up"]}
        assert second["findings"]
        response = send(client, ("w.png", wide), path="/v1/picture")
        assert (response.status_code, response.json()["error"]["code"]) == (422, "refused")
        assert send(client, ("w.png", wide), path="/v1/film").status_code == 200  # one may look at it


def test_the_programs_own_check(engine):
    app = create_app(engine, limits=Limits(decoders=1), judge=intake.judge)
    with TestClient(app, base_url="http://localhost") as client:
        noise = np.random.default_rng(0).integers(0, 256, (512, 512), dtype=np.uint8)
        chest = client.get("/v1/examples/mass").content
        first, second = send(client, ("noise.png", make.encode(noise)), ("chest.png", chest)).json()["films"]
        assert (first["status"], first["findings"]) == ("refused", None)
        assert first["reason"]
        assert second["status"] == "read"


def test_a_film_of_strange_features_gets_neither_numbers_nor_maps(tmp_path):
    strange = Predictor.from_pretrained(make.save_model(tmp_path, strange=True), device="cpu")
    app = create_app(strange, limits=Limits(decoders=1), judge=intake.judge)
    with TestClient(app, base_url="http://localhost") as client:
        film = ("chest.png", client.get("/v1/examples/mass").content)  # its pixels are those of a chest film
        (answer,) = send(client, film).json()["films"]
        assert (answer["status"], answer["findings"], answer["attention"]) == ("refused", None, None)
        assert "seen nothing like it" in answer["reason"]
        for path in ("/v1/map?finding=Mass", "/v1/picture"):
            response = send(client, film, path=path)
            assert (response.status_code, response.json()["error"]["code"]) == (422, "refused")
        assert send(client, film, path="/v1/film").status_code == 200
