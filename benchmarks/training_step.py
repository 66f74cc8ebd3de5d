"""Training steps, data included, beside the bare step of stage I on tensors that lie on the device already.

Ours is the real thing: `agcxr train`'s task in Lightning, from the memory-mapped films to the optimiser's step. The
bare step is taken between our steps in the same run: the same network, batch, precision, layout and optimiser, with
nothing but forward, loss, backward and update. Films are read ahead while a bare step runs, so the time of reading a
batch is measured apart and added to ours in full, although in a real run most of it is hidden.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
from benchmarks.measure import Fact, Found, Row, Timed, gpu_mb, peak_mb, short, sync

THEME = "training step"
WARM_UP = 2
GPU_BATCH = 64
RESNET50_BATCH = 16  # on a CPU: few steps in half a minute

LIMITS = """
The bare step: forward, loss, backward, update. Stage I adds to it the reading of a batch, drawing and rendering its
views, and Lightning's loop. Stage II with attention for each view adds a forward pass of the frozen global branch (a
third of a step, whatever is done around it) and attention and crop; with attention once a film nothing but the crop.
With several crops a film, the bare step is that of the local branch on as many tensors, with its pooling over them.
"""
CROPS = {"crops": 6, "window": 0.25, "pool": "gated"}
CROPS_BATCH = 4  # films, on a CPU: 24 crops


def bare_step(config: Train, batch: int) -> Callable[[], None]:
    """A closure that takes one step of stage I on fixed tensors; with several crops, of the local branch on them."""
    there = materials.device()
    model = materials.network(config).to(there).to(memory_format=torch.channels_last)
    crops, side = config.local.crops, config.image_size
    branch = (model.global_branch if crops == 1 else model.local_branch).train()
    learn = optimiser(list(branch.parameters()), config.global_ if crops == 1 else config.local)
    view = torch.rand(batch, crops, 1, side, side, device=there)
    some = torch.ones(batch, crops, dtype=torch.bool, device=there)
    label = (torch.rand(batch, len(model.labels), device=there) < 0.1).float()

    def step() -> None:
        with torch.autocast(there.type, torch.bfloat16, enabled=uses_bf16(config.precision)):
            out = branch(view[:, 0]) if crops == 1 else branch.crops(view, some)
            loss = F.binary_cross_entropy_with_logits(out.logit_BK, label)
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


def beside_bare(
    config: Train, stage: str, films: Films, rounds: int, block: int, folder: Path, *, bare: bool = True
) -> Alternating:
    """Run one epoch of a stage with `rounds` counted blocks; without `bare`, with nothing between them."""
    batch = config.stage(stage).batch_size
    n = batch * block * (rounds + WARM_UP)
    data = Data(films.first(n), films.first(4))
    assert len(data.train) == n
    start, order = time.perf_counter(), np.random.default_rng(0).permutation(n)
    for at in range(0, 4 * batch, batch):
        films.read(order[at : at + batch], order[at : at + batch])
    read_s = (time.perf_counter() - start) / 4
    # With nothing in between, films are not read ahead unseen: the steps' own seconds hold all of it.
    keep = Alternating(bare_step(config, batch), block, read_s) if bare else Alternating(lambda: None, block, 0.0)
    trainer = make_trainer(config, 1, [keep], folder)
    trainer.fit(StageTask(materials.network(config), config, stage, data))
    return keep


@dataclass(frozen=True)
class Case:
    """One row: a stage of a recipe, how many pairs, and the share of the bare step to reach."""

    name: str
    config: Train
    stage: str
    rounds: int
    target: float


def cases(settings: Settings, gpu: bool) -> list[Case]:
    """Stage I, then stage II with attention for each view and with attention computed once a film; ResNet-50's stage I
    too where another network is asked for."""
    plain, rounds = materials.recipe(settings), settings.pick(30 if gpu else 9, 2)
    per_image = plain.model_copy(update={"local": plain.local.model_copy(update={"attention_per": "image"})})
    several = plain.model_copy(update={"local": per_image.local.model_copy(update=CROPS)})
    several = several if gpu else _with_batch(several, "local", CROPS_BATCH)
    share = 0.90 if gpu else 0.95
    found = [
        Case("stage I step incl. data", plain, "global", rounds, share),
        Case("stage II step, attention for each view", plain, "local", rounds, 1 / 1.45),
        Case("stage II step, attention once a film", per_image, "local", rounds, 1 / 1.1),
        Case(f"stage II step, {CROPS['crops']} crops a film, attention once", several, "local", rounds, 0.95),
    ]
    if gpu:
        found = [replace(one, config=_with_batch(one.config, one.stage, GPU_BATCH)) for one in found]
    if settings.backbone != "resnet50" and not settings.quick:
        large = _with_batch(plain.model_copy(update={"backbone": "resnet50"}), "global", RESNET50_BATCH)
        large = _with_batch(large, "global", GPU_BATCH) if gpu else large
        found.insert(0, Case("stage I step incl. data", large, "global", 30 if gpu else 5, share))
    return found


def _with_batch(config: Train, stage: str, batch: int) -> Train:
    """The recipe with another batch size in one stage."""
    larger = config.stage(stage).model_copy(update={"batch_size": batch})
    return config.model_copy(update={"global_" if stage == "global" else stage: larger})


def run(settings: Settings) -> Iterator[Found]:
    """A row each of `cases`."""
    gpu = materials.device().type == "cuda"
    block = 10 if gpu else 1
    films = materials.tiled(settings.folder, GPU_BATCH * block * (30 + WARM_UP))
    for case in cases(settings, gpu):
        config, stage = case.config, case.stage
        found = beside_bare(config, stage, films, case.rounds, block, settings.folder)
        batch = config.stage(stage).batch_size
        ours, other = (Timed(tuple(seconds), peak_mb(), gpu_mb()) for seconds in (found.ours, found.other))
        row = Row(
            f"{case.name}, {config.backbone}, batch {batch}",
            "bare step of stage I" if config.local.crops == 1 else "bare step of the local branch on as many crops",
            batch * block,
            ours,
            other,
            peer=False,
            target=case.target,
        )
        half = "bf16" if uses_bf16(config.precision) else "float32"
        note = f"takes {short(1 / row.ratio.median)} times the bare step; reading a batch {1000 * found.read_s:.2f} ms"
        yield replace(row, note=f"{note}; {half}, channels last")
        if stage == "local" and config.local.attention_per == "image":
            yield Fact(
                "attention once a film: the pass before the first epoch",
                f"{short(batch * block * (case.rounds + WARM_UP) / found.once_s)} films/s",
                "once for the whole stage, not in the step above",
            )
