"""A trained run on a part of a prepared folder -> results.json, predictions.parquet, pictures, and the table on screen.

Shapes: N films, K labels, B branches.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from agcxr.attended import Attended, view_share
from agcxr.data.prepared import Plan, Prepared, open_prepared
from agcxr.evaluation.analysis import Evaluation, Scores, analyse
from agcxr.evaluation.apart import apart, text
from agcxr.evaluation.examples import draw_examples
from agcxr.evaluation.leak import check_each
from agcxr.evaluation.points import choose_points
from agcxr.evaluation.probe import PROBE
from agcxr.evaluation.results import PREDICTIONS, Analysis, CropRow, Environment, Results
from agcxr.evaluation.strata import RESAMPLES as SAME_VIEW_RESAMPLES
from agcxr.evaluation.strata import same_view
from agcxr.evaluation.tables import text_table, untaught
from agcxr.findings import Findings
from agcxr.inference.engine import Engine
from agcxr.inference.ensemble import all_runs
from agcxr.inference.load import load_runs
from agcxr.inference.prediction import BRANCHES, Precision, ViewSet
from agcxr.inference.predictor import BatchPrediction, Predictor
from agcxr.machine import processor, versions
from agcxr.metrics import box_area
from agcxr.uncertainty import RESAMPLES, Estimate

PACKAGES = ("agcxr", "torch", "timm", "lightning", "numpy", "scikit-learn")


COUNTED = ("view_share", "fallback", "plateau")
"""Columns of predictions.parquet that say how much attention chose."""

EXAMPLES = 3
"""Films shown of each of best, median and worst."""


@dataclass(frozen=True, eq=False)
class RunEvaluation(Evaluation):
    """A model's answers on a part of the films: loaded once, predicted once, and everything is measured from here."""

    folder: Path
    """Where its files lie; none of them is read again."""
    films: Prepared
    engine: Engine
    predictor: Predictor
    """The (first) network itself, for its maps."""
    frame: pd.DataFrame
    """predictions.parquet: a row a film."""
    results: Results
    feature_ND: np.ndarray | None = None
    """Of the global branch of the (first) model, pooled; films as in `frame`."""

    @property
    def split(self) -> str:
        """The part of the films."""
        return self.results.split

    @property
    def row_N(self) -> npt.NDArray[np.intp]:
        """The films, as rows of the prepared folder."""
        return self.frame["row"].to_numpy(np.intp)

    @property
    def boxes(self) -> pd.DataFrame:
        """Annotated boxes of findings that the model has an output for, by its names, of all films of the folder."""
        boxes = self.films.boxes_of(self.engine.findings)
        return boxes[boxes["finding"].isin(self.engine.labels)]

    @property
    def has_boxes(self) -> bool:
        """Whether at least two patients of the films have such boxes: one has no interval."""
        return bool(self.frame.loc[self.frame["row"].isin(self.boxes["row"]), "patient"].nunique() > 1)


def evaluate(
    run: str | Path,
    prepared: str | Path | Prepared,
    split: str = "test",
    *,
    out: str | Path | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
    allow_leak: bool = False,
    examples: int = EXAMPLES,
    batch_size: int = 32,
    device: str | None = None,
    precision: Precision = "fp32",
    others: Sequence[str] = (),
    views: ViewSet = "plain",
    progress: bool = True,
) -> RunEvaluation:
    """Evaluate the final model of a run, or the average of several.

    Args:
        run, others, views: what answers, of run folders, model folders and hub ids; see `load.load_engine`.
        prepared: a prepared folder; `split` is its part.
        out: results folder; default: RUN/evaluation/<split>, with `-average` and the views behind it for an average.
        examples: films shown of each of best, median and worst; 0 for none. progress: a bar, and the table at the end.
    Labels of the model's own are left out. Raises ValueError for a split without films, films of another size than the
    model's, or no label in common, and PatientLeak for patients trained on, unless `allow_leak` (the report says so).
    """
    start, films = time.perf_counter(), prepared if isinstance(prepared, Prepared) else open_prepared(prepared)
    engine, (first, *more) = load_runs(run, device, precision, others=others, views=views)
    rows, findings = _rows(films, split, engine.findings), _known(engine, films)
    leak = check_each([predictor.model.card for predictor in (first, *more)], films, rows, split, allow=allow_leak)
    folder = _folder(Path(run), place_of(split, views, 1 + len(more)), out)
    _copy_facts(Path(all_runs(run, others)[0]), films.plan, folder)
    answers, rate = _answers(engine, films, rows, batch_size, progress)
    (frame := to_frame(films, rows, answers, engine.findings)).to_parquet(folder / PREDICTIONS, index=False)
    scores = to_scores(frame, engine.labels, findings)
    chosen = choose_points(engine, films, split, batch_size=batch_size)
    how = {"rng_seed": seed, "resamples": resamples, "level": level, "points": chosen.points}
    results = Results(
        run=_run_name(run, engine),
        backbone=first.model.backbone_name,
        split=split,
        collection=films.plan.source.collection,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        **measured(scores, frame, **how),
        crops=crop_rows(frame, engine.labels),
        attention=_doubt(frame, first),
        leak=leak,
        points_from=chosen.words,
        points_fitted_here=chosen.here,
        examples=draw_examples(engine, films, frame, folder, each=examples),
        environment=_environment(first, precision, time.perf_counter() - start, rate),
    )
    results.save(folder)
    if progress:
        print(_shown(results, engine.words, films.unstated(engine.findings)))
    return RunEvaluation(scores, results.analysis, folder, films, engine, first, frame, results, answers.feature_ND)


