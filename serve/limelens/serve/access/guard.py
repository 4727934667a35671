"""Stands before the handlers: nobody's request is read before it is known who sends it.

It asks `policy` who calls and `limiting` whether there is room, and ends streams whose caller is
no longer let in. It knows nothing of what the calls do.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
import grpc.aio

from limelens.serve.access.caller import Caller, charging, current, relied_on
from limelens.serve.access.limiting import Limiter
from limelens.serve.access.policy import Access
from limelens.serve.access.rights import OPEN, needed_right
from limelens.serve.call_context import called_by
from limelens.serve.errors import (
    LimelensError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from limelens.serve.status import to_abort

_MAX_WAIT_S: Final = 60.0  # clocks may be set while a stream goes on
_WATCH: Final = "/grpc.health.v1.Health/Watch"
_REFLECTION: Final = "/grpc.reflection."
_log = logging.getLogger(__name__)
Handle = Callable[[Any, Any], Awaitable[Any]]


class Guard:
    """Lets calls in.

    Args:
        access: Who may call.
        limiter: Counts how often; None is one of its own.
    """

    def __init__(self, access: Access, limiter: Limiter | None = None) -> None:
        self._access = access
        self._limiter = limiter or Limiter()

    def before(self, handle: Handle, method: str, *, streams: bool) -> Handle:
        """A handler that is reached by those alone who may call it.

        Args:
            handle: It has not read the request yet.
            method: Such as `/limelens.v1.ClassifierService/Embed`.
            streams: Whether the call may go on for long, so that its caller is looked at again.

        Returns:
            Raises UnauthenticatedError, PermissionDeniedError or OverloadedError in place of
            handling.
        """
        if needed_right(method) is OPEN:
            return handle

        async def guarded(request: Any, context: Any) -> Any:
            async with self._limiter.admitted(self._admit(method, context)):
                return await handle(request, context)

        async def guarded_stream(request: Any, context: Any) -> Any:
            async with self.admitting(method, context):
                return await handle(request, context)

        return guarded_stream if streams else guarded

    @contextlib.asynccontextmanager
    async def admitting(self, method: str, context: Any) -> AsyncIterator[None]:
        """The stay of a call that may go on for long; see `before`."""
        generation = self._access.generation
        caller = self._admit(method, context)
        async with self._limiter.admitted(caller):
            if not self._access.may_change:
                yield
                return
            refused: list[LimelensError] = []
            relied_on.set(set())
            try:
                async with asyncio.timeout(None) as stay:
                    looking = asyncio.create_task(
                        self._look_again(method, context, caller, generation, refused, stay)
                    )
                    try:
                        yield
                    finally:
                        looking.cancel()
            except TimeoutError:
                if refused:
                    raise refused[0] from None
                raise

    def _admit(self, method: str, context: Any) -> Caller:
        caller = self._access.authenticate(
            context.invocation_metadata() or (), context.peer(), context.auth_context() or {}
        )
        current.set(caller)
        charging.set(functools.partial(self._limiter.charge, caller))
        called_by(caller.name)
        right = needed_right(method)
        if right is not OPEN:
            caller.require(right)
        return caller

    async def _look_again(
        self,
        method: str,
        context: Any,
        caller: Caller,
        generation: int,
        refused: list[LimelensError],
        stay: asyncio.Timeout,
    ) -> None:
        """Ends the stay once its caller's token has expired, was taken away or may do less."""
        while True:
            try:
                if self._access.generation != generation:
                    generation = self._access.generation
                    before, caller = caller, self._admit(method, context)
                    # What it does beyond its method's own right was asked when it began.
                    lost = sorted((relied_on.get() or set()) & (before.rights - caller.rights))
                    if lost:
                        raise PermissionDeniedError(
                            f"{caller.name} no longer has the right to {', '.join(lost)}; expected "
                            "a new call that does without"
                        )
                if caller.expires_at is not None and caller.expires_at <= time.time():
                    raise UnauthenticatedError(
                        f"the token of {caller.name} has expired; expected a new call with a new "
                        "one"
                    )
            except LimelensError as error:
                refused.append(error)
                stay.reschedule(0.0)
                return
            left = _MAX_WAIT_S if caller.expires_at is None else caller.expires_at - time.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(left, _MAX_WAIT_S))):
                    await self._access.changed()


class ReflectionGuard(grpc.aio.ServerInterceptor):
    """Lets those alone ask for the contract who may ask what is served.

    Args:
        guard: Who may.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Stands before reflection's handler; see `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or not method.startswith(_REFLECTION):
            return handler

        async def guarded(requests: Any, context: Any) -> AsyncIterator[Any]:
            try:
                async with self._guard.admitting(method, context):
                    async for answer in handler.stream_stream(requests, context):
                        yield answer
            except LimelensError as error:
                _log.info("reflection: %s", error)
                await context.abort(*to_abort(error, ""))
            except grpc.aio.AbortError:
                raise
            except Exception as error:
                _log.exception("reflection failed, request reflection")
                await context.abort(*to_abort(error, "reflection"))

        return grpc.stream_stream_rpc_method_handler(
            guarded, handler.request_deserializer, handler.response_serializer
        )


class WatcherLimit(grpc.aio.ServerInterceptor):
    """Bounds those who watch the health, whom nobody asks who they are.

    Without it they could take every place that the server has for calls.

    Args:
        most: How many at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Stands before the health's `Watch`; see `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method != _WATCH:
            return handler

        async def bounded(request: Any, context: Any) -> None:
            if self._count >= self._most:
                error = OverloadedError(
                    f"{self._count} watch the health, which is the most; expected Check in place "
                    "of Watch",
                    5.0,
                )
                await context.abort(*to_abort(error, ""))
            self._count += 1
            try:
                await handler.unary_stream(request, context)
            finally:
                self._count -= 1

        return grpc.unary_stream_rpc_method_handler(
            bounded, handler.request_deserializer, handler.response_serializer
        )
