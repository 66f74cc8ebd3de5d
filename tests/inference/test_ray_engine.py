"""`agcxr predict` on a Ray of two cores, in processes of its own; what needs no Ray is in test_parts.py."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from agcxr.calibration import OperatingPoints
from agcxr.cli import main
from agcxr.inference import ray_engine
from agcxr.inference.parts import schema_of
from agcxr.inference.prediction import Failure
from agcxr.inference.table import Table
from agcxr.intake import Intake
from agcxr.labels import LABELS
from agcxr.models.agcnn import AGCNN
from inference.make import chest, prediction

HAVE_RAY = "the extra `ray` is not installed"

SMALL_CLUSTER = """
import os
import sys
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"  # workers are this environment, as in predict
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
from agcxr.cli import main
print(main(["predict", *sys.argv[1:]]), ray.is_initialized())
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, 12 films (one broken, two in an archive), and the table of one process."""
    root = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    AGCNN("test_resnet", image_size=64, resize=80, weights="none").save_pretrained(root / "run" / "model")
    (root / "films").mkdir(parents=True)
    for i in range(11):
        cv2.imwrite(str(root / "films" / f"{i:02}.png"), chest(120 + i, 110, seed=i))
    with zipfile.ZipFile(root / "films" / "more.zip", "w") as archive:
        for name in ("09.png", "10.png"):
            archive.write(root / "films" / name, name)
            (root / "films" / name).unlink()
    (root / "films" / "04b.png").write_bytes(b"nothing")
    (root / "films" / "notes.txt").write_text("x")
    assert main(["predict", *words(root, "plain.csv", "--explain", str(root / "pictures"))]) == 1
    return root


def words(root, out, *flags):
    return [str(root / "run"), str(root / "films"), "--out", str(root / out), "--batch-size", "2", *flags]


def environment(home):
    """Ray keeps a token in the home folder; the second is for machines that do other work too."""
    patient = {"RAY_raylet_start_wait_time_s": "120", "RAY_worker_niceness": "0"}
    return {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1", **patient}


def on_ray(made, home, *arguments):
    """The command on a cluster of two cores."""
    done = subprocess.run(
        [sys.executable, "-c", SMALL_CLUSTER, *arguments],
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    assert done.stdout.split() == ["1", "True"], done.stderr
    assert "12 films in" in done.stderr
    assert "1 could not be read" in done.stderr
    return done.stderr


def same_rows(plain, rows):
    """A film's neighbours in a batch may move the last digit."""
    assert list(rows) == list(plain)
    for column in plain:
        if column in ("image", "intake", "intake_reason", "error", "picture"):
            assert rows[column].fillna("").tolist() == plain[column].fillna("").tolist()
        else:
            atol = 0.011 if column.startswith("box_") else 2e-6
            np.testing.assert_allclose(rows[column].astype(float), plain[column], atol=atol, err_msg=column)


def test_two_actors_write_what_one_process_does(made, tmp_path):
    """With pictures, from a folder with an archive in it, into a CSV."""
    pytest.importorskip("ray", reason=HAVE_RAY)
    before = {path.name: path.stat().st_mtime_ns for path in (made / "pictures").rglob("*.png")}
    said = on_ray(
        made, tmp_path, *words(made, "two.csv", "--devices", "2", "--explain", str(made / "pictures"), "--overwrite")
    )
    assert "by 2 actors" in said
    same_rows(pd.read_csv(made / "plain.csv"), pd.read_csv(made / "two.csv"))
    after = {path.name: path.stat().st_mtime_ns for path in (made / "pictures").rglob("*.png")}
    assert len(after) == 11
    assert all(after[name] > before[name] for name in before)
    assert not (made / "two.csv.parts").exists()


@pytest.mark.slow
def test_one_actor_writes_parquet(made, tmp_path):
    pytest.importorskip("ray", reason=HAVE_RAY)
    on_ray(made, tmp_path, *words(made, "one.parquet", "--engine", "ray"))
    rows = pq.read_table(made / "one.parquet").to_pandas()
    assert rows.pop("place").tolist() == list(range(12))
    same_rows(pd.read_csv(made / "plain.csv").drop(columns="picture"), rows)


