"""What a killed process, another writer, a full disk and a damaged file do to the record."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.waiting import until
from tests.watch.record.made import PATIENCE_S, alert, explanation, lost

from limelens.serve.decisions.camera_state import CameraState
from limelens.watch.event import EventType
from limelens.watch.record import DamagedRecordError, EventFilter, Record, RecordError
from limelens.watch.record.presence import Presence
from limelens.watch.record.schema import APPLICATION_ID, MIGRATIONS, VERSION
from limelens.watch.record.writer import RecordWriter

Start = Callable[..., RecordWriter]
Process = subprocess.Popen[str]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def record_in_process(folder: Path) -> Iterator[Callable[..., Process]]:
    """Starts processes that record."""
    processes: list[Process] = []

    def begin(count: int, most_bytes: int = 0) -> Process:
        arguments = ["tests.watch.record.recording_process", folder, count, most_bytes]
        path = os.pathsep.join([str(ROOT), *sys.path])
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", *map(str, arguments)],
                env={**os.environ, "PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def lines(process: Process) -> Iterator[str]:
    assert process.stdout is not None
    return (line.strip() for line in process.stdout)


def recorded_by(process: Process) -> Iterator[str]:
    """The ids of what is on the disk; problems that pass, such as another's lock, are left out."""
    return (line for line in lines(process) if len(line) == 36)


def is_whole(folder: Path) -> bool:
    with sqlite3.connect(folder / "events.sqlite") as connection:
        (found,) = connection.execute("PRAGMA integrity_check").fetchone()
        return bool(found == "ok") and not connection.execute("PRAGMA foreign_key_check").fetchall()


def test_nothing_acknowledged_is_lost_by_kill_9(
    record_in_process: Callable[..., Process], folder: Path
) -> None:
    acknowledged: set[str] = set()
    for killed_after in (1, 40):
        process = record_in_process(10_000)
        said = recorded_by(process)
        acknowledged |= {next(said) for _ in range(killed_after)}
        process.send_signal(signal.SIGKILL)
        acknowledged |= {*said}
    with Record(folder) as record:
        recorded = {event.id: event for event in record.oldest_first()}
        assert acknowledged <= recorded.keys()
        for event_id in acknowledged:
            assert record.frame(event_id) is not None
            if recorded[event_id].has_overlay:
                assert record.overlay(event_id) is not None
    assert is_whole(folder)


def test_what_a_killed_process_left_standing_is_shown_and_ended_by_the_next_one(
    record_in_process: Callable[..., Process], start: Start, folder: Path
) -> None:
    process = record_in_process(10_000)
    alerted = next(lines(process))
    with Record(folder) as record:
        assert record.silent() == ()
        # Another writer ends nothing of one that lives.
        start().close(PATIENCE_S)
        assert record.count(EventFilter(states=(CameraState.UNKNOWN,))) == 0
        process.kill()
        process.wait()
        (silent,) = record.silent()
        assert silent.camera_id == "door"
        assert silent.since >= record.get(alerted).time
        num_before = record.count()
        last = record.list(limit=1).events[0]
        began = datetime.now(UTC)
        writer = start()
        writer.put(lost(camera_id="hall"))
        assert writer.flush(PATIENCE_S)
        (ended,) = record.list(EventFilter(cameras=("door",)), limit=1).events
        assert record.silent() == ()
        assert record.count() == num_before + 2
    event = ended.event
    assert (event.type, event.state, event.previous) == ("state", "unknown", last.state)
    assert (event.reason, event.sequence) == ("off", 0)
    # When it happened is not known: the event begins with the last sign of life, not now.
    assert max(silent.since, last.time) == event.time < began
    assert f"between {event.time:%Y-%m-%d %H:%M:%S} and {began:%Y-%m-%d %H:}" in event.detail
    assert not [path for path in folder.glob("writer-*") if path.name not in alive(folder)]


