"""From films on disk to probabilities: ours beside TorchXRayVision's own pipeline, with its own network, in one run.

Both have the same DenseNet-121 with the same random weights (they cost what trained ones cost). TorchXRayVision runs it
once on the whole film; ours runs it twice, on the view and on the attended crop, judges each film, reads it in a
process apart, and gives box and heatmap too. So a ratio of 1 is twice the network in the same time.

Its side: `load_image`, XRayCenterCrop, XRayResizer(224) (skimage, as its scripts do) and the network film by film; and
the same transforms in a DataLoader with a worker a core, batches of 16. Ours: `stream`, in each arithmetic.

Run: python benchmarks/peers.py [--films 48] [--rounds 4]    (needs the extra `external`)
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from agcxr.inference.engine import Engine
from agcxr.inference.export import export
from agcxr.inference.onnx_engine import OnnxPredictor
from agcxr.inference.prediction import Prediction
from agcxr.inference.predictor import Predictor
from agcxr.inference.quantise import calibration_films, quantise
from agcxr.machine import cores
from agcxr.models.xrv import import_xrv
from benchmarks.materials import film_files
from benchmarks.measure import Quartiles, alternate, commit, hardware, table

BATCH = 16


class _Films(Dataset[torch.Tensor]):
    """As TorchXRayVision's data sets give films."""

    def __init__(self, paths: list[str], transform: Callable[[Any], Any]) -> None:
        self._paths, self._transform = paths, transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, at: int) -> torch.Tensor:
        import torchxrayvision as xrv

        return torch.from_numpy(self._transform(xrv.utils.load_image(self._paths[at])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--keep", type=Path, help="folder for films and exported files; what is there is taken")
    given = parser.parse_args()
    torch.set_num_threads(cores())
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [str(path) for path in film_files(folder / "films", given.films)]
        timed = alternate(sides(paths, folder), given.rounds)
    print(f"{hardware()}; load {os.getloadavg()[0]:.1f}; commit {commit()}")
    print(", ".join(f"{name} {version(name)}" for name in ("torchxrayvision", "scikit-image", "torch", "onnxruntime")))
    theirs = {name: each.seconds for name, each in timed.items() if name.startswith("TorchXRayVision")}
    rows = []
    for name, own in timed.items():
        ratios = [
            str(Quartiles.of([a / b for a, b in zip(other, own.seconds, strict=True)])) for other in theirs.values()
        ]
        rows.append([name, f"{len(paths) / np.median(own.seconds):.1f}", *ratios, own.memory])
    print(table(["from disk to probabilities", "films/s", *(f"times {name}" for name in theirs), "peak MB"], rows))


def sides(paths: list[str], folder: Path) -> dict[str, Callable[[], None]]:
    import torchvision
    import torchxrayvision as xrv

    torch.manual_seed(0)
    network = xrv.models.DenseNet(weights=None, num_classes=18).eval()
    transform = torchvision.transforms.Compose([xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(224)])

    def script() -> None:
        with torch.no_grad():
            for path in paths:
                network(torch.from_numpy(transform(xrv.utils.load_image(path)))[None])

    def loader() -> None:
        with torch.no_grad():
            for batch in DataLoader(_Films(paths, transform), batch_size=BATCH, num_workers=cores()):
                network(batch)

    def ours(engine: Engine) -> Callable[[], None]:
        def run() -> None:
            assert all(isinstance(each, Prediction) for each in engine.stream(paths, batch_size=BATCH))

        return run

    engines = our_engines(network, paths, folder)
    return {
        "TorchXRayVision, film by film": script,
        "TorchXRayVision, DataLoader": loader,
        **{f"ours, {name}": ours(engine) for name, engine in engines.items()},
    }


def our_engines(network: torch.nn.Module, paths: list[str], folder: Path) -> dict[str, Engine]:
    torch.save(network.state_dict(), folder / "xrv.pt")
    run, plain, rounded = folder / "run", folder / "float32.onnx", folder / "int8.onnx"
    import_xrv("densenet121-res224-all", folder / "xrv.pt").save_pretrained(run)
    if not plain.exists():
        export(run, plain)
    if not rounded.exists():
        films = calibration_films(paths[:16], OnnxPredictor(plain).prepared_size)
        quantise(plain, rounded, films, "both", 1.0)
    return {
        "eager, float32": Predictor.from_pretrained(run, device="cpu"),
        "eager, bf16": Predictor.from_pretrained(run, device="cpu", precision="bf16"),
        "exported, float32": OnnxPredictor(plain),
        "exported, int8": OnnxPredictor(rounded),
    }


if __name__ == "__main__":
    main()
