"""The tables of other public collections, as files: CSVs, Open-i's reports, SIIM's masks.

TorchXRayVision ships most of them (extra `external`). It is looked up, never imported: that would take seconds.
"""

import importlib.util
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from agcxr.data.nih import read_strings
from agcxr.extras import needs

FRAME = 1024
"""Boxes of RSNA and masks of SIIM are in pixels of 1024 x 1024 films."""

_BROKEN = (OSError, EOFError, UnicodeDecodeError, ValueError, tarfile.TarError, ElementTree.ParseError)


@dataclass(frozen=True)
class ShippedTable:
    """A CSV (plain, .gz or .zip) as stripped strings, from a path or, without one, as TorchXRayVision ships it."""

    path: Path | None
    shipped: str | None
    needs: tuple[str, ...]
    table: pd.DataFrame = field(init=False)
    paths: tuple[Path, ...] = field(init=False)

    def __post_init__(self) -> None:
        path = self.path or shipped(self.shipped or "")
        table = read_strings(path)
        absent = [name for name in self.needs if name not in table]
        if absent:
            raise ValueError(
                f"{path} is not the table expected here: it has no column {', '.join(map(repr, absent))}; "
                f"its columns are {', '.join(table.columns)[:200]}"
            )
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "paths", (path,))

    def __getitem__(self, name: str) -> pd.Series:
        return self.table[name]

    def numbers(self, name: str) -> pd.Series:
        """A column of numbers, NaN where a cell is blank. ValueError names what is none."""
        found = pd.to_numeric(self.table[name], errors="coerce").astype(float)
        odd = self.table[name][found.isna() & (self.table[name] != "")]
        if len(odd):
            raise ValueError(f"{self.paths[0]}, column {name!r}: {odd.iloc[0]!r} is not a number")
        return found

    def get(self, name: str) -> pd.Series:
        """A column that may be missing: then blank."""
        return self.table[name] if name in self.table else pd.Series("", index=self.table.index, dtype=str)


def shipped(name: str) -> Path:
    """A file that TorchXRayVision ships. Raises ValueError where it is not installed."""
    found = importlib.util.find_spec("torchxrayvision")
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = Path(folder) / "data" / name
        if path.is_file():
            return path
    raise ValueError(
        f"{needs(f'the table {name}, which comes with TorchXRayVision,', 'external')}; or give your own copy with "
        "--labels (and --metadata)"
    )


def read_reports(path: Path) -> pd.DataFrame:
    """Open-i's XML reports in a .tgz -> a row an image: image, report, terms (lower-case headings, see OPENI_TERMS)."""
    records = []
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() and member.name.endswith(".xml") else None
                if file is None:
                    continue
                root = ElementTree.parse(file).getroot()
                number = root.find("uId")
                report = number.attrib["id"] if number is not None else Path(member.name).stem
                terms = frozenset(_heading(node.text or "") for node in root.findall(".//MeSH/major"))
                records += [(image.attrib["id"], report, terms) for image in root.findall(".//parentImage")]
    except _BROKEN as error:
        raise ValueError(f"{path} cannot be read as Open-i's reports (NLMCXR_reports.tgz): {error}") from error
    if not records:
        raise ValueError(f"{path} holds no report with an image; expected Open-i's NLMCXR_reports.tgz")
    return pd.DataFrame(records, columns=["image", "report", "terms"])


def _heading(term: str) -> str:
    """ "Thickening/pleura/apex" -> "thickening/pleura"; "Pulmonary Atelectasis/base" -> "pulmonary atelectasis"."""
    heading, *rest = [part.strip() for part in term.lower().split("/")]
    return f"{heading}/pleura" if heading == "thickening" and "pleura" in rest else heading


def extent(runs: str) -> tuple[int, int, int, int]:
    """Runs of SIIM's masks (skip, length, skip, length, ... down the columns) -> x0, y0, x1, y1 in pixels."""
    words = runs.split()
    if len(words) < 2 or len(words) % 2 or not all(word.isdecimal() for word in words):
        raise ValueError(f"a mask of SIIM is no list of runs: {runs[:60]!r}; expected pairs of whole numbers, or -1")
    numbers = np.array(words, np.int64)
    last = numbers.cumsum()[1::2] - 1
    first = last - numbers[1::2] + 1
    x0, x1 = first.min() // FRAME, last.max() // FRAME
    crossing = (first // FRAME != last // FRAME).any()
    y0, y1 = (0, FRAME - 1) if crossing else ((first % FRAME).min(), (last % FRAME).max())
    return int(x0), int(y0), int(x1) + 1, int(y1) + 1
