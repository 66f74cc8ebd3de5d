"""Does a change of the code change an answer? Tiny synthetic films, runs trained on them, what each command writes.

    python benchmarks/same_answers.py make BEFORE                  # with the code as it was: two minutes on one core
    python benchmarks/same_answers.py make AFTER --given BEFORE    # with the code as it is, on the same films and runs
    python benchmarks/same_answers.py compare BEFORE AFTER

`make AFTER --only evaluate score` asks for some parts (others: predict, ablate), which are then compared alone. Without
--given films and runs are made anew, and compared too. Numbers are equal to the last digit, keys and columns exactly;
masked is only what no two calls share: times, dates, folders' names, UIDs made by chance, versions. Status 1, with the
first differences of each file, where anything else differs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SOURCE_DATE_EPOCH", "0")

import cv2
import numpy as np
import pandas as pd

FILMS, SIZE = 240, 96
STAGES = {"global": 2, "local": 1, "fusion": 2}
"""Epochs."""
SETTINGS = [
    *("--preset", "demo", "--backbone", "test_resnet", "--image-size", "64", "--resize", "72", "--precision", "fp32"),
    *("--local.crop-source", "view", "--fusion.cached-views", "1"),
    *(word for stage, epochs in STAGES.items() for word in (f"--{stage}.epochs", str(epochs))),
]
RESAMPLES = ["--resamples", "100"]
DATA, ANSWERS = Path("data"), Path("answers")
RUN, LABELS = DATA / "seeds" / "seed0", DATA / "phantom" / "Data_Entry_2017_v2020.csv"
ABLATE = [
    *("ablate", "--data", DATA / "films", "--only", "controls", "--seeds", "2"),
    *("--lesions", DATA / "phantom" / "lesions.csv", *SETTINGS, *RESAMPLES),
]

MASKED_KEYS = {"made", "seconds", "films_per_second", "films_per_s", "versions", "device", "processor", "threads"}
MASKED_TEXT = [
    (r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?(\.\d+)?(\+00:00)?( UTC)?)?", "<date>"),
    (r"\d+(\.\d+)? (s|seconds|minutes|films/s|films a second)\b", "<time>"),
    (r"\b(agcxr|torch|timm|lightning|numpy|scikit-learn|onnxruntime) \d[\w.+]*", "<version>"),
]
SHOWN = 6
"""Differences of a file."""


# --- making -----------------------------------------------------------------------------------------------------------


def make(folder: Path, given: Path | None, parts: list[str]) -> None:
    """Films and runs under FOLDER/data; what each command writes and prints under FOLDER/answers/PART."""
    if folder.exists():
        raise SystemExit(f"{folder} exists; give a new folder")
    if given is not None:
        shutil.copytree(given / "data", folder / "data")
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)  # paths in titles and pictures are then the same
    if given is None:
        _make_data()
    for part in parts:
        (ANSWERS / part).mkdir(parents=True)
        PARTS[part](ANSWERS / part)


def _make_data() -> None:
    raw, films = DATA / "phantom", DATA / "films"
    _agcxr("phantom", "--out", raw, "-n", FILMS, "--size", SIZE, "--seed", "0", "--workers", "1")
    tables = ("--labels", LABELS, "--boxes", raw / "BBox_List_2017.csv", "--lists", raw)
    prepare = ("prepare", "nih", "--images", raw / "images", *tables, "--size", SIZE, "--workers", "1")
    _agcxr(*prepare, "--split", "official", "--out", films)
    train = ("train", "--data", films, *SETTINGS)
    _agcxr(*train, "--out", DATA / "seeds", "--seeds", "2")
    _agcxr(*train, "--out", DATA / "folds", "--folds", "2")
    _agcxr(*ABLATE, "--out", DATA / "ablation")
    for predictions in (DATA / "ablation").glob("*/*/predictions-*.parquet"):
        predictions.unlink()
    _write_dicom(raw / "images", DATA / "dicom")


def _evaluate(out: Path) -> None:
    """One run with everything, one without pictures, an average, runs of seeds and of folds; calibration."""
    evaluate = ("evaluate", RUN, "--data", DATA / "films", *RESAMPLES)
    _agcxr(*evaluate, "--out", out / "test", printed=out)
    other = ("--split", "val", "--no-probe", "--no-pictures", "--rectify", "relu")
    _agcxr(*evaluate, *other, "--out", out / "val", printed=out)
    for runs in ("seeds", "folds"):
        shutil.copytree(DATA / runs, out / runs)
        several = ("evaluate", out / runs, "--data", DATA / "films", *RESAMPLES)
        _agcxr(*several, *(("--no-probe", "--no-maps") if runs == "seeds" else ()), printed=out)
    average = ("evaluate", DATA / "seeds", "--average", "--views", "flip", "--no-maps", "--no-probe")
    _agcxr(*average, "--data", DATA / "films", "--out", out / "average", *RESAMPLES, printed=out)
    shutil.copytree(RUN, out / "calibrated")
    _agcxr("calibrate", out / "calibrated", "--data", DATA / "films", printed=out)


def _score(out: Path) -> None:
    """What `evaluate` wrote, beside another's with points of validation films; and the table of another program."""
    test, average, val = (ANSWERS / "evaluate" / name / "predictions.parquet" for name in ("test", "average", "val"))

    def files(name: str) -> list[object]:
        return [word for suffix in ("json", "md") for word in ("--out", out / f"{name}.{suffix}")]

    beside = ("--against", average, "--points-from", val)
    _agcxr("score", test, "--labels", LABELS, *beside, *files("both"), *RESAMPLES, printed=out)
    names = {"image_id": "file", **{f"fusion_{name}": name for name in ("Effusion", "Mass", "Cardiomegaly")}}
    pd.read_parquet(test)[list(names)].rename(columns=names).to_csv(out / "foreign.csv", index=False)
    _agcxr("score", out / "foreign.csv", "--labels", LABELS, *files("foreign"), *RESAMPLES, printed=out)


