"""What was known of the evaluated films before a run was trained: metadata, and its first weights, frozen; beside
these, its own scores. Nothing is downloaded for it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from agcxr import config
from agcxr.data.prepared import Prepared
from agcxr.evaluation.probe import PROBE, Design, Inputs, Probe, Trained, by_folds, frozen_features, measure
from agcxr.evaluation.results import Analysis
from agcxr.metrics import Floats
from agcxr.models.backbones import at_hand
from agcxr.ridge import Round

MOST_FITTED = 5000
"""Films of the other parts that are fitted on, drawn at random; more would take long and change little."""


def known_before(
    run: Path,
    films: Prepared,
    predictions: pd.DataFrame,
    analysis: Analysis,
    design: Design,
    feature_MD: npt.ArrayLike | None,
    *,
    name: str,
    model_M: npt.ArrayLike | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Probe | None:
    """Metadata and frozen first weights on the films of an evaluation, against its scores; None where no finding has
    both classes there.

    run: the folder that says which weights were first. predictions: of the measured films, as `evaluate` writes them.
    design: in rows of the prepared folder. feature_MD, model_M: as of `Trained`.
    """
    findings, branch = analysis.mean.findings, analysis.branches[-1]
    if not findings:
        return None
    rows = np.unique(np.concatenate([part for both in design.rounds for part in both]))
    rounds = [(np.searchsorted(rows, fit), np.searchsorted(rows, test)) for fit, test in design.rounds]
    index = films.facts.iloc[rows]
    target_NK = films.targets(rows, findings).astype(np.float64)
    score_MK = predictions[[f"{branch}_{finding}" for finding in findings]].to_numpy(np.float64)
    inputs = Inputs.of(index, *first_features(run, films, rows, device, progress))
    how = analysis.resampling
    return measure(
        index,
        target_NK,
        findings,
        inputs,
        Design(rounds, design.words),
        Trained(name, branch, score_MK, feature_MD, model_M),
        resamples=how.resamples,
        seed=how.seed,
        level=how.level,
    )


def by_split(films: Prepared, rows: npt.NDArray[np.intp], split: str) -> Design | None:
    """Fitted on the films of the other parts, as the run was; in folds by patient among the measured ones where there
    are no others, as in a folder of test films alone. None for films of one patient."""
    others = np.flatnonzero((films.index["split"] != split).to_numpy())
    patients, own = (films.index["patient"].iloc[part].nunique() for part in (others, rows))
    if patients < 2:
        return by_folds(films.index["patient"], rows) if own > 1 else None
    count = f"{len(others):,}"
    if len(others) > MOST_FITTED:
        others = np.sort(np.random.default_rng(0).choice(others, MOST_FITTED, replace=False))
        count = f"{MOST_FITTED:,} of the {count}"
    return Design(
        [(others, rows)], f"fitted on {count} films of the other parts, measured on the {len(rows):,} of {split}"
    )


def pooled(split_of_folds: Sequence[npt.NDArray[np.object_]]) -> Design:
    """The rounds of a cross-validation; each array: the part of every film in a fold."""
    rounds: list[Round] = [(np.flatnonzero(part != "test"), np.flatnonzero(part == "test")) for part in split_of_folds]
    count = sum(len(test) for _, test in rounds)
    return Design(rounds, f"fitted as the run was, in its {len(rounds)} folds, measured on their {count:,} test films")


def first_features(
    run: Path, films: Prepared, rows: npt.NDArray[np.intp], device: str | None, progress: bool
) -> tuple[Floats | None, str]:
    """Features of these films by the backbone of a run as it was before training, and whose they are; or None, and a
    sentence that says why there are none."""
    path, left_out = run / "config.yaml", "Frozen features are left out:"
    if not path.is_file():
        return None, f"{left_out} {run.name} has no config.yaml to say which weights it started from."
    try:
        settings = config.from_yaml(path)
        backbone, weights, size = settings.backbone, settings.weights, settings.image_size
        if weights == "none":
            return None, f"{left_out} the run started from random weights, which hold no knowledge to compare with."
        if not at_hand(backbone, weights):
            return None, (
                f"{left_out} the weights that the run started from, {weights} of {backbone}, are not on this machine, "
                "and an evaluation downloads nothing."
            )
        features = _features(films, backbone, weights, size, rows.tobytes(), device, progress)
    except ValueError as error:
        return None, f"{left_out} the run's first weights cannot be loaded ({str(error).splitlines()[0]})."
    return features, f"{backbone} as before training ({weights} weights), views of {size} x {size}"


@lru_cache(maxsize=1)
def _features(
    films: Prepared, backbone: str, weights: str, size: int, rows: bytes, device: str | None, progress: bool
) -> Floats:
    """Kept for the next run of the same start: runs of several seeds are evaluated one after the other."""
    if progress:
        print(f"Frozen features of {backbone} ({weights} weights), which the run started from")
    chosen = np.frombuffer(rows, np.intp)
    return frozen_features(films, backbone, weights, image_size=size, rows=chosen, device=device, progress=progress)


def keep(folder: Path, probe: Probe | None, *, progress: bool = True) -> None:
    """Write probe.json into a results folder and print it in brief; without one, remove that of an earlier evaluation,
    whose scores are no longer those beside it."""
    path = folder / PROBE
    if probe is not None:
        probe.save(folder)
        if progress:
            print(f"\n{probe.brief}\n")
    elif path.is_file() and Probe.load(folder).model:
        path.unlink()
