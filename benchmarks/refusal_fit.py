"""Fit the intake's three models and write src/agcxr/intake.json:  python benchmarks/refusal_fit.py

On the films of 3 of 5 patients of ../shared/nih, on what is made of them, on photographs of scikit-image and on drawn
pictures (benchmarks/refusal_pictures.py). A minute or two on one core. With --held-out it writes nothing, but
prints how films and tilted films are judged by a fit without their patient: what LEANS was chosen by.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from refusal_pictures import (
    DRAWN,
    FILMS,
    PHOTOGRAPHS,
    Bytes,
    changed,
    cuttings,
    films,
    noise,
    part_of,
    shipped,
    turned_by,
    upright,
)
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from agcxr import intake
from agcxr.intake import (
    ANGLES_A,
    GRID,
    KINDS,
    Coefficients,
    Complexes,
    Floats,
    edges,
    features,
    grid_copy,
    small,
    ways,
)

OUT = Path(intake.__file__).with_suffix(".json")
COMPONENTS = 12
PENALTY = 0.03
PER_PICTURE, PER_DRAWING = 40, 150
TILTS, BLUR, LEAN_PENALTY = 2, 3.5, 0.01
"""Tilted copies of a picture; degrees by which the right angle is spread over its neighbours; the weights' penalty."""


def main() -> None:
    if not FILMS.is_dir():
        raise SystemExit(f"{FILMS} is not here")
    if sys.argv[1:] == ["--held-out"]:
        return held_out()
    generator = np.random.default_rng(0)
    real = [upright(film) for film in films("fit")]
    seen = real + [changed(pixels, generator) for pixels in real]
    copies_NGG = np.stack([grid_copy(pixels) for pixels in seen])
    numbers = orientation(copies_NGG)
    numbers = appearance(copies_NGG, numbers)
    numbers = replace(numbers, lean_P=leaning(*turned_films(seen, np.random.default_rng(1))))
    pictures = {
        "film": [_held(pixels, generator) for pixels in seen],
        "part": [part_of(pixels, generator) for pixels in real],
        "other": others(generator),
    }
    numbers = kinds(pictures, numbers)
    OUT.write_text(dump(numbers, {name: len(some) for name, some in pictures.items()}), encoding="utf-8")
    print(f"{OUT.name}: {OUT.stat().st_size:,} bytes, from { ({name: len(some) for name, some in pictures.items()}) }")


