"""Does the cost of an image grow with the number of images? 1,000, 10,000 and 100,000.

- data path: one epoch of stage I without its network: films read from a memory map made by tiling, random views drawn
  and rendered. All sizes in turn, several rounds, the small ones as many epochs as make 10,000 films; what is compared
  is the cost within a round. The limit is a copy of the same bytes in memory.
- prepare: the real command on films of 16 x 16 pixels (links to one file), so that what is measured is listing,
  sharing out, writing, the index and the plan, not decoding.
- bootstrap: the patient bootstrap alone, 15 labels, 3 branches, at a fixed number of resamples.
- evaluate: everything after the network: the table of predictions and all measures with the patient bootstrap, at a
  fixed number of resamples.

Memory: the peak of the process, and what it holds of its own at the end of the work. Of the data path its own alone:
mapped films count in the peak, since nobody has wanted them back yet, but they are the system's cache.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from agcxr.config import Augment, Train
from agcxr.data.augment import random_views, render
from agcxr.data.dataset import Films, train_batches
from agcxr.data.prepared import Prepared
from agcxr.evaluation.analysis import analyse
from agcxr.evaluation.evaluate import crop_rows, to_frame, to_scores
from agcxr.inference.stream import BatchPrediction
from agcxr.labels import LABELS
from agcxr.uncertainty import bootstrap
from benchmarks import materials
from benchmarks.materials import Settings
from benchmarks.measure import Fact, Found, Quartiles, peak_mb, reset_peak, resident_mb, short

THEME = "growth"
FULL, QUICK = (1_000, 10_000, 100_000), (200, 400, 800)
RESAMPLES, BATCH, WRITE_S = 100, 32, 40.0
ROUNDS, EPOCH_FILMS = 3, 10_000

LIMITS = """
The data path by copies in memory, until the films no longer fit into the system's cache and the disk is read anew in
every epoch. Prepare (without decoding) by opening and reading a file. Evaluate and the bootstrap by sorting scores once
for each label and branch (N log N), and by one product with the patients' counts for every resample.
"""


@dataclass(frozen=True)
class Measured:
    """Seconds of the work on N images, the process's own memory at its end in MB, and a remark."""

    seconds: float
    own_mb: float
    note: str = ""


def run(settings: Settings) -> Iterator[Found]:
    """Each of the four at each N, smallest first."""
    sizes = QUICK if settings.quick else FULL
    yield from data_paths(settings, sizes)
    yield copy_limit(settings)
    yield from _table("prepare without decoding", sizes, lambda n: prepare_index(settings, n))
    yield from _table(f"patient bootstrap, {RESAMPLES} resamples", sizes, resampling)
    yield from _table(f"evaluate without the network, {RESAMPLES} resamples", sizes, evaluation)


def _table(what: str, sizes: tuple[int, ...], measured: Callable[[int], Measured]) -> Iterator[Found]:
    """A figure for each N, then how both ends compare."""
    costs, own, peak = [], [], []
    for n in sizes:
        reset_peak()
        found = measured(n)
        costs.append(1e6 * found.seconds / n)
        own.append(found.own_mb)
        peak.append(peak_mb())
        memory = f"own memory {own[-1]:,.0f} MB, peak {peak[-1]:,.0f} MB"
        yield Fact(f"{what}, {n:,} images", f"{short(costs[-1])} microseconds an image; {memory}", found.note)
    yield Fact(
        f"{what}: {sizes[-1]:,} images beside {sizes[0]:,}",
        f"cost of an image {costs[-1] / costs[0]:.2f} times, own memory {own[-1] / own[0]:.2f} times, "
        f"peak {peak[-1] / peak[0]:.2f} times",
    )


# --- data path --------------------------------------------------------------------------------------------------------


def tiled_file(path: Path, few_MSS: np.ndarray, n: int) -> int:
    """n films on disk made by tiling; returns how many were written in WRITE_S seconds: the rest reads as black."""
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (n, *few_MSS.shape[1:]))
    offset = images.offset  # type: ignore[attr-defined]
    del images
    start, done = time.perf_counter(), 0
    with open(path, "r+b") as file:
        file.seek(offset)
        while done < n and time.perf_counter() - start < WRITE_S:
            some = few_MSS[: n - done]
            file.write(some.tobytes())
            done += len(some)
        os.fsync(file.fileno())  # or the system writes it out beside the epoch that is timed
    return done


