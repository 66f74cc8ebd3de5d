"""The DICOMweb client against a small service in the same process, and multipart bodies."""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qs, urlsplit

import pytest

from agcxr.data.dicomweb import (
    DicomWeb,
    Instance,
    Login,
    ServiceError,
    check_root,
    parse_study,
    read_logins,
    with_study,
)
from agcxr.data.multipart import Malformed, Part, join_parts, parts, related_boundary
from dicomweb_made import DX, item, running


@pytest.fixture
def service():
    with running() as made:
        yield made


def test_all_instances_of_a_study_page_by_page(service):
    service.items = [item(f"1.2.3.{n}") for n in range(1203)]
    with_traps = [*service.items, {}, item("../../other"), item("1..2"), {"00080018": 5}]
    service.items = with_traps
    listed = list(DicomWeb(service.root).instances("1.2"))
    assert [one.uid for one in listed] == [f"1.2.3.{n}" for n in range(1203)]
    assert [parse_qs(urlsplit(path).query)["offset"] for path, *_ in service.asked] == [["0"], ["500"], ["1000"]]


def test_a_study_without_instances_is_an_empty_list(service):
    assert list(DicomWeb(service.root).instances("1.2")) == []


@pytest.mark.parametrize("bare", [False, True])
def test_a_film_comes_back_to_the_byte(service, bare):
    service.bare = bare
    service.films["1.2.3.4"] = bytes(range(256)) * 40 + b"\r\n--a b-ish\r\n\r\n"[:2]
    film = DicomWeb(service.root).fetch(Instance(DX, "1.2", "1.2.3", "1.2.3.4", ""))
    assert film == service.films["1.2.3.4"]
    path, headers, _ = service.asked[0]
    assert path == "/dicom-web/studies/1.2/series/1.2.3/instances/1.2.3.4"
    assert headers["Accept"] == 'multipart/related; type="application/dicom"; transfer-syntax=*'


def test_storing_sends_the_file_and_returns_the_answer(service):
    service.answers = [(200, b'{"00081199": {"vr": "SQ", "Value": [{}]}}')]
    assert DicomWeb(service.root).store(b"\0file\r\n") == {"00081199": {"vr": "SQ", "Value": [{}]}}
    path, headers, body = service.asked[0]
    assert path == "/dicom-web/studies"
    assert list(parts(body, related_boundary(headers["Content-Type"]))) == [Part("application/dicom", b"\0file\r\n")]
    assert "Authorization" not in headers


def test_basic_and_bearer_logins(service):
    service.answers = [(200, b"{}"), (200, b"{}")]
    DicomWeb(service.root, Login(username="a", password="b:c")).store(b"")
    DicomWeb(service.root, Login(token="secret")).store(b"")
    shown = [headers["Authorization"] for _, headers, _ in service.asked]
    assert shown == ["Basic " + base64.b64encode(b"a:b:c").decode(), "Bearer secret"]


def test_oauth_keeps_its_token_and_asks_anew_where_it_ran_out(service):
    login = Login(token_url=service.root.replace("/dicom-web", "/token"), client_id="me", client_secret="s", scope="x")
    web = DicomWeb(service.root, login)
    service.answers = []
    service.items = [item("1.2.3.1")]
    list(web.instances("1.2"))
    list(web.instances("1.2"))
    assert service.tokens == 1
    assert parse_qs(service.asked[0][2].decode()) == {
        "grant_type": ["client_credentials"], "client_id": ["me"], "client_secret": ["s"], "scope": ["x"],
    }  # fmt: skip
    service.answers = [(401, b"")]
    list(web.instances("1.2"))
    assert service.tokens == 2
    assert service.asked[-1][1]["Authorization"] == "Bearer token2"


def test_what_the_service_refuses_says_status_and_reason_but_no_address(service):
    service.answers = [(409, b'{"00081198": {}}'), (302, b""), (500, b"Anna Secretname")]
    web = DicomWeb(service.root)
    with pytest.raises(ServiceError, match="^status 409$") as told:
        web.store(b"")
    assert told.value.body == {"00081198": {}}
    with pytest.raises(ServiceError, match="^status 302$"):
        web.store(b"")
    with pytest.raises(ServiceError, match="^status 500$"):
        web.store(b"")


