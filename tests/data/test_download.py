"""The downloader against a real HTTP server on this machine that breaks connections and lies about lengths."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from made_films import pack

from agcxr.cli import main
from agcxr.data import download
from agcxr.data.download import DownloadError, download_nih, read_table
from agcxr.data.fetch import Patience, Remote, Stopped, fetch, size_of
from agcxr.data.phantom_collection import write_phantom
from agcxr.data.prepared import open_prepared
from agcxr.data.web import FetchError, check_url

QUICK = Patience(attempts=3, backoff=0.001, timeout=2.0)


def archive(seed: int, size: int = 300_000) -> bytes:
    return gzip.compress(np.random.default_rng(seed).bytes(size), mtime=0)


@dataclass(frozen=True)
class Answer:
    """How the server treats one request. Defaults: honestly."""

    status: int = 200
    stop_after: int | None = None
    """Bytes of the body until the connection is cut."""
    claim: int = 0
    """Added to the Content-Length (and nowhere else)."""
    extra: bytes = b""
    """Sent after the body."""
    ranges: bool = True
    if_range: bool = True
    etag: str | None = '"v1"'
    modified: str | None = None
    body: bytes | None = None
    """In place of the file, from this request on."""
    retry_after: str | None = None
    location: str | None = None
    pause: float = 0.0
    """Seconds of silence in the middle."""


@dataclass
class Script:
    body: bytes
    answers: list[Answer] = field(default_factory=list)
    always: Answer = Answer()
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(Range, If-Range) of each request."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        script: Script = self.server.scripts[self.path]  # type: ignore[attr-defined]
        wanted, condition = self.headers.get("Range", ""), self.headers.get("If-Range", "")
        self.close_connection = True
        if wanted == "bytes=0-0":  # the question for the size
            return self.reply(script.always, script.body, 0, 1, 206)
        script.asked.append((wanted, condition))
        answer = script.answers.pop(0) if script.answers else script.always
        script.body = answer.body if answer.body is not None else script.body
        if answer.status != 200:
            return self.refuse(answer)
        current = answer.etag if condition.startswith('"') else answer.modified
        start = 0
        if wanted and answer.ranges and (not condition or condition == current or not answer.if_range):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(script.body):
                return self.refuse(Answer(status=416))
        return self.reply(answer, script.body, start, len(script.body), 206 if start else 200)

    def refuse(self, answer: Answer) -> None:
        self.send_response(answer.status)
        if answer.status == 416:
            self.send_header("Content-Range", f"bytes */{len(self.server.scripts[self.path].body)}")  # type: ignore[attr-defined]
        if answer.retry_after:
            self.send_header("Retry-After", answer.retry_after)
        if answer.location:
            self.send_header("Location", answer.location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def reply(self, answer: Answer, body: bytes, start: int, end: int, status: int) -> None:
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
        length = end - start + answer.claim
        self.send_header("Content-Length", str(length))
        if answer.etag:
            self.send_header("ETag", answer.etag)
        if answer.modified:
            self.send_header("Last-Modified", answer.modified)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        part = (body[start:end] + answer.extra)[: answer.stop_after]
        self.wfile.write(part[: len(part) // 2])
        self.wfile.flush()
        time.sleep(answer.pause)
        with contextlib.suppress(ConnectionError):  # a client may have given up on us
            self.wfile.write(part[len(part) // 2 :])


class Server:
    def __init__(self) -> None:
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.scripts = {}  # type: ignore[attr-defined]
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def put(self, name: str, body: bytes, *answers: Answer, always: Answer | None = None) -> Script:
        script = Script(body, list(answers), always or Answer())
        self.http.scripts[f"/{name}"] = script  # type: ignore[attr-defined]
        return script

    def remote(self, name: str, **known: int | str) -> Remote:
        return Remote(name, f"{self.address}/{name}", **known)  # type: ignore[arg-type]


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()
    made.thread.join()


BODY = archive(1)
OTHER = archive(2)


def get(server: Server, folder: Path, **known: int | str):
    return fetch(server.remote("a.tar.gz", **known), folder, patience=QUICK)


def only_the_file(folder: Path) -> None:
    assert [path.name for path in folder.iterdir()] == ["a.tar.gz"]


def test_an_honest_server_is_asked_once(server, tmp_path):
    script = server.put("a.tar.gz", BODY)
    moves: list[int] = []
    got = fetch(server.remote("a.tar.gz"), tmp_path / "new" / "folder", patience=QUICK, on_bytes=moves.append)
    assert got.path.read_bytes() == BODY
    assert (got.bytes, got.received, got.checked, sum(moves)) == (len(BODY), len(BODY), "gzip", len(BODY))
    assert script.asked == [("", "")]
    only_the_file(got.path.parent)


def test_broken_connections_are_resumed_by_range(server, tmp_path):
    cut = Answer(stop_after=70_000)
    script = server.put("a.tar.gz", BODY, cut, cut, cut, cut)
    got = get(server, tmp_path)
    assert got.path.read_bytes() == BODY
    assert got.received == len(BODY)  # not one byte twice
    assert script.asked == [("", ""), *[(f"bytes={70_000 * n}-", '"v1"') for n in (1, 2, 3, 4)]]
    only_the_file(tmp_path)


def test_a_date_serves_where_the_etag_is_weak(server, tmp_path):
    date = "Wed, 01 Jan 2025 00:00:00 GMT"
    weak = Answer(etag='W/"v1"', modified=date)
    script = server.put("a.tar.gz", BODY, Answer(etag='W/"v1"', modified=date, stop_after=9), always=weak)
    assert get(server, tmp_path).path.read_bytes() == BODY
    assert script.asked[1] == ("bytes=9-", date)


def test_a_later_run_goes_on_with_the_part(server, tmp_path):
    script = server.put("a.tar.gz", BODY, Answer(stop_after=100_000), always=Answer(status=503))
    with pytest.raises(FetchError, match=r"gave up after 3 attempts .*HTTP 503.*100,000 bytes are kept, run the same"):
        get(server, tmp_path)
    assert (tmp_path / "a.tar.gz.part").read_bytes() == BODY[:100_000]
    script.always = Answer()
    got = get(server, tmp_path)
    assert got.path.read_bytes() == BODY
    assert got.received == len(BODY) - 100_000


def test_a_run_killed_before_the_checks_fetches_nothing_again(server, tmp_path):
    script = server.put("a.tar.gz", BODY, Answer(stop_after=100_000), always=Answer(status=503))
    with pytest.raises(FetchError):
        get(server, tmp_path)
    (tmp_path / "a.tar.gz.part").write_bytes(BODY)
    asked = len(script.asked)
    got = get(server, tmp_path)
    assert (got.path.read_bytes(), got.received, len(script.asked)) == (BODY, 0, asked)


def test_a_part_of_unknown_origin_is_not_used(server, tmp_path):
    (tmp_path / "a.tar.gz.part").write_bytes(OTHER[:1000])
    script = server.put("a.tar.gz", BODY)
    assert get(server, tmp_path).path.read_bytes() == BODY
    assert script.asked == [("", "")]


def test_a_part_from_another_link_is_not_used(server, tmp_path):
    server.put("b.tar.gz", OTHER, Answer(stop_after=1000), always=Answer(status=503))
    with pytest.raises(FetchError):
        fetch(Remote("a.tar.gz", f"{server.address}/b.tar.gz"), tmp_path, patience=QUICK)
    server.put("a.tar.gz", BODY)
    assert get(server, tmp_path).path.read_bytes() == BODY


def test_server_errors_are_waited_out(server, tmp_path):
    busy = Answer(status=429, retry_after="0")
    script = server.put("a.tar.gz", BODY, Answer(status=500), busy, Answer(stop_after=50), Answer(status=502))
    assert get(server, tmp_path).path.read_bytes() == BODY
    assert len(script.asked) == 5


def test_silence_counts_as_broken(server, tmp_path):
    server.put("a.tar.gz", BODY, Answer(pause=1.0))
    patience = Patience(attempts=3, backoff=0.001, timeout=0.2)
    got = fetch(server.remote("a.tar.gz"), tmp_path, patience=patience)
    assert (got.path.read_bytes(), got.received) == (BODY, len(BODY))


def test_a_server_that_ignores_ranges_starts_anew(server, tmp_path):
    server.put("a.tar.gz", BODY, Answer(stop_after=100_000), always=Answer(ranges=False))
    moves: list[int] = []
    got = fetch(server.remote("a.tar.gz"), tmp_path, patience=QUICK, on_bytes=moves.append)
    assert got.path.read_bytes() == BODY
    assert got.received == len(BODY) + 100_000
    assert sum(moves) == len(BODY)
    assert -100_000 in moves


def test_a_server_that_ignores_ranges_and_always_breaks_does_not_hold_us(server, tmp_path):
    script = server.put("a.tar.gz", BODY, always=Answer(ranges=False, stop_after=100_000))
    with pytest.raises(FetchError, match=r"the connection ended at 100,000 of 3\d\d,\d\d\d bytes"):
        get(server, tmp_path)
    assert len(script.asked) == 3


@pytest.mark.parametrize("honours", [True, False], ids=["If-Range honoured", "If-Range ignored"])
def test_a_file_changed_between_attempts_is_never_joined(server, tmp_path, honours):
    new = Answer(etag='"v2"', body=OTHER, if_range=honours)
    server.put("a.tar.gz", BODY, Answer(stop_after=100_000), new, always=new)
    got = fetch(server.remote("a.tar.gz"), tmp_path, patience=QUICK, check_gzip=False)  # no help from the checksums
    assert got.path.read_bytes() == OTHER


def test_a_file_changed_unannounced_is_found_by_its_checksums(server, tmp_path):
    silent = Answer(etag=None, body=OTHER)
    assert len(BODY) == len(OTHER)
    script = server.put("a.tar.gz", BODY, Answer(etag=None, stop_after=100_000), silent, always=silent)
    got = get(server, tmp_path)
    assert got.path.read_bytes() == OTHER
    assert [wanted for wanted, _ in script.asked] == ["", "bytes=100000-", ""]


def test_a_shorter_new_file_is_noticed_by_416(server, tmp_path):
    small = archive(3, 1000)
    blunt = Answer(etag=None, body=small)
    server.put("a.tar.gz", BODY, Answer(etag=None, stop_after=100_000), blunt, always=blunt)
    assert get(server, tmp_path).path.read_bytes() == small


@pytest.mark.parametrize("etag", ['"v1"', None])
def test_a_length_that_promises_too_much(server, tmp_path, etag):
    """The connection ends before the length; asked for the rest, the server says that there is none."""
    script = server.put("a.tar.gz", BODY, always=Answer(claim=5000, etag=etag))
    assert get(server, tmp_path).path.read_bytes() == BODY
    assert script.asked == [("", ""), (f"bytes={len(BODY)}-", etag or "")]


@pytest.mark.parametrize("etag", ['"v1"', None])
def test_a_length_that_promises_too_little(server, tmp_path, etag):
    """The archive's own end is missing, so the rest is asked for."""
    lie = Answer(claim=-5000, etag=etag)
    script = server.put("a.tar.gz", BODY, lie, always=Answer(etag=etag))
    got = get(server, tmp_path)
    assert (got.path.read_bytes(), got.received) == (BODY, len(BODY))
    assert [wanted for wanted, _ in script.asked] == ["", f"bytes={len(BODY) - 5000}-"]


