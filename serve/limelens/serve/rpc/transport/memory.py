"""Returns the memory of large messages to the system.

glibc keeps freed memory: blocks below a threshold that grows with every large block, and the many
small pieces in which gRPC receives a message. After large requests a process would stay large.
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
    """Has glibc map blocks over a few MiB separately from now on, in the whole process."""
    mallopt = _function("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _LARGE_BYTES)


class Trimming:
    """Trims the heap soon after many bytes of messages were freed; for one event loop."""

    def __init__(self) -> None:
        self._trim = _function("malloc_trim")
        self._gone = 0
        self._timer: asyncio.TimerHandle | None = None

    def gone(self, count: int) -> None:
        """Counts the bytes of a message that is freed."""
        self._gone += count
        if self._gone >= _TRIM_AFTER_BYTES and self._timer is None and self._trim is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_TRIM_AFTER_S, self._begin, loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._gone = None, 0
        # It takes some milliseconds, without holding the interpreter.
        loop.run_in_executor(None, self._trim, 0)


def _function(name: str) -> Any:
    """A function of the C library; None if it has no such function."""
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):
        return None
