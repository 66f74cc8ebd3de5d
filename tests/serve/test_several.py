"""A model that looks at several regions of a film: what the API says of them, and what the page draws."""

import json
import re

import pytest
from starlette.testclient import TestClient

from agcxr.inference.predictor import Predictor
from agcxr.serve.app import create_app
from agcxr.serve.limits import Limits
from agcxr.values import Attention

from . import make
from .browsing import drop, open_page, shot, wait_for_film


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    look = Attention(statistic="l2", crops=3, window=0.25, min_side=4)
    return make.save_model(tmp_path_factory.mktemp("several"), attention=look, pool="mean")


def test_the_answer_has_every_box_and_its_weight(folder, client):
    engine, film = Predictor.from_pretrained(folder, device="cpu"), make.encode(make.pixels(130, 90))
    expected = engine(film)
    assert len(expected.boxes) == 3
    with TestClient(create_app(engine, limits=Limits(decoders=1)), base_url="http://localhost") as several:
        (answer,) = several.post("/v1/predict", files=[("file", ("a.png", film))]).json()["films"]
    attention = answer["attention"]
    assert [one["box"] for one in attention["boxes"]] == [pytest.approx(box, abs=1e-3) for box in expected.boxes]
    assert [one["weight"] for one in attention["boxes"]] == pytest.approx([1 / 3] * 3, abs=1e-6)
    assert attention["boxes"][0]["box"] == attention["box"]
    (plain,) = client.post("/v1/predict", files=[("file", ("a.png", film))]).json()["films"]
    assert plain["attention"]["boxes"] is None


def test_the_page_draws_every_box_with_number_and_weight(folder, browser, tmp_path):
    from playwright.sync_api import expect

    with make.running(folder, tmp_path / "log", options=json.dumps({"check_films": False})) as running:
        page = open_page(browser, running.url)
        drop(page, ("a.png", make.encode(make.pixels(400, 300))))
        wait_for_film(page)
        expect(page.locator("#crop-text")).to_contain_text(
            "The first of 3 regions; their weights: 1 · 33 %, 2 · 33 %, 3 · 33 %."
        )
        expect(page.locator("#film")).to_have_attribute("aria-label", re.compile(r"It is the first of 3\."))
        page.locator("#heat-on").click()
        drawn = shot(page)
        page.locator("#box-on").click()
        plain = shot(page)
        lines = abs(drawn - plain) > 20
        engine = Predictor.from_pretrained(folder, device="cpu")
        scale, left, top = page.evaluate(
            "import('./static/stage.js').then(({viewer}) => [viewer.scale, viewer.left, viewer.top])"
        )
        for x0, _, x1, y1 in engine(make.encode(make.pixels(400, 300))).boxes:
            y = round(y1 * scale + top)
            edge = lines[y - 2 : y + 3, round(x0 * scale + left) + 3 : round(x1 * scale + left) - 3].any(0)
            assert edge.mean() > 0.9
        assert page.problems == []
        page.context.close()
