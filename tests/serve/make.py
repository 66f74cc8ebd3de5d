"""A tiny model, films as files, and a running server, for the tests of this folder and benchmarks/serve_load.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from agcxr.calibration import fit_calibration
from agcxr.inference.novelty import fit_statistics
from agcxr.labels import LABELS
from agcxr.models.agcnn import AGCNN

CODE = (
    "import json, sys; from agcxr.serve.limits import Limits; from agcxr.serve.run import serve; "
    "options = json.loads(sys.argv[2]); limits = Limits(**options.pop('limits', {})); "
    "serve(sys.argv[1], port=0, device='cpu', limits=limits, **options)"
)


def save_model(
    folder: Path,
    *,
    calibrated: bool = True,
    size: int = 64,
    rare: tuple[str, ...] = (),
    strange: bool = False,
    **network: Any,
) -> Path:
    """An untrained network with made-up calibration, the same every time.

    rare: findings in three of its films. strange: with statistics of features from which every film is far.
    network: further options of it.
    """
    torch.manual_seed(3)
    model = AGCNN("test_resnet", weights="none", image_size=size, resize=size * 8 // 7, **network)
    calibration = None
    if calibrated:
        rng = np.random.default_rng(0)
        target = (rng.random((300, 15)) < 0.3).astype(float)
        score = 1 / (1 + np.exp(-(rng.normal(-0.4, 0.5, (300, 15)) + 0.8 * target)))
        for label in rare:
            target[:, LABELS.index(label)] = np.arange(300) < 3
        patients = np.arange(300).astype(str).astype(object)
        calibration = fit_calibration(target, score, patients, LABELS, kind="platt").model_dump(mode="json")
    statistics = None
    if strange:
        rng, channels = np.random.default_rng(0), model.global_branch.backbone.channels
        far = (rng.normal(50, 0.01, (40, channels)).astype(np.float32) for _ in range(2))
        statistics = fit_statistics(*far).model_dump(mode="json")
    card = model.new_card(prepared_size=size * 8 // 7, calibration=calibration, feature_statistics=statistics)
    model.save_pretrained(folder, card)
    return folder


def pixels(height: int = 120, width: int = 90, seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    """A smooth picture with some noise, over the whole range of its type."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    wave = np.sin(7 * x + seed) + np.cos(6 * y - seed) + rng.normal(0, 0.05, (height, width))
    unit = (wave - wave.min()) / np.ptp(wave)
    return np.rint(unit * np.iinfo(dtype).max).astype(dtype)


def encode(image: np.ndarray, suffix: str = ".png") -> bytes:
    done, data = cv2.imencode(suffix, image)
    assert done
    return data.tobytes()


def dicom(image: np.ndarray, **changes: str | None) -> bytes:
    """A minimal DX film; `changes` set attributes, None deletes one."""
    import io

    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film = Dataset()
    film.file_meta = meta
    film.SOPClassUID, film.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    film.StudyInstanceUID, film.SeriesInstanceUID = generate_uid(), generate_uid()
    film.PatientName, film.PatientID = "Secret^Patient", "SECRET-ID"
    film.Rows, film.Columns = image.shape
    film.SamplesPerPixel, film.PhotometricInterpretation, film.PixelRepresentation = 1, "MONOCHROME2", 0
    film.BitsAllocated = film.BitsStored = image.dtype.itemsize * 8
    film.HighBit = film.BitsStored - 1
    film.ViewPosition = "PA"
    film.PixelData = image.tobytes()
    for name, value in changes.items():
        if value is None:
            delattr(film, name)
        else:
            setattr(film, name, value)
    out = io.BytesIO()
    film.save_as(out, enforce_file_format=True)
    return out.getvalue()


@dataclass(frozen=True)
class Running:
    """A server in a process of its own."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def memory(self) -> int:
        """Resident bytes of the server and its decoders (Linux)."""
        pids = [self.process.pid]
        children = Path(f"/proc/{pids[0]}/task/{pids[0]}/children").parent.parent.glob("*/children")
        for listing in children:
            pids += [int(pid) for pid in listing.read_text().split()]
        page = os.sysconf("SC_PAGE_SIZE")
        return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for pid in pids)


@contextmanager
def running(
    model: Path,
    log: Path,
    *,
    options: str = "{}",
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    command: list[str] | None = None,
) -> Iterator[Running]:
    """Start a server on a free port. options: keywords of `serve` as JSON. command: another that starts one."""
    command = command or [sys.executable, "-c", CODE, str(model), options]
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stderr=file, text=True, cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        )
    try:
        yield Running(_address(process, log), process, log)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    for _ in range(3000):
        found = re.search(r"http://[^\s]+:\d+", log.read_text(encoding="utf-8"))
        if found and _answers(found[0]):
            return found[0]
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start: {log.read_text(encoding='utf-8')}")


def _answers(url: str) -> bool:
    import httpx

    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False
