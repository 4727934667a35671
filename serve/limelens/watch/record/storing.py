"""Writes events, explanations and images into an open record; the caller has the transaction.

It knows tables and what belongs into them, and nothing of threads, queues and full disks.
"""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path
from typing import Final

from limelens.serve.client.results import ServedExplanation
from limelens.watch.event import Event, EventExplanation
from limelens.watch.record.database import OVERLAYS
from limelens.watch.record.documents import evidence_json, explanation_json, to_json, to_ms
from limelens.watch.record.errors import RecordError
from limelens.watch.record.recorded import RecordedImage

_ID: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,63}")
_COLUMNS: Final = (
    "id", "camera_id", "sequence", "type", "time_ms", "state", "previous", "reason", "detail",
    "label", "probability", "votes", "person", "people", "frame_id", "capture_time_ms",
    "position_s", "model", "version", "provider",
)  # fmt: skip
_INSERT: Final = (
    f"INSERT INTO events ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    "ON CONFLICT (id) DO NOTHING"
)


def store_event(connection: sqlite3.Connection, event: Event) -> None:
    """Stores an event and its evidence, without images; one that is there already stays.

    Raises:
        RecordError: It cannot be stored, such as for its id.
        sqlite3.Error: From SQLite.
    """
    check_id(event.id)
    capture = event.capture_time
    values = (
        event.id, event.camera_id, event.sequence, event.type.value, to_ms(event.time),
        event.state.value, event.previous.value, event.reason, event.detail, event.label,
        event.probability, to_json(event.votes), event.person, event.people, event.frame_id,
        None if capture is None else to_ms(capture), event.position_s, event.model, event.version,
        event.provider,
    )  # fmt: skip
    evidence = None if event.evidence is None else evidence_json(event.evidence)
    added = connection.execute(_INSERT, values)
    if added.rowcount and evidence is not None:
        connection.execute("INSERT INTO evidence VALUES (?, ?)", (added.lastrowid, evidence))


def store_image(
    connection: sqlite3.Connection, event_id: str, kind: str, image: RecordedImage
) -> None:
    """Stores the thumbnail or the frame of an event; raises as SQLite."""
    connection.execute(
        "INSERT INTO images SELECT number, ?, ?, ? FROM events WHERE id = ? ON CONFLICT DO NOTHING",
        (kind, image.data, image.is_blurred, event_id),
    )


def store_explanation(connection: sqlite3.Connection, one: EventExplanation) -> bool:
    """Stores why an event was decided, without the overlay.

    Returns:
        Whether it is new: the first explanation of an event stays.

    Raises:
        RecordError: The event is not in the record.
        sqlite3.Error: From SQLite.
    """
    number = _number_of(connection, one.event_id)
    found: ServedExplanation | None = one.explanation
    added = connection.execute(
        "INSERT INTO explanations VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            number,
            None if found is None else explanation_json(found),
            one.reason,
            None if found is None or not found.segments_png else found.segments_png,
        ),
    )
    return added.rowcount > 0


def store_overlay(connection: sqlite3.Connection, one: EventExplanation) -> None:
    """Notes that the overlay of an event has its file; raises as `store_explanation`."""
    number = _number_of(connection, one.event_id)
    connection.execute("INSERT INTO overlays VALUES (?, ?)", (number, len(one.overlay_png)))


def unexplained_state(connection: sqlite3.Connection, event_id: str) -> str | None:
    """The state of an event without an explanation; None if it has one, or does not exist."""
    row = connection.execute(
        "SELECT state FROM events WHERE id = ? AND number NOT IN (SELECT event FROM explanations)",
        (event_id,),
    ).fetchone()
    return None if row is None else str(row[0])


def write_new(path: Path, data: bytes) -> None:
    """Writes a file that does not exist yet, whole and synced, which only its owner may read.

    Raises:
        FileExistsError: It exists.
        OSError: It cannot be written; then nothing of it stays.
    """
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def overlay_path(folder: Path, event_id: str) -> Path:
    """The file of an event's overlay.

    Raises:
        RecordError: The id cannot be a file's name.
    """
    check_id(event_id)
    return folder / OVERLAYS / f"{event_id}.png"


def check_id(event_id: str) -> None:
    """Raises `RecordError` unless an id is plain: files are named by it."""
    if not _ID.fullmatch(event_id):
        raise RecordError(
            f"{event_id!r} is no id of an event; expected up to 64 letters, digits, - and _"
        )


def _number_of(connection: sqlite3.Connection, event_id: str) -> int:
    row = connection.execute("SELECT number FROM events WHERE id = ?", (event_id,)).fetchone()
    if row is None:
        raise RecordError(f"event {event_id} is not in the record")
    return int(row[0])
