"""How wide a page is on a phone, by a real browser."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

WIDTH = 390

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FRAME = '<iframe name="{name}" width="{width}" height="844" srcdoc="{page}"></iframe>'
# A window of a headless browser is at least 500 pixels wide; a frame may be narrower.
_MEASURE = """<script>onload = () => { document.title = JSON.stringify(Object.fromEntries(
  [...document.querySelectorAll("iframe")].map(one =>
    [one.name, one.contentDocument.documentElement.scrollWidth]))) }</script>"""


def widths_on_a_phone(pages: Mapping[str, Path], folder: Path) -> dict[str, int]:
    """The pixels that each page needs where a window has `WIDTH`: more if it must be scrolled.

    Skips the test if there is no browser.
    """
    browser = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(_BROWSERS)} is installed")
    frames = [
        _FRAME.format(name=name, width=WIDTH, page=html.escape(path.read_text(encoding="utf-8")))
        for name, path in pages.items()
    ]
    outer = folder / "frames.html"
    outer.write_text(f"<!doctype html><title></title>{''.join(frames)}{_MEASURE}", encoding="utf-8")
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={folder / 'browser'}", "--dump-dom", outer.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert found is not None, done.stderr
    widths: dict[str, int] = json.loads(html.unescape(found[1]))
    return widths
