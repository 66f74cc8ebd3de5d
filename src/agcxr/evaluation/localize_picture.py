"""The picture of `localize`: of every finding the best, the median and the worst case, with map and boxes."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from agcxr.data.prepared import Pixels
from agcxr.evaluation.localization import CAM, CaseExample, Localization
from agcxr.inference.maps import FindingMaps, Rectify
from agcxr.inference.overlay import ACCENT, WARNING
from agcxr.inference.predictor import Predictor
from agcxr.table import number, words

ANNOTATED, CROP = ("#{:02x}{:02x}{:02x}".format(*colour) for colour in (WARNING, ACCENT))
"""As in every picture of `evaluate` and `explain`."""
FOUND = "#39d353"
RANKS = ("best", "median", "worst")


def example_picture(localization: Localization, predictor: Predictor, images: Pixels) -> bytes:
    """PNG: two columns of triples (best, median, worst by the IoU of the fusion map's box), a finding each.

    images: all prepared films, N x S x S, from which the examples' rows are taken.
    """
    examples = localization.examples
    films = np.stack([images[example.row] for example in examples])
    maps = predictor.finding_maps(films, [example.finding for example in examples])
    figure = _figure(examples, films, maps, localization.rectify)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _figure(
    examples: tuple[CaseExample, ...], films: npt.NDArray[np.uint8], maps: FindingMaps, rectify: Rectify
) -> Figure:
    findings = list(dict.fromkeys(example.finding for example in examples))
    rows = (len(findings) + 1) // 2
    figure = Figure(figsize=(13.2, 2.46 * rows + 0.55), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 6, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    size = films.shape[-1]
    heats = maps.on_film("fusion", size, size, rectify)
    for at, example in enumerate(examples):
        place = findings.index(example.finding)
        axis = axes[place // 2][3 * (place % 2) + RANKS.index(example.rank)]
        _draw(axis, example, films[at], heats[at], maps.crop_B4[at])
    keys = [Line2D([], [], color=ANNOTATED, lw=2, label="annotated")]
    keys.append(Line2D([], [], color=FOUND, lw=2, label=f"box of the fusion map, {CAM[rectify]}"))
    keys.append(Line2D([], [], color=CROP, lw=1.5, ls="--", label="attended box (the crop)"))
    figure.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False, fontsize=10)
    return figure


def _draw(
    axis: Axes,
    example: CaseExample,
    film_SS: npt.NDArray[np.uint8],
    heat_SS: npt.NDArray[np.float32],
    crop_4: npt.NDArray[np.float64],
) -> None:
    size = len(film_SS)
    axis.imshow(film_SS, cmap="gray", vmin=0, vmax=255, extent=(0, size, size, 0))
    peak = float(heat_SS.max())
    share = heat_SS / peak if peak > 0 else heat_SS
    axis.imshow(share, cmap="inferno", vmin=0, vmax=1, alpha=0.55 * share, extent=(0, size, size, 0))
    _rectangle(axis, tuple(crop_4.tolist()), size, CROP, 1.2, "--")
    for box in example.annotated:
        _rectangle(axis, box, size, ANNOTATED, 2.0, "-")
    _rectangle(axis, example.found, size, FOUND, 2.0, "-")
    score = f"IoU {number(example.iou, 2)}" if peak > 0 else "empty map"
    axis.set_title(f"{words(example.finding)}, {example.rank}: {score}\n{example.image_id}", fontsize=8, pad=3)


def _rectangle(axis: Axes, box: tuple[float, ...], size: int, colour: str, width: float, style: str) -> None:
    x0, y0, x1, y1 = (edge * size for edge in box)
    axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, lw=width, ls=style))
