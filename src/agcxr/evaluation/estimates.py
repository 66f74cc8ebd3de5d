"""Every estimate of an evaluation in one tidy table, a row each: finding, branch, measure, value and interval."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from agcxr.uncertainty import Difference, Estimate
from agcxr.values import Record

ESTIMATES = "estimates.csv"
NAMES = ("finding", "group", "branch", "against", "measure", "point")
COLUMNS = ("file", *NAMES, "value", "low", "high", "p", "left_out")
RENAMED = {"by": "group", "name": "group", "kind": "group", "method": "branch", "version": "branch", "floor": "against"}
"""What records call a name of the table."""


def tidy(**files: Record | None) -> pd.DataFrame:
    """The estimates of some results files, by the files' names, as COLUMNS: a name is empty where it does not apply, a
    number NaN where there is none. A mean over findings is of the finding `mean`; `against` is what a difference is
    from, a branch or a floor."""
    unnamed = dict.fromkeys(NAMES, "")
    rows = [unnamed | {"file": file, **row} for file, record in files.items() if record for row in _rows(record, {})]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def save(folder: Path, **files: Record | None) -> None:
    """Write `tidy` as estimates.csv into a results folder."""
    tidy(**files).to_csv(folder / ESTIMATES, index=False)


def _rows(record: Record, above: dict[str, str], field: str = "") -> Iterator[dict[str, object]]:
    """The estimates in a record, with the names of the records that hold them."""
    names = above | _names(record)
    if isinstance(record, Estimate):
        p = record.p if isinstance(record, Difference) else math.nan
        numbers = {"value": record.value, "low": record.low, "high": record.high, "p": p, "left_out": record.left_out}
        yield {"measure": field, **names, **numbers}
        return
    for name, value in record:
        inside = names if name != "mean" else names | {"finding": "mean"}
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Record):
                yield from _rows(each, inside, name)


def _names(record: Record) -> dict[str, str]:
    """How a record is told from its neighbours. The name of an estimate is that of its measure."""
    renamed = RENAMED | ({"name": "measure"} if isinstance(record, Estimate) else {})
    named = [(renamed.get(name, name), value) for name, value in record if isinstance(value, str) and value]
    names: dict[str, str] = {}
    for name, value in named:
        if name in NAMES:
            names[name] = f"{names[name]}: {value}" if name in names else value
    return names
