"""Any CSV with an image column -> rows: own collections, and public ones that come as one table and its images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from agcxr.data import nih
from agcxr.data.prepare import prepare, source_of
from agcxr.data.prepared import Prepared
from agcxr.data.sources import find_files
from agcxr.data.splits import Rule
from agcxr.data.storing import USUAL, Storing
from agcxr.labels import LABELS, NO_FINDING, canonical

VALUES: dict[str, float] = {
    **dict.fromkeys(("1", "1.0", "true", "yes", "positive", "present"), 1.0),
    **dict.fromkeys(("0", "0.0", "false", "no", "negative", "absent"), 0.0),
    **dict.fromkeys(("", "-1", "-1.0", "nan", "na", "n/a", "none", "uncertain", "unknown"), float("nan")),
}
"""How a cell of a label column is read (any case): positive, negative, and blank or uncertain = unknown."""


def read_table(
    path: str | Path,
    image_column: str,
    *,
    label_columns: Sequence[str] | None = None,
    patient_column: str | None = None,
    age_column: str | None = None,
    sex_column: str | None = None,
    view_column: str | None = None,
) -> nih.Table:
    """CSV (or .csv.gz) -> rows (nih.ROW_COLUMNS) and notes.

    label_columns: columns of 0 / 1 values; default: every column whose name is one of our findings, however written.
    Columns given that are none of ours are left out and named. A finding without a column, blank or uncertain (-1)
    are unknown (NaN). Without a patient column each film is its own patient, which a note says. Raises ValueError.
    """
    path = Path(path)
    table = nih.read_strings(path)
    given = [image_column, *(label_columns or ()), patient_column, age_column, sex_column, view_column]
    absent = [name for name in given if name is not None and name not in table]
    if absent:
        raise ValueError(f"{path} has no column {', '.join(map(repr, absent))}; it has {', '.join(table.columns)}")
    images = table[image_column]
    if (images == "").any() or images.duplicated().any():
        odd = images[(images == "") | images.duplicated()]
        raise ValueError(f"{path}: {len(odd)} rows have no image or one listed before, first {odd.iloc[0]!r}")
    patients = table[patient_column or image_column]
    frame = pd.DataFrame({"image_id": images, "patient": patients.where(patients != "", images)})
    frame["follow_up"] = pd.array([pd.NA] * len(frame), dtype="Int64")
    labels, notes = _labels(table, label_columns, path)
    frame[list(LABELS)] = labels
    age, odd_ages = nih.read_ages(table[age_column] if age_column else images.map(lambda _: ""))
    frame["age"] = age
    frame["sex"] = table[sex_column].str.upper().str[:1] if sex_column else ""
    frame["sex"] = frame["sex"].where(frame["sex"].isin(["M", "F"]), "")
    frame["view"] = table[view_column].map(nih.view) if view_column else ""
    if patient_column is None:
        notes += ("no patient column: each film counts as a patient of its own, so leaks between parts go unseen",)
    elif (nameless := int((patients == "").sum())) > 0:
        notes += (f"{nameless} films without a patient count as patients of their own",)
    return nih.Table(frame[list(nih.ROW_COLUMNS)], notes + odd_ages)


def prepare_table(
    table: str | Path,
    images: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    image_column: str,
    label_columns: Sequence[str] | None = None,
    patient_column: str | None = None,
    age_column: str | None = None,
    sex_column: str | None = None,
    view_column: str | None = None,
    split: Rule = "patient",
    storing: Storing = USUAL,
) -> Prepared:
    """Prepare any table and its images; see `read_table` and `prepare`. The image column may name folders too."""
    rows = read_table(
        table,
        image_column,
        label_columns=label_columns,
        patient_column=patient_column,
        age_column=age_column,
        sex_column=sex_column,
        view_column=view_column,
    )
    if split == "official":
        raise ValueError("only the NIH collection has an official split; expected split patient or image")
    files = find_files(images)
    source = source_of("table", files, [table], rows.notes)
    return prepare(rows.frame, None, files, out, source=source, split=split, storing=storing)


def _labels(table: pd.DataFrame, chosen: Sequence[str] | None, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    columns = [name for name in table.columns if canonical(name)] if chosen is None else list(chosen)
    left_out = [name for name in columns if canonical(name) is None]
    labels = np.full((len(table), len(LABELS)), np.nan, np.float32)
    used: dict[str, str] = {}
    for name in columns:
        label = canonical(name)
        if label is None:
            continue
        if label in used:
            raise ValueError(
                f"{path}: the columns {used[label]!r} and {name!r} both mean {label}; choose label_columns"
            )
        used[label] = name
        cells = table[name].str.lower()
        unknown = sorted(set(cells) - set(VALUES))
        if unknown:
            raise ValueError(f"{path}, column {name!r}: {unknown[0]!r} is not a label; expected 0, 1, -1 or blank")
        labels[:, LABELS.index(label)] = cells.map(VALUES)
    if not used:
        raise ValueError(f"{path}: none of {', '.join(columns or table.columns)} is one of {', '.join(LABELS)}")
    unused = [label for label in LABELS if label not in used and label != NO_FINDING]
    notes = (f"columns left out, not findings of ours: {', '.join(left_out)}",) if left_out else ()
    return labels, notes + ((f"findings the table does not state: {', '.join(unused)}",) if unused else ())
