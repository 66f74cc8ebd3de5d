"""Two processes on one machine take the steps of one. The only test that starts a second process of training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import write_prepared

from agcxr.training.stages import train


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(tmp_path):
    """A network without batch norm, all labels known: equal weights in all stages, up to the order of sums."""
    prepared = write_prepared(tmp_path / "prepared", unknown=False)
    train(prepared, tiny.shared_config(devices=1), tmp_path / "one", progress=False)
    child = subprocess.run(
        [sys.executable, tiny.__file__, "--two", str(prepared), str(tmp_path / "two")],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    one, two = (_weights(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(one[key], two[key], atol=1e-5, rtol=0)


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")
