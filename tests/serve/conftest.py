import json

import pytest
from starlette.testclient import TestClient

from agcxr.inference.predictor import Predictor
from agcxr.serve.app import create_app
from agcxr.serve.engine import Engine
from agcxr.serve.limits import Limits

from . import make


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return make.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def engine(model_folder):
    return Engine.eager(Predictor.from_pretrained(model_folder, device="cpu"))


@pytest.fixture(scope="session")
def client(engine):
    """The whole app but the socket, with small limits."""
    limits = Limits(decoders=1, files=3, pixels=1_200_000, file_bytes=4 << 20, request_bytes=6 << 20)
    with TestClient(create_app(engine, limits=limits), base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="session")
def server(model_folder, tmp_path_factory):
    """A real server in a process of its own, impatient."""
    limits = {"decoders": 1, "header": 1.5, "receive": 2, "pixels": 4_000_000, "queue": 16}
    options = json.dumps({"verbose": True, "check_films": False, "limits": limits})
    with make.running(model_folder, tmp_path_factory.mktemp("log") / "server.log", options=options) as running:
        yield running
