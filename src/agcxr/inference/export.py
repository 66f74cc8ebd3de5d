"""A whole model as one ONNX file: a gray film of any size in; probabilities, box, heatmap and crop out.

Everything between is inside the file: the resize rule, the view, normalisation, both branches, the connected region,
the crop, the fusion and its calibration. What is written has been compared with the eager model first.

Shape suffixes: B films, H x W their pixels.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agcxr.data.radiograph import RESIZE_RULE
from agcxr.extras import needs
from agcxr.inference.engine import Engine
from agcxr.inference.export_network import Whole, average_of
from agcxr.inference.load import load_runs
from agcxr.inference.onnx_engine import KEY, OUTPUTS, SUFFIX, Facts, Quantised
from agcxr.inference.onnx_file import IR_VERSION, OLDEST_RUNTIME, OPSET
from agcxr.inference.parity import Parity, compare, made_films
from agcxr.inference.prediction import Bytes, ViewSet
from agcxr.inference.predictor import Predictor, torch_members
from agcxr.inference.quantise import Int8, calibration_films, quantise

LARGEST = 2**31 - 2**20
"""Bytes of weights that one ONNX file can hold (protobuf's limit is 2 GB)."""

SMALL = 512
"""Numbers of a tensor that is not worth a cast."""

MEANINGS = {
    "global": "B x K float32: probabilities of the global branch (sigmoids), in the order of the labels",
    "local": "B x K float32: probabilities of the local branch",
    "fusion": "B x K float32: probabilities of the fusion, not calibrated",
    "calibrated": "B x K float32: calibrated probabilities of the fusion",
    "box": "B x 4 float32: attended region (x0, y0, x1, y1) in pixels of the given film, exclusive end",
    "fallback": "B bool: no region stood out, so the box is the whole view",
    "heat": "B x V x V float32 in [0, 1]: attention on the grid of the view (metadata: window)",
    "crop": "B x V x V uint8: what the local branch saw",
    "pooled_global": "B x D float32: pooled features of the global branch",
    "prepared": "B x S x S uint8: the film after the resize rule",
}
OF_SEVERAL = {
    "boxes": "B x R x 4 float32: all attended regions as `box`, the first of them; without area where there are fewer",
    "weights": "B x R float32: how much of what the local branch says is of each, the sum of a row 1; 0 where none is",
}
"""Given only by a file whose model takes several boxes."""
OF_AVERAGE = {"looks": "B x L x K float32: `fusion` of each model and view, whose average it is"}
"""Given only by a file that holds an average."""


@dataclass(frozen=True)
class Exported:
    """What an export wrote, and how near it is to the eager model."""

    path: Path
    size: int
    """Bytes."""
    parity: Parity
    rounding: float | None = None
    """With `half`: by how much the rounded weights moved a probability at most, on the made films."""
    quantised: Quantised | None = None
    """With `int8`: what it moved. `parity` is then of the file before."""

    def __str__(self) -> str:
        if self.quantised is not None:
            return f"{self.path} ({self.size / 1e6:,.1f} MB). {self.quantised}. Before, in float32: {self.parity}"
        if self.rounding is None:
            return f"{self.path} ({self.size / 1e6:,.0f} MB). {self.parity}"
        moved = f"its weights are rounded, which moves the model's own probabilities by {self.rounding:.1e} at most"
        return f"{self.path} ({self.size / 1e6:,.1f} MB; {moved}). {self.parity}"


def export(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    others: Sequence[str] = (),
    views: ViewSet = "plain",
    half: bool = False,
    int8: Int8 | None = None,
) -> Exported:
    """Write a run, a model folder or a hub model as one ONNX file (float32); or an average of several models and views,
    all in the one file (see `load.load_engine`).

    half: the weights of convolutions and linear layers are rounded to half precision and stored so, in half the bytes;
        all is computed in float32. The file is compared with the eager model of the same rounded weights.
    int8: convolutions in 8-bit integers (see quantise.py). The float32 file is compared as ever, then quantised, and
        what that moves is measured on films.

    Raises:
        ValueError: `out` is not called *.onnx; there is no such model; a network too large for one file, or that
            cannot be expressed; the file does not answer as the eager model does; or in int8 beyond its tolerance.
            Nothing is written then.
    """
    target = Path(out)
    if target.suffix.lower() != SUFFIX:
        raise ValueError(f"the exported file is to be called {target.name!r}; expected a name that ends in {SUFFIX}")
    if half and int8:
        raise ValueError("weights are stored in half precision or in int8, not in both; leave --half out")
    engine, predictors = load_runs(run, "cpu", others=others, views=views)
    film_NSS = calibration_films(int8.films, engine.prepared_size) if int8 else None
    weights = sum(p.numel() * p.element_size() for one in predictors for p in one.model.parameters())
    if weights > LARGEST:
        of = f"the weights of the {len(predictors)} models" if len(predictors) > 1 else "the weights"
        raise ValueError(f"{of} have {weights / 1e9:.1f} GB; one ONNX file holds at most {LARGEST / 1e9:.1f} GB")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial, rounded = (target.with_name(f"{target.stem}.{name}{SUFFIX}") for name in ("partial", "partial-int8"))
    films = made_films(engine.prepared_size)
    rounding = _round(engine, predictors, films[0]) if half else None
    try:
        write(engine, partial, half=half)
        parity = compare(partial, engine, films)
        if not parity.good:
            raise ValueError(
                f"the exported file does not answer as the eager model does, so it is not kept: {parity}. "
                "Please report this, with the versions of torch, onnxscript and onnxruntime"
            )
        quantised = None
        if int8 and film_NSS is not None:
            quantised = quantise(partial, rounded, film_NSS, int8.branches, int8.tolerance)
            _check(rounded)
            rounded.replace(partial)
        partial.replace(target)
    finally:
        for file in (partial, rounded):
            file.unlink(missing_ok=True)
    return Exported(target, target.stat().st_size, parity, rounding, quantised)


def _round(engine: Engine, predictors: Sequence[Predictor], film_NSS: Bytes) -> float:
    """Round the weights of the models to half precision in place; by how much that moves a probability of these films.
    Raises ValueError where a weight is too large for it."""
    plain = engine.predict_arrays(film_NSS)
    with torch.no_grad():
        for name, weight in (
            pair for each in predictors for pair in each.model.named_parameters() if pair[1].dim() > 1
        ):
            half = weight.half()
            if not half.isfinite().all():
                raise ValueError(
                    f"half precision ends at 65,504, and {name} has weights over it; export without --half"
                )
            weight.copy_(half)
    rounded = engine.predict_arrays(film_NSS)
    branches = ("global_NK", "local_NK", "fusion_NK")
    return max(float(np.abs(getattr(rounded, name) - getattr(plain, name)).max()) for name in branches)


def write(engine: Engine, path: Path, *, half: bool = False) -> None:
    """Write the file without comparing it. The models must be on the CPU. half: store what half precision holds exactly
    in it. Raises ValueError as `export`."""
    network = Whole(engine).eval()
    missing = ({"looks"} if average_of(engine) is None else set()) | (set() if engine.calibrated else {"calibrated"})
    missing |= set(OF_SEVERAL) if engine.crops == 1 else set()
    names = [name for name in OUTPUTS if name not in missing]
    side = engine.prepared_size
    films_BHW = torch.zeros(2, side + 3, side + 5, dtype=torch.uint8)
    axes = {i: torch.export.Dim(name, min=1) for i, name in enumerate(("batch", "height", "width"))}
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                network,
                (films_BHW,),
                dynamic_shapes=(axes,),
                input_names=["films"],
                output_names=names,
                opset_version=OPSET,
                dynamo=True,
                optimize=False,
                verbose=False,
            )
    except ImportError as error:
        raise ValueError(f"{needs('writing an exported file', 'export')} ({error})") from error
    except (torch.onnx.OnnxExporterError, torch._dynamo.exc.TorchDynamoException) as error:
        raise ValueError(
            f"the backbone {engine.about.backbone!r} cannot be expressed in ONNX: {str(error)[:500]}"
        ) from error
    assert program is not None
    _plain_casts(program.model)
    if half:
        _halve(program.model)
    program.model.ir_version = IR_VERSION  # the exporter states its own newest, whatever the opset needs
    _describe(program.model, facts(engine))
    program.save(path, external_data=False)
    _check(path)


