"""Predictions of the arms of an ablation -> mean AUROCs with intervals and paired differences, typed: results.json.

All arms, branches and seeds share the resamples of a bootstrap over patients. Of one seed, intervals are percentiles of
them. Several seeds and the patients are what readers and cases are in a multi-reader multi-case study, and intervals
are made as there (`over_seeds`), so that they cover other patients and training again.

Shapes: N films, K labels, B branches, S seeds, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from agcxr import metrics, uncertainty
from agcxr.evaluation.analysis import Scores
from agcxr.experiments.controls import PAPER_REFERENCE, Arm, Group, Paper
from agcxr.inference.prediction import Branch
from agcxr.metrics import Floats
from agcxr.uncertainty import FEWEST_PATIENTS, Difference, Estimate
from agcxr.values import Number, Record

RESULTS = "results.json"


NOISE = 1e-9
"""Differences under it are rounding, and 0: arms that answer alike have neither a sign nor a clear interval."""


class SeedDifference(Difference):
    """A difference on the same resamples, mean over the seeds."""

    per_seed: tuple[Number, ...] = ()
    """Each seed's own difference; results of the first version lack them."""

    @property
    def agreeing(self) -> int:
        """How many seeds have a difference of the mean's sign; none where the mean is 0."""
        return sum(difference_of_seed * self.value > 0 for difference_of_seed in self.per_seed)

    def turned(self) -> SeedDifference:
        """The same difference, taken the other way round."""
        each = tuple(-difference_of_seed for difference_of_seed in self.per_seed)
        return self.model_copy(update={"value": -self.value, "low": -self.high, "high": -self.low, "per_seed": each})


class ArmBranch(Record):
    """Mean AUROC over the findings of one branch of an arm, its mean over the seeds, and each of them."""

    branch: str
    auroc: Estimate
    per_seed: tuple[Number, ...]
    against_reference: SeedDifference | None
    """None for the reference."""
    paper: Number
    """The paper's AUROC of this arm and branch; NaN where it published none."""
    paper_against_reference: Number


class ArmResult(Record):
    """One row of the table."""

    group: Group
    name: str
    folder: str
    reference: bool
    changes: tuple[str, ...]
    """Against the reference's settings."""
    branches: tuple[ArmBranch, ...]
    fusion_over_global: SeedDifference
    local_over_global: SeedDifference
    validation_auroc: Number
    """Of the last stage, on the validation films; mean over the seeds. Choose by this one, not by the test films."""
    box_area: Number
    """Median share of the film."""
    fallbacks: Number
    """Share of films where the crop fell back to the whole view."""

    def branch(self, name: str) -> ArmBranch:
        """The result of one branch."""
        return next(branch for branch in self.branches if branch.branch == name)


class Resampled(Record):
    """How the intervals were made."""

    resamples: int
    level: float
    seed: int
    patients: int
    over_seeds: bool
    """Intervals cover the seeds as well as the patients."""


class BinResult(Record):
    """Films whose largest sign of a finding has a diameter in [low_cm, high_cm), against films without the finding."""

    finding: str
    low_cm: float
    high_cm: float
    films: int
    branch: str
    control: str
    auroc: Estimate
    """Of the reference."""
    auroc_control: Estimate
    auroc_gap: SeedDifference
    sensitivity: Estimate
    """Of the reference, at the threshold that leaves `specificity` of the films without the finding under it."""
    sensitivity_control: Estimate
    sensitivity_gap: SeedDifference


class SmallResult(Record):
    """AUROC of a small finding, or its mean over them: the reference minus a control."""

    finding: str = "mean"
    branch: str
    control: str
    auroc: Estimate
    auroc_control: Estimate
    gap: SeedDifference


class FindingSize(Record):
    """How large the signs of a finding are."""

    finding: str
    signs: int
    median_cm: Number


