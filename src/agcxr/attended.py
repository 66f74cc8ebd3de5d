"""How much of the view attention chooses, and whether it chooses a place at all. Arrays and words, no torch.

Features that are clipped (ReLU6) meet the clip at many cells: the heatmap of max |f| then has a plateau in place of a
peak, the box is nearly the whole view, and the local branch sees what the global one sees. Neither is a fallback, so
both are measured.

Shapes: N films, H W pixels of the view, 4 a box (x0, y0, x1, y1) with exclusive end, in any unit that boxes share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NEAR_WHOLE = 0.9
"""A crop of so large a share of the view's area, or more, is nearly the whole view."""
PLATEAU = 0.1
"""A heatmap has a plateau where more than this share of the view has its highest value. One cell that stands out gives
a few pixels, in a corner of the 7 x 7 grid of 224 pixels .6 %."""
TOLERANCE = 1e-5
"""Of the highest value, for values that are equal but for the rounding of the interpolation."""
FILMS_ON_PLATEAUS, FILMS_NEAR_WHOLE = 0.1, 0.5
"""Warned of over these shares of the films."""

Floats = npt.NDArray[np.float64]


def view_share(box_N4: npt.ArrayLike, window_4: npt.ArrayLike) -> Floats:
    """Each box's area as a share of the view's, N numbers in [0, 1]; both in the same frame."""
    box, window = np.asarray(box_N4, dtype=np.float64), np.asarray(window_4, dtype=np.float64)
    return np.prod(box[:, 2:] - box[:, :2], axis=1) / np.prod(window[2:] - window[:2])


def plateau(heat_NHW: npt.ArrayLike) -> Floats:
    """The share of each heatmap's pixels that have its highest value, N numbers in (0, 1]; 1 for a constant map."""
    heat = np.asarray(heat_NHW)
    return np.asarray((heat >= heat.max(axis=(1, 2), keepdims=True) - TOLERANCE).mean(axis=(1, 2)), dtype=np.float64)


@dataclass(frozen=True)
class Attended:
    """A set of films, counted."""

    films: int
    near_whole: int
    """Crops of NEAR_WHOLE of the view or more, fallbacks among them."""
    fallbacks: int
    """No region stood out: a single peak too small for a box, or a map without any."""
    plateaus: int
    """Heatmaps of which more than PLATEAU has the highest value."""

    @classmethod
    def of(cls, share_N: npt.ArrayLike, fallback_N: npt.ArrayLike, plateau_N: npt.ArrayLike) -> Attended:
        """From `view_share`, fallback and `plateau` of each film."""
        share, fallbacks = np.asarray(share_N), int(np.count_nonzero(fallback_N))
        # Boxes are in float32 pixels: 9 of 10 of a side must not fail by a rounding.
        near_whole = int((share >= NEAR_WHOLE - 1e-6).sum())
        return cls(len(share), near_whole, fallbacks, int((np.asarray(plateau_N) > PLATEAU).sum()))

    def warning(self, statistic: str) -> str:
        """What to do where attention does not choose; empty where it does. `statistic`: how the heatmap was made."""
        if not self.films:
            return ""
        whole = (
            f"{_percent(self.near_whole, self.films)} of {self.films:,} crops hold {100 * NEAR_WHOLE:.0f} % of the "
            "view or more, so that the local branch sees what the global one sees"
        )
        if self.plateaus > FILMS_ON_PLATEAUS * self.films:
            others = " or ".join(name for name in ("l2", "l1") if name != statistic)
            return (
                f"Attention hardly chooses a place: in {_percent(self.plateaus, self.films)} of the heatmaps more than "
                f"{100 * PLATEAU:.0f} % of the view shares the highest value, as where a network's last activation is "
                f"clipped (ReLU6); {whole}. Train with --local.statistic {others}"
            )
        if self.near_whole - self.fallbacks > FILMS_NEAR_WHOLE * self.films:
            return f"Attention hardly chooses a place: {whole}. Train with a higher --local.threshold"
        return ""


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %"
