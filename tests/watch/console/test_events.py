"""The log of events: filters, search, pages, and CSV of what is filtered."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.watch.console.conftest import Browser
from tests.watch.record.made import alert, lost

from limelens.serve.decisions.camera_state import CameraState
from limelens.watch.event import Event
from limelens.watch.record import Record
from limelens.watch.record.settings import RecordSettings
from limelens.watch.record.writer import RecordWriter

Start = Callable[..., Any]
NEWEST = datetime(2026, 3, 5, 22, 30, tzinfo=UTC)


def events() -> list[Event]:
    """120 events, newest first: 60 alerts in the north, 40 clear in the south, 20 lost."""
    made = []
    for number in range(120):
        time = NEWEST - timedelta(hours=number)
        if number % 6 < 3:
            made.append(alert(camera_id="north", time=time))
        elif number % 6 < 5:
            made.append(alert(camera_id="south", time=time, state=CameraState.CLEAR,
                              label="with_mask"))  # fmt: skip
        else:
            made.append(lost(camera_id="south", time=time))
    return made


def written(folder: Path, made: list[Event]) -> Record:
    writer = RecordWriter(RecordSettings(path=folder, max_age_days=36_500))
    for event in reversed(made):
        writer.put(event)
    writer.close(60)
    return Record(folder)


@pytest.fixture(scope="module")
def made() -> list[Event]:
    return events()


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory, made: list[Event]) -> Record:
    return written(tmp_path_factory.mktemp("record"), made)


@pytest.fixture
def browser(start_console: Start, browse: Callable[..., Browser], record: Record) -> Browser:
    return browse(start_console(record=record).address)


def ids(page: str) -> list[str]:
    return re.findall(r'<a href="/events/([0-9a-f-]{36})[?"]', page)


def test_pages_show_every_event_once_newest_first(browser: Browser, made: list[Event]) -> None:
    path, seen, num_pages = "/events", [], 0
    while path:
        page = browser.get(path).text
        assert "120 events" in page
        seen += ids(page)
        num_pages += 1
        older = re.search(r'rel="next" href="([^"]+)"', page)
        path = older[1].replace("&amp;", "&") if older else ""
    assert seen == [event.id for event in made]
    assert num_pages == 3


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("camera=north", 60),
        ("state=unknown", 20),
        ("label=with_mask", 40),
        ("camera=south&state=alert", 0),
        ("q=401", 20),
        ("from=2026-03-05&to=2026-03-05", 23),
        # The same day where clocks are five hours behind: of its 24 hours, 18 have passed.
        ("from=2026-03-05-05:00&to=2026-03-05-05:00", 18),
        ("from=tomorrow&state=odd", 120),
        ("wrong=1", 0),
    ],
)
def test_filters_and_search_hold_for_the_page_and_the_csv(
    browser: Browser, query: str, count: int
) -> None:
    page = browser.get(f"/events?{query}").text
    assert f"{count} events" in page
    found = browser.get(f"/events.csv?{query}")
    assert found.headers["content-type"] == "text/csv; charset=utf-8"
    assert found.headers["content-disposition"] == 'attachment; filename="events.csv"'
    rows = list(csv.DictReader(io.StringIO(found.text)))
    assert len(rows) == count
    assert [row["id"] for row in reversed(rows)][:50] == ids(page)


def test_an_event_leads_back_to_where_its_reader_was(browser: Browser) -> None:
    page = browser.get("/events?camera=north&q=face&other=1").text
    link = re.search(r'<a href="(/events/[^"]+)"', page)
    assert link is not None
    event = browser.get(link[1].replace("&amp;", "&")).text
    assert '<a href="/events?camera=north&amp;q=face">' in event


def test_the_page_can_ask_how_many_events_are_new(browser: Browser, made: list[Event]) -> None:
    def new(path: str) -> int:
        count: int = browser.get(path).json()["count"]
        return count

    assert new(f"/events.new?after={made[0].id}") == 0
    assert new(f"/events.new?after={made[7].id}") == 7
    assert new(f"/events.new?camera=north&after={made[7].id}") == 4
    assert new("/events.new?after=removed") == 99


def test_what_is_recorded_or_asked_for_cannot_become_markup(
    start_console: Start, browse: Callable[..., Browser], tmp_path: Path
) -> None:
    evil = "<script>alert(1)</script>"
    record = written(tmp_path / "record", [alert(camera_id=evil, label=evil), lost(detail=evil)])
    browser = browse(start_console(record=record).address)
    page = browser.get("/events", params={"q": "script", "camera": evil})
    assert "One event" in page.text
    for path in ["/events", *(f"/events/{one}" for one in ids(page.text))]:
        assert evil not in browser.get(path, params={"log": f"q={evil}"}).text


def test_a_record_that_cannot_be_read_is_said(
    start_console: Start, browse: Callable[..., Browser], tmp_path: Path
) -> None:
    record = written(tmp_path / "record", [alert()])
    browser = browse(start_console(record=record).address)
    record.close()
    assert "The record cannot be read" in browser.get("/events").text


def test_a_camera_that_nobody_watches_any_more_is_named(
    start_console: Start, browse: Callable[..., Browser], tmp_path: Path
) -> None:
    writer = RecordWriter(RecordSettings(path=tmp_path / "record"))
    writer.put(alert(camera_id="<gate>"))
    assert writer.flush(60)
    # What is killed keeps the row and loses the lock; so does a copy of the record.
    shutil.copytree(tmp_path / "record", tmp_path / "copy")
    for lock in (tmp_path / "copy").glob("writer-*"):
        lock.unlink()
    for name, is_named in (("record", False), ("copy", True)):
        with Record(tmp_path / name) as record:
            page = browse(start_console(record=record).address).get("/events").text
        assert (
            "&lt;gate&gt; is not watched any more. Last sign of life: <time" in page
        ) is is_named
    writer.close(60)