class SizeStudy(Record):
    """What attention adds, by the size of what there is to find."""

    findings: tuple[str, ...]
    """The small ones: their median diameter is at most small_cm."""
    diameters: tuple[FindingSize, ...] = ()
    """Of all findings, the smallest first; results of the first version lack them."""
    small_cm: float
    specificity: float
    small: tuple[SmallResult, ...]
    """Means over the small findings."""
    each: tuple[SmallResult, ...] = ()
    """Finding by finding; results of the first version lack them."""
    bins: tuple[BinResult, ...]
    conclusions: tuple[str, ...]


Measure = Literal["small", "all"]
"""Of a budget: AUROC of the small finding, or the mean over all findings."""


class BudgetArm(Record):
    """One answer: what it costs and how good it is. Means over the seeds."""

    name: str
    folder: str
    branch: Branch
    changes: tuple[str, ...]
    side: int
    """Of the view, in pixels."""
    operations: int
    """Floating-point operations a film."""
    steps: Number
    """Of the optimiser, in all stages that the answer needs."""
    small: Estimate
    """AUROC of the small finding."""
    overall: Estimate
    """Mean AUROC over all findings."""
    small_gap: SeedDifference
    """Minus the whole view of equal cost."""
    overall_gap: SeedDifference
    crop_share: Estimate | None
    """Share of the small finding's boxes that lies in the crops; None for an answer without crops."""
    peak_hit: Estimate | None
    """Share of films with the small finding where the heat is highest in one of its boxes."""


class Planned(Record):
    """One planned comparison, carried out."""

    asks: str
    arm: str
    against: str
    on: Measure
    gap: SeedDifference
    p_holm: Number
    """p, corrected for the number of comparisons."""


class BudgetBin(Record):
    """Films whose largest sign of the small finding has a diameter in [low_cm, high_cm), against films without one."""

    low_cm: float
    high_cm: float
    films: int
    arm: str
    auroc: Estimate
    gap: SeedDifference
    """Minus the whole view of equal cost."""


class Floors(Record):
    """Where crops and peaks lie that no network chose: on the films with the small finding."""

    films: int
    point: Number
    """Share of the film that the boxes cover: how often a point at random hits."""
    prior: Number
    """How often the likeliest pixel of the training films' boxes hits; NaN where those have none."""


class BudgetStudy(Record):
    """What the group `budget` found."""

    finding: str
    arms: tuple[BudgetArm, ...]
    planned: tuple[Planned, ...]
    bins: tuple[BudgetBin, ...]
    share_of_oracle: Estimate | None
    """(Attention minus whole view) over (oracle minus whole view), of the small finding; over patients only."""
    crop_gaps: dict[str, SeedDifference]
    """Attention's share of the boxes in the crops minus that of other arms."""
    peak_gap: SeedDifference | None
    """How often attention's peak hits minus how often the prior does (see Floors); None where either is not known."""
    place_alone: Estimate | None
    """AUROC of the small finding told by place, size and number of the annotated places alone: .5 where the oracle's
    crops give nothing away. None where no places are known."""
    floors: Floors | None
    """None where no film has boxes of the small finding."""


class MachineFacts(Record):
    """What compared the arms. (Each run's own run.json says where it was trained.)"""

    processor: str
    versions: tuple[str, ...]
    seconds: float
    """Of the call that wrote this, training included."""


class Ablation(Record):
    """results.json of an ablation."""

    format: Literal[1] = 1
    made: str
    data: str
    """The kind of source, such as `nih` (whose layout the phantom has too)."""
    collection: str | None = None
    """Whose films these are, as the plan says; None where it does not, and in results of the first version."""
    split: str
    films: int
    patients: int
    seeds: tuple[int, ...]
    findings: tuple[str, ...]
    left_out: tuple[str, ...]
    """Findings without both classes."""
    base: str
    """Settings of the reference, as YAML."""
    arms: tuple[ArmResult, ...]
    resampled: Resampled
    sizes: SizeStudy | None = None
    budget: BudgetStudy | None = None
    machine: MachineFacts

    def arm(self, group: str, name: str) -> ArmResult:
        """One row; ValueError names those there are."""
        for arm in self.arms:
            if (arm.group, arm.name) == (group, name):
                return arm
        raise ValueError(f"no arm {group} {name}; there are {', '.join(f'{a.group} {a.name}' for a in self.arms)}")

    @property
    def reference(self) -> ArmResult:
        """The method with the settings that were given."""
        return next(arm for arm in self.arms if arm.reference)


