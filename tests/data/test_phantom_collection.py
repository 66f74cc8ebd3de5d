"""Collections of synthetic films: prevalences, the NIH's files, and the same bytes from the same seed."""

from __future__ import annotations

import csv
import hashlib
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from agcxr.data import nih
from agcxr.data.phantom_collection import PREVALENCE, plan_films, write_phantom
from agcxr.labels import FINDINGS, canonical


def test_plan_keeps_prevalences_company_and_persistence() -> None:
    orders = plan_films(12_000, seed=1)
    share = {name: np.mean([name in order.findings for order in orders]) for name in FINDINGS}
    for name, expected in PREVALENCE.items():
        assert share[name] == pytest.approx(expected, abs=0.02)
    assert 0.54 < np.mean([bool(order.findings) for order in orders]) < 0.66
    both = np.mean([{"Cardiomegaly", "Edema"} <= set(order.findings) for order in orders])
    assert both > 3 * share["Cardiomegaly"] * share["Edema"]
    pairs = [(a, b) for a, b in pairwise(orders) if a.number == b.number]
    kept = sum(len(set(a.findings) & set(b.findings)) for a, b in pairs) / sum(len(a.findings) for a, _ in pairs)
    assert 0.7 < kept < 0.95
    assert all(a.patient.seed == b.patient.seed and b.follow_up == a.follow_up + 1 for a, b in pairs)


def test_prevalence_can_be_set() -> None:
    assert not any(order.findings for order in plan_films(200, prevalence=0.0))
    only = plan_films(2000, prevalence={**dict.fromkeys(FINDINGS, 0.0), "Hernia": 0.5})
    assert {name for order in only for name in order.findings} == {"Hernia"}
    assert np.mean([bool(order.findings) for order in only]) == pytest.approx(0.5, abs=0.06)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("phantom"), 40, seed=5, size=96, workers=1, progress=False)


