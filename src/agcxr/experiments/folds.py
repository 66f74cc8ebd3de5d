"""Runs of folds, evaluated as one: the test films of all folds pooled, each scored by a model new to its patient."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from agcxr import metrics
from agcxr.calibration import fit_calibration
from agcxr.data.prepared import Prepared, open_prepared
from agcxr.evaluation import estimates
from agcxr.evaluation.evaluate import RunEvaluation, crop_rows, evaluate, measured, place_of, to_scores
from agcxr.evaluation.interpret import interpret
from agcxr.evaluation.known import keep, known_before, pooled
from agcxr.evaluation.page import Section, Text
from agcxr.evaluation.probe import Probe
from agcxr.evaluation.report import Written, power_of, seeds_section, write_report
from agcxr.evaluation.report_scores import subgroups
from agcxr.evaluation.results import PREDICTIONS, Analysis, LeakResult, Results
from agcxr.evaluation.tables import text_table
from agcxr.experiments.seeds import spreads_of
from agcxr.inference.prediction import ViewSet
from agcxr.table import Cell, Table, number, signed, to_text, words
from agcxr.training.folds import Folds, read_folds
from agcxr.training.seeds import SEEDS, Seeds, Spread, write_seeds
from agcxr.uncertainty import RESAMPLES


@dataclass(frozen=True)
class Pooled:
    """The test films of all folds as one evaluation, and what its report says of the folds."""

    folder: Path
    results: Results
    frame: pd.DataFrame
    probe: Probe | None
    sections: tuple[Section, ...]


def evaluate_folds(
    root: str | Path,
    prepared: str | Path | Prepared,
    split: str = "test",
    *,
    out: str | Path | None = None,
    resamples: int = RESAMPLES,
    device: str | None = None,
    views: ViewSet = "plain",
    probe: bool = True,
    progress: bool = True,
) -> tuple[Written, ...]:
    """Evaluate each fold of a folder that `train_folds` made on its own test films, pool these, and write results and
    report of all films to `out`, by default ROOT/evaluation/test (of several seeds: test-seed0, ..., each with the
    spread over them, seeds.json).

    The pooled predictions.parquet says which fold tested a film; its calibrated probabilities are out-of-fold: fitted
    on the test films of the other folds. probe: also measure what was known before training, in the same folds, into
    probe.json. Raises ValueError for another split, for films that are not those of the
    folds, and as `evaluate` does.
    """
    root, plan = Path(root), read_folds(root)
    films = prepared if isinstance(prepared, Prepared) else open_prepared(prepared)
    if split != "test":
        raise ValueError(f"folds are pooled over their test films, but split is {split!r}; leave --split at test")
    if films.plan.fingerprint != plan.fingerprint:
        raise ValueError(f"{films.folder} holds other films than {root} was trained on; give --data {plan.data}")
    place = Path(out) if out is not None else root / "evaluation" / place_of(split, views)
    pooled_seeds = []
    for seed in plan.seeds or (None,):
        folder = place if seed is None else place.with_name(f"{place.name}-seed{seed}")
        pooled_seeds.append(_pool(root, plan, seed, films, folder, resamples, device, views, probe, progress))
    more: tuple[Section, ...] = ()
    if plan.seeds is not None:
        spread = _over_seeds(plan, [pooled_seed.results.analysis for pooled_seed in pooled_seeds])
        write_seeds(place.parent / SEEDS, spread)
        more = (seeds_section(spread),)
        if progress:
            print(f"\n{to_text(spread.table())}")
    return tuple(
        write_report(
            pooled_seed.folder,
            pooled_seed.results,
            pooled_seed.frame,
            pooled_seed.probe,
            (*pooled_seed.sections, *more),
        )
        for pooled_seed in pooled_seeds
    )


def _pool(
    root: Path,
    plan: Folds,
    seed: int | None,
    films: Prepared,
    folder: Path,
    resamples: int,
    device: str | None,
    views: ViewSet,
    probe: bool,
    progress: bool,
) -> Pooled:
    runs = list(zip(plan.runs(root, seed), plan.films(root), strict=True))
    evaluations = [
        evaluate(run, part, "test", resamples=resamples, examples=0, device=device, views=views, progress=False)
        for run, part in runs
    ]
    first = evaluations[0].results
    answered = [[result.finding for result in evaluation.results.analysis.labels] for evaluation in evaluations]
    labels = tuple(name for name in answered[0] if all(name in names for names in answered))
    frames = [evaluation.frame.assign(fold=fold) for fold, evaluation in enumerate(evaluations, start=1)]
    frame = out_of_fold(pd.concat(frames, join="inner").sort_values("row", ignore_index=True), labels)
    scores = to_scores(frame, labels, first.analysis.findings)
    measures = measured(scores, frame, resamples=resamples)
    analysis = measures["analysis"]
    results = first.model_copy(
        update={
            "run": f"{root.resolve().name}, {plan.folds} folds"
            + ("" if seed is None else f", seed {seed}")
            + ("" if views == "plain" else f", views: {views}"),
            "split": "pooled test",
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            **measures,
            "crops": crop_rows(frame, labels),
            "leak": _leak([evaluation.results.leak for evaluation in evaluations]),
            "points_from": "nowhere: every fold has its own",
            "environment": first.environment.model_copy(
                update={"seconds": round(sum(evaluation.results.environment.seconds for evaluation in evaluations), 2)}
            ),
        }
    )
    facts = folder / "facts"
    facts.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(runs[0][0] / "config.yaml", facts / "config.yaml")
    (facts / "plan.json").write_text(films.plan.model_dump_json(indent=1), encoding="utf-8")
    frame.to_parquet(folder / PREDICTIONS, index=False)
    results.save(folder)
    if progress:
        title = "" if seed is None else f"Seed {seed}\n"
        print(f"\n{title}{text_table(analysis)}\n{power_of(results)}")
    probe_result = _known(runs[0][0], evaluations, films, frame, results, device, progress) if probe else None
    keep(folder, probe_result, progress=progress)
    meaning = interpret(frame, results, None, as_predicted=True)
    meaning.save(folder)
    estimates.save(folder, results=analysis, scores=meaning)
    return Pooled(
        folder, results, frame, probe_result, (_section(evaluations, analysis, frame, labels), subgroups(meaning))
    )


def _known(
    run: Path,
    folds: Sequence[RunEvaluation],
    films: Prepared,
    frame: pd.DataFrame,
    results: Results,
    device: str | None,
    progress: bool,
) -> Probe | None:
    """In the folds of the runs; the features beside are of each fold's own model."""
    design = pooled([fold.films.index["split"].to_numpy() for fold in folds])
    features = [fold.feature_ND for fold in folds if fold.feature_ND is not None]
    order = np.argsort(np.concatenate([fold.row_N for fold in folds]))
    feature_MD = np.concatenate(features)[order] if len(features) == len(folds) else None
    options: dict[str, Any] = {"name": results.run, "model_M": frame["fold"].to_numpy(), "device": device}
    return known_before(run, films, frame, results.analysis, design, feature_MD, **options, progress=progress)


