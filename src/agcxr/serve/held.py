"""Memory that clients hold: their uploads until these are answered, their answers until these are taken."""

from __future__ import annotations

from agcxr.serve.limits import Limits
from agcxr.serve.measures import Measures
from agcxr.serve.problem import Problem

LEASE = "agcxr.lease"
"""Where an ASGI scope keeps the Lease of its request."""


class Held:
    """Bytes of uploads and answers in memory, all clients together."""

    def __init__(self, limits: Limits, measures: Measures) -> None:
        self._limits, self._measures = limits, measures
        self._bytes = 0

    def add(self, count: int) -> None:
        """Raises Problem 503 where the house is full."""
        if self._bytes + count > self._limits.held_bytes:
            raise Problem(503, "busy", "too many uploads at once; try again shortly", retry_after=2)
        self.change(count)

    def change(self, count: int) -> None:
        self._bytes += count
        self._measures.held_bytes.set(self._bytes)


class Lease:
    """What one request holds; given back at its end, however that comes."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._bytes = 0

    def add(self, count: int) -> None:
        """For an upload. Raises Problem 503 where the house is full."""
        self._held.add(count)
        self._bytes += count

    def owe(self, count: int) -> None:
        """For an answer that is made already."""
        self._held.change(count)
        self._bytes += count

    def release(self) -> None:
        self._held.change(-self._bytes)
        self._bytes = 0
