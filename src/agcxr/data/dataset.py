"""Prepared films -> batches. A whole batch is read from the memory map at once, by one thread, ahead of its use.

There are no per-film workers: reading 32 films of 256 x 256 bytes takes less than a millisecond, and all that is
random happens later, batched on the device (`augment`).

Shape suffixes: N films of a part, B films of a batch, K labels, S side of a prepared film.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from agcxr.data.prepared import Pixels, Prepared, measurable
from agcxr.findings import CHESTXRAY14, Findings

AHEAD = 3
"""Batches read ahead of the one in use."""


@dataclass(frozen=True)
class FilmBatch:
    """B films: uint8 pixels, labels in {0, 1, NaN = unknown}, where they lie, and their place in the epoch.

    row_B: row of images.npy and of the index. place_B: position in the epoch's order over all devices, by which the
    epoch's random views are drawn; -1 marks padding that evaluation must not count.
    """

    image_B1SS: Tensor
    label_BK: Tensor
    row_B: Tensor
    place_B: Tensor

    def __len__(self) -> int:
        return len(self.row_B)

    def to(self, device: torch.device | str) -> FilmBatch:
        """The batch on another device; from pinned memory the copy is asynchronous."""
        return FilmBatch(*(tensor.to(device, non_blocking=True) for tensor in self._tensors()))

    def pin(self) -> FilmBatch:
        """The batch in page-locked memory."""
        return FilmBatch(*(tensor.pin_memory() for tensor in self._tensors()))

    def _tensors(self) -> tuple[Tensor, ...]:
        return self.image_B1SS, self.label_BK, self.row_B, self.place_B


@dataclass(frozen=True)
class Shard:
    """Which of `world` processes this one is."""

    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Films:
    """The films of one part: a memory map of ALL prepared films, the rows that belong (ascending), their labels.

    Without `pixels` the batches carry empty images: for steps on cached features.
    """

    images: Pixels
    row_N: np.ndarray
    label_NK: np.ndarray
    patient_N: np.ndarray
    """Their names, any values that tell them apart."""
    pixels: bool = True
    findings: Findings = CHESTXRAY14
    """Whose labels the columns of label_NK are."""
    place_NR4: np.ndarray | None = None
    """Where small findings are or would be, in pixels of the prepared film, float32; without area where a film has
    fewer places than others. None: not known."""

    def __len__(self) -> int:
        return len(self.row_N)

    @property
    def size(self) -> int:
        """Side S of a prepared film."""
        return int(self.images.shape[-1])

    def read(self, at_B: np.ndarray, place_B: np.ndarray) -> FilmBatch:
        """The films at these positions of the part, in this order; the disk sees ascending rows."""
        row_B = self.row_N[at_B]
        side = self.size if self.pixels else 0
        image = np.empty((len(row_B), 1, side, side), np.uint8)
        if self.pixels:
            order = np.argsort(row_B, kind="stable")
            image[order, 0] = self.images[row_B[order]]
        return FilmBatch(
            torch.from_numpy(image),
            torch.from_numpy(self.label_NK[at_B]),
            torch.from_numpy(row_B),
            torch.from_numpy(place_B),
        )

    def first(self, n: int | None) -> Films:
        """Only the first n films (all of them for None)."""
        if n is None:
            return self
        place_NR4 = None if self.place_NR4 is None else self.place_NR4[:n]
        first = replace(self, row_N=self.row_N[:n], label_NK=self.label_NK[:n], patient_N=self.patient_N[:n])
        return replace(first, place_NR4=place_NR4)


def films(prepared: Prepared, split: str) -> Films:
    """The part `train`, `val` or `test` of a prepared folder. Raises ValueError where it has no films."""
    row_N = np.flatnonzero((prepared.index["split"] == split).to_numpy())
    if not len(row_N):
        found = ", ".join(f"{name} {count}" for name, count in prepared.index["split"].value_counts().items())
        raise ValueError(
            f"{prepared.folder} has no films in the part {split!r} (it has: {found or 'none'}); "
            "run `agcxr prepare` again with another split or more films"
        )
    label_NK = prepared.index[list(prepared.findings.labels)].to_numpy(np.float32)[row_N]
    if split != "train":
        label_NK = measurable(label_NK)
    patient_N = prepared.index["patient"].astype(str).to_numpy(object)[row_N]
    place_NR4 = None if prepared.places is None else _places(prepared, prepared.places)[row_N]
    return Films(prepared.images, row_N, label_NK, patient_N, findings=prepared.findings, place_NR4=place_NR4)


def _places(prepared: Prepared, places: pd.DataFrame) -> np.ndarray:
    """Of all films, in the order of the table."""
    row_M, nth_M = places["row"].to_numpy(), places.groupby("row").cumcount().to_numpy()
    place_NR4 = np.zeros((len(prepared.index), int(nth_M.max(initial=0)) + 1, 4), np.float32)
    place_NR4[row_M, nth_M] = places[["x0", "y0", "x1", "y1"]].to_numpy() * prepared.plan.size
    return place_NR4


class Batches:
    """An iterable of FilmBatch with a length; each `iter` reads the same films again.

    at_M: positions of the part in the order to read them; `bounds` are (start, stop) of each batch in it.
    """

    def __init__(
        self, films: Films, at_M: np.ndarray, place_M: np.ndarray, bounds: list[tuple[int, int]], *, pin: bool
    ):
        self.films, self.at_M, self.place_M, self.bounds, self.pin = films, at_M, place_M, bounds, pin

    def __len__(self) -> int:
        return len(self.bounds)

    def __iter__(self) -> Iterator[FilmBatch]:
        ahead: deque[Future[FilmBatch]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="films") as pool:
            for start, stop in self.bounds:
                ahead.append(pool.submit(self._read, start, stop))
                if len(ahead) > AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _read(self, start: int, stop: int) -> FilmBatch:
        batch = self.films.read(self.at_M[start:stop], self.place_M[start:stop])
        return batch.pin() if self.pin else batch


def epoch_seed(*parts: int) -> int:
    """One 63-bit seed of several numbers, such as (seed, stage, epoch)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def train_batches(
    films: Films,
    batch_size: int,
    *,
    accumulate: int = 1,
    seed: int,
    shard: Shard = Shard(),
    pin: bool = False,
) -> Batches:
    """One epoch in the order drawn from `seed`; `accumulate` batches of `batch_size` films a step over all processes.

    Each step is dealt out over the processes and then over its batches, so that two processes, or two batches of half
    the size, take the steps that one would. Of the last, partial step the films that cannot be dealt out evenly are
    left out (of this epoch), as is a last step of one film a process, which batch norm cannot use; its batches are
    about alike in size.
    """
    world = shard.world
    if batch_size % world:
        raise ValueError(
            f"batch_size is {batch_size} films over {world} devices; expected a multiple of {world}, "
            f"such as {max(1, batch_size // world) * world}"
        )
    if len(films) < world:
        raise ValueError(f"{len(films)} films cannot be dealt out to {world} devices; use fewer devices or more films")
    order_N = np.random.default_rng(seed).permutation(len(films))
    step = batch_size * accumulate
    last = len(films) % step // world * world
    if last == world and len(films) > step:
        last = 0
    usable = len(films) // step * step + last
    place_M = np.arange(shard.rank, usable, world)
    steps = _bounds(len(place_M), step // world)
    bounds = [part for start, stop in steps for part in _even(start, stop, batch_size // world)]
    return Batches(films, order_N[place_M], place_M, bounds, pin=pin)


def evaluation_batches(
    films: Films,
    batch_size: int,
    *,
    shard: Shard = Shard(),
    pin: bool = False,
) -> Batches:
    """Every film once, in order. Each process gets as many batches as the others: missing films are padded with the
    last one, place -1, which nobody counts."""
    share = -(-len(films) // shard.world)
    at_M = np.arange(share) * shard.world + shard.rank
    place_M = np.where(at_M < len(films), at_M, -1)
    per_process = max(1, batch_size // shard.world)
    return Batches(films, np.minimum(at_M, len(films) - 1), place_M, _bounds(share, per_process), pin=pin)


def _even(start: int, stop: int, most: int) -> list[tuple[int, int]]:
    """A range as the fewest ranges of at most so many, none longer than another by more than one."""
    parts = -(-(stop - start) // most)
    edges = [start + (stop - start) * i // parts for i in range(parts + 1)]
    return list(itertools.pairwise(edges))


def _bounds(n: int, step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, n)) for start in range(0, n, step)]
