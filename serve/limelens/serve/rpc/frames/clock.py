"""When the frames of a stream were taken: what a person's way and absence are measured by.

A video is sent faster or slower than it was taken, and a network delays some frames more than
others. It knows times alone.
"""

from __future__ import annotations

from limelens.v1 import classifier_service_pb2 as service_pb2


class FrameClock:
    """Gives each frame of one stream a time that never decreases, in seconds.

    From one frame to the next it goes on as their capture times do. It goes on as their arrivals do
    if one of the two has no capture time, or the later one has the earlier time.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._captured_at: float | None = None
        self._arrived_at: float | None = None

    def taken_at(self, frame: service_pb2.Frame, arrived_at: float) -> float:
        """The time of the next frame, which arrived then by `time.monotonic`."""
        captured_at = None
        if frame.HasField("capture_time"):
            captured_at = frame.capture_time.seconds + frame.capture_time.nanos / 1e9
        step_s = 0.0 if self._arrived_at is None else arrived_at - self._arrived_at
        if captured_at is not None and self._captured_at is not None:
            captured_step_s = captured_at - self._captured_at
            step_s = captured_step_s if captured_step_s >= 0 else step_s
        self._captured_at, self._arrived_at = captured_at, arrived_at
        self._now += step_s
        return self._now
