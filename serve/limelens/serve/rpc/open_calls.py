"""Counts calls in flight, and drains them when the server goes down.

It knows when calls arrive and end, but not what they do.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

# A draining server polls for new calls: it accepts calls of the first polls, whose clients could
# not know, then refuses, and stops after some polls without a call. It counts polls and not
# seconds: on a busy machine polls take longer, and so do calls on their way.
_POLL_S: Final = 0.015
ACCEPTING_POLLS: Final = 20
QUIET_POLLS: Final = 10


class OpenCalls:
    """The calls in flight on one event loop."""

    def __init__(self) -> None:
        self._last_arrival = 0.0
        self._count = 0
        self.none = asyncio.Event()  # set while no call is in flight
        self.none.set()
        self.is_refusing = False  # whether new calls are to be refused

    @property
    def count(self) -> int:
        """How many calls are in flight, including those whose status is not sent yet."""
        return self._count

    def arrived(self) -> None:
        """Counts the current task's call until its status is sent, after its handler ends.

        A refused call is not counted: clients that retry would keep a server alive for ever.
        """
        self._last_arrival = time.monotonic()
        task = asyncio.current_task()
        if self.is_refusing or task is None:
            return
        self._count += 1
        self.none.clear()
        task.add_done_callback(self._sent)

    async def drain(self, max_s: float) -> None:
        """Accepts calls that are on their way, then refuses, until no more calls come."""
        ends_at = time.monotonic() + max_s
        polls = quiet = 0
        while quiet < QUIET_POLLS and time.monotonic() < ends_at:
            last = self._last_arrival
            await asyncio.sleep(_POLL_S)
            polls += 1
            quiet = quiet + 1 if self._last_arrival == last else 0
            self.is_refusing = polls >= ACCEPTING_POLLS
        self.is_refusing = True

    def _sent(self, _task: asyncio.Task[Any]) -> None:
        self._count -= 1
        if not self._count:
            self.none.set()
