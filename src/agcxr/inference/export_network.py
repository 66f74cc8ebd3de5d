"""The network of an exported file: resize, views, branches, crop, fusion, calibration and averages, as one module.

Shape suffixes: B films, R boxes of each, H x W their pixels, S side of the prepared film, V side of a view, K labels, M
knots of a curve, N pixels along one axis, 4 a box (x0, y0, x1, y1) with exclusive end.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from agcxr.calibration import EPSILON, Calibration, Curve
from agcxr.data.augment import FilmSource, Views, centre_views, map_boxes, render, sharp_size
from agcxr.inference.engine import Engine
from agcxr.inference.ensemble import Lines, lines_of
from agcxr.inference.onnx_engine import Averaged
from agcxr.inference.predictor import Predictor, torch_members
from agcxr.inference.resizing import count, resize
from agcxr.models.agcnn import AGCNNOutput


def average_of(engine: Engine) -> Averaged | None:
    """What the file says of an average; None for one model on the plain view."""
    if engine.looks == 1:
        return None
    each = [member.calibration for member in engine.members]
    return Averaged(
        models=len(engine.members),
        views=engine.views,
        words=engine.words,
        calibrations=tuple(_only(one, engine.labels) for one in each if one)
        if engine.own is None and all(each)
        else (),
    )


def _only(calibration: Calibration, labels: tuple[str, ...]) -> Calibration:
    """Of these labels."""
    findings = {name: one for name, one in calibration.findings.items() if name in labels}
    return calibration.model_copy(update={"findings": findings})


class Whole(nn.Module):
    """films_BHW uint8 -> the tensors that `export.MEANINGS` lists, in its order, then `looks` of an average."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.size, self.average = engine.prepared_size, average_of(engine)
        members = torch_members(engine)
        self.members = nn.ModuleList(Member(one, engine) for one in members)
        views = [lines_of(engine.views, self.size, one.window) for one in members]
        self.looks = [(m, _lines(one)) for m, each in enumerate(views) for one in each]
        self.curves = None if engine.own is None else Curves(engine.own, engine.labels)

    def forward(self, films_BHW: Tensor) -> tuple[Tensor, ...]:
        prepared_BSS = resize(films_BHW, self.size)
        looks: list[Look] = []
        for m, lines in self.looks:
            seen_BSS = prepared_BSS if lines is None else prepared_BSS[:, lines[0]][:, :, lines[1]]
            looks.append(self.members[m](seen_BSS))
        first, fusion = looks[0], _mean([look.fusion_BK for look in looks])
        calibrated: tuple[Tensor, ...] = ()
        if self.curves is not None:
            calibrated = (self.curves(fusion),)
        elif all(look.calibrated_BK is not None for look in looks):
            calibrated = (_mean([look.calibrated_BK for look in looks if look.calibrated_BK is not None]),)
        across, down = (count(films_BHW.shape[axis]) / self.size for axis in (2, 1))
        scale_4 = torch.stack([across, down, across, down]).float()
        return (
            _mean([look.global_BK for look in looks]),
            _mean([look.local_BK for look in looks]),
            fusion,
            *calibrated,
            first.box_BR4[:, 0] * scale_4,
            first.out.fallback_B,
            first.out.heat_BHW,
            (first.out.crop_BCHW[:, 0].clamp(0, 1) * 255).round().to(torch.uint8),
            first.out.pooled_global_BD,
            prepared_BSS.to(torch.uint8),
            *((first.box_BR4 * scale_4, first.out.weight_BR) if first.box_BR4.shape[1] > 1 else ()),
            *([] if self.average is None else [torch.stack([look.fusion_BK for look in looks], 1)]),
        )


def _lines(lines: Lines) -> tuple[Tensor, Tensor] | None:
    """None for the plain view, which needs no picking of lines."""
    if all(np.array_equal(one, np.arange(len(one))) for one in lines):
        return None
    return torch.from_numpy(lines[0]), torch.from_numpy(lines[1])


def _mean(each: list[Tensor]) -> Tensor:
    return torch.stack(each).double().mean(0).float() if len(each) > 1 else each[0]


class Look(NamedTuple):
    """What one model says of one view."""

    global_BK: Tensor
    local_BK: Tensor
    fusion_BK: Tensor
    calibrated_BK: Tensor | None
    """None too where the average has a calibration of its own."""
    box_BR4: Tensor
    """In pixels of the prepared film."""
    out: AGCNNOutput


class Member(nn.Module):
    """A model on films as its engine prepares them: B x S x S gray levels -> Look, of the labels of the whole."""

    window_14: Tensor

    def __init__(self, predictor: Predictor, whole: Engine) -> None:
        super().__init__()
        model, size, labels = predictor.model, predictor.prepared_size, whole.labels
        self.model = model
        self.taught = [model.labels.index(label) for label in labels]
        self.every = self.taught == list(range(len(model.labels)))
        views = centre_views(1, size, image_size=model.image_size, resize=model.resize)
        self.register_buffer("window_14", views.window_B4)
        self.view = View(views, size)
        sharp = sharp_size(size, image_size=model.image_size, resize=model.resize)
        self.sharper = bool(sharp) and model.crop_source == "prepared"
        self.sharp = View(views, size, sharp) if self.sharper and not model.attention.window else None
        alone = whole.own is None and whole.calibrated and predictor.calibration is not None
        self.curves = Curves(predictor.calibration, labels) if alone and predictor.calibration else None
        self._views = views

    def forward(self, prepared_BSS: Tensor) -> Look:
        views = Views(self.window_14, self._views.flip_B, self._views.image_size, self._views.side, aligned=True)
        sharp: Tensor | FilmSource | None = None if self.sharp is None else self.sharp(prepared_BSS)
        if self.sharper and sharp is None:
            sharp = FilmSource(prepared_BSS[:, None], views, self.model.attention.window)
        out = self.model(self.view(prepared_BSS), sharp)
        fusion = self._probability(out.fusion_BK)
        return Look(
            self._probability(out.global_BK),
            self._probability(out.local_BK),
            fusion,
            None if self.curves is None else self.curves(fusion),
            map_boxes(out.box_BR4, views, self.model.image_size, to="prepared"),
            out,
        )

    def _probability(self, logit_BK: Tensor) -> Tensor:
        """Of the labels that every model was taught, as the eager engine gives them."""
        return logit_BK.sigmoid() if self.every else logit_BK.sigmoid()[:, self.taught]


