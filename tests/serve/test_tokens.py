"""Who may ask the page: tokens that are exchanged while it runs, guessing, and the audit of films."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys

import pytest
from starlette.testclient import TestClient

from agcxr import tokens as tokens_module
from agcxr.serve.app import create_app
from agcxr.serve.guard import Access
from agcxr.serve.limits import Limits, check_exposure
from agcxr.tokens import TRIES, Tokens

from . import make

WARD, CLINIC, NEW = "ward-token-0123456789", "clinic-token-0123456789", "new-token-0123456789"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"# who may ask\nward {WARD}\n\nclinic {CLINIC}\n")
    return path


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(tokens_module.time, "monotonic", lambda: now[0])
    return now


def change(file, text: str) -> None:
    file.write_text(text)
    os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns + 1_000_000_000))


def test_tokens_have_names_and_are_exchanged_while_the_server_runs(file):
    tokens = Tokens("a-token-of-the-environment", file)
    names = [tokens.name_of(given) for given in (WARD, CLINIC, "a-token-of-the-environment", NEW, "", "w\u00e4rd")]
    assert names == ["ward", "clinic", "token", None, None, None]
    change(file, f"ward {NEW}\n")
    assert [tokens.name_of(given) for given in (WARD, CLINIC, NEW)] == [None, None, "ward"]
    change(file, "half a line")
    assert tokens.name_of(NEW) == "ward"
    file.unlink()
    assert tokens.name_of(NEW) == "ward"


def test_a_file_without_tokens_is_refused(tmp_path):
    wrong = {"": "holds no token", f"ward {WARD}\nclinic short": "line 2: expected NAME TOKEN", "x": "line 1: expected"}
    for text, reason in wrong.items():
        (tmp_path / "tokens").write_text(text)
        with pytest.raises(ValueError, match=reason):
            Tokens(file=tmp_path / "tokens")
    assert not Tokens().needed
    check_exposure("0.0.0.0", None, False, token_file=tmp_path / "tokens")


def test_guessing_is_throttled_and_tokens_in_use_go_on(file, clock):
    tokens = Tokens(file=file)
    assert tokens.judge(WARD, "proxy") == ("ward", 0)
    assert [tokens.judge(f"guess {i}", "proxy") for i in range(TRIES)] == [(None, 0)] * TRIES
    assert tokens.judge("guess", "proxy") == (None, 60)
    assert tokens.judge(CLINIC, "proxy") == (None, 60)  # right, but never seen: it may be a guess
    assert tokens.judge(WARD, "proxy") == ("ward", 0)
    assert tokens.judge(CLINIC, "elsewhere") == ("clinic", 0)
    clock[0] += 30
    assert tokens.judge("guess", "proxy") == (None, 30)
    clock[0] += 31
    assert tokens.judge("guess", "proxy") == (None, 0)


def test_a_withdrawn_token_is_not_in_use_any_more(file, clock):
    tokens = Tokens(file=file)
    assert tokens.judge(WARD, "proxy") == ("ward", 0)
    change(file, f"clinic {CLINIC}\n")
    assert tokens.judge(WARD, "proxy") == (None, 0)


def test_addresses_are_forgotten(file, clock, monkeypatch):
    monkeypatch.setattr(tokens_module, "ADDRESSES", 3)
    tokens = Tokens(file=file)
    for address in range(10):
        tokens.judge("guess", str(address))
    assert list(tokens._wrong) == ["7", "8", "9"]


def test_the_page_throttles_and_audits(engine, file, tmp_path):
    audit, film = tmp_path / "audit.jsonl", make.encode(make.pixels())
    access = Access(local_only=False, token_file=file)
    app = create_app(engine, limits=Limits(decoders=1), access=access, audit=audit)
    with TestClient(app, base_url="http://reading-room.example") as client:

        def post(token: str, data: bytes):
            return client.post("/v1/predict", content=data, headers={"authorization": f"Bearer {token}"})

        read = post(WARD, film)
        assert read.status_code == 200
        assert post(CLINIC, b"Secretname").status_code == 422
        assert [post("guess-0123456789", film).status_code for _ in range(TRIES + 1)] == [401] * TRIES + [429]
        assert post("guess-0123456789", film).headers["retry-after"].isdigit()
        assert client.get("/v1/model", headers={"authorization": f"Bearer {WARD}"}).status_code == 200
        metrics = client.get("/metrics", headers={"authorization": f"Bearer {WARD}"}).text
    version = engine.algorithm.version
    assert f'agcxr_model_info{{version="{version}"}} 1.0' in metrics
    sums = [line for line in metrics.splitlines() if line.startswith("agcxr_score_sum_total{")]
    assert [line.partition('finding="')[2].partition('"')[0] for line in sums] == list(engine.labels)
    total = sum(finding["fusion"] for finding in read.json()["films"][0]["findings"])
    assert sum(float(line.rpartition(" ")[2]) for line in sums) == pytest.approx(total, abs=1e-3)
    assert "agcxr_throttled_total 2.0" in metrics
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    facts = [(line["client"], line["route"], line["status"], line["model"], line["film"]) for line in lines]
    assert facts == [
        ("ward", "/v1/predict", 200, version, hashlib.sha256(film).hexdigest()),
        ("clinic", "/v1/predict", 422, version, hashlib.sha256(b"Secretname").hexdigest()),
    ]
    assert "Secretname" not in audit.read_text()
    if sys.platform != "win32":
        assert stat.S_IMODE(audit.stat().st_mode) == 0o600
