"""The page of an event: why it was decided, decided again, and marked as wrong."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.watch.console.conftest import Browser
from tests.watch.record.made import alert, explanation, jpeg, lost

from limelens.watch.event import Event, EventExplanation
from limelens.watch.record import Record
from limelens.watch.record.settings import RecordSettings
from limelens.watch.record.writer import RecordWriter

Start = Callable[..., Any]


@pytest.fixture
def recorded(tmp_path: Path) -> Callable[..., Record]:
    """Records events, and explanations of them."""

    def write(*given: Event | EventExplanation, **settings: Any) -> Record:
        writer = RecordWriter(RecordSettings(path=tmp_path / "record", **settings))
        for one in given:
            if isinstance(one, Event):
                writer.put(one)
            else:
                writer.explain(one)
        writer.close(60)
        assert not writer.problem
        return Record(tmp_path / "record")

    return write


@pytest.fixture
def show(start_console: Start, browse: Callable[..., Browser]) -> Callable[..., Browser]:
    def show(record: Record, **settings: Any) -> Browser:
        return browse(start_console(record=record, **settings).address)

    return show


def words(page: str) -> str:
    """What is read of a page."""
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


def pixels(browser: Browser, path: str) -> np.ndarray:
    response = browser.get(path)
    assert response.status_code == 200
    return np.asarray(Image.open(io.BytesIO(response.content)))


def test_an_alert_is_shown_with_its_reasons_votes_and_images(
    recorded: Callable[..., Record], show: Callable[..., Browser]
) -> None:
    event = alert()
    assert event.evidence is not None
    event = replace(event, evidence=replace(event.evidence, jpeg=jpeg(48, 48)))
    browser = show(recorded(event, explanation(event.id), frames="alerts"))
    page = browser.get(f"/events/{event.id}").text
    shown = words(page)
    assert "Alert without_mask door ·" in shown
    assert "lower middle of the image +0.25 for without_mask" in shown
    assert "upper middle of the image \N{MINUS SIGN}0.10 against without_mask" in shown
    assert "Fit 0.92 the regions account for what the model does" in shown
    assert "Stability 0.96 another run would name the same regions" in shown
    assert "not reliable" not in shown
    assert "3 of 5 frames: with_mask 2 of 5 frames: without_mask" in shown
    assert "An alert needs 2 of 5 frames, any other decision 4" in shown
    assert "facemask 2 CPUExecutionProvider" in shown
    frame = pixels(browser, f"/events/{event.id}/shown.jpg").astype(int)
    overlay = pixels(browser, f"/events/{event.id}/overlay.jpg").astype(int)
    assert frame.shape == overlay.shape == (480, 480, 3)
    # The lower middle supports the label, in green.
    red, green, _ = overlay[340:460, 180:300].mean(axis=(0, 1))
    assert green > red + 20
    assert browser.get(f"/events/{event.id}/frame.jpg").content == jpeg(48, 48)


def test_doubts_are_said_plainly(
    recorded: Callable[..., Record], show: Callable[..., Browser]
) -> None:
    event = alert()
    found = explanation(event.id).explanation
    assert found is not None
    one = replace(found.explanations[0], score=0.1, stability=0.4)
    found = replace(found, explanations=(one,), warnings=("200 samples are few.",))
    browser = show(recorded(event, explanation(event.id, explanation=found)))
    shown = words(browser.get(f"/events/{event.id}").text)
    assert "This explanation is not reliable. The fit is 0.10" in shown
    assert "The stability is 0.40: another run would name other regions." in shown
    assert "200 samples are few." in shown
    german = browser.get(f"/events/{event.id}", headers={"accept-language": "de"}).text
    assert "Auf diese Erklärung ist kein Verlass." in german
    assert "Mitte unten im Bild" in german


def test_what_was_not_kept_is_said_with_what_to_set(
    recorded: Callable[..., Record], show: Callable[..., Browser]
) -> None:
    before = datetime.now(UTC) - timedelta(minutes=3)
    bare, reasoned, gone, new = alert(time=before), alert(), lost(), alert()
    late = EventExplanation(reasoned.id, None, reason="a newer change superseded it")
    browser = show(recorded(bare, reasoned, late, gone, new))
    shown = words(browser.get(f"/events/{bare.id}").text)
    assert "No image of this event was kept. To keep the frames of later alerts" in shown
    assert "frames = &#34;alerts&#34;" in shown
    assert "This was not explained. To have every change explained" in shown
    assert "Not explained yet." in browser.get(f"/events/{new.id}").text
    assert "A newer change superseded it." in browser.get(f"/events/{reasoned.id}").text
    shown = words(browser.get(f"/events/{gone.id}").text)
    assert "Unknown The camera cannot be read" in shown
    assert "the camera refused the password (401)" in shown
    assert "What the camera saw No frame brought this event." in shown
    assert "kept" not in shown
    assert "What if" not in shown
    for which in ("frame.jpg", "thumbnail.jpg", "shown.jpg", "overlay.jpg", "recorded.png"):
        assert browser.get(f"/events/{bare.id}/{which}").status_code == 404
    assert browser.get("/events/nobody").status_code == 404


def test_an_overlay_that_was_kept_without_its_frame_is_shown_and_else_grey(
    recorded: Callable[..., Record], show: Callable[..., Browser]
) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((120, 96, 3), (200, 30, 30), np.uint8)).save(file, "PNG")
    kept, none = alert(), alert()
    browser = show(
        recorded(kept, explanation(kept.id, overlay_png=file.getvalue()),
                 none, explanation(none.id, overlay_png=b""))
    )  # fmt: skip
    # A square was explained; the strip below the overlay is left out.
    assert pixels(browser, f"/events/{kept.id}/overlay.jpg").shape == (480, 480, 3)
    assert browser.get(f"/events/{kept.id}/recorded.png").content == file.getvalue()
    assert "on grey" not in browser.get(f"/events/{kept.id}").text
    assert "the regions are shown on grey" in browser.get(f"/events/{none.id}").text
    assert pixels(browser, f"/events/{none.id}/overlay.jpg").shape == (480, 480, 3)


def test_other_numbers_decide_the_same_frames_again(
    recorded: Callable[..., Record], show: Callable[..., Browser]
) -> None:
    event = alert()
    browser = show(recorded(event))
    path = f"/events/{event.id}/replay"
    assert "Alert without_mask As it was decided." in words(browser.get(path).text)
    shown = words(browser.get(f"{path}?window=5&required=4&required_to_alert=3").text)
    assert "Unknown Cannot decide That is not what was decided." in shown
    shown = words(browser.get(f"{path}?threshold=0.85").text)
    assert "0.80 without_mask (too low to count)" in shown
    refused = browser.get(f"{path}?window=5&required=1")
    assert refused.status_code == 400
    assert "expected 3 to 5" in refused.text
    assert browser.get(f"{path}?window=many").status_code == 400
    # Without scripts the form asks for the whole page.
    page = browser.get(f"/events/{event.id}?window=5&required=4&required_to_alert=3").text
    assert "That is not what was decided." in page


def test_an_operator_marks_an_event_as_wrong_and_the_frame_is_reviewed(
    recorded: Callable[..., Record], show: Callable[..., Browser], users: Path, tmp_path: Path
) -> None:
    event = alert()
    record = recorded(event, frames="alerts")
    browser = show(record, users=users, review=tmp_path / "review")
    page, wrong = f"/events/{event.id}", f"/events/{event.id}/wrong"
    browser.log_in("vera", "vera has a password")
    assert "Was that wrong?" not in browser.get(page).text
    assert browser.fill_in(wrong, page, label="with_mask").status_code == 403
    browser.fill_in("/logout", page)

    browser.log_in("otto", "otto has a password")
    assert browser.post(wrong, data={"label": "with_mask"}).status_code == 403  # no token
    assert record.get(event.id).correction is None
    refused = browser.fill_in(wrong, page, label="../with_mask")
    assert refused.status_code == 400
    assert "That was not noted" in refused.text
    done = browser.fill_in(wrong, page, label="with_mask")
    assert (done.status_code, done.headers["location"]) == (303, f"{page}#wrong")
    assert (tmp_path / "review" / "with_mask" / f"{event.id}.jpg").read_bytes() == jpeg()
    shown = words(browser.get(page).text)
    assert "Marked as wrong. It should have been with_mask. Says otto." in shown
    assert "One event" in browser.get("/events?wrong=1").text
    assert browser.fill_in("/events/nobody/wrong", page, label="with_mask").status_code == 404
