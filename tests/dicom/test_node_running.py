"""A node as a hospital runs it: TLS in both directions, health and metrics, a shadow model, figures by day, a soak."""

from __future__ import annotations

import json
import os
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from dicom_made import film
from node_made import Bench, FakeArchive, send, wait_for
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from agcxr import tokens
from agcxr.dicom.node import Node
from agcxr.dicom.tls import Tls
from agcxr.dicom_commands import days
from agcxr.inference.predictor import Predictor
from agcxr.models.agcnn import AGCNN

REFUSED_SOCKETS = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)
"""pynetdicom drops sockets that were refused; its thread ends with an error where a socket closes early."""


def echo(port: int, tls: Tls | None) -> bool:
    """Whether a scanner is answered."""
    ae = AE(ae_title="XRAY")
    ae.connection_timeout = ae.acse_timeout = ae.network_timeout = 10
    ae.add_requested_context(Verification)
    arguments = None if tls is None else (tls.calling(), "127.0.0.1")
    association = ae.associate("127.0.0.1", port, ae_title="AGCXR", tls_args=arguments)
    if not association.is_established:
        return False
    answered = association.send_c_echo().get("Status") == 0
    association.release()
    return answered


def test_films_and_results_travel_by_tls(certificates, predictor, tmp_path):
    archive = FakeArchive()
    archive.tls = certificates("archive").accepting()
    bench = Bench(predictor, archive.up(), tmp_path / "q.sqlite")
    with bench.node(tls=certificates("node")) as node:
        ae = AE(ae_title="XRAY")
        ae.add_requested_context(film().SOPClassUID, ExplicitVRLittleEndian)
        arguments = (certificates("scanner").calling(), "127.0.0.1")
        association = ae.associate("127.0.0.1", node.port, ae_title="AGCXR", tls_args=arguments)
        assert association.send_c_store(film()).Status == 0
        association.release()
        wait_for(lambda: len(archive.taken) == 3)
    archive.down()


@REFUSED_SOCKETS
def test_only_who_is_certified_is_answered_and_nobody_waits_for_the_silent(certificates, bench):
    with bench.node(tls=certificates("node")) as node:
        silent = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(3)]
        silent[1].sendall(b"\x16\x03\x01\x02\x00")  # the beginning of a handshake
        begun = time.monotonic()
        assert echo(node.port, certificates("scanner"))
        assert time.monotonic() - begun < 8
        assert not echo(node.port, certificates("stranger"))
        assert not echo(node.port, None)
        assert echo(node.port, certificates("scanner"))
        for line in silent:
            line.close()


@REFUSED_SOCKETS
def test_an_archive_that_is_not_certified_gets_nothing(certificates, predictor, tmp_path):
    archive = FakeArchive()
    archive.tls = certificates("stranger").accepting()
    bench = Bench(predictor, archive.up(), tmp_path / "q.sqlite")
    with bench.node(tls=certificates("node")):
        key = bench.queue.key("1.2.3", "model")
        bench.queue.add(key, b"film")
        bench.queue.made(bench.queue.next_received().number, (("sr", b"report"),))
        bench.queue.retry()
    assert archive.taken == []
    archive.down()


def test_files_that_are_no_certificates_are_told(certificates, tmp_path):
    good = certificates("node")
    (tmp_path / "none.pem").write_text("nothing")
    for wrong in (
        Tls(tmp_path / "none.pem", good.key, good.authorities),
        Tls(good.certificate, tmp_path / "missing", good.authorities),
        Tls(good.certificate, good.key, tmp_path / "none.pem"),
        Tls(good.certificate, certificates("archive").key, good.authorities),
    ):
        with pytest.raises(ValueError, match=r"TLS with .* does not work .*; expected PEM files"):
            wrong.accepting()


def get(port: int, path: str, token: str | None = None, tls: ssl.SSLContext | None = None) -> tuple[int, str]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    url = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}{path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10, context=tls) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@REFUSED_SOCKETS
def test_health_and_metrics_say_how_a_node_is(bench, archive, algorithm, monkeypatch):
    archive.down()
    with bench.node(metrics_port=0) as node:
        status, text = get(node.watch.port, "/health")
        health = json.loads(text)
        assert (status, health["status"], health["archive"], health["model"]) == (
            *(200, "ok", "not called yet"),
            algorithm.version,
        )
        assert send(node.port, film()) == [0]
        wait_for(lambda: get(node.watch.port, "/health")[0] == 503)
        assert json.loads(get(node.watch.port, "/health")[1])["archive"] == "away"
        assert "agcxr_node_archive_up 0.0" in get(node.watch.port, "/metrics")[1]
        archive.up()
        wait_for(lambda: len(archive.taken) == 3)
        wait_for(lambda: get(node.watch.port, "/health")[0] == 200)
        metrics = get(node.watch.port, "/metrics")[1]
        assert get(node.watch.port, "/secret")[0] == 404
    for line in (
        f'agcxr_model_info{{version="{algorithm.version}"}} 1.0',
        'agcxr_node_films{state="done"} 1.0',
        "agcxr_node_oldest_seconds 0.0",
        "agcxr_node_archive_up 1.0",
        f'agcxr_node_read_total{{model="{algorithm.version}",outcome="read"}} 1.0',
    ):
        assert line in metrics.splitlines()
    assert "Secret" not in metrics


