"""Cells of label tables -> 1, 0 or unknown: columns of values, and one column of class names. For every table.

Shapes: N rows, K findings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from agcxr.data.patients import BLANK
from agcxr.findings import CHESTXRAY14, Findings

Uncertain = Literal["ignore", "zeros", "ones", "smoothed"]
"""What a label that its table is unsure of (-1) becomes."""
SMOOTHED = 0.7
"""The target of an uncertain label that is smoothed. Pham 2019 (arXiv:1911.06475) draws it from [0.55, 0.85] for every
film; cross-entropy is linear in its target, so the mean of that range is the same loss on average."""
UNCERTAIN: dict[Uncertain, float] = {"ignore": float("nan"), "zeros": 0.0, "ones": 1.0, "smoothed": SMOOTHED}

SILENT = BLANK | {"uncertain", "unlabeled", "unlabelled", "-1"}
"""Cells, in lower case, that name no class: all labels of such a film are unknown."""

VALUES: dict[str, float] = {
    **dict.fromkeys(("true", "t", "yes", "y", "positive", "pos", "present"), 1.0),
    **dict.fromkeys(("false", "f", "no", "n", "negative", "neg", "absent"), 0.0),
    **dict.fromkeys(SILENT - {"-"}, float("nan")),  # "-" may mean negative there
}
"""Words in a cell of a column of values, in lower case: positive, negative, and blank or uncertain = unknown."""

NUMBERS = {1.0: 1.0, 0.0: 0.0, -1.0: float("nan")}

NOT_FINDINGS = frozenset(
    (
        *("age", "ap", "batch", "center", "centre", "class", "code", "dataset", "dicom", "female", "fold"),
        *("followup", "followupnumber", "frontal", "gender", "height", "hospital", "id", "image", "imageid"),
        *("index", "lateral", "male", "number", "pa", "part", "partition", "path", "patient", "patientid"),
        *("position", "row", "sample", "series", "set", "sex", "site", "split", "study", "studyid", "subject"),
        *("subset", "test", "train", "trainval", "uid", "unnamed0", "val", "valid", "validation", "view"),
        *("viewposition", "width", "year"),
    )
)
"""Columns of 0 and 1 that state something else of a film, by letters and digits; they are findings only where they are
asked for by name."""

DEVICES = frozenset({"supportdevices", "supportdevice", "devices"})
"""Labels that may stand beside "none of them": what is seen, but no disease."""

MARKS = re.compile(r"[|;,+&\r\n\t]")
"""Between class names of a set that is known."""
FIRM_MARKS, LOOSE_MARKS = re.compile(r"[|;]"), re.compile(r"[,\r\n\t]")
"""Between class names of an own set: the loose ones only in a column that has no firm one."""

FEWEST_EXCLUSIVE = 10
"""Films from which on a table can look like one of classes that exclude each other."""

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
    """What a table states. labels: a float column a finding, in the order of `findings`: 1, 0, NaN (unknown) or
    SMOOTHED. used: its columns that were read. notes: what was odd, for people."""

    labels: pd.DataFrame
    used: tuple[str, ...]
    notes: tuple[str, ...] = ()
    findings: Findings = CHESTXRAY14


def own_findings(
    table: pd.DataFrame, path: object, chosen: Sequence[str] | None = None, *, always: bool = False
) -> Findings | None:
    """The set of findings that a table of strings states; None where it states none.

    `chosen` columns, else all: those of values (1, 0, -1, yes, blank, ...), in their order, but for what is no finding
    by its name (NOT_FINDINGS); or the class names of one column, by the alphabet, "none of them" last. A table whose
    findings are all among the fifteen of ChestX-ray14 is about the fifteen, unless it is `always` its own. Raises
    ValueError as `Findings.of`.
    """
    names = list(table.columns) if chosen is None else list(chosen)
    columns = _finding_columns(names, CHESTXRAY14)
    listed = _list_column(table, names, CHESTXRAY14, any_name=chosen is not None and len(names) == 1)
    try:
        if listed is not None and (not columns or letters(listed) == NIH_LIST):
            cells = dict.fromkeys(table[listed])
            words = [name for cell in cells for name in class_names(cell)]
            if not always and all(CHESTXRAY14.canonical(name) for name in words):
                return CHESTXRAY14
            marks = _own_marks(table[listed])
            return Findings.of_terms(name for cell in cells for name in _parts(cell, marks))
        named = [name for name in names if name in columns or letters(name) not in LISTS]
        words = [name for name in named if name in columns or chosen is not None or _holds_values(table[name], name)]
        if not words or (not always and all(name in columns for name in words)):
            return CHESTXRAY14 if words else None
        return Findings.of(re.sub(r"^label[-.: /_]+", "", unmangled(name, names), flags=re.I).strip() for name in words)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _holds_values(cells: pd.Series, name: str) -> bool:
    """Whether a column states a finding by its values alone."""
    if letters(name) in NOT_FINDINGS:
        return False
    words = set(cells.str.strip().str.lower())
    known = {word for word in words if word not in SILENT}
    return bool(known) and all(word in VALUES or cell_number(word) in NUMBERS for word in known)


def _own_marks(cells: pd.Series) -> re.Pattern[str]:
    return FIRM_MARKS if cells.str.contains("[|;]").any() else LOOSE_MARKS


def read_statements(
    table: pd.DataFrame,
    path: object,
    chosen: Sequence[str] | None = None,
    findings: Findings = CHESTXRAY14,
    uncertain: Uncertain = "ignore",
) -> Statements | None:
    """What a table of strings states of some findings; None where no column states any.

    A column "Finding Labels" comes first, then columns named as a finding ("Edema", "label_Edema"), then one column of
    class names that is called otherwise (LISTS). chosen: only these columns. uncertain: what -1 becomes in a column of
    values. Raises ValueError for cells that are no labels, for two columns of one finding, for class names of which
    none is known, and for a chosen column of class names beside others.
    """
    names = list(table.columns) if chosen is None else list(chosen)
    single = chosen is not None and len(names) == 1  # then it may be called anything
    columns, listed = _finding_columns(names, findings), _list_column(table, names, findings, any_name=single)
    if listed is not None and chosen is not None and not single:
        others = ", ".join(map(repr, (name for name in names if name != listed)))
        raise ValueError(
            f"{path}: the label column {listed!r} holds class names and stands for all labels; choose it alone, or "
            f"{others} without it"
        )
    if listed is not None and (not columns or letters(listed) == NIH_LIST):
        return _exclusive(_from_names(table[listed], listed, path, findings))
    if columns:
        return _exclusive(_from_columns(table, columns, path, findings, uncertain))
    return None


def what_lists_hold(table: pd.DataFrame) -> str:
    """For an error where nothing was read: what stands in a column that is called as one of class names."""
    name = next((name for name in table.columns if letters(name) in LISTS or table.shape[1] == 1), None)
    cell = next((cell[:40] for cell in table[name] if cell.strip().lower() not in SILENT), "") if name else ""
    return f"; {name!r} holds {cell!r}: if it states one finding, call it by the name of that finding" if cell else ""


def _list_column(table: pd.DataFrame, names: Sequence[str], findings: Findings, *, any_name: bool) -> str | None:
    """The column of class names: the NIH's, else the first that names one of ours, else the first that names any."""
    lists = [name for name in names if (any_name or letters(name) in LISTS) and _names_classes(table[name])]
    return min(
        lists,
        key=lambda name: (
            letters(name) != NIH_LIST,
            not any(_known(cell, findings) for cell in dict.fromkeys(table[name])),
        ),
        default=None,
    )


