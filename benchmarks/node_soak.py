"""A soak of the DICOM node: films come in while the node is killed (SIGKILL) and the archive goes away, at random.

The sender does what a modality does: it sends a film again until it is told success; no more than 20 are on their way
at once. The first two thirds of the films come while the node is killed and started again; the last third in one life
of it, in which its memory is looked at. Then everything is waited for. A soak that is cut into pieces (--seconds, with
--folder) ends each with a kill of the node, and goes on where it was. Counted: films without all their results (lost),
results of one kind and film under more than one UID or with more than one content (doubled), and results that came
twice under one UID, since the node was killed between the archive's answer and its note of it (an archive has them
once).

Run: python -m benchmarks.node_soak [--films 1000] [--model starter] [--seed 1] [--out PAGE.md]
     [--folder DIR --seconds 500]   again and again, until it says that it is over
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt

from agcxr.data.phantom import film as phantom
from agcxr.dicom.objects import SOP_CLASSES, parse_roles
from agcxr.dicom.queue import Queue
from benchmarks.measure import Place

DX = "1.2.840.10008.5.1.4.1.1.1.1"
SIDE = 256
ROOT = "1.2.826.0.1.3680043.8.498.77"
OBJECTS = "sr,seg"
AHEAD = 20
"""Films that are sent and not done, at most: they come while the node works, and not all before it."""
PATIENCE = 3600.0
"""Seconds for everything to arrive, after which what has not is lost."""


@dataclass
class Outcome:
    """What a soak came to."""

    films: int
    sent: int = 0
    """Films that the node said success to."""
    over: bool = False
    pieces: int = 0
    seconds: float = 0.0
    kills: int = 0
    absences: int = 0
    sent_again: int = 0
    """Films that were sent more than once, since no success was said."""
    lost: int = 0
    doubled: int = 0
    came_twice: int = 0
    left: int = 0
    """Films that the queue still holds something of."""
    memory_mb: list[tuple[int, int, float]] = field(default_factory=list)
    """(piece, films done, resident memory) in the lives of the node without a kill."""

    def calm(self) -> list[tuple[int, float]]:
        """(films done, resident memory) in the life without a kill in which most films were done."""
        lives: dict[int, list[tuple[int, float]]] = defaultdict(list)
        for piece, done, megabytes in self.memory_mb:
            lives[piece].append((done, megabytes))
        return max(lives.values(), key=lambda life: life[-1][0] - life[0][0])

    def growth(self) -> float:
        """MB by which that life's memory rose from its first half to its second: medians."""
        halves = np.array_split([megabytes for _, megabytes in self.calm()], 2)
        return float(np.median(halves[1]) - np.median(halves[0])) if len(self.calm()) > 1 else 0.0


