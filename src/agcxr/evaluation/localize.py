"""Where the model looks, scored against annotated boxes, beside its floors and its ceiling; and what its crop shows.

docs/localization.md defines every number. Shapes: N cases (a film and a finding with boxes on it, or one such box), T
map thresholds, V = len(boxes.MEASURES), K random maps, R resamples. Frame: boxes are fractions of the film.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from agcxr.data.prepared import Pixels, Prepared, open_prepared
from agcxr.evaluation.boxes import (
    IOU_LEVELS,
    MEASURES,
    Maps,
    ceiling,
    centred,
    covered,
    covered_by_chance,
    inside,
    map_boxes,
    measure,
    measures,
    overlaps,
    prior_map,
)
from agcxr.evaluation.boxes import coverage as cover
from agcxr.evaluation.leak import check_films
from agcxr.evaluation.localization import (
    FLOORS,
    LOOKS,
    MEAN,
    PUBLISHED,
    WHOLE,
    CaseExample,
    Coverage,
    Covered,
    Crops,
    FloorDifference,
    Localization,
    MeasureEstimate,
    Method,
    MethodScore,
    Threshold,
)
from agcxr.evaluation.localize_picture import example_picture
from agcxr.findings import CHESTXRAY14, Findings
from agcxr.inference.maps import FindingMaps, Rectify, place
from agcxr.inference.predictor import Predictor
from agcxr.metrics import Floats, box_area
from agcxr.progress import ProgressBar
from agcxr.proportions import Clustered, against_chance, mean_of, paired
from agcxr.uncertainty import RESAMPLES, mean_over, resample

PICTURE = "localization.png"
GAP_MEASURES = ("iou", "iobb", "hit", "energy", *(f"iou>{level:g}" for level in IOU_LEVELS))
THRESHOLDS: tuple[float, ...] = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""Candidates for a map threshold, as shares of the map's maximum."""
FRAME = 256
"""Maps are drawn on the film at this many pixels a side before they are measured."""
RANDOM_MAPS = 100
MIN_FITTING = 40
"""So many boxed validation cases are needed to choose thresholds there; else the scored films are cross-fitted."""
MAX_FITTING = 400
"""Validation cases used for that, at most."""


def localize(
    run: str | Path | Predictor,
    prepared: str | Path | Prepared,
    split: str = "test",
    *,
    out: str | Path | None = None,
    rectify: Rectify = "minmax",
    batch_size: int = 16,
    resamples: int = RESAMPLES,
    seed: int = 0,
    device: str | None = None,
    allow_leak: bool = False,
    name: str = "",
    picture: bool = True,
    progress: bool = True,
) -> Localization:
    """Score where a run looks on the boxed films of a split; write localization.json and (`picture`) localization.png.

    run: a run folder, model folder, hub id, or a Predictor, whose run is called `name`. out: the folder to write to
    (made if absent); default RUN/evaluation/SPLIT, or nowhere for a Predictor. rectify: see `FindingMaps.on_film`.
    Raises ValueError where the split has no boxes of the model's findings, or those of one patient only; PatientLeak
    where the model was trained on patients of the scored films, unless `allow_leak`.
    """
    predictor = run if isinstance(run, Predictor) else Predictor.from_pretrained(run, device=device)
    data = prepared if isinstance(prepared, Prepared) else open_prepared(prepared)
    chosen = choose_cases(data, split, predictor.findings)
    scored = np.unique([case.row for case in chosen.scored])
    leak = check_films(predictor.model.card, data, scored, split, allow=allow_leak)
    rng, cases = np.random.default_rng(seed), (*chosen.scored, *chosen.fitting)
    folds = folds_of(cases, len(chosen.scored), chosen.extra, rng)
    looks = look_at(predictor, data.images, cases, batch_size=batch_size, rectify=rectify, progress=progress)
    tracks = [track.first(len(chosen.scored)) for track in tracks_of(cases, looks, folds, rng)]
    scores, gaps = summarise(chosen.scored, tracks, resamples, rng, predictor.labels)
    localization = Localization(
        run=name if isinstance(run, Predictor) else Path(run).name,
        split=split,
        rectify=rectify,
        seed=seed,
        resamples=resamples,
        cases=len(chosen.scored),
        films=len({case.row for case in chosen.scored}),
        patients=len({case.patient for case in chosen.scored}),
        grid=looks.grid,
        window=tuple(looks.window_4.tolist()),
        fitted=chosen.fitted_words(),
        left_out=chosen.left_out,
        leak=leak,
        thresholds=tuple(_thresholds(tracks, folds)),
        scores=scores,
        gaps=gaps,
        crops=_crops_of(chosen.scored, looks, predictor.labels),
        examples=examples_of(chosen.scored, tracks, looks, predictor.labels),
        published=PUBLISHED if data.plan.source.collection in (None, "nih") else (),  # they are of the NIH's boxes
    )
    if folder := out or (None if isinstance(run, Predictor) else Path(run) / "evaluation" / split):
        localization.save(Path(folder))
        if picture:
            (Path(folder) / PICTURE).write_bytes(example_picture(localization, predictor, data.images))
    return localization


