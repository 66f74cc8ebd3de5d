"""Films for the report: where the attention hit best, in between and worst, with their pictures.

Shapes: N evaluated films, H W pixels. Boxes are (x0, y0, x1, y1) as FRACTIONS of the prepared film, exclusive end.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pandas as pd

from agcxr.data.prepared import Prepared
from agcxr.evaluation.results import BranchProbability, ExampleResult
from agcxr.findings import CHESTXRAY14, Findings
from agcxr.inference.engine import Engine
from agcxr.inference.maps import place
from agcxr.inference.overlay import WARNING, draw_box, draw_boxes, overlay
from agcxr.inference.prediction import BRANCHES, Box, Bytes
from agcxr.inference.stream import BatchPrediction
from agcxr.metrics import Floats, box_iobb, box_iou

SIDE = 512
"""Of a picture, in pixels."""
QUALITY = 82
Kind = Literal["best", "median", "worst"]


@dataclass(frozen=True)
class Candidate:
    """A film that might be shown for one of its findings; a higher merit is a better hit."""

    row: int
    finding: str
    merit: float
    iou: float = float("nan")
    iobb: float = float("nan")


def candidates(predictions: pd.DataFrame, boxes: pd.DataFrame, findings: Findings = CHESTXRAY14) -> list[Candidate]:
    """One per boxed film, by the IoU of the attention box with its best-hit annotated box; where no film has boxes,
    one per positive film, by the fusion's probability of its most probable true finding. Only findings that the model
    has an output for."""
    here, names = predictions.set_index("row"), _answered(predictions.columns, findings)
    annotated = boxes[boxes["row"].isin(here.index) & boxes["finding"].isin(names)].reset_index(drop=True)
    if len(annotated):
        edges = ["x0", "y0", "x1", "y1"]
        detected = here.loc[annotated["row"], [f"box_{edge}" for edge in edges]].to_numpy(np.float64)
        annotated = annotated.assign(
            iou=box_iou(detected, annotated[edges].to_numpy()), iobb=box_iobb(detected, annotated[edges].to_numpy())
        )
        best = annotated.loc[annotated.groupby("row")["iou"].idxmax()]
        return [
            Candidate(int(row), str(finding), float(iou), float(iou), float(iobb))
            for row, finding, iou, iobb in best[["row", "finding", "iou", "iobb"]].itertuples(index=False)
        ]
    if not names:
        return []
    positive_NK = predictions[[f"label_{name}" for name in names]].to_numpy(np.float64) == 1
    score_NK = np.where(positive_NK, predictions[[f"fusion_{name}" for name in names]].to_numpy(np.float64), -1.0)
    top = score_NK.argmax(axis=1)
    return [
        Candidate(int(predictions["row"].iloc[n]), names[top[n]], float(score_NK[n, top[n]]))
        for n in np.flatnonzero(positive_NK.any(axis=1))
    ]


def _answered(columns: Container[str], findings: Findings) -> list[str]:
    """The findings that the model has an output for, by the columns of its predictions."""
    return [name for name in findings.names if f"fusion_{name}" in columns]


def choose(candidates: Sequence[Candidate], each: int) -> list[tuple[Kind, Candidate]]:
    """The `each` best, most median and worst, no film twice; fewer of each where there are few films.

    Each of another finding, as far as there are so many: large findings would take all of the best, small ones all of
    the worst.
    """
    ordered = sorted(candidates, key=lambda c: (-c.merit, c.row))
    each = min(each, len(ordered) // 3) or min(1, len(ordered))
    middle = (len(ordered) - 1) / 2
    away = sorted(range(len(ordered)), key=lambda at: abs(at - middle))
    kinds: tuple[tuple[Kind, list[Candidate]], ...] = (
        ("best", ordered),
        ("worst", ordered[::-1]),
        ("median", [ordered[at] for at in away]),
    )
    chosen: dict[Kind, list[Candidate]] = {}
    for kind, by_rank in kinds:
        taken = {candidate.row for picked in chosen.values() for candidate in picked}
        chosen[kind] = _apart([candidate for candidate in by_rank if candidate.row not in taken], each)
    shown: tuple[Kind, ...] = ("best", "median", "worst")
    return [(kind, candidate) for kind in shown for candidate in sorted(chosen[kind], key=lambda c: (-c.merit, c.row))]


def _apart(ranked: Sequence[Candidate], count: int) -> list[Candidate]:
    """The first of each finding in turn; then, where findings are too few, the next films."""
    firsts = {candidate.finding: candidate for candidate in reversed(ranked)}
    return sorted(ranked, key=lambda candidate: candidate is not firsts[candidate.finding])[:count]


def draw_examples(
    engine: Engine, prepared: Prepared, predictions: pd.DataFrame, folder: Path, *, each: int
) -> tuple[ExampleResult, ...]:
    """Choose films, look at them once more for their heatmaps, and write three pictures of each into
    `folder`/pictures."""
    chosen = choose(candidates(predictions, prepared.boxes_of(engine.findings), engine.findings), each) if each else []
    if not chosen:
        return ()
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    answers = engine.predict_arrays(prepared.images, [candidate.row for _, candidate in chosen], details=True)
    place_of = {int(row): n for n, row in enumerate(predictions["row"])}
    prediction = [predictions.iloc[place_of[candidate.row]] for _, candidate in chosen]
    findings = engine.findings
    return tuple(
        _example(kind, candidate, prepared, answers, at, prediction[at], findings, folder)
        for at, (kind, candidate) in enumerate(chosen)
    )


def _example(
    kind: Kind,
    candidate: Candidate,
    prepared: Prepared,
    answers: BatchPrediction,
    at: int,
    prediction: pd.Series,
    findings: Findings,
    folder: Path,
) -> ExampleResult:
    assert answers.heat_NHW is not None
    assert answers.crop_NHW is not None
    image_id = str(prediction["image_id"])
    film = _resized(np.asarray(prepared.images[candidate.row]))
    heat = place(answers.heat_NHW[at : at + 1], answers.window_4[None], SIDE, SIDE)[0]
    boxes = prepared.boxes_of(findings)
    truth = boxes[(boxes["row"] == candidate.row) & (boxes["finding"] == candidate.finding)]
    boxed = film
    for edges in truth[["x0", "y0", "x1", "y1"]].to_numpy(np.float64):
        boxed = draw_box(boxed, _pixels(edges), WARNING, 2)
    attended_R4, weights = answers.boxes_of(at)
    detected = [_pixels(box_4) for box_4 in attended_R4]
    pictures = (
        ("film", draw_boxes(boxed, detected, weights)),
        ("attention", draw_boxes(overlay(film, heat), detected, weights)),
        ("crop", _resized(answers.crop_NHW[at])),
    )
    # The row keeps names apart; an image id may hold characters that no file name may.
    paths = {name: f"pictures/film-{candidate.row}-{name}.jpg" for name, _ in pictures}
    for name, picture in pictures:
        _write(folder / paths[name], picture)
    return ExampleResult(
        kind=kind,
        image_id=image_id,
        row=candidate.row,
        finding=candidate.finding,
        iou=candidate.iou,
        iobb=candidate.iobb,
        fallback=bool(answers.fallback_N[at]),
        truth=tuple(name for name in _answered(prediction.index, findings) if prediction[f"label_{name}"] == 1),
        film=paths["film"],
        attention=paths["attention"],
        crop=paths["crop"],
        probabilities=tuple(
            BranchProbability(branch=branch, probability=float(prediction[f"{branch}_{candidate.finding}"]))
            for branch in BRANCHES
        ),
    )


def _pixels(fractions: Floats) -> Box:
    x0, y0, x1, y1 = (float(v) * SIDE for v in fractions)
    return x0, y0, x1, y1


def _resized(image_HW: Bytes) -> Bytes:
    smaller = image_HW.shape[0] > SIDE
    how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image_HW, (SIDE, SIDE), interpolation=how), dtype=np.uint8)


def _write(path: Path, image: Bytes) -> None:
    bgr = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    encoded, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert encoded, "an 8-bit picture can always be encoded"
    path.write_bytes(data.tobytes())
