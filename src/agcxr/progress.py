"""Progress of long work: a bar with its rate on a terminal, and in a log a line now and then."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TextIO

from tqdm import tqdm

SECONDS = 15.0
"""Between two lines of a log."""
LINE = "{desc}{n_fmt} of {total_fmt}{unit}, {rate_fmt}, {elapsed} gone, {remaining} left{postfix}"
ENDLESS = "{desc}{n_fmt}{unit}, {rate_fmt}, {elapsed} gone{postfix}"


class ProgressBar(tqdm):  # type: ignore[type-arg]
    """tqdm's bar; where its file is no terminal, lines of their own in place of one that is drawn again and again: the
    first state, one every SECONDS, the last. With leave=False, as a bar that goes away, only those in between."""

    def __init__(self, *args: Any, **options: Any) -> None:
        file = options.get("file") or sys.stderr
        self.in_lines = not file.isatty()
        if self.in_lines:
            known = options.get("total") is not None or hasattr(args[0] if args else None, "__len__")
            if title := options.get("desc"):
                options["desc"] = f"{title}: "
            options = {"mininterval": SECONDS, "miniters": 1, "bar_format": LINE if known else ENDLESS} | options
            if not options.get("leave", True):
                options = {"delay": options["mininterval"]} | options
        super().__init__(*args, **options)

    @staticmethod
    def status_printer(file: TextIO) -> Callable[[str], None]:  # type: ignore[override]
        """tqdm's hook: what writes a state."""
        if file.isatty():
            return tqdm.status_printer(file)  # type: ignore[no-any-return]

        def line(text: str) -> None:
            if text.strip():
                file.write(f"{' '.join(text.split())}\n")
                file.flush()

        return line

    def clear(self, *args: Any, **options: Any) -> None:
        """Make room for other words (`tqdm.write`): lines are not in the way."""
        if not self.in_lines:
            super().clear(*args, **options)

    def close(self) -> None:
        """The last state is a line like the others."""
        if self.disable or not self.in_lines:
            super().close()
            return
        if self.leave:
            self.display()
        self.disable = True
        self._decr_instances(self)  # type: ignore[attr-defined]