class Archive:
    """Remembers what it was sent by study and class, in a file; goes away and comes back."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.uids: dict[tuple[str, str], Counter[tuple[str, str]]] = defaultdict(Counter)
        """(study, class) -> how often each (UID, hash of its pixels or report) came."""
        memory = folder / "archive.jsonl"
        for line in memory.read_text().splitlines() if memory.exists() else []:
            study, sop_class, uid, content = json.loads(line)
            self.uids[study, sop_class][uid, content] += 1
        self._memory = memory.open("a")
        self._ae = AE(ae_title="ARCHIVE")
        self._ae.maximum_pdu_size = 1 << 20
        for sop_class in classes:
            self._ae.add_supported_context(sop_class)
        self.port = free_port()
        self.up()

    def up(self) -> None:
        handlers = [(evt.EVT_C_STORE, self._store)]
        self._server = self._ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def down(self) -> None:
        self._server.shutdown()

    def _store(self, event: evt.Event) -> int:
        dataset = event.dataset
        content = hashlib.sha256(bytes(dataset.get("PixelData", b""))).hexdigest()
        self.uids[dataset.StudyInstanceUID, dataset.SOPClassUID][dataset.SOPInstanceUID, content] += 1
        line = (dataset.StudyInstanceUID, dataset.SOPClassUID, dataset.SOPInstanceUID, content)
        print(json.dumps(line), file=self._memory, flush=True)
        return 0

    def end(self) -> None:
        self.down()
        self._memory.close()


class Life:
    """A node in a process of its own, which is killed and started again."""

    def __init__(self, model: str, archive: Archive, folder: Path, objects: str) -> None:
        self.port, self.queue = free_port(), folder / "queue.sqlite"
        self._log = (folder / "journal.jsonl").open("ab")
        to = f"ARCHIVE@127.0.0.1:{archive.port}"
        self._command = [
            *(sys.executable, "-m", "agcxr", "dicom-node", model, "--port", str(self.port), "--send-to", to),
            *("--caller", "XRAY", "--queue", str(self.queue), "--objects", objects),
        ]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=self._log, stderr=self._log)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        self.kill()
        self._log.close()

    def memory_mb(self) -> float:
        with open(f"/proc/{self._process.pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def soak(
    films: int,
    model: str,
    seed: int,
    folder: Path,
    *,
    pause: tuple[float, float] = (10, 40),
    seconds: float = math.inf,
    objects: str = OBJECTS,
) -> Outcome:
    """Run it, or the next piece of what `folder` holds the beginning of.

    pause: seconds between two kills, and between two absences of the archive, at least and at most. seconds: of this
    piece.
    """
    state, begun = folder / "soak.json", time.monotonic()
    outcome = Outcome(**json.loads(state.read_text())) if state.exists() else Outcome(films)
    outcome.pieces += 1
    classes = [SOP_CLASSES[role] for role in parse_roles(objects)]
    archive = Archive(folder, classes)
    node = Life(model, archive, folder, objects)
    calm, end, chance = threading.Event(), begun + seconds, random.Random(f"{seed} {outcome.pieces}")
    troubles = _troubles(node, archive, outcome, calm, pause, seed)
    while outcome.sent < films and time.monotonic() < end:
        if outcome.sent >= 2 * films // 3 and not calm.is_set():
            _end(troubles, calm)
        if outcome.sent - _done(node) >= AHEAD:
            time.sleep(0.2)
            continue
        outcome.sent_again += _send(node, outcome.sent, chance)
        outcome.sent += 1
        if calm.is_set():
            outcome.memory_mb.append((outcome.pieces, _done(node), node.memory_mb()))
    _end(troubles, calm)
    outcome.over = outcome.sent == films and _wait(node, films, outcome, min(end, time.monotonic() + PATIENCE))
    node.end()
    outcome.kills += 1
    archive.end()
    _judge(archive, node.queue, outcome, classes)
    outcome.seconds += time.monotonic() - begun
    state.write_text(json.dumps(asdict(outcome)))
    return outcome


def _troubles(
    node: Life, archive: Archive, outcome: Outcome, calm: threading.Event, pause: tuple[float, float], seed: int
) -> list[threading.Thread]:
    """Until it is calm."""

    def kill() -> None:
        rng = random.Random(f"kill {seed} {outcome.pieces}")
        while not calm.wait(rng.uniform(*pause)):
            node.kill()
            outcome.kills += 1
            node.start()

    def absent() -> None:
        rng = random.Random(f"absent {seed} {outcome.pieces}")
        while not calm.wait(rng.uniform(*pause)):
            archive.down()
            outcome.absences += 1
            calm.wait(rng.uniform(*pause) / 3)
            archive.up()

    if outcome.sent >= 2 * outcome.films // 3:
        calm.set()
    threads = [threading.Thread(target=work, daemon=True) for work in (kill, absent)]
    for thread in threads:
        thread.start()
    return threads


def _end(troubles: list[threading.Thread], calm: threading.Event) -> None:
    calm.set()
    for trouble in troubles:
        trouble.join()


def _done(node: Life) -> int:
    if not node.queue.exists():
        return 0
    queue = Queue(node.queue, beside=True)
    done = queue.counts()["done"]
    queue.close()
    return done


def _send(node: Life, number: int, chance: random.Random) -> int:
    """Until success is said; 1 where that took more than one try."""
    ae = AE(ae_title="XRAY")
    ae.add_requested_context(DX, ExplicitVRLittleEndian)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = 30
    tries, end = 0, time.monotonic() + PATIENCE
    while time.monotonic() < end:
        tries += 1
        association = ae.associate("127.0.0.1", node.port, ae_title="AGCXR")
        if association.is_established:
            try:
                status = association.send_c_store(_film(number)).get("Status")
            except (RuntimeError, ValueError):  # the line broke before it was sent
                status = None
            association.release()
            if status == 0:
                return int(tries > 1)
        time.sleep(chance.uniform(0.1, 1))
    raise TimeoutError(f"the node did not take film {number} in {PATIENCE:g} s")


def _wait(node: Life, films: int, outcome: Outcome, end: float) -> bool:
    """Whether all films are done in time."""
    while time.monotonic() < end:
        done = _done(node)
        outcome.memory_mb.append((outcome.pieces, done, node.memory_mb()))
        if done == films:
            return True
        time.sleep(1)
    return False


def _judge(archive: Archive, queue: Path, outcome: Outcome, classes: Sequence[str]) -> None:
    outcome.lost = outcome.doubled = outcome.came_twice = 0
    for number in range(outcome.films):
        results = [archive.uids.get((f"{ROOT}.1.{number}", sop_class), Counter()) for sop_class in classes]
        outcome.lost += any(not result for result in results)
        outcome.doubled += sum(len(result) - 1 for result in results if result)
        outcome.came_twice += sum(count > 1 for result in results for count in result.values())
    looked = Queue(queue, beside=True)
    outcome.left = len(looked.entries())
    looked.close()


def _film(number: int) -> Dataset:
    """A synthetic film of a patient who does not exist."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = DX, f"{ROOT}.3.{number}"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = f"{ROOT}.1.{number}", f"{ROOT}.2.{number}"
    dataset.PatientName, dataset.PatientID, dataset.Modality = f"Soak^{number}", f"SOAK-{number}", "DX"
    dataset.BodyPartExamined, dataset.ViewPosition = "CHEST", "PA"
    drawn_HW = DRAWN[number % len(DRAWN)]
    dataset.Rows, dataset.Columns = drawn_HW.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = drawn_HW.tobytes()
    return dataset


