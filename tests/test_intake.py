from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from agcxr import intake
from agcxr.data.phantom import film as phantom
from agcxr.data.radiograph import Radiograph, from_array, read_radiograph
from agcxr.intake import (
    ANGLES_A,
    KINDS,
    TEXTURE,
    WAYS,
    Intake,
    Tilt,
    angles,
    coefficients,
    grid_copy,
    judge,
    measure_pixels,
    tilt_of,
    ways,
)

NIH = Path(__file__).parents[2] / "shared" / "nih" / "images"


@pytest.fixture(scope="module")
def chest() -> np.ndarray:
    """A synthetic chest film: nothing was fitted on any of them."""
    return phantom(np.random.default_rng(0), ["Nodule"], size=512).pixels_HW


def asked(pixels: np.ndarray, **facts: object) -> Intake:
    return judge(replace(from_array(np.ascontiguousarray(pixels)), **facts))


def test_a_film_is_accepted_without_a_word(chest):
    assert asked(chest) == Intake("accept", ())
    assert asked(chest.astype(np.uint16) * 257) == Intake("accept", ())
    assert asked(cv2.resize(chest, (1024, 900))).decision == "accept"


def test_phantoms_are_films():
    made = [phantom(np.random.default_rng(seed), [], size=256).pixels_HW for seed in range(1, 9)]
    assert [asked(one).decision for one in made] == ["accept"] * len(made)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_turned_films_are_refused_and_the_cure_is_right(chest, turns):
    """The reason names the turn that puts the film right; turning it so does."""
    found = asked(np.rot90(chest, turns))
    assert found.decision == "refuse"
    assert found.reasons == (WAYS[4 - turns],)
    assert asked(np.rot90(np.rot90(chest, turns), 4 - turns)).decision == "accept"


def test_the_words_of_the_turns():
    assert WAYS[1].endswith("to the left")
    assert WAYS[3].endswith("to the right")
    lies = np.zeros((2, 2))
    lies[0, 1] = 1  # top right; turned to the left it is top left
    assert ways(lies)[1].tolist() == [[1, 0], [0, 0]]
    assert np.array_equal(ways(lies)[4:], -ways(lies)[:4])


def tilted(chest: np.ndarray, degrees: float) -> np.ndarray:
    """To the left within its frame, on black."""
    turn = cv2.getRotationMatrix2D((255.5, 255.5), degrees, 1)
    return cv2.warpAffine(chest, turn, (512, 512))


@pytest.mark.parametrize(("degrees", "side"), [(35, "left"), (-35, "right"), (43, "left")])
def test_tilted_films_are_refused_with_the_angle(chest, degrees, side):
    found = asked(tilted(chest, degrees))
    assert found.decision == "refuse"
    said = re.fullmatch(r"it looks turned by about (\d+) degrees to the (left|right): turn it upright", *found.reasons)
    assert said
    assert said[2] == side
    assert abs(int(said[1]) - abs(degrees)) <= 8


def test_a_small_tilt_is_no_matter_a_larger_one_is_warned_of(chest):
    assert asked(tilted(chest, 4)) == Intake("accept")
    found = asked(tilted(chest, 19))
    assert found.decision == "warn"
    assert found.reasons[0].startswith("it looks turned by about ")


def test_an_inverted_film_that_leans_is_both(chest):
    found = asked(255 - tilted(chest, 35))
    assert found.decision == "refuse"
    assert "degrees to the left" in found.reasons[0]
    assert found.reasons[1:] == (WAYS[4],)


def test_angles_go_round_with_the_film(chest):
    """Turned by 90 degrees, the probabilities move by 12 angles of 7.5; its negative has the same."""
    small = cv2.resize(chest, (TEXTURE, TEXTURE), interpolation=cv2.INTER_AREA)
    numbers = coefficients()
    angle_A = angles(small, numbers)
    assert angle_A.sum() == pytest.approx(1)
    assert abs(ANGLES_A[angle_A.argmax()]) <= 7.5
    assert angles(np.rot90(small), numbers) == pytest.approx(np.roll(angle_A, 12), abs=1e-3)
    assert angles(255 - small, numbers) == pytest.approx(angle_A, abs=1e-4)


def test_what_is_no_film_when_put_straight_is_not_called_tilted():
    stripes = (127 + 127 * np.sin(np.add(*np.mgrid[:512, :512]) / 9)).astype(np.uint8)
    assert measure_pixels(stripes, coefficients()).tilt is None


