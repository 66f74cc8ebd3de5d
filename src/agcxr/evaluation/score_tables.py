"""Tables of any program -> scores, labels and patients, image by image.

Columns are found by what they are called, in any spelling that is known of a finding, with or without a prefix
("prob_Edema", "fusion_Edema", "Lung Mass") or a usual suffix ("Edema_score"). Images are found by the ends of their
names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import expit

from agcxr.data.label_cells import (
    LISTS,
    NIH_LIST,
    PREFIXES,
    letters,
    own_findings,
    read_statements,
    unmangled,
    what_lists_hold,
)
from agcxr.data.nih import BROKEN_TABLE, MORE_CELLS, at_hand, delimited
from agcxr.data.patients import PATIENT_COLUMNS, read_patients
from agcxr.data.radiograph import without_suffix
from agcxr.findings import CHESTXRAY14, Findings

IMAGE_COLUMNS = ("image", "imageid", "imageindex", "imagename", "filename", "file", "path", "imagepath", "img", "name")
FACTS = (
    *("boxx0", "boxy0", "boxx1", "boxy1", "width", "height", "fallback", "intake", "intakereason", "error", "picture"),
    *("viewshare", "plateau", "fhir", "dicom", "dicomreason", "place", "row"),
    *("age", "sex", "gender", "view", "split", "followup"),
    *("patientage", "patientgender", "patientsex", "viewposition", "originalimagewidth", "originalimage", "y"),
    *("originalimagewidthheight", "originalimagepixelspacingx", "originalimagepixelspacing", "unnamed11"),
)
"""Columns that agcxr and the NIH write beside scores and labels, as letters and digits."""
CALLS = "call"
"""Prefix of the 0 and 1 that `agcxr predict` writes: no scores."""
CALIBRATED = "calibrated"
"""Prefix of what `agcxr predict` makes of the scores."""
SUFFIXES = ("prob", "proba", "probability", "pred", "prediction", "score", "logit")
LABELLED = (NIH_LIST, "label", "labels")
"""Columns of class names that stand beside scores."""
UNNAMED = "without a prefix"
PLAIN = "scored"
"""The branch of a table that has only one."""
ORDER = {"global": 0, "local": 1, "fusion": 3}
"""The last branch is compared with the others; branches of other names stand between."""
EMPTY = ("", "nan", "none", "na", "<na>")
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+(e[+-]?\d+)?", re.I)
PATIENT_FOLDER = re.compile(r"(?:^|/)(patient\d+|p\d{8})(?=/)")
"""How CheXpert and MIMIC-CXR name a patient's folder."""

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Reading:
    """How tables are read: what columns are called where they are not found by themselves; scores are logits."""

    image_column: str | None = None
    patient_column: str | None = None
    logits: bool = False
    findings: Findings = CHESTXRAY14


@dataclass(frozen=True)
class Predictions:
    """Scores by branch: frames with a column a finding, a row an image."""

    path: Path
    table: pd.DataFrame
    """As it was read."""
    images: pd.Series
    patients: pd.Series | None
    branches: Mapping[str, pd.DataFrame]
    not_scored: tuple[str, ...]
    """Kinds of columns that hold nothing but 0 and 1 beside others with probabilities."""
    findings: Findings = CHESTXRAY14
    """That were looked for."""

    @property
    def labelled(self) -> bool:
        """The table holds labels too."""
        names = [str(name) for name in self.table.columns]
        prefixes = {parts[0] for name in names if (parts := split_column(name, self.findings))}
        return (
            any(letters(name) in LABELLED for name in names)
            or not prefixes.isdisjoint(PREFIXES)
            or UNNAMED in self.not_scored
        )


@dataclass(frozen=True)
class Labels:
    """What is known of the images: 0, 1 or NaN (unknown), a column a finding."""

    path: Path
    table: pd.DataFrame
    """As it was read."""
    images: pd.Series
    patients: pd.Series | None
    truth: pd.DataFrame
    used: tuple[str, ...] = ()
    """The columns that labels were read from."""
    notes: tuple[str, ...] = ()
    """What was odd in them, for people."""


