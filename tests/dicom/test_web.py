"""Results by STOW-RS to a small archive, films by STOW-RS to the node, and `predict` of a study of an archive."""

from __future__ import annotations

import csv
import io
import json

import httpx
import numpy as np
import pydicom
import pytest
from dicom_made import CR, DX, film, written
from node_made import wait_for

from agcxr.data.multipart import join_parts
from agcxr.dicom.archive import ArchiveDown, ArchiveRefused, ArchiveSilent
from agcxr.dicom.objects import result_uid
from agcxr.dicom.peers import Peer
from agcxr.dicom.stow import StowService, meta_uids, response
from agcxr.dicom.web_archive import WebArchive, WebPeer, parse_archive
from agcxr.inference.batch import predict_files
from agcxr.tokens import Tokens
from dicomweb_made import item, running

SR = "1.2.840.10008.5.1.4.1.1.88.33"


@pytest.fixture
def service():
    with running() as made:
        yield made


def refusal(code: int, sequence: str = "00081198", tag: str = "00081197") -> bytes:
    return json.dumps({sequence: {"vr": "SQ", "Value": [{tag: {"vr": "US", "Value": [code]}}]}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, b"", None),
        (200, b"<xml/>", None),
        (200, refusal(0xB000, "00081199", "00081196"), "status B000"),
        (202, refusal(0x0111), "status 0111, it had it already"),
        (409, refusal(0x0111), "status 0111, it had it already"),
        (200, refusal(0xA700), ("later", "status A700")),
        (409, refusal(0xA900), ("never", "status A900")),
        (409, refusal(0xC122), ("again", "status C122")),
        (409, b"", ("again", "HTTP status 409")),
        (500, b"", ("again", "HTTP status 500")),
        (415, b"", ("never", "HTTP status 415")),
        (401, b"", ArchiveDown),
        (404, b"", ArchiveDown),
        (503, b"", ArchiveDown),
        (307, b"", ArchiveDown),
    ],
)
def test_what_a_web_archive_answers_means_what_c_store_means(service, status, body, outcome):
    service.answers = [(status, body)]
    archive = WebArchive(WebPeer(service.root))
    if outcome is ArchiveDown:
        with pytest.raises(ArchiveDown, match=f"^status {status}$"):
            archive.store(b"file")
    elif isinstance(outcome, tuple):
        with pytest.raises(ArchiveRefused) as told:
            archive.store(b"file")
        assert (told.value.verdict, str(told.value)) == outcome
    else:
        assert archive.store(b"file") == outcome


def test_a_web_archive_that_is_away_is_down_and_one_that_hangs_up_silent(service, monkeypatch):
    with pytest.raises(ArchiveDown, match="no connection"):
        WebArchive(WebPeer("http://127.0.0.1:1/x")).store(b"file")
    monkeypatch.setattr(service.RequestHandlerClass, "do_POST", lambda handler: handler.connection.close())
    with pytest.raises(ArchiveSilent):
        WebArchive(WebPeer(service.root)).store(b"file")


def test_an_archive_is_a_title_or_an_address():
    assert parse_archive("A@h:104") == Peer("A", "h", 104)
    assert parse_archive("https://h/x/") == WebPeer("https://h/x")
    with pytest.raises(ValueError, match="http:// only to this machine"):
        parse_archive("http://h/x")


def test_meta_information_names_the_film_and_hostile_files_name_none():
    data = written(film())
    assert meta_uids(data) == (DX, film().SOPInstanceUID)
    cuts = [meta_uids(data[:n]) for n in range(len(data[:400]))]
    assert set(cuts) == {None, (DX, film().SOPInstanceUID)}
    random = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(data[:400])
        for place in random.integers(128, 400, 8):
            broken[place] = random.integers(256)
        meta_uids(bytes(broken))  # never raises


def post(port: int, *files: bytes, kind: str = "application/dicom", **headers: str) -> httpx.Response:
    content = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b0'}
    body = join_parts([(kind, file) for file in files], "b0")
    return httpx.post(f"http://127.0.0.1:{port}/studies", content=body, headers={**content, **headers}, timeout=30)


