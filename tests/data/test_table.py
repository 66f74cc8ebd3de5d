from __future__ import annotations

import gzip
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_films import encode, picture

from agcxr.data.dataset import films
from agcxr.data.radiograph import read_radiograph, resize
from agcxr.data.storing import Storing
from agcxr.data.table import prepare_table, read_table
from agcxr.findings import Findings, read_findings
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
        findings="nih",
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
    made = read_table(table(tmp_path), "Path", findings="nih")
    assert [label for label in LABELS if made.frame[label].notna().any()] == ["Effusion", "Edema"]
    assert made.frame["patient"].nunique() == 3
    assert made.notes[-1].startswith("no patient column: each film counts as a patient of its own")
    assert made.notes[-1].endswith("leaks between parts go unseen. 'patient' may name them: --patient-column 'patient'")
    unnamed = read_table(table(tmp_path, TEXT.replace("patient", "ward")), "Path", findings="nih")
    assert unnamed.notes[-1].endswith("leaks between parts go unseen")


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


def test_columns_nothing_was_read_from_are_named(tmp_path):
    made = read_table(table(tmp_path), "Path", patient_column="patient", label_columns=["Edema"], findings="nih")
    assert made.notes[0] == "columns left out, not findings of ours: Sex, Age, Frontal, Fracture"
    assert made.notes[1] == "columns left out, not chosen as label columns: Pleural Effusion"
    assert read_table(table(tmp_path), "Path", findings="nih").notes[0] == (
        "columns left out, not findings of ours: patient, Sex, Age, Frontal, Fracture"
    )


@pytest.mark.parametrize(
    ("header", "chosen", "mark"), [("label", None, "|"), ("Finding Labels", None, ";"), ("what", ["what"], ",")]
)
def test_one_column_of_class_names(tmp_path, header, chosen, mark):
    cells = [f"lung mass{mark}Edema", "No Finding", "Fracture", "", "mass"]
    rows = "\n".join(f'{n}.png\t"{cell}"\t{n}' for n, cell in enumerate(cells))
    made = read_table(
        table(tmp_path, f"\ufefffile\t{header}\tnote\n{rows}"), "file", label_columns=chosen, findings="nih"
    )
    nan = np.nan
    assert np.array_equal(made.frame["Mass"], [1, 0, 0, nan, 1], equal_nan=True)
    assert np.array_equal(made.frame["Edema"], [1, 0, 0, nan, 0], equal_nan=True)
    assert np.array_equal(made.frame["No Finding"], [0, 1, 0, nan, 0], equal_nan=True)
    # The NIH's column states all labels; another one those that it ever names.
    assert made.frame["Hernia"].isna().all() == (header != "Finding Labels")
    assert made.notes[0] == "columns left out, not findings of ours: note"
    assert "class names left out, not findings of ours: Fracture (1)" in made.notes


def test_cells_as_spreadsheets_write_them(tmp_path):
    text = (
        "file;who;age;sex;view;Mass;Edema\na.png;7,0;60,0;F ;PA;1,0;yes\nb.png;007;411Y;0;frontal;-1,0;True\n"
        "c.png;;18M;weiblich;lat;;0.0\nd.png;nan;abc;x;;0;no\n"
    )
    columns = {"patient_column": "who", "age_column": "age", "sex_column": "sex", "view_column": "view"}
    made = read_table(table(tmp_path, text), "file", **columns)
    nan = np.nan
    assert made.frame["patient"].tolist() == ["7", "7", "c.png", "d.png"]
    assert np.array_equal(made.frame["age"], [60, nan, 1, nan], equal_nan=True)
    assert made.frame["sex"].tolist() == ["F", "", "F", ""]
    assert made.frame["view"].tolist() == ["PA", "", "LATERAL", ""]
    assert np.array_equal(made.frame["Mass"], [1, nan, nan, 0], equal_nan=True)
    assert made.frame["Edema"].tolist() == [1, 1, 0, 0]
    assert made.notes[1:] == (
        "1 patients are written in several ways (007 and 7,0): each counts as one patient",
        "2 films without a patient count as patients of their own",
        "1 ages over 120 years were left out as unknown",
        "1 ages could not be read and are unknown, such as 'abc'",
        "1 sexes could not be read and are unknown, such as '0'",
        "1 views could not be read and are unknown, such as 'frontal'",
    )


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        (TEXT, {"image_column": "File"}, "has no column 'File'; it has Path, patient"),
        (TEXT.replace("-1.0", "maybe"), {}, "column 'Edema': 'maybe' is not a label; expected 0, 1, -1 or blank"),
        (TEXT, {"label_columns": ["Fracture"], "findings": "nih"}, "none of Fracture is one of Atelectasis"),
        (TEXT.replace("Fracture", "Effusion"), {}, "'Pleural Effusion' and 'Effusion' both mean Effusion"),
        (TEXT.replace("Fracture", "Edema"), {}, "the columns 'Edema' and 'Edema.1' both mean Edema; keep one of them"),
        (
            "a,label\nx,TB\ny,flu",
            {"image_column": "a", "findings": "nih"},
            "column 'label': unknown finding 'TB' in the labels, and none",
        ),
        (
            "a,label\nx,1\ny,0",
            {"image_column": "a"},
            "none of a, label is a column of 1, 0, -1 or .* class names, as",
        ),
        ("a,label\nx,\ny,0", {"image_column": "a"}, "'label' holds '0': if it states one finding, call it by the name"),
        (
            TEXT,
            {"label_columns": ["Fracture"], "findings": "nih"},
            "'Fracture' holds '1': if it states one finding, call it by the name",
        ),
        ('a,Mass\n"x,1\ny,0', {"image_column": "a"}, "a quotation mark is opened in it and never closed"),
        ("a,Mass\nx,1\ny,0,1,1", {"image_column": "a"}, "has rows with more cells than its header has names"),
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


