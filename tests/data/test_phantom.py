"""Synthetic films: right signs in the right places, the same film from the same generator."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from agcxr.data.anatomy import Thorax
from agcxr.data.canvas import Canvas, ellipse, spline
from agcxr.data.lesions import NODULE_CM
from agcxr.data.phantom import Phantom, draw_patient, film
from agcxr.labels import FINDINGS

SIZE = 192


def make(*findings: str, seed: int = 0, size: int = SIZE, difficulty: float = 0.5) -> Phantom:
    return film(np.random.default_rng(seed), findings, size=size, difficulty=difficulty)


def width_height_cm(made: Phantom, box: tuple[float, float, float, float]) -> tuple[float, float]:
    return (box[2] - box[0]) * made.field_cm, (box[3] - box[1]) * made.field_cm


# Canvas


def test_canvas_puts_a_square_where_it_says() -> None:
    canvas = Canvas(100, field_cm=10.0, centre_cm=(1.0, 0.0))
    mask = canvas.fill(np.array([(1.0, -1.0), (3.0, -1.0), (3.0, 2.0), (1.0, 2.0)]))
    x0, y0, x1, y1 = canvas.bounds(mask > 127) or (0, 0, 0, 0)
    # x: 1 cm is the middle of the film, 3 cm lies 2 of 10 cm to its right. Edges within a pixel.
    np.testing.assert_allclose((x0, y0, x1, y1), (0.5, 0.4, 0.7, 0.7), atol=0.0101)
    assert canvas.bounds(np.zeros((4, 4), bool)) is None


def test_canvas_grid_and_points_agree_when_the_patient_is_tilted() -> None:
    canvas = Canvas(64, field_cm=32.0, centre_cm=(0.7, -1.2), tilt=0.3)
    x_HW, y_HW = canvas.grid
    points = np.stack([x_HW[10, 20], y_HW[10, 20]]).astype(float)
    np.testing.assert_allclose(canvas.to_px(points), (20.5, 10.5), atol=1e-4)


@pytest.mark.parametrize("size", [128, 512])
def test_soften_keeps_the_amount_at_every_width(size: int) -> None:
    canvas = Canvas(size, field_cm=32.0)
    disk = canvas.fill(ellipse((0.0, 0.0), (4.0, 4.0)))
    for sigma in (0.0, 0.2, 3.0):
        assert canvas.soften(disk, sigma).sum() == pytest.approx(disk.sum() / 255, rel=0.02)


def test_spline_goes_through_its_points() -> None:
    points = [(0.0, 0.0), (1.0, 2.0), (3.0, 1.0)]
    curve = spline(points, 4)
    assert len(curve) == 9
    np.testing.assert_allclose(curve[[0, 4, 8]], points)


def test_heart_is_as_wide_as_its_ratio_says() -> None:
    for ratio in (0.4, 0.5, 0.66):
        outline = Thorax(half_width=13.0, heart_ratio=ratio, turn=0.4).heart()
        assert np.ptp(outline[:, 0]) == pytest.approx(26.0 * ratio)


# Films


def test_a_film_is_gray_and_looks_exposed() -> None:
    made = make(size=256)
    assert made.pixels_HW.shape == (256, 256)
    assert made.pixels_HW.dtype == np.uint8
    assert made.findings == ()
    assert made.boxes == ()
    assert np.percentile(made.pixels_HW, 1) < 70 < 150 < np.percentile(made.pixels_HW, 90)


@pytest.mark.parametrize("finding", FINDINGS)
def test_every_finding_changes_the_film_where_its_box_is(finding: str) -> None:
    normal, ill = make(seed=3), make(finding, seed=3)
    assert {lesion.finding for lesion in ill.lesions} == {finding}
    difference = np.abs(ill.pixels_HW.astype(int) - normal.pixels_HW)
    for lesion in ill.lesions:
        x0, y0, x1, y1 = (edge * SIZE for edge in lesion.box)
        assert 0 <= x0 < x1 <= SIZE
        assert 0 <= y0 < y1 <= SIZE
        inside = difference[int(y0) : int(y1), int(x0) : int(x1)]
        assert inside.mean() > 1.5
        assert lesion.diameter_cm > 0.5


@pytest.mark.parametrize("seed", range(6))
def test_sizes_are_those_of_real_lesions(seed: int) -> None:
    nodule, mass = make("Nodule", seed=seed), make("Mass", seed=seed)
    for lesion in nodule.lesions:
        assert 1 <= lesion.diameter_cm <= 3
        assert 0.7 < max(width_height_cm(nodule, lesion.box)) < 3.6
    (lesion,) = mass.lesions
    assert lesion.diameter_cm > 3
    assert max(width_height_cm(mass, lesion.box)) > 2.7
    (heart,) = make("Cardiomegaly", seed=seed).lesions
    assert heart.diameter_cm > 10


def test_a_nodule_is_brighter_than_what_is_around_it() -> None:
    for seed in range(6):
        normal, ill = make(seed=seed, size=256), make("Nodule", seed=seed, size=256)
        for lesion in ill.lesions:
            x0, y0, x1, y1 = (round(edge * 256) for edge in lesion.box)
            rows = slice((2 * y0 + y1) // 3, (y0 + 2 * y1) // 3 + 1)
            columns = slice((2 * x0 + x1) // 3, (x0 + 2 * x1) // 3 + 1)
            core = rows, columns
            assert ill.pixels_HW[core].mean() - normal.pixels_HW[core].mean() > 8


def test_signs_lie_where_they_belong() -> None:
    for seed in range(5):
        for lesion in make("Pneumothorax", seed=seed).lesions:
            assert lesion.box[1] < 0.35  # air rises to the apex
        for lesion in make("Effusion", seed=seed).lesions:
            assert lesion.box[3] > 0.65  # fluid sinks into the angle
        (hernia,) = make("Hernia", seed=seed).lesions
        assert 0.3 < (hernia.box[0] + hernia.box[2]) / 2 < 0.75
        assert hernia.box[1] > 0.45
        assert len(make("Edema", seed=seed).lesions) == 2


def test_findings_come_in_label_order_and_combine() -> None:
    made = make("Effusion", "Cardiomegaly", "Edema", "No Finding")
    assert made.findings == ("Cardiomegaly", "Effusion", "Edema")
    assert {lesion.finding for lesion in made.lesions} == set(made.findings)
    assert {lesion.finding for lesion in make(*FINDINGS, seed=1).lesions} == set(FINDINGS)


def test_same_generator_same_film_and_every_size_the_same_anatomy() -> None:
    small, again, large = make(*FINDINGS[4:6]), make(*FINDINGS[4:6]), make(*FINDINGS[4:6], size=384)
    np.testing.assert_array_equal(small.pixels_HW, again.pixels_HW)
    assert not np.array_equal(small.pixels_HW, make(*FINDINGS[4:6], seed=1).pixels_HW)
    np.testing.assert_allclose([x.box for x in small.lesions], [x.box for x in large.lesions], atol=1.5 / SIZE)
    reduced = cv2.resize(large.pixels_HW, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    assert np.abs(reduced.astype(int) - small.pixels_HW).mean() < 6


def test_lesions_of_a_patient_keep_their_place() -> None:
    patient = draw_patient(np.random.default_rng(7))
    films = [film(np.random.default_rng(seed), ["Mass"], size=SIZE, patient=patient) for seed in range(4)]
    centres = np.array([[(m.lesions[0].box[0] + m.lesions[0].box[2]) / 2, m.lesions[0].box[1]] for m in films])
    assert np.ptp(centres, axis=0).max() < 0.2
    assert len({m.pixels_HW.tobytes() for m in films}) == 4


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("others", [(), ("Emphysema", "Mass"), ("Cardiomegaly", "Atelectasis")])
def test_places_are_the_same_with_and_without_nodules(seed: int, others: tuple[str, ...]) -> None:
    """So nothing that is cut out at a place can tell by where or how large it is whether there is a nodule."""
    without, nodules = make(*others, seed=seed), make("Nodule", *others, seed=seed)
    assert without.places == nodules.places
    assert 1 <= len(nodules.places) <= 2
    assert nodules.places == tuple(lesion for lesion in nodules.lesions if lesion.finding == "Nodule")
    assert not any(lesion.finding == "Nodule" for lesion in without.lesions)


def test_nodules_can_be_small() -> None:
    usual, small = (
        [place for seed in range(12) for place in film(np.random.default_rng(seed), [], size=SIZE, nodules=size).places]
        for size in ("usual", "small")
    )
    low, high = NODULE_CM["small"]
    assert all(low <= place.diameter_cm <= high < 3 for place in small)
    assert all(1 <= place.diameter_cm <= 3 for place in usual)


def test_difficulty_makes_signs_fainter() -> None:
    def seen(difficulty: float) -> float:
        change = make("Mass", seed=2, difficulty=difficulty).pixels_HW.astype(int) - make(seed=2).pixels_HW
        return float(np.abs(change).mean())

    assert seen(0.0) > seen(0.5) > seen(1.0) > 0


def test_bad_arguments_are_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown finding 'Flu'; expected any of Atelectasis"):
        film(rng, ["Flu"])
    with pytest.raises(ValueError, match="size 20 is too small to show a chest; expected at least 64"):
        film(rng, [], size=20)
    with pytest.raises(ValueError, match="difficulty 3 is outside 0"):
        film(rng, [], difficulty=3)