def _answers(
    engine: Engine, films: Prepared, rows: np.ndarray, batch_size: int, progress: bool
) -> tuple[BatchPrediction, float]:
    """And how many films a second."""
    start = time.perf_counter()
    answers = engine.predict_arrays(films.images, rows, batch_size=batch_size, progress=progress)
    return answers, len(rows) / (time.perf_counter() - start)


def _shown(results: Results, averaged: str, own: tuple[str, ...]) -> str:
    unchecked = results.leak.unchecked
    lines = (
        text_table(results.analysis),
        (each := text(results)) and f"\n{each}\n",
        f"Labels of the model's own, which the folder does not state, and so left out: {', '.join(own)}." * bool(own),
        results.attention and f"{results.attention}.",
        untaught(results.analysis),
        averaged and f"{averaged.capitalize()}.",
        unchecked and f"Leakage could not be checked: {unchecked}.",
    )
    return "\n".join(line for line in lines if line)


def _run_name(run: str | Path, engine: Engine) -> str:
    name = Path(run).resolve().name if Path(run).exists() else str(run)
    return f"{name}, {engine.words}" if engine.words else name


def place_of(split: str, views: ViewSet, runs: int = 1) -> str:
    """Name of what is known of a split: that of an average lies beside that of its run."""
    return "-".join([split, *["average"] * (runs > 1), *[views] * (views != "plain")])


def _folder(run: Path, name: str, out: str | Path | None) -> Path:
    if out is None and not run.is_dir():
        raise ValueError(f"{run} is no folder here, so its results need a place: pass --out FOLDER")
    folder = Path(out) if out is not None else run / "evaluation" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _known(engine: Engine, films: Prepared) -> Findings:
    """The model's labels, and the findings that the films state beside them."""
    own = films.findings
    return own if set(engine.labels) <= set(own.labels) else engine.findings.union(own)


def _rows(films: Prepared, split: str, findings: Findings) -> np.ndarray:
    """The films of the split. Raises ValueError where there are none, or where nothing is known of any label."""
    rows = np.flatnonzero((films.index["split"] == split).to_numpy())
    if not len(rows):
        parts = ", ".join(f"{name} {count}" for name, count in films.index["split"].value_counts().items())
        raise ValueError(f"{films.folder} has no films in the part {split!r}; it has: {parts or 'none'}")
    films.targets(rows[:1], findings)
    return rows


def to_frame(
    films: Prepared, rows: np.ndarray, answers: BatchPrediction, findings: Findings | None = None
) -> pd.DataFrame:
    """The columns of predictions.parquet: a row a film; boxes are fractions of the prepared film. findings: what is
    known of the labels."""
    index = films.index.iloc[rows]
    columns: dict[str, object] = {
        "image_id": index["image_id"].astype(str).to_numpy(),
        "patient": index["patient"].astype(str).to_numpy(),
        "row": rows,
        **{name: index[name].to_numpy() for name in ("age", "sex", "view", "collection") if name in index},
    }
    target_NK = films.targets(rows, findings or answers.labels)
    columns |= {f"label_{name}": target_NK[:, k] for k, name in enumerate(answers.labels)}
    by_branch = (answers.global_NK, answers.local_NK, answers.fusion_NK)
    for branch, score_NK in zip(BRANCHES, by_branch, strict=True):
        columns |= {f"{branch}_{name}": score_NK[:, k] for k, name in enumerate(answers.labels)}
    if answers.calibrated_NK is not None:
        columns |= {f"calibrated_{name}": answers.calibrated_NK[:, k] for k, name in enumerate(answers.labels)}
    columns |= {f"box_{edge}": answers.box_N4[:, i] for i, edge in enumerate(("x0", "y0", "x1", "y1"))}
    columns |= {"fallback": answers.fallback_N, "view_share": view_share(answers.box_N4, answers.window_4)}
    return pd.DataFrame({**columns, "plateau": answers.plateau_N})


