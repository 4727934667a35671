"""From what is asked for to SQL, and from rows to events.

It knows tables and values, and nothing of files. Pages continue by key: each costs the same,
however far back it is.
"""

from __future__ import annotations

import functools
import json
import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from limelens.serve.decisions.camera_state import CameraState
from limelens.watch.event import Event, EventType
from limelens.watch.record.documents import from_ms, to_ms
from limelens.watch.record.errors import RecordError
from limelens.watch.record.recorded import Correction, EventFilter, RecordedEvent

_DETAILS: Final = """
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
ONE: Final = f"{_DETAILS} WHERE id = ?"
"""The query of one event by its id."""
_NEWEST_FIRST: Final = "ORDER BY events.time_ms DESC, number DESC"
_OLDEST_FIRST: Final = "ORDER BY events.time_ms, number"
_SEARCHED: Final = ("camera_id", "label", "reason", "detail", "model")
_MOST_FOUND: Final = 500
"""With more distinct texts in a column, events are compared one by one."""
_CURSOR: Final = re.compile(r"(-?[0-9]{1,16})-([0-9]{1,16})")
_ID_PART: Final = re.compile(r"[0-9a-f-]{6,36}")

Fetch = Callable[[str, Sequence[Any]], list[Any]]
"""Runs a query with its values."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What events must fulfil, in SQL.

    Args:
        sql: For `WHERE`; empty is all.
        values: For its question marks.
        is_never: Whether no event can fulfil it.
    """

    sql: str = ""
    values: tuple[Any, ...] = ()
    is_never: bool = False


def condition(fetch: Fetch, asked: EventFilter, search: str) -> Condition:
    """What a filter and a search say.

    Args:
        fetch: Asks which texts there are.
        asked: The filter.
        search: Text that one of the columns has in it, in any case; empty finds all.
    """
    parts: list[str] = []
    values: list[Any] = []
    for column, wanted in (
        ("camera_id", asked.cameras),
        ("state", asked.states),
        ("label", asked.labels),
        ("type", asked.types),
    ):
        some = [str(one) for one in wanted]
        if len(some) == 1:
            parts.append(f"{column} = ?")
        elif some:
            # Without the index of the column, which has no order of time over several values.
            parts.append(f"+{column} IN ({_marks(some)})")
        values += some
    if asked.since is not None:
        parts.append("time_ms >= ?")
        values.append(to_ms(asked.since))
    if asked.until is not None:
        parts.append("time_ms < ?")
        values.append(to_ms(asked.until))
    if asked.corrected is not None:
        no = "" if asked.corrected else "NOT "
        parts.append(f"number {no}IN (SELECT event FROM corrections)")
    if search:
        found = _searched(fetch, search)
        if found.is_never:
            return found
        parts.append(found.sql)
        values += found.values
    return Condition(" AND ".join(parts), tuple(values))


def page_query(
    wanted: Condition, cursor: str, limit: int, *, oldest_first: bool = False
) -> tuple[str, list[Any]]:
    """The query of one page and its values.

    Args:
        wanted: Which events.
        cursor: As `cursor_of` gave it; empty begins.
        limit: How many at most.
        oldest_first: Whether the list goes forward in time.

    Raises:
        RecordError: The cursor is none.
    """
    parts, values = ([wanted.sql] if wanted.sql else []), [*wanted.values]
    if cursor:
        parts.append(f"(time_ms, number) {'>' if oldest_first else '<'} (?, ?)")
        values += _key(cursor)
    where = f"WHERE {' AND '.join(parts)} " if parts else ""
    order = _OLDEST_FIRST if oldest_first else _NEWEST_FIRST
    # First which, by an index; then what is known of these alone.
    numbers = f"SELECT number FROM events {where}{order} LIMIT ?"
    return f"{_DETAILS} WHERE number IN ({numbers}) {order}", [*values, limit]


def count_query(wanted: Condition) -> tuple[str, tuple[Any, ...]]:
    """The query of how many there are, and its values."""
    if not wanted.sql:
        return "SELECT value FROM totals WHERE name = 'events'", ()
    return f"SELECT count(*) FROM events WHERE {wanted.sql}", wanted.values


def distinct_query(column: str) -> str:
    """The query of the texts in a column that has an index, without reading all events."""
    text = f"{column} <> ''"  # the condition of the indices that leave empty texts out
    return (
        f"WITH RECURSIVE found (value) AS (SELECT min({column}) FROM events WHERE {text} UNION ALL "
        f"SELECT (SELECT min({column}) FROM events WHERE {text} AND {column} > value) FROM found "
        "WHERE value IS NOT NULL) SELECT value FROM found WHERE value IS NOT NULL"
    )


def escaped(text: str) -> str:
    r"""A text as `LIKE ? ESCAPE '\'` takes it literally."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def cursor_of(event: RecordedEvent) -> str:
    """Where a list goes on behind this event."""
    return f"{to_ms(event.time)}-{event.number}"


def event_of(found: sqlite3.Row) -> RecordedEvent:
    """The event of a row of a page."""
    row = dict(found)  # finds a column faster than the row does
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
        votes=dict(_votes(row["votes"])),
        has_evidence=bool(row["has_evidence"]),
        has_thumbnail=bool(row["has_thumbnail"]),
        has_frame=bool(row["has_frame"]),
        has_overlay=bool(row["has_overlay"]),
        has_explanation=bool(row["has_explanation"]),
        correction=correction,
    )


@functools.lru_cache(maxsize=256)
def _votes(text: str) -> Mapping[str, int]:
    """Votes repeat; reading them anew costs more than the rest of an event."""
    return dict(json.loads(text))


def _searched(fetch: Fetch, search: str) -> Condition:
    """Events with a text.

    Few texts repeat in many events, so they are searched instead of the events.
    """
    like = f"%{escaped(search)}%"
    parts: list[str] = []
    values: list[Any] = []
    for column in _SEARCHED:
        texts = [
            row[0]
            for row in fetch(
                f"SELECT value FROM ({distinct_query(column)}) WHERE value LIKE ? ESCAPE '\\' "
                "LIMIT ?",
                (like, _MOST_FOUND + 1),
            )
        ]
        if len(texts) > _MOST_FOUND:
            parts.append(f"{column} LIKE ? ESCAPE '\\'")
            values.append(like)
        elif texts:
            parts.append(f"({column} <> '' AND {column} IN ({_marks(texts)}))")
            values += texts
    if _ID_PART.fullmatch(search.lower()):
        ids = fetch(
            "SELECT id FROM events WHERE id LIKE ? ESCAPE '\\' LIMIT ?", (like, _MOST_FOUND)
        )
        if ids:
            parts.append(f"id IN ({_marks(ids)})")
            values += [row[0] for row in ids]
    if not parts:
        return Condition(is_never=True)
    return Condition(f"({' OR '.join(parts)})", tuple(values))


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))


def _key(cursor: str) -> tuple[int, int]:
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise RecordError(f"{cursor!r} continues no list; expected what the last page said")
    return int(found[1]), int(found[2])
