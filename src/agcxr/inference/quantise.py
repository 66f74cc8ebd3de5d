"""An exported file computed in 8-bit integers (int8): which convolutions, their ranges from films, and what it costs.

Weights are rounded channel by channel, feature maps by the range that they have on films. The first and the last
convolution of a branch stay in float32: the first magnifies what its input is rounded by, and heatmaps are made of
what the last gives. Where answers move too far, a fifth of them stays so: errors of the first go through all others.

Shape suffixes: N films, S side of the prepared film.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agcxr.data.prepared import open_prepared
from agcxr.extras import needs
from agcxr.inference.onnx_engine import KEY, Facts, OnnxPredictor, Quantised, QuantisedBranches
from agcxr.inference.onnx_file import IR_VERSION
from agcxr.inference.prediction import Bytes
from agcxr.inference.stream import BatchPrediction, PreparedFilm, each_film, read_ahead
from agcxr.machine import cores
from agcxr.metrics import box_iou

FEWEST, MOST = 16, 256
"""Films to calibrate and to check on, together."""
BATCH = 8
FOLLOW = ("Add", "Clip", "MaxPool", "Pad", "Relu")
"""Operators that compute in integers where all that they take comes from a convolution that does."""
SAME = 1e-6
"""Of the film's side: boxes whose edges differ by no more are the same."""
NEAR = 0.8
"""Intersection over union from which two boxes are near each other."""
NEAR_FILMS = 0.95
"""Share of films whose boxes have to be near, where the global branch is quantised."""
EARLY = (0.0, 0.2)
"""Shares of a branch's convolutions, from the first on, that stay in float32 (the first always does); the first share
that keeps to the tolerance is taken."""

_BRANCH = re.compile(r"members\.(\d+)\.model\.(global|local)_branch\.")


@dataclass(frozen=True)
class Int8:
    """What is asked for. films: paths of films, folders, archives, or one prepared folder. tolerance: see Quantised."""

    films: tuple[str, ...]
    branches: QuantisedBranches = "local"
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.tolerance <= 1:
            raise ValueError(f"the tolerance of int8 is {self.tolerance}; expected a share over 0, at most 1 (0.01)")


def calibration_films(paths: Sequence[str], size: int) -> Bytes:
    """Up to MOST films as the model takes them, N x S x S: of a prepared folder its training films, spread evenly.

    Raises ValueError where there are fewer than FEWEST that can be read, or a prepared folder is of another size.
    """
    if len(paths) == 1 and (Path(paths[0]) / "plan.json").is_file():
        film_NSS = _prepared(paths[0], size)
    else:
        films = [film for path in paths for film in each_film(path)]
        with ThreadPoolExecutor(cores()) as readers:
            read = read_ahead(_spread(films), size, 0, readers, MOST)
            images = [film.image_SS for film in read if isinstance(film, PreparedFilm)]
        film_NSS = np.stack(images) if images else np.zeros((0, size, size), np.uint8)
    if len(film_NSS) < FEWEST:
        raise ValueError(
            f"{len(film_NSS)} films to calibrate on could be read; expected at least {FEWEST}, better {MOST}, like "
            "those that the model is for (--calibrate-on FOLDER)"
        )
    return film_NSS


def _prepared(folder: str, size: int) -> Bytes:
    prepared = open_prepared(folder)
    if prepared.plan.size != size:
        raise ValueError(
            f"{folder} holds films of {prepared.plan.size} pixels and the model takes {size}; give the films "
            f"themselves, or a folder prepared with --size {size}"
        )
    rows = np.flatnonzero(prepared.index["split"].to_numpy() == "train")
    return np.asarray(prepared.images[_spread(rows)] if len(rows) else prepared.images[:0])


