"""The 14 findings, each drawn by its radiographic sign at its real size.

A finding first may change the proportions of the chest (`reshape`: a wide heart, flat diaphragms, a raised dome) and
then adds to, or takes from, the sums of tissue (`draw`). Each returns where it is, so that labels, boxes and pixels
cannot disagree. Signs as in standard teaching: Hansell et al., "Fleischner Society: glossary of terms for thoracic
imaging", Radiology 246 (2008).

Shape suffixes as in data/canvas.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agcxr.data.anatomy import SIDES, Scene, Thorax
from agcxr.data.canvas import Array, Mask, ellipse, spline

Generator = np.random.Generator


Nodules = Literal["usual", "small"]
NODULE_CM: dict[Nodules, tuple[float, float]] = {"usual": (1.0, 3.0), "small": (0.5, 2.0)}
"""Diameters of nodules. Small ones are 1 to 4 pixels wide where a film is seen at 56 pixels."""


@dataclass(frozen=True)
class Lesion:
    """One drawn sign. box: (x0, y0, x1, y1) fractions of the film; diameter_cm: of a circle of the same area."""

    finding: str
    box: tuple[float, float, float, float]
    diameter_cm: float


@dataclass(frozen=True)
class Strength:
    """How plain the signs are. contrast multiplies their density (1 = usual), growth their size on this film;
    nodule_cm: the diameters that nodules have, from and to."""

    contrast: float = 1.0
    growth: float = 1.0
    nodule_cm: tuple[float, float] = NODULE_CM["usual"]


def reshape(thorax: Thorax, rngs: Mapping[str, Generator]) -> Thorax:
    """The chest's proportions under its findings. rngs: one generator for each finding that is present."""
    if "Emphysema" in rngs:
        rng = rngs["Emphysema"]
        low = float(rng.uniform(0.4, 1.4))
        thorax = replace(
            thorax,
            aeration=thorax.aeration * float(rng.uniform(1.01, 1.07)),
            dome=(thorax.dome[0] + low, thorax.dome[1] + low),
            arch=float(rng.uniform(1.4, 2.4)),
            heart_ratio=thorax.heart_ratio * float(rng.uniform(0.8, 0.9)),
            vascularity=thorax.vascularity * float(rng.uniform(0.6, 0.85)),
        )
    if "Cardiomegaly" in rngs:
        thorax = replace(thorax, heart_ratio=float(rngs["Cardiomegaly"].uniform(0.505, 0.6)))
    if "Atelectasis" in rngs:
        rng = rngs["Atelectasis"]
        side, lift = _side(rng), float(rng.uniform(0.4, 1.8))
        dome = (thorax.dome[0] - lift * (side < 0), thorax.dome[1] - lift * (side > 0))
        thorax = replace(thorax, dome=dome, turn=thorax.turn + 0.25 * lift * side)
    if "Edema" in rngs:
        thorax = replace(thorax, vascularity=thorax.vascularity * 1.15)
    return thorax


def draw(finding: str, scene: Scene, rng: Generator, strength: Strength) -> list[Lesion]:
    """Add one finding to the scene; every place where it shows. rng must start as the one given to `reshape`."""
    return SIGNS[finding](scene, rng, strength)


