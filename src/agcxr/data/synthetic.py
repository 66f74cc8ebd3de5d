"""What tells synthetic films from real ones: a mark in the file, and the name of their collection."""

from __future__ import annotations

import struct
import zlib

PHANTOM = "phantom"
"""How the names of synthetic collections begin, as in "phantom, seed 0"."""

NOTE = "synthetic film"
"""What reading a marked file notes."""

MARK = b"Source\0agcxr phantom: a synthetic film"
"""The text (chunk tEXt) in every PNG that the phantom writes."""

HEADER_END = 33
"""Bytes of a PNG's signature and header."""


def is_synthetic(collection: str | None) -> bool:
    """Whether a collection of this name was drawn by a program; False where the name is not known."""
    return (collection or "").startswith(PHANTOM)


def marked(png: bytes) -> bytes:
    """The same PNG with the mark behind its header."""
    chunk = b"tEXt" + MARK
    mark = struct.pack(">I", len(MARK)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:HEADER_END] + mark + png[HEADER_END:]