def shared_findings(predictions: Path, labels: Path, how: Reading) -> Reading:
    """`how` with the findings to score: the fifteen, unless the labels state others that the predictions name too; then
    those that both have."""
    text = _read(labels).apply(_text)
    facts, wanted = (*IMAGE_COLUMNS, *PATIENT_COLUMNS, *FACTS), (how.image_column, how.patient_column)
    kept = [
        name
        for name in map(str, text)
        if letters(name) not in facts and name not in wanted and not name.lower().startswith(f"{CALLS}_")
    ]
    own = own_findings(text[kept], labels) if kept else None
    if own is None or own.is_default:
        return how
    named = {parts[1] for column in _read(predictions) if (parts := split_column(str(column), own))}
    shared = [label for label in own.labels if label in named]
    return how if all(map(CHESTXRAY14.canonical, shared)) else replace(how, findings=own.restricted(shared))


def read_predictions(path: Path, how: Reading) -> Predictions:
    """The scores of a table (.csv, .csv.gz, .parquet). ValueError says what is missing or wrong."""
    table = _read(path)
    columns = _score_columns(table, path, how.findings)
    if not {"prob", "fusion"}.isdisjoint(columns):
        columns.pop(CALIBRATED, None)  # the same order, and no values for findings that could not be calibrated
    binary = [
        prefix for prefix, branch in columns.items() if all(v.dropna().isin([0, 1]).all() for v in branch.values())
    ]
    not_scored = (
        tuple(f"{prefix}_..." if prefix else UNNAMED for prefix in binary) if len(binary) < len(columns) else ()
    )
    if not_scored:
        columns = {prefix: branch for prefix, branch in columns.items() if prefix not in binary}
    branches = _branches(columns, how.logits)
    return Predictions(path, table, *_whose_images(table, path, how), branches, not_scored, how.findings)


def _branches(columns: Mapping[str, Mapping[str, pd.Series]], logits: bool) -> dict[str, pd.DataFrame]:
    """Frames by the branch's name, in the order in which they are shown."""
    # As `agcxr predict` writes it: prob_ is the fusion, beside global_ and local_.
    names = {"prob": "fusion", "": PLAIN} if len(columns) > 1 else dict.fromkeys(columns, PLAIN)
    named = {names.get(prefix, prefix): pd.DataFrame(branch) for prefix, branch in columns.items()}
    order = sorted(named, key=lambda name: (ORDER.get(name, 2), name))
    return {name: named[name].apply(expit) if logits else named[name] for name in order}


def read_labels(path: Path, how: Reading) -> Labels:
    """The labels of a table (.csv, .csv.gz, .parquet). ValueError says what is missing or wrong."""
    return _labels(_read(path), path, how)


def own_labels(predictions: Predictions, how: Reading) -> Labels:
    """The labels that stand beside the scores."""
    return _labels(predictions.table, predictions.path, how)


def check_columns(how: Reading, *tables: Labels | Predictions) -> None:
    """ValueError where a column was asked for and no table has it: a slip of the pen must not go unnoticed."""
    names = {str(name) for table in tables for name in table.table.columns}
    for column, flag in ((how.image_column, "--image-column"), (how.patient_column, "--patient-column")):
        if column is not None and column not in names:
            files = " and ".join(str(table.path) for table in tables)
            raise ValueError(f"{flag} is {column!r}, but {files} have no such column; they have {_some(sorted(names))}")


# --- files ------------------------------------------------------------------------------------------------------------


def _read(path: Path) -> pd.DataFrame:
    """As text, so that names and patient numbers stay as they are written."""
    if not (path := at_hand(path)).is_file():
        raise ValueError(f"there is no file {path}; expected a .csv, .csv.gz or .parquet table")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        table = delimited(path)
    except pd.errors.ParserWarning as error:
        raise ValueError(f"{path} {MORE_CELLS}") from error
    except (ValueError, *BROKEN_TABLE) as error:
        raise ValueError(f"{path} cannot be read as a table ({error}); save it as .csv (UTF-8) or .parquet") from error
    if not len(table):
        raise ValueError(f"{path} has a header and no rows")
    return table.rename(columns=lambda name: str(name).strip())


def _text(cells: pd.Series) -> pd.Series:
    """As written, without spaces around; "" for a cell that a Parquet file has as missing."""
    return cells.astype(object).where(cells.notna(), "").astype(str).str.strip()


def _some(names: Sequence[object]) -> str:
    """The first of many names."""
    return ", ".join(map(str, names[:12])) + ", ..." * (len(names) > 12)


