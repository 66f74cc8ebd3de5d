"""What the node says: one JSON object a line, with nothing of a patient in it.

Lines hold an event, numbers, and words of this program only: never text from a film or a stranger's message, no names,
no identifiers, no UIDs, no error messages of libraries (they quote values). A film is called by its key in the queue.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TextIO

LIBRARIES = ("pydicom", "pynetdicom", "highdicom")


class Journal:
    """Writes events as lines of JSON; any thread may call it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()

    def __call__(self, event: str, **facts: str | float | bool | Mapping[str, float]) -> None:
        """Write `event` with its facts, floats rounded to thousandths."""
        rounded = {name: _rounded(value) for name, value in facts.items()}
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, **rounded})
        with self._lock:
            self._stream.write(line + "\n")
            self._stream.flush()


def _rounded(value: str | float | bool | Mapping[str, float]) -> object:
    if isinstance(value, Mapping):
        return {name: _rounded(number) for name, number in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def silence_libraries() -> None:
    """For a process that is a node and nothing else: libraries log and warn with what they read, so they are muted."""
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False
        logger.setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")
