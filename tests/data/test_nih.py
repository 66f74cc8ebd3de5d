from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from agcxr.data import nih
from agcxr.labels import LABELS

NIH = Path(__file__).parents[3] / "shared" / "nih"

V2017 = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
    "00000001_000.png,Cardiomegaly|Emphysema,0,1,058Y,M,PA,2682,2749,0.143,0.143,\n"
    "00000002_000.png,No Finding,3,2,414,F,AP,2682,2749,0.143,0.143,\n"
)


def table(tmp_path: Path, text: str, name: str = "Data_Entry.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["entries.csv", "entries.csv.gz"])
def test_entries_of_2017(tmp_path, name):
    made = nih.read_entries(table(tmp_path, V2017, name))
    first, second = made.frame.iloc[0], made.frame.iloc[1]
    assert tuple(made.frame.columns) == nih.ROW_COLUMNS
    assert [label for label in LABELS if first[label] == 1] == ["Cardiomegaly", "Emphysema"]
    assert [label for label in LABELS if second[label] == 1] == ["No Finding"]
    assert (first.image_id, first.patient, first.follow_up, first.age, first.sex, first["view"]) == (
        *("00000001_000.png", "1", 0, 58.0, "M", "PA"),
    )
    assert np.isnan(second.age)
    assert made.notes == ("1 ages over 120 years were left out as unknown",)
    assert made.frame["Mass"].dtype == np.float32


@pytest.mark.parametrize(("there", "asked"), [("entries.csv.gz", "entries.csv"), ("entries.csv", "entries.csv.gz")])
def test_a_table_is_found_beside_the_name_asked_for_if_only_gzip_tells_them_apart(tmp_path, there, asked):
    path = table(tmp_path, V2017, there)
    assert nih.at_hand(tmp_path / asked) == path
    assert len(nih.read_entries(tmp_path / asked).frame) == 2
    (tmp_path / asked).write_bytes(b"")
    assert nih.at_hand(tmp_path / asked) == tmp_path / asked
    with pytest.raises(ValueError, match=f"{asked} is empty"):
        nih.read_entries(tmp_path / asked)


def test_optional_columns_may_be_missing(tmp_path):
    made = nih.read_entries(table(tmp_path, "Image Index,Finding Labels\n00000013_005.png,Mass\n00000014_000.png,"))
    assert made.frame["patient"].tolist() == ["13", "14"]
    assert made.frame["Mass"].iloc[0] == 1
    assert made.frame[list(LABELS)].iloc[1].isna().all()
    assert made.frame["follow_up"].isna().all()
    assert made.frame["sex"].tolist() == ["", ""]


def test_patients_of_file_names(tmp_path):
    """Whatever folder a film lies in: otherwise a patient is two, or all films of images_001 are one."""
    names = (
        "train/00000013_005.png",
        "test\\00000013_006.png",
        "images_001/images/00000014_000.png",
        "13_007",
        "x.png",
        "_1.png",
        "_2.png",
    )
    made = nih.read_entries(table(tmp_path, "Image Index,Finding Labels\n" + "\n".join(f"{n},Mass" for n in names)))
    assert made.frame["patient"].tolist() == ["13", "13", "14", "13", "x", "_1.png", "_2.png"]
    assert made.notes == ("no column 'Patient ID': patients are taken from the file names, the part before _",)


def test_cells_that_pandas_made_decimals(tmp_path):
    """One blank cell in a column of whole numbers, and all are written as decimals."""
    text = (
        "Image Index;Finding Labels;Patient ID;Patient Age;Patient Gender;View Position\n"
        "a_1.png;Mass|Edema;13.0;60.0;Male;frontal\nb_1.png;Mass;00000013;60 Y;F ;PA\n"
        "c_1.png;;;;0;\nd_1.png;Mass;1e1;abc;;AP\n"
    )
    made = nih.read_entries(table(tmp_path, "\ufeff" + text))
    assert made.frame["patient"].tolist() == ["13", "13", "c", "1e1"]
    assert np.array_equal(made.frame["age"], [60, 60, np.nan, np.nan], equal_nan=True)
    assert made.frame["sex"].tolist() == ["M", "F", "", ""]
    assert made.notes == (
        "1 patients are written in several ways (13.0 and 00000013): each counts as one patient",
        "1 films name no class: all their labels are unknown",
        "1 ages could not be read and are unknown, such as 'abc'",
        "1 sexes could not be read and are unknown, such as '0'",
        "1 views could not be read and are unknown, such as 'frontal'",
    )
    assert made.frame["Edema"].tolist()[:2] == [1, 0]


BOXES = (
    "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000001_000.png,Infiltrate,256,128,512,256\nb.png,Mass,0,0,2048,1,,,"
)


def test_boxes_become_fractions(tmp_path):
    made = nih.read_boxes(table(tmp_path, BOXES))
    assert made.frame.iloc[0].tolist() == ["00000001_000.png", "Infiltration", 0.25, 0.125, 0.75, 0.375]
    assert made.frame.iloc[1].tolist() == ["b.png", "Mass", 0, 0, 1, 1 / 1024]
    assert made.notes == ("1 boxes reached beyond the film and were cut at its edge",)


def test_list_without_a_final_newline(tmp_path):
    assert nih.read_list(table(tmp_path, "a_0.png\nb_0.png")) == ("a_0.png", "b_0.png")


LIST = "00000001_000.png\n00000002_000.png"


@pytest.mark.parametrize(
    ("read", "text", "reason"),
    [
        (nih.read_entries, BOXES, "not the NIH label table .*: it looks like the box list"),
        (nih.read_entries, LIST, "it looks like an image list"),
        (nih.read_entries, "a,b\n1,2", "its first line is 'a,b'"),
        (nih.read_entries, "a,b\n1,2", "it has no columns 'Image Index' and 'Finding Labels'; its first line is"),
        (
            nih.read_entries,
            "Image Index,Follow-up #,OriginalImage[Width,Height]\na.png,0,1,2",
            r"it has no column 'Finding Labels'; it has Image Index, Follow-up #, OriginalImage\[Width, Height\]\. A",
        ),
        (nih.read_entries, "Finding Labels,x\nMass,0", "it has no column 'Image Index'; it has Finding Labels, x. A"),
        (nih.read_entries, "", "is empty"),
        (nih.read_entries, V2017.splitlines()[0], "has a header and no rows"),
        (
            nih.read_entries,
            V2017 + V2017.splitlines()[1],
            "1 images are listed more than once, the first is 00000001_000.png",
        ),
        (nih.read_entries, V2017.replace("Emphysema", "Emphasema"), "unknown finding in 'Cardiomegaly|Emphasema'"),
        (nih.read_entries, V2017.replace("Emphysema", "No Finding"), "says 'No Finding' beside a finding"),
        (nih.read_boxes, V2017, "not the NIH box list .*: it looks like the label table"),
        (nih.read_boxes, BOXES.replace("512", "wide"), "line 2: expected image, finding, x, y, w, h"),
        (nih.read_boxes, BOXES.replace("512", "-5"), "line 2: not a box of a known finding"),
        (nih.read_boxes, BOXES.replace("Infiltrate", "Cat"), "line 2: not a box of a known finding"),
        (nih.read_list, V2017, "not an image list .*: it looks like the label table"),
        (nih.read_list, "", "is empty"),
    ],
)
def test_wrong_files_are_named(tmp_path, read, text, reason):
    with pytest.raises(ValueError, match=reason):
        read(table(tmp_path, text))


@pytest.mark.parametrize("read", [nih.read_entries, nih.read_boxes, nih.read_list])
def test_absent_and_broken_files(tmp_path, read):
    with pytest.raises(ValueError, match="absent.csv"):
        read(tmp_path / "absent.csv")
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(gzip.compress(V2017.encode() * 100)[:60])
    with pytest.raises(ValueError, match="broken.csv.gz"):
        read(broken)
    broken.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe\0\0")
    with pytest.raises(ValueError, match="broken.csv.gz"):
        read(broken)


def test_whose_patients_the_tables_name(tmp_path):
    assert nih.collection_of(tmp_path) == "nih"
    (tmp_path / "lesions.csv").touch()  # a phantom that does not say its seed
    assert nih.collection_of(tmp_path) is None
    (tmp_path / "collection.txt").write_text("phantom, seed 3\n")
    assert nih.collection_of(tmp_path) == "phantom, seed 3"


@pytest.mark.skipif(not NIH.is_dir(), reason="the real tables (../shared/nih) are not here")
def test_the_official_files():
    entries = nih.read_entries(NIH / "Data_Entry_2017_v2020.csv.gz")
    assert len(entries.frame) == 112_120
    assert entries.frame["patient"].nunique() == 30_805
    assert entries.notes == ()
    assert entries.frame["No Finding"].sum() == 60_361
    boxes = nih.read_boxes(NIH / "BBox_List_2017.csv").frame
    assert (len(boxes), boxes["image_id"].nunique(), boxes["finding"].nunique()) == (984, 880, 8)
    lists = nih.find_lists(NIH)
    assert lists is not None
    assert [len(nih.read_list(path)) for path in lists] == [86_524, 25_596]
