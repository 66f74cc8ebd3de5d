"""A tiny prepared folder made in code, and settings that train on it in seconds."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from agcxr.config import Augment, Fusion, Local, Stage, Train
from agcxr.data.nih import BOX_COLUMNS
from agcxr.data.prepared import Counts, Plan, Source, SplitPlan
from agcxr.data.splits import LeakCheck
from agcxr.labels import LABELS

SIZE = 64
PARTS = {"train": 25, "val": 13, "test": 2}


def write_prepared(folder: Path, *, parts: dict[str, int] = PARTS, size: int = SIZE, unknown: bool = True) -> Path:
    """Films of noise with a bright square where the label is; the last two findings are absent everywhere."""
    rng = np.random.default_rng(0)
    split = rng.permutation([name for name, count in parts.items() for _ in range(count)])
    n = len(split)
    label = (rng.random((n, len(LABELS))) < 0.4).astype(np.float32)
    label[:, 12:14] = 0
    if unknown:
        label[0, 3] = np.nan
    image = rng.integers(0, 120, (n, size, size), dtype=np.uint8)
    side = size // 4
    for i, k in zip(*np.nonzero(label == 1), strict=True):
        y, x = divmod(int(k), 4)
        image[i, y * side : (y + 1) * side, x * side : (x + 1) * side] += 100
    index = pd.DataFrame({"image_id": [f"{i}.png" for i in range(n)], "patient": [f"p{i // 2}" for i in range(n)]})
    index["split"] = split
    index[list(LABELS)] = label
    index = index.assign(age=50.0, sex="F", view="PA", follow_up=0, width=size, height=size)
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", image)
    index.to_parquet(folder / "index.parquet")
    pd.DataFrame({name: [] for name in [*BOX_COLUMNS, "row"]}).to_parquet(folder / "boxes.parquet")
    (folder / "plan.json").write_text(_plan(n, size).model_dump_json())
    return folder


def _plan(n: int, size: int) -> Plan:
    counts = dict.fromkeys(Counts.model_fields, 0) | {"prepared": n, "parts": (), "positives": {}}
    return Plan(
        format=1,
        labels=LABELS,
        size=size,
        resize_rule="made in a test",
        source=Source(name="test"),
        split=SplitPlan(rule="patient", seed=0),
        leak_check=LeakCheck(patients_train_val=0, patients_train_test=0, patients_val_test=0, images_in_two_parts=0),
        counts=Counts(**counts),
        versions={},
        fingerprint="0" * 16,
    )


def tiny_config(**changes: Any) -> Train:
    """Three epochs a stage of a small network on views of 48 pixels."""
    common = {"batch_size": 8, "optimiser": "adamw", "lr": 3e-3}
    values = {
        "backbone": "test_resnet",
        "weights": "none",
        "image_size": 48,
        "resize": 64,
        "augment": Augment(flip=0.5),
        "global_": Stage(epochs=3, schedule="onecycle", **common),
        "local": Local(epochs=3, min_side=4, schedule="cosine", **common),
        "fusion": Fusion(epochs=3, **common),
        "precision": "fp32",
    }
    return Train(**(values | changes))


def short(**changes) -> Train:
    """One epoch a stage."""
    common = {"epochs": 1, "batch_size": 8}
    local = {"min_side": 4, **changes.pop("local", {})}
    return tiny_config(
        global_=Stage(**common),
        local=Local(**(common | local)),
        fusion=Fusion(**(common | {"batch_size": 4})),
        **changes,
    )


def shared_config(devices: int) -> Train:
    """A network without batch norm, for as many processes; the global stage by two batches a step, its average kept."""
    common = {"batch_size": 8, "lr": 0.05, "epochs": 2}
    return tiny_config(
        backbone="test_convnext2",
        image_size=64,
        devices=devices,
        global_=Stage(**(common | {"batch_size": 4, "accumulate": 2, "ema": 0.9})),
        local=Local(min_side=4, **common),
        fusion=Fusion(cached_views=2, **common),
    )


def _train_by_two(prepared: str, out: str) -> None:
    """Lightning starts this file once more for the second process."""
    import torch

    from agcxr.training.stages import train

    torch.set_num_threads(1)
    train(prepared, shared_config(devices=2), out, progress=False)


def _train_until(prepared: str, out: str, where: str, how: int) -> None:
    """Train in this process and send the signal to it at (stage, epoch, step)."""
    import torch

    from agcxr.training.stages import train
    from agcxr.training.tasks import StageTask

    torch.set_num_threads(1)
    stage, epoch, step = where.split(":")
    plain = StageTask.training_step

    def training_step(self: StageTask, shown: Any, batch_idx: int) -> Any:
        if (self.stage, self.current_epoch, batch_idx) == (stage, int(epoch), int(step)):
            os.kill(os.getpid(), how)
        return plain(self, shown, batch_idx)

    StageTask.training_step = training_step  # type: ignore[method-assign]
    train(prepared, tiny_config(), out, resume=True)


def _main(prepared: str, *jobs: str) -> None:
    """Each job, `out=stage:epoch:step=signal`, in a process of its own, forked after the imports, which take longest.

    Prints how each ended, one exit code a line (negative: by that signal).
    """
    import agcxr.training.stages  # noqa: F401

    for job in jobs:
        out, where, how = job.split("=")
        child = os.fork()
        if not child:
            _train_until(prepared, out, where, int(how))
        print("exit", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--two":
        _train_by_two(*sys.argv[2:])
    else:
        _main(*sys.argv[1:])
