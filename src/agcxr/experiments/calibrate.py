"""Fit calibration and operating points on a run's validation films, and store them in its checkpoint.

With them goes what tells films far from the training films: statistics of the global branch's features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agcxr.calibration import Calibration, FittedOn, films_digest, fit_calibration
from agcxr.data.prepared import Prepared, open_prepared
from agcxr.evaluation.leak import check_each
from agcxr.evaluation.model_card import write_model_card
from agcxr.inference.describe import describe_features
from agcxr.inference.ensemble import Average, all_runs, average_file, weights_digest
from agcxr.inference.load import load_runs
from agcxr.inference.prediction import ViewSet
from agcxr.models.agcnn import AGCNN
from agcxr.models.checkpoint import CARD_FILE, Card, read_card
from agcxr.training.run_folder import atomic


def calibrate(
    run: str | Path,
    prepared: str | Path | Prepared,
    *,
    split: str = "val",
    allow_leak: bool = False,
    seed: int = 0,
    device: str | None = None,
    views: ViewSet = "plain",
    progress: bool = True,
) -> Calibration:
    """Calibrate the fusion branch on `split`, and write the model's card anew, with what it was fitted on; the weights
    stay as they are. Where the folder's train part is what the model was trained on, describe these films anew too
    (inference/describe.py); elsewhere what the card knows of them stays.

    run: a run or model folder on disk; or a folder of runs of seeds or folds, or with other `views` any of these: then
    the average over models and views is calibrated as a whole, in average-<views>.json there, and no card is written.
    The kind of map is chosen by log loss, cross-validated by patient. Raises ValueError where the split has no films,
    or is the test split: test films only measure; and PatientLeak for patients
    that the model was trained on, unless `allow_leak` (then card and reports say so).
    """
    if split == "test":
        raise ValueError("test films only measure; calibrate on 'val'")
    films = prepared if isinstance(prepared, Prepared) else open_prepared(prepared)
    rows = np.flatnonzero((films.index["split"] == split).to_numpy())
    if not len(rows):
        raise ValueError(f"{films.folder} has no films in the part {split!r}, so there is nothing to calibrate on")
    engine, predictors = load_runs(run, device, views=views)
    fitted_on = _fitted_on([predictor.model.card for predictor in predictors], films, rows, split, allow_leak)
    answers = engine.predict_arrays(films.images, rows, progress=progress)
    index = films.index.iloc[rows]
    calibration = fit_calibration(
        films.targets(rows, engine.findings).astype(np.float64),
        answers.fusion_NK.astype(np.float64),
        index["patient"].to_numpy(dtype=object),
        answers.labels,
        seed=seed,
    ).model_copy(update={"fitted_on": fitted_on})
    runs = all_runs(run)
    if len(runs) > 1 or views != "plain":
        average = Average(views=views, digest=weights_digest(runs), calibration=calibration)
        atomic(
            average_file(run, views), lambda path: path.write_text(average.model_dump_json(indent=1) + "\n", "utf-8")
        )
        return calibration
    folder = Path(run) / "model" if (Path(run) / "model").is_dir() else Path(run)
    if fitted_on.of_training:
        describe_features(folder, films, seed=seed, device=device, progress=progress)
    model = AGCNN.from_pretrained(folder)
    card = model.card or model.new_card(prepared_size=films.images.shape[1])
    model.save_pretrained(
        folder, card=card.model_copy(update={"calibration": calibration})
    )  # last: with it, all is there
    write_model_card(run)
    return calibration


def _fitted_on(
    cards: Sequence[Card | None], films: Prepared, rows: np.ndarray, split: str, allow_leak: bool
) -> FittedOn:
    """What is fitted on, as the card keeps it; what holds of every model of an average. Raises PatientLeak."""
    leak = check_each(cards, films, rows, split, allow=allow_leak, use="calibrate")
    of_training = {_trained_on(card, films) for card in cards}
    index = films.index.iloc[rows]
    return FittedOn(
        collection=films.plan.source.collection,
        split=split,
        films=len(rows),
        digest=films_digest(index["image_id"].astype(str), index["patient"].astype(str)),
        of_training=of_training.pop() if len(of_training) == 1 else None if None in of_training else False,
        shared_patients=leak.shared_patients,
        unchecked=leak.unchecked,
    )


def _trained_on(card: Card | None, films: Prepared) -> bool | None:
    """The patients of the train part are those the model was trained on, all of them and no others; None: the card does
    not name them."""
    if card is None or card.train_patients is None:
        return None
    rows, trained = np.flatnonzero((films.index["split"] == "train").to_numpy()), card.train_patients
    here = trained_on = 0
    for whose, patients in films.patients(rows):
        here += patients.nunique()
        trained_on += len(trained.known(patients, whose.collection, whose.fingerprint))
    return trained_on == here == sum(len(group.hashes) for group in trained.groups)


def calibrate_once(run: Path, prepared: str | Path) -> None:
    """`calibrate` a run that has just been trained; one that holds a calibration is left as it is."""
    if read_card(run / "model" / CARD_FILE).calibration is None:
        # A split by image shares patients: `prepare` warned of it, and the card says so.
        calibrate(run, prepared, allow_leak=True)
