"""What a browser shows, and a screen reader reads, to a reader of another language."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from tests.waiting import PATIENCE_S
from tests.watch.record.made import alert

from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.watch.live import LiveCamera, LiveCameras
from limelens.watch.record import Record
from limelens.watch.record.settings import RecordSettings
from limelens.watch.record.writer import RecordWriter

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


def test_the_numbers_beside_long_words_stay_on_one_line(
    start_console: Callable[..., Any], open_page: Callable[..., Page], tmp_path: Path
) -> None:
    writer = RecordWriter(RecordSettings(path=tmp_path / "record"))
    event = alert()
    writer.put(event)
    writer.close(PATIENCE_S)
    with Record(tmp_path / "record") as record:
        page = open_page(locale="de-DE")
        page.goto(f"{start_console(record=record).address}/events/{event.id}")
        numbers = page.locator(".slider .value")
        expect(numbers).to_have_count(4)
        for number in numbers.all():
            expect(number).not_to_be_empty()
            lines = number.evaluate(
                "one => { const all = document.createRange(); all.selectNodeContents(one);"
                " return all.getClientRects().length; }"
            )
            assert lines == 1
