"""One count of each client's calls, whichever worker they reach.

Workers ask the supervisor, which has the limiter of a single server, but only about clients that
have a limit: other calls do not wait for it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

from limelens.serve.access.caller import Caller
from limelens.serve.access.limiting import ANY_PLACE, Limiter
from limelens.serve.processes.channel import Channel


class SharedLimiter(Limiter):
    """The side of a worker, with a channel to the supervisor."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._numbers = itertools.count()

    def admitted(self, caller: Caller) -> AbstractAsyncContextManager[None]:
        if caller.limits.max_calls is None and caller.limits.rate is None:
            return ANY_PLACE
        return self._admitted(replace(caller, rights=frozenset()))

    async def charge(self, caller: Caller, cost: int) -> None:
        if caller.limits.rate is not None:
            await self._channel.request("charge", replace(caller, rights=frozenset()), cost)

    @asynccontextmanager
    async def _admitted(self, caller: Caller) -> AsyncIterator[None]:
        number = next(self._numbers)
        try:
            await self._channel.request("admit", number, caller)
            yield
        finally:
            if caller.limits.max_calls is not None:
                self._channel.send("leave", number)


class Admissions:
    """The side of the supervisor, for one worker; the limiter is that of all workers."""

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._places: dict[int, AbstractAsyncContextManager[None]] = {}
        self._leaving: set[asyncio.Task[object]] = set()

    async def admit(self, number: int, caller: Caller) -> None:
        """Waits until a call may run, and gives it a place; see `Limiter.admitted`."""
        place = self._limiter.admitted(caller)
        await place.__aenter__()
        if caller.limits.max_calls is not None:
            self._places[number] = place

    async def charge(self, caller: Caller, cost: int) -> None:
        """Counts what a call costs beyond one; see `Limiter.charge`."""
        await self._limiter.charge(caller, cost)

    def leave(self, number: int) -> None:
        """Frees the place of a call, if it has one."""
        place = self._places.pop(number, None)
        if place is not None:
            task = asyncio.ensure_future(place.__aexit__(None, None, None))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def close(self) -> None:
        """Frees all places: the worker is gone."""
        for number in tuple(self._places):
            self.leave(number)
