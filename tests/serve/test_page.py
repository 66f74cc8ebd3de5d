"""The page in a real browser: drop a film, read the result, move the slider, download. No console errors."""

import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from . import make

pytestmark = pytest.mark.browser

BROWSER = os.environ.get("AGCXR_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
DROP = """async ([target, films]) => {
  const data = new DataTransfer();
  for (const [name, bytes] of films) data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
  for (const kind of ["dragenter", "dragover", "drop"])
    target.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
}"""


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("no chromium: install it (apt-get install chromium) or name one in AGCXR_CHROMIUM")
    sync.expect.set_options(timeout=20000)
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server):
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(20000)
    page.problems = []
    page.on("console", lambda message: message.type in ("error", "warning") and page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("requestfailed", lambda request: page.problems.append(f"{request.url} failed"))
    page.goto(server.url.replace("127.0.0.1", "localhost"))
    yield page
    context.close()


def drop(page, *films):
    target = page.locator("#stage").element_handle()
    page.evaluate(DROP, [target, [[name, list(data)] for name, data in films]])


def shot(page):
    """The film on the screen, as gray values."""
    page.wait_for_timeout(150)
    data = page.locator("#film").screenshot()
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE).astype(float)


def wait_for_film(page):
    from playwright.sync_api import expect

    expect(page.locator("#rows tr")).to_have_count(15)
    expect(page.locator("#hud")).to_contain_text("L ")


def test_from_drop_to_download(page, tmp_path):
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
    expect(page.locator("#hud")).to_contain_text("L 19,661")

    with page.expect_download() as download:
        page.locator("#save-json").click()
    saved = json.loads(Path(download.value.path()).read_text())
    assert download.value.suggested_filename == "chest one.agcxr.json"
    assert saved["research_only"] == "Research use only. Not a medical device."
    assert len(saved["findings"]) == 15
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


def test_a_finding_too_rare_to_calibrate_shows_raw_scores_only(browser, tmp_path_factory):
    from playwright.sync_api import expect

    folder = tmp_path_factory.mktemp("rare")
    model = make.save_model(folder / "model", rare=("Hernia",))
    with make.running(model, folder / "log", options=json.dumps({"check_films": False})) as running:
        page = browser.new_page()
        page.goto(running.url)
        drop(page, ("a.png", make.encode(make.pixels())))
        wait_for_film(page)
        row = page.locator("#rows tr", has_text="Hernia")
        expect(row.locator("td").first).to_have_text("raw")
        expect(row.locator(".tick")).to_have_count(0)
        expect(row).not_to_have_class("above")
        expect(page.locator("#findings-note")).to_contain_text(
            "Raw scores only, and no call, where validation held too few films to calibrate: Hernia."
        )
        page.close()


def test_a_finding_has_a_map(page):
    from playwright.sync_api import expect

    drop(page, ("a.png", make.encode(make.pixels(200, 200))))
    wait_for_film(page)
    page.locator("button.finding").first.click()
    expect(page.locator("#legend-name")).to_contain_text("fusion branch")
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
    expect(page.locator("#hud")).to_contain_text("L ")
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
    assert all("422" in problem for problem in page.problems)  # the browser notes the status by itself


def test_an_example(page):
    page.get_by_role("button", name="Effusion", exact=True).click()
    wait_for_film(page)
    assert page.problems == []


def test_a_phone_is_wide_enough(browser, server):
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(server.url.replace("127.0.0.1", "localhost"))
    drop(page, ("a.png", make.encode(make.pixels())))
    wait_for_film(page)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    context.close()


def test_every_control_has_a_name(page):
    drop(page, ("a.png", make.encode(make.pixels())))
    wait_for_film(page)
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, canvas[role=img]")].filter((one) =>
          one.offsetParent && !one.textContent.trim() && !one.getAttribute("aria-label") && !one.labels?.length
        ).map((one) => one.id)"""
    )
    assert unnamed == []
