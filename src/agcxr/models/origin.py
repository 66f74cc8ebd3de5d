"""What a weight file says of itself, beside its tensors: its network, and how its pixels were scaled.

Read from the card or configuration in its folder (this package's, timm's, transformers', open_clip's), from what lies
in the file beside the tensors, or from its name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import yaml

RGB_MEAN, RGB_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet statistics of pixels in [0, 1]."""

GENERIC = {"model", "pytorch_model", "open_clip_model", "open_clip_pytorch_model", "best", "last"}
"""Names of files that are named by their folder."""
LARGEST_CONFIG = 2**24
"""Bytes."""

Colours = tuple[float, float, float]


@dataclass(frozen=True)
class Origin:
    """What is known of weights. None: not stated."""

    architecture: str | None = None
    """A timm model, without tag."""
    stated_by: str = ""
    mean: Colours | None = None
    std: Colours | None = None
    """By colour, of pixels in [0, 1]."""


def origin_of(path: Path, content: dict[str, Any]) -> Origin:
    """What a weight file (not a folder) states; `content`: all that it holds, as read by `weights.read_checkpoint`."""
    statements = [*_beside(path), ("what the file holds beside them", _plain(content)), ("its name", _named(path))]
    architecture, stated_by, mean, std = None, "", None, None
    for source, facts in statements:
        name = facts.get("architecture")
        if architecture is None and isinstance(name, str) and timm.is_model(name.partition(".")[0]):
            architecture, stated_by = name.partition(".")[0], source
        if mean is None and colours(facts.get("mean")) and colours(facts.get("std"), positive=True):
            mean, std = colours(facts["mean"]), colours(facts["std"], positive=True)
    return Origin(architecture, stated_by, mean, std)


def colours(values: Any, *, positive: bool = False) -> Colours | None:
    """Three finite numbers, one a colour, from three or from one for all; None where these are none."""
    values = [values] if isinstance(values, int | float) else values
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) not in (1, 3):
        return None
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        return None
    if positive and min(values) <= 0:
        return None
    red, green, blue = (float(value) for value in (values if len(values) == 3 else [values[0]] * 3))
    return red, green, blue


def _beside(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Facts from the configurations in the folder of a file that is named by its folder."""
    if path.name.partition(".")[0] not in GENERIC:
        return []
    found = []
    for folder in (path.parent, path.parent.parent / "model"):  # a stage of a run: the model beside it
        for file, meaning in CONFIGURATIONS.items():
            facts = meaning(_json(folder / file))
            if facts:
                found.append((f"{folder / file}", facts))
        if found or path.name.partition(".")[0] not in ("best", "last"):
            break
    run = path.parent.parent / "config.yaml"
    if not found and run.is_file() and run.stat().st_size <= LARGEST_CONFIG:
        found.append((str(run), _of_run(run)))
    return found


def _json(path: Path) -> dict[str, Any]:
    """An object of JSON; empty where there is none."""
    if not path.is_file() or path.stat().st_size > LARGEST_CONFIG:
        return {}
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _of_run(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError):
        return {}
    content = content if isinstance(content, dict) else {}
    facts: dict[str, Any] = {"architecture": content.get("backbone")}
    if content.get("normalisation") == "imagenet":
        facts |= {"mean": RGB_MEAN, "std": RGB_STD}
    return facts


def _of_config(content: dict[str, Any]) -> dict[str, Any]:
    """config.json: a card of this package, or timm's."""
    model, weights = content.get("model"), content.get("pretrained_cfg")
    if isinstance(model, dict):
        old = {"mean": RGB_MEAN, "std": RGB_STD if model.get("normalisation", "imagenet") == "imagenet" else (1, 1, 1)}
        return {"architecture": model.get("backbone"), **old, **{k: model[k] for k in ("mean", "std") if k in model}}
    weights = weights if isinstance(weights, dict) else {}
    facts = {name: weights.get(name, content.get(name)) for name in ("mean", "std")}
    return {"architecture": content.get("architecture"), **facts} if "architecture" in content else {}


def _of_processor(content: dict[str, Any]) -> dict[str, Any]:
    """preprocessor_config.json of transformers."""
    if content.get("do_normalize") is False:
        return {"mean": (0, 0, 0), "std": (1, 1, 1)}
    return {"mean": content["image_mean"], "std": content.get("image_std")} if "image_mean" in content else {}


def _of_open_clip(content: dict[str, Any]) -> dict[str, Any]:
    """open_clip_config.json."""
    model, pixels = content.get("model_cfg"), content.get("preprocess_cfg")
    vision = model.get("vision_cfg") if isinstance(model, dict) else None
    facts = {"architecture": vision.get("timm_model_name")} if isinstance(vision, dict) else {}
    if isinstance(pixels, dict):
        facts |= {name: pixels.get(name) for name in ("mean", "std")}
    return facts


CONFIGURATIONS = {
    "config.json": _of_config,
    "preprocessor_config.json": _of_processor,
    "open_clip_config.json": _of_open_clip,
}


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    """Facts that training scripts keep beside the tensors: `arch`, `args.model`, `pretrained_cfg`, ..."""
    facts: dict[str, Any] = {}
    for key in ("args", "hyper_parameters", "config", "cfg", "default_cfg", "pretrained_cfg", "meta", "metadata", ""):
        part = content if not key else content.get(key, {})
        part = part if isinstance(part, dict) else getattr(part, "__dict__", {})
        for place in (part, *(_object(part.get(name)) for name in ("pretrained_cfg", "config", "model_args"))):
            for name in ("architecture", "arch", "model_name", "backbone", "model"):
                if isinstance(place.get(name), str) and timm.is_model(place[name].partition(".")[0]):
                    facts.setdefault("architecture", place[name])
            if "mean" in place and "std" in place:
                facts.setdefault("mean", place["mean"])
                facts.setdefault("std", place["std"])
    return facts


def _object(value: Any) -> dict[str, Any]:
    """A dict, also one that safetensors' metadata keep as JSON; empty for anything else."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}


def _named(path: Path) -> dict[str, Any]:
    """The timm model that a file, or the folder of a file without a name of its own, is named after."""
    named = [path.name]
    if path.name.partition(".")[0] in GENERIC:
        named = [path.parent.name, *(folder.name for folder in path.parents if folder.name.startswith("models--"))]
    for name in named:
        start = re.split(r"[.-]", name.rpartition("--")[2])[0]
        if timm.is_model(start):
            return {"architecture": start}
    return {}
