"""Where the thresholds of the operating points come from: the checkpoint, and the validation films it was fitted on.

Shapes: N films, K labels, B branches, P operating points.
"""

from __future__ import annotations

import numpy as np

from agcxr.calibration import MIN_POSITIVES, POINTS, Calibration, Scale, operating_points
from agcxr.data.prepared import Prepared
from agcxr.evaluation.analysis import Points
from agcxr.inference.prediction import BRANCHES
from agcxr.inference.predictor import Predictor
from agcxr.metrics import Floats

FUSION = BRANCHES.index("fusion")


def choose_points(predictor: Predictor, films: Prepared, split: str, *, batch_size: int) -> tuple[Points, str]:
    """Thresholds of every branch, never chosen on the evaluated split, and on what they were chosen, in words.

    The checkpoint holds those of the fusion, which are in use. The other branches get theirs by the same rule where the
    prepared folder holds the same validation films, so that branches compare; elsewhere they have none.
    """
    labels, card = predictor.labels, predictor.model.card
    calibration = card.calibration if card else None
    rows = np.flatnonzero((films.index["split"] == "val").to_numpy() & (split != "val"))
    target_NK = films.index.iloc[rows][list(labels)].to_numpy(np.float64)
    kept = "the validation films of its training (kept in the checkpoint)"
    if calibration is not None and not (len(rows) and _fitted_on(calibration, target_NK, labels)):
        threshold = np.full((len(POINTS), len(BRANCHES), len(labels)), np.nan)
        return Points(tuple(POINTS), _kept(threshold, calibration, labels), _positives(calibration, labels)), kept
    if not len(rows):
        nothing = np.zeros((0, len(BRANCHES), len(labels)))
        return Points((), nothing), "nowhere: there are no validation films apart from this split"
    answers = predictor.predict_arrays(films.images, rows, batch_size=batch_size)
    score_BNK = np.stack([answers.global_NK, answers.local_NK, answers.fusion_NK]).astype(np.float64)
    threshold, words = _chosen(target_NK, score_BNK), f"the {len(rows):,} validation films"
    if calibration is not None:
        threshold, words = _kept(threshold, calibration, labels), f"{words} (those of the fusion in its training)"
    return Points(tuple(POINTS), threshold, (target_NK == 1).sum(axis=0)), words


def _fitted_on(calibration: Calibration, target_NK: Floats, labels: tuple[str, ...]) -> bool:
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
    found = [calibration.findings.get(label) for label in labels]
    return np.array([one.positives if one else 0 for one in found], dtype=np.float64)


def _chosen(target_NK: Floats, score_BNK: Floats) -> Floats:
    """By the rule of the checkpoint's own: for findings with enough films of both classes."""
    threshold = np.full((len(POINTS), len(score_BNK), target_NK.shape[1]), np.nan)
    for b, score_NK in enumerate(score_BNK):
        for k, target in enumerate(target_NK.T):
            known = ~np.isnan(target)
            if min((target == 1).sum(), (target == 0).sum()) >= MIN_POSITIVES:
                found = operating_points(target[known], score_NK[known, k])
                threshold[:, b, k] = [found[point].threshold if point in found else np.nan for point in POINTS]
    return threshold
