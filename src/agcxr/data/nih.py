"""The official files of NIH ChestX-ray14 -> rows (one row an image), boxes and lists.

Read as the NIH gives them: headers with commas inside brackets, no newline at the end, both versions of the labels
(2017 and v2020). The columns of rows are stated in ROW_COLUMNS; other sources make the same ones.
"""

import csv
import gzip
import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, TextIO

import numpy as np
import pandas as pd

from agcxr.data.label_cells import class_names, silent_films
from agcxr.data.patients import is_blank, patient_id, read_ages, read_patients, read_sexes, unread
from agcxr.data.phantom import COLLECTION
from agcxr.data.radiograph import stem
from agcxr.findings import CHESTXRAY14, Findings
from agcxr.labels import LABELS, NO_FINDING


def row_columns(findings: Findings) -> tuple[str, ...]:
    """Columns of the rows that any source makes, with a column a label of its findings."""
    return ("image_id", "patient", "follow_up", *findings.labels, "age", "sex", "view")


ROW_COLUMNS = row_columns(CHESTXRAY14)
"""image_id (as in the table), patient: str; follow_up: Int64; labels: float32 0/1, NaN = unknown; age: float years;
sex "M", "F" or ""; view "PA", "AP", "LATERAL" or ""."""

BOX_COLUMNS: tuple[str, ...] = ("image_id", "finding", "x0", "y0", "x1", "y1")
"""Corners as fractions of the image's width and height, exclusive end."""

BOX_FRAME = 1024
"""BBox_List_2017.csv is in pixels of the 1024 x 1024 films."""

LISTS = ("train_val_list.txt", "test_list.txt")

NEEDED = ("Image Index", "Finding Labels")
"""Columns without which a label table is none."""

BROKEN_TABLE = (
    OSError,
    EOFError,
    UnicodeError,
    csv.Error,
    zlib.error,
    zipfile.BadZipFile,
    pd.errors.ParserError,
    pd.errors.EmptyDataError,
)


@dataclass(frozen=True)
class Table:
    """frame: rows (`row_columns` of the findings) or boxes (BOX_COLUMNS); notes: what was odd, with counts, for
    people."""

    frame: pd.DataFrame
    notes: tuple[str, ...] = ()
    findings: Findings = CHESTXRAY14


def read_entries(path: str | Path) -> Table:
    """Data_Entry_2017.csv or Data_Entry_2017_v2020.csv, plain or .gz -> rows.

    Needs the columns "Image Index" and "Finding Labels"; the others may be missing. Without "Patient ID" the patient is
    the file name's part before "_". Raises ValueError that names the file it was given instead.
    """
    path = Path(path)
    names = {_key(name): place for place, name in enumerate(first_row(path))}
    if absent := [name for name in NEEDED if _key(name) not in names]:
        raise ValueError(f"{path} is not the NIH label table (Data_Entry_2017*.csv): {_lacks(path, absent)}")
    try:
        # By position: brackets with commas make the header's last names meaningless, and 2017 has an empty column more.
        with _opened(path) as file:
            table = pd.read_csv(file, sep=_separator(path), header=None, skiprows=1, dtype=str, keep_default_na=False)
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{path} has a header and no rows") from error
    except BROKEN_TABLE as error:
        raise ValueError(f"{path} cannot be read: {_why(error)}") from error

    def column(name: str) -> pd.Series:
        at = names.get(name)
        return table[at].str.strip() if at is not None and at in table else pd.Series("", index=table.index, dtype=str)

    images = column("image index")
    _check_ids(images, path)
    stated = column("patient id")
    patients, notes = read_patients(stated, otherwise=images[stated.map(is_blank)].map(_patient_of))
    if "patient id" not in names:
        notes += ("no column 'Patient ID': patients are taken from the file names, the part before _",)
    frame = pd.DataFrame({"image_id": images, "patient": patients})
    frame["follow_up"] = pd.to_numeric(column("follow-up #"), errors="coerce").astype("Int64")
    frame[list(LABELS)] = label_matrix(column("finding labels"), path)
    notes += silent_films(int(frame[NO_FINDING].isna().sum()))
    frame["age"], odd_ages = read_ages(column("patient age"))
    sex = column("patient gender").where(column("patient gender") != "", column("patient sex"))
    frame["sex"], odd_sexes = read_sexes(sex)
    frame["view"], odd_views = read_views(column("view position"))
    return Table(frame[list(ROW_COLUMNS)], notes + odd_ages + odd_sexes + odd_views)


