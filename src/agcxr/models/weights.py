"""First weights from files on disk: read safely, found among what lies beside them, fitted strictly to a network.

A file may hold the network's tensors under other programs' names: inside wrappers (`state_dict`, `teacher`, ...), under
prefixes (`module.`, `backbone.`, ...), with a head, an optimiser or a second network beside them. What is taken must
then be the network's tensors exactly.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

from agcxr.extras import needs
from agcxr.models.naming import renamed
from agcxr.models.origin import Origin, origin_of

State = dict[str, Tensor]

WEIGHT_FILES = (
    "model.safetensors",
    "model/model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
"""The weights of a model folder and of a run folder of this package, and of the hub's folders, whole or in shards."""

OWN_PREFIXES = ("backbone.net.", "global_branch.backbone.net.", "global.backbone.net.", "local.backbone.net.")
"""How this package's own files name a backbone's tensors: a branch's stage, a whole model, a joint stage with the
global branch and one without. The first that a file has is taken."""

EXPORTED_PREFIX = "members.0.model."
"""What exported files put before the names of their (first) model's tensors."""

PREFERRED = re.compile(r"(^|[._])(ema|teacher)([._]|$)")
"""Of several copies of a network in a file, the averaged one: what timm takes, and what DINO's authors publish."""
DISFAVOURED = re.compile(r"(^|[._])(student|encoder_k|momentum\w*|local_branch)([._]|$)")
"""The copy that is no product of its training: MoCo's key encoder, DINO's student; of ours, the local branch."""
NOT_WEIGHTS = re.compile(r"optim|sched|scaler|callback|loops|hyper_parameters", re.IGNORECASE)
"""Entries of a checkpoint that hold tensors, but not a network's."""

WRAPPED = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What torch.compile, FSDP and activation checkpointing put before the names of the modules that they wrap."""
COMMON_PREFIX = re.compile(r"(?:(?:module|model|net|network|backbone|encoder|encoder_q|ema|teacher)\.)+")
HEAD = re.compile(
    r"(?:aux_?|cls_|class_|mlp_|projection_|pre_?)?(?:fc|heads?|classif(?:ier|ication)|last_linear|linear|logits?|output"
    r"|out|proj(?:ection|ector)?|predictor|prototypes|pooler|head_dist|fc_?out)(?:_?head)?\d?(?:\.|$)",
    re.IGNORECASE,
)
"""First component of the names of heads, which are not taken."""
COUNTS = re.compile(r"(^|\.)total_(ops|params)$")
"""What profilers (thop) leave in a module: no weights."""

TIMM_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What timm raises for options, sizes and tensors that its networks cannot have."""

_SCALAR = np.float64(0).__reduce__()[0]
PLAIN_OBJECTS: list[Any] = [
    argparse.Namespace,
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # as NumPy 1 wrote it
    np.dtype,
    *{type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)},
]
"""Beside tensors, what training scripts keep of their arguments and best scores: values without code."""


