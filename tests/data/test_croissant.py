"""croissant.json of a prepared folder."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agcxr.data.phantom_collection import write_phantom
from agcxr.data.prepare import prepare_nih
from agcxr.data.prepared import read_plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("croissant")
    films = write_phantom(root / "phantom", n=8, size=128)
    prepare_nih(films / "images", films / "Data_Entry_2017_v2020.csv", root / "prepared")
    return root / "prepared"


def test_files_are_named_by_their_hashes(folder: Path):
    found = json.loads((folder / "croissant.json").read_text(encoding="utf-8"))
    assert found["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    assert {file["@id"]: file["sha256"] for file in found["distribution"]} == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("images.npy", "index.parquet", "boxes.parquet")
    }


def test_columns_are_those_of_the_tables_with_their_types(folder: Path):
    found = json.loads((folder / "croissant.json").read_text(encoding="utf-8"))
    films = found["recordSet"][0]["field"]
    assert [field["source"]["extract"]["column"] for field in films] == list(pd.read_parquet(folder / "index.parquet"))
    kinds = {field["name"]: field["dataType"] for field in films}
    assert (kinds["image_id"], kinds["Mass"], kinds["width"]) == ("sc:Text", "sc:Float", "sc:Integer")
    ids = [field["@id"] for records in found["recordSet"] for field in records["field"]]
    assert len(set(ids)) == len(ids)
    assert not any(" " in name for name in ids)


def test_no_patient_is_named_and_the_counts_are_the_plans(folder: Path):
    text = (folder / "croissant.json").read_text(encoding="utf-8")
    plan = read_plan(folder)
    assert f"{plan.counts.prepared:,} chest films of {plan.size} x {plan.size} pixels" in text
    index = pd.read_parquet(folder / "index.parquet")
    assert not any(name in text for name in index["image_id"])
    assert np.load(folder / "images.npy", mmap_mode="r").shape[0] == plan.counts.prepared
