"""Every choice of a training run, as frozen pydantic models, with the published recipes as presets.

`lite()` and `paper()` are the columns of the table in docs/recipes.md; `demo()` is a small network for the phantom.
A run folder keeps the whole configuration as `config.yaml`. No torch here, so that `--help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml
from pydantic import Field, ValidationError, model_validator

from agcxr import config_file
from agcxr.values import Attention as Attention
from agcxr.values import Frozen, Statistic

Look = Literal["attention", "random", "centre", "whole", "oracle"]

Normalisation = Literal["weights", "imagenet", "mean"]

Pool = Literal["max", "mean", "gated"]

Strategy = Literal["G_L_F", "GLF", "GL_F", "G_LF", "G_L_F-finetune"]
STRATEGIES: dict[Strategy, tuple[str, ...]] = {
    "G_L_F": ("global", "local", "fusion"),
    "GLF": ("global+local+fusion",),
    "GL_F": ("global+local", "fusion"),
    "G_LF": ("global", "local+fusion"),
    "G_L_F-finetune": ("global", "local", "fusion+global+local"),
}
"""The stages of each strategy, in order. A stage is named after the parts it trains; it is optimised as the first of
them is (epochs, rate, ...), with the smallest batch among them. Every other part is frozen meanwhile."""


def parts_of(stage: str) -> tuple[str, ...]:
    """The parts that a stage trains: `local+fusion` -> (local, fusion)."""
    return tuple(stage.split("+"))


def starts_from_global(stage: str) -> bool:
    """Whether the local branch first learns in this stage while the global branch has learnt already."""
    return "local" in parts_of(stage) and "global" not in parts_of(stage)


class Stage(Frozen):
    """How one stage is optimised."""

    epochs: Annotated[int, Field(ge=1)] = 10
    """How often every training film is seen."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Films a batch, over all devices."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Batches a step: their gradients are summed, so that a step is of batch_size x accumulate films in the memory of
    one batch."""
    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD; AdamW keeps its usual betas."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["constant", "step", "cosine", "onecycle"] = "constant"
    step_epochs: Annotated[int, Field(ge=1)] = 20
    """With `step`: the learning rate is multiplied by step_factor after every so many epochs."""
    step_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    step_drops: Annotated[int, Field(ge=0)] = 0
    """With `step`: how often the rate falls at most; 0: after every step_epochs epochs to the end."""
    warm_up_epochs: Annotated[float, Field(ge=0)] = 0.0
    """The learning rate first climbs from near 0 over so many epochs (0.5: half of one). `onecycle` has its own."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The learning rate of each block of a backbone, as a share of that of the block after it; the last block and the
    heads have the whole. 1: all alike."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Keep a running average of the weights that forgets by so much a step (0.999; at first faster), validate it, and
    keep it as the result. 0: the weights themselves."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after so many epochs without a better one. 0: never."""


class Local(Stage):
    """Stage II, and how the local branch is shown its crop."""

    statistic: Statistic = "max"
    """Heatmap: max |f| (as published), sum |f| or sqrt(sum f^2) over the channels. Networks that end in ReLU6
    (EfficientNet-Lite, MobileNet) need l2 or l1: max meets the clip nearly everywhere. Or evidence of the findings,
    the largest over them: `cam` (weights of the global head times features), `learned` (a 1 x 1 convolution that
    learns with the global branch, a map for each label)."""
    top_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """With `learned`: a label's probability is the mean over this share of its map's cells, the highest ones; their
    loss is added to the global branch's."""
    crops: Annotated[int, Field(ge=1, le=64)] = 1
    """Crops a view, taken one after the other, each where the ones before it are not; 1 as published."""
    window: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Side of every crop as a share of the view's, where its mean heat is highest; 0: as large as the region that is
    found (as published). With a window, normalise, threshold, at and connectivity have no say in it."""
    pool: Pool = "max"
    """What the local branch makes of the pooled features of several crops: their maximum or mean, or a mean by weights
    that it learns (gated attention)."""
    gradient: Literal["none", "place"] = "none"
    """none (as published): no gradient passes through the box. `place`: each window is centred on the heat in it, so
    that the local branch teaches the global one where to look, where both learn together."""
    normalise: Literal["minmax", "percentile"] = "minmax"
    """Per image, before the threshold; with `percentile` the threshold is the fraction of pixels kept out."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.7
    """The paper's tau."""
    at: Literal["input", "grid"] = "input"
    """Threshold the heatmap upsampled to the input, or the raw feature grid."""
    connectivity: Literal[4, 8] = 8
    """Neighbours of a pixel when regions are formed."""
    min_side: Annotated[int, Field(ge=1)] = 16
    """A box with a side under this many view pixels falls back to the whole image."""
    crop_source: Literal["view", "prepared"] = "view"
    """Cut the crop from the view the global branch saw (as published), or from the prepared film (sharper)."""
    start: Literal["weights", "global"] = "weights"
    """The local branch's first weights: those of `weights` (as published), or the trained global branch's."""
    attention_per: Literal["view", "image"] = "view"
    """Attend anew to every augmented view (as published), or once per film, mapped through the augmentation (a film
    whose attention fell back is shown whole in every view)."""
    look: Look = "attention"
    """Where the crop lies: where attention falls (the method), or a control that sees as many pixels: a box of the
    same size at a random place or in the centre, or the whole view (the global image fed to both branches). Or
    `oracle`: where annotations say, the ceiling of any attention, on films that have such places (a phantom's); such a
    model answers for no other film."""

    def attention(self) -> Attention:
        """The options of `models.attention.attend`."""
        return Attention(**{name: getattr(self, name) for name in Attention.model_fields})


