"""How long to wait before a lost camera is tried again, and when to say again that it is lost.

It knows reasons and times, and nothing of cameras.
"""

from __future__ import annotations

from typing import Final

from limelens.serve.tools.camera.faults import LossReason

_FIRST_WAIT_S: Final = 0.5
_LONGEST_WAIT_S: Final = 30.0
_FIRST_WAIT_REFUSED_S: Final = 10.0
_LONGEST_WAIT_REFUSED_S: Final = 300.0
"""Many cameras lock an account after a few wrong passwords."""
_STEADY_S: Final = 10.0
"""A camera that is lost again sooner was not back: the waits go on growing."""
_FIRST_REMINDER_S: Final = 60.0


class Outage:
    """The outages of one camera, one after the other. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._reason: LossReason | None = None
        self._num_failed = 0
        self._lost_at = 0.0
        self._back_at = 0.0
        self._remind_at = 0.0

    @property
    def is_lost(self) -> bool:
        """Whether the camera is lost now."""
        return self._reason is not None

    def failed(self, reason: LossReason, at: float) -> bool:
        """Notes that it was lost, or could not be found again; returns whether that is news."""
        if self._reason is None:
            self._lost_at = at
            if at - self._back_at >= _STEADY_S:
                self._num_failed = 0
        is_news = reason is not self._reason
        if is_news:
            self._remind_at = at + _FIRST_REMINDER_S
        if _refuses(reason) and not _refuses(self._reason):
            self._num_failed = 0
        self._reason = reason
        # A frozen camera is connected; each of its frames says so.
        self._num_failed += reason is not LossReason.FROZEN
        return is_news

    def reminds(self, at: float) -> float:
        """For how long it has been lost, if that is to be said again; otherwise 0.

        It is said at growing intervals.
        """
        if at < self._remind_at:
            return 0.0
        lost_s = at - self._lost_at
        self._remind_at = at + lost_s
        return lost_s

    def wait_s(self) -> float:
        """Seconds until it is to be tried again."""
        first_s, longest_s = _FIRST_WAIT_S, _LONGEST_WAIT_S
        if _refuses(self._reason):
            first_s, longest_s = _FIRST_WAIT_REFUSED_S, _LONGEST_WAIT_REFUSED_S
        return min(longest_s, first_s * 2.0 ** min(self._num_failed - 1, 30))

    def back(self, at: float) -> bool:
        """Notes that frames come; returns whether that is news."""
        if self._reason is None:
            return False
        self._reason = None
        self._back_at = at
        return True


def _refuses(reason: LossReason | None) -> bool:
    return reason in (LossReason.UNAUTHORIZED, LossReason.FORBIDDEN)
