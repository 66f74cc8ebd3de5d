"""What is to be seen of a node from outside: /health for people and supervisors, /metrics for Prometheus.

Numbers only: counts, ages and sums of scores, nothing of a patient. Figures of the queue are read from it when
somebody asks; those of the archive are what the sender last saw.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from agcxr.dicom.queue import OPEN, Queue

STALE = 600.0
"""Seconds that a film may wait before the node counts as unwell."""


@dataclass
class ArchiveState:
    """Of the archive, as the sender last saw it."""

    reachable: bool | None = None
    """None: nothing was sent yet."""
    since: float = field(default_factory=time.time)

    def note(self, reachable: bool) -> None:
        if reachable != self.reachable:
            self.reachable, self.since = reachable, time.time()


class Watch:
    """Answers GET /health (200, or 503 where films wait for long or the archive is away) and GET /metrics.

    Args:
        queue: of the node.
        model: its version.
        archive: kept up to date by the node.
        host, port: where to listen; port 0 takes a free one, see `port`.
    """

    def __init__(self, queue: Queue, model: str, archive: ArchiveState, host: str, port: int) -> None:
        self._queue, self._model, self._archive = queue, model, archive
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._server = ThreadingHTTPServer((host, port), _handler(self.health, lambda: generate_latest(self._registry)))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="agcxr-watch", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def health(self) -> tuple[bool, dict[str, object]]:
        """Whether all is well, and the facts."""
        counts, oldest = self._queue.counts(), self._oldest()
        facts: dict[str, object] = {
            "model": self._model,
            "queue": {state: counts[state] for state in OPEN},
            "oldest_seconds": round(oldest, 1),
            "archive": {None: "not called yet", True: "reachable", False: "away"}[self._archive.reachable],
            "archive_since": round(self._archive.since),
        }
        well = oldest < STALE and self._archive.reachable is not False
        return well, {"status": "ok" if well else "unwell", **facts}

    def collect(self) -> Iterator[Metric]:
        """For prometheus_client."""
        yield InfoMetricFamily("agcxr_model", "The model that reads", {"version": self._model})
        films = GaugeMetricFamily("agcxr_node_films", "Films in the queue's file by state", labels=["state"])
        for state, count in self._queue.counts().items():
            films.add_metric([state], count)
        yield films
        yield GaugeMetricFamily("agcxr_node_oldest_seconds", "Age of the oldest waiting film", self._oldest())
        yield GaugeMetricFamily("agcxr_node_queue_bytes", "Of the disk, taken by what waits", self._queue.bytes_used())
        away = self._archive.reachable
        yield GaugeMetricFamily(
            "agcxr_node_archive_up", "1 reachable, 0 away, -1 not called", -1 if away is None else away
        )
        read = CounterMetricFamily("agcxr_node_read", "Films by what came of reading", labels=["model", "outcome"])
        scores = CounterMetricFamily("agcxr_node_score_sum", "Sum of the scores", labels=["model", "finding"])
        outcomes: dict[tuple[str, str], int] = {}
        sums: dict[tuple[str, str], float] = {}
        for day in self._queue.days():
            outcomes[day.model, day.outcome] = outcomes.get((day.model, day.outcome), 0) + day.films
            for finding, mean in day.means.items():
                sums[day.model, finding] = sums.get((day.model, finding), 0) + mean * day.films
        for labels, count in outcomes.items():
            read.add_metric(labels, count)
        for labels, total in sums.items():
            scores.add_metric(labels, total)
        yield from (read, scores)

    def _oldest(self) -> float:
        waiting = [entry.received for entry in self._queue.entries(("received", "made"))]
        return max(time.time() - min(waiting), 0.0) if waiting else 0.0


def _handler(
    health: Callable[[], tuple[bool, dict[str, object]]], metrics: Callable[[], bytes]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        server_version, sys_version = "agcxr", ""

        def do_GET(self) -> None:
            if self.path == "/health":
                well, facts = health()
                self._say(200 if well else 503, "application/json", json.dumps(facts).encode())
            elif self.path == "/metrics":
                self._say(200, "text/plain; version=0.0.4; charset=utf-8", metrics())
            else:
                self._say(404, "text/plain", b"/health and /metrics\n")

        def _say(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), ("Connection", "close")):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """The journal is the log; addresses and paths of strangers are not for it."""

    return Handler
