"""Is this a frontal chest film, upright and whole? Looked at before any probability is shown.

Plain checks (size, shape, contrast, colour, what the file says of the view and the body part) and three small linear
models whose numbers stand in intake.json: one scores how upright a 24 x 24 copy is, for its four turns and their
negatives; one by which angle a film is turned, from how the edges in it run; one tells films, parts of films and other
pictures apart by how far the copy is from the films it was fitted on and by its texture. Fitted by
benchmarks/refusal_fit.py, measured in docs/results/refusal.md. No network, no torch; some milliseconds a film.

Shapes: H, W the film; T = 128 the side of its small copy, G = 24 of its tiny one; V = 8 ways to hold it; A = 48 angles;
P points of a disc; D features; C kinds of picture.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from agcxr.data.decode import Pixels
from agcxr.data.dicomfile import is_lateral, part_fits
from agcxr.data.radiograph import Radiograph

Decision = Literal["accept", "warn", "refuse"]
Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]

GRID = 24
TEXTURE = 128
"""Side of the copy that texture and the run of edges are measured on."""

LARGEST_SUM = 2**31 - 1
"""Of gray levels that OpenCV's table of sums holds."""

ANGLES_A: Floats = np.arange(-180, 180, 7.5)
"""Degrees by which a film may be turned to the left."""

FIELD, POINTS, DISC = 32, 16, 0.9
"""Side of the field of edges, points along its side, and the share of the disc that fits in it in which they lie."""

LEANING, FAR = 10.0, 20.0
"""Degrees from the nearest quarter turn beyond which an angle is a tilt (the next is 15), and a large one (22.5)."""

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

LEANS = 0.75
"""Probability of a tilt from which a film is put straight, and warned of where it then looks right; refused where the
tilt is SURE to be large. Chosen on the films that are fitted on, each judged without its patient (--held-out)."""

NOT_FILM, SOME_OTHER = 0.02, 0.3
"""A picture is refused as none of a chest if it is less probably a film than the one, and more probably another picture
than the other; a part of a film is only warned of. Chosen on the films that the models were fitted on."""