def test_class_names_beside_columns_of_findings_are_named(tmp_path):
    made = read_table(table(tmp_path, "Path,label,Mass,room\na,Mass,1,3\nb,Edema,0,4\n"), "Path")
    assert made.notes[:2] == (
        "columns left out, not findings of ours: room",
        "columns left out, as the labels stand elsewhere: label",
    )


def zipped(path, **members: str):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def test_packed_tables_by_their_content(tmp_path):
    """Kaggle's downloads are zipped, macOS adds files of its own, and browsers change names."""
    expected = read_table(table(tmp_path, TEXT), "Path").frame
    path = tmp_path / "table.csv"
    path.write_bytes(gzip.compress(TEXT.encode()))
    pd.testing.assert_frame_equal(read_table(path, "Path").frame, expected)
    zipped(path, **{"__MACOSX/._labels.csv": "\0", "labels.csv": TEXT})
    pd.testing.assert_frame_equal(read_table(path, "Path").frame, expected)
    with pytest.raises(ValueError, match=r"an archive or a spreadsheet of 2 files \(a.csv, b.csv\); give one table"):
        read_table(zipped(path, **{"a.csv": TEXT, "b.csv": TEXT}), "Path")
    with pytest.raises(ValueError, match="an archive or a spreadsheet of 0 files"):
        read_table(zipped(tmp_path / "none.zip"), "Path")


def test_a_table_that_is_absent(tmp_path):
    with pytest.raises(ValueError, match=r"none.csv cannot be read as a table: No such file or directory$"):
        read_table(tmp_path / "none.csv", "Path")


def test_films_without_a_patient_are_not_one_patient(tmp_path):
    made = read_table(
        table(tmp_path, TEXT.replace(",p1,", ",,").replace(",p2,", ", ,")), "Path", patient_column="patient"
    )
    assert made.frame["patient"].tolist() == ["data/p1/view1.jpg", "data/p2/view1.jpg", "p3"]
    assert made.notes[-1] == "2 films without a patient count as patients of their own"


OWN = (
    "file,patient,fold,Tuberculosis,Rib fracture,Normal,report,score\n"
    "a.png,1,0,1,0,0,cavity.,0.91\n"
    "b.png,2,1,0,-1,0,fracture?,0.5\n"
    "c.png,3,0,0,,1,none.,0.1\n"
)


def test_a_table_of_other_findings_has_its_own(tmp_path):
    made = read_table(table(tmp_path, OWN), "file", patient_column="patient")
    assert made.findings.labels == ("Tuberculosis", "Rib fracture", "Normal")
    assert made.findings.none == "Normal"
    assert made.findings.name == "own"
    assert np.array_equal(made.frame["Rib fracture"], [0, np.nan, np.nan], equal_nan=True)
    assert made.frame["Tuberculosis"].tolist() == [1, 0, 0]
    assert made.notes == ("columns left out, not findings: fold, report, score",)
    chosen = read_table(table(tmp_path, OWN), "file", label_columns=["Tuberculosis", "fold"])
    assert chosen.findings.labels == ("Tuberculosis", "fold")
    assert chosen.notes[0] == "columns left out, not findings: patient, Rib fracture, Normal, report, score"


@pytest.mark.parametrize(("uncertain", "value"), [("ignore", np.nan), ("zeros", 0), ("ones", 1), ("smoothed", 0.7)])
def test_uncertain_labels_are_what_is_asked_for_and_blank_ones_unknown(tmp_path, uncertain, value):
    made = read_table(table(tmp_path, OWN), "file", uncertain=uncertain)
    column = made.frame["Rib fracture"].to_numpy()
    assert np.array_equal(column, np.float32([0, value, np.nan]), equal_nan=True)


def test_one_column_of_own_names(tmp_path):
    cells = ["TB|Nodule/Mass", "Rib fracture, old; TB", "Normal", ""]
    text = "file\tlabel\n" + "\n".join(f"{n}.png\t{cell}" for n, cell in enumerate(cells))
    made = read_table(table(tmp_path, text), "file")
    assert made.findings.labels == ("Nodule/Mass", "Rib fracture, old", "TB", "Normal")
    assert made.frame[list(made.findings.labels)].fillna(-1).to_numpy().tolist() == [
        [1, 0, 1, 0],
        [0, 1, 1, 0],
        [0, 0, 0, 1],
        [-1, -1, -1, -1],
    ]


