"""The door to every model: a run, a folder of runs, a model folder, a hub id or an exported file, as an engine.

Torch is imported only where it computes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agcxr.calibration import Point, Prevalence
from agcxr.inference.engine import Engine
from agcxr.inference.ensemble import Ensemble, all_runs, own_calibration
from agcxr.inference.onnx_engine import OnnxPredictor, RuntimeName, is_exported
from agcxr.inference.prediction import Precision, ViewSet
from agcxr.preflight import check_model

if TYPE_CHECKING:
    from agcxr.inference.predictor import Predictor


def load_engine(
    model: str | os.PathLike[str],
    device: str | None = None,
    precision: Precision = "fp32",
    point: Point = "youden",
    prevalence: Prevalence | None = None,
    *,
    threads: int | None = None,
    runtime: RuntimeName = "onnxruntime",
    others: Sequence[str] = (),
    views: ViewSet = "plain",
) -> Engine:
    """What answers for `model`; with `others`, several `views`, or a folder of runs of seeds or folds, their average.

    `threads` and `runtime` are for exported files. Raises ValueError for what the engine cannot do, and for models that
    do not go together.
    """
    runs = all_runs(model, others)
    arithmetic: dict[str, Any] = {"threads": threads, "runtime": runtime}
    if len(runs) == 1 and views == "plain":
        return _load(runs[0], device, precision, point, prevalence, **arithmetic)
    own = None if others else own_calibration(model, runs, views)
    wanted = None if own else prevalence  # corrected once: in the average, or in its members
    members = [_load(run, device, precision, point, wanted, **arithmetic) for run in runs]
    return Ensemble(members, views=views, own=own, point=point, prevalence=prevalence)


def load_runs(
    model: str | os.PathLike[str],
    device: str | None = None,
    precision: Precision = "fp32",
    *,
    others: Sequence[str] = (),
    views: ViewSet = "plain",
) -> tuple[Engine, tuple[Predictor, ...]]:
    """`load_engine` for work on the networks themselves, and these. Raises ValueError for exported files."""
    from agcxr.inference.predictor import torch_members
    from agcxr.models.checkpoint import fetch

    for run in all_runs(model, others):
        fetch(run)  # says what is to be done with an exported file
    engine = load_engine(model, device, precision, others=others, views=views)
    return engine, torch_members(engine)


def _load(
    model: str,
    device: str | None,
    precision: Precision,
    point: Point,
    prevalence: Prevalence | None,
    *,
    threads: int | None,
    runtime: RuntimeName,
) -> Engine:
    if is_exported(model):
        if device not in (None, "cpu"):
            raise ValueError(f"{model} is an exported file: it answers on the CPU; for {device} give the run folder")
        return OnnxPredictor(
            model, point=point, prevalence=prevalence, threads=threads, runtime=runtime, precision=precision
        )
    if runtime != "onnxruntime":
        raise ValueError(f"{runtime} runs exported files, and {model} is none: `agcxr export {model} --out model.onnx`")
    check_model(model)
    from agcxr.inference.predictor import Predictor

    return Predictor.from_pretrained(model, device=device, precision=precision, point=point, prevalence=prevalence)
