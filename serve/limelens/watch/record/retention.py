"""Removes the oldest events, their images and files, by age and by size, a little at a time.

It knows tables and files, and nothing of threads: whoever calls `step` may do other work between
two steps, and so may other processes that write.
"""

from __future__ import annotations

import itertools
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from limelens.watch.record.database import OVERLAYS, transaction
from limelens.watch.record.storing import overlay_path

_EVENTS_PER_STEP: Final = 200
_FILES_PER_STEP: Final = 500
_PAGES_PER_STEP: Final = 2000
_DAY_MS: Final = 86_400_000
_YOUNG_S: Final = 3600.0
"""A file without an event may belong to one that another process is about to commit."""
_SWEPT_EVERY_S: Final = 3600.0
"""Only a process that is killed leaves files, and looking asks for the event of every one."""
_JUMP_S: Final = 3600.0
"""A clock that runs ahead of the time that passed by so much has jumped."""
_BELIEVED_AFTER_S: Final = 86_400.0


class Retention:
    """Keeps a record within its limits.

    Args:
        folder: The record's folder.
        max_age_days: Older events are removed.
        max_bytes: Above so many bytes in use, files included, the oldest are removed.
        clock: Seconds since 1970.
        monotonic: Seconds that no setting of the clock changes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_age_days: float,
        max_bytes: int,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._max_age_ms = round(max_age_days * _DAY_MS)
        self._max_bytes = max_bytes
        self._clock = clock
        self._monotonic = monotonic
        self._began = clock() - monotonic()
        self._jumped_at: float | None = None
        self._leaves_traces = True  # maybe of a process that was killed
        self._strays: Iterator[os.DirEntry[str]] | None = None
        self._swept_at = -math.inf

    def step(self, connection: sqlite3.Connection) -> bool:
        """Removes some of what is too old or too much.

        Args:
            connection: May write; in autocommit mode.

        Returns:
            Whether there may be more to remove.

        Raises:
            sqlite3.Error: From SQLite; then nothing was removed but files.
            OSError: A file cannot be removed; its event then stays.
        """
        before_ms = round(1000 * self._now()) - self._max_age_ms
        old = connection.execute(
            "SELECT number, id FROM events WHERE time_ms < ? ORDER BY time_ms LIMIT ?",
            (before_ms, _EVENTS_PER_STEP),
        ).fetchall()
        if not old:
            old = connection.execute(
                "SELECT number, id FROM events ORDER BY time_ms LIMIT ?",
                (self._num_too_much(connection),),
            ).fetchall()
        if old:
            self._remove(connection, old)
            self._leaves_traces = True
            return True
        if self._leaves_traces:
            # The log, and pages behind it, hold what was removed until they are written back.
            (is_busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._leaves_traces = bool(is_busy)
        # Free pages are used again; giving them back only matters once there are many.
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        if free > _PAGES_PER_STEP:
            connection.execute(f"PRAGMA incremental_vacuum({_PAGES_PER_STEP})").fetchall()
            return True
        return self._sweep(connection)

    def _now(self) -> float:
        """The time, in seconds since 1970; a jump of the clock ahead is believed after a day.

        Otherwise a clock that is wrong for a minute would empty the record.
        """
        passed = self._monotonic()
        ahead = self._clock() - passed - self._began
        if ahead < _JUMP_S:
            # Small corrections count, and so does a clock that was put back.
            self._began += ahead
            self._jumped_at = None
        elif self._jumped_at is None:
            self._jumped_at = passed
        elif passed - self._jumped_at > _BELIEVED_AFTER_S:
            self._began += ahead
            self._jumped_at = None
        return self._began + passed

    def _num_too_much(self, connection: sqlite3.Connection) -> int:
        """About how many events are too much, as far as one step goes."""
        used = bytes_used(connection)
        if used <= self._max_bytes:
            return 0
        (count,) = connection.execute("SELECT value FROM totals WHERE name = 'events'").fetchone()
        # Half of what events of average size would need: these may be larger.
        share = (used - self._max_bytes) / used / 2
        return min(_EVENTS_PER_STEP, math.ceil(share * int(count)))

    def _remove(self, connection: sqlite3.Connection, old: list[tuple[int, str]]) -> None:
        numbers = [number for number, _ in old]
        marks = ", ".join("?" * len(numbers))
        with_files = connection.execute(
            f"SELECT id FROM overlays JOIN events ON number = event WHERE event IN ({marks})",
            numbers,
        ).fetchall()
        # Files first: if this process ends here, the events are found again, the files are not.
        for (event_id,) in with_files:
            overlay_path(self._folder, event_id).unlink(missing_ok=True)
        with transaction(connection):
            connection.execute(f"DELETE FROM events WHERE number IN ({marks})", numbers)

    def _sweep(self, connection: sqlite3.Connection) -> bool:
        """Removes overlays that a process left behind when it was killed before it committed."""
        if self._strays is None:
            if self._monotonic() - self._swept_at < _SWEPT_EVERY_S:
                return False
            self._strays = os.scandir(self._folder / OVERLAYS)
            self._swept_at = self._monotonic()
        some = list(itertools.islice(self._strays, _FILES_PER_STEP))
        for entry in some:
            is_known = connection.execute(
                "SELECT 1 FROM overlays JOIN events ON number = event WHERE id = ?",
                (entry.name.removesuffix(".png"),),
            ).fetchone()
            if is_known is None:
                try:
                    is_young = self._clock() - entry.stat(follow_symlinks=False).st_mtime < _YOUNG_S
                    if entry.is_file(follow_symlinks=False) and not is_young:
                        Path(entry.path).unlink()
                except FileNotFoundError:  # another process was faster
                    pass
        if not some:
            self._strays = None
        return bool(some)


def bytes_used(connection: sqlite3.Connection) -> int:
    """Bytes in use: those of the database without its free pages, and those of the overlays."""
    pages, free, size, files = (
        connection.execute(query).fetchone()[0]
        for query in (
            "PRAGMA page_count",
            "PRAGMA freelist_count",
            "PRAGMA page_size",
            "SELECT value FROM totals WHERE name = 'overlay_bytes'",
        )
    )
    return int((pages - free) * size + files)
