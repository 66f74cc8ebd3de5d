"""Hostile films and requests, from a seed; as a command, the page docs/results/fuzz.md.

Run: cd tests && python -m serve.fuzz [--files 2000] [--requests 500] [--seed 3] [--out ../docs/results/fuzz.md]
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import struct
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from . import make


def kinds() -> dict[str, list[bytes]]:
    """Good files of every kind, small."""
    eight, sixteen = make.pixels(40, 30), make.pixels(40, 30, dtype=np.uint16)
    colour = np.dstack([eight, eight[::-1], eight])
    return {
        "PNG": [make.encode(eight), make.encode(sixteen), make.encode(colour)],
        "JPEG": [make.encode(eight, ".jpg"), make.encode(colour, ".jpg")],
        "WebP": [make.encode(colour, ".webp")],
        "DICOM": [make.dicom(eight), make.dicom(sixteen)],
    }


def seeds() -> list[bytes]:
    return [film for films in kinds().values() for film in films]


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
ROUTES = (
    b"/v1/predict",
    b"/v1/predict?pictures=true",
    b"/v1/film",
    b"/v1/map?finding=Mass",
    b"/v1/picture",
    b"/v1/dicom",
)


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


def attack(rng: np.random.Generator, films: list[bytes]) -> tuple[bytes, bool]:
    """A mutated film in a proper request (three of four), or a hostile request; and whether it is the former."""
    if rng.random() < 0.25:
        return hostile(rng, films), False
    return sent(rng, films), True


def sent(rng: np.random.Generator, films: list[bytes]) -> bytes:
    """A mutated film in a proper request to one of the routes."""
    film = mutate(films[int(rng.integers(0, len(films)))], rng)
    return request(ROUTES[int(rng.integers(0, len(ROUTES)))], body(b"a.png", film), FORM)


def talk(port: int, data: bytes, *, patient: bool, hang_up: bool = False, seconds: float = 100) -> int:
    """Send bytes, return the status of the answer; 0 where the connection was just closed.

    `patient`: keep the line open until the answer comes. Else say at once that no more will be sent, which a request
    that promises more needs, but which the server takes for a client that has gone: it drops the film's work.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as link:
        try:
            link.sendall(data)
            if hang_up:
                return 0
            if not patient:
                link.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := link.recv(65536):
                answer = answer or piece
        except (ConnectionError, BrokenPipeError):
            return 0
    # Interim answers (100 Continue) come before the one that counts.
    lines = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    return int(lines[-1].split()[1]) if lines else 0


# --- the page ---------------------------------------------------------------------------------------------------------

MIB = 1 << 20
HOSTILE = "hostile request"
WARM_UP = 300
"""Attacks before memory is first looked at: caches and pools fill."""


@dataclass
class Siege:
    """What was sent to a server and what it said. statuses: kind of attack -> status -> count; 0: cut off."""

    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    memory: list[int] = field(default_factory=list)
    seconds: float = 0.0
    slowest: tuple[float, int, str] = (0.0, 0, "")
    """Seconds, number of the attack, kind."""

    @property
    def sent(self) -> int:
        return sum(sum(one.values()) for one in self.statuses.values())

    @property
    def failures(self) -> int:
        """Answers that say the server itself failed; a 503 says that it was busy or took too long."""
        return sum(n for one in self.statuses.values() for status, n in one.items() if status >= 500 and status != 503)


