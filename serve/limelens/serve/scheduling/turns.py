"""Limited places, given to clients in turn.

It knows clients and how much each holds, and nothing of what the places are for.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

_MAX_PASSED: Final = 64
"""How many others may pass a client that waits for more places than are free."""


@dataclass(slots=True, eq=False)
class _Client:
    """Those of one client who wait: how many places each needs, and what wakes it."""

    waiting: deque[tuple[int, asyncio.Future[None]]] = field(default_factory=deque)
    num_passed: int = 0


class Turns:
    """Places up to a limit; who finds none waits. For one event loop.

    Clients take turns, so nobody waits for all that another one asks for. Who needs few places may
    pass a client that needs more than are free, but not for ever.

    Args:
        most: Places. One caller alone may need more.
        most_each: How many of them one client may hold, unless it is by a single caller; the others
            are kept for other clients.
    """

    def __init__(self, most: int, *, most_each: int) -> None:
        self._most = most
        self._most_each = most_each
        self._held = 0
        self._held_by: Counter[Hashable] = Counter()
        self._clients: OrderedDict[Hashable, _Client] = OrderedDict()  # whose turn it is first

    @property
    def held(self) -> int:
        """Places that are held now."""
        return self._held

    @property
    def num_waiting(self) -> int:
        """Callers that wait."""
        waiting = (turn for client in self._clients.values() for _, turn in client.waiting)
        return sum(not turn.done() for turn in waiting)

    def fits(self, held: int, count: int) -> bool:
        """Whether a caller may hold `count` places together with `held` others."""
        return not held or held + count <= self._most_each

    @asynccontextmanager
    async def holding(self, who: Hashable, count: int) -> AsyncIterator[None]:
        """Waits for places, and holds them for as long as the context lasts."""
        await self.take(who, count)
        try:
            yield
        finally:
            self.release(who, count)

    async def take(self, who: Hashable, count: int = 1) -> None:
        """Waits for places; whoever took them releases them."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._clients.setdefault(who, _Client()).waiting.append((count, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(who, count)
            else:
                self._admit()  # it drops the entry, which others may have waited behind
            raise

    def release(self, who: Hashable, count: int = 1) -> None:
        """Gives places back."""
        self._held -= count
        self._held_by[who] -= count
        if not self._held_by[who]:
            del self._held_by[who]
        self._admit()

    def _has_room(self, who: Hashable, count: int) -> bool:
        own = self._held_by[who]
        is_free = not self._held or self._held + count <= self._most
        return is_free and (not own or own + count <= self._most_each)

    def _admit(self) -> None:
        """Gives free places to those who wait, one of each client after the other."""
        while self._admit_next():
            pass

    def _admit_next(self) -> bool:
        passed: list[_Client] = []
        for who, client in list(self._clients.items()):
            while client.waiting and client.waiting[0][1].done():  # who waited has left
                client.waiting.popleft()
            if not client.waiting:
                del self._clients[who]
                continue
            count, turn = client.waiting[0]
            if self._has_room(who, count):
                client.waiting.popleft()
                client.num_passed = 0
                self._clients.move_to_end(who)
                self._held += count
                self._held_by[who] += count
                turn.set_result(None)
                for one in passed:
                    one.num_passed += 1
                return True
            if not self._held_by[who]:
                if client.num_passed >= _MAX_PASSED:
                    return False
                passed.append(client)
        return False
