from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image, ImageDraw

from agcxr.calibration import OperatingPoints
from agcxr.inference import explain
from agcxr.inference.explain import TEXT, WIDTH, _lines, _Row, _rows, picture, save_picture
from agcxr.inference.overlay import ACCENT, FAINTEST, WARNING, draw_box, draw_boxes, heaviest_first, overlay
from agcxr.intake import Intake
from agcxr.labels import LABELS, NO_FINDING
from agcxr.notices import RESEARCH_ONLY
from inference.make import film, prediction


def has(image, colour):
    return bool((np.asarray(image) == colour).all(-1).any())


def test_overlay_leaves_the_film_where_there_is_no_heat_and_colours_it_where_there_is():
    gray = np.full((4, 6), 100, np.uint8)
    heat = np.zeros((4, 6), np.float32)
    heat[1, 2] = 1
    out = overlay(gray, heat)
    assert out.shape == (4, 6, 3)
    assert out.dtype == np.uint8
    assert out[1, 2, 0] > out[1, 2, 2] + 20  # warm
    out[1, 2] = 100
    assert (out == 100).all()


def test_overlay_wants_film_and_heat_of_one_shape():
    with pytest.raises(ValueError, match=r"film is \(4, 6\) and heat \(6, 4\); make the heat with heat_in_original"):
        overlay(np.zeros((4, 6), np.uint8), np.zeros((6, 4), np.float32))


def test_box_is_drawn_just_inside_its_edges():
    out = draw_box(np.full((20, 20), 9, np.uint8), (5, 6, 15, 16), width=1)
    accent = (out == ACCENT).all(-1)
    rows, columns = np.nonzero(accent)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (5, 6, 15, 16)
    assert not accent[7:15, 6:14].any()


BOXES = ((10.0, 30.0, 50.0, 60.0), (60.0, 30.0, 100.0, 60.0), (110.0, 30.0, 150.0, 60.0))
WEIGHTS = (0.2, 0.5, 0.3)


def test_the_heaviest_box_is_solid_and_the_others_fainter_by_their_weight():
    ground = 9
    out = draw_boxes(np.full((80, 160), ground, np.uint8), BOXES, WEIGHTS, width=1)
    accent = np.array(ACCENT)
    for (x0, _, _, y1), weight in zip(BOXES, WEIGHTS, strict=True):
        opacity = FAINTEST + (1 - FAINTEST) * weight / 0.5
        inside = out[int(y1) - 1, int(x0) + 20]  # on the lower edge, away from the letters
        np.testing.assert_allclose(inside, ground + opacity * (accent - ground), atol=1)
    assert (out[59, 80] == ACCENT).all()


def test_one_box_is_drawn_as_it_was():
    image = film(60, 80)
    assert np.array_equal(draw_boxes(image, BOXES[:1], (1.0,), 2), draw_box(image, BOXES[0], ACCENT, 2))


def test_boxes_of_one_weight_are_all_solid_and_the_heaviest_lies_on_top():
    image = np.zeros((80, 160), np.uint8)
    even = draw_boxes(image, BOXES, (1 / 3,) * 3, width=1)
    assert all((even[59, int(box[0]) + 20] == ACCENT).all() for box in BOXES)
    crossing = ((20.0, 30.0, 60.0, 60.0), (40.0, 30.0, 80.0, 60.0))
    for weights in ((0.9, 0.1), (0.1, 0.9)):
        heavy = crossing[int(np.argmax(weights))]
        rows = draw_boxes(image, crossing, weights, width=1)[59, int(heavy[0]) : int(heavy[2])]
        assert (rows == ACCENT).all()
    assert heaviest_first((0.2, 0.4, 0.4)) == [1, 2, 0]


def several(count, side=10):
    """A prediction of boxes in rows of four; the later, the heavier."""
    boxes = tuple((float(x), float(y), float(x + side), float(y + side)) for y in (4, 18, 32) for x in (0, 12, 24, 36))
    weights = np.arange(1, count + 1) / sum(range(1, count + 1))
    return prediction(box=boxes[0], boxes=boxes[:count], weights=tuple(map(float, weights)))


