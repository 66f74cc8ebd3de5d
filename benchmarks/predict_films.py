"""`Predictor.stream`, films from disk, beside the two limits: bare decoding on all cores, and the network on films that
are decoded already.

To reach: 90 % of the smaller of the two, which supposes that they run on different hardware. Without a GPU the network
uses the cores that decode, and no program can be faster than both works one after the other on all cores: that limit,
1 / (1 / decode + 1 / network), is given too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch

from agcxr.inference.prediction import Prediction
from agcxr.inference.predictor import Predictor
from agcxr.machine import cores
from agcxr.training.stages import uses_bf16
from benchmarks import materials
from benchmarks.decoding import bare
from benchmarks.materials import Settings
from benchmarks.measure import Fact, Found, Quartiles, Row, Timed, alternate, peak_mb, processor_seconds, reset_peak

THEME = "predict"
BATCH = 16

LIMITS = """
Without a GPU the cores do both, so the sum of decode and network is what a perfect program would take; the smaller of
both rates is out of reach there by that much. With a GPU the two overlap and the slower one rules: with few cores it is
the decoding.

The faster the network, the more shows of what ours does beside it: it judges each film (is it a frontal chest film?),
maps answers to film coordinates, and its decoding threads take turns with the network's on the same cores. Tried and
slower: decoding threads of lower priority, and a single one.
"""


def run(settings: Settings) -> Iterator[Found]:
    """Rows for the three limits, and memory over a longer stream."""
    gpu = materials.device().type == "cuda"
    n = settings.pick(2000 if gpu else 96, 8)
    paths = [str(path) for path in materials.film_files(settings.folder / "films", n)]
    config = materials.recipe(settings)
    predictor = Predictor(materials.network(config), precision="bf16" if uses_bf16("auto") else "fp32")
    side = predictor.prepared_size
    arrays_NSS = np.random.default_rng(0).integers(0, 256, (n, side, side), dtype=np.uint8)
    batch = 128 if gpu else BATCH

    def ours() -> None:
        answers = list(predictor.stream(paths, batch_size=batch))
        assert all(isinstance(one, Prediction) for one in answers)

    def decode() -> None:
        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(bare, paths))

    def network() -> None:
        for start in range(0, n, batch):
            predictor.predict_arrays(arrays_NSS[start : start + batch], batch_size=batch, details=True)

    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        found = alternate({"ours": ours, "decode": decode, "network": network}, settings.pick(4, 1))
    finally:
        cv2.setNumThreads(threads)
    pairs = list(zip(found["decode"].seconds, found["network"].seconds, strict=True))
    slower = Timed(tuple(max(pair) for pair in pairs), found["network"].peak_mb)
    both = Timed(tuple(sum(pair) for pair in pairs), found["network"].peak_mb)
    title = f"predict from disk, {settings.backbone}"
    yield Row(title, "bare decode", n, found["ours"], found["decode"], peer=False)
    yield Row(title, "network alone", n, found["ours"], found["network"], peer=False)
    yield Row(title, "min(decode, network)", n, found["ours"], slower, peer=False, target=0.9)
    if not gpu:
        yield Row(title, "decode + network on the same cores", n, found["ours"], both, peer=False)
    if not gpu:
        yield _processor(ours, decode, network, n)
    yield from _memory(predictor, paths, batch)


def _processor(
    ours: Callable[[], None], decode: Callable[[], None], network: Callable[[], None], n: int, rounds: int = 3
) -> Fact:
    """Processor time, which other work on the machine hardly changes; of one thread of the network, which does not wait
    for another."""
    threads, spent = torch.get_num_threads(), dict[str, list[float]]()
    torch.set_num_threads(1)
    try:
        for _ in range(rounds):
            for name, side in (("ours", ours), ("decode", decode), ("network", network)):
                start = processor_seconds()
                side()
                spent.setdefault(name, []).append((processor_seconds() - start) / n * 1000)
    finally:
        torch.set_num_threads(threads)
    bare = [sum(pair) for pair in zip(spent["decode"], spent["network"], strict=True)]
    share = Quartiles.of([100 * limit / own for limit, own in zip(bare, spent["ours"], strict=True)])
    middle = {name: float(np.median(values)) for name, values in spent.items()}
    return Fact(
        "processor time a film, one thread: ours, bare decode, network",
        f"{middle['ours']:.1f}, {middle['decode']:.1f}, {middle['network']:.1f} ms",
        f"decode + network are {share} % of ours, n = {rounds}",
    )


def _memory(predictor: Predictor, paths: list[str], batch: int) -> Iterator[Found]:
    """Peak of a stream, and of one three times as long whose answers are used and dropped."""
    peaks = []
    for repeat in (1, 3):
        reset_peak()
        for _ in predictor.stream((path for _ in range(repeat) for path in paths), batch_size=batch):
            pass
        peaks.append(peak_mb())
    few = len(paths)
    yield Fact(
        f"peak memory, {few:,} and {3 * few:,} films",
        f"{peaks[0]:,.0f} and {peaks[1]:,.0f} MB ({peaks[1] / peaks[0]:.2f} times)",
        "to reach: flat, within 10 %",
    )
