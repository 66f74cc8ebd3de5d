"""The lite schedule, all three stages, beside the recipe as people run it (reference.py): same network, same films.

Both sides really train, on a few dozen films, two epochs a stage; the second epoch's seconds are kept, validation
included (validation films are to training films as in lite). The schedule is then MEASURED SECONDS OF AN EPOCH x
EPOCHS, 10 / 8 / 5, x lite's 8,484 training films over the films measured. It is an extrapolation: only the epochs
themselves were timed. What is done once (preparing the films, boxes or features of all films) is measured too and
counted once for ours, and so is what every epoch costs however many films it has (writing weights and the state to go
on from, once an epoch); the reference has nothing of the kind. A third side adds our options that change the schedule a
little: attention once a film, and the fusion on the features of 4 fixed views.

The limit is what no program can do without, on tensors that are there already and without validation: an epoch of
stage I its bare steps, of stage II the same steps and a forward pass of the global branch, of stage III a forward pass
of both. The limit beside the reference says how much there is to win on this hardware by anything but a faster network.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import lightning as L
import numpy as np

from agcxr.config import Train
from agcxr.data.dataset import Films
from agcxr.data.prepared import Prepared
from agcxr.labels import LABELS
from agcxr.training.keeper import Keeper
from agcxr.training.stages import make_trainer
from agcxr.training.tasks import Data, StageTask
from benchmarks import materials
from benchmarks.fusion_cache import bare_pass
from benchmarks.materials import Settings
from benchmarks.measure import Fact, Found, Quartiles, Row, Timed, peak_mb, reset_peak, short, sync
from benchmarks.reference import PillowFilms, Reference
from benchmarks.training_step import bare_step

THEME = "lite schedule"
STAGES, EPOCHS = ("global", "local", "fusion"), (10, 8, 5)
LITE_TRAIN, LITE_ALL = 8_484, 12_120

LIMITS = """
The networks: bare steps and passes, at the run's precision and channels last, are the limit's rows (validation, files
and the loop are what ours adds). So the ratio is bounded by what the hardware makes of the network itself: with bf16 in
hardware a step is several times as fast as the reference's, the more the larger the network; without it a step in
float32 costs both sides nearly the same, and what is to win is the decoding of every film in every epoch (two worker
processes, on the same cores), the layout and the loop over crops.
"""


@dataclass(frozen=True)
class StageCost:
    """Seconds of one epoch with its validation, of what is done once before it, and of what each epoch writes, for the
    films measured. Only the last does not grow with the films."""

    epoch_s: float
    once_s: float = 0.0
    files_s: float = 0.0


@dataclass(frozen=True)
class Cost:
    """A schedule: its stages and the preparation of `films` films."""

    stages: tuple[StageCost, ...]
    prepare_s: float = 0.0

    def seconds(self, scale: float, epochs: tuple[int, ...] = EPOCHS) -> float:
        """Of the whole schedule on `scale` times the films measured."""
        pairs = list(zip(epochs, self.stages, strict=True))
        films = self.prepare_s + sum(n * stage.epoch_s + stage.once_s for n, stage in pairs)
        return scale * films + sum(n * stage.files_s for n, stage in pairs)


class TimedKeeper(Keeper):
    """Seconds of what it wrote after the last epoch."""

    files_s = 0.0

    def on_train_epoch_end(self, trainer: L.Trainer, task: StageTask) -> None:  # type: ignore[override]
        sync()
        start = time.perf_counter()
        super().on_train_epoch_end(trainer, task)
        self.files_s = time.perf_counter() - start


class Clock(L.Callback):
    """When the fit began, when each epoch began and when the last one ended."""

    def __init__(self, keeper: TimedKeeper) -> None:
        self.keeper, self.marks = keeper, list[float]()

    def _mark(self) -> None:
        sync()
        self.marks.append(time.perf_counter())

    def on_fit_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self._mark()

    def on_train_epoch_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self._mark()

    def on_train_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        self._mark()

    @property
    def cost(self) -> StageCost:
        """fit start, first epoch, second epoch, end."""
        fit, first, second, end = self.marks
        return StageCost(end - second - self.keeper.files_s, first - fit, self.keeper.files_s)


def ours(config: Train, data: Data, settings: Settings, stages: tuple[str, ...] = STAGES) -> tuple[StageCost, ...]:
    """Two epochs of each stage by `agcxr train`'s own parts, files of the run folder included."""
    model, costs = materials.network(config), []
    root = settings.folder / "run"
    shutil.rmtree(root, ignore_errors=True)
    for name in stages:
        (root / name).mkdir(parents=True)
        keeper = TimedKeeper(root / name)
        clock = Clock(keeper)
        trainer = make_trainer(config, 2, [keeper, clock], root)
        trainer.fit(StageTask(model, config, name, data))
        costs.append(clock.cost)
    return tuple(costs)