def to_scores(predictions: pd.DataFrame, labels: tuple[str, ...], findings: Findings | None = None) -> Scores:
    """The rows of predictions.parquet as arrays. findings: what is known of the labels."""
    return Scores(
        labels=labels,
        branches=tuple(BRANCHES),
        target_NK=predictions[[f"label_{name}" for name in labels]].to_numpy(np.float64),
        score_BNK=np.stack(
            [predictions[[f"{branch}_{name}" for name in labels]].to_numpy(np.float64) for branch in BRANCHES]
        ),
        patient_N=predictions["patient"].to_numpy(dtype=object),
        findings=findings or Findings.of(labels),
    )


def crop_rows(predictions: pd.DataFrame, labels: tuple[str, ...]) -> tuple[CropRow, ...]:
    """Attention boxes of all films, then of each label's positive films."""
    area = box_area(predictions[["box_x0", "box_y0", "box_x1", "box_y1"]].to_numpy(np.float64))
    fallback = predictions["fallback"].to_numpy(bool)
    counting = "view_share" in predictions  # not in a file of before these were kept, which `ablate` may go on with
    groups = [("All films", np.ones(len(area), dtype=bool))]
    groups += [(name, (predictions[f"label_{name}"] == 1).to_numpy()) for name in labels]
    rows = []
    for name, some in groups:
        counted = Attended.of(*(predictions[name][some] for name in COUNTED)) if counting else None
        low, median, high = np.quantile(area[some], [0.1, 0.5, 0.9]) if some.any() else [float("nan")] * 3
        rows.append(
            CropRow(
                group=name,
                films=int(some.sum()),
                fallbacks=int(fallback[some].sum()),
                area_low=float(low),
                area_median=float(median),
                area_high=float(high),
                near_whole=None if counted is None else counted.near_whole,
                plateaus=None if counted is None else counted.plateaus,
            )
        )
    return tuple(rows)


def measured(scores: Scores, predictions: pd.DataFrame, **how: Any) -> dict[str, Any]:
    """Fields of `Results`: the analysis, what is left of it among films of one view, and where the films are of several
    collections each apart, and what is left among films of one. how: options of `analyse`."""
    analysis = analyse(scores, **how)
    found = {"analysis": analysis, "same_view": matched(analysis, scores, predictions["view"])}
    if "collection" not in predictions or predictions["collection"].nunique() < 2:
        return found | {"collections": (), "same_collection": ()}
    collection_N = predictions["collection"]
    return found | {
        "collections": apart(scores, collection_N, **how),
        "same_collection": matched(analysis, scores, collection_N),
    }


def matched(analysis: Analysis, scores: Scores, stratum_N: pd.Series) -> tuple[Estimate, ...]:
    """Mean AUROC of the findings in the mean, over pairs of films of one view or collection; resamples of its own, for
    each costs more than one of the mean AUROC."""
    ks, how = [scores.labels.index(name) for name in analysis.mean.findings], analysis.resampling
    few = min(how.resamples, SAME_VIEW_RESAMPLES)
    score_BNK, target_NK = scores.score_BNK[:, :, ks], scores.target_NK[:, ks]
    return same_view(target_NK, score_BNK, scores.patient_N, stratum_N, resamples=few, seed=how.seed, level=how.level)


def _doubt(predictions: pd.DataFrame, predictor: Predictor) -> str:
    """That attention hardly chooses, where it does not; a control that sees the whole view is meant to."""
    model = predictor.model
    if model.look_at == "whole":
        return ""
    return Attended.of(*(predictions[name] for name in COUNTED)).warning(model.attention.statistic)


def _copy_facts(run: Path, plan: Plan, folder: Path) -> None:
    """What the report shows of the run and of the films, so that a results folder stands by itself."""
    wanted = [
        (run / "config.yaml", "config.yaml"),
        (run / "run.json", "run.json"),
        (run / PROBE, PROBE),
    ]
    wanted += [(path, f"{path.parent.name}.csv") for path in run.glob("*/metrics.csv")]  # stages, of any strategy
    target = folder / "facts"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for source, name in wanted:
        if source.is_file():
            shutil.copyfile(source, target / name)
    (target / "plan.json").write_text(plan.model_dump_json(indent=1), encoding="utf-8")


def _environment(predictor: Predictor, precision: str, seconds: float, rate: float) -> Environment:
    cuda = predictor.device.type == "cuda"
    name = torch.cuda.get_device_name(predictor.device) if cuda else "CPU"
    packages = versions(*PACKAGES)
    return Environment(
        device=f"{name}, {precision}",
        processor=processor(),
        cores=os.cpu_count() or 1,
        python=packages.pop("python"),
        versions=tuple(f"{package} {number}" for package, number in packages.items()),
        seconds=round(seconds, 2),
        films_per_second=round(rate, 2),
    )