def orientation(copies_NGG: Floats) -> Coefficients:
    """Weights with which the right way of eight scores highest (a conditional logit, L2)."""
    ways_NVD = np.stack([ways(one).reshape(8, -1) for one in np.concatenate([copies_NGG, copies_NGG[:, :, ::-1]])])

    def loss(weight_D: Floats) -> tuple[float, Floats]:
        score_NV = ways_NVD @ weight_D
        share_NV = np.exp(score_NV - score_NV.max(1, keepdims=True))
        share_NV /= share_NV.sum(1, keepdims=True)
        slope_D = (np.einsum("nv,nvd->d", share_NV, ways_NVD) - ways_NVD[:, 0].sum(0)) / len(ways_NVD)
        return -np.log(share_NV[:, 0] + 1e-300).mean() + PENALTY / 2 * weight_D @ weight_D, slope_D + PENALTY * weight_D

    weight_D = minimize(loss, np.zeros(GRID**2), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    # Shrunk weights are too modest: a temperature makes their probabilities honest again.
    score_NV = ways_NVD @ weight_D
    heats = np.linspace(1, 6, 51)
    surprise = [np.mean(np.log(np.exp(h * (score_NV - score_NV[:, :1])).sum(1))) for h in heats]
    none, empty = np.zeros(0, np.complex128), np.zeros(0)
    return Coefficients(weight_D.reshape(GRID, GRID), float(heats[int(np.argmin(surprise))]), none, *([empty] * 7))


def turned_films(pictures: list[Bytes], generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Edges (N x A x 2P: real and imaginary parts) of films tilted at random, a quarter of them not; their angles."""
    edges_NA2P, angle_N = [], []
    for pixels in pictures:
        for _ in range(TILTS):
            angle = 0.0 if generator.random() < 0.25 else float(generator.uniform(-45, 45))
            # Films are not square, but are squeezed into one: what was turned before that is sheared.
            height, width = pixels.shape
            shape = (round(width * generator.uniform(0.85, 1)), round(height * generator.uniform(0.85, 1)))
            film = cv2.resize(
                pixels if generator.random() < 0.5 else pixels[:, ::-1], shape, interpolation=cv2.INTER_AREA
            )
            fill = float(generator.choice([0, film.mean()]))
            film = turned_by(film, angle, fill, cut=generator.random() < 0.5)
            edges_NA2P.append(_parts(edges(small(film))))
            angle_N.append(angle)
    return np.stack(edges_NA2P), np.array(angle_N)


def leaning(edges_NA2P: Floats, angle_N: Floats) -> Complexes:
    """Weights with which the right angle of A, and a little its neighbours, score highest (a conditional logit, L2)."""
    away_NA = (angle_N[:, None] - ANGLES_A + 180) % 360 - 180
    right_NA = np.exp(-0.5 * (away_NA / BLUR) ** 2)
    right_NA /= right_NA.sum(1, keepdims=True)
    flat = edges_NA2P.reshape(-1, edges_NA2P.shape[2])

    def loss(weight: Floats) -> tuple[float, Floats]:
        score_NA = (flat @ weight.astype(np.float32)).reshape(right_NA.shape).astype(np.float64)
        score_NA -= score_NA.max(1, keepdims=True)
        log_NA = score_NA - np.log(np.exp(score_NA).sum(1, keepdims=True))
        slope = ((np.exp(log_NA) - right_NA).astype(np.float32).ravel() @ flat) / len(right_NA)
        surprise = -(right_NA * log_NA).sum(1).mean()
        return surprise + LEAN_PENALTY / 2 * weight @ weight, slope + LEAN_PENALTY * weight

    fitted = minimize(loss, np.zeros(flat.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    real, imaginary = fitted.reshape(2, -1)
    return np.asarray(real + 1j * imaginary)


def held_out(folds: int = 4) -> None:
    """Shares of films, by how far they are tilted, that pass limits of the two probabilities of a tilt."""
    names, pictures = zip(*((film.name, upright(film)) for film in films("fit")), strict=True)
    fold_N = np.repeat([int(hashlib.md5(name.split("_")[0].encode()).hexdigest(), 16) % folds for name in names], TILTS)
    edges_NA2P, angle_N = turned_films(list(pictures), np.random.default_rng(1))
    tilts = []
    for fold in range(folds):
        weight_P = leaning(edges_NA2P[fold_N != fold], angle_N[fold_N != fold])
        score_NA = edges_NA2P[fold_N == fold] @ np.concatenate([weight_P.real, weight_P.imag])
        tilts += [
            (angle, intake.tilt_of(intake.softmax(one)))
            for angle, one in zip(angle_N[fold_N == fold], score_NA, strict=True)
        ]
    for least, most in ((0, 0.1), (5, 10), (10, 20), (20, 30), (30, 45)):
        some = [tilt for angle, tilt in tilts if least <= abs(angle) < most]
        leans = {limit: np.mean([tilt.leans > limit for tilt in some]) for limit in (0.6, 0.7, 0.75, 0.8, 0.9)}
        far = {limit: np.mean([tilt.leans_far > limit for tilt in some]) for limit in (0.9, 0.95, 0.98)}
        print(f"{least} to {most} degrees, {len(some)}: leans", *(f"> {a}: {100 * b:.1f} %" for a, b in leans.items()))
        print("    leans far", *(f"> {a}: {100 * b:.1f} %" for a, b in far.items()))


def appearance(copies_NGG: Floats, numbers: Coefficients) -> Coefficients:
    """Mean and principal components of upright films, mirrored ones too."""
    flat_ND = np.concatenate([copies_NGG, copies_NGG[:, :, ::-1]]).reshape(-1, GRID**2)
    mean_D = flat_ND.mean(0)
    _, sizes, directions = np.linalg.svd(flat_ND - mean_D, full_matrices=False)
    return replace(
        numbers,
        mean_GG=mean_D.reshape(GRID, GRID),
        components_KGG=directions[:COMPONENTS].reshape(-1, GRID, GRID),
        variances_K=sizes[:COMPONENTS] ** 2 / len(flat_ND),
    )


def kinds(pictures: dict[str, list[Bytes]], numbers: Coefficients) -> Coefficients:
    """A logistic regression of film, part and other on the features; the three weigh the same."""
    rows, answers = [], []
    for kind, some in pictures.items():
        for pixels in some:
            held_VGG = ways(grid_copy(pixels))
            best = int(np.argmax([(numbers.upright_GG * one).sum() for one in held_VGG]))
            rows.append(features(small(pixels), held_VGG[best], numbers))
            answers.append(KINDS.index(kind))
    table_ND = np.stack(rows)
    centre_D, scale_D = table_ND.mean(0), table_ND.std(0) + 1e-9
    model = LogisticRegression(C=1.0, class_weight="balanced", max_iter=3000)
    model.fit((table_ND - centre_D) / scale_D, answers)
    return replace(numbers, centre_D=centre_D, scale_D=scale_D, weight_CD=model.coef_, bias_C=model.intercept_)


def others(generator: np.random.Generator) -> list[Bytes]:
    """Cuttings of photographs, and drawings."""
    made = [cut.to_uint8() for one in shipped(PHOTOGRAPHS["fit"]) for cut in cuttings(one, PER_PICTURE, generator)]
    for draw in DRAWN.values():
        made += [draw(generator) for _ in range(PER_DRAWING)]
    return made + [noise(generator, 64) for _ in range(PER_DRAWING // 3)]


def _held(pixels: Bytes, generator: np.random.Generator) -> Bytes:
    """Turned and inverted at random: still a film."""
    turned = np.ascontiguousarray(np.rot90(pixels, int(generator.choice([0, 0, 0, 1, 2, 3]))))
    return 255 - turned if generator.random() < 0.3 else turned


def _parts(edges_AP: Complexes) -> Floats:
    return np.concatenate([edges_AP.real, edges_AP.imag], 1).astype(np.float32)


def dump(numbers: Coefficients, counts: dict[str, int]) -> str:
    """intake.json: four digits are enough, and components as whole numbers of steps."""
    step = float(np.abs(numbers.components_KGG).max() / 999)
    data: dict[str, object] = {
        "about": "coefficients of agcxr/intake.py, on 24 x 24 copies of films",
        "made_by": "python benchmarks/refusal_fit.py",
        "pictures": counts,
        "temperature": numbers.temperature,
        "pixel_step": step,
        "components_KGG": np.rint(numbers.components_KGG / step).astype(int).tolist(),
    }
    data["lean_2P"] = [[float(f"{one:.4g}") for one in part] for part in (numbers.lean_P.real, numbers.lean_P.imag)]
    for name in ("upright_GG", "mean_GG", "variances_K", "centre_D", "scale_D", "weight_CD", "bias_C"):
        data[name] = [
            [float(f"{one:.4g}") for one in row] if isinstance(row, list) else float(f"{row:.6g}")
            for row in getattr(numbers, name).tolist()
        ]
    return json.dumps(data, separators=(",", ":")).replace(',"', ',\n"') + "\n"


if __name__ == "__main__":
    main()