# --- statistics -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draws:
    """The resamples of the patients that everything is compared on, and the intervals made from them."""

    resamples: int
    level: float
    seed: int

    def bootstrap(self, scores: Scores, threshold_PBK: Floats | None = None) -> uncertainty.Replicates:
        """Every measure on the shared resamples of the patients."""
        return uncertainty.bootstrap(
            scores.target_NK,
            scores.score_BNK,
            scores.patient_N,
            rng=np.random.default_rng(self.seed),
            resamples=self.resamples,
            threshold_PBK=threshold_PBK,
        )

    def interval(self, value_S: Floats, replicate_SR: Floats, patients: int | None = None) -> Estimate:
        """Of the mean over the seeds of a measure from 0 to 1; `patients` as for `uncertainty.interval`."""
        if _one_draw(value_S, replicate_SR):
            return uncertainty.interval(value_S[0], replicate_SR[0], self.level, patients=patients)
        low, high, _, left_out = over_seeds(value_S, replicate_SR, self.level, patients)
        low, high = np.clip([low, high], 0, 1).tolist()
        return Estimate(value=float(value_S.mean()), low=low, high=high, left_out=left_out)

    def paired(self, value_S: Floats, replicate_SR: Floats, patients: int | None = None) -> SeedDifference:
        """Of the mean over the seeds of a difference on the same resamples, likewise."""
        if _one_draw(value_S, replicate_SR):
            gap = uncertainty.difference(value_S[0], replicate_SR[0], self.level, patients=patients)
            low, high, p, left_out = gap.low, gap.high, gap.p, gap.left_out
        else:
            low, high, p, left_out = over_seeds(value_S, replicate_SR, self.level, patients)
        value, low, high, *each = (
            0.0 if abs(number) < NOISE else float(number) for number in (value_S.mean(), low, high, *value_S)
        )
        return SeedDifference(value=value, low=low, high=high, p=p, left_out=left_out, per_seed=tuple(each))


def _one_draw(value_S: Floats, replicate_SR: Floats) -> bool:
    """There is one seed, or all seeds have one value on every resample, which leaves no spread to take apart."""
    have_SR = replicate_SR[:, ~np.isnan(replicate_SR).any(0)]
    return len(value_S) == 1 or (have_SR.size > 0 and bool(np.ptp(have_SR) < NOISE and np.ptp(value_S) < NOISE))


def over_seeds(
    value_S: Floats, replicate_SR: Floats, level: float, patients: int | None = None
) -> tuple[float, float, float, int]:
    """(low, high, p of 0, resamples left out) of a mean over two seeds or more, for other patients and other seeds.

    As of readers and cases (Obuchowski and Rockette 1995): the variance is that between the seeds over their number,
    and the covariance of two seeds on the same patients; Student's t with the degrees of freedom of Hillis (2007). It
    is never narrower than what the patients alone make it. Drawing so few seeds with replacement would not do: their
    interval never leaves the range of the seeds, which of three seeds holds the mean of all seeds 3 times in 4.
    """
    have_SR = replicate_SR[:, ~np.isnan(replicate_SR).any(0)]
    seeds, left_out = len(value_S), replicate_SR.shape[1] - have_SR.shape[1]
    value = float(value_S.mean())
    if np.isnan(value) or have_SR.shape[1] < 2 or (patients is not None and patients < FEWEST_PATIENTS):
        return float("nan"), float("nan"), float("nan"), left_out
    training = float(value_S.var(ddof=1)) / seeds
    covariance_SS = np.cov(have_SR)
    shared = max(0.0, float(covariance_SS.sum() - covariance_SS.trace()) / (seeds * (seeds - 1)))
    freedom = (seeds - 1) * ((training + shared) / training) ** 2 if training > NOISE**2 else np.inf
    error_2 = np.sqrt([training + shared, float(have_SR.mean(0).var(ddof=1))])  # of both, and of the patients alone
    freedom_2 = np.array([freedom, np.inf])
    half = float(np.max(error_2 * stats.t.ppf((1 + level) / 2, freedom_2)))
    p = float(np.max(2 * stats.t.sf(abs(value) / np.maximum(error_2, NOISE), freedom_2)))
    return value - half, value + half, p, left_out


