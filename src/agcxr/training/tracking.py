"""Where the numbers of a run go beside its own metrics.csv: Lightning's loggers, by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, get_args

from agcxr.extras import needs

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

LoggerName: TypeAlias = Literal["csv", "tensorboard", "wandb", "mlflow"]
T = TypeVar("T")
OfRuns: TypeAlias = Sequence[T] | Callable[[Path], Sequence[T]]
"""Callbacks or loggers of several runs: the same ones for all, or what a function makes for each run folder."""


def of_run(given: OfRuns[T], run: Path) -> Sequence[T]:
    """Those of one run."""
    return given(run) if callable(given) else given


def check_loggers(names: Sequence[str]) -> None:
    """Raises ValueError for a name that is none, or whose package is absent; without torch."""
    for name in names:
        if name not in get_args(LoggerName):
            raise ValueError(f"there is no logger {name!r}; expected one of {', '.join(get_args(LoggerName))}")
        if name != "csv" and find_spec(name) is None:
            raise ValueError(needs(f"logging to {name}", "tracking"))


def make_loggers(loggers: Sequence[Logger | LoggerName], run: Path) -> list[Logger]:
    """Loggers as they are, and those named made for a run: files go into the run folder's `logs`, and platforms follow
    their own environment variables (WANDB_MODE, MLFLOW_TRACKING_URI, ...).

    Raises ValueError as `check_loggers`.
    """
    check_loggers([each for each in loggers if isinstance(each, str)])
    return [_make(each, run) if isinstance(each, str) else each for each in loggers]


def _make(name: LoggerName, run: Path) -> Logger:
    from lightning.pytorch import loggers

    logs = run / "logs"
    if name == "csv":
        return loggers.CSVLogger(logs, name="csv")
    if name == "tensorboard":
        return loggers.TensorBoardLogger(logs, name="tensorboard")
    if name == "wandb":
        logs.mkdir(parents=True, exist_ok=True)
        return loggers.WandbLogger(project="agcxr", name=run.name, save_dir=logs)
    if not (place := os.environ.get("MLFLOW_TRACKING_URI")):
        place = (logs / "mlflow").resolve().as_uri()
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # else MLflow asks for a database
    return loggers.MLFlowLogger(experiment_name="agcxr", run_name=run.name, tracking_uri=place)
