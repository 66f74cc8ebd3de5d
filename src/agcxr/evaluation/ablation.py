"""Predictions of the arms of an ablation -> mean AUROCs with intervals and paired differences, typed: results.json.

Intervals are percentiles of a bootstrap over patients that all arms, branches and seeds share; with several seeds each
resample also draws the seeds anew, so that the spread between runs is in the interval.

Shapes: N films, K labels, B branches, S seeds, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from agcxr import metrics, uncertainty
from agcxr.evaluation.analysis import Scores
from agcxr.evaluation.controls import PAPER_REFERENCE, Arm, Group, Paper
from agcxr.evaluation.results import Frozen, Interval, Number
from agcxr.labels import NO_FINDING
from agcxr.metrics import Floats

RESULTS = "results.json"


class Paired(Frozen):
    """A difference on the same resamples, with interval and two-sided p."""

    value: Number
    low: Number
    high: Number
    p: Number
    left_out: int = 0

    @classmethod
    def of(cls, found: uncertainty.Difference) -> Paired:
        return cls(value=found.value, low=found.low, high=found.high, p=found.p, left_out=found.left_out)

    @property
    def clear(self) -> bool:
        """The interval leaves out 0."""
        return self.low > 0 or self.high < 0

    def turned(self) -> Paired:
        """The same difference, taken the other way round."""
        return self.model_copy(update={"value": -self.value, "low": -self.high, "high": -self.low})


class ArmBranch(Frozen):
    """Mean AUROC over the findings of one branch of an arm, its mean over the seeds, and each of them."""

    branch: str
    auroc: Interval
    per_seed: tuple[Number, ...]
    against_reference: Paired | None
    """None for the reference."""
    paper: Number
    """The paper's AUC of this arm and branch; NaN where it published none."""
    paper_against_reference: Number


class ArmResult(Frozen):
    """One row of the table."""

    group: Group
    name: str
    folder: str
    reference: bool
    changes: tuple[str, ...]
    """Against the reference's settings."""
    branches: tuple[ArmBranch, ...]
    fusion_over_global: Paired
    local_over_global: Paired
    validation_auroc: Number
    """Of the last stage, on the validation films; mean over the seeds. Choose by this one, not by the test films."""
    box_area: Number
    """Median share of the film."""
    fallbacks: Number
    """Share of films where the crop fell back to the whole view."""

    def branch(self, name: str) -> ArmBranch:
        """The result of one branch."""
        return next(one for one in self.branches if one.branch == name)


class Resampled(Frozen):
    """How the intervals were made."""

    resamples: int
    level: float
    seed: int
    patients: int
    over_seeds: bool


class BinResult(Frozen):
    """Films whose largest sign of a finding has a diameter in [low_cm, high_cm), against films without the finding."""

    finding: str
    low_cm: float
    high_cm: float
    films: int
    branch: str
    control: str
    auroc: Interval
    """Of the reference."""
    auroc_control: Interval
    auroc_gap: Paired
    sensitivity: Interval
    """Of the reference, at the threshold that leaves `specificity` of the films without the finding under it."""
    sensitivity_control: Interval
    sensitivity_gap: Paired


class SmallResult(Frozen):
    """AUROC of a small finding, or its mean over them: the reference minus a control."""

    finding: str = "mean"
    branch: str
    control: str
    auroc: Interval
    auroc_control: Interval
    gap: Paired


class SizeStudy(Frozen):
    """What attention adds, by the size of what there is to find."""

    findings: tuple[str, ...]
    """The small ones: their median diameter is at most small_cm."""
    small_cm: float
    specificity: float
    small: tuple[SmallResult, ...]
    """Means over the small findings."""
    each: tuple[SmallResult, ...] = ()
    """Finding by finding; results of the first version lack them."""
    bins: tuple[BinResult, ...]
    conclusions: tuple[str, ...]


class Machine(Frozen):
    """What compared the arms. (Each run's own run.json says where it was trained.)"""

    processor: str
    versions: tuple[str, ...]
    seconds: float
    """Of the call that wrote this, training included."""


