"""Says what is wrong at once, and again at growing intervals while it stays wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from limelens.serve.wording import counted

_FIRST_S: Final = 60.0
_LONGEST_S: Final = 3600.0


class Complaint:
    """One thing that may be wrong for long. Times are by `time.monotonic`; its caller locks.

    Args:
        say: Called with a sentence.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._reason = ""
        self._since = 0.0
        self._again_at = 0.0
        self._interval_s = _FIRST_S

    def is_wrong(self, reason: str, at: float) -> None:
        """Says a reason that is new, at once."""
        if reason == self._reason:
            return
        if not self._reason:
            self._since = at
        self._reason, self._interval_s = reason, _FIRST_S
        self._again_at = at + _FIRST_S
        self._say(reason)

    def remind(self, at: float) -> None:
        """Says it again if it is time to."""
        if self._reason and at >= self._again_at:
            self._interval_s = min(2 * self._interval_s, _LONGEST_S)
            self._again_at = at + self._interval_s
            minutes = counted(round((at - self._since) / 60), "minute")
            self._say(f"for {minutes} now: {self._reason}")

    def is_right(self, message: str) -> None:
        """Says that it is no longer wrong, if it was."""
        if self._reason:
            self._reason = ""
            self._say(message)
