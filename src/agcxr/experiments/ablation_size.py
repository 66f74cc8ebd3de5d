"""What attention adds by the size of the lesion, on films whose lesions are known: the phantom's lesions.csv.

A bin compares the films whose LARGEST sign of a finding has a diameter in its range with all films without the
finding. Shapes: N films, B branches, K bins, S seeds, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from agcxr import metrics
from agcxr.evaluation.analysis import Scores
from agcxr.experiments.ablation import BinResult, Draws, FindingSize, SeedDifference, SizeStudy, SmallResult, sample
from agcxr.experiments.controls import NAMES
from agcxr.findings import CHESTXRAY14
from agcxr.metrics import Floats
from agcxr.uncertainty import Estimate, patients_of_the_rarer

SMALL_CM = 4.0
"""A finding is small where half of its signs are at most this wide."""
SPECIFICITY = 0.9
MOST_BINS, FILMS_A_BIN, FEWEST_FILMS = 4, 12, 5
BRANCHES = ("fusion", "local")
FOCAL = ("Nodule", "Mass")
"""One sign seen from 1 to 7 cm: a nodule of more than 3 cm is called a mass."""


def read_lesions(path: str | Path) -> pd.DataFrame:
    """image_id, finding, diameter_cm of every sign. Raises ValueError for a table without these columns."""
    try:
        table = pd.read_csv(path, dtype={"image": str})
    except (OSError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as CSV ({error}); expected the lesions.csv of `agcxr phantom`"
        ) from error
    if missing := sorted({"image", "finding", "diameter_cm"} - set(table.columns)):
        raise ValueError(f"{path} has no column {missing[0]!r}; expected the lesions.csv of `agcxr phantom`")
    named = {name: CHESTXRAY14.canonical(str(name)) for name in table["finding"].unique()}
    if unknown := sorted(str(name) for name, canonical in named.items() if canonical not in CHESTXRAY14.names):
        raise ValueError(f"{path} names the finding {unknown[0]!r}; expected any of {', '.join(CHESTXRAY14.names)}")
    table = table.assign(finding=table["finding"].map(named)).rename(columns={"image": "image_id"})
    return table[["image_id", "finding", "diameter_cm"]]


def diameters(lesions: pd.DataFrame) -> tuple[FindingSize, ...]:
    """How large the signs of each finding are, the smallest first."""
    sizes = lesions.groupby("finding")["diameter_cm"].agg(["size", "median"]).sort_values("median")
    return tuple(
        FindingSize(finding=str(name), signs=int(row["size"]), median_cm=float(row["median"]))
        for name, row in sizes.iterrows()
    )


def small_findings(lesions: pd.DataFrame, small_cm: float = SMALL_CM) -> tuple[str, ...]:
    """Findings whose median diameter is at most `small_cm`, in label order."""
    small = {size.finding for size in diameters(lesions) if size.median_cm <= small_cm}
    return tuple(name for name in CHESTXRAY14.names if name in small)


def ranged_findings(lesions: pd.DataFrame, small_cm: float = SMALL_CM) -> tuple[str, ...]:
    """Findings that are looked at by ranges of diameter, in label order: the small ones, nodules and masses."""
    wanted = {*small_findings(lesions, small_cm), *FOCAL} & set(lesions["finding"])
    return tuple(name for name in CHESTXRAY14.names if name in wanted)


@dataclass(frozen=True)
class DiameterRange:
    """Films by the diameter of their largest sign of a finding, low_cm <= d < high_cm."""

    finding: str
    low_cm: float
    high_cm: float
    target_N: Floats
    """1 in the bin, 0 without the finding, NaN for the rest."""

    @property
    def films(self) -> int:
        return int((self.target_N == 1).sum())


def bins(
    films: Sequence[str], labels: Sequence[str], target_NK: Floats, lesions: pd.DataFrame, findings: Sequence[str]
) -> tuple[DiameterRange, ...]:
    """Bins of about as many films each, FILMS_A_BIN or more, cut at tenths of a centimetre; fewer films are one bin.

    films: image_id of each film. Findings with fewer than FEWEST_FILMS films are left out. Raises ValueError where none
    is left.
    """
    largest = lesions.groupby(["finding", "image_id"])["diameter_cm"].max()
    ranges: list[DiameterRange] = []
    for finding in findings:
        if finding not in labels:
            continue
        target = target_NK[:, labels.index(finding)]
        diameters_of_finding = (
            largest.loc[finding] if finding in largest.index.get_level_values(0) else pd.Series(dtype=float)
        )
        diameter = diameters_of_finding.reindex(list(films)).to_numpy(np.float64)
        have = (target == 1) & ~np.isnan(diameter)
        if have.sum() < FEWEST_FILMS or not (target == 0).any():
            continue
        parts = int(np.clip(have.sum() // FILMS_A_BIN, 1, MOST_BINS))
        cuts = np.unique(np.round(np.quantile(diameter[have], np.linspace(0, 1, parts + 1)), 1))
        edges = [np.floor(diameter[have].min() * 10) / 10, *cuts[1:-1], np.floor(diameter[have].max() * 10 + 1) / 10]
        for low, high in pairwise(edges):
            inside = have & (diameter >= low) & (diameter < high)
            films_in_range = DiameterRange(
                finding, float(low), float(high), np.where(inside, 1.0, np.where(target == 0, 0.0, np.nan))
            )
            if films_in_range.films:
                ranges.append(films_in_range)
    if not ranges:
        raise ValueError(
            f"the lesions name fewer than {FEWEST_FILMS} films of the split for each of {', '.join(findings) or 'no'} "
            "finding; give the lesions.csv of the films that were prepared, or more films"
        )
    return tuple(ranges)


def size_study(
    films: Sequence[str],
    lesions: pd.DataFrame,
    by_arm: Mapping[str, Sequence[Scores]],
    reference: str,
    draws: Draws,
    *,
    small_cm: float = SMALL_CM,
    specificity: float = SPECIFICITY,
) -> SizeStudy:
    """The reference against every other arm: mean over the small findings, and bin by bin.

    films: image_id of each film. by_arm: name of an arm -> the scores of its seeds, all on `films`.
    """
    first = by_arm[reference][0]
    findings = tuple(name for name in small_findings(lesions, small_cm) if name in first.labels)
    cut = bins(films, first.labels, first.target_NK, lesions, ranged_findings(lesions, small_cm))
    sampled = {name: _sample_bins(cut, scores, draws, specificity) for name, scores in by_arm.items()}
    controls = [name for name in by_arm if name != reference]
    patients = [patients_of_the_rarer(films.target_N, first.patient_N) for films in cut]
    results = tuple(
        _bin_result(films, k, branch, sampled, reference, control, draws, patients[k])
        for branch in BRANCHES
        for control in controls
        for k, films in enumerate(cut)
    )
    return SizeStudy(
        findings=findings,
        diameters=diameters(lesions),
        small_cm=small_cm,
        specificity=specificity,
        small=_small(by_arm, findings, reference, draws),
        each=tuple(row for name in findings for row in _small(by_arm, [name], reference, draws, name)),
        bins=results,
        conclusions=conclusions(results),
    )


def _small(
    by_arm: Mapping[str, Sequence[Scores]],
    findings: Sequence[str],
    reference: str,
    draws: Draws,
    name: str = "mean",
) -> tuple[SmallResult, ...]:
    """Mean over the findings that have both classes; nothing where none has."""
    first = by_arm[reference][0]
    target = first.target_NK
    used = [first.labels.index(finding) for finding in findings]
    used = [k for k in used if (target[:, k] == 1).any() and (target[:, k] == 0).any()]
    if not used:
        return ()
    sampled = {arm: sample(scores, used, draws) for arm, scores in by_arm.items()}
    patients = sampled[reference].patients
    rows = []
    for branch in BRANCHES:
        b = first.branches.index(branch)
        value = {arm: sample_of_arm.value_SB[:, b] for arm, sample_of_arm in sampled.items()}
        replicate = {arm: sample_of_arm.replicate_SBR[:, b] for arm, sample_of_arm in sampled.items()}
        for control in (arm for arm in by_arm if arm != reference):
            gap = draws.paired(value[reference] - value[control], replicate[reference] - replicate[control], patients)
            rows.append(
                SmallResult(
                    finding=name,
                    branch=branch,
                    control=control,
                    auroc=draws.interval(value[reference], replicate[reference], patients),
                    auroc_control=draws.interval(value[control], replicate[control], patients),
                    gap=gap,
                )
            )
    return tuple(rows)


@dataclass(frozen=True)
class _Sampled:
    """AUROC and sensitivity of every seed, branch and bin of an arm."""

    auroc_SBK: Floats
    auroc_SBKR: Floats
    sensitivity_SBK: Floats
    sensitivity_SBKR: Floats


def _sample_bins(cut: Sequence[DiameterRange], by_seed: Sequence[Scores], draws: Draws, specificity: float) -> _Sampled:
    target_NK = np.stack([films.target_N for films in cut], 1)
    parts = []
    for scores in by_seed:
        column = [scores.labels.index(films.finding) for films in cut]
        branch = [scores.branches.index(name) for name in BRANCHES]
        score_BNK = scores.score_BNK[branch][:, :, column]
        as_bins = replace(scores, branches=BRANCHES, target_NK=target_NK, score_BNK=score_BNK)
        threshold_BK = np.array(
            [[_threshold(target_NK[:, k], score[:, k], specificity) for k in range(len(cut))] for score in score_BNK]
        )
        again = draws.bootstrap(as_bins, threshold_BK[None])
        auroc = [[metrics.auroc(target_NK[:, k], score[:, k]) for k in range(len(cut))] for score in score_BNK]
        hit = [
            [float((score[target_NK[:, k] == 1, k] >= threshold_BK[b, k]).mean()) for k in range(len(cut))]
            for b, score in enumerate(score_BNK)
        ]
        parts.append((np.array(auroc), again.auroc_BKR, np.array(hit), again.sensitivity_PBKR[0]))
    return _Sampled(*(np.stack(part) for part in zip(*parts, strict=True)))


def _threshold(target_N: Floats, score_N: Floats, specificity: float) -> float:
    """The lowest score that is over that share of the films without the finding."""
    negative = np.sort(score_N[target_N == 0])
    under = int(np.ceil(specificity * len(negative) - 1e-9))
    return float(np.nextafter(negative[max(under, 1) - 1], np.inf))


def _bin_result(
    sizes: DiameterRange,
    k: int,
    branch: str,
    sampled: Mapping[str, _Sampled],
    reference: str,
    control: str,
    draws: Draws,
    patients: int,
) -> BinResult:
    b = BRANCHES.index(branch)
    ours, control_sample = sampled[reference], sampled[control]

    def gap(value_SBK: Floats, other_SBK: Floats, replicate_SBKR: Floats, other_SBKR: Floats) -> SeedDifference:
        at = (slice(None), b, k)
        return draws.paired(value_SBK[at] - other_SBK[at], replicate_SBKR[at] - other_SBKR[at], patients)

    def interval(value_SBK: Floats, replicate_SBKR: Floats) -> Estimate:
        return draws.interval(value_SBK[:, b, k], replicate_SBKR[:, b, k], patients)

    return BinResult(
        finding=sizes.finding,
        low_cm=sizes.low_cm,
        high_cm=sizes.high_cm,
        films=sizes.films,
        branch=branch,
        control=control,
        auroc=interval(ours.auroc_SBK, ours.auroc_SBKR),
        auroc_control=interval(control_sample.auroc_SBK, control_sample.auroc_SBKR),
        auroc_gap=gap(ours.auroc_SBK, control_sample.auroc_SBK, ours.auroc_SBKR, control_sample.auroc_SBKR),
        sensitivity=interval(ours.sensitivity_SBK, ours.sensitivity_SBKR),
        sensitivity_control=interval(control_sample.sensitivity_SBK, control_sample.sensitivity_SBKR),
        sensitivity_gap=gap(
            ours.sensitivity_SBK, control_sample.sensitivity_SBK, ours.sensitivity_SBKR, control_sample.sensitivity_SBKR
        ),
    )


def conclusions(results: Sequence[BinResult]) -> tuple[str, ...]:
    """For each branch and control, in words: at which diameters of nodules and masses attention is better, at which it
    is worse, and at which the interval of the AUROC difference includes 0."""
    sentences = []
    for branch, control in dict.fromkeys((result.branch, result.control) for result in results):
        focal = [
            result
            for result in results
            if (result.branch, result.control) == (branch, control) and result.finding in FOCAL
        ]
        focal.sort(key=lambda result: result.high_cm)
        if not focal:
            continue
        better, worse = (
            [result.auroc_gap.low > 0 for result in focal],
            [result.auroc_gap.high < 0 for result in focal],
        )
        neither = [not (up or down) for up, down in zip(better, worse, strict=True)]
        lists = (("better", better), ("worse", worse), ("undecided", neither))
        where = "; ".join(f"{verdict} at {_ranges(focal, which)}" for verdict, which in lists)
        sentences.append(
            f"{branch.capitalize()}, attention against the {NAMES.get(control, control)}, {len(focal)} ranges of "
            f"{focal[0].low_cm:g} to {focal[-1].high_cm:g} cm: {where}.{_end(focal, better)}"
        )
    return tuple(sentences)


def _ranges(focal: Sequence[BinResult], which: Sequence[bool]) -> str:
    """Those diameters, neighbours of one finding joined: "1.2–3.1 cm (Nodule), 3.6–5.4 cm (Mass)"; "none", "all"."""
    if all(which) or not any(which):
        return "all" if all(which) else "none"
    joined: list[tuple[float, float, str]] = []
    for result in (result for result, chosen in zip(focal, which, strict=True) if chosen):
        if joined and joined[-1][1:] == (result.low_cm, result.finding):
            joined[-1] = (joined[-1][0], result.high_cm, result.finding)
        else:
            joined.append((result.low_cm, result.high_cm, result.finding))
    return ", ".join(f"{low:g}–{high:g} cm ({finding})" for low, high, finding in joined)


def _end(focal: Sequence[BinResult], better: Sequence[bool]) -> str:
    """Where the advantage ends: only where the better ranges are the smallest ones without a gap, and not all."""
    count = sum(better)
    if not 0 < count < len(focal) or not all(better[:count]):
        return ""
    return f" The advantage ends at {focal[count - 1].high_cm:g} cm: above it, none is shown."