def test_collection_is_laid_out_as_the_nih_does(collection: Path) -> None:
    entry = (collection / "Data_Entry_2017_v2020.csv").read_text()
    header, *lines = entry.splitlines()
    assert header == (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
        "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    assert len(lines) == 40
    assert entry.endswith("\n")
    names = [line.split(",")[0] for line in lines]
    assert names[0] == "00000001_000.png"
    assert sorted(path.name for path in (collection / "images").iterdir()) == sorted(names)
    for line in lines:
        cells = line.split(",")
        assert len(cells) == 11
        assert cells[5] in ("M", "F")
        assert cells[6] in ("PA", "AP")
        labels = cells[1].split("|")
        assert labels == ["No Finding"] or labels == sorted(set(labels) & set(FINDINGS))
        assert 300 < float(cells[9]) * 96 < 400  # the film's side in millimetres
    image = cv2.imread(str(collection / "images" / names[0]), cv2.IMREAD_UNCHANGED)
    assert image is not None
    assert image.shape == (96, 96)
    assert image.dtype == np.uint8


def test_who_is_filmed_stays_the_same_from_version_to_version(collection: Path) -> None:
    """Published numbers name a seed. The pixels are not pinned: their last bits depend on the processor."""
    tables = [collection / name for name in ("Data_Entry_2017_v2020.csv", "train_val_list.txt", "test_list.txt")]
    found = hashlib.sha256(b"".join(path.read_bytes() for path in tables)).hexdigest()
    assert found == "3ecd61071eabc88551ad163aefc9b21a77ffb71bc8eca24cf280420d097c90d6"


def test_lists_share_no_patient(collection: Path) -> None:
    train, test = ((collection / name).read_text() for name in ("train_val_list.txt", "test_list.txt"))
    assert not train.endswith("\n")
    assert not test.endswith("\n")
    inside, outside = train.split("\n"), test.split("\n")
    assert len(inside) + len(outside) == 40
    assert 8 <= len(outside) <= 15
    assert not {name[:8] for name in inside} & {name[:8] for name in outside}


def test_boxes_cover_every_label_and_no_other(collection: Path) -> None:
    header, *lines = (collection / "BBox_List_2017.csv").read_text().splitlines()
    assert header == "Image Index,Finding Label,Bbox [x,y,w,h],,,"
    boxed: dict[str, set[str]] = {}
    for line in lines:
        name, label, *xywh = line.split(",")
        assert label != "Infiltration"
        x, y, w, h = map(float, xywh)
        assert x >= 0
        assert y >= 0
        assert w > 0
        assert h > 0
        assert x + w <= 1024.001
        assert y + h <= 1024.001
        boxed.setdefault(name, set()).add(canonical(label) or "")
    entry = (collection / "Data_Entry_2017_v2020.csv").read_text().splitlines()[1:]
    labelled = {c[0]: set(c[1].split("|")) for c in (line.split(",") for line in entry) if c[1] != "No Finding"}
    assert boxed == labelled
    with open(collection / "lesions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(lines)
    assert list(rows[0]) == ["image", "finding", "x", "y", "w", "h", "diameter_cm"]


def test_places_are_on_films_with_nodules_and_without(collection: Path) -> None:
    """The label says nothing of the place: all of a patient's films have theirs alike, and as many."""
    places, boxes = (nih.read_boxes(collection / name).frame for name in ("places.csv", "BBox_List_2017.csv"))
    assert set(places["finding"]) == {"Nodule"}
    assert places["image_id"].nunique() == 40
    drawn = boxes[boxes["finding"] == "Nodule"].reset_index(drop=True)
    ill = places[places["image_id"].isin(drawn["image_id"])].reset_index(drop=True)
    assert 0 < drawn["image_id"].nunique() < 40
    pd.testing.assert_frame_equal(ill, drawn)
    count = places.groupby("image_id").size()
    assert all(group.nunique() == 1 for _, group in count.groupby(count.index.str[:8]))


def test_number_of_workers_changes_nothing(collection: Path, tmp_path: Path) -> None:
    parallel = write_phantom(tmp_path / "two", 40, seed=5, size=96, workers=2, progress=False)
    files = sorted(path.relative_to(collection) for path in collection.rglob("*") if path.is_file())
    assert len(files) == 47
    assert (collection / "collection.txt").read_text() == "phantom, seed 5\n"
    for path in files:
        assert (collection / path).read_bytes() == (parallel / path).read_bytes(), path


def test_a_longer_collection_begins_with_the_shorter_one(collection: Path, tmp_path: Path) -> None:
    short = write_phantom(tmp_path / "short", 3, seed=5, size=96, workers=1, progress=False)
    for path in (short / "images").iterdir():
        assert path.read_bytes() == (collection / "images" / path.name).read_bytes()


def test_an_interrupted_call_leaves_no_folder_that_looks_finished(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("agcxr.data.phantom_collection._write_tables", stop)
        with pytest.raises(KeyboardInterrupt):
            write_phantom(tmp_path / "made", 4, seed=6, size=96, workers=1, progress=False)
    assert not (tmp_path / "made").exists()
    made = write_phantom(tmp_path / "made", 3, seed=5, size=96, workers=1, progress=False)
    assert not (tmp_path / "made.partial").exists()
    assert len(list((made / "images").iterdir())) == 3
    for path in (made / "images").iterdir():
        assert path.read_bytes() == (collection / "images" / path.name).read_bytes()


def test_writing_refuses_a_full_folder_and_odd_shares(collection: Path, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="holds films already; give another folder or remove it"):
        write_phantom(collection, 2, size=96, progress=False)
    with pytest.raises(ValueError, match=r"the folder to make is \.; give it a name of its own, such as phantom"):
        write_phantom(".", 2, progress=False)
    with pytest.raises(ValueError, match="test_share 1.2 is not a share"):
        write_phantom(tmp_path / "x", 2, test_share=1.2, progress=False)
    assert not (tmp_path / "x").exists()


def test_odd_plans_are_named() -> None:
    with pytest.raises(ValueError, match="n = 0 films were asked for"):
        plan_films(0)
    with pytest.raises(ValueError, match="prevalence of Mass is 1.5; expected a share"):
        plan_films(3, prevalence={"Mass": 1.5})
    with pytest.raises(ValueError, match="prevalence of an unknown finding 'Flu'"):
        plan_films(3, prevalence={"Flu": 0.1})
