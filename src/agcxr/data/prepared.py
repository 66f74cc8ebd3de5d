"""What a prepared folder holds, and opening one.

images.npy (uint8, N x S x S, memory-mapped), index.parquet (row i describes image i), boxes.parquet, rejected.csv,
plan.json, and of a phantom places.parquet. A folder of joined ones (data/join.py) has members.json, where those lie, in
place of images.npy.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from agcxr.data.nih import BOX_COLUMNS
from agcxr.data.splits import PARTS, LeakCheck
from agcxr.findings import CHESTXRAY14, Findings
from agcxr.preflight import CURE, PLAN, check_prepared
from agcxr.values import Frozen

FORMAT = 1
"""Version of the folder's layout."""

FACTS = ("image_id", "patient", "split", "age", "sex", "view", "follow_up", "width", "height")
"""Columns of the index that are no labels; width and height are the original file's."""
RESERVED = frozenset((*FACTS, "row", "collection"))
MEMBERS = "members.json"
"""Of a folder of joined ones: where these lie."""


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


class Member(Frozen):
    """One of joined folders. name: in the columns `collection`, `patient` and `image_id` of the index. collection: as
    its source says; fingerprint: of its plan."""

    name: str
    collection: str | None
    fingerprint: str
    films: int


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


def part_counts(index: pd.DataFrame) -> tuple[PartCount, ...]:
    """Of train, val and test."""
    parts = [(name, index[index["split"] == name]) for name in PARTS]
    return tuple(
        PartCount(part=name, images=len(rows), patients=int(rows["patient"].nunique())) for name, rows in parts
    )


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
    joined: tuple[Member, ...] = Field(default=(), exclude_if=lambda joined: not joined)
    """The folders whose films these are, in the order of the rows; none where it holds films of its own."""

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


class Pixels(Protocol):
    """Prepared films, uint8 N x S x S: an array, or several memory maps read as one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


class JoinedImages:
    """The films of several folders behind each other; only those that are asked for are read."""

    dtype = np.dtype(np.uint8)

    def __init__(self, parts: Sequence[Pixels]):
        self.parts = tuple(parts)
        self.end_P = np.cumsum([len(part) for part in parts])
        self.shape = (int(self.end_P[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any, /) -> NDArray[np.uint8]:
        """A film (S x S) by its row, or films (M x S x S) by an array or a slice of rows."""
        row_M = np.arange(len(self))[rows]
        part_M = np.searchsorted(self.end_P, row_M, side="right")
        films = np.empty((*row_M.shape, *self.shape[1:]), np.uint8)
        for p in np.unique(part_M):
            here, part = part_M == p, self.parts[p]
            films[here] = part[row_M[here] - (self.end_P[p] - len(part))]
        return films


@dataclass(frozen=True, eq=False)
class Prepared:
    """An open prepared folder. images: read-only, uint8 N x S x S; index and boxes as `index_columns` and BOX_COLUMNS
    plus `row` (position in images). members: the open folders that were joined, whose index has a column more,
    `collection`. places: as boxes, where a finding is or, on a film without it, would be, drawn alike either way, so
    that a place says nothing of the label; None where that is not known, as of joined folders."""

    folder: Path
    images: Pixels
    index: pd.DataFrame
    boxes: pd.DataFrame
    plan: Plan
    members: tuple["Prepared", ...] = ()
    places: pd.DataFrame | None = None

    @property
    def findings(self) -> Findings:
        """What the films are labelled with."""
        return self.plan.findings

    def patients(self, rows: NDArray[np.integer[Any]]) -> Iterator[tuple[Member, pd.Series]]:
        """Whose patients the films of these rows are: of every collection among them, and what they are called there,
        one a film."""
        patients, plan, source = self.index["patient"].astype(str).iloc[rows], self.plan, self.plan.source
        if not plan.joined:
            films = len(self.index)
            yield (
                Member(name=source.name, collection=source.collection, fingerprint=plan.fingerprint, films=films),
                patients,
            )
        start = 0
        for member in self.plan.joined:
            own = patients[(rows >= start) & (rows < start + member.films)]
            start += member.films
            if len(own):
                yield member, own.str.removeprefix(f"{member.name}/")

    def boxes_of(self, model: Findings) -> pd.DataFrame:
        """The boxes, each by the name of the model's label that means its finding; of other findings by their own."""
        means = {column: label for label, column in self.columns(model).items() if column is not None}

        def label(name: str) -> str:
            return model.canonical(name) or means.get(self.findings.canonical(name) or "", name)

        names = self.boxes["finding"]
        return self.boxes.assign(finding=names.map({name: label(name) for name in names.unique()}))

    @property
    def facts(self) -> pd.DataFrame:
        """The index without its labels."""
        return self.index.drop(columns=list(self.findings.labels))

    def targets(self, rows: NDArray[np.int64], labels: Findings | Sequence[str]) -> NDArray[np.float32]:
        """What is known of a model's labels (in any spelling) on these rows: N x K of 0, 1 or NaN (unknown). A label
        that the folder does not state is unknown on every film, as is one that its table is unsure of.

        Raises ValueError where none of the labels is stated.
        """
        columns = self.columns(labels)
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
        return tuple(label for label, column in self.columns(labels).items() if column is None)

    def columns(self, labels: Findings | Sequence[str]) -> dict[str, str | None]:
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
    members = _open_members(folder, plan) if plan.joined else ()
    images: Pixels
    try:
        if members:
            images = JoinedImages([member.images for member in members])
        else:
            images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        index = pd.read_parquet(folder / "index.parquet")
        boxes = pd.read_parquet(folder / "boxes.parquet")
        places = pd.read_parquet(folder / "places.parquet") if (folder / "places.parquet").is_file() else None
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
    return Prepared(folder, images, index, boxes, plan, members, places)


def write_members(folder: Path, members: Sequence[Prepared]) -> None:
    """Say in a joined folder where those lie whose films it shows."""
    beside = folder / f".{MEMBERS}.part"
    beside.write_text(json.dumps([str(member.folder.resolve()) for member in members], indent=1) + "\n", "utf-8")
    beside.replace(folder / MEMBERS)


def _open_members(folder: Path, plan: Plan) -> tuple[Prepared, ...]:
    """The folders that were joined. Raises ValueError where one is not there, or holds other films by now."""
    again = "give the folders again, where they are now: agcxr train --data A B --out RUN --resume"
    try:
        places = [Path(place) for place in json.loads((folder / MEMBERS).read_bytes())]
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{folder} does not say where the films that it joins lie ({error}); {again}") from None
    members = []
    for member, place in zip(plan.joined, places, strict=True):
        if not (place / PLAN).is_file():
            raise ValueError(f"{folder} joins the films of {member.name} in {place}, which are not there now; {again}")
        members.append(open_prepared(place))
        if members[-1].plan.fingerprint != member.fingerprint:
            raise ValueError(f"{place} holds other films than those of {member.name} that {folder} joins; {again}")
    return tuple(members)
