"""How many bytes of requests, and of their decoded images, may be held at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from limelens.serve.errors import OverloadedError


class Budget:
    """Bytes that are held for callers who wait, up to a limit; for one event loop.

    One request alone may be larger: messages have a limit of their own.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes that are held now."""
        return self._held

    @contextmanager
    def holding(self, count: int, *, beside: int = 0) -> Iterator[None]:
        """Holds bytes for as long as the context lasts; the request already holds `beside`."""
        if self._held > beside and self._held + count > self._most:
            raise OverloadedError(
                f"requests of {self._held:,} bytes are waiting and {count:,} more do not fit; "
                f"at most {self._most:,} are held",
                1.0,
            )
        self._held += count
        try:
            yield
        finally:
            self._held -= count


class PixelBudget:
    """Bytes of decoded images, up to a limit; who finds no room waits. For one event loop.

    Those who wait are admitted in the order in which they came. One alone may need more.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def held(self) -> int:
        """Bytes that are held now."""
        return self._held

    def fits(self, held: int, count: int) -> bool:
        """Whether a caller may hold `count` bytes together with `held` others."""
        return not held or held + count <= self._most

    @asynccontextmanager
    async def holding(self, count: int) -> AsyncIterator[None]:
        """Waits for room, and holds it for as long as the context lasts."""
        if self._waiting or not self.fits(self._held, count):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry = count, turn
            self._waiting.append(entry)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._release(count)
                else:
                    self._waiting.remove(entry)
                    self._release(0)
                raise
        else:
            self._held += count
        try:
            yield
        finally:
            self._release(count)

    def _release(self, count: int) -> None:
        self._held -= count
        while self._waiting and self.fits(self._held, self._waiting[0][0]):
            count, turn = self._waiting.popleft()
            self._held += count
            turn.set_result(None)
