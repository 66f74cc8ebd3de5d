"""Hostile films and requests, from a seed."""

from __future__ import annotations

import socket
import struct
import zlib
from collections.abc import Callable

import numpy as np

from . import make


def seeds() -> list[bytes]:
    """Good files of every kind, small."""
    eight, sixteen = make.pixels(40, 30), make.pixels(40, 30, dtype=np.uint16)
    colour = np.dstack([eight, eight[::-1], eight])
    films = [make.encode(eight), make.encode(sixteen), make.encode(colour), make.encode(eight, ".jpg")]
    films += [make.encode(colour, ".jpg"), make.encode(colour, ".webp")]
    return [*films, make.dicom(eight), make.dicom(sixteen)]


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One of: bits flipped, cut, doubled, bytes overwritten, zeros put in, lengths made absurd; PNG sums made right."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(0, max(len(out), 1)))
        match int(rng.integers(0, 7)):
            case 0:
                out[at : at + 1] = bytes([out[at] ^ (1 << int(rng.integers(0, 8)))]) if out else b""
            case 1:
                del out[at:]
            case 2:
                out[at:at] = out[at : at + int(rng.integers(1, 200))]
            case 3:
                out[at : at + 4] = rng.bytes(4)
            case 4:
                out[at:at] = bytes(int(rng.integers(1, 300)))
            case 5:
                out[at : at + 4] = struct.pack(">I", int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0x10000, 65535])))
            case 6:
                del out[at : at + int(rng.integers(1, 50))]
    mended = bytes(out)
    return _right_sums(mended) if rng.random() < 0.6 else mended


def _right_sums(data: bytes) -> bytes:
    """A PNG whose checksums fit again, so that the damage reaches the decoder."""
    if data[:4] != b"\x89PNG":
        return data
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        (length,) = struct.unpack_from(">I", out, at)
        end = at + 12 + length
        if end > len(out):
            break
        struct.pack_into(">I", out, end - 4, zlib.crc32(out[at + 4 : end - 4]))
        at = end
    return bytes(out)


def body(name: bytes, data: bytes, boundary: bytes = b"xx") -> bytes:
    head = b'--%s\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n' % (boundary, name)
    return head + data + b"\r\n--" + boundary + b"--\r\n"


def request(path: bytes, content: bytes, headers: bytes = b"", method: bytes = b"POST") -> bytes:
    return (
        b"%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n"
        % (method, path, headers, len(content))
        + content
    )


HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\n"
FORM = b"Content-Type: multipart/form-data; boundary=xx\r\n"
ROUTES = (b"/v1/predict", b"/v1/predict?pictures=true", b"/v1/film", b"/v1/map?finding=Mass", b"/v1/picture")


def hostile(rng: np.random.Generator, films: list[bytes]) -> bytes:
    """One raw request that no honest client sends."""
    film = films[int(rng.integers(0, len(films)))]
    good = body(b"a.png", film)
    kinds: list[Callable[[], bytes]] = [
        lambda: request(b"/v1/predict", good[: int(rng.integers(0, len(good)))], FORM),
        lambda: request(b"/v1/predict", good, b"Content-Type: multipart/form-data\r\n"),
        lambda: request(b"/v1/predict", good, b"Content-Type: multipart/form-data; boundary=" + b"y" * 300 + b"\r\n"),
        lambda: request(b"/v1/predict", body(rng.bytes(60).replace(b"\r", b"").replace(b"\n", b""), film), FORM),
        lambda: request(b"/v1/predict", body(b"../../etc/passwd\x00.png", film), FORM),
        lambda: request(b"/v1/predict", good.replace(b"form-data;", b"form-data; " * 500), FORM),
        lambda: request(b"/v1/predict", body(b"a", b"") * 40, FORM),
        lambda: request(b"/v1/predict", rng.bytes(int(rng.integers(0, 2000))), FORM),
        lambda: request(b"/v1/predict", b"", FORM),
        lambda: request(b"/v1/predict", mutate(good, rng), FORM),
        lambda: request(b"/v1/map?finding=" + b"%00%ff" * 9 + b"&branch=%27--", good, FORM),
        lambda: request(b"/v1/predict?pictures=" + b"1" * 5000, good, FORM),
        lambda: request(b"/static/" + b"..%2f" * 20 + b"etc/passwd", b"", method=b"GET"),
        lambda: request(b"/v1/examples/%2e%2e%2f%00", b"", method=b"GET"),
        lambda: request(b"/v1/predict", good, FORM + b"Content-Encoding: gzip\r\n"),
        lambda: request(b"/v1/predict", good, FORM + b"Expect: 100-continue\r\n"),
        lambda: request(b"/" + bytes(rng.integers(33, 127, 80).astype(np.uint8)), b"x", method=b"PATCH"),
        lambda: request(b"/v1/predict", good, FORM + b"X-Long: " + b"z" * 9000 + b"\r\n"),
        lambda: request(b"/v1/predict", good, FORM + b"Content-Length: 7\r\n"),
        lambda: request(b"/v1/predict", good, FORM + b"Transfer-Encoding: chunked\r\n"),
        lambda: HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        lambda: HEAD + b"Content-Length: -5\r\n\r\n",
        lambda: HEAD + b"Content-Length: 99999999999999999999\r\n\r\n",
        lambda: b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        lambda: b"\x16\x03\x01\x02\x00\x01\x00" + rng.bytes(50),
        lambda: rng.bytes(int(rng.integers(1, 400))) + b"\r\n\r\n",
    ]
    return kinds[int(rng.integers(0, len(kinds)))]()


def attack(rng: np.random.Generator, films: list[bytes]) -> bytes:
    """A mutated film in a proper request (three of four), or a hostile request."""
    if rng.random() < 0.25:
        return hostile(rng, films)
    film = mutate(films[int(rng.integers(0, len(films)))], rng)
    return request(ROUTES[int(rng.integers(0, len(ROUTES)))], body(b"a.png", film), FORM)


def talk(port: int, data: bytes, *, hang_up: bool = False, seconds: float = 20) -> int:
    """Send bytes, return the status of the answer; 0 where the connection was just closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as link:
        try:
            link.sendall(data)
            if hang_up:
                return 0
            link.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := link.recv(65536):
                answer = answer or piece
        except (ConnectionError, BrokenPipeError):
            return 0
    # Interim answers (100 Continue) come before the one that counts.
    lines = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    return int(lines[-1].split()[1]) if lines else 0
