"""Score probabilities that any program made: a table of predictions beside a table of labels.

What is on one side only is left out and named; a cell without a score leaves its film out of its finding alone.

Shapes: M films on both sides, K findings, B branches, P operating points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from agcxr.calibration import POINTS, thresholds
from agcxr.evaluation.analysis import Evaluation, Points, Scores
from agcxr.evaluation.score_results import ChosenOn, Counted, Scored
from agcxr.evaluation.score_tables import (
    Labels,
    Match,
    Predictions,
    Reading,
    check_columns,
    match,
    not_read,
    own_labels,
    read_labels,
    read_predictions,
    shared_findings,
    whose,
)
from agcxr.findings import Findings
from agcxr.metrics import Floats
from agcxr.uncertainty import RESAMPLES

ROUNDING = 2e-6
"""Scores no farther apart are the same one, written in two ways."""


def score(
    predictions: str | Path,
    labels: str | Path,
    *,
    against: str | Path | None = None,
    points_from: str | Path | Sequence[str | Path] = (),
    image_column: str | None = None,
    patient_column: str | None = None,
    logits: bool = False,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Scored:
    """The same measures as `evaluate`, for predictions in a file (.csv, .csv.gz or .parquet).

    Args:
        predictions: an image column, and a column per finding with probabilities in [0, 1]. Columns of several prefixes
            (global_, local_, prob_) are scored side by side, the fusion compared with the others.
        labels: an image column, and one of class names ("Finding Labels") or one per finding; see `read_statements`.
        against: other predictions of the same films, compared on the films that both have. Of several prefixes in a
            file only the last (the fusion) takes part.
        points_from: predictions of validation films in the same columns, on which operating points are chosen; a second
            file for `against`. Their labels stand beside them, or in `labels`.
        image_column, patient_column: what they are called, where they are not found by themselves.
        logits: the scores are logits; the sigmoid is applied.

    Raises:
        ValueError: a column, a match, or probabilities are missing or not as above; it says which and what to do.
    """
    how = shared_findings(Path(predictions), Path(labels), Reading(image_column, patient_column, logits))
    scores_read, labels_read = read_predictions(Path(predictions), how), read_labels(Path(labels), how)
    check_columns(how, scores_read, labels_read)
    pairs, branches, tables = match(scores_read, labels_read), scores_read.branches, [scores_read]
    if against is not None:
        other = read_predictions(Path(against), how)
        branches, pairs = _beside(scores_read, other, pairs)
        tables = [scores_read, other]
    findings, left_out = _common(branches, labels_read.truth, how.findings)
    films = _joined(branches, how.findings.restricted(findings), scores_read, labels_read, pairs)
    points, chosen_on = _points(_listed(points_from), tables, labels_read, how, films.scores)
    how_sure = {"rng_seed": seed, "resamples": resamples, "level": level, "unit": films.unit}
    return Scored(
        predictions=str(predictions),
        against=None if against is None else str(against),
        labels_file=str(labels),
        films=len(films.scores.patient_N),
        findings=films.counted(),
        predictions_without_labels=len(scores_read.images) - len(pairs.rows_M2),
        labels_without_predictions=len(labels_read.images) - len(pairs.rows_M2),
        without_score=len(pairs.rows_M2) - len(films.scores.patient_N),
        left_out=left_out,
        not_scored=scores_read.not_scored,
        not_read=_not_read([*tables, labels_read], how),
        notes=labels_read.notes,
        matched_by=pairs.by,
        patients_from=films.patients_from,
        points_from=chosen_on,
        analysis=Evaluation.of(films.scores, points=points, **how_sure).analysis,
    )


def _not_read(tables: Sequence[Predictions | Labels], how: Reading) -> dict[str, tuple[str, ...]]:
    """The columns of each file that nothing was read from."""
    return {str(table.path): names for table in tables if (names := not_read(table, how))}


def _listed(files: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(files)] if isinstance(files, str | Path) else [Path(file) for file in files]


def _beside(predictions: Predictions, other: Predictions, pairs: Match) -> tuple[dict[str, pd.DataFrame], Match]:
    """The last branch of each table under its file's name, on the rows that both have; the first table comes last."""
    names = [other.path.stem, predictions.path.stem]
    if names[0] == names[1]:
        names = [str(other.path), str(predictions.path)]
    rows_M2 = match(predictions, other).rows_M2
    own, other_scores = (list(table.branches.values())[-1] for table in (predictions, other))
    aligned = pd.DataFrame(np.nan, index=own.index, columns=other_scores.columns)
    aligned.iloc[rows_M2[:, 0]] = other_scores.to_numpy()[rows_M2[:, 1]]
    both = np.isin(pairs.rows_M2[:, 0], rows_M2[:, 0])
    return {names[0]: aligned, names[1]: own}, replace(pairs, rows_M2=pairs.rows_M2[both])