def attacks(files: int, requests: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Mutated files by kind in turn, with hostile requests strewn in."""
    rng, by_kind = np.random.default_rng(seed), kinds()
    everything = [film for films in by_kind.values() for film in films]
    owed = 0.0
    for number in range(files):
        kind = list(by_kind)[number % len(by_kind)]
        yield kind, sent(rng, by_kind[kind])
        owed += requests / files
        while owed >= 1:
            owed -= 1
            yield HOSTILE, hostile(rng, everything)


def besiege(server: make.Running, files: int, requests: int, seed: int) -> Siege:
    for kind, data in attacks(WARM_UP, WARM_UP // 4, seed + 1000):
        talk(server.port, data, patient=kind != HOSTILE)
    siege, start = Siege(memory=[server.memory()]), time.perf_counter()
    for number, (kind, data) in enumerate(attacks(files, requests, seed), start=1):
        before = time.perf_counter()
        status = talk(server.port, data, patient=kind != HOSTILE)
        siege.slowest = max(siege.slowest, (time.perf_counter() - before, number, kind))
        siege.statuses.setdefault(kind, Counter())[status] += 1
        if number % 250 == 0:
            siege.memory.append(server.memory())
    siege.memory.append(server.memory())
    siege.seconds = time.perf_counter() - start
    return siege


def ask(server: make.Running, films: dict[str, list[bytes]]) -> Any:
    """The server's answers for good films, with their pictures."""
    import httpx

    url = f"{server.url}/v1/predict?pictures=true"
    every = [one for ones in films.values() for one in ones]
    return [httpx.post(url, files={"file": ("a", one)}, timeout=60).json()["films"] for one in every]


def page(siege: Siege, same: bool, metrics: str, command: str) -> str:
    columns = sorted({status for one in siege.statuses.values() for status in one})
    names = {0: "cut off"}
    head = "| sent | " + " | ".join(names.get(status, str(status)) for status in columns) + " | together |"
    rows = [
        f"| {kind} | " + " | ".join(f"{one[status]:,}" for status in columns) + f" | {sum(one.values()):,} |"
        for kind, one in siege.statuses.items()
    ]
    counted = {line.split()[0]: float(line.split()[1]) for line in metrics.splitlines() if line.startswith("agcxr_")}
    errors, restarts = counted["agcxr_internal_errors_total"], counted["agcxr_decoder_restarts_total"]
    answered = "exactly as before" if same else "OTHERWISE THAN BEFORE"
    packages = ", ".join(f"{name} {version(name)}" for name in ("agcxr", "fastapi", "uvicorn", "pydicom"))
    memory = ", ".join(f"{one / MIB:.0f}" for one in siege.memory)
    return f"""# The server under hostile files and requests

Research use only. Made by `{command}` in {siege.seconds:.0f} s after {WARM_UP} attacks of warm-up; Python
{platform.python_version()}, {packages}; {os.cpu_count()} cores. A real `agcxr serve` in a
process of its own, with a tiny untrained network (the subject is the server). Each file is a good one of its kind
with 1 to 4 mutations (bits, cuts, doubled or zeroed stretches, absurd lengths; checksums of PNGs made right again in 3
of 5), sent to one of `/v1/predict`, `/v1/film`, `/v1/map`, `/v1/picture`, `/v1/dicom`. Hostile requests: broken forms,
lengths, encodings, paths, TLS on a plain port ...

{head}
|{"---|" * (len(columns) + 2)}
{chr(10).join(rows)}

200 is an answer (for `/v1/predict` with the status of the film in it), 400 to 431 say what is wrong with the request,
422 what is wrong with the file; 100 is a request that was dropped after "continue", "cut off" a connection closed on
bytes that are no whole HTTP request.

- **Status 500: {siege.failures}**; errors of the program by its own count: {errors:.0f}; decoders killed or
  crashed: {restarts:.0f}.
- **Slowest answer**: {siege.slowest[0]:.1f} s (attack {siege.slowest[1]:,}, {siege.slowest[2]}).
- **Memory** of the server and its decoders after every 250 attacks, in MiB: {memory}. From first to last:
  {(siege.memory[-1] - siege.memory[0]) / MIB:+.0f} MiB.
- **Afterwards** eight good films (PNG of 8 and 16 bits and in colour, JPEG, WebP, DICOM) are answered
  {answered}; films left in the queue: {counted["agcxr_queue_films"]:.0f}, bytes held for clients:
  {counted["agcxr_held_bytes"]:.0f}.

The test suite does the same with 200 attacks in every run, with 2,000 under `--slow` (`tests/serve/test_server.py`).
"""


def main() -> int:
    import httpx

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    given = "" if (options.files, options.requests, options.seed) == (2000, 500, 3) else " ..."
    with tempfile.TemporaryDirectory() as folder:
        model = make.save_model(Path(folder) / "model")
        options_of_it = '{"check_films": false, "limits": {"pixels": 4000000}}'
        with make.running(model, Path(folder) / "log", options=options_of_it) as server:
            good = kinds()
            before = ask(server, good)
            siege = besiege(server, options.files, options.requests, options.seed)
            same = ask(server, good) == before
            metrics = httpx.get(f"{server.url}/metrics", timeout=60).text
    text = page(siege, same, metrics, f"cd tests && python -m serve.fuzz{given}")
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    return 1 if siege.failures or not same else 0


if __name__ == "__main__":
    raise SystemExit(main())
