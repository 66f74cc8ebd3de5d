"""What tables and headers say of a patient, however they write it: the age, the id, the sex. The one home of all three.

A column of whole numbers with one blank cell is written as decimals by pandas ("60.0", "13.0"); DICOM writes "060Y" and
file names "00000013". What cannot be read is unknown, and counted in a note for the screen.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

PATIENT_COLUMNS = ("patient", "patientid", "subjectid", "subject")
"""How a column of patients may be called: letters and digits of its header."""

OLDEST = 120
"""Years. Ages above this are errors of the table (the NIH's of 2017 has ages over 400)."""

BLANK = frozenset({"", "nan", "none", "null", "na", "n/a", "<na>", "nat", "-", "?", "unknown", "not available"})
"""Cells that say nothing, in lower case."""

AGE = re.compile(r"([0-9]+(?:[.,][0-9]*)?)\s*\+?\s*([a-z]*)\.?", re.I)
WHOLE = re.compile(r"0*(\d+)(?:\.0*|,0)?", re.A)
"""A whole number as tables write it; the group is the number without padding."""

YEARS: dict[str, float] = {
    **dict.fromkeys(("", "y", "yr", "yrs", "year", "years", "yo"), 1.0),
    **dict.fromkeys(("m", "mo", "mos", "month", "months"), 12.0),
    **dict.fromkeys(("w", "wk", "wks", "week", "weeks"), 52.18),
    **dict.fromkeys(("d", "day", "days"), 365.25),
}
"""Units of an age, and how many of them make a year (PS3.5, VR AS: D, W, M and Y)."""

SEXES: dict[str, str] = {
    **dict.fromkeys(("m", "male", "man", "boy", "masculine", "masculino", "masculin", "homme", "hombre"), "M"),
    **dict.fromkeys(("mann", "männlich", "maennlich", "maschio", "maschile"), "M"),
    **dict.fromkeys(("f", "female", "woman", "girl", "feminine", "femenino", "feminino", "féminin", "femme"), "F"),
    **dict.fromkeys(("mujer", "frau", "weiblich", "w", "femmina", "femminile"), "F"),
    **dict.fromkeys(("o", "other", "u", "x", "intersex"), ""),
}
"""Words for a sex, in lower case -> M, F or, where they state neither, nothing."""

PADDED = 12
"""Digits up to which ids of earlier versions may have been padded with zeros."""


FOLDERS = ("train", "val", "valid", "test")
BELOW_A_FOLDER = re.compile(r".*[/\\]([0-9]{8})")
"""Earlier versions took a patient from a file name with the folder before it; the NIH's names have eight digits."""


def age_years(text: str) -> float | None:
    """Years of an age such as "60", "60.0", "060Y", "60 years" or "18M"; None where there is none that a person has.

    Days, weeks and months are counted in completed years (18 months are 1). Above OLDEST is None.
    """
    age = _stated_age(text)
    return None if age is None or age > OLDEST else age


def patient_id(text: str) -> str:
    """ "00000013", "13.0", " 13 " -> "13". Ids with anything but digits ("P013", "1e1") stay as they are."""
    text = text.strip()
    whole = WHOLE.fullmatch(text)
    return whole[1] if whole else text


def spellings(patient: str) -> tuple[str, ...]:
    """The ways in which an id may stand in cards and folders of earlier versions: as given, bare, decimal, padded, and
    behind the folder of a file name ("train/00000013")."""
    below_a_folder = BELOW_A_FOLDER.fullmatch(patient)
    bare = patient_id(below_a_folder[1] if below_a_folder else patient)
    if not bare.isdecimal():
        return (patient,)
    padded = (bare.zfill(width) for width in range(len(bare) + 1, PADDED + 1))
    behind = (f"{folder}/{bare.zfill(8)}" for folder in FOLDERS)
    return tuple(dict.fromkeys((patient, bare, f"{bare}.0", *padded, *behind)))


def is_blank(text: str) -> bool:
    """Whether a cell says nothing."""
    return text.strip().lower() in BLANK


def read_ages(text: pd.Series) -> tuple[pd.Series, tuple[str, ...]]:
    """Cells -> float years, NaN where unknown; notes of what could not be read and of ages beyond OLDEST."""
    stated = text.map({cell: _stated_age(cell) for cell in text.unique()}).astype(float)
    odd = text[stated.isna() & ~_blanks(text)]
    wrong = int((stated > OLDEST).sum())
    notes = (f"{wrong} ages over {OLDEST} years were left out as unknown",) if wrong else ()
    return stated.mask(stated > OLDEST), notes + unread(odd, "ages")


def read_patients(text: pd.Series, otherwise: pd.Series) -> tuple[pd.Series, tuple[str, ...]]:
    """Cells -> patient ids; a film whose cell is blank gets `otherwise`.

    Ids that differ only in padding or a decimal ("007", "7") count as one patient, which a note says: were they two,
    no harm is done by keeping them in the same part, while one patient taken for two leaks between parts.
    """
    id_of = {cell: patient_id(cell) for cell in text.unique()}
    written: dict[str, set[str]] = {}
    for cell, patient in id_of.items():
        if not is_blank(cell):
            written.setdefault(patient, set()).add(cell.strip())
    ids = text.map(id_of).mask(_blanks(text), otherwise)
    several = [sorted(cells, key=lambda cell: (len(cell), cell)) for cells in written.values() if len(cells) > 1]
    if not several:
        return ids, ()
    example = " and ".join(several[0][:3])
    return ids, (f"{len(several)} patients are written in several ways ({example}): each counts as one patient",)


def read_sexes(text: pd.Series) -> tuple[pd.Series, tuple[str, ...]]:
    """Cells -> "M", "F" or "" where neither is stated; a note of words that are not known."""
    words = text.str.strip().str.lower()
    odd = text[~words.isin(list(SEXES)) & ~_blanks(text)]
    return words.map(SEXES).fillna("").astype(text.dtype), unread(odd, "sexes")


def _blanks(text: pd.Series) -> pd.Series:
    return text.isin([cell for cell in text.unique() if is_blank(cell)])


def _stated_age(text: str) -> float | None:
    found = AGE.fullmatch(text.strip())
    per_year = YEARS.get(found[2].lower()) if found else None
    if found is None or per_year is None:
        return None
    number = float(found[1].replace(",", "."))
    return number if per_year == 1 else number // per_year


def unread(odd: pd.Series, what: str) -> tuple[str, ...]:
    """A note of the cells that could not be read; none where there are none."""
    return (f"{len(odd)} {what} could not be read and are unknown, such as {odd.iloc[0]!r}",) if len(odd) else ()
