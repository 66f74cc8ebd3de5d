"""What is to be seen of a node from outside: /health for people and supervisors, /metrics for Prometheus.

Numbers only: counts, ages and sums of scores, nothing of a patient. Figures of the queue are read from it when
somebody asks; those of an archive are what its sender last saw. As on the page, a token guards /metrics, not /health.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from agcxr.dicom.queue import OPEN, Queue
from agcxr.tokens import Tokens, is_local

STALE = 600.0
"""Seconds that a film may wait before the node counts as unwell."""


@dataclass
class ArchiveState:
    """Of an archive, as its sender last saw it."""

    reachable: bool | None = None
    """None: nothing was sent yet."""
    since: float = field(default_factory=time.time)

    @property
    def words(self) -> str:
        return {None: "not called yet", True: "reachable", False: "away"}[self.reachable]

    @property
    def number(self) -> int:
        return -1 if self.reachable is None else int(self.reachable)

    def note(self, reachable: bool) -> None:
        if reachable != self.reachable:
            self.reachable, self.since = reachable, time.time()


class Watch:
    """Answers GET /health (200, or 503 where films wait for long or an archive is away) and GET /metrics.

    Args:
        queue: of the node.
        model: its version.
        archives: by name; kept up to date by the node.
        host, port: where to listen; port 0 takes a free one, see `port`.
        tokens: what /metrics asks for; without any nothing, on this machine's own addresses only.
        tls: for HTTPS.

    Raises:
        ValueError: an address that others reach, without a token.
    """

    def __init__(
        self,
        queue: Queue,
        model: str,
        archives: Mapping[str, ArchiveState],
        host: str,
        port: int,
        *,
        tokens: Tokens,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        if not tokens.needed and not is_local(host):
            raise ValueError(f"/metrics on {host} needs a token that those who ask show: set AGCXR_TOKEN")
        self._queue, self._model, self._archives = queue, model, archives
        self._registry = CollectorRegistry()
        self._registry.register(self)
        handler = _handler(self.health, lambda: generate_latest(self._registry), tokens)
        self._server = ThreadingHTTPServer((host, port), handler)
        self._server.daemon_threads = True
        if tls is not None:  # hands are shaken in the thread that answers, so that a silent client holds up nobody
            plain = self._server.socket
            self._server.socket = tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
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
        counts, oldest, worst = self._queue.counts(), self._oldest(), self._worst()
        facts: dict[str, object] = {
            "model": self._model,
            "queue": {state: counts[state] for state in OPEN},
            "oldest_seconds": round(oldest, 1),
            "archive": worst.words,
            "archive_since": round(worst.since),
            "archives": {
                name: {"state": state.words, "since": round(state.since)} for name, state in self._archives.items()
            },
        }
        well = oldest < STALE and worst.reachable is not False
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
        words = "1 reachable, 0 away, -1 not called"
        yield GaugeMetricFamily(
            "agcxr_node_archive_up", f"The archive, the worst of several: {words}", self._worst().number
        )
        up = GaugeMetricFamily("agcxr_node_archive_reachable", f"Each archive: {words}", labels=["archive"])
        for name, archive in self._archives.items():
            up.add_metric([name], archive.number)
        yield up
        results = GaugeMetricFamily("agcxr_node_results", "Results by archive and state", labels=["archive", "state"])
        for name, standing in self._queue.standing().items():
            for kind, count in zip(("waiting", "not_committed", "refused"), standing, strict=True):
                results.add_metric([name, kind], count)
        yield results
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

    def _worst(self) -> ArchiveState:
        """Of the archives: one that is away, else one that was not called, else any; of those, the longest."""
        rank = {False: 0, None: 1, True: 2}
        return min(self._archives.values(), key=lambda state: (rank[state.reachable], state.since))

    def _oldest(self) -> float:
        """Seconds; of films that wait to be read or sent, not of those whose commitment is awaited."""
        entries = self._queue.entries(("received", "made"))
        waiting = [entry.received for entry in entries if entry.state == "received" or entry.waiting]
        return max(time.time() - min(waiting), 0.0) if waiting else 0.0


def _handler(
    health: Callable[[], tuple[bool, dict[str, object]]], metrics: Callable[[], bytes], tokens: Tokens
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        server_version, sys_version = "agcxr", ""

        def do_GET(self) -> None:
            if self.path == "/health":
                well, facts = health()
                self._say(200 if well else 503, "application/json", json.dumps(facts).encode())
            elif self.path == "/metrics" and self._may_ask():
                self._say(200, "text/plain; version=0.0.4; charset=utf-8", metrics())
            elif self.path != "/metrics":
                self._say(404, "text/plain", b"/health and /metrics\n")

        def _may_ask(self) -> bool:
            """Where not, that is answered."""
            if not tokens.needed:
                return True
            name, wait = tokens.judge_header(self.headers.get("Authorization", ""), self.client_address[0])
            if wait:
                self._say(429, "text/plain", b"too many wrong tokens came from there\n", {"Retry-After": str(wait)})
            elif name is None:
                self._say(401, "text/plain", b"a bearer token is needed\n", {"WWW-Authenticate": "Bearer"})
            return name is not None

        def _say(self, status: int, kind: str, body: bytes, more: Mapping[str, str] = MappingProxyType({})) -> None:
            self.send_response(status)
            headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close", **more}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """The journal is the log; addresses and paths of strangers are not for it."""

    return Handler