def test_a_table_size_finds_a_short_answer_without_reading_the_archive(server, tmp_path):
    server.put("a.tar.gz", BODY, Answer(claim=-5000))
    got = fetch(server.remote("a.tar.gz", bytes=len(BODY)), tmp_path, patience=QUICK, check_gzip=False)
    assert (got.path.read_bytes(), got.checked) == (BODY, "size")


def test_an_archive_cut_off_on_the_server_is_refused(server, tmp_path):
    server.put("a.tar.gz", BODY[:-100])
    with pytest.raises(FetchError, match="the archive ends too early"):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_more_bytes_than_the_table_says_are_refused(server, tmp_path):
    server.put("a.tar.gz", BODY + b"more")
    with pytest.raises(FetchError, match=r"the server offers .* bytes, the table says .*correct the table"):
        get(server, tmp_path, bytes=len(BODY))


def test_more_bytes_than_the_range_are_refused(server, tmp_path):
    extra = Answer(claim=4, extra=b"more")
    server.put("a.tar.gz", BODY, Answer(stop_after=100_000), extra)
    with pytest.raises(FetchError, match="sends more than the"):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_fewer_bytes_than_the_table_says_are_refused(server, tmp_path):
    server.put("a.tar.gz", BODY)
    with pytest.raises(FetchError, match=r"the server has .* bytes, the table says"):
        get(server, tmp_path, bytes=len(BODY) + 1)


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_hashes(server, tmp_path, kind):
    script = server.put("a.tar.gz", BODY)
    good, bad = (hashlib.new(kind, body).hexdigest() for body in (BODY, OTHER))
    with pytest.raises(FetchError, match=f"its {kind} is {good}, the table says {bad}; what came is no good"):
        get(server, tmp_path, **{kind: bad})
    assert (list(tmp_path.iterdir()), len(script.asked)) == ([], 1)
    assert get(server, tmp_path, **{kind: good.upper()}).checked == kind


