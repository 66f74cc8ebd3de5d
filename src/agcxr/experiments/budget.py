"""The same arithmetic, spent on more pixels everywhere or on more pixels where it matters: the group `budget`.

Its arms are answers, each a branch of a run: the method and its controls (random, centre and annotated places), the
whole view at the side that costs as much, two networks on the whole view, and longer training. The comparisons of
PLANNED are fixed here, before any run, and their p values corrected for their number (Holm).

Shapes: N films, S seeds, R resamples, K crops, 4 a box (x0, y0, x1, y1) as fractions of the film.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from agcxr.data.prepared import Prepared
from agcxr.evaluation.analysis import Scores
from agcxr.evaluation.boxes import coverage, hit, inside, prior_map
from agcxr.experiments.ablation import (
    BudgetArm,
    BudgetBin,
    BudgetStudy,
    Draws,
    Floors,
    Measure,
    Planned,
    Sampled,
    SeedDifference,
    sample,
    usable,
)
from agcxr.experiments.ablation_size import bins
from agcxr.experiments.controls import LARGER, LONGER, REFERENCE, TWICE
from agcxr.inference.prediction import Branch
from agcxr.inference.stream import BatchPrediction
from agcxr.metrics import Floats
from agcxr.uncertainty import Estimate

SMALL = "Nodule"
"""The finding whose signs are small (up to 3 cm), and whose places are annotated on films with and without it."""
FRAME = 512
"""Side of the grid on which covers of a film are counted."""
ORACLE = "oracle"
LOOKS = ("crop_share", "peak_hit")
"""Columns of predictions that say where crops and peaks lie."""


@dataclass(frozen=True)
class Comparison:
    """One planned comparison: an arm minus another one. on: AUROC of the small finding, or the mean over all."""

    asks: str
    arm: str
    against: str
    on: Measure = "small"


PLANNED: tuple[Comparison, ...] = (
    Comparison("more pixels where it matters, or everywhere?", REFERENCE, LARGER),
    Comparison("and over all findings?", REFERENCE, LARGER, "all"),
    Comparison("can these films answer at all?", ORACLE, LARGER),
    Comparison("does the place matter?", REFERENCE, "random"),
    Comparison("is it better than the centre?", REFERENCE, "centre"),
    Comparison("is it more than a second network?", REFERENCE, TWICE),
    Comparison("is it more than longer training?", REFERENCE, LONGER),
)


@dataclass(frozen=True)
class ArmAnswers:
    """What an arm said: a frame of predictions a seed, and the branch that counts."""

    name: str
    folder: str
    branch: Branch
    changes: tuple[str, ...]
    side: int
    operations: int
    steps: float
    frames: tuple[pd.DataFrame, ...]
    scores: tuple[Scores, ...]

    @property
    def looks(self) -> bool:
        """Whether it has crops that lie somewhere."""
        return self.branch == "fusion" and self.name != TWICE

    @property
    def own(self) -> tuple[Scores, ...]:
        """The scores of its branch alone."""
        b = self.scores[0].branches.index(self.branch)
        return tuple(replace(one, branches=(self.branch,), score_BNK=one.score_BNK[b : b + 1]) for one in self.scores)


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """Holm's corrected p values, in the order given; NaN stays, and counts for nothing."""
    known = sorted((value, i) for i, value in enumerate(p) if value == value)
    out, highest = [float("nan")] * len(p), 0.0
    for rank, (value, i) in enumerate(known):
        highest = max(highest, min(1.0, (len(known) - rank) * value))
        out[i] = highest
    return tuple(out)


def check(films: Prepared, split: str) -> None:
    """Raises ValueError where the films of a part cannot be compared on the small finding: before hours of training."""
    here = films.index[films.index["split"] == split]
    if SMALL not in films.findings.names or not {0.0, 1.0} <= set(here[SMALL].dropna()):
        raise ValueError(
            f"the budget is compared on {SMALL}, and the part {split!r} of {films.folder} has no films that are known "
            "to have it and others that are known not to; leave `budget` out of --only"
        )


def budget_study(
    answers: Sequence[ArmAnswers], films: Prepared, lesions: pd.DataFrame | None, draws: Draws
) -> BudgetStudy:
    """Compare the answers on the same films. lesions: the phantom's, for the ranges of diameter."""
    first, (floors, prior_N) = answers[0].scores[0], _floors(films, answers[0].frames[0])
    small = [first.labels.index(SMALL)]
    sampled = {
        one.name: {"small": sample(one.own, small, draws), "all": sample(one.own, usable(first)[0], draws)}
        for one in answers
    }
    looked = {one.name: _looked(one, films) for one in answers if one.looks and floors is not None}
    planned = _planned(sampled, draws)
    return BudgetStudy(
        finding=SMALL,
        arms=tuple(_arm(one, sampled, looked.get(one.name), draws) for one in answers),
        planned=planned,
        bins=() if lesions is None else _bins(answers, lesions, draws),
        share_of_oracle=_share(sampled, draws) if ORACLE in sampled else None,
        crop_gaps={
            name: looked[REFERENCE].minus(looked[REFERENCE].share_SN, other.share_SN, draws)
            for name, other in looked.items()
            if name != REFERENCE
        },
        peak_gap=None
        if floors is None or np.isnan(floors.prior)
        else looked[REFERENCE].minus(looked[REFERENCE].hit_SN, prior_N[None], draws),
        place_alone=None if films.places is None else place_alone(films, answers[0].frames[0], draws),
        floors=floors,
    )


