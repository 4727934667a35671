"""From what is asked for to SQL, and from rows to events.

It knows tables and values, and nothing of files. Pages continue by key: each costs the same,
however far back it is.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Any, Final

from limelens.serve.decisions.camera_state import CameraState
from limelens.watch.event import Event, EventType
from limelens.watch.record.documents import from_ms, to_ms
from limelens.watch.record.errors import RecordError
from limelens.watch.record.recorded import Correction, EventFilter, RecordedEvent

SELECT: Final = """
SELECT events.*,
    EXISTS (SELECT 1 FROM evidence WHERE event = number) AS has_evidence,
    EXISTS (SELECT 1 FROM images WHERE event = number AND kind = 'thumbnail') AS has_thumbnail,
    EXISTS (SELECT 1 FROM images WHERE event = number AND kind = 'frame') AS has_frame,
    EXISTS (SELECT 1 FROM overlays WHERE event = number) AS has_overlay,
    EXISTS (SELECT 1 FROM explanations WHERE event = number) AS has_explanation,
    corrections.label AS right_label, corrections.by AS corrected_by,
    corrections.time_ms AS corrected_ms, corrections.file AS corrected_file
FROM events LEFT JOIN corrections ON corrections.event = number
"""
_SEARCHED: Final = ("camera_id", "events.label", "detail", "reason", "model", "id")
_NEWEST_FIRST: Final = "ORDER BY events.time_ms DESC, number DESC"
_OLDEST_FIRST: Final = "ORDER BY events.time_ms, number"


def page_query(
    asked: EventFilter, search: str, cursor: str, limit: int, *, oldest_first: bool = False
) -> tuple[str, list[Any]]:
    """The query of one page and its values.

    Args:
        asked: Which events.
        search: Text that one of their columns has in it, in any case; empty finds all.
        cursor: As `cursor_of` gave it; empty begins.
        limit: How many at most.
        oldest_first: Whether the list goes forward in time.

    Raises:
        RecordError: The cursor is none.
    """
    parts, values = _conditions(asked, search)
    if cursor:
        side = ">" if oldest_first else "<"
        parts.append(f"(events.time_ms, number) {side} (?, ?)")
        values += _key(cursor)
    where = f"WHERE {' AND '.join(parts)} " if parts else ""
    order = _OLDEST_FIRST if oldest_first else _NEWEST_FIRST
    return f"{SELECT}{where}{order} LIMIT ?", [*values, limit]


def count_query(asked: EventFilter, search: str) -> tuple[str, list[Any]]:
    """The query of how many there are, and its values."""
    parts, values = _conditions(asked, search)
    if not parts:
        return "SELECT value FROM totals WHERE name = 'events'", []
    joined = "events LEFT JOIN corrections ON corrections.event = number"
    return f"SELECT count(*) FROM {joined} WHERE {' AND '.join(parts)}", values


def cursor_of(event: RecordedEvent) -> str:
    """Where a list goes on behind this event."""
    return f"{to_ms(event.time)}-{event.number}"


def event_of(row: sqlite3.Row) -> RecordedEvent:
    """The event of a row of `SELECT`."""
    capture = row["capture_time_ms"]
    event = Event(
        id=row["id"],
        camera_id=row["camera_id"],
        sequence=row["sequence"],
        type=EventType(row["type"]),
        time=from_ms(row["time_ms"]),
        state=CameraState(row["state"]),
        previous=CameraState(row["previous"]),
        reason=row["reason"],
        detail=row["detail"],
        label=row["label"],
        probability=row["probability"],
        person=row["person"],
        people=row["people"],
        frame_id=row["frame_id"],
        capture_time=None if capture is None else from_ms(capture),
        position_s=row["position_s"],
        model=row["model"],
        version=row["version"],
        provider=row["provider"],
    )
    correction = None
    if row["right_label"] is not None:
        correction = Correction(
            row["right_label"],
            row["corrected_by"],
            from_ms(row["corrected_ms"]),
            row["corrected_file"],
        )
    return RecordedEvent(
        number=row["number"],
        event=event,
        votes=json.loads(row["votes"]),
        has_evidence=bool(row["has_evidence"]),
        has_thumbnail=bool(row["has_thumbnail"]),
        has_frame=bool(row["has_frame"]),
        has_overlay=bool(row["has_overlay"]),
        has_explanation=bool(row["has_explanation"]),
        correction=correction,
    )


def _conditions(asked: EventFilter, search: str) -> tuple[list[str], list[Any]]:
    parts: list[str] = []
    values: list[Any] = []

    def among(column: str, wanted: Iterable[str]) -> None:
        some = [str(one) for one in wanted]
        if some:
            parts.append(f"{column} IN ({', '.join('?' * len(some))})")
            values.extend(some)

    among("camera_id", asked.cameras)
    among("state", asked.states)
    among("events.label", asked.labels)
    among("type", asked.types)
    if asked.since is not None:
        parts.append("events.time_ms >= ?")
        values.append(to_ms(asked.since))
    if asked.until is not None:
        parts.append("events.time_ms < ?")
        values.append(to_ms(asked.until))
    for wanted, table in ((asked.corrected, "corrections"), (asked.explained, "explanations")):
        if wanted is not None:
            no = "" if wanted else "NOT "
            parts.append(f"{no}EXISTS (SELECT 1 FROM {table} AS t WHERE t.event = number)")
    if search:
        text = search.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        parts.append(f"({' OR '.join(f'{one} LIKE ? ESCAPE ?' for one in _SEARCHED)})")
        values += [f"%{text}%", "\\"] * len(_SEARCHED)
    return parts, values


def _key(cursor: str) -> tuple[int, int]:
    time_ms, _, number = cursor.rpartition("-")
    try:
        return int(time_ms), int(number)
    except ValueError:
        raise RecordError(f"{cursor!r} continues no list; expected what the last page said") from (
            None
        )
