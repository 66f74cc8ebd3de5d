"""All that `agcxr evaluate` measures on a split, in order: scores, then where it looks, then the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from agcxr.data.prepared import Prepared, open_prepared
from agcxr.evaluation.coverage import Coverage, coverage, text
from agcxr.evaluation.evaluate import EXAMPLES, Evaluated, evaluate
from agcxr.evaluation.interpret import interpret
from agcxr.evaluation.known import by_split, keep, known_before
from agcxr.evaluation.localization import Localization, summary
from agcxr.evaluation.localize import PICTURE, localize
from agcxr.evaluation.meaning import Meaning
from agcxr.evaluation.page import Section
from agcxr.evaluation.probe import Probe
from agcxr.evaluation.report import Written, report
from agcxr.evaluation.report_looks import crops, looks
from agcxr.evaluation.report_scores import meaning_sections
from agcxr.evaluation.results import PREDICTIONS, Results
from agcxr.inference.engine import Engine
from agcxr.inference.ensemble import all_runs
from agcxr.inference.maps import Rectify
from agcxr.inference.prediction import ViewSet
from agcxr.uncertainty import RESAMPLES


@dataclass(frozen=True)
class Study:
    """What was measured, and the report on it. `localization`: None where the split has no boxes to measure by."""

    folder: Path
    results: Results
    meaning: Meaning
    localization: Localization | None
    sections: tuple[Section, ...]
    """Of the report, beyond those that `results` makes."""
    report: Written
    probe: Probe | None = None
    """What was known before training; None where it was not asked for, or has nothing to be measured on."""


def study(
    run: str | Path,
    prepared: str | Path | Prepared,
    split: str = "test",
    *,
    out: str | Path | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    allow_leak: bool = False,
    device: str | None = None,
    maps: bool = True,
    pictures: bool = True,
    rectify: Rectify = "minmax",
    others: Sequence[str] = (),
    views: ViewSet = "plain",
    probe: bool = True,
    progress: bool = True,
) -> Study:
    """Evaluate a run on a split of a prepared folder and write its report; see `evaluate` for the arguments.

    maps: also score Grad-CAM maps of every finding against the boxes, the slowest part; the crops always are.
    pictures: show films in the report; without, nothing of a film is in the results folder but its name and numbers.
    others, views: what to average over. Where it looks is then scored of the first model on the plain view.
    rectify: how signed Grad-CAM maps become maps of 0 or more; see `FindingMaps.on_film`.
    probe: also measure what was known before training, and shortcuts, into probe.json; see `known_before`.
    """
    films = prepared if isinstance(prepared, Prepared) else open_prepared(prepared)
    options: dict[str, Any] = {"resamples": resamples, "seed": seed, "allow_leak": allow_leak}
    options |= {"device": device, "progress": progress}
    several: dict[str, Any] = {"others": others, "views": views}
    done = evaluate(run, films, split, out=out, examples=EXAMPLES if pictures else 0, **several, **options)
    engine = done.engine
    known = _known(all_runs(run, others)[0], done, films, split, device, progress) if probe else None
    keep(done.folder, known, progress=progress)
    averaged = engine.calibrated and engine.own is None  # no one calibration makes the probabilities
    meaning = interpret(done.folder, done.results, engine.own, as_predicted=averaged)
    found: Localization | None = None
    extra: tuple[Section, ...] = ()
    if has_boxes(films, split, engine.labels):
        shown = _coverage(done.folder, films, engine, resamples, seed)
        extra += (crops(shown),)
        if progress:
            print(f"\n{text(shown)}\n")
    if maps and extra:
        found = localize(
            all_runs(run, others)[0], films, split, out=done.folder, picture=pictures, rectify=rectify, **options
        )
        extra += (looks(found, PICTURE if pictures else None),)
        if progress:
            print(f"\n{summary(found)}")
    extra += meaning_sections(meaning)
    return Study(done.folder, done.results, meaning, found, extra, report(done.folder, extra), known)


def _known(run: str, done: Evaluated, films: Prepared, split: str, device: str | None, progress: bool) -> Probe | None:
    """None where the films are of one patient, or no finding has both classes."""
    frame, results = pd.read_parquet(done.folder / PREDICTIONS), done.results
    design = by_split(films, frame["row"].to_numpy(np.intp), split)
    if design is None:
        return None
    options: dict[str, Any] = {"name": results.run, "device": device, "progress": progress}
    return known_before(Path(run), films, frame, results.analysis, design, done.feature_ND, **options)


def _coverage(folder: Path, films: Prepared, engine: Engine, resamples: int, seed: int) -> Coverage:
    window, boxes = np.array(engine.window), _boxes(films, engine.labels)
    shown = coverage(pd.read_parquet(folder / PREDICTIONS), boxes, window, resamples=resamples, seed=seed)
    shown.save(folder)
    return shown


def has_boxes(films: Prepared, split: str, labels: Sequence[str]) -> bool:
    """Whether at least two patients of the split have boxes of findings among `labels`: one has no interval."""
    known = films.index["image_id"].isin(_boxes(films, labels)["image_id"])
    return bool(films.index.loc[known & (films.index["split"] == split), "patient"].nunique() > 1)


def _boxes(films: Prepared, labels: Sequence[str]) -> pd.DataFrame:
    return films.boxes[films.boxes["finding"].isin(labels)]
