"""Keeps messages on disk until they are delivered, in the order in which they came.

SQLite holds them, so that neither kill -9 nor a loss of power leaves half a message. While the disk
is full they wait in memory. It does not know where they go.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from limelens.serve.wording import counted
from limelens.watch.sinks.errors import SinkError
from limelens.watch.sinks.message import Message

_FILE: Final = "events.sqlite"
_MAX_IN_MEMORY: Final = 10_000
_PATIENCE_S: Final = 2.0
"""How long to wait for another process to let go of the spool."""
_BROKEN: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_PAST_HELP: Final = (sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)


@dataclass(frozen=True, slots=True)
class Spooled:
    """One message: the event's id, and its JSON."""

    id: str
    body: bytes


class Spool:
    """A bounded queue of messages in a folder, for one process and one thread at a time.

    If there are too many, the oldest give way: a receiver that comes back must end with the newest
    state, not with one from before.

    Args:
        folder: Made if it does not exist.
        max_events: How many it may hold.

    Raises:
        SinkError: The folder cannot be written, or another process uses it.
    """

    def __init__(self, folder: Path, max_events: int) -> None:
        self._path = folder / _FILE
        self._max = max_events
        self._unsaved: deque[Spooled] = deque()
        self._delivered_to = 0
        self._database: sqlite3.Connection | None = None
        self._num_saved = 0
        self._num_lost = 0
        self._aside = ""
        self._said = ""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(
                f"{folder}: {error.strerror}; expected a folder for events that wait"
            ) from error
        try:
            self._open()
        except sqlite3.Error as error:
            if _code(error) == sqlite3.SQLITE_BUSY:
                raise SinkError(
                    f"{folder}: another process uses it; give each webhook of each process a "
                    "spool of its own"
                ) from error
            if _code(error) in _PAST_HELP:
                raise SinkError(f"{folder}: cannot be written: {error}") from error
            self._failed(error)

    def __len__(self) -> int:
        return self._num_saved + len(self._unsaved)

    @property
    def problem(self) -> str:
        """What is wrong with it, for people; empty if nothing is."""
        lost = f"{counted(self._num_lost, 'event')} dropped, the oldest, since the spool was full"
        return "; ".join(filter(None, (self._said, lost if self._num_lost else "", self._aside)))

    def add(self, messages: Sequence[Message]) -> None:
        """Takes messages; on return they survive a kill and a loss of power, unless it says so."""
        self._unsaved.extend(Spooled(one.id, one.body) for one in messages)
        self.save()

    def save(self) -> None:
        """Writes to disk what could not be written before."""
        if self._database is not None and not self._path.exists():
            self.close()  # somebody removed it; what is written to it now would be lost
        if not self._unsaved and self._database is not None:
            return
        try:
            database = self._open()
            database.execute("PRAGMA synchronous = FULL")
            with _transaction(database):
                added = database.executemany(
                    "INSERT OR IGNORE INTO events (id, body) VALUES (?, ?)",
                    [(one.id, one.body) for one in self._unsaved],
                ).rowcount
                num_over = max(self._num_saved + added - self._max, 0)
                database.execute(
                    "DELETE FROM events WHERE number IN "
                    "(SELECT number FROM events ORDER BY number LIMIT ?)",
                    (num_over,),
                )
            self._num_saved += added - num_over
            self._num_lost += num_over
            self._unsaved.clear()
            self._said = ""
        except sqlite3.Error as error:
            self._failed(error)
            while len(self._unsaved) > min(_MAX_IN_MEMORY, self._max):
                self._unsaved.popleft()
                self._num_lost += 1

    def first(self) -> Spooled | None:
        """The oldest that was not delivered; None if there is none."""
        try:
            if self._num_saved:
                row = (
                    self._open()
                    .execute(
                        "SELECT id, body FROM events WHERE number > ? ORDER BY number LIMIT 1",
                        (self._delivered_to,),
                    )
                    .fetchone()
                )
                if row is not None:
                    return Spooled(*row)
        except sqlite3.Error as error:
            self._failed(error)
            if self._num_saved:  # those in memory must not go before those that cannot be read
                return None
        return self._unsaved[0] if self._unsaved else None

    def remove(self, message: Spooled) -> None:
        """Forgets the oldest; `message` must be what `first` returned."""
        if self._unsaved and self._unsaved[0].id == message.id:
            self._unsaved.popleft()
            return
        try:
            database = self._open()
            found = database.execute(
                "SELECT number FROM events WHERE id = ?", (message.id,)
            ).fetchone()
            if found is None:  # it gave way to newer ones meanwhile
                return
            # A full disk cannot even delete; this process then remembers, and a later one
            # delivers again what the receiver knows by its id.
            self._delivered_to = found[0]
            # A deletion that is lost with the power only repeats a message.
            database.execute("PRAGMA synchronous = NORMAL")
            self._num_saved -= database.execute(
                "DELETE FROM events WHERE number <= ?", (self._delivered_to,)
            ).rowcount
        except sqlite3.Error as error:
            self._failed(error)

    def close(self) -> None:
        """Lets another process use it."""
        if self._database is not None:
            with contextlib.suppress(sqlite3.Error):
                self._database.close()
            self._database = None

    def _open(self) -> sqlite3.Connection:
        if self._database is None:
            with contextlib.suppress(OSError):  # SQLite says why, if it fails
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            database = sqlite3.connect(
                self._path, timeout=_PATIENCE_S, isolation_level=None, check_same_thread=False
            )
            try:
                # The lock is the system's: it goes with the process, however that ends.
                for line in (
                    "PRAGMA locking_mode = EXCLUSIVE",
                    "PRAGMA auto_vacuum = FULL",
                    "PRAGMA journal_mode = WAL",
                    "CREATE TABLE IF NOT EXISTS events "
                    "(number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE, body BLOB)",
                    "BEGIN EXCLUSIVE",
                    "COMMIT",
                ):
                    database.execute(line)
                (self._num_saved,) = database.execute("SELECT count(*) FROM events").fetchone()
                (last,) = database.execute(
                    "SELECT coalesce(max(seq), 0) FROM sqlite_sequence"
                ).fetchone()
                # In another file than before, numbers begin anew.
                self._delivered_to = min(self._delivered_to, last)
            except BaseException:
                database.close()
                raise
            self._database = database
        return self._database

    def _failed(self, error: sqlite3.Error) -> None:
        if _code(error) in _BROKEN:
            self.close()
            self._num_saved = 0
            self._delivered_to = 0
            name = f"broken-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
            for end in ("", "-wal", "-shm"):
                with contextlib.suppress(OSError):
                    source = self._path.with_name(_FILE + end)
                    source.rename(source.with_name(f"{name}.sqlite{end}"))
            self._aside = f"{self._path} was damaged; it is now {name}.sqlite, and a new one began"
            return
        waiting = f"; {counted(len(self._unsaved), 'event')} in memory" if self._unsaved else ""
        self._said = f"{self._path}: {error}{waiting}"


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 if the error is not SQLite's."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
