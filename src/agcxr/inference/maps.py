"""Grad-CAM of one finding on the three branches, put back where it belongs on the film.

Shapes: B maps (a film and one finding each), N views, C image channels, S side of a prepared
film, h, w cells of a feature grid, H, W pixels.
Frame: boxes are (x0, y0, x1, y1) as FRACTIONS of the film, exclusive end; a map is placed on a frame of any size,
the prepared film's or the original's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agcxr.inference.prediction import Branch

if TYPE_CHECKING:
    from agcxr.data.augment import FilmSource
    from agcxr.models.agcnn import AGCNN

Grids = npt.NDArray[np.float32]
Boxes = npt.NDArray[np.float64]
Rectify = Literal["minmax", "relu"]


def profiles(cells: int, start_B: npt.ArrayLike, stop_B: npt.ArrayLike, size: int) -> npt.NDArray[np.float64]:
    """Bilinear weights B x cells x size: what each cell of a row over [start, stop) adds to each of `size` pixels.

    Half-pixel centres, values held constant beyond the outermost cell centres, 0 for pixels whose centre is outside.
    start and stop are fractions of the frame.
    """
    start, stop = (np.asarray(v, dtype=np.float64).reshape(-1, 1, 1) for v in (start_B, stop_B))
    centre = (np.arange(size) + 0.5) / size
    length = np.where(stop > start, stop - start, 1.0)
    at = np.clip((centre - start) / length * cells - 0.5, 0, cells - 1)
    weight = np.clip(1 - np.abs(at - np.arange(cells)[:, None]), 0, None)
    return weight * ((centre >= start) & (centre < stop))


def place(grid_Bhw: npt.ArrayLike, box_B4: npt.ArrayLike, height: int, width: int) -> Grids:
    """Grids that lie over their boxes, on a frame of height x width pixels: bilinear inside the box, 0 outside.

    For the box of the whole frame this equals torch's bilinear `interpolate` with align_corners=False.
    """
    grid, box = np.asarray(grid_Bhw, dtype=np.float64), np.asarray(box_B4, dtype=np.float64)
    if grid.ndim != 3 or box.shape != (len(grid), 4):
        raise ValueError(f"grids {grid.shape} and boxes {box.shape} do not fit; expected B x h x w and one box each")
    down_BhH = profiles(grid.shape[1], box[:, 1], box[:, 3], height)
    across_BwW = profiles(grid.shape[2], box[:, 0], box[:, 2], width)
    return (down_BhH.transpose(0, 2, 1) @ grid @ across_BwW).astype(np.float32)


@dataclass(frozen=True, eq=False)
class FindingMaps:
    """Grad-CAM of one finding per entry, SIGNED, on the grids of the branches; `on_film` rectifies and places them.

    The fusion head reads both branches, so it has a map on each grid, and its map of the film is their sum.
    """

    view_B4: Boxes
    """Where the view lies on the film, as fractions: the place of the global grid."""
    crop_B4: Boxes
    """Where the attention box lies on the film: the place of the local grid."""
    fallback_B: npt.NDArray[np.bool_]
    """The crop is the whole view because no region stood out."""
    heat_BHW: Grids
    """The attention itself, which knows no finding, in [0, 1] on the pixels of the view."""
    global_Bhw: Grids
    local_Bhw: Grids
    fusion_global_Bhw: Grids
    fusion_local_Bhw: Grids

    def __len__(self) -> int:
        return len(self.view_B4)

    def on_film(self, branch: Branch, height: int, width: int, rectify: Rectify = "minmax") -> Grids:
        """Maps of a branch on the film drawn at height x width pixels: B x H x W, 0 or more, 0 where nothing was seen.

        `minmax` subtracts the lowest value of the grid, so that every map ranks places, also where all
        evidence is against the finding; `relu` keeps the evidence for it only, and may be 0 everywhere.
        """
        if branch == "global":
            return place(_rectified(self.global_Bhw, rectify), self.view_B4, height, width)
        if branch == "local":
            return place(_rectified(self.local_Bhw, rectify), self.crop_B4, height, width)
        if branch == "fusion":
            # Each grid by itself: a common offset of the local map is no reason to light or darken the whole crop.
            whole = place(_rectified(self.fusion_global_Bhw, rectify), self.view_B4, height, width)
            return whole + place(_rectified(self.fusion_local_Bhw, rectify), self.crop_B4, height, width)
        raise ValueError(f"unknown branch {branch!r}; expected global, local or fusion")

    def attention_on_film(self, height: int, width: int) -> Grids:
        """The attention heatmap on the film drawn at height x width pixels: B x H x W in [0, 1], 0 beyond the view."""
        return place(self.heat_BHW, self.view_B4, height, width)


def _rectified(grid_Bhw: Grids, rectify: Rectify) -> Grids:
    """0 or more: over the grid's lowest value, or over 0."""
    if rectify == "minmax":
        return grid_Bhw - grid_Bhw.min(axis=(1, 2), keepdims=True)
    if rectify == "relu":
        return np.maximum(grid_Bhw, 0)
    raise ValueError(f"rectify is {rectify!r}; expected minmax or relu")


