"""Reads the record: lists, single events, their images, and what would have been decided.

It opens the file to read only, so that whoever looks keeps nobody from writing. Safe to use from
any thread. `mark_wrong` alone writes, by a connection of its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from limelens.watch.record.correcting import mark_wrong
from limelens.watch.record.database import folder_of, legible
from limelens.watch.record.documents import evidence_of, explanation_of, from_ms
from limelens.watch.record.errors import RecordError, UnknownEventError
from limelens.watch.record.exporting import ExportFormat, export
from limelens.watch.record.presence import silent_cameras
from limelens.watch.record.queries import (
    ONE,
    condition,
    count_query,
    cursor_of,
    distinct_query,
    escaped,
    event_of,
    page_query,
)
from limelens.watch.record.reader import Reader
from limelens.watch.record.recorded import (
    Correction,
    EventFilter,
    EventPage,
    Gap,
    RecordedEvent,
    RecordedExplanation,
    RecordedImage,
    Silence,
)
from limelens.watch.record.replay import Replay, replay
from limelens.watch.record.retention import bytes_used
from limelens.watch.record.storing import overlay_path

_EVERYTHING: Final = EventFilter()
_MOST: Final = 1000
_COLUMNS: Final = ("camera_id", "label", "state", "type")


class Record:
    """The record of a folder.

    Args:
        path: The folder.

    Raises:
        NoRecordError: There is no record in it.
        DamagedRecordError: It is damaged.
        RecordError: It cannot be used, or a newer limelens wrote it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.folder = folder_of(path)
        self._reader = Reader(self.folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._reader.close()

    def list(
        self,
        asked: EventFilter = _EVERYTHING,
        search: str = "",
        *,
        before: str = "",
        limit: int = 50,
    ) -> EventPage:
        """Some events, newest first, without evidence.

        Args:
            asked: Which events.
            search: Text in the camera, label, detail, reason, model or id, in any case.
            before: `EventPage.before` of the page that this one continues.
            limit: How many at most, 1 to 1000.

        Raises:
            RecordError: A value cannot be used, or the record cannot be read.
        """
        return self._page(asked, search, before, limit, oldest_first=False)

    def oldest_first(
        self, asked: EventFilter = _EVERYTHING, search: str = ""
    ) -> Iterator[RecordedEvent]:
        """All events asked for, oldest first; raises as `list`.

        It reads a page at a time, so that a slow reader keeps nobody from writing.
        """
        cursor = ""
        while True:
            page = self._page(asked, search, cursor, _MOST, oldest_first=True)
            yield from page.events
            cursor = page.before
            if not cursor:
                return

    def count(self, asked: EventFilter = _EVERYTHING, search: str = "") -> int:
        """How many events `list` has in all."""
        wanted = condition(self._reader.all, asked, search)
        return 0 if wanted.is_never else int(self._reader.one(*count_query(wanted))[0])

    def values(self, column: str) -> tuple[str, ...]:
        """What a column has: `camera_id`, `label`, `state` or `type`; in alphabetical order."""
        if column not in _COLUMNS:
            raise RecordError(f"no column {column!r}; expected one of {', '.join(_COLUMNS)}")
        return tuple(row[0] for row in self._reader.all(distinct_query(column)))

    def get(self, event_id: str) -> RecordedEvent:
        """One event, with evidence.

        Raises:
            UnknownEventError: There is no such event, or it was removed.
        """
        rows = self._reader.all(ONE, (event_id,))
        if not rows:
            raise UnknownEventError(
                f"there is no event {event_id!r} in {self.folder}; it may have been removed for "
                "its age"
            )
        with legible(self.folder):
            found = event_of(rows[0])
        if not found.has_evidence:
            return found
        row = self._reader.one("SELECT document FROM evidence WHERE event = ?", (found.number,))
        with legible(self.folder):
            return replace(found, event=replace(found.event, evidence=evidence_of(row[0])))

    def find(self, start: str) -> RecordedEvent:
        """The only event whose id starts, or ends, so; raises as `get`, also if there are several.

        Ids of the same hour start alike, so the end of one is the shorter name.
        """
        with contextlib.suppress(UnknownEventError):
            return self.get(start)
        text = escaped(start)
        rows = self._reader.all(
            "SELECT id FROM events WHERE id LIKE ? ESCAPE '\\' OR id LIKE ? ESCAPE '\\' LIMIT 2",
            (f"{text}%", f"%{text}"),
        )
        if len(rows) > 1:
            raise UnknownEventError(f"several events are called {start!r}; expected more of the id")
        return self.get(rows[0][0] if rows else start)

    def thumbnail(self, event_id: str) -> RecordedImage | None:
        """The thumbnail; None if none was kept."""
        return self._image(event_id, "thumbnail")

    def frame(self, event_id: str) -> RecordedImage | None:
        """The frame as it was decided; None if it was not kept."""
        return self._image(event_id, "frame")

    def overlay(self, event_id: str) -> RecordedImage | None:
        """The overlay; None if there is none, or its file is gone."""
        try:
            return RecordedImage(overlay_path(self.folder, event_id).read_bytes(), "image/png")
        except FileNotFoundError:
            return None

    def explanation(self, event_id: str) -> RecordedExplanation | None:
        """Why the event was decided; None if it was not explained."""
        rows = self._reader.all(
            "SELECT explanations.* FROM explanations JOIN events ON event = number WHERE id = ?",
            (event_id,),
        )
        if not rows:
            return None
        (row,) = rows
        document, png = row["document"], row["segments_png"] or b""
        with legible(self.folder):
            return RecordedExplanation(
                None if document is None else explanation_of(document, png), row["reason"]
            )

    def replay(
        self,
        event_id: str,
        *,
        threshold: float | None = None,
        window: int | None = None,
        required: int | None = None,
        required_to_alert: int | None = None,
    ) -> Replay:
        """What would have been decided; takes and raises what `replay` does, and as `get`."""
        return replay(
            self.get(event_id).event,
            threshold=threshold,
            window=window,
            required=required,
            required_to_alert=required_to_alert,
        )

    def mark_wrong(
        self, event_id: str, label: str, by: str = "", review_folder: Path | None = None
    ) -> Correction:
        """Notes what an event should have been, and gives its frame to `limelens train`.

        Args:
            event_id: The event.
            label: The right label.
            by: Who says so.
            review_folder: The frame goes to LABEL/EVENT.jpg in it, cut to what was judged, if it
                was kept and shows faces as they are. None writes no file.

        Returns:
            What was noted; its `file` is empty if there is none.

        Raises:
            UnknownEventError: There is no such event.
            RecordError: The label cannot be a folder's name, or the record cannot be written.
            OSError: The frame cannot be written.
        """
        found = self.get(event_id)
        return mark_wrong(self.folder, found, self.frame(event_id), label, by, review_folder)

    def export(
        self,
        file: BinaryIO,
        form: ExportFormat,
        asked: EventFilter = _EVERYTHING,
        search: str = "",
    ) -> int:
        """Writes events, oldest first; takes, returns and raises as `export` and `list` do."""
        return export(self.oldest_first(asked, search), file, form)

    def gaps(self) -> tuple[Gap, ...]:
        """The times in which something could not be recorded, newest first."""
        rows = self._reader.all("SELECT * FROM gaps ORDER BY number DESC LIMIT ?", (_MOST,))
        return tuple(
            Gap(
                from_ms(row["from_ms"]),
                from_ms(row["to_ms"]),
                row["num_events"],
                row["num_images"],
                row["reason"],
            )
            for row in rows
        )

    def silent(self) -> tuple[Silence, ...]:
        """The cameras whose last state stands although nobody watches them any more.

        What watched them was killed, and none has started since that records here.
        """
        with self._reader.reading() as connection:
            found = silent_cameras(connection, self.folder)
        return tuple(Silence(camera_id, since) for since, camera_id in found)

    @property
    def num_bytes(self) -> int:
        """How many bytes are in use, overlays included."""
        with self._reader.reading() as connection:
            return bytes_used(connection)

    def _page(
        self, asked: EventFilter, search: str, cursor: str, limit: int, *, oldest_first: bool
    ) -> EventPage:
        if not 1 <= limit <= _MOST:
            raise RecordError(f"limit {limit}; expected 1 to {_MOST}")
        wanted = condition(self._reader.all, asked, search)
        if wanted.is_never:
            return EventPage(())
        # One more says whether there are more.
        query, values = page_query(wanted, cursor, limit + 1, oldest_first=oldest_first)
        rows = self._reader.all(query, values)
        with legible(self.folder):
            events = tuple(event_of(row) for row in rows[:limit])
        return EventPage(events, cursor_of(events[-1]) if len(rows) > limit else "")

    def _image(self, event_id: str, kind: str) -> RecordedImage | None:
        rows = self._reader.all(
            "SELECT jpeg, blurred FROM images JOIN events ON event = number "
            "WHERE id = ? AND kind = ?",
            (event_id, kind),
        )
        return RecordedImage(rows[0][0], is_blurred=bool(rows[0][1])) if rows else None
