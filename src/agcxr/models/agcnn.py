"""The three branches of AG-CNN (Guan et al. 2018, section 3): global image, attended crop, fusion of both.

Shapes: B images, R crops of each, C channels, H x W pixels of the view, D feature channels, h x w feature grid, K
labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import torch
import torch.nn.functional as F
from huggingface_hub import ModelHubMixin
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from agcxr import config, geometry
from agcxr.data.augment import FilmSource
from agcxr.findings import CHESTXRAY14, Findings
from agcxr.models import checkpoint
from agcxr.models.attention import Attention, attend, elsewhere
from agcxr.models.backbones import Backbone
from agcxr.models.checkpoint import Card, ModelArguments, Preprocessing
from agcxr.models.folding import Folding
from agcxr.models.origin import RGB_MEAN, RGB_STD
from agcxr.models.weights import State, fits, load_strictly

GRAY_MEAN, GRAY_STD = (fmean(RGB_MEAN),), (fmean(RGB_STD),)
"""ImageNet statistics of pixels in [0, 1]; gray takes the mean over the colours."""

BRANCHES = ("global", "local", "fusion")

README = """---
{{ card_data }}
---

AG-CNN for chest radiographs (arXiv:1801.09927), saved by `agcxr`. Load it with
`agcxr.AGCNN.from_pretrained` or `agcxr.Predictor.from_pretrained`. config.json says what it was trained on.

