"""How long the published schedule takes on this machine: 112,120 films, 50 epochs a stage, from measured steps.

A few steps of each stage are timed, in `agcxr train`'s own loop with the paper's recipe (ResNet-50, random resized
crops, max pooling), and the passes that are made once; the plan multiplies them by films and epochs. Nothing but those
steps was run: it is a plan, not a result. Two plans: as published (attention for each view, both branches run in every
epoch of stage III), and with the two options that compute once what does not change (attention once a film; the fusion
on the features of 4 fixed views a film).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from agcxr.config import Train, paper
from agcxr.training.stages import uses_bf16
from benchmarks import materials
from benchmarks.materials import Settings
from benchmarks.measure import Fact, Found, Quartiles, Row, Timed, gpu_mb, peak_mb, reset_peak, short
from benchmarks.training_step import WARM_UP, Alternating, beside_bare

THEME = "paper schedule"
FILMS, TRAIN, VAL = 112_120, 78_484, 11_212
"""All, and the published shares of 70 % and 10 %."""
VIEWS = 4
TARGET_HOURS = 1.0
CPU_BATCH = 8

LIMITS = """
The bare training step of stage I (its row): most of the hours are steps of a ResNet-50, in stage I and again in stage
II. What the options save is the rest: with attention once a film stage II loses its forward pass of the global branch,
and with cached features stage III costs a few passes instead of fifty times two. After that only a faster step helps.
"""


@dataclass(frozen=True)
class Rates:
    """Films a second, measured: training steps of each stage, and the passes of frozen branches."""

    first: float
    second: float
    third: float
    second_once: float
    """Stage II with attention once a film."""
    third_cached: float
    """Stage III on cached features."""
    forward: float
    """One forward pass with attention."""
    both: float
    """Forward passes of both branches with attention and crop."""


@dataclass(frozen=True)
class Plan:
    """Seconds of each stage, validation included."""

    stages: tuple[float, float, float]

    @property
    def hours(self) -> float:
        """Of all stages."""
        return sum(self.stages) / 3600

    def __str__(self) -> str:
        one, two, three = map(in_words, self.stages)
        return f"{in_words(sum(self.stages))} (I {one} + II {two} + III {three})"


def as_published(rate: Rates, epochs: tuple[int, int, int], train: int = TRAIN, val: int = VAL) -> Plan:
    """Attention for each view and new views in every epoch. Validation views never change: boxes and features once."""
    one, two, three = epochs
    return Plan(
        (
            one * (train / rate.first + val / rate.forward),
            two * (train / rate.second + val / rate.forward) + val / rate.forward,
            three * train / rate.third + val / rate.both,
        )
    )


def with_options(rate: Rates, epochs: tuple[int, int, int], train: int = TRAIN, val: int = VAL) -> Plan:
    """Attention once a film, and the features of VIEWS views once."""
    one, two, three = epochs
    return Plan(
        (
            one * (train / rate.first + val / rate.forward),
            two * (train / rate.second_once + val / rate.forward) + (train + val) / rate.forward,
            three * train / rate.third_cached + (VIEWS * train + val) / rate.both,
        )
    )


def in_words(seconds: float) -> str:
    """`42 s`, `12.3 min`, `5.43 h` or `10.2 days`."""
    for unit, size, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{short(seconds / size)} {unit}"
    return f"{short(seconds / 86_400)} days"


def recipe(settings: Settings, gpu: bool) -> Train:
    """The paper's, on random weights; on a CPU with small batches (images are what is counted). `--backbone` counts
    only in a quick run: the paper's network is ResNet-50."""
    config = paper().model_copy(update={"weights": "none"})
    if settings.quick:
        config = config.model_copy(update={"backbone": settings.backbone, "image_size": 64, "resize": 72})
    if gpu:
        return config
    small = {name: config.stage(name).model_copy(update={"batch_size": CPU_BATCH}) for name in config.stages}
    return config.model_copy(update={"global_" if name == "global" else name: one for name, one in small.items()})


