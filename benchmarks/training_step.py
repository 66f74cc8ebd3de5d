"""Training steps, data included, beside the bare step of stage I on tensors that lie on the device already.

Ours is the real thing: `agcxr train`'s task in Lightning, from the memory-mapped films to the optimiser's step. The
bare step is taken between our steps in the same run: the same network, batch, precision, layout and optimiser, with
nothing but forward, loss, backward and update. Films are read ahead while a bare step runs, so the time of reading a
batch is measured apart and added to ours in full, although in a real run most of it is hidden.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F

from agcxr.config import Train
from agcxr.data.dataset import AHEAD, Films
from agcxr.training.optimise import optimiser
from agcxr.training.stages import make_trainer, uses_bf16
from agcxr.training.tasks import Data, StageTask
from benchmarks import materials
from benchmarks.materials import Settings
from benchmarks.measure import Fact, Found, Row, Timed, peak_mb, short, sync

THEME = "training step"
WARM_UP = 2
GPU_BATCH = 64


def bare_step(config: Train, batch: int) -> Callable[[], None]:
    """A closure that takes one step of stage I on fixed tensors."""
    there = materials.device()
    model = materials.network(config).to(there).to(memory_format=torch.channels_last)
    branch = model.global_branch.train()
    learn = optimiser(list(branch.parameters()), config.global_)
    view = torch.rand(batch, 1, config.image_size, config.image_size, device=there)
    label = (torch.rand(batch, len(model.labels), device=there) < 0.1).float()

    def step() -> None:
        with torch.autocast(there.type, torch.bfloat16, enabled=uses_bf16(config.precision)):
            loss = F.binary_cross_entropy_with_logits(branch(view).logit_BK, label)
        learn.zero_grad()
        loss.backward()
        learn.step()

    return step


class Alternating(L.Callback):
    """After every `block` steps of ours, as many bare ones; keeps the seconds of both, warm-up left out."""

    def __init__(self, bare: Callable[[], None], block: int, read_s: float) -> None:
        self.bare, self.block, self.read_s = bare, block, read_s
        self.ours: list[float] = []
        self.other: list[float] = []
        self.mark = 0.0
        self.once_s = 0.0
        self.blocks = 0

    def on_fit_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """What a stage computes once lies between here and the first step."""
        self.mark = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """The first block begins with the first batch's reading."""
        sync()
        self.once_s = time.perf_counter() - self.mark
        self.mark = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, task: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Close a block of ours, run the bare one, begin anew."""
        if (batch_idx + 1) % self.block:
            return
        sync()
        middle = time.perf_counter()
        for _ in range(self.block):
            self.bare()
        sync()
        end = time.perf_counter()
        self.blocks += 1
        if self.blocks > WARM_UP:
            self.ours.append(middle - self.mark + self.read_s * min(AHEAD, self.block))
            self.other.append(end - middle)
        self.mark = time.perf_counter()


def beside_bare(config: Train, stage: str, films: Films, rounds: int, block: int, folder: Path) -> Alternating:
    """Run one epoch of a stage with `rounds` counted blocks."""
    batch = config.stage(stage).batch_size
    n = batch * block * (rounds + WARM_UP)
    data = Data(films.first(n), films.first(4))
    assert len(data.train) == n
    start, order = time.perf_counter(), np.random.default_rng(0).permutation(n)
    for at in range(0, 4 * batch, batch):
        films.read(order[at : at + batch], order[at : at + batch])
    read_s = (time.perf_counter() - start) / 4
    keep = Alternating(bare_step(config, batch), block, read_s)
    trainer = make_trainer(config, 1, [keep], folder)
    trainer.fit(StageTask(materials.network(config), config, stage, data))
    return keep


def run(settings: Settings) -> Iterator[Found]:
    """Stage I, then stage II with attention for each view and with attention computed once a film."""
    gpu = materials.device().type == "cuda"
    block, rounds = (10 if gpu else 1), settings.pick(30 if gpu else 12, 2)
    plain = materials.recipe(settings)
    per_image = plain.model_copy(update={"local": plain.local.model_copy(update={"attention_per": "image"})})
    cases = (
        ("stage I step incl. data", plain, "global", 0.90 if gpu else 0.95),
        ("stage II step, attention for each view", plain, "local", 1 / 1.45),
        ("stage II step, attention once a film", per_image, "local", 1 / 1.1),
    )
    films = materials.tiled(settings.folder, GPU_BATCH * block * (rounds + WARM_UP))
    for name, config, stage, target in cases:
        if gpu:
            larger = with_batch(config.stage(stage), GPU_BATCH)
            config = config.model_copy(update={"global_" if stage == "global" else stage: larger})
        found = beside_bare(config, stage, films, rounds, block, settings.folder)
        batch = config.stage(stage).batch_size
        ours, other = Timed(tuple(found.ours), peak_mb()), Timed(tuple(found.other), peak_mb())
        row = Row(
            f"{name}, {settings.backbone}, batch {batch}",
            "bare step of stage I",
            batch * block,
            ours,
            other,
            peer=False,
            target=target,
        )
        note = f"takes {short(1 / row.ratio.median)} times the bare step; reading a batch {1000 * found.read_s:.2f} ms"
        yield replace(row, note=note)
        if config.local.attention_per == "image":
            yield Fact(
                "attention once a film: the pass before the first epoch",
                f"{short(batch * block * (rounds + WARM_UP) / found.once_s)} films/s",
                "once for the whole stage, not in the step above",
            )


def with_batch(stage: Any, batch: int) -> Any:
    """The stage with another batch size."""
    return stage.model_copy(update={"batch_size": batch})
