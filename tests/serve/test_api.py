"""What the API answers: the right numbers, the right words, the right headers."""

import base64
import io
import json
import logging
from importlib.metadata import version

import cv2
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from agcxr.labels import LABELS, NO_FINDING
from agcxr.notices import RESEARCH_ONLY
from agcxr.serve.app import create_app, load_static, route_of
from agcxr.serve.guard import Access
from agcxr.serve.limits import Limits

from . import make


def send(client, *films, path="/v1/predict", **options):
    return client.post(path, files=[("file", film) for film in films], **options)


def decode(text):
    return cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_answer_is_the_predictors(client, engine, dtype):
    data = make.encode(make.pixels(130, 90, dtype=dtype))
    (answer,) = send(client, ("a.png", data)).json()["films"]
    expected = engine(data)
    found = {one["finding"]: one for one in answer["findings"]}
    assert set(found) == set(LABELS)
    for k, label in enumerate(LABELS):
        assert found[label]["fusion"] == pytest.approx(float(expected.fusion_K[k]), abs=1e-6)
        assert found[label]["global"] == pytest.approx(float(expected.global_K[k]), abs=1e-6)
        assert found[label]["local"] == pytest.approx(float(expected.local_K[k]), abs=1e-6)
        assert found[label]["calibrated"] == pytest.approx(float(expected.calibrated_K[k]), abs=1e-6)
    assert answer["attention"]["box"] == pytest.approx(expected.box, abs=1e-3)
    assert answer["attention"]["window"] == pytest.approx(expected.window, abs=1e-3)
    assert answer["film"]["bits"] == np.dtype(dtype).itemsize * 8
    assert (answer["film"]["width"], answer["film"]["height"]) == (90, 130)


def test_findings_are_sorted_and_judged(client, engine):
    (answer,) = send(client, ("a.png", make.encode(make.pixels()))).json()["films"]
    *rows, last = answer["findings"]
    assert last["finding"] == NO_FINDING
    assert [row["calibrated"] for row in rows] == sorted((row["calibrated"] for row in rows), reverse=True)
    for row in rows:
        known = engine.calibration.findings.get(row["finding"])
        point, threshold = row["operating_points"]["youden"], known.points["youden"].threshold
        assert point == {
            "threshold": pytest.approx(threshold),
            "calibrated": pytest.approx(float(known.curve(threshold))),
            "above": row["fusion"] >= threshold,
        }
        assert point["above"] == (row["calibrated"] >= point["calibrated"])


def test_several_films_keep_their_order_and_one_bad_film_spoils_nothing(client):
    films = [
        ("b.png", make.encode(make.pixels(seed=1))),
        ("x.txt", b"hello"),
        ("c.jpg", make.encode(make.pixels(seed=2), ".jpg")),
    ]
    response = send(client, *films)
    answers = response.json()["films"]
    assert response.status_code == 200
    assert [one["name"] for one in answers] == ["b.png", "x.txt", "c.jpg"]
    assert [one["index"] for one in answers] == [0, 1, 2]
    assert [one["status"] for one in answers] == ["read", "unreadable", "read"]
    assert answers[1]["reason"] == "not a PNG, JPEG, WebP or DICOM file: it looks like text"
    assert answers[1]["findings"] is None


def test_batched_equals_alone(client):
    films = [(f"{i}.png", make.encode(make.pixels(seed=i))) for i in range(3)]
    together = send(client, *films).json()["films"]
    for i, film in enumerate(films):
        (alone,) = send(client, film).json()["films"]
        for a, b in zip(together[i]["findings"], alone["findings"], strict=True):
            assert a["finding"] == b["finding"]
            assert a["fusion"] == pytest.approx(b["fusion"], abs=1e-5)


def test_a_film_as_the_whole_body(client):
    response = client.post("/v1/predict", content=make.encode(make.pixels()), headers={"content-type": "image/png"})
    assert response.json()["films"][0]["status"] == "read"