def test_damage_inside_the_archive_is_found(server, tmp_path):
    body = bytearray(BODY)
    body[len(body) // 2] ^= 1
    server.put("a.tar.gz", bytes(body))
    with pytest.raises(FetchError, match="the archive is damaged"):
        get(server, tmp_path)
    assert fetch(server.remote("a.tar.gz"), tmp_path, check_gzip=False).checked == "size"
    with pytest.raises(FetchError, match=r"is there but the archive is damaged .*move it away"):
        fetch(server.remote("a.tar.gz"), tmp_path, recheck=True)


def test_a_web_page_in_place_of_the_archive(server, tmp_path):
    server.put("a.tar.gz", b"<html>Sign in</html>")
    with pytest.raises(FetchError, match="not a gzip archive; the link may have expired"):
        get(server, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_is_not_asked_for_twice(server, tmp_path):
    script = server.put("a.tar.gz", BODY, always=Answer(status=404))
    with pytest.raises(FetchError, match=r"HTTP 404 Not Found from 127\.0\.0\.1; .*give a table"):
        get(server, tmp_path)
    assert len(script.asked) == 1


def test_nobody_there(tmp_path):
    with pytest.raises(FetchError, match=r"gave up after 3 attempts .*refused"):
        fetch(Remote("a.tar.gz", "http://127.0.0.1:1/a.tar.gz"), tmp_path, patience=QUICK)


def test_redirects_are_followed_with_the_range_and_only_on_safe_ground(server, tmp_path):
    hop = Answer(status=302, location=f"{server.address}/real")
    server.put("a.tar.gz", BODY, always=hop)
    real = server.put("real", BODY, Answer(stop_after=100_000))
    assert get(server, tmp_path).path.read_bytes() == BODY
    assert real.asked[1] == ("bytes=100000-", '"v1"')
    server.put("b.tar.gz", BODY, always=Answer(status=302, location="http://example.com/b.tar.gz"))
    with pytest.raises(FetchError, match=r"redirects to 'http://example.com/b.tar.gz', which is not https: refused"):
        fetch(server.remote("b.tar.gz"), tmp_path, patience=QUICK)


@pytest.mark.parametrize(
    "url", ["http://example.com/a", "ftp://example.com/a", "file:///etc/passwd", "https://", "example.com/a", ""]
)
def test_addresses_without_tls_are_refused(url):
    with pytest.raises(ValueError, match="is not an https:// address"):
        check_url(url)


def test_size_of(server):
    server.put("a.tar.gz", BODY)
    assert size_of(server.remote("a.tar.gz")) == len(BODY)


def test_a_stop_keeps_the_part(server, tmp_path):
    server.put("a.tar.gz", BODY)
    stop = threading.Event()
    with pytest.raises(Stopped):
        fetch(server.remote("a.tar.gz"), tmp_path, stop=stop, on_bytes=lambda count: stop.set())
    held = (tmp_path / "a.tar.gz.part").read_bytes()
    assert len(held) > 0
    assert held == BODY[: len(held)]
    got = get(server, tmp_path)
    assert (got.path.read_bytes(), got.received) == (BODY, len(BODY) - len(held))


# The whole collection


def table(server: Server, path: Path, bodies: dict[str, bytes]) -> Path:
    lines = [f"{name},{server.address}/{name},{len(body)},," for name, body in bodies.items()]
    path.write_text("\n".join(["name,url,bytes,sha256,md5", *lines]))
    return path


@pytest.fixture
def collection(server, tmp_path) -> tuple[dict[str, bytes], Path]:
    bodies = {f"images_{n:03}.tar.gz": archive(n, 40_000) for n in range(1, 13)}
    for n, (name, body) in enumerate(bodies.items()):
        server.put(name, body, *([Answer(status=500), Answer(stop_after=10_000)] if n % 2 else []))
    return bodies, table(server, tmp_path / "table.csv", bodies)


def test_twelve_archives_several_at_once(collection, server, tmp_path, capsys):
    bodies, links = collection
    out = tmp_path / "nih"
    got = download_nih(out, table=links, parallel=5, patience=QUICK)
    assert [one.name for one in got] == list(bodies)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == bodies
    said = capsys.readouterr().out
    for text in (
        "https://nihcc.app.box.com/v/ChestXray-NIHCC",
        "Wang X, Peng Y",
        "NIH Clinical Center is the data provider",
        "(12 of 12)",
        "missing there: Data_Entry_2017_v2020.csv, BBox_List_2017.csv, train_val_list.txt, test_list.txt.",
        f"agcxr prepare nih --images {out} --labels",
    ):
        assert text in said
    asked = [len(script.asked) for script in server.http.scripts.values()]
    again = download_nih(out, table=links, patience=QUICK)
    assert [one.received for one in again] == [0] * 12
    assert [len(script.asked) for script in server.http.scripts.values()] == asked
    assert {one.checked for one in download_nih(out, table=links, recheck=True)} == {"gzip"}


def test_one_failure_does_not_stop_the_others(collection, server, tmp_path, capsys):
    bodies, links = collection
    server.put("images_003.tar.gz", b"", always=Answer(status=404))
    with pytest.raises(DownloadError, match=r"1 of 12 files are missing:\n  images_003.tar.gz: HTTP 404"):
        download_nih(tmp_path / "nih", table=links, patience=QUICK)
    there = {path.name for path in (tmp_path / "nih").iterdir()}
    assert there == set(bodies) - {"images_003.tar.gz"}
    assert "failed: images_003.tar.gz" in capsys.readouterr().out


def test_only_some(collection, tmp_path):
    _, links = collection
    got = download_nih(tmp_path / "nih", table=links, only=["images_002.tar.gz"], patience=QUICK)
    assert [one.name for one in got] == ["images_002.tar.gz"]
    with pytest.raises(ValueError, match=r"no link for images_13 in the table; it has images_001.tar.gz, "):
        download_nih(tmp_path / "nih", table=links, only=["images_13"])
    with pytest.raises(ValueError, match="parallel is 0"):
        download_nih(tmp_path / "nih", table=links, parallel=0)


def test_a_disk_too_small_is_noticed_before_the_first_byte(collection, server, tmp_path, monkeypatch):
    bodies, links = collection
    links.write_text("\n".join(["name,url", *(f"{name},{server.address}/{name}" for name in bodies)]))  # sizes unknown
    usage = type("Usage", (), {"free": sum(map(len, bodies.values())) - 1})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match=r"0\.0 GB are still to come and .* choose another folder"):
        download_nih(tmp_path / "nih", table=links)
    assert list((tmp_path / "nih").iterdir()) == []


def test_a_disk_that_fills_up_keeps_what_came(collection, tmp_path, monkeypatch):
    _, links = collection

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "fetch", full)
    with pytest.raises(DownloadError, match=r"12 of 12 files are missing:\n  images_0.*No space left on device"):
        download_nih(tmp_path / "nih", table=links)