def alive(folder: Path) -> set[str]:
    """The lock files that the record knows of."""
    with sqlite3.connect(folder / "events.sqlite") as connection:
        return {f"writer-{row[0]}.lock" for row in connection.execute("SELECT id FROM writers")}


def watched(folder: Path) -> set[str]:
    """The cameras that the record knows the writer of."""
    with sqlite3.connect(folder / "events.sqlite") as connection:
        return {row[0] for row in connection.execute("SELECT camera_id FROM watched")}


def test_who_ends_in_order_or_was_off_leaves_nothing_standing(start: Start, folder: Path) -> None:
    writer = start()
    writer.put(alert())
    writer.put(lost(camera_id="hall", type=EventType.STATE, reason="off"))
    writer.close(PATIENCE_S)
    with Record(folder) as record:
        assert record.silent() == ()
    assert not list(folder.glob("writer-*"))


def test_a_camera_of_which_only_heartbeats_came_is_ended_too(
    start: Start, folder: Path, tmp_path: Path
) -> None:
    # As after a reload that exchanged the sink: the state is known from before.
    first = start()
    event = alert()
    first.put(event)
    first.close(PATIENCE_S)
    second = start()
    with Record(folder) as record:
        until(lambda: alive(folder))  # it has begun, and knows no camera yet
        assert record.silent() == ()
    second.put(replace(event, id="beat", type=EventType.HEARTBEAT))
    until(lambda: watched(folder) == {"door"})
    second.put(lost(camera_id="hall"))
    assert second.flush(PATIENCE_S)
    with Record(killed(folder, tmp_path / "killed")) as record:
        assert [one.camera_id for one in record.silent()] == ["door", "hall"]


def killed(folder: Path, to: Path) -> Path:
    """A record as it would be if its writers had been killed: a copy, of which nobody holds one."""
    to.mkdir()
    with (
        sqlite3.connect(folder / "events.sqlite") as source,
        sqlite3.connect(to / "events.sqlite") as target,
    ):
        source.backup(target)
    return to


def test_a_camera_that_two_watched_goes_on_if_one_of_them_is_killed(
    record_in_process: Callable[..., Process], start: Start, folder: Path
) -> None:
    writer = start()
    event = alert()
    writer.put(event)
    assert writer.flush(PATIENCE_S)
    other = record_in_process(1)
    assert len(next(recorded_by(other))) == 36
    (of_both,) = watched(folder)
    other.kill()
    other.wait()
    num_writers = len(alive(folder))
    # A camera that is new here is a reason to look at once.
    writer.put(lost(camera_id="hall"))
    until(lambda: len(alive(folder)) < num_writers)
    assert writer.flush(PATIENCE_S)
    with Record(folder) as record:
        of_it = record.list(EventFilter(cameras=(of_both,))).events
        assert [one.event.reason for one in of_it] == ["", ""]
        assert record.silent() == ()


def test_a_camera_is_silent_whatever_a_wrong_clock_recorded_before(
    start: Start, folder: Path, tmp_path: Path
) -> None:
    writer = start()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    writer.put(lost(camera_id="door", type=EventType.STATE, reason="off", time=tomorrow))
    writer.put(alert(camera_id="door"))
    assert writer.flush(PATIENCE_S)
    with Record(killed(folder, tmp_path / "killed")) as record:
        assert [one.camera_id for one in record.silent()] == ["door"]


def test_locks_that_no_writer_is_known_of_are_removed(start: Start, folder: Path) -> None:
    # As of one that was killed before it could say anything, such as on a full disk.
    folder.mkdir()
    stray = folder / "writer-0123.lock"
    stray.touch()
    writer = start()
    writer.put(alert())
    assert writer.flush(PATIENCE_S)
    assert {path.name for path in folder.glob("writer-*")} == alive(folder)
    assert not stray.exists()


