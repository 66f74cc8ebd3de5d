"""What is known of films without training on them: a ridge on the features of a frozen network, and on view, sex, age
and follow-up alone; how far a trained model is above these; and which shortcuts the networks could take.

A model that is not clearly better than these rows has learnt nothing of the films yet.

Shapes: N films of an index, M of them measured, D features, K findings, B rows (metadata, features, a model's branch).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from agcxr import metrics, uncertainty
from agcxr.data.prepared import Prepared
from agcxr.evaluation.results import BranchDifference, Stored
from agcxr.evaluation.shortcuts import Features, Shortcut, as_lines, shortcuts, stated_text
from agcxr.evaluation.strata import RESAMPLES, Averages, averages, codes, within
from agcxr.inference.describe import pooled_features
from agcxr.inference.predictor import Predictor
from agcxr.metrics import Floats
from agcxr.models.agcnn import AGCNN
from agcxr.ridge import FOLDS, Round, held_out, patient_folds
from agcxr.table import Cell, Table, cell, ends, number, signed, to_text, words
from agcxr.uncertainty import Estimate
from agcxr.values import Number, Record

PROBE = "probe.json"
METADATA, FEATURES, MODEL = "metadata", "features", "model"
IN_WORDS = {METADATA: "metadata alone", FEATURES: "frozen features alone"}
FACTS = {"view": "view", "sex": "sex", "age": "age", "follow_up": "follow-up"}
"""Columns of an index that make the metadata, in words."""


class FindingProbe(Record):
    """The AUROC of one finding, row by row (`Probe.rows`)."""

    finding: str
    positives: int
    negatives: int
    auroc: tuple[Estimate, ...]
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
    mean: tuple[Estimate, ...]
    matched_mean: tuple[Estimate, ...]
    resamples: Annotated[int, Field(ge=1)]
    """At most `strata.RESAMPLES` for films of one view and for shortcuts."""
    seed: int
    level: float = 0.95
    metadata: tuple[str, ...] = tuple(FACTS.values())
    """Those that the films state."""
    absent: tuple[str, ...] = ()
    """Why a row is not there, a sentence each."""
    model: str = ""
    """The run whose scores stand beside; empty: none."""
    gaps: tuple[BranchDifference, ...] = ()
    """Mean AUROC of the run's last branch minus that of each row, paired."""
    shortcuts: tuple[Shortcut, ...] = ()

    @property
    def verdict(self) -> str:
        """Whether the model is clearly better than each row, in a sentence; empty where there is nothing to compare."""
        if not self.gaps:
            return ""
        kinds = {"better": "is clearly better than", "worse": "is clearly worse than", "": "is not clearly better than"}
        parts = []
        for kind, verb in kinds.items():
            rows = [_against(gap) for gap in self.gaps if _kind(gap) == kind]
            parts += [f"{verb} {' and '.join(rows)}"] * bool(rows)
        end = (
            ""
            if all(_kind(gap) == "better" for gap in self.gaps)
            else " It is not shown to have learnt more than that."
        )
        return f"In mean AUROC the {self.gaps[0].branch} {', and '.join(parts)}.{end}"

    def __str__(self) -> str:
        """Tables for a terminal."""
        return "\n\n".join(filter(None, [self._table() if self.rows else "", self.brief]))

    @property
    def brief(self) -> str:
        """In words: whether a model is better, which rows are not there, and the shortcuts."""
        return "\n".join(filter(None, [self.verdict, *self.absent, *as_lines(self.shortcuts)]))

    def _table(self) -> str:
        head = ("Finding", "Positives", *self.rows, *(f"{name}, same view" for name in self.rows))
        rows: list[tuple[Cell | str, ...]] = [
            (words(each.finding), f"{each.positives:,}", *map(cell, each.auroc), *map(number, each.matched))
            for each in self.findings
        ]
        rows.append((f"Mean of {len(self.findings)}", "", *map(cell, (*self.mean, *self.matched_mean))))
        shown = to_text(Table(head, tuple(rows), summary=True))
        whose = f"frozen features: {self.source}" if FEATURES in self.rows else "metadata"
        return (
            f"AUROC of a ridge on {whose}\n{self.films}\n\n{shown}\n"
            f"{100 * self.level:g} % intervals: {self.resamples:,} resamples of patients, seed {self.seed}. Metadata: "
            f"{', '.join(self.metadata)}. Same view: pairs of one AP and one PA film are left out."
        )


