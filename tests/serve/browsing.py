"""The page in chromium: where that is, and what a person does there. Fixtures are in conftest.py."""

from __future__ import annotations

import os
import shutil
from typing import Any

import cv2
import numpy as np

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


def open_page(browser: Any, url: str, width: int = 1280, height: int = 800, **options: Any) -> Any:
    """A page of a context of its own that notes what goes wrong in `problems`."""
    context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True, **options)
    page = context.new_page()
    page.set_default_timeout(20000)
    page.problems = []
    page.on("console", lambda message: message.type in ("error", "warning") and page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("requestfailed", lambda request: page.problems.append(f"{request.url} failed"))
    page.goto(url.replace("127.0.0.1", "localhost"))
    return page


def drop(page: Any, *films: tuple[str, bytes]) -> None:
    target = page.locator("#stage").element_handle()
    page.evaluate(DROP, [target, [[name, list(data)] for name, data in films]])


def shot(page: Any) -> Any:
    """The film on the screen, as gray values."""
    page.wait_for_timeout(150)
    data = page.locator("#film").screenshot()
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE).astype(float)


def wait_for_film(page: Any) -> None:
    """Until the findings are there and the film is at its full depth."""
    from playwright.sync_api import expect

    expect(page.locator("#rows tr")).to_have_count(15)
    expect(page.locator("#hud")).to_contain_text("Level ")
    expect(page.locator("#depth")).to_be_hidden()