def _common(
    branches: Mapping[str, pd.DataFrame], truth: pd.DataFrame, wanted: Findings
) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """The findings that every branch scores and that have labels; the others by why they are left out."""
    predicted = set.intersection(*(set(frame.columns) for frame in branches.values()))
    anywhere = set.union(*(set(frame.columns) for frame in branches.values()))
    findings = [label for label in wanted.labels if label in predicted and label in truth.columns]
    if not set(findings) - {wanted.none}:
        raise ValueError(
            f"no finding{f' but {wanted.none}' if findings else ''} is on both sides: predicted are "
            f"{', '.join(sorted(anywhere))}, labelled {', '.join(truth.columns)}"
        )
    reasons = {
        "not predicted": set(truth.columns) - anywhere,
        "not predicted by all": set(truth.columns) & anywhere - predicted,
        "without labels": anywhere - set(truth.columns),
    }
    return findings, {
        why: tuple(label for label in wanted.labels if label in those) for why, those in reasons.items() if those
    }


@dataclass(frozen=True)
class _Films:
    """The films of two tables that have at least one score."""

    scores: Scores
    """Targets are NaN where a branch has no score, too."""
    lacking_MK: npt.NDArray[np.bool_]
    """Some branch has no score."""
    patients_from: str | None

    @property
    def unit(self) -> Literal["patient", "film"]:
        """What intervals are drawn over."""
        return "patient" if self.patients_from else "film"

    def counted(self) -> tuple[Counted, ...]:
        """What the films are to each finding."""
        known_MK = ~np.isnan(self.scores.target_NK)
        return tuple(
            Counted(
                finding=finding,
                films=int(known_MK[:, k].sum()),
                without_score=int(self.lacking_MK[:, k].sum()),
                unknown=int((~known_MK & ~self.lacking_MK)[:, k].sum()),
            )
            for k, finding in enumerate(self.scores.labels)
        )


def _joined(
    branches: Mapping[str, pd.DataFrame], findings: Findings, predictions: Predictions, labels: Labels, pairs: Match
) -> _Films:
    row_M, truth_row_M = pairs.rows_M2.T
    target_MK = labels.truth.reindex(columns=list(findings.labels)).to_numpy(np.float64)[truth_row_M]
    score_BMK = np.stack(
        [frame.reindex(columns=list(findings.labels)).to_numpy(np.float64)[row_M] for frame in branches.values()]
    )
    lacking_MK = np.isnan(score_BMK).any(axis=0)
    kept_M = ~lacking_MK.all(axis=1)
    if not kept_M.any():
        raise ValueError(
            f"{predictions.path}: no film with labels in {labels.path} has a score"
            + " of every branch" * (len(branches) > 1)
            + "; fill the empty cells, or drop columns of other branches"
        )
    _check(score_BMK[~np.isnan(score_BMK)], predictions.path)
    patients_from, patient_M = whose(pairs, predictions, labels)
    target_MK = np.where(lacking_MK, np.nan, target_MK)
    scores = Scores(findings.labels, tuple(branches), target_MK, np.nan_to_num(score_BMK), patient_M, findings)
    return _Films(scores.subset(kept_M), lacking_MK[kept_M], patients_from)


def _check(score: Floats, path: Path) -> None:
    low, high = score.min(), score.max()
    if low < 0 or high > 1:
        raise ValueError(
            f"{path}: scores run from {low:g} to {high:g}; expected probabilities in [0, 1]; "
            + ("if they are percentages, divide them by 100; " if low >= 0 and high <= 100 else "")
            + "if they are logits, pass --logits"
        )


