"""AUROC with a property balanced away, and how well networks tell it: exact values on made data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from agcxr import metrics
from agcxr.evaluation.shortcuts import Features, as_lines, properties, shortcuts
from agcxr.evaluation.strata import averages, balanced, balanced_auroc, plain_auroc
from agcxr.ridge import held_out, rounds_within


def films(**columns) -> pd.DataFrame:
    """60 patients with two films each, unless the columns say otherwise."""
    count = 120
    index = pd.DataFrame({"patient": [f"p{n // 2}" for n in range(count)]})
    made = {"view": ["AP", "PA"] * (count // 2), "sex": "F", "width": 512, "height": 512}
    return index.assign(**(made | columns))


def test_a_score_of_the_view_alone_is_worth_nothing_when_it_is_balanced() -> None:
    target, view = [1, 1, 1, 0, 1, 0, 0, 0], np.array([1, 1, 1, 1, 0, 0, 0, 0])
    assert metrics.auroc(target, view) == 0.75
    assert balanced_auroc(target, view, view).tolist() == [0.5]
    assert balanced_auroc(target, target, view).tolist() == [1.0]
    assert balanced_auroc(target, view, np.zeros(8)).tolist() == [0.75]  # one stratum: the AUROC


def test_balancing_weighs_negatives_as_positives_are_spread() -> None:
    rng = np.random.default_rng(0)
    target, score, view = rng.integers(0, 2, 60).astype(float), rng.normal(size=60).round(1), rng.integers(0, 3, 60)
    weight = np.ones(60)
    for name in range(3):
        own = view == name
        weight[own & (target == 0)] = (target[own] == 1).sum() / (target[own] == 0).sum()
    assert balanced_auroc(target, score, view)[0] == pytest.approx(metrics.auroc(target, score, weight), abs=1e-12)
    for name in range(3):  # each stratum has the same share of both classes
        shares = [weight[(view == name) & (target == y)].sum() / weight[target == y].sum() for y in (0, 1)]
        assert shares[0] == pytest.approx(shares[1])
    drawn = rng.integers(0, 3, (60, 5))
    for r in range(5):
        repeated = np.repeat(np.arange(60), drawn[:, r])
        expected = balanced_auroc(target[repeated], score[repeated], view[repeated])[0]
        assert balanced_auroc(target, score, view, drawn)[r] == pytest.approx(expected, abs=1e-12)


def test_what_cannot_be_balanced_is_left_out() -> None:
    # The film of view 0 has no negative beside it; that of unknown label counts nowhere.
    assert balanced_auroc([1, 1, 0, np.nan], [0, 5, 4, 9], [0, 1, 1, 1]).tolist() == [1.0]
    assert np.isnan(balanced_auroc([1, 0], [1, 2], [0, 1])[0])
    # A resample without the negative of view 1 has another measure; one without its films has the same.
    weight = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0]])
    value = balanced_auroc([1, 0, 1, 0], [3, 2, 5, 6], [0, 0, 1, 1], weight)
    np.testing.assert_array_equal(value, [0.5, np.nan, 1.0])


def test_the_change_is_paired_and_clear_for_a_score_of_the_view() -> None:
    rng = np.random.default_rng(1)
    view = np.arange(200) % 2
    target = (rng.random((200, 2)) < np.where(view, 0.8, 0.2)[:, None]).astype(float)
    score = np.stack([np.repeat(view[:, None], 2, axis=1).astype(float), target])
    found = averages([plain_auroc, balanced(view)], target, score, np.arange(200), resamples=50)
    change = found.change(1, 0, 0)
    assert found.interval(1, 0).value == 0.5
    assert change.value == pytest.approx(0.5 - np.mean([metrics.auroc(target[:, k], view) for k in (0, 1)]))
    assert change.high < 0
    assert found.change(1, 0, 1).value == 0  # the truth loses nothing


def test_a_view_in_the_features_is_told_and_what_it_is_worth_is_said() -> None:
    rng = np.random.default_rng(2)
    index = films()
    view = (index["view"] == "AP").to_numpy(float)
    target = (rng.random((120, 1)) < np.where(view, 0.7, 0.3)[:, None]).astype(float)
    networks = {
        "features": Features(np.stack([view, rng.normal(size=120)], axis=1)),
        "model": Features(np.ones((120, 2))),
    }
    view_found, sex, size = shortcuts(index, target, view[None, :, None], ("fusion",), networks, resamples=50)
    assert view_found.label == "view (AP 60, PA 60)"
    assert [(told.features, told.auroc.value) for told in view_found.told] == [("features", 1.0), ("model", 0.5)]
    (change,) = view_found.balanced
    assert (change.scores, change.balanced.value) == ("fusion", 0.5)
    assert change.auroc.value == pytest.approx(metrics.auroc(target[:, 0], view))
    assert change.change_high < 0
    assert (sex.untested, sex.told, sex.balanced) == ("which is F on all films", (), ())
    assert size.untested == "which is 512 x 512 on all films"
    head, line, left = as_lines((view_found, sex, size))
    assert head == "Shortcuts"
    assert line.startswith("  view (AP 60, PA 60): told by features with AUROC 1.000")
    assert "the mean AUROC of fusion goes from" in line
    assert left == "  Not tested: sex, which is F on all films; file size, which is 512 x 512 on all films"


def test_any_column_is_tested_and_honestly_named_where_it_cannot_be() -> None:
    device = np.array(["A", "B", "C", "A"] * 30, dtype=object)
    device[-2:] = None
    rare = ["x"] * 110 + ["y"] * 10  # of 5 patients
    index = films(view=None, device=device, rare=rare, height=[512, 1024] * 60, name=[f"film {n}" for n in range(120)])
    one_hot = np.stack([device == name for name in "ABC"], axis=1).astype(float)
    target = np.tile([[1.0], [0.0]], (60, 1))
    found = {
        one.name: one
        for one in shortcuts(index, target, one_hot[None, :, :1], ("s",), {"f": Features(one_hot)}, resamples=10)
    }
    assert list(found) == ["view", "sex", "file size", "device", "rare", "name"]
    assert found["device"].label == "device (A 59, B 30, C 29)"
    assert found["device"].unknown == 2
    assert found["device"].told[0].auroc.value == 1.0
    assert found["file size"].values == ("512 x 512", "512 x 1024")
    assert found["view"].untested == "which the films do not state"
    assert found["rare"].untested == found["name"].untested == "of which no value parts 20 patients from 20 others"


def test_properties_are_text_and_unknown_ones_missing() -> None:
    index = pd.DataFrame(
        {"patient": ["p", "q"], "view": ["AP", np.nan], "sex": ["", "M"], "width": [1, 2], "height": [3, 3]}
    )
    assert {name: text.fillna("?").tolist() for name, text in properties(index.assign(kv=[70, 80])).items()} == {
        "view": ["AP", "?"],
        "sex": ["?", "M"],
        "file size": ["1 x 3", "2 x 3"],
        "kv": ["70", "80"],
    }


def test_models_of_folds_are_asked_of_their_own_films_alone() -> None:
    """Each fold's network tells the property by another sign; together they would tell nothing."""
    fold, patient = np.repeat([1, 2], 40), np.arange(80).astype(str)
    target = np.tile([[0.0], [1.0]], (40, 1))
    feature = target * np.where(fold == 1, 1, -1)[:, None]
    score, penalties = held_out(feature, target, patient, rounds_within(patient, fold))
    assert metrics.auroc(target[:, 0], score[:, 0]) == 1.0
    assert len(penalties) == 10
    mixed, _ = held_out(feature, target, patient, rounds_within(patient, np.zeros(80)))
    assert metrics.auroc(target[:, 0], mixed[:, 0]) < 0.7