def test_tilt_is_the_mean_about_the_best_angle():
    angle_A = np.zeros(len(ANGLES_A))
    angle_A[ANGLES_A == 0], angle_A[ANGLES_A == 30], angle_A[ANGLES_A == 22.5] = 0.5, 0.3, 0.1
    angle_A[ANGLES_A == -15] = 0.1
    assert tilt_of(angle_A) == Tilt(pytest.approx(28.125), pytest.approx(0.5), pytest.approx(0.4))
    angle_A[:] = 0
    angle_A[0], angle_A[ANGLES_A == -165] = 0.4, 0.6
    assert tilt_of(angle_A) == Tilt(pytest.approx(-165), pytest.approx(0.6), 0)


def test_inverted_films_are_refused(chest):
    assert asked(255 - chest) == Intake("refuse", (WAYS[4],))
    assert asked(np.rot90(255 - chest, 2)).reasons == (WAYS[6],)


def test_a_part_of_a_film_is_warned_of(chest):
    found = asked(chest[256:, :256])
    assert found.decision != "accept"
    small = np.zeros_like(chest)
    small[:200, :200] = cv2.resize(chest, (200, 200), interpolation=cv2.INTER_AREA)
    assert asked(small).decision != "accept"


def test_noise_documents_and_patterns_are_refused():
    generator = np.random.default_rng(0)
    page = np.full((512, 512), 255, np.uint8)
    for row in range(40, 500, 24):
        cv2.putText(page, "the quick brown fox jumps over the lazy dog", (20, row), 0, 0.6, 0, 1)
    y, x = np.mgrid[:512, :512]
    stripes = (127 + 127 * np.sin(x / 5 + y / 9)).astype(np.uint8)
    for picture in (generator.integers(0, 256, (512, 512), np.uint8), page, stripes):
        assert asked(picture) == Intake(
            "refuse", ("it does not look like a chest film (a picture of something else?)",)
        )


def test_colour(chest):
    noted = asked(chest, notes=("colour -> luminance",))
    assert noted == Intake("warn", ("it is a colour picture; radiographs are gray",))
    assert asked(chest, notes=("three equal channels -> gray",)).decision == "accept"


def test_a_gray_jpeg_of_three_channels_is_no_colour_picture(chest):
    gray = read_radiograph(cv2.imencode(".jpg", cv2.cvtColor(chest, cv2.COLOR_GRAY2BGR))[1].tobytes())
    assert gray.notes == ("three equal channels -> gray",)
    tinted = cv2.applyColorMap(chest, cv2.COLORMAP_HOT)
    assert read_radiograph(cv2.imencode(".jpg", tinted)[1].tobytes()).notes == ("colour -> luminance",)


@pytest.mark.parametrize(
    ("pixels", "decision", "reason"),
    [
        (np.zeros((512, 512), np.uint8), "refuse", "it has almost no contrast: 0 of 256 gray levels are in use"),
        (np.full((40, 40), 9, np.uint8), "refuse", "it is small: 40 x 40 pixels"),
        (np.tile(np.arange(256, dtype=np.uint8), (100, 4)), "refuse", "its shape, 1024 x 100 pixels, is not that of"),
    ],
)
def test_plain_reasons(pixels, decision, reason):
    found = asked(pixels)
    assert found.decision == decision
    assert any(one.startswith(reason) for one in found.reasons)


def test_small_faint_and_long_films_are_warned_of(chest):
    assert (
        asked(cv2.resize(chest, (128, 128), interpolation=cv2.INTER_AREA)).reasons[0] == "it is small: 128 x 128 pixels"
    )
    faint = (100 + chest / 255 * 30).astype(np.uint8)
    assert "almost no contrast" in asked(faint).reasons[0]
    assert asked(faint).decision == "warn"
    assert asked(cv2.resize(chest, (900, 500))).decision == "warn"


@pytest.mark.parametrize("position", ["LATERAL", "LAT", "LL", "rl ", "LLO"])
def test_lateral_views_are_known_by_their_tag(chest, position):
    found = asked(chest, view_position=position)
    assert found.decision == "refuse"
    assert "lateral view" in found.reasons[0]
    assert asked(chest, view_position="PA").decision == "accept"


@pytest.mark.parametrize(
    ("part", "decision"),
    [
        *((part, "accept") for part in (None, "", " ", "CHEST", "thorax", "CHEST PA")),
        *((part, "warn") for part in ("RIB", "CHESTABDOMEN", "UNKNOWN")),
        *((part, "refuse") for part in ("KNEE", "ABDOMEN", "lt hand ")),
    ],
)
def test_the_body_part_that_a_file_states(chest, part, decision):
    found = asked(chest, body_part=part)
    words = f"its file states the body part {(part or '').strip().upper()}; films of the chest are expected"
    assert found == Intake(decision, () if decision == "accept" else (words,))


