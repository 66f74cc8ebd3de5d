from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from agcxr.data.label_cells import class_names, column_values, read_statements
from agcxr.labels import LABELS, canonical

NAN = np.nan


def table(**columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns, dtype=str)


def equal(found: pd.Series, expected: list[float]) -> bool:
    return np.array_equal(found.to_numpy(float), expected, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        *((text, "Pleural_Thickening") for text in ("pleural thickening", "Pleural-Thickening", "PleuralThickening")),
        *((text, "No Finding") for text in ("NO FINDING", "nofinding", "No_Finding", "Normal", " no findings ")),
        *(("Pleural  Effusion", "Effusion"), ("oedema", "Edema"), ("Massive", None), ("Nodule/Mass", None), ("", None)),
    ],
)
def test_names_however_written(name, label):
    assert canonical(name) == label


def test_cells_of_values():
    cells = pd.Series(["1", "1.0", "1,0", "Yes", "TRUE", "0", "0.00", "no", "F", "-1", "-1.0", "", "nan", " 1 "])
    assert equal(column_values(cells, "t.csv", "Mass"), [1, 1, 1, 1, 1, 0, 0, 0, 0, NAN, NAN, NAN, NAN, 1])
    with pytest.raises(ValueError, match=r"t.csv, column 'Mass': 'maybe' is not a label; expected 0, 1, -1 or blank"):
        column_values(pd.Series(["1", "maybe"]), "t.csv", "Mass")
    with pytest.raises(ValueError, match=r"labels must be 0, 1, or empty or -1 for unknown, found 0.1"):
        column_values(pd.Series(["0.9", "0.1", "1"]), "t.csv", "Mass")


@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("Effusion|Mass", ["Effusion", "Mass"]),
        ("pleural effusion; lung mass", ["Effusion", "Mass"]),
        ("Effusion, Mass,", ["Effusion", "Mass"]),
        ("['Effusion', 'Mass']", ["Effusion", "Mass"]),
        ("Pleural_Thickening", ["Pleural_Thickening"]),
        ("Nodule/Mass|Mass", ["Nodule/Mass", "Mass"]),
        ("Mass Pleural Thickening effusion", ["Mass", "Pleural_Thickening", "Effusion"]),
        ("Mass\nEdema\r\nHernia", ["Mass", "Edema", "Hernia"]),
        ("Mass + Edema & Hernia", ["Mass", "Edema", "Hernia"]),
        ("Left Mass", ["Left Mass"]),
        ("Mass, uncertain", ["Mass"]),
        *((text, []) for text in ("Unknown", "uncertain", "-", "?", "N/A", "-1")),
        (" | ", []),
        ("nan", []),
        ("[]", []),
    ],
)
def test_class_names(cell, names):
    assert class_names(cell) == names


def test_the_column_of_the_nih_states_all_labels():
    found = read_statements(table(**{"Finding Labels": ["Mass|Edema", "No Finding", ""]}), "t.csv")
    assert found is not None
    assert tuple(found.labels) == LABELS
    assert equal(found.labels["Mass"], [1, 0, NAN])
    assert equal(found.labels["Hernia"], [0, 0, NAN])
    assert equal(found.labels["No Finding"], [0, 1, NAN])
    assert found.used == ("Finding Labels",)
    assert found.notes == ("1 films name no class: all their labels are unknown",)


def test_another_column_states_what_it_ever_names_and_counts_the_rest():
    cells = ["NORMAL", "Pneumonia", "COVID-19", "covid-19|TB", "pneumonia;TB", ""]
    found = read_statements(table(image=list("abcdef"), label=cells), "t.csv")
    assert found is not None
    assert list(found.labels) == ["Pneumonia", "No Finding"]
    assert equal(found.labels["Pneumonia"], [0, 1, 0, 0, 1, NAN])
    assert equal(found.labels["No Finding"], [1, 0, 0, 0, 0, NAN])
    assert found.notes == (
        "1 films name no class: all their labels are unknown",
        "class names left out, not findings of ours: TB (2), COVID-19 (1), covid-19 (1)",
    )
    with pytest.raises(
        ValueError, match=r"column 'label': unknown finding 'TB' in the labels, and none .* TB \(2\), flu"
    ):
        read_statements(table(label=["TB", "TB", "flu"]), "t.csv")