@pytest.mark.slow
def test_an_exported_file_is_shared_too(onnx_file, made, tmp_path):
    pytest.importorskip("ray", reason=HAVE_RAY)
    films = [str(onnx_file), str(made / "films"), "--batch-size", "2", "--out"]
    assert main(["predict", *films, str(made / "onnx1.csv")]) == 1
    on_ray(made, tmp_path, *films, str(made / "onnx2.csv"), "--devices", "2")
    same_rows(pd.read_csv(made / "onnx1.csv"), pd.read_csv(made / "onnx2.csv"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="its Ray ends with it only on Linux")
def test_a_killed_command_goes_on_behind_its_rows(made, tmp_path):
    pytest.importorskip("ray", reason=HAVE_RAY)
    films = tmp_path / "films"
    films.mkdir()
    for i in range(300):
        (films / f"{i:03}.png").symlink_to(made / "films" / f"{i % 9:02}.png")
    out = tmp_path / "p.csv"
    command = [str(made / "run"), str(films), "--batch-size", "1", "--devices", "2", "--out", str(out)]
    first = subprocess.Popen([sys.executable, "-c", SMALL_CLUSTER, *command], env=environment(tmp_path))
    while len(list(tmp_path.glob("p.csv.parts/0*.parquet"))) < 3:
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("p.csv.parts/0*.parquet")}
    assert 3 <= len(kept) < 75
    rows = [row for path in sorted(kept) for row in pq.read_table(path).to_pylist()]
    again = subprocess.run([sys.executable, "-c", SMALL_CLUSTER, *command], env=environment(tmp_path), check=False)
    assert again.returncode == 0
    table = pd.read_csv(out)
    assert table["image"].tolist() == [str(films / f"{i:03}.png") for i in range(300)]
    for row in rows:
        assert f"{row['prob_Mass']:.6f}" == f"{table['prob_Mass'][row['place']]:.6f}"


def test_types_of_the_columns():
    schema = schema_of(Table(LABELS, calibrated=True, also=("picture",)))
    kinds = {name: str(schema.field(name).type) for name in schema.names}
    assert kinds["place"] == "int64"
    assert kinds["prob_Mass"] == kinds["calibrated_Mass"] == "float"
    assert kinds["call_Mass"] == kinds["fallback"] == "int8"
    assert (kinds["box_x0"], kinds["plateau"], kinds["width"]) == ("double", "double", "int32")
    assert kinds["error"] == kinds["picture"] == "string"


def test_values_of_a_row():
    table = Table(LABELS, calibrated=True, also=("picture",))
    threshold = np.where([label == "Mass" for label in LABELS], np.nan, 0.5)
    cut = OperatingPoints("youden", threshold, threshold, np.array([label != "Mass" for label in LABELS]))
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


@pytest.mark.parametrize("flags", [["--engine", "ray"], ["--devices", "2"]])
def test_without_ray_the_cure_is_told(flags, monkeypatch, capsys):
    monkeypatch.setattr("agcxr.commands.find_spec", lambda name: None)
    assert main(["predict", "run", "films", "--out", "p.parquet", *flags]) == 2
    assert "needs the extra 'ray': uv pip install 'agcxr[ray]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "environ", "told"),
    [
        (["--nodes", "2"], {}, "--nodes is 2, but a Ray cluster knows its machines"),
        (["--devices", "0"], {}, "--devices is 0; expected at least 1"),
        (["--devices", "2"], {"RANK": "1", "WORLD_SIZE": "4"}, "WORLD_SIZE says that 4 processes were started"),
        ([], {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}, "start the command once, with --devices"),
        (["--devices", "2", "--out", "full"], {}, "full is a folder with files in it; give the name of a new one"),
        (["--devices", "2", "--out", "full/a"], {}, "full/a is there already; give another name, or --overwrite to"),
        (["--devices", "2", "--explain", "full"], {}, "full holds files already; give a new folder, or --overwrite to"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_starts(flags, environ, told, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(ray_engine, "_ray", lambda: None)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    for name in ("full/a", "films/a.png"):
        Path(name).parent.mkdir()
        Path(name).touch()
    assert main(["predict", "starter", "films", "--out", "p.csv", *flags]) == 2
    assert told in capsys.readouterr().err