def theirs(config: Train, train: PillowFilms, val: PillowFilms) -> tuple[StageCost, ...]:
    """Two epochs of each stage by the reference."""
    plain = Reference(materials.network(config), config, train, val, materials.device())
    found = [plain.stage(name, 2)[1] for name in STAGES]
    return tuple(StageCost(epoch.train_s + epoch.val_s) for epoch in found)


def with_options(config: Train) -> Train:
    """Attention once a film, and 4 fixed views in stage III."""
    local = config.local.model_copy(update={"attention_per": "image"})
    return config.model_copy(update={"local": local, "fusion": config.fusion.model_copy(update={"cached_views": 4})})


def run(settings: Settings) -> Iterator[Found]:
    """Rows of the whole schedule and of each stage."""
    gpu = materials.device().type == "cuda"
    n_train, n_val = (
        (settings.pick(1024, 16), settings.pick(146, 3)) if gpu else (settings.pick(48, 16), settings.pick(7, 3))
    )
    n, rounds = n_train + n_val, settings.pick(2, 1)
    config = materials.recipe(settings, epochs=(2, 2, 2))
    films = materials.film_files(settings.folder / "films", n)
    start = time.perf_counter()
    ready = materials.prepared(settings.folder / "films", [path.name for path in films], settings.folder / "ready")
    prepare_s = time.perf_counter() - start
    label_NK = ready.index[list(LABELS)].to_numpy(np.float32)
    data = Data(_part(ready, label_NK, 0, n_train), _part(ready, label_NK, n_train, n))
    train = PillowFilms(films[:n_train], label_NK[:n_train], config, training=True)
    val = PillowFilms(films[n_train:], label_NK[n_train:], config, training=False)
    bare = bare_epochs(config, n_train)
    costs: dict[str, list[Cost]] = {"ours": [], "reference": [], "options": [], "limit": []}
    peaks = {side: float("nan") if side == "limit" else 0.0 for side in costs}
    for i in range(rounds):
        for side in ("ours", "reference", "options") if i % 2 == 0 else ("options", "reference", "ours"):
            reset_peak()
            found = _side(side, config, data, train, val, settings)
            costs[side].append(Cost(found, 0.0 if side == "reference" else prepare_s))
            peaks[side] = max(peaks[side], peak_mb())
        costs["limit"].append(Cost(tuple(StageCost(epoch()) for epoch in bare)))
    # the first stage is the same with the options: it is taken from ours of the same round
    costs["options"] = [
        replace(own, stages=(plain.stages[0], *own.stages))
        for own, plain in zip(costs["options"], costs["ours"], strict=True)
    ]
    yield from _rows(costs, peaks, n_train, settings, gpu)


def bare_epochs(config: Train, n: int) -> tuple[Callable[[], float], ...]:
    """For each stage a closure: seconds of what an epoch of n films cannot do without."""
    first, second = bare_step(config, config.global_.batch_size), bare_step(config, config.local.batch_size)
    size = 2 * config.local.batch_size
    look, both = bare_pass(config, size, local=False), bare_pass(config, size)
    return (
        lambda: _steps(first, n / config.global_.batch_size),
        lambda: _steps(second, n / config.local.batch_size) + _steps(look, n / size),
        lambda: _steps(both, n / size),
    )


