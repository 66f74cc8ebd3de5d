"""The rows of `agcxr predict`: one a film, the same columns from every engine.

`image`; `prob_<Finding>` of the fusion, then `global_` and `local_` ones; where the checkpoint holds a calibration,
`calibrated_` ones of the fusion (empty for findings too rare in validation) and `call_` ones (1 or 0, empty without a
threshold); `box_x0` ... `box_y1` in pixels of the original film; where the model takes several boxes a film, these are
the first one's, and `boxes` holds them all with their weights, as JSON: `[[x0, y0, x1, y1, weight], ...]`; `width`,
`height`; `fallback` (0 or 1); `view_share` and `plateau` (shares of the view in the box, and at the heatmap's highest
value: attended.py); `intake` (accept, warn or refuse) and `intake_reason`; `error`; with pictures also `picture`; with
DICOM results also `dicom` (their folder) and `dicom_reason` (why there are none). A film that cannot be read is a row
with only `image` and `error`; one that is refused holds nothing that the model says of it: no probabilities, calls,
boxes, fallback and shares.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, TextIO, TypeAlias

from agcxr.inference.prediction import Failure, Prediction

Value: TypeAlias = str | int | float | None
"""None: an empty cell. A number that is a float stands for a probability or a pixel."""

EDGES = ("box_x0", "box_y0", "box_x1", "box_y1")


@dataclass(frozen=True)
class Table:
    """What the columns are, and a film's row in them."""

    labels: tuple[str, ...]
    calibrated: bool
    also: tuple[str, ...] = ()
    """Columns of what is written beside the rows, such as `picture`."""
    several: bool = False
    """Whether the model takes several boxes of a film."""

    @cached_property
    def columns(self) -> list[str]:
        """Names, in order."""
        prefixes = ("prob", "global", "local", *(["calibrated", "call"] if self.calibrated else []))
        return [
            "image",
            *(f"{prefix}_{label}" for prefix in prefixes for label in self.labels),
            *EDGES,
            *(["boxes"] if self.several else []),
            *("width", "height", "fallback", "view_share", "plateau", "intake", "intake_reason", "error"),
            *self.also,
        ]

    def values(self, image: str, result: Prediction | Failure, also: Sequence[Value] = ()) -> list[Value]:
        """A film's row. also: of the columns `also`; empty where left out."""
        last = [*also, *([None] * (len(self.also) - len(also)))]
        if isinstance(result, Failure):
            between = len(self.columns) - 2 - len(self.also)
            return [image, *([None] * between), result.reason, *last]
        meaning: list[Value] = []
        if self.calibrated:
            assert result.calibrated_K is not None
            fitted = [True] * len(result.labels) if result.cut is None else result.cut.fitted_K.tolist()
            meaning = [float(p) if have else None for p, have in zip(result.calibrated_K, fitted, strict=True)]
            meaning += [None if call is None else int(call) for call in result.calls()]
        intake = result.intake
        said: list[Value] = [
            *(float(p) for branch in (result.fusion_K, result.global_K, result.local_K) for p in branch),
            *meaning,
            *map(float, result.box),
            *([_boxes(result)] if self.several else []),
        ]
        return [
            image,
            *([None] * len(said) if result.refused else said),
            *(result.width, result.height),
            *([None] * 3 if result.refused else [int(result.fallback), result.view_share, result.plateau]),
            *((None, None) if intake is None else (intake.decision, "; ".join(intake.reasons) or None)),
            None,
            *last,
        ]


def _boxes(result: Prediction) -> str:
    """Pixels to two digits, weights to six."""
    pairs = zip(result.boxes, result.weights, strict=True)
    return json.dumps([[*(round(edge, 2) for edge in box), round(weight, 6)] for box, weight in pairs])


def cells_of(columns: Sequence[str], row: Sequence[Value]) -> list[str]:
    """A row as the CSV has it: probabilities to six digits, pixels to two."""
    return [
        f"{value:.{2 if name in EDGES else 6}f}" if isinstance(value, float) else "" if value is None else str(value)
        for name, value in zip(columns, row, strict=True)
    ]


@dataclass
class Tally:
    """What rows say, counted."""

    columns: Sequence[str]
    rows: int = 0
    failed: int = 0
    """Films that could not be read."""
    refused: int = 0
    """Films that were read, and that the model may not speak about."""
    written: int = 0
    """Films with DICOM results."""
    without: Counter[str] = field(default_factory=Counter)
    """Films without DICOM results although they were asked for, by the reason."""

    def add(self, row: Sequence[Value]) -> None:
        """Count a row."""
        self.rows += 1
        self.failed += bool(row[self._place["error"]])
        self.refused += row[self._place["intake"]] == "refuse"
        if "dicom" in self._place:
            self.written += bool(row[self._place["dicom"]])
            reason = row[self._place["dicom_reason"]]
            if reason:
                self.without[str(reason)] += 1

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.columns)}


def open_csv(file: str | os.PathLike[str] | int, mode: Literal["w", "a"]) -> TextIO:
    """Open a table to write rows. A descriptor stays open afterwards.

    A file name that is not valid UTF-8 must neither end the run, nor make a CSV that other programs cannot open.
    """
    own = not isinstance(file, int)
    return open(file, mode, newline="", encoding="utf-8", errors="backslashreplace", closefd=own)
