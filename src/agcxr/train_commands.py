"""The commands that train, and where their settings start from: one run, runs of several seeds or folds, the arms of an
ablation. Heavy imports stay inside."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from agcxr import config
from agcxr.preflight import PLAN, check_backbone, check_devices, check_prepared
from agcxr.training.tracking import LoggerName, check_loggers

if TYPE_CHECKING:
    from agcxr.calibration import Calibration
    from agcxr.data.prepared import Prepared

LITE = config.lite()
Arms = Literal[
    "controls",
    "tau",
    "heatmap",
    "normalise",
    "where",
    "crop-source",
    "attention-per",
    "start",
    "strategies",
    "views",
    "budget",
]


def train(
    out: Path,
    *,
    data: tuple[Path, ...] = (),
    findings: str | None = None,
    preset: str = "lite",
    config_file: Annotated[Path | None, tyro.conf.arg(name="config")] = None,
    size: int | None = None,
    seeds: str | None = None,
    folds: int | None = None,
    resume: bool = False,
    reuse: Path | None = None,
    log: tuple[LoggerName, ...] = (),
    threads: int | None = None,
    settings: Annotated[config.Train, tyro.conf.arg(name="")] = LITE,
) -> int:
    """Train the three branches: global, then local, then fusion.

    Args:
        out: Run folder to make.
        data: Prepared folder, or several of one size, trained on as one. With --resume, default: as it was begun.
        findings: Of several folders: union, all that any states (the default); intersection, those that all state; a
            named set (cxr-lt-30), or a file of findings. What a folder does not state is unknown on its films.
        preset: lite, paper, paper-densenet, strong or demo: where the settings below start from.
        config_file: YAML of settings, over the preset; flags go over both.
        size: Side of the views, such as 224: sets --image-size, and --resize to 8/7 of it. Prepare films as large.
        seeds: Several runs, in out/seed0, ...: how many (5) or which (0,1,2). They replace --seed.
        folds: Cross-validation: so many runs, in out/fold-1, ..., each tested on another part of the patients of ALL
            films in `data`, whatever its split. With --seeds: so many runs of each seed.
        resume: Go on with the run in `out`, or with --seeds or --folds its runs, as they were begun.
        reuse: Another run on the same films, or with --folds a folder of the same folds: take over those of its
            finished stages that would be trained alike.
        log: Also send the numbers of every epoch there: to files in out/logs, or where the platform's variables say.
        threads: Processor threads of the network; default: one a core. Fewer leave cores to other work.
        settings: Every setting.
    """
    limit_threads(threads)
    check_loggers(log)
    _check_films(data, findings, resume, settings, seeds if reuse else None)
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from agcxr.experiments.calibrate import calibrate_once
    from agcxr.training.folds import train_folds
    from agcxr.training.seeds import parse_seeds, train_seeds
    from agcxr.training.stages import train as train_stages

    films = _films_of(out, data, findings, seeds, folds)
    options: dict[str, Any] = {"resume": resume, "loggers": log}
    calibrated = rank_zero_only(calibrate_once)  # of several processes, the first keeps the run folder
    several = None if seeds is None else parse_seeds(seeds)
    if folds is not None:
        train_folds(films, settings, out, folds, seeds=several, reuse=reuse, after=calibrated, **options)
    elif several is None:
        train_stages(films, settings, out, reuse=[] if reuse is None else [reuse], **options)
        calibrated(out, films)
    else:
        train_seeds(films, settings, out, several, after=lambda run: calibrated(run, films), **options)
    rank_zero_only(_say_end)(out)
    return 0


def limit_threads(threads: int | None) -> None:
    """Before torch is imported: libraries read how many threads they may use when they are loaded, and processes that
    are started for --devices inherit it. Raises ValueError for fewer than one."""
    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"--threads is {threads}; expected at least 1 (leave it out for one a core)")
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))


def _check_films(
    data: Sequence[Path], findings: str | None, resume: bool, settings: config.Train, reused_seeds: str | None
) -> None:
    if reused_seeds is not None:
        raise ValueError("--reuse is for runs of one seed, as stages of another differ; leave out --seeds or --reuse")
    if not data and not resume:
        raise ValueError("which films? Give a prepared folder with --data, such as `agcxr prepare nih` makes")
    if findings is not None and len(data) < 2:
        raise ValueError("--findings is about several folders, which --data names: --data A B --findings union")
    _check_early(() if resume else data, settings)


def _check_early(data: Sequence[Path], settings: config.Train) -> None:
    """Refuse before the seconds that torch takes: films, devices and a network that are not there."""
    for folder in data:
        check_prepared(folder)
    check_devices(settings.devices)
    check_backbone(settings.backbone)


def _films_of(out: Path, data: Sequence[Path], findings: str | None, seeds: str | None, folds: int | None) -> Path:
    """The films to train on: those given, several of them joined in `out`, or those that it was begun with. Raises
    ValueError where it holds several runs that were not named."""
    from agcxr.training.folds import FOLDS, read_folds
    from agcxr.training.run_folder import RunFolder

    begun, parted = begun_in(out), read_folds(out) if (out / FOLDS).is_file() else None
    if parted and folds is None:
        raise ValueError(f"{out} holds folds; say how many with --folds {parted.folds}, or give --out {begun}")
    if folds is None and seeds is None and begun != out:
        raise ValueError(f"{out} holds runs of several seeds; name them with --seeds, or give --out {begun}")
    if len(data) > 1:
        return _joined(data, findings or "union", out)
    if data:
        return data[0]
    return Path(parted.data) if parted else RunFolder(begun).data()


def _joined(data: Sequence[Path], findings: str, out: Path) -> Path:
    """The films of several folders as one, in OUT/films."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from agcxr.data.join import join, write_joined
    from agcxr.training.run_folder import FILMS, is_free

    films = join(data, findings)
    if not is_free(out) and not (out / FILMS / PLAN).is_file():
        raise ValueError(
            f"{out} is not empty, and was not begun on several folders; give --out a new or an empty folder"
        )
    rank_zero_only(print)(films.plan.summary(), flush=True)
    return write_joined(films, out / FILMS)


