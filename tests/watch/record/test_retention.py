"""Old events go, by age and by size, while new ones come."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.waiting import until
from tests.watch.record.made import PATIENCE_S, alert, explanation

from limelens.watch.record import Record
from limelens.watch.record.database import open_to_write
from limelens.watch.record.retention import Retention, bytes_used
from limelens.watch.record.writer import RecordWriter

Start = Callable[..., RecordWriter]
HOUR_S = 3600.0
DAY_S = 86_400.0


def test_old_events_go_with_their_images_and_files(start: Start, folder: Path) -> None:
    now = datetime.now(UTC)
    old = [alert(time=now - timedelta(days=8, seconds=number)) for number in range(250)]
    young = alert(time=now - timedelta(days=6))
    writer = start(max_age_days=365, frames="alerts")
    for event in (*old, young):
        writer.put(event)
        writer.explain(explanation(event.id))
    assert writer.flush(PATIENCE_S)
    connection = open_to_write(folder, create=False)
    retention = Retention(folder, max_age_days=7, max_bytes=1 << 40)
    left = []
    while retention.step(connection):
        (count,) = connection.execute("SELECT count(*) FROM events").fetchone()
        left.append(count)
        if len(left) == 1:  # others write between two steps
            writer.put(alert(id=f"new-{count}", evidence=None))
            assert writer.flush(PATIENCE_S)
    assert left[:2] == [51, 2]  # no step removes more than 200
    for table in ("evidence", "images", "explanations", "overlays"):
        (count,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert count == 1
    connection.close()
    with Record(folder) as record:
        assert {one.id for one in record.list().events} == {young.id, "new-51"}
    assert [path.stem for path in (folder / "overlays").iterdir()] == [young.id]


def test_the_oldest_events_go_when_there_are_too_many_bytes(start: Start, folder: Path) -> None:
    events = [alert() for _ in range(400)]
    writer = start(frames="alerts")
    for event in events:
        writer.put(event)
        writer.explain(explanation(event.id, overlay_png=b"x" * 2000))
    assert writer.flush(PATIENCE_S)
    connection = open_to_write(folder, create=False)
    before = bytes_used(connection)
    assert before > 400 * 4000
    retention = Retention(folder, max_age_days=365, max_bytes=before // 2)
    while retention.step(connection):
        pass
    assert bytes_used(connection) <= before // 2
    connection.close()
    with Record(folder) as record:
        kept = [one.id for one in record.oldest_first()]
    assert kept == [event.id for event in events[-len(kept) :]]
    assert 150 < len(kept) < 250  # not more than needed
    assert len([*(folder / "overlays").iterdir()]) == len(kept)


def test_the_writer_keeps_its_limits_by_itself(start: Start, folder: Path) -> None:
    old = alert(time=datetime.now(UTC) - timedelta(days=2))
    writer = start(max_age_days=1)
    writer.put(old)
    writer.explain(explanation(old.id))
    assert writer.flush(PATIENCE_S)
    writer.close(PATIENCE_S)
    start(max_age_days=1)
    with Record(folder) as record:
        until(lambda: record.count() == 0)
    until(lambda: not [*(folder / "overlays").iterdir()])


def test_an_overlay_that_a_killed_process_left_goes(start: Start, folder: Path) -> None:
    event = alert()
    writer = start()
    writer.put(event)
    writer.explain(explanation(event.id))
    assert writer.flush(PATIENCE_S)
    writer.close(PATIENCE_S)
    stray, young = (folder / "overlays" / name for name in ("stray.png", "young.png"))
    for path in (stray, young):
        path.write_bytes(b"half")
    for path in (stray, folder / "overlays" / f"{event.id}.png"):
        os.utime(path, times=(time.time() - 2 * HOUR_S,) * 2)
    start()
    until(lambda: not stray.exists())
    assert young.exists()
    assert (folder / "overlays" / f"{event.id}.png").exists()


def test_files_are_looked_through_once_an_hour(folder: Path) -> None:
    connection = open_to_write(folder, create=True)
    monotonic = 0.0
    retention = Retention(folder, max_age_days=7, max_bytes=1 << 40, monotonic=lambda: monotonic)
    stray = folder / "overlays" / "stray.png"

    def is_swept() -> bool:
        stray.write_bytes(b"half")
        os.utime(stray, times=(time.time() - 2 * HOUR_S,) * 2)
        while retention.step(connection):
            pass
        return not stray.exists()

    assert is_swept()
    assert not is_swept()
    monotonic += HOUR_S
    assert is_swept()
    connection.close()


def test_a_clock_that_jumps_ahead_empties_no_record(start: Start, folder: Path) -> None:
    writer = start()
    writer.put(alert())
    assert writer.flush(PATIENCE_S)
    clock, monotonic = time.time(), 1000.0
    retention = Retention(
        folder,
        max_age_days=7,
        max_bytes=1 << 40,
        clock=lambda: clock,
        monotonic=lambda: monotonic,
    )
    connection = open_to_write(folder, create=False)

    def events_after(clock_s: float, passed_s: float) -> int:
        nonlocal clock, monotonic
        clock, monotonic = clock + clock_s, monotonic + passed_s
        while retention.step(connection):
            pass
        return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])

    assert events_after(30 * DAY_S, 60) == 1
    assert events_after(-30 * DAY_S, 60) == 1  # it was wrong for a minute
    assert events_after(30 * DAY_S, 60) == 1
    assert events_after(DAY_S, DAY_S + 60) == 0  # it was right after all
    connection.close()


def test_nothing_of_a_removed_image_stays_in_the_file(start: Start, folder: Path) -> None:
    event = alert(time=datetime.now(UTC) - timedelta(days=2))
    assert event.evidence is not None
    writer = start(frames="alerts", max_age_days=1)
    writer.put(event)
    assert writer.flush(PATIENCE_S)
    part = event.evidence.jpeg[-200:]
    assert part in everything(folder)
    writer.close(PATIENCE_S)
    start(max_age_days=1)
    with Record(folder) as record:
        until(lambda: record.count() == 0)
    until(lambda: part not in everything(folder))


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("events.sqlite*"))
