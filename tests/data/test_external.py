from __future__ import annotations

import gzip
import importlib.util
import io
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_films import encode, picture

from agcxr.cli import main
from agcxr.data import nih
from agcxr.data.external import COLLECTIONS, Options, Rows, prepare_external, read_collection
from agcxr.data.external_terms import CHEXPERT_COLUMNS
from agcxr.data.prepare import open_prepared
from agcxr.labels import FINDINGS, LABELS, NO_FINDING

NAN = np.nan
CHEXPERT = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices\n"
    "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0\n"
    "CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg,Female,87,Frontal,PA,"
    ",,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,\n"
    "CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg,Male,0,Frontal,PA,,,,,,1.0,0.0,,,,,,,\n"
    "CheXpert-v1.0-small/train/patient00002/study1/view2_lateral.jpg,Male,0,Lateral,,,,,,,,,,,,-1.0,,,\n"
)
MIMIC_LABELS = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,"
    "Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices\n"
    "10000032,50414267,,,,,,,,,1.0,,,,,\n"
    "10000032,53189527,1.0,,,,,,,,,-1.0,,,,\n"
)
MIMIC_FILMS = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime\n"
    "02aa804e-bde0afdd,10000032,53189527,CHEST (PA AND LAT),PA,3056,2544,21800626,165500.312\n"
    "174413ec-4ec4c1f7,10000032,50414267,CHEST (PA AND LAT),LATERAL,3056,2544,21800506,213014.531\n"
    "ffff0000-11112222,10000048,59999999,CHEST (PORTABLE AP),AP,2048,2048,21900101,90000.5\n"
)
PADCHEST = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,Projection,Labels\n"
    "0,a_1.png,0,20140915,1,77,1930.0,F,PA,['normal']\n"
    "1,b_1.png,0,20150914,2,78,1929.0,M,L,\"['pulmonary fibrosis', 'chronic changes', 'pseudonodule']\"\n"
    "2,c_1.png,54,20150914,3,78,,M,AP_horizontal,\"['subcutaneous emphysema', 'pericardial effusion']\"\n"
    "3,d_1.png,54,20150914,4,79,2010.0,O,COSTAL,\"['unchanged', '']\"\n"
    "4,e_1.png,54,20150914,5,80,1950.0,F,PA,\"['normal', 'laminar atelectasis', 'hydropneumothorax']\"\n"
)
OPENI = {
    "1.xml": ("CXR1", ["normal"], ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"]),
    "2.xml": ("CXR2", ["Thickening/pleura/apex/left", "Hernia, Hiatal/large", "Opacity"], ["CXR2_IM-0652-1001"]),
    "3.xml": ("CXR3", ["Thickening/trachea", "Pericardial Effusion"], ["CXR3_IM-1384-1001"]),
    "4.xml": ("CXR4", ["No Indexing"], ["CXR4_IM-2050-1001"]),
}
OPENI_FACTS = "imageid,View Position\nCXR1_1_IM-0001-3001,PA\nCXR1_1_IM-0001-4001,LARGE LATERAL\nCXR3_IM-1384-1001,AP\n"
RSNA = (
    "patientId,x,y,width,height,Target\n0004cfab,,,,,0\n"
    "00436515,264.0,152.0,213.0,379.0,1\n00436515,562.0,152.0,256.0,453.0,1\n"
)
RSNA_HEADERS = (
    ",BodyPartExamined,Filename,Modality,PatientAge,PatientID,PatientSex,ViewPosition\n"
    "0,CHEST,00436515.dcm,CR,32,00436515,F,AP\n1,CHEST,0004cfab.dcm,CR,155,0004cfab,M,PA\n"
)
VINDR = (
    "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"
    "50a4,No finding,14,R11,,,,\n50a4,No finding,14,R2,,,,\n50a4,No finding,14,R3,,,,\n"
    "9a5c,Cardiomegaly,3,R9,691,1375,1653,1831\n9a5c,Cardiomegaly,3,R8,691,1375,1653,1831\n"
    "9a5c,Pleural effusion,10,R8,1,2,3,4\n9a5c,Pleural effusion,10,R8,5,6,7,8\n9a5c,Nodule/Mass,8,R10,5,6,7,8\n"
    "0c37,No finding,14,R1,,,,\n0c37,No finding,14,R2,,,,\n0c37,Pulmonary fibrosis,13,R3,1,2,3,4\n"
)
# The mask: columns 10 to 12 of the 1024 x 1024 film, rows 5 to 9 of each.
SIIM = "ImageId, EncodedPixels\n1.2.276.1,-1\n1.2.276.2,10245 5 1019 5 1019 5\n1.2.276.2, 0 1\n"


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def openi_reports(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, (uid, terms, images) in OPENI.items():
            inner = "".join(f"<major>{term}</major>" for term in terms) + "<automatic>mass</automatic>"
            films = "".join(f'<parentImage id="{image}"/>' for image in images)
            data = f'<eCitation><uId id="{uid}"/><MeSH>{inner}</MeSH>{films}</eCitation>'.encode()
            info = tarfile.TarInfo(f"ecgen-radiology/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def read(name: str, tmp_path: Path, **options) -> Rows:
    """A collection from the tiny tables above, written in its own formats."""
    if name == "openi":
        given = {"labels": openi_reports(tmp_path / "reports.tgz")}
        given["metadata"] = write(tmp_path / "openi.csv", OPENI_FACTS)
    else:
        texts = {"chexpert": CHEXPERT, "mimic": MIMIC_LABELS, "padchest": PADCHEST, "rsna": RSNA, "vindr": VINDR}
        given = {"labels": write(tmp_path / f"{name}.csv.gz", (texts | {"siim": SIIM})[name])}
        if name in ("mimic", "rsna"):
            given["metadata"] = write(tmp_path / "films.csv", {"mimic": MIMIC_FILMS, "rsna": RSNA_HEADERS}[name])
    return read_collection(name, Options(**given | options))


def stated(frame: pd.DataFrame, row: int) -> dict[str, float]:
    return {label: float(frame[label].iloc[row]) for label in LABELS if not np.isnan(frame[label].iloc[row])}


@pytest.mark.parametrize("name", COLLECTIONS)
def test_every_collection_makes_the_rows_of_the_nih(name, tmp_path):
    rows = read(name, tmp_path)
    assert tuple(rows.frame.columns) == nih.ROW_COLUMNS
    assert (rows.frame[list(LABELS)].dtypes == np.float32).all()
    assert str(rows.frame["follow_up"].dtype) == "Int64"
    assert rows.frame["age"].dtype == float
    assert set(rows.frame["view"]) <= {"PA", "AP", "LATERAL", ""}
    assert set(rows.frame["sex"]) <= {"M", "F", ""}
    assert rows.frame["image_id"].is_unique
    assert all(path.is_file() for path in rows.tables)


def test_chexpert(tmp_path):
    made = read("chexpert", tmp_path)
    assert made.frame["patient"].tolist() == ["patient00001", *["patient00002"] * 3]
    assert made.frame["view"].tolist() == ["AP", "PA", "PA", "LATERAL"]
    assert made.frame["sex"].tolist() == ["F", "F", "M", "M"]
    assert made.frame["follow_up"].tolist() == [1, 2, 1, 1]
    assert np.array_equal(made.frame["age"], [68, 87, NAN, NAN], equal_nan=True)
    seven = ("Atelectasis", "Cardiomegaly", "Effusion", "Pneumonia", "Pneumothorax", "Consolidation", "Edema")
    # No Finding speaks for all seven; three films of one patient keep labels of their own.
    assert stated(made.frame, 0) == dict.fromkeys(seven, 0.0) | {NO_FINDING: 1.0}
    assert stated(made.frame, 1) == {NO_FINDING: 0.0}
    assert stated(made.frame, 2) == {"Edema": 1.0, "Consolidation": 0.0, NO_FINDING: 0.0}
    assert stated(made.frame, 3) == {}
    assert made.notes[0] == (
        "left out, not findings of ours: Enlarged Cardiomediastinum, Fracture, Lung Lesion, Lung Opacity, "
        "Pleural Other, Support Devices"
    )
    assert made.notes[1] == "findings that a report does not mention are unknown; 6 uncertain ones are unknown"
    assert made.notes[-1].endswith("Infiltration, Mass, Nodule, Emphysema, Fibrosis, Pleural_Thickening, Hernia")


def test_blank_and_uncertain_are_a_choice(tmp_path):
    made = read("chexpert", tmp_path, blank="negative", uncertain="positive")
    assert made.frame["Effusion"].tolist() == [0, 1, 0, 1]
    assert made.frame["Pneumonia"].tolist() == [0, 0, 0, 0]
    assert np.array_equal(made.frame[NO_FINDING], [1, 0, 0, NAN], equal_nan=True)
    assert made.frame["Mass"].isna().all()


def test_mimic(tmp_path):
    made = read("mimic", tmp_path)
    assert made.frame["image_id"].tolist() == [
        f"{one}.jpg" for one in ("02aa804e-bde0afdd", "174413ec-4ec4c1f7", "ffff0000-11112222")
    ]
    assert made.frame["follow_up"].tolist() == [2, 1, 1]
    assert made.frame["view"].tolist() == ["PA", "LATERAL", "AP"]
    assert stated(made.frame, 0) == {"Atelectasis": 1.0, NO_FINDING: 0.0}
    assert stated(made.frame, 1)["Edema"] == 0
    assert stated(made.frame, 2) == {}
    assert "1 films belong to studies without labels and are unknown" in made.notes
    with pytest.raises(ValueError, match=r"give mimic-cxr-2.0.0-chexpert.csv.gz with --labels"):
        read_collection("mimic")


def test_padchest_terms_are_whole(tmp_path):
    made = read("padchest", tmp_path).frame
    positives = [sorted(label for label, value in stated(made, row).items() if value) for row in range(5)]
    assert positives == [[NO_FINDING], ["Fibrosis"], [], [], ["Atelectasis", "Effusion", "Pneumothorax"]]
    assert len(stated(made, 2)) == 15
    assert stated(made, 3) == {}
    assert made["view"].tolist() == ["PA", "LATERAL", "AP", "", "PA"]
    assert np.array_equal(made["age"], [84, 86, NAN, 5, 65], equal_nan=True)
    assert made["patient"].tolist() == ["77", "78", "78", "79", "80"]


def test_openi_uses_what_people_coded(tmp_path):
    made = read("openi", tmp_path).frame
    positives = [sorted(label for label, value in stated(made, row).items() if value) for row in range(5)]
    assert positives == [[NO_FINDING], [NO_FINDING], ["Hernia", "Pleural_Thickening"], [], []]
    assert stated(made, 3)["Effusion"] == 0
    assert stated(made, 4) == {}
    assert made["image_id"].iloc[0] == "CXR1_1_IM-0001-3001.png"
    assert made["patient"].tolist() == ["CXR1", "CXR1", "CXR2", "CXR3", "CXR4"]
    assert made["view"].tolist() == ["PA", "LATERAL", "", "AP", ""]


def test_rsna_and_its_boxes(tmp_path):
    made = read("rsna", tmp_path)
    assert made.frame["image_id"].tolist() == ["0004cfab.dcm", "00436515.dcm"]
    assert made.frame["Pneumonia"].tolist() == [0, 1]
    assert made.frame["view"].tolist() == ["PA", "AP"]
    assert np.array_equal(made.frame["age"], [NAN, 32], equal_nan=True)
    assert made.boxes is not None
    assert made.boxes.iloc[0].tolist() == [
        *("00436515.dcm", "Pneumonia", 264 / 1024, 152 / 1024, 477 / 1024, 531 / 1024),
    ]
    assert any("films of NIH ChestX-ray14 under other names" in note for note in made.notes)


def test_boxes_end_at_the_edge_of_the_film(tmp_path):
    labels = write(tmp_path / "rsna.csv", RSNA.replace("264.0,152.0,213.0", "-4.0,512.0,2000.0"))
    boxes = read_collection("rsna", Options(labels, write(tmp_path / "films.csv", RSNA_HEADERS))).boxes
    assert boxes is not None
    assert boxes.iloc[0].tolist()[2:] == [0, 0.5, 1, 891 / 1024]


def test_vindr_readers(tmp_path):
    one, two, three = (read("vindr", tmp_path, readers=readers).frame for readers in (1, 2, 3))
    assert one["image_id"].tolist() == ["50a4.dicom", "9a5c.dicom", "0c37.dicom"]
    assert [frame["Cardiomegaly"].tolist() for frame in (one, two, three)] == [[0, 1, 0], [0, 1, 0], [0, 0, 0]]
    # Two boxes of one reader are one vote.
    assert [frame["Effusion"].tolist() for frame in (one, two)] == [[0, 1, 0], [0, 0, 0]]
    assert [frame[NO_FINDING].tolist() for frame in (one, two, three)] == [[1, 0, 0], [1, 0, 1], [1, 0, 1]]
    assert one["Nodule"].isna().all()
    assert "left out, not findings of ours: Nodule/Mass" in read("vindr", tmp_path).notes


def test_siim_counts_a_film_once(tmp_path):
    made = read("siim", tmp_path)
    assert made.frame["image_id"].tolist() == ["1.2.276.1.dcm", "1.2.276.2.dcm"]
    assert made.frame["Pneumothorax"].tolist() == [0, 1]
    assert made.boxes is not None
    scaled = made.boxes[["x0", "y0", "x1", "y1"]].to_numpy() * 1024
    assert scaled.tolist() == [[10, 5, 13, 10], [0, 0, 1, 1]]


def test_views(tmp_path):
    made = read("chexpert", tmp_path, views=("PA", "AP"))
    assert len(made.frame) == 3
    assert made.notes[-1] == "1 films of other views than PA, AP were left out"
    with pytest.raises(ValueError, match=r"no film of the views unknown; the collection has PA \(2\)"):
        read("chexpert", tmp_path, views=("unknown",))


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("chexpert", PADCHEST, "is not the table expected here: it has no column 'Path', 'No Finding'"),
        ("chexpert", CHEXPERT.replace("-1.0", "maybe"), "'maybe' is not a label; expected 1, 0, -1 or blank"),
        ("chexpert", CHEXPERT.splitlines()[0], "has a header and no rows"),
        ("padchest", PADCHEST.replace("b_1", "a_1"), "the film a_1.png is listed more than once"),
        ("siim", SIIM.replace("10245 5", "10245"), "a mask of SIIM is no list of runs: '10245 1019"),
        ("rsna", RSNA.replace(",1\n", ",yes\n"), "table.csv, column 'Target': 'yes' is not a number"),
        ("rsna", RSNA.replace(",1\n", ",2\n"), "table.csv, column 'Target': 2 is not a label; expected 0 or 1"),
        (
            "siim",
            SIIM.replace("0 1", "none drawn"),
            "a mask of SIIM is no list of runs: 'none drawn'; expected pairs of",
        ),
        ("rsna", RSNA.replace("213.0", "wide"), "column 'width': 'wide' is not a number"),
        ("openi", CHEXPERT, "cannot be read as Open-i's reports"),
        ("vindr", "", "cannot be read as a table"),
        ("nih", "", "unknown collection 'nih'; expected one of chexpert"),
    ],
)
def test_wrong_tables_are_named(name, text, reason, tmp_path):
    headers = write(tmp_path / "headers.csv", RSNA_HEADERS) if name == "rsna" else None
    with pytest.raises(ValueError, match=reason):
        read_collection(name, Options(labels=write(tmp_path / "table.csv", text), metadata=headers))


@pytest.mark.parametrize(
    ("old", "new"), [("1.0", "1"), ("1.0", "1.00"), (",,,", ",nan,nan,"), ("patient00001/", "patient00001\\")]
)
def test_chexpert_as_other_programs_write_it(old, new, tmp_path):
    made, expected = (
        read_collection("chexpert", Options(labels=write(tmp_path / "t.csv", text))).frame
        for text in (CHEXPERT.replace(old, new), CHEXPERT)
    )
    pd.testing.assert_frame_equal(made.drop(columns="image_id"), expected.drop(columns="image_id"))


def test_what_could_not_be_read_is_counted(tmp_path):
    path = write(tmp_path / "table.csv", PADCHEST.replace("1930.0", "19X0"))
    made = read_collection("padchest", Options(labels=path))
    assert "1 years of birth could not be read and are unknown, such as '19X0'" in made.notes
    headers = write(tmp_path / "headers.csv", RSNA_HEADERS)
    rsna = write(tmp_path / "rsna.csv", RSNA.replace("379.0", "").replace("453.0", "-453.0") + "00436515,1,2,3,4,1\n")
    made = read_collection("rsna", Options(labels=rsna, metadata=headers))
    assert made.boxes is not None
    assert (made.boxes[["x0", "y0", "x1", "y1"]] * 1024).to_numpy().tolist() == [[1, 2, 4, 6]]
    assert "2 boxes without a size were left out" in made.notes
    siim = SIIM + "1.2.276.3,-1.0\n1.2.276.4,nan\n"
    frame = read_collection("siim", Options(labels=write(tmp_path / "siim.csv", siim))).frame
    assert frame["Pneumothorax"].tolist() == [0, 1, 0, 0]


def test_a_table_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"uv pip install 'agcxr\[external\]'; or give your own copy with --labels"):
        read_collection("siim")