class Ablation(Frozen):
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
    machine: Machine

    def arm(self, group: str, name: str) -> ArmResult:
        """One row; ValueError names those there are."""
        for one in self.arms:
            if (one.group, one.name) == (group, name):
                return one
        raise ValueError(f"no arm {group} {name}; there are {', '.join(f'{a.group} {a.name}' for a in self.arms)}")

    @property
    def reference(self) -> ArmResult:
        """The method with the settings that were given."""
        return next(one for one in self.arms if one.reference)


def read_ablation(folder: str | Path) -> Ablation:
    """results.json of a folder. Raises ValueError where it is missing or is none."""
    path = Path(folder) / RESULTS
    if not path.is_file():
        raise ValueError(
            f"there is no {RESULTS} in {folder}; make it with `agcxr ablate --data PREPARED --out {folder}`"
        )
    try:
        return Ablation.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is not an ablation of this version: {error.errors()[0]['msg']}") from error


# --- statistics -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draws:
    """The resamples that everything is compared on: the same patients for all, and the same draws of the seeds."""

    resamples: int
    level: float
    seed: int
    seed_weight_SR: Floats
    """How much each seed counts in each resample; columns sum to 1."""

    @classmethod
    def of(cls, seeds: int, resamples: int, level: float, seed: int) -> Draws:
        """Draw with replacement as many seeds as there are."""
        rng = np.random.default_rng([seed, 0x5EED])
        drawn = rng.integers(seeds, size=(seeds, resamples))
        weight = np.stack([(drawn == s).sum(0) for s in range(seeds)]) / seeds
        return cls(resamples, level, seed, weight)

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

    def over_seeds(self, replicate_SXR: Floats) -> Floats:
        """Replicates of each seed -> of their mean, the seeds drawn anew in each resample."""
        return np.einsum("sr,s...r->...r", self.seed_weight_SR, replicate_SXR)

    def interval(self, value: float, replicate_R: Floats, patients: int = uncertainty.FEWEST_PATIENTS) -> Interval:
        """Of a measure; `patients` as for `uncertainty.interval`."""
        return Interval.of(uncertainty.interval(value, replicate_R, self.level, patients=patients))

    def paired(self, value: float, replicate_R: Floats, patients: int = uncertainty.FEWEST_PATIENTS) -> Paired:
        """Of a difference on the same resamples, likewise."""
        return Paired.of(uncertainty.difference(value, replicate_R, self.level, patients=patients))


@dataclass(frozen=True)
class Sampled:
    """Mean AUROC over some findings of every branch: of each seed, their mean, and the resamples of the mean."""

    value_SB: Floats
    replicate_BR: Floats

    @property
    def value_B(self) -> Floats:
        return self.value_SB.mean(0)


def usable(scores: Scores) -> tuple[list[int], tuple[str, ...]]:
    """Places of the findings with both classes, and the names of those without."""
    target = scores.target_NK
    both = [(target[:, k] == 1).any() and (target[:, k] == 0).any() for k in range(target.shape[1])]
    findings = [k for k, name in enumerate(scores.labels) if name != NO_FINDING]
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
    return Sampled(np.array(values), draws.over_seeds(np.stack(replicates)))


def arm_branches(
    arm: Arm, branches: Sequence[str], found: Sampled, reference: Sampled, draws: Draws
) -> tuple[ArmBranch, ...]:
    """Every branch of an arm, beside the reference and the paper."""
    rows = []
    for b, name in enumerate(branches):
        value, replicate_R = float(found.value_B[b]), found.replicate_BR[b]
        gap = draws.paired(value - float(reference.value_B[b]), replicate_R - reference.replicate_BR[b])
        published = _of(arm.paper, name)
        rows.append(
            ArmBranch(
                branch=name,
                auroc=draws.interval(value, replicate_R),
                per_seed=tuple(found.value_SB[:, b].tolist()),
                against_reference=None if arm.reference else gap,
                paper=published,
                paper_against_reference=float("nan") if arm.reference else published - _of(PAPER_REFERENCE, name),
            )
        )
    return tuple(rows)


def over_global(branch: int, found: Sampled, draws: Draws) -> Paired:
    """A branch of an arm minus its own global branch (branch 0)."""
    value = float(found.value_B[branch] - found.value_B[0])
    return draws.paired(value, found.replicate_BR[branch] - found.replicate_BR[0])


def _of(paper: Paper | None, branch: str) -> float:
    if paper is None:
        return float("nan")
    return {"global": paper.global_, "local": paper.local, "fusion": paper.fusion}[branch]
