import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from agcxr.calibration import Cut
from agcxr.cli import main
from agcxr.inference import ray_engine
from agcxr.inference.prediction import Failure
from agcxr.inference.ray_engine import Answerer, schema_of
from agcxr.inference.table import Table
from agcxr.intake import Intake
from agcxr.labels import LABELS
from agcxr.models.agcnn import AGCNN
from inference.make import chest, prediction

HAVE_RAY = "the extra `ray` is not installed"

SMALL_CLUSTER = """
import sys
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
from agcxr.cli import main
print(main(["predict", *sys.argv[1:], "--engine", "ray"]), ray.is_initialized())
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    AGCNN("test_resnet", image_size=64, resize=80, weights="none").save_pretrained(root / "run" / "model")
    (root / "films" / "sub").mkdir(parents=True)
    for i, name in enumerate([*(f"0{i}.png" for i in range(9)), "sub/a.png", "sub/b.jpg"]):
        cv2.imwrite(str(root / "films" / name), chest(120 + i, 110, seed=i))
    (root / "films" / "04b.png").write_bytes(b"nothing")
    (root / "films" / "sub" / "notes.txt").write_text("x")
    assert main(["predict", str(root / "run"), str(root / "films"), "--out", str(root / "plain.csv")]) == 1
    return root


def same_rows(made, rows):
    """As the plain engine's, to the digits of its CSV; names of remote films are their URIs."""
    plain = pd.read_csv(made / "plain.csv")
    assert rows["place"].tolist() == list(range(12))
    assert [name.removeprefix("file://") for name in rows["image"]] == plain["image"].tolist()
    assert [name.startswith("file://") for name in rows["image"]] == [False] * 10 + [True] * 2
    assert list(rows) == ["place", *plain]
    for column in list(plain)[1:]:
        if column in ("intake", "intake_reason", "error"):
            assert rows[column].fillna("").tolist() == plain[column].fillna("").tolist()
        else:
            atol = 0.006 if column.startswith("box_") else 2e-6
            np.testing.assert_allclose(rows[column].astype(float), plain[column], atol=atol, err_msg=column)


def test_an_actor_answers_as_the_plain_engine_does(made):
    pytest.importorskip("ray", reason=HAVE_RAY)
    names = pd.read_csv(made / "plain.csv")["image"].tolist()
    names[10:] = [f"file://{name}" for name in names[10:]]
    actor = Answerer(str(made / "run"), "youden", None, 4, "cpu", 1)
    parts = [
        actor({"place": np.arange(start, start + 6), "image": np.array(names[start : start + 6], object)})
        for start in (0, 6)
    ]
    same_rows(made, pa.concat_tables(parts).to_pandas())


def on_ray(made, home, *flags):
    """The command on a cluster of two cores, in a process of its own; Ray keeps a token in the home folder."""
    films = made / "films"
    done = subprocess.run(
        [sys.executable, "-c", SMALL_CLUSTER, str(made / "run"), f"{films}/0*", f"file://{films}/sub", *flags],
        env={**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1", **PATIENT},
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "True"], done.stderr
    assert "12 films in" in done.stderr
    assert "1 could not be read" in done.stderr


PATIENT = {"RAY_raylet_start_wait_time_s": "120", "RAY_worker_niceness": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
"""For machines that do other work too, and for tests that run under `uv run`."""


def test_ray_writes_the_rows_of_the_plain_engine(made, tmp_path):
    pytest.importorskip("ray", reason=HAVE_RAY)
    on_ray(made, tmp_path, "--out", str(tmp_path / "one.parquet"))
    same_rows(made, pq.read_table(tmp_path / "one.parquet").to_pandas())


@pytest.mark.slow
def test_two_actors_write_a_folder(made, tmp_path):
    pytest.importorskip("ray", reason=HAVE_RAY)
    on_ray(made, tmp_path, "--out", str(tmp_path / "parts"), "--devices", "2", "--batch-size", "1")
    parts = [pq.read_table(path).to_pandas() for path in (tmp_path / "parts").glob("*.parquet")]
    assert len(parts) > 1
    same_rows(made, pd.concat(parts).sort_values("place"))


def test_types_of_the_columns():
    schema = schema_of(Table(LABELS, calibrated=True))
    kinds = {name: str(schema.field(name).type) for name in schema.names}
    assert kinds["place"] == "int64"
    assert kinds["prob_Mass"] == kinds["calibrated_Mass"] == "float"
    assert kinds["call_Mass"] == kinds["fallback"] == "int8"
    assert (kinds["box_x0"], kinds["width"], kinds["error"]) == ("double", "int32", "string")


def test_values_of_a_row():
    table = Table(LABELS, calibrated=True, also=("picture",))
    threshold = np.where([label == "Mass" for label in LABELS], np.nan, 0.5)
    cut = Cut("youden", threshold, threshold, np.array([label != "Mass" for label in LABELS]))
    answer = prediction(calibrated_K=np.full(15, 0.125, np.float32), cut=cut, intake=Intake("warn", ("a", "b")))
    row = dict(zip(table.columns, table.values("f.png", answer), strict=True))
    assert (row["image"], row["calibrated_Mass"], row["calibrated_Hernia"], row["call_Mass"]) == (
        "f.png",
        None,
        0.125,
        None,
    )
    assert (row["box_x0"], row["width"], row["intake"], row["intake_reason"]) == (10.0, 50, "warn", "a; b")
    assert (row["error"], row["picture"]) == (None, None)
    row = dict(zip(table.columns, table.values("f.png", Failure("f.png", "no")), strict=True))
    assert {name for name, value in row.items() if value is not None} == {"image", "error"}


def test_without_ray_the_cure_is_told(monkeypatch, capsys):
    monkeypatch.setattr("agcxr.commands.find_spec", lambda name: None)
    assert main(["predict", "run", "films", "--engine", "ray", "--out", "p.parquet"]) == 2
    assert "--engine ray needs the extra 'ray': uv pip install 'agcxr[ray]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--explain", "x"], "--engine ray writes the table only"),
        (["--dicom", "x"], "--engine ray writes the table only"),
        (["--nodes", "2"], "--nodes is 2, but a Ray cluster knows its machines"),
        (
            ["--out", "p.csv"],
            "--engine ray writes Parquet, and --out is p.csv; give a .parquet file, a folder or a URI",
        ),
        (["--out", "full"], "full is a folder with files in it; give the name of a new one"),
    ],
)
def test_what_ray_does_not_do_is_refused(flags, told, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ray_engine, "_ray", lambda: None)
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full/a").touch()
    assert main(["predict", "run", "films", "--engine", "ray", "--out", "p.parquet", *flags]) == 2
    assert told in capsys.readouterr().err


def test_uris(tmp_path):
    for name in ("b.png", "a.dcm", "notes.txt", "sub/c.PNG"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    root = f"file://{tmp_path}"
    assert list(ray_engine._remote(f"{root}/")) == [f"{root}/{name}" for name in ("a.dcm", "b.png", "sub/c.PNG")]
    assert list(ray_engine._remote(f"{root}/notes.txt")) == [f"{root}/notes.txt"]
    assert ray_engine._fetch(f"{root}/sub/c.PNG") == b"sub/c.PNG"
    with pytest.raises(ValueError, match=r"there is nothing at file://.*/d.png; expected a film, or a folder of films"):
        list(ray_engine._remote(f"{root}/d.png"))
    with pytest.raises(ValueError, match=r"nothing://x cannot be opened .*; expected s3://, gs://, hdfs:// or file://"):
        ray_engine._fetch("nothing://x")
