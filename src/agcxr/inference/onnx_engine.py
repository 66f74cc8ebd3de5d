"""An exported file as an engine: films in, the same Predictions out as from the eager model, on ONNX Runtime (or
OpenVINO).

No torch is imported, so it starts in a fraction of the time. Films are read and resized by the one film reader, in
threads; the file's own resize then has nothing to do.

Shape suffixes: B films of a batch, R boxes of each, K labels, S side of the prepared film, H W pixels of the view, 4 a
box (x0, y0, x1, y1) with exclusive end.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from agcxr.attended import plateau
from agcxr.calibration import Calibration, Point, Prevalence, Scale
from agcxr.data.radiograph import RESIZE_RULE
from agcxr.extras import needs
from agcxr.findings import Findings, problems
from agcxr.inference.engine import About, Engine, mean_scale, scale_of, trained_on
from agcxr.inference.identity import Algorithm
from agcxr.inference.novelty import FeatureStatistics
from agcxr.inference.onnx_file import OLDEST_RUNTIME, Asks, check_plain
from agcxr.inference.prediction import VIEWS, Bytes, Floats, Precision, ViewSet
from agcxr.inference.stream import BatchPrediction
from agcxr.machine import cores
from agcxr.notices import RESEARCH_ONLY
from agcxr.starter import model_path
from agcxr.values import Attention

RuntimeName: TypeAlias = Literal["onnxruntime", "openvino"]

SUFFIX = ".onnx"
KEY = "agcxr"
"""Of the file's metadata: JSON that `Facts` describes."""
LARGEST_FACTS = 16 * 2**20
OUTPUTS = (
    *("global", "local", "fusion", "calibrated", "box", "fallback", "heat", "crop", "pooled_global", "prepared"),
    *("boxes", "weights", "looks"),
)
"""In the file's order; `calibrated` only where the checkpoint holds a calibration, `boxes` and `weights` only where the
model takes several boxes, `looks` only of an average."""
OPTIONAL = ("calibrated", "prepared", "boxes", "weights", "looks")
"""What a file may lack."""


class Averaged(BaseModel):
    """What the answers of a file are averages over."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    models: Annotated[int, Field(ge=1, le=1000)]
    views: ViewSet
    words: str
    """For people."""
    calibrations: tuple[Calibration, ...] = ()
    """One of every model, where calibrated probabilities are the average of theirs; then `Facts` has none."""

    @property
    def looks(self) -> int:
        """Models times views."""
        return self.models * VIEWS[self.views]


QuantisedBranches: TypeAlias = Literal["local", "both"]


class Quantised(BaseModel):
    """What is computed in 8-bit integers (int8), and by how much that moved the answers of the float32 file, on films
    that gave no ranges."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    branches: QuantisedBranches
    """local: the global branch, and with it every box, is as in float32."""
    convolutions: Annotated[int, Field(ge=1)]
    """That compute in int8; the first and the last of each branch do not."""
    films: Annotated[int, Field(ge=1)]
    """That gave the ranges of feature maps."""
    tolerance: Annotated[float, Field(gt=0, le=1)]
    """The most that a probability of the fusion may move on average, and the largest share of calls that may change: a
    file beyond it is not written."""
    checked: int = 0
    """Films that what follows was measured on."""
    probability: float = 0
    """Of the fusion: moved by so much on average."""
    probability_99: float = 0
    """Moved by no more in 99 of 100 probabilities."""
    calls: float | None = None
    """Share of calls at the default operating point that changed; None where the model has none."""
    same_boxes: float = 1
    near_boxes: float = 1
    """Shares of films whose box is the same, and overlaps by four fifths (intersection over union)."""

    def __str__(self) -> str:
        calls = "" if self.calls is None else f", {self.calls:.2%} of calls change"
        return (
            f"{self.convolutions} convolutions in int8 ({'both branches' if self.branches == 'both' else 'local'}), "
            f"ranges of {self.films} films. On {self.checked} others: probabilities move by {self.probability:.4f} on "
            f"average (99 % by at most {self.probability_99:.3f}){calls}, {self.same_boxes:.1%} of boxes are the same, "
            f"{self.near_boxes:.1%} near; tolerance {self.tolerance:g}"
        )