def test_pictures_come_on_request(client):
    film = ("a.png", make.encode(make.pixels()))
    assert send(client, film).json()["films"][0]["pictures"] is None
    pictures = send(client, film, path="/v1/predict?pictures=true").json()["films"][0]["pictures"]
    assert decode(pictures["heat"]).shape == (64, 64)
    assert decode(pictures["crop"]).shape == (64, 64)
    assert decode(pictures["thumbnail"]).shape == (73, 73)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_film_comes_back_without_loss(client, dtype):
    image = make.pixels(dtype=dtype)
    response = send(client, ("a.png", make.encode(image)), path="/v1/film")
    assert response.headers["content-type"] == "image/png"
    assert np.array_equal(cv2.imdecode(np.frombuffer(response.content, np.uint8), cv2.IMREAD_UNCHANGED), image)


def test_dicom(client):
    pytest.importorskip("pydicom")
    response = send(client, ("a.dcm", make.dicom(make.pixels(dtype=np.uint16))))
    (answer,) = response.json()["films"]
    assert answer["film"]["format"] == "dicom"
    assert answer["film"]["view_position"] == "PA"
    assert "secret" not in response.text.lower()


@pytest.mark.parametrize("branch", ["fusion", "global", "local"])
def test_maps_of_findings(client, branch):
    response = send(
        client, ("a.png", make.encode(make.pixels(120, 90))), path=f"/v1/map?finding=Effusion&branch={branch}"
    )
    answer = response.json()
    heat = decode(answer["heat"])
    assert heat.shape == (120, 90)
    assert (answer["finding"], answer["branch"]) == ("Effusion", branch)
    assert heat.max() == (0 if answer["empty"] else 255)


def test_the_picture(client):
    response = send(client, ("a.png", make.encode(make.pixels())), path="/v1/picture")
    assert Image.open(io.BytesIO(response.content)).size[0] == 1600


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/map?finding=Gout", 422, "unknown_finding"),
        ("/v1/map", 422, "bad_query"),
        ("/v1/map?finding=Effusion&branch=third", 422, "bad_query"),
        ("/v1/predict?pictures=perhaps", 422, "bad_query"),
        ("/v1/nothing", 404, "not_found"),
        ("/v1/model", 405, "bad_request"),
    ],
)
def test_impossible_questions(client, path, status, code):
    response = send(client, ("a.png", make.encode(make.pixels())), path=path)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert response.json()["research_only"] == RESEARCH_ONLY


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/film", "/v1/picture", "/v1/map?finding=Mass"])
def test_what_is_no_film_is_422_with_the_reason(client, path):
    response = send(client, ("a.png", b"GIF89a"), path=path)
    assert response.status_code == 422
    assert response.json()["error"] == {
        "code": "unreadable",
        "message": "not a PNG, JPEG, WebP or DICOM file: it looks like a GIF",
    }


def test_limits_on_uploads(client):
    small = ("a.png", make.encode(make.pixels()))
    cases = {
        "too_many": [small] * 4,
        "too_large": [("a.png", b"\x89PNG" + bytes(4 << 20))],
    }
    for code, films in cases.items():
        response = send(client, *films)
        assert (response.status_code, response.json()["error"]["code"]) == (413, code)
    response = client.post("/v1/predict", content=bytes(7 << 20))
    assert response.status_code == 413
    response = send(client, small, small, path="/v1/film")
    assert (response.status_code, response.json()["error"]["code"]) == (400, "one_film")


def test_a_bomb_is_refused_by_its_header(client):
    bomb = make.encode(np.zeros((1201, 1000), np.uint8))
    assert len(bomb) < 5000
    (answer,) = send(client, ("a.png", bomb)).json()["films"]
    assert "1000 x 1201 pixels, more than the 1,200,000 allowed" in answer["reason"]


def test_the_queue_is_bounded(engine):
    app = create_app(engine, limits=Limits(decoders=1, queue=2, files=2))
    with TestClient(app, base_url="http://localhost") as client:
        room = app._app.state.service.room
        with room.take(1):
            response = send(client, *[("a.png", make.encode(make.pixels()))] * 2)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "busy")
            assert 1 <= int(response.headers["retry-after"]) <= 60
            assert send(client, ("a.png", make.encode(make.pixels()))).status_code == 200
        assert send(client, *[("a.png", make.encode(make.pixels()))] * 2).status_code == 200