DRAWN = [phantom(np.random.default_rng(seed), [], size=SIDE).pixels_HW for seed in range(3)]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def page(outcome: Outcome, model: str, seed: int, objects: str = OBJECTS) -> str:
    memory = outcome.calm()
    rows = [
        ("films", f"{outcome.films:,}"),
        ("pieces", outcome.pieces),
        ("hours", f"{outcome.seconds / 3600:.2f}"),
        ("node killed (SIGKILL)", outcome.kills),
        ("archive away", outcome.absences),
        ("films sent again, since no success was said", outcome.sent_again),
        ("films lost", outcome.lost),
        ("results doubled", outcome.doubled),
        ("results that came twice under one UID", outcome.came_twice),
        ("films left in the queue", outcome.left),
        (
            f"resident memory of the node over {memory[-1][0] - memory[0][0]:,} films in one life, MB",
            f"{memory[0][1]:.0f} to {memory[-1][1]:.0f}",
        ),
        ("its growth, median of the second half of that life over the first, MB", f"{outcome.growth():+.1f}"),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    command = (
        f"python -m benchmarks.node_soak --films {outcome.films} --model {model} --seed {seed} --objects {objects}"
    )
    return (
        f"# A soak of the DICOM node\n\nResearch use only. Made by `{command}`.\n\n{Place.here().line()}\n\n"
        f"{(__doc__ or '').split('Run:')[0].split(chr(10), 1)[1].strip()}\n\n| | |\n|---|---|\n{table}\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=1000)
    parser.add_argument("--model", default="starter")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--objects", default=OBJECTS, help="the picture (sc) is 6 MB a film, and left out by default")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--folder", type=Path, help="keeps what is done between pieces")
    parser.add_argument("--seconds", type=float, default=math.inf)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="agcxr-soak-") as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        what = (options.films, options.model, options.seed)
        outcome = soak(*what, folder, seconds=options.seconds, objects=options.objects)
    if not outcome.over:
        print(f"{outcome.sent} films were sent, the queue holds {outcome.left}; call it again to go on")
        return 3
    text = page(outcome, options.model, options.seed, options.objects)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    return int(bool(outcome.lost or outcome.doubled or outcome.left))


if __name__ == "__main__":
    raise SystemExit(main())