def test_no_service_at_all(service):
    with pytest.raises(ServiceError, match="^no connection$") as told:
        DicomWeb("http://127.0.0.1:1/x").store(b"")
    assert not told.value.sent


def test_a_longer_answer_than_any_is_cut_off(service, monkeypatch):
    monkeypatch.setattr("agcxr.data.dicomweb.FILM_LIMIT", 1000)
    service.films["1.2.3.4"] = bytes(1001)
    with pytest.raises(ServiceError, match="longer than"):
        DicomWeb(service.root).fetch(Instance(DX, "1.2", "1.2.3", "1.2.3.4", ""))


def test_logins_are_found_by_the_root_of_the_service(service, tmp_path, monkeypatch):
    file = tmp_path / "logins.json"
    file.write_text(json.dumps({f"{service.root}/": {"token": "secret"}, "https://other/x": {"token": "other"}}))
    monkeypatch.setenv("AGCXR_LOGINS", str(file))
    service.answers = [(200, b"")]
    DicomWeb(service.root).store(b"")
    assert service.asked[0][1]["Authorization"] == "Bearer secret"
    assert "secret" not in repr(read_logins(file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected JSON such as"),
        ('{"https://a/b": {"user": "x"}}', "expected JSON such as"),
        ('{"https://a/b": {"username": "x"}}', "a login is username and password"),
        ('{"https://a/b": {"token": "x", "username": "x", "password": "y"}}', "a login is username and password"),
        ('{"https://a/b": {"token_url": "http://far/t", "client_id": "x", "client_secret": "y"}}', "TLS only"),
        ('{"http://a/b": {"token": "x"}}', "no DICOMweb service"),
    ],
)
def test_a_file_of_logins_that_is_none(tmp_path, text, message):
    file = tmp_path / "logins.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_logins(file)


def test_roots_and_studies():
    assert check_root("https://archive:8443/dicom-web/") == "https://archive:8443/dicom-web"
    assert parse_study("dicomweb://archive/x/studies/1.2.3") == ("https://archive/x", "1.2.3")
    assert parse_study("dicomweb+http://127.0.0.1:8042/x/studies/1.2.3") == ("http://127.0.0.1:8042/x", "1.2.3")
    assert with_study(("a.png", "dicomweb://h/x/"), "1.2") == ("a.png", "dicomweb://h/x/studies/1.2")
    for odd in ("http://archive/x", "ftp://archive", "https://h:x/", "https://h/x?y", "dicomweb://h"):
        with pytest.raises(ValueError, match="DICOMweb service"):
            check_root(odd)
    with pytest.raises(ValueError, match="holds no login") as told:
        check_root("https://anna:pass@h/x")
    assert "pass" not in str(told.value)
    for odd in ("dicomweb://h/x", "dicomweb://h/x/studies/../y", "dicomweb://h/x/studies/", "https://h/studies/1"):
        with pytest.raises(ValueError, match="names no study"):
            parse_study(odd)
    for inputs, study in ((("a.png",), "1.2"), (("dicomweb://h/x",), None)):
        with pytest.raises(ValueError, match="expected both"):
            with_study(inputs, study)


def test_multipart_bodies():
    body = b"before\r\n" + join_parts([("a/b", b"\r\n\r\n"), ("", b"")], "x--y") + b"after"
    assert list(parts(body, b"x--y")) == [Part("a/b", b"\r\n\r\n"), Part("", b"")]
    assert list(parts(b"--x\r\n\r\nbare\r\n--x--", b"x")) == [Part("", b"bare")]
    assert list(parts(b"--x--", b"x")) == []
    for broken in (b"", b"--x", b"--x\r\na: b\r\n", b"--x\r\n\r\nbody", b"--x\r\n\r\nbody\r\n--x", b"no boundary"):
        with pytest.raises(Malformed):
            list(parts(broken, b"x"))
    assert related_boundary('multipart/related; type="application/dicom"; boundary="a b"') == b"a b"
    for odd in ("", "multipart/form-data; boundary=x", "multipart/related", 'multipart/related; boundary="\x01"'):
        with pytest.raises(Malformed):
            related_boundary(odd)