def check_crops(attention: Attention, look: Look, pool: Pool, at: str = "") -> None:
    """Raises ValueError for options of the crops that do not go together. `at`: what their names begin with."""
    several = f"{at}crops is {attention.crops}"
    if look == "whole" and attention.crops > 1:
        raise ValueError(f"{several}, but {at}look 'whole' shows the whole view, which is one; set {at}crops to 1")
    if look == "centre" and attention.crops > 1 and not attention.window:
        raise ValueError(
            f"{several} and {at}look 'centre', but boxes as large as the regions found cannot be laid side by side "
            f"about the centre; set {at}window to the share of the view's side that each is to have"
        )
    if pool == "gated" and attention.crops == 1:
        raise ValueError(
            f"{at}pool is 'gated', but {several}, and one needs no weighing; set {at}crops to 2 or more, or {at}pool "
            "to 'max'"
        )
    if attention.gradient == "place" and not attention.window:
        raise ValueError(
            f"{at}gradient is 'place', but a box as large as the region found has no side of its own to be centred; "
            f"set {at}window to the share of the view's side that it is to have"
        )
    if attention.gradient == "place" and look != "attention":
        raise ValueError(
            f"{at}gradient is 'place', but {at}look {look!r} takes no place from the heat; set {at}gradient to 'none'"
        )


class Fusion(Stage):
    """Stage III. Both branches are frozen, so what they say about a view needs to be computed only once."""

    start: Literal["random", "global", "mean"] = "random"
    """The fusion layer's first weights: random (as published), the global branch's own head with nothing yet from the
    local one, so that training can only add to what the global branch says, or both heads at half their weight, so that
    it begins with the mean of both branches' logits."""
    cached_views: Annotated[int, Field(ge=0)] = 0
    """0: new random views in every epoch (as published). V: features of V views a film are computed once, the first
    being the evaluation view and the others random, and each epoch draws among them."""


class Augment(Frozen):
    """Random views in training. Evaluation always takes the central crop."""

    crop: Literal["random", "random-resized", "none"] = "random"
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a left-right flip."""
    scale_min: Annotated[float, Field(gt=0, le=1)] = 0.08
    """With `random-resized`: the smallest share of the film's area a view may show."""
    ratio_max: Annotated[float, Field(ge=1)] = 4 / 3
    """With `random-resized`: the largest aspect ratio of the window."""
    zoom: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """With `random` and `none`: the window's side times a factor from 1 - zoom to 1 + zoom, at most the whole film."""
    rotation: Annotated[float, Field(ge=0, le=45)] = 0.0
    """Turn a view about its centre by up to so many degrees, either way."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Spread gray values about middle gray by a factor from 1 - contrast to 1 + contrast."""


