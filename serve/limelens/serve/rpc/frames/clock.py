"""When the frames of a stream were taken: what a person's way and absence are measured by.

A video is sent faster or slower than it was taken, and a network delays some frames more than
others. It knows times alone.
"""

from __future__ import annotations

from typing import Final

from limelens.v1 import classifier_service_pb2 as service_pb2

_LONGEST_STEP_S: Final = 3600.0
"""A clock that was wrong by more may not make later times too coarse to add to."""


class FrameClock:
    """Gives each frame of one stream a time that never decreases, in seconds.

    From one frame to the next it goes on as their capture times do. It goes on as their arrivals do
    if one of the two has no capture time, or the later one has the earlier or the same time: a
    clock may stand still, or tell whole seconds only.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._captured_at: float | None = None
        self._captured_now = 0.0  # when a frame first had that capture time
        self._arrived_at: float | None = None

    def taken_at(self, frame: service_pb2.Frame, arrived_at: float) -> float:
        """The time of the next frame, which arrived then by `time.monotonic`."""
        captured_at = None
        if frame.HasField("capture_time"):
            captured_at = frame.capture_time.seconds + frame.capture_time.nanos / 1e9
        now = self._now
        if self._arrived_at is not None:
            now += arrived_at - self._arrived_at
        if captured_at is not None and self._captured_at is not None:
            step_s = captured_at - self._captured_at
            if step_s > 0:
                now = max(self._now, self._captured_now + min(step_s, _LONGEST_STEP_S))
        if captured_at != self._captured_at:
            self._captured_at, self._captured_now = captured_at, now
        self._now, self._arrived_at = now, arrived_at
        return now