def finding_maps(
    model: AGCNN,
    image_NCHW: Tensor,
    target_B: Tensor,
    window_N4: npt.ArrayLike,
    sharp: Tensor | FilmSource | None = None,
    view_B: Tensor | None = None,
) -> FindingMaps:
    """Grad-CAM of label `target_B[i]` on view `view_B[i]` for the global, local and fusion logits.

    image_NCHW: evaluation views, float [0, 1], on the model's device. window_N4: the part of the film each shows, as
    fractions. sharp: what crops are cut from, where it is sharper than the views; see augment.crop_source.
    target_B: positions in the model's labels. view_B: which view each is asked of; default: each its own.
    Selvaraju et al. 2017, with the last feature map of each branch as the layer. The heads are linear over a pooled
    map, so the mean gradient of a logit over the n cells of channel d is its weight w_d / n, whether the pooling is the
    mean or the maximum: the map is sum_d w_d f_d / n, and a view costs one forward pass, whatever is asked of it.
    """
    at_B = torch.arange(len(image_NCHW)) if view_B is None else view_B
    if len(target_B) != len(at_B) or np.shape(window_N4) != (len(image_NCHW), 4):
        raise ValueError(
            f"{len(image_NCHW)} views, {len(target_B)} targets and windows {np.shape(window_N4)} were given; "
            "expected one window per view, and one target per view unless `view_B` says which are asked of which"
        )
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            out = model(image_NCHW, sharp)
    finally:
        model.train(training)
    target, at_B = target_B.to(image_NCHW.device), at_B.to(image_NCHW.device)
    fusion_BD = model.fusion_head.weight[target]
    feature_BDhw, local_BDhw = out.feature_BDhw[at_B], out.local_feature_BDhw[at_B]
    window_B4 = np.asarray(window_N4, dtype=np.float64)[at_B.cpu().numpy()]
    channels = feature_BDhw.shape[1]
    return FindingMaps(
        view_B4=window_B4,
        crop_B4=_on_film(out.box_B4[at_B], image_NCHW.shape[-2:], window_B4),
        fallback_B=out.fallback_B[at_B].cpu().numpy(),
        heat_BHW=out.heat_BHW[at_B].float().cpu().numpy(),
        global_Bhw=_cam(model.global_branch.head.weight[target], feature_BDhw),
        local_Bhw=_cam(model.local_branch.head.weight[target], local_BDhw),
        fusion_global_Bhw=_cam(fusion_BD[:, :channels], feature_BDhw),
        fusion_local_Bhw=_cam(fusion_BD[:, channels:], local_BDhw),
    )


@torch.no_grad()
def _cam(weight_BD: Tensor, feature_BDhw: Tensor) -> Grids:
    """Grad-CAM of logits that weigh the pooled features so, signed: B x h x w, float32."""
    with torch.autocast(feature_BDhw.device.type, enabled=False):
        evidence_Bhw = torch.einsum("bd,bdhw->bhw", weight_BD.float(), feature_BDhw.float())
    return (evidence_Bhw / feature_BDhw[0, 0].numel()).cpu().numpy()


def _on_film(box_B4: Tensor, view_hw: tuple[int, ...], window_B4: Boxes) -> Boxes:
    """Boxes in pixels of the view -> fractions of the film that shows it in `window_B4`."""
    height, width = view_hw
    share = box_B4.detach().double().cpu().numpy() / np.array([width, height, width, height])
    origin, extent = window_B4[:, [0, 1, 0, 1]], (window_B4[:, 2:] - window_B4[:, :2])[:, [0, 1, 0, 1]]
    return origin + share * extent