# --- cases ------------------------------------------------------------------------------------------------------------


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
    cases = []
    for (row, finding), group in in_split.groupby(["row", "finding"], sort=True):
        film = index.iloc[int(row)]
        cases.append(
            Case(
                row=int(row),
                image_id=str(film["image_id"]),
                patient=str(film["patient"]),
                finding=str(finding),
                box_B4=group[["x0", "y0", "x1", "y1"]].to_numpy(np.float64),
            )
        )
    return tuple(cases)


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


# --- what the model's maps reach --------------------------------------------------------------------------------------


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


def look_at(
    predictor: Predictor,
    images: Pixels,
    cases: Sequence[Case],
    *,
    batch_size: int = 16,
    rectify: Rectify = "minmax",
    progress: bool = False,
) -> Looks:
    """Every case's maps, measured at every threshold, batch by batch. images: all prepared films, N x S x S."""
    parts = []
    with ProgressBar(total=len(cases), unit=" boxes", desc="where it looks", disable=not progress) as bar:
        for start in range(0, len(cases), batch_size):
            batch = cases[start : start + batch_size]
            films = np.stack([images[case.row] for case in batch])
            maps = predictor.finding_maps(films, [case.finding for case in batch])
            parts.append(measure_looks(batch, maps, rectify))
            bar.update(len(batch))
    return join_looks(parts)


