"""The node, as a process of its own, against a real Orthanc from Debian's packages on free ports of this machine.

AGCXR_BURST sets the films of the burst; AGCXR_ORTHANC_LOG names a file that the observations are appended to.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pydicom
import pytest
from dicom_made import CR, DX, SC, fresh, written
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from agcxr.cli import main
from agcxr.data.multipart import join_parts
from agcxr.dicom.tls import Tls

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
BURST = int(os.environ.get("AGCXR_BURST", "40"))
LUA = """
function OnStoredInstance(instance, tags, metadata, origin)
  if tags['Modality'] == 'DX' or tags['Modality'] == 'CR' or tags['Modality'] == 'OT' then
    SendToModality(instance, 'agcxr')
  end
end
"""
NGINX = """
daemon off; pid {folder}/nginx.pid; error_log stderr;
events {{ }}
http {{
  access_log off; client_max_body_size 0; client_body_buffer_size 32m; proxy_buffering off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {tls.certificate}; ssl_certificate_key {tls.key};
    location / {{ proxy_pass http://127.0.0.1:{http}; }}
  }}
}}
"""
USER, PASSWORD, TOKEN = "agcxr", "a password of the test", "a-token-of-the-test"
RESULT_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.88.33": "SR",
    SC: "SC",
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("Orthanc") is None, reason="no Orthanc here (Debian: apt-get install orthanc)"),
    pytest.mark.skipif(
        not PLUGIN.exists(), reason="no DICOMweb plugin here (Debian: apt-get install orthanc-dicomweb)"
    ),
]


REFUSED_SOCKETS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""pynetdicom drops sockets that were refused."""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(condition, seconds: float = 120) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() < start + seconds, "it did not happen in time"
        time.sleep(0.1)
    return time.monotonic() - start


def record(text: str) -> None:
    """A line for the log of the run."""
    if name := os.environ.get("AGCXR_ORTHANC_LOG"):
        with open(name, "a", encoding="utf-8") as file:
            file.write(text + "\n")


class Orthanc:
    """An archive with DICOMweb in a folder of its own, which forwards films that it gets to the node; with `tls` by
    DICOM TLS, HTTPS and a password. HTTPS ends at an nginx before it: Debian 12's Orthanc 1.10.1 ends in a segmentation
    fault on the first HTTPS request of any client."""

    def __init__(self, folder: Path, node_port: int, tls: Tls | None = None) -> None:
        self.http, self.dicom, self.folder = free_port(), free_port(), folder
        self.root = f"http://127.0.0.1:{self.http}"
        self._process: subprocess.Popen | None = None
        self._proxy: subprocess.Popen | None = None
        verify = True if tls is None else ssl.create_default_context(cafile=str(tls.authorities))
        self.client = httpx.Client(verify=verify, auth=None if tls is None else (USER, PASSWORD), timeout=120)
        (folder / "forward.lua").write_text(LUA)
        (folder / "orthanc.json").write_text(
            json.dumps(
                {
                    "Name": "test",
                    "StorageDirectory": str(folder / "storage"),
                    "IndexDirectory": str(folder / "storage"),
                    "HttpPort": self.http,
                    "DicomPort": self.dicom,
                    "DicomAet": "ORTHANC",
                    "DicomCheckCalledAet": True,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                    "DicomAlwaysAllowStore": True,
                    "DicomModalities": {
                        "agcxr": {
                            "AET": "AGCXR",
                            "Host": "127.0.0.1",
                            "Port": node_port,
                            "UseDicomTls": bool(tls),
                        }
                    },
                    "LuaScripts": [str(folder / "forward.lua")],
                    "Plugins": [str(PLUGIN)],
                    "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
                    **({} if tls is None else self._secured(tls)),
                }
            )
        )

    def _secured(self, tls: Tls) -> dict[str, object]:
        port = free_port()
        (self.folder / "nginx.conf").write_text(NGINX.format(folder=self.folder, port=port, http=self.http, tls=tls))
        self.root = f"https://127.0.0.1:{port}"
        return {
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "DicomTlsEnabled": True,
            "DicomTlsCertificate": str(tls.certificate),
            "DicomTlsPrivateKey": str(tls.key),
            "DicomTlsTrustedCertificates": str(tls.authorities),
            "DicomTlsRemoteCertificateRequired": True,
        }

    def up(self) -> None:
        with open(self.folder / "orthanc.log", "a") as log:
            command = ["Orthanc", str(self.folder / "orthanc.json")]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
            if self.root.startswith("https"):
                command = ["nginx", "-c", str(self.folder / "nginx.conf"), "-p", str(self.folder)]
                self._proxy = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self._answers)

    def down(self) -> None:
        for process in (self._process, self._proxy):
            if process is not None:
                process.terminate()
                process.wait(60)
        self._process = self._proxy = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "orthanc.log").read_text()[-2000:]
        try:
            return "Version" in self.get("/system")
        except (httpx.TransportError, httpx.HTTPStatusError):  # nginx answers 502 while Orthanc starts
            return False

    def get(self, path: str):
        answer = self.client.get(self.root + path, headers={"Accept": "application/json"})
        return answer.raise_for_status().json()

    def post(self, path: str, body: bytes):
        return self.client.post(self.root + path, content=body).raise_for_status().json()

    def results(self, study: str) -> Counter[str]:
        """Kinds of our objects in a study, through DICOMweb (QIDO-RS)."""
        found = self.get(f"/dicom-web/studies/{study}/instances?includefield=00080070")
        ours = [one for one in found if one.get("00080070", {}).get("Value") == ["agcxr"]]
        return Counter(RESULT_CLASSES[one["00080016"]["Value"][0]] for one in ours)


