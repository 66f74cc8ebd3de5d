"""Any timm network as a feature extractor: image_BCHW -> feature_BDhw, and where its first weights come from.

Shapes: B images, C channels, H x W pixels, D feature channels, h x w feature grid, N tokens.
"""

from __future__ import annotations

import difflib
import math
import os
import pickle
import re
import socket
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from timm.models import adapt_input_conv
from torch import Tensor, nn

REACH_SECONDS = 3.0
"""How long a host may take to answer before a download is called impossible."""

HUB_FILES = ("model.safetensors", "pytorch_model.bin")

MODEL_FILES = ("model.safetensors", "model/model.safetensors")
"""The weights of a model folder and of a run folder of this package."""

OWN_PREFIXES = ("backbone.net.", "global_branch.backbone.net.", "global.backbone.net.", "local.backbone.net.")
"""How this package's own files name a backbone's tensors: a branch's stage, a whole model, a joint stage with the
global branch and one without. The first that a file has is taken."""


class Backbone(nn.Module):
    """A timm model without its head. `channels` is D; forward maps image_BCHW (normalised) to feature_BDhw."""

    def __init__(
        self, name: str, in_channels: int = 1, weights: str | Path = "imagenet", output_stride: int = 32
    ) -> None:
        """Build the network called `name` by timm (e.g. resnet50, densenet121, convnext_tiny, resnet50.tv_in1k).

        `weights`: `imagenet` (from the cache or the Hugging Face hub; a tag of the name, such as tv_in1k, says which),
        `none` (random, from torch's generator), a safetensors or torch state-dict file of the same network, or a run or
        model folder, or a file of one (see `load_weights`). With one input channel the ImageNet stem's weights are
        summed over RGB. `output_stride`: image pixels to a cell of the feature map; under 32 later strides become
        dilations, where timm knows how. Raises ValueError for an unknown name or tag, weights that cannot be had, a
        file that does not fit, or a stride that the network cannot have.
        """
        super().__init__()
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels is {in_channels!r}; expected 1 (gray) or 3 (gray repeated)")
        if not re.fullmatch(r"[\w.]+", name) or not timm.is_model(name.partition(".")[0]):
            raise ValueError(f"unknown backbone {name!r}{_nearest(name)}; expected a timm model such as 'resnet50'")
        self.name = name
        self.net: Any  # a timm model has more than nn.Module declares
        options: dict[str, Any] = {"in_chans": in_channels, "num_classes": 0, "global_pool": ""}
        if output_stride != 32:
            options["output_stride"] = output_stride
        try:
            if str(weights) == "imagenet":
                options.update(pretrained=True, pretrained_cfg_overlay=_imagenet_file(name))
            self.net = timm.create_model(name, **options)
        except TypeError as error:
            if "output_stride" not in str(error):
                raise
            raise ValueError(
                f"timm's {name!r} has no output_stride, here {output_stride}; use 32, its own, or a network that can "
                "be dilated, such as resnet50 or convnext_tiny"
            ) from error
        except RuntimeError as error:  # e.g. a weight tag that the architecture does not have
            raise ValueError(f"timm cannot build the backbone {name!r}{_nearest(name)}: {error}") from error
        if str(weights) not in ("imagenet", "none"):
            load_weights(self.net, Path(weights))
        self.channels = int(self.net.num_features)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Last feature map, feature_BDhw. Raises ValueError for a network whose features are no map."""
        return self._as_map(self.net.forward_features(image_BCHW))

    def _as_map(self, feature: Any) -> Tensor:
        """Channels-first map from the layouts timm networks use: BDhw, BhwD (Swin), or tokens BND (ViT)."""
        channels = self.channels
        if isinstance(feature, Tensor):
            if feature.ndim == 4 and feature.shape[1] == channels:
                return feature
            if feature.ndim == 4 and feature.shape[3] == channels:
                return feature.permute(0, 3, 1, 2)
            if feature.ndim == 3 and feature.shape[2] == channels:
                tokens_BND = feature[:, getattr(self.net, "num_prefix_tokens", 0) :]
                side = math.isqrt(tokens_BND.shape[1])
                if side * side == tokens_BND.shape[1]:
                    return tokens_BND.transpose(1, 2).unflatten(2, (side, side))
        shape = tuple(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
        raise ValueError(
            f"the backbone {self.name!r} gives features {shape}, not a square map of {channels} channels; "
            "choose a network with feature maps such as resnet50, densenet121 or convnext_tiny"
        )


def _nearest(name: str) -> str:
    tagged = timm.list_pretrained(f"{name.partition('.')[0]}.*") if "." in name else []
    near = difflib.get_close_matches(name, tagged or timm.list_models(), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


# --- ImageNet weights -------------------------------------------------------------------------------------------------


def _imagenet_file(name: str) -> dict[str, Any]:
    """What to overlay on timm's pretrained configuration so that it loads without waiting for an absent network.

    A file in the Hugging Face cache is used as it is; otherwise the hub must answer within REACH_SECONDS.
    """
    entry = timm.get_pretrained_cfg(name)
    if entry is None or not entry.has_weights:
        raise ValueError(f"timm has no ImageNet weights for {name!r}; use --weights none, or --weights FILE")
    host, hub_id = entry.url, entry.hf_hub_id
    if hub_id:
        host = constants.ENDPOINT
        for file in (entry.hf_hub_filename,) if entry.hf_hub_filename else HUB_FILES:
            cached = try_to_load_from_cache(hub_id, file)
            if isinstance(cached, str):
                return {"file": cached}
    if isinstance(entry.url, str) and entry.url:
        cached_url = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
        if cached_url.is_file():
            return {"file": str(cached_url)}
    problem = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else unreachable(str(host))
    if problem is None:
        return {}
    raise ValueError(
        f"the ImageNet weights of {name!r} are not in the cache and cannot be downloaded: {problem}. "
        "Use --weights FILE with a weight file from disk, or --weights none for random weights; or, where there is a "
        f"network, run `hf download {hub_id or name}` and copy the folder {constants.HF_HUB_CACHE} to this machine"
    )


def unreachable(url: str, seconds: float = REACH_SECONDS) -> str | None:
    """None if the host of `url` answers HTTP within `seconds` (any status), else what went wrong.

    Honours proxies set in the environment. The request runs in a thread that is given up, because looking up a name
    has no timeout of its own.
    """
    result: list[str | None] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
            result.append(None)
        except urllib.error.HTTPError as answer:
            answer.close()
            result.append(None)  # a status is an answer
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            late = isinstance(reason, (TimeoutError, socket.timeout))
            result.append(f"{url} did not answer in {seconds:g} s" if late else f"{url} cannot be reached ({reason})")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds + 0.5)
    return result[0] if result else f"{url} did not answer in {seconds:g} s"


# --- weights from disk ------------------------------------------------------------------------------------------------


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors of a safetensors or torch file; nothing in it is executed.

    `state_dict` / `model` wrappers and the `module.` prefix of DataParallel are taken off. Raises ValueError for a
    file that is missing, damaged, or holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no weight file at {path}; expected a .safetensors file or a torch state dict")
    try:
        if path.suffix == ".safetensors":
            found: Any = safetensors.torch.load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        why = str(error) if path.stat().st_size else "it is empty; copy or download it again"
        raise ValueError(f"{path} is no readable weight file: {why}") from error
    except pickle.UnpicklingError as error:
        # torch's own words would advise to load it all the same.
        raise ValueError(
            f"{path} holds more than tensors and is not loaded, because such a file can run code; "
            "save the weights alone (torch.save(model.state_dict(), ...) or safetensors) where they came from"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"{path} is no state dict (names to tensors); found {type(found).__name__}")
    return {name.removeprefix("module."): value for name, value in found.items()}


def load_weights(net: nn.Module, path: Path) -> None:
    """Load a file made for the same network into a headless timm model; its head is left out, the rest is strict.

    `path` may be a run or model folder of this package, a stage's best.safetensors or a whole model.safetensors: their
    backbone is taken, of several the global branch's. Raises ValueError that lists what is missing, unexpected or of
    another shape.
    """
    path = _file_of(path)
    state = _own_backbone(read_state_dict(path))
    entry: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]
    for head in _names(entry.get("classifier")):
        state = {name: value for name, value in state.items() if not name.startswith(f"{head}.")}
    own = net.state_dict()
    for stem in _names(entry.get("first_conv")):
        key = f"{stem}.weight"
        if key in state and key in own and state[key].ndim == 4 and state[key].shape[1] == 3 != own[key].shape[1]:
            state[key] = adapt_input_conv(own[key].shape[1], state[key])
    try:
        load_strictly(net, state, str(path))
    except ValueError as error:
        here = entry.get("architecture", "this network")
        raise ValueError(
            f"{error}. Give --backbone the network that they are of (here: {here}), or --weights a file of this one"
        ) from None


def _file_of(path: Path) -> Path:
    """The weights in a run or model folder; a file is itself."""
    if not path.is_dir():
        return path
    found = next((path / name for name in MODEL_FILES if (path / name).is_file()), None)
    if found is None:
        stages = sorted(str(one) for one in path.glob("*/best.safetensors"))
        instead = f"it holds the stages {', '.join(stages)}: give one of them" if stages else "give a file of weights"
        raise ValueError(
            f"no {' and no '.join(MODEL_FILES)} in the folder {path}, so it is no finished run or model; {instead}"
        )
    return found


def _own_backbone(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's tensors of this package's files, under timm's names; those of any other file as they are."""
    for prefix in OWN_PREFIXES:
        if any(name.startswith(prefix) for name in state):
            return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return state


def load_strictly(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """`load_state_dict` whose refusal lists the differences. Raises ValueError and changes nothing if they differ."""
    own = module.state_dict()
    problems = {
        "missing": [name for name in own if name not in state],
        "unexpected": [name for name in state if name not in own],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
            for name, value in own.items()
            if name in state and state[name].shape != value.shape
        ],
    }
    told = [f"{len(names)} {kind}: {_few(names)}" for kind, names in problems.items() if names]
    if told:
        raise ValueError(f"the weights in {source} do not fit this network; " + "; ".join(told))
    module.load_state_dict(state, strict=True)


def _names(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())


def _few(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
