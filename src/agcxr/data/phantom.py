"""Synthetic chest films with known findings and boxes: a patient, a pose, the findings asked for, an exposure.

Labels, boxes and pixels come from the same drawing, so there is no label noise. Everything follows from the generator.
The films are for learning the method and for studies where the truth must be known. They are no substitute for films
of patients.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from agcxr.data.anatomy import Thorax, open_scene, tissue
from agcxr.data.canvas import Array, Canvas
from agcxr.data.lesions import NODULE_CM, Lesion, Nodules, Strength, draw, nodule_places, reshape
from agcxr.labels import FINDINGS, NO_FINDING

COLLECTION = "collection.txt"
"""One line, beside the labels of a collection that only has the NIH's layout: its name."""

BOX_FRAME = 1024
"""Side, in pixels, of the frame in which the NIH writes boxes."""


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
    shows, boxes (x0, y0, x1, y1) as fractions of the film. places: where the film's nodules are, or, on a film without,
    where its patient's would be and how large: drawn alike either way, so that a place says nothing of whether there is
    a nodule. field_cm: side of the film in centimetres of the patient. view: "PA" or "AP".
    """

    pixels_HW: NDArray[np.uint8]
    findings: tuple[str, ...]
    lesions: tuple[Lesion, ...]
    places: tuple[Lesion, ...]
    patient: Patient
    view: str
    field_cm: float

    @property
    def boxes(self) -> tuple[tuple[str, float, float, float, float], ...]:
        """(finding, x, y, width, height) in the 1024-pixel frame of the NIH's box file."""
        return in_box_frame(self.lesions)


def in_box_frame(lesions: Iterable[Lesion]) -> tuple[tuple[str, float, float, float, float], ...]:
    """(finding, x, y, width, height) of each, in the 1024-pixel frame of the NIH's box file."""
    rows = []
    for lesion in lesions:
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
    nodules: Nodules = "usual",
) -> Phantom:
    """One film with exactly these findings.

    rng: pose, exposure, noise, and the patient if none is given. A patient's lesions keep their place from film to
    film. size: side in pixels, at least 64. difficulty: 0 (signs plain) to 1 (faint). nodules: of
    `usual` size (1 to 3 cm) or `small` (NODULE_CM). The same generator state gives the same anatomy and boxes at every
    size. Raises ValueError for an unknown finding, size or difficulty.
    """
    wanted = set(findings) - {NO_FINDING}
    check_film(wanted, size, difficulty)
    shape_rng, noise_rng = rng.spawn(2)
    patient = draw_patient(shape_rng) if patient is None else patient
    thorax, canvas = _pose(patient.thorax, size, bool(wanted & {"Edema", "Effusion", "Pneumothorax"}), shape_rng)
    present = tuple(name for name in FINDINGS if name in wanted)
    thorax = reshape(thorax, _rngs(patient, present))
    scene = open_scene(canvas, thorax, np.random.default_rng([patient.seed, len(FINDINGS)]))
    growth = float(shape_rng.uniform(0.92, 1.1))
    strength = Strength(contrast=1.4 - 0.8 * difficulty, growth=growth, nodule_cm=NODULE_CM[nodules])
    lesions: list[Lesion] = []
    for name, lesion_rng in _rngs(patient, present).items():
        lesions += draw(name, scene, lesion_rng, strength)
    places = nodule_places(scene, _rngs(patient, ["Nodule"])["Nodule"], strength)
    total = tissue(scene, shape_rng)
    _devices(canvas, thorax, total, shape_rng)
    pixels = _expose(canvas, total, shape_rng, noise_rng)
    _marker(pixels, canvas, thorax, shape_rng)
    return Phantom(
        pixels, present, tuple(lesions), tuple(places), patient, "AP" if thorax.ap else "PA", canvas.field_cm
    )


def check_film(wanted: set[str], size: int, difficulty: float) -> None:
    """ValueError where `film` could not draw these findings at this size and difficulty."""
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