def _predict(out: Path) -> None:
    """Tables, pictures and DICOM objects of a run, an exported file and an average; and what the page is told."""
    raw = sorted((DATA / "phantom" / "images").glob("*.png"))[:6]
    beside = ("--explain", out / "explained", "--dicom", out / "dicom")
    _agcxr("predict", RUN, *raw, DATA / "dicom", "--out", out / "run.csv", *beside, printed=out, status=1)
    _agcxr("predict", DATA / "seeds", *raw, "--views", "flip", "--out", out / "average.csv", printed=out)
    _agcxr("export", RUN, "--out", out / "model.onnx", printed=out)
    _agcxr("predict", out / "model.onnx", *raw, "--out", out / "exported.csv", printed=out)
    told = _page(RUN, [*raw[:2], *sorted((DATA / "dicom").iterdir())])
    (out / "page.json").write_text(json.dumps(told), encoding="utf-8")


def _ablate(out: Path) -> None:
    """Two seeds of the controls, trained before, by lesion size too."""
    shutil.copytree(DATA / "ablation", out / "ablation")
    _agcxr(*ABLATE, "--out", out / "ablation", printed=out)


PARTS: dict[str, Callable[[Path], None]] = {
    "evaluate": _evaluate,
    "score": _score,
    "predict": _predict,
    "ablate": _ablate,
}


def _agcxr(*words: object, printed: Path | None = None, status: int = 0) -> None:
    """A command in this process; what it prints is kept in a folder, numbered."""
    from agcxr.cli import main

    start, text = time.perf_counter(), io.StringIO()
    with contextlib.redirect_stdout(text):
        code = main([str(word) for word in words])
    print(f"{time.perf_counter() - start:6.1f} s  agcxr {words[0]}", flush=True)
    if code != status:
        raise SystemExit(f"agcxr {' '.join(map(str, words))}: status {code}, expected {status}\n{text.getvalue()}")
    if printed is not None:
        number = len(list(printed.glob("printed-*.txt")))
        (printed / f"printed-{number}-{words[0]}.txt").write_text(text.getvalue(), encoding="utf-8")


