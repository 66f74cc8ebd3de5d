import json

import pytest
from starlette.testclient import TestClient

from agcxr.inference.predictor import Predictor
from agcxr.serve.app import create_app
from agcxr.serve.limits import Limits

from . import make
from .browsing import BROWSER, FLAGS, open_page


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return make.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def engine(model_folder):
    return Predictor.from_pretrained(model_folder, device="cpu")


@pytest.fixture(scope="session")
def client(engine):
    """The whole app but the socket, with small limits."""
    limits = Limits(decoders=1, files=3, pixels=1_200_000, file_bytes=4 << 20, request_bytes=6 << 20)
    with TestClient(create_app(engine, limits=limits), base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="session")
def untouched(tmp_path_factory):
    """Empty folders that the server takes for its TMPDIR, HOME and working folder."""
    return {name: tmp_path_factory.mktemp(name) for name in ("tmpdir", "home", "cwd")}


@pytest.fixture(scope="session")
def server(model_folder, untouched, tmp_path_factory):
    """A real server in a process of its own, impatient."""
    limits = {"decoders": 1, "header": 1.5, "receive": 2, "pixels": 4_000_000, "queue": 16}
    options = json.dumps({"verbose": True, "check_films": False, "limits": limits})
    # matplotlib lists the fonts of the machine in a folder of its own, once
    env = {
        "TMPDIR": str(untouched["tmpdir"]),
        "HOME": str(untouched["home"]),
        "MPLCONFIGDIR": str(tmp_path_factory.mktemp("fonts")),
    }
    log = tmp_path_factory.mktemp("log") / "server.log"
    with make.running(model_folder, log, options=options, env=env, cwd=untouched["cwd"]) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    """Chromium. A module's: the loop that drives it would be in the way of other modules' own."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no chromium: install it (apt-get install chromium) or name one in AGCXR_CHROMIUM")
    sync.expect.set_options(timeout=20000)
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    page = open_page(browser, server.url)
    yield page
    page.unroute_all(behavior="ignoreErrors")
    page.context.close()
