"""What happens around the epochs of a stage: the best weights and the state to resume from are kept, people told."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
from tqdm import tqdm

from agcxr.progress import ProgressBar
from agcxr.training import run_folder
from agcxr.training.averaging import Averaging
from agcxr.training.run_folder import EpochRow
from agcxr.training.tasks import StageTask, stage_state

FIRST_STEPS = 3
"""That are slower than those behind them, and left out of the estimate."""
TIMED_S = 10.0
"""Of steps that the estimate rests on."""
WORTH_SAYING_S = 60.0
"""What takes less is over before it is read."""

REFRESH_S = 0.5
"""Between two looks at the running loss: reading it waits for the device."""


class Keeper(L.Callback):
    """Keeps best.safetensors, metrics.csv and last.ckpt of a stage, in this order, after every epoch.

    last.ckpt also holds the rows so far: a kill before it is written repeats the epoch, with the same result.
    `averaging`: keep its average instead of the weights. `patience`: stop after so many epochs without a better one;
    0: never.
    """

    def __init__(self, folder: Path, averaging: Averaging | None = None, patience: int = 0) -> None:
        self.folder, self.averaging, self.patience = folder, averaging, patience
        self.rows: list[EpochRow] = []

    def on_train_start(self, trainer: L.Trainer, task: StageTask) -> None:  # type: ignore[override]
        """A stage that had stopped early when it was killed stops again."""
        self._stop_early(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, task: StageTask) -> None:  # type: ignore[override]
        """Write the epoch down."""
        row = _row(trainer, task)
        best = self.best
        self.rows.append(row)
        if trainer.is_global_zero:
            if best is None or better(row, best):
                weights = self.averaging.average if self.averaging else stage_state(task.model, task.stage)
                run_folder.write_weights(self.folder / "best.safetensors", weights)
            run_folder.write_metrics(self.folder / "metrics.csv", self.rows, task.data.val.findings.labels)
        self._save(trainer)
        self._stop_early(trainer)

    def _stop_early(self, trainer: L.Trainer) -> None:
        best = self.best
        if self.patience and best is not None and len(self.rows) - best.epoch >= self.patience:
            trainer.should_stop = True

    def _save(self, trainer: L.Trainer) -> None:
        """last.ckpt; every process takes part, the first one writes."""
        beside = self.folder / ".last.ckpt.part"
        trainer.save_checkpoint(beside)
        if trainer.is_global_zero:
            beside.replace(self.folder / "last.ckpt")
        trainer.strategy.barrier("last.ckpt")

    @property
    def best(self) -> EpochRow | None:
        """The epoch whose weights are kept."""
        best: EpochRow | None = None
        for row in self.rows:
            if best is None or better(row, best):
                best = row
        return best

    def state_dict(self) -> dict[str, Any]:
        """For last.ckpt: plain numbers only."""
        return {"rows": [asdict(row) for row in self.rows]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From last.ckpt."""
        self.rows = [EpochRow(**{**row, "auc_K": tuple(row["auc_K"])}) for row in state_dict["rows"]]


def better(row: EpochRow, best: EpochRow) -> bool:
    """By the mean AUROC over the findings; by the validation loss where it is undefined for want of a class."""
    if row.val_auc != row.val_auc or best.val_auc != best.val_auc:
        return row.val_loss < best.val_loss
    return row.val_auc > best.val_auc


def _row(trainer: L.Trainer, task: StageTask) -> EpochRow:
    """The epoch that has just ended, with what was validated at its end."""
    scores = task.validation
    assert scores is not None
    loss, films = task.epoch_loss
    return EpochRow(
        epoch=task.current_epoch + 1,
        train_loss=loss,
        val_loss=scores.loss,
        val_auc=scores.mean_auc,
        lr=task.first_lr,
        seconds=round(task.train_seconds, 3),
        films_per_s=round(films / task.train_seconds, 2),
        auc_K=scores.auc_K,
    )


