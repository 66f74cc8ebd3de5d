"""Cells of label tables -> 1, 0 or unknown: columns of values, and one column of class names. For every table.

Shapes: N rows, K findings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from agcxr.data.patients import BLANK
from agcxr.labels import FINDINGS, LABELS, NO_FINDING, canonical

SILENT = BLANK | {"uncertain", "unlabeled", "unlabelled", "-1"}
"""Cells, in lower case, that name no class: all labels of such a film are unknown."""

VALUES: dict[str, float] = {
    **dict.fromkeys(("true", "t", "yes", "y", "positive", "pos", "present"), 1.0),
    **dict.fromkeys(("false", "f", "no", "n", "negative", "neg", "absent"), 0.0),
    **dict.fromkeys(SILENT - {"-"}, float("nan")),  # "-" may mean negative there
}
"""Words in a cell of a column of values, in lower case: positive, negative, and blank or uncertain = unknown."""

NUMBERS = {1.0: 1.0, 0.0: 0.0, -1.0: float("nan")}

SENTENCE = re.compile(r"\w{2}[.!?](\s|$)")
"""Marks a report: "No effusion, mass." names no classes."""

NEGATIONS = frozenset({"no", "not", "non", "without", "negative", "absent"})

NIH_LIST = "findinglabels"
"""The NIH's column of class names: it states all fifteen labels, also those that no row names."""
LISTS = (NIH_LIST, "label", "labels", "finding", "findings", "class", "classes", "classname", "diagnosis", "diagnoses")
"""How a column of class names may be called: letters and digits of its header."""

PREFIXES = ("label", "target", "true", "truth", "gt", "y")
"""Of label columns, as in "label_Edema"."""

SHOWN = 12


@dataclass(frozen=True)
class Statements:
    """What a table states. labels: a float column a finding, in the order of LABELS: 1, 0 or NaN (unknown). used: its
    columns that were read. notes: what was odd, for people."""

    labels: pd.DataFrame
    used: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_statements(table: pd.DataFrame, path: object, chosen: Sequence[str] | None = None) -> Statements | None:
    """The labels of a table of strings; None where no column states any.

    A column "Finding Labels" comes first, then columns named as a finding ("Edema", "label_Edema"), then one column of
    class names that is called otherwise (LISTS). chosen: only these columns. Raises ValueError for cells that are no
    labels, for two columns of one finding, for class names of which none is known, and for a chosen column of class
    names beside others.
    """
    names = list(table.columns) if chosen is None else list(chosen)
    single = chosen is not None and len(names) == 1  # then it may be called anything
    columns, listed = _finding_columns(names), _list_column(table, names, any_name=single)
    if listed is not None and chosen is not None and not single:
        others = ", ".join(map(repr, (name for name in names if name != listed)))
        raise ValueError(
            f"{path}: the label column {listed!r} holds class names and stands for all labels; choose it alone, or "
            f"{others} without it"
        )
    if listed is not None and (not columns or letters(listed) == NIH_LIST):
        return _from_names(table[listed], listed, path)
    if columns:
        return _from_columns(table, columns, path)
    return None


def what_lists_hold(table: pd.DataFrame) -> str:
    """For an error where nothing was read: what stands in a column that is called as one of class names."""
    name = next((name for name in table.columns if letters(name) in LISTS or table.shape[1] == 1), None)
    cell = next((cell[:40] for cell in table[name] if cell.strip().lower() not in SILENT), "") if name else ""
    return f"; {name!r} holds {cell!r}: if it states one finding, call it by the name of that finding" if cell else ""


def _list_column(table: pd.DataFrame, names: Sequence[str], *, any_name: bool) -> str | None:
    """The column of class names: the NIH's, else the first that names one of ours, else the first that names any."""
    lists = [name for name in names if (any_name or letters(name) in LISTS) and _names_classes(table[name])]
    return min(
        lists,
        key=lambda name: (letters(name) != NIH_LIST, not any(_known(cell) for cell in dict.fromkeys(table[name]))),
        default=None,
    )


def _finding_columns(names: Sequence[str]) -> dict[str, str]:
    """Label columns and their findings. "label_Edema" goes before "Edema", which may be a score beside it."""
    bare = {name: canonical(unmangled(name, names)) for name in names}
    prefixed = {name: _behind_prefix(name) for name in names}
    explicit = {label for label in prefixed.values() if label}
    labels = {name: prefixed[name] or (label if (label := bare[name]) not in explicit else None) for name in names}
    return {name: label for name, label in labels.items() if label}


def unmangled(name: str, names: Container[str]) -> str:
    """The header of a column: where two have the same, they are read as "Edema" and "Edema.1"."""
    base, _, number = name.rpartition(".")
    return base if number.isdecimal() and base in names else name


def _behind_prefix(column: str) -> str | None:
    prefix, _, rest = re.sub("[-.: /]", "_", column.strip(), count=1).partition("_")
    return canonical(rest) if prefix.lower() in PREFIXES else None


def letters(name: str) -> str:
    """Letters and digits of a header, in lower case."""
    return "".join(letter for letter in str(name).lower() if letter.isalnum())


def class_names(cell: str) -> list[str]:
    """ "Effusion|Mass", "Effusion; Mass", "Effusion Mass" or "['Effusion', 'Mass']" -> names, ours where known."""
    parts = (part.strip(" '\"") for part in re.split(r"[|;,+&\r\n\t]", cell.strip().strip("[](){}")))
    return [name for part in parts if part.lower() not in SILENT for name in _spaced(part)]