def test_ctrl_c_keeps_the_parts(collection, tmp_path, monkeypatch, capsys):
    bodies, links = collection
    real = download.fetch

    def interrupted(remote, *args, **kwargs):
        if remote.name == "images_002.tar.gz":
            raise KeyboardInterrupt
        return real(remote, *args, **kwargs)

    monkeypatch.setattr(download, "fetch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download_nih(tmp_path / "nih", table=links, parallel=2, patience=QUICK)
    assert "What has come is kept: run the same command again" in capsys.readouterr().out
    monkeypatch.setattr(download, "fetch", real)
    download_nih(tmp_path / "nih", table=links, patience=QUICK)
    assert {path.name: path.read_bytes() for path in (tmp_path / "nih").iterdir()} == bodies


def test_a_real_ctrl_c_does_not_wait_for_a_silent_server(server, tmp_path):
    server.put("a.tar.gz", BODY, Answer(pause=60.0))
    links, part = table(server, tmp_path / "table.csv", {"a.tar.gz": BODY}), tmp_path / "nih" / "a.tar.gz.part"
    code = f"from agcxr.data.download import download_nih; download_nih({str(part.parent)!r}, table={str(links)!r})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while not part.exists() or part.stat().st_size < len(BODY) // 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert process.returncode != 0
    assert b"What has come is kept" in out
    assert part.read_bytes() == BODY[: len(BODY) // 2]
    got = fetch(server.remote("a.tar.gz"), part.parent, patience=QUICK)
    assert (got.path.read_bytes(), got.received) == (BODY, len(BODY) - len(BODY) // 2)


# As a new user meets it


def by_hand(path: Path, **links: str) -> Path:
    """A table of two archives and the lists, as the package's own: most of them without a link."""
    names = ("images_001.tar.gz", "images_002.tar.gz", *download.LISTS)
    lines = [f"{name},{links.get(name.split('.')[0], '')}" for name in names]
    path.write_text("\n".join(["name,url", *lines]))
    return path


def test_a_new_user_downloads_and_prepares(server, tmp_path, capsys):
    """Both archives and all lists, over connections that break and lie; then the very command that was printed."""
    made = write_phantom(tmp_path / "phantom", 12, seed=1, size=64, workers=1, progress=False)
    films = sorted((made / "images").iterdir())
    bad = [Answer(status=503, retry_after="0"), Answer(stop_after=9000)], [Answer(claim=-500)]
    for n, (part, answers) in enumerate(zip((films[:6], films[6:]), bad, strict=True), start=1):
        pack(tmp_path / "packed.tar.gz", part)
        server.put(f"images_00{n}.tar.gz", (tmp_path / "packed.tar.gz").read_bytes(), *answers)
    for name in download.LISTS:
        server.put(name, (made / name).read_bytes(), Answer(stop_after=50))
    names = ("images_001.tar.gz", "images_002.tar.gz", *download.LISTS)
    links = by_hand(tmp_path / "t.csv", **{name.split(".")[0]: f"{server.address}/{name}" for name in names})
    out = tmp_path / "my nih"
    assert main(["download", "nih", "--out", str(out), "--table", str(links)]) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(names)
    said = capsys.readouterr().out
    assert "Still missing" not in said
    command = shlex.split(said.splitlines()[-1].replace("PREPARED", shlex.quote(str(tmp_path / "ready"))))
    assert command[:3] == ["agcxr", "prepare", "nih"]
    assert main([*command[1:], "--size", "32"]) == 0
    plan = open_prepared(tmp_path / "ready").plan
    assert (plan.counts.prepared, plan.split.rule) == (12, "official")
    assert plan.counts.boxes > 0


def test_lists_without_a_link_are_asked_for_by_name(server, tmp_path, capsys):
    server.put("images_001.tar.gz", BODY)
    server.put("images_002.tar.gz", OTHER)
    both = {f"images_00{n}": f"{server.address}/images_00{n}.tar.gz" for n in (1, 2)}
    links, out = by_hand(tmp_path / "t.csv", **both), tmp_path / "nih"
    call = ["download", "nih", "--out", str(out), "--table", str(links)]
    assert main([*call, "--only", "images_001.tar.gz"]) == 0
    said = capsys.readouterr().out
    assert f"The 1 of 2 archives are in {out}; prepare reads them as they are" in said
    assert "--subset --out PREPARED" in said
    assert main(call) == 0
    said = capsys.readouterr().out
    assert f"Still missing there: {', '.join(download.LISTS)}.\n" in said
    assert "open https://nihcc.app.box.com/v/ChestXray-NIHCC in a browser" in said
    assert "--subset" not in said
    (out / "Data_Entry_2017.csv.gz").write_bytes(b"as the user saved it")
    (out / "test_list.txt").write_text("x.png")
    assert main(call) == 0
    said = capsys.readouterr().out
    assert "Still missing there: BBox_List_2017.csv, train_val_list.txt.\n" in said
    assert f"--labels {out / 'Data_Entry_2017.csv.gz'} --boxes {out / 'BBox_List_2017.csv'} --lists {out}" in said


def test_a_page_in_place_of_a_list(server, tmp_path):
    server.put("test_list.txt", b"\n<!doctype html><title>Sign in</title>")
    with pytest.raises(FetchError, match=r"test_list.txt: the server sent text/plain, not a table; the link may have"):
        fetch(server.remote("test_list.txt"), tmp_path, patience=QUICK)
    assert list(tmp_path.iterdir()) == []


def test_without_a_network_it_ends_at_once(tmp_path, capsys):
    links = by_hand(tmp_path / "t.csv", images_001="http://127.0.0.1:1/a", images_002="http://127.0.0.1:1/b")
    start = time.monotonic()
    assert main(["download", "nih", "--out", str(tmp_path / "nih"), "--table", str(links)]) == 2
    assert time.monotonic() - start < 10
    assert "no server answers (images_00" in capsys.readouterr().err
    assert main(["download", "nih", "--table", str(tmp_path / "none.csv")]) == 2
    assert "none.csv cannot be read: No such file or directory; expected name,url,bytes" in capsys.readouterr().err


def test_the_table_can_be_printed_and_given_back(tmp_path, capsys):
    assert main(["download", "nih", "--print-table"]) == 0
    (tmp_path / "mine.csv").write_text(capsys.readouterr().out)
    assert read_table(tmp_path / "mine.csv") == read_table()


def test_the_package_table():
    everything = read_table()
    remotes = [one for one in everything if one.url]
    assert [one.name for one in remotes] == [f"images_{n:03}.tar.gz" for n in range(1, 13)]
    assert tuple(one.name for one in everything if not one.url) == download.LISTS
    assert all(one.url.startswith("https://nihcc.box.com/shared/static/") for one in remotes)
    assert len({one.url for one in remotes}) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,link\n", "the header is 'name,link', expected 'name,url,bytes,sha256,md5'"),
        ("", "the header is ''"),
        ("name,url\n", "no links in the table"),
        ("name,url\na.gz,https://x.org/a\na.gz,https://x.org/b\n", "a.gz more than once"),
        ("name,url\n../a.gz,https://x.org/a\n", r"line 2: the name is '../a.gz', expected a plain file name"),
        ("name,url\na.gz.part,https://x.org/a\n", "line 2: the name is"),
        ("name,url\na.gz,http://x.org/a\n", r"line 2: 'http://x.org/a' is not an https:// address"),
        ("name,url\na.gz\n", "no links in the table"),
        ("name,url,bytes\na.gz,https://x.org/a,12 GB\n", "line 2: bytes is '12 GB'"),
        ("name,url,sha256\na.gz,https://x.org/a,abc\n", "line 2: sha256 is 'abc', expected 64 hexadecimal digits"),
        ("name,url,md5\na.gz,https://x.org/a,xyz\n", "line 2: md5 is 'xyz', expected 32"),
    ],
)
def test_bad_tables(text, message, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_table(path)