def data_paths(settings: Settings, sizes: tuple[int, ...]) -> Iterator[Found]:
    """The epochs of all sizes in turn, so that a machine that slows down meanwhile slows all of them."""
    few = np.asarray(materials.tiled(settings.folder, 48).images)
    paths = {n: settings.folder / f"tiled-{n}.npy" for n in sizes}
    black = {n: n - tiled_file(path, few, n) for n, path in paths.items()}
    cost: dict[int, list[float]] = {n: [] for n in sizes}
    own: dict[int, float] = {}
    for at in range(1 + settings.pick(ROUNDS, 1)):  # the first round warms up
        for n, path in paths.items():
            epochs = max(1, EPOCH_FILMS // n) if at else 1
            start = time.perf_counter()
            for _ in range(epochs):
                epoch(materials.recipe(settings), path, n)
            if at:
                cost[n].append(1e6 * (time.perf_counter() - start) / (n * epochs))
            own[n] = resident_mb("Anon")
    for n in sizes:
        note = f"{black[n]:,} films were not written in {WRITE_S:g} s and are black" if black[n] else ""
        what = f"{Quartiles.of(cost[n])} microseconds an image; own memory {own[n]:,.0f} MB"
        yield Fact(f"data path of an epoch, {n:,} images", what, note)
        paths[n].unlink()
    small, large = sizes[0], sizes[-1]
    ratio = Quartiles.of([b / a for a, b in zip(cost[small], cost[large], strict=True)])
    yield Fact(
        f"data path of an epoch: {large:,} images beside {small:,}",
        f"cost of an image {ratio} times, own memory {own[large] / own[small]:.2f} times",
        f"pairs of {len(cost[small])} rounds",
    )


def epoch(config: Train, path: Path, n: int) -> None:
    """All that happens to the films of an epoch before the network."""
    films = Films(np.load(path, mmap_mode="r"), np.arange(n), np.zeros((n, len(LABELS)), np.float32), np.arange(n))
    there = materials.device()
    views = random_views(
        n,
        films.size,
        image_size=config.image_size,
        resize=config.resize,
        augment=Augment(),
        generator=torch.Generator().manual_seed(0),
    )
    for batch in train_batches(films, BATCH, seed=0):
        render(batch.image_B1SS.to(there), views[batch.place_B].to(there))


def copy_limit(settings: Settings) -> Fact:
    """The bytes of a film copied, then its view written as float32: what a data path cannot avoid."""
    side, view = 256, 224
    films = np.zeros((BATCH, side, side), np.uint8)
    target = torch.zeros(BATCH, 1, view, view)
    source = torch.zeros(BATCH, 1, view, view, dtype=torch.uint8)
    rounds = settings.pick(200, 5)
    start = time.perf_counter()
    for _ in range(rounds):
        films.copy()
        target.copy_(source)
    cost = 1e6 * (time.perf_counter() - start) / rounds / BATCH
    return Fact("limit of the data path: copies in memory", f"{short(cost)} microseconds an image")


# --- prepare ----------------------------------------------------------------------------------------------------------


def prepare_index(settings: Settings, n: int) -> Measured:
    """Seconds of `agcxr prepare` for n films that cost nothing to decode."""
    folder, out = settings.folder / "many", settings.folder / "many-prepared"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    one = settings.folder / "one.png"
    cv2.imwrite(str(one), np.full((16, 16), 77, np.uint8))
    names = [f"film_{i:07d}.png" for i in range(n)]
    for name in names:
        os.symlink(one, folder / name)
    start = time.perf_counter()
    ready = materials.prepared(folder, names, out, size=16)
    seconds, own_mb = time.perf_counter() - start, resident_mb("Anon")
    assert len(ready.index) == n
    for place in (folder, out):
        shutil.rmtree(place)
    return Measured(seconds, own_mb, "starting the processes included; the table itself grows with N")


# --- evaluate ---------------------------------------------------------------------------------------------------------


def evaluation(n: int) -> Measured:
    """Seconds from the network's answers to every measure and its interval."""
    rng = np.random.default_rng(0)
    score = [rng.random((n, len(LABELS)), dtype=np.float32) for _ in range(3)]
    index: pd.DataFrame = materials.rows([f"film_{i}.png" for i in range(n)])
    films = Prepared(Path(), np.zeros((0, 1, 1), np.uint8), index, pd.DataFrame(), None)  # type: ignore[arg-type]
    answers = BatchPrediction(
        LABELS,
        *score,
        box_N4=np.tile([0.25, 0.25, 0.75, 0.75], (n, 1)),
        fallback_N=np.zeros(n, bool),
        window_4=np.array([0.0, 0.0, 1.0, 1.0]),
        plateau_N=np.zeros(n),
    )
    start = time.perf_counter()
    predictions = to_frame(films, np.arange(n), answers)
    crop_rows(predictions, LABELS)
    analyse(to_scores(predictions, LABELS), resamples=RESAMPLES)
    return Measured(time.perf_counter() - start, resident_mb("Anon"), "scores and labels themselves grow with N")


def resampling(n: int) -> Measured:
    """Seconds of the patient bootstrap alone: four films a patient, a tenth of the labels positive."""
    rng = np.random.default_rng(0)
    target = (rng.random((n, len(LABELS))) < 0.1).astype(float)
    score = rng.random((3, n, len(LABELS)))
    start = time.perf_counter()
    bootstrap(target, score, np.arange(n) // 4, rng=rng, resamples=RESAMPLES)
    return Measured(time.perf_counter() - start, resident_mb("Anon"), "scores and labels themselves grow with N")