def test_memory_held_for_clients_is_bounded(engine):
    app = create_app(engine, limits=Limits(decoders=1, held_bytes=2000))
    with TestClient(app, base_url="http://localhost") as client:
        response = send(client, ("a.png", make.encode(make.pixels())))
        assert (response.status_code, response.headers["retry-after"]) == (503, "2")
        assert "agcxr_held_bytes 0.0" in client.get("/metrics").text


def test_every_answer_is_guarded(client):
    for path in ("/", "/static/app.js", "/health", "/v1/model", "/nowhere", "/metrics", "/openapi.json"):
        headers = client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-research-only"] == RESEARCH_ONLY
        assert "access-control-allow-origin" not in headers
    assert client.get("/v1/model").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
        {"origin": "http://localhost@evil.example"},
        {"origin": "ftp://localhost"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_sites_cannot_make_it_work(client, headers):
    response = client.post("/v1/predict", content=b"x", headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (403, "cross_site")


def test_no_preflight_is_granted(client):
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    response = client.options("/v1/predict", headers=headers)
    assert response.status_code in (403, 405)
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("[::1]:80", 200),
        ("127.0.0.1", 200),
        ("evil.example", 421),
        ("", 421),
        ("localhost:80@evil", 421),
    ],
)
def test_foreign_names_for_a_local_server(client, host, status):
    assert client.get("/health", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    "path", ["/", "/health", "/v1/model", "/v1/examples", "/metrics", "/static/app.js", "/openapi.json", "/nowhere"]
)
def test_head_is_get_without_its_body(client, path):
    head, get = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    if path != "/metrics":  # it has counted the first request by the second
        assert head.headers["content-length"] == str(len(get.content))


def test_a_method_that_is_not_answered_names_those_that_are(client):
    for path, allowed in (("/v1/predict", "POST"), ("/health", "GET, HEAD")):
        response = client.delete(path)
        assert (response.status_code, response.headers["allow"]) == (405, allowed)
    assert client.head("/v1/predict").status_code == 405


def test_a_form_of_tiny_parts_is_refused_early(client):
    part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n'
    body = part * 68 + b"--b--\r\n"
    response = client.post("/v1/predict", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert (response.status_code, response.json()["error"]) == (
        413,
        {"code": "too_many", "message": "a form may have at most 67 parts"},
    )


def test_the_description_says_who_may_ask(engine, client):
    spec = client.get("/openapi.json").json()
    (name, scheme), *others = spec["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"], others) == ("http", "bearer", [])
    assert spec["security"] == [{}, {name: []}]
    app = create_app(engine, limits=Limits(decoders=1), access=Access("t" * 16))
    with TestClient(app, base_url="http://localhost") as guarded:
        spec = guarded.get("/openapi.json", headers={"authorization": f"Bearer {'t' * 16}"}).json()
    assert spec["security"] == [{name: []}]
    assert [path for path, methods in spec["paths"].items() if methods.get("get", {}).get("security") == []] == [
        "/health"
    ]


def test_the_token(engine):
    token = "correct horse battery".replace(" ", "-")
    app = create_app(engine, limits=Limits(decoders=1), access=Access(token, local_only=False))
    with TestClient(app, base_url="http://reading-room.example") as client:
        assert (
            client.get("/").status_code
            == client.get("/health").status_code
            == client.get("/static/app.js").status_code
            == 200
        )
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Basic {token}"},
            {"authorization": "Bearer \xe9".encode("latin-1").decode("latin-1")},
        ):
            response = client.get("/v1/model", headers={k: v.encode("latin-1") for k, v in headers.items()})
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
        for path in ("/metrics", "/openapi.json"):
            assert client.get(path).status_code == 401
        assert client.get("/v1/model", headers={"authorization": f"Bearer {token}"}).status_code == 200


