"""What holds for every call, whatever it asks: an id, a line in the log, errors as statuses.

It also counts calls under way, so that a server going down knows when it may. It knows nothing
of what the calls do.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import logging
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from limelens.serve.access.guard import Guard
from limelens.serve.access.shares import Shares
from limelens.serve.call_context import Call, current
from limelens.serve.errors import (
    ExpiredError,
    InvalidRequestError,
    MalformedMessageError,
    UnavailableError,
)
from limelens.serve.observing.observer import Metadata, Observer
from limelens.serve.rpc.transport.memory import Trimming
from limelens.serve.rpc.transport.wire import check_fields
from limelens.serve.scheduling.memory_budget import Budget
from limelens.serve.status import Refusal, code_name, forget, is_internal, left_code, to_abort

_ID_KEY: Final = "x-request-id"
_MAX_ID: Final = 64
# A server going down looks again and again whether calls come. It still answers those of the first
# looks, who could not know; then it refuses; and it is over when nothing came in some looks. Looks
# are counted, not seconds: on a busy machine they take longer, as calls on their way do.
_LOOK_S: Final = 0.015
_ANSWERED_LOOKS: Final = 20
_QUIET_LOOKS: Final = 10
_MAX_TELLING_S: Final = 2.0
_log = logging.getLogger(__name__)

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
"""The id of the call that is being answered: the caller's own, or one that was drawn."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps the handlers of limelens' services; others (health, reflection) pass as they are.

    Args:
        services: Full names of the services.
        guard: Stands before them.
        observer: Is told of every call.
        log_ok: The level at which calls that went well are logged.
        idle_s: A call whose one message has not come after so long is ended; None waits for ever.
        budget: Bytes of messages that may be held for callers who wait; None counts none.
        max_calls: Calls and streams at a time; more are refused, and none of several clients may
            have more than its share. None is no limit.
        max_message_bytes: Of one message, once it is unpacked; None is what gRPC was told.
    """

    def __init__(
        self,
        services: Iterable[str],
        guard: Guard,
        observer: Observer | None = None,
        *,
        log_ok: int = logging.DEBUG,
        idle_s: float | None = None,
        budget: Budget | None = None,
        max_calls: int | None = None,
        max_message_bytes: int | None = None,
    ) -> None:
        self._guard = guard
        self._prefixes = tuple(f"/{service}/" for service in services)
        self._observer = observer or Observer()
        self._log_ok = log_ok
        self._patience = _Patience(idle_s)
        self._budget = budget or Budget(sys.maxsize)
        self._trimming = Trimming()
        self._max_message_bytes = max_message_bytes or sys.maxsize
        self.shares = Shares(max_calls or sys.maxsize, "calls are under way", is_limit=True)
        self._framed: dict[str, Any] = {}
        self._came = 0.0  # when the last call did
        self._refusing = False
        self._count = 0
        self._none = asyncio.Event()
        self._none.set()

    @property
    def num_open(self) -> int:
        """Calls under way, those included whose answers gRPC has not handed over yet."""
        return self._count

    async def take_leave(self, most_s: float) -> None:
        """Lets in what is on its way, then refuses what comes, until nothing has come for a while.

        RejectedVersion calls are not waited for: callers who retry would keep a server for ever.

        Args:
            most_s: How long at most, in seconds.
        """
        ends_at = time.monotonic() + most_s
        looks = quiet = 0
        while quiet < _QUIET_LOOKS and time.monotonic() < ends_at:
            last = self._came
            await asyncio.sleep(_LOOK_S)
            looks += 1
            quiet = quiet + 1 if self._came == last else 0
            self._refusing = looks >= _ANSWERED_LOOKS
        self._refusing = True

    async def none_left(self) -> None:
        """Waits until no call is under way."""
        await self._none.wait()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """Puts the frame around one call's handler; see `grpc.aio.ServerInterceptor`."""
        method: str = handler_call_details.method
        framed = self._framed.get(method)
        if framed is None:
            handler = await continuation(handler_call_details)
            if handler is None or not method.startswith(self._prefixes):
                return handler
            framed = self._framed[method] = self._frame(handler, method)
        return framed

    def _frame(self, handler: Any, method: str) -> Any:
        """The same for every call of a method, so it is made once."""
        around = functools.partial(self._around, method=method)
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                around(self._guard.before(handler.stream_stream, method, streams=True)),
                self._parsing(handler.request_deserializer),
                handler.response_serializer,
            )
        # On the wire the same. But of a unary request gRPC keeps the bytes until it is answered,
        # of a stream's message nothing; and what cannot be parsed gets an id and a status here.
        if handler.response_streaming:
            reading = self._reading_one(handler.unary_stream, handler.request_deserializer)
            reading = self._guard.before(reading, method, streams=True)
            return grpc.stream_stream_rpc_method_handler(
                around(reading), None, handler.response_serializer
            )
        reading = self._reading_one(handler.unary_unary, handler.request_deserializer)
        reading = self._guard.before(reading, method, streams=False)
        return grpc.stream_unary_rpc_method_handler(
            around(reading), None, handler.response_serializer
        )

    def _parsing(self, parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
        """Bytes to a message, whose fields are counted first; parsing holds the event loop."""
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

    def _reading_one(
        self, handle: Callable[[Any, Any], Awaitable[Any]], parse: Callable[[bytes], Any]
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        """Reads the one message of a call and keeps nothing of it: only `handle` holds it.

        Its bytes are counted from when it is here until it is answered.
        """
        checked = self._parsing(parse)

        async def read(_messages: Any, context: Any) -> Any:
            data = await self._patience.read(context)
            if data is grpc.aio.EOF:
                # Or the request was over the size limit: then gRPC itself has told so already.
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

    def _around(
        self, handle: Callable[[Any, Any], Awaitable[Any]], method: str
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        _, service, rpc = method.split("/")

        async def answer(request: Any, context: Any) -> Any:
            metadata: Metadata = context.invocation_metadata() or ()
            call = Call(service, rpc, _own_id(metadata), time.monotonic(), peer=context.peer())
            request_id.set(call.request_id)
            current.set(call)
            self._came = call.began
            self._count_until_sent()
            self._observer.call_began(call, metadata)
            try:
                if self._refusing:
                    raise UnavailableError("the server is going down")
                with self.shares.holding():
                    reply = await handle(request, context)
                self._ended(call, "OK", self._log_ok)
                return reply
            except grpc.aio.AbortError:
                self._ended(call, code_name(context.code()), logging.INFO)
                raise
            except asyncio.CancelledError:
                self._ended(call, left_code(context.time_remaining()), logging.INFO)
                raise
            except Exception as error:
                refusal = self._refused(error, call)
                forget(error)
            # Outside of the handler above: gRPC keeps the error that it raises, and with that all
            # that led to it.
            await _abort(context, refusal)
            return None

        return answer

    def _count_until_sent(self) -> None:
        """Counts a call until its status was sent, which is after its handler ended."""
        task = asyncio.current_task()
        if self._refusing or task is None:
            return
        self._count += 1
        self._none.clear()
        task.add_done_callback(self._sent)

    def _sent(self, _task: asyncio.Task[Any]) -> None:
        self._count -= 1
        if not self._count:
            self._none.set()

    def _refused(self, error: Exception, call: Call) -> Refusal:
        """Counts and logs a call that failed; what its caller is told."""
        refusal = to_abort(error, call.request_id)
        code, message, _ = refusal
        if is_internal(error) and not isinstance(error, MalformedMessageError):
            self._ended(call, code.name, logging.ERROR, error=error)
        else:
            self._ended(call, code.name, logging.INFO, reason=message)
        return refusal

    def _ended(
        self,
        call: Call,
        code: str,
        level: int,
        *,
        reason: str = "",
        error: Exception | None = None,
    ) -> None:
        """Told before the answer goes: who has it finds it counted."""
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


async def _abort(context: Any, refusal: Refusal) -> None:
    # A status lies behind the answers that went before it: whoever reads none of them must
    # not keep the call open. gRPC hands the status over when they do.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_MAX_TELLING_S):
            await context.abort(*refusal)


class _Patience:
    """Ends calls whose one message does not come.

    One timer for all of them: a timeout of each call's own costs more than the reading.

    Args:
        idle_s: How long a message is waited for; None is for ever.
    """

    def __init__(self, idle_s: float | None) -> None:
        self._idle_s = idle_s
        self._since: dict[asyncio.Task[Any] | None, float] = {}  # the one that waits longest first
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, context: Any) -> Any:
        """The call's message, or `grpc.aio.EOF`.

        Raises:
            ExpiredError: None came.
        """
        if self._idle_s is None:
            return await context.read()
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        self._since[task] = loop.time()
        if self._timer is None:
            self._timer = loop.call_later(self._idle_s, self._look, loop, self._idle_s)
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

    def _look(self, loop: asyncio.AbstractEventLoop, idle_s: float) -> None:
        self._timer = None
        for task, since in list(self._since.items()):
            if since + idle_s > loop.time():
                self._timer = loop.call_at(since + idle_s, self._look, loop, idle_s)
                return
            del self._since[task]
            if task is not None:
                task.cancel()


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
