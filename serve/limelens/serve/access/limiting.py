"""How often each client may call, and how many calls it may have in flight.

It knows clients and counts their calls in this process; it does not know what they ask for. Several
processes behind one port share one limiter, see `limelens.serve.processes.admission`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from limelens.serve.access.caller import Caller
from limelens.serve.errors import AccessPolicyError, OverloadedError

if TYPE_CHECKING:
    from limits import RateLimitItem

_MAX_KEYS: Final = 100_000
_RETRY_AFTER_S: Final = 1.0
ANY_PLACE: Final = nullcontext()  # the place of a call without a limit


@lru_cache(maxsize=1024)
def read_rate(text: str) -> tuple[RateLimitItem, ...]:
    """The limits in a text such as `100/second` or `10/second;200/minute`."""
    from limits import parse_many  # only where there is a limit

    try:
        items = tuple(parse_many(text))
    except ValueError:
        items = ()
    if not items or any(item.amount < 1 for item in items):
        raise AccessPolicyError(
            f"rate limit {text!r}; expected such as '100/second' or '10/second;200/minute'"
        )
    return items


class _Places:
    """One client's calls: those in flight, and those that wait for their turn."""

    def __init__(self, count: int) -> None:
        self.free = asyncio.Semaphore(count)
        self.num_waiting = 0
        self.num_inside = 0


class _Window:
    """Recent calls by client, in a moving window."""

    def __init__(self) -> None:
        from limits.storage import MemoryStorage
        from limits.strategies import MovingWindowRateLimiter

        self.storage = MemoryStorage()
        self._limiter = MovingWindowRateLimiter(self.storage)
        self._blocked_until: dict[tuple[RateLimitItem, str, str], float] = {}

    def wait_s(self, item: RateLimitItem, caller: Caller, cost: int = 1, used: int = 0) -> float:
        """Counts a cost, and returns how long until there is room for it; 0 if there is room.

        A cost above the whole limit is let in if nothing else was counted, and then blocks the
        client until the time for it has passed. `used` is what the same call has counted already.
        """
        now = time.monotonic()
        key = (item, caller.source, caller.name)
        blocked_s = self._blocked_until.get(key, 0.0) - now
        if blocked_s > 0:
            return blocked_s
        self._blocked_until.pop(key, None)
        at_once = min(cost, item.amount - used)
        if at_once and not self._limiter.hit(item, caller.source, caller.name, cost=at_once):
            reset = self._limiter.get_window_stats(item, caller.source, caller.name).reset_time
            return max(0.001, reset - time.time())
        if cost > at_once:
            self._blocked_until[key] = now + cost / item.amount * item.get_expiry()
        return 0.0


class Limiter:
    """Counts the calls of one event loop."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str, int], _Places] = {}
        self._window: _Window | None = None

    def admitted(self, caller: Caller) -> AbstractAsyncContextManager[None]:
        """Holds a place for a call within the context; waits for one if the client may wait.

        Raises:
            OverloadedError: The client calls too often, or has too many calls in flight.
        """
        most = caller.limits.max_calls
        if most is None:
            self._count(caller)
            return ANY_PLACE
        return self._in_place(caller, most)

    @asynccontextmanager
    async def _in_place(self, caller: Caller, most: int) -> AsyncIterator[None]:
        key = (caller.source, caller.name, most)
        places = self._places.setdefault(key, _Places(most))
        if places.free.locked() and places.num_waiting >= caller.limits.max_waiting:
            waiting = f", and {places.num_waiting} waiting" if caller.limits.max_waiting else ""
            raise OverloadedError(
                f"{caller.name} has {most} calls in flight, which is its limit{waiting}; expected "
                "one to end first",
                _RETRY_AFTER_S,
            )
        # Only now: a call that finds no place does not count.
        self._count(caller)
        places.num_inside += 1
        try:
            places.num_waiting += 1
            try:
                await places.free.acquire()
            finally:
                places.num_waiting -= 1
            try:
                yield
            finally:
                places.free.release()
        finally:
            places.num_inside -= 1
            if not places.num_inside:
                self._places.pop(key, None)

    async def charge(self, caller: Caller, cost: int) -> None:
        """Counts the cost of a call beyond its first image or sample."""
        self._count(caller, cost, used=1)

    def _count(self, caller: Caller, cost: int = 1, *, used: int = 0) -> None:
        if caller.limits.rate is None:
            return
        # A window keeps every client that ever called.
        if self._window is None or len(self._window.storage.events) > _MAX_KEYS:
            self._window = _Window()
        for item in read_rate(caller.limits.rate):
            wait_s = self._window.wait_s(item, caller, cost, used)
            if wait_s:
                raise OverloadedError(
                    f"{caller.name} has made {item.amount} calls within {item.get_expiry():g} s, "
                    "which is its limit, each image and sample counted as one; expected fewer",
                    wait_s,
                )