@pytest.mark.parametrize(("count", "shown"), [(2, (2, 1)), (3, (3, 2, 1)), (12, (12, 11, 10, 9, 8, 7, 6, 5, 4))])
def test_a_picture_states_and_shows_the_heaviest_boxes(count, shown, monkeypatch):
    words = []
    monkeypatch.setattr(explain, "_text", lambda draw, at, text, *rest, **more: words.append((text, at)))
    given = several(count)
    x, y, side, _ = explain._layout(given, 0).crop
    pixels = np.asarray(picture(given))[y : y + side, x : x + side]
    lettered = [f"{n} · {given.weights[n - 1]:.0%}" for n in shown]
    in_panel = [text for text, at in words if x <= at[0] < x + side and y <= at[1] < y + side]
    assert in_panel == lettered
    first = next(at for text, at in words if text == lettered[0])
    assert (pixels[first[1] - y + 7, first[0] - x] == ACCENT).all()  # its crop begins below its letters
    texts = [text for text, _ in words]
    assert [texts.count(label) for label in lettered] == [2] * len(shown)  # at the crop and among the facts
    x0, y0, x1, y1 = given.boxes[shown[0] - 1]
    assert f"{x0:.0f} to {x1:.0f} across, {y0:.0f} to {y1:.0f} down" in texts
    most = ", the 9 heaviest of 12" if count == 12 else ""
    assert f"Attended regions{most}, in pixels of the film" in texts
    assert "cut from the film; the branch sees each stretched to 32 x 32 px" in texts


