"""Drawing in centimetres: the sheet on which the phantom's anatomy and lesions become pixels.

Frame: centimetres of the patient, x to the right of the film (the patient's left), y down, the origin in the middle of
the chest. Shapes are polygons in that frame; a Canvas turns them into masks of any film size, so that the same patient
drawn at 256 and at 1024 pixels has the same anatomy.

Shape suffixes: H, W film pixels; N points; 2 = (x, y); S strips of P points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Points = NDArray[np.float64]
Mask = NDArray[np.uint8]

SUBPIXEL_BITS = 4
FINE_SIGMA_PX = 6.0  # a wider blur is done on a smaller copy: same result to the eye, much faster


@dataclass(frozen=True)
class Canvas:
    """A square film and where the patient lies on it.

    size: side in pixels. field_cm: side in centimetres. centre_cm: the patient's point in the middle of the film.
    tilt: rotation of the patient in radians.
    """

    size: int
    field_cm: float = 37.0
    centre_cm: tuple[float, float] = (0.0, 0.0)
    tilt: float = 0.0

    @property
    def px_per_cm(self) -> float:
        """Pixels in a centimetre."""
        return self.size / self.field_cm

    @cached_property
    def _rotation_22(self) -> Points:
        cos, sin = np.cos(self.tilt), np.sin(self.tilt)
        return np.array([[cos, -sin], [sin, cos]])

    @cached_property
    def grid(self) -> tuple[Array, Array]:
        """x_HW, y_HW: the patient's centimetres at every pixel centre."""
        step = (np.arange(self.size, dtype=np.float32) + 0.5) / self.px_per_cm - self.field_cm / 2
        cos, sin = np.float32(np.cos(self.tilt)), np.float32(np.sin(self.tilt))
        x_HW = cos * step[None, :] + sin * step[:, None] + np.float32(self.centre_cm[0])
        y_HW = -sin * step[None, :] + cos * step[:, None] + np.float32(self.centre_cm[1])
        return x_HW, y_HW

    def to_px(self, points: Points) -> Points:
        """Patient centimetres [..., 2] to film pixels [..., 2] (pixel i covers [i, i+1))."""
        return ((points - np.asarray(self.centre_cm)) @ self._rotation_22.T + self.field_cm / 2) * self.px_per_cm

    def _fixed(self, points: Points) -> NDArray[np.int32]:
        # OpenCV puts the centre of pixel i at i; ours is at i + 0.5.
        return np.round((self.to_px(points) - 0.5) * (1 << SUBPIXEL_BITS)).astype(np.int32)

    def blank(self) -> Mask:
        """An empty uint8 mask [H, W]."""
        return np.zeros((self.size, self.size), np.uint8)

    def fill(self, points_N2: Points, value: int = 255, out: Mask | None = None) -> Mask:
        """Fill a polygon with antialiased edges; over `out` if given."""
        out = self.blank() if out is None else out
        cv2.fillPoly(out, [self._fixed(points_N2)], (value,), cv2.LINE_AA, SUBPIXEL_BITS)
        return out

    def strips(
        self, points_SP2: Points, widths_SP: Points, values_S: NDArray[np.int64] | int = 255, out: Mask | None = None
    ) -> Mask:
        """Draw curves of varying width (cm) over each other, in order."""
        out = self.blank() if out is None else out
        tangent = np.gradient(points_SP2, axis=1)
        tangent /= np.maximum(np.linalg.norm(tangent, axis=-1, keepdims=True), 1e-9)
        normal = np.stack([-tangent[..., 1], tangent[..., 0]], -1) * (widths_SP[..., None] / 2)
        outline = np.concatenate([points_SP2 + normal, (points_SP2 - normal)[:, ::-1]], axis=1)
        values = np.broadcast_to(np.asarray(values_S), (len(outline),))
        for polygon, value in zip(self._fixed(outline), values, strict=True):
            cv2.fillPoly(out, [polygon], (int(value),), cv2.LINE_AA, SUBPIXEL_BITS)
        return out

    def soften(self, image: Array | Mask, sigma_cm: float) -> Array:
        """Blur with a Gaussian of sigma_cm. A mask 0..255 becomes floats 0..1."""
        value = np.asarray(image, np.float32)
        if image.dtype == np.uint8:
            value = value / np.float32(255)
        sigma = sigma_cm * self.px_per_cm
        if sigma < 0.3:
            return value
        if sigma <= FINE_SIGMA_PX:
            return _blur(value, sigma)
        side = max(8, int(np.ceil(self.size * FINE_SIGMA_PX / 2 / sigma)))
        small = np.asarray(cv2.resize(value, (side, side), interpolation=cv2.INTER_AREA), np.float32)
        return self.enlarge(_blur(small, sigma * side / self.size))

    def mottle(self, rng: np.random.Generator, scale_cm: float) -> Array:
        """Smooth noise of unit spread whose grains are about scale_cm wide; the same at every film size."""
        side = max(4, round(self.field_cm / scale_cm))
        small = rng.standard_normal((side, side), dtype=np.float32)
        return self.enlarge(small)

    def enlarge(self, small: Array) -> Array:
        """A coarse square map at the film's size."""
        return np.asarray(cv2.resize(small, (self.size, self.size), interpolation=cv2.INTER_CUBIC), np.float32)

    def bounds(self, region: NDArray[np.bool_]) -> tuple[float, float, float, float] | None:
        """Bounding box (x0, y0, x1, y1) of a region [H, W] as fractions of the film; None if it is empty."""
        rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
        if not len(rows):
            return None
        x0, y0, x1, y1 = (float(edge) / self.size for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        return x0, y0, x1, y1


def _blur(image: Array, sigma_px: float) -> Array:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma_px, borderType=cv2.BORDER_REPLICATE), np.float32)


def spline(points_N2: Points | list[tuple[float, float]], samples: int = 8, closed: bool = False) -> Points:
    """A smooth (Catmull-Rom) curve through the points, `samples` steps between two of them."""
    points = np.asarray(points_N2, np.float64)
    if closed:
        padded = np.concatenate([points[-1:], points, points[:2]])
    else:
        padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    a, b, c, d = padded[:-3, None], padded[1:-2, None], padded[2:-1, None], padded[3:, None]
    t = (np.arange(samples) / samples)[None, :, None]
    curve = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, points[-1:]])


def ellipse(
    centre: tuple[float, float],
    radii: tuple[float, float],
    turn: float = 0.0,
    rng: np.random.Generator | None = None,
    rough: float = 0.0,
) -> Points:
    """A closed outline [48, 2]; with rng, its radius wavers by about the fraction `rough`."""
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    radius = np.ones(48)
    if rng is not None and rough:
        for harmonic in range(2, 7):
            radius += rough / harmonic**0.5 * rng.normal() * np.cos(harmonic * angle + rng.uniform(0, 2 * np.pi))
    x, y = radii[0] * radius * np.cos(angle), radii[1] * radius * np.sin(angle)
    cos, sin = np.cos(turn), np.sin(turn)
    return np.stack([centre[0] + cos * x - sin * y, centre[1] + sin * x + cos * y], -1)
