"""Score probabilities that any program made: a table of predictions beside a table of labels.

Columns are found by what they are called, in any spelling `labels.canonical` knows, with or without a prefix
("prob_Edema", "fusion_Edema", "Lung Mass") or a usual suffix ("Edema_score"). What is on one side only is left out and
named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pandas as pd
from scipy.special import expit

from agcxr.evaluation.analysis import Scores, analyse
from agcxr.evaluation.results import Analysis, Frozen
from agcxr.evaluation.tables import interval, number, text_table
from agcxr.labels import LABELS, NO_FINDING, canonical

IMAGE_COLUMNS = ("image", "imageid", "imageindex", "imagename", "filename", "file", "path", "imagepath", "img", "name")
PATIENT_COLUMNS = ("patient", "patientid", "subjectid", "subject")
LABEL_LISTS = ("findinglabels",)
TRUTH_PREFIXES = ("label", "target", "true", "truth", "gt", "y")
CALLS = "call"
"""Prefix of the 0 and 1 that `agcxr predict` writes: no scores."""
CALIBRATED = "calibrated"
"""Prefix of what `agcxr predict` makes of the scores."""
SUFFIXES = ("prob", "proba", "probability", "pred", "prediction", "score", "logit")
PLAIN = "scored"
ORDER = {"global": 0, "local": 1, "fusion": 3}
"""The last branch is compared with the others; branches of other names stand between."""


class Scored(Frozen):
    """What `score` found."""

    predictions: str
    against: str | None
    labels_file: str
    films: int
    """Films with a prediction and labels; what was scored."""
    predictions_without_labels: int
    labels_without_predictions: int
    without_score: int
    """Predictions with an empty cell (files their program could not read); left out."""
    left_out: tuple[str, ...]
    """Findings on one side only, with the side; a column without a single score is none."""
    not_scored: tuple[str, ...] = ()
    """Kinds of columns that hold nothing but 0 and 1 beside others with probabilities: labels or calls."""
    matched_by: Literal["path", "file name", "stem"]
    patients_from: str | None
    """The file whose patient column was used; None: every film counts as its own patient."""
    analysis: Analysis

    def __str__(self) -> str:
        lines = [text_table(self.analysis)]
        for branch in self.analysis.mean.branches:
            said = f"Mean over findings, {branch.branch}: average precision {interval(branch.average_precision)}"
            lines.append(f"{said}, Brier score {interval(branch.brier)}, ECE {number(branch.ece)}.")
        lines.append(f"{self.films:,} films, matched by {self.matched_by}.")
        if self.predictions_without_labels or self.labels_without_predictions:
            lines.append(
                f"Not scored: {self.predictions_without_labels:,} predictions without labels, "
                f"{self.labels_without_predictions:,} labelled films without prediction."
            )
        if self.without_score:
            several = "s" * (self.without_score > 1)
            lines.append(f"{self.without_score:,} prediction{several} with an empty cell left out.")
        if self.not_scored:
            lines.append(
                f"Not scored, for they hold only 0 and 1 (labels or calls): columns {', '.join(self.not_scored)}."
            )
        if self.left_out:
            lines.append(f"Findings left out: {'; '.join(self.left_out)}.")
        if self.patients_from is None:
            lines.append("No patient column was found: every film was taken as its own patient.")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Predictions:
    """Scores by branch: frames with columns named by finding, rows by image name."""

    images: pd.Series
    patients: pd.Series | None
    branches: Mapping[str, pd.DataFrame]
    not_scored: tuple[str, ...]


def score(
    predictions: str | Path,
    labels: str | Path,
    *,
    against: str | Path | None = None,
    image_column: str | None = None,
    patient_column: str | None = None,
    logits: bool = False,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Scored:
    """The same measures as `evaluate`, for predictions in a file (.csv, .csv.gz or .parquet).

    Args:
        predictions: an image column, and a column per finding with probabilities in [0, 1]. Columns of several prefixes
            (global_, local_, prob_) are scored side by side, the fusion compared with the others.
        labels: an image column, and "Finding Labels" as the NIH writes it or a column per finding (empty, -1: unknown).
        against: other predictions of the same films, compared on the films that both have. Of several prefixes in a
            file only the last (the fusion) takes part.
        image_column, patient_column: what they are called, where they are not found by themselves.
        logits: the scores are logits; the sigmoid is applied.

    Raises:
        ValueError: a column, a match, or probabilities are missing or not as above; it says which and what to do.
    """
    said = _read_predictions(Path(predictions), image_column, patient_column, logits)
    truth_frame = _read(Path(labels))
    truth = _truth(truth_frame, Path(labels))
    labelled = _image_names(truth_frame, Path(labels), image_column)
    branches = dict(said.branches)
    by, joined = _match(said.images, labelled, (Path(predictions), Path(labels)))
    if against is not None:
        other = _read_predictions(Path(against), image_column, patient_column, logits)
        branches, joined = _beside(said, other, Path(predictions), Path(against), joined)
    findings, left_out = _common(branches, truth)
    rows, truth_rows = joined[:, 0], joined[:, 1]
    in_labels = _column(truth_frame, PATIENT_COLUMNS, patient_column)
    patients_from, patient_N = _whose((predictions, said.patients, rows), (labels, in_labels, truth_rows))
    target_NK = truth[findings].to_numpy(np.float64)[truth_rows]
    score_BNK = np.stack([frame[findings].to_numpy(np.float64)[rows] for frame in branches.values()])
    scores = _complete(Scores(tuple(findings), tuple(branches), target_NK, score_BNK, patient_N), Path(predictions))
    unit: Literal["patient", "film"] = "patient" if patients_from else "film"
    return Scored(
        predictions=str(predictions),
        against=None if against is None else str(against),
        labels_file=str(labels),
        films=len(scores.patient_N),
        predictions_without_labels=len(said.images) - len(set(rows)),
        labels_without_predictions=len(truth) - len(set(truth_rows)),
        without_score=len(rows) - len(scores.patient_N),
        left_out=left_out,
        not_scored=said.not_scored,
        matched_by=by,
        patients_from=patients_from,
        analysis=analyse(scores, rng_seed=seed, resamples=resamples, level=level, unit=unit),
    )


def _whose(*tables: tuple[str | Path, pd.Series | None, np.ndarray]) -> tuple[str | None, np.ndarray]:
    """The last table that knows the patients, and the patient of every film; else each film by itself.

    `tables`: file, its column of patients, the row of every film in it.
    """
    source, patient_N = None, tables[-1][2].astype(str)
    for path, column, rows in tables:
        if column is not None:
            source, patient_N = str(path), column.to_numpy(str)[rows]
    return source, patient_N


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; expected a .csv, .csv.gz or .parquet table")
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    try:
        # As text, so that names and patient numbers stay as they are written.
        frame = pd.read_csv(path, dtype=str, index_col=False, keep_default_na=False)
        if len(frame.columns) == 1 and (marks := [m for m in ";\t" if m in str(frame.columns[0])]):
            frame = pd.read_csv(path, dtype=str, index_col=False, keep_default_na=False, sep=marks[0])
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as CSV ({error}); save the table as .csv or .parquet") from error
    return frame.rename(columns=lambda name: str(name).strip())


def _key(column: str) -> str:
    return "".join(letter for letter in str(column).lower() if letter.isalnum())


def _column(frame: pd.DataFrame, names: Sequence[str], asked: str | None) -> pd.Series | None:
    if asked is not None and asked in frame.columns:
        return frame[asked].astype(str)
    for name in names:
        for column in frame.columns:
            if _key(column) == name:
                return frame[column].astype(str)
    return None


def _image_names(frame: pd.DataFrame, path: Path, asked: str | None) -> pd.Series:
    found = _column(frame, IMAGE_COLUMNS, asked)
    if found is None:
        raise ValueError(
            f"{path} has no image column among {', '.join(map(str, frame.columns[:12]))}; "
            "name one `image`, or pass --image-column"
        )
    return found


def split_column(column: str) -> tuple[str, str] | None:
    """(prefix, finding) of a column such as "prob_Edema", ("", finding) of "Edema"; None if it is no finding's."""
    finding = canonical(column)
    if finding:
        return "", finding
    for at, letter in enumerate(column):
        if letter in "_-.: /" and (finding := canonical(column[at + 1 :])):
            return column[:at].strip().lower(), finding
    for at, letter in enumerate(column):
        last = column[at + 1 :].strip().lower()
        if letter in "_-.: /" and last in SUFFIXES and (finding := canonical(column[:at])):
            return last, finding
    return None