def _finding_columns(names: Sequence[str], findings: Findings) -> dict[str, str]:
    """Label columns and their findings. "label_Edema" goes before "Edema", which may be a score beside it."""
    bare = {name: findings.canonical(unmangled(name, names)) for name in names}
    prefixed = {name: _behind_prefix(name, findings) for name in names}
    explicit = {label for label in prefixed.values() if label}
    labels = {name: prefixed[name] or (label if (label := bare[name]) not in explicit else None) for name in names}
    return {name: label for name, label in labels.items() if label}


def unmangled(name: str, names: Container[str]) -> str:
    """The header of a column: where two have the same, they are read as "Edema" and "Edema.1"."""
    base, _, number = name.rpartition(".")
    return base if number.isdecimal() and base in names else name


def _behind_prefix(column: str, findings: Findings) -> str | None:
    prefix, _, rest = re.sub("[-.: /]", "_", column.strip(), count=1).partition("_")
    return findings.canonical(rest) if prefix.lower() in PREFIXES else None


def letters(name: str) -> str:
    """Letters and digits of a header, in lower case."""
    return "".join(letter for letter in str(name).lower() if letter.isalnum())


def class_names(cell: str, findings: Findings = CHESTXRAY14) -> list[str]:
    """ "Effusion|Mass", "Effusion; Mass", "Effusion Mass" or "['Effusion', 'Mass']" -> names, ours where known."""
    return [name for part in _parts(cell, MARKS) for name in _spaced(part, findings)]