@dataclass(frozen=True)
class Intake:
    """Whether the model may speak about a film. reasons: in words for people; empty where it is accepted."""

    decision: Decision
    reasons: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The decision and the reasons, on one line."""
        return ": ".join(filter(None, (self.decision, "; ".join(self.reasons))))

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
    lean_P: Complexes
    """Weight, at each point of the disc, of how edges run there in a film that is held upright."""
    mean_GG: Floats
    components_KGG: Floats
    """Orthonormal directions in which films differ from their mean, and how much (variances_K)."""
    variances_K: Floats
    centre_D: Floats
    scale_D: Floats
    weight_CD: Floats
    bias_C: Floats


@dataclass(frozen=True)
class Tilt:
    """By how many degrees to the left a film is turned, and the probabilities that it leans at all, and far."""

    degrees: float
    leans: float
    leans_far: float


@dataclass(frozen=True, eq=False)
class Measured:
    """What the models say of one picture. way_V: probability of each way to hold it; kind_C: of each kind.

    tilt: None unless it leans and is a film, one way up or inverted, once put straight; the two others are then about
    the straight one, so that they do not blame the corners.
    """

    way_V: Floats
    kind_C: Floats
    tilt: Tilt | None = None


def judge(film: Radiograph) -> Intake:
    """Decide about a film. Never raises for what the pixels hold."""
    plain = _plain(film)
    if plain.decision == "refuse":
        return plain
    return plain & _pixels(measure(film), colour=any("colour" in note for note in film.notes))


def measure(film: Radiograph) -> Measured:
    """Run the models."""
    return measure_pixels(film.to_uint8(), coefficients())


def measure_pixels(pixels_HW: NDArray[np.uint8], numbers: Coefficients) -> Measured:
    """The same for 8-bit pixels and given coefficients."""
    small_TT = small(pixels_HW)
    tilt = tilt_of(angles(small_TT, numbers))
    if tilt.leans > LEANS:
        straight_TT = turned(small_TT, -tilt.degrees)
        way_V, kind_C = _held_and_kind(straight_TT, straight_TT, numbers)
        if kind_C[0] > 0.5 and way_V[0] + way_V[4] > 0.5:
            return Measured(way_V, kind_C, tilt)
    return Measured(*_held_and_kind(pixels_HW, small_TT, numbers))


def _held_and_kind(
    pixels_HW: NDArray[np.uint8], small_TT: NDArray[np.uint8], numbers: Coefficients
) -> tuple[Floats, Floats]:
    copy_GG = grid_copy(pixels_HW)
    way_V = softmax(numbers.temperature * np.array([(numbers.upright_GG * one).sum() for one in ways(copy_GG)]))
    features_D = features(small_TT, ways(copy_GG)[int(way_V.argmax())], numbers)
    return way_V, softmax(numbers.weight_CD @ ((features_D - numbers.centre_D) / numbers.scale_D) + numbers.bias_C)


def angles(small_TT: NDArray[np.uint8], numbers: Coefficients) -> Floats:
    """Probability of each angle."""
    # Not by @: for so little, waking the threads of the linear algebra takes longer than the work.
    return softmax(np.einsum("ap,p->a", edges(small_TT), numbers.lean_P.conj()).real)


def tilt_of(angle_A: Floats) -> Tilt:
    """The most probable of the angles that are no quarter turns, averaged with its neighbours."""
    lean_A = np.abs((ANGLES_A + 45) % 90 - 45)
    best = ANGLES_A[int(np.where(lean_A > LEANING, angle_A, -1).argmax())]
    away_A = (ANGLES_A - best + 180) % 360 - 180
    near_A = np.where(np.abs(away_A) <= LEANING, angle_A, 0)
    degrees = (best + (near_A * away_A).sum() / near_A.sum() + 180) % 360 - 180
    return Tilt(float(degrees), float(angle_A[lean_A > LEANING].sum()), float(angle_A[lean_A > FAR].sum()))


def small(pixels_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """H x W -> T x T, on which angles and texture are measured."""
    return means(pixels_HW, TEXTURE).astype(np.uint8)


def grid_copy(pixels_HW: NDArray[np.uint8]) -> Floats:
    """H x W -> G x G of zero mean and unit standard deviation; aspect not kept, as when films are prepared."""
    copy = means(pixels_HW, GRID)
    return np.asarray((copy - copy.mean()) / (copy.std() + 1e-6))


def means(pixels_HW: NDArray[np.uint8], side: int) -> Floats:
    """Gray levels of `side` x `side` cells, as OpenCV's INTER_AREA rounds them, in a tenth of its time where a film is
    no multiple of the cells: from one table of sums, exact within pixels too, as each is of one gray. A cell in ten
    thousand lies midway between two levels, where OpenCV's own rounding decides: it may differ by one."""
    height, width = pixels_HW.shape
    whole = height % side == width % side == 0
    if whole or min(height, width) < side or height * width > LARGEST_SUM // 255:
        return cv2.resize(pixels_HW, (side, side), interpolation=cv2.INTER_AREA).astype(np.float64)
    sums = cv2.integral(pixels_HW)
    row, below = _edges(height, side)
    column, right = _edges(width, side)
    at_rows = sums[row] + (sums[row + 1] - sums[row]) * below[:, None]
    at_edges = at_rows[:, column] * (1 - right) + at_rows[:, column + 1] * right
    return np.rint(np.diff(np.diff(at_edges, axis=0), axis=1) * (side * side / (height * width)))


def _edges(length: int, cells: int) -> tuple[NDArray[np.int64], Floats]:
    """The pixel in which each edge of a cell lies, and how far into it, as a share of it."""
    at: Floats = np.arange(cells + 1, dtype=np.float64) * (length / cells)
    pixel = np.minimum(at.astype(np.int64), length - 1)
    return pixel, at - pixel


def ways(copy_GG: Floats) -> Floats:
    """V x G x G: turned to the left by 0, 90, 180, 270 degrees, then the negatives of these."""
    turned = np.stack([np.rot90(copy_GG, turns) for turns in range(4)])
    return np.concatenate([turned, -turned])


