"""An exported file beside the eager model: seconds from the command to the first row, and films a second.

Start: `agcxr predict` of one film in a fresh process, the two engines in turn. Speed: the same prepared films through
each engine in turn in one process, the first pass of each left out; and the largest difference of their answers.
OpenVINO takes part where it is installed, in float32 and in bf16.

Run: python benchmarks/onnx_predict.py [RUN] [--runs 5] [--films 32] [--threads 1]
Without a run: the lite network (two ResNet-50 at 224 pixels) with random weights, which costs what a trained one does.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch

from agcxr.data.phantom import film
from agcxr.data.radiograph import read_radiograph, resize
from agcxr.inference.export import export
from agcxr.inference.onnx_engine import OnnxPredictor
from agcxr.inference.predictor import Predictor
from agcxr.inference.stream import BatchPrediction
from agcxr.labels import FINDINGS
from agcxr.models.agcnn import AGCNN

BATCHES = (1, 16)
NIH = Path(__file__).resolve().parents[2] / "shared" / "nih" / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--file", type=Path, help="what was exported from RUN; default: export now")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--films", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        run, file = given.run or random_run(Path(folder) / "model"), given.file
        if file is None:
            file = Path(folder) / "model.onnx"
            start = time.perf_counter()
            print(f"export: {export(run, file)}; {time.perf_counter() - start:.0f} s")
        start_up(run, file, Path(folder), given.runs, given.threads)
        speed(run, file, given.runs, given.films, given.threads)
    print(f"{platform.machine()}, {os.cpu_count()} cores, {given.threads} threads used, load {os.getloadavg()[0]:.1f}")
    there = [name for name in ("torch", "onnxruntime", "openvino") if importlib.util.find_spec(name)]
    print(f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in there)}")


def random_run(folder: Path) -> Path:
    torch.manual_seed(0)
    AGCNN("resnet50", weights="none").save_pretrained(folder)
    return folder


def start_up(run: Path, file: Path, folder: Path, runs: int, threads: int) -> None:
    cv2.imwrite(str(folder / "film.png"), film(np.random.default_rng(0), ["Mass"]).pixels_HW)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    wall: dict[str, list[float]] = {"eager": [], "exported": []}
    processor: dict[str, list[float]] = {"eager": [], "exported": []}
    for _ in range(runs + 1):
        for name, model in (("eager", run), ("exported", file)):
            words = ["predict", str(model), str(folder / "film.png"), "--out", str(folder / "rows.csv"), "--overwrite"]
            start, before = time.perf_counter(), os.times()
            subprocess.run([sys.executable, "-m", "agcxr", *words], env=environment, check=True, capture_output=True)
            after = os.times()
            wall[name].append(time.perf_counter() - start)
            used = after.children_user + after.children_system - before.children_user - before.children_system
            processor[name].append(used)
    print(f"start: `agcxr predict` of one film, a process each, n = {runs} after one that is left out")
    for name in wall:
        print(f"  {name:<22} {told(wall[name][1:])} s; {told(processor[name][1:])} s of processor time")
    print(
        f"  eager / exported       {ratio(wall, 'eager', 'exported')} wall, {ratio(processor, 'eager', 'exported')} cpu"
    )


def speed(run: Path, file: Path, runs: int, n: int, threads: int) -> None:
    eager = Predictor.from_pretrained(run, device="cpu")
    engines: dict[str, Callable[..., BatchPrediction]] = {
        "eager fp32": eager.predict_arrays,
        "ONNX Runtime fp32": OnnxPredictor(file, threads=threads).predict_arrays,
        "eager bf16": Predictor.from_pretrained(run, device="cpu", precision="bf16").predict_arrays,
    }
    if importlib.util.find_spec("openvino"):
        for precision in ("fp32", "bf16"):
            engine = OnnxPredictor(file, threads=threads, runtime="openvino", precision=precision)
            engines[f"OpenVINO {precision}"] = engine.predict_arrays
    films = made(n, eager.prepared_size)
    expected = eager.predict_arrays(films, details=True)
    for batch in BATCHES:
        wall: dict[str, list[float]] = {name: [] for name in engines}
        processor: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(runs + 1):
            for name, predict in engines.items():  # in turn, so that other work on the machine meets all alike
                start, busy = time.perf_counter(), time.process_time()
                predict(films, batch_size=batch, details=True)
                wall[name].append((time.perf_counter() - start) / n * 1000)
                processor[name].append((time.process_time() - busy) / n * 1000)
        print(f"films of {eager.prepared_size} pixels, batch {batch}: ms a film, n = {runs} passes over {n} films")
        for name in engines:
            print(
                f"  {name:<22} {told(wall[name][1:])} ms; {told(processor[name][1:])} ms of processor time "
                f"({1000 / statistics.median(processor[name][1:]):.1f} films/s); "
                f"{ratio(processor, 'eager fp32', name)} times eager fp32"
            )
    print(f"answers beside the eager model's in float32, {n} films")
    for name, predict in list(engines.items())[1:]:
        print(f"  {name:<22} {apart(predict(films, details=True), expected, eager.prepared_size)}")


def made(n: int, size: int) -> np.ndarray:
    """Real films where they are at hand, half of them; phantoms otherwise."""
    rng = np.random.default_rng(0)
    real = sorted(NIH.glob("*.jpg"))[: n // 2] if NIH.is_dir() else []
    films = [resize(read_radiograph(path).pixels_HW, size) for path in real]
    films += [film(rng, [FINDINGS[i % 14]], size=size).pixels_HW for i in range(n - len(films))]
    print(f"{len(real)} real films and {n - len(real)} phantoms")
    return np.stack(films)


def apart(found: BatchPrediction, expected: BatchPrediction, size: int) -> str:
    gap = max(
        float(np.abs(getattr(found, name) - getattr(expected, name)).max())
        for name in ("global_NK", "local_NK", "fusion_NK")
    )
    edge_N = np.abs(found.box_N4 - expected.box_N4).max(1) * size
    return (
        f"probabilities by {gap:.1e} at most; {(edge_N > 0.01).sum()} of {len(edge_N)} boxes differ "
        f"(edges by {edge_N.max():.1f} px at most)"
    )


def told(values: list[float]) -> str:
    return f"median {statistics.median(values):.2f}, {min(values):.2f} to {max(values):.2f}"


def ratio(times: dict[str, list[float]], one: str, other: str) -> str:
    """Median of the ratios of neighbouring passes."""
    return f"{statistics.median(a / b for a, b in zip(times[one][1:], times[other][1:], strict=True)):.2f}"


if __name__ == "__main__":
    main()