def test_crops_of_several_boxes_are_those_parts_of_the_film():
    image = np.zeros((60, 50), np.uint8)
    boxes = ((0.0, 4.0, 10.0, 14.0), (12.0, 4.0, 22.0, 14.0))
    image[4:14, 0:10], image[4:14, 12:22] = 90, 180
    given = prediction(box=boxes[0], boxes=boxes, weights=(0.5, 0.5), film_HW=image)
    x, y, side, _ = explain._layout(given, 0).crop
    pixels = np.asarray(picture(given))[y : y + side, x : x + side]
    columns = [np.flatnonzero((pixels == value).all(-1).any(0)) for value in (90, 180)]
    assert columns[0].max() < side // 2 < columns[1].min()
    assert all(len(column) > side // 2 - 60 for column in columns)


def test_boxes_at_and_beyond_the_edges_of_the_film():
    boxes = ((-3.0, -2.0, 7.0, 8.0), (45.0, 55.0, 55.0, 65.0), (49.9, 59.9, 50.0, 60.0))
    assert picture(prediction(box=boxes[0], boxes=boxes, weights=(0.6, 0.3, 0.1))).width == WIDTH


@pytest.mark.parametrize(("height", "width"), [(60, 50), (300, 40), (40, 300), (1, 500), (2000, 1500)])
def test_picture_of_any_aspect(height, width):
    window = (width / 16, height / 16, width * 15 / 16, height * 15 / 16)
    box = (width / 4, height / 4, width / 2, height / 2)
    given = prediction(height=height, width=width, window=window, box=box, film_HW=film(height, width))
    image = picture(given)
    assert image.width == WIDTH
    assert 600 < image.height < 1300
    assert has(image, ACCENT)


def test_the_view_is_outlined_where_it_is_not_the_whole_film():
    given = prediction(film_HW=np.full((60, 50), 9, np.uint8), heat_HW=np.zeros((8, 8), np.float32))
    pixels = np.asarray(picture(given))[:, : WIDTH // 3]
    rows, columns = np.nonzero((pixels == TEXT).all(-1)[100:600])  # below the head, above the captions
    x0, y0, wide, high = explain._layout(given, 0).film
    scale = min(wide / 50, high / 60)
    left = x0 + (wide - round(50 * scale)) // 2
    assert columns.min() == left + round(3 * scale)
    assert columns.max() == left + round(47 * scale) - 1
    assert rows.min() + 100 == y0 + (high - round(60 * scale)) // 2 + round(4 * scale)


@pytest.mark.parametrize(("box", "shape"), [((10, 10, 30, 50), "tall"), ((5, 20, 45, 30), "wide")])
def test_the_crop_keeps_the_shape_of_the_box(box, shape, monkeypatch):
    drawn = []
    monkeypatch.setattr(explain, "_text", lambda draw, at, text, *rest, **more: drawn.append(text))
    given = prediction(box=tuple(map(float, box)), crop_HW=np.full((32, 32), 200, np.uint8))
    x, y, side, _ = explain._layout(given, 0).crop
    cell = np.asarray(picture(given))[y : y + side, x : x + side]
    rows, columns = np.nonzero((cell == 200).all(-1))
    high, wide = rows.max() - rows.min() + 7, columns.max() - columns.min() + 7  # with the box drawn on its edge
    aspect = (box[2] - box[0]) / (box[3] - box[1])
    assert wide / high == pytest.approx(aspect, rel=0.02)
    assert "shown in its own shape; the branch sees it stretched to 32 x 32 px" in drawn


def test_labels_that_are_known_are_marked(monkeypatch):
    dots, words = [], []
    monkeypatch.setattr(explain, "_dot", lambda draw, x, base: dots.append(base))
    monkeypatch.setattr(explain, "_text", lambda draw, at, text, *rest, **more: words.append((text, at)))
    picture(prediction(), truth=["Mass", "Hernia"])
    bases = {text: at[1] for text, at in words}
    assert sorted(dots) == sorted([bases["in the film's labels"], bases["Mass"], bases["Hernia"]])
    dots.clear()
    picture(prediction(), truth=[])
    assert len(dots) == 1  # the labels are known, and state nothing: the legend alone
    dots.clear()
    picture(prediction())
    assert not dots


def test_a_threshold_hides_nothing_of_the_bar():
    image = Image.new("RGB", (220, 40))
    explain._bar(ImageDraw.Draw(image), (10, 210, 30), _Row("Mass", 0.51, 0.5, True, True), ACCENT)
    bar = (np.asarray(image)[22] == ACCENT).all(-1)
    assert np.flatnonzero(bar).tolist() == list(range(10, 113))  # 51 % of 200 pixels, unbroken
    ticks = (np.asarray(image)[:, 110] == TEXT).all(-1)
    assert np.flatnonzero(ticks).tolist() == [13, 14, 15, 16, 17, 28, 29, 30, 31, 32]


def test_fallback_is_stated():
    assert has(picture(prediction(fallback=True)), WARNING)
    assert not has(picture(prediction()), WARNING)


def test_of_a_refused_film_there_is_the_reason_and_nothing_that_the_model_says():
    reason = "it is upside down: turn it by 180 degrees; " * 6
    given = prediction(intake=Intake("refuse", (reason,)))
    image = picture(given)
    assert has(image, WARNING)
    assert not has(image, ACCENT)  # no box, no bar
    other = prediction(intake=given.intake, fusion_K=given.fusion_K / 2, box=(0, 0, 5, 5), crop_HW=film(9, 9))
    assert picture(other).tobytes() == image.tobytes()
    assert picture(prediction(intake=Intake("refuse", ("it is small",)))).tobytes() != image.tobytes()
    assert has(picture(prediction(intake=Intake("warn", (reason,)))), ACCENT)


def test_long_words_are_broken_into_lines():
    draw = ImageDraw.Draw(Image.new("RGB", (400, 40)))
    lines = _lines(draw, "one two three four " + "x" * 90 + " five", 20, 120)
    assert " ".join(lines) == "one two three four " + "x" * 90 + " five"
    assert [len(line.split()) > 1 for line in lines] == [True, True, False, False]


@pytest.mark.parametrize(("fitted", "title"), [(False, "Probability, uncalibrated"), (True, "Calibrated probability")])
def test_the_title_says_whether_any_finding_is_calibrated(fitted, title, monkeypatch):
    said = []
    monkeypatch.setattr(explain, "_text", lambda draw, at, text, *rest, **more: said.append(text))
    threshold = np.where(np.arange(15) == 3, 0.5, np.nan) if fitted else np.full(15, np.nan)
    cut = OperatingPoints("youden", threshold, threshold, np.isfinite(threshold))
    picture(prediction(calibrated_K=np.full(15, 0.5, np.float32), cut=cut))
    assert (f"{title}; | threshold: Youden's point" if fitted else title) in said
    assert ("raw" in said) == fitted


def test_a_film_has_to_be_there():
    with pytest.raises(ValueError, match="kept no film; pass film_HW="):
        picture(prediction(film_HW=None))
    assert picture(prediction(film_HW=None), film(600, 500)).width == WIDTH


def test_odd_names_are_drawn():
    for name in ("", "a" * 300, "Снимок ☢ 写真\n.png", "\udcff.png", "C:\\films\\a.png"):
        assert picture(prediction(name=name)).width == WIDTH


def test_saved_picture_says_what_it_is_for(tmp_path):
    path = save_picture(prediction(), tmp_path / "new" / "a.png")
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.text["Description"] == RESEARCH_ONLY
        assert image.text["Software"].startswith("agcxr ")
        assert datetime.fromisoformat(image.text["Creation Time"]).tzinfo is not None
        assert image.text["Operating point"] == "none, so nothing is called"
        assert not {"Model", "Warning"} & set(image.text)


def test_saved_picture_says_which_model_and_what_is_doubtful(tmp_path):
    given = prediction(model="0.1.0+abc", intake=Intake("warn", ("it is small", "it is faint")))
    with Image.open(save_picture(given, tmp_path / "a.png")) as image:
        assert (image.text["Model"], image.text["Warning"]) == ("0.1.0+abc", "it is small; it is faint")


def test_called_findings_are_never_left_out():
    labels, p = tuple(f"Label {k}" for k in range(40)), np.linspace(0.1, 1, 40, dtype=np.float32)
    threshold = np.where(np.arange(40) < 3, 2.0, 0.05)  # all but three are called
    cut = OperatingPoints("youden", threshold, threshold, np.ones(40, bool))
    given = prediction(labels=labels, global_K=p, local_K=p, fusion_K=p, cut=cut)
    assert {row.finding for row in _rows(given)} == set(labels[3:])


@pytest.mark.parametrize("count", [1, 15, 40])
def test_all_labels_are_drawn_with_model_point_and_time(count, monkeypatch):
    drawn = []
    monkeypatch.setattr(explain, "_text", lambda draw, at, text, *rest, **more: drawn.append((text, at)))
    labels, p = tuple(f"Label {k}" for k in range(count)), np.linspace(0, 1, count, dtype=np.float32)
    given = prediction(labels=labels, global_K=p, local_K=p, fusion_K=p, model="0.1.0+abc")
    image = picture(given, time=datetime(2026, 3, 4, 5, 6, tzinfo=UTC))
    places, shown = dict(drawn), set(labels[-explain.MOST_ROWS :])  # those of the highest scores
    assert set(labels) & set(places) == shown
    left = "and 10 more, none of them called; the table and the API hold all"
    assert (left in places) == (count == 40)
    foot = "Model: agcxr 0.1.0+abc · Operating point: none, so nothing is called · 2026-03-04 05:06 UTC+00:00"
    assert max(places[label][1] for label in shown) + 20 < places[foot][1] < image.height


def test_a_warning_stands_above_the_film_and_hides_nothing():
    plain = np.asarray(picture(prediction()))
    warned = np.asarray(picture(prediction(intake=Intake("warn", ("it is small", "a long reason " * 30)))))
    more = len(warned) - len(plain)
    assert more > 3 * 25
    assert np.array_equal(warned[92 + more :], plain[92:])
    assert (warned[84 : 92 + more] == WARNING).all(-1).any()
    assert not (plain == WARNING).all(-1).any()


def test_threads_draw_the_same_pictures():
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda _: picture(prediction()).tobytes(), range(8)))
    assert set(images) == {picture(prediction()).tobytes()}