def _side(rng: Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _found(finding: str, scene: Scene, region: NDArray[np.bool_], diameter: float | None = None) -> list[Lesion]:
    box = scene.canvas.bounds(region)
    if box is None:
        return []
    area = float(region.sum()) / scene.canvas.px_per_cm**2
    return [Lesion(finding, box, diameter if diameter is not None else 2 * float(np.sqrt(area / np.pi)))]


def _free_place(scene: Scene, rng: Generator, radius: float) -> tuple[float, float]:
    """A point of a lung beside the heart, at least `radius` from the wall."""
    side = _side(rng)
    v = float(rng.uniform(0.14, 0.86))
    x, y = scene.thorax.place(side, 0.0, v)
    room = max(float(scene.thorax.wall(y, side)) - abs(x) - 2 * radius - 0.4, 0.3)
    x = abs(x) + radius + float(rng.uniform(0.1, 1.0)) * room
    floor = float(scene.thorax.diaphragm(x, side)) - 0.5 * radius - 0.4
    return side * x, min(y, floor)


@dataclass(frozen=True)
class _Ball:
    """A round lesion before it is drawn."""

    shape: Mask
    diameter: float


def _ball(scene: Scene, rng: Generator, diameter: float, rough: float) -> _Ball:
    radius = diameter / 2
    centre = _free_place(scene, rng, radius)
    outline = ellipse(centre, (radius, radius * float(rng.uniform(0.88, 1.0))), float(rng.uniform(0, 3)), rng, rough)
    return _Ball(scene.canvas.fill(outline), diameter)


def _draw_ball(scene: Scene, ball: _Ball, density: float) -> None:
    """Thick in the middle as a ball is, with a definite edge."""
    soften, shape, diameter = scene.canvas.soften, ball.shape, ball.diameter
    body = soften(shape, 0.05 + 0.03 * diameter) * (0.45 + 0.55 * soften(shape, 0.3 * (diameter / 2)))
    scene.extra += body * np.float32(density)


def _nodules(scene: Scene, rng: Generator, strength: Strength) -> list[_Ball]:
    """One or two of them."""
    low, high = strength.nodule_cm
    balls = []
    for _ in range(1 + (rng.random() < 0.25)):
        diameter = min(max(float(rng.uniform(low, high)) * strength.growth, low), high)
        balls.append(_ball(scene, rng, diameter, 0.02))
    return balls


def _where(finding: str, scene: Scene, balls: list[_Ball]) -> list[Lesion]:
    return [lesion for ball in balls for lesion in _found(finding, scene, ball.shape > 127, ball.diameter)]


def nodule(scene: Scene, rng: Generator, strength: Strength) -> list[Lesion]:
    """Round, 1 to 3 cm (or as `strength` says), one or two of them."""
    balls = _nodules(scene, rng, strength)
    for ball in balls:
        _draw_ball(scene, ball, (2.0 + 0.8 * ball.diameter) * strength.contrast)
    return _where("Nodule", scene, balls)


def nodule_places(scene: Scene, rng: Generator, strength: Strength) -> list[Lesion]:
    """Where `nodule` puts its nodules, and how large they are, without drawing any."""
    return _where("Nodule", scene, _nodules(scene, rng, strength))


def mass(scene: Scene, rng: Generator, strength: Strength) -> list[Lesion]:
    """Over 3 cm, lobulated."""
    diameter = max(float(rng.uniform(3.2, 7.0)) * strength.growth, 3.1)
    ball = _ball(scene, rng, diameter, 0.05)
    _draw_ball(scene, ball, (2.2 + 0.5 * diameter) * strength.contrast)
    return _where("Mass", scene, [ball])


def cardiomegaly(scene: Scene, rng: Generator, strength: Strength) -> list[Lesion]:
    """The heart's width is over half of the chest's: drawn by `reshape`, found here."""
    return _found("Cardiomegaly", scene, scene.heart > 0.5)


def effusion(scene: Scene, rng: Generator, strength: Strength) -> list[Lesion]:
    """Fluid fills the costophrenic angle; its upper edge rises along the wall (meniscus)."""
    sides = SIDES if rng.random() < 0.3 else (_side(rng),)
    lesions: list[Lesion] = []
    x_HW, y_HW = scene.canvas.grid
    for side in sides:
        thorax = scene.thorax
        height = max(thorax.arch * 0.35, 0.8) + float(rng.gamma(1.2, 1.2)) * strength.growth
        level = thorax.base(side) + thorax.arch - min(height, 12.0)
        across = np.clip(side * x_HW / thorax.half_width, 0, 1)
        edge = level + np.float32(0.45 * min(height, 7)) * (1 - across**2.5) ** 0.8
        fluid = scene.lungs[side] * _step((y_HW - edge) * 2)
        _opacify(scene, fluid, min(0.94 * strength.contrast, 0.97))
        scene.extra += fluid * np.float32(0.8)
        lesions += _found("Effusion", scene, fluid > 0.5)
    return lesions


def _step(distance: Array) -> Array:
    """0 to 1 across an edge; distance is positive inside."""
    return np.asarray(0.5 + 0.5 * np.tanh(distance), np.float32)


def _opacify(scene: Scene, region: Array, fraction: float) -> None:
    """Fluid or collapse in place of air: that fraction of the air goes, and with it the vessels' outlines."""
    scene.air *= 1 - region * np.float32(fraction)
    scene.vessels *= 1 - region * np.float32(0.9 * fraction)


def pneumothorax(scene: Scene, rng: Generator, strength: Strength) -> list[Lesion]:
    """A dark rim without vessels, outside a thin white line: the lung has come off the wall."""
    side = _side(rng)
    canvas, thorax = scene.canvas, scene.thorax
    gap = float(rng.uniform(0.5, 2.4)) * strength.growth
    reach = float(rng.uniform(0.3, 0.9))
    bottom = thorax.base(side)
    y = np.linspace(thorax.apex + 1.25 * gap, thorax.apex + reach * (bottom - thorax.apex), 24)
    t = np.linspace(0, 1, 24)
    x = np.asarray(thorax.wall(y, side)) - gap * (1 - t**2.5) * 0.9
    down = np.stack([x, y], -1)[4::4]
    top = [(2.4, y[0] + 1.6), (0.45 * down[0, 0] + 1.3, y[0] + 0.1)]
    line = spline(np.concatenate([top, down]), 6) * (side, 1)
    lung = np.concatenate([line, [(side * float(thorax.half_width), y[-1] + 0.1), (side * 20.0, 20.0), (0.0, 20.0)]])
    collapsed = canvas.soften(canvas.fill(np.concatenate([lung, [(0.0, float(y[0]) + 1.6)]])), 0.06)
    rim = scene.lungs[side] * (1 - collapsed)
    scene.vessels *= 1 - rim
    scene.extra -= rim * np.float32(0.9 * strength.contrast)
    scene.extra += scene.lungs[side] * collapsed * np.float32(0.25)
    pleura = canvas.soften(canvas.strips(line[None], np.full((1, len(line)), 0.14)), 0.03)
    scene.extra += pleura * scene.lungs[side] * np.float32(1.5 * strength.contrast)
    return _found("Pneumothorax", scene, rim > 0.5)


def hernia(scene: Scene, rng: Generator, strength: Strength) -> list[Lesion]:
    """Stomach behind the heart: a round density, often with air over a level of fluid."""
    canvas, thorax = scene.canvas, scene.thorax
    radius = float(rng.uniform(1.9, 3.6)) * strength.growth
    centre = (thorax.turn + float(rng.uniform(-0.5, 2.2)), thorax.dome[1] - radius * float(rng.uniform(0.3, 0.7)))
    outline = ellipse(centre, (radius * 1.1, radius), 0.0, rng, 0.025)
    shape = canvas.fill(outline)
    sac = canvas.soften(shape, 0.1)
    scene.extra += sac * np.float32(3.2 * strength.contrast)
    if rng.random() < 0.65:
        hollow = ellipse(centre, (radius * 0.9, radius * 0.82))
        hollow[:, 1] = np.minimum(hollow[:, 1], centre[1] + radius * float(rng.uniform(-0.2, 0.3)))
        scene.extra -= canvas.soften(canvas.fill(hollow), 0.08) * np.float32(5.5 * strength.contrast)
    return _found("Hernia", scene, shape > 127)


def edema(scene: Scene, rng: Generator, strength: Strength) -> list[Lesion]:
    """Haze around both hila like a bat's wings, and short septal (Kerley B) lines at the bases."""
    canvas, thorax = scene.canvas, scene.thorax
    x_HW, y_HW = canvas.grid
    spread = float(rng.uniform(2.8, 4.4)) * strength.growth
    thick = float(rng.uniform(0.6, 2.0)) * strength.contrast
    fluff = np.clip(1 + 0.35 * canvas.mottle(rng, 0.8) + 0.25 * canvas.mottle(rng, 0.4), 0.2, 2)
    lines = canvas.blank()
    lesions: list[Lesion] = []
    for side in SIDES:
        cx, cy = thorax.hilum(side)
        wing = np.exp(-(((x_HW - cx - side * 1.6) / spread) ** 2) - ((y_HW - cy - 1.8) / (1.35 * spread)) ** 2)
        wing *= scene.lungs[side]
        scene.extra += wing * fluff * np.float32(thick)
        lesions += _found("Edema", scene, wing > 0.4)
        for y in np.arange(thorax.base(side) - 4.5, thorax.base(side) + 0.5, 0.55):
            end = float(thorax.wall(y, side)) - 0.1
            septum = np.array([[(side * (end - float(rng.uniform(1.0, 2.0))), y + 0.1), (side * end, y)]])
            canvas.strips(septum, np.full((1, 2), 0.13), 255, lines)
    scene.extra += canvas.soften(lines, 0.03) * scene.lung * np.float32(0.9 * strength.contrast)
    return lesions


def emphysema(scene: Scene, rng: Generator, strength: Strength) -> list[Lesion]:
    """Dark, long lungs over flat diaphragms: drawn by `reshape`; here some bullae with hair-thin walls."""
    canvas = scene.canvas
    walls = canvas.blank()
    for _ in range(int(rng.integers(1, 5))):
        side = _side(rng)
        radius = float(rng.uniform(0.9, 2.2))
        centre = scene.thorax.place(side, float(rng.uniform(0.4, 0.8)), float(rng.uniform(0.1, 0.5)))
        hole = ellipse(centre, (radius, radius * 1.15), 0.0, rng, 0.03)
        canvas.strips(np.concatenate([hole, hole[:1]])[None], np.full((1, len(hole) + 1), 0.09), 255, walls)
        inside = canvas.soften(canvas.fill(hole), 0.1)
        scene.vessels *= 1 - 0.8 * inside
        scene.extra -= inside * scene.lungs[side] * np.float32(0.5 * strength.contrast)
    scene.extra += canvas.soften(walls, 0.03) * scene.lung * np.float32(0.6)
    return [lesion for side in SIDES for lesion in _found("Emphysema", scene, scene.lungs[side] > 0.5)]


def fibrosis(scene: Scene, rng: Generator, strength: Strength) -> list[Lesion]:
    """A net of fine lines at the periphery of the bases, usually on both sides."""
    canvas, thorax = scene.canvas, scene.thorax
    lesions: list[Lesion] = []
    x_HW, y_HW = canvas.grid
    for side in SIDES if rng.random() < 0.7 else (_side(rng),):
        size = float(rng.uniform(1.9, 3.8)) * strength.growth
        cx, cy = thorax.place(side, float(rng.uniform(0.55, 0.75)), float(rng.uniform(0.78, 0.92)))
        zone = np.exp(-((((x_HW - cx) / size) ** 2 + ((y_HW - cy) / (0.8 * size)) ** 2) ** 2)) * scene.lungs[side]
        count = int(20 * size**2)
        middle = np.array([cx, cy]) + rng.uniform(-1.3, 1.3, (count, 2)) * (size, 0.8 * size)
        turn, half = rng.uniform(0, np.pi, count), rng.uniform(0.2, 0.6, count)
        offset = np.stack([np.cos(turn), np.sin(turn)], -1) * half[:, None]
        path = np.stack([middle - offset, middle + rng.normal(0, 0.1, (count, 2)), middle + offset], axis=1)
        net = canvas.soften(canvas.strips(path, np.full((count, 3), 0.11)), 0.03)
        scene.extra += zone * (net * np.float32(1.5) + np.float32(0.2)) * np.float32(strength.contrast)
        lesions += _found("Fibrosis", scene, zone > 0.4)
    return lesions


def pleural_thickening(scene: Scene, rng: Generator, strength: Strength) -> list[Lesion]:
    """A band along the chest wall, or a cap over the apex, with an uneven inner edge."""
    canvas, thorax = scene.canvas, scene.thorax
    lesions: list[Lesion] = []
    sides = SIDES if rng.random() < 0.25 else (_side(rng),)
    apical = rng.random() < 0.35
    for side in sides:
        start = 0.0 if apical else float(rng.uniform(0.2, 0.5))
        end = float(rng.uniform(0.12, 0.2)) if apical else start + float(rng.uniform(0.25, 0.45))
        y = thorax.apex + np.linspace(start, end, 20) * (thorax.base(side) - thorax.apex)
        swell = 1 + 0.25 * np.sin(np.linspace(0, float(rng.uniform(6, 14)), 20) + float(rng.uniform(0, 6)))
        thick = (
            float(rng.uniform(0.6, 1.3)) * strength.growth * swell * np.sin(np.linspace(0.25, np.pi - 0.25, 20)) ** 0.5
        )
        wall = np.asarray(thorax.wall(y, side))
        if apical:
            arc = spline([(3.0, y[0] + 1.0), (4.0, y[0] + 0.5 + thick.max()), (6.0, y[0] + 1.2 + thick.max())], 5)
            inner = np.concatenate([arc, [(float(wall[-1]) - 0.3, float(y[-1]))]])
            outer = np.array([(float(wall[-1]) + 1, float(y[-1])), (6.0, y[0] - 2.0), (2.5, y[0] - 2.0)])
            band = np.concatenate([inner, outer])
        else:
            inner = np.stack([wall - thick, y], -1)
            band = np.concatenate([inner, np.stack([wall + 0.6, y], -1)[::-1]])
        shape = canvas.soften(canvas.fill(band * (side, 1)), 0.06) * scene.lungs[side]
        scene.extra += shape * np.float32(float(rng.uniform(3.0, 4.5)) * strength.contrast)
        lesions += _found("Pleural_Thickening", scene, shape > 0.5)
    return lesions


def atelectasis(scene: Scene, rng: Generator, strength: Strength) -> list[Lesion]:
    """Loss of volume: plates across the base, or a collapsed lower lobe as a triangle; the dome is raised."""
    canvas, thorax = scene.canvas, scene.thorax
    side, _ = _side(rng), rng.uniform()  # the same two draws as in reshape
    shape = canvas.blank()
    base = thorax.base(side)
    if rng.random() < 0.6:
        for _ in range(int(rng.integers(1, 4))):
            x, y = thorax.place(side, float(rng.uniform(0.35, 0.6)), float(rng.uniform(0.72, 0.92)))
            half, slope = float(rng.uniform(1.8, 3.4)) * strength.growth, float(rng.uniform(-0.35, 0.25)) * side
            path = spline([(x - half, y - slope * half), (x, y - 0.2), (x + half, y + slope * half)], 5)
            canvas.strips(
                path[None], (float(rng.uniform(0.5, 0.9)) * np.hanning(len(path) + 2)[1:-1] ** 0.3)[None], 255, shape
            )
        density = 2.2
    else:
        cx, cy = thorax.hilum(side)
        foot = float(rng.uniform(0.6, 0.85)) * thorax.half_width
        corner = np.array([(cx - side * 1.5, cy + 1.0), (side * foot * 0.72, base - 1.5), (side * foot, base + 1.0)])
        canvas.fill(np.concatenate([corner, [(side * 1.2, base + 1.0)]]), 255, shape)
        density = 3.0
    region = canvas.soften(shape, 0.1) * scene.lungs[side]
    scene.extra += region * np.float32(density * strength.contrast)
    return _found("Atelectasis", scene, region > 0.5)


def infiltration(scene: Scene, rng: Generator, strength: Strength) -> list[Lesion]:
    """Faint, ill-defined patches scattered over a part of one lung."""
    side = _side(rng)
    cx, cy = scene.thorax.place(side, float(rng.uniform(0.3, 0.6)), float(rng.uniform(0.3, 0.75)))
    x_HW, y_HW = scene.canvas.grid
    haze = np.zeros_like(scene.extra)
    for _ in range(int(rng.integers(5, 10))):
        px, py = cx + float(rng.normal(0, 1.7)) * strength.growth, cy + float(rng.normal(0, 2.4)) * strength.growth
        radius = float(rng.uniform(0.7, 1.4)) * strength.growth
        haze = np.maximum(haze, np.exp(-(((x_HW - px) ** 2 + (y_HW - py) ** 2) / radius**2)))
    haze *= scene.lungs[side] * np.clip(1 + 0.35 * scene.canvas.mottle(rng, 0.6), 0.2, 2)
    scene.extra += haze * np.float32(float(rng.uniform(1.9, 2.8)) * strength.contrast)
    return _found("Infiltration", scene, haze > 0.4)


def pneumonia(scene: Scene, rng: Generator, strength: Strength) -> list[Lesion]:
    """A segment filled unevenly, with soft edges, mostly in the lower zones."""
    canvas, side = scene.canvas, _side(rng)
    v = float(rng.uniform(0.55, 0.85)) if rng.random() < 0.7 else float(rng.uniform(0.2, 0.5))
    centre = scene.thorax.place(side, float(rng.uniform(0.35, 0.65)), v)
    radii = (float(rng.uniform(1.8, 3.2)) * strength.growth, float(rng.uniform(1.7, 3.3)) * strength.growth)
    outline = ellipse(centre, radii, float(rng.uniform(-0.6, 0.6)), rng, 0.1)
    cloud = canvas.soften(canvas.fill(outline), 0.7) * scene.lungs[side]
    uneven = np.clip(1 + 0.2 * canvas.mottle(rng, 0.5) + 0.25 * canvas.mottle(rng, 1.7), 0.3, 1.8)
    scene.vessels *= 1 - 0.5 * cloud
    scene.extra += cloud * uneven * np.float32(float(rng.uniform(2.2, 3.6)) * strength.contrast)
    return _found("Pneumonia", scene, cloud > 0.4)


def consolidation(scene: Scene, rng: Generator, strength: Strength) -> list[Lesion]:
    """A lobe without air: dense up to a sharp fissure, crossed by dark branching bronchi."""
    canvas, thorax, side = scene.canvas, scene.thorax, _side(rng)
    cx, cy = thorax.hilum(side)
    upper = rng.random() < 0.45
    fissure = cy + float(rng.uniform(-0.8, 1.2))
    radii = np.array([rng.uniform(2.4, 4.4), rng.uniform(2.2, 4.0)]) * strength.growth
    centre = (cx + side * float(rng.uniform(2.6, 4.4)), fissure + (-0.6 if upper else 0.75) * float(radii[1]))
    cloud = canvas.soften(canvas.fill(ellipse(centre, (float(radii[0]), float(radii[1])), 0.0, rng, 0.09)), 0.45)
    x_HW, y_HW = canvas.grid
    below = y_HW - fissure - 0.06 * side * (x_HW - cx)
    dense = cloud * scene.lungs[side] * _step((-below if upper else below) * 6)
    _opacify(scene, dense, min(0.36 * strength.contrast, 1.0))
    bronchi = canvas.blank()
    middle = np.array(centre)
    for _ in range(int(rng.integers(4, 7))):
        end = middle + rng.normal(0, 1.0, 2) * (1.6, 1.4)
        path = spline(
            [(cx, cy + (0.0 if upper else 1.5)), tuple(0.5 * (middle + end) + rng.normal(0, 0.3, 2)), tuple(end)], 5
        )
        canvas.strips(path[None], np.linspace(0.42, 0.22, len(path))[None], 255, bronchi)
    scene.extra -= canvas.soften(bronchi, 0.05) * dense * np.float32(2.2 * strength.contrast)
    return _found("Consolidation", scene, dense > 0.5)


SIGNS: dict[str, Callable[[Scene, Generator, Strength], list[Lesion]]] = {
    "Atelectasis": atelectasis,
    "Cardiomegaly": cardiomegaly,
    "Effusion": effusion,
    "Infiltration": infiltration,
    "Mass": mass,
    "Nodule": nodule,
    "Pneumonia": pneumonia,
    "Pneumothorax": pneumothorax,
    "Consolidation": consolidation,
    "Edema": edema,
    "Emphysema": emphysema,
    "Fibrosis": fibrosis,
    "Pleural_Thickening": pleural_thickening,
    "Hernia": hernia,
}
