"""What a browser shows, and a screen reader reads, to a reader of another language."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.watch.live import LiveCamera, LiveCameras

pytestmark = pytest.mark.ci


def test_a_tile_says_why_in_german_and_marks_what_is_english(
    start_console: Callable[..., Any], open_page: Callable[..., Page]
) -> None:
    live = LiveCameras()
    refused = "it refuses the user or the password (401)"
    camera = LiveCamera(
        "door", "", CameraState.UNKNOWN, datetime.now(UTC), UnknownReason.CAMERA_LOST, refused,
        last_error=refused,
    )  # fmt: skip
    live.put(camera)
    page = open_page(locale="de-DE")
    page.goto(start_console(live).address)
    said, error = page.locator(".tile .what"), page.locator(".tile .error")
    expect(said).to_have_text(
        "Die Kamera ist nicht lesbar: sie weist Benutzer oder Passwort ab (401)"
    )
    expect(said.locator("[lang]")).to_have_count(0)
    expect(error).to_be_hidden()  # it is the same
    live.put(replace(camera, detail="Input/output error", last_error="Invalid <data>"))
    expect(said).to_have_text("Die Kamera ist nicht lesbar: Input/output error")
    expect(said.locator("span[lang=en]")).to_have_text("Input/output error")
    expect(error.locator("span[lang=en]")).to_have_text("Invalid <data>")
