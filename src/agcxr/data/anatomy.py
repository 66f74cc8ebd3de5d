"""A normal thorax: its proportions, and its parts as thicknesses of tissue in centimetres.

A film is a sum of thicknesses along the beam (water equivalent), less the air of the lungs, seen through an exposure
curve; nothing is painted in gray levels. Proportions are those of an adult on a 35-43 cm film. The signs of disease
(data/lesions.py) work on the same sums.

Shape suffixes: H, W film pixels; N points; 2 = (x, y) centimetres (see data/canvas.py). A side is -1 for the patient's
right lung (the left of the film) and +1 for the left lung.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from agcxr.data.canvas import Array, Canvas, Points, ellipse, spline

SIDES = (-1, 1)


@dataclass(frozen=True)
class Thorax:
    """Proportions of one chest, in centimetres."""

    half_width: float = 13.3
    """From the middle to the inner chest wall at its widest."""
    apex: float = -12.5
    """y of the top of the lungs."""
    dome: tuple[float, float] = (7.5, 8.6)
    """y of the right and left diaphragm at its highest."""
    arch: float = 3.6
    """How far the costophrenic angle lies under the dome; small when the diaphragm is flat."""
    heart_ratio: float = 0.45
    """Cardiothoracic ratio: heart width over inner chest width."""
    depth: float = 19.0
    """Thickness of the trunk from front to back."""
    fat: float = 2.5
    """Soft tissue between ribs and skin."""
    aeration: float = 1.0
    """Air in the lungs, 1 = usual."""
    vascularity: float = 1.0
    """Size of the lung vessels, 1 = usual."""
    sex: str = "M"
    turn: float = 0.0
    """Shift of the heart and mediastinum against the ribs (cm): a patient not quite straight to the beam."""
    ap: bool = False
    """Portable (front to back): the shoulder blades lie over the lungs."""

    @property
    def angle(self) -> tuple[float, float]:
        """y of the right and left costophrenic angle."""
        return self.dome[0] + self.arch, self.dome[1] + self.arch

    def base(self, side: int) -> float:
        """y of the diaphragm's dome on that side."""
        return self.dome[(side + 1) // 2]

    def wall(self, y: Points | float, side: int) -> Points:
        """|x| of the inner chest wall at height y (from the apex to the costophrenic angle)."""
        t = np.clip((np.asarray(y, np.float64) - self.apex) / (self.angle[(side + 1) // 2] - self.apex), 0.0, 1.0)
        round_top = 0.34 + 0.66 * np.sqrt(1 - (1 - np.minimum(t / 0.8, 1)) ** 2.1)
        return self.half_width * round_top * (1 - 0.03 * np.maximum(t - 0.75, 0) / 0.25)

    def diaphragm(self, x: Points | float, side: int) -> Points:
        """y of the diaphragm at |x| from the middle."""
        u = np.clip(np.asarray(x, np.float64) / self.half_width, 0, 1)
        lateral = np.clip((u - 0.46) / 0.52, 0, 1) ** 2.3
        medial = 0.4 * np.clip((0.46 - u) / 0.46, 0, 1) ** 2
        return self.base(side) + self.arch * (lateral + medial)

    def lung(self, side: int) -> Points:
        """Outline [N, 2] of one pleural cavity, under the heart's shadow as well."""
        bottom = self.angle[(side + 1) // 2]
        height = self.apex + (bottom - self.apex) * np.linspace(0, 1, 30) ** 1.6
        lateral = np.stack([self.wall(height, side), height], -1)
        across = np.linspace(self.half_width * 0.97, 1.6, 24)
        floor = np.stack([across, self.diaphragm(across, side)], -1)
        medial = spline(
            [(1.6, 5.0), (1.6, -4.0), (1.9, self.apex + 4), (2.4, self.apex + 1.7), (3.3, self.apex + 0.4)], 5
        )
        return np.concatenate([lateral, floor, medial]) * (side, 1)

    def place(self, side: int, u: float, v: float) -> tuple[float, float]:
        """A point of a lung: u from the mediastinum (0) to the wall (1), v from the apex (0) to the dome (1)."""
        y = self.apex + v * (self.base(side) - self.apex)
        inner = 2.6 if y < -2 else max(2.6, self.heart_border(side) * min(1.0, (y + 2) / 5))
        return side * float(inner + u * (self.wall(y, side) - inner)), float(y)

    def hilum(self, side: int) -> tuple[float, float]:
        """Where the vessels enter a lung (the left one lies a little higher)."""
        return side * 3.3 + self.turn, -3.2 - 0.5 * side

    def heart_border(self, side: int) -> float:
        """|x| of the heart's right or left border."""
        return 2 * self.half_width * self.heart_ratio * (0.34 if side < 0 else 0.66)

    def heart(self) -> Points:
        """Outline [N, 2] of the heart; its width is exactly heart_ratio x the inner chest width."""
        right, left, floor = self.heart_border(-1), self.heart_border(1), self.dome[1] + 1.5
        top = floor - 8.6 - 6.0 * self.heart_ratio
        waist = 0.62 * left if left > 5 else 3.0
        points = [(-2.0, top - 0.6), (-0.86 * right, top + 2.6), (-right, floor - 5.6), (-0.9 * right, floor - 2.6)]
        points += [(-0.5 * right, floor - 0.6), (1.0, floor), (0.62 * left, floor - 0.4), (0.93 * left, floor - 1.6)]
        points += [
            (left, floor - 3.2),
            (0.9 * left, floor - 5.4),
            (waist, top + 3.4),
            (3.0, top + 0.8),
            (2.4, top - 0.8),
        ]
        outline = spline(points, 6, closed=True)
        edge_low, edge_high = outline[:, 0].min(), outline[:, 0].max()
        outline[:, 0] = (outline[:, 0] - edge_low) / (edge_high - edge_low) * (left + right) - right
        return outline + np.array([self.turn, 0])


@dataclass
class Scene:
    """The film being made: maps [H, W] of centimetres of tissue, and where the lungs are.

    lung is 1 inside the pleural cavities; air the fraction of usual air there; vessels and extra are thicknesses.
    """

    canvas: Canvas
    thorax: Thorax
    lungs: dict[int, Array] = field(default_factory=dict)
    heart: Array = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    air: Array = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    vessels: Array = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    extra: Array = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @property
    def lung(self) -> Array:
        """Both lungs."""
        return np.maximum(self.lungs[-1], self.lungs[1])


def open_scene(canvas: Canvas, thorax: Thorax, vessel_rng: np.random.Generator) -> Scene:
    """Lungs full of air, their vessels, and the heart; disease is added to this."""
    scene = Scene(canvas, thorax)
    for side in SIDES:
        scene.lungs[side] = canvas.soften(canvas.fill(thorax.lung(side)), 0.07)
    scene.heart = canvas.soften(canvas.fill(thorax.heart()), 0.16)
    scene.air = np.full((canvas.size, canvas.size), thorax.aeration, np.float32)
    scene.vessels = _vessels(canvas, thorax, vessel_rng) * scene.lung
    scene.extra = np.zeros_like(scene.air)
    return scene


def tissue(scene: Scene, rng: np.random.Generator) -> Array:
    """Centimetres of water-equivalent tissue at every pixel [H, W], disease included. rng: normal variants."""
    canvas, thorax = scene.canvas, scene.thorax
    total = _trunk(canvas, thorax) + _bones(canvas, thorax, rng)
    # Lungs are thinner at their edges; heart and vessels take the place of air, so that where the air is gone
    # already (fluid, collapse) their outlines go too: the silhouette sign.
    air = np.zeros_like(total)
    for side in SIDES:
        air += scene.lungs[side] * (0.5 + 0.5 * canvas.soften(scene.lungs[side], 1.3))
    heart = scene.heart * (0.35 + 0.35 * canvas.soften(scene.heart, 0.8))
    middle, windpipe = _mediastinum(canvas, thorax)
    medial = np.clip((np.abs(canvas.grid[0] - 0.3 * thorax.turn) - 0.9) / 2.2, 0, 1)
    air *= scene.air * (1 - np.maximum(heart, 0.72 * middle)) * medial
    total -= air * np.float32(0.78 * thorax.depth) + windpipe
    total += scene.vessels + scene.extra
    total += _abdomen(canvas, thorax, rng) * (1 - scene.lung)
    total += canvas.mottle(rng, 0.35) * scene.lung * np.float32(0.25) + canvas.mottle(rng, 1.6) * np.float32(0.4)
    if thorax.sex == "F":
        total += _breasts(canvas, thorax, rng)
    return np.maximum(total, 0)


def _trunk(canvas: Canvas, thorax: Thorax) -> Array:
    """Soft tissue of trunk, neck, shoulders and arms."""
    skin = thorax.half_width + thorax.fat
    shoulder = thorax.apex - 0.2
    half = [(3.6, -30.0), (4.4, shoulder - 5), (5.6, shoulder - 3.2), (10.0, shoulder - 1.6), (skin + 1.2, shoulder)]
    half += [(skin + 2.0, shoulder + 4), (skin + 0.4, shoulder + 8), (skin, 0.0), (skin, 10.0), (skin + 0.5, 32.0)]
    outline = np.array(half)
    outline = spline(np.concatenate([outline, outline[::-1] * (-1, 1)]), 5)
    side = min(canvas.size, 192)
    coarse = Canvas(side, canvas.field_cm, canvas.centre_cm, canvas.tilt)
    inside = (coarse.soften(coarse.fill(outline), 0.3) > 0.5).astype(np.uint8)
    padded = cv2.copyMakeBorder(inside, 0, side // 3, 0, 0, cv2.BORDER_REPLICATE)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[:side] / np.float32(coarse.px_per_cm)
    rounded = 1 - np.minimum(distance / np.float32(7.0), 1)
    trunk = np.sqrt(np.maximum(1 - rounded**2.4, 0)) * np.float32(thorax.depth)
    arms = np.zeros_like(trunk)
    for sign in SIDES:
        start, end = (sign * (skin + 2.6), shoulder + 1.0), (sign * (skin + (5.2 if thorax.ap else 6.6)), 20.0)
        path = spline([start, (sign * (skin + 4.2), 3.0), end], 6)
        arm = coarse.strips(path[None], np.full((1, len(path)), 6.4))
        arms = np.maximum(arms, coarse.soften(arm, 0.8) * np.float32(6.5))
    whole = coarse.soften(np.maximum(trunk, arms), 0.3)
    return canvas.enlarge(whole)


def _ribs(thorax: Thorax, side: int) -> tuple[Points, Points]:
    """Middle lines [S, P, 2] of ten posterior and seven anterior ribs of one side."""
    u = np.linspace(0, 1, 12)
    pitch = (thorax.base(side) + 3.0 - thorax.apex) / 10.2
    back, front = [], []
    for index in range(10):
        root = thorax.apex + 0.5 + pitch * index - 0.6
        drop = 1.5 + 0.42 * index
        reach = float(thorax.wall(root + drop, side)) + 0.2
        x = 1.8 + (reach - 1.8) * np.sin(u * np.pi / 2) ** 0.9
        back.append(np.stack([side * x, root - 0.9 * np.sin(np.pi * u**0.8) * (1 - 0.05 * index) + drop * u**3], -1))
        if 1 <= index < 8:
            end = 4.0 + 0.45 * index
            x = reach + (end - reach) * u
            fall = 4.6 - 0.1 * index
            front.append(np.stack([side * x, root + drop + fall * u**0.75 - 1.2 * np.maximum(u - 0.7, 0)], -1))
    return np.array(back), np.array(front)


def _bones(canvas: Canvas, thorax: Thorax, rng: np.random.Generator) -> Array:
    """Ribs, collar bones, shoulder blades, spine and upper arms, as thickness."""
    density = float(rng.uniform(0.85, 1.15))
    inner, rim, front_inner, front_rim = (canvas.blank() for _ in range(4))
    for side in SIDES:
        back, front = _ribs(thorax, side)
        shape_back, shape_front = back.shape[:2], front.shape[:2]
        canvas.strips(back, np.full(shape_back, 1.15), 255, rim)
        canvas.strips(back, np.full(shape_back, 0.82), 255, inner)
        canvas.strips(front, np.full(shape_front, 1.25), 255, front_rim)
        canvas.strips(front, np.full(shape_front, 0.95), 255, front_inner)
    total = canvas.soften(rim, 0.06) * np.float32(1.7) - canvas.soften(inner, 0.08) * np.float32(0.8)
    total += canvas.soften(front_rim, 0.09) * np.float32(0.65) - canvas.soften(front_inner, 0.1) * np.float32(0.25)
    limbs = canvas.blank()
    blades = canvas.blank()
    lift = float(rng.uniform(-0.5, 0.7))
    reach = 1.5 if thorax.ap else 4.2
    for side in SIDES:
        top = thorax.apex
        clavicle = spline(
            [(1.6, top + 2.2), (6.0, top + 1.2 - lift), (11.0, top + 0.6 - lift), (15.5, top - 0.3 - lift)], 5
        )
        width = np.interp(clavicle[:, 0], [1.6, 3, 8, 15], [1.9, 1.5, 1.15, 1.4])
        canvas.strips((clavicle * (side, 1))[None], width[None], 255, limbs)
        arm = spline([(16.6, top + 1.6), (18.4, top + 7.0), (19.6, top + 14.0)], 5)
        canvas.strips((arm * (side, 1))[None], np.linspace(3.6, 2.4, len(arm))[None], 255, limbs)
        edge = thorax.half_width
        blade = [(edge - 5.4 + reach, top + 2.6), (edge + 1.5 + reach, top + 2.2), (edge + 0.6 + reach, top + 8.0)]
        blade += [(edge - 3.0 + reach, top + 13.0), (edge - 4.4 + reach, top + 9.0)]
        canvas.fill(spline(blade, 6, closed=True) * (side, 1), 255, blades)
    total += canvas.soften(limbs, 0.12) * np.float32(2.0)
    solid = canvas.soften(blades, 0.12)
    total += solid * np.float32(0.75) - canvas.soften(solid, 0.4) * np.float32(0.35)
    return (total + _spine(canvas, thorax)) * np.float32(density)


def _spine(canvas: Canvas, thorax: Thorax) -> Array:
    """Vertebral bodies 2.3 cm apart with their discs and the spinous line."""
    x_HW, y_HW = canvas.grid
    across = 0.5 - 0.5 * np.tanh((np.abs(x_HW - thorax.turn * 0.3) - 1.75) * 4.5)
    bodies = 0.75 + 0.25 * np.cos(2 * np.pi * (y_HW - thorax.apex) / 2.3)
    process = np.exp(-(((x_HW - thorax.turn * 0.6) / 0.35) ** 2)) * (np.cos(2 * np.pi * (y_HW + 0.6) / 2.3) > 0.1)
    return (across * bodies * 1.5 + process * 0.5).astype(np.float32)


def _mediastinum(canvas: Canvas, thorax: Thorax) -> tuple[Array, Array]:
    """Great vessels with the aortic arch (0 to 1), and the air of the windpipe and main bronchi (cm)."""
    top, shift = thorax.apex, thorax.turn
    knob = top + 5.8
    outline = [(-2.4, top - 7), (-2.7, top + 2), (-2.9, knob), (-2.7, 3.0), (2.6, 3.0), (2.5, knob + 3.5)]
    outline += [(3.0, knob + 1.7), (3.7, knob + 0.4), (3.3, knob - 1.2), (2.4, knob - 2.2), (2.3, top - 7)]
    vessels = canvas.soften(canvas.fill(spline(outline, 6, closed=True) + np.array([shift, 0])), 0.16)
    aorta = canvas.strips(np.array([[(2.2 + shift, knob), (1.9, 2.0), (0.8, 9.0)]]), np.full((1, 3), 2.4))
    air = canvas.blank()
    carina = (0.2 + shift, top + 7.6)
    pipe = np.array([[(0.1 + shift * 0.6, top - 8), (0.2 + shift, top), carina]])
    canvas.strips(pipe, np.full((1, 3), 1.75), 255, air)
    for side in SIDES:
        bronchus = np.array(
            [[carina, (carina[0] + side * 1.7, carina[1] + 1.5), (side * 3.6 + shift, carina[1] + 2.4)]]
        )
        canvas.strips(bronchus, np.array([[1.3, 1.1, 0.8]]), 200, air)
    vessels = np.maximum(vessels, 0.8 * canvas.soften(aorta, 0.25))
    return vessels, canvas.soften(air, 0.14) * np.float32(1.8)


def _abdomen(canvas: Canvas, thorax: Thorax, rng: np.random.Generator) -> Array:
    """Liver, the stomach's bubble with its level, and some gas in the bowel."""
    liver = canvas.soften(canvas.fill(ellipse((-7.0, thorax.dome[0] + 6), (8.5, 6.0))), 0.8) * np.float32(1.6)
    gas = canvas.blank()
    wide, tall = rng.uniform(1.6, 3.6), rng.uniform(0.8, 2.2)
    centre = (float(rng.uniform(4.5, 8.0)), float(thorax.dome[1] + 0.9 + tall))
    bubble = ellipse(centre, (float(wide), float(tall)), rng=rng, rough=0.05)
    bubble[:, 1] = np.minimum(bubble[:, 1], centre[1] + tall * float(rng.uniform(0.0, 0.9)))
    if rng.random() < 0.8:
        canvas.fill(bubble, 255, gas)
    for _ in range(int(rng.integers(0, 4))):
        place = (float(rng.uniform(-8, 11)), float(rng.uniform(thorax.dome[1] + 5, thorax.dome[1] + 9)))
        canvas.fill(ellipse(place, (float(rng.uniform(0.7, 1.8)), float(rng.uniform(0.6, 1.2)))), 200, gas)
    return liver - canvas.soften(gas, 0.15) * np.float32(5.0)


def _breasts(canvas: Canvas, thorax: Thorax, rng: np.random.Generator) -> Array:
    """Two soft shadows with a lower edge."""
    total = np.zeros((canvas.size, canvas.size), np.float32)
    thick, drop = float(rng.uniform(0.8, 2.8)), float(rng.uniform(2.5, 5.5))
    for side in SIDES:
        centre = (side * float(rng.uniform(7.8, 9.2)), drop)
        shape = canvas.fill(ellipse(centre, (float(rng.uniform(5.4, 6.6)), float(rng.uniform(5.0, 6.4)))))
        edge = canvas.soften(shape, 0.22)
        _, y_HW = canvas.grid
        total += edge * np.clip(0.5 + (y_HW - centre[1]) / 9, 0, 1) * np.float32(thick)
    return total


def _vessels(canvas: Canvas, thorax: Thorax, rng: np.random.Generator) -> Array:
    """Arteries and veins: three generations from each hilum, thinner outwards, and the hilum itself."""
    drawn = canvas.blank()
    t = np.linspace(0, 1, 7)
    hila = canvas.blank()
    for side in SIDES:
        hilum = np.array(thorax.hilum(side))
        count = 9
        heading = np.linspace(-1.45, 1.45, count) + rng.normal(0, 0.1, count)
        start = hilum + rng.normal(0, 0.45, (count, 2))
        length = rng.uniform(6.5, 10.0, count) * (1 - 0.12 * np.cos(heading))
        width = rng.uniform(0.42, 0.72, count) * thorax.vascularity
        for generation in range(3):
            bend = rng.normal(0, 0.28, len(heading))
            angle = heading[:, None] + bend[:, None] * t
            step = np.stack([side * np.cos(angle), np.sin(angle)], -1) * (length[:, None, None] / 6)
            path = start[:, None] + np.cumsum(step, axis=1) - step[:, :1]
            taper = width[:, None] * (1 - 0.72 * t)
            order = np.argsort(width)
            shade = np.clip(width * 300, 20, 255).astype(np.int64)
            layer = canvas.strips(path[order], taper[order], shade[order])
            drawn = np.maximum(drawn, layer)
            if generation < 2:
                children = 2
                at = rng.integers(2, 6, (len(heading), children))
                rows = np.arange(len(heading))[:, None]
                start = path[rows, at].reshape(-1, 2)
                sign = np.where(np.arange(children) % 2, 1.0, -1.0)
                heading = (angle[rows, at] + sign * rng.uniform(0.25, 0.7, at.shape)).reshape(-1)
                width = (taper[rows, at] * 0.8).reshape(-1)
                length = (length[:, None] * (1 - at / 8)).reshape(-1) * rng.uniform(0.6, 0.95, at.size)
        blob = np.concatenate([spline([(-1.0, -2.2), (0.6, -0.8), (0.7, 1.4)], 4), [(0.3, 3.2), (-1.0, 2.4)]])
        canvas.fill(hilum + blob * (side, 1), 255, hila)
    trees = canvas.soften(drawn, 0.05) * np.float32(255 / 300 * 1.8)
    return trees + canvas.soften(hila, 0.35) * np.float32(1.7 * thorax.vascularity)
