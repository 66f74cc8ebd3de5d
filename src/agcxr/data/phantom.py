"""Synthetic chest films with known findings and boxes, written as the NIH writes its own: the embedded default data.

`film` makes one film, `write_phantom` a whole collection: patients with several films, findings that keep company as
they do in life and persist from film to film, true boxes for every one of them. Labels, boxes and pixels come from the
same drawing, so there is no label noise. Everything follows from the seed; the number of workers changes nothing.
The films are for learning the method and for studies where the truth must be known. They are no substitute for films
of patients.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import NormalDist

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from agcxr.data.anatomy import Thorax, open_scene, tissue
from agcxr.data.canvas import Array, Canvas
from agcxr.data.lesions import Lesion, Strength, draw, reshape
from agcxr.labels import FINDINGS, NO_FINDING

BOX_FRAME = 1024
"""Side, in pixels, of the frame in which the NIH writes boxes."""

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
ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"


@dataclass(frozen=True)
class Patient:
    """What stays the same from film to film. seed: places of lesions and course of vessels follow from it."""

    seed: int
    age: int
    sex: str
    thorax: Thorax


@dataclass(frozen=True)
class Phantom:
    """One film.

    pixels_HW: uint8, bright = dense. findings: as asked for, in label order. lesions: every place where a finding
    shows, boxes (x0, y0, x1, y1) as fractions of the film. field_cm: side of the film in centimetres of the patient.
    view: "PA" or "AP".
    """

    pixels_HW: NDArray[np.uint8]
    findings: tuple[str, ...]
    lesions: tuple[Lesion, ...]
    patient: Patient
    view: str
    field_cm: float

    @property
    def boxes(self) -> tuple[tuple[str, float, float, float, float], ...]:
        """(finding, x, y, width, height) in the 1024-pixel frame of the NIH's box file."""
        rows = []
        for lesion in self.lesions:
            x0, y0, x1, y1 = (edge * BOX_FRAME for edge in lesion.box)
            rows.append((lesion.finding, x0, y0, x1 - x0, y1 - y0))
        return tuple(rows)


def draw_patient(rng: np.random.Generator) -> Patient:
    """A person: sex, age and proportions."""
    sex = "F" if rng.random() < 0.46 else "M"
    stature = float(np.clip(rng.normal(0, 1), -2, 2)) - (0.5 if sex == "F" else -0.3)
    dome = 7.4 + 0.45 * stature
    thorax = Thorax(
        half_width=13.2 + 0.55 * stature,
        apex=-12.4 - 0.3 * stature,
        dome=(dome, dome + float(rng.uniform(0.5, 1.5))),
        arch=float(rng.uniform(2.5, 4.2)),
        heart_ratio=float(rng.uniform(0.38, 0.485)),
        depth=float(rng.uniform(17, 22)),
        fat=float(rng.uniform(1.2, 4.0)),
        vascularity=float(rng.uniform(0.75, 1.25)),
        sex=sex,
    )
    return Patient(int(rng.integers(2**32)), int(np.clip(rng.normal(50, 16), 16, 92)), sex, thorax)


def film(
    rng: np.random.Generator,
    findings: Iterable[str],
    *,
    size: int = 512,
    patient: Patient | None = None,
    difficulty: float = 0.5,
) -> Phantom:
    """One film with exactly these findings.

    rng: pose, exposure, noise, and the patient if none is given. A patient's lesions keep their place from film to
    film. size: side in pixels, at least 64. difficulty: 0 (signs plain) to 1 (faint). The same generator state gives
    the same anatomy and boxes at every size. Raises ValueError for an unknown finding, size or difficulty.
    """
    wanted = set(findings) - {NO_FINDING}
    _check(wanted, size, difficulty)
    shape_rng, noise_rng = rng.spawn(2)
    patient = draw_patient(shape_rng) if patient is None else patient
    thorax, canvas = _pose(patient.thorax, size, bool(wanted & {"Edema", "Effusion", "Pneumothorax"}), shape_rng)
    present = tuple(name for name in FINDINGS if name in wanted)
    thorax = reshape(thorax, _rngs(patient, present))
    scene = open_scene(canvas, thorax, np.random.default_rng([patient.seed, len(FINDINGS)]))
    strength = Strength(contrast=1.4 - 0.8 * difficulty, growth=float(shape_rng.uniform(0.92, 1.1)))
    lesions: list[Lesion] = []
    for name, lesion_rng in _rngs(patient, present).items():
        lesions += draw(name, scene, lesion_rng, strength)
    total = tissue(scene, shape_rng)
    _devices(canvas, thorax, total, shape_rng)
    pixels = _expose(canvas, total, shape_rng, noise_rng)
    _marker(pixels, canvas, thorax, shape_rng)
    return Phantom(pixels, present, tuple(lesions), patient, "AP" if thorax.ap else "PA", canvas.field_cm)


