"""Open pages with live images: how many, and how often each may have a frame.

Only the event loop uses it.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator

from limelens.watch.console.settings import ConsoleSettings


class Viewer:
    """One open page.

    Args:
        interval_s: The least time between two frames of one camera.
    """

    def __init__(self, interval_s: float) -> None:
        self.id = secrets.token_urlsafe(16)
        self._interval_s = interval_s
        self._had: dict[str, float] = {}

    def may_have(self, camera_id: str) -> bool:
        """Whether it may have another frame of a camera now; if so, that counts."""
        now = time.monotonic()
        # A browser's timer may be a little early.
        if now - self._had.get(camera_id, -self._interval_s) < 0.8 * self._interval_s:
            return False
        self._had[camera_id] = now
        return True


class Viewers:
    """The open pages."""

    def __init__(self, settings: ConsoleSettings) -> None:
        self._most = settings.max_viewers
        self._interval_s = 1.0 / settings.frames_per_s
        self._viewers: dict[str, Viewer] = {}

    @contextlib.contextmanager
    def viewing(self) -> Iterator[Viewer | None]:
        """Within the context there is one viewer more; None if there are too many already."""
        if len(self._viewers) >= self._most:
            yield None
            return
        viewer = Viewer(self._interval_s)
        self._viewers[viewer.id] = viewer
        try:
            yield viewer
        finally:
            del self._viewers[viewer.id]

    def get(self, viewer_id: str) -> Viewer | None:
        """A viewer; None if there is no such, or no longer."""
        return self._viewers.get(viewer_id)