def _read_predictions(path: Path, image_column: str | None, patient_column: str | None, logits: bool) -> _Predictions:
    frame = _read(path)
    columns: dict[str, dict[str, pd.Series]] = {}
    for column in frame.columns:
        parts = split_column(str(column))
        if parts is None or parts[0] in (*TRUTH_PREFIXES, CALLS):
            continue
        branch = columns.setdefault(parts[0], {})
        if parts[1] in branch:
            raise ValueError(f"{path} has two columns for {parts[1]} (the second is {column!r}); keep one of them")
        branch[parts[1]] = _numbers(frame[column], path, str(column))
    if not columns:
        raise ValueError(
            f"{path} has no column named after a finding; it has {', '.join(map(str, frame.columns[:12]))}; "
            f"expected some of {', '.join(LABELS)}, with or without a prefix such as prob_"
        )
    filled = {p: {n: v for n, v in branch.items() if v.notna().any()} for p, branch in columns.items()}
    columns = {p: branch for p, branch in filled.items() if branch}
    if not columns:
        raise ValueError(f"every column of a finding in {path} is empty: there is nothing to score")
    if "prob" in columns:
        columns.pop(CALIBRATED, None)  # the same order, and no values for findings that could not be calibrated
    binary = [
        p for p, branch in columns.items() if all(values.dropna().isin([0, 1]).all() for values in branch.values())
    ]
    not_scored = tuple(f"{p}_..." if p else "without a prefix" for p in binary) if len(binary) < len(columns) else ()
    if not_scored:
        columns = {p: branch for p, branch in columns.items() if p not in binary}
    # As `agcxr predict` writes it: prob_ is the fusion, beside global_ and local_.
    several = len(columns) > 1
    named = {("fusion" if p == "prob" and several else p) or PLAIN: pd.DataFrame(c) for p, c in columns.items()}
    if not several:
        named = {PLAIN: next(iter(named.values()))}
    order = sorted(named, key=lambda name: (ORDER.get(name, 2), name))
    branches = {name: named[name].apply(expit) if logits else named[name] for name in order}
    images = _image_names(frame, path, image_column)
    patients = _column(frame, PATIENT_COLUMNS, patient_column)
    return _Predictions(images, patients, branches, not_scored)


