"""A tiny prepared folder and a tiny run made in code, for tests of evaluation and report."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from agcxr import config
from agcxr.data.nih import BOX_COLUMNS
from agcxr.data.prepared import Counts, PartCount, Plan, Source, SplitPlan, index_columns
from agcxr.data.splits import LeakCheck
from agcxr.findings import CHESTXRAY14
from agcxr.labels import LABELS
from agcxr.models.agcnn import AGCNN
from agcxr.models.checkpoint import Patients

SIZE = 72
PARTS = {"train": 6, "val": 24, "test": 48}


def write_prepared(
    folder: Path, *, boxed: bool = True, collection: str | None = None, stated: tuple[str, ...] = LABELS
) -> Path:
    """78 films, two a patient. Hernia never occurs; Mass is unknown on the first test film; every fourth test film
    has a box of its first finding. Labels that are not `stated` are unknown on all films, and have no boxes."""
    rng = np.random.default_rng(0)
    count = sum(PARTS.values())
    index = pd.DataFrame({"image_id": [f"film <{n}> & co.png" for n in range(count)]})
    index["patient"] = [f"p{n // 2}" for n in range(count)]
    index["split"] = np.repeat(list(PARTS), list(PARTS.values()))
    label = (rng.random((count, len(LABELS))) < 0.3).astype(np.float32)
    label[:, LABELS.index("Hernia")] = 0
    first = PARTS["train"] + PARTS["val"]
    label[first, LABELS.index("Mass")] = np.nan
    label[:, [k for k, name in enumerate(LABELS) if name not in stated]] = np.nan
    index[list(LABELS)] = label
    index = index.assign(age=50.0, sex="F", view="PA", follow_up=0, width=SIZE, height=SIZE)
    rows = []
    for n in range(first, count, 4) if boxed else ():
        for k in np.flatnonzero(label[n] == 1)[:1]:
            x, y = rng.random(2) * 0.5
            rows.append((index["image_id"][n], LABELS[k], x, y, x + 0.4, y + 0.3, n))
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", rng.integers(0, 256, (count, SIZE, SIZE), dtype=np.uint8))
    index[list(index_columns(CHESTXRAY14))].to_parquet(folder / "index.parquet")
    columns = ["image_id", "finding", "x0", "y0", "x1", "y1", "row"]
    boxes = pd.DataFrame(rows, columns=columns)
    boxes[[*BOX_COLUMNS, "row"]].to_parquet(folder / "boxes.parquet")
    (folder / "plan.json").write_text(_plan(count, len(rows), collection).model_dump_json())
    return folder


def _plan(count: int, boxes: int, collection: str | None) -> Plan:
    parts = tuple(PartCount(part=part, images=n, patients=n // 2) for part, n in PARTS.items())
    counts = dict.fromkeys(Counts.model_fields, 0) | {"prepared": count, "boxes": boxes, "boxed_images": boxes}
    return Plan(
        format=1,
        labels=LABELS,
        size=SIZE,
        resize_rule="made in a test",
        source=Source(name="noise", collection=collection),
        split=SplitPlan(rule="patient", seed=0),
        leak_check=LeakCheck(patients_train_val=0, patients_train_test=0, patients_val_test=0, images_in_two_parts=0),
        counts=Counts(**(counts | {"parts": parts, "positives": {}})),
        versions={},
        fingerprint="0" * 16,
    )


def write_run(folder: Path, trained_on: tuple[str, ...] | None = ("p0", "p1", "p2")) -> Path:
    """A network of random weights, with the files a finished training leaves."""
    torch.manual_seed(0)
    model = AGCNN(backbone="resnet10t", weights="none", image_size=64, resize=SIZE)
    patients = None if trained_on is None else Patients.of(trained_on, salt="salt")
    model.save_pretrained(folder / "model", card=model.new_card(prepared_size=SIZE, train_patients=patients))
    config.to_yaml(config.demo(), folder / "config.yaml")
    for stage, epochs in (("global", 3), ("local", 1), ("fusion", 2)):
        (folder / stage).mkdir()
        with (folder / stage / "metrics.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["epoch", "train_loss", "val_loss", "val_auc", "lr", "seconds", "films_per_s"])
            rows.writerows(
                [e, 0.5 / e, 0.6 / e, "" if stage == "local" else 0.6 + e / 100, 0.01, 1, 9]
                for e in range(1, epochs + 1)
            )
    return folder
