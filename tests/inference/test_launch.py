import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch

from agcxr.cli import main
from agcxr.inference import launch
from agcxr.inference.launch import OURS, Local, Place, Start, check_devices, place
from agcxr.inference.shards import Shard
from agcxr.models.agcnn import AGCNN
from inference.make import chest

TORCHRUN = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "id"}
SRUN = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}


def test_alone_unless_asked():
    assert place(1, 1, {}) is None
    assert place(1, 1, {"RANK": "0", "WORLD_SIZE": "1"}) is None
    # a batch script of SLURM sees these too, although it is one process
    assert place(1, 1, {"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}) is None


def test_devices_are_started():
    start = place(3, 1, {})
    assert (start.ranks, start.world) == (range(3), 3)
    assert start.launch != place(3, 1, {}).launch


def test_torchrun_and_srun_say_which_process_this_is():
    assert place(1, 1, TORCHRUN) == Place(Shard(2, 4, "id"), Local(0, 2), foreman=False)
    assert place(2, 2, TORCHRUN) == place(4, 1, TORCHRUN) == place(1, 1, TORCHRUN)
    here = {**SRUN, "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "1"}
    assert place(1, 1, here) == Place(Shard(0, 4, "7 1"), Local(0, 2), foreman=True)
    assert place(1, 1, {**TORCHRUN, **SRUN}).shard.rank == 2  # torchrun started by srun
    assert place(1, 1, {**TORCHRUN, "RANK": "0", OURS: "x"}) == Place(Shard(0, 4, "x"), Local(0, 2), foreman=False)


def test_one_process_a_node_starts_the_devices():
    two = {**SRUN, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_JOB_ID": "7"}
    assert place(4, 2, two) == Start(range(4, 8), 8, "7")
    assert place(4, 3, {"NODE_RANK": "2"}) == Start(range(8, 12), 12, "")


@pytest.mark.parametrize(
    ("devices", "nodes", "environ", "told"),
    [
        (0, 1, {}, r"--devices is 0 and --nodes 1; expected at least 1"),
        (2, 2, {}, r"nothing says which of them this is: start the command with srun or torchrun, .* NODE_RANK=0 to 1"),
        (2, 2, {"NODE_RANK": "2"}, r"nothing says which of them this is"),
        (
            3,
            1,
            TORCHRUN,
            r"WORLD_SIZE says that 4 processes were started, and --devices 3 --nodes 1 ask for 3; start one",
        ),
        (1, 1, {"RANK": "4", "WORLD_SIZE": "4"}, r"RANK is 4 and WORLD_SIZE is 4; expected a rank from 0, below"),
        (1, 1, {"RANK": "one", "WORLD_SIZE": "4"}, r"variable RANK is 'one'; expected a number, or unset it"),
    ],
)
def test_contradictions_are_errors(devices, nodes, environ, told):
    with pytest.raises(ValueError, match=told):
        place(devices, nodes, environ)


def test_devices_that_are_not_there(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(launch, "cores", lambda: 2)
    monkeypatch.setattr(launch, "_gpus", lambda: 0)
    check_devices(2, "run")
    with pytest.raises(
        ValueError, match=r"9 devices were asked for, but this machine has 2 processor cores and no GPU; "
    ):
        check_devices(9, "run")
    monkeypatch.setattr(launch, "_gpus", lambda: 4)
    check_devices(4, "run")
    with pytest.raises(ValueError, match=r"has 4 GPUs; give --devices 4 or fewer"):
        check_devices(9, "run")
    with pytest.raises(ValueError, match=r"2 processor cores"):
        check_devices(4, "model.onnx")
    assert main(["predict", "nowhere", "nothing", "--devices", "9"]) == 2
    assert "9 devices were asked for" in capsys.readouterr().err


def test_processes_and_gpus(monkeypatch):
    monkeypatch.setattr(launch, "_gpus", lambda: 0)
    assert launch._device(Local(1, 2)) is None
    monkeypatch.setattr(launch, "_gpus", lambda: 1)
    assert launch._device(Local(3, 4)) == "cuda:0"
    monkeypatch.setattr(launch, "_gpus", lambda: 4)
    assert launch._device(Local(3, 4)) == "cuda:3"
    with pytest.raises(ValueError, match=r"process 5 of its machine, which has 4 GPUs; start one process a GPU"):
        launch._device(Local(4, 5))


def test_what_a_process_says_last(tmp_path):
    log = tmp_path / "log"
    log.write_text("0 films\nagcxr predict: no folder x; expected a run\n\n")
    assert launch._last_words(2, log) == "no folder x; expected a run"
    assert (
        launch._last_words(-9, log) == "ended by SIGKILL; out of memory? Try a smaller --batch-size, or fewer --devices"
    )
    log.write_text("")
    assert launch._last_words(3, log) == "exit status 3"


# --- real processes ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, 12 films (one broken, two of one name), and the table of one process."""
    root = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    AGCNN("test_resnet", image_size=64, resize=80, weights="none").save_pretrained(root / "run" / "model")
    (root / "films" / "sub").mkdir(parents=True)
    for i, name in enumerate([*(f"{i:02}.png" for i in range(9)), "00.jpg", "sub/00.png"]):
        cv2.imwrite(str(root / "films" / name), chest(120 + i, 110, seed=i))
    (root / "films" / "04b.png").write_bytes(b"nothing")
    assert main(["predict", *words(root, "one.csv")]) == 1
    return root


def words(root, out):
    return [str(root / "run"), str(root / "films"), "--out", str(root / out), "--batch-size", "2"]


def close(a: Path, b: Path):
    """Tables that differ in the last digit at most: a film's neighbours in a batch may move it."""
    one, two = ([line.split(",") for line in path.read_text().splitlines()] for path in (a, b))
    assert [row[0] for row in one] == [row[0] for row in two]
    for left, right in zip(one, two, strict=True):
        for x, y in zip(left, right, strict=True):
            assert x == y or abs(float(x) - float(y)) <= 2e-6


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def test_two_processes_write_what_one_does(made, capsys, monkeypatch):
    monkeypatch.setattr(launch, "cores", lambda: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert main(["predict", *words(made, "two.csv"), "--devices", "2", "--explain", str(made / "pictures")]) == 1
    said = capsys.readouterr().err
    assert "12 films in" in said
    assert "1 could not be read" in said
    assert "by 2 processes" in said
    with_pictures = (made / "two.csv").read_text().splitlines()
    bare = [row.rpartition(",")[0] for row in with_pictures]
    (made / "bare.csv").write_text("\n".join(bare))
    close(made / "one.csv", made / "bare.csv")
    pictures = [row.rpartition(",")[2] for row in with_pictures[1:]]
    assert len({path for path in pictures if path}) == 11
    assert all(Path(path).is_file() for path in pictures if path)
    assert not (made / "two.csv.shards").exists()


def test_what_ails_every_process_is_said_once(made, capsys, monkeypatch):
    monkeypatch.setattr(launch, "cores", lambda: 2)
    out = made / "none.csv"
    assert main(["predict", str(made / "films"), str(made / "films"), "--out", str(out), "--devices", "2"]) == 2
    said = capsys.readouterr().err
    assert "2 of 2 processes did not finish: process 0, 1: no config.json in" in said
    assert said.count("no config.json in") == 1
    assert not out.with_name("none.csv.shards").exists()


@pytest.mark.slow
def test_torchrun_of_two_processes(made):
    """The status is that of torchrun: 1, as a film cannot be read, and told only after both are done."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "agcxr"]
    done = subprocess.run(
        [*torchrun, "predict", *words(made, "torchrun.csv")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "by 2 processes" in done.stderr
    close(made / "one.csv", made / "torchrun.csv")
    assert not (made / "torchrun.csv.shards").exists()


@pytest.mark.slow
def test_srun_of_two_tasks(made):
    tasks = [
        subprocess.Popen(
            [sys.executable, "-m", "agcxr", "predict", *words(made, "srun.csv")],
            env=environment(
                SLURM_PROCID=str(rank),
                SLURM_STEP_NUM_TASKS="2",
                SLURM_LOCALID=str(rank),
                SLURM_STEP_TASKS_PER_NODE="2",
                SLURM_JOB_ID="1",
            ),
        )
        for rank in range(2)
    ]
    assert [task.wait(300) for task in tasks] == [1, 0]
    close(made / "one.csv", made / "srun.csv")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the process to kill in /proc")
def test_a_killed_process_is_told_and_the_same_command_goes_on(made, tmp_path):
    films = tmp_path / "films"
    films.mkdir()
    for i in range(300):
        (films / f"{i:03}.png").symlink_to(made / "films" / f"{i % 9:02}.png")
    command = [sys.executable, "-m", "agcxr", "predict", str(made / "run"), str(films), "--batch-size", "1"]
    command += ["--out", str(tmp_path / "p.csv")]
    with open(tmp_path / "said", "w") as said:
        parent = subprocess.Popen([*command, "--devices", "2"], env=environment(), stderr=said)
        rows = tmp_path / "p.csv.shards" / "00001.csv"
        while not (rows.exists() and rows.stat().st_size > 5000):
            assert parent.poll() is None
            time.sleep(0.02)
        os.kill(_child(parent.pid, "RANK=1"), 9)
        assert parent.wait(300) == 2
    told = (tmp_path / "said").read_text()
    assert "1 of 2 processes did not finish: process 1: ended by SIGKILL; out of memory?" in told
    assert "finished rows are kept in" in told
    kept = rows.read_bytes()
    again = subprocess.run([*command, "--devices", "2"], env=environment(), timeout=300, check=False)
    assert again.returncode == 0
    table = (tmp_path / "p.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in table[1:]] == [str(films / f"{i:03}.png") for i in range(300)]
    assert set(kept.decode().splitlines()[:-1]) <= set(table)


def _child(parent, environ):
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"PPid:\t{parent}\n" in (entry / "status").read_text()
            if ours and environ.encode() in (entry / "environ").read_bytes().split(b"\0"):
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError("no such child")


@pytest.mark.slow
def test_an_exported_file_is_shared_too(onnx_file, made, monkeypatch):
    monkeypatch.setattr(launch, "cores", lambda: 2)
    films = ["--batch-size", "2", str(made / "films")]
    assert main(["predict", str(onnx_file), *films, "--out", str(made / "onnx1.csv")]) == 1
    assert main(["predict", str(onnx_file), *films, "--out", str(made / "onnx2.csv"), "--devices", "2"]) == 1
    one, two = ((made / name).read_text().splitlines() for name in ("onnx1.csv", "onnx2.csv"))
    assert [row.split(",")[0] for row in one] == [row.split(",")[0] for row in two]
