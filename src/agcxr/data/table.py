"""Any CSV with an image column -> rows: own collections, and public ones that come as one table and its images."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from agcxr.data import nih
from agcxr.data.label_cells import LISTS, Statements, Uncertain, letters, own_findings, read_statements, what_lists_hold
from agcxr.data.patients import PATIENT_COLUMNS, is_blank, read_ages, read_patients, read_sexes
from agcxr.data.prepare import prepare, source_of
from agcxr.data.prepared import Prepared
from agcxr.data.sources import find_files
from agcxr.data.splits import Rule
from agcxr.data.storing import USUAL, Storing
from agcxr.findings import CHESTXRAY14, Findings


def read_table(
    path: str | Path,
    image_column: str,
    *,
    label_columns: Sequence[str] | None = None,
    patient_column: str | None = None,
    age_column: str | None = None,
    sex_column: str | None = None,
    view_column: str | None = None,
    findings: Findings | Literal["own", "nih"] | None = None,
    uncertain: Uncertain = "ignore",
) -> nih.Table:
    """CSV (or .csv.gz) -> rows (`nih.row_columns` of its findings) and notes.

    label_columns: columns of 0 / 1 values, or one of class names ("Mass|Edema"); default: all that state findings.
    findings: a set, "nih" (the fifteen of ChestX-ray14) or the table's "own"; default: the fifteen where the table
    states no other, else its own. Other columns are left out and named. A finding that no column states, blank or
    (unless `uncertain` says else) uncertain (-1) are unknown (NaN). Without a patient column each film is its own
    patient, which a note says. Raises ValueError.
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
    facts = {name for name in (image_column, patient_column, age_column, sex_column, view_column) if name}
    kept = [name for name in table.columns if name not in facts or name in (label_columns or ())]
    if not isinstance(findings, Findings):
        own = own_findings(table[kept], path, label_columns, always=findings == "own")
        findings = CHESTXRAY14 if findings == "nih" else own
    stated = findings and read_statements(table[kept], path, label_columns, findings, uncertain)
    if not findings or not stated:
        names = ", ".join(label_columns or table.columns)
        wanted = f"one of {', '.join(findings.labels)}" if findings else "a column of 1, 0, -1 or blank"
        raise ValueError(
            f"{path}: none of {names} is {wanted}, and none is a column of class names, "
            f"as `label` or `Finding Labels` are{what_lists_hold(table[list(label_columns or kept)])}"
        )
    frame = pd.DataFrame({"image_id": images})
    frame["patient"], notes = _patients(table, images, patient_column)
    frame["follow_up"] = pd.array([pd.NA] * len(frame), dtype="Int64")
    labels = stated.labels.reindex(columns=list(findings.labels)).astype(np.float32)
    frame = pd.concat([frame, labels], axis=1)
    blank = pd.Series("", index=table.index, dtype=str)
    frame["age"], odd_ages = read_ages(table[age_column] if age_column else blank)
    frame["sex"], odd_sexes = read_sexes(table[sex_column] if sex_column else blank)
    frame["view"], odd_views = nih.read_views(table[view_column] if view_column else blank)
    notes = _left_out(table, {*facts, *stated.used}, label_columns, findings) + _unstated(stated) + stated.notes + notes
    return nih.Table(frame[list(nih.row_columns(findings))], notes + odd_ages + odd_sexes + odd_views, findings)


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
    findings: Findings | Literal["own", "nih"] | None = None,
    uncertain: Uncertain = "ignore",
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
        findings=findings,
        uncertain=uncertain,
    )
    if split == "official":
        raise ValueError("only the NIH collection has an official split; expected split patient or image")
    files = find_files(images)
    source = source_of("table", files, [table], rows.notes)
    return prepare(rows.frame, None, files, out, source=source, findings=rows.findings, split=split, storing=storing)


def _patients(table: pd.DataFrame, images: pd.Series, column: str | None) -> tuple[pd.Series, tuple[str, ...]]:
    if column is None:
        note = "no patient column: each film counts as a patient of its own, so leaks between parts go unseen"
        likely = next((name for name in table.columns if letters(name) in PATIENT_COLUMNS), None)
        return images, (note if likely is None else f"{note}. {likely!r} may name them: --patient-column {likely!r}",)
    patients, notes = read_patients(table[column], otherwise=images)
    nameless = int(table[column].map(is_blank).sum())
    return patients, notes + ((f"{nameless} films without a patient count as patients of their own",) * bool(nameless))


def _left_out(
    table: pd.DataFrame, read: Collection[str | None], chosen: Sequence[str] | None, findings: Findings
) -> tuple[str, ...]:
    """Notes that name the columns nothing was read from."""
    unread = [name for name in table.columns if name not in read]
    ours = [name for name in unread if findings.canonical(name) or letters(name) in LISTS]
    others = [name for name in unread if name not in ours]
    why = "not chosen as label columns" if chosen is not None else "as the labels stand elsewhere"
    kind = "not findings of ours" if findings == CHESTXRAY14 else "not findings"
    notes = (f"columns left out, {kind}: {', '.join(others)}",) if others else ()
    return notes + ((f"columns left out, {why}: {', '.join(ours)}",) if ours else ())


def _unstated(stated: Statements) -> tuple[str, ...]:
    unused = [label for label in stated.findings.names if label not in stated.labels]
    return (f"findings the table does not state: {', '.join(unused)}",) if unused else ()
