"""An exported file beside the eager model: the same answers? Prints the tables of docs/results/export_parity.md.

1. In float32 on ONNX Runtime: the network on the film as the file resized it, the resize against OpenCV's, and both
   together, on real films, phantoms, and what `agcxr export` itself compares.
2. What OpenVINO and bf16 change: boxes, probabilities and calls against eager float32, on prepared films.

Run: python benchmarks/onnx_parity.py [RUN] [--file model.onnx] [--films 101] [--phantoms 101] [--threads 1]
Without a run: the lite network with random weights (also --backbone densenet121).
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch

from agcxr.data.phantom import film
from agcxr.data.radiograph import read_radiograph, resize
from agcxr.inference.export import export
from agcxr.inference.onnx_engine import OnnxPredictor
from agcxr.inference.parity import EDGE, compare, made_films
from agcxr.inference.predictor import Predictor
from agcxr.inference.stream import BatchPrediction
from agcxr.labels import FINDINGS
from agcxr.models.agcnn import AGCNN

NIH = Path(__file__).resolve().parents[2] / "shared" / "nih"
BATCH = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--backbone", default="resnet50", help="of the network with random weights, without a run")
    parser.add_argument("--file", type=Path, help="what was exported from RUN; default: export now")
    parser.add_argument("--films", type=int, default=101, help="real films; originals first")
    parser.add_argument("--phantoms", type=int, default=101)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        run, file = given.run, given.file
        if run is None:
            torch.manual_seed(0)
            run = Path(folder) / "model"
            AGCNN(given.backbone, weights="none").save_pretrained(run)
        if file is None:
            file = Path(folder) / "model.onnx"
            print(f"export: {export(run, file)}\n", flush=True)
        eager = Predictor.from_pretrained(run, device="cpu")
        same_answers(eager, OnnxPredictor(file, threads=given.threads), given.films, given.phantoms)
        precisions(eager, run, file, given.films, given.phantoms, given.threads)
    there = [name for name in ("torch", "onnxruntime", "openvino", "opencv-python-headless") if _installed(name)]
    print(f"{platform.machine()}, {given.threads} threads. Python {platform.python_version()}, ", end="")
    print(", ".join(f"{name} {version(name)}" for name in there))


def _installed(name: str) -> bool:
    return find_spec({"opencv-python-headless": "cv2"}.get(name, name)) is not None


# --- 1 ----------------------------------------------------------------------------------------------------------------


def same_answers(eager: Predictor, exported: OnnxPredictor, films: int, phantoms: int) -> None:
    """Rows in Markdown. `together` is against eager with OpenCV's resize, as `agcxr predict RUN` computes."""
    print(
        "| films | answers | boxes that differ | probabilities | heatmap | crop, gray levels | resize: pixels, gray "
        "levels | probabilities, both together | boxes, both together |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name, batches in sets(films, phantoms, eager.prepared_size).items():
        found = compare(exported, eager, batches)
        gap, boxes = together(eager, exported, batches)
        print(
            f"| {name} | {found.films} | {found.boxes} | {found.probability:.1e} | {found.heat:.1e} | {found.crop} | "
            f"{found.pixels:,}, {found.gray} | {gap:.1e} | {boxes} |",
            flush=True,
        )
    print()


def sets(films: int, phantoms: int, size: int) -> dict[str, list[np.ndarray]]:
    """Name -> batches of one size each, uint8 N x H x W."""
    full = [read_radiograph(path).to_uint8() for path in sorted((NIH / "full").glob("*.png"))[:films]]
    jpeg = [read_radiograph(path).to_uint8() for path in real(films)]
    odd = [cv2.resize(one, (777, 901), interpolation=cv2.INTER_LINEAR) for one in full]
    ties = [cv2.resize(one, (512, 640), interpolation=cv2.INTER_LINEAR) for one in full]
    found = {
        "NIH originals, 1024 x 1024 PNG": full,
        "NIH, 512 x 512 JPEG": jpeg,
        "NIH originals made 901 x 777": odd,
        "NIH originals made 640 x 512": ties,
        "phantoms, 512 x 512": drawn(phantoms, 512),
    }
    batched = {name: [np.stack(part) for part in _batches(some)] for name, some in found.items() if some}
    return batched | {"made by `agcxr export` (four sizes, noise among them)": list(made_films(size))}


def together(eager: Predictor, exported: OnnxPredictor, batches: list[np.ndarray]) -> tuple[float, int]:
    """Largest difference of a probability and boxes that differ, each film resized by its own engine."""
    gap, boxes = 0.0, 0
    for films_NHW in batches:
        found = exported.run(films_NHW)
        expected = eager.predict_arrays(np.stack([resize(one, eager.prepared_size) for one in films_NHW]))
        height, width = films_NHW.shape[1:]
        apart_N = np.abs(found["box"] / [width, height, width, height] - expected.box_N4).max(1)
        boxes += int((apart_N * eager.prepared_size > EDGE).sum())
        for name in ("global", "local", "fusion"):
            gap = max(gap, float(np.abs(found[name] - getattr(expected, f"{name}_NK")).max()))
    return gap, boxes


def real(count: int) -> list[Path]:
    """Spread over the collection."""
    every = sorted((NIH / "images").glob("*.jpg"))
    return every[:: max(1, len(every) // max(count, 1))][:count]


def drawn(count: int, size: int) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [film(rng, [FINDINGS[i % len(FINDINGS)]], size=size).pixels_HW for i in range(count)]


def _batches(films: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    for start in range(0, len(films), BATCH):
        yield films[start : start + BATCH]


# --- 2 ----------------------------------------------------------------------------------------------------------------


def precisions(eager: Predictor, run: Path, file: Path, films: int, phantoms: int, threads: int) -> None:
    """Each runtime and precision against eager float32, on prepared films, in Markdown."""
    engines: dict[str, Predictor | OnnxPredictor] = {"ONNX Runtime, float32": OnnxPredictor(file, threads=threads)}
    if find_spec("openvino"):
        for name, precision in (("OpenVINO, float32", "fp32"), ("OpenVINO, bf16", "bf16")):
            engines[name] = OnnxPredictor(file, runtime="openvino", precision=precision, threads=threads)
    engines["eager, bf16"] = Predictor.from_pretrained(run, device="cpu", precision="bf16")
    sizes = {
        "NIH": [resize(read_radiograph(path).pixels_HW, eager.prepared_size) for path in real(films)],
        "phantoms": [resize(one, eager.prepared_size) for one in drawn(phantoms, 512)],
    }
    print(
        "| engine | films | probabilities: global / local / fusion, largest (median of all) | boxes that differ | "
        f"edges, median / 95 % / largest, px of {eager.prepared_size} | calls that differ |\n|---|---|---|---|---|---|"
    )
    for kind, some in sizes.items():
        if not some:
            continue
        prepared_NSS = np.stack(some)
        expected = eager.predict_arrays(prepared_NSS)
        for name, engine in engines.items():
            print(f"| {name} | {kind} | {apart(engine.predict_arrays(prepared_NSS), expected, eager)} |", flush=True)
    print()


def apart(found: BatchPrediction, expected: BatchPrediction, eager: Predictor) -> str:
    gaps = [np.abs(getattr(found, f"{b}_NK") - getattr(expected, f"{b}_NK")) for b in ("global", "local", "fusion")]
    edge_N = np.abs(found.box_N4 - expected.box_N4).max(1) * eager.prepared_size
    moved = int(((edge_N > EDGE) | (found.fallback_N != expected.fallback_N)).sum())
    calls = "no thresholds"
    if eager.scale is not None:
        cut_K = eager.scale.cut.score_K
        known_K = np.isfinite(cut_K)
        differ = (found.fusion_NK >= cut_K)[:, known_K] != (expected.fusion_NK >= cut_K)[:, known_K]
        calls = f"{int(differ.sum())} of {differ.size:,}"
    largest = " / ".join(f"{gap.max():.1e}" for gap in gaps)
    median, high = np.median(edge_N), np.quantile(edge_N, 0.95)
    return (
        f"{largest} ({np.median(np.stack(gaps)):.0e}) | {moved} of {len(edge_N)} | "
        f"{median:.1f} / {high:.1f} / {edge_N.max():.1f} | {calls}"
    )


if __name__ == "__main__":
    main()