def _check(wanted: set[str], size: int, difficulty: float) -> None:
    unknown = sorted(wanted - set(FINDINGS))
    if unknown:
        raise ValueError(f"unknown finding {unknown[0]!r}; expected any of {', '.join(FINDINGS)}")
    if size < 64:
        raise ValueError(f"size {size} is too small to show a chest; expected at least 64 pixels (256 is usual)")
    if not 0 <= difficulty <= 1:
        raise ValueError(f"difficulty {difficulty} is outside 0 (plain) to 1 (faint)")


def _rngs(patient: Patient, findings: Iterable[str]) -> dict[str, np.random.Generator]:
    return {name: np.random.default_rng([patient.seed, FINDINGS.index(name)]) for name in findings}


def _pose(thorax: Thorax, size: int, ill: bool, rng: np.random.Generator) -> tuple[Thorax, Canvas]:
    """How the patient stood and breathed on this day. Acute illness is filmed in bed (AP) more often."""
    ap = bool(rng.random() < (0.45 if ill else 0.3))
    breath = float(rng.normal(0, 0.45)) - (0.7 if ap else 0.0)
    thorax = replace(
        thorax,
        ap=ap,
        dome=(thorax.dome[0] + breath, thorax.dome[1] + breath),
        heart_ratio=min(thorax.heart_ratio * (1.03 if ap else 1.0) * (1 - 0.01 * breath), 0.495),
        aeration=float(rng.uniform(0.96, 1.04)),
        turn=float(np.clip(rng.normal(0, 0.35), -0.9, 0.9)),
    )
    field_cm = float(rng.uniform(31.5, 37.5))
    centre = (float(rng.normal(0, 0.6)), -1.0 + float(rng.normal(0, 0.8)))
    return thorax, Canvas(size, field_cm, centre, float(rng.normal(0, 0.03)))


def _devices(canvas: Canvas, thorax: Thorax, total: Array, rng: np.random.Generator) -> None:
    """Leads and lines, at random: no finding is given away by one."""
    if rng.random() > (0.35 if thorax.ap else 0.06):
        return
    metal = canvas.blank()
    for _ in range(int(rng.integers(1, 4))):
        x, y = float(rng.uniform(-11, 11)), float(rng.uniform(-9, 7))
        angle = np.linspace(0, 2 * np.pi, 25)
        ring = np.stack([x + 0.6 * np.cos(angle), y + 0.6 * np.sin(angle)], -1)
        canvas.strips(ring[None], np.full((1, 25), 0.3), 200, metal)
        wire = np.array([[(x, y), (x + rng.normal(0, 3), y + 6), (x + rng.normal(0, 5), y + 26)]])
        canvas.strips(wire, np.full((1, 3), 0.1), 130, metal)
    if rng.random() < 0.4:
        side = float(rng.choice([-1.0, 1.0]))
        top = thorax.apex
        line = [(side * 7, top + 1.5), (side * 3, top + 2.5), (-1.8, top + 5), (-2.2, top + 9)]
        path = np.array([line])
        canvas.strips(path, np.full((1, 4), 0.14), 150, metal)
    total += canvas.soften(metal, 0.03) * np.float32(3.5)


