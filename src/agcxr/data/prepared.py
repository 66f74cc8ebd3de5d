"""What a prepared folder holds, and opening one.

images.npy (uint8, N x S x S, memory-mapped), index.parquet (row i describes image i), boxes.parquet, rejected.csv,
plan.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError, model_validator

from agcxr.data.nih import BOX_COLUMNS
from agcxr.data.splits import LeakCheck
from agcxr.findings import CHESTXRAY14, Findings
from agcxr.preflight import CURE, PLAN, check_prepared
from agcxr.values import Frozen

FORMAT = 1
"""Version of the folder's layout."""

FACTS = ("image_id", "patient", "split", "age", "sex", "view", "follow_up", "width", "height")
"""Columns of the index that are no labels; width and height are the original file's."""
RESERVED = frozenset((*FACTS, "row", "collection"))


def index_columns(findings: Findings) -> tuple[str, ...]:
    """Columns of index.parquet. Labels are float32: 0, 1, NaN (unknown) or, between them, the target that training has
    for a film whose table is unsure."""
    return (*FACTS[:3], *findings.labels, *FACTS[3:])


def check_names(findings: Findings) -> None:
    """Raises ValueError for a finding that is called as a column of the index is."""
    if taken := [label for label in findings.labels if label.strip().lower() in RESERVED]:
        raise ValueError(
            f"a finding cannot be called {taken[0]!r}, as a column of every prepared folder is; rename it in the "
            "table, "
            "or choose other label columns"
        )


class SourceFile(Frozen):
    """A table that was read, by content."""

    path: str
    bytes: int
    sha256: str


class Source(Frozen):
    """Where the rows and films came from. collection: whose patients they are, so that patient 27 of one collection is
    not taken for patient 27 of another; None where that is not known. notes: what was odd, for people."""

    name: str
    collection: str | None = None
    images: tuple[str, ...] = ()
    tables: tuple[SourceFile, ...] = ()
    notes: tuple[str, ...] = ()


class SplitPlan(Frozen):
    """How train, val and test were made."""

    rule: str
    seed: int
    limit: int | None = None
    fraction: float | None = None


class PartCount(Frozen):
    """Images and patients of one part."""

    part: str
    images: int
    patients: int


class Counts(Frozen):
    """table: rows of the label table; left_out: rows without a file (subset); drawn: after limit or fraction; prepared
    and rejected: their sum is drawn. boxes_left_out: boxes on films that are not here."""

    table: int
    left_out: int
    drawn: int
    prepared: int
    rejected: int
    duplicate_stems: int
    boxes: int
    boxed_images: int
    boxes_left_out: int
    parts: tuple[PartCount, ...]
    positives: dict[str, int]


class Plan(Frozen):
    """plan.json: everything a reader needs to know about a prepared folder without opening its arrays."""

    format: int
    labels: tuple[str, ...]
    size: int
    resize_rule: str
    source: Source
    split: SplitPlan
    leak_check: LeakCheck
    counts: Counts
    versions: dict[str, str]
    fingerprint: str
    findings: Findings = CHESTXRAY14
    """What the films were labelled with; folders of before this field are about the fifteen."""

    @model_validator(mode="after")
    def _labels_are_those_of_the_findings(self) -> "Plan":
        if self.labels != self.findings.labels:
            raise ValueError(f"its {len(self.labels)} labels are not those of its findings, {self.findings.name}")
        return self

    def summary(self) -> str:
        """A few lines for the screen."""
        c = self.counts
        head = f"{_count(c.prepared, 'film')} of {self.size} x {self.size} ({self.source.name})"
        lines = [f"{head}, split by {self.split.rule}:"]
        lines += [f"  {p.part:5} {_count(p.images, 'film', 7)} of {_count(p.patients, 'patient', 6)}" for p in c.parts]
        if not self.findings.is_default:
            lines.append(f"  findings: {', '.join(f'{name} ({c.positives[name]:,})' for name in self.labels)}")
        lines.append(f"  boxes: {c.boxes:,} on {_count(c.boxed_images, 'film')}; leak check: {self.leak_check}")
        if c.left_out:
            lines.append(f"  {c.left_out:,} of {c.table:,} table rows have no file here and were left out (subset)")
        if c.rejected:
            lines.append(f"  {c.rejected:,} films could not be used: see rejected.csv")
        if c.duplicate_stems:
            lines.append(f"  {c.duplicate_stems:,} names were found more than once; the first file was used")
        return "\n".join(lines + [f"  note: {note}" for note in self.source.notes])


