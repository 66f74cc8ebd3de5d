"""Which tests run: all but those marked slow (ask with --slow) and those that need a GPU where there is none."""

import importlib
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")


# `uv run pytest` alone brings what the demo needs; what else the tests need is synced here, before any of them is read.
if find_spec("mypy") is None:
    if "UV" not in os.environ:  # which `uv run` sets
        raise pytest.UsageError("the tests need the development group: `uv run pytest` brings it")
    subprocess.run([os.environ["UV"], "sync", "--inexact", "--group", "dev"], cwd=Path(__file__).parents[1], check=True)
    importlib.invalidate_caches()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow = pytest.mark.skip(reason="slow: run with --slow")
    gpu = pytest.mark.skip(reason="needs a CUDA device, and there is none")
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(slow)
        if "gpu" in item.keywords and not _cuda():
            item.add_marker(gpu)


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
