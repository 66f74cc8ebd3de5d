"""`agcxr train` and `predict` as docs/scale.md says: two processes that torchrun starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import write_prepared

from agcxr.config import to_yaml
from agcxr.models.checkpoint import read_card
from agcxr.training.run_folder import RunFolder

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: training refuses two processes")
def test_train_by_torchrun_gives_the_weights_of_one_process(tmp_path):
    """All stages, the third too; the run is whole, and calibrated once."""
    prepared = write_prepared(tmp_path / "prepared", unknown=False)
    for devices, start in ((1, ("-m",)), (2, TORCHRUN)):
        to_yaml(tiny.shared_config(devices=devices), tmp_path / f"{devices}.yaml")
        words = ["--data", prepared, "--out", tmp_path / str(devices), "--config", tmp_path / f"{devices}.yaml"]
        done = subprocess.run(
            [sys.executable, *start, "agcxr", "train", *map(str, words)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Next: agcxr evaluate") == 1
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("1", "2"))
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-5, rtol=0)
    assert RunFolder(tmp_path / "2").finished()
    assert read_card(Path(tmp_path / "2" / "model" / "config.json")).calibration is not None