def measure_looks(cases: Sequence[Case], maps: FindingMaps, rectify: Rectify = "minmax") -> Looks:
    """Measure the maps of as many cases. Raises ValueError if the counts differ or there is none."""
    if not cases or len(cases) != len(maps):
        raise ValueError(f"{len(cases)} cases and {len(maps)} maps were given; expected one map per case, at least one")
    grid = (maps.global_Bhw.shape[1], maps.global_Bhw.shape[2])
    crop_grid = (maps.local_Bhw.shape[1], maps.local_Bhw.shape[2])
    attention = maps.attention_on_film(FRAME, FRAME)
    drawn = [maps.on_film(branch, FRAME, FRAME, rectify) for branch in ("global", "local", "fusion")]
    box_NT4 = [np.stack([map_boxes(heat, THRESHOLDS) for heat in heats]) for heats in drawn]
    at_threshold = [
        np.stack([measure(box_T4, heat, case.box_B4) for box_T4, heat, case in zip(boxes, heats, cases, strict=True)])
        for boxes, heats in zip(box_NT4, drawn, strict=True)
    ]
    view, crop = maps.view_B4, maps.crop_B4
    return Looks(
        attention_NV=np.stack(
            [measure(box, heat, c.box_B4)[0] for box, heat, c in zip(crop, attention, cases, strict=True)]
        ),
        global_NTV=at_threshold[0],
        local_NTV=at_threshold[1],
        fusion_NTV=at_threshold[2],
        fusion_box_NT4=box_NT4[2],
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


def join_looks(parts: Sequence[Looks]) -> Looks:
    """The looks of several batches as one."""
    names = [name for name in Looks.__dataclass_fields__ if name not in ("grid", "window_4")]
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return replace(parts[0], **joined)  # type: ignore[arg-type]


# --- floors -----------------------------------------------------------------------------------------------------------


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
            energy_K = self.share_KP @ cover(case.box_B4, FRAME, FRAME).ravel().astype(np.float32)
            each = measures(iou, iobb, np.repeat(hit_K, thresholds), np.repeat(energy_K, thresholds))
            out.append(each.reshape(count, thresholds, -1).mean(axis=0))
        return np.stack(out)


def measure_prior(cases: Sequence[Case], fitted_on: Sequence[Case]) -> Floats:
    """N x T x V: the centre prior of each case's finding, the mean cover of the boxes in `fitted_on`.

    A finding without a box there takes the mean over all findings' boxes.
    """
    heats = {case.finding: _prior(fitted_on, case.finding) for case in cases}
    box_T4 = {finding: map_boxes(heat, THRESHOLDS) for finding, heat in heats.items()}
    return np.stack([measure(box_T4[case.finding], heats[case.finding], case.box_B4) for case in cases])


def _prior(fitted_on: Sequence[Case], finding: str) -> Maps:
    own = [case.box_B4 for case in fitted_on if case.finding == finding]
    return prior_map(np.concatenate(own or [case.box_B4 for case in fitted_on]), FRAME)


# --- thresholds, chosen on other patients -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Fold:
    """Cases on which thresholds and the prior are fitted, and the others that are then scored with them."""

    fit_N: npt.NDArray[np.bool_]
    score_N: npt.NDArray[np.bool_]
    extra: tuple[Case, ...]
    """More boxes for the prior, of films in neither."""


def folds_of(cases: Sequence[Case], scored: int, extra: Sequence[Case], rng: np.random.Generator) -> tuple[Fold, ...]:
    """The first `scored` cases are scored; the rest are for fitting, and if there are none the scored ones are halved.

    Halves are of patients, drawn by `rng`; each half is scored with what was fitted on the other. Raises ValueError
    where that is impossible: boxes of a single patient.
    """
    at = np.arange(len(cases))
    if scored < len(cases):
        return (Fold(at >= scored, at < scored, tuple(extra)),)
    patients = sorted({case.patient for case in cases})
    if len(patients) < 2:
        raise ValueError(
            f"the boxes to score are of {len(patients)} patient, and map thresholds must be chosen on other patients "
            "than they are scored on; prepare films of at least two patients with boxes"
        )
    half = set(rng.permutation(patients)[: len(patients) // 2].tolist())
    first_N = np.array([case.patient in half for case in cases])
    return Fold(first_N, ~first_N, tuple(extra)), Fold(~first_N, first_N, tuple(extra))


def choose(value_NTV: Floats, finding_N: npt.NDArray[np.str_]) -> int:
    """The threshold with the highest IoU, mean over findings of means over cases; the lowest of several."""
    iou_NT = value_NTV[..., MEASURES.index("iou")]
    mean_FT = np.stack([iou_NT[finding_N == finding].mean(axis=0) for finding in np.unique(finding_N)])
    return int(np.argmax(np.round(mean_FT.mean(axis=0), 12)))


@dataclass(frozen=True, eq=False)
class Track:
    """One method's values on all cases, after the thresholds were chosen; rows that are not scored are NaN."""

    method: Method
    value_NV: Floats
    chosen_N: npt.NDArray[np.int64]
    """Position in THRESHOLDS, -1 where none is used."""
    empty_N: npt.NDArray[np.bool_] | None = None
    """The method's map has no positive value; None for methods that have always one."""

    def first(self, count: int) -> Track:
        """Of the first cases alone."""
        empty_N = None if self.empty_N is None else self.empty_N[:count]
        return Track(self.method, self.value_NV[:count], self.chosen_N[:count], empty_N)


def _at_thresholds(
    method: Method,
    value_NTV: Floats,
    finding_N: npt.NDArray[np.str_],
    folds: Sequence[Fold],
    empty_N: npt.NDArray[np.bool_] | None = None,
) -> Track:
    chosen = np.full(len(value_NTV), -1)
    for fold in folds:
        chosen[fold.score_N] = choose(value_NTV[fold.fit_N], finding_N[fold.fit_N])
    value = value_NTV[np.arange(len(chosen)), chosen]
    return Track(method, np.where(chosen[:, None] >= 0, value, np.nan), chosen, empty_N)


def _fixed(method: Method, value_NV: Floats) -> Track:
    return Track(method, value_NV, np.full(len(value_NV), -1))


def _prior_track(cases: Sequence[Case], finding_N: npt.NDArray[np.str_], folds: Sequence[Fold]) -> Track:
    """The prior is fitted anew in each fold, so its values are too."""
    value = np.full((len(cases), len(MEASURES)), np.nan)
    chosen = np.full(len(cases), -1)
    for fold in folds:
        fit = [case for case, fits in zip(cases, fold.fit_N, strict=True) if fits]
        both = fold.fit_N | fold.score_N
        value_NTV = np.full((len(cases), len(THRESHOLDS), len(MEASURES)), np.nan)
        value_NTV[both] = measure_prior(
            [case for case, used in zip(cases, both, strict=True) if used], [*fit, *fold.extra]
        )
        at = choose(value_NTV[fold.fit_N], finding_N[fold.fit_N])
        value[fold.score_N], chosen[fold.score_N] = value_NTV[fold.score_N, at], at
    return Track("prior", value, chosen)


def tracks_of(
    cases: Sequence[Case], looks: Looks, folds: Sequence[Fold], rng: np.random.Generator
) -> tuple[Track, ...]:
    """Every method in the order of METHODS, on all cases."""
    finding_N = np.array([case.finding for case in cases])
    noise = RandomMaps.draw(looks.grid, looks.window_4, rng)
    return (
        _at_thresholds("random", noise.measure(cases), finding_N, folds),
        _prior_track(cases, finding_N, folds),
        _fixed("attention", looks.attention_NV),
        _at_thresholds("global", looks.global_NTV, finding_N, folds, looks.empty_N3[:, 0]),
        _at_thresholds("local", looks.local_NTV, finding_N, folds, looks.empty_N3[:, 1]),
        _at_thresholds("fusion", looks.fusion_NTV, finding_N, folds, looks.empty_N3[:, 2]),
        _fixed("ceiling", looks.ceiling_NV),
        _fixed("ceiling-crop", looks.ceiling_crop_NV),
    )


def _thresholds(tracks: Sequence[Track], folds: Sequence[Fold]) -> Iterator[Threshold]:
    for track in tracks:
        for fold in folds:
            at = int(track.chosen_N[np.flatnonzero(fold.score_N)[0]])
            if at >= 0:
                yield Threshold(
                    method=track.method,
                    value=THRESHOLDS[at],
                    fitted_on=int(fold.fit_N.sum()),
                    used_for=int(fold.score_N.sum()),
                )


# --- means with their intervals ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class CaseGroup:
    """The cases of a finding, or all of them for the mean over findings, which weighs findings alike."""

    finding: str
    cases: tuple[Case, ...]
    mine_N: npt.NDArray[np.bool_]
    sample: Clustered
    patients: int
    """On whom it rests; for the mean those of the finding that has the fewest."""

    @classmethod
    def of(cls, cases: Sequence[Case], finding: str, patients: int) -> CaseGroup:
        mine_N = np.array([finding in (case.finding, MEAN) for case in cases])
        own = tuple(case for case, fits in zip(cases, mine_N, strict=True) if fits)
        sample = Clustered.of([case.patient for case in own], [case.finding for case in own])
        return cls(finding, own, mine_N, sample, patients)


def _replicates(
    tracks: Sequence[Track],
    groups: Sequence[CaseGroup],
    patients: Sequence[str],
    resamples: int,
    rng: np.random.Generator,
) -> dict[Method, list[Floats]]:
    """R x V means of every method on the resamples: one a finding and, last, their mean; NaN where one is missing."""

    def means(weight_Nr: Floats) -> list[Floats]:
        """V x r of every finding and method."""
        out = []
        for group in groups[:-1]:
            weight_rN = weight_Nr[group.mine_N].T
            total_r1 = weight_rN.sum(axis=1, keepdims=True)
            share_rN = np.divide(weight_rN, total_r1, where=total_r1 > 0, out=np.full_like(weight_rN, np.nan))
            out += [(share_rN @ track.value_NV[group.mine_N]).T for track in tracks]
        return out

    means_RV = [each_VR.T for each_VR in resample(means, patients, resamples, rng)]
    by_method = {track.method: means_RV[at :: len(tracks)] for at, track in enumerate(tracks)}
    return {method: [*each, mean_over(np.stack(each))] for method, each in by_method.items()}


def summarise(
    cases: Sequence[Case],
    tracks: Sequence[Track],
    resamples: int,
    rng: np.random.Generator,
    labels: Sequence[str] = CHESTXRAY14.labels,
) -> tuple[tuple[MethodScore, ...], tuple[FloorDifference, ...]]:
    """Scores of every method and finding and their paired differences from the floors; values of scored cases only."""
    names = {case.finding for case in cases}
    findings = [label for label in labels if label in names]
    rests_on = [len({case.patient for case in cases if case.finding == finding}) for finding in findings]
    groups = [CaseGroup.of(cases, *each) for each in zip([*findings, MEAN], [*rests_on, min(rests_on)], strict=True)]
    replicates = _replicates(tracks, groups, [case.patient for case in cases], resamples, rng)
    by_method = {track.method: track for track in tracks}
    scores, gaps = [], []
    for at, group in enumerate(groups):
        scores += [_score(track, group, replicates[track.method][at]) for track in tracks]
        gaps += [
            _gap(by_method[method], by_method[floor], group, measure, replicates[method][at] - replicates[floor][at])
            for method in LOOKS
            for floor in FLOORS
            for measure in GAP_MEASURES
        ]
    return tuple(scores), tuple(gaps)


def _score(track: Track, group: CaseGroup, replicate_RV: Floats) -> MethodScore:
    measured = []
    for v, name in enumerate(MEASURES):
        value_N = track.value_NV[group.mine_N, v]
        estimate = mean_of(value_N, group.sample, replicate_RV[:, v], patients=group.patients)
        measured.append(MeasureEstimate(name=name, **estimate.model_dump(exclude={"left_out"})))
    return MethodScore(
        method=track.method,
        finding=group.finding,
        cases=len(group.cases),
        films=len({case.row for case in group.cases}),
        patients=len({case.patient for case in group.cases}),
        empty=0 if track.empty_N is None else int(track.empty_N[group.mine_N].sum()),
        measures=tuple(measured),
    )


def _gap(track: Track, floor: Track, group: CaseGroup, measure: str, replicate_RV: Floats) -> FloorDifference:
    """Random maps are chance; the prior is another method, which hits or misses as the looks do."""
    v = MEASURES.index(measure)
    mine_N, theirs_N = track.value_NV[group.mine_N, v], floor.value_NV[group.mine_N, v]
    if floor.method == "random":
        gap = against_chance(mine_N, theirs_N, group.sample, replicate_RV[:, v], patients=group.patients)
    else:
        gap = paired(mine_N - theirs_N, group.sample, replicate_RV[:, v], patients=group.patients)
    return FloorDifference(
        method=track.method,
        floor=floor.method,
        finding=group.finding,
        measure=measure,
        **gap.model_dump(),
    )


def _crops(finding: str, area: Floats, fallback: npt.NDArray[np.bool_]) -> Crops:
    low, median, high = np.quantile(area, [0.05, 0.5, 0.95])
    return Crops(
        finding=finding,
        films=len(area),
        area=float(area.mean()),
        area_low=float(low),
        area_median=float(median),
        area_high=float(high),
        fallbacks=int(fallback.sum()),
    )


def _crops_of(cases: Sequence[Case], looks: Looks, labels: Sequence[str]) -> tuple[Crops, ...]:
    """Of the scored cases, which come first in `looks`."""
    finding_N = np.array([case.finding for case in cases])
    area_N, fallback_N = looks.area_N[: len(cases)], looks.fallback_N[: len(cases)]
    each = [(label, finding_N == label) for label in labels if label in finding_N]
    _, once = np.unique([case.row for case in cases], return_index=True)
    return (
        *(_crops(label, area_N[m], fallback_N[m]) for label, m in each),
        _crops(MEAN, area_N[once], fallback_N[once]),
    )


def examples_of(
    cases: Sequence[Case], tracks: Sequence[Track], looks: Looks, labels: Sequence[str]
) -> tuple[CaseExample, ...]:
    """Per finding the case with the best, the (lower) median and the worst IoU of the fusion map's box."""
    fusion = next(track for track in tracks if track.method == "fusion")
    iou, finding_N = fusion.value_NV[:, MEASURES.index("iou")], np.array([case.finding for case in cases])
    examples = []
    for finding in (label for label in labels if label in finding_N):
        own = np.flatnonzero(finding_N == finding)
        order = own[np.argsort(-iou[own], kind="stable")]
        for rank, at in (("best", order[0]), ("median", order[len(order) // 2]), ("worst", order[-1])):
            box = looks.fusion_box_NT4[at, fusion.chosen_N[at]]
            examples.append(
                CaseExample.model_validate(
                    {
                        "rank": rank,
                        "finding": finding,
                        "image_id": cases[at].image_id,
                        "row": cases[at].row,
                        "iou": float(iou[at]),
                        "found": tuple(box.tolist()),
                        "annotated": tuple(tuple(b) for b in cases[at].box_B4.tolist()),
                    }
                )
            )
    return tuple(examples)


# --- what the crop shows ----------------------------------------------------------------------------------------------


def coverage(
    predictions: pd.DataFrame, boxes: pd.DataFrame, window_4: Floats, *, resamples: int = RESAMPLES, seed: int = 0
) -> Coverage:
    """Measure the attended boxes of predictions.parquet on the annotated boxes (boxes.parquet) of the same films.

    Raises ValueError where none of the films has a box.
    """
    cases = boxes.merge(predictions, on="row", suffixes=("", "_predicted"))
    if cases.empty:
        raise ValueError("none of the predicted films has an annotated box")
    crop = cases[["box_x0", "box_y0", "box_x1", "box_y1"]].to_numpy(np.float64)
    annotated = cases[["x0", "y0", "x1", "y1"]].to_numpy(np.float64)
    share_3N = np.stack(
        [
            covered(crop, annotated),
            covered_by_chance(crop, annotated, window_4),
            covered(centred(crop, window_4), annotated),
        ]
    ).round(12)  # equal boxes are no difference, whatever the last bits of their edges
    patient, finding = cases["patient"].astype(str).to_numpy(), cases["finding"].to_numpy()
    order = [str(name).removeprefix("label_") for name in predictions]
    names = sorted(set(finding), key=lambda name: (order.index(name) if name in order else len(order), name))

    def gaps_of(weight_NR: Floats) -> list[Floats]:
        """2 x R of every finding: coverage minus chance, and minus the centre."""
        out = []
        for some in (finding == name for name in names):
            total_R = weight_NR[some].sum(axis=0)
            gap_2R = (share_3N[0] - share_3N[1:])[:, some] @ weight_NR[some]
            out.append(np.divide(gap_2R, total_R, where=total_R > 0, out=np.full_like(gap_2R, np.nan)))
        return out

    gaps = resample(gaps_of, patient, resamples, np.random.default_rng(seed))
    rows = []
    for name, gap_2R in zip(names, gaps, strict=True):
        some = finding == name
        rows.append(_row(name, share_3N[:, some], Clustered.of(patient[some]), gap_2R))
    fewest = min(row.patients for row in rows)
    whole = _row(WHOLE, share_3N, Clustered.of(patient, finding), mean_over(np.stack(gaps)), fewest)
    return Coverage(resamples=resamples, rows=(*rows, whole))


def _row(name: str, share_3N: Floats, sample: Clustered, gap_2R: Floats, fewest: int | None = None) -> Covered:
    """share_3N: coverage, chance, centre of every box; gap_2R: coverage minus each floor on every resample. `fewest`:
    patients of the finding that has the fewest, for the mean."""
    patients = sample.clusters if fewest is None else fewest
    luck = against_chance(share_3N[0], share_3N[1], sample, gap_2R[0], patients=patients)
    centre = paired(share_3N[0] - share_3N[2], sample, gap_2R[1], patients=patients)
    mean_3 = [sample.mean(share_N) for share_N in share_3N]
    return Covered(
        finding=name,
        boxes=share_3N.shape[1],
        patients=sample.clusters,
        coverage=mean_3[0],
        chance=mean_3[1],
        gap=luck.value,
        gap_low=luck.low,
        gap_high=luck.high,
        p=luck.p,
        left_out=luck.left_out,
        centre=mean_3[2],
        centre_gap=centre.value,
        centre_gap_low=centre.low,
        centre_gap_high=centre.high,
        centre_p=centre.p,
    )
