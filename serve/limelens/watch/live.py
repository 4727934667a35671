"""How every camera is now: written by the cameras' threads, read by the table and the page."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from limelens.serve.decisions.camera_state import CameraState, UnknownReason
from limelens.serve.decisions.decision import FacePrediction
from limelens.serve.image import Region

_GRACE_S: Final = 1.0


@dataclass(frozen=True)
class LiveFrame:
    """The last frame that was answered.

    Args:
        jpeg: The frame as it was sent.
        faces: The people in it; empty unless faces were asked for.
        time: When it was answered, UTC.
    """

    jpeg: bytes = field(repr=False)
    faces: tuple[FacePrediction, ...]
    time: datetime


@dataclass(frozen=True)
class LiveCamera:
    """One camera, now.

    Args:
        camera_id: Its name.
        source: Where its frames come from, without secrets.
        state: Its state.
        since: Since when, UTC.
        reason: Why it is unknown; None if it is not.
        detail: The same for people; may be empty.
        label: The decided label; None if there is none.
        probability: Its probability in the last frame; None without.
        people: With faces: how many are there; otherwise None.
        decided_at: When a frame was last classified, by `time.monotonic`; None before the first.
        fps: Frames classified a second, over the last seconds.
        num_frames: Frames classified.
        num_dropped: Frames that were dropped.
        num_alerts: Changes to an alert.
        last_error: The last thing that went wrong; empty if nothing did.
        region: The part of the frame that is looked at; None is all of it.
        alert_labels: The model's; empty until it is known.
        model: The model's name; empty until it is known.
        version: Its version.
        provider: What it runs on.
        total_ms: The server's time for the last frame, in milliseconds.
        queue_ms: How much of that it waited for its turn.
        frame: The last frame; None if none was kept.
        last_event_id: The last event of type state; empty before the first.
        max_age_s: How old its decision may become; None if there is no limit.
    """

    camera_id: str
    source: str
    state: CameraState
    since: datetime
    reason: UnknownReason | None = None
    detail: str = ""
    label: str | None = None
    probability: float | None = None
    people: int | None = None
    decided_at: float | None = None
    fps: float = 0.0
    num_frames: int = 0
    num_dropped: int = 0
    num_alerts: int = 0
    last_error: str = ""
    region: Region | None = None
    alert_labels: tuple[str, ...] = ()
    model: str = ""
    version: int = 0
    provider: str = ""
    total_ms: float = 0.0
    queue_ms: float = 0.0
    frame: LiveFrame | None = field(default=None, repr=False)
    last_event_id: str = ""
    max_age_s: float | None = None

    @property
    def age_s(self) -> float | None:
        """Seconds since a frame was last classified; None before the first."""
        return None if self.decided_at is None else time.monotonic() - self.decided_at

    @property
    def is_stale(self) -> bool:
        """Whether its decision expired a while ago, and its threads, which may hang, say nothing.

        They have time to say so first.
        """
        if self.max_age_s is None or self.state is CameraState.UNKNOWN:
            return False
        return (self.age_s or 0.0) > self.max_age_s + _GRACE_S

    @property
    def current(self) -> LiveCamera:
        """The same, but unknown if its decision expired and its thread did not say so.

        Who shows a state must not depend on a thread that may hang.
        """
        is_old = self.max_age_s is not None and (self.age_s or 0.0) > self.max_age_s
        if not is_old or self.state is CameraState.UNKNOWN:
            return self
        return replace(
            self, state=CameraState.UNKNOWN, reason=UnknownReason.EXPIRED, label=None, detail=""
        )


class LiveCameras:
    """The cameras by name, in the order in which they came. Safe to use from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._cameras: dict[str, LiveCamera] = {}
        self._number = 0

    def put(self, camera: LiveCamera) -> None:
        """Sets how a camera is now."""
        with self._changed:
            self._cameras[camera.camera_id] = camera
            self._number += 1
            self._changed.notify_all()

    def remove(self, camera_id: str) -> None:
        """Forgets a camera that is watched no more."""
        with self._changed:
            self._cameras.pop(camera_id, None)
            self._number += 1
            self._changed.notify_all()

    def get(self, camera_id: str) -> LiveCamera | None:
        """One camera; None if there is no such."""
        with self._changed:
            return self._cameras.get(camera_id)

    def all(self) -> Sequence[LiveCamera]:
        """Every camera."""
        with self._changed:
            return tuple(self._cameras.values())

    @property
    def number(self) -> int:
        """Rises with each change."""
        return self._number

    def wait(self, number: int, timeout_s: float) -> int:
        """Waits until there is a later change than `number`; returns the number then."""
        with self._changed:
            self._changed.wait_for(lambda: self._number > number, timeout_s)
            return self._number
