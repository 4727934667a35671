"""Memory that large messages took goes back to the system.

glibc keeps what was freed: blocks below a threshold that rises with every large one, and the many
small pieces in which gRPC receives a message. A process that was sent large requests once would
stay large. It knows the C library, and nothing of messages but their size.
"""

from __future__ import annotations

import asyncio
import ctypes
from typing import Any, Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LARGE_BYTES: Final = 8 * 1024 * 1024
_TRIM_AFTER_BYTES: Final = 16 * 1024 * 1024
_TRIM_AFTER_S: Final = 0.1


def give_large_blocks_back() -> None:
    """Blocks over a few MiB are mapped by themselves from now on, in this whole process."""
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE_BYTES)


class Trimming:
    """Trims the heap, soon after so and so many bytes of messages are gone; for one event loop."""

    def __init__(self) -> None:
        self._trim = _function("malloc_trim")
        self._gone = 0
        self._timer: asyncio.TimerHandle | None = None

    def gone(self, count: int) -> None:
        """A message of so many bytes is answered."""
        self._gone += count
        if self._gone >= _TRIM_AFTER_BYTES and self._timer is None and self._trim is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_TRIM_AFTER_S, self._begin, loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._gone = None, 0
        # It takes some milliseconds, in which the interpreter is free.
        loop.run_in_executor(None, self._trim, 0)


def _function(name: str) -> Any:
    """A function of the C library; None where that has no such."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):
        return None
