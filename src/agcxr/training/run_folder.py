"""The run folder: what a training run writes, and what it must find when it goes on.

    config.yaml  plan.json  run.json  global/ local/ fusion/ (last.ckpt best.safetensors metrics.csv done.json)  model/

A stage has its folder under its name, so those of another strategy have others, such as local+fusion/.
Every file appears whole (written beside, then renamed), so that a kill at any moment leaves a folder to go on from.
"""

from __future__ import annotations

import csv
import filecmp
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from agcxr import config as configuration
from agcxr.config import Train
from agcxr.machine import instructions, processor, versions
from agcxr.models.backbones import usual_statistics

PACKAGES = ("agcxr", "torch", "timm", "lightning", "numpy")

FILMS = "films"
"""Folder beside what is trained: of the films of several collections, joined, and below it of those of folds."""


@dataclass(frozen=True)
class EpochRow:
    """One line of metrics.csv. auc_K follows the labels of the films; NaN where a class is absent. seconds and
    films_per_s: training."""

    epoch: int
    train_loss: float
    val_loss: float
    val_auc: float
    lr: float
    seconds: float
    films_per_s: float
    auc_K: tuple[float, ...]


@dataclass(frozen=True)
class StageSummary:
    """How a stage ended: the epoch (from 1) whose weights were kept, and its validation scores."""

    stage: str
    best_epoch: int
    val_auc: float
    val_auc_per_finding: dict[str, float]
    absent: tuple[str, ...]
    epochs: int
    seconds: float


