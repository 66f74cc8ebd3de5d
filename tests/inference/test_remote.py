"""Films by URI."""

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import cv2
import pytest

from agcxr.data.radiograph import RadiographError
from agcxr.inference import remote
from agcxr.inference.films import Films
from agcxr.inference.stream import read_or_failure, to_film
from inference.make import chest


def test_what_lies_below(tmp_path):
    for name in ("b.png", "a.dcm", "notes.txt", "sub/c.PNG"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    root = f"file://{tmp_path}"
    assert list(remote.films_below(f"{root}/")) == [f"{root}/{name}" for name in ("a.dcm", "b.png", "sub/c.PNG")]
    assert list(remote.films_below(f"{root}/notes.txt")) == [f"{root}/notes.txt"]
    assert remote.fetch(f"{root}/sub/c.PNG") == b"sub/c.PNG"
    with pytest.raises(ValueError, match=r"there is nothing at file://.*/d.png; expected a film, or a folder of films"):
        list(remote.films_below(f"{root}/d.png"))
    with pytest.raises(ValueError, match=r"nothing://x cannot be opened .*; expected s3://, gs://, hdfs://, file://"):
        remote.fetch("nothing://x")


def test_a_film_larger_than_any_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"12345")
    monkeypatch.setattr(remote, "MAX_MEMBER", 4)
    with pytest.raises(RadiographError, match="more than 4 bytes; no radiograph needs so many"):
        remote.fetch(f"file://{tmp_path}/a.png")


def test_films_of_a_web_server_are_inputs_as_others(tmp_path):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    cv2.imwrite(str(tmp_path / "a.png"), chest(120, 110))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        root = f"http://127.0.0.1:{server.server_port}"
        films = list(Films([f"{root}/a.png", f"{root}/none.png"]))
        assert [(film.name, str(film.relative), film.place) for film in films] == [
            (f"{root}/a.png", "a.png", 0),
            (f"{root}/none.png", "none.png", 1),
        ]
        film, failure = (read_or_failure(to_film(film), 64, 0) for film in films)
        assert (film.name, film.height, film.width) == (f"{root}/a.png", 120, 110)
        assert failure.reason.startswith(f"{root}/none.png cannot be fetched: ")
    finally:
        server.shutdown()
        server.server_close()
