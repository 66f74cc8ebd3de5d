"""A part of the node that works in a thread of its own, step by step, until the node stops; after trouble it pauses."""

from __future__ import annotations

import threading
from collections.abc import Callable

LONGEST_PAUSE = 60.0
"""Seconds between attempts to reach an archive that is down, or to write a queue that cannot be written; the first
pause is one second. One film, or one result, that made trouble is put off for up to ten times as long."""
IDLE = 1.0
"""Seconds after which somebody with nothing to do looks again, though nobody woke it."""


class Worker:
    """Calls `step` from `start` until `stop`.

    Args:
        name: of its thread.
        step: does one piece of work; False where there is none.
        trouble: told of what a step raised, and of the seconds until the next.
    """

    def __init__(self, name: str, step: Callable[[], bool], trouble: Callable[[Exception, float], None]) -> None:
        self._step, self._trouble = step, trouble
        self._stop, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"agcxr-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There is something to do."""
        self._wake.set()

    def stop(self) -> None:
        """No further step is begun."""
        self._stop.set()
        self._wake.set()

    def join(self) -> None:
        """Wait for the step at hand."""
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        pause = 1.0
        while not self._stop.is_set():
            self._wake.clear()
            try:
                if not self._step() and not self._stop.is_set():
                    self._wake.wait(IDLE)
                pause = 1.0
            except Exception as error:  # such as a full disk: the queue still holds everything, so try again
                self._trouble(error, pause)
                self._stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
