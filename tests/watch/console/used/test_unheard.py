"""What a page shows that hears nothing: a console that hangs, or a camera's thread that does."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.ci

Open = Callable[..., Page]
_SERVE = """
import io, signal
from datetime import UTC, datetime
from PIL import Image
from limelens.serve.decisions.camera_state import CameraState
from limelens.serve.decisions.decision import Decision, FacePrediction, Prediction
from limelens.serve.image import Region
from limelens.watch import console
from limelens.watch.console.settings import ConsoleSettings
from limelens.watch.live import LiveCamera, LiveCameras, LiveFrame

file = io.BytesIO()
Image.new("RGB", (64, 48), "gray").save(file, "JPEG")
label = Prediction(Decision.LABEL, "with_mask", (), False, (), 0.5, None)
face = FacePrediction(Region(0.2, 0.2, 0.6, 0.8), 0.9, label, None, False, 1, "with_mask")
now = datetime.now(UTC)
live = LiveCameras()
live.put(
    LiveCamera(
        "door", "", CameraState.CLEAR, now, label="with_mask",
        frame=LiveFrame(file.getvalue(), (face,), now),
    )
)
page = console.serve(ConsoleSettings(listen="127.0.0.1:0"), live)
print(page.address, flush=True)
signal.pause()
"""


@pytest.fixture
def console() -> Iterator[subprocess.Popen[str]]:
    """A console in a process of its own, which can be stopped."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.communicate()


def test_a_page_whose_console_falls_silent_shows_unknown_and_no_old_decision(
    console: subprocess.Popen[str], open_page: Open
) -> None:
    assert console.stdout is not None
    page = open_page()
    page.goto(console.stdout.readline().strip())
    tile, face = page.locator(".tile"), page.locator(".boxes .face")
    expect(tile).to_have_attribute("data-state", "clear")
    expect(face).to_be_visible()
    expect(page.locator("#trouble")).to_be_hidden()

    console.send_signal(signal.SIGSTOP)  # nothing tells the browser
    expect(tile).to_have_attribute("data-state", "unknown")
    expect(tile).to_contain_text("Unknown")
    expect(tile).not_to_contain_text("Clear")
    expect(face).to_be_hidden()
    expect(page.get_by_role("alert").first).to_contain_text("No connection to the console since")
    expect(page.locator("#summary [data-state=unknown]")).to_contain_text("1")

    console.send_signal(signal.SIGCONT)
    expect(tile).to_have_attribute("data-state", "clear")
    expect(face).to_be_visible()
    expect(page.locator("#trouble")).to_be_hidden()
