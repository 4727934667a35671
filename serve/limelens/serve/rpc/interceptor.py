"""What every call of our services has in common: an id, a log line, limits, errors as statuses.

It knows nothing of what the calls do.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeAlias

import grpc
import grpc.aio

from limelens.serve.access.guard import Guard
from limelens.serve.access.shares import Shares
from limelens.serve.call_context import Call, current_call
from limelens.serve.errors import MalformedMessageError, UnavailableError
from limelens.serve.observing.observer import Observer
from limelens.serve.rpc.open_calls import OpenCalls
from limelens.serve.rpc.transport.message_io import Context, Handler, Reader
from limelens.serve.status import code_name, forget, is_internal, left_code, to_abort

_ID_KEY: Final = "x-request-id"
_MAX_ID: Final = 64
_MAX_ABORT_S: Final = 2.0
_MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_log = logging.getLogger(__name__)


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of our services; others (health, reflection) pass unchanged."""

    def __init__(
        self,
        services: Iterable[str],
        guard: Guard,
        observer: Observer | None = None,
        reader: Reader | None = None,
        *,
        log_ok: int = logging.DEBUG,
        max_calls: int | None = None,
    ) -> None:
        self._guard = guard
        self._prefixes = tuple(f"/{service}/" for service in services)
        self._observer = observer or Observer()
        self._reader = reader or Reader()
        self._log_ok = log_ok
        self._wrapped: dict[str, _MethodHandler] = {}
        self.shares = Shares(max_calls or sys.maxsize, "calls are in flight", is_limit=True)
        """How many of the calls in flight belong to each client."""
        self.open_calls = OpenCalls()  # the calls in flight

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_MethodHandler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _MethodHandler | None:
        """Wraps a method's handler, once; see `grpc.aio.ServerInterceptor`."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None or not method.startswith(self._prefixes):
                return handler
            wrapped = self._wrapped[method] = self._wrap(handler, method)
        return wrapped

    def _wrap(self, handler: Any, method: str) -> _MethodHandler:
        around = functools.partial(self._around, method=method)
        parse, serialize = handler.request_deserializer, handler.response_serializer
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                around(self._guard.before(handler.stream_stream, method, streams=True)),
                self._reader.parsing(parse),
                serialize,
            )
        # Unary requests are read as streams, which looks the same on the wire: gRPC keeps a unary
        # request's bytes until the response, but nothing of a stream's message. And so a malformed
        # request gets an id and a status here.
        streams = handler.response_streaming
        handle = self._reader.reading_one(
            handler.unary_stream if streams else handler.unary_unary, parse
        )
        guarded = around(self._guard.before(handle, method, streams=streams))
        if streams:
            return grpc.stream_stream_rpc_method_handler(guarded, None, serialize)
        return grpc.stream_unary_rpc_method_handler(guarded, None, serialize)

    def _around(self, handle: Handler, method: str) -> Handler:
        _, service, rpc = method.split("/")

        async def respond(request: Any, context: Context) -> Any:
            metadata: Iterable[tuple[str, str | bytes]] = context.invocation_metadata() or ()
            call = Call(service, rpc, _request_id(metadata), time.monotonic(), peer=context.peer())
            current_call.set(call)
            self.open_calls.arrived()
            self._observer.call_began(call, metadata)
            try:
                if self.open_calls.is_refusing:
                    raise UnavailableError("the server is going down")
                with self.shares.holding():
                    response = await handle(request, context)
                self._ended(call, "OK", self._log_ok)
                return response
            except grpc.aio.AbortError:
                self._ended(call, code_name(context.code()), logging.INFO)
                raise
            except asyncio.CancelledError:
                passed_s = time.monotonic() - call.began
                self._ended(call, left_code(context.time_remaining(), passed_s), logging.INFO)
                raise
            except Exception as error:
                refusal = to_abort(error, call.request_id)
                code, message, _ = refusal
                if is_internal(error) and not isinstance(error, MalformedMessageError):
                    self._ended(call, code.name, logging.ERROR, error=error)
                else:
                    self._ended(call, code.name, logging.INFO, reason=message)
                forget(error)
            # Outside the except block: gRPC keeps the error that `abort` raises, and with it the
            # errors that led to it.
            # The status is sent after the responses before it, when the client reads: one that does
            # not read them must not keep the call open.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_MAX_ABORT_S):
                    await context.abort(*refusal)
            return None

        return respond

    def _ended(
        self, call: Call, code: str, level: int, *, reason: str = "", error: Exception | None = None
    ) -> None:
        """Counts before responding, so that a client that sees its response sees the metric."""
        call.seconds = seconds = time.monotonic() - call.began
        self._observer.call_ended(call, code)
        if not _log.isEnabledFor(level):
            return
        _log.log(
            level,
            "%s %s in %.1f ms, request %s%s%s",
            call.rpc,
            code,
            1000 * seconds,
            call.request_id,
            f" of {call.caller}" if call.caller else "",
            f": {reason}" if reason else "",
            exc_info=error,
            extra={"code": code, "duration_ms": round(1000 * seconds, 3), **call.fields()},
        )


def _request_id(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The client's own id for the call if it is usable, else a random one."""
    for key, value in metadata:
        if (
            key == _ID_KEY
            and isinstance(value, str)
            and 0 < len(value) <= _MAX_ID
            and value.isascii()
            and value.isprintable()
        ):
            return value
    return f"{random.getrandbits(64):016x}"
