"""uvicorn's HTTP connection, with patience that ends.

uvicorn waits for ever for the head of a first request, for a body, and for a client to take its answer. Here each has
a deadline after which the connection is cut, so that slow and broken clients cannot use up the server's connections.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from agcxr.serve.limits import Limits

BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\nconnection: close\r\ncontent-length: 0\r\n"
    b"x-content-type-options: nosniff\r\n\r\n"
)


class PatientProtocol(H11Protocol):
    """Cuts a connection whose next request head, or whose running exchange, takes too long."""

    limits = Limits()

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._timed: object | None = None
        """The exchange that the deadline is for; None while a head is awaited."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.write(BUSY)
            transport.close()
        self._allow(self.limits.header)

    def handle_events(self) -> None:
        super().handle_events()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and cycle is not self._timed:
            self._timed = cycle
            self._allow(self.limits.exchange)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # else the next request had come already
            self._timed = None
            self._allow(self.limits.header)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _allow(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(seconds, self.transport.abort)


def protocol(limits: Limits) -> type[PatientProtocol]:
    """The class for uvicorn's `http` option."""
    return type("LimitedProtocol", (PatientProtocol,), {"limits": limits})