def test_classes_that_exclude_each_other_are_named_as_such(tmp_path):
    text = "file,TB,Normal\n" + "\n".join(f"{n}.png,{n % 2},{1 - n % 2}" for n in range(10))
    (note,) = [note for note in read_table(table(tmp_path, text), "file").notes if "exclude" in note]
    assert note.startswith("every film has exactly one of TB, Normal: these look like classes that exclude each other")
    assert note.endswith("docs/own_findings.md")
    text += "\n10.png,0,0"
    assert not [note for note in read_table(table(tmp_path, text), "file").notes if "exclude" in note]


def test_a_label_for_none_that_is_blank_beside_a_finding_is_0(tmp_path):
    text = "file,Fracture,TB,No Finding\na,1,0,\nb,0,0,\nc,0,0,1"
    made = read_table(table(tmp_path, text), "file")
    assert np.array_equal(made.frame["No Finding"], [0, np.nan, 1], equal_nan=True)
    assert "1 films with a finding do not say 'No Finding': 0" in made.notes


def test_a_device_may_stand_beside_no_finding(tmp_path):
    text = "file,Support Devices,Fracture,No Finding\na,1,0,1\nb,0,1,1\nc,0,0,1"
    made = read_table(table(tmp_path, text), "file")
    assert made.frame["No Finding"].tolist() == [1, 0, 1]


def test_the_fifteen_can_be_asked_to_stay_the_own_ones(tmp_path):
    text = "file,Edema,Mass\na,1,0\nb,0,1"
    assert read_table(table(tmp_path, text), "file").findings.labels == LABELS
    own = read_table(table(tmp_path, text), "file", findings="own")
    assert own.findings.labels == ("Edema", "Mass")
    assert own.frame["Mass"].tolist() == [0, 1]


def test_a_findings_file_says_other_spellings_and_codes(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "labels: [TB, Effusion, Clear]\nnone: Clear\naliases: {tuberculosis active: TB}\ndiffuse: [TB]\n"
        "codes: {TB: {scheme: 99CLINIC, value: TB1, meaning: Active tuberculosis}}\n"
    )
    findings = read_findings(path)
    assert (findings.name, findings.none, findings.diffuse, findings.localised) == (
        "mine",
        "Clear",
        ("TB",),
        ("Effusion",),
    )
    assert findings.codes["TB"].value == "TB1"
    assert findings.codes["Effusion"].value == "60046008"
    text = "file,Tuberculosis active,pleural effusion,Clear,Hernia\na,1,0,0,1\nb,0,0,1,0"
    made = read_table(table(tmp_path, text), "file", findings=findings)
    assert made.frame["TB"].tolist() == [1, 0]
    assert made.frame["Effusion"].tolist() == [0, 0]
    assert made.notes[0] == "columns left out, not findings: Hernia"


def test_own_findings_are_kept_in_the_folder_and_cannot_be_called_as_its_columns(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(encode(picture(16, 16, ord(name)), ".png"))
    made = prepare_table(
        table(tmp_path, OWN), tmp_path, tmp_path / "out", image_column="file", storing=Storing(size=16)
    )
    assert made.plan.labels == ("Tuberculosis", "Rib fracture", "Normal")
    assert made.plan.findings == made.findings == Findings.of(made.plan.labels)
    assert made.index["Tuberculosis"].tolist() == [1, 0, 0]
    assert "findings: Tuberculosis (1), Rib fracture (0), Normal (1)" in made.plan.summary()
    asked = made.targets(np.array([0, 1]), ("TB", "Mass"))
    assert np.array_equal(asked, [[1, np.nan], [0, np.nan]], equal_nan=True)
    assert made.unstated(("TB", "Mass")) == ("Mass",)
    text = OWN.replace("Tuberculosis", "age")
    with pytest.raises(ValueError, match="a finding cannot be called 'age', as a column of every prepared folder is"):
        prepare_table(
            table(tmp_path, text), tmp_path, tmp_path / "x", image_column="file", label_columns=["age", "Normal"]
        )


def test_what_is_smoothed_for_training_is_unknown_where_films_are_measured(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(encode(picture(16, 16, ord(name)), ".png"))
    paths, size = (table(tmp_path, OWN), tmp_path, tmp_path / "out"), Storing(size=16)
    made = prepare_table(*paths, image_column="file", uncertain="smoothed", storing=size)
    made = replace(made, index=made.index.assign(split=["train", "train", "val"]))
    assert films(made, "train").label_NK[:, 1].tolist() == [0, np.float32(0.7)]
    assert np.isnan(made.targets(np.array([1]), made.findings)[0, 1])
    held_out = replace(made, index=made.index.assign(split=["train", "val", "val"]))
    assert np.isnan(films(held_out, "val").label_NK[:, 1]).all()