def _gap(one: Sampled, other: Sampled, draws: Draws) -> SeedDifference:
    return draws.paired(
        one.value_SB[:, 0] - other.value_SB[:, 0], one.replicate_SBR[:, 0] - other.replicate_SBR[:, 0], one.patients
    )


def _planned(sampled: Mapping[str, Mapping[str, Sampled]], draws: Draws) -> tuple[Planned, ...]:
    """Those whose arms were run."""
    plans = [plan for plan in PLANNED if {plan.arm, plan.against} <= set(sampled)]
    gaps = [_gap(sampled[plan.arm][plan.on], sampled[plan.against][plan.on], draws) for plan in plans]
    corrected = holm([gap.p for gap in gaps])
    return tuple(
        Planned(asks=plan.asks, arm=plan.arm, against=plan.against, on=plan.on, gap=gap, p_holm=p)
        for plan, gap, p in zip(plans, gaps, corrected, strict=True)
    )


def _arm(
    one: ArmAnswers, sampled: Mapping[str, Mapping[str, Sampled]], looked: Looked | None, draws: Draws
) -> BudgetArm:
    def estimate(on: str) -> Estimate:
        own = sampled[one.name][on]
        return draws.interval(own.value_SB[:, 0], own.replicate_SBR[:, 0], own.patients)

    return BudgetArm(
        name=one.name,
        folder=one.folder,
        branch=one.branch,
        changes=one.changes,
        side=one.side,
        operations=one.operations,
        steps=one.steps,
        small=estimate("small"),
        overall=estimate("all"),
        small_gap=_gap(sampled[one.name]["small"], sampled[LARGER]["small"], draws),
        overall_gap=_gap(sampled[one.name]["all"], sampled[LARGER]["all"], draws),
        crop_share=None if looked is None else looked.estimate(looked.share_SN, draws),
        peak_hit=None
        if looked is None or not one.name.startswith(REFERENCE)
        else looked.estimate(looked.hit_SN, draws),
    )


def _bins(answers: Sequence[ArmAnswers], lesions: pd.DataFrame, draws: Draws) -> tuple[BudgetBin, ...]:
    first = answers[0].scores[0]
    column = first.labels.index(SMALL)
    found = []
    for one in bins(answers[0].frames[0]["image_id"].tolist(), first.labels, first.target_NK, lesions, [SMALL]):
        sampled = {}
        for answer in answers:
            only = [
                replace(
                    scores,
                    labels=(SMALL,),
                    target_NK=one.target_N[:, None],
                    score_BNK=scores.score_BNK[:, :, column : column + 1],
                )
                for scores in answer.own
            ]
            sampled[answer.name] = sample(only, [0], draws)
        for name, own in sampled.items():
            auroc = draws.interval(own.value_SB[:, 0], own.replicate_SBR[:, 0], own.patients)
            gap = _gap(own, sampled[LARGER], draws)
            found.append(
                BudgetBin(low_cm=one.low_cm, high_cm=one.high_cm, films=one.films, arm=name, auroc=auroc, gap=gap)
            )
    return tuple(found)


