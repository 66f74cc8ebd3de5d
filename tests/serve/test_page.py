"""The page in a real browser: drop a film, read the result, move the slider, download. No console errors."""

import io
import json
import re
import zipfile
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import pytest

from . import make
from .browsing import drop, open_page, shot, wait_for_film

pytestmark = pytest.mark.browser


def test_from_drop_to_download(page, engine):
    from playwright.sync_api import expect

    film = make.pixels(400, 300, dtype=np.uint16)
    drop(page, ("chest one.png", make.encode(film)))
    wait_for_film(page)
    expect(page.locator("#name")).to_have_text("chest one.png")
    expect(page.locator("#facts")).to_have_text("300 × 400 · 16 bit · PNG")
    expect(page.locator("#notice")).to_have_text("Research use only. Not a medical device.")
    expect(page.locator("#film")).to_have_attribute(
        "aria-label", "Chest film chest one.png, 300 by 400 pixels. " + box_words(page)
    )

    before = shot(page)
    page.locator("#opacity").fill("5")
    expect(page.locator("#opacity-value")).to_have_text("5 %")
    assert np.abs(shot(page) - before).mean() > 0.5
    page.locator("#heat-on").click()
    page.locator("#box-on").click()
    plain = shot(page)
    page.locator("#invert").click()
    rows = slice(plain.shape[0] // 2 - 50, plain.shape[0] // 2 + 50)
    columns = slice(plain.shape[1] // 2 - 50, plain.shape[1] // 2 + 50)
    assert np.abs(shot(page)[rows, columns] + plain[rows, columns] - 255).max() <= 2
    page.locator("#invert").click()
    page.locator("#level").fill("300")
    expect(page.locator("#hud")).to_have_text("Level 19,661 · Window 65,535")

    with page.expect_download() as download:
        page.locator("#save-json").click()
    saved = json.loads(Path(download.value.path()).read_text())
    assert download.value.suggested_filename == "chest one.agcxr.json"
    assert saved["research_only"] == "Research use only. Not a medical device."
    assert len(saved["findings"]) == 15
    assert (saved["version"], saved["model"]) == (version("agcxr"), engine.algorithm.version)
    with page.expect_download() as download:
        page.locator("#save-picture").click()
    assert cv2.imread(str(download.value.path())).shape[1] == 1600
    with page.expect_download() as download:
        page.locator("#save-film").click()
    assert np.array_equal(cv2.imread(str(download.value.path()), cv2.IMREAD_UNCHANGED), film)
    assert page.problems == []


def box_words(page):
    label = page.locator("#film").get_attribute("aria-label")
    return label.partition("pixels. ")[2]


def test_dicom_results_of_a_dicom_film(page, tmp_path):
    pydicom = pytest.importorskip("pydicom")
    from playwright.sync_api import expect

    film = make.dicom(make.pixels(200, 160, dtype=np.uint16))
    drop(page, ("ward.dcm", film))
    wait_for_film(page)
    expect(page.locator("#save-note")).to_contain_text("a .zip with the report (SR)")
    with page.expect_download(timeout=60000) as download:  # the first of a server loads what makes them
        page.get_by_role("button", name="DICOM", exact=True).click()
    assert download.value.suggested_filename == "ward.agcxr-dicom.zip"
    with zipfile.ZipFile(download.value.path()) as file:
        made = {name: pydicom.dcmread(io.BytesIO(file.read(name))) for name in file.namelist()}
    study = pydicom.dcmread(io.BytesIO(film)).StudyInstanceUID
    assert {name: one.StudyInstanceUID for name, one in made.items()} == dict.fromkeys(
        ("sr.dcm", "sc.dcm", "seg.dcm"), study
    )
    drop(page, ("other.png", make.encode(make.pixels(200, 160))))
    expect(page.locator("#name")).to_have_text("other.png")
    expect(page.locator("#save-dicom")).to_be_hidden()
    expect(page.locator("#save-note")).to_have_text(
        "No DICOM results: not a DICOM film, so there is no study to put DICOM results in."
    )
    assert page.problems == []


def number(text):
    return float(re.match(r"[\d.]+", text)[0])


def share(locator, edge):
    return float(locator.evaluate(f"one => one.style.{edge}").rstrip("%")) / 100


def test_bars_and_marks_are_on_the_scale_of_the_first_column(page):
    from playwright.sync_api import expect

    drop(page, ("a.png", make.encode(make.pixels())))
    wait_for_film(page)
    expect(page.locator("#columns .main")).to_have_text("Calibrated")
    bars = []
    for row in page.locator("#rows tr").all():
        shown, sign, threshold = row.locator("td.main").inner_text().split()
        bars.append(share(row.locator(".fill"), "width"))
        assert bars[-1] == pytest.approx(number(shown), abs=0.006)
        assert share(row.locator(".tick"), "left") == pytest.approx(float(threshold), abs=0.006)
        assert (bars[-1] >= share(row.locator(".tick"), "left")) == (sign == "≥")
    assert bars[:-1] == sorted(bars[:-1], reverse=True)  # the last is No Finding
    page.locator("#point").select_option("specificity95")
    expect(page.locator("#findings-note")).to_contain_text("operating point (95 % specificity")


def test_a_model_without_calibration_shows_raw_bars_and_no_marks(browser, tmp_path_factory):
    from playwright.sync_api import expect

    folder = tmp_path_factory.mktemp("raw")
    model = make.save_model(folder / "model", calibrated=False)
    with make.running(model, folder / "log", options=json.dumps({"check_films": False})) as running:
        page = open_page(browser, running.url)
        drop(page, ("a.png", make.encode(make.pixels())))
        wait_for_film(page)
        expect(page.locator("#columns .main")).to_have_text("Fusion")
        expect(page.locator(".tick, .above, .point")).to_have_count(0)
        first = page.locator("#rows tr").first
        assert share(first.locator(".fill"), "width") == pytest.approx(
            number(first.locator(".main").inner_text()), abs=0.006
        )
        page.context.close()


def test_a_finding_too_rare_to_calibrate_shows_raw_scores_only(browser, tmp_path_factory):
    from playwright.sync_api import expect

    folder = tmp_path_factory.mktemp("rare")
    model = make.save_model(folder / "model", rare=("Hernia",))
    with make.running(model, folder / "log", options=json.dumps({"check_films": False})) as running:
        page = open_page(browser, running.url)
        drop(page, ("a.png", make.encode(make.pixels())))
        wait_for_film(page)
        row = page.locator("#rows tr", has_text="Hernia")
        expect(row.locator("td").first).to_have_text("raw")
        expect(row.locator(".tick, .point")).to_have_count(0)
        assert "above" not in row.get_attribute("class").split()
        weights = row.locator(".finding, td").evaluate_all("all => all.map((one) => getComputedStyle(one).fontWeight)")
        assert max(int(weight) for weight in weights) < 500  # nothing of it is bold, so nothing looks like a call
        assert share(row.locator(".fill"), "width") == pytest.approx(
            float(row.locator("td").nth(1).inner_text()), abs=0.006
        )
        expect(page.locator("#findings-note")).to_contain_text(
            "Raw scores only, striped, and no call, where validation held too few films to calibrate: Hernia."
        )
        page.context.close()


def test_a_finding_has_a_map(page):
    from playwright.sync_api import expect

    drop(page, ("a.png", make.encode(make.pixels(200, 200))))
    wait_for_film(page)
    page.locator("button.finding").first.click()
    expect(page.locator("#legend-name")).to_contain_text("fusion branch")
    bar, note = (page.locator(one).bounding_box() for one in ("#map-bar", "#panel-body"))
    assert bar["y"] >= note["y"] + note["height"]  # it lies beside the table and its note, not over them
    page.locator("#map-branch").select_option("global")
    expect(page.locator("#legend-name")).to_contain_text("global branch")
    page.keyboard.press("Escape")
    expect(page.locator("#legend-name")).to_have_text("Attention")
    assert page.problems == []


def test_several_films_by_keyboard(page):
    from playwright.sync_api import expect

    drop(page, *((f"{i}.png", make.encode(make.pixels(seed=i))) for i in range(3)))
    expect(page.locator(".film.read")).to_have_count(3)
    expect(page.locator("#name")).to_have_text("0.png")
    page.keyboard.press("j")
    expect(page.locator("#name")).to_have_text("1.png")
    page.keyboard.press("k")
    page.keyboard.press("k")
    expect(page.locator("#name")).to_have_text("2.png")
    page.keyboard.press("h")
    expect(page.locator("#heat-on")).to_have_attribute("aria-pressed", "false")
    expect(page.locator("#hud")).to_contain_text("Level ")
    page.keyboard.press("+")
    page.keyboard.press("+")
    zoomed = page.locator("#zoom-value").inner_text()
    page.keyboard.press("0")
    assert page.locator("#zoom-value").inner_text() != zoomed
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    assert page.problems == []


def test_a_file_that_is_no_film_says_so(page):
    from playwright.sync_api import expect

    drop(page, ("letter.png", b"Dear colleague"))
    expect(page.locator("#problem-title")).to_have_text("This file cannot be read")
    expect(page.locator("#problem-text")).to_have_text("Not a PNG, JPEG, WebP or DICOM file: it looks like text.")
    expect(page.locator("#problem-next")).to_contain_text(
        "PNG of 8 or 16 bits, JPEG, WebP and DICOM. Drop another film"
    )
    with page.expect_file_chooser():
        page.locator("#another").click()
    drop(page, ("film.png", make.encode(make.pixels())))  # over the error, as it says
    wait_for_film(page)
    assert all("422" in problem for problem in page.problems)  # the browser notes the status by itself


def test_an_example(page):
    page.get_by_role("button", name="Effusion", exact=True).click()
    wait_for_film(page)
    assert page.problems == []


def test_every_control_has_a_name(page):
    drop(page, ("a.png", make.encode(make.pixels())))
    wait_for_film(page)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, canvas[role=img]")].filter((one) =>
          one.offsetParent && !one.textContent.trim() && !one.getAttribute("aria-label") && !one.labels?.length
        ).map((one) => one.id)"""
    )
    assert unnamed == []
