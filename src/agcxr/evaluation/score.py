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

from agcxr.calibration import MIN_POSITIVES, POINTS, operating_points
from agcxr.evaluation.analysis import Points, Scores, analyse
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
    _check_level(level)
    how = shared_findings(Path(predictions), Path(labels), Reading(image_column, patient_column, logits))
    said, known = read_predictions(Path(predictions), how), read_labels(Path(labels), how)
    check_columns(how, said, known)
    found, branches, tables = match(said, known), said.branches, [said]
    if against is not None:
        other = read_predictions(Path(against), how)
        branches, found = _beside(said, other, found)
        tables = [said, other]
    findings, left_out = _common(branches, known.truth, how.findings)
    films = _joined(branches, how.findings.restricted(findings), said, known, found)
    points, chosen_on = _points(_listed(points_from), tables, known, how, films.scores)
    return Scored(
        predictions=str(predictions),
        against=None if against is None else str(against),
        labels_file=str(labels),
        films=len(films.scores.patient_N),
        findings=films.counted(),
        predictions_without_labels=len(said.images) - len(found.rows_M2),
        labels_without_predictions=len(known.images) - len(found.rows_M2),
        without_score=len(found.rows_M2) - len(films.scores.patient_N),
        left_out=left_out,
        not_scored=said.not_scored,
        not_read=_not_read([*tables, known], how),
        notes=known.notes,
        matched_by=found.by,
        patients_from=films.patients_from,
        points_from=chosen_on,
        analysis=analyse(films.scores, rng_seed=seed, resamples=resamples, level=level, points=points, unit=films.unit),
    )


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level:g}; expected a share between 0 and 1, such as 0.95")


def _not_read(tables: Sequence[Predictions | Labels], how: Reading) -> dict[str, tuple[str, ...]]:
    """The columns of each file that nothing was read from."""
    return {str(table.path): names for table in tables if (names := not_read(table, how))}


def _listed(files: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(files)] if isinstance(files, str | Path) else [Path(file) for file in files]


def _beside(said: Predictions, other: Predictions, found: Match) -> tuple[dict[str, pd.DataFrame], Match]:
    """The last branch of each table under its file's name, on the rows that both have; the first table comes last."""
    names = [other.path.stem, said.path.stem]
    if names[0] == names[1]:
        names = [str(other.path), str(said.path)]
    rows_M2 = match(said, other).rows_M2
    own, theirs = (list(one.branches.values())[-1] for one in (said, other))
    aligned = pd.DataFrame(np.nan, index=own.index, columns=theirs.columns)
    aligned.iloc[rows_M2[:, 0]] = theirs.to_numpy()[rows_M2[:, 1]]
    both = np.isin(found.rows_M2[:, 0], rows_M2[:, 0])
    return {names[0]: aligned, names[1]: own}, replace(found, rows_M2=found.rows_M2[both])


