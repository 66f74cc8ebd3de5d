"""The main job on tiny films, through the same commands as users: nothing is skipped, nothing is faked."""

import csv
import json
from contextlib import nullcontext

import cv2
import numpy as np
import pandas as pd
import pytest

from agcxr import AGCNN, Predictor, config
from agcxr.cli import main
from agcxr.data.prepared import open_prepared
from agcxr.demo import Demo, check_place, run_demo
from agcxr.labels import FINDINGS, LABELS


@pytest.fixture(scope="module")
def tiny():
    """The demo's settings with one epoch a stage on small views."""
    demo = config.demo()
    return demo.model_copy(
        update={
            "image_size": 64,
            "resize": 72,
            "global_": demo.global_.model_copy(update={"epochs": 1}),
            "local": demo.local.model_copy(update={"epochs": 1}),
            "fusion": demo.fusion.model_copy(update={"epochs": 2, "cached_views": 2}),
        }
    )


@pytest.fixture(scope="module")
def demo(tiny, tmp_path_factory) -> Demo:
    return run_demo(tmp_path_factory.mktemp("demo") / "out", films=120, settings=tiny)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (
            ["a.png", "b.png", "c.png", "d.png"],
            r"holds other things than a demo \(a\.png, b\.png, c\.png, \.\.\.\); give",
        ),
        (
            ["images.npy", "phantom", "plan.json"],
            r"holds other things than a demo \(images\.npy, phantom, plan\.json\); g",
        ),
        ([], None),
        (["notes.txt", "phantom.partial"], None),
    ],
)
def test_a_demo_goes_among_no_other_files(tmp_path, held, message):
    check_place(tmp_path / "absent")
    for name in held:
        (tmp_path / name).touch()
    with nullcontext() if message is None else pytest.raises(ValueError, match=message):
        check_place(tmp_path)
    if held:
        with pytest.raises(ValueError, match="is a file; give --out a folder to make, or that of an earlier demo"):
            run_demo(tmp_path / held[0])


def test_demo_leaves_everything_it_promises(demo):
    out = demo.study.folder.parent
    assert {p.name for p in out.iterdir()} == {"phantom", "prepared", "run", "results", "explained"}
    assert {"images.npy", "index.parquet", "boxes.parquet", "rejected.csv", "plan.json"} <= _names(out / "prepared")
    assert {"config.yaml", "global", "local", "fusion", "model", "run.json"} <= _names(out / "run")
    assert {"results.json", "predictions.parquet", "report.html", "report.md", "coverage.json"} <= _names(
        out / "results"
    )
    assert len(demo.pictures) == 3
    assert all(cv2.imread(str(picture)).shape[1] >= 1200 for picture in demo.pictures)
    page = demo.study.report.html.read_text()
    assert all(finding.replace("_", " ") in page for finding in FINDINGS)
    assert "Research use only" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_results_are_those_of_the_predictions(demo):
    predictions = pd.read_parquet(demo.study.folder / "predictions.parquet")
    films = open_prepared(demo.study.folder.parent / "prepared")
    assert len(predictions) == (films.index["split"] == "test").sum() == demo.study.results.analysis.films
    card = json.loads((demo.study.folder.parent / "run/model/config.json").read_text())
    assert card["calibration"]["method"] in ("none", "temperature", "platt", "isotonic")


def test_predict_equals_evaluate_on_the_same_film(demo):
    """The same film from its file, alone, gives what evaluate wrote from the prepared array in a batch."""
    out = demo.study.folder.parent
    predictor = Predictor.from_pretrained(out / "run")
    row = pd.read_parquet(demo.study.folder / "predictions.parquet").iloc[3]
    seen = predictor(out / "phantom/images" / row["image_id"])
    expected = np.array([row[f"fusion_{label}"] for label in LABELS])
    np.testing.assert_allclose(seen.fusion_K, expected, atol=1e-5)
    np.testing.assert_allclose(np.array(seen.box) / 256, [row[f"box_{e}"] for e in ("x0", "y0", "x1", "y1")], atol=1e-6)


def test_a_second_demo_in_the_folder_keeps_what_is_there(demo, tiny):
    out = demo.study.folder.parent
    before = (out / "run/model/model.safetensors").read_bytes()
    again = run_demo(out, films=120, settings=tiny)
    assert (out / "run/model/model.safetensors").read_bytes() == before
    first, second = (
        one.study.results.analysis.model_dump_json(exclude={"resampling": {"seconds"}}) for one in (demo, again)
    )
    assert first == second


def test_the_commands_do_the_same(demo, tmp_path, capsys):
    out = demo.study.folder.parent
    films = sorted((out / "phantom/images").glob("*.png"))[:2]
    broken = tmp_path / "broken.png"
    broken.write_bytes(films[0].read_bytes()[:200])
    table = tmp_path / "predictions.csv"
    assert main(["predict", str(out / "run"), *map(str, films), str(broken), "--out", str(table)]) == 1
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [bool(row["error"]) for row in rows] == [False, False, True]
    assert main(["evaluate", str(out / "run"), "--data", str(out / "prepared"), "--resamples", "20"]) == 0
    assert "Mean of" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "--data", str(out / "prepared")])


def test_a_model_is_an_nn_module(demo):
    import torch

    model = AGCNN.from_pretrained(demo.study.folder.parent / "run").eval()
    with torch.no_grad():
        seen = model(torch.rand(2, 1, 64, 64))
    assert seen.fusion_BK.shape == (2, 15)
    assert seen.box_B4.shape == (2, 4)


def _names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}