def _parts(cell: str, marks: re.Pattern[str]) -> list[str]:
    parts = (part.strip(" '\"") for part in marks.split(cell.strip().strip("[](){}")))
    return [part for part in parts if part.lower() not in SILENT]


def _spaced(part: str, findings: Findings) -> list[str]:
    """ "Mass Pleural Thickening" -> two names, if every word belongs to one of ours; else the part as it is."""
    names, words = [], part.split()
    while words:
        length = next((n for n in range(len(words), 0, -1) if findings.canonical(" ".join(words[:n]))), 0)
        if not length:
            return [part]
        names.append(findings.canonical(" ".join(words[:length])) or "")
        words = words[length:]
    return names


def _known(cell: object, findings: Findings) -> bool:
    return not set(findings.labels).isdisjoint(class_names(str(cell), findings))


def _mentions(name: str, findings: Findings) -> set[str]:
    """Findings within a name that is none of ours: "Viral Pneumonia", "Nodule/Mass". It states them neither way, unless
    it is "No Pneumonia"."""
    words = re.findall(r"[^\W_]+", name.lower())
    if not NEGATIONS.isdisjoint(words):
        return set()
    spans = (words[start : start + length] for length in (1, 2) for start in range(len(words)))
    return {label for span in spans if (label := findings.canonical(" ".join(span))) in findings.names}