class View(nn.Module):
    """The evaluation view as `augment.render` draws it: B x S x S gray levels -> B x 1 x V x V in [0, 1].

    Rendering is linear and separable, so its weights are read off `render` itself, one line of the film at a time.
    """

    weight_VS: Tensor

    def __init__(self, views: Views, size: int, side: int | None = None) -> None:
        super().__init__()
        weight_VS = torch.cat([_weights(views, size, some, side) for some in torch.arange(size).split(16)], dim=1)
        self.start = int(weight_VS[0].argmax())
        self.side = len(weight_VS)
        cut_VS = torch.eye(size)[self.start : self.start + self.side]
        self.cuts = torch.equal(weight_VS, cut_VS)
        """No resampling: the view is a part of the film."""
        self.register_buffer("weight_VS", weight_VS)

    def forward(self, prepared_BSS: Tensor) -> Tensor:
        if self.cuts:
            part = slice(self.start, self.start + self.side)
            view_BVV = prepared_BSS[:, part, part]
        else:
            view_BVV = self.weight_VS @ (prepared_BSS @ self.weight_VS.T)
        return view_BVV[:, None] / 255


def _weights(views: Views, size: int, line_N: Tensor, side: int | None) -> Tensor:
    """What each of these lines of the film adds to each line of the view, V x N."""
    film_N1SS = torch.zeros(len(line_N), 1, size, size, dtype=torch.uint8)
    film_N1SS[torch.arange(len(line_N)), 0, line_N] = 255
    each = Views(
        views.window_B4.expand(len(line_N), 4),
        views.flip_B.expand(len(line_N)),
        views.image_size,
        views.side,
        views.aligned,
    )
    view_N1VV = render(film_N1SS, each, side)
    return view_N1VV[:, 0, :, view_N1VV.shape[-1] // 2].T.contiguous()


class Curves(nn.Module):
    """A Calibration in tensor operations: score_BK float32 -> probability_BK float32; computed in double precision."""

    isotonic_K: Tensor
    logistic_K: Tensor
    slope_K: Tensor
    intercept_K: Tensor
    knot_KM: Tensor
    value_KM: Tensor

    def __init__(self, calibration: Calibration, labels: tuple[str, ...]) -> None:
        super().__init__()
        none = Curve(kind="none")
        curves = [calibration.findings[name].curve if name in calibration.findings else none for name in labels]
        self.kinds = {curve.kind for curve in curves}
        most = max(max((len(curve.knots) for curve in curves), default=0), 2)
        tables = {
            "isotonic_K": np.array([curve.kind == "isotonic" for curve in curves]),
            "logistic_K": np.array([curve.kind in ("temperature", "platt") for curve in curves]),
            "slope_K": np.array([curve.slope for curve in curves]),
            "intercept_K": np.array([curve.intercept for curve in curves]),
            "knot_KM": np.stack([_padded(curve.knots, most) for curve in curves]),
            "value_KM": np.stack([_padded(curve.values, most) for curve in curves]),
        }
        for name, table in tables.items():
            self.register_buffer(name, torch.from_numpy(table))

    def forward(self, score_BK: Tensor) -> Tensor:
        out = score = score_BK.double()
        if self.kinds & {"temperature", "platt"}:
            clipped = score.clamp(EPSILON, 1 - EPSILON)
            logit = clipped.log() - (1 - clipped).log()
            out = torch.where(self.logistic_K, torch.sigmoid(self.slope_K * logit + self.intercept_K), out)
        if "isotonic" in self.kinds:
            out = torch.where(self.isotonic_K, self._interpolated(score), out)
        return out.float()

    def _interpolated(self, score_BK: Tensor) -> Tensor:
        """As np.interp: linear between knots, constant beyond the outermost."""
        knot_1KM, value_1KM = self.knot_KM[None], self.value_KM[None]
        last = self.knot_KM.shape[1] - 1
        at_BK1 = ((knot_1KM <= score_BK[..., None]).sum(-1, keepdim=True) - 1).clamp(0, last - 1)
        shape = (score_BK.shape[0], -1, -1)
        left, right = (knot_1KM.expand(shape).gather(2, at)[..., 0] for at in (at_BK1, at_BK1 + 1))
        low, high = (value_1KM.expand(shape).gather(2, at)[..., 0] for at in (at_BK1, at_BK1 + 1))
        share = ((score_BK - left) / torch.where(right > left, right - left, 1.0)).clamp(0, 1)
        return torch.where(right > left, low + (high - low) * share, high)


def _padded(numbers: tuple[float, ...], length: int) -> np.ndarray:
    """The last number repeated up to `length`; zeros for none."""
    given = numbers or (0.0,)
    return np.array(given + given[-1:] * (length - len(given)), dtype=np.float64)
