"""A whole model as one ONNX file: a gray film of any size in; probabilities, box, heatmap and crop out.

Everything between is inside the file: the resize rule, the view, normalisation, both branches, the connected region,
the crop, the fusion and its calibration. What is written has been compared with the eager model first.

Shape suffixes: B films, H x W their pixels, S side of the prepared film, V side of a view, K labels, M knots of a
curve, N pixels along one axis, 4 a box (x0, y0, x1, y1) with exclusive end.
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
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from agcxr.calibration import EPSILON, Calibration, Curve
from agcxr.data.augment import Views, centre_views, map_boxes, render, sharp_size
from agcxr.data.radiograph import RESIZE_RULE
from agcxr.inference.batch import load_runs
from agcxr.inference.ensemble import Ensemble, Lines
from agcxr.inference.onnx_engine import KEY, OUTPUTS, SUFFIX, Averaged, Facts
from agcxr.inference.onnx_file import IR_VERSION, OLDEST_RUNTIME, OPSET
from agcxr.inference.parity import Parity, compare, made_films
from agcxr.inference.prediction import ViewSet
from agcxr.inference.predictor import Predictor
from agcxr.inference.resizing import count, resize
from agcxr.inference.stream import FilmEngine
from agcxr.models.agcnn import AGCNNOutput

LARGEST = 2**31 - 2**20
"""Bytes of weights that one ONNX file can hold (protobuf's limit is 2 GB)."""

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
    "looks": "B x L x K float32: `fusion` of each model and view, whose average that is",
}


@dataclass(frozen=True)
class Exported:
    """What an export wrote, and how near it is to the eager model."""

    path: Path
    size: int
    """Bytes."""
    parity: Parity

    def __str__(self) -> str:
        return f"{self.path} ({self.size / 1e6:,.0f} MB). {self.parity}"


