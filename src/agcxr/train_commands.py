"""The commands that train, and where their settings start from: one run, runs of several seeds or folds, the arms of an
ablation. Heavy imports stay inside."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from agcxr import config
from agcxr.preflight import check_backbone, check_devices, check_prepared
from agcxr.training.tracking import LoggerName, check_loggers

if TYPE_CHECKING:
    from agcxr.calibration import Calibration

LITE = config.lite()
Arms = Literal[
    "controls", "tau", "heatmap", "normalise", "where", "crop-source", "attention-per", "start", "strategies", "views"
]


def train(
    out: Path,
    *,
    data: Path | None = None,
    preset: str = "lite",
    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None,
    size: int | None = None,
    seeds: str | None = None,
    folds: int | None = None,
    resume: bool = False,
    reuse: Path | None = None,
    log: tuple[LoggerName, ...] = (),
    settings: Annotated[config.Train, tyro.conf.arg(name="")] = LITE,
) -> int:
    """Train the three branches: global, then local, then fusion.

    Args:
        out: Run folder to make.
        data: Prepared folder. With --resume, default: the one the run was begun with.
        preset: lite, paper, paper-densenet, strong or demo: where the settings below start from.
        config_file: YAML of settings, over the preset; flags go over both.
        size: Side of the views, such as 224, 320 or 448: sets --image-size to it and --resize to 8/7 of it (256, 366,
            512). Prepare the films at least as large as --resize.
        seeds: Several runs, in out/seed0, ...: how many (5) or which (0,1,2). They replace --seed.
        folds: Cross-validation: so many runs, in out/fold-1, ..., each tested on another part of the patients of ALL
            films in `data`, whatever its split. With --seeds: so many runs of each seed.
        resume: Go on with the run in `out`, or with --seeds or --folds its runs, with the settings they were begun
            with.
        reuse: Another run on the same films, or with --folds a folder of the same folds: take over those of its
            finished stages that would be trained alike.
        log: Also send the numbers of every epoch there: to files in out/logs, or where the platform's variables say.
        settings: Every setting.
    """
    if seeds is not None and reuse is not None:
        raise ValueError("--reuse is for runs of one seed, as stages of another differ; leave out --seeds or --reuse")
    if data is None and not resume:
        raise ValueError("which films? Give a prepared folder with --data, such as `agcxr prepare nih` makes")
    check_loggers(log)
    _check_early(None if resume else data, settings)
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from agcxr.experiments.calibrate import calibrate_once
    from agcxr.training.folds import train_folds
    from agcxr.training.seeds import parse_seeds, train_seeds
    from agcxr.training.stages import train as train_stages

    data = _films_of(out, data, seeds, folds)
    options: dict[str, Any] = {"resume": resume, "loggers": log}
    calibrated = rank_zero_only(calibrate_once)  # of several processes, the first keeps the run folder
    if folds is not None:
        several = None if seeds is None else parse_seeds(seeds)
        train_folds(data, settings, out, folds, seeds=several, reuse=reuse, after=calibrated, **options)
    elif seeds is None:
        train_stages(data, settings, out, reuse=[] if reuse is None else [reuse], **options)
        calibrated(out, data)
    else:
        train_seeds(data, settings, out, parse_seeds(seeds), after=lambda run: calibrated(run, data), **options)
    rank_zero_only(_say_end)(out, data)
    return 0


def _check_early(data: Path | None, settings: config.Train) -> None:
    """Refuse before the seconds that torch takes: films, devices and a network that are not there."""
    if data is not None:
        check_prepared(data)
    check_devices(settings.devices)
    check_backbone(settings.backbone)


def _films_of(out: Path, data: Path | None, seeds: str | None, folds: int | None) -> Path:
    """The films to train on: those given, or those that `out` was begun with. Raises ValueError where it holds several
    runs that were not named."""
    from agcxr.training.folds import FOLDS, read_folds
    from agcxr.training.run_folder import RunFolder

    begun, parted = begun_in(out), read_folds(out) if (out / FOLDS).is_file() else None
    if parted and folds is None:
        raise ValueError(f"{out} holds folds; say how many with --folds {parted.folds}, or give --out {begun}")
    if folds is None and seeds is None and begun != out:
        raise ValueError(f"{out} holds runs of several seeds; name them with --seeds, or give --out {begun}")
    if data is not None:
        return data
    return Path(parted.data) if parted else RunFolder(begun).data()


def _say_end(out: Path, data: Path) -> None:
    """What calibration could not do, which is the same in every run on the same films, and what comes next."""
    from agcxr.models.checkpoint import CARD_FILE, read_card

    card = begun_in(out) / "model" / CARD_FILE
    calibration = read_card(card).calibration if card.is_file() else None
    if calibration is not None and (missed := not_calibrated(calibration)):
        print(missed)
    print(f"Next: agcxr evaluate {out} --data {data}")


def not_calibrated(calibration: Calibration) -> str:
    """How many findings are calibrated, and why which are not; empty where all are."""
    from agcxr.calibration import MIN_POSITIVES

    rare = [name for name, one in calibration.findings.items() if not one.enough]
    if not rare:
        return ""
    every = len(calibration.findings)
    which = "" if len(rare) == every else f" of {', '.join(rare)}"
    return (
        f"{every - len(rare)} of {every} findings calibrated: validation has fewer than {MIN_POSITIVES} films with or "
        f"without the finding{which}; there scores stay as they are, and no call is made. `agcxr calibrate` with more "
        "validation films mends it"
    )


def begun_in(out: Path) -> Path:
    """The run folder that says how `out` was begun: itself, or the first of its runs of several seeds or folds."""
    if (out / "config.yaml").is_file():
        return out
    runs = [
        path.parent for pattern in ("seed*", "fold-*", "fold-*/seed*") for path in out.glob(f"{pattern}/config.yaml")
    ]
    return min(runs, key=lambda run: (len(str(run)), str(run)), default=out)


def ablate(
    data: Path,
    out: Path,
    *,
    preset: str = "lite",
    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None,
    size: int | None = None,
    only: tuple[Arms, ...] = (),
    seeds: str = "0,",
    split: Literal["val", "test"] = "test",
    lesions: Path | None = None,
    resamples: int = 1000,
    settings: Annotated[config.Train, tyro.conf.arg(name="")] = LITE,
) -> int:
    """Compare attention with its controls and other options of the method: one table, one figure. Resumes by itself.

    Args:
        data: Prepared folder.
        out: Folder to make, or to go on with.
        preset: lite, paper, paper-densenet, strong or demo: where the settings of the reference start from.
        config_file: YAML of settings, over the preset; flags go over both.
        size: Side of the views: --image-size, with --resize 8/7 of it.
        only: Some groups of arms; default all of them (docs/studies.md says what they change).
        seeds: How many (3) or which (0,1,2).
        split: The films that arms are compared on.
        lesions: lesions.csv of a phantom: also compare by the diameter of the lesions.
        resamples: Of the bootstrap over patients.
        settings: Every setting of the reference.
    """
    _check_early(data, settings)
    from agcxr.experiments.ablate import ablate as run_ablation
    from agcxr.training.seeds import parse_seeds

    run_ablation(
        data, settings, out, only=only, seeds=parse_seeds(seeds), split=split, lesions=lesions, resamples=resamples
    )
    return 0


def with_preset(command: Callable[..., int | None], flags: list[str]) -> Callable[..., Any]:
    """`train`'s other flags start from --preset and --config, or from the run that --resume goes on with, and --size is
    two of them, so those are read before the parser is built."""
    given = {name: _value_of(f"--{name}", flags) for name in ("preset", "config")}
    begun = begun_in(Path(_value_of("--out", flags) or "")) / "config.yaml"
    resumed = "--resume" in flags and not any(given.values()) and begun.is_file()
    start = config.from_yaml(begun) if resumed else config.preset(given["preset"] or "lite")
    if given["config"]:
        start = config.from_yaml(given["config"], base=start)
    if (size := _value_of("--size", flags) or "").isdecimal():  # the parser says what is wrong with any other
        start = config.sized(start, int(size))
    return _with_default(command, "settings", start)


def _value_of(flag: str, words: list[str]) -> str | None:
    for i, word in enumerate(words):
        if word == flag and i + 1 < len(words):
            return words[i + 1]
        if word.startswith(f"{flag}="):
            return word.split("=", 1)[1]
    return None


def _with_default(command: Callable[..., Any], name: str, value: Any) -> Callable[..., Any]:
    """The same function with another default for one keyword."""

    @functools.wraps(command)
    def call(*args: Any, **kwargs: Any) -> Any:
        return command(*args, **kwargs)

    signature = inspect.signature(command, eval_str=True)
    parameters = [p.replace(default=value) if p.name == name else p for p in signature.parameters.values()]
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call