def _kind(gap: BranchDifference) -> Literal["better", "worse", ""]:
    return "better" if gap.low > 0 else "worse" if gap.high < 0 else ""


def _against(gap: BranchDifference) -> str:
    span = ends(gap, sign=True) or "no interval: too few patients"
    return f"{IN_WORDS.get(gap.against, gap.against)} ({signed(gap.value)}, {span})"


@dataclass(frozen=True)
class Design:
    """Which films are fitted on and which are measured, in rounds and in words. A film is measured once at most."""

    rounds: Sequence[Round]
    words: str

    @property
    def measured_M(self) -> npt.NDArray[np.intp]:
        """Rows, in order."""
        return np.sort(np.concatenate([test for _, test in self.rounds]))


@dataclass(frozen=True)
class Inputs:
    """What ridges are fitted on, N films: each makes a row."""

    rows: Mapping[str, npt.ArrayLike]
    source: str = ""
    """Of the features, in words."""
    absent: tuple[str, ...] = ()

    @classmethod
    def of(cls, index: pd.DataFrame, feature_ND: npt.ArrayLike | None, source: str) -> Inputs:
        """Metadata where the films state any, and the features where there are some; `source`: else why not."""
        facts: dict[str, npt.ArrayLike] = {METADATA: metadata(index)} if stated(index) else {}
        absent = () if facts else (f"Metadata are left out: these films state no {', '.join(FACTS.values())}.",)
        if feature_ND is None:
            return cls(facts, "", (*absent, source))
        return cls(facts | {FEATURES: feature_ND}, source, absent)


@dataclass(frozen=True)
class Trained:
    """What a trained model makes of the measured films."""

    name: str
    branch: str
    score_MK: Floats
    feature_MD: npt.ArrayLike | None = None
    """Of its global branch, pooled."""
    model_M: npt.ArrayLike | None = None
    """The fold whose model made the features, where there are several."""

    @property
    def networks(self) -> dict[str, Features]:
        """Its features under their name among shortcuts, where there are some."""
        return {} if self.feature_MD is None else {MODEL: Features(self.feature_MD, self.model_M)}


def metadata(index: pd.DataFrame) -> Floats:
    """View, sex, age and follow-up of the films of an index, N x 8: each as a number, beside whether it is unknown."""
    columns = []
    for name, value in (("view", "AP"), ("sex", "M")):
        text = stated_text(index[name])
        columns += [(text == value).to_numpy(np.float64), text.isna().to_numpy(np.float64)]
    years = index["age"].to_numpy(np.float64, na_value=np.nan) / 100
    later = np.log1p(index["follow_up"].to_numpy(np.float64, na_value=np.nan))
    for number_N in (years, later):
        unknown = np.isnan(number_N)
        usual = 0.0 if unknown.all() else float(number_N[~unknown].mean())
        columns += [np.where(unknown, usual, number_N), unknown.astype(np.float64)]
    return np.stack(columns, axis=1)


def stated(index: pd.DataFrame) -> tuple[str, ...]:
    """Which metadata some film of an index states, in words."""
    return tuple(name for column, name in FACTS.items() if stated_text(index[column]).notna().any())


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
    """Fit and measure metadata and features, and test which shortcuts these features hold.

    feature_ND: of every film of the folder, in its order. split: the part that is measured; the others are fitted on.
    folds: instead, so many folds by patient over all films, each measured by what the others fitted.
    Raises ValueError where there is nothing to fit on or to measure.
    """
    feature, index = np.asarray(feature_ND, np.float64), films.facts
    if feature.shape[:1] != (len(index),):
        raise ValueError(f"features of {len(feature)} films; {films.folder} holds {len(index)}")
    design = _design(films, split, folds, seed)
    findings = films.findings.names
    target_NK = films.targets(np.arange(len(index)), findings).astype(np.float64)
    return measure(
        index, target_NK, findings, Inputs.of(index, feature, source), design, resamples=resamples, seed=seed
    )


