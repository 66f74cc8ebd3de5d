"""Sections of the report that are drawn: curves, training, and the films with what was attended."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from agcxr.evaluation.charts import Axis, Line, Role, axis_over, lines
from agcxr.evaluation.page import Block, Example, Gallery, Legend, Multiples, PictureFile, Section, Text
from agcxr.evaluation.results import ExampleResult, Results
from agcxr.inference.prediction import BRANCHES
from agcxr.metrics import roc
from agcxr.table import NONE, Cell, Table, number, percent, words

CURVE_POINTS = 160
CURVE_CELL = (300, 190)
BRANCH_LINES: tuple[tuple[str, Role, bool], ...] = (
    ("global", "ink", False),
    ("local", "muted", True),
    ("fusion", "accent", False),
)


def roc_curves(results: Results, predictions: pd.DataFrame) -> Section:
    """One small ROC plot a finding, three branches each."""
    svgs, titles, notes = [], [], []
    axis = Axis(0, 1, (0, 0.5, 1), 1)
    for r in results.analysis.labels:
        if not r.defined:
            continue
        target = predictions[f"label_{r.finding}"].to_numpy(np.float64)
        series = []
        for branch, role, dashed in BRANCH_LINES:
            curve = roc(target, predictions[f"{branch}_{r.finding}"].to_numpy(np.float64))
            some = _thinned(curve.false_positive_rate, curve.true_positive_rate)
            series.append(Line(curve.false_positive_rate[some], curve.true_positive_rate[some], role, dashed))  # type: ignore[arg-type]
        svgs.append(lines(series, axis, axis, width=170, height=170, diagonal=True, name=f"ROC of {r.finding}"))
        titles.append(words(r.finding))
        notes.append(number(r.branches[-1].auroc.value))
    if not svgs:
        return Section("ROC curves", ())
    legend = Legend(tuple((role, dashed, branch) for branch, role, dashed in BRANCH_LINES))  # type: ignore[misc]
    caption = "Sensitivity (up) against 1 − specificity (right). The number is the AUROC of the fusion."
    return Section(
        "ROC curves", (legend, Multiples(tuple(svgs), tuple(titles), tuple(notes), "roc.svg", (170, 170), caption, 5))
    )


def _thinned(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Points spread evenly along the curve: a drawing of thousands looks no different."""
    if len(x) <= CURVE_POINTS:
        return np.arange(len(x))
    along = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    return np.unique(np.r_[np.searchsorted(along, np.linspace(0, along[-1], CURVE_POINTS)), len(x) - 1])


def attention(results: Results) -> Section:
    """Examples with heatmap, box and crop; areas and fallbacks of all films."""
    head = ("Films", "Count", "Fallbacks", "Share", "Nearly whole", "Area, median", "10th to 90th percentile")
    rows = tuple(
        tuple(
            Cell(value)
            for value in (
                words(r.group),
                f"{r.films:,}",
                f"{r.fallbacks:,}",
                percent(r.fallback_share),
                percent(r.near_whole_share),
                percent(r.area_median),
                f"{percent(r.area_low)} to {percent(r.area_high)}" if r.films else NONE,
            )
        )
        for r in results.crops
        if r.group not in results.analysis.unstated
    )
    caption = (
        "The attended box as a share of the film's area, over all films and over the positive films of each finding. A "
        "fallback shows the local branch the whole view, because no region stood out. Nearly whole: crops of 90 % of "
        "the view or more, fallbacks among them, which show the local branch what the global one sees."
    )
    return Section("Where it looked", (*_galleries(results), Table(head, rows, caption)))


def _galleries(results: Results) -> tuple[Block, ...]:
    boxed = any(not math.isnan(example.iou) for example in results.examples)
    by = "overlap with the annotated box" if boxed else "the fusion's probability of a true finding"
    out: list[Block] = []
    for kind in ("best", "median", "worst"):
        shown = tuple(_example(example) for example in results.examples if example.kind == kind)
        if shown:
            out.append(Gallery(f"{kind.capitalize()} by {by}", shown))
    if out and boxed:
        out.insert(0, Text("Blue: the attended box. Amber: the annotated box of the finding named."))
    return tuple(out)


def _example(example: ExampleResult) -> Example:
    probabilities = ", ".join(f"{p.branch} {number(p.probability, 2)}" for p in example.probabilities)
    rows = [f"Probability: {probabilities}"]
    if not math.isnan(example.iou):
        rows.append(f"IoU {number(example.iou, 2)}, IoBB {number(example.iobb, 2)}")
    if example.fallback:
        rows.append("No region stood out")
    others = [words(name) for name in example.truth if name != example.finding]
    rows += [f"Also labelled: {', '.join(others)}"] if others else []
    boxed = "Film, attended box" + (" and annotated box" if not math.isnan(example.iou) else "")
    whole = "Crop: the whole view" if example.fallback else "Crop, as the local branch saw it"
    pictures = (
        PictureFile(example.film, boxed),
        PictureFile(example.attention, "Attention on it"),
        PictureFile(example.crop, whole),
    )
    return Example(f"{words(example.finding)}, {example.image_id}", "\n".join(rows), pictures)


def training(folder: Path) -> Section:
    """Losses and validation AUROC of the stages, in order; one that trains several parts begins with its own."""
    aucs, losses, titles, notes = [], [], [], []
    stages = [path.stem for path in (folder / "facts").glob("*.csv") if path.stem.split("+")[0] in BRANCHES]
    for stage in sorted(stages, key=lambda name: BRANCHES.index(name.split("+")[0])):
        path = folder / "facts" / f"{stage}.csv"
        frame = pd.read_csv(path)
        epochs, auc = frame["epoch"].tolist(), frame["val_auc"].to_numpy(np.float64)
        first, last = epochs[0], epochs[-1]
        across = Axis(first, max(last, first + 1), tuple(sorted({first, last})), 0, "epoch")
        best = int(np.nanargmax(auc)) if np.isfinite(auc).any() else None
        up = axis_over(auc.tolist())
        aucs.append(
            lines(
                [Line(epochs, auc.tolist(), mark=best)],
                across,
                up,
                width=CURVE_CELL[0],
                height=CURVE_CELL[1],
                name=f"validation AUROC, {stage} stage",
            )
        )
        train, val = frame["train_loss"].tolist(), frame["val_loss"].tolist()
        both = [Line(epochs, train, "muted", True), Line(epochs, val, "ink")]
        losses.append(
            lines(
                both,
                across,
                axis_over([*train, *val]),
                width=CURVE_CELL[0],
                height=CURVE_CELL[1],
                name=f"losses, {stage} stage",
            )
        )
        titles.append(stage.capitalize())
        notes.append(f"best {number(auc[best])}, epoch {epochs[best]}" if best is not None else "undefined")
    if not titles:
        return Section("Training", ())
    caption = "Mean AUROC over the findings on the validation films; the dot marks the epoch whose weights were kept."
    return Section(
        "Training",
        (
            Multiples(tuple(aucs), tuple(titles), tuple(notes), "training-auc.svg", CURVE_CELL, caption),
            Legend((("muted", True, "training loss"), ("ink", False, "validation loss"))),
            Multiples(tuple(losses), tuple(titles), ("",) * len(titles), "training-loss.svg", CURVE_CELL),
        ),
    )
