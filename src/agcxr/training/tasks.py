"""What one step of a stage is: films in, a loss out, and how the validation films are scored.

I    global: views through the global branch.
II   local: crops through the local branch; the frozen global branch says where to crop.
III  fusion: the pooled features of both frozen branches through the fusion layer.

A stage may also train several of these parts at once (config.STRATEGIES): its loss is the sum of theirs, every other
part is frozen, and no gradient passes through the box.

Everything random of an epoch (order, views, dropout) follows from (seed, stage, epoch) alone, so that a run that was
stopped after any epoch goes on as if it had not been.

Shape suffixes: N films of a part, B films of a batch, P parts that learn, R boxes of a film, K labels, D channels, 4 a
box (x0, y0, x1, y1).
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from agcxr import metrics
from agcxr.config import Stage, Train, parts_of
from agcxr.data import augment
from agcxr.data.augment import Views
from agcxr.data.dataset import Batches, FilmBatch, Films, Shard, epoch_seed, evaluation_batches, train_batches
from agcxr.data.prepared import measurable
from agcxr.findings import CHESTXRAY14, Findings
from agcxr.models.agcnn import AGCNN
from agcxr.ridge import fit_head
from agcxr.training import frozen, losses
from agcxr.training.cpu import FastDepthwise, keep_freed_memory
from agcxr.training.frozen import Machine
from agcxr.training.losses import ALONE, Peers
from agcxr.training.optimise import layer_scales, lr_factor, optimiser

PARTS = ("global", "local", "fusion")


@dataclass(frozen=True)
class Data:
    """The two parts a run reads."""

    train: Films
    val: Films


@dataclass(frozen=True)
class Shown:
    """A batch of films, the views they are seen by, and the positions of the films in their part."""

    film: FilmBatch
    views: Views
    at_B: Tensor


@dataclass(frozen=True)
class Validation:
    """Scores of the validation films after an epoch: the loss and the AUROC of every label (NaN: these films lack a
    class, or the label is not taught)."""

    loss: float
    auc_K: tuple[float, ...]
    findings: Findings = CHESTXRAY14
    """Whose labels they are."""

    @property
    def mean_auc(self) -> float:
        """Mean over the findings (not "none of them") whose AUROC is defined; NaN where none is."""
        known = [self.auc_K[k] for k in self.findings.positions if not np.isnan(self.auc_K[k])]
        return float(np.mean(known)) if known else float("nan")


def both_classes(films: Films) -> dict[str, tuple[int, int]]:
    """Labels, in order, that some films are known to have and some not to have: how many of either.

    Of training films, these are the labels that they teach. An output that meets one class alone learns to say it of
    every film, and one whose label no film states keeps its random first weights: neither can tell films apart, however
    sure its scores look.
    """
    counts_2K = np.stack([(films.label_NK == value).sum(axis=0) for value in (1, 0)])
    each = zip(films.findings.labels, *counts_2K, strict=True)
    return {label: (int(positive), int(negative)) for label, positive, negative in each if positive and negative}


def absent(data: Data) -> tuple[str, ...]:
    """Findings that training, or validation, has no positive or no negative film of: means leave them out."""
    both = both_classes(data.train).keys() & both_classes(data.val).keys()
    return tuple(finding for finding in data.train.findings.names if finding not in both)


def only(model: AGCNN, stage: str) -> None:
    """Let the stage's parts learn. Other branches are frozen (no gradients, fixed batch norm); later parts wait."""
    learns = parts_of(stage)
    model.freeze(*(name for name in PARTS if name not in learns)).unfreeze(*learns)


def stage_state(model: AGCNN, stage: str) -> dict[str, Tensor]:
    """What a stage has learned: the state of its part, or of its parts, each key then after the part's name."""
    parts = parts_of(stage)
    if len(parts) == 1:
        return model.part(stage).state_dict()
    return {f"{part}.{key}": value for part in parts for key, value in model.part(part).state_dict().items()}