def test_films_by_stow_are_read_and_results_sent_by_stow(algorithm, service, bench):
    """The whole way without a DICOM association: film in and results out by HTTP."""
    service.answers = [(200, b"")] * 3
    first, second = film(), film(1, sop_class=CR)
    second.file_meta.MediaStorageSOPClassUID = second.SOPClassUID = SR
    node = bench.node(archives=(WebPeer(service.root),), stow_port=0)
    with node:
        answer = post(node.stow.port, written(first), written(second), b"nothing")
        wait_for(lambda: bench.names()["done"] == 1)
        again = post(node.stow.port, written(first))
    bench.queue.close()
    assert answer.status_code == 202
    told = answer.json()
    assert [one["00081155"]["Value"] for one in told["00081199"]["Value"]] == [[first.SOPInstanceUID]]
    failed = told["00081198"]["Value"]
    assert [one["00081197"]["Value"] for one in failed] == [[0x0122], [0xC000]]
    assert (again.status_code, bench.names()["known already"]) == (200, 1)
    sent = [pydicom.dcmread(io.BytesIO(body.split(b"\r\n\r\n", 1)[1])) for _, _, body in service.asked]
    assert [ds.SOPInstanceUID for ds in sent] == [
        result_uid(first.SOPInstanceUID, algorithm, role) for role in ("sr", "sc", "seg")
    ]


def test_stow_wants_its_token_a_related_body_and_some_room():
    statuses = iter([0xA700, 0xA700, 0])
    stow = StowService(lambda uid, length, file: next(statuses), "127.0.0.1", 0, tokens=Tokens("secret"))
    stow.start()
    try:
        data, shown = written(film()), {"Authorization": "Bearer secret"}
        assert post(stow.port, data).status_code == 401
        assert post(stow.port, data, Authorization="Bearer other").status_code == 401
        url = f"http://127.0.0.1:{stow.port}/studies"
        assert httpx.post(url, content=data, headers={**shown, "Content-Type": "application/dicom"}).status_code == 415
        broken = {**shown, "Content-Type": "multipart/related; boundary=b0"}
        assert httpx.post(url, content=b"--b0\r\n", headers=broken).status_code == 400
        assert httpx.post(url, content=b"--b0--", headers=broken).status_code == 400
        assert httpx.get(url, headers=shown).status_code == 405
        full = post(stow.port, data, **shown)
        assert (full.status_code, full.headers["Retry-After"]) == (503, "30")
        assert post(stow.port, data, data, **shown).status_code == 202
        assert post(stow.port, data, kind="image/png", **shown).status_code == 409
    finally:
        stow.stop()


def test_a_longer_body_than_any_film_is_not_kept(monkeypatch):
    monkeypatch.setattr("agcxr.dicom.stow.LARGEST_BODY", 1000)
    stow = StowService(lambda uid, length, file: 0, "127.0.0.1", 0)
    stow.start()
    try:
        assert post(stow.port, bytes(2000)).status_code == 413
    finally:
        stow.stop()


def test_stow_is_not_open_to_other_machines_without_a_token():
    with pytest.raises(ValueError, match="AGCXR_TOKEN"):
        StowService(lambda uid, length, file: 0, "0.0.0.0", 0)


def test_no_instance_is_no_success():
    assert response([])[0] == 400


def test_predict_reads_the_films_of_a_study(model_folder, service, tmp_path):
    films = {f"1.2.3.{seed}": written(film(seed)) for seed in (1, 2)}
    service.films = {**films, "1.2.3.9": b"broken"}
    service.items = [
        *(item(uid) for uid in films),
        item("1.2.3.5", sop_class=SR),
        item("1.2.3.6", sop_class="1.2.840.10008.5.1.4.1.1.7", manufacturer="agcxr"),
        item("1.2.3.9"),
    ]
    name = service.root.replace("http://", "dicomweb+http://") + "/studies/1.2"
    summary = predict_files(model_folder, [name], tmp_path / "out.csv", progress=False)
    assert (summary.films, summary.failed, summary.ignored) == (3, 1, 2)
    with open(tmp_path / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [f"1.2/1.2.3.{n}.dcm" for n in (1, 2, 9)]
    for seed, row in zip((1, 2), rows, strict=False):
        (tmp_path / "film.dcm").write_bytes(films[f"1.2.3.{seed}"])
        alone = predict_files(model_folder, [str(tmp_path / "film.dcm")], tmp_path / "alone.csv", progress=False)
        assert alone.films == 1
        with open(tmp_path / "alone.csv", newline="") as file:
            (expected,) = csv.DictReader(file)
        assert {**expected, "image": row["image"]} == row
    assert rows[2]["error"]


def test_a_study_that_the_archive_does_not_list_ends_in_words(model_folder, service, tmp_path):
    service.answers = [(403, b"")]
    name = service.root.replace("http://", "dicomweb+http://") + "/studies/1.2"
    with pytest.raises(ValueError, match="list of a study could not be had from .*: status 403"):
        predict_files(model_folder, [name], tmp_path / "out.csv", progress=False)