# --- reading ----------------------------------------------------------------------------------------------------------


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """All that a safetensors or torch file holds, or the shards that an index names: by name, tensors on the CPU.

    Nothing in it is executed. Raises ValueError for a file that is missing or damaged, and for objects that could run
    code or are not named.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no weight file at {path}; expected a .safetensors file or a torch state dict")
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix.lower() == ".onnx":
        return _read_exported(path)
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as file:
                beside = {"metadata": file.metadata() or {}}
            return beside | safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(PLAIN_OBJECTS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words would advise to load it all the same.
        unsafe = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ValueError(
            f"{path} holds more than tensors and is not loaded, because such a file can run code"
            f"{f' (it holds {unsafe[1]})' if unsafe else ''}; "
            "save the weights alone (torch.save(model.state_dict(), ...) or safetensors) where they came from; of a "
            'Lightning or training checkpoint torch.save(checkpoint["state_dict"], ...)'
        ) from error
    except Exception as error:  # bytes that are no weights end torch's unpickler in any way: IndexError, KeyError ...
        why = f"{type(error).__name__}: {error}" if path.stat().st_size else "it is empty; copy or download it again"
        raise ValueError(f"{path} is no readable weight file: {why}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no state dict (names to tensors); found {type(content).__name__}")
    return content


def _read_exported(path: Path) -> dict[str, Any]:
    """The tensors of the first model in a file that `agcxr export` wrote, float32, and what its card says of them."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise ValueError(f"{needs('taking weights from an exported file', 'export')} ({error})") from error
    try:
        model = onnx.load(path, load_external_data=False)
        about = {entry.key: entry.value for entry in model.metadata_props}
        config = json.loads(about["agcxr"])["card"]["model"]
        own = [tensor for tensor in model.graph.initializer if tensor.name.startswith(EXPORTED_PREFIX)]
        arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in own}
    except (DecodeError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, or was not written by `agcxr export` ({error!r})") from None
    names = {name: name.removeprefix(EXPORTED_PREFIX).removesuffix(".half") for name in arrays}
    state = {names[name]: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
    return {**state, "config": config}


def _read_shards(index: Path) -> State:
    """The tensors of the files beside an index in Hugging Face's layout."""
    try:
        places = json.loads(index.read_bytes())["weight_map"]
        files = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{index} is no index of weight files (a `weight_map` of names to files): {error!r}"
        ) from error
    outside = [name for name in files if not isinstance(name, str) or Path(name).name != name]
    if outside:
        raise ValueError(
            f"{index} names files outside its folder ({_few(list(map(repr, outside)))}); they are not read"
        )
    absent = [name for name in files if not (index.parent / name).is_file()]
    if absent:
        raise ValueError(f"{index} names {_few(absent)}, absent beside it; copy or download all shards")
    state: State = {}
    for name in files:
        state.update(read_checkpoint(index.parent / name))
    return state


def states_in(content: dict[str, Any], path: str | os.PathLike[str]) -> list[State]:
    """Every set of named tensors in a checkpoint, however deep: averaged copies first, then in the file's order."""

    def walk(part: dict[Any, Any], name: str, depth: int) -> Iterator[tuple[str, State]]:
        tensors = {key: value for key, value in part.items() if isinstance(key, str) and isinstance(value, Tensor)}
        if tensors:
            yield name, tensors
        for key, value in part.items():
            if isinstance(value, dict) and depth < 6 and not NOT_WEIGHTS.search(str(key)):
                yield from walk(value, f"{name}.{key}", depth + 1)

    found = sorted(walk(content, "", 0), key=lambda named: _rank(named[0]))
    if not found:
        raise ValueError(
            f"{path} is no state dict (names to tensors); found {', '.join(map(str, content)) or 'nothing'}"
        )
    return [state for _, state in found]


def _rank(name: str) -> int:
    """Order of several copies of a network in one file."""
    return 0 if PREFERRED.search(name) else 2 if DISFAVOURED.search(name) else 1


def file_of(path: Path) -> Path:
    """The weights in a run, model or hub folder; a file is itself."""
    if not path.is_dir():
        return path
    found = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), None)
    if found is None:
        stages = sorted(str(stage) for stage in path.glob("*/best.safetensors"))
        instead = f"it holds the stages {', '.join(stages)}: give one of them" if stages else "give a file of weights"
        raise ValueError(
            f"no {' and no '.join(WEIGHT_FILES[:2])} in the folder {path}, so it is no finished run or model; {instead}"
        )
    return found


# --- fitting ----------------------------------------------------------------------------------------------------------