def _share(sampled: Mapping[str, Mapping[str, Sampled]], draws: Draws) -> Estimate:
    """Of the mean over the seeds, with the percentiles of the ratio over the resamples of the patients."""
    value, replicate_R = (
        {name: getattr(sampled[name]["small"], field).mean(0)[0] for name in (REFERENCE, LARGER, ORACLE)}
        for field in ("value_SB", "replicate_SBR")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, ratio_R = ((one[REFERENCE] - one[LARGER]) / (one[ORACLE] - one[LARGER]) for one in (value, replicate_R))
    tail = 50 * (1 - draws.level)
    low, high = np.nanpercentile(ratio_R, [tail, 100 - tail])
    return Estimate(value=float(ratio), low=float(low), high=float(high))


def place_alone(films: Prepared, frame: pd.DataFrame, draws: Draws) -> Estimate:
    """How well boosted trees, fitted on the training films, tell the frame's by their places alone. These follow from
    the drawing of the patient; `frame`: predictions, of other patients."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # a second to import

    assert films.places is not None
    by_row = films.places.groupby("row")[["x0", "y0", "x1", "y1"]]
    place_N4 = by_row.first().reindex(films.index.index)
    side_N2 = place_N4[["x1", "y1"]].to_numpy() - place_N4[["x0", "y0"]].to_numpy()
    number_N = by_row.size().reindex(films.index.index, fill_value=0).to_numpy()
    fact_NF = np.column_stack([place_N4.to_numpy(), side_N2, number_N])
    known = films.index[SMALL].isin([0, 1]).to_numpy() & (films.index["split"] == "train").to_numpy()
    trees = HistGradientBoostingClassifier(random_state=0).fit(fact_NF[known], films.index[SMALL][known])
    score_N = trees.predict_proba(fact_NF[frame["row"]])[:, 1]
    target_N1 = frame[[f"label_{SMALL}"]].to_numpy(np.float64)
    told = Scores((SMALL,), ("place",), target_N1, score_N[None, :, None], frame["patient"].to_numpy(dtype=object))
    found = sample([told], [0], draws)
    return draws.interval(found.value_SB[:, 0], found.replicate_SBR[:, 0], found.patients)


# --- where crops lie --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Looked:
    """Where an arm's crops and peaks lie, on the films with the small finding."""

    share_SN: Floats
    hit_SN: Floats
    patient_N: npt.NDArray[np.generic]

    def estimate(self, value_SN: Floats, draws: Draws) -> Estimate:
        """Of the mean over films and seeds."""
        return draws.interval(value_SN.mean(1), self._replicates(value_SN, draws), len(np.unique(self.patient_N)))

    def minus(self, value_SN: Floats, other_SN: Floats, draws: Draws) -> SeedDifference:
        """The difference of two measures of the films."""
        apart_SN = value_SN - other_SN
        return draws.paired(apart_SN.mean(1), self._replicates(apart_SN, draws), len(np.unique(self.patient_N)))

    def _replicates(self, value_SN: Floats, draws: Draws) -> Floats:
        """Means over films on resamples of whole patients, S x R."""
        _, patient_N = np.unique(self.patient_N, return_inverse=True)
        count = int(patient_N.max()) + 1
        drawn_RP = np.random.default_rng(draws.seed).multinomial(count, np.full(count, 1 / count), draws.resamples)
        weight_RN = drawn_RP[:, patient_N]
        return np.asarray((value_SN @ weight_RN.T) / weight_RN.sum(1))


def _looked(one: ArmAnswers, films: Prepared) -> Looked:
    boxes = _boxes(films)
    frame = one.frames[0]
    chosen = np.flatnonzero([row in boxes for row in frame["row"]])
    share_SN = np.stack([each["crop_share"].to_numpy(np.float64)[chosen] for each in one.frames])
    hit_SN = np.stack([each["peak_hit"].to_numpy(np.float64)[chosen] for each in one.frames])
    return Looked(share_SN, hit_SN, frame["patient"].to_numpy(dtype=object)[chosen])


def _boxes(films: Prepared) -> dict[int, Floats]:
    """Row of a film -> the boxes of the small finding on it."""
    own = films.boxes[films.boxes["finding"] == SMALL]
    box_M4, row_M = own[["x0", "y0", "x1", "y1"]].to_numpy(np.float64), own["row"].to_numpy()
    return {row: box_M4[row_M == row] for row in np.unique(row_M).tolist()}


def where_crops_lie(films: Prepared, rows: npt.NDArray[np.int64], answers: BatchPrediction) -> pd.DataFrame:
    """LOOKS of each film: how much of the small finding's boxes lies in the crops, and whether the heat is highest in
    one; NaN on films without boxes of it, and hits without maps."""
    boxes, heat_NHW = _boxes(films), answers.heat_NHW
    box_NK4 = answers.box_N4[:, None] if answers.box_NR4 is None else answers.box_NR4
    share_N, hit_N = np.full((2, len(rows)), np.nan)
    for i, row in enumerate(rows.tolist()):
        if row not in boxes:
            continue
        cover_HW, crop_HW = coverage(boxes[row], FRAME, FRAME), inside(box_NK4[i], FRAME, FRAME)
        share_N[i] = float((cover_HW * crop_HW).sum() / cover_HW.sum())
        if heat_NHW is not None:
            hit_N[i] = hit(heat_NHW[i], inside(_in_window(boxes[row], answers.window_4), *heat_NHW.shape[1:]))
    return pd.DataFrame(dict(zip(LOOKS, (share_N, hit_N), strict=True)))


def _in_window(box_B4: Floats, window_4: Floats) -> Floats:
    """The boxes as fractions of the window."""
    start_2, side_2 = window_4[:2], window_4[2:] - window_4[:2]
    return (box_B4 - np.tile(start_2, 2)) / np.tile(side_2, 2)


def _floors(films: Prepared, frame: pd.DataFrame) -> tuple[Floors | None, Floats]:
    """The floors, and whether the prior hits on each film with boxes, in the frame's order; NaN without a prior."""
    boxes, split = _boxes(films), films.index["split"].to_numpy()
    within = [inside(boxes[row], FRAME, FRAME) for row in frame["row"] if row in boxes]
    if not within:
        return None, np.zeros(0)
    prior_N, trained = np.full(len(within), np.nan), [box for row, box in boxes.items() if split[row] == "train"]
    if trained:
        prior_HW = prior_map(np.concatenate(trained), FRAME)
        prior_N = np.array([hit(prior_HW, one) for one in within])
    point = float(np.mean([one.mean() for one in within]))
    return Floors(films=len(within), point=point, prior=float(prior_N.mean())), prior_N