def test_two_opinions():
    warn, refuse = Intake("warn", ("a", "b")), Intake("refuse", ("b", "c"))
    assert warn & refuse == Intake("refuse", ("a", "b", "c"))
    assert refuse & Intake("accept") == refuse
    assert Intake("accept") & Intake("accept") == Intake("accept")


def test_probabilities_and_the_copy(chest):
    found = measure_pixels(chest, coefficients())
    assert found.kind_C.shape == (len(KINDS),)
    assert found.way_V.sum() == pytest.approx(1)
    assert found.kind_C.sum() == pytest.approx(1)
    copy = grid_copy(chest)
    assert copy.mean() == pytest.approx(0, abs=1e-9)
    assert copy.std() == pytest.approx(1, abs=1e-3)
    # Held another way, a film is the same kind of picture in another way to hold it.
    turned = measure_pixels(np.ascontiguousarray(np.rot90(chest)), coefficients())
    assert turned.way_V[[3, 0, 1, 2]] == pytest.approx(found.way_V[:4], abs=1e-3)
    assert int(turned.kind_C.argmax()) == 0


@pytest.mark.parametrize("shape", [(1024, 1024), (240, 480), (901, 777), (25, 24), (24, 24), (20, 300), (2500, 2048)])
def test_means_of_cells_are_opencv_s(shape):
    """Noise, in which a cell lies midway between two levels as often as it can."""
    pixels = np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)
    expected = cv2.resize(pixels, (24, 24), interpolation=cv2.INTER_AREA).astype(np.float64)
    off = np.abs(intake.means(pixels, 24) - expected)
    assert off.max() <= 1
    assert (off > 0).mean() <= 0.002
    texture = cv2.resize(pixels, (TEXTURE, TEXTURE), interpolation=cv2.INTER_AREA)
    off = np.abs(intake.small(pixels).astype(int) - texture)
    assert off.max() <= 1
    assert (off > 0).mean() <= 0.01  # some pixels make a cell here, so that more lie midway
    dark, bright = (intake.means(np.full(shape, level, np.uint8), 24) for level in (0, 255))
    assert (dark == 0).all()
    assert (bright == 255).all()


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (64, 64), (301, 7)])
def test_percentiles_are_numpy_s(shape):
    pixels = np.random.default_rng(sum(shape)).integers(0, 256, shape, np.uint8)
    expected = np.percentile(pixels, [0, 2, 50, 98, 100])
    assert intake._percentiles(pixels, [0, 0.02, 0.5, 0.98, 1]) == pytest.approx(expected, abs=1e-9)


def test_means_of_a_film_too_large_for_the_table_of_sums(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (100, 90), np.uint8)
    expected = intake.means(pixels, 24)
    monkeypatch.setattr(intake, "LARGEST_SUM", 255 * pixels.size)
    np.testing.assert_array_equal(intake.means(pixels, 24), expected)  # the largest that fits
    monkeypatch.setattr(intake, "LARGEST_SUM", 255 * pixels.size - 1)
    monkeypatch.setattr(cv2, "integral", None)
    assert np.abs(intake.means(pixels, 24) - expected).max() <= 1


def test_odd_pictures_never_raise():
    generator = np.random.default_rng(0)
    for shape in [(1, 1), (1, 500), (65, 64), (2000, 70)]:
        for pixels in (np.zeros(shape, np.uint8), generator.integers(0, 65536, shape, np.uint16)):
            assert judge(Radiograph(pixels, "odd", "array")).decision in ("warn", "refuse")


def test_the_numbers_say_what_made_them():
    data = json.loads(Path(intake.__file__).with_suffix(".json").read_text(encoding="utf-8"))
    assert data["made_by"] == "python benchmarks/refusal_fit.py"
    numbers = coefficients()
    flat = numbers.components_KGG.reshape(len(numbers.variances_K), -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(len(flat)), atol=0.02)


@pytest.mark.skipif(not NIH.is_dir(), reason="the real films (../shared/nih) are not here")
def test_real_films():
    upright = ["00000013_005", "00000061_002", "00000061_019"]
    names = [one for one in sorted(NIH.glob("*.jpg")) if one.stem in upright] or sorted(NIH.glob("*.jpg"))[:3]
    assert [judge(read_radiograph(one)).decision for one in names] == ["accept"] * len(names)
    found = judge(read_radiograph(NIH / "00001880_006.jpg"))  # the NIH stores it on its side
    assert found == Intake("refuse", (WAYS[3],))