def test_metrics_ask_for_a_token_as_the_page_does_and_health_for_none(bench, tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"scraper {'s' * 20}\n")
    with bench.node(metrics_port=0, token="t" * 20, token_file=file) as node:
        port = node.watch.port
        assert get(port, "/health")[0] == 200
        assert [get(port, "/metrics", token)[0] for token in (None, "wrong", "t" * 20, "s" * 20)] == [
            401,
            401,
            200,
            200,
        ]
        file.write_text(f"other {'o' * 20}\n")
        os.utime(file, ns=(0, 10**18))
        assert [get(port, "/metrics", token)[0] for token in ("s" * 20, "o" * 20)] == [401, 200]
        assert [get(port, "/metrics", f"guess {n}")[0] for n in range(tokens.TRIES)][-1] == 429
        assert get(port, "/metrics", "o" * 20)[0] == 200  # one in use goes on
        assert get(port, "/secret")[0] == 404
    bench.queue.close()
    (changed,) = [event["note"] for event in bench.events() if event["event"] == "tokens"]
    assert changed == "the file of tokens has changed: 1 are valid"


def test_metrics_are_not_open_to_other_machines_without_a_token(bench):
    with pytest.raises(ValueError, match=r"/metrics on 0.0.0.0 needs a token that those who ask show: set AGCXR_TOKEN"):
        bench.node(host="0.0.0.0", metrics_port=0)
    bench.queue.close()


def test_health_metrics_and_stow_are_by_https_where_dicom_is_by_tls(certificates, bench):
    authorities = ssl.create_default_context(cafile=str(certificates("node").authorities))
    with bench.node(tls=certificates("node"), metrics_port=0, stow_port=0) as node:
        with socket.create_connection(("127.0.0.1", node.watch.port)):  # silent: holds up nobody
            assert get(node.watch.port, "/health", tls=authorities)[0] == 200
            assert "agcxr_model_info" in get(node.watch.port, "/metrics", tls=authorities)[1]
        assert get(node.stow.port, "/studies", tls=authorities)[0] == 405
        for port in (node.watch.port, node.stow.port):
            with pytest.raises((urllib.error.URLError, OSError)):
                get(port, "/health")
    bench.queue.close()


def test_a_shadow_is_heard_and_not_sent(bench, archive, algorithm, tmp_path, capsys):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        AGCNN("test_resnet", weights="none", image_size=64, resize=80).save_pretrained(tmp_path / "shadow")
    shadow = Predictor.from_pretrained(tmp_path / "shadow", device="cpu")
    with bench.node() as plain:
        settings, queue, journal = plain._settings, plain._queue, plain._journal
    with Node(bench.predictor, settings, queue, journal, shadow) as node:
        assert send(node.port, film()) == [0]
        wait_for(lambda: bench.names()["shadow"] == 1)
        wait_for(lambda: len(archive.taken) == 3)
    bench.queue.close()
    assert archive.results_of(film().SOPInstanceUID, algorithm) == ["sr", "sc", "seg"]
    (event,) = [event for event in bench.events() if event["event"] == "shadow"]
    assert event["model"] == shadow.algorithm.version != algorithm.version
    assert 0 < event["largest_difference"] < 1
    assert set(event["scores"]) == set(bench.predictor.labels)
    (received,) = [event for event in bench.events() if event["event"] == "received"]
    assert received["caller"] == "XRAY"

    assert days(queue=bench.path) == 0
    head, *rows = (line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert head[:7] == ["day", "model", "read", "refused", "ignored", "failed", "refusal_rate"]
    assert {row[1] for row in rows} == {algorithm.version, shadow.algorithm.version}
    assert [row[2:7] for row in rows] == [["1", "0", "0", "0", "0.0000"]] * 2
    shown = {row[1]: [float(cell) for cell in row[7:]] for row in rows}
    assert shown[shadow.algorithm.version] == pytest.approx(list(event["scores"].values()), abs=1e-3)
    assert shown[algorithm.version] != shown[shadow.algorithm.version]


def test_trouble_of_a_shadow_is_no_films_trouble(bench, archive, monkeypatch):
    class Broken:
        def __init__(self, predictor):
            self.algorithm, self.prepared_size = predictor.algorithm, predictor.prepared_size

        def __call__(self, read):
            raise RuntimeError("Secretname")

    with bench.node() as plain:
        settings, queue, journal = plain._settings, plain._queue, plain._journal
    with Node(bench.predictor, settings, queue, journal, Broken(bench.predictor)) as node:
        assert send(node.port, film()) == [0]
        wait_for(lambda: bench.names()["done"] == 1)
    assert bench.names()["shadow failed"] == 1
    assert "Secretname" not in bench.journal.getvalue()


@REFUSED_SOCKETS
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_a_small_soak(tmp_path, monkeypatch):
    """The node is killed and the archive goes away every few seconds; the page is of 1,000 films."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2]))
    from benchmarks.node_soak import page, soak

    outcome = soak(9, "starter", 3, tmp_path, pause=(4, 12), objects="sr,sc,seg")
    assert (outcome.lost, outcome.doubled, outcome.left) == (0, 0, 0)
    assert outcome.over
    assert "| films lost | 0 |" in page(outcome, "starter", 3)
