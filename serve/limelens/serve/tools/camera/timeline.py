"""The time of frames in a video, even if its timestamps restart or are missing.

It knows only numbers, and nothing of how a video is read.
"""

from __future__ import annotations

from typing import Final

_JITTER: Final = 2.5
"""Frames by which timestamps may step back without a restart."""


class Timeline:
    """Gives each frame of one video a time that never decreases.

    Args:
        rate: Frames a second, for frames without a timestamp.
    """

    def __init__(self, rate: float) -> None:
        self._step_s = 1 / rate
        self._offset_s = 0.0
        self._stamp_s: float | None = None
        self._time_s: float | None = None
        self.num_without = 0
        """Frames without a timestamp of their own so far."""

    def time_of(self, stamp_s: float | None) -> float:
        """The time of the next frame, given its timestamp in seconds or None."""
        # Timestamps that never change are useless.
        is_known = stamp_s is not None and stamp_s != self._stamp_s
        self.num_without += not is_known
        if stamp_s is None or not is_known:
            time_s = 0.0 if self._time_s is None else self._time_s + self._step_s
        else:
            time_s = stamp_s + self._offset_s
            if self._time_s is not None and time_s < self._time_s:
                if self._time_s - time_s <= _JITTER * self._step_s:
                    time_s = self._time_s
                else:
                    # Joined recordings: the next one continues where the last one ended.
                    time_s = self._time_s + self._step_s
                    self._offset_s = time_s - stamp_s
            self._stamp_s = stamp_s
        self._time_s = time_s
        return time_s