def _column(table: pd.DataFrame, names: Sequence[str], wanted: str | None) -> pd.Series | None:
    if wanted is not None and wanted in table.columns:
        return _text(table[wanted])
    for name in names:
        for column in table.columns:
            if letters(column) == name:
                return _text(table[column])
    return None


def _whose_images(table: pd.DataFrame, path: Path, how: Reading) -> tuple[pd.Series, pd.Series | None]:
    images = _column(table, IMAGE_COLUMNS, how.image_column)
    if images is None:
        raise ValueError(
            f"{path} has no image column among {_some(list(table.columns))}; name one `image`, or pass --image-column"
        )
    return images, _column(table, PATIENT_COLUMNS, how.patient_column)


# --- columns ----------------------------------------------------------------------------------------------------------


def split_column(column: str, findings: Findings = CHESTXRAY14) -> tuple[str, str] | None:
    """(prefix, finding) of a column such as "prob_Edema", ("", finding) of "Edema"; None if it is no finding's."""
    finding = findings.canonical(column)
    if finding:
        return "", finding
    for at, letter in enumerate(column):
        if letter in "_-.: /" and (finding := findings.canonical(column[at + 1 :])):
            return column[:at].strip().lower(), finding
    for at, letter in enumerate(column):
        last = column[at + 1 :].strip().lower()
        if letter in "_-.: /" and last in SUFFIXES and (finding := findings.canonical(column[:at])):
            return last, finding
    return None


def _score_columns(table: pd.DataFrame, path: Path, findings: Findings) -> dict[str, dict[str, pd.Series]]:
    """Prefix -> finding -> scores, without columns that are empty."""
    columns: dict[str, dict[str, pd.Series]] = {}
    for column in table.columns:
        parts = split_column(unmangled(str(column), table.columns), findings)
        if parts is None or parts[0] in (*PREFIXES, CALLS):
            continue
        branch = columns.setdefault(parts[0], {})
        if parts[1] in branch:
            raise ValueError(f"{path} has two columns for {parts[1]} (the second is {column!r}); keep one of them")
        branch[parts[1]] = _numbers(table[column], path, str(column))
    if not columns:
        raise ValueError(
            f"{path} has no column named after a finding; it has {_some(list(table.columns))}; "
            f"expected some of {', '.join(findings.labels)}, with or without a prefix such as prob_"
        )
    filled = {prefix: {n: v for n, v in branch.items() if v.notna().any()} for prefix, branch in columns.items()}
    columns = {prefix: branch for prefix, branch in filled.items() if branch}
    if not columns:
        raise ValueError(f"every column of a finding in {path} is empty: there is nothing to score")
    return columns


def _numbers(cells: pd.Series, path: Path, column: str) -> pd.Series:
    """0.258, .258, 0,258 and 25.8 % are numbers; an empty cell is NaN."""
    text = _text(cells)
    empty = text.str.lower().isin(EMPTY)
    percent = text.str.endswith("%")
    bare = text.mask(percent, text.str.rstrip("% "))
    bare = bare.mask(bare.str.fullmatch(DECIMAL_COMMA), bare.str.replace(",", "."))
    numbers = pd.to_numeric(bare.mask(empty), errors="coerce")
    numbers = numbers.mask(percent, numbers / 100)
    odd = text[numbers.isna() & ~empty]
    if len(odd):
        raise ValueError(f"{path}, column {column!r}: {odd.iloc[0]!r} is not a number ({len(odd)} such cells)")
    return numbers.astype(np.float64)


def _labels(table: pd.DataFrame, path: Path, how: Reading) -> Labels:
    text = table.apply(_text)
    stated = read_statements(text, path, findings=how.findings)
    if stated is None:
        raise ValueError(
            f"{path} has no labels: neither a column `Finding Labels` or `label` of class names, nor one named after a "
            f"finding; it has {_some(list(table.columns))}{what_lists_hold(text)}"
        )
    images, patients = _whose_images(table, path, how)
    odd = () if patients is None else read_patients(patients, otherwise=images)[1]
    return Labels(path, table, images, patients, stated.labels, stated.used, stated.notes + odd)


