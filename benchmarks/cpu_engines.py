"""What runs a model fastest on this processor, and what that costs: eager and compiled PyTorch, ONNX Runtime and
OpenVINO, in float32, bf16 and int8. Prints a table in Markdown.

Speed: the same prepared films through each engine in turn, round by round, batches of 16; the ratio to eager float32 is
taken within each round. Processor time, which other work on the machine hardly changes, is for --threads 1.
Cost: against eager float32 on the test films of a prepared folder: mean AUROC of the fusion, by how much its
probabilities move, and boxes.

Run: python benchmarks/cpu_engines.py RUN --data PREPARED [--rounds 5] [--films 64] [--test 400]
Without --data: speed alone, on noise; without RUN too: the lite network (two ResNet-50 at 224 pixels), random weights.
int8 is calibrated on training films of the prepared folder. Files that `agcxr export` would refuse are measured too,
and named on the error stream.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from agcxr.data.prepared import open_prepared
from agcxr.inference.engine import Engine
from agcxr.inference.export import export
from agcxr.inference.onnx_engine import OnnxPredictor, Quantised
from agcxr.inference.predictor import Predictor
from agcxr.inference.quantise import calibration_films, moved, quantise
from agcxr.inference.stream import BatchPrediction
from agcxr.machine import cores
from agcxr.metrics import auroc_table
from agcxr.models.agcnn import AGCNN
from benchmarks.measure import Quartiles, alternate, commit, hardware, table

BATCH = 16
TOLERANCE = 0.01
NOTHING = Quantised(branches="both", convolutions=1, films=1, tolerance=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--data", type=Path, help="prepared folder: training films calibrate, test films tell the cost")
    parser.add_argument("--rounds", type=int, default=5, help="0: the cost alone")
    parser.add_argument("--films", type=int, default=64, help="of a round")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--compiled", action="store_true", help="also torch.compile, which takes minutes to begin")
    parser.add_argument("--test", type=int, default=400, help="films that the cost is measured on")
    parser.add_argument("--keep", type=Path, help="folder for the exported files; those that are there are taken")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        run = given.run or random_run(folder / "model")
        engines = made(run, folder, given.data, given.threads, given.compiled)
        print(f"{engines['eager, float32']}; {given.threads} threads; {hardware()}; ", end="")
        print(f"load {os.getloadavg()[0]:.1f}; commit {commit()}")
        print(", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "openvino") if find_spec(name)))
        if given.rounds:
            print(f"\n{speeds(engines, given.rounds, given.films)}\n", flush=True)
        if given.data:
            print(costs(engines, given.data, given.test))


def random_run(folder: Path) -> Path:
    if not folder.exists():
        torch.manual_seed(0)
        AGCNN("resnet50", weights="none").save_pretrained(folder)
    return folder


def made(run: Path, folder: Path, data: Path | None, threads: int, compiled: bool) -> dict[str, Engine]:
    """Every engine that there is here, by name."""
    plain, local, both = (folder / f"{name}.onnx" for name in ("float32", "local", "both"))
    if not plain.exists():
        print(export(run, plain), file=sys.stderr, flush=True)
    size = OnnxPredictor(plain).prepared_size
    if data:
        films = calibration_films([str(data)], size)
    else:
        films = np.random.default_rng(0).integers(0, 256, (16, size, size), np.uint8)
    for path, branches in ((local, "local"), (both, "both")):
        if not path.exists():
            try:
                print(quantise(plain, path, films, branches, TOLERANCE), file=sys.stderr, flush=True)
            except ValueError as error:  # measured all the same
                print(f"{path.name}: {error}", file=sys.stderr, flush=True)
    engines: dict[str, Engine] = {
        "eager, float32": Predictor.from_pretrained(run, device="cpu"),
        "eager, bf16": Predictor.from_pretrained(run, device="cpu", precision="bf16"),
        "ONNX Runtime, float32": OnnxPredictor(plain, threads=threads),
        "ONNX Runtime, int8, local": OnnxPredictor(local, threads=threads),
        "ONNX Runtime, int8, both": OnnxPredictor(both, threads=threads),
    }
    if compiled:
        engine = Predictor.from_pretrained(run, device="cpu")
        for branch in (engine.model.global_branch, engine.model.local_branch):
            branch.backbone = torch.compile(branch.backbone)
        engines["compiled, float32"] = engine
    if find_spec("openvino"):
        for name, path, precision in (
            ("float32", plain, "fp32"),
            ("bf16", plain, "bf16"),
            ("int8, local", local, "fp32"),
            ("int8, both", both, "fp32"),
        ):
            exported = OnnxPredictor(path, runtime="openvino", precision=precision, threads=threads)
            engines[f"OpenVINO, {name}"] = exported
    return engines


def speeds(engines: dict[str, Engine], rounds: int, n: int) -> str:
    """Films/s of each in turn, and times eager float32 within the same round."""
    size = engines["eager, float32"].prepared_size
    films = np.random.default_rng(1).integers(0, 256, (n, size, size), np.uint8)
    spent: dict[str, list[float]] = {name: [] for name in engines}

    def side(name: str, engine: Engine) -> Callable[[], None]:
        def run() -> None:
            start = time.process_time()
            engine.predict_arrays(films, batch_size=BATCH, details=True)
            spent[name].append((time.process_time() - start) / n * 1000)

        return run

    timed = alternate({name: side(name, engine) for name, engine in engines.items()}, rounds)
    seconds = {name: each.seconds for name, each in timed.items()}
    first = "eager, float32"
    rows = [
        [
            name,
            f"{n / np.median(own):.1f}",
            str(Quartiles.of([a / b for a, b in zip(seconds[first], own, strict=True)])),
            f"{np.median(spent[name][1:]):.1f}",
            f"{np.median(spent[first][1:]) / np.median(spent[name][1:]):.2f}",
        ]
        for name, own in seconds.items()
    ]
    heads = ["engine", f"films/s, {rounds} rounds of {n}", "times eager float32", "processor time, ms a film", "times"]
    return table(heads, rows)


def costs(engines: dict[str, Engine], data: Path, n: int) -> str:
    """Mean AUROC of the fusion on test films, and what moves against eager float32."""
    prepared = open_prepared(data)
    rows = np.flatnonzero(prepared.index["split"].to_numpy() == "test")[:n]
    images = np.asarray(prepared.images[rows])
    plain = engines["eager, float32"].predict_arrays(images, batch_size=BATCH)
    labels = [label for label in plain.labels if label != "No Finding"]
    target = prepared.index[labels].to_numpy()[rows]
    columns = [plain.labels.index(label) for label in labels]
    scale = engines["eager, float32"].scale
    cut = None if scale is None else scale.cut.score_K

    def mean(answers: BatchPrediction) -> float:
        return float(np.nanmean(auroc_table(target, answers.fusion_NK[:, columns])))

    found = []
    for name, engine in engines.items():
        answers = plain if name == "eager, float32" else engine.predict_arrays(images, batch_size=BATCH)
        cost = moved(plain, answers, cut, NOTHING)
        found.append(
            [
                name,
                f"{mean(answers):.4f} ({mean(answers) - mean(plain):+.4f})",
                f"{cost.probability:.4f}, {cost.probability_99:.3f}",
                "-" if cost.calls is None else f"{cost.calls:.2%}",
                f"{cost.same_boxes:.1%}, {cost.near_boxes:.1%}",
            ]
        )
    heads = ["engine", f"mean AUROC, {len(rows)} films", "probability moved: mean, 99 %", "calls that change"]
    return table([*heads, "boxes: same, near"], found)


if __name__ == "__main__":
    main()
