"""Stores a batch of events and explanations in one transaction, each whole or not at all.

It knows what is kept of them, and nothing of threads and of trying again.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from limelens.serve.decisions.camera_state import CameraState
from limelens.serve.errors import LimelensError
from limelens.serve.files import sync_folder
from limelens.serve.wording import first_line
from limelens.watch.event import Event, EventExplanation
from limelens.watch.record.backlog import Item, Lost
from limelens.watch.record.database import OVERLAYS, transaction
from limelens.watch.record.documents import from_ms, to_ms
from limelens.watch.record.errors import DiskFullError, RecordError
from limelens.watch.record.images import Blur, blurred_overlay, images_of, wants_images
from limelens.watch.record.recorded import RecordedImage
from limelens.watch.record.settings import RecordSettings
from limelens.watch.record.storing import (
    overlay_path,
    store_event,
    store_explanation,
    store_image,
    store_overlay,
    unexplained_state,
    write_new,
)

_UNUSABLE: Final = (
    sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError,
    RecordError, ValueError, TypeError, OverflowError,
)  # fmt: skip
"""One event is at fault, not the record."""
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SAID_AGAIN_S: Final = 600.0
_SAME_GAP_MS: Final = 600_000
_log = logging.getLogger(__name__)


class BatchRecorder:
    """Stores items as the settings say.

    Args:
        settings: What is kept of an event.
        folder: The record's folder.
        lose: Called with events, images and the reason for what cannot be recorded.
    """

    def __init__(
        self, settings: RecordSettings, folder: Path, lose: Callable[[int, int, str], object]
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._lose = lose
        self._problem = ""
        self._said = ("", 0.0)
        self._losses: list[tuple[int, int, str]] = []

    @property
    def problem(self) -> str:
        """Why images are not kept now, while events are; empty if they are."""
        return self._problem

    def record(
        self,
        connection: sqlite3.Connection,
        items: Sequence[Item],
        lost: Lost | None,
        beside: Callable[[sqlite3.Connection], object],
    ) -> list[str]:
        """Stores items, and what was lost before them.

        Args:
            connection: May write.
            items: Events and explanations.
            lost: What was lost; None if nothing was.
            beside: Called in the same transaction.

        Returns:
            The ids of the events that are on the disk now.

        Raises:
            sqlite3.Error: None of them is.
        """
        recorded: list[str] = []
        self._losses.clear()  # of a batch that failed as a whole, and comes again
        # What takes long comes before the transaction, which keeps other processes from writing.
        images = {item.id: self._images(item) for item in items if isinstance(item, Event)}
        files = self._write_overlays(connection, items)
        unused = dict(files)
        try:
            with transaction(connection):
                if lost is not None:
                    _store_gap(connection, lost)
                beside(connection)
                for item in items:
                    connection.execute("SAVEPOINT item")
                    try:
                        if isinstance(item, Event):
                            store_event(connection, item)
                            for kind, image in images[item.id]:
                                store_image(connection, item.id, kind, image)
                            recorded.append(item.id)
                        elif store_explanation(connection, item) and item.event_id in files:
                            store_overlay(connection, item)
                            del unused[item.event_id]
                    except _UNUSABLE as error:
                        connection.execute("ROLLBACK TO item")
                        _log.error("record: an event cannot be recorded: %s", first_line(error))
                        self._losses.append((1, 0, first_line(error)))
                    connection.execute("RELEASE item")
        except BaseException:
            unused = files
            raise
        finally:
            for file in unused.values():
                file.unlink(missing_ok=True)
        self._count_losses()
        return recorded

    def store_images(self, connection: sqlite3.Connection, event: Event, blur: Blur | None) -> None:
        """Stores the images of a recorded event, if they can be made; raises as SQLite."""
        try:
            # Before the transaction: others could not write while faces are looked for.
            images = list(images_of(self._settings, event, blur))
        except Exception as error:
            # What finds faces is not ours; no image is better than the same error for ever.
            self._lose_image(f"images are not kept: {first_line(error)}")
            self._count_losses()
            return
        with transaction(connection):
            for kind, image in images:
                store_image(connection, event.id, kind, image)
        self._problem = ""

    def store_blurred_overlay(
        self, connection: sqlite3.Connection, one: EventExplanation, blur: Blur
    ) -> None:
        """Stores the overlay of a recorded alert on blurred faces, if it can be made.

        Raises:
            DiskFullError: There is no room.
            sqlite3.Error: From SQLite.
        """
        row = connection.execute(
            "SELECT camera_id, time_ms FROM events WHERE id = ? AND state = ? "
            "AND number NOT IN (SELECT event FROM overlays)",
            (one.event_id, CameraState.ALERT),
        ).fetchone()
        if row is None:
            return
        try:
            png = blurred_overlay(one, blur, row[0], from_ms(row[1]))
        except Exception as error:
            # As of other images.
            self._lose_image(f"overlays are not kept: {first_line(error)}")
            self._count_losses()
            return
        if png is None:
            return
        path = self._write_overlay(one.event_id, png)
        if path is not None:
            sync_folder(self._folder / OVERLAYS)
            try:
                with transaction(connection):
                    store_overlay(connection, replace(one, overlay_png=png))
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        self._count_losses()

    def _images(self, event: Event) -> list[tuple[str, RecordedImage]]:
        # Images with faces to blur come later, so that no event waits for a server.
        if self._settings.blur_faces or not wants_images(self._settings, event):
            return []
        try:
            images = list(images_of(self._settings, event, None))
        except LimelensError as error:
            self._lose_image(f"images are not kept: {first_line(error)}")
            return []
        self._problem = ""
        return images

    def _write_overlays(
        self, connection: sqlite3.Connection, items: Sequence[Item]
    ) -> dict[str, Path]:
        """Writes the overlays of alerts that have no explanation yet; returns them by event."""
        if not self._settings.overlays or self._settings.blur_faces:
            return {}
        states = {item.id: item.state for item in items if isinstance(item, Event)}
        written: dict[str, Path] = {}
        for item in items:
            if isinstance(item, Event) or not item.overlay_png or item.event_id in written:
                continue
            state = states.get(item.event_id) or unexplained_state(connection, item.event_id)
            if state != CameraState.ALERT:
                continue
            try:
                path = self._write_overlay(item.event_id, item.overlay_png)
            except DiskFullError:
                for file in written.values():
                    file.unlink(missing_ok=True)
                raise
            if path is not None:
                written[item.event_id] = path
        if written:
            sync_folder(self._folder / OVERLAYS)
        return written

    def _write_overlay(self, event_id: str, png: bytes) -> Path | None:
        """Writes an overlay's file; returns None if that failed, which is counted.

        Raises:
            DiskFullError: There is no room.
        """
        try:
            path = overlay_path(self._folder, event_id)
            write_new(path, png)
        except RecordError:  # no event can have that id
            return None
        except OSError as error:
            if error.errno in _FULL:
                raise DiskFullError(f"{self._folder}: the disk is full") from error
            # An event is worth more than its overlay: recording goes on without it.
            self._lose_image(f"overlays cannot be written: {error.strerror or error}")
            return None
        self._problem = ""
        return path

    def _lose_image(self, problem: str) -> None:
        self._losses.append((0, 1, problem))
        self._problem = problem
        said, at = self._said
        if problem != said or time.monotonic() - at > _SAID_AGAIN_S:
            _log.error("record: %s", problem)
            self._said = problem, time.monotonic()

    def _count_losses(self) -> None:
        for loss in self._losses:
            self._lose(*loss)
        self._losses.clear()


def _store_gap(connection: sqlite3.Connection, lost: Lost) -> None:
    """Notes what was lost; what is lost again and again for one reason is one gap."""
    now_ms = to_ms(datetime.now(UTC))
    extended = connection.execute(
        "UPDATE gaps SET to_ms = max(to_ms, ?), num_events = num_events + ?, "
        "num_images = num_images + ? WHERE number = (SELECT max(number) FROM gaps) "
        "AND reason = ? AND abs(? - to_ms) < ?",
        (now_ms, lost.num_events, lost.num_images, lost.reason, now_ms, _SAME_GAP_MS),
    )
    if not extended.rowcount:
        connection.execute(
            "INSERT INTO gaps (from_ms, to_ms, num_events, num_images, reason) "
            "VALUES (?, ?, ?, ?, ?)",
            (to_ms(lost.since), now_ms, lost.num_events, lost.num_images, lost.reason),
        )
