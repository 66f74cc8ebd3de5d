"""Odd DICOM headers through a node, from a seed; as a command, a page of what became of them.

Run: cd tests/dicom && python fuzz.py [--headers 1000] [--seed 5] [--seconds N] [--out PAGE.md]
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import re
import shutil
import struct
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pydicom
from dicom_made import film, written
from node_made import FakeArchive

from agcxr.data.multipart import join_parts
from agcxr.dicom.journal import Journal
from agcxr.dicom.node import Node, NodeSettings
from agcxr.dicom.peers import Peer
from agcxr.dicom.queue import Queue
from agcxr.dicom.source import VERBATIM
from agcxr.inference.engine import Engine

AHEAD = 20
"""Films that wait to be read, at most."""
LONG = (b"OB", b"OW", b"UN", b"SQ", b"UT")
ODD = (
    *(b"", b" ", b"\0\0", b"\\", b"\\\\\\", b"A\\B\\C", b"20240230", b"20240101-20240131", b"2024.05.06", b"99999999"),
    *(b"1e400", b"nan", b"-1", b"0", b"999999999999999999999", b"60 y", b"000Y", b"ISO_IR 192", b"\\ISO 2022 IR 87"),
    *(b"GB18030", b"x" * 80, b"\xc3\xa9\xff\xfe", b"\x1b$B;3ED", b"M\xfcller^J\xf6rg", b"Doe^Jane=\xe5\xb1\xb1=x"),
    *(b"^^^^", b"1.2..3", b"1.2.840." * 12, b"CHEST", b"KNEE", b"LL", b"PA", b"agcxr", b"MONOCHROME1", b"RGB"),
    *(b"+0230", b"+9999", b"\r\n", b"<script>", b"' OR 1=1 --"),
)
"""Values: empty, padded, several, no dates, no numbers, other character sets, too long, of another meaning, hostile."""


NEEDED = {
    struct.pack("<HH", group, element)
    for group, element in [
        *((8, 0x16), (8, 0x18), (0x20, 0xD), (0x20, 0xE)),
        *((0x28, element) for element in (2, 4, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103)),
    ]
}
"""UIDs, and how the pixels lie."""


@dataclass
class Outcome:
    """What became of the films."""

    headers: int
    seconds: float = 0.0
    answers: Counter[int] = field(default_factory=Counter)
    """HTTP status of the STOW request that brought it -> films."""
    states: dict[str, int] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    """Why films have no results, in the queue's words without numbers and quotations -> films."""
    events: Counter[str] = field(default_factory=Counter)
    reports: int = 0
    messages: Counter[str] = field(default_factory=Counter)
    """Errors of dciodvfy in the reports."""
    emptied: int = 0
    """Reports that name what they left empty or out."""

    @property
    def lost(self) -> int:
        """Films that were acknowledged and are in no final state, or done without a report."""
        kept = self.answers[200]
        ended = sum(self.states[state] for state in ("done", "ignored", "failed"))
        return (kept - ended) + (self.states["done"] - self.reports)


def elements(data: bytes) -> list[tuple[int, int]]:
    """Where the elements of the data set begin and end, before the pixels (explicit little endian, none nested)."""
    (length,) = struct.unpack_from("<L", data, 140)
    at, places = 144 + length, []
    while data[at : at + 4] != b"\xe0\x7f\x10\0":
        size = struct.unpack_from("<L", data, at + 8)[0] + 12 if data[at + 4 : at + 6] in LONG else None
        end = at + (struct.unpack_from("<H", data, at + 6)[0] + 8 if size is None else size)
        places.append((at, end))
        at = end
    return places


def odd(number: int, rng: np.random.Generator) -> bytes:
    """A film whose header has 1 to 4 oddities: odd values, other representations, wrong lengths, elements twice, out of
    order or away, private ones, sequences of junk."""
    data = written(
        film(number % 3, shape=(120, 100), SOPInstanceUID=f"2.25.77{number}", StudyInstanceUID=f"2.25.88{number}")
    )
    for _ in range(int(rng.integers(1, 5))):
        places = elements(data)
        if rng.random() < 0.8:  # rather what describes the film than what its pixels cannot be read without
            places = [place for place in places if data[place[0] : place[0] + 4] not in NEEDED] or places
        start, end = places[int(rng.integers(len(places)))]
        tag, kind, value = data[start : start + 4], data[start + 4 : start + 6], ODD[int(rng.integers(len(ODD)))]
        value += b" " * (len(value) % 2)
        match int(rng.integers(8)):
            case 0 | 1 | 2:  # another value
                new = _element(tag, kind, value)
            case 3:  # another representation
                new = _element(tag, (b"SQ", b"UN", b"US", b"FD", b"PN", b"OB")[int(rng.integers(6))], value)
            case 4:  # away
                new = b""
            case 5:  # twice
                new = data[start:end] + _element(tag, kind, value)
            case 6:  # a private element and a sequence of junk before it
                item = struct.pack("<HHL", 0xFFFE, 0xE000, len(value)) + value
                new = (
                    _element(b"\x08\0\x15\x11", b"SQ", item)
                    + _element(b"\x09\0\x01\x10", b"LO", value)
                    + data[start:end]
                )
            case 7:  # a length that is not the value's
                new = data[start : start + 6] + struct.pack("<H", int(rng.integers(0, 200))) + data[start + 8 : end]
        data = data[:start] + new + data[end:]
        if _broken(data):  # no further oddity can be placed
            break
    return data


