"""Arguments that several commands share: which model answers, for which films, averaged over what."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro

Run = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Inputs = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILM...", help_behavior_hint="")]
Others = Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(name="also", metavar="RUN")]
ViewSet = Literal["plain", "flip", "five"]
