"""The tables of the record, and how older ones become them.

It knows SQL and nothing of events. Every change of the tables is another step at the end of
`MIGRATIONS`; a step that has been released never changes.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Final

from limelens.watch.record.errors import RecordError

APPLICATION_ID: Final = 0x4C4C4556
"""Says in the file's header that it is a record of limelens: `LLEV`."""

_FIRST: Final = """
CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    camera_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    type TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    state TEXT NOT NULL,
    previous TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    label TEXT,
    probability REAL,
    votes TEXT NOT NULL,
    person INTEGER,
    people INTEGER,
    frame_id INTEGER,
    capture_time_ms INTEGER,
    position_s REAL,
    model TEXT NOT NULL,
    version INTEGER NOT NULL,
    provider TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_time ON events (time_ms);
CREATE INDEX events_by_camera ON events (camera_id, time_ms);
CREATE INDEX events_by_state ON events (state, time_ms);
CREATE INDEX events_by_label ON events (label, time_ms);
CREATE INDEX events_by_type ON events (type, time_ms);
CREATE INDEX events_by_model ON events (model, time_ms);
CREATE INDEX events_by_camera_and_state ON events (camera_id, state, time_ms);
CREATE INDEX events_by_reason ON events (reason, time_ms) WHERE reason <> '';
CREATE INDEX events_by_detail ON events (detail, time_ms) WHERE detail <> '';

CREATE TABLE evidence (
    event INTEGER PRIMARY KEY REFERENCES events ON DELETE CASCADE,
    document TEXT NOT NULL
) STRICT;

CREATE TABLE images (
    event INTEGER NOT NULL REFERENCES events ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('thumbnail', 'frame')),
    jpeg BLOB NOT NULL,
    blurred INTEGER NOT NULL,
    PRIMARY KEY (event, kind)
) STRICT;

CREATE TABLE explanations (
    event INTEGER PRIMARY KEY REFERENCES events ON DELETE CASCADE,
    document TEXT,
    reason TEXT NOT NULL,
    segments_png BLOB
) STRICT;

CREATE TABLE overlays (
    event INTEGER PRIMARY KEY REFERENCES events ON DELETE CASCADE,
    num_bytes INTEGER NOT NULL
) STRICT;

CREATE TABLE corrections (
    event INTEGER PRIMARY KEY REFERENCES events ON DELETE CASCADE,
    label TEXT NOT NULL,
    by TEXT NOT NULL,
    time_ms INTEGER NOT NULL,
    file TEXT NOT NULL
) STRICT;

CREATE TABLE totals (
    name TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO totals VALUES ('events', 0), ('overlay_bytes', 0);
CREATE TRIGGER event_added AFTER INSERT ON events BEGIN
    UPDATE totals SET value = value + 1 WHERE name = 'events';
END;
CREATE TRIGGER event_removed AFTER DELETE ON events BEGIN
    UPDATE totals SET value = value - 1 WHERE name = 'events';
END;
CREATE TRIGGER overlay_added AFTER INSERT ON overlays BEGIN
    UPDATE totals SET value = value + new.num_bytes WHERE name = 'overlay_bytes';
END;
CREATE TRIGGER overlay_removed AFTER DELETE ON overlays BEGIN
    UPDATE totals SET value = value - old.num_bytes WHERE name = 'overlay_bytes';
END;
"""

_GAPS: Final = """
CREATE TABLE gaps (
    number INTEGER PRIMARY KEY,
    from_ms INTEGER NOT NULL,
    to_ms INTEGER NOT NULL,
    num_events INTEGER NOT NULL,
    num_images INTEGER NOT NULL,
    reason TEXT NOT NULL
) STRICT;
"""

_WRITERS: Final = """
CREATE TABLE writers (
    id TEXT PRIMARY KEY,
    alive_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE watched (
    camera_id TEXT PRIMARY KEY,
    writer TEXT NOT NULL REFERENCES writers ON DELETE CASCADE
) STRICT;
CREATE INDEX watched_by_writer ON watched (writer);
"""

MIGRATIONS: Final[tuple[str, ...]] = (_FIRST, _GAPS, _WRITERS)
"""Step n turns version n of the tables into version n + 1; version 0 is an empty file."""
VERSION: Final = len(MIGRATIONS)
_TABLE: Final = "CREATE TABLE"


def version_of(connection: sqlite3.Connection) -> int:
    """The version of a file's tables; 0 if it is empty.

    Raises:
        RecordError: The file is another program's, or a newer limelens wrote it.
    """
    with _at_one_moment(connection):
        application, version, num_tables = (
            connection.execute(query).fetchone()[0]
            for query in (
                "PRAGMA application_id",
                "PRAGMA user_version",
                "SELECT count(*) FROM sqlite_schema",
            )
        )
    if not application and not version and not num_tables:
        return 0
    if application != APPLICATION_ID:
        raise RecordError("it is a database of another program; expected a record of limelens")
    if version > VERSION:
        raise RecordError(
            f"its tables have version {version}, written by a newer limelens; this one reads "
            f"versions up to {VERSION}. Update limelens"
        )
    return int(version)


@contextlib.contextmanager
def _at_one_moment(connection: sqlite3.Connection) -> Iterator[None]:
    """What is read in the context is from one moment: another may just make the tables."""
    if connection.in_transaction:
        yield
        return
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("COMMIT")


def migrate(connection: sqlite3.Connection) -> None:
    """Brings the tables to this version, in one transaction; does nothing if they have it.

    Args:
        connection: In autocommit mode, which may write.

    Raises:
        RecordError: As for `version_of`.
    """
    if version_of(connection) == VERSION:
        return
    connection.execute("BEGIN EXCLUSIVE")
    try:
        # Another process may have done it meanwhile.
        for step in MIGRATIONS[version_of(connection) :]:
            for statement in _statements(step):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def supplement(connection: sqlite3.Connection) -> None:
    """Adds the tables that an older file lacks to a connection that only reads; they are empty.

    That is enough while the steps after the first one only add tables.
    """
    connection.execute("PRAGMA temp_store = MEMORY")
    for step in MIGRATIONS[version_of(connection) :]:
        for statement in _statements(step):
            if statement.lstrip().startswith(_TABLE):
                connection.execute(statement.replace(_TABLE, "CREATE TEMP TABLE", 1))


def _statements(script: str) -> list[str]:
    """The statements of a script; `executescript` would commit the transaction."""
    statements, lines = [], ""
    for line in script.splitlines(keepends=True):
        lines += line
        if sqlite3.complete_statement(lines):
            statements.append(lines)
            lines = ""
    return statements
