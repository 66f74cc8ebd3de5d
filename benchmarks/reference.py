"""The recipe as people run it today: three stages of AG-CNN on the same network and the same films, nothing clever.

Every epoch decodes every film with Pillow and resizes it; float32 in the default memory layout; the attention crop is a
Python loop with SciPy's labelling; stages II and III run the frozen branches anew for every film of every epoch.

Shape suffixes: B films, H W pixels of the view, D channels, h x w feature grid, 4 a box (x0, y0, x1, y1).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from agcxr.config import Train
from agcxr.models.agcnn import AGCNN
from agcxr.training.tasks import only

# --- the attention crop, one image after the other --------------------------------------------------------------------


def box_of(feature_Dhw: Tensor, size: int, *, threshold: float = 0.7, min_side: int = 16) -> tuple[int, int, int, int]:
    """Box of the largest 8-connected region of one film's heatmap above the threshold; the whole view without one."""
    grid = feature_Dhw.abs().max(dim=0).values.float()
    heat = F.interpolate(grid[None, None], (size, size), mode="bilinear", align_corners=False)[0, 0].cpu().numpy()
    low, high = heat.min(), heat.max()
    if not high > low:
        return 0, 0, size, size
    heat = (heat - low) / (high - low)
    label, count = ndimage.label(heat > threshold, structure=np.ones((3, 3)))
    best, best_key = 0, (0, -1.0)
    for region in range(1, count + 1):
        inside = label == region
        key = (int(inside.sum()), float(heat[inside].max()))
        if key > best_key:
            best, best_key = region, key
    y, x = np.where(label == best)
    x0, y0, x1, y1 = int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1
    if best == 0 or min(x1 - x0, y1 - y0) < min_side:
        return 0, 0, size, size
    return x0, y0, x1, y1


def boxes_of(feature_BDhw: Tensor, size: int, *, threshold: float = 0.7, min_side: int = 16) -> Tensor:
    """Boxes of a batch, B4, by a loop."""
    found = [box_of(one, size, threshold=threshold, min_side=min_side) for one in feature_BDhw]
    return torch.tensor(found, dtype=torch.float32)


def crops_of(view_B1HW: Tensor, box_B4: Tensor, size: int) -> Tensor:
    """Crops of a batch resized to `size`, by a loop."""
    crops = []
    for view_1HW, box_4 in zip(view_B1HW, box_B4.int().tolist(), strict=True):
        x0, y0, x1, y1 = box_4
        part = view_1HW[None, :, y0:y1, x0:x1]
        crops.append(F.interpolate(part, (size, size), mode="bilinear", align_corners=False)[0])
    return torch.stack(crops)


# --- the films --------------------------------------------------------------------------------------------------------


class PillowFilms(Dataset[tuple[Tensor, Tensor]]):
    """Film files, decoded and resized at every access. Random crop and flip in training, centre crop otherwise."""

    def __init__(self, paths: Sequence[Path], label_NK: np.ndarray, config: Train, *, training: bool) -> None:
        self.paths, self.label_NK, self.config, self.training = list(paths), label_NK, config, training

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        whole, side = self.config.resize, self.config.image_size
        with Image.open(self.paths[i]) as file:
            film = file.convert("L").resize((whole, whole), Image.Resampling.BILINEAR)
        room = whole - side
        x, y = torch.randint(room + 1, (2,)).tolist() if self.training else (room // 2, room // 2)
        film = film.crop((x, y, x + side, y + side))
        if self.training and torch.rand(()) < self.config.augment.flip:
            film = film.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.asarray(film, np.float32) / 255)[None], torch.from_numpy(self.label_NK[i])


@dataclass(frozen=True)
class Epoch:
    """Seconds of one epoch: its training steps and the validation after it; and its mean training loss."""

    train_s: float
    val_s: float
    loss: float


class Reference:
    """Trains the stages of AG-CNN by the plain recipe. `workers` processes decode ahead, as data loaders do."""

    def __init__(
        self, model: AGCNN, config: Train, train: PillowFilms, val: PillowFilms, device: torch.device, workers: int = 2
    ) -> None:
        self.model, self.config, self.device = model.to(device), config, device
        self.train_films, self.val_films, self.workers = train, val, workers

    def stage(self, name: str, epochs: int) -> list[Epoch]:
        """Train `global`, `local` or `fusion` for so many epochs; both parts of the films are read in every one."""
        only(self.model, name)
        settings = self.config.stage(name)
        learn = torch.optim.SGD(self.model.trainable_parameters(), lr=settings.lr, momentum=settings.momentum)
        options = {"num_workers": self.workers, "persistent_workers": self.workers > 0}
        train = DataLoader(self.train_films, settings.batch_size, shuffle=True, **options)  # type: ignore[arg-type]
        val = DataLoader(self.val_films, settings.batch_size, **options)  # type: ignore[arg-type]
        return [self._epoch(name, train, val, learn) for _ in range(epochs)]

    def _epoch(self, name: str, train: DataLoader, val: DataLoader, learn: torch.optim.Optimizer) -> Epoch:
        start, losses = time.perf_counter(), []
        self.model.train()
        for view, label in train:
            logit = self.logits(name, view.to(self.device))
            loss = F.binary_cross_entropy_with_logits(logit, label.to(self.device))
            learn.zero_grad()
            loss.backward()
            learn.step()
            losses.append(loss.item())
        middle = time.perf_counter()
        self.model.eval()
        with torch.no_grad():
            for view, _ in val:
                self.logits(name, view.to(self.device)).cpu()
        return Epoch(middle - start, time.perf_counter() - middle, float(np.mean(losses)))

    def logits(self, name: str, view_B1HW: Tensor) -> Tensor:
        """Logits of the branch that the stage trains; everything before it is computed anew."""
        model, attention = self.model, self.config.local
        if name == "global":
            return model.forward_global(view_B1HW).logit_BK
        with torch.no_grad():
            whole = model.forward_global(view_B1HW)
            size = self.config.image_size
            box_B4 = boxes_of(whole.feature_BDhw, size, threshold=attention.threshold, min_side=attention.min_side)
            crop_B1HW = crops_of(view_B1HW, box_B4, size)
        if name == "local":
            return model.forward_local(crop_B1HW).logit_BK
        with torch.no_grad():
            part = model.forward_local(crop_B1HW)
        return model.fuse(whole.pooled_BD, part.pooled_BD)
