"""Each definition on a literal example whose answer is worked out by hand."""

import numpy as np
import pytest

from agcxr.evaluation.boxes import (
    MEASURES,
    ceiling,
    coverage,
    energy,
    grid_boxes,
    hit,
    inside,
    map_boxes,
    measure,
    measures,
    overlaps,
    prior_map,
)

HEAT_44 = np.array(
    [
        [0.0, 0.2, 0.0, 0.0],
        [0.0, 1.0, 0.6, 0.0],
        [0.0, 0.4, 0.0, 0.0],
        [0.8, 0.0, 0.0, 0.0],
    ],
    dtype=np.float32,
)
WHOLE = (0.0, 0.0, 1.0, 1.0)


def value(row_V, name: str) -> float:
    return float(row_V[MEASURES.index(name)])


def test_the_box_bounds_the_largest_region_over_a_share_of_the_maximum():
    boxes = map_boxes(HEAT_44, [0.0, 0.3, 0.5, 0.7])
    # Over 0: all six pixels touch (corners count): rows 0-3, columns 0-2. Over .3: the 0.2 is gone. Over .5: 1.0 and
    # 0.6 are two pixels, the lone 0.8 loses. Over .7: 1.0 and 0.8 are one pixel each: the higher peak wins.
    assert boxes.tolist() == [[0, 0, 0.75, 1], [0, 0.25, 0.75, 1], [0.25, 0.25, 0.75, 0.5], [0.25, 0.25, 0.5, 0.5]]


def test_equal_regions_and_equal_peaks_go_to_reading_order():
    heat = np.zeros((3, 5), dtype=np.float32)
    heat[0, 4] = heat[2, 0] = 1
    assert map_boxes(heat, 0.5).tolist() == [[0.8, 0, 1, 1 / 3]]


def test_a_map_without_a_positive_value_has_an_empty_box_and_meets_nothing():
    empty = np.zeros((4, 4), dtype=np.float32)
    assert map_boxes(empty, [0.5]).tolist() == [[0, 0, 0, 0]]
    assert measure(map_boxes(empty, [0.5]), empty, [WHOLE]).tolist() == [[0.0] * len(MEASURES)]


def test_a_constant_map_is_the_whole_film():
    flat = np.ones((4, 4), dtype=np.float32)
    row = measure(map_boxes(flat, 0.5), flat, [(0, 0, 0.5, 0.5)])[0]
    assert value(row, "iou") == value(row, "iobb") == value(row, "energy") == value(row, "hit") == 0.25


def test_a_threshold_is_a_share():
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\), got \[180\.0\]"):
        map_boxes(HEAT_44, 180)


def test_coverage_gives_edge_pixels_their_share():
    # x from 0.5 to 2 pixels of 4, y from 1 to 1.25 pixels of 4.
    share = coverage((0.125, 0.25, 0.5, 0.3125), 4, 4)
    assert share[1].tolist() == [0.125, 0.25, 0, 0]
    assert share.sum() == 0.375


def test_coverage_of_two_boxes_is_their_union():
    assert coverage([(0, 0, 0.5, 1), (0.25, 0, 0.75, 1)], 1, 4).tolist() == [[1, 1, 1, 0]]


def test_inside_asks_for_the_centre_of_the_pixel():
    assert inside((0.125, 0, 0.625, 1), 1, 4).tolist() == [[True, True, False, False]]
    assert inside([(0, 0, 0.25, 1), (0.75, 0, 1, 1)], 1, 4).tolist() == [[True, False, False, True]]


def test_the_pointing_game_shares_a_tie():
    row = np.array([[0.1, 0.9, 0.2, 0.9]], dtype=np.float32)
    assert hit(row, np.array([[True, False, True, False]])) == 0.0
    assert hit(row, np.array([[False, True, False, False]])) == 0.5
    assert hit(row, np.array([[False, True, False, True]])) == 1.0


def test_energy_inside_is_a_share_of_the_sum():
    # 3.0 in all; the box covers the pixels 1.0 and 0.6 and half of 0.4: (1.0 + 0.6 + 0.2) / 3.0.
    assert energy(HEAT_44, coverage((0.25, 0.25, 0.75, 0.625), 4, 4)) == pytest.approx(1.8 / 3.0, abs=1e-7)