def load_stage(model: AGCNN, stage: str, state: dict[str, Tensor]) -> None:
    """Put what `stage_state` gave back, strictly."""
    parts = parts_of(stage)
    for part in parts:
        head = "" if len(parts) == 1 else f"{part}."
        own = {key.removeprefix(head): value for key, value in state.items() if key.startswith(head)}
        model.part(part).load_state_dict(own)


class StageTask(L.LightningModule):
    """One stage as a Lightning module. `model` already holds the best weights of the earlier stages.

    `stage`: its name, which says the parts that learn, such as `local` or `local+fusion`.
    """

    def __init__(self, model: AGCNN, config: Train, stage: str, data: Data) -> None:
        super().__init__()
        only(model, stage)
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config, self.stage, self.parts, self.data = config, stage, parts_of(stage), data
        self.settings: Stage = config.stage(stage)
        findings = data.train.findings
        normal = None if findings.none is None else findings.labels.index(findings.none)
        self.loss = losses.make(config.loss, torch.from_numpy(data.train.label_NK), normal, config.normal_weight)
        self.validation: Validation | None = None
        self.films_seen, self.loss_sum = 0, torch.zeros(())  # of the epoch under way, in this process
        self.epoch_loss: tuple[float, int] = (float("nan"), 0)
        self.train_seconds, self.first_lr = 0.0, 0.0  # of the last epoch: its time, the rate of its first step
        self._epoch_started = 0.0
        self._share_J: Tensor | None = (
            None  # what each batch of the epoch counts in its step, where it is not all of it
        )
        self._scored: list[tuple[Tensor, Tensor]] = []  # validation: (place_B, logit_BK)
        self._train_box_NR4: Tensor | None = None
        self._val_box_NR4: Tensor | None = None
        self._train_feature_VNC: Tensor | None = None
        self._val_feature_NC: Tensor | None = None

    # --- once, before the first step ---

    def on_fit_start(self) -> None:
        """Compute what frozen branches say about views that never change."""
        if self.device.type == "cpu":
            keep_freed_memory()
        batch_size, machine = 2 * self.settings.batch_size, self._machine()
        if self.config.heads == "probe" and self.trainer.ckpt_path is None:
            self._probe_heads(batch_size, machine)
        if "global" in self.parts:
            return
        if self.config.boxes_once and not self.cached_views:
            self._train_box_NR4 = frozen.film_boxes(self.model, self.data.train, self.config, batch_size, machine)
        if "local" in self.parts:
            self._val_box_NR4 = frozen.film_boxes(self.model, self.data.val, self.config, batch_size, machine)
        else:
            self._cache_features(batch_size, machine)

    def _probe_heads(self, batch_size: int, machine: Machine) -> None:
        """Fit the heads of the branches that begin to learn to the features that they have."""
        model, train, config = self.model, self.data.train, self.config
        training = model.training
        model.eval()
        for part in self.parts:
            if part == "fusion" or (part == "local" and config.local.start == "global"):
                continue
            if part == "global":
                feature_ND = frozen.global_features(model, train, config, batch_size, machine)
            else:
                views = frozen.centre(len(train), train, config)
                feature_ND = frozen.film_features(model, train, views, config, batch_size, machine).chunk(2, 1)[1]
            weights = fit_head(feature_ND.cpu().numpy(), measurable(train.label_NK), train.patient_N, seed=config.seed)
            head = (model.global_branch if part == "global" else model.local_branch).head
            for parameter, value in zip(head.parameters(), weights, strict=True):
                parameter.data.copy_(torch.from_numpy(value))
        model.train(training)

    def _cache_features(self, batch_size: int, machine: Machine) -> None:
        """Features of the validation films; with `fusion.cached_views` also of V views of the training films. Boxes a
        film are found once for all its views."""
        train, val, config = self.data.train, self.data.val, self.config

        def boxes(films: Films) -> Tensor | None:
            return frozen.film_boxes(self.model, films, config, batch_size, machine) if config.boxes_once else None

        def features(films: Films, views: Views, box_NR4: Tensor | None) -> Tensor:
            return frozen.film_features(self.model, films, views, config, batch_size, machine, box_NR4)

        self._val_feature_NC = features(val, frozen.centre(len(val), val, config), boxes(val))
        if not self.cached_views:
            return
        width = self._val_feature_NC.shape[1]
        device = frozen.feature_device(self.cached_views, len(train), width, self.device)
        shown = [frozen.centre(len(train), train, config)]
        shown += [self._random_views(len(train), -view) for view in range(1, self.cached_views)]
        box_NR4 = boxes(train)
        self._train_feature_VNC = torch.stack([features(train, views, box_NR4).to(device) for views in shown])

    @property
    def cached_views(self) -> int:
        """V of stage III when its features are computed once; 0 when they are computed afresh in every epoch."""
        return self.config.fusion.cached_views if self.parts == ("fusion",) else 0

    def _machine(self) -> Machine:
        return Machine(self.device, self._shard(), self._gather, self.trainer.precision_plugin.forward_context)

    def _shard(self) -> Shard:
        return Shard(self.global_rank, self.trainer.world_size)

    def _gather(self, tensor: Tensor) -> Tensor:
        return self.all_gather(tensor) if self.trainer.world_size > 1 else tensor[None]  # type: ignore[return-value]

    def _total(self, tensor: Tensor) -> Tensor:
        return self._gather(tensor).sum(0)

    # --- data ---

    def train_dataloader(self) -> Batches:
        """The films of the current epoch. Called at the start of each, also of the first one after a restart."""
        seed = self._seed(self.current_epoch)
        torch.manual_seed(epoch_seed(seed, self.global_rank))  # dropout and the like
        self._views = self._random_views(len(self.data.train), self.current_epoch)
        if self.cached_views:
            draw = torch.Generator().manual_seed(epoch_seed(seed, 2))
            view_N = torch.randint(self.cached_views, (len(self.data.train),), generator=draw)
            assert self._train_feature_VNC is not None
            self._view_N = view_N.to(self._train_feature_VNC.device)
        self._epoch_started, self.films_seen, self.loss_sum = time.perf_counter(), 0, torch.zeros(())
        films = replace(self.data.train, pixels=not self.cached_views)
        batches = self._batches(films, epoch_seed(seed, 0))
        self._share_J = None if self.settings.accumulate == 1 else self._shares(batches)
        return batches

    def _batches(self, films: Films, seed: int) -> Batches:
        return train_batches(
            films,
            self.settings.batch_size,
            accumulate=self.settings.accumulate,
            seed=seed,
            shard=self._shard(),
            pin=self._pin,
        )

    def _shares(self, batches: Batches) -> Tensor:
        """What the loss of each batch counts in its step, J numbers: its share of the step's known labels, so that a
        step over several batches is that over one of all their films. (Lightning divides by `accumulate`.)"""
        label_NK, accumulate = self.data.train.label_NK, self.settings.accumulate
        known = [int((~np.isnan(label_NK[batches.at_M[start:stop]])).sum()) for start, stop in batches.bounds]
        known_J = self._total(torch.tensor(known, dtype=torch.float64, device=self.device)).cpu()
        steps = [part.sum().clamp(min=1).expand(len(part)) for part in known_J.split(accumulate)]
        return (accumulate * known_J / torch.cat(steps)).float()

    def val_dataloader(self) -> Batches:
        """Every validation film once over all processes."""
        films = replace(self.data.val, pixels=self._val_feature_NC is None)
        return evaluation_batches(films, 2 * self.settings.batch_size, shard=self._shard(), pin=self._pin)

    @property
    def _pin(self) -> bool:
        return self.device.type == "cuda"

    def _seed(self, epoch: int) -> int:
        return epoch_seed(self.config.seed, PARTS.index(self.parts[0]), epoch % 2**32)

    def _random_views(self, n: int, epoch: int) -> Views:
        """A view for every place of an epoch (negative: of a cached pass), the same however many processes share it."""
        generator = torch.Generator().manual_seed(epoch_seed(self._seed(epoch), 1))
        config = self.config
        return augment.random_views(
            n,
            self.data.train.size,
            image_size=config.image_size,
            resize=config.resize,
            augment=config.augment,
            generator=generator,
        )

    def transfer_batch_to_device(self, batch: FilmBatch, device: torch.device, dataloader_idx: int) -> Shown:
        """The films and their views on the device; asynchronous from pinned memory."""
        training = self.trainer.training
        films = self.data.train if training else self.data.val
        views = self._views[batch.place_B] if training else frozen.centre(len(batch), films, self.config)
        at_B = torch.searchsorted(torch.from_numpy(films.row_N), batch.row_B)  # rows ascend
        return Shown(batch.to(device), views.to(device), at_B.to(device, non_blocking=True))

    # --- steps ---

    def training_step(self, shown: Shown, batch_idx: int) -> Tensor:
        """The mean loss of the batch, summed over the parts that learn."""
        film = shown.film
        if self._train_feature_VNC is None:
            with FastDepthwise() if self.device.type == "cpu" else nullcontext():
                logit_PBK = self._logits(shown, self._train_box_NR4)
        else:
            device = self._train_feature_VNC.device
            view_B = self._view_N[film.place_B.to(device)]
            logit_PBK = self._fused(self._train_feature_VNC[view_B, shown.at_B.to(device)])
        loss = self._loss(logit_PBK, film.label_BK, Peers(self.trainer.world_size, self._total))
        if batch_idx == 0:
            self.first_lr = max(group["lr"] for group in self.trainer.optimizers[0].param_groups)
        self.films_seen += len(film)
        self.loss_sum = self.loss_sum.to(loss.device) + loss.detach().float() * len(film)
        return loss if self._share_J is None else loss * self._share_J[batch_idx]

    def validation_step(self, shown: Shown, batch_idx: int) -> None:
        """Keep the logits; all of them are scored together at the end."""
        if self._val_feature_NC is None:
            logit_PBK = self._logits(shown, self._val_box_NR4)
        else:
            logit_PBK = self._fused(self._val_feature_NC[shown.at_B])
        self._scored.append((shown.film.place_B, logit_PBK.float().transpose(0, 1)))

    def _loss(self, logit_PBK: Tensor, label_BK: Tensor, peers: Peers = ALONE) -> Tensor:
        return torch.stack([self.loss(logit_BK, label_BK, peers) for logit_BK in logit_PBK]).sum()

    def _logits(self, shown: Shown, box_NR4: Tensor | None) -> Tensor:
        """Logits PBK of the parts that learn, and last, where they learn too, those of the maps of evidence. `box_NR4`:
        boxes of all films of the part (prepared pixels), if known."""
        picture = frozen.picture(shown.film, shown.views, self.config)
        box_BR4 = None if box_NR4 is None else frozen.box_in_view(box_NR4[shown.at_B], shown.views, self.config)
        whole = part = None
        if self.parts != ("local",) or box_BR4 is None:
            with self._learning("global"):
                whole = self.model.forward_global(picture.view_B1HW)
        if self.parts != ("global",):
            with self._learning("local"):
                if box_BR4 is None:
                    assert whole is not None
                    box_BR4 = self.model.look(whole.feature_BDhw, picture.view_B1HW).box_BR4
                part = frozen.local(self.model, picture, box_BR4)
        logit_BK = {"global": whole and whole.logit_BK, "local": part and part.logit_BK}
        if "fusion" in self.parts:
            assert whole is not None
            assert part is not None
            logit_BK["fusion"] = self.model.fuse(whole.pooled_BD, part.pooled_BD)
        logits = [logit_BK[name] for name in self.parts]
        if "global" in self.parts and self.config.local.statistic == "learned":
            assert whole is not None
            logits.append(losses.top_share(self.model.evidence(whole.feature_BDhw), self.config.local.top_share))
        return torch.stack(logits)  # type: ignore[arg-type]

    def _learning(self, part: str) -> torch.set_grad_enabled:
        """Gradients are kept for a part that learns, and for none in validation."""
        return torch.set_grad_enabled(torch.is_grad_enabled() and part in self.parts)

    def _fused(self, feature_BC: Tensor) -> Tensor:
        """Fusion logits of cached features, 1BK."""
        return self.model.fuse(*feature_BC.to(self.device).chunk(2, 1))[None]

    # --- the end of an epoch ---

    def on_validation_epoch_end(self) -> None:
        """Score all validation films, whichever process saw them. Raises ValueError where training has diverged."""
        place, logit = (torch.cat(parts) for parts in zip(*self._scored, strict=True))
        self._scored.clear()
        films = self.data.val
        logit_PNK = frozen.whole(place, logit, len(films), self._gather).transpose(0, 1).cpu()
        loss = float(self._loss(logit_PNK, torch.from_numpy(films.label_NK)))
        if not np.isfinite(loss):
            raise ValueError(
                f"training diverged: the validation loss of the {self.stage} stage is {loss} after epoch "
                f"{self.current_epoch + 1}; lower --{self.parts[0]}.lr (now {self.settings.lr:g}){self._stages_kept()}"
            )
        # The fusion's scores choose the epoch where it learns; branches that learn without it count alike.
        chosen = [self.parts.index("fusion")] if "fusion" in self.parts else range(len(self.parts))
        auc_K = np.mean([metrics.auroc_table(films.label_NK, logit_PNK[p].numpy()) for p in chosen], axis=0)
        known = both_classes(self.data.train)
        auc_K[[label not in known for label in films.findings.labels]] = np.nan
        self.validation = Validation(loss, tuple(auc_K.tolist()), films.findings)

    def _stages_kept(self) -> str:
        done = self.config.stages[: self.config.stages.index(self.stage)]
        root = self.trainer.default_root_dir
        return f"; a new run with --reuse {root} need not train {' and '.join(done)} again" if done else ""

    def on_validation_start(self) -> None:
        """The films of the epoch are through: stop the clock. (Reading the loss waits for the device.)"""
        self.epoch_loss = self._epoch_loss()
        self.train_seconds = time.perf_counter() - self._epoch_started

    def _epoch_loss(self) -> tuple[float, int]:
        """Mean training loss of the epoch and its films, over all processes."""
        count = torch.tensor(float(self.films_seen), device=self.device)
        total = torch.stack([self.loss_sum.to(self.device), count])
        loss_sum, films = self._total(total).tolist()
        return loss_sum / films, int(films)

    # --- how it learns ---

    def configure_optimizers(self) -> Any:
        """The stage's optimiser, its rate set anew at every step."""
        steps = -(-len(self._batches(self.data.train, 0)) // self.settings.accumulate)
        scale: dict[torch.nn.Parameter, float] = {}
        if self.settings.layer_decay < 1:
            for branch in (self.model.part(name) for name in self.parts if name != "fusion"):
                scale |= layer_scales(branch.backbone.net, self.settings.layer_decay)  # type: ignore[union-attr, arg-type]
        learn = optimiser(list(self.model.trainable_parameters()), self.settings, scale)
        rate = torch.optim.lr_scheduler.LambdaLR(learn, lambda step: lr_factor(self.settings, step, steps))
        return {"optimizer": learn, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    # --- what a checkpoint of the stage holds: the part that learns, nothing frozen ---

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave the frozen branches out: they are in the best weights of their own stages."""
        learns = self._learned_keys()
        checkpoint["state_dict"] = {key: value for key, value in checkpoint["state_dict"].items() if key in learns}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the rest back, so that loading stays strict."""
        if set(checkpoint["state_dict"]) != self._learned_keys():
            raise ValueError(
                f"the {self.stage} stage's last.ckpt belongs to another network; train into a new folder with --out"
            )
        checkpoint["state_dict"] = {**self.state_dict(), **checkpoint["state_dict"]}

    def _learned_keys(self) -> set[str]:
        learned = [self.model.part(name) for name in self.parts]
        return {
            f"{name}.{key}" for name, module in self.named_modules() if module in learned for key in module.state_dict()
        }
