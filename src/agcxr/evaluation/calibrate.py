"""Fit calibration and operating points on a run's validation films, and store them in its checkpoint.

With them goes what tells films far from the training films: statistics of the global branch's features.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agcxr.calibration import Calibration, fit_calibration
from agcxr.data.prepared import Prepared, open_prepared
from agcxr.inference.describe import describe_features
from agcxr.inference.predictor import Predictor
from agcxr.models.agcnn import AGCNN
from agcxr.models.checkpoint import CARD_FILE, read_card


def calibrate(
    run: str | Path,
    prepared: str | Path | Prepared,
    *,
    split: str = "val",
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> Calibration:
    """Calibrate the fusion branch on `split`, describe the training films (inference/describe.py), and write the
    model's card anew; the weights stay as they are.

    run: a run or model folder on disk. The kind of map is chosen by log loss, cross-validated by patient. Raises
    ValueError where the split has no films, or is the test split: test films only measure.
    """
    if split == "test":
        raise ValueError("test films only measure; calibrate on 'val'")
    films = prepared if isinstance(prepared, Prepared) else open_prepared(prepared)
    rows = np.flatnonzero((films.index["split"] == split).to_numpy())
    if not len(rows):
        raise ValueError(f"{films.folder} has no films in the part {split!r}, so there is nothing to calibrate on")
    predictor = Predictor.from_pretrained(run, device=device)
    answers = predictor.predict_arrays(films.images, rows, progress=progress)
    index = films.index.iloc[rows]
    found = fit_calibration(
        index[list(answers.labels)].to_numpy(np.float64),
        answers.fusion_NK.astype(np.float64),
        index["patient"].to_numpy(dtype=object),
        answers.labels,
        seed=seed,
    )
    folder = Path(run) / "model" if (Path(run) / "model").is_dir() else Path(run)
    describe_features(folder, films, seed=seed, device=device, progress=progress)
    model = AGCNN.from_pretrained(folder)
    card = model.card or model.new_card(prepared_size=films.images.shape[1])
    model.save_pretrained(folder, card=card.model_copy(update={"calibration": found}))  # last: with it, all is there
    return found


def calibrate_once(run: Path, prepared: str | Path) -> None:
    """`calibrate` a run that has just been trained; one that holds a calibration is left as it is."""
    if read_card(run / "model" / CARD_FILE).calibration is None:
        calibrate(run, prepared)