def turned(pixels_HW: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """Turned to the left about the middle; what comes in at the corners mirrors what is beside it."""
    height, width = pixels_HW.shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    return np.asarray(cv2.warpAffine(pixels_HW, turn, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8)


def edges(small_TT: NDArray[np.uint8]) -> Complexes:
    """A x P: how the edges at the points of the disc would run, were the film turned back by each angle.

    As complex numbers of twice an edge's angle, so that its two sides (dark to bright, bright to dark) are one, and
    inverted films are as good. The disc stays clear of the corners, which would betray how far a film was turned.
    """
    smooth = cv2.GaussianBlur(small_TT.astype(np.float32), (0, 0), 1.5)
    slope = cv2.Sobel(smooth, cv2.CV_32F, 1, 0) + 1j * cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    run = slope**2 / (np.abs(slope) + 1e-3)
    run_FF2 = cv2.resize(np.dstack([run.real, run.imag]), (FIELD, FIELD), interpolation=cv2.INTER_AREA)
    at_AP2 = cv2.remap(cv2.GaussianBlur(run_FF2, (0, 0), 1), *_places_AP(), cv2.INTER_LINEAR)
    at_AP = (at_AP2[..., 0] + 1j * at_AP2[..., 1]) * np.exp(2j * np.deg2rad(ANGLES_A))[:, None]
    return np.asarray(at_AP / (np.abs(at_AP).mean() + 1e-3))


@cache
def _places_AP() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Column and row, on the field of edges, of the disc's points in a film turned by each angle."""
    y, x = (np.mgrid[:POINTS, :POINTS] + 0.5) * 2 / POINTS - 1
    point_P = (x + 1j * y)[np.hypot(x, y) <= DISC]
    place_AP = (np.exp(-1j * np.deg2rad(ANGLES_A))[:, None] * point_P + 1 + 1j) * FIELD / 2 - (0.5 + 0.5j)
    return place_AP.real.astype(np.float32), place_AP.imag.astype(np.float32)


def features(small_TT: NDArray[np.uint8], held_GG: Floats, numbers: Coefficients) -> Floats:
    """D numbers, and their squares, that tell films from other pictures. held_GG: the copy as it looks most upright."""
    away = (held_GG - numbers.mean_GG).ravel()
    along_K = np.einsum("kp,p->k", numbers.components_KGG.reshape(len(numbers.variances_K), -1), away)
    rest = (away**2).sum() - (along_K**2).sum()
    texture = small_TT.astype(np.float32)
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
    lean_P = np.array(data["lean_2P"][0]) + 1j * np.array(data["lean_2P"][1])
    return Coefficients(temperature=float(data["temperature"]), lean_P=lean_P, components_KGG=pixels, **arrays)


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
    low, high = _percentiles(Radiograph(_thinned(film.pixels_HW), "", "").to_uint8(), [0.02, 0.98])
    if high - low < FAINT:
        found &= Intake(
            "refuse" if high - low < FLAT else "warn",
            (f"it has almost no contrast: {high - low:.0f} of 256 gray levels are in use",),
        )
    return found & _stated(film)


def _stated(film: Radiograph) -> Intake:
    """What the file says of the view and the body part."""
    found = Intake("accept")
    if is_lateral(film.view_position):
        position = (film.view_position or "").strip().upper()
        found &= Intake(
            "refuse", (f"its file says that it is a lateral view ({position}); frontal films are expected",)
        )
    fits = part_fits(film.body_part)
    if fits != "yes":
        part = (film.body_part or "").strip().upper()[:16]  # as long as the standard lets it be
        found &= Intake(
            "refuse" if fits == "no" else "warn",
            (f"its file states the body part {part}; films of the chest are expected",),
        )
    return found


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
    if measured.tilt:
        degrees = round(measured.tilt.degrees / 5) * 5
        reason = f"it looks turned by about {abs(degrees)} degrees to the {'left' if degrees > 0 else 'right'}"
        decision: Decision = "refuse" if measured.tilt.leans_far > SURE else "warn"
        found &= Intake(decision, (f"{reason}: turn it upright",))
    best = int(measured.way_V.argmax())
    wrong = 1 - float(measured.way_V[0])
    if wrong > LIKELY and part <= LIKELY:
        found &= Intake("refuse" if wrong > SURE and best else "warn", (WAYS[best] or "it may be turned or inverted",))
    return found


def _percentiles(pixels_HW: NDArray[np.uint8], share_P: Sequence[float]) -> Floats:
    """As np.percentile, from the count of each level."""
    below = np.cumsum(np.bincount(pixels_HW.ravel(), minlength=256))
    rank_P = np.asarray(share_P) * (pixels_HW.size - 1)
    low_P, high_P = (np.searchsorted(below, rank, side="right") for rank in (np.floor(rank_P), np.ceil(rank_P)))
    return np.asarray(low_P + (high_P - low_P) * (rank_P % 1), np.float64)


def _thinned(pixels_HW: Pixels) -> Pixels:
    step = max(1, min(pixels_HW.shape) // 256)
    return pixels_HW[::step, ::step]


def softmax(score: Floats) -> Floats:
    raised = np.exp(score - score.max())
    return np.asarray(raised / raised.sum())