def _count(number: int, what: str, width: int = 0) -> str:
    """ "1 film", "2 films"; the number right-aligned in `width`."""
    return f"{number:,}".rjust(width) + f" {what}{'' if number == 1 else 's'}"


@dataclass(frozen=True, eq=False)
class Prepared:
    """An open prepared folder. images: read-only memory map, uint8 N x S x S; index and boxes as `index_columns` and
    BOX_COLUMNS plus `row` (position in images)."""

    folder: Path
    images: NDArray[np.uint8]
    index: pd.DataFrame
    boxes: pd.DataFrame
    plan: Plan

    @property
    def findings(self) -> Findings:
        """What the films are labelled with."""
        return self.plan.findings

    @property
    def facts(self) -> pd.DataFrame:
        """The index without its labels."""
        return self.index.drop(columns=list(self.findings.labels))

    def targets(self, rows: NDArray[np.int64], labels: Findings | Sequence[str]) -> NDArray[np.float32]:
        """What is known of a model's labels (in any spelling) on these rows: N x K of 0, 1 or NaN (unknown). A label
        that the folder does not state is unknown on every film, as is one that its table is unsure of.

        Raises ValueError where none of the labels is stated.
        """
        columns = self._columns(labels)
        if not any(columns.values()):
            raise ValueError(
                f"{self.folder} states none of the model's labels, {', '.join(columns)}, so there is nothing to "
                f"compare; a folder states {', '.join(self.plan.labels)}: give the model's labels these names where "
                "they mean the same"
            )
        unknown_N = np.full(len(rows), np.nan, dtype=np.float32)
        index = self.index.iloc[rows]
        stated = [unknown_N if name is None else index[name].to_numpy(np.float32) for name in columns.values()]
        return measurable(np.stack(stated, axis=1))

    def unstated(self, labels: Findings | Sequence[str]) -> tuple[str, ...]:
        """Those of a model's labels that the folder does not state: nothing can be compared."""
        return tuple(label for label, column in self._columns(labels).items() if column is None)

    def _columns(self, labels: Findings | Sequence[str]) -> dict[str, str | None]:
        """A model's labels, and the folder's label that means each; None where it states none that does."""
        model = labels if isinstance(labels, Findings) else Findings.of(labels)
        return {label: model.column(label, self.findings) for label in model.labels}


def measurable(label_NK: NDArray[np.float32]) -> NDArray[np.float32]:
    """Labels that films may be measured by: 0, 1 and NaN. What lies between is a target for training alone."""
    return np.where((label_NK == 0) | (label_NK == 1), label_NK, np.float32("nan"))


def read_plan(folder: str | Path) -> Plan:
    """plan.json of a prepared folder. ValueError says how to make the folder where there is none."""
    check_prepared(folder)
    path = Path(folder) / PLAN
    try:
        plan = Plan.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path} is damaged or of another version of agcxr: {error}; {CURE}") from error
    if plan.format != FORMAT:
        raise ValueError(f"{path}: format {plan.format} with {len(plan.labels)} labels is not this version's; {CURE}")
    return plan


def open_prepared(folder: str | Path) -> Prepared:
    """Open a prepared folder; the images stay on disk. ValueError for one that is absent, damaged or inconsistent."""
    folder = Path(folder)
    plan = read_plan(folder)
    try:
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        index = pd.read_parquet(folder / "index.parquet")
        boxes = pd.read_parquet(folder / "boxes.parquet")
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{folder} is damaged: {error}; {CURE}") from error
    expected = (plan.counts.prepared, plan.size, plan.size)
    if images.shape != expected or images.dtype != np.uint8 or len(index) != len(images):
        raise ValueError(
            f"{folder} is inconsistent: images {images.shape} of {images.dtype} and {len(index)} index rows, "
            f"where the plan states {expected} of uint8; {CURE}"
        )
    absent = [name for name in index_columns(plan.findings) if name not in index] + [
        n for n in BOX_COLUMNS if n not in boxes
    ]
    if absent:
        raise ValueError(f"{folder} lacks the columns {', '.join(absent)}; {CURE}")
    return Prepared(folder, images, index, boxes, plan)
