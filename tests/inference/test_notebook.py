import base64
import re

import cv2
import numpy as np

from agcxr.inference.overlay import ACCENT
from agcxr.intake import Intake
from inference.make import film, prediction


def test_a_prediction_says_itself_on_one_line():
    fusion = np.linspace(0.1, 0.8, 15, dtype=np.float32)
    given = prediction(fusion_K=fusion, labels=tuple("abcdefghijklmno"))
    line = "Prediction('films/a.png', 50 x 60 px: o 0.80, n 0.75, m 0.70; box (10, 12, 30, 40)"
    assert repr(given) == f"{line})"
    warned = prediction(fusion_K=fusion, labels=given.labels, intake=Intake("warn", ("it is small", "it is faint")))
    assert repr(warned) == f"{line}; warn: it is small; it is faint)"
    assert "no region stood out" in repr(prediction(fallback=True))
    refused = prediction(intake=Intake("refuse", ("it is upside down",)))
    assert repr(refused) == "Prediction('films/a.png', 50 x 60 px; refuse: it is upside down)"


def test_a_notebook_shows_film_attention_and_crop_and_every_finding():
    given = prediction(name="<a>.png", intake=Intake("warn", ("it is small",)))
    html = given._repr_html_()
    assert "&lt;a&gt;.png" in html
    assert "warn: it is small" in html
    pictures = [base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)", html)]
    sizes = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED).shape for data in pictures]
    assert sizes == [(60, 50, 3), (60, 50, 3), (32, 32)]
    assert [html.count(f"<td>{name.replace('_', ' ')}</td>") for name in given.labels] == [1] * 15
    assert "calibrated" not in html
    assert "<td>0.93</td>" in html  # of Hernia, the highest but one


def test_a_notebook_draws_every_box():
    boxes = ((5.0, 25.0, 15.0, 45.0), (20.0, 25.0, 40.0, 45.0))
    html = prediction(
        box=boxes[0], boxes=boxes, weights=(0.25, 0.75), film_HW=np.full((60, 50), 9, np.uint8)
    )._repr_html_()
    first = base64.b64decode(re.findall(r"base64,([^\"]+)", html)[0])
    drawn = cv2.imdecode(np.frombuffer(first, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert drawn[44, 30].tolist() == list(ACCENT)
    assert 9 < drawn[44, 10, 1] < ACCENT[1]
    assert "<figcaption>crop 1</figcaption>" in html


def test_a_notebook_shows_no_numbers_of_a_refused_film():
    html = prediction(intake=Intake("refuse", ("it is upside down",)))._repr_html_()
    assert html.count("<img") == 1
    assert "<table" not in html
    assert "refuse: it is upside down" in html


def test_a_film_that_was_not_kept_leaves_the_table():
    html = prediction(film_HW=None)._repr_html_()
    assert "<img" not in html
    assert "<table" in html


def test_probabilities_that_calibration_left_as_they_are_get_no_column():
    fusion = np.linspace(0.1, 0.8, 15, dtype=np.float32)
    assert not prediction(fusion_K=fusion, calibrated_K=fusion.copy()).shows_calibrated
    assert prediction(fusion_K=fusion, calibrated_K=fusion / 2).shows_calibrated
    assert "<th>calibrated</th>" in prediction(fusion_K=fusion, calibrated_K=fusion / 2)._repr_html_()
    assert not prediction(film_HW=film()).shows_calibrated