class Facts(BaseModel):
    """What a file says about itself."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    labels: Annotated[tuple[str, ...], Field(min_length=1, max_length=1000)]
    """Order of every probability vector."""
    prepared_size: Annotated[int, Field(ge=1, le=8192)]
    """Side S of the film after `resize_rule`."""
    resize_rule: str
    window: Annotated[tuple[float, ...], Field(min_length=4, max_length=4)]
    """The part of every film that the network sees, as fractions of it."""
    image_size: Annotated[int, Field(ge=1, le=8192)]
    """Side of the view, the heatmap and the crop."""
    calibration: Calibration | None = None
    """Of the fusion, finding by finding, with the operating points."""
    feature_statistics: FeatureStatistics | None = None
    """Of `pooled_global` on training films, to tell films that are far from them (see novelty.py)."""
    average: Averaged | None = None
    """None: one model on the plain view."""
    quantised: Quantised | None = None
    """None: all is computed in float32."""
    card: dict[str, JsonValue]
    """The rest of the checkpoint's card: network, attention, training versions, metrics; and `trained_on`."""
    versions: dict[str, str]
    """Of what wrote the file."""
    notice: str = RESEARCH_ONLY

    def to_json(self) -> str:
        """As a file holds it; what is newer than the first files is left out where there is nothing to say."""
        return self.model_dump_json(exclude={name for name in ("average", "quantised") if getattr(self, name) is None})


def is_exported(model: str | os.PathLike[str]) -> bool:
    """Whether `model` is meant as an exported file, by its name."""
    return model_path(model).suffix.lower() == SUFFIX


