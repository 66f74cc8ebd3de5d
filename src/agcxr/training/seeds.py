"""The same run from several seeds: what differs between them is what training alone leaves to chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from pydantic import BaseModel, Field, ValidationError

from agcxr.config import Train
from agcxr.table import Cell, Table, number, signed, to_text
from agcxr.training.run_folder import atomic, is_free
from agcxr.training.stages import RunSummary, train
from agcxr.training.tracking import LoggerName, OfRuns, of_run
from agcxr.uncertainty import Difference
from agcxr.values import Frozen, Number, Record

if TYPE_CHECKING:
    from lightning import Callback
    from lightning.pytorch.loggers import Logger

Kept = TypeVar("Kept", bound=BaseModel)

SEEDS = "seeds.json"


class Spread(Record):
    """A measure over seeds. sd: of a sample (n - 1); NaN for one seed. NaN where a run lacks the measure."""

    name: str
    difference: bool = False
    """Of two measures of the same run, so that it has a sign."""
    values: tuple[Number, ...]
    mean: Number
    sd: Number
    low: Number
    high: Number

    @classmethod
    def of(cls, name: str, values: Sequence[float]) -> Spread:
        """Mean, standard deviation and range of the runs."""
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
        mean, low, high = (float(of(values)) for of in (np.mean, np.min, np.max))
        return cls(name=name, values=tuple(values), mean=mean, sd=sd, low=low, high=high)

    def minus(self, other: Spread) -> Spread:
        """The difference of two measures within each run: what the runs share falls out of its spread."""
        apart = [mine - theirs for mine, theirs in zip(self.values, other.values, strict=True)]
        return Spread.of(f"{self.name} − {other.name}", apart).model_copy(update={"difference": True})


class Gain(Difference):
    """How much the last branch is above another in the mean over the seeds: for other patients and training again."""

    branch: str
    against: str
    left_out: int = Field(default=0, exclude=True)


class Seeds(Frozen):
    """seeds.json: runs that differ in their seed alone."""

    format: Literal[1] = 1
    measure: str
    """Of what the spreads are."""
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    """Folders of the runs, beside the file."""
    spreads: tuple[Spread, ...]
    gains: tuple[Gain, ...] = ()
    """Of evaluated runs of two seeds or more."""
    level: float = 0.95
    """Of the gains' intervals."""

    def table(self, places: int = 4) -> Table:
        """Mean, standard deviation and range of every branch, then each run."""
        return Table(
            head=("Branch", "Mean", "SD", "Least", "Most", *(f"Seed {seed}" for seed in self.seeds)),
            rows=tuple(_row(spread, places) for spread in self.spreads),
            caption=f"{self.measure}, {len(self.seeds)} seeds.",
            summary=any(spread.difference for spread in self.spreads),
        )


def _row(spread: Spread, places: int) -> tuple[Cell | str, ...]:
    shown = signed if spread.difference else number
    least, most, *values = (shown(value, places) for value in (spread.low, spread.high, *spread.values))
    mean = Cell(shown(spread.mean, places), strong=True)
    return (spread.name[:1].upper() + spread.name[1:], mean, number(spread.sd, places), least, most, *values)


def read_seeds(folder: str | Path) -> Seeds:
    """seeds.json of a folder of runs. Raises ValueError where it is missing or is none."""
    return read_stored(Seeds, Path(folder) / SEEDS, f"agcxr train --seeds 3 --out {folder} ...")


def read_stored(kind: type[Kept], path: Path, command: str) -> Kept:
    """A JSON file of a folder of runs. ValueError where it is missing (then naming the command that makes it) or is of
    another kind."""
    if not path.is_file():
        raise ValueError(f"there is no {path.name} in {path.parent}; make it with `{command}`")
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is not the {path.stem} file of this version: {error.errors()[0]['msg']}") from error


def seeds_beside(run: str | Path, split: str) -> Seeds | None:
    """The seeds.json of the evaluated runs that a run is one of; None where it is of no such."""
    path = Path(run).resolve().parent / "evaluation" / split
    if not (path / SEEDS).is_file():
        return None
    found = read_seeds(path)
    return found if Path(run).resolve().name in found.runs else None


@rank_zero_only
def write_seeds(path: Path, seeds: Seeds) -> None:
    """Write the file whole or not at all."""
    atomic(path, lambda beside: beside.write_text(seeds.model_dump_json(indent=1) + "\n", encoding="utf-8"))


def parse_seeds(text: str) -> tuple[int, ...]:
    """`5` is 0, 1, 2, 3, 4; `0,7,9` is a list, `7,` a list of one. Raises ValueError for anything else."""
    named = [part.strip() for part in text.split(",") if part.strip()]
    if not named or not all(part.isdecimal() for part in named):
        raise ValueError(f"seeds are {text!r}; expected how many (`5`) or a list of whole numbers (`0,1,2`)")
    seeds = tuple(map(int, named)) if "," in text else tuple(range(int(text)))
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds are {text!r}; expected at least one, and none of them twice")
    return seeds


def train_seeds(
    prepared_folder: str | Path,
    config: Train,
    out: str | Path,
    seeds: Sequence[int],
    *,
    resume: bool = False,
    after: Callable[[Path], object] = lambda run: None,
    progress: bool = True,
    callbacks: OfRuns[Callback] = (),
    loggers: OfRuns[Logger | LoggerName] = (),
) -> Seeds:
    """Train `config` once a seed into OUT/seed0, OUT/seed1, ..., and write OUT/seeds.json: validation AUROC per stage.

    `after` is called with each finished run folder. With `resume`, finished runs are kept, the one under way goes on,
    and seeds may be added to those of an earlier call. `callbacks` and `loggers`: as `train` takes them, for every run;
    or functions of the run folder that make them, so that each run has its own. (Loggers by name always are.) Raises
    ValueError as `train` does.
    """
    root, say = Path(out), rank_zero_only(print)  # a process that was started for a device writes and says nothing
    if not resume:
        _check_free(root)
    runs: list[RunSummary] = []
    for place, seed in enumerate(seeds, start=1):
        folder = root / f"seed{seed}"
        if progress:
            say(f"\nSeed {seed} ({place} of {len(seeds)}) in {folder}", flush=True)
        settings = config.model_copy(update={"seed": seed})
        seen: dict[str, Any] = {"callbacks": of_run(callbacks, folder), "loggers": of_run(loggers, folder)}
        runs.append(train(prepared_folder, settings, folder, resume=folder.exists(), progress=progress, **seen))
        after(folder)
    spreads = [Spread.of(one.stage, [run.stage(one.stage).val_auc for run in runs]) for one in runs[0].stages]
    found = Seeds(
        measure="Mean AUROC over the findings on the validation films",
        seeds=tuple(seeds),
        runs=tuple(run.folder.name for run in runs),
        spreads=with_difference(spreads),
    )
    write_seeds(root / SEEDS, found)
    if progress:
        say(f"\n{to_text(found.table())}")
    return found


@rank_zero_only
def _check_free(root: Path) -> None:
    if not is_free(root):
        raise ValueError(f"{root} is not empty; go on with its runs by --resume, or give --out a new folder")


def with_difference(spreads: Sequence[Spread]) -> tuple[Spread, ...]:
    """The spreads of branches or stages, then that of the last minus the first: what the attention adds."""
    return (*spreads, spreads[-1].minus(spreads[0])) if len(spreads) > 1 else tuple(spreads)