def _plain_casts(model: Any) -> None:
    """`CastLike` as `Cast`: ONNX Runtime cannot fold the first, and warns of each such node when it loads a file."""
    from onnx_ir.passes.common import ShapeInferencePass
    from onnxscript import ir

    ShapeInferencePass()(model)
    for node in model.graph.all_nodes():
        if node.op_type == "CastLike" and node.inputs[1].dtype is not None:
            to = int(node.inputs[1].dtype)
            node.op_type = "Cast"
            node.resize_inputs(1)
            node.attributes.add(ir.AttrInt64("to", to))


def _halve(model: Any) -> None:
    """Weights that half precision holds exactly are stored in it; a cast, which runtimes fold as they load the file,
    gives them back. Small tensors, which save nothing, stay."""
    from onnxscript import ir

    for name, value in list(model.graph.initializers.items()):
        weight = value.const_value.numpy()
        if weight.dtype != np.float32 or weight.size < SMALL or not np.array_equal(weight.astype(np.float16), weight):
            continue
        stored = ir.Value(name=f"{name}.half", const_value=ir.tensor(weight.astype(np.float16), name=f"{name}.half"))
        cast = ir.node("Cast", [stored], {"to": int(ir.DataType.FLOAT)})
        cast.outputs[0].name, cast.outputs[0].shape = name, value.shape
        cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        value.replace_all_uses_with(cast.outputs[0])
        del model.graph.initializers[name]
        model.graph.register_initializer(stored)
        model.graph.insert_before(model.graph[0], cast)


