"""Records events by a thread of its own, so that neither a disk nor a lock stops a camera.

What is committed is on the disk: kill -9 or a loss of power takes nothing of it. While the disk is
full, events wait, then are lost and counted, and recording goes on by itself. What another writer
left standing when it was killed is ended at the start.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from limelens.serve.errors import LimelensError
from limelens.serve.wording import counted, first_line
from limelens.watch.event import ON_CHANGE, Event, EventExplanation, EventType
from limelens.watch.record.backlog import Backlog, Item
from limelens.watch.record.batch import BatchRecorder
from limelens.watch.record.database import (
    FILE,
    folder_of,
    identity,
    in_words,
    open_to_write,
    transaction,
)
from limelens.watch.record.errors import BusyRecordError, RecordError
from limelens.watch.record.images import Blur, wants_images
from limelens.watch.record.presence import SIGN_S, Presence, close_silent
from limelens.watch.record.retention import Retention
from limelens.watch.record.settings import RecordSettings

_BATCH: Final = 128
_RETRY_S: Final = 5.0
_RETENTION_S: Final = 60.0
_MAX_TO_BLUR: Final = 256
_SAID_AGAIN_S: Final = 600.0
"""A disk that is nearly full takes an event now and then; that is no news."""
_log = logging.getLogger(__name__)


class RecordWriter:
    """The sink that records.

    Args:
        settings: What is kept, and how long.
        blur: Blurs the faces in an image, such as `FaceBlurrer.blur`; needed for `blur_faces`.
        on_recorded: Called with the id of each event once it is on the disk, by a thread of its
            own.
        retry_s: How long to wait before trying again what failed.

    Raises:
        RecordError: `blur_faces` is set and nothing can blur.
    """

    def __init__(
        self,
        settings: RecordSettings,
        *,
        blur: Blur | None = None,
        on_recorded: Callable[[str], object] | None = None,
        retry_s: float = _RETRY_S,
    ) -> None:
        if settings.blur_faces and blur is None:
            raise RecordError(
                "[record] blur_faces: nothing here finds faces; expected a server with a face "
                "detector"
            )
        self._settings = settings
        self._folder = folder_of(settings.path)
        self._blur = blur if settings.blur_faces else None
        self._on_recorded = on_recorded
        self._retry_s = retry_s
        self._backlog = Backlog()
        self._batches = BatchRecorder(settings, self._folder, self._backlog.lose)
        self._to_blur: deque[Item] = deque()
        self._problem = ""
        self._retention_problem = ""
        self._said = ("", 0.0)
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._retention = Retention(
            self._folder, max_age_days=settings.max_age_days, max_bytes=settings.max_bytes
        )
        self._retention_at = 0.0
        self._presence: Presence | None = None
        self._cameras: frozenset[str] = frozenset()
        self._signed: frozenset[str] = frozenset()
        self._sign_at = 0.0
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return "record"

    def put(self, event: Event) -> None:
        """Takes an event; frames and heartbeats are not recorded."""
        if event.camera_id not in self._cameras and event.type is not EventType.FRAME:
            # One thread hands events over; the other reads what is whole at any time.
            self._cameras |= {event.camera_id}
            self._backlog.ring()
        if event.type in ON_CHANGE:
            self._backlog.put(self._kept(event))

    def explain(self, explanation: EventExplanation) -> None:
        """Takes the explanation of an earlier event."""
        # What is not needed must not fill the memory.
        if self._blur is not None:
            explanation = replace(explanation, overlay_png=b"")
        if self._blur is None or not self._settings.overlays:
            explanation = replace(explanation, jpeg=b"")
        found = explanation.explanation
        if found is not None:
            # What is drawn in it is in the overlay too, and would fill the memory.
            plain = [replace(one, overlay_png=b"", heat_map_png=b"") for one in found.explanations]
            explanation = replace(explanation, explanation=replace(found, explanations=(*plain,)))
        self._backlog.put(explanation)

    def flush(self, timeout_s: float) -> bool:
        """Waits until all that it took so far is on the disk.

        Returns:
            Whether it is: False if the time was over, or if anything was ever lost.
        """
        return self._backlog.wait_until_done(timeout_s) and not self._backlog.num_lost

    @property
    def problem(self) -> str:
        """What keeps it from recording now; empty if nothing does."""
        if not self._problem:
            return self._batches.problem or self._retention_problem
        lost = self._backlog.lost
        events = 0 if lost is None else lost.num_events
        return (
            f"{self._problem}; {counted(self._backlog.num_waiting, 'event')} waiting, {events} lost"
        )

    @property
    def num_lost(self) -> int:
        """Events and explanations that could not be recorded, since the start."""
        return self._backlog.num_lost

    def close(self, timeout_s: float) -> None:
        """Records what waits within some seconds, and ends."""
        self._deadline = time.monotonic() + timeout_s
        self._backlog.close()
        self._thread.join(timeout_s + 1)

    def _kept(self, event: Event) -> Event:
        """The event without a frame that is not kept, so that it fills no memory."""
        if event.evidence is None or wants_images(self._settings, event):
            return event
        return replace(event, evidence=replace(event.evidence, jpeg=b""))

    def _run(self) -> None:
        while True:
            is_last = self._backlog.is_closed
            try:
                with in_words(self._folder / FILE):
                    if not self._work():
                        break
            except Exception as error:
                # Whatever it is, watching goes on, and so does recording once it is over.
                self._disconnect()
                self._fail(error)
                if is_last and not isinstance(error, BusyRecordError):
                    break
                if time.monotonic() > self._deadline:
                    break
                self._backlog.pause(self._retry_s)
        if left := self._backlog.num_waiting:
            _log.error("record: %s could not be recorded: %s", counted(left, "event"), self.problem)
        self._leave(is_all_said=not left)
        self._disconnect()

    def _fail(self, error: Exception) -> None:
        problem = _reason(error)
        said, at = self._said
        if problem != said or time.monotonic() - at > _SAID_AGAIN_S:
            is_expected = isinstance(error, (LimelensError, OSError))
            _log.error("record: %s", problem, exc_info=None if is_expected else error)
            self._said = problem, time.monotonic()
        self._problem = problem

    def _work(self) -> bool:
        """Does what is due next; returns whether there may be more."""
        is_busy = bool(self._to_blur) or self._backlog.lost is not None
        due_at = min(self._retention_at, self._sign_at)
        wait_s = 0.0 if is_busy else due_at - time.monotonic()
        # Asked before: what is put between taking nothing and closing must not be left behind.
        is_closed = self._backlog.is_closed
        items = self._backlog.take(_BATCH, wait_s)
        connection = self._connected()
        # Before anything is written, because it may make the room that this needs.
        if time.monotonic() >= self._retention_at and not self._backlog.is_closed:
            self._retain(connection)
        # Before any event: what was left standing by another writer ended before it.
        # And at once for a camera that is new here: its state may stand in the record already.
        if time.monotonic() >= self._sign_at or self._cameras != self._signed:
            self._sign(connection)
        if items or self._backlog.lost is not None:
            self._record(connection, items)
        elif self._to_blur:
            assert self._blur is not None  # or there would be none
            one = self._to_blur[0]
            if isinstance(one, Event):
                self._batches.store_images(connection, one, self._blur)
            else:
                self._batches.store_blurred_overlay(connection, one, self._blur)
            self._to_blur.popleft()
        elif is_closed:
            return False
        self._problem = ""
        return time.monotonic() <= self._deadline

    def _record(self, connection: sqlite3.Connection, items: Sequence[Item]) -> None:
        lost = self._backlog.lost
        if lost is not None and self._problem:
            lost = replace(lost, reason=self._problem)
        recorded = self._batches.record(connection, items, lost, self._say_alive)
        if lost is not None:
            self._backlog.admitted(lost)
        if self._on_recorded is not None:
            for event_id in recorded:
                try:
                    self._on_recorded(event_id)
                except Exception:
                    _log.exception("record: what is called for each recorded event failed")
        self._problem = ""  # before `flush` returns
        self._backlog.done(items)
        if self._blur is None:
            return
        for item in items:
            if self._has_to_blur(item):
                self._to_blur.append(item)
                if len(self._to_blur) > _MAX_TO_BLUR:
                    self._to_blur.popleft()
                    self._backlog.lose(0, 1, "too many images wait until faces are blurred")

    def _has_to_blur(self, item: Item) -> bool:
        if isinstance(item, Event):
            return wants_images(self._settings, item)
        return bool(item.jpeg)

    def _sign(self, connection: sqlite3.Connection) -> None:
        assert self._presence is not None  # while there is a connection
        cameras = self._cameras
        with transaction(connection):
            # Not silent, whoever watched them too and was killed.
            self._say_alive(connection)
            close_silent(connection, self._folder)
            self._presence.sign(connection, cameras)
        self._signed = cameras
        self._sign_at = time.monotonic() + SIGN_S

    def _say_alive(self, connection: sqlite3.Connection) -> None:
        assert self._presence is not None  # while there is a connection
        self._presence.sign(connection, self._signed)

    def _leave(self, *, is_all_said: bool) -> None:
        """Ends its presence; if not all was said, as if it had been killed."""
        if self._presence is None:
            return
        try:
            if is_all_said and self._connection is not None:
                self._presence.end(self._connection)
        except sqlite3.Error as error:
            _log.error("record: its end cannot be recorded: %s", _reason(error))
        finally:
            self._presence.release()

    def _retain(self, connection: sqlite3.Connection) -> None:
        try:
            more = self._retention.step(connection)
        except (OSError, sqlite3.OperationalError) as error:
            # A file that cannot be removed must not keep events from being recorded.
            more = False
            problem = f"old events cannot be removed: {_reason(error)}"
            if problem != self._retention_problem:
                _log.error("record: %s", problem)
            self._retention_problem = problem
        else:
            self._retention_problem = ""
        self._retention_at = time.monotonic() + (0.0 if more else _RETENTION_S)

    def _connected(self) -> sqlite3.Connection:
        """The open record; opened again if its file was moved away."""
        if self._connection is not None and identity(self._folder / FILE) == self._file:
            return self._connection
        self._disconnect()
        self._connection = open_to_write(self._folder, create=True)
        file = identity(self._folder / FILE)
        if self._presence is None or file != self._file:
            if self._presence is not None:
                self._presence.release()
            self._presence = None
            self._presence = Presence(self._folder)
            self._signed, self._sign_at = frozenset(), 0.0
        self._file = file
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None


def _reason(error: Exception) -> str:
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    return f"{where}{first_line(error)}"