def out_of_fold(frame: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """Predictions with a column `fold`, their calibrated_* columns fitted anew: those of a fold on the films of all
    others. No patient is in two folds, so nobody's labels make the own probability."""
    target_NK = frame[[f"label_{name}" for name in labels]].to_numpy(np.float64)
    score_NK = frame[[f"fusion_{name}" for name in labels]].to_numpy(np.float64)
    patient_N, fold_N = frame["patient"].to_numpy(dtype=object), frame["fold"].to_numpy()
    calibrated_NK = np.empty_like(score_NK)
    for fold in np.unique(fold_N):
        here = fold_N == fold
        fitted = fit_calibration(target_NK[~here], score_NK[~here], patient_N[~here], tuple(labels))
        calibrated_NK[here] = fitted.probabilities(score_NK[here], tuple(labels))
    return frame.assign(**{f"calibrated_{name}": calibrated_NK[:, k] for k, name in enumerate(labels)})


def _leak(each: Sequence[LeakResult]) -> LeakResult:
    unchecked = [item.why for item in each if not item.checked]
    return LeakResult(
        checked=not unchecked,
        why=next(iter(unchecked), ""),
        shared_patients=sum(item.shared_patients for item in each),
        shared_films=sum(item.shared_films for item in each),
        allowed=False,
    )


def _over_seeds(plan: Folds, each: Sequence[Analysis]) -> Seeds:
    return Seeds(
        measure=f"Mean AUROC over the findings on the pooled test films of {plan.folds} folds",
        seeds=plan.seeds or (),
        runs=tuple(f"seed{seed}" for seed in plan.seeds or ()),
        spreads=spreads_of(each),
    )


def _section(
    evaluations: Sequence[RunEvaluation], analysis: Analysis, frame: pd.DataFrame, labels: Sequence[str]
) -> Section:
    """Each fold beside the pooled films, and what calibration does out of fold."""
    head = ("Branch", "Pooled", "Mean of folds", "SD", *(f"Fold {fold}" for fold in range(1, len(evaluations) + 1)))
    folds = spreads_of([evaluation.results.analysis for evaluation in evaluations])
    pooled = spreads_of([analysis])

    def row(spread: Spread, whole: Spread) -> tuple[Cell, ...]:
        shown = signed if spread.difference else number
        values = (shown(spread.mean), number(spread.sd), *map(shown, spread.values))
        return (Cell(spread.name.capitalize()), Cell(shown(whole.mean), strong=True), *map(Cell, values))

    caption = (
        "Mean AUROC over the findings. Every film is a test film of one fold, scored by a model that was trained on "
        "patients of the others. Pooled: all films together, as everywhere else in this report; where models of "
        "different folds differ in scale that costs a little, which the mean of the folds does not pay. Folds may lack "
        "a rare finding. The folds share most of their training films, so their SD is no standard error."
    )
    rows = tuple(row(spread, whole) for spread, whole in zip(folds, pooled, strict=True))
    answered = {result.finding for evaluation in evaluations for result in evaluation.results.analysis.labels}
    lacking = [words(name) for name in analysis.findings.labels if name in answered and name not in labels]
    texts = [_brier(frame, [name for name in labels if name in analysis.findings.names])]
    if lacking:
        texts.insert(0, f"Left out, as the model of some fold does not answer for it: {', '.join(lacking)}.")
    return Section("Folds", (Table(head, rows, caption, summary=True), *map(Text, filter(None, texts))))


def _brier(frame: pd.DataFrame, findings: Sequence[str]) -> str:
    """Mean Brier score of the fusion before and after the calibration, over the findings that have both classes."""
    both = [name for name in findings if {0.0, 1.0} <= set(frame[f"label_{name}"].dropna())]
    if not both:
        return ""
    raw, calibrated = (
        float(np.mean([metrics.brier(frame[f"label_{name}"], frame[f"{kind}_{name}"]) for name in both]))
        for kind in ("fusion", "calibrated")
    )
    return (
        "Calibrated probabilities are out-of-fold: those of each fold are fitted on the test films of the others. Mean "
        f"Brier score of the fusion: {number(raw, 4)} as scored, {number(calibrated, 4)} calibrated."
    )
