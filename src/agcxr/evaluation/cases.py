"""Boxed findings as cases, and every method measured on them at every map threshold; nothing is chosen here.

Shapes: N cases (a film and a finding that has boxes on it); T map thresholds; V = len(boxes.MEASURES); K random maps;
B boxes of a case. Frame: boxes are fractions of the film.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from agcxr.data.prepared import Prepared
from agcxr.evaluation.boxes import (
    Maps,
    ceiling,
    coverage,
    energy,
    hit,
    inside,
    map_boxes,
    measure_map,
    measures,
    overlaps,
    prior_map,
)
from agcxr.findings import Findings
from agcxr.inference.maps import FindingMaps, Rectify, place
from agcxr.metrics import Floats, box_area

THRESHOLDS: tuple[float, ...] = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""Candidates for a map threshold, as shares of the map's maximum."""
FRAME = 256
"""Maps are drawn on the film at this many pixels a side before they are measured."""
RANDOM_MAPS = 100
MIN_FITTING = 40
"""So many boxed validation cases are needed to choose thresholds there; else the scored films are cross-fitted."""
MAX_FITTING = 400
"""Validation cases used for that, at most."""


@dataclass(frozen=True, eq=False)
class Case:
    """A finding on a film, with its annotated boxes B x 4 as fractions of the film."""

    row: int
    image_id: str
    patient: str
    finding: str
    box_B4: Floats