def test_model_metrics_examples(client, engine):
    model = client.get("/v1/model").json()
    assert model["research_only"] == RESEARCH_ONLY
    assert [one["label"] for one in model["labels"]] == list(LABELS)
    assert model["calibration"] == "platt"
    identity = engine.algorithm.version
    assert model["model"] == identity == f"{version('agcxr')}+{engine.algorithm.fingerprint}"
    assert send(client, ("a.png", make.encode(make.pixels()))).json()["model"] == identity
    assert "sensitivity" in model["labels"][0]["operating_points"]["youden"]
    send(client, ("a.png", make.encode(make.pixels())))
    text = client.get("/metrics").text
    assert 'agcxr_requests_total{route="/v1/predict",status="200"}' in text
    assert "agcxr_batch_films_count" in text
    first = client.get("/v1/examples").json()[0]["id"]
    data = client.get(f"/v1/examples/{first}").content
    assert send(client, ("example.png", data)).json()["films"][0]["film"]["bits"] == 16
    assert client.get("/v1/examples/../../etc/passwd").status_code == 404


def test_openapi_is_complete(client):
    spec = client.get("/openapi.json").json()
    assert RESEARCH_ONLY in spec["info"]["description"]
    assert set(spec["paths"]) == {
        "/v1/predict",
        "/v1/film",
        "/v1/map",
        "/v1/picture",
        "/v1/dicom",
        "/v1/model",
        "/v1/examples",
        "/v1/examples/{name}",
        "/health",
        "/metrics",
    }
    predict = spec["paths"]["/v1/predict"]["post"]
    assert "multipart/form-data" in predict["requestBody"]["content"]
    example = predict["responses"]["200"]["content"]["application/json"]["example"]
    from agcxr.serve.answers import ExampleAnswer, MapAnswer, ModelAnswer, PredictAnswer

    PredictAnswer.model_validate(example)
    described = spec["paths"]["/v1/map"]["post"]["responses"]
    MapAnswer.model_validate(described["200"]["content"]["application/json"]["example"])
    assert set(described["422"]["content"]["application/json"]["examples"]) >= {"refused", "unreadable"}
    PredictAnswer.model_validate(predict["responses"]["422"]["content"]["application/json"]["example"])
    ModelAnswer.model_validate(example_of(spec, "/v1/model"))
    assert [ExampleAnswer.model_validate(one) for one in example_of(spec, "/v1/examples")]
    assert example_of(spec, "/health") == client.get("/health").json()
    assert set(spec["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == {
        client.get("/metrics").headers["content-type"]
    }
    for path, methods in spec["paths"].items():
        if "post" in methods:
            assert set(methods["post"]["responses"]) >= {"200", "400", "401", "408", "413", "422", "503"}, path


def example_of(spec, path):
    return spec["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["example"]


def test_an_internal_error_says_nothing(engine, caplog, monkeypatch):
    app = create_app(engine, limits=Limits(decoders=1))
    monkeypatch.setattr(logging.getLogger("agcxr.serve"), "propagate", True)

    def fail(films):
        raise RuntimeError("Secret^Patient in the message")

    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        monkeypatch.setattr(app._app.state.service.batcher, "_run", fail)
        response = send(client, ("secret-name.png", make.encode(make.pixels())))
        assert response.status_code == 500
        assert response.json()["error"] == {
            "code": "internal",
            "message": "the server failed; nothing of your film was kept",
        }
        assert "agcxr_internal_errors_total 1.0" in client.get("/metrics").text
    assert "RuntimeError at" in caplog.text
    assert "secret" not in caplog.text.lower()


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/predict", "/v1/predict"),
        ("/v1/examples/x", "/v1/examples"),
        ("/static/a", "page"),
        ("/", "page"),
        ("/Smith", "other"),
    ],
)
def test_logs_and_counters_know_only_routes(path, route):
    assert route_of(path) == route


def test_the_page_stands_alone(client):
    page = client.get("/").text
    assert "Research use only. Not a medical device." in page
    names = sorted(name for name in load_static() if name.endswith((".js", ".css")))
    assert {"app.js", "stage.js", "style.css"} <= set(names)
    for text in [page, *(client.get(f"/static/{name}").text for name in names)]:
        assert "https://" not in text
        assert "http://" not in text
        assert "innerHTML" not in text
    assert "<script>" not in page
    assert " style=" not in page
    assert " onclick=" not in page
    assert json.loads(client.get("/openapi.json").text)