@dataclass(frozen=True)
class Reused:
    """Stages taken over from another run; those left to train, and why the first of them was not taken."""

    taken: tuple[str, ...]
    left: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        parts = [f"took over {', '.join(self.taken)}"] if self.taken else []
        if self.left:
            parts.append(f"{'trains' if parts else 'took nothing over; trains'} {', '.join(self.left)} ({self.why})")
        return "; ".join(parts) or "nothing was left to take over"


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run, and the rules of writing them."""

    root: Path

    def stage(self, name: str) -> Path:
        """Folder of a stage."""
        return self.root / name

    @property
    def model(self) -> Path:
        """The trained network, for Predictor and AGCNN.from_pretrained."""
        return self.root / "model"

    def start(self, config: Train, plan: Path, *, resume: bool) -> None:
        """Claim the folder, or check that it may go on. Raises ValueError saying why not."""
        config = resolved(config)
        if not (self.root / "config.yaml").exists():
            if not is_free(self.root):
                raise ValueError(f"{self.root} is not empty and holds no run; give --out a new or an empty folder")
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / "run.json").unlink(missing_ok=True)  # of a call that failed in its first epoch
            atomic(self.root / "plan.json", lambda path: path.write_bytes(plan.read_bytes()))
            atomic(self.root / "config.yaml", lambda path: configuration.to_yaml(config, path))
            return
        if not resume:
            raise ValueError(f"{self.root} already holds a run; go on with it by --resume, or give --out a new folder")
        differing = differences(self._config(), config)
        if differing:
            raise ValueError(
                f"{self.root} was begun with other settings, so it cannot be resumed with these: "
                f"{'; '.join(differing)}. Give the settings it was begun with, or --out a new folder"
            )
        if not same_json(self.root / "plan.json", plan):
            raise ValueError(
                f"{self.root} was begun on other films than {plan.parent} (their plan.json differ); "
                "resume with the same prepared folder, or give --out a new folder"
            )

    def _config(self) -> Train:
        """The settings it was begun with. A run of an earlier version may say `auto`: as if it was begun here."""
        return resolved(configuration.from_yaml(self.root / "config.yaml"))

    def done(self, stage: str) -> StageSummary | None:
        """The summary of a finished stage, None while it is not."""
        path = self.stage(stage) / "done.json"
        if not path.exists():
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
        found["val_auc_per_finding"] = {key: _number(value) for key, value in found["val_auc_per_finding"].items()}
        found["val_auc"], found["absent"] = _number(found["val_auc"]), tuple(found["absent"])
        return StageSummary(**found)

    def finished(self) -> bool:
        """Whether nothing is left to do: every stage is done and the model is written."""
        return self._run_json().get("status") == "finished" and (self.model / "config.json").exists()

    def check_donor(self, donor: RunFolder, config: Train, plan: Path) -> None:
        """Raises ValueError where no stage of `donor` can fit a run of `config` on the films of `plan`."""
        if not (donor.root / "config.yaml").exists():
            raise ValueError(f"{donor.root} holds no run whose stages could be reused; give the folder of one")
        if donor.root.resolve() == self.root.resolve():
            raise ValueError(f"{donor.root} cannot reuse its own stages; give --out a new folder, or --resume")
        if not same_json(donor.root / "plan.json", plan):
            raise ValueError(
                f"{donor.root} was trained on other films than {plan.parent} (their plan.json differ), so its stages "
                "cannot be reused here; give --data the folder it was trained on, or leave it out"
            )
        theirs = donor._config()
        if theirs.backbone != config.backbone:
            raise ValueError(
                f"{donor.root} has the backbone {theirs.backbone} and this run {config.backbone}, so its stages do not "
                f"fit; give --backbone {theirs.backbone}, or leave it out"
            )

    def reuse(self, donor: RunFolder, config: Train) -> Reused:
        """Take over finished stages of another run (see `check_donor`) that this one would train exactly alike.

        They are alike where everything they and the stages before them depend on is equal (`recipe`). Stages that this
        run has begun are left as they are, and since what follows depends on their weights, it is taken only where
        those are the donor's, to the byte.
        """
        theirs, config = donor._config(), resolved(config)
        taken: list[str] = []
        for i, name in enumerate(config.stages):
            if why := _unlike(theirs, config, i) or self._apart(donor, name):
                left = (later for later in config.stages[i:] if self.done(later) is None)
                return Reused(tuple(taken), tuple(left), why)
            if not self.stage(name).exists():
                self._copy(donor, name)
                taken.append(name)
        return Reused(tuple(taken), (), "")

    def _apart(self, donor: RunFolder, stage: str) -> str:
        """Why a stage that both train alike does not lead to the same weights here and there; empty where it does."""
        if donor.done(stage) is None:
            return f"{stage} is not finished there"
        if not self.stage(stage).exists():
            return ""
        if self.done(stage) is None:
            return f"{stage} is begun here"
        mine, other = (run.stage(stage) / "best.safetensors" for run in (self, donor))
        same = mine.exists() and other.exists() and filecmp.cmp(mine, other, shallow=False)
        return "" if same else f"{stage} has other weights here"

    def _copy(self, donor: RunFolder, stage: str) -> None:
        partial = self.root / f".{stage}.part"
        shutil.rmtree(partial, ignore_errors=True)
        unneeded = shutil.ignore_patterns("last.ckpt", ".*", "events.*")
        shutil.copytree(donor.stage(stage), partial, ignore=unneeded)
        partial.replace(self.stage(stage))

    def finish(self, summary: StageSummary) -> None:
        """Mark a stage as finished."""
        write_json(self.stage(summary.stage) / "done.json", asdict(summary))

    def withdraw(self) -> None:
        """Undo `start` where no epoch was finished, so that a call with mended settings finds the place free; run.json
        still says what happened."""
        if any(self.root.glob("*/last.ckpt")) or any(self.root.glob("*/done.json")):
            return
        for name in ("config.yaml", "plan.json"):
            (self.root / name).unlink(missing_ok=True)
        for folder in self.root.iterdir():
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def data(self) -> Path:
        """The prepared folder that the run was begun with. Raises ValueError where none is known, or is there."""
        if not (self.root / "config.yaml").exists():
            raise ValueError(
                f"{self.root} holds no run to go on with; begin one with --data PREPARED --out {self.root}"
            )
        known = self.films()
        if known is None:
            raise ValueError(f"{self.root} does not say on which films it was begun; give them with --data PREPARED")
        if not (known / "plan.json").is_file():
            raise ValueError(
                f"the films were in {known} when {self.root} was begun, and are not there now; if they were moved, "
                f"give their new place with --data: agcxr train --data PREPARED --out {self.root} --resume"
            )
        return known

    def films(self) -> Path | None:
        """Where its films were; None where it does not say."""
        known = self._run_json().get("data")
        return None if known is None else Path(known)

    def _run_json(self) -> dict[str, Any]:
        """What an earlier call left of run.json; empty where there was none."""
        path = self.root / "run.json"
        return json.loads(path.read_bytes()) if path.exists() else {}

    @contextmanager
    def status(self, hardware: str, data: Path) -> Iterator[Callable[[], None]]:
        """Keep run.json true: running, then finished, interrupted or failed. A resumed run keeps its beginning, and
        `seconds` is the time of all its calls together."""
        before, clock = self._run_json(), time.perf_counter()
        begun = before.get("begun", datetime.now(UTC).isoformat(timespec="seconds"))
        spent = float(before.get("seconds", 0.0))

        def write(status: str) -> None:
            stages = {
                path.parent.name: json.loads(path.read_text())["seconds"] for path in self.root.glob("*/done.json")
            }
            write_json(
                self.root / "run.json",
                {
                    "status": status,
                    "begun": begun,
                    "seconds": round(spent + time.perf_counter() - clock, 1),
                    "stage_seconds": stages,
                    "data": str(data.resolve()),
                    "hardware": hardware,
                    "versions": versions(*PACKAGES),
                },
            )

        write("running")
        try:
            yield lambda: write("finished")
        except (KeyboardInterrupt, SystemExit):
            write("interrupted")
            raise
        except BaseException:
            write("failed")
            raise


def is_free(root: Path) -> bool:
    """Whether nothing lies there but what may come before a run: joined films (see `FILMS`), and run.json of a call
    that failed in its first epoch."""
    before = {"run.json", *([FILMS] if (root / FILMS / "plan.json").is_file() else [])}
    return not root.exists() or all(entry.name in before for entry in root.iterdir())


_NO_MAPS = {"statistic": "one without maps of its own", "top_share": None}


def recipe(config: Train, stage: int) -> dict[str, Any]:
    """All that the weights after the stage at this place of the strategy depend on, as far as a configuration says."""
    before = config.stages[: stage + 1]
    parts = {part for name in before for part in configuration.parts_of(name)}
    values = _values(config)
    left_out = {"global", "local", "fusion", "strategy"} - parts
    kept = {key: value for key, value in values.items() if key not in left_out}
    if "local" not in parts:  # learned maps are a part of the global branch
        learned = config.local.statistic == "learned"
        kept["local"] = {"statistic": "learned", "top_share": config.local.top_share} if learned else _NO_MAPS
    return kept | {"stages": before}


def _unlike(old: Train, new: Train, stage: int) -> str:
    """Why a stage of `old` is not that of `new`; empty where it is."""
    if old.stages[: stage + 1] != new.stages[: stage + 1]:
        return f"strategy: {old.strategy} -> {new.strategy}"
    before, after = _flat(recipe(old, stage)), _flat(recipe(new, stage))
    return "; ".join(_changes(before, after))


def differences(old: Train, new: Train) -> list[str]:
    """Fields that differ, as `local.threshold: 0.7 -> 0.6`."""
    return _changes(_flat(_values(old)), _flat(_values(new)))


def _values(config: Train) -> dict[str, Any]:
    """The settings to compare: normalisation by the `weights` is by `imagenet` where theirs is ImageNet's, as it was in
    all earlier versions."""
    values = config.model_dump(by_alias=True)
    if config.normalisation == "weights" and usual_statistics(config.backbone, config.weights):
        values["normalisation"] = "imagenet"
    return values


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in after if before.get(key) != after[key]]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


def same_json(one: Path, two: Path) -> bool:
    """Whether two JSON files say the same."""
    return bool(json.loads(one.read_bytes()) == json.loads(two.read_bytes()))


def atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in place at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    write(beside)
    with beside.open("rb") as handle:
        os.fsync(handle.fileno())
    beside.replace(path)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Readable JSON; NaN becomes null."""
    text = json.dumps(_plain(values), indent=2, ensure_ascii=False) + "\n"
    atomic(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def write_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """A state dict as safetensors."""
    tensors = {key: value.detach().contiguous().cpu() for key, value in state.items()}
    atomic(path, lambda beside: beside.write_bytes(save(tensors)))


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors. Raises ValueError where the file is missing."""
    if not path.exists():
        raise ValueError(f"{path} is missing although its stage is marked done; train again into a new folder")
    return load_file(path)


def write_metrics(path: Path, rows: list[EpochRow], labels: Sequence[str]) -> None:
    """metrics.csv: one line an epoch, AUROC per label as auc_<label>, empty where a class is absent."""
    text = io.StringIO()
    names = [field.name for field in fields(EpochRow) if field.name != "auc_K"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, *(f"auc_{label}" for label in labels)])
    for row in rows:
        values = [getattr(row, name) for name in names] + list(row.auc_K)
        writer.writerow(["" if value != value else value for value in values])
    atomic(path, lambda beside: beside.write_text(text.getvalue(), encoding="utf-8"))


def resolved(config: Train) -> Train:
    """The same settings with `precision: auto` as what it is on this machine; on another one it may be the other."""
    if config.precision != "auto":
        return config
    return config.model_copy(update={"precision": "bf16" if uses_bf16("auto") else "fp32"})


def uses_bf16(precision: str) -> bool:
    """Whether a run computes in bf16: asked for, or `auto` and the hardware has instructions for it."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(instructions())


def hardware() -> str:
    """The processor or accelerator a run sees, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"{processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value