def cases_of(boxes: pd.DataFrame, index: pd.DataFrame, split: str) -> tuple[Case, ...]:
    """The cases of a split, by row and then finding. boxes, index: as in a prepared folder."""
    in_split = boxes[index["split"].to_numpy()[boxes["row"].to_numpy()] == split]
    found = []
    for (row, finding), group in in_split.groupby(["row", "finding"], sort=True):
        film = index.iloc[int(row)]
        found.append(
            Case(
                row=int(row),
                image_id=str(film["image_id"]),
                patient=str(film["patient"]),
                finding=str(finding),
                box_B4=group[["x0", "y0", "x1", "y1"]].to_numpy(np.float64),
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class ChosenCases:
    """Which boxes are used for what."""

    scored: tuple[Case, ...]
    fitting: tuple[Case, ...]
    """Validation cases for thresholds and the prior; empty: the scored ones are cross-fitted."""
    extra: tuple[Case, ...]
    """Cases of other patients' films, for the prior only (the model may have trained on these films)."""
    left_out: tuple[str, ...]

    def fitted_words(self) -> str:
        """On which films thresholds and the prior are fitted."""
        if self.fitting:
            what = f"{len(self.fitting):,} boxed findings of validation films"
        else:
            what = "the other half of the patients of the scored films (two-fold cross-fitting)"
        return what + (f"; the prior also on {len(self.extra):,} of other patients' films" if self.extra else "")


def choose_cases(data: Prepared, split: str, findings: Findings) -> ChosenCases:
    """Cases of a split to score, and those of other patients to fit on; of the model's findings, by what boxes mean.
    Raises ValueError for nothing to score."""
    boxes, labels = data.boxes_of(findings), findings.labels

    def of(part: str) -> list[Case]:
        return [case for case in cases_of(boxes, data.index, part) if case.finding in labels]

    scored = of(split)
    if not scored:
        raise ValueError(
            f"no film of the {split} split of {data.folder} has a box of a finding that the model knows; "
            "prepare with --boxes, or choose another split"
        )
    every = cases_of(boxes, data.index, split)
    unknown = sorted({case.finding for case in every} - set(labels))
    left_out = tuple(
        f"{sum(case.finding == f for case in every)} cases of {f}, which the model does not know" for f in unknown
    )
    patients = {case.patient for case in scored}
    others = {part: [c for c in of(part) if c.patient not in patients] for part in ("train", "val") if part != split}
    validation = others.get("val", [])
    fitting = validation[:: max(1, -(-len(validation) // MAX_FITTING))]
    if len(fitting) < MIN_FITTING:
        return ChosenCases(tuple(scored), (), tuple(c for part in others.values() for c in part), left_out)
    return ChosenCases(tuple(scored), tuple(fitting), tuple(others.get("train", [])), left_out)


@dataclass(frozen=True, eq=False)
class Looks:
    """What the model's maps and boxes reach on N cases, and what its grids could at best."""

    attention_NV: Floats
    global_NTV: Floats
    local_NTV: Floats
    fusion_NTV: Floats
    fusion_box_NT4: Floats
    ceiling_NV: Floats
    ceiling_crop_NV: Floats
    empty_N3: npt.NDArray[np.bool_]
    """The global, local and fusion map is 0 everywhere: constant, or (relu) without evidence for the finding."""
    area_N: Floats
    """Of the attention box, as a share of the film."""
    fallback_N: npt.NDArray[np.bool_]
    grid: tuple[int, int]
    window_4: Floats


def measure_looks(cases: Sequence[Case], maps: FindingMaps, rectify: Rectify = "minmax") -> Looks:
    """Measure the maps of as many cases. Raises ValueError if the counts differ or there is none."""
    if not cases or len(cases) != len(maps):
        raise ValueError(f"{len(cases)} cases and {len(maps)} maps were given; expected one map per case, at least one")
    grid = (maps.global_Bhw.shape[1], maps.global_Bhw.shape[2])
    crop_grid = (maps.local_Bhw.shape[1], maps.local_Bhw.shape[2])
    attention = maps.attention_on_film(FRAME, FRAME)
    drawn = [maps.on_film(branch, FRAME, FRAME, rectify) for branch in ("global", "local", "fusion")]
    at_threshold = [
        np.stack([measure_map(heat, case.box_B4, THRESHOLDS) for heat, case in zip(heats, cases, strict=True)])
        for heats in drawn
    ]
    view, crop = maps.view_B4, maps.crop_B4
    return Looks(
        attention_NV=np.stack(
            [_measure_box(box, heat, c) for box, heat, c in zip(crop, attention, cases, strict=True)]
        ),
        global_NTV=at_threshold[0],
        local_NTV=at_threshold[1],
        fusion_NTV=at_threshold[2],
        fusion_box_NT4=np.stack([map_boxes(heat, THRESHOLDS) for heat in drawn[2]]),
        ceiling_NV=np.stack([ceiling(c.box_B4, grid, frame, FRAME) for c, frame in zip(cases, view, strict=True)]),
        ceiling_crop_NV=np.stack(
            [ceiling(c.box_B4, crop_grid, frame, FRAME) for c, frame in zip(cases, crop, strict=True)]
        ),
        empty_N3=np.stack([~(heats.max(axis=(1, 2)) > 0) for heats in drawn], axis=1),
        area_N=box_area(crop),
        fallback_N=maps.fallback_B,
        grid=grid,
        window_4=view[0],
    )


def _measure_box(box_4: Floats, heat_HW: Maps, case: Case) -> Floats:
    """V numbers of a box that needs no threshold of ours, and of the map it came from: the attention."""
    iou, iobb = overlaps(box_4, case.box_B4)
    height, width = heat_HW.shape
    pointed = hit(heat_HW, inside(case.box_B4, height, width))
    return measures(iou, iobb, pointed, energy(heat_HW, coverage(case.box_B4, height, width)))[0]


def join_looks(parts: Iterable[Looks]) -> Looks:
    """The looks of several batches as one."""
    every = list(parts)

    def joined(name: str) -> npt.NDArray[np.generic]:
        return np.concatenate([getattr(part, name) for part in every])

    arrays = {name: joined(name) for name in Looks.__dataclass_fields__ if name not in ("grid", "window_4")}
    return Looks(**arrays, grid=every[0].grid, window_4=every[0].window_4)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class RandomMaps:
    """K maps of noise on the model's grid, drawn as the model's own maps are, with their boxes at every threshold."""

    share_KP: Maps
    """Each map over all P pixels of the frame, its sum brought to 1."""
    peak_KP: Maps
    """1 / n on each of a map's n highest pixels."""
    box_KT4: Floats

    @classmethod
    def draw(
        cls, grid: tuple[int, int], window_4: Floats, rng: np.random.Generator, count: int = RANDOM_MAPS
    ) -> RandomMaps:
        """Uniform noise in [0, 1) on every cell, bilinear between them, 0 outside the window."""
        heat_KHW = place(rng.random((count, *grid)), np.tile(window_4, (count, 1)), FRAME, FRAME)
        flat = heat_KHW.reshape(count, -1)
        peak = (flat == flat.max(axis=1, keepdims=True)).astype(np.float32)
        return cls(
            share_KP=flat / flat.sum(axis=1, keepdims=True),
            peak_KP=peak / peak.sum(axis=1, keepdims=True),
            box_KT4=np.stack([map_boxes(heat, THRESHOLDS) for heat in heat_KHW]),
        )

    def measure(self, cases: Sequence[Case]) -> Floats:
        """N x T x V: the expectation over the K maps, of every measure, on every case."""
        count, thresholds = self.box_KT4.shape[:2]
        out = []
        for case in cases:
            iou, iobb = overlaps(self.box_KT4.reshape(-1, 4), case.box_B4)
            hit_K = self.peak_KP @ inside(case.box_B4, FRAME, FRAME).ravel().astype(np.float32)
            energy_K = self.share_KP @ coverage(case.box_B4, FRAME, FRAME).ravel().astype(np.float32)
            each = measures(iou, iobb, np.repeat(hit_K, thresholds), np.repeat(energy_K, thresholds))
            out.append(each.reshape(count, thresholds, -1).mean(axis=0))
        return np.stack(out)


def measure_prior(cases: Sequence[Case], fitted_on: Sequence[Case]) -> Floats:
    """N x T x V: the centre prior of each case's finding, the mean cover of the boxes in `fitted_on`.

    A finding without a box there takes the mean over all findings' boxes.
    """
    heats = {case.finding: _prior(fitted_on, case.finding) for case in cases}
    box_T4 = {finding: map_boxes(heat, THRESHOLDS) for finding, heat in heats.items()}
    out = []
    for case in cases:
        heat = heats[case.finding]
        iou, iobb = overlaps(box_T4[case.finding], case.box_B4)
        pointed = hit(heat, inside(case.box_B4, FRAME, FRAME))
        out.append(measures(iou, iobb, pointed, energy(heat, coverage(case.box_B4, FRAME, FRAME))))
    return np.stack(out)


def _prior(fitted_on: Sequence[Case], finding: str) -> Maps:
    own = [case.box_B4 for case in fitted_on if case.finding == finding]
    return prior_map(np.concatenate(own or [case.box_B4 for case in fitted_on]), FRAME)