def load_weights(net: nn.Module, path: Path) -> Origin:
    """Load a file made for the same network into a headless timm model; its head is left out, the rest is strict.

    `path` may be a run or model folder of this package, a stage's best.safetensors or a whole model.safetensors (their
    backbone is taken, of several the global branch's), a folder of the hub or the index of its shards, or another
    program's checkpoint. Returns what it states of itself. Raises ValueError that lists what is missing, unexpected, of
    another shape or not finite.
    """
    path = file_of(path)
    content = read_checkpoint(path)
    candidates = (fitted(net, _own_backbone(state), path) for state in states_in(content, path))
    first = next(candidates)
    state = first if fits(net, first) else next((state for state in candidates if fits(net, state)), first)
    try:
        load_strictly(net, state, str(path))
    except ValueError as error:
        if "do not fit" not in str(error):
            raise
        raise ValueError(f"{error}. {_cure(net, state)}") from None
    return origin_of(path, content)


def _cure(net: nn.Module, state: State) -> str:
    entry: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]
    own = net.state_dict()
    for key in (f"{stem}.weight" for stem in names(entry.get("first_conv"))):
        if key in state and key in own and state[key].ndim == 4 and state[key].shape[1:2] != own[key].shape[1:2]:
            channels = state[key].shape[1]
            if channels == 1:
                return "The file's first layer takes one channel: give --in-channels 1"
            return f"The file's first layer takes {channels} channels, and films have one: give --weights another file"
    here = entry.get("architecture", "this network")
    return f"Give --backbone the network that they are of (here: {here}), or --weights a file of this one"


def fitted(net: nn.Module, state: State, path: Path) -> State:
    """A network's tensors under the network's names, from names under a prefix or in an older layout that timm knows.

    What fits in no layout comes back as it is but for the prefix, for `load_strictly` to say how it differs. Raises
    ValueError where a file holds several networks that fit.
    """
    entry: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]
    state = {WRAPPED.sub("", name): value for name, value in state.items()}
    try:
        state = renamed(state, net.state_dict(), entry["architecture"])
    except ValueError as error:
        raise ValueError(f"the weights in {path} are not taken: {error}") from None
    plain = _stripped(net, state, path)
    if fits(net, plain):
        return plain
    for raw in (plain, {COMMON_PREFIX.sub("", name, count=1): value for name, value in state.items()}):
        for convert in _filters(net):
            try:
                converted = _stripped(net, convert(dict(raw), net), path)
            except TIMM_ERRORS:
                continue  # not the layout that timm's function expects: the plain differences say more
            if fits(net, converted):
                return converted
    return plain


def _stripped(net: nn.Module, state: State, path: Path) -> State:
    """The tensors under the prefix that has most of the network's names, without a head, the stem's colours summed."""
    own = net.state_dict()
    prefix = _prefix(own, state, path)
    state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    entry: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]
    heads = tuple(f"{name}." for name in names(entry.get("classifier")))
    heads += _linear_heads(own, state, int(net.num_features))  # type: ignore[arg-type]
    state = {name: value for name, value in state.items() if name in own or not _is_head(name, heads)}
    for stem in names(entry.get("first_conv")):
        key = f"{stem}.weight"
        if key in state and key in own and state[key].ndim == 4 and state[key].shape[1] == 3 != own[key].shape[1]:
            state[key] = adapt_input_conv(own[key].shape[1], state[key].float())
    absent = own.keys() - state.keys()
    if state.keys() <= own.keys() and all(name.endswith("num_batches_tracked") for name in absent):
        state |= {name: torch.zeros_like(own[name]) for name in absent}  # only counts, only since PyTorch 0.4.1
    return state


def _is_head(name: str, heads: tuple[str, ...]) -> bool:
    return name.startswith(heads) or HEAD.match(name) is not None or COUNTS.search(name) is not None


def _linear_heads(own: State, state: State, features: int) -> tuple[str, ...]:
    """Heads of any other name: linear layers from the network's features, apart from its own modules."""
    modules = {name.partition(".")[0] for name in own}
    return tuple(
        name.removesuffix("weight")
        for name, value in state.items()
        if name.endswith(".weight") and value.ndim == 2 and value.shape[1] == features
        if name.partition(".")[0] not in modules
    )


