"""The run: the stages in order, each from the best weights of the one before, each resumable after any epoch."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from tqdm import tqdm

from agcxr.config import Train, parts_of, starts_from_global
from agcxr.data.dataset import films
from agcxr.data.prepared import Prepared, open_prepared
from agcxr.findings import CHESTXRAY14, Findings
from agcxr.models.agcnn import AGCNN
from agcxr.models.checkpoint import Card, Patients
from agcxr.training import run_folder
from agcxr.training.averaging import Averaging
from agcxr.training.frozen import attended, places
from agcxr.training.keeper import Keeper, Progress, Tracking
from agcxr.training.norms import SharedNorms
from agcxr.training.run_folder import RunFolder, StageSummary, uses_bf16
from agcxr.training.tasks import Data, StageTask, absent, both_classes, load_stage
from agcxr.training.tracking import LoggerName, make_loggers


@dataclass(frozen=True)
class RunSummary:
    """What a finished run left: its folder, the folder of the model, and how each stage ended."""

    folder: Path
    model: Path
    stages: tuple[StageSummary, ...]

    def stage(self, name: str) -> StageSummary:
        """The summary of one stage."""
        return next(stage for stage in self.stages if stage.stage == name)


def train(
    prepared_folder: str | Path,
    config: Train,
    out: str | Path,
    *,
    resume: bool = False,
    reuse: Sequence[str | Path] = (),
    progress: bool = True,
    callbacks: Sequence[L.Callback] = (),
    loggers: Sequence[Logger | LoggerName] = (),
) -> RunSummary:
    """Train all stages of the configuration's strategy on a prepared folder and write the run folder (see run_folder).

    With `resume`, finished stages are taken as they are and the stage under way goes on after its last whole epoch; the
    result is that of a run that was never stopped, and a finished run is left as it is, to the byte. `reuse`: other run
    folders on the same films with the same backbone; finished stages of theirs that this run would train in exactly
    the same way are copied from them, with the same result. The run folder says which precision `auto` came to.
    `callbacks` join the Trainer of every stage; `loggers` (Lightning's, or names) get the rows of metrics.csv.

    Raises ValueError for an existing run without `resume`, another configuration or other films with it, a run to
    reuse that cannot fit, a part without films, more devices than there are, a batch that cannot be shared by them, and
    training that diverges.
    """
    prepared, run = open_prepared(prepared_folder), RunFolder(Path(out))
    data = _data(prepared, config)
    if not first_process():  # a process that another one started for its device: the first one keeps the folder
        wait_for_each_other()
        return _train(run, config, data, prepared, progress=False, callbacks=callbacks, loggers=loggers)
    check_devices(config, len(data.train))
    donors, plan = [RunFolder(Path(folder)) for folder in reuse], Path(prepared_folder) / "plan.json"
    for donor in donors:
        run.check_donor(donor, config, plan)
    run.start(config, plan, resume=resume)
    nothing_left = resume and run.finished()
    for donor in () if nothing_left else donors:
        found = run.reuse(donor, config)
        if progress:
            tqdm.write(f"From {donor.root}: {found}.")
    wait_for_each_other()
    if nothing_left:
        if progress:
            tqdm.write(f"Nothing is left to train: {', '.join(config.stages)} are done in {run.root}.")
        return RunSummary(run.root, run.model, tuple(filter(None, map(run.done, config.stages))))
    with run.status(run_folder.hardware(), Path(prepared_folder)) as finished:
        try:
            summary = _train(run, config, data, prepared, progress=progress, callbacks=callbacks, loggers=loggers)
        except SystemExit:  # Lightning's answer to Ctrl-C
            tqdm.write(f"Stopped. Whole epochs are kept in {run.root}; the same command with --resume goes on.")
            raise SystemExit(130) from None
        except Exception:
            run.withdraw()
            raise
        finished()
    return summary


def _data(prepared: Prepared, config: Train) -> Data:
    """The films to train on. Raises ValueError for those that teach nothing, or lack the places that crops lie at."""
    data = Data(films(prepared, "train"), films(prepared, "val"))
    if not both_classes(data.train):
        raise ValueError(
            f"the training films of {prepared.folder} teach nothing: of no label do they hold a film that is known to "
            "have it and one that is known not to; prepare with a table that has both (0 and 1) for some finding"
        )
    if config.local.look == "oracle":
        places(data.train, config.local.crops)
    return data


def _train(
    run: RunFolder,
    config: Train,
    data: Data,
    prepared: Prepared,
    *,
    progress: bool,
    callbacks: Sequence[L.Callback],
    loggers: Sequence[Logger | LoggerName],
) -> RunSummary:
    watching: dict[str, Any] = {"callbacks": callbacks, "loggers": make_loggers(loggers, run.root)}
    torch.manual_seed(config.seed)
    model = build(config, data.train.findings, both_classes(data.train))
    if progress:
        tqdm.write(_header(model, config, data, run))
        _say_absent(data)
    if progress and data.train.size < config.resize:
        tqdm.write(
            f"The films were prepared at {data.train.size} px, under resize={config.resize}: no view shows more. "
            f"`agcxr prepare --size {config.resize}` keeps more of them."
        )
    summaries = []
    for name in config.stages:
        if config.local.start == "global" and starts_from_global(name):
            model.start_local()
        if config.fusion.start != "random" and name == "fusion":
            model.start_fusion(0.5 if config.fusion.start == "mean" else 0.0)
        summary = run.done(name) or train_stage(name, model, config, data, run, progress=progress, **watching)
        load_stage(model, name, run_folder.read_weights(run.stage(name) / "best.safetensors"))
        if progress and "global" in parts_of(name):
            _say_attention(model, config, data)
        summaries.append(summary)
    if first_process():
        model.save_pretrained(run.model, _card(model, config, prepared, data, tuple(summaries)))
    return RunSummary(run.root, run.model, tuple(summaries))


def build(config: Train, findings: Findings = CHESTXRAY14, taught: Container[str] | None = None) -> AGCNN:
    """The network of a configuration for some findings, with its first weights; random ones follow torch's global
    generator. `taught`: the labels that the films teach (None: all), whose evidence may draw attention."""
    evidence_of = None
    if config.local.statistic in ("cam", "learned"):
        evidence_of = tuple(name for name in findings.names if taught is None or name in taught) or findings.names
    model = AGCNN(
        backbone=config.backbone,
        pooling=config.pooling,
        output_stride=config.output_stride,
        in_channels=config.in_channels,
        image_size=config.image_size,
        resize=config.resize,
        normalisation=config.normalisation,
        attention=config.local.attention(),
        crop_source=config.local.crop_source,
        look=config.local.look,
        pool=config.local.pool,
        evidence_of=evidence_of,
        weights=config.weights,
        labels=findings.labels,
    )
    model.fixed_norms = config.norms == "fixed"
    return model


def train_stage(
    name: str,
    model: AGCNN,
    config: Train,
    data: Data,
    run: RunFolder,
    *,
    progress: bool = True,
    callbacks: Sequence[L.Callback] = (),
    loggers: Sequence[Logger] = (),
) -> StageSummary:
    """Train one stage to its end, from its last.ckpt where there is one. Its folder then holds its best weights.

    `name`: one of the configuration's stages. The model must hold the best weights of the earlier stages; afterwards
    the parts that learned have the LAST weights.
    """
    folder = run.stage(name)
    if first_process():
        folder.mkdir(parents=True, exist_ok=True)
    settings = config.stage(name)
    averaging = Averaging(settings.ema) if settings.ema else None
    keeper = Keeper(folder, averaging, settings.patience)
    own: list[L.Callback] = [averaging, keeper] if averaging else [keeper]
    own.append(Tracking(keeper))
    if progress:
        behind = config.stages[config.stages.index(name) + 1 :]
        own.append(Progress(keeper, sum(config.stage(stage).epochs for stage in behind)))
    last = folder / "last.ckpt"
    with _quiet(), _norms_in_words(name, config, len(data.train)):
        trainer = make_trainer(config, settings.epochs, [*own, *callbacks], run.root, settings.accumulate, loggers)
        trainer.fit(StageTask(model, config, name, data), ckpt_path=last if last.exists() else None, weights_only=True)
    summary = _summary(name, keeper, data)
    if trainer.is_global_zero:
        run.finish(summary)
    if progress:
        tqdm.write(f"{name:>6}  best epoch {summary.best_epoch}: validation AUROC {summary.val_auc:.4f}")
    return summary


def check_devices(config: Train, n_films: int) -> None:
    """Raises ValueError where this machine lacks the devices or their precision, or where they cannot share the batches
    of any stage: once, before hours of training and before a process a device is started."""
    if config.precision == "fp16" and not torch.cuda.is_available():
        raise ValueError(
            "precision is fp16, which is for CUDA GPUs, and this machine has none that can be used; leave it to auto, "
            "or give --precision fp32 or bf16"
        )
    here, what = devices_here()
    if config.devices > here:
        raise ValueError(
            f"{config.devices} devices were asked for, but this machine has {here} {what}; "
            f"give --devices {here} or fewer"
        )
    world = config.devices * config.nodes
    if n_films < world:
        raise ValueError(f"{n_films} films cannot be dealt out to {world} devices; use fewer devices or more films")
    for name in config.stages:
        size = config.stage(name).batch_size
        if size % world:
            part = min(parts_of(name), key=lambda one: config.stage(one).batch_size)
            raise ValueError(
                f"{part}.batch_size is {size} films over {world} devices; expected a multiple of {world}, "
                f"such as {max(1, size // world) * world}"
            )


def devices_here() -> tuple[int, str]:
    """How many devices training can use, and what they are: GPUs, or the cores where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.device_count(), "GPU" + "s" * (torch.cuda.device_count() > 1)
    if torch.backends.mps.is_available():
        return 1, "GPU"
    cores = os.cpu_count() or 1
    return cores, f"core{'s' * (cores > 1)} and no GPU"


def make_trainer(
    config: Train,
    epochs: int,
    callbacks: list[L.Callback],
    root: Path,
    accumulate: int = 1,
    loggers: Sequence[Logger] = (),
) -> L.Trainer:
    """A Lightning Trainer that leaves checkpoints, samplers and bars to us."""
    world = config.devices * config.nodes
    cuda = torch.cuda.is_available()
    return L.Trainer(
        accelerator="auto",
        devices=config.devices,
        num_nodes=config.nodes,
        # Some backbones have parameters that no step uses. A static graph (a stage does the same in every step) finds
        # them once, but not where steps of several batches share their gradients at the last one only.
        strategy=DDPStrategy(static_graph=accumulate == 1, find_unused_parameters=accumulate > 1)
        if world > 1
        else "auto",
        precision=_precision(config.precision),
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        callbacks=callbacks,
        logger=list(loggers),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,
        plugins=[SharedNorms()] if cuda and world > 1 else None,
        benchmark=cuda,
        default_root_dir=root,
    )


def _precision(precision: str) -> Literal["bf16-mixed", "16-mixed", "32-true"]:
    """In Lightning's words."""
    if precision == "fp16":
        return "16-mixed"
    return "bf16-mixed" if uses_bf16(precision) else "32-true"


def first_process() -> bool:
    """Whether this is the process of the first device (of one, always)."""
    return not getattr(rank_zero_only, "rank", 0)


def wait_for_each_other() -> None:
    """Until every process of the devices is here; one that is alone, or was not joined to others yet, goes on."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _card(model: AGCNN, config: Train, prepared: Prepared, data: Data, stages: tuple[StageSummary, ...]) -> Card:
    """What the model says about where it comes from; patients only as salted hashes."""
    scores = {f"{stage.stage}_val_auc": None if stage.val_auc != stage.val_auc else stage.val_auc for stage in stages}
    return model.new_card(
        prepared_size=data.train.size,
        train_patients=_patients(prepared, data),
        metrics=scores,
        taught=both_classes(data.train),
        findings=data.train.findings,
        seed=config.seed,
    )


def _patients(prepared: Prepared, data: Data) -> Patients:
    """Those of the training films, by collection."""
    first, *others = (
        Patients.of(ids, collection=member.collection, films=member.fingerprint if prepared.members else None)
        for member, ids in prepared.patients(data.train.row_N)
    )
    return first.model_copy(update={"others": tuple(others)})


def _summary(name: str, keeper: Keeper, data: Data) -> StageSummary:
    best = keeper.best
    assert best is not None
    return StageSummary(
        stage=name,
        best_epoch=best.epoch,
        val_auc=best.val_auc,
        val_auc_per_finding={
            name: best.auc_K[k] for k, name in zip(data.val.findings.positions, data.val.findings.names, strict=True)
        },
        absent=absent(data),
        epochs=len(keeper.rows),
        seconds=round(sum(row.seconds for row in keeper.rows), 2),
    )


def _header(model: AGCNN, config: Train, data: Data, run: RunFolder) -> str:
    """What is about to be trained, on what: for who waits for the first epoch."""
    weights = sum(parameter.numel() for parameter in model.global_branch.parameters())
    done = [name for name in config.stages if run.done(name)]
    epochs = {name: config.stage(name).epochs for name in config.stages}
    stages = ", ".join(f"{name} (done)" if name in done else f"{name} {epochs[name]}" for name in config.stages)
    return (
        f"{config.backbone}, {weights:,} weights a branch, views of {config.image_size} px: "
        f"{len(data.train):,} films to train on, {len(data.val):,} to validate. "
        f"{run_folder.hardware()}, {'bf16' if uses_bf16(config.precision) else config.precision}.\n"
        f"Epochs at most: {stages}. A line each; * marks the best so far, by mean validation AUROC."
        f"{_going_on(config, run)}"
    )


def _going_on(config: Train, run: RunFolder) -> str:
    """Which stages of a resumed run are skipped, and which goes on; empty for a new one."""
    done = [name for name in config.stages if run.done(name)]
    begun = [name for name in config.stages if name not in done and (run.stage(name) / "last.ckpt").exists()]
    skipped = f" Done already, and skipped: {', '.join(done)}." if done else ""
    return skipped + "".join(f" {name} goes on after its last whole epoch." for name in begun)


def _say_absent(data: Data) -> None:
    learnt, scored = both_classes(data.train), both_classes(data.val)
    if lacking := [label for label in data.train.findings.labels if label not in learnt]:
        tqdm.write(
            f"Training lacks a positive or a negative film of {', '.join(lacking)}: the model will not answer for "
            f"{'it' if len(lacking) == 1 else 'them'}."
        )
    if lacking := [name for name in data.val.findings.names if name not in scored]:
        tqdm.write(
            f"Validation lacks a positive or a negative film of {', '.join(lacking)}: left out of the mean AUROC."
        )


def _say_attention(model: AGCNN, config: Train, data: Data) -> None:
    """Before the local branch trains on them: whether the crops are any."""
    if model.look_at in ("whole", "oracle"):
        return
    if warning := attended(model, data.val, config).warning(config.local.statistic):
        tqdm.write(f"{warning}.")


@contextmanager
def _norms_in_words(stage: str, config: Train, n_films: int) -> Iterator[None]:
    """A batch norm of pooled features has one value a film; of one film it has no deviation, which PyTorch says in its
    own words."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        films = min(config.stage(stage).batch_size, n_films) // (config.devices * config.nodes)
        part = min(parts_of(stage), key=lambda one: config.stage(one).batch_size)
        raise ValueError(
            f"a batch norm of {config.backbone} cannot learn from one value a channel: {films} film a step and device, "
            f"pooled. Give --{part}.batch-size 2 or more for each device (and as many films)"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's notices about itself from people; errors and other libraries' warnings pass."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
