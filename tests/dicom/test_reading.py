"""Films are read apart from the node: whatever their bytes hold, it costs bounded time and memory, and one film."""

from __future__ import annotations

import os
import signal
import struct
import sys

import numpy as np
import pytest
from dicom_made import film, written

from agcxr.data.isolation import ChildError
from agcxr.data.radiograph import RadiographError
from agcxr.dicom import reading
from agcxr.dicom.reading import read_apart
from agcxr.dicom.source import read_source
from agcxr.inference.readers import MEMORY
from agcxr.inference.reading import NoResults
from agcxr.inference.stream import read_film

PLAIN = written(film())
BEFORE_PATIENT = PLAIN.index(struct.pack("<HH", 0x0010, 0x0010) + b"PN")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process's memory")


OPENED = struct.pack("<HH2s2sLHHL", 0x0008, 0x1115, b"SQ", b"", 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
"""A sequence and an item of it that nothing ends."""


def with_sequence(value: bytes, length: int | None = None) -> bytes:
    """A film with a sequence (0008,1115) in its header."""
    head = struct.pack("<HH", 0x0008, 0x1115) + b"SQ\0\0" + struct.pack("<L", len(value) if length is None else length)
    return PLAIN[:BEFORE_PATIENT] + head + value + PLAIN[BEFORE_PATIENT:]


def test_it_reads_what_reading_here_gives():
    source, read = read_apart(PLAIN, 72)
    here = read_film(PLAIN, 72, reading.KEPT)
    assert source.dataset == read_source(PLAIN).dataset
    assert (read.height, read.width, read.notes, read.intake) == (here.height, here.width, here.notes, here.intake)
    assert np.array_equal(read.image_SS, here.image_SS)
    assert np.array_equal(read.film_HW, here.film_HW)


def test_what_the_header_says_against_a_film_is_said_before_it_is_decoded():
    with pytest.raises(NoResults, match="^not a frontal view$"):
        read_apart(written(film(ViewPosition="LL"))[:-5000], 72)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "without a usable SOPClassUID"),
        (PLAIN[:-5000], "it is cut off"),
        (with_sequence(struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 3_000_000), None),
        (PLAIN[:BEFORE_PATIENT] + OPENED * 100_000, "cannot be read"),
        (with_sequence(b"", 0xFFFFFFF0), "cannot be read|without|cut off"),
        (written(film(Rows=60_000, Columns=60_000)), "60000 x 60000 pixels, more than the 100,000,000 allowed"),
    ],
    ids=["empty", "cut", "millions of items", "nested without end", "beyond the end", "billions of pixels"],
)
def test_headers_without_end_cost_one_film(data, reason):
    if reason is None:
        assert read_apart(data, 72)[1].height == 240
    else:
        with pytest.raises(RadiographError, match=reason):
            read_apart(data, 72)


@LINUX
def test_memory_is_bounded_and_given_back():
    read_apart(PLAIN, 72)
    (child,) = reading._children.idle
    with open(f"/proc/{child._process.pid}/limits") as file:
        (limit,) = (int(line.split()[3]) for line in file if line.startswith("Max address space"))
    assert MEMORY < limit < MEMORY + (4 << 30)


@LINUX
def test_a_process_that_is_killed_is_replaced():
    read_apart(PLAIN, 72)
    (child,) = reading._children.idle
    os.kill(child._process.pid, signal.SIGSTOP)
    with pytest.raises(ChildError, match="^decoding it took longer than "):
        read_apart(PLAIN, 72, 0.02)
    assert read_apart(PLAIN, 72)[1].height == 240
