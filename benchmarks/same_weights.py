"""Does training by two processes give the weights of one? By `python benchmarks/same_weights.py`: prints the table of
docs/scale.md. A backbone without batch norm and one with it, a few dozen synthetic films, all three stages.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from safetensors.numpy import load_file

from agcxr.inference.prediction import BRANCHES
from agcxr.training.run_folder import RunFolder

BACKBONES = {"test_convnext2": "no batch norm", "test_resnet": "batch norm"}
SETTINGS = [
    *("--preset", "demo", "--output-stride", "32", "--image-size", "64", "--resize", "72", "--precision", "fp32"),
    *("--global.epochs", "2", "--local.epochs", "2", "--fusion.epochs", "2"),
    *("--global.batch-size", "8", "--local.batch-size", "8", "--fusion.batch-size", "8"),
]


def main() -> None:
    print("| backbone | largest difference of a weight | validation AUROC, one process | two processes |")
    print("| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        data = _films(Path(folder))
        for backbone, note in BACKBONES.items():
            one, two = (_train(data, Path(folder) / f"{backbone}-{n}", backbone, n) for n in (1, 2))
            print(f"| `{backbone}`, {note} | {_gap(one, two):.1g} | {_aurocs(one)} | {_aurocs(two)} |", flush=True)
    print(f"\ntorch {version('torch')}, {os.cpu_count()} cores, one thread a process")


def _films(folder: Path) -> Path:
    """68 to train on: the last step of an epoch, of 4 films, can be dealt out too."""
    raw = folder / "P"
    _agcxr("phantom", "--out", raw, "-n", "100", "--size", "72", "--seed", "3")
    given = ("--images", raw / "images", "--labels", raw / "Data_Entry_2017_v2020.csv", "--lists", raw)
    _agcxr("prepare", "nih", *given, "--split", "official", "--size", "72", "--out", folder / "D")
    return folder / "D"


def _train(data: Path, out: Path, backbone: str, devices: int) -> Path:
    _agcxr("train", "--data", data, "--out", out, *SETTINGS, "--backbone", backbone, "--devices", devices)
    return out


def _gap(one: Path, two: Path) -> float:
    """Over all weights and running statistics of the three branches."""
    first, second = (load_file(run / "model" / "model.safetensors") for run in (one, two))
    return max(float(abs(first[name].astype(float) - second[name]).max()) for name in first)


def _aurocs(run: Path) -> str:
    """Of the best epoch of each stage."""
    done = (RunFolder(run).done(stage) for stage in BRANCHES)
    return " / ".join(f"{stage.val_auc:.4f}" for stage in done if stage is not None)


def _agcxr(*words: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agcxr", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"agcxr {words[0]} ended with status {done.returncode}: {done.stderr.strip()[-800:]}")


if __name__ == "__main__":
    main()