def test_called_findings_come_first_with_their_threshold():
    calibrated = np.full(len(LABELS), 0.5, np.float32)
    calibrated[LABELS.index("Hernia")] = 0.125
    calibrated[0] = 0.75
    fitted = np.arange(15) > 0
    score = np.where(fitted, 0.95, np.nan)
    score[LABELS.index("Hernia")] = 0.25
    cut = OperatingPoints("youden", score, np.where(fitted, 0.0625, np.nan), fitted)
    given = prediction(calibrated_K=calibrated, cut=cut)
    rows = _rows(given)
    # Hernia is called; Atelectasis, too rare to calibrate, has the longest bar and still comes behind the others
    assert [row.finding for row in rows[:2]] == ["Hernia", "Cardiomegaly"]
    assert rows[0] == _Row("Hernia", 0.125, 0.0625, True, True)
    assert (rows[1].called, rows[1].fitted) == (False, True)
    assert [row.finding for row in rows[-2:]] == ["Atelectasis", NO_FINDING]
    assert len(rows) == len(LABELS)
    drawn, plain = (np.asarray(picture(one)) for one in (given, prediction()))
    assert drawn.shape == plain.shape
    assert [row.bar for row in _rows(prediction())][:14] == sorted(prediction().fusion_K[:14], reverse=True)
    assert all(np.isnan(row.threshold) and row.called is None for row in _rows(prediction()))
