"""The processes that read films (reading.py), from outside: which kinds there are, and how one is started early.

Light, so that a command can start one before it imports anything else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import PurePath

from agcxr.data.isolation import Children

MODULE = "agcxr.inference.reading"
MEMORY = 4 << 30
"""Bytes that reading may take for any film; 100 million pixels of 16 bits need about half."""


@dataclass(frozen=True)
class Start:
    """What a process is started for. judge, read_header: "module:function" or "". memory: bytes, beyond what it takes
    itself."""

    dicom: bool = True
    memory: int = MEMORY
    judge: str = "agcxr.intake:judge"
    read_header: str = ""


PICTURES, DICOM = Children(MODULE, asdict(Start(dicom=False))), Children(MODULE, asdict(Start()))
BY_SUFFIX = {**dict.fromkeys((".png", ".jpg", ".jpeg", ".webp"), PICTURES), ".dcm": DICOM}


def launch(name: str) -> None:
    """Start the process that will read a film of this name, while other things are done. Nothing is started where the
    name does not say what kind of film it is."""
    if (children := BY_SUFFIX.get(PurePath(name).suffix.lower())) is not None:
        children.launch()
