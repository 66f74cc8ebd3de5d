import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agcxr.evaluation.boxes import centred, covered, covered_by_chance
from agcxr.evaluation.localization import Coverage, crop_table
from agcxr.evaluation.localize import coverage
from agcxr.evaluation.page import Page, to_markdown
from agcxr.evaluation.report_looks import crops
from agcxr.table import to_text

WHOLE = np.array([0.0, 0.0, 1.0, 1.0])


def test_coverage_on_literal_boxes():
    lesion = np.array([[0.4, 0.4, 0.6, 0.6]] * 3)
    found = np.array([[0.0, 0.0, 1.0, 1.0], [0.5, 0.4, 1.0, 0.6], [0.7, 0.7, 0.9, 0.9]])
    np.testing.assert_allclose(covered(found, lesion), [1.0, 0.5, 0.0])


def test_chance_worked_by_hand():
    # A half-wide strip of full height slides over [0, 1]: it starts anywhere in [0, .5]. The lesion [0, .1] in x is
    # covered by .1 - u for u < .1, so .005 / .5 = .01 on average: a tenth of the lesion.
    strip = np.array([[0.2, 0.0, 0.7, 1.0]])
    assert covered_by_chance(strip, np.array([[0.0, 0.0, 0.1, 1.0]]), WHOLE)[0] == pytest.approx(0.1)
    # In the middle it is always covered.
    assert covered_by_chance(strip, np.array([[0.5, 0.2, 0.5001, 0.4]]), WHOLE)[0] == pytest.approx(1.0, abs=1e-3)
    # The whole window can only lie in one place.
    assert covered_by_chance(WHOLE[None], np.array([[0.3, 0.3, 0.4, 0.4]]), WHOLE)[0] == pytest.approx(1.0)


def test_chance_is_the_mean_over_random_places():
    rng = np.random.default_rng(0)
    window = np.array([0.05, 0.1, 0.95, 0.9])
    for _ in range(5):
        x0, y0 = rng.uniform(0, 0.6, 2)
        lesion = np.array([[x0, y0, x0 + rng.uniform(0.02, 0.4), y0 + rng.uniform(0.02, 0.4)]])
        w, h = rng.uniform(0.1, 0.7, 2)
        place = window[:2] + rng.random((40_000, 2)) * np.array([0.9 - w, 0.8 - h])
        boxes = np.concatenate([place, place + np.array([w, h])], axis=1)
        expected = covered(boxes, np.repeat(lesion, len(boxes), 0)).mean()
        assert covered_by_chance(np.array([[0, 0, w, h]]), lesion, window)[0] == pytest.approx(expected, abs=0.01)


def test_the_centre_floor_is_a_box_of_the_same_size_in_the_middle_of_the_view():
    window = np.array([0.0, 0.2, 0.8, 1.0])  # its middle: (.4, .6)
    found = np.array([[0.0, 0.2, 0.2, 0.4], [0.5, 0.2, 0.8, 0.3], [0.0, 0.2, 0.8, 1.0]])
    expected = [[0.3, 0.5, 0.5, 0.7], [0.25, 0.55, 0.55, 0.65], [0.0, 0.2, 0.8, 1.0]]
    np.testing.assert_allclose(centred(found, window), expected)