def not_read(table: Predictions | Labels, how: Reading) -> tuple[str, ...]:
    """Columns of a table that are neither image, patient, score nor label, but for those that agcxr and the NIH write
    beside them."""
    wanted = (how.image_column, how.patient_column)
    expected = (*IMAGE_COLUMNS, *PATIENT_COLUMNS, *FACTS)
    names = [str(name) for name in table.table.columns]
    used = table.used if isinstance(table, Labels) else tuple(name for name in names if letters(name) in LISTS)
    return tuple(
        name
        for name in names
        if not (name in used or name in wanted or letters(name) in expected or split_column(name, how.findings))
        and name.strip()
    )


# --- images -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """The same images in two tables."""

    by: str
    """What of their names is the same, in words."""
    rows_M2: Rows


def match(left: Predictions | Labels, right: Predictions | Labels) -> Match:
    """The same images by the ends of their paths, without the extensions of films.

    So many parts (the name and folders over it) are compared as find the most images, as long as they tell the images
    of each table apart. So "valid/patient1/study1/view1_frontal.jpg" is found in "CheXpert-v1.0-small/valid/patient1/
    ...", and "00000013_005.dcm" is "images/00000013_005.png". ValueError where nothing is found, or an image has two
    rows.
    """
    sides = [_parts(table.images) for table in (left, right)]
    best, rows_M2 = "", np.empty((0, 2), np.intp)
    deepest = max(len(parts) for side in sides for parts in side)
    for count in range(deepest, 0, -1):
        keys = [["/".join(parts[-count:]) for parts in side] for side in sides]
        row_of = [{key: row for row, key in enumerate(side)} for side in keys]
        for side, rows, side_table in zip(keys, row_of, (left, right), strict=True):
            if len(rows) < len(side) and not len(rows_M2):
                raise ValueError(_ambiguous(side, side_table, whole=count == deepest))
        if any(len(rows) < len(side) for side, rows in zip(keys, row_of, strict=True)):
            break  # and fewer parts tell them apart even less
        same = [(row, row_of[1][key]) for row, key in enumerate(keys[0]) if key in row_of[1]]
        if len(same) > len(rows_M2):
            best = "file name" if count == 1 else f"the last {count} parts of their paths"
            rows_M2 = np.array(same, np.intp)
        if len(rows_M2) == min(map(len, sides)):
            break
    if not len(rows_M2):
        raise ValueError(
            f"no image of {left.path} is in {right.path} (e.g. {left.images.iloc[0]!r} and {right.images.iloc[0]!r}); "
            "their names must be the same but for the extension and the folders before"
        )
    return Match(best, rows_M2)


def _parts(images: pd.Series) -> list[list[str]]:
    return [[part for part in without_suffix(name).split("/") if part not in ("", ".")] for name in images]


def _ambiguous(keys: list[str], table: Predictions | Labels, *, whole: bool) -> str:
    doubled = next(key for key, times in Counter(keys).items() if times > 1)
    more = f"({len(keys) - len(set(keys))} rows too many in all)"
    if whole:
        return f"{table.path}: image {doubled!r} occurs more than once {more}; keep one row an image"
    return (
        f"no path of the two tables is the same, and {doubled!r} alone stands for several images of {table.path} "
        f"{more}; write the same folders before the names in both, or keep one row an image"
    )


def whose(pairs: Match, predictions: Predictions, labels: Labels) -> tuple[str | None, npt.NDArray[np.object_]]:
    """Where the patients stand, in words (None: nowhere), and the patient of every matched film.

    The labels' column comes first, then the predictions', then folders such as patient64541 in either's paths. A film
    without a patient is its own.
    """
    film_M = _names(labels, pairs.rows_M2[:, 1])
    places = ((labels, pairs.rows_M2[:, 1]), (predictions, pairs.rows_M2[:, 0]))
    for table, row_M in places:
        if table.patients is not None:
            patient_M, _ = read_patients(
                table.patients.iloc[row_M].reset_index(drop=True), pd.Series(film_M, dtype=str)
            )
            return str(table.path), patient_M.to_numpy(object)
    for table, row_M in places:
        folder_M = [PATIENT_FOLDER.search(name) for name in _names(table, row_M)]
        if first := next((folder[1] for folder in folder_M if folder), None):
            named = [folder[1] if folder else film for folder, film in zip(folder_M, film_M, strict=True)]
            return f"the paths in {table.path}, such as {first}", np.array(named, dtype=object)
    return None, film_M


def _names(table: Predictions | Labels, row_M: Rows) -> npt.NDArray[np.object_]:
    return np.array([without_suffix(name) for name in table.images.to_numpy(object)[row_M]], dtype=object)
