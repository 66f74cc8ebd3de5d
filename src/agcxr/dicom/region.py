"""An attended region as a mask over the film: the part of the heatmap that the box was drawn around.

Shapes: H x W pixels of the view for `heat_HW`; rows x columns of the film for the mask.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from agcxr.inference.prediction import Prediction
from agcxr.values import Attention

Mask = npt.NDArray[np.bool_]


def region_mask(prediction: Prediction, attention: Attention, n: int = 0) -> Mask:
    """bool, height x width of the film: the region of high attention in box `n`, or the whole view on a fallback.

    A box of a fixed size (`attention.window`) was drawn around no region, so it is the region itself. Pixels of the
    film take the view pixel under their centre. The region lies within the box, rounded outwards.
    """
    if prediction.fallback and not n:
        view = np.ones(prediction.heat_HW.shape, bool)
    elif attention.window:
        view = _inside(prediction, n)
    else:
        view = _in_view(prediction, attention, n)
    return _on_film(view, prediction)


def _in_view(prediction: Prediction, attention: Attention, n: int) -> Mask:
    """The connected region of the thresholded heat with the most pixels inside box n, without what the boxes before it
    had taken."""
    heat = prediction.heat_HW
    limit = attention.threshold
    if attention.normalise == "percentile":
        rank = max(1, int(np.ceil(attention.threshold * heat.size)))
        limit = float(np.sort(heat, axis=None)[rank - 1])
    inside = _inside(prediction, n)
    found = (heat > limit) & inside
    for taken in range(n):
        found &= ~_inside(prediction, taken)
    count, labels = cv2.connectedComponents(found.view(np.uint8), connectivity=attention.connectivity)
    if count < 2:  # thresholded on a coarser grid, the upsampled heat may stay below the limit: the box is the region
        return inside
    return np.asarray(labels == 1 + int(np.bincount(labels[found], minlength=count)[1:].argmax()))


def _inside(prediction: Prediction, n: int) -> Mask:
    """Pixels of the view that box n touches."""
    h, w = prediction.heat_HW.shape
    wx0, wy0, wx1, wy1 = prediction.window
    scale_x, scale_y = w / (wx1 - wx0), h / (wy1 - wy0)
    x0, x1 = (round((x - wx0) * scale_x, 3) for x in prediction.boxes[n][::2])
    y0, y1 = (round((y - wy0) * scale_y, 3) for y in prediction.boxes[n][1::2])
    inside = np.zeros((h, w), bool)
    inside[max(int(np.floor(y0)), 0) : int(np.ceil(y1)), max(int(np.floor(x0)), 0) : int(np.ceil(x1))] = True
    return inside


def _on_film(view: Mask, prediction: Prediction) -> Mask:
    """Nearest pixel of the view for each pixel of the film; False outside the window."""
    h, w = view.shape
    x0, y0, x1, y1 = prediction.window
    column = np.floor((np.arange(prediction.width) + 0.5 - x0) / (x1 - x0) * w).astype(int)
    row = np.floor((np.arange(prediction.height) + 0.5 - y0) / (y1 - y0) * h).astype(int)
    seen_x, seen_y = (column >= 0) & (column < w), (row >= 0) & (row < h)
    mask = np.zeros((prediction.height, prediction.width), bool)
    mask[np.ix_(seen_y, seen_x)] = view[np.ix_(row[seen_y], column[seen_x])]
    return mask