def _spaced(part: str) -> list[str]:
    """ "Mass Pleural Thickening" -> two names, if every word belongs to one of ours; else the part as it is."""
    names, words = [], part.split()
    while words:
        length = next((n for n in range(len(words), 0, -1) if canonical(" ".join(words[:n]))), 0)
        if not length:
            return [part]
        names.append(canonical(" ".join(words[:length])) or "")
        words = words[length:]
    return names


def _known(cell: object) -> bool:
    return not set(LABELS).isdisjoint(class_names(str(cell)))


def _mentions(name: str) -> set[str]:
    """Findings within a name that is none of ours: "Viral Pneumonia", "Nodule/Mass". It states them neither way, unless
    it is "No Pneumonia"."""
    words = re.findall(r"[^\W_]+", name.lower())
    if not NEGATIONS.isdisjoint(words):
        return set()
    spans = (words[start : start + length] for length in (1, 2) for start in range(len(words)))
    return {label for span in spans if (label := canonical(" ".join(span))) in FINDINGS}


def shortened(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def column_values(cells: pd.Series, path: object, column: str) -> pd.Series:
    """Cells of a column of 1, 0 and -1 (also 1.0, 1,0, yes, true, ...) -> float. ValueError names what is no label."""
    distinct: dict[str, float] = {}
    odd: list[float] = []
    for cell in dict.fromkeys(cells):
        word = cell.strip().lower()
        number = cell_number(word)
        if word in VALUES:
            distinct[cell] = VALUES[word]
        elif number is None:
            raise ValueError(f"{path}, column {column!r}: {cell!r} is not a label; expected 0, 1, -1 or blank")
        elif number not in NUMBERS:
            odd.append(number)
        else:
            distinct[cell] = NUMBERS[number]
    if odd:
        raise ValueError(
            f"{path}, column {column!r}: labels must be 0, 1, or empty or -1 for unknown, found {min(odd):g}"
        )
    return cells.map(distinct).astype(float)


def cell_number(word: str) -> float | None:
    """A number of a cell: 1, 1.0 and, as spreadsheets of many countries have it, 1,0."""
    try:
        return float(word.replace(",", ".", 1))
    except ValueError:
        return None


def _names_classes(cells: pd.Series) -> bool:
    """The cells are words, neither values nor the sentences of a report."""
    words = {cell for cell in cells.str.strip().str.lower() if cell not in VALUES}
    sentences = sum(bool(SENTENCE.search(word)) for word in words)
    return 2 * sentences <= len(words) and any(cell_number(word) is None for word in words)


def _from_names(cells: pd.Series, column: str, path: object) -> Statements:
    """What a cell names is 1, all else that the column ever names is 0 (for the NIH's column: all else), but for what a
    name that is none of ours mentions."""
    of_cell = {cell: class_names(cell) for cell in dict.fromkeys(cells)}
    count = Counter(name for cell in cells for name in set(of_cell[cell]))
    stated = [label for label in LABELS if label in count or letters(column) == NIH_LIST]
    others = [f"{name} ({number})" for name, number in count.most_common() if name not in LABELS]
    if not any(label in count for label in LABELS) and count:
        odd = next(name for name in count)
        raise ValueError(
            f"{path}, column {column!r}: unknown finding {odd!r} in the labels, and none that is known among "
            f"{shortened(others)}; expected some of {', '.join(LABELS)}"
        )
    rows = {cell: _row(names, stated) for cell, names in of_cell.items()}
    labels = pd.DataFrame([rows[cell] for cell in cells], columns=stated, index=cells.index, dtype=float)
    labels, notes = _contradictions(labels)
    notes += silent_films(sum(not of_cell[cell] for cell in cells))
    if others:
        notes += (f"class names left out, not findings of ours: {shortened(others)}",)
    return Statements(labels, (column,), notes)


def silent_films(count: int) -> tuple[str, ...]:
    """A note of films whose cell names no class; none where there are none."""
    return (f"{count} films name no class: all their labels are unknown",) if count else ()


def _row(names: Sequence[str], stated: Sequence[str]) -> list[float]:
    mentioned = {label for name in names if name not in LABELS for label in _mentions(name)}
    unknown = set(stated) if not names else mentioned - set(names)
    return [np.nan if label in unknown else float(label in names) for label in stated]


def _from_columns(table: pd.DataFrame, columns: dict[str, str], path: object) -> Statements:
    used: dict[str, str] = {}
    values: dict[str, pd.Series] = {}
    for name, label in columns.items():
        if label in used:
            raise ValueError(
                f"{path}: the columns {used[label]!r} and {name!r} both mean {label}; keep one of them, or choose "
                "label_columns"
            )
        used[label] = name
        values[label] = column_values(table[name], path, name)
    labels = pd.DataFrame({label: values[label] for label in LABELS if label in values})
    labels, notes = _contradictions(labels)
    return Statements(labels, tuple(columns), notes)


def _contradictions(labels: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """ "No Finding" beside a finding: the finding counts."""
    if NO_FINDING not in labels:
        return labels, ()
    both = (labels[NO_FINDING] == 1) & (labels.drop(columns=NO_FINDING) == 1).any(axis=1)
    if not both.any():
        return labels, ()
    labels = labels.assign(**{NO_FINDING: labels[NO_FINDING].mask(both, 0.0)})
    return labels, (f"{int(both.sum())} films say {NO_FINDING!r} beside a finding: the finding counts",)
