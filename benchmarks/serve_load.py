"""How many films a second `agcxr serve` sustains, and what it does at twice that. Default about a minute.

A model folder, or an untrained ResNet-50 without one; 1024 x 1024 PNG films over real connections on this machine
(client and server share its cores).
First the rate is found: as many clients as keep the server busy, each sending its next film when the last is answered.
Then films are sent at that rate and at twice that, at fixed times whether or not answers come (an open loop: a slow
server cannot slow its load down). Printed: answered films/s, p50 and p95 latency from the planned time of sending, and
the share refused with 503.

A film that is not read (refused by the intake check, say) counts as an error. On a machine that does nothing else:

Run: python benchmarks/serve_load.py [--model RUN] [--seconds 10] [--out docs/results/serve.md]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import httpx
import numpy as np

SERVE = (
    "import sys; from agcxr.serve.run import serve; "
    "serve(sys.argv[1], port=0, device=None if sys.argv[2] == 'auto' else sys.argv[2])"
)


QUEUE, LONGEST_OVERLOAD = 64, 60.0


@dataclass(frozen=True)
class Load:
    """What happened to the films of one phase. seconds_N: latency of those that were answered."""

    name: str
    sent: int
    refused: int
    failed: int
    elapsed: float
    seconds_N: np.ndarray
    retry_after: tuple[int, int]

    def row(self) -> str:
        answered = len(self.seconds_N)
        p50, p95 = np.percentile(self.seconds_N, [50, 95]) if answered else (np.nan, np.nan)
        wait = f"{self.retry_after[0]} to {self.retry_after[1]} s" if self.refused else "-"
        return (
            f"| {self.name} | {self.sent / self.elapsed:.1f} | {answered / self.elapsed:.1f} | {1000 * p50:.0f} "
            f"| {1000 * p95:.0f} | {self.refused / max(self.sent, 1):.0%} | {wait} | {self.failed} |"
        )


HEAD = (
    "| load | sent/s | answered/s | p50 ms | p95 ms | 503 | Retry-After | other errors |\n"
    "|---|---|---|---|---|---|---|---|"
)


class Sender:
    """Sends films and keeps the score of one phase."""

    def __init__(self, client: httpx.AsyncClient, films: list[bytes]) -> None:
        self._client, self._films = client, films
        self.seconds: list[float] = []
        self.waits: list[int] = []
        self.failed = self.sent = 0

    async def send(self, planned: float) -> None:
        film = self._films[self.sent % len(self._films)]
        self.sent += 1
        try:
            response = await self._client.post("/v1/predict", content=film, headers={"content-type": "image/png"})
        except httpx.HTTPError:
            self.failed += 1
            return
        if response.status_code == 200 and response.json()["films"][0]["status"] == "read":
            self.seconds.append(time.perf_counter() - planned)
        elif response.status_code == 503:
            self.waits.append(int(response.headers["retry-after"]))
        else:
            self.failed += 1

    def load(self, name: str, elapsed: float) -> Load:
        waits = (min(self.waits, default=0), max(self.waits, default=0))
        return Load(name, self.sent, len(self.waits), self.failed, elapsed, np.array(self.seconds), waits)


async def closed(client: httpx.AsyncClient, films: list[bytes], clients: int, seconds: float) -> Load:
    sender, start = Sender(client, films), time.perf_counter()

    async def one() -> None:
        while time.perf_counter() - start < seconds:
            await sender.send(time.perf_counter())

    await asyncio.gather(*(one() for _ in range(clients)))
    return sender.load(f"{clients} clients, one after the other", time.perf_counter() - start)


async def opened(client: httpx.AsyncClient, films: list[bytes], rate: float, seconds: float, name: str) -> Load:
    sender, start, tasks = Sender(client, films), time.perf_counter(), []
    for number in range(max(int(rate * seconds), 1)):
        planned = start + number / rate
        await asyncio.sleep(max(planned - time.perf_counter(), 0))
        tasks.append(asyncio.create_task(sender.send(planned)))
    await asyncio.gather(*tasks)
    return sender.load(name, max(time.perf_counter() - start, seconds))


async def measure(url: str, films: list[bytes], seconds: float) -> list[Load]:
    limits = httpx.Limits(max_connections=400)
    async with httpx.AsyncClient(base_url=url, timeout=90, limits=limits) as client:
        await closed(client, films, 2, seconds / 3)  # warm-up, not counted
        one, many = await closed(client, films, 1, seconds / 2), await closed(client, films, 16, seconds)
        best = max(len(load.seconds_N) / load.elapsed for load in (one, many))
        steady = await opened(client, films, 0.9 * best, seconds, "90 % of the highest rate")
        # Long enough to fill the queue, else an overload looks like a mere delay.
        long = min(max(seconds, 2 * QUEUE / best), LONGEST_OVERLOAD)
        twice = await opened(client, films, 2 * best, long, f"twice the highest rate, for {long:.0f} s")
        after = await closed(client, films, 1, seconds / 3)
        return [one, many, steady, twice, Load("1 client, afterwards", *list(vars(after).values())[1:])]


def start(model: Path, device: str, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    with open(log, "wb") as file:
        process = subprocess.Popen([sys.executable, "-c", SERVE, str(model), device], stderr=file)
    for _ in range(1200):
        found = re.search(r"http://\S+", log.read_text())
        if found:
            return process, found[0]
        if process.poll() is not None:
            break
        time.sleep(0.1)
    process.kill()
    raise RuntimeError(f"the server did not start: {log.read_text()}")


def films_to_send() -> list[bytes]:
    import cv2

    from agcxr.data.phantom import film

    rng = np.random.default_rng(0)
    return [cv2.imencode(".png", film(rng, (), size=1024).pixels_HW)[1].tobytes() for _ in range(4)]


def untrained(folder: Path) -> Path:
    from agcxr.models.agcnn import AGCNN

    model = AGCNN("resnet50", weights="none")
    model.save_pretrained(folder, model.new_card(prepared_size=256))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="run or model folder; default: an untrained ResNet-50")
    parser.add_argument("--seconds", type=float, default=10, help="of each phase")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or untrained(Path(folder) / "model")
        process, url = start(model, options.device, Path(folder) / "log")
        try:
            about = httpx.get(f"{url}/v1/model", timeout=60).json()
            loads = asyncio.run(measure(url, films_to_send(), options.seconds))
            metrics = httpx.get(f"{url}/metrics", timeout=60).text
        finally:
            process.terminate()
            process.wait()
    text = report(about, loads, metrics, busy)
    print(text)
    if options.out:
        given = " --model RUN" if options.model else ""
        made = f"Research use only. Made by `python benchmarks/serve_load.py{given} --seconds {options.seconds:g}`.\n"
        options.out.write_text(f"# agcxr serve under load\n\n{made}{text}\n", encoding="utf-8")


def _milliseconds(load: Load, share: float) -> str:
    return f"{1000 * np.percentile(load.seconds_N, share):.0f} ms" if len(load.seconds_N) else "none answered"


def report(about: dict, loads: list[Load], metrics: str, busy: float) -> str:
    def value(name: str) -> float:
        return float(re.search(rf"^{name} (\S+)", metrics, flags=re.M)[1])

    batch = value("agcxr_batch_films_sum") / value("agcxr_batch_films_count")
    packages = ", ".join(f"{name} {version(name)}" for name in ("agcxr", "torch", "fastapi", "uvicorn"))
    one, many, steady, twice, after = loads
    best = max((one, many), key=lambda load: len(load.seconds_N) / load.elapsed)
    return "\n".join(
        [
            f"{about['backbone']} at {about['image_size']} pixels, {about['precision']} on {about['device']}; films of "
            f"1024 x 1024 pixels as PNG, one a request; {os.cpu_count()} cores ({platform.machine()}), "
            f"shared by the server, its decoders and the clients; load average before the start {busy:.1f}.",
            f"Python {platform.python_version()}, {packages}. Mean batch {batch:.1f} films, at most "
            f"16; the queue holds {QUEUE}.",
            "",
            HEAD,
            *(load.row() for load in loads),
            "",
            f"**Highest sustained: {len(best.seconds_N) / best.elapsed:.1f} films/s** ({best.name}). At 90 % of it, "
            f"sent at fixed times whether or not answers come: p50 {_milliseconds(steady, 50)}, p95 "
            f"{_milliseconds(steady, 95)}. At twice it {twice.refused / max(twice.sent, 1):.0%} of the films are told "
            f"503 with Retry-After, the others wait in the queue (p95 {_milliseconds(twice, 95)}). One client before "
            f"all that: p50 {_milliseconds(one, 50)}; after it: {_milliseconds(after, 50)}. Latency counts from the "
            "planned time of sending.",
        ]
    )


if __name__ == "__main__":
    main()
