"""The page while it waits, where something goes wrong, and where film, zoom and window belong together."""

import json

import cv2
import numpy as np
import pytest

from agcxr.data.phantom import film

from . import make
from .browsing import drop, open_page, shot, wait_for_film

pytestmark = pytest.mark.browser

BUSY = {
    "status": 503,
    "headers": {"retry-after": "1"},
    "json": {"error": {"code": "busy", "message": "the queue is full"}},
}
TOKEN = "a-token-for-the-page"


@pytest.fixture(scope="module")
def checking(model_folder, tmp_path_factory):
    """A server that looks at films before it reads them, and asks for a token."""
    folder = tmp_path_factory.mktemp("checking")
    with make.running(model_folder, folder / "log", options=json.dumps({"token": TOKEN})) as running:
        yield running


def admitted(page):
    """Give the token."""
    page.locator("#token-input").fill(TOKEN)
    page.keyboard.press("Enter")
    page.locator("#example-list button").first.wait_for()
    return page


def chest(size=512, seed=78):
    return film(np.random.default_rng(seed), (), size=size).pixels_HW


def held(page, path):
    """Requests to a path, which stay unanswered until somebody lets them go."""
    requests = []
    page.route(path, lambda route: requests.append(route))
    return requests


def failing_once(page, path, answer):
    page.route(path, lambda route: route.fulfill(**answer), times=1)


def test_a_small_picture_stands_in_until_the_film_has_come(page):
    from playwright.sync_api import expect

    requests = held(page, "**/v1/film")
    drop(page, ("a.png", make.encode(make.pixels(400, 300))))
    expect(page.locator("#depth-text")).to_have_text("Loading full depth …")
    expect(page.locator("#depth-retry")).to_be_hidden()
    page.locator("#heat-on").click()
    page.locator("#box-on").click()
    small = shot(page)
    assert small.std() > 20  # a picture is there, and no black
    page.locator("#zoom-in").click()
    zoom = page.locator("#zoom-value").inner_text()
    requests[0].continue_()
    wait_for_film(page)
    assert page.locator("#zoom-value").inner_text() == zoom
    page.keyboard.press("0")
    assert 0 < np.abs(shot(page) - small).mean() < 12  # the same film, now sharp
    assert page.problems == []


def test_a_film_that_does_not_come_can_be_asked_for_again(page):
    from playwright.sync_api import expect

    failing_once(page, "**/v1/film", {"status": 500, "json": {"error": {"message": "the server failed"}}})
    drop(page, ("a.png", make.encode(make.pixels())))
    expect(page.locator("#depth-text")).to_have_text("Full depth did not come. The server failed.")
    assert page.locator("#depth").evaluate("one => !one.closest('[aria-hidden]')")
    page.get_by_role("button", name="Retry").click()
    wait_for_film(page)
    assert ["500" in problem for problem in page.problems] == [True]


@pytest.mark.parametrize("path", ["**/v1/predict**", "**/v1/film"])
def test_a_busy_server_is_asked_again(page, path):
    from playwright.sync_api import expect

    failing_once(page, path, BUSY)
    drop(page, ("a.png", make.encode(make.pixels())))
    expect(page.get_by_text("The server is busy. Trying again in 1 s.")).to_be_visible()
    wait_for_film(page)
    assert all("503" in problem for problem in page.problems)