def films(folder: Path) -> Path:
    """CheXpert's four films, from `train/` on."""
    for seed, row in enumerate(CHEXPERT.splitlines()[1:]):
        path = folder / row.split(",")[0].removeprefix("CheXpert-v1.0-small/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(picture(32, 40, seed), ".jpg"))
    return folder


def test_the_command_prepares_every_film_as_a_test_film(tmp_path, capsys):
    labels = write(tmp_path / "train.csv", CHEXPERT)
    images = films(tmp_path / "films")
    call = ["prepare", "chexpert", "--images", str(images), "--labels", str(labels), "--size", "16"]
    assert main([*call, "--out", str(tmp_path / "all")]) == 0
    made = open_prepared(tmp_path / "all")
    assert made.index["split"].tolist() == ["test"] * 4
    assert made.plan.source.name == "chexpert"
    assert made.plan.source.tables[0].path == str(labels)
    assert "left out, not findings of ours" in capsys.readouterr().err
    assert main([*call, "--out", str(tmp_path / "frontal"), "--views", "PA", "AP"]) == 0
    assert len(open_prepared(tmp_path / "frontal").images) == 3
    assert (
        main(["prepare", "chexpert", "--images", str(images), "--out", str(tmp_path / "x"), "--labels", "absent"]) == 2
    )
    assert "absent cannot be read as a table" in capsys.readouterr().err


def test_the_command_for_tables(tmp_path):
    images = films(tmp_path / "films")
    for seed in range(4):
        (images / f"f{seed}.png").write_bytes(encode(picture(20, 20, seed)))
    table = write(tmp_path / "t.csv", "file,who,Mass\n" + "".join(f"f{n}.png,p{n},{n % 2}\n" for n in range(4)))
    call = [
        "prepare",
        "table",
        "--table",
        str(table),
        "--images",
        str(images),
        "--size",
        "16",
        "--image-column",
        "file",
    ]
    assert main([*call, "--patient-column", "who", "--out", str(tmp_path / "out"), "--split", "test"]) == 0
    assert open_prepared(tmp_path / "out").index["Mass"].tolist() == [0, 1, 0, 1]


def test_no_official_split(tmp_path):
    with pytest.raises(ValueError, match="only the NIH collection has an official split"):
        prepare_external("siim", tmp_path, tmp_path / "out", split="official")


REAL = {
    "chexpert": (223_414, 64_540, {"Effusion": 86_187, NO_FINDING: 22_381}),
    "openi": (7_470, 3_851, {"Cardiomegaly": 655, NO_FINDING: 2_696}),
    "rsna": (26_684, 26_684, {"Pneumonia": 6_012}),
    "vindr": (15_000, 15_000, {"Cardiomegaly": 2_300, NO_FINDING: 10_606}),
    "siim": (12_047, 12_047, {"Pneumothorax": 2_669}),
}


@pytest.mark.skipif(importlib.util.find_spec("torchxrayvision") is None, reason="the extra `external` is not installed")
@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.slow) if one == "chexpert" else one for one in REAL]
)
def test_the_real_tables(name):
    made = read_collection(name).frame
    films, patients, positives = REAL[name]
    assert (len(made), made["patient"].nunique()) == (films, patients)
    assert {label: int(made[label].sum()) for label in positives} == positives
    assert made[list(LABELS)].isin([0, 1, NAN]).all(axis=None)
    assert made[list(FINDINGS)].notna().any(axis=None)


