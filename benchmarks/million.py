"""A million films on Ray, in simulation: what the walk, Ray's scheduler and the driver cost beside the network.

The walk, the dataset and the parts are those of `agcxr predict --engine ray`; only the actors are stubs, which sleep as
long as a network would take for their films and write rows of a table. Nodes are simulated on this machine
(ray.cluster_utils.Cluster), so processor time that is spent is spent by this machine's cores for all of them.

- overhead: actors that do not sleep: batches a second that walk, scheduler and driver can pass on, and the driver's
  memory with the number of batches.
- sleeping: actors that sleep, beside the time in which perfect ones would do the same (share of the limit).
- straggler: one actor is ten times as slow. Node: one of the nodes is removed halfway.
- table: rows a second with which the parts become one CSV, and a start that goes on behind what is there.

Run: python benchmarks/million.py [--films 1000000] [--nodes 4] [--actors 8] [--seconds 0.03]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from agcxr.findings import CHESTXRAY14
from agcxr.inference import ray_engine
from agcxr.inference.films import FilmFile
from agcxr.inference.parts import WALK, Job, Parts, Walked, rows_of
from agcxr.inference.stream import batches
from agcxr.inference.table import Table
from benchmarks.measure import commit, hardware, resident_mb, table

BATCH = 16 * ray_engine.BATCHES
"""Films of a part, as `agcxr predict` has them by default."""


@dataclass(frozen=True)
class Stub:
    """In place of ray_engine.Work."""

    films: int
    seconds: float
    """That the network takes for a batch."""
    folder: str
    slow: float = 1.0
    """How much longer the first actor takes."""
    threads: int = 1

    def walk(self) -> Iterator[pa.Table]:
        names = (f"{i // 1000:06d}/{i:09d}.png" for i in range(self.films))
        films = (FilmFile(Path("films") / name, Path(name), i) for i, name in enumerate(names))
        yield from map(ray_engine._packed, batches(films, BATCH))
        yield pa.table({"place": [-1], "error": [""]})


class StubAnswerer:
    """In place of ray_engine.Answerer."""

    def __init__(self, work: Stub) -> None:
        self._work, self._seconds = work, work.seconds
        if work.slow > 1:
            try:
                os.close(os.open(Path(work.folder) / "slow", os.O_CREAT | os.O_EXCL))
                self._seconds *= work.slow
            except FileExistsError:
                pass  # another one is the slow one

    def __call__(self, row: pa.Table) -> pa.Table:
        (batch,) = row.to_pylist()
        films = batch.get("films") or ()
        if films:
            time.sleep(self._seconds)
        return pa.table({"films": [len(films)], "averaged": [""], "error": [batch.get("error") or ""]})


@dataclass(frozen=True)
class Measured:
    """seconds: from the first to the last batch, so that starting actors does not count."""

    batches: int
    seconds: float
    start: float
    begin_mb: float
    end_mb: float
    done: int
    """Films counted, each once."""


def run(ray: Any, work: Stub, actors: int, halfway: Any = None) -> Measured:
    """All batches through the dataset that predict uses."""
    begun, times, films = time.perf_counter(), [], 0
    begin_mb, count = resident_mb(), -(-work.films // BATCH)
    for batch in ray_engine._dataset(ray, work, actors, 0).iter_batches(batch_size=None, prefetch_batches=0):
        times.append(time.perf_counter())
        films += int(batch["films"].sum())
        if halfway and len(times) == count // 2:
            threading.Thread(target=halfway, daemon=True).start()
    return Measured(count, times[-1] - times[0], times[0] - begun, begin_mb, resident_mb(), films)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=1_000_000)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--actors", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=0.03, help="that a stub sleeps for a part")
    parser.add_argument("--parts", type=int, default=1000, help="whose table is put together")
    given = parser.parse_args()
    print(f"{hardware()}; load {os.getloadavg()[0]:.1f}; commit {commit()}; parts of {BATCH} films\n", flush=True)
    ray_engine.Answerer = StubAnswerer  # type: ignore[misc, assignment]
    with tempfile.TemporaryDirectory() as folder:
        print(table_rows(folder, given.parts), "\n", flush=True)
        simulated(given, folder)


def simulated(given: argparse.Namespace, folder: str) -> None:
    ray = ray_engine._ray()
    from ray.cluster_utils import Cluster

    cores = -(-given.actors // given.nodes)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=cores) for _ in range(given.nodes + 1)]  # one to spare, for the one that dies
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    few, n, s = given.films // 10, given.films, given.seconds
    rows = []
    for name, work, halfway in (
        ("overhead, a tenth", Stub(few, 0.0, folder), None),
        ("overhead", Stub(n, 0.0, folder), None),
        ("sleeping, a tenth", Stub(few, s, folder), None),
        ("straggler, a tenth", Stub(few, s, folder, slow=10.0), None),
        ("node dies, a tenth", Stub(few, s, folder), lambda: cluster.remove_node(nodes[0], allow_graceful=False)),
    ):
        found = run(ray, work, given.actors, halfway)
        speeds = given.actors - (1 - 1 / work.slow)
        limit = found.batches * work.seconds / speeds
        share = f"{limit / found.seconds:.1%}" if limit else "-"
        memory = f"{found.begin_mb:,.0f} -> {found.end_mb:,.0f}"
        rate = f"{found.batches / found.seconds:,.0f}"
        rows.append([name, f"{found.done:,}", f"{found.seconds:.1f}", rate, share, memory])
        print(rows[-1], f"begun after {found.start:.1f} s", flush=True)
    heads = ["what", "films", "s", "parts/s", "share of perfect actors", "driver, MB before -> after"]
    print(f"\n{given.actors} actors on {given.nodes} nodes, {s:g} s a part\n{table(heads, rows)}")
    ray.shutdown()
    cluster.shutdown()


def table_rows(folder: str, count: int) -> str:
    """Parts on disk: writing one, listing them at a start, and the one CSV of them."""
    parts, columns = Parts(f"{folder}/table.csv"), Table(CHESTXRAY14.names, calibrated=True)
    parts.begin(Job(version="0", model="m", fingerprint="f", inputs=("films",), options=(), films=BATCH))
    middle = [0.123456] * (len(columns.columns) - 1 - 8) + [1024, 1024, 0, 0.3, 0.01, "accept", None, None]
    middle = [int(v) if name.startswith("call_") else v for name, v in zip(columns.columns[1:], middle, strict=True)]
    begun = time.perf_counter()
    for part in range(count):
        start = part * BATCH
        rows = [[f"films/{i // 1000:06d}/{i:09d}.png", *middle] for i in range(start, start + BATCH)]
        parts.begin_part(start)
        parts.write_part(start, rows_of(columns, start, rows))
    written = time.perf_counter()
    parts.write(WALK, Walked(films=count * BATCH, ignored=0, empty=(), closed=()).model_dump_json().encode())
    assert len(parts.places()) == count
    assert parts.rows() == count * BATCH
    listed = time.perf_counter()
    tally, _ = parts.finish()
    assert tally.rows == count * BATCH
    done = time.perf_counter()
    each = [(written - begun) / count, (listed - written) / count, (done - listed) / count]
    heads = ["of a part", "ms", "1e6 films: s", "1e8 films: s"]
    names = ("rows made and the part written", "found again at a start", "into the one CSV")
    rows = [
        [name, f"{s * 1e3:.1f}", f"{s * 1e6 / BATCH:,.0f}", f"{s * 1e8 / BATCH:,.0f}"]
        for name, s in zip(names, each, strict=True)
    ]
    return table(heads, rows)


if __name__ == "__main__":
    main()
