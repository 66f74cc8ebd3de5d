"""Cross-validation by patient: a run a fold, so that every film is a test film once. For collections of a few thousand.

OUT/folds.json   films/fold-1/ ... (the prepared films, parted anew)   fold-1/ ... (a run each, or its runs of seeds)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from agcxr.config import Train
from agcxr.data.prepared import Prepared, SplitPlan, open_prepared, part_counts, write_members
from agcxr.data.splits import assign_folds, check_leaks
from agcxr.training.run_folder import atomic, is_free
from agcxr.training.seeds import read_stored, train_seeds
from agcxr.training.stages import train
from agcxr.training.tracking import LoggerName, OfRuns, of_run
from agcxr.values import Frozen

if TYPE_CHECKING:
    from lightning import Callback
    from lightning.pytorch.loggers import Logger

FOLDS = "folds.json"


class Folds(Frozen):
    """folds.json: how a collection was parted into folds, and what was trained on them."""

    format: Literal[1] = 1
    folds: int
    seed: int
    """Of the folds: that of the prepared folder's own split."""
    fingerprint: str
    """Of the prepared folder."""
    data: str
    """Where it was."""
    seeds: tuple[int, ...] | None = None
    """Of the runs of every fold; None: one run, of the seed in its settings."""

    def films(self, root: Path) -> tuple[Path, ...]:
        """The prepared folders of the folds."""
        return tuple(root / "films" / name for name in self.names)

    def runs(self, root: Path, seed: int | None) -> tuple[Path, ...]:
        """The run folders of the folds, of one of the seeds where there are several."""
        return tuple(root / name / ("" if seed is None else f"seed{seed}") for name in self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Folders of the folds."""
        return tuple(f"fold-{fold}" for fold in range(1, self.folds + 1))


def read_folds(folder: str | Path) -> Folds:
    """folds.json of a folder. Raises ValueError where it is missing or is none."""
    return read_stored(Folds, Path(folder) / FOLDS, f"agcxr train --folds 5 --out {folder} ...")


def train_folds(
    prepared_folder: str | Path,
    config: Train,
    out: str | Path,
    folds: int,
    *,
    seeds: Sequence[int] | None = None,
    resume: bool = False,
    reuse: Path | None = None,
    after: Callable[[Path, Path], object] = lambda run, films: None,
    progress: bool = True,
    callbacks: OfRuns[Callback] = (),
    loggers: OfRuns[Logger | LoggerName] = (),
) -> Folds:
    """Part ALL films of a prepared folder into folds by patient, whatever its own split, and train `config` on each,
    once or once a seed. The folds are the same for every seed.

    `after` is called with each finished run folder and the prepared folder of its fold. With `resume`, finished runs
    are kept, the one under way goes on, and seeds may be added. `reuse`: a folder of the same folds, a run each, whose
    finished stages are taken over where they would be trained alike. `callbacks`, `loggers`: as in `train_seeds`.
    Raises ValueError as `train` and `assign_folds` do, for a folder that was begun with other folds or films, and for
    one to reuse that cannot fit.
    """
    prepared, root = open_prepared(prepared_folder), Path(out)
    found = Folds(
        folds=folds,
        seed=prepared.plan.split.seed,
        fingerprint=prepared.plan.fingerprint,
        data=str(prepared.folder.resolve()),
        seeds=None if seeds is None else tuple(seeds),
    )
    if reuse is not None:
        donor = read_folds(reuse)
        if donor.model_copy(update={"data": found.data}) != found:
            raise ValueError(
                f"{reuse} holds other folds than these: --reuse takes the same of the same films, a run each"
            )
    _begin(root, found, prepared, resume)
    for fold, (films, run) in enumerate(zip(found.films(root), found.runs(root, None), strict=True), start=1):
        if progress:
            rank_zero_only(print)(f"\nFold {fold} of {folds} in {run}", flush=True)
        if seeds is None:
            donors = [] if reuse is None else [reuse / run.name]
            seen: dict[str, Any] = {"callbacks": of_run(callbacks, run), "loggers": of_run(loggers, run)}
            train(films, config, run, resume=run.exists(), reuse=donors, progress=progress, **seen)
            after(run, films)
        else:
            then = partial(_after, after, films)
            how: dict[str, Any] = {"progress": progress, "callbacks": callbacks, "loggers": loggers}
            train_seeds(films, config, run, seeds, resume=True, after=then, **how)
    return found


def _after(after: Callable[[Path, Path], object], films: Path, run: Path) -> object:
    return after(run, films)


@rank_zero_only
def _begin(root: Path, found: Folds, prepared: Prepared, resume: bool) -> None:
    """Claim the folder, or check that it may go on, and write the films of the folds."""
    if (root / FOLDS).is_file():
        begun = read_folds(root)
        if not resume:
            raise ValueError(f"{root} already holds folds; go on with them by --resume, or give --out a new folder")
        then, now = ((one.folds, one.seed, one.fingerprint, one.seeds is None) for one in (begun, found))
        if then != now:
            raise ValueError(
                f"{root} was begun with {begun.folds} folds of the films in {begun.data}, with "
                f"{'one run' if begun.seeds is None else 'runs of several seeds'} each; give the same --folds, --data "
                "and --seeds, or --out a new folder"
            )
    elif not is_free(root):
        raise ValueError(f"{root} is not empty and holds no folds; give --out a new or an empty folder")
    index = prepared.index
    parts = assign_folds(index, found.folds, found.seed, prepared.findings.names)
    for fold, (folder, part) in enumerate(zip(found.films(root), parts, strict=True), start=1):
        rule = f"fold {fold} of {found.folds}"
        _write_films(prepared, folder, SplitPlan(rule=rule, seed=found.seed), index.assign(split=part))
    atomic(root / FOLDS, lambda path: path.write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8"))


def _write_films(prepared: Prepared, folder: Path, split: SplitPlan, index: pd.DataFrame) -> None:
    """A prepared folder of the same films parted anew; the images are a link to the old ones."""
    folder.mkdir(parents=True, exist_ok=True)
    if prepared.members:
        write_members(folder, prepared.members)
    else:
        images = folder / "images.npy"
        images.unlink(missing_ok=True)  # the films may have been moved since
        images.symlink_to((prepared.folder / "images.npy").resolve())
    counts = prepared.plan.counts.model_copy(update={"parts": part_counts(index)})
    plan = prepared.plan.model_copy(update={"split": split, "leak_check": check_leaks(index), "counts": counts})
    atomic(folder / "index.parquet", index.to_parquet)
    atomic(folder / "boxes.parquet", prepared.boxes.to_parquet)
    if prepared.places is not None:
        atomic(folder / "places.parquet", prepared.places.to_parquet)
    atomic(folder / "plan.json", lambda path: path.write_text(plan.model_dump_json(indent=1) + "\n", encoding="utf-8"))
