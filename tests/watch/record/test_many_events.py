"""A record of 100,000 events, written and paged."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.watch.record.made import alert, lost

from limelens.serve.decisions.camera_state import CameraState
from limelens.watch.record import EventFilter, Record
from limelens.watch.record.database import open_to_write, transaction
from limelens.watch.record.queries import condition, page_query
from limelens.watch.record.storing import store_event

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
COUNT = 100_000


@pytest.mark.slow
def test_pages_of_100_000_events_cost_what_they_show(folder: Path) -> None:
    writing = open_to_write(folder, create=True)
    alerted, gone = alert(evidence=None), lost()
    with transaction(writing):
        for number in range(COUNT):
            event = replace(
                gone if number % 100 == 0 else alerted,
                id=f"event-{number}",
                camera_id=f"camera-{number % 16}",
                sequence=number,
                time=BEGAN + timedelta(seconds=number),
                detail="the password was refused" if number == 100 else "",
            )
            store_event(writing, event)
    writing.close()
    asked = (
        (EventFilter(), ""),
        (EventFilter(cameras=("camera-3",)), ""),
        (EventFilter(cameras=("camera-3", "camera-4"), states=(CameraState.ALERT,)), ""),
        (EventFilter(cameras=("camera-3",), states=(CameraState.UNKNOWN,)), ""),
        (EventFilter(until=BEGAN + timedelta(seconds=500)), ""),
        (EventFilter(), "password was"),
        (EventFilter(), "camera-7"),
    )
    with Record(folder) as record:
        assert record.count() == COUNT
        seen = [one.event.sequence for one in record.oldest_first()]
        assert seen == [*range(COUNT)]
        assert [one.id for one in record.list(search="password was").events] == ["event-100"]
        connection = sqlite3.connect(folder / "events.sqlite")
        for filter_, search in asked:
            for cursor in ("", f"{int(BEGAN.timestamp() * 1000) + 1_000_000}-0"):
                wanted = condition(
                    lambda sql, values: connection.execute(sql, values).fetchall(), filter_, search
                )
                assert steps(connection, *page_query(wanted, cursor, 50)) < 200_000
        connection.close()


def steps(connection: sqlite3.Connection, query: str, values: list[object]) -> int:
    """How many steps SQLite's machine takes for a query, in thousands of which it calls."""
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    connection.set_progress_handler(count, 1000)
    connection.execute(query, values).fetchall()
    connection.set_progress_handler(None, 0)
    return 1000 * calls
