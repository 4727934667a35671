"""Passes frames one at a time from the thread that reads to the one that iterates."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, eq=False)
class ReadFrame:
    """A frame that is not encoded yet; the rest as in `SourceFrame`."""

    encode: Callable[[], bytes]
    captured_at: datetime | None
    place: str
    position_s: float | None
    read_at: float


class Slot:
    """Room for one frame. Safe to use from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._frame: ReadFrame | None = None
        self._error: Exception | None = None
        self._over = False
        self.num_replaced = 0
        """Frames that were given up before they were taken."""

    def put(self, frame: ReadFrame, *, may_replace: bool) -> None:
        """Gives a frame in place of the last one, or waits until the last one was taken."""
        with self._changed:
            if not may_replace:
                self._changed.wait_for(lambda: self._frame is None or self._over)
            if not self._over:
                self.num_replaced += self._frame is not None
                self._frame = frame
                self._changed.notify_all()

    def clear(self) -> None:
        """Gives up the frame that waits."""
        with self._changed:
            self.num_replaced += self._frame is not None
            self._frame = None
            self._changed.notify_all()

    def take(self) -> ReadFrame | None:
        """Waits for a frame; None if there are no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._over)
            frame, self._frame = self._frame, None
            self._changed.notify_all()
            if frame is None and self._error is not None:
                raise self._error
            return frame

    def end(self, error: Exception | None = None, *, at_once: bool = False) -> None:
        """Ends the frames: after the waiting one, or at once with `at_once`."""
        with self._changed:
            if at_once:
                self._frame = None
            if not self._over:
                self._over, self._error = True, error
            self._changed.notify_all()