def read_boxes(path: str | Path) -> Table:
    """BBox_List_2017.csv -> boxes. Edges that stand outside the film are moved onto it and counted."""
    path = Path(path)
    names = [_key(name) for name in first_row(path)]
    if names[:2] != ["image index", "finding label"]:
        raise ValueError(f"{path} is not the NIH box list (BBox_List_2017.csv): {looks_like(path)}")
    records = []
    for line, row in enumerate(_csv_rows(path)[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        finding = CHESTXRAY14.canonical(row[1]) if len(row) >= 6 else None
        try:
            x, y, width, height = (float(cell) for cell in row[2:6])
        except ValueError as error:
            raise ValueError(f"{path}, line {line}: expected image, finding, x, y, w, h; got {row}") from error
        if finding is None or not (np.isfinite([x, y]).all() and 0 < width < np.inf and 0 < height < np.inf):
            raise ValueError(f"{path}, line {line}: not a box of a known finding: {row}")
        records.append((row[0].strip(), finding, x, y, x + width, y + height))
    frame = pd.DataFrame(records, columns=list(BOX_COLUMNS))
    corners = frame[["x0", "y0", "x1", "y1"]].to_numpy(float) / BOX_FRAME
    frame[["x0", "y0", "x1", "y1"]] = corners.clip(0, 1)
    outside = int(((corners < 0) | (corners > 1)).any(axis=1).sum())
    notes = (f"{outside} boxes reached beyond the film and were cut at its edge",) if outside else ()
    return Table(frame, notes)


def read_list(path: str | Path) -> tuple[str, ...]:
    """train_val_list.txt or test_list.txt -> image names, in order."""
    path = Path(path)
    try:
        names = tuple(line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip())
    except BROKEN_TABLE as error:
        raise ValueError(f"{path} cannot be read: {_why(error)}") from error
    if not names or any("," in name or not re.search(r"\.\w+$", name) for name in names[:100]):
        raise ValueError(f"{path} is not an image list (one file name a line): {looks_like(path)}")
    return names


def find_lists(folder: str | Path) -> tuple[Path, Path] | None:
    """(train_val_list.txt, test_list.txt) of a folder, or None where one of them is absent."""
    train_val, test = (Path(folder) / name for name in LISTS)
    return (train_val, test) if train_val.is_file() and test.is_file() else None


def label_matrix(findings: pd.Series, path: str | Path) -> np.ndarray:
    """ "Effusion|Mass" strings -> N x 15 float32; an empty one is all unknown (NaN). ValueError for unknown names."""
    distinct = {text: place for place, text in enumerate(dict.fromkeys(findings))}
    vectors = np.zeros((len(distinct), len(LABELS)), np.float32)
    for text, place in distinct.items():
        names = class_names(text)
        if not names:
            vectors[place] = np.nan
        elif not set(names) <= set(LABELS):
            raise ValueError(f"{path}: unknown finding in {text!r}; expected names of {', '.join(LABELS)}, joined by |")
        elif NO_FINDING in names and len(names) > 1:
            raise ValueError(f"{path}: {text!r} says {NO_FINDING!r} beside a finding")
        else:
            vectors[place, [LABELS.index(name) for name in names]] = 1
    return vectors[findings.map(distinct).to_numpy(int)] if len(findings) else np.empty((0, len(LABELS)), np.float32)


def view(text: object) -> str:
    """View position however written -> "PA", "AP", "LATERAL" or ""."""
    key = str(text).strip().upper()
    if key in ("PA", "AP"):
        return key
    return "LATERAL" if key in ("LATERAL", "LAT", "LL", "RL", "L") else ""


def read_views(text: pd.Series) -> tuple[pd.Series, tuple[str, ...]]:
    """Cells -> "PA", "AP", "LATERAL" or "" where none is stated; a note of what could not be read."""
    views = text.map(view)
    return views, unread(text[(views == "") & ~text.map(is_blank)], "views")


def first_row(path: Path) -> list[str]:
    """First row of a CSV, plain or gzip. ValueError where there is none."""
    rows = _csv_rows(path, 1)
    if not rows:
        raise ValueError(f"{path} is empty")
    return rows[0]


def read_strings(path: str | Path) -> pd.DataFrame:
    """A CSV with a header (plain, gzip or zip) as strings, "" where a cell is empty. ValueError says what is wrong."""
    try:
        table = delimited(Path(path))
    except pd.errors.ParserWarning as error:
        raise ValueError(f"{path} {MORE_CELLS}") from error
    except BROKEN_TABLE as error:
        raise ValueError(f"{path} cannot be read as a table: {_why(error)}") from error
    if not len(table):
        raise ValueError(f"{path} has a header and no rows")
    table.columns = table.columns.str.strip()
    return table.apply(lambda column: column.str.strip())


MORE_CELLS = (
    "has rows with more cells than its header has names. Are decimals written with a comma (0,258)? Then put "
    "semicolons between the cells. Else name every column, and end no line with a separator"
)
"""What a ParserWarning of `delimited` means, for people."""


def delimited(path: Path) -> pd.DataFrame:
    """Cells of a CSV as strings, "" where empty, whichever separator it has. Raises BROKEN_TABLE, and a ParserWarning
    for rows that are longer than the header."""
    with _opened(path) as file, warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            # Without index_col=False a row with one cell more than the header would move every name by a column.
            return pd.read_csv(file, sep=_separator(path), dtype=str, index_col=False, keep_default_na=False)
        except pd.errors.ParserError as error:
            if "Expected" in str(error):  # two cells more than the header
                raise pd.errors.ParserWarning(str(error)) from error
            raise


def at_hand(path: str | Path) -> Path:
    """The table of this name; where it is not there, the one beside it that only gzip's suffix tells from it."""
    path = Path(path)
    other = path.with_suffix("") if path.suffix == ".gz" else path.with_name(f"{path.name}.gz")
    return other if not path.exists() and other.is_file() else path


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The text of a table `at_hand`, unpacked while it is read: gzip and zip by their first bytes."""
    with ExitStack() as stack:
        file: Any = stack.enter_context(at_hand(path).open("rb"))
        start = file.peek(4)
        if start[:2] == b"\x1f\x8b":
            file = stack.enter_context(gzip.open(file))
        elif start[:4] == b"PK\x03\x04" or path.suffix.lower() == ".zip":
            file = stack.enter_context(_only_member(stack.enter_context(zipfile.ZipFile(file))))
        yield stack.enter_context(io.TextIOWrapper(file, "utf-8-sig", newline=""))


def _only_member(archive: zipfile.ZipFile) -> IO[bytes]:
    names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name.split("/")]
    if len(names) != 1:
        held = f" ({', '.join(names[:3])}{', ...' * (len(names) > 3)})" if names else ""
        raise zipfile.BadZipFile(f"it is an archive or a spreadsheet of {len(names)} files{held}")
    try:
        return archive.open(names[0])
    except RuntimeError as error:  # encrypted
        raise zipfile.BadZipFile(str(error)) from error


def _separator(path: Path) -> str:
    """Comma, semicolon or tab, whichever the header has most of outside quotes and brackets."""
    with _opened(path) as file:
        header = re.sub(r'"[^"]*"|\[[^\]]*\]', "", file.readline(1 << 20))
    return max(",;\t", key=header.count)


def collection_of(folder: Path) -> str | None:
    """Whose patients the tables of a folder in the NIH's layout name: what COLLECTION in it says, else `nih`; None for
    a phantom that does not say."""
    if (folder / COLLECTION).is_file():
        return (folder / COLLECTION).read_text("utf-8", errors="replace").strip()[:200] or None
    return None if (folder / "lesions.csv").is_file() else "nih"


def looks_like(path: Path) -> str:
    """In words, which of the known files this one looks like."""
    try:
        first = first_row(path)
    except ValueError as error:
        return str(error)
    return _known(first) or f"its first line is {','.join(first)[:100]!r}"


def _lacks(path: Path, absent: list[str]) -> str:
    """What a file without needed columns is, or which it lacks and which it has."""
    first = first_row(path)
    columns = " and ".join(map(repr, absent))
    if known := _known(first):
        return known
    if len(absent) == len(NEEDED):
        return f"it has no columns {columns}; {looks_like(path)}"
    return (
        f"it has no column {columns}; it has {', '.join(name.strip() for name in first)}. A table of your own goes to "
        "`agcxr prepare table`"
    )


def _known(first: list[str]) -> str:
    """Which of the known files has this first row; empty for none."""
    keys = [_key(name) for name in first]
    if keys[:2] == ["image index", "finding label"]:
        return "it looks like the box list (BBox_List_2017.csv)"
    if keys[:2] == ["image index", "finding labels"]:
        return "it looks like the label table (Data_Entry_2017*.csv)"
    if len(first) == 1 and re.search(r"\.(png|jpe?g)$", first[0].strip(), re.I):
        return "it looks like an image list (train_val_list.txt, test_list.txt)"
    return ""


def _csv_rows(path: Path, limit: int | None = None) -> list[list[str]]:
    try:
        with _opened(path) as file:
            return list(islice(csv.reader(file, delimiter=_separator(path)), limit))
    except FileNotFoundError as error:
        raise ValueError(f"{path} does not exist") from error
    except BROKEN_TABLE as error:
        raise ValueError(f"{path} cannot be read as a table: {_why(error)}") from error


def _why(error: Exception) -> str:
    """What is wrong with a table, without the words of the decoder."""
    if isinstance(error, UnicodeError):
        return "it is not text in UTF-8 (a spreadsheet or another encoding?); save it as CSV, UTF-8"
    if isinstance(error, pd.errors.EmptyDataError):
        return "it is empty"
    if "EOF inside string" in str(error):
        return "a quotation mark is opened in it and never closed"
    if isinstance(error, zipfile.BadZipFile):
        return f"{error}; give one table, saved as CSV, UTF-8"
    return getattr(error, "strerror", None) or str(error).strip()


def _check_ids(images: pd.Series, path: Path) -> None:
    if (images == "").any():
        raise ValueError(f"{path}, line {int(np.argmax(images == '')) + 2}: no image name")
    twice = images[images.duplicated()]
    if len(twice):
        raise ValueError(
            f"{path}: {len(twice)} images are listed more than once, the first is {twice.iloc[0]}; keep one"
        )


def _patient_of(image: str) -> str:
    """The patient in a film's name, whatever folder it lies in: "train/00000013_005.png" -> "13"."""
    return patient_id(stem(image).split("_")[0]) or image


def _key(name: str) -> str:
    return " ".join(name.strip().lower().split())
