"""Odd headers, some of those that fuzz.py makes: no film is lost, and none is an error of the program."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from dicom_made import film, written
from fuzz import attack, elements, odd, page

pytestmark = pytest.mark.filterwarnings("ignore")  # of pydicom, about such values


def test_elements_are_found_where_pydicom_writes_them():
    ds = film()
    data = written(ds)
    tags = [struct.unpack("<HH", data[start : start + 4]) for start, _ in elements(data)]
    assert tags == [(element.tag.group, element.tag.element) for element in ds if element.keyword != "PixelData"]


def test_odd_headers_are_odd_and_the_same_again():
    films = [[odd(number, np.random.default_rng(number)) for number in range(20)] for _ in range(2)]
    assert films[0] == films[1]
    assert len(set(films[0])) == 20


def test_a_node_loses_no_film_with_an_odd_header(predictor, tmp_path):
    journal = io.StringIO()
    outcome = attack(12, 5, predictor, tmp_path, journal)
    assert sum(outcome.answers.values()) == 12
    assert set(outcome.answers) <= {200, 409}
    assert outcome.states["received"] == outcome.states["made"] == 0
    assert (outcome.lost, outcome.events["trouble"]) == (0, 0)
    assert outcome.messages == {}
    assert outcome.reports > 0
    assert not [secret for secret in ("Secret", "SECRET", "2.25.", "<script>") if secret in journal.getvalue()]
    assert "| **lost** | 0 |" in page(outcome, 5)
