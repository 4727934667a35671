"""Reads requests and writes responses, within limits.

It waits for messages, counts their bytes, checks and parses them; it does not know what they mean.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
from google.protobuf.message import DecodeError

from limelens.serve.errors import (
    ExpiredError,
    InvalidRequestError,
    MalformedMessageError,
    OverloadedError,
)
from limelens.serve.rpc.transport.memory import Trimming
from limelens.serve.rpc.transport.wire import check_fields
from limelens.serve.scheduling.memory_budget import Budget

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Awaitable[Any]]
Parse = Callable[[bytes], Any]


async def read_within(context: Context, idle_s: float, what: str) -> Any:
    """Reads a stream's next message, or `grpc.aio.EOF`."""
    try:
        async with asyncio.timeout(idle_s):
            return await context.read()
    except TimeoutError:
        raise ExpiredError(
            f"no {what} for {idle_s:g} seconds; expected one at least that often"
        ) from None


async def write_within(context: Context, response: object, idle_s: float) -> None:
    """Writes a stream's next response."""
    try:
        async with asyncio.timeout(idle_s):
            await context.write(response)
    except TimeoutError:
        raise OverloadedError(
            f"no response was read for {idle_s:g} seconds; expected a reader that keeps up", 1.0
        ) from None


class Reader:
    """Reads the requests of one event loop.

    Args:
        idle_s: How long to wait for the message of a unary call; None waits for ever.
        budget: Limits the bytes of requests that are held; None is no limit.
    """

    def __init__(
        self,
        idle_s: float | None = None,
        budget: Budget | None = None,
        max_message_bytes: int | None = None,
    ) -> None:
        self._patience = _Patience(idle_s)
        self._budget = budget or Budget(sys.maxsize)
        self._max_message_bytes = max_message_bytes or sys.maxsize
        self._trimming = Trimming()

    def parsing(self, parse: Parse) -> Parse:
        """Checks the size and the number of fields first, because parsing holds the event loop."""
        kind: Any = getattr(parse, "__self__", None)  # the message's class
        descriptor = getattr(kind, "DESCRIPTOR", None)

        def checked(data: bytes) -> Any:
            if len(data) > self._max_message_bytes:
                raise InvalidRequestError(
                    "", f"message of {len(data):,} bytes; the limit is {self._max_message_bytes:,}"
                )
            if descriptor is not None:
                check_fields(data, descriptor)
            try:
                return parse(data)
            except DecodeError as error:
                raise MalformedMessageError(f"the request cannot be parsed: {error}") from error

        return checked

    def reading_one(self, handle: Handler, parse: Parse) -> Handler:
        """Reads the one message of a call; only `handle` keeps a reference to it.

        The message's bytes count in the budget until the call ends.
        """
        checked = self.parsing(parse)

        async def read(_messages: object, context: Context) -> Any:
            data: Any = await self._patience.read(context)
            if data is grpc.aio.EOF:
                # Or the request is over gRPC's size limit: gRPC has sent that status already.
                raise InvalidRequestError("", "the call ended without a request")
            count = len(data)
            try:
                with self._budget.holding(count):
                    parsed = [checked(data)]
                    del data
                    return await handle(parsed.pop(), context)
            finally:
                self._trimming.gone(count)

        return read


class _Patience:
    """Ends calls whose one message does not come.

    One timer serves all calls: a timeout for each costs more than the reading.
    """

    def __init__(self, idle_s: float | None) -> None:
        self._idle_s = idle_s
        self._since: dict[asyncio.Task[Any] | None, float] = {}  # the longest wait first
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, context: Context) -> Any:
        """The call's message, or `grpc.aio.EOF`."""
        if self._idle_s is None:
            return await context.read()
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        self._since[task] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._idle_s, self._expire, loop, self._idle_s)
        try:
            return await context.read()
        except asyncio.CancelledError:
            if task is None or task in self._since or task.uncancel():
                raise
            raise ExpiredError(
                f"no request for {self._idle_s:g} seconds; expected one message"
            ) from None
        finally:
            self._since.pop(task, None)

    def _expire(self, loop: asyncio.AbstractEventLoop, idle_s: float) -> None:
        self._timer = None
        for task, since in list(self._since.items()):
            if since + idle_s > loop.time():
                self._timer = loop.call_at(since + idle_s, self._expire, loop, idle_s)
                return
            del self._since[task]
            if task is not None:
                task.cancel()