def run(settings: Settings) -> Iterator[Found]:
    """The rate of each part, then both plans."""
    gpu = materials.device().type == "cuda"
    config = recipe(settings, gpu)
    once = config.model_copy(
        update={
            "local": config.local.model_copy(update={"attention_per": "image"}),
            "fusion": config.fusion.model_copy(update={"cached_views": 1}),
        }
    )
    rounds, block = settings.pick(20 if gpu else 4, 2), 10 if gpu else 1
    most = max(config.stage(stage).batch_size for stage in config.stages)
    films = materials.tiled(settings.folder, most * block * (rounds + WARM_UP))
    found, rates = {}, {}
    for name, setup, stage in (
        ("first", config, "global"),
        ("second", config, "local"),
        ("third", config, "fusion"),
        ("second_once", once, "local"),
        ("third_cached", once, "fusion"),
    ):
        reset_peak()
        found[name] = beside_bare(setup, stage, films, rounds, block, settings.folder, bare=name == "first")
        batch = setup.stage(stage).batch_size
        rates[name] = batch * block / Quartiles.of(found[name].ours).median
        if name == "first":
            yield _row(found[name], config, block)
    rates["forward"] = _pass_rate(found["second_once"], config.local.batch_size, rounds, block)
    rates["both"] = _pass_rate(found["third_cached"], config.fusion.batch_size, rounds, block)
    rate = Rates(**rates)
    for what, value in (
        ("stage I, a training step", rate.first),
        ("stage II, attention for each view", rate.second),
        ("stage II, attention once a film", rate.second_once),
        ("stage III, both branches in every step", rate.third),
        ("stage III, on cached features", rate.third_cached),
        ("a pass of the frozen global branch", rate.forward),
        ("a pass of both frozen branches", rate.both),
    ):
        yield Fact(what, f"{short(value)} films/s")
    yield from _plans(rate, config)
    yield _preparing(settings)


def _row(found: Alternating, config: Train, block: int) -> Row:
    batch = config.global_.batch_size
    ours, other = (Timed(tuple(seconds), peak_mb(), gpu_mb()) for seconds in (found.ours, found.other))
    title = f"stage I step incl. data, {config.backbone}, batch {batch}"
    row = Row(title, "bare step", batch * block, ours, other, peer=False)
    half = "bf16" if uses_bf16(config.precision) else "float32"
    return replace(row, note=f"{half}, channels last; the paper's batch is {paper().global_.batch_size}")


def _pass_rate(found: Alternating, batch: int, rounds: int, block: int) -> float:
    """Films a second of the pass before the first step (4 validation films are in it as well)."""
    return (batch * block * (rounds + WARM_UP) + 4) / found.once_s


def _plans(rate: Rates, config: Train) -> Iterator[Found]:
    epochs = (config.global_.epochs, config.local.epochs, config.fusion.epochs)
    about = f"{TRAIN:,} training films and {VAL:,} for validation, {'/'.join(map(str, epochs))} epochs"
    yield Fact(f"plan for {FILMS:,} films, as published", str(as_published(rate, epochs)), about)
    plan = with_options(rate, epochs)
    goal = "reached" if plan.hours < TARGET_HOURS else "short of it"
    note = f"{about}; to reach under {TARGET_HOURS:g} hour on an H100 or H200: {goal} on this hardware"
    yield Fact(f"plan for {FILMS:,} films, attention once a film, {VIEWS} cached views", str(plan), note)


def _preparing(settings: Settings) -> Fact:
    """The step before training, from a small run of it."""
    n = settings.pick(192, 16)
    names = [path.name for path in materials.film_files(settings.folder / "films", n)]
    start = time.perf_counter()
    materials.prepared(settings.folder / "films", names, settings.folder / "ready")
    seconds = time.perf_counter() - start
    note = f"from {n} films, the start of its processes included; once for all runs; {materials.films_are()}"
    return Fact(f"before it, preparing {FILMS:,} films", in_words(FILMS * seconds / n), note)