def _write_dicom(images: Path, folder: Path) -> None:
    """Three films as plain 8-bit DX objects."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    folder.mkdir(parents=True)
    for number, path in enumerate(sorted(images.glob("*.png"))[6:9], start=1):
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        film, uid = Dataset(), f"1.2.826.0.1.3680043.8.498.{number}"
        film.file_meta = FileMetaDataset()
        film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        film.file_meta.MediaStorageSOPClassUID = film.SOPClassUID = DigitalXRayImageStorageForPresentation
        film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID = f"{uid}.1"
        film.StudyInstanceUID, film.SeriesInstanceUID = f"{uid}.2", f"{uid}.3"
        film.PatientID, film.PatientName, film.PatientSex, film.PatientBirthDate = f"P{number}", "A^B", "F", ""
        film.StudyDate, film.StudyTime, film.StudyID, film.AccessionNumber = "20200101", "101112", "1", ""
        film.ReferringPhysicianName, film.SeriesNumber, film.InstanceNumber = "", 1, 1
        film.Modality, film.BodyPartExamined, film.ViewPosition = "DX", "CHEST", "PA"
        film.Rows, film.Columns = pixels.shape
        film.SamplesPerPixel, film.PhotometricInterpretation, film.PixelRepresentation = 1, "MONOCHROME2", 0
        film.BitsAllocated, film.BitsStored, film.HighBit = 8, 8, 7
        film.PixelData = pixels.tobytes()
        film["PixelData"].VR = "OB"
        film.save_as(folder / f"film{number}.dcm", enforce_file_format=True)


def _page(run: Path, films: list[Path]) -> dict[str, object]:
    """What the page is told, of the model and of each film."""
    from fastapi.testclient import TestClient

    from agcxr.inference.load import load_engine
    from agcxr.serve.app import create_app

    with TestClient(create_app(load_engine(run, "cpu")), base_url="http://localhost") as client:
        sent = [[("file", (path.name, path.read_bytes()))] for path in films]  # films that come together are batched
        return {
            "model": client.get("/v1/model").json(),
            "predict": [client.post("/v1/predict", files=film).json() for film in sent],
            "explain": [client.post("/v1/explain", files=film).json() for film in sent],
        }


# --- comparing --------------------------------------------------------------------------------------------------------


def compare(before: Path, after: Path) -> int:
    """Print what differs, file by file; 1 where anything does. Parts that either side was not asked for are named."""
    parts = [{path.name for path in (root / ANSWERS).iterdir()} for root in (before, after)]
    if missing := sorted(parts[0] ^ parts[1]):
        print(f"not compared, as one side lacks it: {', '.join(missing)}")
    both = ["data", *(str(ANSWERS / part) for part in sorted(parts[0] & parts[1]))]
    first, second = ({name: root / name for part in both for name in _names(root, part)} for root in (before, after))
    different = 0
    for name in sorted(first.keys() | second.keys()):
        if name not in first or name not in second:
            differences = [f"only in {before if name in first else after}"]
        else:
            differences = list(_differences(first[name], second[name], before, after))
        if differences:
            different += 1
            print(name, *differences[:SHOWN], sep="\n    ")
            if len(differences) > SHOWN:
                print(f"    ... {len(differences)} in all")
    print(f"{len(first.keys() & second.keys())} files compared: " + (f"{different} differ" if different else "equal"))
    return int(different > 0)


def _names(root: Path, part: str) -> list[str]:
    """Files of a part whose content is an answer, relative to the root."""
    return [str(path.relative_to(root)) for path in (root / part).rglob("*") if path.suffix in READ]


def _differences(first: Path, second: Path, before: Path, after: Path) -> Iterator[str]:
    read, roots = READ[first.suffix], [str(before.resolve()), str(after.resolve())]
    yield from _apart(_masked(read(first), roots), _masked(read(second), roots), "")


def _masked(value: Any, roots: list[str]) -> Any:
    """The same with times, dates, versions and the folders' names masked."""
    if isinstance(value, dict):
        return {key: "<masked>" if key in MASKED_KEYS else _masked(v, roots) for key, v in value.items()}
    if isinstance(value, list):
        return [_masked(v, roots) for v in value]
    if isinstance(value, str):
        for root in roots:
            value = value.replace(root, "<folder>")
        for pattern, mask in MASKED_TEXT:
            value = re.sub(pattern, mask, value)
    return value