def test_a_writer_whose_lock_was_removed_is_not_taken_for_dead_for_long(
    start: Start, folder: Path
) -> None:
    writer = start()
    writer.put(alert())
    assert writer.flush(PATIENCE_S)
    (lock,) = folder.glob("writer-*")
    lock.unlink()
    writer.put(alert())
    assert writer.flush(PATIENCE_S)
    assert lock.exists()
    with Record(folder) as record:
        assert record.silent() == ()


def test_a_presence_that_ended_closes_nothing_of_others(tmp_path: Path) -> None:
    presence = Presence(tmp_path)
    presence.release()
    with (tmp_path / "other").open("wb") as other:  # it gets the number that is free now
        presence.release()
        os.fstat(other.fileno())


SILENT_FOR_ANOTHER_USER = (
    "import fcntl, os, sys; from limelens.watch.record import Record; "
    "os.geteuid() or os.setuid(65534); print(len(Record(sys.argv[1]).silent()), end='')"
)


@pytest.mark.skipif(sys.platform == "win32", reason="it has other rights")
def test_who_may_read_the_record_may_ask_whether_its_writers_live(start: Start) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's is for one user only
        folder = Path(name) / "record"
        start(path=folder).close(PATIENCE_S)
        for path, mode in ((Path(name), 0o755), (folder, 0o777), (folder / "events.sqlite", 0o666)):
            path.chmod(mode)
        writer = start(path=folder)
        writer.put(alert())
        assert writer.flush(PATIENCE_S)
        (lock,) = folder.glob("writer-*")
        assert stat.S_IMODE(lock.stat().st_mode) == 0o666
        for mode in (0o666, 0o000):
            lock.chmod(mode)  # root looks as somebody else
            asked = subprocess.run(
                [sys.executable, "-c", SILENT_FOR_ANOTHER_USER, folder],
                capture_output=True,
                text=True,
                check=False,
            )
            assert (asked.stdout, asked.stderr) == ("0", "")
        writer.close(PATIENCE_S)


def test_what_is_too_old_makes_room_on_a_full_disk_that_allows_no_sign_of_life(
    record_in_process: Callable[..., Process], start: Start, folder: Path
) -> None:
    writer = start(max_age_days=36_500)
    event = alert(time=datetime.now(UTC) - timedelta(days=1000))
    writer.put(event)
    writer.explain(explanation(event.id))
    for _ in range(20):
        writer.put(alert())
    assert writer.flush(PATIENCE_S)
    overlay = folder / "overlays" / f"{event.id}.png"
    with sqlite3.connect(folder / "events.sqlite") as reader:
        # While somebody reads, the log only grows; and it may not.
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
        writer.close(PATIENCE_S)
        assert overlay.exists()
        most_bytes = (folder / "events.sqlite-wal").stat().st_size
        process = record_in_process(1, most_bytes=most_bytes)
        assert "the disk" in next(line for line in lines(process) if line.startswith("problem"))
        assert not alive(folder)
        until(lambda: not overlay.exists())
    reader.close()


def test_two_processes_write_one_record(
    record_in_process: Callable[..., Process], folder: Path
) -> None:
    processes = [record_in_process(25) for _ in range(2)]
    acknowledged = {next(recorded_by(process)) for process in processes for _ in range(25)}
    for process in processes:
        _, _ = process.communicate("\n")
        assert process.returncode == 0
    assert len(acknowledged) == 50
    with Record(folder) as record:
        assert {event.id for event in record.oldest_first()} == acknowledged
        assert record.count() == 50
        assert not record.gaps()
    assert is_whole(folder)


def test_a_full_disk_stops_recording_until_there_is_room(
    record_in_process: Callable[..., Process], folder: Path
) -> None:
    process = record_in_process(100, most_bytes=400_000)
    assert process.stdin is not None
    said = lines(process)
    problem = next(line for line in said if line.startswith("problem"))
    assert f"{folder / 'events.sqlite'}: the disk" in problem
    process.stdin.write("\n")  # there is room again
    process.stdin.flush()
    rest = list(said)
    assert "lost: 0" in rest
    assert rest[-1] == "problem:"
    with Record(folder) as record:
        assert record.count() == 100
    assert is_whole(folder)


