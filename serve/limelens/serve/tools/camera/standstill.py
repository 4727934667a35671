"""Notices that this process stood still: it was stopped, or the machine slept.

What waited meanwhile is old, and says nothing of what a camera sees now. It knows time alone.
"""

from __future__ import annotations

import threading
import time
from typing import Final

_GAP_S: Final = 5.0
_AWAKE_OR_NOT: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


class Standstill:
    """Looks about once a second, from then on; safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._looked_at = _clock_s()

    def look(self) -> float:
        """For how long, in seconds, nobody looked, if that is so long that nothing ran; else 0."""
        with self._lock:
            now = _clock_s()
            gap_s, self._looked_at = now - self._looked_at, now
        return gap_s if gap_s > _GAP_S else 0.0


def _clock_s() -> float:
    """Seconds that also pass while the machine sleeps, where the system knows them."""
    return time.clock_gettime(_AWAKE_OR_NOT) if _AWAKE_OR_NOT is not None else time.monotonic()