# --- operating points -------------------------------------------------------------------------------------------------


def _points(
    files: Sequence[Path], tables: Sequence[Predictions], labels: Labels, how: Reading, scores: Scores
) -> tuple[Points | None, tuple[ChosenOn, ...]]:
    """Thresholds chosen on the films of each file for the table it belongs to; branches without a file have none."""
    if not files:
        return None, ()
    if len(files) > len(tables):
        raise ValueError(
            f"--points-from names {len(files)} files, but predictions come from {len(tables)}; expected one of "
            "validation films for the predictions, and where --against is given a second one for those"
        )
    threshold_PBK = np.full((len(POINTS), len(scores.branches), len(scores.labels)), np.nan)
    positives_K, chosen_on = np.zeros(len(scores.labels)), []
    for place, (file, predictions) in enumerate(zip(files, tables, strict=False)):
        # Beside another file each is one branch, its last, and the first file's comes last: see _beside.
        places = (
            {-1 - place: list(predictions.branches)[-1]} if len(tables) > 1 else dict(enumerate(predictions.branches))
        )
        apart, labels_file = _validation(file, predictions, tuple(places.values()), scores.findings, labels, how)
        for b, branch in places.items():
            threshold_PBK[:, b] = thresholds(apart.target_NK, apart.score_BNK[apart.branches.index(branch)])
        if place == 0:
            positives_K = (apart.target_NK == 1).sum(axis=0)
        chosen_on.append(
            ChosenOn(
                file=str(file),
                labels_file=str(labels_file),
                branches=tuple(scores.branches[b] for b in places),
                films=len(apart.patient_N),
                patients_shared=len(np.intersect1d(apart.patient_N.astype(str), scores.patient_N.astype(str))),
            )
        )
    return Points(tuple(POINTS), threshold_PBK, positives_K), tuple(chosen_on)


def _validation(
    file: Path, predictions: Predictions, branches: tuple[str, ...], findings: Findings, labels: Labels, how: Reading
) -> tuple[Scores, Path]:
    """The films of a file that points are chosen on, and where their labels stand: beside the scores, or in `known`."""
    films = read_predictions(file, how)
    if lacking := [branch for branch in branches if branch not in films.branches]:
        raise ValueError(
            f"{file} holds scores of {', '.join(films.branches)}, {predictions.path} also of {', '.join(lacking)}; "
            "points must be chosen on the scores that they are used for: write the same columns in both"
        )
    truth = own_labels(films, how) if films.labelled else labels
    pairs = match(films, truth)
    same, why = _shared(films, predictions), "the same names and scores"
    if truth is labels:  # then a film is the same where its labels are the same row, whatever its scores
        same, why = (
            len(np.intersect1d(pairs.rows_M2[:, 1], match(predictions, labels).rows_M2[:, 1])),
            "the same labels' rows",
        )
    if same:
        raise ValueError(
            f"{same:,} films of {file} are films of {predictions.path} ({why}); thresholds chosen on the films they "
            "are measured on look too good: give validation films apart from these"
        )
    chosen = {branch: films.branches[branch] for branch in branches}
    return _joined(chosen, findings, films, truth, pairs).scores, truth.path


def _shared(predictions: Predictions, other: Predictions) -> int:
    """Films that have the same name and scores in both tables: other collections may use the same names. Scores are the
    same to ROUNDING, as one table may hold six digits (`predict`) and the other float32 (`evaluate`)."""
    try:
        rows_M2 = match(predictions, other).rows_M2
    except ValueError:
        return 0
    own_scores, other_scores = (list(table.branches.values())[-1] for table in (predictions, other))
    findings = [finding for finding in own_scores if finding in other_scores]
    if not findings:
        return 0
    mine_MK, theirs_MK = (
        table[findings].to_numpy()[row_M] for table, row_M in zip((own_scores, other_scores), rows_M2.T, strict=True)
    )
    same_M = np.isclose(mine_MK, theirs_MK, rtol=0, atol=ROUNDING, equal_nan=True).all(axis=1)
    return int((same_M & ~np.isnan(mine_MK).all(axis=1)).sum())
