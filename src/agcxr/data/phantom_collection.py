"""A collection of synthetic films, written as the NIH writes its own: the embedded default data.

Patients with several films, findings that keep company as they do in life and persist from film to film, true boxes for
every one of them. Everything follows from the seed; the number of workers changes nothing.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import NormalDist

import cv2
import numpy as np

from agcxr.data.lesions import Lesion, Nodules
from agcxr.data.phantom import COLLECTION, Patient, check_film, draw_patient, film, in_box_frame
from agcxr.data.synthetic import PHANTOM, marked
from agcxr.labels import FINDINGS, NO_FINDING
from agcxr.progress import ProgressBar

PREVALENCE: dict[str, float] = {
    "Atelectasis": 0.10,
    "Cardiomegaly": 0.11,
    "Effusion": 0.13,
    "Infiltration": 0.10,
    "Mass": 0.08,
    "Nodule": 0.10,
    "Pneumonia": 0.08,
    "Pneumothorax": 0.08,
    "Consolidation": 0.08,
    "Edema": 0.08,
    "Emphysema": 0.08,
    "Fibrosis": 0.08,
    "Pleural_Thickening": 0.09,
    "Hernia": 0.06,
}
"""Share of films with each finding. Far above a clinic's, so that a few hundred films show every one."""

COMPANY: tuple[dict[str, float], ...] = (
    {"Cardiomegaly": 0.85, "Edema": 0.9, "Effusion": 0.75},
    {"Pneumonia": 0.8, "Consolidation": 0.85, "Infiltration": 0.75, "Effusion": 0.35},
    {"Emphysema": 0.75, "Fibrosis": 0.7, "Pleural_Thickening": 0.75, "Pneumothorax": 0.6},
    {"Mass": 0.8, "Nodule": 0.8, "Atelectasis": 0.6},
)
"""Illnesses (heart failure, infection, chronic lung disease, tumour) and how strongly each shows as a finding: the
loadings of hidden normal variables, so that findings co-occur while each keeps its prevalence exactly."""

PERSISTENCE = 0.93
"""Correlation of a patient's hidden variables from film to film; about 4 in 5 findings are there again."""

DATA_ENTRY = "Data_Entry_2017_v2020.csv"
BOX_LIST = "BBox_List_2017.csv"
PLACES = "places.csv"
ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"


@dataclass(frozen=True)
class Order:
    """One film to make: its place in the collection, whose it is and what is on it."""

    index: int
    number: int
    follow_up: int
    patient: Patient
    findings: tuple[str, ...]

    @property
    def image_id(self) -> str:
        """File name in the NIH's manner."""
        return f"{self.number:08d}_{self.follow_up:03d}.png"


