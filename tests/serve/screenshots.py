"""Take the pictures in docs/screenshots: cd tests && python -m serve.screenshots RUN [--out ../docs/screenshots].

The films are synthetic; RUN should be a model trained on such films, so that it has something to say. Needs chromium
(see docs/serve.md).
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from agcxr.data.phantom import film

from . import make
from .browsing import BROWSER, FLAGS


def films(folder: Path) -> list[Path]:
    """Five chest films, one of them DICOM, one inverted, one small; a picture that is none, and a letter."""
    drawn = {"admission": ("Effusion", "Cardiomegaly"), "follow-up": ("Mass",), "second film": ("Pneumothorax",)}
    for i, (name, findings) in enumerate(drawn.items()):
        pixels = film(np.random.default_rng(40 + i), findings, size=1024, difficulty=0.1).pixels_HW
        if name == "admission":
            deep = np.rint(cv2.GaussianBlur(pixels.astype(np.float32), (0, 0), 0.7) * 16).astype(np.uint16)
            (folder / f"{name}.dcm").write_bytes(make.dicom(deep, BodyPartExamined="CHEST", StudyDate="20240131"))
        else:
            cv2.imwrite(str(folder / f"{name}.png"), pixels)
    cv2.imwrite(str(folder / "night shift.png"), 255 - film(np.random.default_rng(78), (), size=512).pixels_HW)
    small = film(np.random.default_rng(52), ("Effusion",), size=180, difficulty=0.1).pixels_HW
    cv2.imwrite(str(folder / "from a slide.png"), small)
    y, x = np.mgrid[0:480, 0:640] / 480
    colour = np.dstack([np.sin(5 * x + i) + np.cos((3 + i) * y * x) for i in range(3)])
    cv2.imwrite(str(folder / "IMG_2041.jpg"), np.rint((colour + 2) / 4 * 255).astype(np.uint8))
    (folder / "letter.png").write_text("%PDF-1.7 a letter, not a film")
    return sorted(folder.iterdir())


class Camera:
    def __init__(self, browser: Any, url: str, out: Path) -> None:
        self.browser, self.url, self.out = browser, url, out

    def open(self, width: int = 1440, height: int = 900, scheme: str = "dark", **options: Any) -> Any:
        page = self.browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        page.goto(self.url)
        expect(page.locator("#example-list button")).to_have_count(4)
        return page

    def ready(self, page: Any) -> None:
        expect(page.locator("#rows tr")).to_have_count(15)
        expect(page.locator("#hud")).to_contain_text("Level ")
        expect(page.locator("#depth")).to_be_hidden()
        page.wait_for_timeout(800)

    def shoot(self, page: Any, name: str, **options: Any) -> None:
        """Where a film is seen in 256 colours, dithered: the eye hardly misses the others, and half the bytes go."""
        shot = Image.open(io.BytesIO(page.screenshot(**options))).convert("RGB")
        if shot.getcolors(4096) is None:
            palette = shot.quantize(256, method=Image.Quantize.FASTOCTREE)
            shot = shot.quantize(256, palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
        shot.save(self.out / f"serve_{name}.png", optimize=True)


def desktop(camera: Camera) -> None:
    for scheme, example in (("dark", "Large heart"), ("light", "Effusion")):
        page = camera.open(scheme=scheme)
        if scheme == "light":
            camera.shoot(page, "welcome")
        page.get_by_role("button", name=example, exact=True).click()
        camera.ready(page)
        camera.shoot(page, scheme)
        if scheme == "light":
            page.locator("button.finding").first.click()
            expect(page.locator("#legend-name")).to_contain_text("branch")
            page.wait_for_timeout(500)
            camera.shoot(page, "finding")
        page.close()


def several(camera: Camera, paths: list[Path]) -> None:
    page = camera.open()
    page.set_input_files("#files", paths)
    expect(page.locator(".film.waiting, .film.reading")).to_have_count(0)
    for name, file in (("several", "admission.dcm"), ("warning", "from a slide.png")):
        page.locator(".film", has_text=file).click()
        camera.ready(page)
        camera.shoot(page, name)
    page.locator(".film", has_text="letter.png").click()
    page.wait_for_timeout(300)
    camera.shoot(page, "error")
    page.locator(".film", has_text="night shift.png").click()
    expect(page.locator("#depth")).to_be_hidden()
    page.wait_for_timeout(800)
    camera.shoot(page, "refused")
    page.close()


def beside(camera: Camera, paths: list[Path]) -> None:
    """The film of the admission on the right of the one that followed."""
    page = camera.open()
    page.set_input_files("#files", [path for path in paths if path.stem in ("admission", "follow-up")])
    expect(page.locator(".film.read")).to_have_count(2)
    page.locator(".film", has_text="follow-up.png").click()
    page.locator("#beside-choice").select_option(index=1)
    camera.ready(page)
    camera.shoot(page, "beside")
    page.close()


def loading(camera: Camera, paths: list[Path]) -> None:
    """The small picture stands in until the film has come, which is here after the picture was taken."""
    page, waiting = camera.open(), []
    page.route("**/v1/film", lambda route: waiting.append(route))
    page.set_input_files("#files", [path for path in paths if path.stem == "follow-up"])
    expect(page.locator("#depth-text")).to_contain_text("Loading full depth")
    page.wait_for_timeout(500)
    camera.shoot(page, "loading")
    for route in waiting:
        route.abort()
    page.close()


def crop(camera: Camera, paths: list[Path]) -> None:
    page = camera.open(scheme="light")
    page.set_input_files("#files", [path for path in paths if path.stem == "follow-up"])
    camera.ready(page)
    page.locator("#crop-open").click()
    page.wait_for_timeout(300)
    camera.shoot(page, "crop")
    page.close()


def phone(camera: Camera, paths: list[Path]) -> None:
    page = camera.open(390, 844, device_scale_factor=2, is_mobile=True, has_touch=True)
    page.set_input_files("#files", [path for path in paths if path.stem in ("admission", "follow-up")])
    camera.ready(page)
    camera.shoot(page, "phone", full_page=True)
    page.close()


def locked(camera: Camera) -> None:
    page = camera.browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme="light")
    page.goto(camera.url)
    expect(page.locator("#token")).to_be_visible()
    page.locator("#token-input").fill("a guess")
    page.locator("#token-send").click()
    expect(page.locator("#token-problem")).to_have_text("That is not the token.")
    camera.shoot(page, "token")
    page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "docs" / "screenshots")
    options = parser.parse_args()
    expect.set_options(timeout=60000)
    run = options.run.resolve()
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        folder = Path(scratch)
        (folder / "films").mkdir()
        paths = films(folder / "films")
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        with make.running(run, folder / "log") as server:
            camera = Camera(browser, server.url, options.out)
            desktop(camera)
            several(camera, paths)
            beside(camera, paths)
            loading(camera, paths)
            crop(camera, paths)
            phone(camera, paths)
        with make.running(run, folder / "log", options=json.dumps({"token": "a-token-of-the-ward"})) as server:
            locked(Camera(browser, server.url, options.out))
        browser.close()


if __name__ == "__main__":
    main()
