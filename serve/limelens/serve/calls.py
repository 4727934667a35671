"""What holds for every call, whatever it asks: an id, a line in the log, errors as statuses.

It also counts calls under way, so that a server going down knows when it may. It knows nothing
of what the calls do.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from limelens.serve.errors import InvalidRequestError, MalformedMessageError
from limelens.serve.status import is_internal, to_abort

_ID_KEY: Final = "x-request-id"
_MAX_ID: Final = 64
_MAX_TELLING_S: Final = 2.0
_log = logging.getLogger(__name__)

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
"""The id of the call that is being answered: the caller's own, or one that was drawn."""


class Calls(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio has no types
    """Wraps the handlers of limelens' services; others (health, reflection) pass as they are."""

    def __init__(self, services: Iterable[str]) -> None:
        self._prefixes = tuple(f"/{service}/" for service in services)
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    async def none_left(self) -> None:
        """Waits until no call is under way."""
        await self._none.wait()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Puts the frame around one call's handler; see `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        method: str = handler_call_details.method
        if handler is None or not method.startswith(self._prefixes):
            return handler
        own_id = _own_id(handler_call_details.invocation_metadata)
        name = method.rpartition("/")[2]
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._around(handler.stream_stream, name, own_id),
                _parsing(handler.request_deserializer),
                handler.response_serializer,
            )
        # On the wire the same. But of a unary request gRPC keeps the bytes until it is answered,
        # of a stream's message nothing; and what cannot be parsed gets an id and a status here.
        if handler.response_streaming:
            reading = _reading_one(handler.unary_stream, handler.request_deserializer)
            return grpc.stream_stream_rpc_method_handler(
                self._around(reading, name, own_id), None, handler.response_serializer
            )
        reading = _reading_one(handler.unary_unary, handler.request_deserializer)
        return grpc.stream_unary_rpc_method_handler(
            self._around(reading, name, own_id), None, handler.response_serializer
        )

    def _around(
        self, handle: Callable[[Any, Any], Awaitable[Any]], name: str, own_id: str
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(request: Any, context: Any) -> Any:
            request_id.set(own_id)
            began = time.monotonic()
            self._count += 1
            self._none.clear()
            try:
                reply = await handle(request, context)
                _note(logging.DEBUG, name, "OK", own_id, began)
                return reply
            except grpc.aio.AbortError:
                raise
            except asyncio.CancelledError:
                _note(logging.INFO, name, "CANCELLED", own_id, began)
                raise
            except Exception as error:
                await _refuse(context, error, name, own_id, began)
                return None
            finally:
                self._count -= 1
                if not self._count:
                    self._none.set()

        return call


def _parsing(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def checked(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError as error:
            raise MalformedMessageError(f"the request cannot be parsed: {error}") from error

    return checked


def _reading_one(
    handle: Callable[[Any, Any], Awaitable[Any]], parse: Callable[[bytes], Any]
) -> Callable[[Any, Any], Awaitable[Any]]:
    """Reads the one message of a call and keeps nothing of it: only `handle` holds the request."""

    async def read(_messages: Any, context: Any) -> Any:
        data = await context.read()
        if data is grpc.aio.EOF:
            # Or the request was over the size limit: then gRPC itself has told so already.
            raise InvalidRequestError("", "the call ended without a request")
        parsed = [_parsing(parse)(data)]
        del data
        return await handle(parsed.pop(), context)

    return read


async def _refuse(context: Any, error: Exception, name: str, own_id: str, began: float) -> None:
    code, message, trailing = to_abort(error, own_id)
    if is_internal(error):
        _note(logging.ERROR, name, code.name, own_id, began, error=error)
    else:
        _note(logging.INFO, name, code.name, own_id, began, reason=message)
    # A status lies behind the answers that went before it: whoever reads none of them must not
    # keep the call open. gRPC hands the status over when they do.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_MAX_TELLING_S):
            await context.abort(code, message, trailing)


def _note(
    level: int,
    name: str,
    code: str,
    own_id: str,
    began: float,
    *,
    reason: str = "",
    error: Exception | None = None,
) -> None:
    if not _log.isEnabledFor(level):
        return
    duration_ms = 1000 * (time.monotonic() - began)
    _log.log(
        level,
        "%s %s in %.1f ms, request %s%s",
        name,
        code,
        duration_ms,
        own_id,
        f": {reason}" if reason else "",
        exc_info=error,
        extra={"rpc": name, "code": code, "request_id": own_id, "duration_ms": duration_ms},
    )


def _own_id(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    for key, value in metadata or ():
        if (
            key == _ID_KEY
            and isinstance(value, str)
            and 0 < len(value) <= _MAX_ID
            and value.isascii()
            and value.isprintable()
        ):
            return value
    return f"{random.getrandbits(64):016x}"
