"""Describe a run's training films as the global branch sees them, and store that in its checkpoint (see novelty.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from agcxr.data.augment import centre_views, render
from agcxr.data.prepared import Pixels, Prepared, open_prepared
from agcxr.inference.novelty import FEWEST, FeatureStatistics, fit_statistics
from agcxr.inference.predictor import Predictor
from agcxr.progress import ProgressBar

MOST_FILMS = 1500
"""Films of a part that are looked at, drawn at random; enough for the statistics of 64 components."""


def describe_features(
    run: str | Path,
    prepared: str | Path | Prepared,
    *,
    seed: int = 0,
    batch_size: int = 32,
    device: str | None = None,
    progress: bool = True,
) -> FeatureStatistics | None:
    """Fit on the films of train, scale on those of val, and write the model's card anew; the weights stay.

    Returns None, and writes nothing, where there are too few films to say which are far, or the branch answers all of
    them alike (an untrained model). Raises ValueError for a model
    that does not belong to the prepared films' size.
    """
    films = prepared if isinstance(prepared, Prepared) else open_prepared(prepared)
    predictor = Predictor.from_pretrained(run, device=device)
    generator = np.random.default_rng(seed)
    parts = [_rows(films, "train", generator), _rows(films, "val", generator)]
    if min(map(len, parts)) < FEWEST:
        return None
    train_ND, val_ND = (pooled_features(predictor, films.images, rows, batch_size, progress) for rows in parts)
    if np.ptp(train_ND, axis=0).max() < 1e-6 * (1 + np.abs(train_ND).max()):
        return None
    found = fit_statistics(train_ND, val_ND)
    model = predictor.model
    card = model.card or model.new_card(prepared_size=films.images.shape[1])
    folder = Path(run) / "model" if (Path(run) / "model").is_dir() else Path(run)
    model.save_pretrained(folder, card=card.model_copy(update={"feature_statistics": found.model_dump(mode="json")}))
    return found


@torch.inference_mode()
def pooled_features(
    predictor: Predictor, images_NSS: Pixels, rows: np.ndarray, batch_size: int = 32, progress: bool = False
) -> np.ndarray:
    """Pooled features of the global branch, float32 N x D, in the evaluation view of prepared films."""
    model, size = predictor.model, predictor.prepared_size
    if images_NSS.shape[1:] != (size, size):
        raise ValueError(f"films of {images_NSS.shape[1:]}; this model expects {size}: prepare with --size {size}")
    parts = []
    for start in ProgressBar(
        range(0, len(rows), batch_size), desc="features", unit=" batches", disable=not progress, leave=False
    ):
        some = np.ascontiguousarray(images_NSS[rows[start : start + batch_size]])
        views = centre_views(len(some), size, image_size=model.image_size, resize=model.resize).to(predictor.device)
        view = render(torch.from_numpy(some).to(predictor.device)[:, None], views)
        parts.append(model.forward_global(view).pooled_BD.float().cpu().numpy())
    return np.concatenate(parts)


def _rows(films: Prepared, part: Literal["train", "val"], generator: np.random.Generator) -> np.ndarray:
    rows = np.flatnonzero((films.index["split"] == part).to_numpy())
    return rows if len(rows) <= MOST_FILMS else np.sort(generator.choice(rows, MOST_FILMS, replace=False))
