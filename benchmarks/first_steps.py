"""What the first steps of training do to what the weights know: the global branch alone, from one recipe, several ways.

    agcxr prepare nih --csv ... --images ... --out D --size 384 --split official
    python benchmarks/first_steps.py D --out ARMS        # about 4 minutes an arm of 224 px on two cores with bf16

Each arm is `--preset strong` with some settings changed; the same films, seed, order and views. The epoch is chosen by
the validation films; the test films only measure, once for each arm. Beside all test films those with a finding are
measured apart: normal films are the easier negatives, and collections differ in how many they hold. Prints a table with
intervals over patients (10,000 resamples, seed 0), each arm minus the one before it paired. A finished arm is taken as
it is.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agcxr import metrics, uncertainty
from agcxr.config import Train, preset, sized
from agcxr.data.dataset import Films, Shard, films
from agcxr.data.prepared import Prepared, open_prepared
from agcxr.labels import FINDINGS, LABELS, NO_FINDING
from agcxr.metrics import Floats
from agcxr.models.agcnn import linear
from agcxr.training import frozen, run_folder
from agcxr.training.frozen import Machine
from agcxr.training.run_folder import RunFolder
from agcxr.training.stages import build, train_stage
from agcxr.training.tasks import Data, load_stage

K = len(FINDINGS)
ARMS: dict[str, dict[str, Any]] = {
    "batch statistics, random head": {"norms": "batch", "heads": "random"},
    "fixed statistics, random head": {"heads": "random"},
    "fixed statistics, probed head": {},
    "the same, normal films weigh .2": {"normal_weight": 0.2},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="prepared folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the arms")
    parser.add_argument("--size", type=int, default=224)
    given = parser.parse_args()
    prepared = open_prepared(given.data)
    test = films(prepared, "test")
    print(f"| arm, {given.size} px | epoch | validation | test of {len(test)} | minus the arm above | with a finding |")
    print("|---|---|---|---|---|---|", flush=True)
    before: tuple[float, Floats] | None = None
    for name, changes in ARMS.items():
        config = sized(preset("strong"), given.size).model_copy(update=changes)
        folder = given.out / name.replace(",", "").replace(" ", "-")
        arm = json.loads((folder / "arm.json").read_text()) if (folder / "arm.json").is_file() else None
        arm = arm or trained(prepared, config, folder, test)
        score_NK = np.load(folder / "test.npy")
        value, replicate_R, cell = measured(test, score_NK, np.ones(len(test), bool))
        with_finding = measured(test, score_NK, test.label_NK[:, LABELS.index(NO_FINDING)] != 1)[2]
        gain = "" if before is None else signed(value - before[0], replicate_R - before[1])
        before = (value, replicate_R)
        print(f"| {name} | {arm['epoch']} | {arm['val']:.3f} | {cell} | {gain} | {with_finding} |", flush=True)


def trained(prepared: Prepared, config: Train, folder: Path, test: Films) -> dict[str, float]:
    """Train the global branch, keep the test films' logits, and say how it went."""
    torch.manual_seed(config.seed)
    model, run, start = build(config), RunFolder(folder), time.perf_counter()
    run.start(config, prepared.folder / "plan.json", resume=(folder / "config.yaml").is_file())
    data = Data(films(prepared, "train"), films(prepared, "val"))
    summary = run.done("global") or train_stage("global", model, config, data, run)
    load_stage(model, "global", run_folder.read_weights(run.stage("global") / "best.safetensors"))
    machine = Machine(torch.device("cpu"), Shard(0, 1), lambda tensor: tensor[None], nullcontext)
    feature_ND = frozen.global_features(model.eval(), test, config, config.global_.batch_size, machine)
    np.save(folder / "test.npy", linear(model.global_branch.head, feature_ND).detach().double().numpy())
    arm = {"epoch": summary.best_epoch, "val": summary.val_auc, "seconds": time.perf_counter() - start}
    (folder / "arm.json").write_text(json.dumps(arm))
    return arm


def measured(part: Films, score_NK: Floats, kept_N: np.ndarray) -> tuple[float, Floats, str]:
    """Mean AUROC of the findings, its resamples, and both in words."""
    target_NK, score_NK, patient_N = part.label_NK[kept_N, :K], score_NK[kept_N, :K], part.patient_N[kept_N]
    value = float(np.mean(metrics.auroc_table(target_NK, score_NK)))
    probability_NK = 1 / (1 + np.exp(-score_NK))
    drawn = uncertainty.bootstrap(target_NK, probability_NK[None], patient_N, rng=np.random.default_rng(0))
    replicate_R = uncertainty.mean_over(drawn.auroc_BKR[0])
    ends = uncertainty.interval(value, replicate_R)
    return value, replicate_R, f"{value:.3f} ({ends.low:.3f} to {ends.high:.3f})"


def signed(value: float, replicate_R: Floats) -> str:
    """A difference with its interval."""
    gap = uncertainty.difference(value, replicate_R)
    return f"{gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f})"


if __name__ == "__main__":
    main()