def _element(tag: bytes, kind: bytes, value: bytes) -> bytes:
    size = b"\0\0" + struct.pack("<L", len(value)) if kind in LONG else struct.pack("<H", len(value))
    return tag + kind + size + value


def _broken(data: bytes) -> bool:
    try:
        return not elements(data)
    except struct.error:
        return True


def attack(
    headers: int, seed: int, engine: Engine, folder: Path, journal: io.StringIO, seconds: float = math.inf
) -> Outcome:
    """Send them, or as many as go in so many seconds, to a node by STOW-RS (C-STORE would have a library encode them),
    and wait until it is done with each."""
    outcome, rng, begun = Outcome(headers), np.random.default_rng(seed), time.monotonic()
    archive = FakeArchive().up()
    queue = Queue(folder / "queue.sqlite")
    peer = Peer("ARCHIVE", "127.0.0.1", archive.port)
    settings = NodeSettings("AGCXR", (peer,), (), port=0, stow_port=0, objects=("sr",))
    with Node(engine, settings, queue, Journal(journal)) as node, httpx.Client(timeout=60) as client:
        for number in range(headers):
            if time.monotonic() > begun + seconds:
                outcome.headers = number
                break
            while queue.counts()["received"] > AHEAD:
                time.sleep(0.05)
            body = join_parts([("application/dicom", odd(number, rng))], "b0")
            kind = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b0'}
            answer = client.post(f"http://127.0.0.1:{node.stow.port}/studies", content=body, headers=kind)
            outcome.answers[answer.status_code] += 1
        while (counts := queue.counts())["received"] + counts["made"] and time.monotonic() < begun + 3600:
            time.sleep(0.2)
    outcome.states = dict(queue.counts())
    outcome.reasons.update(re.sub(r"\d+|'.*'", "...", reason)[:90] for reason in queue.reasons())
    queue.close()
    archive.down()
    for line in journal.getvalue().splitlines():
        event = json.loads(line)
        outcome.events[event["event"]] += 1
    _check(archive.taken, outcome)
    outcome.seconds = time.monotonic() - begun
    return outcome


def _check(reports: list[pydicom.Dataset], outcome: Outcome) -> None:
    outcome.reports = len({report.SOPInstanceUID for report in reports})
    for report in reports:
        texts = [element.value for element in report.iterall() if element.keyword == "TextValue"]
        outcome.emptied += any("Left empty or out" in str(text) for text in texts)
        if shutil.which("dciodvfy") is None:
            continue
        with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
            report.file_meta = pydicom.dataset.FileMetaDataset()
            report.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
            pydicom.dcmwrite(file.name, report, enforce_file_format=True)
            said = subprocess.run(["dciodvfy", file.name], capture_output=True, timeout=60).stderr.decode(
                errors="replace"
            )
        # Names and numbers that an archive matches by are copied as they stand, whatever rule they break.
        copied = [f"<{keyword}>" for keyword in VERBATIM]
        outcome.messages.update(
            line
            for line in said.splitlines()
            if line.startswith("Error") and not any(keyword in line for keyword in copied)
        )


def page(outcome: Outcome, seed: int) -> str:
    no_results = "\n".join(f"| {reason} | {count} |" for reason, count in outcome.reasons.most_common())
    messages = "\n".join(f"- {text}: {count}" for text, count in outcome.messages.most_common()) or "- none"
    versions = f"pydicom {pydicom.__version__}"
    return f"""# The node under odd DICOM headers

Research use only. Made by `cd tests/dicom && python fuzz.py --headers {outcome.headers} --seed {seed}` in
{outcome.seconds:.0f} s; {versions}, {os.cpu_count()} cores. Each film is a good one whose header has 1 to 4 oddities:
values that are empty, several, no dates, no numbers, of other character sets, too long or hostile; other value
representations, wrong lengths, elements twice or away, private ones, sequences of junk. Sent by STOW-RS to a node with
the starter model, which makes reports of them (`--objects sr`) for a fake archive.

| | films |
| --- | --- |
| sent | {outcome.headers} |
| acknowledged (200) | {outcome.answers[200]} |
| answered that they are no film with UIDs (409) | {outcome.answers[409]} |
| answered otherwise | {outcome.headers - outcome.answers[200] - outcome.answers[409]} |
| with their report in the archive | {outcome.reports} |
| of those, reports that say what of the header was left out | {outcome.emptied} |
| no film for the model, or refused by it | {outcome.states["ignored"]} |
| set aside with a reason, kept | {outcome.states["failed"]} |
| **lost** | {outcome.lost} |
| **errors of the program** (`trouble` in the journal) | {outcome.events["trouble"]} |

| Why there are no results | films |
| --- | --- |
{no_results}

Errors of `dciodvfy` in the {outcome.reports} reports:

{messages}
"""


def main() -> None:
    from agcxr.inference.load import load_engine

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--headers", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=math.inf, help="send no more after so many")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = attack(
            options.headers, options.seed, load_engine("starter"), Path(folder), io.StringIO(), options.seconds
        )
    text = page(outcome, options.seed)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
