"""A small DICOMweb service in the same process, for tests of what lists, fetches and stores."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from agcxr.data.multipart import join_parts

DX = "1.2.840.10008.5.1.4.1.1.1.1"


def item(uid: str, sop_class: str = DX, manufacturer: str = "maker") -> dict:
    values = {"00080016": sop_class, "0020000D": "1.2", "0020000E": "1.2.3", "00080018": uid, "00080070": manufacturer}
    return {tag: {"vr": "UI", "Value": [value]} for tag, value in values.items()}


class Service(ThreadingHTTPServer):
    """Answers with what `films` and `answers` hold; remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.items: list[dict] = []
        self.films: dict[str, bytes] = {}
        self.answers: list[tuple[int, bytes]] = []
        self.asked: list[tuple[str, dict[str, str], bytes]] = []
        self.tokens = 0
        self.bare = False
        self.root = f"http://127.0.0.1:{self.server_address[1]}/dicom-web"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes, kind: str = "application/dicom+json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append((self.path, dict(self.headers), body))
        parts = urlsplit(self.path)
        if parts.path == "/token":
            self.server.tokens += 1
            told = {"access_token": f"token{self.server.tokens}", "expires_in": 3600}
            self.answer(200, json.dumps(told).encode(), "application/json")
        elif self.server.answers:
            self.answer(*self.server.answers.pop(0))
        elif parts.path.endswith("/instances"):
            query = {name: int(value[0]) for name, value in parse_qs(parts.query).items() if name != "includefield"}
            page = self.server.items[query["offset"] :][: query["limit"]]
            self.answer(200 if page else 204, json.dumps(page).encode() if page else b"")
        else:
            film = self.server.films[parts.path.rpartition("/")[2]]
            kind = 'multipart/related; type="application/dicom"; boundary="a b"'
            bare = self.server.bare
            body = film if bare else join_parts([("application/dicom; transfer-syntax=1.2", film)], "a b")
            self.answer(200, body, "application/dicom" if bare else kind)

    do_GET = do_POST = handle_one


@contextmanager
def running() -> Iterator[Service]:
    service = Service()
    thread = threading.Thread(target=service.serve_forever, daemon=True)
    thread.start()
    yield service
    service.shutdown()
    thread.join()
    service.server_close()