def test_class_names_that_are_silent_teach_nothing():
    found = read_statements(table(label=["Pneumonia", "Normal", "unknown", "Uncertain", "?"]), "t.csv")
    assert found is not None
    assert equal(found.labels["Pneumonia"], [1, 0, NAN, NAN, NAN])
    assert found.notes == ("3 films name no class: all their labels are unknown",)


@pytest.mark.parametrize(
    "absent", ["No Pneumonia", "NO_PNEUMONIA", "not pneumonia", "Non-Pneumonia", "Pneumonia negative"]
)
def test_a_class_that_denies_a_finding(absent):
    found = read_statements(table(label=["Pneumonia", absent]), "t.csv")
    assert found is not None
    assert equal(found.labels["Pneumonia"], [1, 0])


@pytest.mark.parametrize("header", ["label", "Finding Labels"])
def test_a_finding_within_an_unknown_class_is_unknown(header):
    """A film of "Viral Pneumonia" is no film without pneumonia."""
    cells = [
        "Pneumonia",
        "Viral Pneumonia",
        "Nodule/Mass|Pneumonia",
        "Mass",
        "Nodule",
        "Abnormal",
        "Not Normal",
        "Normal",
    ]
    found = read_statements(table(**{header: cells}), "t.csv")
    assert found is not None
    assert equal(found.labels["Pneumonia"], [1, NAN, 1, 0, 0, 0, 0, 0])
    assert equal(found.labels["Mass"], [0, 0, NAN, 1, 0, 0, 0, 0])
    assert equal(found.labels["Nodule"], [0, 0, NAN, 0, 1, 0, 0, 0])
    assert equal(found.labels["No Finding"], [0, 0, 0, 0, 0, 0, 0, 1])


def test_which_column_of_class_names_is_read():
    part = read_statements(table(**{"class": ["train", "test"], "diagnosis": ["Mass", "Normal"]}), "t.csv")
    assert part is not None
    assert part.used == ("diagnosis",), "the one that names classes of ours"
    report = ["Heart is normal. No effusion, mass.", "Clear lungs. No edema, effusion."]
    assert read_statements(table(findings=report), "t.csv") is None, "a report is no list of classes"
    blank = read_statements(table(**{"Finding Labels": ["", "nan"], "Mass": ["1", "0"]}), "t.csv")
    assert blank is not None
    assert blank.used == ("Mass",)
    with pytest.raises(
        ValueError, match="'Finding Labels' holds class names .*; choose it alone, or 'Edema' without it"
    ):
        read_statements(table(**{"Finding Labels": ["Mass"], "Edema": ["1"]}), "t.csv", ["Finding Labels", "Edema"])


def test_a_finding_beside_no_finding_counts():
    lists = read_statements(table(labels=["Mass|No Finding", "No Finding", "Mass"]), "t.csv")
    columns = read_statements(table(**{"Mass": ["1", "0", ""], "No Finding": ["1", "1", "1"]}), "t.csv")
    assert lists is not None
    assert columns is not None
    assert equal(lists.labels["No Finding"], [0, 1, 0])
    assert equal(columns.labels["No Finding"], [0, 1, 1])
    assert lists.notes == columns.notes == ("1 films say 'No Finding' beside a finding: the finding counts",)


def test_which_columns_are_read():
    beside = table(label=["TB", "TB"], Mass=["1", "0"])
    found = read_statements(beside, "t.csv")
    assert found is not None
    assert found.used == ("Mass",), "columns of findings go before a column of class names"
    score = read_statements(table(Mass=["0.9", "0.2"], label_Mass=["1", "0"]), "t.csv")
    assert score is not None
    assert (score.used, score.labels["Mass"].tolist()) == (("label_Mass",), [1, 0])
    assert read_statements(table(label=["1", "0"], other=["x", "y"]), "t.csv") is None
    chosen = read_statements(table(what=["Mass", "TB"]), "t.csv", ["what"])
    assert chosen is not None
    assert chosen.labels["Mass"].tolist() == [1, 0]


@pytest.mark.parametrize("names", [("Effusion", "Pleural Effusion"), ("Mass", "Mass.1"), ("y_Mass", "gt_mass")])
def test_two_columns_of_one_finding(names):
    with pytest.raises(ValueError, match=rf"the columns '{names[0]}' and '{names[1]}' both mean \w+; keep one of them"):
        read_statements(table(**{name: ["1"] for name in names}), "t.csv")