For research only: not a medical device, not for use on patients.
"""
"""What save_pretrained writes beside the weights, for people who find them."""


@dataclass(frozen=True)
class BranchOutput:
    """What one branch makes of its image."""

    logit_BK: Tensor
    pooled_BD: Tensor
    """float32, after pooling, before the head."""
    feature_BDhw: Tensor


@dataclass(frozen=True)
class CropsOutput:
    """What the local branch makes of the crops of each view."""

    logit_BK: Tensor
    pooled_BD: Tensor
    """float32, pooled over the cells and then over the crops, before the head."""
    feature_BRDhw: Tensor
    weight_BR: Tensor
    """float32 in [0, 1], the sum of each row 1: how much of `pooled_BD` is of each crop; 0 where there is none."""


@dataclass(frozen=True)
class AGCNNOutput:
    """What the whole network makes of a batch of views."""

    global_BK: Tensor
    local_BK: Tensor
    fusion_BK: Tensor
    """Logits of the three branches, float32."""
    heat_BHW: Tensor
    box_BR4: Tensor
    """In pixels of the view, exclusive end, in the order in which they were taken; without area where there is none."""
    weight_BR: Tensor
    """float32 in [0, 1], the sum of each row 1: how much of the local features is of each crop."""
    crop_BRCHW: Tensor
    """What the local branch saw, in [0, 1]; where there is no box, the first crop again, which counts for nothing."""
    fallback_B: Tensor
    """No region stood out: the first box is the whole view, and the only one."""
    feature_BDhw: Tensor
    """Of the global branch, on the view."""
    local_feature_BRDhw: Tensor
    """Of the local branch, on the crops."""
    pooled_global_BD: Tensor
    pooled_local_BD: Tensor

    @property
    def box_B4(self) -> Tensor:
        """The first box of each view."""
        return self.box_BR4[:, 0]

    @property
    def crop_BCHW(self) -> Tensor:
        """The first crop of each view."""
        return self.crop_BRCHW[:, 0]

    @property
    def local_feature_BDhw(self) -> Tensor:
        """Of the local branch, on the first crop."""
        return self.local_feature_BRDhw[:, 0]


class Gate(nn.Module):
    """Gated attention over instances (Ilse et al. 2018, arXiv:1802.04712): a score for each of the pooled vectors of a
    view. It begins with equal scores, a mean of the vectors."""

    def __init__(self, channels: int, width: int = 128) -> None:
        super().__init__()
        self.content, self.gate = nn.Linear(channels, width), nn.Linear(channels, width)
        self.score = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, pooled_BRD: Tensor) -> Tensor:
        """Scores of any size, float32 BR."""
        with torch.autocast(pooled_BRD.device.type, enabled=False):
            return self.score(self.content(pooled_BRD).tanh() * self.gate(pooled_BRD).sigmoid())[..., 0]


class Branch(nn.Module):
    """Normalisation, backbone, pooling and a linear head of its own."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str,
        pooling: str,
        in_channels: int,
        normalisation: str,
        outputs: int,
        weights: str | Path,
        output_stride: int = 32,
        image_size: int | None = None,
        statistics: tuple[Sequence[float], Sequence[float]] | None = None,
        *,
        maps: bool = False,
        crop_pool: str = "max",
    ) -> None:
        """See AGCNN for the options. `outputs`: number of labels. `statistics`: mean and deviation by colour, in place
        of those that `normalisation` means. `maps`: with a map of evidence for each label, made by a 1 x 1 convolution
        of its own. `crop_pool`: over the pooled vectors of several crops: `max`, `mean` or `gated`."""
        super().__init__()
        if pooling not in ("avg", "max"):
            raise ValueError(f"pooling is {pooling!r}; expected 'avg' or 'max'")
        if normalisation not in get_args(config.Normalisation):
            known = ", ".join(map(repr, get_args(config.Normalisation)))
            raise ValueError(f"normalisation is {normalisation!r}; expected one of {known}")
        self.pooling, self.in_channels = pooling, in_channels
        self.backbone = Backbone(backbone, in_channels, weights, output_stride, image_size)
        self.head = nn.Linear(self.backbone.channels, outputs)
        self.maps = nn.Conv2d(self.backbone.channels, outputs, 1) if maps else None
        self.crop_pool = crop_pool
        self.gate = Gate(self.backbone.channels) if crop_pool == "gated" else None
        self._folding = Folding()
        own = {
            "weights": (self.backbone.mean, self.backbone.std),
            "imagenet": (RGB_MEAN, RGB_STD),
            "mean": (self.backbone.mean, (1.0, 1.0, 1.0)),
        }
        self.statistics = statistics or own[normalisation]
        for name, colour in zip(("mean", "std"), self.statistics, strict=True):
            values = torch.tensor(colour if in_channels == 3 else (fmean(colour),))
            self.register_buffer(name, values.view(1, -1, 1, 1), persistent=False)

    def forward(self, image_BCHW: Tensor) -> BranchOutput:
        """image_BCHW: float in [0, 1], one gray channel (or `in_channels`). Logits and pooled features are float32."""
        feature = self.features(image_BCHW)
        pooled = self.pool(feature)
        return BranchOutput(linear(self.head, pooled), pooled, feature)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """feature_BDhw of images as `forward` takes them."""
        channels = image_BCHW.shape[1] if image_BCHW.ndim == 4 else 0
        if channels not in (1, self.in_channels) or not image_BCHW.is_floating_point():
            raise ValueError(
                f"image is {image_BCHW.dtype} of shape {tuple(image_BCHW.shape)}; "
                "expected a float tensor B x 1 x H x W of gray values in [0, 1]"
            )
        image_BCHW = (image_BCHW - self.mean) / self.std
        return self._folding.of(self.backbone, image_BCHW)(image_BCHW)

    def evidence(self, feature_BDhw: Tensor) -> Tensor:
        """A map for each label, float32 BKhw: of the learned convolution, a probability for each cell; without it, the
        head's weights times the features, whose mean over the cells is the logit after average pooling, but for the
        bias."""
        with torch.autocast(feature_BDhw.device.type, enabled=False):
            if self.maps is not None:
                return self.maps(feature_BDhw.float()).sigmoid()
            return F.conv2d(feature_BDhw.float(), self.head.weight[:, :, None, None])

    def crops(self, crop_BRCHW: Tensor, present_BR: Tensor) -> CropsOutput:
        """The crops of each view as one answer. Those that are not present (the first always is) count for nothing."""
        feature = self.features(crop_BRCHW.flatten(0, 1))
        shape = crop_BRCHW.shape[:2]
        pooled, weight = self._over_crops(self.pool(feature).unflatten(0, shape), present_BR)
        return CropsOutput(linear(self.head, pooled), pooled, feature.unflatten(0, shape), weight)

    def _over_crops(self, pooled_BRD: Tensor, present_BR: Tensor) -> tuple[Tensor, Tensor]:
        """pooled_BD and weight_BR. The weight of a crop under `max`: its share of the channels, ties parted evenly."""
        if pooled_BRD.shape[1] == 1:
            return pooled_BRD[:, 0], torch.ones_like(pooled_BRD[:, :, 0])
        if self.crop_pool == "max":
            held_BRD = torch.where(present_BR[..., None], pooled_BRD, float("-inf"))
            pooled_BD = held_BRD.amax(1)
            highest_BRD = (held_BRD == pooled_BD[:, None]).float()
            return pooled_BD, (highest_BRD / highest_BRD.sum(1, keepdim=True)).mean(2)
        score_BR = torch.zeros_like(pooled_BRD[..., 0]) if self.gate is None else self.gate(pooled_BRD)
        weight_BR = torch.where(present_BR, score_BR, float("-inf")).softmax(1)
        return (weight_BR[..., None] * pooled_BRD).sum(1), weight_BR

    def pool(self, feature_BDhw: Tensor) -> Tensor:
        """feature_BDhw -> pooled_BD in float32."""
        if self.pooling == "avg":
            return feature_BDhw.mean((2, 3), dtype=torch.float32)
        return feature_BDhw.amax((2, 3)).float()


