"""What a network knows before it is trained on these films: a ridge regression on its frozen features.

Beside it, what view, sex, age and follow-up alone say, and how much of each AUROC is left among films of one view. A
model that is not clearly better than these rows has learnt nothing of the films yet.

Shapes: N films, D features, K labels, R resamples, V penalties.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from agcxr import uncertainty
from agcxr.data.prepared import Prepared
from agcxr.evaluation.results import Frozen, Interval, Number, Stored
from agcxr.evaluation.tables import aligned, interval, number, words
from agcxr.inference.describe import pooled_features
from agcxr.inference.predictor import Predictor
from agcxr.labels import FINDINGS
from agcxr.metrics import Floats
from agcxr.models.agcnn import AGCNN
from agcxr.ridge import fit_ridge, patient_folds

PROBE = "probe.json"
METADATA, FEATURES = "metadata", "features"


class FindingProbe(Frozen):
    """The AUROC of one finding, row by row (`Probe.rows`)."""

    finding: str
    positives: int
    negatives: int
    auroc: tuple[Interval, ...]
    matched: tuple[Number, ...]
    """Among films of the same view."""


class Probe(Stored):
    """What frozen features and metadata say of films, as stored in probe.json."""

    FILE = PROBE

    format: Literal[1] = 1
    source: str
    """Whose features, in words."""
    films: str
    """Which films were fitted on, and which measured, in words."""
    rows: tuple[str, ...]
    """What was fitted: metadata alone, features alone."""
    features: int
    penalties: tuple[tuple[float, ...], ...]
    """Of each row, those chosen in its folds."""
    findings: tuple[FindingProbe, ...]
    mean: tuple[Interval, ...]
    matched_mean: tuple[Interval, ...]
    resamples: Annotated[int, Field(ge=1)]
    seed: int

    def __str__(self) -> str:
        """A table for a terminal."""
        head = ["Finding", "Positives", *self.rows, *(f"{name}, same view" for name in self.rows)]
        lines = [
            [
                words(finding.finding),
                f"{finding.positives:,}",
                *map(interval, finding.auroc),
                *map(number, finding.matched),
            ]
            for finding in self.findings
        ]
        last = [f"Mean of {len(self.findings)}", "", *map(interval, (*self.mean, *self.matched_mean))]
        text = "\n".join(aligned([head, *lines, last]))
        return (
            f"AUROC of a ridge on frozen features: {self.source}\n{self.films}\n\n{text}\n"
            f"95 % intervals: {self.resamples:,} resamples of patients, seed {self.seed}. Metadata: view, sex, age, "
            "follow-up. Same view: pairs of one AP and one PA film are left out."
        )


def metadata(index: pd.DataFrame) -> Floats:
    """View, sex, age and follow-up of the films of an index, N x 8: each as a number, beside whether it is unknown."""
    columns = []
    for name, value in (("view", "AP"), ("sex", "M")):
        text = index[name].astype(object)
        columns += [(text == value).to_numpy(np.float64), text.isna().to_numpy(np.float64)]
    years = index["age"].to_numpy(np.float64, na_value=np.nan) / 100
    later = np.log1p(index["follow_up"].to_numpy(np.float64, na_value=np.nan))
    for number_N in (years, later):
        unknown = np.isnan(number_N)
        usual = 0.0 if unknown.all() else float(number_N[~unknown].mean())
        columns += [np.where(unknown, usual, number_N), unknown.astype(np.float64)]
    return np.stack(columns, axis=1)


def probe(
    films: Prepared,
    feature_ND: npt.ArrayLike,
    source: str,
    *,
    split: str = "test",
    folds: int = 0,
    resamples: int = 1000,
    seed: int = 0,
) -> Probe:
    """Fit and measure both rows.

    feature_ND: of every film of the folder, in its order. split: the part that is measured; the others are fitted on.
    folds: instead, so many folds by patient over all films, each measured by what the others fitted.
    Raises ValueError where there is nothing to fit on or to measure.
    """
    feature = np.asarray(feature_ND, np.float64)
    index = films.index
    if feature.shape[:1] != (len(index),):
        raise ValueError(f"features of {len(feature)} films; {films.folder} holds {len(index)}")
    target_NK = index[list(FINDINGS)].to_numpy(np.float64)
    patient_N = index["patient"].astype(str).to_numpy(object)
    rounds, words_of_rounds = _rounds(films, patient_N, split, folds, seed)
    inputs = {METADATA: metadata(index), FEATURES: feature}
    score_BNK = np.full((len(inputs), *target_NK.shape), np.nan)
    penalties: list[tuple[float, ...]] = []
    for b, value in enumerate(inputs.values()):
        chosen = []
        for train, test in rounds:
            ridge = fit_ridge(value[train], target_NK[train], patient_N[train], seed=seed)
            score_BNK[b, test] = ridge(value[test])
            chosen.append(ridge.penalty)
        penalties.append(tuple(chosen))
    rows = np.concatenate([test for _, test in rounds])
    findings, mean, matched = _measured(
        target_NK[rows], score_BNK[:, rows], patient_N[rows], view_codes(index["view"].iloc[rows]), resamples, seed
    )
    return Probe(
        source=source,
        films=words_of_rounds,
        rows=tuple(inputs),
        features=feature.shape[1],
        penalties=tuple(penalties),
        findings=findings,
        mean=mean,
        matched_mean=matched,
        resamples=resamples,
        seed=seed,
    )


def frozen_features(
    films: Prepared, backbone: str, weights: str, *, image_size: int | None = None, progress: bool = True
) -> Floats:
    """Pooled features N x D of every film of a folder, by a network that was never trained on them.

    image_size: side of the view, which shows the whole film; default: the films' own.
    """
    size = films.images.shape[1]
    model = AGCNN(backbone, weights=weights, image_size=image_size or size, resize=image_size or size)
    predictor = Predictor(model, prepared_size=size)
    return pooled_features(predictor, films.images, np.arange(len(films.index)), progress=progress).astype(np.float64)


def _rounds(
    films: Prepared, patient_N: np.ndarray, split: str, folds: int, seed: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], str]:
    """(rows to fit on, rows to measure) and what was done, in words."""
    if folds:
        if folds < 2:
            raise ValueError(f"folds is {folds}; expected at least 2, or 0 to use the folder's own split")
        rounds = list(patient_folds(patient_N, folds, seed))
        count = len(np.unique(patient_N))
        return rounds, f"{len(rounds)} folds by patient over {len(patient_N):,} films of {count:,} patients, pooled"
    part = films.index["split"].to_numpy()
    train, test = np.flatnonzero(part != split), np.flatnonzero(part == split)
    if not len(train) or not len(test):
        parts = ", ".join(f"{name} {count}" for name, count in films.index["split"].value_counts().items())
        raise ValueError(
            f"{films.folder} has {len(test)} films in the part {split!r} and {len(train)} others ({parts}); a probe "
            "needs both: name another part, or fit and measure by folds"
        )
    return [(train, test)], f"fitted on {len(train):,} films, measured on the {len(test):,} of {split}"


def view_codes(view_N: pd.Series) -> npt.NDArray[np.intp]:
    """A number for each view position; films without one are a group of their own."""
    return np.asarray(pd.factorize(view_N, use_na_sentinel=False)[0], np.intp)


def matched_auroc(
    target_N: npt.ArrayLike, score_N: npt.ArrayLike, stratum_N: npt.ArrayLike, weight_NR: npt.ArrayLike | None = None
) -> Floats:
    """AUROC over the pairs of one positive and one negative film of the same stratum, R numbers.

    weight_NR: how often each film counts in each resample (default: once, R = 1). NaN where no stratum has a pair.
    With one stratum it is the AUROC.
    """
    target, score, stratum = np.asarray(target_N, np.float64), np.asarray(score_N, np.float64), np.asarray(stratum_N)
    weight = np.ones((len(target), 1)) if weight_NR is None else np.asarray(weight_NR)
    won_R, pairs_R = np.zeros(weight.shape[1]), np.zeros(weight.shape[1])
    for name in np.unique(stratum):
        own = (stratum == name) & ~np.isnan(target)
        count_NR = weight[own].astype(np.float32)
        curve = uncertainty.SortedCurve.of(target[own], score[own], np.arange(len(count_NR)), len(count_NR))
        if curve is None:
            continue
        positive = target[own] == 1
        size_R = count_NR[positive].sum(0, dtype=np.float64) * count_NR[~positive].sum(0, dtype=np.float64)
        won_R += np.nan_to_num(curve.measures(count_NR)[0]) * size_R
        pairs_R += size_R
    return np.divide(won_R, pairs_R, out=np.full_like(won_R, np.nan), where=pairs_R > 0)


def same_view(
    target_NK: npt.ArrayLike,
    score_BNK: npt.ArrayLike,
    patient_N: npt.ArrayLike,
    view_N: pd.Series,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Interval, ...]:
    """Mean `matched_auroc` over K findings of each of B branches, its interval over patients.

    What is left of an AUROC where the view position cannot help. None for no findings, for a finding without a pair
    of one view, and for films of one view or of no known view, of which it would be the AUROC again.
    """
    target, score, view = np.asarray(target_NK, np.float64), np.asarray(score_BNK, np.float64), view_codes(view_N)
    if not target.shape[1] or view_N.nunique() < 2:
        return ()

    def means(weight_NR: npt.ArrayLike | None) -> Floats:
        """B x R."""
        of_findings = (
            [matched_auroc(t, s, view, weight_NR) for t, s in zip(target.T, one.T, strict=True)] for one in score
        )
        return np.stack([uncertainty.mean_over(np.stack(each)) for each in of_findings])

    value_B = means(None)[:, 0]
    if np.isnan(value_B).any():
        return ()
    weights = uncertainty.cluster_weights(patient_N, resamples, np.random.default_rng(seed))
    replicate_BR = np.concatenate(list(uncertainty.in_threads(means, weights)), axis=1)
    fewest = min(uncertainty.patients_of_the_rarer(t, patient_N) for t in target.T)
    alone = target.shape[1] == 1
    return tuple(
        Interval.of(uncertainty.interval(value, replicate_R, level, patients=fewest, student=alone))
        for value, replicate_R in zip(value_B.tolist(), replicate_BR, strict=True)
    )


def _measured(
    target_NK: Floats, score_BNK: Floats, patient_N: np.ndarray, view_N: np.ndarray, resamples: int, seed: int
) -> tuple[tuple[FindingProbe, ...], tuple[Interval, ...], tuple[Interval, ...]]:
    """The findings that have both classes, and the means over them, plain and within a view."""
    used = [k for k, target in enumerate(target_NK.T) if {0.0, 1.0} <= set(target.tolist())]
    if not used:
        raise ValueError("no finding has both a positive and a negative film among those measured")
    rows = len(score_BNK)
    strata = (np.zeros(len(target_NK), np.intp), view_N)
    value_SBK, replicate_SBKR = np.zeros((2, rows, len(used))), np.zeros((2, rows, len(used), resamples))
    start = 0
    for weight_NR in uncertainty.cluster_weights(patient_N, resamples, np.random.default_rng(seed)):
        stop = start + weight_NR.shape[1]
        for s, stratum in enumerate(strata):
            for b in range(rows):
                for i, k in enumerate(used):
                    replicate_SBKR[s, b, i, start:stop] = matched_auroc(
                        target_NK[:, k], score_BNK[b, :, k], stratum, weight_NR
                    )
        start = stop
    for s, stratum in enumerate(strata):
        for b in range(rows):
            value_SBK[s, b] = [matched_auroc(target_NK[:, k], score_BNK[b, :, k], stratum)[0] for k in used]
    patients_K = [uncertainty.patients_of_the_rarer(target_NK[:, k], patient_N) for k in used]

    def spread(value: float, replicate_R: Floats, patients: int, *, student: bool) -> Interval:
        return Interval.of(uncertainty.interval(value, replicate_R, 0.95, patients=patients, student=student))

    def mean(s: int) -> tuple[Interval, ...]:
        return tuple(
            spread(
                _mean(value_SBK[s, b]),
                uncertainty.mean_over(replicate_SBKR[s, b]),
                min(patients_K),
                student=len(used) == 1,
            )
            for b in range(rows)
        )

    findings = tuple(
        FindingProbe(
            finding=FINDINGS[k],
            positives=int((target_NK[:, k] == 1).sum()),
            negatives=int((target_NK[:, k] == 0).sum()),
            auroc=tuple(
                spread(value_SBK[0, b, i], replicate_SBKR[0, b, i], patients_K[i], student=True) for b in range(rows)
            ),
            matched=tuple(value_SBK[1, :, i].tolist()),
        )
        for i, k in enumerate(used)
    )
    return findings, mean(0), mean(1)


def _mean(value_K: npt.ArrayLike) -> float:
    value = np.asarray(value_K, np.float64)
    return float(value[~np.isnan(value)].mean()) if (~np.isnan(value)).any() else float("nan")