def _check(path: Path) -> None:
    """ONNX's own checker, with inference of all shapes. Raises ValueError."""
    import onnx

    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"the exported file is no valid ONNX file: {str(error)[:500]}. Please report this") from error


def facts(engine: Engine) -> Facts:
    """The file's metadata. It names the collection trained on; the hashes of its patients stay out of it."""
    first = torch_members(engine)[0]
    model, size = first.model, first.prepared_size
    stated = model.card or model.new_card(prepared_size=size)
    left_out = {"train_patients", "calibration", "feature_statistics", *(("findings",) if stated.usual else ())}
    card = stated.model_dump(mode="json", exclude=left_out)
    names = ("agcxr", "torch", "onnx", "onnxscript", "onnxruntime")
    return Facts(
        labels=engine.labels,
        prepared_size=size,
        resize_rule=RESIZE_RULE,
        window=first.window,
        image_size=model.image_size,
        calibration=engine.own,
        feature_statistics=first.statistics,
        average=average_of(engine),
        card=card | {"trained_on": engine.about.trained_on},
        versions={name: version(name) for name in names},
    )


def _describe(model: Any, known: Facts) -> None:
    """Name, meanings and metadata; and no trace of the machine that wrote it (the exporter notes source paths)."""
    model.producer_name, model.producer_version = "agcxr", known.versions["agcxr"]
    model.doc_string = (
        "AG-CNN for chest radiographs (arXiv:1801.09927), written by agcxr. Input: gray films B x H x W uint8, bright ="
        f" dense, all of one size. Opset {OPSET}, IR version {IR_VERSION}: ONNX Runtime {OLDEST_RUNTIME} or newer. "
        f"{known.notice}"
    )
    model.metadata_props[KEY] = known.to_json()
    for output in model.graph.outputs:
        output.doc_string = (MEANINGS | OF_SEVERAL | OF_AVERAGE)[output.name]
    model.graph.metadata_props.clear()  # IR version 9 knows metadata of the model only
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about its own parts."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