def linear(head: nn.Linear, pooled_BD: Tensor) -> Tensor:
    """Logits in float32 whatever autocast says: heads cost nothing and their rounding would show in the scores."""
    with torch.autocast(pooled_BD.device.type, enabled=False):
        return head(pooled_BD.float())


def _check(
    attention: config.Attention,
    crop_source: str,
    look: str,
    pool: str,
    labels: tuple[str, ...],
    evidence_of: Sequence[str],
) -> None:
    """Raises ValueError for options that AGCNN does not know, and for those of the crops that do not go together."""
    if crop_source not in ("view", "prepared"):
        raise ValueError(f"crop_source is {crop_source!r}; expected 'view' or 'prepared'")
    for name, value, known in (("look", look, get_args(config.Look)), ("pool", pool, get_args(config.Pool))):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}")
    if not labels or len(set(labels)) != len(labels):
        raise ValueError(f"labels are {labels}; expected at least one name, none of them twice")
    if unknown := [name for name in evidence_of if name not in labels]:
        raise ValueError(f"evidence_of names {unknown[0]!r}, which is none of the labels {', '.join(labels)}")
    config.check_crops(attention, look, pool)  # type: ignore[arg-type]


def _sought(labels: tuple[str, ...], evidence_of: tuple[str, ...] | None) -> list[int]:
    """Positions of the labels whose evidence draws attention."""
    none = Findings.of(labels).none
    names = evidence_of or [name for name in labels if name != none] or labels
    return [labels.index(name) for name in names]


