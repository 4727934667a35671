"""One count of each client's calls, whichever worker they come to.

Workers ask the supervisor, whose limiter is the same as that of a server alone, but only about
clients that have a limit: nobody else waits for it.
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
    """A worker's side.

    Args:
        channel: To the supervisor.
    """

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._tickets = itertools.count()

    def admitted(self, caller: Caller) -> AbstractAsyncContextManager[None]:
        """See `Limiter`."""
        if caller.limits.max_calls is None and caller.limits.rate is None:
            return ANY_PLACE
        return self._admitted(replace(caller, rights=frozenset()))

    async def charge(self, caller: Caller, cost: int) -> None:
        """See `Limiter`."""
        if caller.limits.rate is not None:
            await self._channel.ask("charge", replace(caller, rights=frozenset()), cost)

    @asynccontextmanager
    async def _admitted(self, caller: Caller) -> AsyncIterator[None]:
        ticket = next(self._tickets)
        try:
            await self._channel.ask("admit", ticket, caller)
            yield
        finally:
            if caller.limits.max_calls is not None:
                self._channel.tell("leave", ticket)


class Admissions:
    """The supervisor's side, for one worker.

    Args:
        limiter: Of all workers.
    """

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._places: dict[int, AbstractAsyncContextManager[None]] = {}
        self._leaving: set[asyncio.Task[object]] = set()

    async def admit(self, ticket: int, caller: Caller) -> None:
        """Gives a call its place, when there is one.

        Raises:
            OverloadedError: As of `Limiter.admitted`.
        """
        place = self._limiter.admitted(caller)
        await place.__aenter__()
        if caller.limits.max_calls is not None:
            self._places[ticket] = place

    async def charge(self, caller: Caller, cost: int) -> None:
        """Counts what a call costs beyond one.

        Raises:
            OverloadedError: As of `Limiter.charge`.
        """
        await self._limiter.charge(caller, cost)

    def leave(self, ticket: int) -> None:
        """Takes a call's place back, if it has one."""
        place = self._places.pop(ticket, None)
        if place is not None:
            task = asyncio.ensure_future(place.__aexit__(None, None, None))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def close(self) -> None:
        """Takes all places back: the worker is gone."""
        for ticket in tuple(self._places):
            self.leave(ticket)