def _common(
    branches: Mapping[str, pd.DataFrame], truth: pd.DataFrame, asked: Findings
) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """The findings that every branch scores and that have labels; the others by why they are left out."""
    predicted = set.intersection(*(set(frame.columns) for frame in branches.values()))
    anywhere = set.union(*(set(frame.columns) for frame in branches.values()))
    findings = [label for label in asked.labels if label in predicted and label in truth.columns]
    if not set(findings) - {asked.none}:
        raise ValueError(
            f"no finding{f' but {asked.none}' if findings else ''} is on both sides: predicted are "
            f"{', '.join(sorted(anywhere))}, labelled {', '.join(truth.columns)}"
        )
    reasons = {
        "not predicted": set(truth.columns) - anywhere,
        "not predicted by all": set(truth.columns) & anywhere - predicted,
        "without labels": anywhere - set(truth.columns),
    }
    return findings, {
        why: tuple(one for one in asked.labels if one in those) for why, those in reasons.items() if those
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
    branches: Mapping[str, pd.DataFrame], findings: Findings, said: Predictions, known: Labels, found: Match
) -> _Films:
    row_M, truth_row_M = found.rows_M2.T
    target_MK = known.truth.reindex(columns=list(findings.labels)).to_numpy(np.float64)[truth_row_M]
    score_BMK = np.stack(
        [frame.reindex(columns=list(findings.labels)).to_numpy(np.float64)[row_M] for frame in branches.values()]
    )
    lacking_MK = np.isnan(score_BMK).any(axis=0)
    kept_M = ~lacking_MK.all(axis=1)
    if not kept_M.any():
        raise ValueError(
            f"{said.path}: no film with labels in {known.path} has a score"
            + " of every branch" * (len(branches) > 1)
            + "; fill the empty cells, or drop columns of other branches"
        )
    _check(score_BMK[~np.isnan(score_BMK)], said.path)
    patients_from, patient_M = whose(found, said, known)
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
    files: Sequence[Path], tables: Sequence[Predictions], known: Labels, how: Reading, scores: Scores
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
    for place, (file, said) in enumerate(zip(files, tables, strict=False)):
        # Beside another file each is one branch, its last, and the first file's comes last: see _beside.
        places = {-1 - place: list(said.branches)[-1]} if len(tables) > 1 else dict(enumerate(said.branches))
        apart, labels_file = _validation(file, said, tuple(places.values()), scores.findings, known, how)
        for b, branch in places.items():
            threshold_PBK[:, b] = _thresholds(apart.target_NK, apart.score_BNK[apart.branches.index(branch)])
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
    file: Path, said: Predictions, branches: tuple[str, ...], findings: Findings, known: Labels, how: Reading
) -> tuple[Scores, Path]:
    """The films of a file that points are chosen on, and where their labels stand: beside the scores, or in `known`."""
    films = read_predictions(file, how)
    if lacking := [branch for branch in branches if branch not in films.branches]:
        raise ValueError(
            f"{file} holds scores of {', '.join(films.branches)}, {said.path} also of {', '.join(lacking)}; "
            "points must be chosen on the scores that they are used for: write the same columns in both"
        )
    truth = own_labels(films, how) if films.labelled else known
    found = match(films, truth)
    same, why = _shared(films, said), "the same names and scores"
    if truth is known:  # then a film is the same where its labels are the same row, whatever its scores
        same, why = len(np.intersect1d(found.rows_M2[:, 1], match(said, known).rows_M2[:, 1])), "the same labels' rows"
    if same:
        raise ValueError(
            f"{same:,} films of {file} are films of {said.path} ({why}); thresholds chosen on the films they are "
            "measured on look too good: give validation films apart from these"
        )
    chosen = {branch: films.branches[branch] for branch in branches}
    return _joined(chosen, findings, films, truth, found).scores, truth.path


def _shared(one: Predictions, other: Predictions) -> int:
    """Films that have the same name and scores in both tables: other collections may use the same names. Scores are the
    same to ROUNDING, as one table may hold six digits (`predict`) and the other float32 (`evaluate`)."""
    try:
        rows_M2 = match(one, other).rows_M2
    except ValueError:
        return 0
    mine, theirs = (list(table.branches.values())[-1] for table in (one, other))
    findings = [finding for finding in mine if finding in theirs]
    if not findings:
        return 0
    mine_MK, theirs_MK = (
        table[findings].to_numpy()[row_M] for table, row_M in zip((mine, theirs), rows_M2.T, strict=True)
    )
    same_M = np.isclose(mine_MK, theirs_MK, rtol=0, atol=ROUNDING, equal_nan=True).all(axis=1)
    return int((same_M & ~np.isnan(mine_MK).all(axis=1)).sum())


def _thresholds(target_NK: Floats, score_NK: Floats) -> Floats:
    """P x K; NaN for findings with too few films to choose on."""
    threshold_PK = np.full((len(POINTS), target_NK.shape[1]), np.nan)
    for k, target in enumerate(target_NK.T):
        known = ~np.isnan(target)
        positives = int(target[known].sum())
        if min(positives, int(known.sum()) - positives) >= MIN_POSITIVES:
            found = operating_points(target[known], score_NK[known, k])
            threshold_PK[:, k] = [found[point].threshold if point in found else np.nan for point in POINTS]
    return threshold_PK
