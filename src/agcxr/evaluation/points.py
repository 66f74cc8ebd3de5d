"""Where the thresholds of the operating points come from: the checkpoint, and the validation films it was fitted on.

Shapes: N films, K labels, B branches, P operating points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agcxr.calibration import POINTS, Calibration, Scale, films_digest, thresholds
from agcxr.data.prepared import Prepared
from agcxr.evaluation.analysis import Points
from agcxr.findings import Findings
from agcxr.inference.engine import Engine
from agcxr.inference.prediction import BRANCHES
from agcxr.metrics import Floats

FUSION = BRANCHES.index("fusion")


@dataclass(frozen=True)
class ChosenPoints:
    """Thresholds, and the films that they were chosen on."""

    points: Points
    words: str
    """The films, to go behind "were chosen on"."""
    here: bool
    """They are the evaluated films, so the points look better there than they are."""


def choose_points(engine: Engine, films: Prepared, split: str, *, batch_size: int) -> ChosenPoints:
    """Thresholds of every branch for `split`, and on which films they were chosen.

    The checkpoint holds those of the fusion, which are in use and so are measured wherever they were fitted. The other
    branches get theirs by the same rule where the prepared folder holds the same validation films and these are not the
    evaluated ones, so that branches compare; elsewhere they have none.
    """
    labels, calibration, findings = engine.labels, engine.own, engine.findings
    rows = np.flatnonzero((films.index["split"] == "val").to_numpy() & (split != "val"))
    target_NK = films.targets(rows, findings).astype(np.float64)
    if calibration is None and not len(rows):
        nothing = Points.none(len(BRANCHES), len(labels))
        return ChosenPoints(nothing, "nowhere: there are no validation films apart from this split", here=False)
    if calibration is not None and not (
        _same_films(calibration, films, rows, findings) and _same_labels(calibration, target_NK, labels)
    ):
        threshold = np.full((len(POINTS), len(BRANCHES), len(labels)), np.nan)
        points = Points(tuple(POINTS), _kept(threshold, calibration, labels), _positives(calibration, labels))
        here = _same_films(calibration, films, np.flatnonzero((films.index["split"] == split).to_numpy()), findings)
        return ChosenPoints(
            points, f"{'these very films: ' * here}{calibration.words}, and are kept in the checkpoint", here
        )
    answers = engine.predict_arrays(films.images, rows, batch_size=batch_size)
    score_BNK = np.stack([answers.global_NK, answers.local_NK, answers.fusion_NK]).astype(np.float64)
    threshold = np.stack([thresholds(target_NK, score_NK) for score_NK in score_BNK], axis=1)
    words = f"the {len(rows):,} validation films"
    if calibration is not None:
        threshold = _kept(threshold, calibration, labels)
        words = f"{calibration.words}, and those of the fusion are kept in the checkpoint"
    return ChosenPoints(Points(tuple(POINTS), threshold, (target_NK == 1).sum(axis=0)), words, here=False)


def _same_films(calibration: Calibration, films: Prepared, rows: np.ndarray, findings: Findings) -> bool:
    """The calibration was fitted on these rows. A checkpoint that does not say is taken by its counts."""
    index, fitted_on = films.index.iloc[rows], calibration.fitted_on
    if fitted_on is None:
        target_NK = films.targets(rows, findings).astype(np.float64)
        return len(rows) > 0 and _same_labels(calibration, target_NK, findings.labels)
    digest = films_digest(index["image_id"].astype(str), index["patient"].astype(str))
    return fitted_on.same(digest, films.plan.source.collection)


def _same_labels(calibration: Calibration, target_NK: Floats, labels: tuple[str, ...]) -> bool:
    """As many films and positives of every label as the calibration was fitted on: another set would hardly agree."""
    for k, label in enumerate(labels):
        fitted, target = calibration.findings.get(label), target_NK[:, k]
        counts = (int((~np.isnan(target)).sum()), int((target == 1).sum()))
        if counts != ((fitted.films, fitted.positives) if fitted else (0, 0)):
            return False
    return True


def _kept(threshold_PBK: Floats, calibration: Calibration, labels: tuple[str, ...]) -> Floats:
    """The thresholds with those of the fusion as the checkpoint has them."""
    for p, point in enumerate(POINTS):
        threshold_PBK[p, FUSION] = Scale.of(calibration, labels, point).cut.score_K
    return threshold_PBK


def _positives(calibration: Calibration, labels: tuple[str, ...]) -> Floats:
    fitted = [calibration.findings.get(label) for label in labels]
    return np.array([finding.positives if finding else 0 for finding in fitted], dtype=np.float64)