def test_a_crop_that_always_lies_in_the_centre_beats_chance_and_not_the_centre():
    """Lesions in the middle: a network that knows nothing of the film looks as good as one that finds them."""
    found = coverage(*_tables((0.4, 0.4, 0.6, 0.6)), WHOLE, resamples=200)
    for row in found.rows:
        assert row.gap_low > 0
        assert (row.centre, row.centre_gap, row.centre_p) == (1, 0, 1)
        assert row.centre_gap_low < 0 < row.centre_gap_high  # so few boxes that agree leave much open
    predictions, boxes = _tables((0.0, 0.4, 0.2, 0.6))
    boxes[["x0", "x1"]] = [0.0, 0.2]  # lesions at the edge, and the crop on them
    for row in coverage(predictions, boxes, WHOLE, resamples=200).rows:
        assert (row.coverage, row.centre, row.centre_gap) == pytest.approx((1, 0, 1))
        # All of 3 patients agree by chance 2 times in 2^3, all of 6 in 2^6.
        assert row.centre_p == pytest.approx(2 / 2 ** (6 if row.finding == "Mean" else 3))
        assert (row.centre_gap_low > 0) == (row.finding == "Mean")
    over, head, *_ = to_text(crop_table(found)).splitlines()
    assert over.split() == ["At", "a", "random", "place", "In", "the", "centre"]
    assert head.split() == [
        "Finding",
        "Boxes",
        "Coverage",
        *("Chance", "Difference", "p"),
        *("Centre", "Difference", "p"),
    ]
    mass = crop_table(found).rows[0]
    assert mass[:3] == ("Mass†", "6", "1.000")
    assert (mass[6], mass[7].text) == ("1.000", "+.000")
    page = to_markdown(Page("t", "s", "n", (crops(found),)), Path())
    assert (
        "| At a random place Chance | At a random place Difference | At a random place p | In the centre Centre |"
        in page
    )