def _spread(items: Any) -> Any:
    return items[:: -(-len(items) // MOST)] if len(items) else items


def quantise(source: Path, target: Path, film_NSS: Bytes, branches: QuantisedBranches, tolerance: float) -> Quantised:
    """An exported float32 file -> the same with the convolutions of its branches in int8, and what that moved.

    film_NSS: uint8 N x S x S as prepared. Every second one gives the ranges; the others tell what is moved.

    Raises ValueError where it is moved beyond the tolerance, or nothing can be quantised; `target` is then not whole.
    """
    ranges_NSS, check_NSS = film_NSS[::2], film_NSS[1::2]
    plain = OnnxPredictor(source)
    expected = plain.predict_arrays(check_NSS, batch_size=BATCH)
    cut_K = None if plain.scale is None else plain.scale.cut.score_K
    for early in EARLY:
        count = _write(source, target, ranges_NSS, branches, early)
        _finish(source, target, plain.facts)
        answers = OnnxPredictor(target).predict_arrays(check_NSS, batch_size=BATCH)
        known = Quantised(branches=branches, convolutions=count, films=len(ranges_NSS), tolerance=tolerance)
        quantised = moved(expected, answers, cut_K, known)
        if not beyond(quantised):
            _finish(source, target, plain.facts.model_copy(update={"quantised": quantised}))
            return quantised
    local = "leave the global branch in float32 (--branches local), " if branches == "both" else ""
    raise ValueError(
        f"in int8 the model's answers move beyond the tolerance, so nothing is kept: {beyond(quantised)} "
        f"({quantised.checked} films that gave no ranges). Give more films like those it is for, allow more "
        f"(--tolerance), {local}or leave the file in float32"
    )


def moved(
    plain: BatchPrediction, rounded: BatchPrediction, cut_K: npt.NDArray[np.float64] | None, known: Quantised
) -> Quantised:
    """`known` with what was measured. cut_K: thresholds of the fusion's score; NaN or infinite for no call."""
    gap_NK = np.abs(rounded.fusion_NK.astype(np.float64) - plain.fusion_NK)
    calls = None
    if cut_K is not None and np.isfinite(cut_K).any():
        has_cut_K = np.isfinite(cut_K)
        called, before = ((each.fusion_NK >= cut_K)[:, has_cut_K] for each in (rounded, plain))
        calls = float((called != before).mean())
    edge_N = np.abs(rounded.box_N4 - plain.box_N4).max(1)
    same_N = (edge_N <= SAME) & (plain.fallback_N == rounded.fallback_N)
    return known.model_copy(
        update={
            "checked": len(plain),
            "probability": float(gap_NK.mean()),
            "probability_99": float(np.quantile(gap_NK, 0.99)),
            "calls": calls,
            "same_boxes": float(same_N.mean()),
            "near_boxes": float((box_iou(rounded.box_N4, plain.box_N4) >= NEAR).mean()),
        }
    )


def beyond(measured: Quantised) -> str:
    """What is over the tolerance, in words; empty where nothing is."""
    limit, reasons = measured.tolerance, []
    if not measured.probability <= limit:
        reasons.append(f"probabilities move by {measured.probability:.4f} on average, allowed are {limit:g}")
    if measured.calls is not None and not measured.calls <= limit:
        reasons.append(f"{measured.calls:.2%} of calls change, allowed are {limit:.2%}")
    if measured.branches == "local" and measured.same_boxes < 1:
        reasons.append(f"{1 - measured.same_boxes:.1%} of boxes differ, and none should")
    if measured.near_boxes < NEAR_FILMS:
        reasons.append(f"{measured.near_boxes:.1%} of boxes stay near, expected are {NEAR_FILMS:.0%}")
    return "; ".join(reasons)


def _write(source: Path, target: Path, film_NSS: Bytes, branches: QuantisedBranches, early: float) -> int:
    """Write the quantised graph; how many convolutions are in int8. Raises ValueError where none can be."""
    try:
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise ValueError(f"{needs('an exported file in int8', 'export')} ({error})") from error
    with tempfile.TemporaryDirectory() as folder, _quiet():
        folded = Path(folder) / "folded.onnx"
        _fold(source, folded)
        graph = onnx.load(folded)
        names = _chosen(graph.graph, branches, early)
        count = sum(node.op_type == "Conv" and node.name in names for node in graph.graph.node)
        if not count:
            raise ValueError(
                "the network has no convolutions to compute in int8 between its first and its last; export it in fp32"
            )
        quantize_static(
            folded,
            target,
            _films(film_NSS),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", *FOLLOW],
            nodes_to_quantize=sorted(names),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
    return count


def _fold(source: Path, target: Path) -> None:
    """What does not depend on the film is computed, and batch norms are folded into the convolutions before them."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = os.fspath(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _chosen(graph: Any, branches: QuantisedBranches, early: float) -> set[str]:
    """Names of the nodes that compute in int8."""
    weights: dict[tuple[str, ...], list[str]] = {}  # of each branch of each member, in the order of computation
    for node in graph.node:
        if node.op_type == "Conv" and (branch := _BRANCH.search(node.input[1])):
            known = weights.setdefault(branch.groups(), [])
            if node.input[1] not in known:  # several views share them
                known.append(node.input[1])
    taken = {
        weight
        for (_, branch), of_branch in weights.items()
        if branches == "both" or branch == "local"
        for weight in of_branch[max(1, round(early * len(of_branch))) : -1]
    }
    names, rounded = set(), set()
    for node in graph.node:
        follows = node.op_type in FOLLOW and all(each in rounded for each in _tensors(node))
        if follows or (node.op_type == "Conv" and node.input[1] in taken):
            names.add(node.name)
            rounded.update(node.output)
    return names


def _tensors(node: Any) -> Sequence[str]:
    """What it takes, without the numbers that say how."""
    return list(node.input) if node.op_type == "Add" else list(node.input[:1])


def _films(film_NSS: Bytes) -> Any:
    """As ONNX Runtime asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Films(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self._batches: Iterator[Bytes] = _batched(film_NSS)

        def get_next(self) -> dict[str, Bytes] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"films": batch}

    return Films()


def _batched(film_NSS: Bytes) -> Iterator[Bytes]:
    return (np.ascontiguousarray(film_NSS[start : start + BATCH]) for start in range(0, len(film_NSS), BATCH))


def _finish(source: Path, target: Path, facts: Facts) -> None:
    """What the tools left out or put in: name, meanings and metadata are those of the float32 file, `facts` apart; of
    operators only ONNX's own are asked for."""
    import onnx

    plain, model = onnx.load(source, load_external_data=False), onnx.load(target)
    model.ir_version, model.doc_string = IR_VERSION, plain.doc_string
    model.producer_name, model.producer_version = plain.producer_name, plain.producer_version
    for name in ("metadata_props", "opset_import"):
        model.ClearField(name)
        getattr(model, name).extend(getattr(plain, name))
    for prop in model.metadata_props:
        if prop.key == KEY:
            prop.value = facts.to_json()
    for output, described in zip(model.graph.output, plain.graph.output, strict=True):
        output.doc_string = described.doc_string
    for node in model.graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    onnx.save(model, target)


@contextmanager
def _quiet() -> Iterator[None]:
    """The tools advise, on the root logger, to prepare the file as `_fold` does, and warn of channels of zeros."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    finally:
        logging.disable(logging.NOTSET)