class NodeProcess:
    """`agcxr dicom-node` as people run it."""

    def __init__(self, model: Path, folder: Path, port: int) -> None:
        self.port, self._folder, self.model, self.archive_port = port, folder, model, 0
        self.flags: list[str] | None = None
        """In place of those of the archive and the callers."""
        self.environment: dict[str, str] = {}
        self.process: subprocess.Popen | None = None

    def up(self) -> None:
        archive = ["--send-to", f"ORTHANC@127.0.0.1:{self.archive_port}", "--caller", "ORTHANC", "XRAY@127.0.0.1"]
        flags = ["--ae", "AGCXR", "--port", str(self.port), *(self.flags or archive)]
        flags += ["--queue", str(self._folder / "queue.sqlite")]
        code = "import sys; from agcxr.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", code, "dicom-node", str(self.model), *flags]
        before = self.names()["listening"]
        with open(self._folder / "node.log", "a") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", **self.environment}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        wait_for(lambda: self.names()["listening"] > before or self._died())

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            assert self.process.wait(90) == 0

    def _died(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()[-2000:]
        return False

    def log(self) -> str:
        path = self._folder / "node.log"
        return path.read_text() if path.exists() else ""

    def events(self) -> list[dict]:
        lines = [line for line in self.log().splitlines() if line.startswith("{") and line.endswith("}")]
        return [json.loads(line) for line in lines]

    def names(self) -> Counter[str]:
        return Counter(event["event"] for event in self.events())


@pytest.fixture(scope="module")
def site(tmp_path_factory, model_folder):
    """Orthanc and a node that know each other."""
    folder = tmp_path_factory.mktemp("site")
    node = NodeProcess(model_folder, folder, free_port())
    orthanc = Orthanc(folder, node.port)
    node.archive_port = orthanc.dicom
    try:
        orthanc.up()
        version = orthanc.get("/system")["Version"]
        record(f"- Orthanc {version} with DICOMweb; synthetic films of 200 x 240 pixels but for the first")
        node.up()
        yield orthanc, node
        node.stop()
        assert node.names()["stopped"] >= 1
    finally:
        if node.process is not None and node.process.poll() is None:
            node.process.kill()
        orthanc.down()
        orthanc.client.close()


def send(port: int, films: list[pydicom.Dataset]) -> list[int | None]:
    ae = AE(ae_title="XRAY")
    for sop_class in (CR, DX, Verification):
        ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", port, ae_title="AGCXR")
    assert association.is_established
    try:
        return [association.send_c_store(film).get("Status") for film in films]
    finally:
        association.release()


def complete(orthanc: Orthanc, films: list[pydicom.Dataset]) -> bool:
    wanted = {"SR": 1, "SC": 1, "SEG": 1}
    return all(orthanc.results(one.StudyInstanceUID) == wanted for one in films)


def test_a_film_stored_in_orthanc_gets_its_results(site):
    orthanc, node = site
    film = fresh(1, shape=(2500, 2048))
    orthanc.post("/instances", written(film))
    seconds = wait_for(lambda: complete(orthanc, [film]))
    study = orthanc.get(f"/dicom-web/studies/{film.StudyInstanceUID}/instances")
    assert len(study) == 4
    assert {one["00100020"]["Value"][0] for one in study} == {"SECRET-77"}
    # Its own picture came back to it by the same rule and was left alone.
    wait_for(lambda: node.names()["ignored"] == 1)
    record(
        f"- a film of 2500 x 2048 pixels, stored by REST, forwarded by a Lua script, found with SR, SC and SEG in its "
        f"study through DICOMweb after {seconds:.1f} s; the node's own picture, forwarded by the same rule, ignored"
    )


def test_orthanc_forwards_on_request_and_says_echo(site):
    orthanc, _ = site
    assert orthanc.post("/modalities/agcxr/echo", b"{}") == {}
    film = fresh(2, sop_class=CR)
    identifier = orthanc.post("/instances", written(film))["ID"]
    told = orthanc.post("/modalities/agcxr/store", identifier.encode())
    assert told["FailedInstancesCount"] == 0
    wait_for(lambda: complete(orthanc, [film]))
    record("- C-ECHO from Orthanc answered; a film forwarded twice (by Lua and by REST) has one set of results")


def test_the_node_killed_in_the_middle(site):
    orthanc, node = site
    films = [fresh(seed) for seed in range(12)]
    before = node.names()
    assert send(node.port, films) == [0] * 12
    kills = 0
    for share in (2, 5):
        wait_for(lambda share=share: node.names()["done"] - before["done"] >= share)
        node.kill()
        kills += 1
        node.up()
    wait_for(lambda: complete(orthanc, films))
    wait_for(lambda: node.names()["done"] - before["done"] >= 12)
    record(
        f"- 12 films accepted, the node killed (SIGKILL) {kills} times while it worked: every film has one SR, SC, SEG"
    )


def test_the_archive_stopped_for_a_while(site):
    orthanc, node = site
    films = [fresh(seed) for seed in range(5)]
    orthanc.down()
    before = node.names()
    assert send(node.port, films) == [0] * 5
    wait_for(lambda: node.names()["archive down"] - before["archive down"] >= 2)
    assert node.names()["done"] == before["done"]
    orthanc.up()
    wait_for(lambda: complete(orthanc, films))
    record("- Orthanc stopped, 5 films accepted meanwhile; after its start every film has one SR, SC, SEG")


def test_a_burst_over_two_associations_with_garbage_between(site):
    orthanc, node = site
    films = [fresh(seed) for seed in range(BURST)]
    start = time.monotonic()
    statuses: list[list] = [[], []]
    threads = [
        threading.Thread(target=lambda i=i: statuses[i].extend(send(node.port, films[i::2])), daemon=True)
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 4096, b"\x01\x00\xff\xff\xff\xff" + b"A" * 500):
        with socket.create_connection(("127.0.0.1", node.port)) as line:
            line.sendall(garbage)
    for thread in threads:
        thread.join()
    accepted = time.monotonic() - start
    assert [status for one in statuses for status in one] == [0] * BURST
    wait_for(lambda: complete(orthanc, films[-4:]), 1800)
    wait_for(lambda: complete(orthanc, films), 600)
    everything = time.monotonic() - start
    said = node.log()
    assert not [one for one in ("secret", "1.2.826", "2.25.", "19500102") if one in said.lower()]
    record(
        f"- {BURST} films in a burst over two associations at once, garbage on the port meanwhile: all accepted after "
        f"{accepted:.1f} s, all results in Orthanc after {everything:.1f} s ({BURST / everything:.1f} films/s)"
    )
    record(f"- the node's journal, counted: {dict(node.names())}; no name, number or UID of a film in it")


def store(url: str, film: pydicom.Dataset, client: httpx.Client | None = None, **headers: str) -> httpx.Response:
    """STOW-RS."""
    body = join_parts([("application/dicom", written(film))], "b0")
    kind = 'multipart/related; type="application/dicom"; boundary=b0'
    post = httpx.post if client is None else client.post
    return post(url, content=body, headers={"Content-Type": kind, **headers}, timeout=60)


def test_all_by_dicomweb(site, model_folder, tmp_path):
    """Films to the node by STOW-RS, results into Orthanc by STOW-RS, and the study read by `predict` from Orthanc."""
    orthanc, _ = site
    root = f"http://127.0.0.1:{orthanc.http}/dicom-web"
    node, stow = NodeProcess(model_folder, tmp_path, free_port()), free_port()
    node.flags = ["--send-to", root, "--stow-port", str(stow)]
    film = fresh(3)
    node.up()
    try:
        assert store(f"http://127.0.0.1:{stow}/studies", film).status_code == 200
        seconds = wait_for(lambda: complete(orthanc, [film]))
        node.stop()
    finally:
        node.kill()
    assert store(f"{root}/studies", film).status_code == 200
    out = tmp_path / "out.csv"
    uid = str(film.StudyInstanceUID)
    given = [root.replace("http://", "dicomweb+http://"), "--study", uid, "--out", str(out)]
    assert main(["predict", str(model_folder), *given]) == 0
    with open(out, newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["image"], row["error"]) == (f"{uid}/{film.SOPInstanceUID}.dcm", "")
    record(
        f"- a film to the node by STOW-RS: its SR, SC and SEG in Orthanc by STOW-RS after {seconds:.1f} s; "
        "`agcxr predict dicomweb+http://...` lists the study by QIDO-RS and fetches the film by WADO-RS"
    )


def test_storage_commitment_is_asked_for_and_answered(site, model_folder, tmp_path):
    """Orthanc answers over an association of its own; results stay in the queue until it did."""
    orthanc, first = site
    first.stop()  # Orthanc reports to the port that it knows the title AGCXR by
    node, film = NodeProcess(model_folder, tmp_path, first.port), fresh(4)
    node.flags = ["--send-to", f"ORTHANC@127.0.0.1:{orthanc.dicom}", "--caller", "XRAY", "--commitment"]
    node.up()
    try:
        assert send(node.port, [film]) == [0]
        seconds = wait_for(lambda: node.names()["done"] == 1)
        node.stop()
    finally:
        node.kill()
        first.up()
    assert complete(orthanc, [film])
    answered = [event for event in node.events() if event["event"] == "commitment answered"]
    assert sum(event["committed"] for event in answered) == 3
    assert sum(event["not_committed"] for event in answered) == 0
    record(
        f"- storage commitment asked of Orthanc by N-ACTION for SR, SC and SEG, answered by N-EVENT-REPORT over an "
        f"association of its own; the film done after {seconds:.1f} s, and not before"
    )


@pytest.fixture
def secure(tmp_path, model_folder, certificates):
    """Orthanc and a node that talk by TLS only, both showing certificates."""
    if shutil.which("nginx") is None:
        pytest.skip("no nginx here (Debian: apt-get install nginx)")
    node = NodeProcess(model_folder, tmp_path, free_port())
    orthanc = Orthanc(tmp_path, node.port, certificates("archive"))
    logins = tmp_path / "logins.json"
    login = {"username": USER, "password": PASSWORD, "ca": str(certificates("node").authorities)}
    logins.write_text(json.dumps({f"{orthanc.root}/dicom-web": login}))
    node.environment = {"AGCXR_LOGINS": str(logins), "AGCXR_TOKEN": TOKEN}
    try:
        orthanc.up()
        yield orthanc, node, certificates("node")
        node.stop()
    finally:
        if node.process is not None and node.process.poll() is None:
            node.process.kill()
        orthanc.down()
        orthanc.client.close()


@REFUSED_SOCKETS
def test_dicom_tls_both_ways_with_commitment_and_a_film_by_stow(secure):
    orthanc, node, tls = secure
    stow = free_port()
    node.flags = [
        *("--send-to", f"ORTHANC@127.0.0.1:{orthanc.dicom}", "--caller", "ORTHANC", "--commitment"),
        *("--tls", str(tls.certificate), str(tls.key), str(tls.authorities), "--stow-port", str(stow)),
    ]
    node.up()
    films = [fresh(seed) for seed in (5, 6)]
    orthanc.post("/instances", written(films[0]))  # forwarded by DICOM TLS
    url, shown = f"https://127.0.0.1:{stow}/studies", {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(verify=ssl.create_default_context(cafile=str(tls.authorities))) as client:
        assert store(url, films[1], client).status_code == 401
        assert store(url, films[1], client, **shown).status_code == 200
    seconds = wait_for(lambda: complete(orthanc, films))
    wait_for(lambda: node.names()["done"] == 2)
    assert node.names()["commitment answered"] >= 1
    with pytest.raises(AssertionError):
        send(node.port, films)  # plain DICOM
    record(
        f"- DICOM TLS both ways, both with certificates: a film forwarded by Orthanc, one by STOW-RS over HTTPS, have "
        f"their SR, SC and SEG in Orthanc after {seconds:.1f} s, committed to over TLS too; plain DICOM is not answered"
    )


@REFUSED_SOCKETS
def test_dicomweb_with_tls_and_a_password(secure, tmp_path, monkeypatch):
    orthanc, node, _ = secure
    stow, film = free_port(), fresh(7)
    node.flags = ["--send-to", f"{orthanc.root}/dicom-web", "--stow-port", str(stow)]
    node.up()
    shown = {"Authorization": f"Bearer {TOKEN}"}
    assert store(f"http://127.0.0.1:{stow}/studies", film, **shown).status_code == 200
    wait_for(lambda: complete(orthanc, [film]))
    assert store(f"{orthanc.root}/dicom-web/studies", film, orthanc.client).status_code == 200
    monkeypatch.setenv("AGCXR_LOGINS", node.environment["AGCXR_LOGINS"])
    out, uid = tmp_path / "out.csv", str(film.StudyInstanceUID)
    given = [orthanc.root.replace("https://", "dicomweb://") + "/dicom-web", "--study", uid, "--out", str(out)]
    assert main(["predict", str(node.model), *given]) == 0
    with open(out, newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["image"], row["error"]) == (f"{uid}/{film.SOPInstanceUID}.dcm", "")
    monkeypatch.delenv("AGCXR_LOGINS")
    assert main(["predict", str(node.model), *given]) == 2  # its certificate is signed by nobody whom the system knows
    record("- DICOMweb over HTTPS with a password: results by STOW-RS, the study by QIDO-RS and WADO-RS")
