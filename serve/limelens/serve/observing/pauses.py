"""Measures how long the event loop is blocked: meanwhile no call gets a response.

A task wakes up at fixed times and measures how late it is. It does not know what blocked the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

_EVERY_S: Final = 0.05
_WINDOW_S: Final = 60.0
_SLICES: Final = 6


class Pauses:
    """The longest pause of an event loop, in the last minute and ever.

    Args:
        every_s: How often to measure; shorter pauses are measured in part or not at all.
    """

    def __init__(self, every_s: float = _EVERY_S) -> None:
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None
        self._slices: deque[tuple[float, float]] = deque(maxlen=_SLICES)
        self.longest_s = 0.0  # the longest pause ever, in seconds

    @property
    def recent_s(self) -> float:
        """The longest pause of about the last minute, in seconds."""
        return max((pause for _, pause in list(self._slices)), default=0.0)

    def start(self) -> None:
        """Starts to measure the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._measure())

    def stop(self) -> None:
        """Stops measuring."""
        if self._task is not None:
            self._task.cancel()

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._slices.append((began, 0.0))
        while True:
            due = loop.time() + self._every_s
            await asyncio.sleep(self._every_s)
            now = loop.time()
            pause = max(0.0, now - due)
            self.longest_s = max(self.longest_s, pause)
            began, longest = self._slices[-1]
            if now - began > _WINDOW_S / _SLICES:
                self._slices.append((now, pause))
            else:
                self._slices[-1] = (began, max(longest, pause))