def _numbers(values: pd.Series, path: Path, column: str) -> pd.Series:
    text = values.astype(str).str.strip()
    empty = text.str.lower().isin(["", "nan", "none", "na"])
    percent = text.str.endswith("%")
    text = text.mask(percent, text.str.rstrip("% "))
    numbers = pd.to_numeric(text.mask(empty), errors="coerce")
    numbers = numbers.mask(percent, numbers / 100)
    odd = text[numbers.isna() & ~empty]
    if len(odd):
        raise ValueError(f"{path}, column {column!r}: {odd.iloc[0]!r} is not a number ({len(odd)} such cells)")
    return numbers.astype(np.float64)


def _truth(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """A column per finding: 0, 1 or NaN."""
    for column in frame.columns:
        if _key(column) in LABEL_LISTS:
            return _from_lists(frame[column].astype(str), path)
    found: dict[str, pd.Series] = {}
    for column in frame.columns:
        parts = split_column(str(column))
        if parts and parts[0] in ("", *TRUTH_PREFIXES) and parts[1] not in found:
            values = _numbers(frame[column], path, str(column))
            values = values.mask(values == -1)
            if odd := sorted(set(values.dropna()) - {0.0, 1.0}):
                raise ValueError(
                    f"{path}, column {column!r}: labels must be 0, 1, or empty or -1 for unknown, found {odd[0]:g}"
                )
            found[parts[1]] = values
    if not found:
        raise ValueError(
            f"{path} has no labels: neither a column `Finding Labels` nor one named after a finding; "
            f"it has {', '.join(map(str, frame.columns[:12]))}"
        )
    return pd.DataFrame(found)


def _from_lists(listed: pd.Series, path: Path) -> pd.DataFrame:
    rows = [[canonical(part) or part for part in text.split("|") if part.strip()] for text in listed]
    if odd := sorted({name for row in rows for name in row} - set(LABELS)):
        raise ValueError(f"{path}: unknown finding {odd[0]!r} in the labels; expected some of {', '.join(LABELS)}")
    return pd.DataFrame({label: [float(label in row) for row in rows] for label in LABELS})


def _match(
    left: pd.Series, right: pd.Series, files: tuple[Path, Path]
) -> tuple[Literal["path", "file name", "stem"], np.ndarray]:
    """Row numbers (left, right) of the same image: by the whole name, the file name or its stem, whichever of them
    tells images apart and finds most."""
    keys: tuple[tuple[Literal["path", "file name", "stem"], Callable[[str], str]], ...] = (
        ("path", str),
        ("file name", lambda text: PurePosixPath(text.replace("\\", "/")).name),
        ("stem", lambda text: PurePosixPath(text.replace("\\", "/")).name.split(".")[0]),
    )
    best: tuple[Literal["path", "file name", "stem"], np.ndarray] | None = None
    twice: tuple[int, str, int] | None = None
    for name, key in keys:
        sides = [side.astype(str).map(key).reset_index(drop=True) for side in (left, right)]
        doubled = [side[side.duplicated()] for side in sides]
        if any(len(side) for side in doubled):
            at = 0 if len(doubled[0]) else 1
            twice = twice or (at, str(doubled[at].iloc[0]), len(doubled[at]))
            continue
        frames = [
            pd.DataFrame({"key": side, column: np.arange(len(side))}) for side, column in zip(sides, "ab", strict=True)
        ]
        rows = frames[0].merge(frames[1], on="key")[["a", "b"]].to_numpy()
        if len(rows) and (best is None or len(rows) > len(best[1])):
            best = name, rows
    if best is None:
        if twice:
            at, doubled_name, rows_more = twice
            raise ValueError(
                f"{files[at]}: image {doubled_name!r} occurs more than once ({rows_more} rows too many in all); "
                "keep one row an image"
            )
        raise ValueError(
            f"no image of {files[0]} and {files[1]} could be matched by path, file name or stem "
            f"(e.g. {left.iloc[0]!r} and {right.iloc[0]!r})"
        )
    return best


def _beside(
    said: _Predictions, other: _Predictions, path: Path, other_path: Path, joined: np.ndarray
) -> tuple[dict[str, pd.DataFrame], np.ndarray]:
    """The last branch of each file under its file's name, on the rows that both have; the first file comes last."""
    names = [other_path.stem, path.stem]
    if names[0] == names[1]:
        names = [str(other_path), str(path)]
    _, rows = _match(said.images, other.images, (path, other_path))
    own = list(said.branches.values())[-1]
    theirs = list(other.branches.values())[-1]
    aligned = pd.DataFrame(np.nan, index=own.index, columns=theirs.columns)
    aligned.iloc[rows[:, 0]] = theirs.to_numpy()[rows[:, 1]]
    return {names[0]: aligned, names[1]: own}, joined[np.isin(joined[:, 0], rows[:, 0])]


def _common(branches: Mapping[str, pd.DataFrame], truth: pd.DataFrame) -> tuple[list[str], tuple[str, ...]]:
    predicted = set.intersection(*(set(frame.columns) for frame in branches.values()))
    anywhere = set.union(*(set(frame.columns) for frame in branches.values()))
    findings = [label for label in LABELS if label in predicted and label in truth.columns]
    if not set(findings) - {NO_FINDING}:
        raise ValueError(
            f"no finding is on both sides: predicted are {', '.join(sorted(anywhere))}, "
            f"labelled {', '.join(truth.columns)}"
        )
    left_out = []
    for label in LABELS:
        if label in findings or (label not in anywhere and label not in truth.columns):
            continue
        if label not in truth.columns:
            left_out.append(f"{label} (no labels)")
        else:
            left_out.append(f"{label} ({'not predicted by all' if label in anywhere else 'not predicted'})")
    return findings, tuple(left_out)


def _complete(scores: Scores, path: Path) -> Scores:
    """The films that have every score, once the scores are seen to be probabilities."""
    kept = scores.subset(np.asarray(np.isfinite(scores.score_BNK).all(axis=(0, 2))))
    score_BNK = kept.score_BNK
    if not len(kept.patient_N):
        raise ValueError(f"{path}: no labelled film has a score for every finding; fill or drop the empty columns")
    if score_BNK.size and (score_BNK.min() < 0 or score_BNK.max() > 1):
        raise ValueError(
            f"{path}: scores run from {score_BNK.min():g} to {score_BNK.max():g}; expected probabilities in [0, 1]; "
            + (
                "if they are percentages, divide them by 100; "
                if score_BNK.min() >= 0 and score_BNK.max() <= 100
                else ""
            )
            + "if they are logits, pass --logits"
        )
    return kept
