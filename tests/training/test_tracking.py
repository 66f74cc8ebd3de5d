"""Lightning's own loggers and callbacks, from the command line and from Python."""

import csv
import re
import time
from pathlib import Path

import lightning as L
import pytest
from tiny import short, write_prepared

from agcxr.cli import main
from agcxr.training.folds import train_folds
from agcxr.training.seeds import train_seeds
from agcxr.training.stages import train
from agcxr.training.tracking import make_loggers

ROWS = ["films_per_s", "lr", "train_loss", "val_auc", "val_loss"]


class Counting(L.Callback):
    def __init__(self):
        self.stages = []

    def on_train_epoch_end(self, trainer, task):
        self.stages.append(task.stage)


class Recording(L.pytorch.loggers.logger.DummyLogger):
    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, metrics))


def test_callbacks_and_loggers_of_ones_own_see_every_stage(tmp_path):
    counting, recording = Counting(), Recording()
    train(
        *(write_prepared(tmp_path / "films"), short(), tmp_path / "run"),
        progress=False,
        callbacks=[counting],
        loggers=[recording, "csv"],
    )
    assert counting.stages == ["global", "local", "fusion"]
    assert [(step, sorted(values)) for step, values in recording.rows] == [
        (1, [f"{stage}/{name}" for name in ROWS]) for stage in ("global", "local", "fusion")
    ]
    (table,) = (tmp_path / "run" / "logs" / "csv").glob("version_0/metrics.csv")
    rows = list(csv.DictReader(table.read_text().splitlines()))
    kept = list(csv.DictReader((tmp_path / "run" / "fusion" / "metrics.csv").read_text().splitlines()))
    assert float(rows[-1]["fusion/val_loss"]) == pytest.approx(float(kept[-1]["val_loss"]), abs=1e-4)


def test_every_run_of_seeds_and_folds_has_callbacks_and_loggers(tmp_path):
    made: dict[str, Recording] = {}

    def loggers(run):
        made[run.relative_to(tmp_path).as_posix()] = recording = Recording()
        return [recording]

    shared = Counting()
    films = write_prepared(tmp_path / "films")
    train_folds(films, short(), tmp_path / "cv", 2, seeds=[0], progress=False, callbacks=[shared], loggers=loggers)
    train_seeds(films, short(), tmp_path / "s", [3], progress=False, callbacks=lambda run: [shared], loggers=loggers)
    train_folds(films, short(), tmp_path / "one", 2, progress=False, callbacks=lambda run: [shared], loggers=loggers)
    assert list(made) == ["cv/fold-1/seed0", "cv/fold-2/seed0", "s/seed3", "one/fold-1", "one/fold-2"]
    assert all([step for step, _ in recording.rows] == [1, 1, 1] for recording in made.values())
    assert shared.stages == ["global", "local", "fusion"] * 5


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_platforms_get_the_rows(name, tmp_path, monkeypatch):
    pytest.importorskip(name, reason="the extra `tracking` is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (logger,) = make_loggers([name], tmp_path / "run")
    logger.log_metrics({"global/val_auc": 0.75, "global/lr": 0.01}, step=1)
    logger.save()
    logger.finalize("success")
    if name == "wandb":
        logger.experiment.finish()
    deadline = time.monotonic() + 60  # wandb writes in a process of its own
    while not (holders := holding("val_auc", tmp_path / "run" / "logs")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert holders


def holding(word: str, folder: Path) -> list[Path]:
    """Files with the word in their name or content."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if word in path.name or word.encode() in path.read_bytes()]


def test_a_logger_that_is_none_or_absent_is_refused_before_any_work(tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match=re.escape("there is no logger 'csvs'; expected one of csv, tensorboard")):
        make_loggers(["csvs"], tmp_path)
    monkeypatch.setattr("agcxr.training.tracking.find_spec", lambda name: None)
    assert main(["train", "--data", str(tmp_path), "--out", str(tmp_path / "run"), "--log", "csv", "wandb"]) == 2
    assert capsys.readouterr().err == (
        "agcxr train: logging to wandb needs the extra 'tracking': uv pip install 'agcxr[tracking]'\n"
    )
    assert list(tmp_path.iterdir()) == []