def test_another_film_takes_the_place_of_the_old_one_at_once(page):
    from playwright.sync_api import expect

    light, dark = (np.clip(make.pixels(300, 300, seed=i) // 4 + add, 0, 255) for i, add in enumerate((190, 0)))
    drop(page, ("light.png", make.encode(light)))
    wait_for_film(page)
    page.locator("#heat-on").click()
    page.locator("#box-on").click()
    held(page, "**/v1/film")
    drop(page, ("dark.png", make.encode(dark)))
    assert shot(page).max() < 150  # nothing of the light one while the dark one is read and loaded
    expect(page.locator("#depth-text")).to_have_text("Loading full depth …")
    assert 5 < shot(page).mean() < 80
    page.keyboard.press("k")
    expect(page.locator("#depth")).to_be_hidden()
    assert shot(page).max() > 180


def test_each_film_keeps_its_window_and_zoom(page):
    from playwright.sync_api import expect

    drop(page, *((f"{i}.png", make.encode(make.pixels(seed=i))) for i in range(2)))
    wait_for_film(page)
    fitted = page.locator("#zoom-value").inner_text()
    page.locator("#level").fill("300")
    page.locator("#invert").click()
    page.locator("#zoom-in").click()
    zoomed, looks = page.locator("#zoom-value").inner_text(), shot(page)
    page.keyboard.press("j")
    expect(page.locator("#name")).to_have_text("1.png")
    wait_for_film(page)
    expect(page.locator("#hud")).to_have_text("Level 128 · Window 255")
    expect(page.locator("#zoom-value")).to_have_text(fitted)
    expect(page.locator("#invert")).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("k")
    expect(page.locator("#hud")).to_have_text("Level 77 · Window 255")
    expect(page.locator("#zoom-value")).to_have_text(zoomed)
    expect(page.locator("#invert")).to_have_attribute("aria-pressed", "true")
    assert np.abs(shot(page) - looks).max() <= 2


def test_the_wheel_zooms_about_the_pointer_and_a_drag_pans(page):
    drop(page, ("a.png", make.encode(make.pixels(400, 400))))
    wait_for_film(page)
    page.locator("#heat-on").click()
    page.locator("#box-on").click()
    box = page.locator("#film").bounding_box()
    x, y = round(box["width"] / 2) + 60, round(box["height"] / 2) - 40
    before, zoom = shot(page), page.locator("#zoom-value").inner_text()
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.mouse.wheel(0, -100)
    near = shot(page)
    assert int(page.locator("#zoom-value").inner_text().split()[0]) > int(zoom.split()[0])
    assert np.abs(near[y - 2 : y + 3, x - 2 : x + 3] - before[y - 2 : y + 3, x - 2 : x + 3]).mean() < 12
    page.mouse.down()
    page.mouse.move(box["x"] + x + 50, box["y"] + y + 30, steps=4)
    page.mouse.up()
    moved = shot(page)
    assert np.abs(moved[200:400, 200:400] - near[170:370, 150:350]).mean() < 3
    assert np.abs(moved[200:400, 200:400] - near[200:400, 200:400]).mean() > 5


def test_a_film_is_turned_and_mirrored_and_says_so(page):
    from playwright.sync_api import expect

    drop(page, ("a.png", make.encode(make.pixels(400, 400))))
    wait_for_film(page)
    plain = shot(page)
    page.locator("#turn").click()
    expect(page.locator("#hud")).to_contain_text("turned 90°")
    quarter = shot(page)
    y, x = (side // 2 for side in plain.shape[:2])
    r = min(y, x) - 20

    def middle(picture):
        return picture[y - r : y + r, x - r : x + r].astype(float)

    assert np.abs(np.rot90(middle(plain), -1) - middle(quarter)).mean() < 3
    page.keyboard.press("f")
    expect(page.locator("#hud")).to_contain_text("mirrored: left is right")
    assert np.abs(middle(quarter)[:, ::-1] - middle(shot(page))).mean() < 3
    page.keyboard.press("r")  # to the right as it looks, mirrored too
    assert np.abs(np.rot90(middle(quarter)[:, ::-1], -1) - middle(shot(page))).mean() < 3
    page.locator("#zoom-in").click()
    before, box = shot(page), page.locator("#film").bounding_box()
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.mouse.down()
    page.mouse.move(box["x"] + x + 40, box["y"] + y + 20, steps=4)
    page.mouse.up()
    after = shot(page)  # the film follows the pointer, however it is turned
    assert np.abs(middle(after)[20:-20, 40:] - middle(before)[:-40, :-40]).mean() < 3


def test_a_length_is_in_millimetres_where_the_film_states_its_spacing(page):
    from playwright.sync_api import expect

    header = {"BodyPartExamined": "CHEST", "ImagerPixelSpacing": [0.5, 0.25], "PatientOrientation": ["L", "F"]}
    film = make.dicom(make.pixels(400, 400, dtype=np.uint16), PatientName="Somebody^Else", PatientID="77", **header)
    drop(page, ("a.dcm", film), ("b.png", make.encode(make.pixels(400, 400))))
    wait_for_film(page)
    expect(page.locator("#identity")).to_contain_text("Somebody Else · 77")
    expect(page.locator("#facts")).to_contain_text("left side on the right")
    zoom = float(page.evaluate("async () => (await import('./static/stage.js')).viewer.zoomShown"))
    box = page.locator("#film").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.keyboard.press("m")
    for dx, dy, spacing in ((80, 0, 0.25), (0, 80, 0.5)):
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + dx, y + dy, steps=3)
        page.mouse.up()
        told = page.locator("#hud").inner_text().split("length ")[1]
        assert told.endswith("mm at the detector")
        assert abs(float(told.split()[0]) - 80 / zoom * spacing) < 0.6
    page.keyboard.press("j")
    wait_for_film(page)
    expect(page.locator("#identity")).to_be_empty()
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 80, y, steps=3)
    page.mouse.up()
    expect(page.locator("#hud")).to_contain_text("pixels (no spacing is known)")


def test_the_list_shows_calls_and_no_bare_numbers(page):
    from playwright.sync_api import expect

    drop(page, *((f"{i}.png", make.encode(make.pixels(seed=i))) for i in range(2)))
    wait_for_film(page)
    expect(page.locator(".film-state").nth(1)).not_to_contain_text("reading")
    called = page.locator("#rows tr.above .finding").all_inner_texts()
    assert page.locator(".film-state").first.inner_text() == (", ".join(called) or "no call")
    expect(page.locator("#calls")).to_have_text(f"Called: {', '.join(called)}" if called else "Nothing called")
    expect(page.locator("#opacity-value")).to_have_text("35 %")


def test_what_the_model_saw_is_outlined(page):
    from playwright.sync_api import expect

    drop(page, ("a.png", make.encode(np.full((400, 400), 90, np.uint8))))
    wait_for_film(page)
    expect(page.locator("#legend")).to_contain_text("the model saw the part inside the outline")
    page.locator("#box-on").click()
    page.locator("#opacity").fill("0")  # what is left of the overlay is its outline
    with_line = shot(page)
    page.locator("#heat-on").click()
    rows, columns = np.nonzero(np.abs(with_line - shot(page)) > 20)
    film_rows, film_columns = np.nonzero(shot(page) > 40)
    for line, whole in ((rows, film_rows), (columns, film_columns)):
        start, side = whole.min(), np.ptp(whole)
        assert (line.min() - start) / side == pytest.approx(4.5 / 73, abs=0.012)
        assert (line.max() - start) / side == pytest.approx(68.5 / 73, abs=0.012)


def test_a_refused_film_says_why_and_can_be_looked_at(browser, checking):
    from playwright.sync_api import expect

    page = admitted(open_page(browser, checking.url))
    drop(page, ("night.png", make.encode(255 - chest())), ("day.png", make.encode(chest())))
    expect(page.locator(".film.refused, .film.read")).to_have_count(2)
    expect(page.locator("#intake-title")).to_have_text("The model does not read this film")
    expect(page.locator("#intake-text")).to_contain_text(
        "invert it in the file; the button here changes only the view."
    )
    for hidden in ("#reading", "#legend", "#save-picture", "#save-dicom", "#overlay-tools"):
        expect(page.locator(hidden)).to_be_hidden()
    means = page.locator(".film canvas").evaluate_all(
        """all => all.map((one) => { const {data} = one.getContext("2d").getImageData(0, 0, 72, 72);
          return data.reduce((sum, value, i) => sum + (i % 4 ? 0 : value), 0) / 72 / 72; })"""
    )
    assert means[0] == pytest.approx(255 - means[1], abs=3)  # both have a small picture, one opened and one not
    with page.expect_download() as download:
        page.locator("#save-json").click()
    with open(download.value.path(), encoding="utf-8") as file:
        saved = json.load(file)
    assert (saved["status"], saved["findings"]) == ("refused", None)
    assert "inverted" in saved["reason"]
    page.context.close()


def test_a_film_of_doubtful_worth_is_read_with_a_warning(browser, checking):
    from playwright.sync_api import expect

    page = admitted(open_page(browser, checking.url))
    drop(page, ("small.png", make.encode(chest(180, 52))))
    wait_for_film(page)
    expect(page.locator("#intake-title")).to_have_text("Read with care")
    expect(page.locator("#intake-text")).to_contain_text("It is small: 180 x 180 pixels.")
    expect(page.locator("#reading")).to_be_visible()
    page.context.close()


def test_the_page_asks_for_the_token(browser, checking):
    from playwright.sync_api import expect

    page = open_page(browser, checking.url)
    expect(page.get_by_role("dialog", name="This server asks for a token")).to_be_visible()
    page.locator("#token-input").fill("a guess")
    page.locator("#token-send").click()
    expect(page.locator("#token-problem")).to_have_text("That is not the token.")
    admitted(page)
    expect(page.locator("#token")).to_be_hidden()
    assert page.locator("#token-input").input_value() == ""
    drop(page, ("a.png", make.encode(chest())))
    wait_for_film(page)
    assert all("401" in problem for problem in page.problems)
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(browser, server, scheme):
    page = open_page(browser, server.url, color_scheme=scheme)

    def brightness(of):
        colour = page.locator(of).evaluate("one => getComputedStyle(one).backgroundColor")
        return sum(int(value) for value in colour[4:-1].split(",")) / 3

    drop(page, ("a.png", make.encode(make.pixels())))
    wait_for_film(page)
    for light in (scheme == "light", scheme != "light"):
        assert (brightness("body") > 200, brightness("body") < 40) == (light, not light)
        assert (brightness("#panel") > 200) == light
        assert brightness("#stage") < 20  # films are read in the dark
        page.get_by_role("button", name="Switch between light and dark").click()
    page.context.close()


def test_the_crop_can_be_enlarged(page):
    from playwright.sync_api import expect

    drop(page, ("a.png", make.encode(make.pixels(400, 300))))
    wait_for_film(page)
    opener = page.get_by_role("button", name="Enlarge the crop that the local branch saw")
    large = page.get_by_role("dialog", name="Attended region")
    opener.click()
    expect(large.get_by_role("img", name="The crop that the local branch saw, enlarged")).to_be_visible()
    expect(large).to_contain_text("The branch was given 64 × 64 pixels.")
    assert max(large.locator("canvas").bounding_box()[side] for side in ("width", "height")) > 400
    page.keyboard.press("Escape")
    expect(large).to_be_hidden()
    expect(opener).to_be_focused()
    page.keyboard.press("Enter")
    expect(large).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("c")
    expect(large).to_be_visible()
    assert page.problems == []


SIZES = {"desktop": (1440, 900, {}), "laptop": (1100, 700, {}), "phone": (390, 844, {"is_mobile": True})}


@pytest.mark.parametrize("size", SIZES)
def test_nothing_lies_on_the_film_or_hangs_over_an_edge(browser, server, size):
    width, height, options = SIZES[size]
    page = open_page(browser, server.url, width, height, has_touch=bool(options), **options)
    drop(page, *((f"a film with a long name {i}.png", make.encode(make.pixels(seed=i))) for i in range(3)))
    wait_for_film(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    below = page.locator("#film").bounding_box()
    for part in ("#zoom", "#hud", "#legend"):
        assert page.locator(part).bounding_box()["y"] >= below["y"] + below["height"]
    for part in ("#clear", "#window-reset", "#zoom-fit", "#downloads"):
        box = page.locator(part).bounding_box()
        assert (box["x"] >= 0, box["x"] + box["width"] <= width) == (True, True), part
    invert, reset, save = (page.locator(one).bounding_box() for one in ("#invert", "#window-reset", "#downloads"))
    assert invert["y"] == reset["y"]
    assert size == "phone" or save["y"] + save["height"] <= height  # without scrolling
    page.context.close()


def test_a_narrow_phone_is_wide_enough(browser, server):
    page = open_page(browser, server.url, 360, 740, is_mobile=True, has_touch=True)
    drop(page, ("a.png", make.encode(make.pixels())))
    wait_for_film(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    page.context.close()


def test_an_earlier_film_stands_beside_and_is_looked_at_as_one(page):
    from playwright.sync_api import expect

    def middle(canvas):
        page.wait_for_timeout(150)
        data = np.frombuffer(page.locator(canvas).screenshot(), np.uint8)
        picture = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE).astype(float)
        y, x = (side // 2 for side in picture.shape)
        return picture[y - 120 : y + 120, x - 120 : x + 120]

    same = make.pixels(400, 400, dtype=np.uint16)
    dated = {"BodyPartExamined": "CHEST", "PatientID": "77"}
    for name, date in (("earlier.dcm", "20230131"), ("today.dcm", "20240229")):
        drop(page, (name, make.dicom(same, StudyDate=date, **dated)))
        expect(page.locator("#name")).to_have_text(name)
        wait_for_film(page)
    expect(page.locator("#beside")).to_be_hidden()
    alone = page.locator("#film").bounding_box()["width"]
    choice = page.get_by_role("combobox", name="Beside it")
    choice.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(choice.locator("option:checked")).to_have_text("earlier.dcm · 2023-01-31")
    expect(page.locator("#pair-left")).to_have_text("today.dcm · 2024-02-29")
    expect(page.locator("#pair-right")).to_have_text("earlier.dcm · 2023-01-31")
    left, right = (page.locator(one).bounding_box() for one in ("#film", "#beside"))
    assert left["width"] == right["width"] == pytest.approx(alone / 2, abs=1)
    assert right["x"] >= left["x"] + left["width"]
    lit = middle("#beside")  # with its own attention and box, as the film on the stage has its
    assert np.abs(middle("#film") - lit).max() <= 2
    page.locator("#opacity").fill("80")
    assert np.abs(middle("#film") - middle("#beside")).max() <= 2
    assert np.abs(middle("#beside") - lit).mean() > 2
    page.locator("#heat-on").click()
    page.locator("#box-on").click()
    before = middle("#beside")
    assert before.std() > 20
    assert np.abs(middle("#film") - before).max() <= 2
    assert np.abs(lit - before).mean() > 2
    page.locator("#beside").focus()
    for tool in ("+", "+", "ArrowLeft", "i", "r", "f"):
        page.keyboard.press(tool)
        assert np.abs(middle("#film") - middle("#beside")).max() <= 2, tool
    page.mouse.move(right["x"] + 150, right["y"] + 150)
    page.mouse.down()
    page.mouse.move(right["x"] + 190, right["y"] + 130, steps=3)
    page.mouse.up()
    assert np.abs(middle("#film") - middle("#beside")).max() <= 2
    assert np.abs(middle("#film") - before).mean() > 5
    page.keyboard.press("k")  # the one beside comes to the stage, and one film stands alone
    expect(page.locator("#name")).to_have_text("earlier.dcm")
    expect(page.locator("#beside")).to_be_hidden()
    page.locator("#clear").click()
    expect(page.locator("#beside-label")).to_be_hidden()
    assert page.problems == []
