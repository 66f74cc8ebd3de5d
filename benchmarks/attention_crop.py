"""Attention and crop: features 7x7x2048 -> heatmap -> region -> box -> 224 px crop, batch 32.

The other side is the loop that people run, one image after the other with SciPy's labelling (reference.py); the boxes
of both are required to be exactly equal, the crops to 1e-5 (of white noise, the hardest there is), on every batch
before it is timed. The limit is a copy of the features and the crops in memory: what any program must read and write.
The loop is a lean one: a published one took 55 ms an image. Each side gets the features in the layout that its network
makes, channels last for ours. The features are random: many small regions, which is harder than what networks make. On
a GPU the loop is given the features on the host.

A row of its own: several windows of a quarter of the view's side in place of the one region, their crops required to be
those that are cut one at a time. Nobody else's code does that, so its other side is the limit. Freed memory is kept for
it, as in training: the crops of a batch are 38 MB.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from agcxr.geometry import crop
from agcxr.models.attention import attend
from agcxr.training.cpu import keep_freed_memory
from benchmarks import reference
from benchmarks.materials import Settings, device
from benchmarks.measure import Fact, Found, Row, alternate, short

THEME = "attention and crop"
BATCH, CHANNELS, GRID, SIZE = 32, 2048, 7, 224
TARGET_MS, TARGET_GPU = 0.7, 20_000
CROPS, WINDOW, TARGET_CROPS_MS = 6, 0.25, 1.0

LIMITS = """
On a CPU: reading 400 KB of features an image, which the copy does too; then the heatmap at 224 x 224 (upsampled,
rescaled, thresholded: a few passes over 200 KB), the runs of the mask and their links, and the crop (two passes that
mix lines, two transposes). A second thread helps little: the runs are linked by one.

On a GPU by the number of launches: the tensor route takes a fixed number of small kernels and never waits for the host.
"""


def batches(n: int, generator: torch.Generator, channels: int = CHANNELS) -> list[tuple[Tensor, Tensor]]:
    """(feature_BDhw, view_B1HW) pairs of random numbers. Half the maps are smooth: one cell and its neighbours stand
    out, as in a trained network."""
    made = []
    for _ in range(n):
        feature = torch.rand(BATCH, channels, GRID, GRID, generator=generator)
        peak = torch.rand(BATCH // 2, 1, GRID, GRID, generator=generator)
        feature[: BATCH // 2] += 3 * torch.nn.functional.avg_pool2d(peak, 3, 1, 1)
        made.append((feature, torch.rand(BATCH, 1, SIZE, SIZE, generator=generator)))
    return made


def ours(feature_BDhw: Tensor, view_B1HW: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes and crops of a batch."""
    box_B4 = attend(feature_BDhw, SIZE).box_B4
    return box_B4, crop(view_B1HW, box_B4, SIZE)


def loop(feature_BDhw: Tensor, view_B1HW: Tensor) -> tuple[Tensor, Tensor]:
    """The same by the reference."""
    box_B4 = reference.boxes_of(feature_BDhw, SIZE)
    return box_B4, reference.crops_of(view_B1HW, box_B4, SIZE)


def check_equal(feature_BDhw: Tensor, view_B1HW: Tensor) -> int:
    """Raise AssertionError unless both give the same boxes and crops; returns how many boxes are not the whole view.

    A GPU rounds the heatmap otherwise, which can move the edge of a region that lies at the threshold itself: there
    99 boxes of 100 must be equal, and their crops.
    """
    box_B4, crop_B1HW = ours(feature_BDhw.to(device()), view_B1HW.to(device()))
    plain_B4, plain_B1HW = loop(feature_BDhw, view_B1HW)
    same_B = (box_B4.cpu() == plain_B4).all(1)
    share = 1.0 if device().type == "cpu" else 0.99
    assert same_B.float().mean() >= share, "boxes differ from the reference's"
    torch.testing.assert_close(crop_B1HW.cpu()[same_B], plain_B1HW[same_B], atol=1e-5, rtol=0)
    return int(((plain_B4[:, 2:] - plain_B4[:, :2]).amin(1) < SIZE).sum())