def _apart(a: Any, b: Any, where: str) -> Iterator[str]:
    """Where two values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            yield f"{where or 'top'}: keys {', '.join(sorted(map(str, a.keys() ^ b.keys())))}"
        for key in a.keys() & b.keys():
            yield from _apart(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            yield f"{where}: {len(a)} entries, then {len(b)}"
        for n, (x, y) in enumerate(zip(a, b, strict=False)):
            yield from _apart(x, y, f"{where}[{n}]")
    elif isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.shape != b.shape or a.dtype != b.dtype:
            yield f"{where}: {a.dtype} {a.shape}, then {b.dtype} {b.shape}"
        elif not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
            yield f"{where}: {np.count_nonzero(a != b)} of {a.size} values"
    elif type(a) is not type(b) or (a != b and not (a != a and b != b)):
        yield f"{where}: {str(a)[:160]!r}, then {str(b)[:160]!r}"


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _read_text(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def _read_frame(path: Path) -> list[Any]:
    """(name, values) of each column, in their order."""
    frame = pd.read_parquet(path)
    columns = [(str(name), frame[name]) for name in frame]
    return [[name, c.to_numpy() if c.dtype.kind in "fiub" else c.astype(str).tolist()] for name, c in columns]


def _read_picture(path: Path) -> np.ndarray | None:
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return picture if picture is None or path.parent.name != "explained" else _without_foot(picture)


def _without_foot(picture_HWC: np.ndarray) -> np.ndarray:
    """The picture of a film without its last line, which says when it was made."""
    return picture_HWC[: int(0.95 * len(picture_HWC))]


def _read_dicom(path: Path) -> list[str]:
    """Every element but the UIDs and dates of the object itself, and a digest of its pixels."""
    import hashlib

    import pydicom

    film = pydicom.dcmread(path)
    if "PixelData" in film:
        pixels = _without_foot(film.pixel_array) if path.name == "sc.dcm" else film.pixel_array
        film.PixelData = hashlib.sha256(pixels.tobytes()).digest()
    lines = [
        f"{element.tag} {element.keyword} {element.repval}"
        for element in film.iterall()
        if element.VR not in ("DA", "TM", "DT", "SQ")
    ]
    return [re.sub(r"\b(2\.25|1\.2\.826\.0\.1\.3680043\.(8\.498|10\.511))\.[\d.]+", "<uid>", line) for line in lines]


class _Words(HTMLParser):
    """The text of a page, a line a piece; styles and scripts left out."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.hidden += tag in ("style", "script")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("style", "script")

    def handle_data(self, data: str) -> None:
        if not self.hidden and (words := " ".join(data.split())):
            self.pieces.append(words)


def _read_page(path: Path) -> list[str]:
    parser = _Words()
    parser.feed(path.read_text("utf-8"))
    return parser.pieces


READ: dict[str, Callable[[Path], Any]] = {
    ".json": _read_json,
    ".parquet": _read_frame,
    ".npy": np.load,
    ".png": _read_picture,
    ".dcm": _read_dicom,
    ".html": _read_page,
    ".safetensors": lambda path: np.frombuffer(path.read_bytes(), np.uint8),
    **dict.fromkeys((".csv", ".md", ".txt", ".yaml"), _read_text),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("folder", type=Path)
    making.add_argument("--given", type=Path, help="folder of an earlier call, to take films and runs from")
    making.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="some parts, in this order")
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    given = parser.parse_args()
    if given.command == "compare":
        return compare(given.before, given.after)
    make(given.folder, given.given, given.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