class OnnxPredictor(Engine):
    """An exported file with the interface of `Predictor`. May be used from several threads.

    Args:
        path: written by `agcxr export`, or "starter": the model that comes with the package.
        threads: processor threads of one run; default: one a core.
        runtime: "onnxruntime", or "openvino" where that package is installed.
        precision: "fp32"; with OpenVINO also "bf16", its own default on processors that compute in it. Answers then
            differ: see docs/results/export_parity.md.
        point, prevalence: as for `Predictor`.

    The file may come from anybody: it is looked through before a runtime loads it (see onnx_file.py), and its answers
    are checked for their shape. It can still be slow or ask for much memory, and answer wrongly.

    Raises:
        ValueError: the runtime is not installed, or cannot do the precision; the file is missing, damaged, or none of
            ours; or it resizes films by another rule than this version.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        runtime: RuntimeName = "onnxruntime",
        precision: Precision = "fp32",
        point: Point = "youden",
        prevalence: Prevalence | None = None,
    ) -> None:
        self.path = model_path(path)
        self.runtime, self.precision = runtime, precision
        if runtime not in get_args(RuntimeName) or precision not in get_args(Precision):
            raise ValueError(
                f"runtime is {runtime!r} in {precision!r}; expected 'onnxruntime' or 'openvino', in 'fp32' or 'bf16'"
            )
        if not self.path.is_file():
            raise ValueError(f"no file {path}; expected one written by `agcxr export RUN --out model{SUFFIX}`")
        asks = check_plain(self.path)
        opened = _onnxruntime if runtime == "onnxruntime" else _openvino
        self._session = opened(self.path, threads or cores(), precision, asks)
        self.facts = _facts(self._session.metadata, self.path)
        self._outputs = _outputs(self._session.outputs, self.path)
        average, labels = self.facts.average, self.facts.labels
        self._findings = findings = _findings(self.facts, self.path)
        calibrations = average.calibrations if average else ()
        self._scales = [Scale.of(one, labels, point, prevalence, findings) for one in calibrations]
        if self._scales:
            self.scale = mean_scale(self._scales, labels)
        else:
            self.scale = scale_of(self.facts.calibration, findings, point, prevalence)
        self.statistics = self.facts.feature_statistics
        self.prepared_size = self.facts.prepared_size

    def _facts(self) -> tuple[str, ...]:
        return (str(self.path), f"{self.runtime}, {self._arithmetic}", *super()._facts())

    @property
    def labels(self) -> tuple[str, ...]:
        """Order of every probability vector."""
        return self.facts.labels

    @property
    def findings(self) -> Findings:
        """As the file's card says; of a file that does not say, what is known of labels so called."""
        return self._findings

    @property
    def window(self) -> tuple[float, ...]:
        """The part of every film that the network sees, as fractions of it."""
        return self.facts.window

    @property
    def own(self) -> Calibration | None:
        return self.facts.calibration

    @property
    def words(self) -> str:
        return "" if self.facts.average is None else self.facts.average.words

    @cached_property
    def algorithm(self) -> Algorithm:
        """The file as answers name it, another than its run, as last digits may differ; the first call hashes it."""
        with open(self.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        if (how := (self.runtime, self.precision)) != ("onnxruntime", "fp32"):
            digest.update(" ".join(how).encode())
        network = self._network
        return Algorithm.of(
            digest.hexdigest(),
            network.get("backbone", "unknown"),
            (self.facts.image_size, network.get("resize", self.facts.prepared_size)),
            f"{self._arithmetic}, exported file on {self.runtime}",
            self._attention,
            self.calibration,
        )

    @property
    def about(self) -> About:
        """Network and device."""
        metrics: Any = self.facts.card.get("metrics")
        collection = self.facts.card.get("trained_on")
        return About(
            backbone=str(self._network.get("backbone", "unknown")),
            image_size=self.facts.image_size,
            attention=self._attention.model_dump(mode="json"),
            device="cpu",
            precision=f"{self._arithmetic}, {self.runtime}",
            metrics=dict(metrics or {}),
            trained_on=trained_on(collection if isinstance(collection, str) else None, self.facts.calibration),
        )

    @property
    def _arithmetic(self) -> str:
        return self.precision if self.facts.quantised is None else f"int8 and {self.precision}"

    @property
    def _network(self) -> dict[str, Any]:
        """What the card says of it."""
        network = self.facts.card.get("model")
        return network if isinstance(network, dict) else {}

    @cached_property
    def _attention(self) -> Attention:
        return Attention.model_validate(self._network.get("attention", {}))

    def run(self, films_BHW: Bytes) -> dict[str, npt.NDArray[Any]]:
        """The file's own outputs by name for a batch of films of one size, any H x W; boxes in pixels of the film.

        Raises ValueError for anything but uint8 B x H x W.
        """
        if films_BHW.dtype != np.uint8 or films_BHW.ndim != 3 or not films_BHW.size:
            raise ValueError(
                f"films are {films_BHW.dtype} of shape {films_BHW.shape}; expected uint8 B x H x W, no side 0"
            )
        try:
            answers = self._session.run(self._outputs, np.ascontiguousarray(films_BHW))
        except self._session.errors as error:
            raise ValueError(f"{self.path} could not be computed ({_first_line(error)}); export it again") from error
        found = dict(zip(self._outputs, answers, strict=True))
        self._check(found, len(films_BHW))
        return found

    def _check(self, found: Mapping[str, npt.NDArray[Any]], count: int) -> None:
        """A file may promise anything in its metadata. Raises ValueError where answers have another shape or type."""
        map_2, film_2 = (self.facts.image_size,) * 2, (self.prepared_size,) * 2
        known = self.statistics
        wide_1 = found["pooled_global"].shape[1:2] if known is None else (known.features,)
        shapes: dict[str, tuple[tuple[int, ...], str]] = {
            **dict.fromkeys(("global", "local", "fusion", "calibrated"), ((len(self.labels),), "float32")),
            "box": ((4,), "float32"),
            "fallback": ((), "bool"),
            "heat": (map_2, "float32"),
            "crop": (map_2, "uint8"),
            "pooled_global": (wide_1, "float32"),
            "prepared": (film_2, "uint8"),
            "boxes": ((self.crops, 4), "float32"),
            "weights": ((self.crops,), "float32"),
            "looks": ((0 if self.facts.average is None else self.facts.average.looks, len(self.labels)), "float32"),
        }
        for name, answer in found.items():
            shape, kind = shapes[name]
            if answer.shape != (count, *shape) or answer.dtype != kind:
                raise ValueError(
                    f"{self.path} answers {name!r} as {answer.dtype} {answer.shape}; its metadata promise {kind} "
                    f"{(count, *shape)}: export it again"
                )

    def _predict(self, images_BSS: Bytes, details: bool) -> BatchPrediction:
        found = self.run(images_BSS)
        fusion_NK: Floats = found["fusion"]
        known = self.statistics
        return BatchPrediction(
            labels=self.labels,
            global_NK=found["global"],
            local_NK=found["local"],
            fusion_NK=fusion_NK,
            box_N4=found["box"].astype(np.float64) / self.prepared_size,
            fallback_N=found["fallback"],
            window_4=np.array(self.facts.window),
            calibrated_NK=self.calibrated_of(found) if self.calibrated else None,
            distance_N=None if known is None else known.distance(found["pooled_global"]),
            feature_ND=found["pooled_global"],
            plateau_N=plateau(found["heat"]),
            heat_NHW=found["heat"] if details else None,
            crop_NHW=found["crop"] if details else None,
            box_NR4=found["boxes"].astype(np.float64) / self.prepared_size if "boxes" in found else None,
            weight_NR=found.get("weights"),
        )

    def calibrated_of(self, found: Mapping[str, npt.NDArray[Any]]) -> Floats:
        """Calibrated probabilities of the outputs of `run`, for a file that is calibrated: in double precision, as the
        eager engine does it, and at a prevalence that the file cannot know."""
        assert self.scale is not None
        if not self._scales:
            return self.scale.probabilities(found["fusion"]).astype(np.float32)
        each_LNK = found["looks"].transpose(1, 0, 2)
        views = len(each_LNK) // len(self._scales)
        by_look = [self._scales[look // views].probabilities(score_NK) for look, score_NK in enumerate(each_LNK)]
        return np.asarray(np.mean([one.astype(np.float32) for one in by_look], axis=0, dtype=np.float64), np.float32)


@dataclass(frozen=True, eq=False)
class _Session:
    """A loaded file, whatever runs it."""

    metadata: str | None
    outputs: list[str]
    run: Callable[[list[str], Bytes], Sequence[npt.NDArray[Any]]]
    errors: tuple[type[Exception], ...]
    """What `run` raises where the file cannot be computed."""


def _onnxruntime(path: Path, threads: int, precision: Precision, asks: Asks) -> _Session:
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as errors
    except ImportError as error:
        raise ValueError("an exported file needs ONNX Runtime: install `onnxruntime`") from error
    if precision != "fp32":
        raise ValueError(f"ONNX Runtime computes an exported file in fp32, not in {precision}; OpenVINO can")
    failures: tuple[type[Exception], ...] = (errors.Fail, errors.InvalidProtobuf, errors.InvalidGraph)
    failures += (errors.InvalidArgument, errors.RuntimeException, errors.EPFail)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # warnings speak of graph optimisation, which users can do nothing about
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (*failures, errors.NotImplemented) as error:
        raise ValueError(
            f"{path} cannot be loaded by ONNX Runtime {onnxruntime.__version__} ({_first_line(error)}). It asks for "
            f"{asks}. Export it again (files of this version of agcxr load from ONNX Runtime {OLDEST_RUNTIME} on), or "
            "upgrade ONNX Runtime"
        ) from error
    return _Session(
        session.get_modelmeta().custom_metadata_map.get(KEY),
        [output.name for output in session.get_outputs()],
        lambda names, films_BHW: session.run(names, {"films": films_BHW}),
        (*failures, errors.NotImplemented, ValueError),  # ValueError: it has no input of this name
    )


def _openvino(path: Path, threads: int, precision: Precision, asks: Asks) -> _Session:
    try:
        import openvino
    except ImportError as error:
        raise ValueError(f"{needs('the runtime openvino', 'openvino')}; or use the runtime 'onnxruntime'") from error
    hints = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16"}
    core = openvino.Core()
    try:
        model = core.read_model(path)
        compiled = core.compile_model(model, "CPU", hints)
    except RuntimeError as error:
        raise ValueError(
            f"{path} cannot be loaded by OpenVINO ({_first_line(error)}). It asks for {asks}; export it again"
        ) from error
    place = ["framework", KEY]

    def run(names: list[str], films_BHW: Bytes) -> list[npt.NDArray[Any]]:
        request = compiled.create_infer_request()  # one a run, so that threads do not share it
        found = request.infer({"films": films_BHW})
        return [np.array(found[name]) for name in names]

    return _Session(
        model.get_rt_info(place).astype(str) if model.has_rt_info(place) else None,
        [name for output in compiled.outputs for name in output.names],  # of several, any_name gives any
        run,
        (RuntimeError,),
    )


def _facts(text: str | None, path: Path) -> Facts:
    if text is None or len(text) > LARGEST_FACTS:
        raise ValueError(
            f"{path} is an ONNX file without the metadata {KEY!r}, so it is none of agcxr's; write one with "
            "`agcxr export RUN --out model.onnx`"
        )
    try:
        facts = Facts.model_validate_json(text)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg']}" for one in error.errors()[:5])
        raise ValueError(f"the metadata of {path} are not understood: {told}. Export it again, or upgrade") from None
    if facts.resize_rule != RESIZE_RULE:
        raise ValueError(
            f"{path} was exported for films resized by the rule {facts.resize_rule!r}, and this version of agcxr "
            f"resizes by {RESIZE_RULE!r}; use version {facts.versions.get('agcxr')}"
        )
    return facts


def _findings(facts: Facts, path: Path) -> Findings:
    """What the card says of the labels. Raises ValueError for what is none, or of other labels."""
    if (stated := facts.card.get("findings")) is None:
        return Findings.of(facts.labels)
    try:
        findings = Findings.model_validate(stated)
    except ValidationError as error:
        raise ValueError(f"the findings in {path} are not understood: {problems(error)}; export it again") from None
    if absent := [label for label in facts.labels if label not in findings.labels]:
        raise ValueError(f"the findings in {path} lack its label {absent[0]!r}; export it again")
    return findings.restricted(facts.labels)


def _outputs(there: list[str], path: Path) -> list[str]:
    wanted = [name for name in OUTPUTS if name in there or name not in OPTIONAL]
    if missing := [name for name in wanted if name not in there]:
        raise ValueError(f"{path} does not give {', '.join(missing)}; export it again with this version of agcxr")
    return wanted


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
