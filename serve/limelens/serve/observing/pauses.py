"""How long the event loop was held: while it is, nobody is answered, not even about the health.

It wakes up at fixed times and sees how late it is. It knows nothing of who held the loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

_EVERY_S: Final = 0.05
_WINDOW_S: Final = 60.0
_SLICES: Final = 6


class Pauses:
    """The longest pause of an event loop, of the last minute and of all time.

    Args:
        every_s: How often it looks: shorter pauses are seen in part, or not at all.
    """

    def __init__(self, every_s: float = _EVERY_S) -> None:
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None
        self._slices: deque[tuple[float, float]] = deque(maxlen=_SLICES)
        self.longest_s = 0.0
        """Of all time, in seconds."""

    @property
    def recent_s(self) -> float:
        """The longest of about the last minute, in seconds."""
        return max((pause for _, pause in list(self._slices)), default=0.0)

    def start(self) -> None:
        """Begins to look at the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._look())

    def stop(self) -> None:
        """Ends it."""
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
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
