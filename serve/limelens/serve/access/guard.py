"""Checks callers before their requests are read.

It asks `policy` who calls and `limiting` whether there is room, and ends streams whose caller loses
its access. It does not know what the calls do.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from limelens.serve.access.caller import Caller, charging, current_caller, relied_on
from limelens.serve.access.limiting import Limiter
from limelens.serve.access.policy import Access
from limelens.serve.access.rights import OPEN, needed_right
from limelens.serve.call_context import note_caller
from limelens.serve.errors import (
    LimelensError,
    OverloadedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from limelens.serve.status import to_abort

_MAX_WAIT_S: Final = 60.0  # the clock may be adjusted during a stream
_WATCH: Final = "/grpc.health.v1.Health/Watch"
_REFLECTION: Final = "/grpc.reflection."
_Context = grpc.aio.ServicerContext[Any, Any]
_MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Continuation: TypeAlias = (
    "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]]"
)
Handle = Callable[[Any, _Context], Awaitable[Any]]
_log = logging.getLogger(__name__)


class Guard:
    """Admits calls."""

    def __init__(self, access: Access, limiter: Limiter | None = None) -> None:
        self._access = access
        self._limiter = limiter or Limiter()

    def before(self, handle: Handle, method: str, *, streams: bool) -> Handle:
        """Wraps a handler so that only callers who may call the method reach it.

        Returns:
            A handler that raises UnauthenticatedError, PermissionDeniedError or OverloadedError
            for other callers.
        """
        if needed_right(method) is OPEN:
            return handle

        async def guarded(request: Any, context: _Context) -> Any:
            async with self._limiter.admitted(self._admit(method, context)):
                return await handle(request, context)

        async def guarded_stream(request: Any, context: _Context) -> Any:
            async with self.admitting(method, context):
                return await handle(request, context)

        return guarded_stream if streams else guarded

    @contextlib.asynccontextmanager
    async def admitting(self, method: str, context: _Context) -> AsyncIterator[None]:
        """Admits a call that may last for long; see `before`."""
        generation = self._access.generation
        caller = self._admit(method, context)
        async with self._limiter.admitted(caller):
            if not self._access.may_change:
                yield
                return
            errors: list[LimelensError] = []
            relied_on.set(set())
            try:
                async with asyncio.timeout(None) as stay:
                    checking = asyncio.create_task(
                        self._check_again(method, context, caller, generation, errors, stay)
                    )
                    try:
                        yield
                    finally:
                        checking.cancel()
            except TimeoutError:
                if errors:
                    raise errors[0] from None
                raise

    def _admit(self, method: str, context: _Context) -> Caller:
        caller = self._access.authenticate(
            context.invocation_metadata() or (), context.peer(), context.auth_context() or {}
        )
        current_caller.set(caller)
        charging.set(functools.partial(self._limiter.charge, caller))
        note_caller(caller.name)
        right = needed_right(method)
        if right is not OPEN:
            caller.require(right)
        return caller

    async def _check_again(
        self,
        method: str,
        context: _Context,
        caller: Caller,
        generation: int,
        errors: list[LimelensError],
        stay: asyncio.Timeout,
    ) -> None:
        """Ends the stay once the caller's token expires, is removed or loses a right."""
        while True:
            try:
                if self._access.generation != generation:
                    generation = self._access.generation
                    before, caller = caller, self._admit(method, context)
                    # Rights beyond the method's own were checked when the call began.
                    lost = sorted((relied_on.get() or set()) & (before.rights - caller.rights))
                    if lost:
                        raise PermissionDeniedError(
                            f"{caller.name} no longer has the right to {', '.join(lost)}; expected "
                            "a new call that does not need it"
                        )
                if caller.expires_at is not None and caller.expires_at <= time.time():
                    raise UnauthenticatedError(
                        f"the token of {caller.name} has expired; expected a new call with a new "
                        "one"
                    )
            except LimelensError as error:
                errors.append(error)
                stay.reschedule(0.0)
                return
            left = _MAX_WAIT_S if caller.expires_at is None else caller.expires_at - time.time()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, min(left, _MAX_WAIT_S))):
                    await self._access.changed.wait()


class ReflectionGuard(grpc.aio.ServerInterceptor):
    """Restricts reflection to callers who may list models."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _MethodHandler | None:
        """Wraps reflection's handler; see `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_REFLECTION):
            return handler
        reflect: Any = handler.stream_stream

        async def guarded(requests: Any, context: _Context) -> AsyncIterator[Any]:
            try:
                async with self._guard.admitting(method, context):
                    async for response in reflect(requests, context):
                        yield response
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
    """Limits health watchers, who are not authenticated and could take all places for calls."""

    def __init__(self, max_watchers: int) -> None:
        self._max_watchers = max_watchers
        self._count = 0

    async def intercept_service(
        self, continuation: _Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> _MethodHandler | None:
        """Wraps the handler of the health's `Watch`; see `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method != _WATCH:
            return handler
        watch: Any = handler.unary_stream

        async def bounded(request: Any, context: _Context) -> None:
            if self._count >= self._max_watchers:
                error = OverloadedError(
                    f"limit of health watchers reached ({self._count}); expected Check instead of "
                    "Watch",
                    5.0,
                )
                await context.abort(*to_abort(error, ""))
            self._count += 1
            try:
                await watch(request, context)
            finally:
                self._count -= 1

        return grpc.unary_stream_rpc_method_handler(
            bounded, handler.request_deserializer, handler.response_serializer
        )