def shortened(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def column_values(cells: pd.Series, path: object, column: str, uncertain: Uncertain = "ignore") -> pd.Series:
    """Cells of a column of 1, 0 and -1 (also 1.0, 1,0, yes, true, ...) -> float. ValueError names what is no label."""
    distinct: dict[str, float] = {}
    odd: list[float] = []
    for cell in dict.fromkeys(cells):
        word = cell.strip().lower()
        number = cell_number(word)
        if number == -1 or word == "uncertain":
            distinct[cell] = UNCERTAIN[uncertain]
        elif word in VALUES:
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


def _from_names(cells: pd.Series, column: str, path: object, findings: Findings) -> Statements:
    """What a cell names is 1, all else that the column ever names is 0 (for the NIH's column: all else), but for what a
    name that is none of the findings mentions."""
    of_cell = _named(cells, findings)
    count = Counter(name for cell in cells for name in set(of_cell[cell]))
    stated = [label for label in findings.labels if label in count or letters(column) == NIH_LIST]
    others = [f"{name} ({number})" for name, number in count.most_common() if name not in findings.labels]
    if not any(label in count for label in findings.labels) and count:
        odd = next(name for name in count)
        raise ValueError(
            f"{path}, column {column!r}: unknown finding {odd!r} in the labels, and none that is known among "
            f"{shortened(others)}; expected some of {', '.join(findings.labels)}"
        )
    rows = {cell: _row(names, stated, findings) for cell, names in of_cell.items()}
    labels = pd.DataFrame([rows[cell] for cell in cells], columns=stated, index=cells.index, dtype=float)
    labels, notes = _contradictions(labels, findings)
    notes += silent_films(sum(not of_cell[cell] for cell in cells))
    if others:
        notes += (f"class names left out, not findings of ours: {shortened(others)}",)
    return Statements(labels, (column,), notes, findings)


def _named(cells: pd.Series, findings: Findings) -> dict[str, list[str]]:
    """Each distinct cell and the labels that it names; names that are none of them as they are."""
    if findings.is_default:
        return {cell: class_names(cell) for cell in dict.fromkeys(cells)}
    marks = _own_marks(cells)
    return {cell: [findings.canonical(part) or part for part in _parts(cell, marks)] for cell in dict.fromkeys(cells)}


def silent_films(count: int) -> tuple[str, ...]:
    """A note of films whose cell names no class; none where there are none."""
    return (f"{count} films name no class: all their labels are unknown",) if count else ()


def _row(names: Sequence[str], stated: Sequence[str], findings: Findings) -> list[float]:
    mentioned = {label for name in names if name not in findings.labels for label in _mentions(name, findings)}
    unknown = set(stated) if not names else mentioned - set(names)
    return [np.nan if label in unknown else float(label in names) for label in stated]


def _from_columns(
    table: pd.DataFrame, columns: dict[str, str], path: object, findings: Findings, uncertain: Uncertain
) -> Statements:
    used: dict[str, str] = {}
    values: dict[str, pd.Series] = {}
    for name, label in columns.items():
        if label in used:
            raise ValueError(
                f"{path}: the columns {used[label]!r} and {name!r} both mean {label}; keep one of them, or choose "
                "label_columns"
            )
        used[label] = name
        values[label] = column_values(table[name], path, name, uncertain)
    labels = pd.DataFrame({label: values[label] for label in findings.labels if label in values})
    labels, notes = _contradictions(labels, findings)
    return Statements(labels, tuple(columns), notes, findings)


def _contradictions(labels: pd.DataFrame, findings: Findings) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """ "No Finding" beside a finding: the finding counts. (A support device is none.) In own sets a blank one beside a
    finding is 0 too, as tables that write it as 1 or blank mean."""
    none = findings.none
    if none is None or none not in labels:
        return labels, ()
    diseases = [label for label in labels if label != none and letters(str(label)) not in DEVICES]
    ill = (labels[diseases] == 1).any(axis=1)
    both = (labels[none] == 1) & ill
    unsaid = labels[none].isna() & ill & (not findings.is_default)
    if not (both | unsaid).any():
        return labels, ()
    labels = labels.assign(**{none: labels[none].mask(both | unsaid, 0.0)})
    notes = (f"{int(both.sum())} films say {none!r} beside a finding: the finding counts",) * bool(both.any())
    return labels, notes + ((f"{int(unsaid.sum())} films with a finding do not say {none!r}: 0",) * bool(unsaid.any()))


def _exclusive(stated: Statements) -> Statements:
    """With a note where every film has exactly one of several labels: such classes exclude each other."""
    labels = stated.labels
    known = labels.notna().all(axis=1)
    if labels.shape[1] < 2 or known.sum() < FEWEST_EXCLUSIVE or not known.all() or not (labels.sum(axis=1) == 1).all():
        return stated
    note = (
        f"every film has exactly one of {shortened(list(map(str, labels)))}: these look like classes that exclude each "
        "other. Each is trained as a label of its own, with a probability of its own, and these need not add up to "
        "one; the class of a film is the label with the highest. See docs/own_findings.md"
    )
    return replace(stated, notes=(*stated.notes, note))