def test_what_is_lost_is_counted_in_the_record(start: Start, folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    (folder / "events.sqlite").mkdir()  # nothing can be written there
    writer = start()
    until(lambda: writer.problem)
    event = alert(evidence=None)
    for number in range(10_050):
        writer.put(replace(event, id=f"event-{number}"))
    assert writer.num_lost == 50
    assert "10000 events waiting, 50 lost" in writer.problem
    (folder / "events.sqlite").rename(tmp_path / "away")
    until(lambda: not writer.problem)
    assert not writer.flush(PATIENCE_S)  # not all of them
    with Record(folder) as record:
        assert record.count() == 10_000
        (gap,) = record.gaps()
        assert (gap.num_events, gap.num_images) == (50, 0)
        assert gap.since <= gap.until
        assert "events.sqlite" in gap.reason


def test_a_record_that_was_moved_away_begins_anew(
    start: Start, folder: Path, tmp_path: Path
) -> None:
    writer = start()
    first, second = alert(), alert()
    writer.put(first)
    assert writer.flush(PATIENCE_S)
    open_before = Record(folder)
    folder.rename(tmp_path / "old")
    writer.put(second)
    assert writer.flush(PATIENCE_S)
    assert [one.id for one in open_before.list().events] == [second.id]
    open_before.close()
    for place, event in ((tmp_path / "old", first), (folder, second)):
        with Record(place) as record:
            assert [one.id for one in record.list().events] == [event.id]


def test_what_was_taken_before_closing_is_recorded_however_soon(
    start: Start, tmp_path: Path
) -> None:
    # The file is still being made when the writer is closed.
    for number in range(10):
        path = tmp_path / str(number)
        writer = start(path=path)
        event = alert()
        writer.put(event)
        writer.close(PATIENCE_S)
        with Record(path) as record:
            assert record.get(event.id).event.camera_id == event.camera_id


def test_an_event_that_cannot_be_stored_keeps_no_other_from_it(start: Start, folder: Path) -> None:
    good = alert()
    writer = start()
    for bad in (alert(id="../up"), alert(detail="\ud800"), alert(frame_id=1 << 70), good):
        writer.put(bad)
    writer.explain(explanation("no such event"))
    assert not writer.flush(PATIENCE_S)
    assert writer.num_lost == 4
    assert writer.problem == ""
    with Record(folder) as record:
        assert [one.id for one in record.list().events] == [good.id]


def test_an_overlay_is_never_overwritten(start: Start, folder: Path) -> None:
    event = alert()
    (folder / "overlays").mkdir(parents=True)
    path = folder / "overlays" / f"{event.id}.png"
    path.write_bytes(b"somebody's")
    writer = start()
    writer.put(event)
    writer.explain(explanation(event.id))
    writer.flush(PATIENCE_S)
    assert path.read_bytes() == b"somebody's"
    assert "overlays cannot be written: File exists" in writer.problem
    with Record(folder) as record:
        assert not record.get(event.id).has_overlay
        assert record.explanation(event.id) is not None


def test_tables_of_an_older_version_are_brought_up_to_date(folder: Path) -> None:
    folder.mkdir()
    connection = sqlite3.connect(folder / "events.sqlite")
    connection.executescript(MIGRATIONS[0])
    connection.execute(
        "INSERT INTO events (id, camera_id, sequence, type, time_ms, state, previous, reason, "
        "detail, votes, model, version, provider) VALUES ('old', 'door', 1, 'state', 1000, "
        "'clear', 'unknown', '', '', '{}', 'facemask', 1, 'CPU')"
    )
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    with Record(folder) as record:
        assert record.get("old").camera_id == "door"
        assert record.gaps() == ()


READ_BY_ANOTHER_USER = (
    "import fcntl, os, sys; from limelens.watch.record import Record; "
    "os.geteuid() or os.setuid(65534); record = Record(sys.argv[1]); "
    "print(len(record.list().events), record.gaps(), record.silent(), end='')"
)


@pytest.mark.skipif(sys.platform == "win32", reason="it has other rights")
@pytest.mark.parametrize("version", range(1, VERSION))
def test_an_older_record_that_may_only_be_read_can_be_read(start: Start, version: int) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's is for one user only
        folder = Path(name) / "record"
        writer = start(path=folder)
        writer.put(alert())
        writer.close(PATIENCE_S)
        file = folder / "events.sqlite"
        with sqlite3.connect(file) as connection:
            for table in ("watched", "writers", *(["gaps"] if version == 1 else [])):
                connection.execute(f"DROP TABLE {table}")
            connection.execute(f"PRAGMA user_version = {version}")
        connection.close()
        for path, mode in ((Path(name), 0o755), (folder, 0o555), (file, 0o444)):
            path.chmod(mode)
        before = file.read_bytes()
        try:
            read = subprocess.run(
                [sys.executable, "-c", READ_BY_ANOTHER_USER, folder],
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            folder.chmod(0o755)  # to be removed
        assert (read.stdout, read.stderr) == ("1 () ()", "")
        assert file.read_bytes() == before


def test_later_versions_of_the_tables_only_add_tables() -> None:
    # Whoever may only read an older record is given the tables that it lacks, empty ones.
    for step in MIGRATIONS[1:]:
        statements = [
            line for line in step.splitlines() if line and not line.startswith((" ", ")"))
        ]
        assert all(line.startswith(("CREATE TABLE ", "CREATE INDEX ")) for line in statements)


def test_tables_of_a_newer_version_are_refused(start: Start, folder: Path) -> None:
    writer = start()
    writer.put(alert())
    assert writer.flush(PATIENCE_S)
    writer.close(PATIENCE_S)
    with sqlite3.connect(folder / "events.sqlite") as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    with pytest.raises(RecordError, match=r"written by a newer limelens.* Update limelens"):
        Record(folder)
    later = start()
    later.put(alert())
    until(lambda: "written by a newer limelens" in later.problem)


def test_another_programs_database_is_left_alone(start: Start, folder: Path) -> None:
    folder.mkdir()
    file = folder / "events.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE theirs (value)")
    connection.close()
    before = file.read_bytes()
    with pytest.raises(RecordError, match="database of another program"):
        Record(folder)
    writer = start()
    writer.put(alert())
    until(lambda: "database of another program" in writer.problem)
    assert file.read_bytes() == before


@pytest.mark.parametrize("damage", [b"no database at all, but long enough" * 100, b"\x00" * 8192])
def test_a_damaged_record_says_so(start: Start, folder: Path, damage: bytes) -> None:
    writer = start()
    for _ in range(50):
        writer.put(alert())
    assert writer.flush(PATIENCE_S)
    writer.close(PATIENCE_S)
    file = folder / "events.sqlite"
    file.write_bytes(damage + file.read_bytes()[len(damage) :])
    with pytest.raises(DamagedRecordError, match=r"damaged .*Move its folder away"):
        Record(folder).list()
    later = start()
    later.put(alert())
    until(lambda: "damaged" in later.problem)


def test_a_damaged_event_says_so(start: Start, folder: Path) -> None:
    event = alert()
    writer = start()
    writer.put(event)
    writer.explain(explanation(event.id))
    assert writer.flush(PATIENCE_S)
    for table, column, read in (
        ("explanations", "document", Record.explanation),
        ("evidence", "document", Record.get),
        ("events", "state", Record.get),
    ):
        with sqlite3.connect(folder / "events.sqlite") as connection:
            connection.execute(f"UPDATE {table} SET {column} = '{{}}'")
        connection.close()
        with Record(folder) as record, pytest.raises(DamagedRecordError, match="cannot be read"):
            read(record, event.id)
    with Record(folder) as record, pytest.raises(DamagedRecordError, match="cannot be read"):
        record.list()