def _prefix(own: State, state: State, path: Path) -> str:
    """What stands before the network's names in a file: "" where most names are just the network's, or are foreign."""
    counts: Counter[str] = Counter()
    for name in state:
        places = [0, *(match.end() for match in re.finditer(r"\.", name))]
        counts.update(name[:place] for place in places if name[place:] in own)
    if not counts:
        return ""
    most = max(counts.values())
    best = [prefix for prefix, count in counts.items() if count == most]
    if "" in best or most < min(len(own), len(state)) / 2:
        return ""
    first = min(map(_rank, best))
    best = [prefix for prefix in best if _rank(prefix) == first]
    if len(best) > 1:
        raise ValueError(
            f"{path} holds {len(best)} networks that fit, under {_few(best)}; save the tensors of the one that "
            "is meant in a file of their own"
        )
    return best[0]


def _filters(net: nn.Module) -> list[Any]:
    """timm's own functions that bring published weights of this family to timm's names and sizes."""
    entry: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]
    module = sys.modules.get(timm.model_entrypoint(entry["architecture"]).__module__)
    known = ("checkpoint_filter_fn", "_filter_fn", "pretrained_filter_fn", "_filter_torchvision_pretrained")
    found = [getattr(module, name) for name in known if hasattr(module, name)]
    return [lambda state, net, convert=convert: _called(convert, state, net) for convert in found]


def _called(convert: Any, state: State, net: nn.Module) -> State:
    try:
        return convert(state, net)
    except TypeError:  # some of them take the tensors alone
        return convert(state)


def _own_backbone(state: State) -> State:
    """The backbone's tensors of this package's files, under timm's names; those of any other file as they are."""
    for prefix in OWN_PREFIXES:
        if any(name.startswith(prefix) for name in state):
            return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return state


def fits(net: nn.Module, state: State) -> bool:
    """Whether a state dict has the network's names and shapes."""
    own = net.state_dict()
    return own.keys() == state.keys() and all(state[name].shape == value.shape for name, value in own.items())


# --- strict loading ---------------------------------------------------------------------------------------------------


def load_strictly(module: nn.Module, state: State, source: str) -> None:
    """`load_state_dict` whose refusal lists the differences. Raises ValueError and changes nothing if they differ, or
    if a tensor holds what is no number."""
    own = module.state_dict()
    problems = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
            for name, value in own.items()
            if name in state and state[name].shape != value.shape
        ],
        "of another type": [
            f"{name} {state[name].dtype} instead of {value.dtype}"
            for name, value in own.items()
            if name in state and state[name].is_floating_point() != value.is_floating_point()
        ],
    }
    told = [f"{len(names)} {kind}: {_few(names)}" for kind, names in problems.items() if names]
    if told:
        raise ValueError(f"the weights in {source} do not fit this network; " + "; ".join(told))
    check_finite(state, source)
    module.load_state_dict(state, strict=True)


def check_finite(state: State, source: str) -> None:
    """Raises ValueError naming the tensors that hold NaN or infinity, or a variance below zero."""
    broken = []
    for name, value in state.items():
        if not value.is_floating_point() or not value.numel():
            continue
        low, high = (float(end) for end in value.detach().float().aminmax())  # NaN wins both
        if not (math.isfinite(low) and math.isfinite(high)) or (name.endswith("running_var") and low < 0):
            broken.append(f"{name} ({low:g} to {high:g})")
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(state)} tensors in {source} hold NaN, infinity or a negative variance: "
            f"{_few(broken)}. No network can begin there: copy or download the file again, or take an earlier one"
        )


def names(value: Any) -> tuple[str, ...]:
    """One name, several or none, as timm's configurations give them."""
    return (value,) if isinstance(value, str) else tuple(value or ())


def _few(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