def _say_end(out: Path) -> None:
    """What calibration could not do, which is the same in every run on the same films, and what comes next."""
    from agcxr.models.checkpoint import CARD_FILE, read_card

    card = begun_in(out) / "model" / CARD_FILE
    calibration = read_card(card).calibration if card.is_file() else None
    if calibration is not None and (missed := not_calibrated(calibration)):
        print(missed)
    print(f"Next: agcxr evaluate {out}")


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


def films_to_measure(run: str, data: Sequence[Path]) -> Path | Prepared:
    """The prepared folder that was given, several as one, or where there is none that which a run was trained on, or
    runs of several seeds or folds. Raises ValueError where nothing says which that is, or it is not there."""
    from agcxr.data.join import join

    if data:
        return data[0] if len(data) == 1 else join(data)
    return _films_of_run(Path(run))


def _films_of_run(run: Path) -> Path:
    from agcxr.training.folds import FOLDS, read_folds
    from agcxr.training.run_folder import RunFolder

    films = Path(read_folds(run).data) if (run / FOLDS).is_file() else RunFolder(begun_in(run)).films()
    if films is None:
        raise ValueError(f"{run} does not say on which films it was trained; give a prepared folder with --data")
    if not (films / PLAN).is_file():
        raise ValueError(f"the films that {run} was trained on were in {films}, and are not there now; give --data")
    return films


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
        only: Some groups of arms (docs/studies.md says what they change); default all of them but budget.
        seeds: How many (3) or which (0,1,2).
        split: The films that arms are compared on.
        lesions: lesions.csv of a phantom: also compare by the diameter of the lesions.
        resamples: Of the bootstrap over patients.
        settings: Every setting of the reference.
    """
    _check_early((data,), settings)
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