def several(feature_BDhw: Tensor, view_B1HW: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes and crops of CROPS windows of each image of a batch."""
    box_BR4 = attend(feature_BDhw, SIZE, crops=CROPS, window=WINDOW).box_BR4
    return box_BR4, crop(view_B1HW, box_BR4, SIZE)


def check_several(feature_BDhw: Tensor, view_B1HW: Tensor) -> None:
    """Raise AssertionError unless every image has its windows, and the crops are those cut one at a time."""
    box_BR4, crop_BR1HW = several(feature_BDhw, view_B1HW)
    assert ((box_BR4[..., 2:] - box_BR4[..., :2]) == round(WINDOW * SIZE)).all(), "a window is missing"
    for r in range(CROPS):
        torch.testing.assert_close(crop_BR1HW[:, r], crop(view_B1HW, box_BR4[:, r], SIZE), atol=1e-5, rtol=0)


def waits_for_host(feature_BDhw: Tensor, view_B1HW: Tensor) -> str:
    """Whether a GPU has to wait for the host on the way: `no`, or the first place where it does."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours(feature_BDhw, view_B1HW)
    except RuntimeError as error:
        return f"yes: {error}"
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "no"


def run(settings: Settings) -> Iterator[Found]:
    """One and two threads on a CPU; one row on a GPU."""
    made = batches(settings.pick(4, 2), torch.Generator().manual_seed(0), settings.pick(CHANNELS, 64))
    boxes = sum(check_equal(*one) for one in made)
    equal = f"{len(made) * BATCH} of {len(made) * BATCH}" if device().type == "cpu" else "at least 99 % of each batch"
    yield Fact("boxes equal to the loop's", equal, f"{boxes} are real boxes")
    there, threads = device(), torch.get_num_threads()
    on_device = [(f.to(there, memory_format=torch.channels_last), view.to(there)) for f, view in made]
    if there.type == "cuda":
        yield Fact("waits for the host", waits_for_host(*on_device[0]), "to reach: no")
    out = torch.empty(BATCH, 1, SIZE, SIZE, device=there)
    repeat = settings.pick(1 if there.type == "cpu" else 20, 1)

    def fast() -> None:
        for _ in range(repeat):
            for feature, view in on_device:
                ours(feature, view)

    def slow() -> None:
        for feature, view in made:
            loop(feature, view)

    def copy() -> None:
        for _ in range(repeat):
            for feature, view in on_device:
                feature.clone()
                out.copy_(view)

    try:
        for count in (1, 2) if there.type == "cpu" else (threads,):
            torch.set_num_threads(count)
            found = alternate({"ours": fast, "loop": slow, "copy": copy}, settings.pick(8, 2))
            images, label = repeat * len(made) * BATCH, f"{count} thread{'s' * (count > 1)}"
            row = Row(
                f"attention and crop, {label}",
                "per-image loop, SciPy",
                images,
                found["ours"],
                found["loop"],
                peer=True,
                other_images=len(made) * BATCH,
            )
            yield row
            yield Row(
                f"attention and crop, {label}", "copy in memory", images, found["ours"], found["copy"], peer=False
            )
            yield Fact(
                f"milliseconds an image, {label}",
                f"{short(1000 / row.rate)} (the loop {short(1000 / row.other_rate)})",
                _judged(row, there),
            )
            yield Fact(f"processor time an image, {label}", f"{_processor_ms(fast, images):.3f} ms", "all threads")
            yield from _several(settings, on_device, label)
    finally:
        torch.set_num_threads(threads)


def _several(settings: Settings, made: list[tuple[Tensor, Tensor]], label: str) -> Iterator[Found]:
    """The row of several windows."""
    for feature, view in made:
        check_several(feature, view)
    if made[0][1].device.type == "cpu":
        keep_freed_memory()
    out = torch.empty(BATCH, CROPS, SIZE, SIZE, device=made[0][1].device)

    def ours() -> None:
        for feature, view in made:
            several(feature, view)

    def copy() -> None:
        for feature, view in made:
            feature.clone()
            out.copy_(view)

    found, images = alternate({"ours": ours, "copy": copy}, settings.pick(8, 2)), len(made) * BATCH
    what = f"attention and {CROPS} windows, {label}"
    row = Row(what, "copy in memory", images, found["ours"], found["copy"], peer=False)
    yield row
    there = "reached" if 1000 / row.rate < TARGET_CROPS_MS else "short of it"
    note = f"to reach under {TARGET_CROPS_MS} ms on a CPU: {there}" if made[0][1].device.type == "cpu" else ""
    yield Fact(f"milliseconds an image, {what}", short(1000 / row.rate), note)
    yield Fact(f"processor time an image, {what}", f"{_processor_ms(ours, images):.3f} ms", "all threads")


def _judged(row: Row, there: torch.device) -> str:
    """The issue's goal on this hardware, and whether it is met."""
    if there.type == "cuda":
        return f"to reach over {TARGET_GPU:,} images/s: {'reached' if row.rate > TARGET_GPU else 'short of it'}"
    return f"to reach under {TARGET_MS} ms: {'reached' if 1000 / row.rate < TARGET_MS else 'short of it'}"


def _processor_ms(work: Callable[[], None], images: int) -> float:
    """Processor time of the work, an image: what it costs whoever else is on the machine."""
    start = time.process_time()
    work()
    return 1000 * (time.process_time() - start) / images