class Progress(L.Callback):
    """One bar an epoch with films/s, one line for each epoch that is done, and once, when there is a rate, how long it
    will take. later: epochs at most of the stages behind this one."""

    def __init__(self, keeper: Keeper, later: int = 0) -> None:
        self.keeper, self.later = keeper, later
        self.timed: tuple[float, int] | None = None
        """When the first steps of the first epoch were over, and after how many films."""
        self.estimated = False
        self.bar: Any = None
        self.refreshed = 0.0

    def on_train_batch_start(self, trainer: L.Trainer, task: StageTask, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        """Open the bar of the epoch. (Lightning leaves the hook of the epoch's start out after a restart.)"""
        if batch_idx or not trainer.is_global_zero:
            return
        title = f"{task.stage} {task.current_epoch + 1}/{task.settings.epochs}"
        self.bar = ProgressBar(total=len(task.data.train), desc=title, unit=" films", leave=False)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        task: StageTask,  # type: ignore[override]
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar, and time the first steps."""
        if self.bar is None:
            return
        if not self.estimated:
            self._time(task, trainer.world_size, batch_idx)
        self.bar.update(len(batch.film) * trainer.world_size)
        if time.perf_counter() - self.refreshed > REFRESH_S:
            self.refreshed = time.perf_counter()
            self.bar.set_postfix_str(f"loss {float(task.loss_sum) / task.films_seen:.4f}", refresh=False)

    def _time(self, task: StageTask, world_size: int, batch_idx: int) -> None:
        """Once enough steps behind the first are through, say how long the stage and those behind it will take."""
        now, films = time.perf_counter(), task.films_seen * world_size
        if batch_idx + 1 <= FIRST_STEPS:
            self.timed = (now, films)
        elif self.timed is not None and now - self.timed[0] >= TIMED_S:
            self._estimate(task, (films - self.timed[1]) / (now - self.timed[0]), task.current_epoch)

    def _estimate(self, task: StageTask, films_per_s: float, done: int) -> None:
        self.estimated = True
        left, seconds = task.settings.epochs - done, len(task.data.train) / films_per_s
        if not left or (left + self.later) * seconds < WORTH_SAYING_S:
            return
        behind = f"; with the stages behind it {duration((left + self.later) * seconds)}, if theirs run as fast"
        tqdm.write(
            f"{task.stage:>6}  about {duration(left * seconds)} for {left} epoch{'s' * (left > 1)} at most, at "
            f"{_rate(films_per_s)} films/s{behind if self.later else ''}. Validation is not counted."
        )

    def on_validation_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """The films of the epoch are through."""
        self.close()

    def on_train_epoch_end(self, trainer: L.Trainer, task: StageTask) -> None:  # type: ignore[override]
        """The line of the epoch (the keeper has run before)."""
        if not trainer.is_global_zero:
            return
        row = self.keeper.rows[-1]
        if not self.estimated:  # the epoch was over before there was a rate
            self._estimate(task, row.films_per_s, row.epoch)
        mark = " *" if row is self.keeper.best else ""
        tqdm.write(
            f"{task.stage:>6}  epoch {row.epoch:>{len(str(task.settings.epochs))}}/{task.settings.epochs}  "
            f"loss {row.train_loss:.4f}  val {row.val_loss:.4f}  AUROC {row.val_auc:.4f}{mark:<2}  "
            f"{_rate(row.films_per_s)} films/s"
        )

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def on_exception(self, trainer: L.Trainer, task: L.LightningModule, exception: BaseException) -> None:
        """Leave a clean line behind."""
        self.close()


def duration(seconds: float) -> str:
    """45 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _rate(films_per_s: float) -> str:
    """10,080 or 12.34."""
    return f"{films_per_s:,.0f}" if films_per_s >= 1000 else f"{films_per_s:.4g}"


class Tracking(L.Callback):
    """The rows of metrics.csv to the trainer's loggers, under the name of the stage: global/val_auc."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper

    def on_train_epoch_end(self, trainer: L.Trainer, task: StageTask) -> None:  # type: ignore[override]
        """Hand over the epoch (the keeper has run before); the step is its number in the stage."""
        row = self.keeper.rows[-1]
        values = {"train_loss": row.train_loss, "val_loss": row.val_loss, "val_auc": row.val_auc, "lr": row.lr}
        values["films_per_s"] = row.films_per_s
        for logger in trainer.loggers:
            logger.log_metrics({f"{task.stage}/{name}": value for name, value in values.items()}, step=row.epoch)
            logger.save()