def _steps(step: Callable[[], None], n: float) -> float:
    """Seconds of n steps, which need not be a whole number, from as many as that covers."""
    sync()
    start, whole = time.perf_counter(), max(1, math.ceil(n))
    for _ in range(whole):
        step()
    sync()
    return (time.perf_counter() - start) * n / whole


def _side(
    side: str, config: Train, data: Data, train: PillowFilms, val: PillowFilms, settings: Settings
) -> tuple[StageCost, ...]:
    if side == "reference":
        return theirs(config, train, val)
    if side == "options":
        return ours(with_options(config), data, settings, STAGES[1:])
    return ours(config, data, settings)


def _part(ready: Prepared, label_NK: np.ndarray, start: int, stop: int) -> Films:
    return Films(ready.images, np.arange(start, stop), label_NK[start:stop], np.arange(start, stop).astype(str))


def _rows(
    costs: dict[str, list[Cost]], peaks: dict[str, float], n_train: int, settings: Settings, gpu: bool
) -> Iterator[Found]:
    def timed(side: str, value: Any) -> Timed:
        return Timed(tuple(value(cost) for cost in costs[side]), peaks[side])

    seen, scale = LITE_TRAIN * sum(EPOCHS), LITE_TRAIN / n_train
    title = f"lite schedule 10/8/5, {settings.backbone}"
    whole = {side: timed(side, lambda cost: cost.seconds(scale)) for side in costs}
    note = f"extrapolated from the second epoch of each stage on {n_train} films; preparing the films is in ours"
    goal = 10.0 if gpu else 4.0
    peer = "float32, NCHW, Pillow, loop"
    yield Row(title, peer, seen, whole["ours"], whole["reference"], peer=True, target=goal, note=note)
    yield Row(
        f"{title}, attention once a film, 4 cached views",
        peer,
        seen,
        whole["options"],
        whole["reference"],
        peer=True,
        note="another schedule than the published one; docs say when it is worth it",
    )
    for i, (name, epochs) in enumerate(zip(STAGES, EPOCHS, strict=True)):
        own = timed("ours", lambda cost, i=i: cost.stages[i].epoch_s)
        plain = timed("reference", lambda cost, i=i: cost.stages[i].epoch_s)
        yield Row(f"one of {epochs} epochs, {name} stage", peer, n_train, own, plain, peer=True)
    yield from _limits(costs, timed, n_train)
    for side, cost in costs.items():
        hours = Quartiles.of([one.seconds(scale) / 3600 for one in cost])
        yield Fact(
            f"lite on {LITE_ALL:,} films, {side}",
            f"{short(hours.median)} hours",
            "measured cost of a film x films x epochs",
        )
    won = Quartiles.of(
        [
            plain.seconds(scale) / bare.seconds(scale)
            for plain, bare in zip(costs["reference"], costs["limit"], strict=True)
        ]
    )
    yield Fact("the reference's time over the limit's, whole schedule", f"{won} x", "the most that could be won here")
    written = Quartiles.of([stage.files_s for cost in costs["ours"] for stage in cost.stages])
    yield Fact("weights and state written after an epoch, ours", f"{written} seconds", "once an epoch; in the schedule")


def _limits(costs: dict[str, list[Cost]], timed: Callable[[str, Any], Timed], n_train: int) -> Iterator[Found]:
    """Ours beside the limit: the whole schedule, then each stage."""
    limit, scale = "its bare steps and passes", LITE_TRAIN / n_train
    own, bare = (timed(side, lambda cost: cost.seconds(scale)) for side in ("ours", "limit"))
    yield Row("lite schedule 10/8/5", limit, LITE_TRAIN * sum(EPOCHS), own, bare, peer=False)
    note = "ours validates as well, in lite's proportion of films"
    for i, (name, epochs) in enumerate(zip(STAGES, EPOCHS, strict=True)):
        own, bare = (timed(side, lambda cost, i=i: cost.stages[i].epoch_s) for side in ("ours", "limit"))
        yield Row(f"one of {epochs} epochs, {name} stage", limit, n_train, own, bare, peer=False, note=note)