@dataclass(frozen=True)
class Sampled:
    """Mean AUROC over some findings, of every seed and branch, and on every resample."""

    value_SB: Floats
    replicate_SBR: Floats
    patients: int
    """On how many it rests: those with, or without, the finding that has the fewest."""


def usable(scores: Scores) -> tuple[list[int], tuple[str, ...]]:
    """Places of the findings with both classes, and the names of those without."""
    target = scores.target_NK
    both = [(target[:, k] == 1).any() and (target[:, k] == 0).any() for k in range(target.shape[1])]
    findings = [k for k, name in enumerate(scores.labels) if name != scores.findings.none]
    return [k for k in findings if both[k]], tuple(scores.labels[k] for k in findings if not both[k])


def sample(by_seed: Sequence[Scores], used: list[int], draws: Draws) -> Sampled:
    """Mean AUROC over the findings at `used` for each seed's scores. A resample without a class of one has none."""
    values, replicates = [], []
    for scores in by_seed:
        table = [metrics.auroc_table(scores.target_NK[:, used], score_NK[:, used]) for score_NK in scores.score_BNK]
        values.append([float(np.mean(row)) for row in table])
        chosen = Scores(
            tuple(scores.labels[k] for k in used),
            scores.branches,
            scores.target_NK[:, used],
            scores.score_BNK[:, :, used],
            scores.patient_N,
        )
        replicates.append(draws.bootstrap(chosen).auroc_BKR.mean(1))
    first = by_seed[0]
    rarer = (uncertainty.patients_of_the_rarer(first.target_NK[:, k], first.patient_N) for k in used)
    return Sampled(np.array(values), np.stack(replicates), min(rarer, default=0))


def arm_branches(
    arm: Arm, branches: Sequence[str], sampled: Sampled, reference: Sampled, draws: Draws
) -> tuple[ArmBranch, ...]:
    """Every branch of an arm, beside the reference and the paper."""
    rows = []
    for b, name in enumerate(branches):
        value_S, replicate_SR = sampled.value_SB[:, b], sampled.replicate_SBR[:, b]
        gap = draws.paired(
            value_S - reference.value_SB[:, b], replicate_SR - reference.replicate_SBR[:, b], sampled.patients
        )
        published = _of(arm.paper, name)
        rows.append(
            ArmBranch(
                branch=name,
                auroc=draws.interval(value_S, replicate_SR, sampled.patients),
                per_seed=tuple(value_S.tolist()),
                against_reference=None if arm.reference else gap,
                paper=published,
                paper_against_reference=float("nan") if arm.reference else published - _of(PAPER_REFERENCE, name),
            )
        )
    return tuple(rows)


def over_branch(branch: int, other: int, sampled: Sampled, draws: Draws) -> SeedDifference:
    """A branch minus another one of the same runs."""
    value_SB, replicate_SBR = sampled.value_SB, sampled.replicate_SBR
    return draws.paired(
        value_SB[:, branch] - value_SB[:, other], replicate_SBR[:, branch] - replicate_SBR[:, other], sampled.patients
    )


def _of(paper: Paper | None, branch: str) -> float:
    if paper is None:
        return float("nan")
    return {"global": paper.global_, "local": paper.local, "fusion": paper.fusion}[branch]
