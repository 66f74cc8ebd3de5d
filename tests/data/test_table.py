from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from made_films import encode, picture

from agcxr.data.radiograph import read_radiograph, resize
from agcxr.data.storing import Storing
from agcxr.data.table import prepare_table, read_table
from agcxr.labels import LABELS

TEXT = (
    "Path,patient,Sex,Age,Frontal,Pleural Effusion,Edema,Fracture\n"
    "data/p1/view1.jpg,p1,Female,61,AP,1.0,-1.0,1\n"
    "data/p2/view1.jpg,p2,Male,200,PA,0.0,,0\n"
    "data/p3/view1.jpg,p3,Unknown,33,LL,,1,0\n"
)


def table(tmp_path: Path, text: str = TEXT) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    return path


def test_rows(tmp_path):
    made = read_table(
        table(tmp_path),
        "Path",
        label_columns=["Pleural Effusion", "Edema", "Fracture"],
        patient_column="patient",
        age_column="Age",
        sex_column="Sex",
        view_column="Frontal",
    )
    nan = np.nan
    assert made.frame["Effusion"].tolist()[:2] == [1, 0]
    assert np.array_equal(made.frame["Effusion"], [1, 0, nan], equal_nan=True)
    assert np.array_equal(made.frame["Edema"], [nan, nan, 1], equal_nan=True)
    assert made.frame["Mass"].isna().all()
    assert made.frame["sex"].tolist() == ["F", "M", ""]
    assert made.frame["view"].tolist() == ["AP", "PA", "LATERAL"]
    assert np.array_equal(made.frame["age"], [61, nan, 33], equal_nan=True)
    assert made.notes[0] == "columns left out, not findings of ours: Fracture"
    assert made.notes[1].startswith("findings the table does not state: Atelectasis, Cardiomegaly, Infiltration")
    assert made.notes[2] == "1 ages over 120 years were left out as unknown"


def test_default_columns_and_patients(tmp_path):
    made = read_table(table(tmp_path), "Path")
    assert [label for label in LABELS if made.frame[label].notna().any()] == ["Effusion", "Edema"]
    assert made.frame["patient"].nunique() == 3
    assert made.notes[-1].startswith("no patient column: each film counts as a patient of its own")


def test_folders_in_the_image_column_tell_equal_names_apart(tmp_path):
    for patient in (1, 2, 3):
        folder = tmp_path / "small" / f"p{patient}"
        folder.mkdir(parents=True)
        (folder / "view1.jpg").write_bytes(encode(picture(32, 32, patient), ".jpg"))
    made = prepare_table(
        table(tmp_path),
        tmp_path / "small",
        tmp_path / "out",
        image_column="Path",
        patient_column="patient",
        storing=Storing(size=16),
    )
    assert list(made.index["image_id"]) == [f"data/p{patient}/view1.jpg" for patient in (1, 2, 3)]
    for row, patient in enumerate((1, 2, 3)):
        film = read_radiograph(tmp_path / "small" / f"p{patient}" / "view1.jpg")
        assert np.array_equal(made.images[row], resize(film.pixels_HW, 16))
    assert made.plan.source.name == "table"


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        (TEXT, {"image_column": "File"}, "has no column 'File'; it has Path, patient"),
        (TEXT.replace("-1.0", "maybe"), {}, "column 'Edema': 'maybe' is not a label; expected 0, 1, -1 or blank"),
        (TEXT, {"label_columns": ["Fracture"]}, "none of Fracture is one of Atelectasis"),
        (TEXT.replace("Fracture", "Effusion"), {}, "'Pleural Effusion' and 'Effusion' both mean Effusion"),
        (TEXT + TEXT.splitlines()[1], {}, "1 rows have no image or one listed before, first 'data/p1/view1.jpg'"),
        ("", {}, "cannot be read as a table: it is empty"),
        (TEXT.splitlines()[0], {}, "has a header and no rows"),
        ("\n".join(f"{line},9" if line[:4] == "data" else line for line in TEXT.splitlines()), {}, "more cells than"),
    ],
)
def test_bad_tables(tmp_path, text, options, reason):
    with pytest.raises(ValueError, match=reason):
        read_table(table(tmp_path, text), **{"image_column": "Path"} | options)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        (
            "labels.csv",
            TEXT.encode("utf-16"),
            r"it is not text in UTF-8 \(a spreadsheet or another encoding\?\); save it",
        ),
        ("labels.zip", b"no archive", r"labels.zip cannot be read as a table: File is not a zip file"),
        (
            "labels.csv.gz",
            gzip.compress(TEXT.encode())[:-20],
            "cannot be read as a table: Compressed file ended before",
        ),
    ],
)
def test_tables_that_are_no_text(tmp_path, name, data, reason):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=reason):
        read_table(tmp_path / name, "Path")


def test_a_table_that_is_absent(tmp_path):
    with pytest.raises(ValueError, match=r"none.csv cannot be read as a table: No such file or directory$"):
        read_table(tmp_path / "none.csv", "Path")


def test_films_without_a_patient_are_not_one_patient(tmp_path):
    made = read_table(
        table(tmp_path, TEXT.replace(",p1,", ",,").replace(",p2,", ", ,")), "Path", patient_column="patient"
    )
    assert made.frame["patient"].tolist() == ["data/p1/view1.jpg", "data/p2/view1.jpg", "p3"]
    assert made.notes[-1] == "2 films without a patient count as patients of their own"
