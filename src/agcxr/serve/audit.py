"""Who had which film read by which model: a line of JSON a film, in a file of its own; nothing of a patient.

A film is named by the SHA-256 of its file: whoever has the film finds its lines, and nobody else learns anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from agcxr.serve.upload import Upload


class Audit:
    """Appends to a file that its owner alone reads. Any thread may call it. Raises OSError where that cannot be."""

    def __init__(self, file: Path, model: str) -> None:
        self._file = os.fdopen(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w", encoding="utf-8")
        self._model, self._lock = model, threading.Lock()

    def close(self) -> None:
        self._file.close()

    def __call__(self, client: str, route: str, status: int, films: Sequence[Upload]) -> None:
        """`client`: the name of the token, route: one of a few names, status: of the answer."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        facts = {"time": now, "client": client, "route": route, "status": status, "model": self._model}
        lines = [json.dumps({**facts, "film": hashlib.sha256(film.data).hexdigest()}) for film in films]
        with self._lock:
            self._file.writelines(f"{line}\n" for line in lines)
            self._file.flush()
