"""What the benchmarks work on: 1024 x 1024 PNG films, prepared folders made of them, and networks.

The films are the originals in ../shared/nih/full, repeated under other names; where they are absent, smooth noise of
the same size. `films_are` says which.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch

from agcxr.config import Augment, Fusion, Local, Stage, Train
from agcxr.data.dataset import Films
from agcxr.data.nih import ROW_COLUMNS
from agcxr.data.prepare import Source, prepare
from agcxr.data.prepared import Prepared
from agcxr.data.sources import find_files
from agcxr.data.storing import Storing
from agcxr.labels import LABELS
from agcxr.models.agcnn import AGCNN
from agcxr.training.stages import build
from benchmarks.measure import ROOT

ORIGINALS = ROOT.parent / "shared" / "nih" / "full"
SIDE = 1024


@dataclass(frozen=True)
class Settings:
    """How large a run is. quick: a smoke test, figures mean nothing. folder: for temporary files."""

    quick: bool
    backbone: str
    folder: Path

    def pick(self, full: int, quick: int) -> int:
        """One of two sizes."""
        return quick if self.quick else full


def films_are() -> str:
    """In words, for the page."""
    n = len(originals())
    return f"{n} original NIH PNGs, repeated" if n else "made films of smooth noise (../shared/nih is absent)"


def originals() -> list[Path]:
    """The untouched NIH films that are at hand, without the few in colour whose profile libpng complains about at every
    reading (ours leaves profiles out, the bare decoder does not)."""
    return [path for path in sorted(ORIGINALS.glob("*.png")) if not _complained_of(path)]


def _complained_of(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(4096)
    in_colour = head[25:26] != b"\0"  # PNG: the colour type, 0 is gray
    return in_colour and b"iCCP" in head


def film_files(folder: Path, n: int) -> list[Path]:
    """n film files in a new folder: links to the originals, again and again, each under a name of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = originals() or _made(folder.with_name(folder.name + "-made"))
    paths = [folder / f"film_{i:07d}.png" for i in range(n)]
    for i, path in enumerate(paths):
        os.symlink(sources[i % len(sources)].resolve(), path)
    return paths


def _made(folder: Path, n: int = 16) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    rng, paths = np.random.default_rng(0), []
    for i in range(n):
        smooth = cv2.resize(rng.random((32, 32)).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        film = np.clip(255 * smooth + rng.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)
        paths.append(folder / f"made_{i}.png")
        cv2.imwrite(str(paths[-1]), film)
    return paths


def rows(names: Sequence[str]) -> pd.DataFrame:
    """A label table for films of these names: four films a patient, a tenth of the labels positive."""
    label = (np.random.default_rng(0).random((len(names), len(LABELS))) < 0.1).astype(np.float32)
    facts = pd.DataFrame({"image_id": list(names), "patient": [f"p{i // 4:06d}" for i in range(len(names))]})
    facts = facts.assign(follow_up=pd.array([0] * len(names), "Int64"), age=50.0, sex="F", view="PA")
    return pd.concat([facts, pd.DataFrame(label, columns=list(LABELS))], axis=1)[list(ROW_COLUMNS)]


def prepared(films: Path, names: Sequence[str], out: Path, size: int = 256, workers: int | None = None) -> Prepared:
    """The films of a folder through `agcxr prepare`, its bar and summary kept from the screen."""
    with contextlib.redirect_stderr(io.StringIO()):
        source, storing = Source(name="benchmark"), Storing(size=size, workers=workers)
        return prepare(rows(names), None, find_files(films), out, source=source, storing=storing)


def tiled(folder: Path, n: int, size: int = 256) -> Films:
    """n films for training steps, repeated from the few that are prepared in `folder` (once)."""
    few = 48
    source = folder / "few"
    if not source.exists():
        film_files(source, few)
    ready = prepared(source, [path.name for path in sorted(source.iterdir())], folder / f"few-prepared-{size}", size)
    row_N = np.sort(np.arange(n) % few)
    label_NK = ready.index[list(LABELS)].to_numpy(np.float32)
    return Films(ready.images, row_N, label_NK[row_N], row_N.astype(str))


def recipe(
    settings: Settings, *, epochs: tuple[int, int, int] = (1, 1, 1), batch: tuple[int, int, int] = (32, 16, 16)
) -> Train:
    """The lite recipe on a network with random weights (they cost the same)."""
    batch = (8, 8, 8) if settings.quick else (32, 16, 16)
    return Train(
        backbone=settings.backbone,
        weights="none",
        image_size=64 if settings.quick else 224,
        resize=64 + 8 if settings.quick else 256,
        augment=Augment(),
        global_=Stage(epochs=epochs[0], batch_size=batch[0]),
        local=Local(epochs=epochs[1], batch_size=batch[1]),
        fusion=Fusion(epochs=epochs[2], batch_size=batch[2]),
    )


def network(config: Train) -> AGCNN:
    """A network with the same random weights every time."""
    torch.manual_seed(0)
    return build(config)


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
