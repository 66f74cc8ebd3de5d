from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from agcxr.data.patients import age_years, patient_id, read_ages, read_patients, read_sexes, spellings


def cells(*texts: str) -> pd.Series:
    return pd.Series(texts, dtype=str)


@pytest.mark.parametrize(
    ("text", "years"),
    [
        *(
            ("60", 60),
            ("60.0", 60),
            ("60,0", 60),
            ("060Y", 60),
            ("60 Y", 60),
            ("60\u00a0Y", 60),
            (" 60y ", 60),
            ("60 years", 60),
        ),
        *(("60.5", 60.5), ("0", 0), ("000Y", 0), ("120", 120), ("90+", 90), ("1 yr.", 1)),
        # Units below a year count completed years: 24 months are two, 23 are one.
        *(("024M", 2), ("23 months", 1), ("011M", 0), ("53W", 1), ("51w", 0), ("366D", 1), ("365D", 0)),
        *(("121", None), ("148", None), ("411Y", None), ("1500M", None), ("9" * 5000, None)),
        *(("-3", None), ("1e1", None), ("sixty", None), ("60X", None), ("", None), ("nan", None), ("Y", None)),
    ],
)
def test_ages(text, years):
    assert age_years(text) == years


def test_ages_that_could_not_be_read_are_counted_and_blank_ones_are_not():
    years, notes = read_ages(cells("60.0", "", "nan", "None", "abc", "-1", "411Y", "148", "0"))
    assert np.array_equal(years, [60, *[np.nan] * 7, 0], equal_nan=True)
    assert notes == (
        "2 ages over 120 years were left out as unknown",
        "2 ages could not be read and are unknown, such as 'abc'",
    )
    assert read_ages(cells("", "5"))[1] == ()


@pytest.mark.parametrize(
    ("text", "same"),
    [
        *(("13", "13"), ("00000013", "13"), ("13.0", "13"), (" 13 ", "13"), ("0013.00", "13"), ("13,0", "13")),
        *(("0", "0"), ("000", "0"), ("0.0", "0"), ("130", "130"), ("10000032", "10000032")),
        *(("1e1", "1e1"), ("P013", "P013"), ("p1", "p1"), ("P1", "P1"), ("13a", "13a"), ("13.5", "13.5")),
        *(("1.2.3", "1.2.3"), ("13-0", "13-0"), ("-13", "-13"), ("13,000", "13,000"), ("0x0d", "0x0d")),
    ],
)
def test_ids(text, same):
    assert patient_id(text) == same
    assert patient_id(same) == same


def test_one_patient_however_written_and_films_without_one():
    ids, notes = read_patients(cells("007", "7", "7.0", "8", "", "nan", "None", " P7"), cells(*"abcdefgh"))
    assert ids.tolist() == ["7", "7", "7", "8", "e", "f", "g", "P7"]
    assert notes == ("1 patients are written in several ways (7 and 007 and 7.0): each counts as one patient",)
    assert read_patients(cells("7", "7", "8"), cells(*"abc"))[1] == ()


def test_spellings_of_earlier_versions():
    assert spellings("P7") == ("P7",)
    assert spellings("7.0")[:4] == ("7.0", "7", "07", "007")
    assert {"13", "13.0", "00000013"} <= set(spellings("13"))
    assert "130" not in spellings("13")


def test_sexes():
    sexes, notes = read_sexes(cells("Male", "F ", "m", "FEMALE", "Mujer", "0", "", "Unknown", "O", "1"))
    assert sexes.tolist() == ["M", "F", "M", "F", "F", "", "", "", "", ""]
    assert notes == ("2 sexes could not be read and are unknown, such as '0'",)
