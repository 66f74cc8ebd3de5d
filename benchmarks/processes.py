"""Two processes beside one: stage I of `agcxr train --devices 2` (DDP: gloo on CPUs, NCCL on GPUs), one thread or one
GPU each, at twice the batch of one process alone.

Every measurement is a fresh start of both kinds in turn; what counts is the median step after a warm-up. The limit is
twice the rate of one process on one thread (one GPU): the share of it is the efficiency. The films are random bytes in
memory: the data path has pages of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.materials import Settings
from benchmarks.measure import ROOT, Fact, Found, Row, Timed

THEME = "two processes"
WARM_UP = 2

LIMITS = """
Gradients are summed over the processes while the backward pass still runs, so what shows is the last bucket, and
waiting for the slower process in every step. Two processes on one CPU also share its memory bandwidth and its
caches, which may cost more than the exchange: two copies of a program that know nothing of each other are slowed down
as well.
"""


def run(settings: Settings) -> Iterator[Found]:
    """One row; left out with a reason where there is nothing to share the work."""
    import torch

    cuda = torch.cuda.is_available()
    there = torch.cuda.device_count() if cuda else len(os.sched_getaffinity(0))
    if there < 2:
        yield Fact("two processes", "left out", f"needs two {'GPUs' if cuda else 'cores'}; this machine has one")
        return
    batch = settings.pick(64 if cuda else 8, 4)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    peak: dict[int, float] = {1: 0.0, 2: 0.0}
    for i in range(settings.pick(3, 1)):
        for devices in (1, 2) if i % 2 == 0 else (2, 1):
            found = _measured(settings, devices, batch * devices)
            seconds[devices].append(found["step_s"])
            peak[devices] = max(peak[devices], found["peak_mb"])
    both, one = (Timed(tuple(seconds[devices]), peak[devices]) for devices in (2, 1))
    yield Row(
        f"stage I by 2 processes, {settings.backbone}, batch 2 x {batch}",
        "twice one process",
        2 * batch,
        both,
        one,
        peer=False,
        note=f"{'NCCL' if cuda else 'gloo, one thread a process'}; memory is of one process each",
        other_images=2 * batch,
    )


def _measured(settings: Settings, devices: int, batch: int) -> dict[str, float]:
    """Start so many processes and read what the first of them writes. Raises RuntimeError with their last words."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        given = {"devices": devices, "batch": batch, "steps": settings.pick(6, 2), "backbone": settings.backbone}
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.processes", str(out)]
        command += [f"--{name}={value}" for name, value in given.items()] + (["--quick"] if settings.quick else [])
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=200
        )
        if done.returncode or not out.exists():
            raise RuntimeError(f"{devices} processes ended with status {done.returncode}: {done.stderr.strip()[-800:]}")
        return json.loads(out.read_text(encoding="utf-8"))


def _child() -> None:
    """A few steps of stage I; the first process writes the seconds of one. Lightning starts the other likewise."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    for name in ("devices", "batch", "steps"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--backbone")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()

    import numpy as np
    import torch

    from agcxr.data.dataset import Films
    from agcxr.labels import LABELS
    from agcxr.training.stages import make_trainer
    from agcxr.training.tasks import Data, StageTask
    from benchmarks import materials
    from benchmarks.measure import peak_mb
    from benchmarks.training_step import Alternating

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = materials.recipe(Settings(given.quick, given.backbone, Path(folder)))
        stage = config.global_.model_copy(update={"batch_size": given.batch})
        config = config.model_copy(update={"global_": stage, "devices": given.devices})
        rng, n = np.random.default_rng(0), given.batch * (given.steps + WARM_UP)
        image = rng.integers(0, 256, (n, config.resize, config.resize), dtype=np.uint8)
        films = Films(image, np.arange(n), (rng.random((n, len(LABELS))) < 0.1).astype(np.float32), np.arange(n))
        clock = Alternating(lambda: None, 1, 0.0)
        trainer = make_trainer(config, 1, [clock], Path(folder))
        trainer.fit(StageTask(materials.network(config), config, "global", Data(films, films.first(4))))
        if trainer.is_global_zero:
            found = {"step_s": statistics.median(clock.ours), "peak_mb": peak_mb()}
            given.out.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    _child()
