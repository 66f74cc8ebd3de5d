"""The model that comes with the package, for a first answer: its name, where it lies, and its card."""

from __future__ import annotations

import os
from pathlib import Path

STARTER = "starter"
FILE = Path(__file__).parent / "weights" / "starter.onnx"
CARD = FILE.with_suffix(".md")


def model_path(model: str | os.PathLike[str]) -> Path:
    """Where a model lies that is no hub id; `starter` is the included one."""
    return FILE if os.fspath(model) == STARTER else Path(model)