class Train(Frozen):
    """A whole run: the network, the views and the three stages."""

    backbone: str = "resnet50.tv_in1k"
    """Any timm model that gives feature maps. A tag after a dot says which weights: tv_in1k are torchvision's first
    ones. Without a tag (resnet50), timm's default ones."""
    weights: str = "imagenet"
    """`imagenet` (timm's, those of the backbone's tag, or its default ones), `none`, a weight file on disk, a run or
    model folder (or a file of one) with the same backbone: its global branch's backbone, or `hf:owner/name` (from the
    Hugging Face cache, or downloaded)."""
    pooling: Literal["avg", "max"] = "avg"
    """Of the features before each head; the paper takes max."""
    in_channels: Literal[1, 3] = 1
    """Films are gray: one channel, the stem's ImageNet weights summed over the colours, or repeated as three, each
    normalised by its own colour's statistics. With three, a step moves what the stem makes of gray about three times
    as far."""
    output_stride: Literal[8, 16, 32] = 32
    """View pixels to a cell of the feature grid. Less (by dilation) gives attention a finer grid, and costs more."""
    image_size: Annotated[int, Field(ge=32)] = 224
    """Side of a view in pixels."""
    resize: Annotated[int, Field(ge=32)] = 256
    """Side of the whole film from which views are cut."""
    normalisation: Normalisation = "weights"
    """Mean and deviation of the pixels that the weights were trained on (random ones: ImageNet's), or ImageNet's
    whatever the weights, or only the weights' mean is subtracted (paper)."""
    norms: Literal["batch", "fixed"] = "batch"
    """Batch norms of the backbones while they learn: the statistics of each batch (as published), or always those that
    came with the weights, which keeps what the weights know where films are few and unlike the pictures they saw."""
    heads: Literal["random", "probe"] = "random"
    """The branches' first linear layers: random (as published), or fitted to the features that the backbone has before
    it learns (a ridge, its scores made logits), so that the first steps do not spoil them. Goes with `norms` fixed: the
    statistics of batches make other features."""
    augment: Augment = Augment()
    global_: Annotated[Stage, tyro.conf.arg(name="global"), Field(alias="global")] = Stage(epochs=10, batch_size=32)
    local: Local = Local(epochs=8, batch_size=16)
    fusion: Fusion = Fusion(epochs=5, batch_size=16)
    strategy: Strategy = "G_L_F"
    """What is trained together: three stages (as published), jointly (letters joined), or the branches once more in
    stage III (`finetune`)."""
    loss: Literal["bce", "balanced-batch", "balanced-dataset", "balanced-finding", "asymmetric", "auc-margin"] = "bce"
    """Cross-entropy; with ones and zeros weighted by how rare they are in the batch or in all training films; with the
    ones of each finding weighted by how rare they are in it; the asymmetric loss, which cares less for easy negatives;
    or the AUC margin loss, which sets films with and without a finding apart."""
    normal_weight: Annotated[float, Field(ge=0, le=1)] = 1.0
    """What a film of No Finding counts in the cross-entropy of the findings (its own label counts in full). Less than 1
    teaches to tell findings from one another more than films with any from films with none: for use where few films are
    normal."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of first weights, order and views. The same seed gives the same run on one kind of processor with the same
    versions and number of threads; another number of threads, or a GPU, sums in another order: rounding differs, and
    grows."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 where the hardware computes in it, else fp32. `fp16`, with scaled gradients, is for GPUs without
    bf16. The run folder says which it was."""
    devices: Annotated[int, Field(ge=1)] = 1
    """GPUs of a machine (processes, where there is none). Batches are shared out among them."""
    nodes: Annotated[int, Field(ge=1)] = 1
    """Machines."""

    @model_validator(mode="after")
    def _view_fits(self) -> Train:
        if self.image_size > self.resize:
            raise ValueError(
                f"image_size is {self.image_size} but a view is cut from a film of resize={self.resize}; "
                "raise resize or lower image_size"
            )
        return self

    @model_validator(mode="after")
    def _crops_can_be_taken(self) -> Train:
        check_crops(self.local.attention(), self.local.look, self.local.pool, "local.")
        side = self.local.window * self.image_size
        if 0 < side < self.local.min_side:
            raise ValueError(
                f"local.window is {self.local.window:g}, {side:.0f} of {self.image_size} pixels of the view, and boxes "
                f"have {self.local.min_side} at least; raise it, or lower local.min_side"
            )
        return self

    @model_validator(mode="after")
    def _normal_weight_counts(self) -> Train:
        if self.normal_weight != 1 and self.loss != "bce":
            raise ValueError(f"normal_weight is {self.normal_weight:g}, which only the loss 'bce' knows; set it to 1")
        return self

    @model_validator(mode="after")
    def _norms_know(self) -> Train:
        if self.norms == "fixed" and self.weights == "none":
            raise ValueError("norms are 'fixed', but random weights come with no statistics; set norms to 'batch'")
        return self

    @model_validator(mode="after")
    def _warm_up_fits(self) -> Train:
        for name, stage in (("global", self.global_), ("local", self.local), ("fusion", self.fusion)):
            if not stage.warm_up_epochs:
                continue
            given = f"{name}.warm_up_epochs is {stage.warm_up_epochs:g}"
            if stage.schedule == "onecycle":
                raise ValueError(f"{given}, but the schedule onecycle has its own warm-up; set it to 0")
            if stage.warm_up_epochs > stage.epochs:
                raise ValueError(f"{given}, but {name}.epochs only {stage.epochs}; lower it, or raise the epochs")
        return self

    @model_validator(mode="after")
    def _views_can_be_drawn(self) -> Train:
        if self.augment.zoom and self.augment.crop == "random-resized":
            raise ValueError(
                f"augment.zoom is {self.augment.zoom:g}, but with augment.crop 'random-resized' windows already differ "
                "in size; set it to 0 (augment.scale_min says how much they may), or augment.crop to 'random'"
            )
        if self.augment.rotation and self.boxes_once:
            given = "look is 'oracle'" if self.local.look == "oracle" else "attention_per is 'image'"
            raise ValueError(
                f"local.{given}, but a box found once does not turn with the views, which augment."
                f"rotation turns by up to {self.augment.rotation:g} degrees; set it to 'view', or the rotation to 0"
            )
        return self

    @model_validator(mode="after")
    def _what_learns_is_not_fixed(self) -> Train:
        """Features and boxes can be computed once only while what makes them is frozen."""
        for parts in map(parts_of, self.stages):
            if len(parts) > 1 and "fusion" in parts and self.fusion.cached_views:
                raise ValueError(
                    f"fusion.cached_views is {self.fusion.cached_views}, but with strategy {self.strategy} branches "
                    "change while the fusion learns, so features cannot be computed once; set it to 0"
                )
            if len(parts) > 1 and "global" in parts and self.local.look == "oracle":
                raise ValueError(
                    f"local.look is 'oracle', but with strategy {self.strategy} the global branch changes while crops "
                    "are taken, which have nothing to teach it; set the strategy to G_L_F or G_LF"
                )
            if len(parts) > 1 and "global" in parts and self.local.attention_per == "image":
                raise ValueError(
                    f"local.attention_per is 'image', but with strategy {self.strategy} the global branch changes "
                    "while crops are taken, so boxes cannot be found once; set it to 'view'"
                )
        if self.local.gradient == "place" and not any({"global", "local"} <= set(parts_of(s)) for s in self.stages):
            raise ValueError(
                f"local.gradient is 'place', but with strategy {self.strategy} the global branch is frozen while the "
                "local one learns, so that it would lead nowhere; set it to 'none', or the strategy to GLF, GL_F or "
                "G_L_F-finetune"
            )
        if self.fusion.start != "random" and "fusion" not in self.stages:
            raise ValueError(
                f"fusion.start is {self.fusion.start!r}, but with strategy {self.strategy} a branch learns with the "
                "fusion; set it to 'random'"
            )
        if self.local.start == "global" and not any(starts_from_global(name) for name in self.stages):
            raise ValueError(
                f"local.start is 'global', but with strategy {self.strategy} both branches start together; "
                "set it to 'weights'"
            )
        return self

    @property
    def boxes_once(self) -> bool:
        """Whether the boxes of a film are found once for all its views, and not anew in each."""
        return self.local.attention_per == "image" or self.local.look == "oracle"

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages of the strategy, in order."""
        return STRATEGIES[self.strategy]

    def stage(self, name: str) -> Stage:
        """How the stage called `global`, `local`, `fusion`, or several of them joined by `+`, is optimised."""
        parts = {"global": self.global_, "local": self.local, "fusion": self.fusion}
        named = parts_of(name)
        if not set(named) <= set(parts):
            raise ValueError(f"unknown stage {name!r}; expected one of {', '.join(parts)}")
        return parts[named[0]].model_copy(update={"batch_size": min(parts[part].batch_size for part in named)})


def lite() -> Train:
    """The public reduced-budget recipe: torchvision's ResNet-50, 10/8/5 epochs, batch 32/16/16, SGD 0.01, random crop
    and flip."""
    return Train()


def paper() -> Train:
    """Guan et al. 2018 with ResNet-50: 50 epochs a stage, batch 126/64/64, lr / 10 once after epoch 20, max pooling."""
    common: dict[str, Any] = {"epochs": 50, "weight_decay": 1e-4, "schedule": "step", "step_drops": 1}
    return Train(
        pooling="max",
        normalisation="mean",
        augment=Augment(crop="random-resized"),
        global_=Stage(batch_size=126, **common),
        local=Local(batch_size=64, **common),
        fusion=Fusion(batch_size=64, **common),
    )


def paper_densenet() -> Train:
    """Guan et al. 2018 with DenseNet-121: as `paper`, batch 64/32/32."""
    base = paper()
    return base.model_copy(
        update={
            "backbone": "densenet121.tv_in1k",
            "global_": base.global_.model_copy(update={"batch_size": 64}),
            "local": base.local.model_copy(update={"batch_size": 32}),
            "fusion": base.fusion.model_copy(update={"batch_size": 32}),
        }
    )


def demo() -> Train:
    """A small network from random weights for the phantom: minutes on two CPU cores.

    The published geometry at a quarter of its size: views of 56 px from films of 256 (224 from 1024), a 7 x 7 feature
    grid. Without ImageNet weights the local branch and the fusion start from the trained global branch; crops come from
    the film itself, up to four times as sharp as the view. Chosen on validation films and on films of other seeds.
    """
    learning: dict[str, Any] = {"batch_size": 32, "optimiser": "adamw", "weight_decay": 0.02, "schedule": "onecycle"}
    return Train(
        backbone="resnet10t",
        weights="none",
        pooling="max",
        output_stride=8,
        image_size=56,
        resize=64,
        augment=Augment(flip=0.0),
        global_=Stage(epochs=12, lr=2e-3, **learning),
        local=Local(epochs=7, lr=2e-3, crop_source="prepared", start="global", threshold=0.5, min_side=8, **learning),
        fusion=Fusion(epochs=8, lr=5e-4, cached_views=4, start="global", **learning),
    )


def strong() -> Train:
    """A small network from ImageNet weights on 336-px views, for some thousand films: batch norms that keep their
    statistics, a head fitted before the first step, AdamW, warm-up and cosine, small steps for early layers, an average
    of the weights, and no mirrored film: the heart has a side (see method.md)."""
    steady: dict[str, Any] = {"optimiser": "adamw", "weight_decay": 0.05, "schedule": "cosine", "warm_up_epochs": 0.5}
    steady |= {"batch_size": 32, "layer_decay": 0.9, "ema": 0.999, "patience": 3}
    crops: dict[str, Any] = {"crop_source": "prepared", "statistic": "l2", "threshold": 0.5, "min_side": 24}
    return Train(
        backbone="tf_efficientnet_lite0",
        image_size=336,
        resize=384,
        norms="fixed",
        heads="probe",
        augment=Augment(crop="random-resized", scale_min=0.5, flip=0.0, rotation=5.0, contrast=0.1),
        global_=Stage(epochs=6, lr=2e-4, **steady),
        local=Local(epochs=4, lr=2e-4, start="global", **crops, **steady),
        fusion=Fusion(epochs=5, lr=2e-4, start="global", cached_views=4, **steady),
    )


PRESETS: dict[str, Callable[[], Train]] = {
    "lite": lite,
    "paper": paper,
    "paper-densenet": paper_densenet,
    "strong": strong,
    "demo": demo,
}


def preset(name: str) -> Train:
    """The recipe of that name. Raises ValueError naming the nearest one."""
    if name not in PRESETS:
        raise ValueError(
            f"unknown preset {name!r}{config_file.did_you_mean(name, list(PRESETS))}; there are {', '.join(PRESETS)}"
        )
    return PRESETS[name]()


def sized(config: Train, size: int) -> Train:
    """The same recipe with views of `size` pixels from films of 8/7 of it, as the published 224 from 256: 320 from 366,
    448 from 512. Raises ValueError for a size under 32."""
    return from_dict(config.model_dump(by_alias=True) | {"image_size": size, "resize": round(size * 8 / 7)})


def to_yaml(config: Train, path: str | Path) -> None:
    """Write every field, defaults included, so that a run folder says all that made it."""
    Path(path).write_text(yaml.safe_dump(config.model_dump(by_alias=True), sort_keys=False), encoding="utf-8")


def from_yaml(path: str | Path, base: Train | None = None) -> Train:
    """Read a configuration; fields the file leaves out come from `base` (default: `lite`).

    Raises ValueError that names an unknown key, or an impossible value, and the nearest valid one.
    """
    found = config_file.read(path, tuple(PRESETS))
    return from_dict(config_file.merged((base or lite()).model_dump(by_alias=True), found))


def from_dict(values: dict[str, Any]) -> Train:
    """Validate plain values (alias keys, as in YAML). Raises ValueError with the nearest valid key or value."""
    try:
        return Train.model_validate(values)
    except ValidationError as error:
        raise ValueError(in_words(error)) from None


def in_words(error: ValidationError) -> str:
    """What is wrong with settings, a line each, for people."""
    return config_file.in_words(error, Train)
