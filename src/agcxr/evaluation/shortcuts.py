"""What a network can tell of a film that is no finding: its view position, how its file was made, the person's sex; and
how much of the AUROC of findings goes when that property is balanced away.

Shapes: N films, D features, K findings, B scores, V values of a property.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from agcxr import uncertainty
from agcxr.data.prepared import FACTS
from agcxr.evaluation.strata import RESAMPLES, Averages, averages, balanced, codes, plain_auroc
from agcxr.metrics import Floats
from agcxr.ridge import held_out, rounds_within
from agcxr.table import interval, number, signed
from agcxr.uncertainty import FEW_PATIENTS, Difference, Estimate
from agcxr.values import Number, Record

MOST_VALUES = 10
"""Of a property, the commonest; the others are one group together."""


class Told(Record):
    """AUROC at which a ridge on some features tells the values of a property, of patients that it was not fitted on."""

    features: str
    auroc: Estimate


class Balanced(Record):
    """The mean AUROC of some scores over the findings, and with films weighted so that every finding has the same share
    of each value of the property among films with it and without it (`strata.balanced_auroc`)."""

    scores: str
    auroc: Estimate
    balanced: Estimate
    change: Number
    """`balanced` - `auroc`, paired."""
    change_low: Number
    change_high: Number
    p: Number

    @property
    def difference(self) -> Difference:
        """`balanced` - `auroc`."""
        return Difference(value=self.change, low=self.change_low, high=self.change_high, p=self.p)

    def __str__(self) -> str:
        before, after, change = number(self.auroc.value), number(self.balanced.value), self.difference
        span = f"{signed(change.value)}, {signed(change.low)} to {signed(change.high)}"
        return f"the mean AUROC of {self.scores} goes from {before} to {after} ({span})"


class Shortcut(Record):
    """One property of the films."""

    name: str
    """`view`, `sex`, `file size`, or another column of the index."""
    values: tuple[str, ...] = ()
    """Those that enough patients have, the commonest first; each is told from all others."""
    films: tuple[int, ...] = ()
    """Of each."""
    unknown: int = 0
    """Films that do not state it."""
    untested: str = ""
    """Why nothing was measured: one value, none, or too few patients."""
    told: tuple[Told, ...] = ()
    balanced: tuple[Balanced, ...] = ()

    @property
    def label(self) -> str:
        """As "view (PA 338, AP 314)"."""
        counts = ", ".join(f"{value} {count:,}" for value, count in zip(self.values, self.films, strict=True))
        return f"{self.name} ({counts})" if counts else self.name


@dataclass(frozen=True)
class Features:
    """What a network makes of the films."""

    value_ND: npt.ArrayLike
    model_N: npt.ArrayLike | None = None
    """Which of several networks, as of folds, made them: each is asked about its own films alone."""


def properties(index: pd.DataFrame) -> dict[str, pd.Series]:
    """Each film's view, sex and size of file, and every further column, as text; NaN where unknown. index: of
    `Prepared.facts`, which holds no labels."""
    size = index["width"].astype(str) + " x " + index["height"].astype(str)
    further = [str(name) for name in index if name not in FACTS]
    columns = {"view": index["view"], "sex": index["sex"], "file size": size, **{name: index[name] for name in further}}
    return {name: stated_text(column) for name, column in columns.items()}


def shortcuts(
    index: pd.DataFrame,
    target_NK: npt.ArrayLike,
    score_BNK: npt.ArrayLike,
    scores: Sequence[str],
    features: Mapping[str, Features],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Shortcut, ...]:
    """Test every property of the films whose rows `index` holds.

    target_NK, score_BNK: of the findings, by the B scores named; features: of networks, by what these are called. A
    property is told by a ridge, in folds by patient.
    """
    patient_N = index["patient"].astype(str).to_numpy(object)
    labelled = {name: _Values.of(text, patient_N) for name, text in properties(index).items()}
    tested = {name: values for name, values in labelled.items() if not values.untested}
    estimates = {
        network: _told(tested, features_of, patient_N, resamples, seed, level)
        for network, features_of in features.items()
        if tested
    }

    def weighed(values: _Values) -> tuple[Balanced, ...]:
        measures = (plain_auroc, balanced(values.code_N))
        means = averages(measures, target_NK, score_BNK, patient_N, resamples=resamples, seed=seed)
        return tuple(_balanced(name, means, b, level) for b, name in enumerate(scores) if means.findings)

    return tuple(
        Shortcut(
            name=name,
            values=values.names,
            films=values.films,
            unknown=values.unknown,
            untested=values.untested,
            told=tuple(
                Told(features=network, auroc=estimates[network][name]) for network in estimates if name in tested
            ),
            balanced=weighed(values) if name in tested else (),
        )
        for name, values in labelled.items()
    )


def as_lines(shortcuts: Sequence[Shortcut]) -> list[str]:
    """In words for a terminal, a line a property and one of those not tested; the change is that of the last scores."""
    out = []
    for shortcut in shortcuts:
        if shortcut.untested:
            continue
        parts = [f"told by {network.features} with AUROC {interval(network.auroc)}" for network in shortcut.told]
        parts += [f"balanced, {change}" for change in shortcut.balanced[-1:]]
        out.append(f"  {shortcut.label}: {'; '.join(parts)}")
    left = not_tested(shortcuts)
    return [*(["Shortcuts"] if shortcuts else []), *out, *([f"  Not tested: {left}"] if left else [])]


def not_tested(shortcuts: Sequence[Shortcut]) -> str:
    """Which properties were not, and why; empty where all were."""
    return "; ".join(f"{shortcut.name}, {shortcut.untested}" for shortcut in shortcuts if shortcut.untested)


@dataclass(frozen=True)
class _Values:
    """What the films state of one property."""

    names: tuple[str, ...]
    """With enough patients, the commonest first."""
    films: tuple[int, ...]
    unknown: int
    untested: str
    code_N: npt.NDArray[np.intp]
    target_NV: Floats
    """1: the film has the value, 0: another, NaN: not stated. One column for two values, which mirror each other."""

    @classmethod
    def of(cls, text_N: pd.Series, patient_N: npt.NDArray[np.object_]) -> _Values:
        stated, counts = text_N.notna().to_numpy(), text_N.value_counts()
        has_NV = np.stack(
            [(text_N == value).to_numpy(bool) for value in counts.index[:MOST_VALUES]] or [~stated], axis=1
        )
        target_NV = np.where(stated[:, None], has_NV.astype(np.float64), np.nan)
        enough = [uncertainty.patients_of_the_rarer(target_N, patient_N) >= FEW_PATIENTS for target_N in target_NV.T]
        names = tuple(str(value) for value, fits in zip(counts.index, enough, strict=False) if fits)
        return cls(
            names=names,
            films=tuple(int(counts[name]) for name in names),
            unknown=int((~stated).sum()),
            untested=_untested(counts, names, bool(stated.all())),
            code_N=codes(text_N.where(text_N.isin(names) | text_N.isna(), "others")),
            target_NV=target_NV[:, enough][:, : 1 if len(counts) == 2 else None],
        )


def _untested(counts: pd.Series, common: Sequence[str], all_known: bool) -> str:
    if not len(counts):
        return "which the films do not state"
    if len(counts) == 1:
        return f"which is {counts.index[0]} on all films{'' if all_known else ' that state it'}"
    return "" if common else f"of which no value parts {FEW_PATIENTS} patients from {FEW_PATIENTS} others"


def stated_text(column: pd.Series) -> pd.Series:
    """A column of an index as text; NaN where it states nothing, which is an empty text in those of view and sex."""
    return column.astype(object).map(lambda value: np.nan if pd.isna(value) or value == "" else str(value))


def _told(
    tested: Mapping[str, _Values],
    features: Features,
    patient_N: npt.NDArray[np.object_],
    resamples: int,
    seed: int,
    level: float,
) -> dict[str, Estimate]:
    """How well each property is told; of several values, the mean of each against the others."""
    target_NV = np.concatenate([values.target_NV for values in tested.values()], axis=1)
    model_N = np.zeros(len(patient_N)) if features.model_N is None else features.model_N
    rounds = rounds_within(patient_N, model_N, seed)
    score_NV, _ = held_out(features.value_ND, target_NV, patient_N, rounds, seed)
    out, start = {}, 0
    for name, values in tested.items():
        own = slice(start, start := start + values.target_NV.shape[1])
        means = averages(
            (plain_auroc,), target_NV[:, own], score_NV[None, :, own], patient_N, resamples=resamples, seed=seed
        )
        out[name] = means.interval(0, 0, level)
    return out


def _balanced(name: str, means: Averages, b: int, level: float) -> Balanced:
    change = means.change(1, 0, b, level)
    return Balanced(
        scores=name,
        auroc=means.interval(0, b, level),
        balanced=means.interval(1, b, level),
        change=change.value,
        change_low=change.low,
        change_high=change.high,
        p=change.p,
    )
