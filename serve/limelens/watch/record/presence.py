"""Who writes the record, and until when: what a process that is killed cannot say itself.

Each writer has a row with its last sign of life, and holds the lock of a file while it lives. Of a
row that nobody holds the lock of, the cameras are not watched any more. It knows tables and locks.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.watch.event import Event, EventType, new_event_id
from limelens.watch.record.database import FILE, identity
from limelens.watch.record.documents import from_ms
from limelens.watch.record.storing import store_event

SIGN_S: Final = 10.0
"""Between two signs of life while nothing happens."""
_SILENT_AFTER_MS: Final = 60_000
"""Where files cannot be locked, silence must do."""
_TIME: Final = "%Y-%m-%d %H:%M:%S"
# In the order of recording, because a clock may have been put back. The addition keeps SQLite from
# going back through the events of all cameras, where the index of one will do.
_LAST: Final = (
    "SELECT state, reason, time_ms FROM events "
    "WHERE number = (SELECT max(number + 0) FROM events WHERE camera_id = ?)"
)


@dataclass(frozen=True, slots=True)
class _Silent:
    """A camera whose last state stands, though nobody watches it; times in ms since 1970."""

    camera_id: str
    state: CameraState
    alive_ms: int


class Presence:
    """That somebody writes, from its construction until `end` or the end of the process.

    Args:
        folder: The record's folder.

    Raises:
        OSError: Nothing can be written there.
    """

    def __init__(self, folder: Path) -> None:
        self._id = uuid.uuid4().hex
        self._folder = folder
        self._path = _lock_path(folder, self._id)
        self._lock: int | None = None
        self._hold()

    def sign(self, connection: sqlite3.Connection, cameras: frozenset[str]) -> None:
        """Says that it lives and watches these cameras, in the caller's transaction.

        Raises:
            OSError: Its lock was removed, and cannot be made again.
        """
        self._hold()
        connection.execute(
            "INSERT INTO writers VALUES (?, ?) "
            "ON CONFLICT (id) DO UPDATE SET alive_ms = excluded.alive_ms",
            (self._id, _now_ms()),
        )
        connection.executemany(
            "INSERT INTO watched VALUES (?, ?) ON CONFLICT (camera_id) "
            "DO UPDATE SET writer = excluded.writer WHERE writer <> excluded.writer",
            [(camera_id, self._id) for camera_id in sorted(cameras)],
        )

    def end(self, connection: sqlite3.Connection) -> None:
        """Says that it ends, having recorded all that there was to say; raises as SQLite."""
        connection.execute("DELETE FROM writers WHERE id = ?", (self._id,))
        # Only now: until then whoever looks must find it held.
        self.release()
        _remove(self._path)

    def release(self) -> None:
        """Ends without a word, as a process does that is killed."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _hold(self) -> None:
        """Holds the lock of its file, which somebody may have removed."""
        while self._lock is None or identity(self._path) != identity(self._lock):
            self.release()
            self._lock = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            # Whoever may read the record may ask whether its writers live.
            with contextlib.suppress(OSError):
                self._path.chmod(stat.S_IMODE((self._folder / FILE).stat().st_mode))
            try:
                import fcntl
            except ImportError:  # not on every system
                return
            fcntl.flock(self._lock, fcntl.LOCK_EX)


def close_silent(connection: sqlite3.Connection, folder: Path) -> None:
    """Records, in the caller's transaction, that cameras of writers that were killed are unknown.

    When such a writer ended is not known. From its last sign of life on nobody can say how its
    cameras were, so that is the event's time, and its detail names the time until now.
    """
    gone = _gone(connection, folder)
    for writer in gone:
        for one in _silent(connection, *writer):
            since, now = from_ms(one.alive_ms), datetime.now(UTC)
            # A clock may be back behind it.
            first, last = sorted((since, now))
            event = Event(
                id=new_event_id(),
                camera_id=one.camera_id,
                sequence=0,
                type=EventType.STATE,
                time=since,
                state=CameraState.UNKNOWN,
                previous=one.state,
                reason=UnknownReason.OFF.value,
                detail=f"watching ended without notice between {first:{_TIME}} and {last:{_TIME}} "
                "UTC",
            )
            store_event(connection, event)
    for writer_id, _ in gone:
        connection.execute("DELETE FROM writers WHERE id = ?", (writer_id,))
    _remove_stray_locks(connection, folder)


def silent_cameras(connection: sqlite3.Connection, folder: Path) -> list[tuple[datetime, str]]:
    """The cameras whose last state stands though nobody watches them, with the last sign of life.

    Raises:
        sqlite3.Error: From SQLite.
    """
    return [
        (from_ms(one.alive_ms), one.camera_id)
        for writer in _gone(connection, folder)
        # Read after the lock was looked at: a writer that just ended has left no row here.
        for one in _silent(connection, *writer)
    ]


def _gone(connection: sqlite3.Connection, folder: Path) -> list[tuple[str, int]]:
    """The writers that ended without a word: id and last sign of life."""
    rows = connection.execute("SELECT id, alive_ms FROM writers ORDER BY alive_ms").fetchall()
    return [(row[0], row[1]) for row in rows if not _is_alive(folder, row[0], row[1])]


def _silent(connection: sqlite3.Connection, writer: str, alive_ms: int) -> Iterator[_Silent]:
    rows = connection.execute(
        "SELECT camera_id FROM watched WHERE writer = ? ORDER BY camera_id", (writer,)
    ).fetchall()
    for (camera_id,) in rows:
        last = connection.execute(_LAST, (camera_id,)).fetchone()
        if last is None or last[1] == UnknownReason.OFF:
            continue
        # A clock may have been put back between an event and the last sign.
        yield _Silent(camera_id, CameraState(last[0]), max(alive_ms, last[2]))


def _is_alive(folder: Path, writer: str, alive_ms: int) -> bool:
    try:
        return _is_held(_lock_path(folder, writer))
    except (ImportError, PermissionError):
        return abs(_now_ms() - alive_ms) < _SILENT_AFTER_MS


def _is_held(path: Path) -> bool:
    import fcntl

    try:
        number = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # the record was copied
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(number)
    return False


def _remove_stray_locks(connection: sqlite3.Connection, folder: Path) -> None:
    """Removes the locks of writers that ended and have no row, such as on a full disk."""
    known = {_lock_path(folder, row[0]) for row in connection.execute("SELECT id FROM writers")}
    for path in folder.glob("writer-*.lock"):
        if path in known:
            continue
        # One that is just being made may be taken for a stray: its writer looks, and makes it anew.
        with contextlib.suppress(ImportError, PermissionError):
            if not _is_held(path):
                _remove(path)


def _remove(path: Path) -> None:
    # A lock that stays disturbs nobody.
    with contextlib.suppress(OSError):
        path.unlink()


def _lock_path(folder: Path, writer: str) -> Path:
    return folder / f"writer-{writer}.lock"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
