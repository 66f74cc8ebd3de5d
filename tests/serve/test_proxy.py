"""The server behind a proxy with TLS: by its public name, under a path of its own, and a real nginx as documented."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from agcxr.serve.app import create_app
from agcxr.serve.guard import Access
from agcxr.serve.limits import Limits, PublicUrl

from . import make

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "serve.md"
PUBLIC = PublicUrl.parse("https://hospital.example.org/reading-room")


@pytest.fixture(scope="module")
def behind(engine):
    app = create_app(engine, limits=Limits(decoders=1), access=Access(public=PUBLIC))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


@pytest.mark.parametrize("host", ["hospital.example.org", "hospital.example.org:443", "127.0.0.1:8000", "localhost"])
@pytest.mark.parametrize("prefix", ["", "/reading-room"], ids=["cut off", "passed on"])
def test_the_public_page_is_answered_however_the_proxy_names_the_server(behind, host, prefix):
    headers = {"host": host, "origin": "https://hospital.example.org", "sec-fetch-site": "same-origin"}
    film = {"file": ("a.png", make.encode(make.pixels()))}
    assert behind.post(f"{prefix}/v1/predict", files=film, headers=headers).status_code == 200
    for path in ("/", "/static/app.js", "/health", "/v1/model", "/openapi.json"):
        assert behind.get(f"{prefix}{path}", headers=headers).status_code == 200, path


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("evil.example", "https://hospital.example.org", 421),
        ("hospital.example.org@evil.example", "https://hospital.example.org", 421),
        ("hospital.example.org", "https://evil.example", 403),
        ("127.0.0.1:8000", "http://hospital.example.org", 403),
        ("127.0.0.1:8000", "https://hospital.example.org:8443", 403),
        ("hospital.example.org", "http://[", 403),
    ],
)
def test_other_names_and_sites_are_not(behind, host, origin, status):
    response = behind.post("/v1/predict", content=b"x", headers={"host": host, "origin": origin})
    assert response.status_code == status
    if status == 421:
        message = response.json()["error"]["message"]
        assert message.endswith("127.0.0.1 and [::1]; and as https://hospital.example.org/reading-room")


def test_the_description_names_the_public_address(behind, client):
    assert behind.get("/openapi.json").json()["servers"] == [{"url": "https://hospital.example.org/reading-room"}]
    assert client.get("/openapi.json").json()["servers"] == [{"url": "."}]


def test_a_path_that_only_begins_alike_is_another(behind):
    assert behind.get("/reading-rooms/health").status_code == 404
    assert behind.get("/other/health").status_code == 404


def test_the_page_names_nothing_by_an_absolute_path(client):
    page = client.get("/").text
    script = client.get("/static/api.js").text
    assert not re.findall(r"""(?:href|src)=["']/""", page)
    assert not re.findall(r"""["'`]/(?:v1|static)/""", script)


def documented(**changes: str) -> str:
    """The nginx example of the documentation, for this machine."""
    (example,) = re.findall(r"```nginx\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    for old, new in changes.items():
        assert old in example, f"the example has no {old}"
        example = example.replace(old, new)
    return example


@contextmanager
def nginx(folder: Path, example: str, port: int):
    """nginx with the example as its only server; everything it writes lies in `folder`."""
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\nhttp {{\naccess_log off;\n"
    (folder / "nginx.conf").write_text(f"{text}{temporary}\n{example}\n}}\n")
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    process = subprocess.Popen([program, "-c", folder / "nginx.conf", "-p", folder])
    try:
        for _ in range(100):
            with socket.socket() as link:
                if link.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "error.log").read_text()
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(20)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as link:
        return link.getsockname()[1]


def test_the_documented_nginx(model_folder, tmp_path):
    path = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
    for program in ("nginx", "openssl"):
        if shutil.which(program, path=path) is None:
            pytest.skip(f"{program} is not here (Debian: apt-get install {program})")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=hospital.example.org",
         "-addext", "subjectAltName=DNS:hospital.example.org,IP:127.0.0.1", "-keyout", tmp_path / "key.pem",
         "-out", tmp_path / "certificate.pem"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    port, token = free_port(), "correct-horse-battery"
    options = {"public_url": f"https://hospital.example.org:{port}/reading-room", "token": token, "verbose": True}
    with make.running(model_folder, tmp_path / "log", options=json.dumps(options)) as server:
        changes = {
            "443 ssl": f"127.0.0.1:{port} ssl",
            "/etc/ssl/hospital.pem": str(tmp_path / "certificate.pem"),
            "/etc/ssl/hospital.key": str(tmp_path / "key.pem"),
            "127.0.0.1:8000": f"127.0.0.1:{server.port}",
        }
        trusted = ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
        site = f"https://127.0.0.1:{port}"
        origin = f"https://hospital.example.org:{port}"
        ours = {"origin": origin, "sec-fetch-site": "same-origin", "authorization": f"Bearer {token}"}
        with nginx(tmp_path, documented(**changes), port), httpx.Client(verify=trusted, timeout=60) as reader:
            page = reader.get(f"{site}/reading-room/")
            assert "Research use only" in page.text
            for address in re.findall('(?:href|src)="([^"#]+)"', page.text):
                part = httpx.URL(f"{site}/reading-room/").join(address)
                assert reader.get(part, headers={"authorization": f"Bearer {token}"}).status_code == 200
            assert reader.get(f"{site}/reading-room").status_code == 301
            film = make.dicom(make.pixels(1500, 1500, dtype="uint16"))  # beyond nginx's own limit of 1 MiB
            answer = reader.post(f"{site}/reading-room/v1/predict", files={"file": ("a.dcm", film)}, headers=ours)
            assert (answer.status_code, answer.json()["films"][0]["film"]["width"]) == (200, 1500)
            evil = reader.post(f"{site}/reading-room/v1/predict", content=b"x", headers={**ours, "origin": "https://e"})
            assert evil.status_code == 403
            assert reader.get(f"{site}/reading-room/v1/model").status_code == 401
            assert reader.head(f"{site}/reading-room/health").status_code == 200
            assert not [name for name in tmp_path.glob("client_body/**/*") if name.is_file()]
