"""A guard's browser: Chromium, with a console that `limelens watch` serves, and axe-core.

What is not installed makes tests skip: Chromium (or the program in LIMELENS_CHROMIUM), and
axe-core, which is the file or folder in LIMELENS_AXE or else installed by npm into a temporary
folder. With LIMELENS_SCREENSHOTS, images of the pages are left in that folder to be looked at.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)
from tests.waiting import PATIENCE_S

WIDTHS = {"phone": (390, 844), "desktop": (1280, 800)}
_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    found = os.environ.get("LIMELENS_CHROMIUM") or next(
        filter(None, map(shutil.which, _CHROMIUMS)), ""
    )
    if not found:
        pytest.skip("no Chromium is installed, nor named by LIMELENS_CHROMIUM")
    expect.set_options(timeout=1000 * PATIENCE_S)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, which finds what keeps people from using a page."""
    given = os.environ.get("LIMELENS_AXE")
    if given:
        path = Path(given)
        return (path if path.is_file() else path / "axe.min.js").read_text()
    if shutil.which("npm") is None:
        pytest.skip("LIMELENS_AXE names no axe-core, and there is no npm to install it")
    folder = tmp_path_factory.mktemp("axe")
    command = [
        "npm",
        "install",
        "--no-save",
        "--ignore-scripts",
        "--prefix",
        str(folder),
        "axe-core@4",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm has not installed axe-core within 120 s")
    if done.returncode:
        pytest.skip(f"npm cannot install axe-core: {done.stderr.strip()[-200:]}")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages of browsers that know nothing of each other; they must not complain.

    Arguments are those of `Browser.new_context`; `width` is a key of `WIDTHS`.
    """
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def complain(said: ConsoleMessage) -> None:
        # Such as whatever the page's policy refuses. A status is one that the test asks for.
        is_status = "the server responded with a status of" in said.text
        is_expected = is_status and "/static/" not in said.location["url"]
        if said.type == "error" and not is_expected:
            complaints.append(said.text)

    def open_page(width: str = "desktop", **settings: Any) -> Page:
        across, down = WIDTHS[width]
        is_phone = width == "phone"
        context = chromium.new_context(
            viewport={"width": across, "height": down},
            **{"locale": "en-GB", "has_touch": is_phone, "is_mobile": is_phone, **settings},
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE_S)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", complain)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def screenshot() -> Callable[[Page, str], None]:
    """Leaves an image of a page to be looked at, if that is wanted."""
    folder = os.environ.get("LIMELENS_SCREENSHOTS")

    def screenshot(page: Page, name: str) -> None:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)

    return screenshot
