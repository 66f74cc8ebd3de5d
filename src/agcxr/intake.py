"""Is this a frontal chest film, upright and whole? Looked at before any probability is shown.

Plain checks (size, shape, contrast, colour, what the file says of the view) and two small linear models whose numbers
stand in intake.json: one scores how upright a 24 x 24 copy is, for its four turns and their negatives; one tells
films, parts of films and other pictures apart by how far the copy is from the films it was fitted on and by its
texture. Fitted by benchmarks/refusal_fit.py, measured in docs/results/refusal.md. No network, no torch; some
milliseconds a film.

Shapes: H, W the film; G = 24 the side of the copy; V = 8 ways to hold it; D features; C kinds of picture.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from agcxr.data.radiograph import Radiograph

Decision = Literal["accept", "warn", "refuse"]
Floats = NDArray[np.float64]

GRID = 24
TEXTURE = 128
"""Side of the copy that texture is measured on."""

KINDS: tuple[str, ...] = ("film", "part", "other")
WAYS: tuple[str, ...] = (
    "",
    "it lies on its side: turn it by 90 degrees to the left",
    "it is upside down: turn it by 180 degrees",
    "it lies on its side: turn it by 90 degrees to the right",
    "its polarity is inverted (bone is dark): invert it",
    "its polarity is inverted (bone is dark) and it lies on its side",
    "its polarity is inverted (bone is dark) and it is upside down",
    "its polarity is inverted (bone is dark) and it lies on its side",
)
"""What is wrong with a film that has to be held in way v to look right; 0 is as it is."""

SMALLEST, SMALL = 64, 200
"""Pixels of the shorter side below which a picture is refused, and warned of."""

LONGEST, LONG = 2.2, 1.6
"""Longer side over shorter, likewise. Films are between 1 and 1.25."""

FLAT, FAINT = 12, 40
"""Gray levels (of 256) between the 2nd and the 98th percentile, likewise."""

SURE, LIKELY = 0.95, 0.6
"""Probability of a fault from which a film is refused, and warned of."""

NOT_FILM, SOME_OTHER = 0.02, 0.3
"""A picture is refused as none of a chest if it is less probably a film than the one, and more probably another picture
than the other; a part of a film is only warned of. Chosen on the films that the models were fitted on."""


@dataclass(frozen=True)
class Intake:
    """Whether the model may speak about a film. reasons: in words for people; empty where it is accepted."""

    decision: Decision
    reasons: tuple[str, ...] = ()

    def __and__(self, other: Intake) -> Intake:
        """Both opinions: the stricter decision, all reasons."""
        stricter = max(self.decision, other.decision, key=("accept", "warn", "refuse").index)
        return Intake(stricter, (*self.reasons, *(one for one in other.reasons if one not in self.reasons)))


@dataclass(frozen=True, eq=False)
class Coefficients:
    """The numbers of intake.json. All are about GRID x GRID copies of zero mean and unit standard deviation."""

    upright_GG: Floats
    """Weight of each pixel in "this is how a film is held"."""
    temperature: float
    mean_GG: Floats
    components_KGG: Floats
    """Orthonormal directions in which films differ from their mean, and how much (variances_K)."""
    variances_K: Floats
    centre_D: Floats
    scale_D: Floats
    weight_CD: Floats
    bias_C: Floats


@dataclass(frozen=True, eq=False)
class Measured:
    """What the two models say of one picture. way_V: probability of each way to hold it; kind_C: of each kind."""

    way_V: Floats
    kind_C: Floats


def judge(film: Radiograph) -> Intake:
    """Decide about a film. Never raises for what the pixels hold."""
    plain = _plain(film)
    if plain.decision == "refuse":
        return plain
    return plain & _pixels(measure(film), colour=any("colour" in note for note in film.notes))


def measure(film: Radiograph) -> Measured:
    """Run the two models."""
    return measure_pixels(film.to_uint8(), coefficients())


def measure_pixels(pixels_HW: NDArray[np.uint8], numbers: Coefficients) -> Measured:
    """The same for 8-bit pixels and given coefficients."""
    copy_GG = grid_copy(pixels_HW)
    way_V = _softmax(numbers.temperature * np.array([(numbers.upright_GG * one).sum() for one in ways(copy_GG)]))
    features_D = features(pixels_HW, ways(copy_GG)[int(way_V.argmax())], numbers)
    kind_C = _softmax(numbers.weight_CD @ ((features_D - numbers.centre_D) / numbers.scale_D) + numbers.bias_C)
    return Measured(way_V, kind_C)


def grid_copy(pixels_HW: NDArray[np.uint8]) -> Floats:
    """H x W -> G x G of zero mean and unit standard deviation; aspect not kept, as when films are prepared."""
    copy = cv2.resize(pixels_HW, (GRID, GRID), interpolation=cv2.INTER_AREA).astype(np.float64)
    return np.asarray((copy - copy.mean()) / (copy.std() + 1e-6))


def ways(copy_GG: Floats) -> Floats:
    """V x G x G: turned to the left by 0, 90, 180, 270 degrees, then the negatives of these."""
    turned = np.stack([np.rot90(copy_GG, turns) for turns in range(4)])
    return np.concatenate([turned, -turned])


def features(pixels_HW: NDArray[np.uint8], held_GG: Floats, numbers: Coefficients) -> Floats:
    """D numbers, and their squares, that tell films from other pictures. held_GG: the copy as it looks most upright."""
    away = (held_GG - numbers.mean_GG).ravel()
    along_K = numbers.components_KGG.reshape(len(numbers.variances_K), -1) @ away
    rest = (away**2).sum() - (along_K**2).sum()
    texture = cv2.resize(pixels_HW, (TEXTURE, TEXTURE), interpolation=cv2.INTER_AREA).astype(np.float32)
    spread = float(texture.std()) + 1e-3
    fine, middle = (np.abs(texture - cv2.blur(texture, (side, side))).mean() / spread for side in (3, 9))
    across, down = np.abs(np.diff(texture, axis=1)), np.abs(np.diff(texture, axis=0))
    levels = np.bincount((texture.ravel() / 8).astype(np.int64), minlength=32) / texture.size
    entropy = -(levels[levels > 0] * np.log(levels[levels > 0])).sum()
    slope = across[:-1] + down[:, :-1]
    mirrored = float((held_GG * held_GG[:, ::-1]).mean())
    plain_D = np.array(
        [
            np.log((along_K**2 / numbers.variances_K).mean() + 1e-6),
            np.log(max(rest, 0) / GRID**2 + 1e-6),
            float((numbers.upright_GG * held_GG).sum()) * numbers.temperature,
            np.log(fine + 1e-4),
            np.log(middle + 1e-4),
            entropy,
            levels.max(),
            (texture < 4).mean(),
            (texture > 251).mean(),
            (slope < 1).mean(),
            np.log(((slope / (slope.mean() + 1e-3)) ** 2).mean()),
            np.log((across.mean() + 0.1) / (down.mean() + 0.1)) ** 2,
            mirrored,
            float(held_GG[:, GRID // 3 : -GRID // 3].mean()),
        ]
    )
    return np.concatenate([plain_D, plain_D**2])


@cache
def coefficients() -> Coefficients:
    """Those that come with the package."""
    data = json.loads((resources.files("agcxr") / "intake.json").read_text(encoding="utf-8"))
    arrays = {name: np.array(data[name], np.float64) for name in _ARRAYS}
    pixels = arrays.pop("components_KGG") * data["pixel_step"]
    return Coefficients(temperature=float(data["temperature"]), components_KGG=pixels, **arrays)


_ARRAYS = (
    *("upright_GG", "mean_GG", "components_KGG", "variances_K"),
    *("centre_D", "scale_D", "weight_CD", "bias_C"),
)


def _plain(film: Radiograph) -> Intake:
    """What needs no model."""
    shorter, longer = sorted((film.height, film.width))
    found = Intake("accept")
    if shorter < SMALL:
        found &= Intake(
            "refuse" if shorter < SMALLEST else "warn", (f"it is small: {film.width} x {film.height} pixels",)
        )
    if longer > LONG * shorter:
        found &= Intake(
            "refuse" if longer > LONGEST * shorter else "warn",
            (f"its shape, {film.width} x {film.height} pixels, is not that of a chest film",),
        )
    low, high = np.percentile(_thinned(film.to_uint8()), [2, 98])
    if high - low < FAINT:
        found &= Intake(
            "refuse" if high - low < FLAT else "warn",
            (f"it has almost no contrast: {high - low:.0f} of 256 gray levels are in use",),
        )
    position = (film.view_position or "").strip().upper()
    if position in _LATERAL:
        found &= Intake(
            "refuse", (f"its file says that it is a lateral view ({position}); frontal films are expected",)
        )
    return found


_LATERAL = frozenset({"LATERAL", "LAT", "LL", "RL", "LLD", "RLD"})


def _pixels(measured: Measured, *, colour: bool) -> Intake:
    """What the models make of it, in words."""
    film, part, other = measured.kind_C
    found = Intake("accept")
    if colour:
        found &= Intake("warn", ("it is a colour picture; radiographs are gray",))
    refused = (film < NOT_FILM and other > SOME_OTHER) or (colour and film < 0.5)
    if refused or other > LIKELY:
        reason = "it does not look like a chest film (a picture of something else?)"
        return found & Intake("refuse" if refused else "warn", (reason,))
    if part > LIKELY:
        found &= Intake("warn", ("it does not look like a whole chest film (cropped, or small within its frame?)",))
    best = int(measured.way_V.argmax())
    wrong = 1 - float(measured.way_V[0])
    if wrong > LIKELY and part <= LIKELY:
        found &= Intake("refuse" if wrong > SURE and best else "warn", (WAYS[best] or "it may be turned or inverted",))
    return found


def _thinned(pixels_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    step = max(1, min(pixels_HW.shape) // 256)
    return pixels_HW[::step, ::step]


def _softmax(score: Floats) -> Floats:
    raised = np.exp(score - score.max())
    return np.asarray(raised / raised.sum())