def measure(
    index: pd.DataFrame,
    target_NK: Floats,
    findings: Sequence[str],
    inputs: Inputs,
    design: Design,
    trained: Trained | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Probe:
    """Each row on the measured films, and a trained model's scores of them against it.

    index, target_NK: of the N films of the design. Raises ValueError where no finding has both classes.
    """
    patient_N, rows_M = index["patient"].astype(str).to_numpy(object), design.measured_M
    used = [k for k in range(len(findings)) if {0.0, 1.0} <= set(target_NK[rows_M, k].tolist())]
    if not used:
        raise ValueError("no finding has both a positive and a negative film among those measured")
    fitted = {name: held_out(value, target_NK, patient_N, design.rounds, seed) for name, value in inputs.rows.items()}
    scores = {name: score_NK[rows_M] for name, (score_NK, _) in fitted.items()}
    scores |= {} if trained is None else {trained.branch: trained.score_MK}
    films, target_MK = index.iloc[rows_M], target_NK[rows_M][:, used]
    score_BMK = (
        np.stack([score_MK[:, used] for score_MK in scores.values()]) if scores else np.zeros((0, *target_MK.shape))
    )
    ranked = _Ranked.of(target_MK, score_BMK, patient_N[rows_M], resamples, seed)
    few = {"resamples": min(resamples, RESAMPLES), "seed": seed}
    same = averages([within(codes(films["view"]))], target_MK, score_BMK[: len(fitted)], patient_N[rows_M], **few)
    feature_ND = inputs.rows.get(FEATURES)
    networks = {} if feature_ND is None else {FEATURES: Features(np.asarray(feature_ND)[rows_M])}
    networks |= trained.networks if trained else {}
    return Probe(
        source=inputs.source,
        films=design.words,
        rows=tuple(fitted),
        features=0 if feature_ND is None else np.asarray(feature_ND).shape[1],
        penalties=tuple(penalties for _, penalties in fitted.values()),
        findings=_findings([findings[k] for k in used], target_MK, ranked, same, len(fitted), level),
        mean=tuple(ranked.interval(b, range(len(used)), level) for b in range(len(fitted))),
        matched_mean=tuple(same.interval(0, b, level) for b in range(len(fitted))),
        resamples=resamples,
        seed=seed,
        level=level,
        metadata=stated(index),
        absent=inputs.absent,
        model="" if trained is None else trained.name,
        gaps=tuple(ranked.gap(trained.branch, name, b, level) for b, name in enumerate(fitted)) if trained else (),
        shortcuts=shortcuts(films, target_MK, score_BMK, tuple(scores), networks, level=level, **few),
    )


def _findings(
    names: Sequence[str], target_MK: Floats, ranked: _Ranked, same: Averages, rows: int, level: float
) -> tuple[FindingProbe, ...]:
    return tuple(
        FindingProbe(
            finding=name,
            positives=int((target_MK[:, k] == 1).sum()),
            negatives=int((target_MK[:, k] == 0).sum()),
            auroc=tuple(ranked.interval(b, [k], level) for b in range(rows)),
            matched=tuple(same.value_MBK[0, :, k].tolist()),
        )
        for k, name in enumerate(names)
    )


@dataclass(frozen=True)
class _Ranked:
    """AUROC of every row and finding, on the films and on resamples of patients."""

    auroc_BK: Floats
    replicate_BKR: Floats
    patients_K: Sequence[int]
    """Of the rarer class."""

    @classmethod
    def of(
        cls, target_MK: Floats, score_BMK: Floats, patient_M: npt.NDArray[np.object_], resamples: int, seed: int
    ) -> _Ranked:
        rng = np.random.default_rng(seed)
        auroc_BK = np.array([metrics.auroc_table(target_MK, score_MK) for score_MK in score_BMK])
        drawn = (
            uncertainty.bootstrap(target_MK, score_BMK, patient_M, rng=rng, resamples=resamples)
            if len(score_BMK)
            else None
        )
        patients_K = [uncertainty.patients_of_the_rarer(target_M, patient_M) for target_M in target_MK.T]
        return cls(auroc_BK, np.zeros((0, 0, 0)) if drawn is None else drawn.auroc_BKR, patients_K)

    def interval(self, b: int, ks: Sequence[int], level: float) -> Estimate:
        """The mean of a row over some findings."""
        value, replicate_R = self.auroc_BK[b, list(ks)].mean(), uncertainty.mean_over(self.replicate_BKR[b, list(ks)])
        return uncertainty.interval(value, replicate_R, level, **self._rests_on(ks))

    def gap(self, branch: str, against: str, b: int, level: float) -> BranchDifference:
        """The last row minus row b, mean over all findings."""
        value = self.auroc_BK[-1].mean() - self.auroc_BK[b].mean()
        replicate_R = uncertainty.mean_over(self.replicate_BKR[-1]) - uncertainty.mean_over(self.replicate_BKR[b])
        apart = uncertainty.difference(value, replicate_R, level, **self._rests_on(range(len(self.patients_K))))
        return BranchDifference(**dict(apart), branch=branch, against=against, measure="auroc")

    def _rests_on(self, ks: Sequence[int]) -> dict[str, Any]:
        return {"patients": min(self.patients_K[k] for k in ks), "student": len(ks) == 1}


def frozen_features(
    films: Prepared,
    backbone: str,
    weights: str,
    *,
    image_size: int | None = None,
    rows: npt.NDArray[np.intp] | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Floats:
    """Pooled features N x D of films of a folder (default: every one) by a network that was never trained on them.

    image_size: side of the view, which shows the whole film; default: the films' own.
    """
    size = films.images.shape[1]
    model = AGCNN(backbone, weights=weights, image_size=image_size or size, resize=image_size or size)
    predictor = Predictor(model, prepared_size=size, device=device)
    some = np.arange(len(films.index)) if rows is None else rows
    return pooled_features(predictor, films.images, some, progress=progress).astype(np.float64)


def _design(films: Prepared, split: str, folds: int, seed: int) -> Design:
    if folds:
        if folds < 2:
            raise ValueError(f"folds is {folds}; expected at least 2, or 0 to use the folder's own split")
        return by_folds(films.index["patient"], np.arange(len(films.index)), folds, seed)
    part = films.index["split"].to_numpy()
    train, test = np.flatnonzero(part != split), np.flatnonzero(part == split)
    if not len(train) or not len(test):
        parts = ", ".join(f"{name} {count}" for name, count in films.index["split"].value_counts().items())
        raise ValueError(
            f"{films.folder} has {len(test)} films in the part {split!r} and {len(train)} others ({parts}); a probe "
            "needs both: name another part, or fit and measure by folds"
        )
    return Design([(train, test)], f"fitted on {len(train):,} films, measured on the {len(test):,} of {split}")


def by_folds(patient: pd.Series, rows: npt.NDArray[np.intp], folds: int = FOLDS, seed: int = 0) -> Design:
    """Films of some rows, each measured by what was fitted on those of other patients among them."""
    patient_N = patient.astype(str).to_numpy(object)[rows]
    rounds = [(rows[fit], rows[test]) for fit, test in patient_folds(patient_N, folds, seed)]
    count = len(np.unique(patient_N))
    return Design(rounds, f"{len(rounds)} folds by patient over {len(rows):,} films of {count:,} patients, pooled")
