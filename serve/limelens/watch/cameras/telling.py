"""Says what is wrong at once, and again at growing intervals while it stays wrong.

To people while it stays the same, and to programs only when its reason changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from limelens.serve.wording import counted

_FIRST_S: Final = 60.0
_LONGEST_S: Final = 3600.0
_FIRST_CHANGE_S: Final = 5.0
_LONGEST_CHANGE_S: Final = 600.0


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


class ReasonNews:
    """When a loss that goes on for another reason is news. Times are by `time.monotonic`.

    A change is news at once if the last one was a while ago. Of changes that follow each other
    sooner the last one is, if it is still so then; that while grows with each of them, so that a
    reason that goes to and fro is no stream of news.

    Args:
        reason: The first one, which was said.
        at: When.
    """

    def __init__(self, reason: object, at: float) -> None:
        self._said = reason
        self._interval_s = _FIRST_CHANGE_S
        self._next_at = at + _FIRST_CHANGE_S

    def is_news(self, reason: object, at: float) -> bool:
        """Whether the reason, as it is now, is to be said; then it counts as said."""
        if reason == self._said or at < self._next_at:
            return False
        self._said = reason
        self._interval_s = min(2 * self._interval_s, _LONGEST_CHANGE_S)
        self._next_at = at + self._interval_s
        return True