@pytest.mark.parametrize("name", COLLECTIONS)
def test_every_collection_keeps_findings_of_its_own(name, tmp_path):
    rows = read(name, tmp_path, findings="own")
    assert tuple(rows.frame.columns) == nih.row_columns(rows.findings)
    assert not rows.findings.is_default
    assert not any("not findings of ours" in note for note in rows.notes)
    assert rows.frame[list(rows.findings.labels)].notna().any().any()


def test_the_fourteen_of_chexpert(tmp_path):
    made = read("chexpert", tmp_path, findings="own", uncertain="smoothed")
    assert made.findings.labels == CHEXPERT_COLUMNS
    assert (made.findings.name, made.findings.none) == ("CheXpert-14", NO_FINDING)
    healthy = {label: float(made.frame[label].iloc[0]) for label in CHEXPERT_COLUMNS}
    # No Finding speaks for every disease; of devices it says nothing, and the table says that there is one.
    assert healthy == dict.fromkeys(CHEXPERT_COLUMNS, 0.0) | {NO_FINDING: 1.0, "Support Devices": 1.0}
    unsure = (made.frame[list(CHEXPERT_COLUMNS)] == np.float32(0.7)).to_numpy().sum()
    assert made.notes[0].endswith(f"{unsure} uncertain ones are smoothed for training, else unknown")
    assert unsure > 0


def test_own_terms_and_classes(tmp_path):
    padchest = read("padchest", tmp_path, findings="own")
    assert padchest.findings.labels[-1] == padchest.findings.none == "normal"
    assert "pulmonary fibrosis" in padchest.findings.labels
    assert padchest.frame["pulmonary fibrosis"].tolist()[1] == 1
    vindr = read("vindr", tmp_path, findings="own")
    assert vindr.findings.labels == (
        "Cardiomegaly",
        "Nodule/Mass",
        "Pleural effusion",
        "Pulmonary fibrosis",
        "No finding",
    )
    assert vindr.frame["Nodule/Mass"].tolist() == [0, 1, 0]
    assert read("siim", tmp_path, findings="own").findings.labels == ("Pneumothorax",)