def test_overlaps_take_the_annotated_box_that_is_met_best():
    boxes = [(0, 0, 0.2, 0.2), (0.4, 0.4, 0.8, 0.8)]
    # 0.2 x 0.4 shared with the second; union .16 + .16 - .08.
    iou, iobb = overlaps([(0.6, 0.4, 1.0, 0.8), (0.0, 0.0, 0.1, 0.2)], boxes)
    assert iou == pytest.approx([0.08 / 0.24, 0.5])
    assert iobb == pytest.approx([0.5, 1.0])


def test_accuracies_are_strictly_over_their_levels():
    row = measures([0.3], [0.75], [1.0], [0.4])[0]
    named = dict(zip(MEASURES, row.tolist(), strict=True))
    assert [named[f"iou>{t}"] for t in (0.1, 0.2, 0.3, 0.4, 0.5)] == [1, 1, 0, 0, 0]
    assert [named[f"iobb>{t}"] for t in (0.1, 0.25, 0.5, 0.75, 0.9)] == [1, 1, 1, 0, 0]
    assert (named["iou"], named["iobb"], named["hit"], named["energy"]) == (0.3, 0.75, 1.0, 0.4)


def test_a_map_is_scored_at_each_threshold():
    rows = measure(map_boxes(HEAT_44, [0.0, 0.5]), HEAT_44, [(0.25, 0.25, 0.75, 0.5)])
    # At 0 the box is 12 of 16 pixels and holds the 2 annotated; at .5 it is the annotated box itself.
    assert rows[:, MEASURES.index("iou")] == pytest.approx([2 / 12, 1.0])
    assert rows[:, MEASURES.index("iobb")] == pytest.approx([2 / 12, 1.0])
    assert rows[:, MEASURES.index("energy")] == pytest.approx([1.6 / 3.0] * 2)


def test_boxes_of_whole_cells():
    boxes = grid_boxes((1, 2), (0.5, 0.0, 1.0, 1.0))
    assert sorted(boxes.tolist()) == [[0.5, 0, 0.75, 1], [0.5, 0, 1, 1], [0.75, 0, 1, 1]]
    assert len(grid_boxes((7, 7), WHOLE)) == 28 * 28


def test_the_ceiling_is_the_best_box_of_whole_cells():
    # On a 2 x 2 grid the box is a quarter of one cell: IoU 1/4; no cell is inside: IoBB 1/4.
    row = ceiling((0, 0, 0.25, 0.25), (2, 2), WHOLE, size=8)
    assert value(row, "iou") == 0.25
    assert value(row, "iobb") == 0.25
    assert value(row, "hit") == 1.0  # the lone cell is highest on its plateau, up to the film's corner
    # Eight pixels: the first cell's weights are 1, 1, .875, .625, .375, .125, 0, 0 (sum 4); the box holds two.
    assert value(row, "energy") == pytest.approx((2 / 4) ** 2)


def test_the_ceiling_is_reached_by_a_box_on_the_grid():
    row = ceiling((0.25, 0.5, 0.75, 1.0), (4, 4), WHOLE, size=64)
    assert value(row, "iou") == value(row, "iobb") == value(row, "iou>0.5") == value(row, "iobb>0.9") == 1.0


def test_the_ceiling_of_a_crop_that_misses_is_zero():
    assert ceiling((0.0, 0.0, 0.2, 0.2), (4, 4), (0.5, 0.5, 1.0, 1.0), size=32).tolist() == [0.0] * len(MEASURES)


def test_no_map_on_the_grid_passes_the_ceiling():
    from agcxr.inference.maps import place

    rng = np.random.default_rng(0)
    box, frame = (0.3, 0.2, 0.55, 0.6), (0.1, 0.05, 0.9, 0.95)
    top = ceiling(box, (4, 5), frame, size=40)
    heats = place(rng.random((50, 4, 5)) ** 8, np.tile(frame, (50, 1)), 40, 40)
    rows = np.stack([measure(map_boxes(heat, [0.5]), heat, box)[0] for heat in heats])
    for name in ("hit", "energy"):
        assert rows[:, MEASURES.index(name)].max() <= value(top, name) + 1e-6


def test_the_prior_is_the_mean_cover():
    prior = prior_map([(0, 0, 0.5, 1), (0, 0, 1, 0.5)], 2)
    assert prior.tolist() == [[1.0, 0.5], [0.5, 0.0]]
    with pytest.raises(ValueError, match="at least one annotated box"):
        prior_map([], 2)
