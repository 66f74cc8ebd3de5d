"""Two processes on one machine take the steps of one. The only test that starts a second process of training."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import write_prepared

from agcxr.labels import LABELS
from agcxr.training.stages import train


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core: training refuses two processes")
def test_two_processes_give_the_weights_of_one(tmp_path):
    """A network without batch norm: equal weights in all stages, up to the order of sums.

    Most labels of every other film are unknown, so the two processes never know as many: losses are means over the
    known labels of both.
    """
    prepared = write_prepared(tmp_path / "prepared")
    index = pd.read_parquet(prepared / "index.parquet")
    index.loc[::2, list(LABELS[2:])] = np.nan
    index.to_parquet(prepared / "index.parquet")
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