class AGCNN(
    nn.Module,
    ModelHubMixin,
    library_name="agcxr",
    license="apache-2.0",
    pipeline_tag="image-classification",
    tags=["chest-x-ray", "radiology"],
    model_card_template=README,
):
    """Global branch -> attention box -> local branch on the crop -> fusion of both pooled features.

    Images are float in [0, 1], gray, of any size the backbone takes; normalisation happens inside.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        *,
        pooling: str = "avg",
        in_channels: int = 1,
        output_stride: int = 32,
        image_size: int = 224,
        resize: int = 256,
        normalisation: str = "weights",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        attention: config.Attention | None = None,
        crop_source: str = "view",
        look: str = "attention",
        pool: str = "max",
        evidence_of: Sequence[str] | None = None,
        labels: Sequence[str] = CHESTXRAY14.labels,
        weights: str | Path = "imagenet",
        strict: bool = True,
    ) -> None:
        """Build the network; random parts follow torch's global generator.

        - `backbone`, `in_channels`, `weights` (of both branches), `output_stride`: see models/backbones.py.
        - `pooling` before each head: `avg` or `max` (paper).
        - `image_size`: side of the crops the local branch sees, and of the views that callers should render. Networks
          for one size, such as ViT and Swin, are built for this one.
        - `resize`: side of the film that views are cut from; `crop_source`: `view` or `prepared`, for who renders them.
        - `look`: `attention` (the method), or a control, `random`, `centre` or `whole`; see attention.elsewhere.
        - `pool`: over the features of several crops: `max`, `mean`, or `gated`, by weights that the branch learns.
        - `evidence_of`: labels whose evidence draws attention with the statistics `cam` and `learned`; None: all but
          the one that says "none of them".
        - `normalisation`: mean and deviation of the pixels that belong to the `weights`, or those of `imagenet`, or
          only the weights' `mean` is subtracted (paper). Random weights have ImageNet's. One gray channel takes the
          mean over the colours. `mean` and `std`: in their place, three numbers each, by colour, of pixels in [0, 1].
        - `strict`: whether a backbone that makes one cell of a view, so that attention has no choice, is refused; False
          (saved models) warns of it.
        """
        super().__init__()
        self.attention = attention or config.Attention()
        _check(self.attention, crop_source, look, pool, tuple(labels), evidence_of or ())
        self.backbone_name, self.pooling, self.in_channels = backbone, pooling, in_channels
        self.output_stride, self.image_size, self.resize = output_stride, image_size, resize
        self.normalisation = normalisation
        self.crop_source, self.look_at, self.crop_pool, self.labels = crop_source, look, pool, tuple(labels)
        self.evidence_of = None if evidence_of is None else tuple(evidence_of)
        self._sought = _sought(self.labels, self.evidence_of)
        size = (output_stride, image_size, (mean, std) if mean and std else None)
        branch = (backbone, pooling, in_channels, normalisation, len(labels), weights, *size)
        self.global_branch = Branch(*branch, maps=self.attention.statistic == "learned")
        self.local_branch = Branch(*branch, crop_pool=pool)
        self.mean, self.std = map(tuple, self.global_branch.statistics)
        self.global_branch.backbone.check(image_size, strict=strict)
        self.fusion_head = nn.Linear(2 * self.global_branch.backbone.channels, len(labels))
        self._frozen: frozenset[str] = frozenset()
        self.fixed_norms = False
        """Batch norms of the backbones keep their statistics while they train; set before `train()`."""
        self.card: Card | None = None
        """Where the weights come from, for a model that was loaded or saved."""

    # --- the method, step by step -------------------------------------------------------------------------------------

    def forward(self, image_BCHW: Tensor, sharp: Tensor | FilmSource | None = None) -> AGCNNOutput:
        """All three branches. `sharp`: the same views at a higher resolution, BCHW, or the films that windows of them
        can be cut from; see augment.crop_source."""
        whole = self.forward_global(image_BCHW)
        seen = self.look(whole.feature_BDhw, image_BCHW)
        crop_BRCHW = self.cut(image_BCHW, seen.box_BR4, sharp)
        part = self.forward_crops(crop_BRCHW, geometry.present(seen.box_BR4))
        return AGCNNOutput(
            global_BK=whole.logit_BK,
            local_BK=part.logit_BK,
            fusion_BK=self.fuse(whole.pooled_BD, part.pooled_BD),
            heat_BHW=seen.heat_BHW,
            box_BR4=seen.box_BR4,
            weight_BR=part.weight_BR,
            crop_BRCHW=crop_BRCHW,
            fallback_B=seen.fallback_B,
            feature_BDhw=whole.feature_BDhw,
            local_feature_BRDhw=part.feature_BRDhw,
            pooled_global_BD=whole.pooled_BD,
            pooled_local_BD=part.pooled_BD,
        )

    def forward_global(self, image_BCHW: Tensor) -> BranchOutput:
        """The global branch alone."""
        return self.global_branch(image_BCHW)

    def evidence(self, feature_BDhw: Tensor) -> Tensor:
        """What speaks for each label where, given the global branch's features of a view: BKhw float32. Of the learned
        maps (statistic `learned`) a probability in [0, 1]; else head weights times features, without the bias."""
        return self.global_branch.evidence(feature_BDhw)

    def look(self, feature_BDhw: Tensor, image_BCHW: Tensor) -> Attention:
        """Where the global branch looks, given its features of a view: boxes in pixels of that view. Gradients pass
        from the boxes to the features with `attention.gradient` `place` alone."""
        seen = feature_BDhw
        if self.attention.statistic in ("cam", "learned"):
            seen = self.evidence(feature_BDhw)[:, self._sought]
        found = attend(seen, (image_BCHW.shape[2], image_BCHW.shape[3]), **self.attention.model_dump())
        return elsewhere(found, self.look_at, image_BCHW)

    def cut(self, image_BCHW: Tensor, box_BR4: Tensor, sharp: Tensor | FilmSource | None = None) -> Tensor:
        """Crop boxes (in pixels of `image_BCHW`) to image_size, from what is sharper where given: BRCHW; one box an
        image, `box_B4`, gives BCHW. Where there is no box, the first one is cut again.

        The control that looks at the whole view sees exactly what the global branch sees; and so, where crops are
        windows, does a view in which no region stood out.
        """
        if box_BR4.ndim == 2:
            return self.cut(image_BCHW, box_BR4[:, None], sharp)[:, 0]
        box_BR4 = torch.where(geometry.present(box_BR4)[..., None], box_BR4, box_BR4[:, :1])
        if self.attention.window:
            return self._windows(image_BCHW, box_BR4, sharp)
        return self._cut(image_BCHW, box_BR4, None if self.look_at == "whole" else sharp)

    def _windows(self, image_BCHW: Tensor, box_BR4: Tensor, sharp: Tensor | FilmSource | None) -> Tensor:
        """Windows, and the view itself for boxes that are the whole view."""
        size = (image_BCHW.shape[2], image_BCHW.shape[3])
        all_BR4 = geometry.whole(box_BR4, size)
        whole_BR = (box_BR4 == all_BR4).all(2)
        corner_BR4 = (all_BR4 * self.attention.window).round()  # as large as the others: cut, and not kept
        crop_BRCHW = self._cut(image_BCHW, torch.where(whole_BR[..., None], corner_BR4, box_BR4), sharp)
        if geometry.plain_cpu(image_BCHW) and not whole_BR.any():
            return crop_BRCHW
        view_B1CHW = geometry.crop(image_BCHW, all_BR4[:, :1], self.image_size)
        return torch.where(whole_BR[..., None, None, None], view_B1CHW, crop_BRCHW)

    def _cut(self, image_BCHW: Tensor, box_BR4: Tensor, sharp: Tensor | FilmSource | None) -> Tensor:
        if isinstance(sharp, FilmSource):
            return sharp.crop(box_BR4, image_BCHW.shape[-1], self.image_size)
        if sharp is not None:
            from_size, to_size = image_BCHW.shape[2:], sharp.shape[2:]
            box_BR4 = geometry.scale_boxes(box_BR4, (from_size[0], from_size[1]), (to_size[0], to_size[1]))
            image_BCHW = sharp
        cut = geometry.sample if box_BR4.requires_grad else geometry.crop
        return cut(image_BCHW, box_BR4, self.image_size)

    def forward_local(self, crop_BCHW: Tensor) -> BranchOutput:
        """The local branch on one crop of each view."""
        return self.local_branch(crop_BCHW)

    def forward_crops(self, crop_BRCHW: Tensor, present_BR: Tensor) -> CropsOutput:
        """The local branch on several crops of each view; `present_BR`: which of them count, the first always."""
        return self.local_branch.crops(crop_BRCHW, present_BR)

    def fuse(self, pooled_global_BD: Tensor, pooled_local_BD: Tensor) -> Tensor:
        """Fusion logits of the two branches' pooled features."""
        return linear(self.fusion_head, torch.cat([pooled_global_BD, pooled_local_BD], dim=1))

    def start_local(self) -> None:
        """Give the local branch the backbone and the head of the global one."""
        self.local_branch.backbone.load_state_dict(self.global_branch.backbone.state_dict())
        self.local_branch.head.load_state_dict(self.global_branch.head.state_dict())

    @torch.no_grad()
    def start_fusion(self, local_share: float = 0.0) -> None:
        """Set the fusion layer so that its logits are the global branch's, or with a `local_share` in [0, 1] a mean of
        both branches': (1 - local_share) x global + local_share x local."""
        whole, part = self.global_branch.head, self.local_branch.head
        self.fusion_head.weight.copy_(torch.cat([(1 - local_share) * whole.weight, local_share * part.weight], dim=1))
        self.fusion_head.bias.copy_((1 - local_share) * whole.bias + local_share * part.bias)

    # --- freezing -----------------------------------------------------------------------------------------------------

    def part(self, name: str) -> nn.Module:
        """The module of the branch called `global`, `local` or `fusion`."""
        parts = dict(zip(BRANCHES, (self.global_branch, self.local_branch, self.fusion_head), strict=True))
        if name not in parts:
            raise ValueError(f"unknown branch {name!r}; expected one of {', '.join(BRANCHES)}")
        return parts[name]

    @property
    def frozen(self) -> frozenset[str]:
        """Names of the frozen branches."""
        return self._frozen

    def freeze(self, *names: str) -> AGCNN:
        """No gradients and evaluation mode (fixed batch-norm statistics, no dropout), whatever .train() is called."""
        return self._set_frozen(names, True)

    def unfreeze(self, *names: str) -> AGCNN:
        """Undo `freeze` for those branches."""
        return self._set_frozen(names, False)

    def _set_frozen(self, names: tuple[str, ...], frozen: bool) -> AGCNN:
        for name in names:
            self.part(name).requires_grad_(not frozen)
        self._frozen = self._frozen | set(names) if frozen else self._frozen - set(names)
        return self.train(self.training)

    def train(self, mode: bool = True) -> AGCNN:
        """As nn.Module.train, but frozen branches stay in evaluation mode, and so do batch norms with `fixed_norms`."""
        super().train(mode)
        for name in self._frozen:
            self.part(name).eval()
        if self.fixed_norms:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the branches that are not frozen."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def arguments(self) -> dict[str, Any]:
        """Constructor arguments (all but `weights`) that build this network again."""
        return {
            "backbone": self.backbone_name,
            "pooling": self.pooling,
            "output_stride": self.output_stride,
            "in_channels": self.in_channels,
            "image_size": self.image_size,
            "resize": self.resize,
            "normalisation": self.normalisation,
            "mean": self.mean,
            "std": self.std,
            "attention": self.attention,
            "crop_source": self.crop_source,
            "look": self.look_at,
            "pool": self.crop_pool,
            "evidence_of": self.evidence_of,
            "labels": self.labels,
        }

    # --- on disk ------------------------------------------------------------------------------------------------------

    def new_card(self, *, prepared_size: int | None = None, **facts: Any) -> Card:
        """A card of this network; `facts` are further fields of checkpoint.Card (metrics, seed, ...)."""
        preprocessing = Preprocessing(prepared_size=prepared_size)
        return Card(model=ModelArguments(**self.arguments()), preprocessing=preprocessing, **facts)

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, card: Card | None = None, **options: Any
    ) -> str | None:
        """Write model.safetensors, config.json and a README into a folder; `options` as in huggingface_hub's mixin.

        `card`: see `new_card`; default: the card the model was loaded with, or a new one. Raises ValueError for the
        card of another network.
        """
        card = card or self.card or self.new_card()
        if card.model != ModelArguments(**self.arguments()):
            raise ValueError("the card describes another network than this one; make it with model.new_card(...)")
        self.card = card
        return super().save_pretrained(save_directory, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        assert self.card is not None
        checkpoint.write(save_directory, self.card, self.state_dict())

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> AGCNN:
        """The model in a run folder, a model folder or a hub repository, on the CPU, in evaluation mode.

        The options concern the hub, as in huggingface_hub's mixin. Raises ValueError that says what is missing or
        does not fit.
        """
        return cls._from_pretrained(
            model_id=str(pretrained_model_name_or_path),
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **hub: Any) -> AGCNN:  # type: ignore[override]
        folder = checkpoint.fetch(model_id, **hub)
        card = checkpoint.read_card(folder / checkpoint.CARD_FILE)
        state = checkpoint.read_weights(folder / checkpoint.WEIGHTS_FILE)
        arguments = {name: getattr(card.model, name) for name in ModelArguments.model_fields}
        model = cls(**arguments, weights="none", strict=False)
        if not fits(model, state):
            model._of_earlier_versions(state)
        load_strictly(model, state, str(folder / checkpoint.WEIGHTS_FILE))
        model.card = card
        return model.eval()

    def _of_earlier_versions(self, state: State) -> None:
        """Networks for one size were built for timm's, not for that of the views; do so where these tensors want it."""
        prefix = "global_branch.backbone."
        backbone = self.global_branch.backbone.of_own_size()
        if fits(backbone, {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}):
            self.global_branch.backbone, self.local_branch.backbone = backbone, backbone.of_own_size()
