"""Several prepared folders as one: what a joined index says, and what cannot be joined."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from agcxr.data.dataset import films as part_of
from agcxr.data.join import join, write_joined
from agcxr.data.prepared import Prepared, Source, open_prepared, read_plan
from agcxr.data.storing import Storing
from agcxr.data.table import prepare_table
from agcxr.findings import CHESTXRAY14, CXR_LT_30, Findings, read_findings

SIDE = 32


def folder(
    root: Path, name: str, columns: dict[str, list[object]], *, whose: str | None = None, size: int = SIDE, **options
) -> Path:
    """A prepared folder of films of one grey value each, patients 0, 1, ... of two films; `whose`: its collection."""
    films = len(next(iter(columns.values())))
    source = root / f"{name} source"
    source.mkdir()
    for n in range(films):
        cv2.imwrite(str(source / f"{n:02}.png"), np.full((SIDE, SIDE), 4 * n + len(name), np.uint8))
    table = pd.DataFrame(
        {"file": [f"{n:02}.png" for n in range(films)], "who": [n // 2 for n in range(films)]} | columns
    )
    table.to_csv(source / "labels.csv", index=False)
    out = root / name
    prepare_table(
        source / "labels.csv",
        source,
        out,
        image_column="file",
        patient_column="who",
        storing=Storing(size=size),
        **options,
    )
    if whose is not None:
        say(out, source=Source(name=whose, collection=whose))
    return out


def say(out: Path, **fields: object) -> None:
    """Change the plan of a folder."""
    plan = read_plan(out).model_copy(update=fields)
    (out / "plan.json").write_text(plan.model_dump_json())


@pytest.fixture
def two(tmp_path) -> tuple[Path, Path]:
    """`a` states Mass and Effusion, `bb` Pleural Effusion and Fracture; both have patients 0 to 9, films 00 to 19."""
    a = folder(tmp_path, "a", {"Mass": [0, 1] * 10, "Effusion": [0, 0, 1, 1] * 5})
    b = folder(
        tmp_path, "bb", {"Pleural Effusion": [1, 0, ""] * 6 + [1, 0], "Fracture": [0, 1] * 10, "Normal": [""] * 20}
    )
    return a, b


def test_rows_are_those_of_each_by_labels_of_both(two):
    films = join(two)
    assert films.findings.labels == (*CHESTXRAY14.labels, "Fracture")
    index = films.index
    assert index["collection"].tolist() == ["a"] * 20 + ["bb"] * 20
    assert index["image_id"].tolist()[:1] + index["image_id"].tolist()[-1:] == ["a/00.png", "bb/19.png"]
    assert index["patient"].nunique() == 20
    np.testing.assert_array_equal(index["Effusion"][20:26], np.array([1, 0, np.nan] * 2, np.float32))
    assert index["Fracture"][:20].isna().all()
    assert index["Mass"][20:].isna().all()
    assert index["Mass"][:4].tolist() == [0, 1, 0, 1]
    for part, start in zip(two, (0, 20), strict=True):
        assert films.index["split"][start : start + 20].tolist() == open_prepared(part).index["split"].tolist()
    assert films.plan.counts.prepared == 40
    assert sum(part.patients for part in films.plan.counts.parts) == 20
    assert films.plan.leak_check.clean
    assert any(
        "10 patients are called alike in a and bb, such as 0: they are taken for others" in note
        for note in films.plan.source.notes
    )


def test_pixels_stay_where_they_are(two):
    films = join(two)
    each = [open_prepared(part).images for part in two]
    assert films.images.shape == (40, SIDE, SIDE)
    assert all(isinstance(member.images, np.memmap) for member in films.members)
    rows = np.array([39, 0, 20, 19, 0])
    expected = np.stack([each[1][19], each[0][0], each[1][0], each[0][19], each[0][0]])
    np.testing.assert_array_equal(films.images[rows], expected)
    np.testing.assert_array_equal(films.images[20], each[1][0])
    np.testing.assert_array_equal(films.images[18:22], np.concatenate([each[0][18:], each[1][:2]]))
    with pytest.raises(IndexError):
        films.images[40]
    train = part_of(films, "train")
    batch = train.read(np.arange(len(train))[::-1].copy(), np.arange(len(train)))
    np.testing.assert_array_equal(batch.image_B1SS[:, 0], films.images[train.row_N[::-1]])


def test_findings_of_all_or_those_that_all_state(two):
    assert join(two, "intersection").findings.labels == ("Effusion", "No Finding")
    own = join(two, Findings.of(["Fracture", "Gout"]))
    assert own.findings.labels == ("Fracture", "Gout")
    assert own.index["Gout"].isna().all()
    assert own.index["Fracture"].notna().sum() == 20
    other = folder(two[0].parent, "c", {"Gout": [0, 1] * 5, "Normal": [0] * 10})
    with pytest.raises(ValueError, match="no finding that all of these folders state, so --findings intersection"):
        join([two[0], other], "intersection")


def test_a_written_one_opens_as_any_other(two, tmp_path):
    films = join(two)
    out = write_joined(films, tmp_path / "joined")
    again = open_prepared(out)
    assert again.plan == films.plan
    pd.testing.assert_frame_equal(again.index, films.index)
    np.testing.assert_array_equal(again.images[np.arange(40)], films.images[np.arange(40)])
    assert write_joined(films, out) == out
    with pytest.raises(ValueError, match="joins other films, or other findings of theirs, than .*; give the --data"):
        write_joined(join(two, "intersection"), out)
    moved = two[1].rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="joins the films of bb in .*bb, which are not there now; give the f"):
        open_prepared(out)
    (out / "members.json").write_text(json.dumps([str(two[0]), str(two[0])]))
    with pytest.raises(ValueError, match="a holds other films than those of bb that .*joined joins"):
        open_prepared(out)
    moved.rename(two[1])
    write_joined(join(two), out)
    assert len(open_prepared(out).index) == 40


def test_whose_patients_they_are_is_told(two):
    films = join(two)
    rows = np.array([1, 0, 38, 2])
    told = [(member.name, patients.tolist()) for member, patients in films.patients(rows)]
    assert told == [("a", ["0", "0", "1"]), ("bb", ["9"])]
    (member, patients), *more = open_prepared(two[0]).patients(rows[:2])
    assert (member.name, patients.tolist(), more) == ("table", ["0", "0"], [])


def test_boxes_are_of_the_joined_labels(two):
    boxes = pd.DataFrame({"image_id": ["00.png", "01.png"], "row": [0, 1], "finding": ["Pleural Effusion", "Fracture"]})
    boxes[["x0", "y0", "x1", "y1"]] = 0.5
    boxes.to_parquet(two[1] / "boxes.parquet")
    found = join(two).boxes
    assert found[["image_id", "row", "finding"]].to_numpy().tolist() == [
        ["bb/00.png", 20, "Effusion"],
        ["bb/01.png", 21, "Fracture"],
    ]


def test_two_folders_of_one_collection_share_its_patients(tmp_path):
    both = {"Mass": [0, 1] * 10}
    a, b = (folder(tmp_path, name, both, whose="clinic", split="test") for name in ("a", "bb"))
    with pytest.raises(ValueError, match="20 films are in two of these folders, such as clinic/00.png"):
        join([a, b])
    renamed = pd.read_parquet(b / "index.parquet").assign(image_id=[f"b{n}.png" for n in range(20)])
    renamed.to_parquet(b / "index.parquet")
    joined = join([a, b])
    assert joined.index["patient"].nunique() == 10
    assert joined.plan.source.collection == "clinic"
    renamed.assign(split="train").to_parquet(b / "index.parquet")
    with pytest.raises(ValueError, match="10 patients stand in other parts in one of these folders than in"):
        join([a, b])


def test_films_under_other_names_are_named(tmp_path):
    both = {"Pneumonia": [0, 1] * 10}
    a, b = (folder(tmp_path, name, both, whose=name) for name in ("nih", "rsna"))
    assert "nih and rsna hold films of the same patients under other names" in join([a, b]).plan.summary()


def test_what_cannot_be_joined_is_said(two, tmp_path):
    larger = folder(tmp_path, "large", {"Mass": [0, 1] * 5}, size=48)
    with pytest.raises(ValueError, match=r"a was prepared at 32 px \(.*\) and .*large at 48 px .*with the same --size"):
        join([two[0], larger])
    out = write_joined(join(two), tmp_path / "joined")
    with pytest.raises(ValueError, match="joined is joined already; give the folders that it joins"):
        join([out, two[0]])
    with pytest.raises(ValueError, match="a and .*a hold the same films; give each folder once"):
        join([two[0], two[0]])
    copy = shutil.copytree(two[0], tmp_path / "copy")
    with pytest.raises(ValueError, match="hold the same films; give each folder once"):
        join([two[0], copy])
    with pytest.raises(ValueError, match="there is nothing to join"):
        join([])


def test_cxr_lt_takes_what_means_the_same(two):
    """The 30 classes of CXR-LT 2026, by name as by the fifteen's."""
    assert read_findings("CXR-LT-30") is CXR_LT_30
    assert len(CXR_LT_30.labels) == 30
    assert CXR_LT_30.none == "Normal"
    films = join(two, CXR_LT_30)
    stated = [label for label in films.findings.labels if films.index[label].notna().any()]
    assert stated == ["Normal", "pleural effusion", "fracture", "Mass"]
    lacking = [label for label in CHESTXRAY14.labels if CHESTXRAY14.column(label, CXR_LT_30) is None]
    assert lacking == ["Infiltration", "Pneumonia", "Consolidation", "Edema", "Fibrosis"]


def test_a_joined_folder_is_a_prepared_one(two):
    films = join(two)
    assert isinstance(films, Prepared)
    target_NK = films.targets(np.arange(40), CHESTXRAY14)
    assert np.isnan(target_NK[20:, CHESTXRAY14.labels.index("Mass")]).all()