def plan_films(n: int, *, seed: int = 0, prevalence: Mapping[str, float] | float | None = None) -> list[Order]:
    """Who is filmed how often and with what: n films, patients one after the other.

    prevalence: a share for some findings (the others keep theirs), or one factor for all.
    """
    if n < 1:
        raise ValueError(f"n = {n} films were asked for; expected at least 1")
    rng = np.random.default_rng([seed, 0xF11])
    cut = np.array([NormalDist().inv_cdf(1 - p) if p > 0 else np.inf for p in _shares(prevalence).values()])
    loading = np.array([[group.get(name, 0.0) for group in COMPANY] for name in FINDINGS])
    own = np.sqrt(1 - (loading**2).sum(axis=1))
    orders: list[Order] = []
    number = 0
    while len(orders) < n:
        number += 1
        patient = draw_patient(rng)
        steady = loading @ rng.standard_normal(len(COMPANY)) + own * rng.standard_normal(len(FINDINGS))
        for follow_up in range(min(int(rng.geometric(0.5)), 8, n - len(orders))):
            change = rng.standard_normal(len(FINDINGS))
            hidden = np.sqrt(PERSISTENCE) * steady + np.sqrt(1 - PERSISTENCE) * change
            found = tuple(name for name, yes in zip(FINDINGS, hidden > cut, strict=True) if yes)
            aged = replace(patient, age=min(patient.age + follow_up // 3, 95))
            orders.append(Order(len(orders), number, follow_up, aged, found))
    return orders


def _shares(prevalence: Mapping[str, float] | float | None) -> dict[str, float]:
    if prevalence is None:
        return dict(PREVALENCE)
    if isinstance(prevalence, Mapping):
        unknown = sorted(set(prevalence) - set(FINDINGS))
        if unknown:
            raise ValueError(f"prevalence of an unknown finding {unknown[0]!r}; expected any of {', '.join(FINDINGS)}")
        shares = {**PREVALENCE, **prevalence}
    else:
        shares = {name: share * float(prevalence) for name, share in PREVALENCE.items()}
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"prevalence of {name} is {share}; expected a share of films from 0 to under 1")
    return shares


@dataclass(frozen=True)
class Made:
    """What is written about a film; the pixels are on disk."""

    order: Order
    view: str
    field_cm: float
    boxes: tuple[tuple[str, float, float, float, float], ...]
    lesions: tuple[Lesion, ...]
    places: tuple[Lesion, ...]


def _make(order: Order, images: Path, seed: int, size: int, difficulty: float, nodules: Nodules) -> Made:
    cv2.setNumThreads(1)
    rng = np.random.default_rng([seed, order.index])
    made = film(rng, order.findings, size=size, patient=order.patient, difficulty=difficulty, nodules=nodules)
    done, png = cv2.imencode(".png", made.pixels_HW, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done, "an 8-bit picture can always be encoded"
    (images / order.image_id).write_bytes(marked(png.tobytes()))
    return Made(order, made.view, made.field_cm, made.boxes, made.lesions, made.places)


def write_phantom(
    out: str | os.PathLike[str],
    n: int,
    *,
    seed: int = 0,
    size: int = 512,
    workers: int | None = None,
    prevalence: Mapping[str, float] | float | None = None,
    difficulty: float = 0.5,
    nodules: Nodules = "usual",
    test_share: float = 0.2,
    progress: bool = True,
) -> Path:
    """Write n films and the NIH's files about them into the folder `out`; returns it.

    images/00000001_000.png (8-bit gray, marked: see synthetic.py), Data_Entry_2017_v2020.csv, train_val_list.txt,
    test_list.txt (no patient in both), BBox_List_2017.csv (boxes of all films and all findings; the NIH's has some),
    lesions.csv: every sign with its box and the diameter in centimetres, and places.csv, laid out as the boxes: where
    the nodules of every film are or would be. workers: processes; None = all cores, 1 = none but this one.
    The folder appears whole: an interrupted call leaves `<out>.partial`, and the next one draws anew.
    Raises ValueError for bad values and FileExistsError where `out` holds anything already.
    """
    target = Path(out)
    if target.name in ("", ".."):
        raise ValueError(f"the folder to make is {target}; give it a name of its own, such as {target / 'phantom'}")
    orders = plan_films(n, seed=seed, prevalence=prevalence)
    check_film(set(), size, difficulty)
    if not 0 < test_share < 1:
        raise ValueError(f"test_share {test_share} is not a share of the patients between 0 and 1")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        held = "holds films already" if (target / "images").is_dir() else "exists and is not an empty folder"
        raise FileExistsError(f"{target} {held}; give another folder or remove it first")
    folder = target.with_name(f"{target.name}.partial")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    make = partial(_make, images=folder / "images", seed=seed, size=size, difficulty=difficulty, nodules=nodules)
    workers = min(workers or os.cpu_count() or 1, n)
    bar = partial(ProgressBar, total=n, desc="phantom", unit=" films", disable=not progress)
    if workers == 1:
        films = [make(order) for order in bar(orders)]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            films = list(bar(pool.map(make, orders, chunksize=max(1, min(16, n // workers)))))
    _write_tables(folder, films, size)
    _write_lists(folder, orders, seed, test_share)
    (folder / COLLECTION).write_text(f"{PHANTOM}, seed {seed}\n", encoding="utf-8")
    _finish(folder, films, target)
    return target


def _finish(folder: Path, films: list[Made], target: Path) -> None:
    """Leave out what an interrupted call with other numbers drew, and give the folder its name."""
    wanted = {made.order.image_id for made in films}
    for path in (folder / "images").iterdir():
        if path.name not in wanted:
            path.unlink()
    if target.is_dir():
        target.rmdir()  # empty: checked at the start
    folder.rename(target)


def _write_tables(folder: Path, films: list[Made], size: int) -> None:
    entries, boxes, places = [ENTRY_HEADER], [BOX_HEADER], [BOX_HEADER]
    for made in films:
        order = made.order
        spacing = round(made.field_cm * 10 / size, 6)
        labels = "|".join(sorted(order.findings)) or NO_FINDING
        who = f"{order.follow_up},{order.number},{order.patient.age},{order.patient.sex},{made.view}"
        entries.append(f"{order.image_id},{labels},{who},{size},{size},{spacing},{spacing}")
        for finding, *xywh in made.boxes:
            name = "Infiltrate" if finding == "Infiltration" else finding  # as the NIH's file spells it
            boxes.append(f"{order.image_id},{name}," + ",".join(f"{value:.6f}" for value in xywh))
        for _, *xywh in in_box_frame(made.places):
            places.append(f"{order.image_id},Nodule," + ",".join(f"{value:.6f}" for value in xywh))
    (folder / DATA_ENTRY).write_text("\n".join(entries) + "\n", encoding="utf-8")
    (folder / BOX_LIST).write_text("\n".join(boxes) + "\n", encoding="utf-8")
    (folder / PLACES).write_text("\n".join(places) + "\n", encoding="utf-8")
    with open(folder / "lesions.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image", "finding", "x", "y", "w", "h", "diameter_cm"])
        for made in films:
            for (finding, *xywh), lesion in zip(made.boxes, made.lesions, strict=True):
                row = [f"{value:.3f}" for value in (*xywh, lesion.diameter_cm)]
                table.writerow([made.order.image_id, finding, *row])


def _write_lists(folder: Path, orders: list[Order], seed: int, test_share: float) -> None:
    """Whole patients, in random order, until the test part has its share of the films."""
    patients = np.random.default_rng([seed, 0x5B117]).permutation(sorted({order.number for order in orders}))
    counts = Counter(order.number for order in orders)
    test, taken = set[int](), 0
    for number in patients[:-1]:  # the last patient trains, so that neither list is empty when there are two
        if taken >= test_share * len(orders):
            break
        test.add(int(number))
        taken += counts[int(number)]
    for name, inside in (("train_val_list.txt", False), ("test_list.txt", True)):
        names = [order.image_id for order in orders if (order.number in test) == inside]
        (folder / name).write_text("\n".join(names), encoding="utf-8")  # the official lists end without a newline