def export(
    run: str | os.PathLike[str], out: str | os.PathLike[str], *, others: Sequence[str] = (), views: ViewSet = "plain"
) -> Exported:
    """Write a run, a model folder or a hub model as one ONNX file (float32); or an average of several models and views,
    all in the one file (see `batch.load_engine`).

    Raises:
        ValueError: `out` is not called *.onnx; there is no such model; a network too large for one file, or that
            cannot be expressed; or the file does not answer as the eager model does. Nothing is written then.
    """
    target = Path(out)
    if target.suffix.lower() != SUFFIX:
        raise ValueError(f"the exported file is to be called {target.name!r}; expected a name that ends in {SUFFIX}")
    engine, predictors = load_runs(run, "cpu", others=others, views=views)
    weights = sum(p.numel() * p.element_size() for one in predictors for p in one.model.parameters())
    if weights > LARGEST:
        of = f"the weights of the {len(predictors)} models" if len(predictors) > 1 else "the weights"
        raise ValueError(f"{of} have {weights / 1e9:.1f} GB; one ONNX file holds at most {LARGEST / 1e9:.1f} GB")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.stem}.partial{SUFFIX}")
    try:
        write(engine, partial)
        parity = compare(partial, engine, made_films(engine.prepared_size))
        if not parity.good:
            raise ValueError(
                f"the exported file does not answer as the eager model does, so it is not kept: {parity}. "
                "Please report this, with the versions of torch, onnxscript and onnxruntime"
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return Exported(target, target.stat().st_size, parity)


def write(engine: FilmEngine, path: Path) -> None:
    """Write the file without comparing it. The models must be on the CPU. Raises ValueError as `export`."""
    network = Whole(engine).eval()
    missing = ({"looks"} if average_of(engine) is None else set()) | (set() if engine.calibrated else {"calibrated"})
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
        raise ValueError(f"to export, onnx and onnxscript are needed ({error}): install `agcxr[export]`") from error
    except (torch.onnx.OnnxExporterError, torch._dynamo.exc.TorchDynamoException) as error:
        raise ValueError(
            f"the backbone {_first(engine).model.backbone_name!r} cannot be expressed in ONNX: {str(error)[:500]}"
        ) from error
    assert program is not None
    _plain_casts(program.model)
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


def _check(path: Path) -> None:
    """ONNX's own checker, with inference of all shapes. Raises ValueError."""
    import onnx

    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(f"the exported file is no valid ONNX file: {str(error)[:500]}. Please report this") from error


def average_of(engine: FilmEngine) -> Averaged | None:
    """What the file says of an average; None for one model on the plain view."""
    if not isinstance(engine, Ensemble) or engine.looks == 1:
        return None
    each = [member.calibration for member in engine.members]
    return Averaged(
        models=len(engine.members),
        views=engine.views,
        words=engine.words,
        calibrations=tuple(_only(one, engine.labels) for one in each if one)
        if engine.own is None and all(each)
        else (),
    )


def _only(calibration: Calibration, labels: tuple[str, ...]) -> Calibration:
    """Of these labels."""
    findings = {name: one for name, one in calibration.findings.items() if name in labels}
    return calibration.model_copy(update={"findings": findings})


def _first(engine: FilmEngine) -> Predictor:
    """Whose box, heatmap and crop are given."""
    first = engine.members[0]
    assert isinstance(first, Predictor)
    return first


def facts(engine: FilmEngine) -> Facts:
    """The file's metadata. The hashes of the patients trained on stay out of it."""
    first = _first(engine)
    model, size = first.model, first.prepared_size
    card = (model.card or model.new_card(prepared_size=size)).model_dump(
        mode="json", exclude={"train_patients", "calibration", "feature_statistics"}
    )
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
        card=card,
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
    model.metadata_props[KEY] = known.model_dump_json(exclude={"average"} if known.average is None else None)
    for output in model.graph.outputs:
        output.doc_string = MEANINGS[output.name]
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


# --- the network of the file ------------------------------------------------------------------------------------------


class Whole(nn.Module):
    """films_BHW uint8 -> the tensors that MEANINGS lists, in its order."""

    def __init__(self, engine: FilmEngine) -> None:
        super().__init__()
        self.size, self.average = engine.prepared_size, average_of(engine)
        members = [one for one in engine.members if isinstance(one, Predictor)]
        self.members = nn.ModuleList(Member(one, engine) for one in members)
        lines = engine.views_of if isinstance(engine, Ensemble) else ((None,),) * len(members)
        self.looks = [(m, _lines(one)) for m, each in enumerate(lines) for one in each]
        self.curves = None if engine.own is None else Curves(engine.own, engine.labels)

    def forward(self, films_BHW: Tensor) -> tuple[Tensor, ...]:
        prepared_BSS = resize(films_BHW, self.size)
        looks: list[Look] = []
        for m, lines in self.looks:
            seen_BSS = prepared_BSS if lines is None else prepared_BSS[:, lines[0]][:, :, lines[1]]
            looks.append(self.members[m](seen_BSS))
        first, fusion = looks[0], _mean([look.fusion_BK for look in looks])
        calibrated: tuple[Tensor, ...] = ()
        if self.curves is not None:
            calibrated = (self.curves(fusion),)
        elif all(look.calibrated_BK is not None for look in looks):
            calibrated = (_mean([look.calibrated_BK for look in looks if look.calibrated_BK is not None]),)
        across, down = (count(films_BHW.shape[axis]) / self.size for axis in (2, 1))
        scale_4 = torch.stack([across, down, across, down]).float()
        return (
            _mean([look.global_BK for look in looks]),
            _mean([look.local_BK for look in looks]),
            fusion,
            *calibrated,
            first.box_B4 * scale_4,
            first.out.fallback_B,
            first.out.heat_BHW,
            (first.out.crop_BCHW[:, 0].clamp(0, 1) * 255).round().to(torch.uint8),
            first.out.pooled_global_BD,
            prepared_BSS.to(torch.uint8),
            *([] if self.average is None else [torch.stack([look.fusion_BK for look in looks], 1)]),
        )


def _lines(lines: Lines | None) -> tuple[Tensor, Tensor] | None:
    """None for the plain view, which needs no picking of lines."""
    if lines is None or all(np.array_equal(one, np.arange(len(one))) for one in lines):
        return None
    return torch.from_numpy(lines[0]), torch.from_numpy(lines[1])


def _mean(each: list[Tensor]) -> Tensor:
    return torch.stack(each).double().mean(0).float() if len(each) > 1 else each[0]


class Look(NamedTuple):
    """What one model says of one view."""

    global_BK: Tensor
    local_BK: Tensor
    fusion_BK: Tensor
    calibrated_BK: Tensor | None
    """None too where the average has a calibration of its own."""
    box_B4: Tensor
    """In pixels of the prepared film."""
    out: AGCNNOutput


class Member(nn.Module):
    """A model on films as its engine prepares them: B x S x S gray levels -> Look, of the labels of the whole."""

    window_14: Tensor

    def __init__(self, predictor: Predictor, whole: FilmEngine) -> None:
        super().__init__()
        model, size, labels = predictor.model, predictor.prepared_size, whole.labels
        self.model = model
        self.taught = [model.labels.index(label) for label in labels]
        self.every = self.taught == list(range(len(model.labels)))
        views = centre_views(1, size, image_size=model.image_size, resize=model.resize)
        self.register_buffer("window_14", views.window_B4)
        self.view = View(views, size)
        sharp = sharp_size(size, image_size=model.image_size, resize=model.resize)
        self.sharp = View(views, size, sharp) if sharp and model.crop_source == "prepared" else None
        alone = whole.own is None and whole.calibrated and predictor.calibration is not None
        self.curves = Curves(predictor.calibration, labels) if alone and predictor.calibration else None
        self._views = views

    def forward(self, prepared_BSS: Tensor) -> Look:
        sharp = None if self.sharp is None else self.sharp(prepared_BSS)
        out = self.model(self.view(prepared_BSS), sharp)
        fusion = self._probability(out.fusion_BK)
        views = Views(self.window_14, self._views.flip_B, self._views.image_size, self._views.side, aligned=True)
        return Look(
            self._probability(out.global_BK),
            self._probability(out.local_BK),
            fusion,
            None if self.curves is None else self.curves(fusion),
            map_boxes(out.box_B4, views, self.model.image_size, to="prepared"),
            out,
        )

    def _probability(self, logit_BK: Tensor) -> Tensor:
        """Of the labels that every model was taught, as the eager engine gives them."""
        return logit_BK.sigmoid() if self.every else logit_BK.sigmoid()[:, self.taught]


class View(nn.Module):
    """The evaluation view as `augment.render` draws it: B x S x S gray levels -> B x 1 x V x V in [0, 1].

    Rendering is linear and separable, so its weights are read off `render` itself, one line of the film at a time.
    """

    weight_VS: Tensor

    def __init__(self, views: Views, size: int, side: int | None = None) -> None:
        super().__init__()
        weight_VS = torch.cat([_weights(views, size, some, side) for some in torch.arange(size).split(16)], dim=1)
        self.start = int(weight_VS[0].argmax())
        self.side = len(weight_VS)
        cut_VS = torch.eye(size)[self.start : self.start + self.side]
        self.cuts = torch.equal(weight_VS, cut_VS)
        """No resampling: the view is a part of the film."""
        self.register_buffer("weight_VS", weight_VS)

    def forward(self, prepared_BSS: Tensor) -> Tensor:
        if self.cuts:
            part = slice(self.start, self.start + self.side)
            view_BVV = prepared_BSS[:, part, part]
        else:
            view_BVV = self.weight_VS @ (prepared_BSS @ self.weight_VS.T)
        return view_BVV[:, None] / 255


def _weights(views: Views, size: int, line_N: Tensor, side: int | None) -> Tensor:
    """What each of these lines of the film adds to each line of the view, V x N."""
    film_N1SS = torch.zeros(len(line_N), 1, size, size, dtype=torch.uint8)
    film_N1SS[torch.arange(len(line_N)), 0, line_N] = 255
    each = Views(
        views.window_B4.expand(len(line_N), 4),
        views.flip_B.expand(len(line_N)),
        views.image_size,
        views.side,
        views.aligned,
    )
    view_N1VV = render(film_N1SS, each, side)
    return view_N1VV[:, 0, :, view_N1VV.shape[-1] // 2].T.contiguous()


class Curves(nn.Module):
    """A Calibration in tensor operations: score_BK float32 -> probability_BK float32; computed in double precision."""

    isotonic_K: Tensor
    logistic_K: Tensor
    slope_K: Tensor
    intercept_K: Tensor
    knot_KM: Tensor
    value_KM: Tensor

    def __init__(self, calibration: Calibration, labels: tuple[str, ...]) -> None:
        super().__init__()
        none = Curve(kind="none")
        curves = [calibration.findings[name].curve if name in calibration.findings else none for name in labels]
        self.kinds = {curve.kind for curve in curves}
        most = max(max((len(curve.knots) for curve in curves), default=0), 2)
        tables = {
            "isotonic_K": np.array([curve.kind == "isotonic" for curve in curves]),
            "logistic_K": np.array([curve.kind in ("temperature", "platt") for curve in curves]),
            "slope_K": np.array([curve.slope for curve in curves]),
            "intercept_K": np.array([curve.intercept for curve in curves]),
            "knot_KM": np.stack([_padded(curve.knots, most) for curve in curves]),
            "value_KM": np.stack([_padded(curve.values, most) for curve in curves]),
        }
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table))

    def forward(self, score_BK: Tensor) -> Tensor:
        out = score = score_BK.double()
        if self.kinds & {"temperature", "platt"}:
            clipped = score.clamp(EPSILON, 1 - EPSILON)
            logit = clipped.log() - (1 - clipped).log()
            out = torch.where(self.logistic_K, torch.sigmoid(self.slope_K * logit + self.intercept_K), out)
        if "isotonic" in self.kinds:
            out = torch.where(self.isotonic_K, self._interpolated(score), out)
        return out.float()

    def _interpolated(self, score_BK: Tensor) -> Tensor:
        """As np.interp: linear between knots, constant beyond the outermost."""
        knot_1KM, value_1KM = self.knot_KM[None], self.value_KM[None]
        last = self.knot_KM.shape[1] - 1
        at_BK1 = ((knot_1KM <= score_BK[..., None]).sum(-1, keepdim=True) - 1).clamp(0, last - 1)
        shape = (score_BK.shape[0], -1, -1)
        left, right = (knot_1KM.expand(shape).gather(2, at)[..., 0] for at in (at_BK1, at_BK1 + 1))
        low, high = (value_1KM.expand(shape).gather(2, at)[..., 0] for at in (at_BK1, at_BK1 + 1))
        share = ((score_BK - left) / torch.where(right > left, right - left, 1.0)).clamp(0, 1)
        return torch.where(right > left, low + (high - low) * share, high)


def _padded(numbers: tuple[float, ...], length: int) -> np.ndarray:
    """The last number repeated up to `length`; zeros for none."""
    given = numbers or (0.0,)
    return np.array(given + given[-1:] * (length - len(given)), dtype=np.float64)
