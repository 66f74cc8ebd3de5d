"""Where the model looks, scored against annotated boxes, beside its floors and its ceiling: localization.json.

docs/localization.md defines every number. Shapes: N cases (a film and a finding with boxes on it), T map thresholds,
V = len(boxes.MEASURES), R resamples. Frame: boxes are fractions of the film.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agcxr.data.prepared import Pixels, Prepared, open_prepared
from agcxr.evaluation.boxes import IOU_LEVELS, MEASURES
from agcxr.evaluation.cases import (
    THRESHOLDS,
    Case,
    Looks,
    RandomMaps,
    choose_cases,
    join_looks,
    measure_looks,
    measure_prior,
)
from agcxr.evaluation.leak import check_films
from agcxr.evaluation.localization import (
    FLOORS,
    LOOKS,
    MEAN,
    PUBLISHED,
    CaseExample,
    Crops,
    FloorDifference,
    Localization,
    MeasureEstimate,
    Method,
    Score,
    Threshold,
)
from agcxr.evaluation.localize_picture import example_picture
from agcxr.findings import CHESTXRAY14
from agcxr.inference.maps import Rectify
from agcxr.inference.predictor import Predictor
from agcxr.metrics import Floats
from agcxr.progress import ProgressBar
from agcxr.proportions import Clustered, against_chance, mean_of, paired
from agcxr.uncertainty import RESAMPLES, mean_over, resample

LOCALIZATION = "localization.json"
PICTURE = "localization.png"
GAP_MEASURES = ("iou", "iobb", "hit", "energy", *(f"iou>{level:g}" for level in IOU_LEVELS))


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
    rng = np.random.default_rng(seed)
    cases = (*chosen.scored, *chosen.fitting)
    folds = folds_of(cases, len(chosen.scored), chosen.extra, rng)
    looks = look_at(predictor, data.images, cases, batch_size=batch_size, rectify=rectify, progress=progress)
    tracks = [_first(track, len(chosen.scored)) for track in tracks_of(cases, looks, folds, rng)]
    scores, gaps = summarise(chosen.scored, tracks, resamples, rng, predictor.labels)
    found = Localization(
        run=name if isinstance(run, Predictor) else Path(run).name,
        split=split,
        rectify=rectify,
        seed=seed,
        resamples=resamples,
        cases=len(chosen.scored),
        films=len({case.row for case in chosen.scored}),
        patients=len({case.patient for case in chosen.scored}),
        grid=looks.grid,
        window=_four(looks.window_4),
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
    if folder := _folder(run, split, out):
        _write(found, folder, example_picture(found, predictor, data.images) if picture else None)
    return found


def _folder(run: str | Path | Predictor, split: str, out: str | Path | None) -> Path | None:
    if out:
        return Path(out)
    return None if isinstance(run, Predictor) else Path(run) / "evaluation" / split


def _write(found: Localization, folder: Path, picture: bytes | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if picture is not None:
        (folder / PICTURE).write_bytes(picture)
    found.save(folder / LOCALIZATION)


def _first(track: Track, count: int) -> Track:
    empty_N = None if track.empty_N is None else track.empty_N[:count]
    return Track(track.method, track.value_NV[:count], track.chosen_N[:count], empty_N)


def _four(box_4: Floats) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(v) for v in box_4)
    return x0, y0, x1, y1


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
        own = tuple(case for case, mine in zip(cases, mine_N, strict=True) if mine)
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

    found = [each_VR.T for each_VR in resample(means, patients, resamples, rng)]
    by_method = {track.method: found[at :: len(tracks)] for at, track in enumerate(tracks)}
    return {method: [*each, mean_over(np.stack(each))] for method, each in by_method.items()}


def summarise(
    cases: Sequence[Case],
    tracks: Sequence[Track],
    resamples: int,
    rng: np.random.Generator,
    labels: Sequence[str] = CHESTXRAY14.labels,
) -> tuple[tuple[Score, ...], tuple[FloorDifference, ...]]:
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


def _score(track: Track, group: CaseGroup, replicate_RV: Floats) -> Score:
    measured = []
    for v, name in enumerate(MEASURES):
        value_N = track.value_NV[group.mine_N, v]
        found = mean_of(value_N, group.sample, replicate_RV[:, v], patients=group.patients)
        measured.append(MeasureEstimate(name=name, **found.model_dump(exclude={"left_out"})))
    return Score(
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
        found = against_chance(mine_N, theirs_N, group.sample, replicate_RV[:, v], patients=group.patients)
    else:
        found = paired(mine_N - theirs_N, group.sample, replicate_RV[:, v], patients=group.patients)
    return FloorDifference(
        method=track.method,
        floor=floor.method,
        finding=group.finding,
        measure=measure,
        **found.model_dump(),
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
    found = []
    for finding in (label for label in labels if label in finding_N):
        mine = np.flatnonzero(finding_N == finding)
        order = mine[np.argsort(-iou[mine], kind="stable")]
        for rank, at in (("best", order[0]), ("median", order[len(order) // 2]), ("worst", order[-1])):
            box = looks.fusion_box_NT4[at, fusion.chosen_N[at]]
            found.append(
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
    return tuple(found)


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