def _tables(found):
    n = 12
    predictions = pd.DataFrame({"row": range(n), "patient": [str(i // 2) for i in range(n)]})
    for i, edge in enumerate(("x0", "y0", "x1", "y1")):
        predictions[f"box_{edge}"] = found[i]
    boxes = pd.DataFrame({"row": range(n), "finding": ["Nodule"] * 6 + ["Mass"] * 6})
    for edge, value in zip(("x0", "y0", "x1", "y1"), (0.4, 0.4, 0.6, 0.6), strict=True):
        boxes[edge] = value
    return predictions, boxes


def test_a_box_on_the_lesion_beats_chance_and_one_beside_it_does_not(tmp_path):
    good = coverage(*_tables((0.4, 0.4, 0.6, 0.6)), WHOLE, resamples=200)
    assert good.of("Nodule").coverage == 1.0
    assert good.of("Nodule").boxes == 6
    assert good.of("Mean").gap_low > 0
    bad = coverage(*_tables((0.0, 0.0, 0.2, 0.2)), WHOLE, resamples=200)
    for row in bad.rows:  # chance misses six or twelve such boxes as well: not worse than it
        assert (row.coverage, row.chance, row.p) == (0, pytest.approx(0.0625), 1)
        assert row.gap_low < 0 < row.gap_high
    tables = _tables((0.0, 0.0, 0.2, 0.2))
    many = [
        pd.concat([table.assign(row=table["row"] + 12 * i) for i in range(40)], ignore_index=True) for table in tables
    ]
    many[0]["patient"] = (many[0]["row"] // 2).astype(str)
    assert coverage(*many, WHOLE, resamples=200).of("Mass").gap_high < 0  # of 240 boxes of 120 patients it is worse
    assert "Nodule" in to_text(crop_table(good))
    good.save(tmp_path)
    assert Coverage.model_validate_json((tmp_path / "coverage.json").read_text()) == good
    with pytest.raises(ValueError, match="no boxes of 'Hernia'; there are Mass, Nodule, Mean"):
        good.of("Hernia")


def test_one_patient_has_no_interval(tmp_path):
    predictions, boxes = _tables((0.4, 0.4, 0.6, 0.6))
    predictions.loc[:5, "patient"] = "0"  # all nodules
    found = coverage(predictions, boxes, WHOLE, resamples=200)
    nodule = found.of("Nodule")
    assert (nodule.patients, nodule.coverage) == (1, 1.0)
    assert np.isnan([nodule.gap_low, nodule.gap_high, nodule.p]).all()
    assert found.of("Mass").gap_low > 0
    mean = found.of("Mean")
    assert (mean.patients, np.isnan([mean.gap_low, mean.p]).all()) == (4, True)
    assert "(one patient)" in to_text(crop_table(found))
    assert "(no interval)" in to_text(crop_table(found))
    shown = to_markdown(Page("t", "s", "n", (crops(found),)), tmp_path)
    assert [line.split(" | ")[0] for line in shown.splitlines() if line.startswith("| ")] == [
        "| Finding", "| :--", "| Mass†", "| Nodule†", "| Mean over findings",
    ]  # fmt: skip
    assert "† Boxes of fewer than 20 patients: intervals and p are rough." in shown
    assert "(no interval) | – |" in shown
    found.save(tmp_path)
    again = Coverage.model_validate_json((tmp_path / "coverage.json").read_text())
    assert np.isnan(again.of("Nodule").p)


def test_the_mean_leaves_out_resamples_that_lack_a_finding():
    """Nodules of patients 0 to 2, masses of 3 to 5: a resample may lack one of them and then has no mean."""
    predictions, boxes = _tables((0.4, 0.4, 0.6, 0.6))
    boxes.loc[[0, 1, 6], ["x0", "x1"]] = [0.1, 0.3]
    found = coverage(predictions, boxes, WHOLE, resamples=300, seed=4)
    assert found.of("Mean").coverage == pytest.approx((4 / 6 + 5 / 6) / 2)
    rng, means = np.random.default_rng(4), []
    chance = {name: found.of(name).chance for name in ("Nodule", "Mass")}
    gain = np.where(np.isin(np.arange(12), [0, 1, 6]), 0.0, 1.0)
    for _ in range(300):
        weight = np.bincount(rng.integers(6, size=6), minlength=6).repeat(2)
        if weight[:6].any() and weight[6:].any():
            seen = [np.average(gain[part], weights=weight[part]) for part in (slice(0, 6), slice(6, 12))]
            means.append(np.mean(seen))
    assert len(means) < 300
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.of("Mean").left_out == 300 - len(means)
    # Wider than percentiles, for 3 patients a finding are few. Chance differs between boxes by their place.
    assert 0 < found.of("Mean").gap_low < low - np.mean(list(chance.values())) + 0.02
    assert found.of("Mean").gap_high > high - np.mean(list(chance.values())) - 0.02


def test_a_p_at_its_floor_says_so_where_resamples_were_left_out():
    found = coverage(*_tables((0.4, 0.4, 0.6, 0.6)), WHOLE, resamples=300, seed=4)
    assert min(row.left_out for row in found.rows) > 0
    least = (row.model_copy(update={"p": 2 / (301 - row.left_out)}) for row in found.rows)
    found = found.model_copy(update={"rows": tuple(least)})
    assert [row[5] for row in crop_table(found).rows] == ["≤.007"] * 3
    page = to_markdown(Page("t", "s", "n", (crops(found),)), Path())
    assert page.count("| ≤.007 |") == 3


def test_files_of_before_left_out_are_read():
    found = coverage(*_tables((0.4, 0.4, 0.6, 0.6)), WHOLE, resamples=20)
    old = json.loads(found.model_dump_json())
    for row in old["rows"]:
        for key in ("left_out", "centre", "centre_gap", "centre_gap_low", "centre_gap_high", "centre_p"):
            del row[key]
    again = Coverage.model_validate(old)
    assert {row.left_out for row in again.rows} == {0}
    assert all(np.isnan(row.centre) for row in again.rows)
    assert to_markdown(Page("t", "s", "n", (crops(again),)), Path()).count("| – |") == 6  # centre and its p


def test_films_without_boxes_are_refused():
    predictions, boxes = _tables((0, 0, 1, 1))
    with pytest.raises(ValueError, match="none of the predicted films has an annotated box"):
        coverage(predictions, boxes.iloc[:0], WHOLE)


def test_the_whole_view_is_no_better_than_itself():
    """At a random place and in the centre it is the same box, whatever the last bits of its edges."""
    window = np.array([0.07, 0.07, 0.93, 0.93])
    for row in coverage(*_tables(tuple(window)), window, resamples=200).rows:
        assert (row.gap, row.p, row.centre_gap, row.centre_p) == (0, 1, 0, 1)