def _expose(
    canvas: Canvas, total: Array, rng: np.random.Generator, noise_rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Tissue to gray: scatter and local processing, quantum noise and grain, then the film's curve."""
    flatten = float(rng.uniform(0.05, 0.35))
    signal = total - np.float32(flatten) * (canvas.soften(total, 3.0) - np.float32(11.0))
    # Fewer photons pass where the body is thick; a pixel collects them over its area.
    dose = float(rng.uniform(0.7, 1.5))
    noise = noise_rng.standard_normal(total.shape, dtype=np.float32)
    quantum = np.float32(0.07 / dose * canvas.size / 256) * np.exp(total * np.float32(0.055))
    signal = signal + noise * quantum
    steep = float(rng.uniform(0.055, 0.1))
    ceiling = 1 - np.exp(-steep * 25.0)
    gray = (1 - np.exp(-np.float32(steep) * np.maximum(signal, 0))) / np.float32(ceiling)
    gray = np.clip(gray, 0, 1) ** np.float32(rng.uniform(1.1, 1.7))
    black, white = float(rng.uniform(0, 18)), float(rng.uniform(225, 255))
    return np.clip(black + gray * np.float32(white - black) + 0.5, 0, 255).astype(np.uint8)


def _marker(pixels_HW: NDArray[np.uint8], canvas: Canvas, thorax: Thorax, rng: np.random.Generator) -> None:
    """The technician's letter in an upper corner, and PORTABLE on some AP films."""
    unit = canvas.size / 512
    x, y = float(rng.uniform(0.02, 0.07)), float(rng.uniform(0.05, 0.12))
    right = rng.random() < 0.3
    show, portable = rng.random() < 0.85, rng.random() < 0.5
    spot = (int((x if right else 0.96 - x) * canvas.size), int(y * canvas.size))
    line = max(1, round(1.4 * unit))
    if show:
        cv2.putText(
            pixels_HW, "R" if right else "L", spot, cv2.FONT_HERSHEY_SIMPLEX, 0.75 * unit, 245, line, cv2.LINE_AA
        )
    if thorax.ap and portable:
        below = (max(spot[0] - int(20 * unit), 2), spot[1] + int(16 * unit))
        cv2.putText(pixels_HW, "PORTABLE", below, cv2.FONT_HERSHEY_SIMPLEX, 0.28 * unit, 235, 1, cv2.LINE_AA)


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


def _make(order: Order, images: Path, seed: int, size: int, difficulty: float) -> Made:
    cv2.setNumThreads(1)
    rng = np.random.default_rng([seed, order.index])
    made = film(rng, order.findings, size=size, patient=order.patient, difficulty=difficulty)
    path = images / order.image_id
    if not cv2.imwrite(str(path), made.pixels_HW, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
        raise OSError(f"could not write {path}; is the disk full or the folder read-only?")
    return Made(order, made.view, made.field_cm, made.boxes, made.lesions)


def write_phantom(
    out: str | os.PathLike[str],
    n: int,
    *,
    seed: int = 0,
    size: int = 512,
    workers: int | None = None,
    prevalence: Mapping[str, float] | float | None = None,
    difficulty: float = 0.5,
    test_share: float = 0.2,
    progress: bool = True,
) -> Path:
    """Write n films and the NIH's files about them into the folder `out`; returns it.

    images/00000001_000.png (8-bit gray), Data_Entry_2017_v2020.csv, train_val_list.txt, test_list.txt (no patient in
    both), BBox_List_2017.csv (boxes of all films and all findings; the NIH's has some), and lesions.csv: every sign
    with its box and the diameter in centimetres. workers: processes; None = all cores, 1 = none but this one.
    The folder appears whole: an interrupted call leaves `<out>.partial`, and the next one draws anew.
    Raises ValueError for bad values and FileExistsError where `out` holds anything already.
    """
    target = Path(out)
    orders = plan_films(n, seed=seed, prevalence=prevalence)
    _check(set(), size, difficulty)
    if not 0 < test_share < 1:
        raise ValueError(f"test_share {test_share} is not a share of the patients between 0 and 1")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        held = "holds films already" if (target / "images").is_dir() else "exists and is not an empty folder"
        raise FileExistsError(f"{target} {held}; give another folder or remove it first")
    folder = target.with_name(f"{target.name}.partial")
    (folder / "images").mkdir(parents=True, exist_ok=True)
    make = partial(_make, images=folder / "images", seed=seed, size=size, difficulty=difficulty)
    workers = min(workers or os.cpu_count() or 1, n)
    bar = partial(tqdm, total=n, desc="phantom films", unit="film", disable=not progress)
    if workers == 1:
        films = [make(order) for order in bar(orders)]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            films = list(bar(pool.map(make, orders, chunksize=max(1, min(16, n // workers)))))
    _write_tables(folder, films, size)
    _write_lists(folder, orders, seed, test_share)
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
    entries, boxes = [ENTRY_HEADER], [BOX_HEADER]
    for made in films:
        order = made.order
        spacing = round(made.field_cm * 10 / size, 6)
        labels = "|".join(sorted(order.findings)) or NO_FINDING
        who = f"{order.follow_up},{order.number},{order.patient.age},{order.patient.sex},{made.view}"
        entries.append(f"{order.image_id},{labels},{who},{size},{size},{spacing},{spacing}")
        for finding, *xywh in made.boxes:
            name = "Infiltrate" if finding == "Infiltration" else finding  # as the NIH's file spells it
            boxes.append(f"{order.image_id},{name}," + ",".join(f"{value:.6f}" for value in xywh))
    (folder / DATA_ENTRY).write_text("\n".join(entries) + "\n", encoding="utf-8")
    (folder / BOX_LIST).write_text("\n".join(boxes) + "\n", encoding="utf-8")
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
