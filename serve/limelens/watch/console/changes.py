"""Wakes the event loop when a camera changes, by one thread for all pages."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Final

from limelens.watch.live import LiveCameras

_LOOK_S: Final = 0.5
"""So often the thread looks whether it is still needed."""


class Changes:
    """Tells coroutines of one event loop that a camera changed.

    Args:
        live: The cameras; None never change.
    """

    def __init__(self, live: LiveCameras | None) -> None:
        self._live = live
        self._waiting: set[asyncio.Event] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.is_closed = False

    async def later_than(self, number: int, timeout_s: float) -> None:
        """Waits until there is a later change than `LiveCameras.number`, or so long."""
        if self._live is None:
            return
        woken = asyncio.Event()
        self._add(woken, asyncio.get_running_loop())
        try:
            if self._live.number <= number:
                async with asyncio.timeout(timeout_s):
                    await woken.wait()
        except TimeoutError:
            pass
        finally:
            with self._lock:
                self._waiting.discard(woken)

    def close(self) -> None:
        """Ends the thread; whoever waits is woken within a moment."""
        self.is_closed = True

    def _add(self, woken: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            self._waiting.add(woken)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._follow, args=(loop,), name="limelens-console-live", daemon=True
                )
                self._thread.start()

    def _follow(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._live is not None
        number = self._live.number
        while not self.is_closed:
            later = self._live.wait(number, _LOOK_S)
            if later > number or self.is_closed:
                number = later
                # The loop may have ended meanwhile.
                with self._lock, contextlib.suppress(RuntimeError):
                    for woken in self._waiting:
                        loop.call_soon_threadsafe(woken.set)
