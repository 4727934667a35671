"""The client for asyncio.

Files are read and images encoded in threads, so that the event loop is never held up.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import threading
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import suppress
from typing import Any, Final, Self, Unpack

import grpc
import grpc.aio

from limelens.serve.client.calls import Calls
from limelens.serve.client.channels import Channel
from limelens.serve.client.connection import ConnectArguments, Connection
from limelens.serve.client.requests import check_arguments
from limelens.v1 import classifier_service_pb2_grpc as service_grpc

_END: Final = object()
_STATUS_WAIT_S: Final = 1.0


class AsyncClient(Calls):
    """Connections to a limelens server for one event loop; otherwise the same as `Client`.

    Cancelling a task cancels its call, on the server too. The function that returns a token may be
    asynchronous; a plain one is called in a thread.

        async with AsyncClient("127.0.0.1:8500") as client:
            print((await client.classify(["door.jpg"]))[0].label)
    """

    def __init__(self, address: str, **settings: Unpack[ConnectArguments]) -> None:
        check_arguments(type(self).__name__, settings, ConnectArguments)
        super().__init__(Connection(address, **settings), _AsyncioTransport())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class _AsyncioTransport:
    def __init__(self) -> None:
        self._connecting: dict[Channel, Any] = {}
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop itself holds them weakly

    def open(self, connection: Connection) -> Channel:
        # Not before the first call: a channel belongs to the loop that runs when it is made.
        channel = connection.channel(grpc.aio)
        return Channel(channel, service_grpc.ClassifierServiceStub(channel))  # type: ignore[no-untyped-call]

    async def is_ready(self, channel: Channel, timeout_s: float) -> bool:
        self._connecting[channel] = asyncio.current_task()
        try:
            async with asyncio.timeout(timeout_s):
                await channel.channel.channel_ready()
        except (TimeoutError, grpc.aio.UsageError):  # the latter: it was closed meanwhile
            return False
        finally:
            self._connecting.pop(channel, None)
        return True

    async def close(self, channel: Channel) -> None:
        if (task := self._connecting.pop(channel, None)) is not None:
            await _cancel([task])
        await channel.channel.close()

    async def token(self, give: Callable[[], Any]) -> str | None:
        token = await asyncio.to_thread(give)
        if inspect.isawaitable(token):
            token = await token
        return token  # type: ignore[no-any-return]

    async def unary(self, method: Any, request: Any, **options: Any) -> Any:
        return await method(request, **options)

    async def responses(self, call: Any) -> AsyncGenerator[Any, None]:
        status = _Status(call)
        try:
            async for response in call:
                yield response
        except grpc.RpcError as error:
            failure = await status.behind(error)
            if failure is not None:
                raise failure from None

    def requests(self, messages: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        return messages

    def items(self, source: Any) -> AsyncIterator[Any]:
        return aiter(source) if isinstance(source, AsyncIterable) else _in_thread(source)

    async def in_thread(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return await asyncio.to_thread(function, *arguments, **named)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def signal(self) -> _Signal:
        return _Signal()

    def start(
        self, function: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any
    ) -> asyncio.Task[Any]:
        task = asyncio.create_task(function(*arguments))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def result(self, handle: asyncio.Task[Any]) -> Any:
        return await handle

    async def stop(self, handles: Sequence[asyncio.Task[Any]], **_: bool) -> None:
        await _cancel(handles)


class _Signal:
    """Needs no lock: within one event loop nothing changes between two awaits."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...

    def notify_all(self) -> None:
        self._event.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            # Those who waited before were already woken by the one who set it.
            self._event.clear()
            await self._event.wait()


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Status:
    """The status that the server sent, when a failed write hides it.

    If a frame is on its way while the call ends, grpc.aio lets the failure of that write take the
    place of the server's status (grpc/grpc#36066): most refusals of a stream would come out as an
    internal error. Callbacks for the end of the call get both.
    """

    def __init__(self, call: Any) -> None:
        self._seen: list[_CallError] = []
        self._more = asyncio.Event()
        call.add_done_callback(self._note)

    def _note(self, call: Any) -> None:
        parts = call.code(), call.details(), call.trailing_metadata()
        self._seen.append(_CallError(*map(_result_at_once, parts)))
        self._more.set()

    async def behind(self, error: grpc.RpcError) -> grpc.RpcError | None:
        """How the call failed, given what was raised; None if it did not fail."""
        if not _is_of_write(error):
            return error
        if all(map(_is_of_write, self._seen)):
            self._more.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_STATUS_WAIT_S):
                    await self._more.wait()
        for one in self._seen:
            if not _is_of_write(one):
                return None if one.code() is grpc.StatusCode.OK else one
        return error


class _CallError(grpc.RpcError):
    """The status of a call at one moment."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: Any) -> None:
        self._code, self._details, self._trailing = code, details, trailing

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailing


def _is_of_write(error: grpc.RpcError) -> bool:
    return (
        error.code() is grpc.StatusCode.INTERNAL and error.details() == "Internal error from Core"
    )


def _result_at_once(coroutine: Any) -> Any:
    """The result of a coroutine that never suspends."""
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        return stopped.value
    raise AssertionError("a call that is over has no status")


async def _in_thread(items: Iterable[Any]) -> AsyncGenerator[Any, None]:
    """Reads an iterable that blocks.

    The thread is a daemon: a silent camera cannot be interrupted, and must not keep the process
    from ending.
    """
    loop = asyncio.get_running_loop()
    wanted: queue.SimpleQueue[asyncio.Future[Any] | None] = queue.SimpleQueue()

    def settle(future: asyncio.Future[Any], item: Any, error: Exception | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(item)
        else:
            future.set_exception(error)

    def read() -> None:
        source: Iterator[Any] | None = None
        while (future := wanted.get()) is not None:
            item: Any = _END
            failure: Exception | None = None
            try:
                source = source or iter(items)
                item = next(source, _END)
            except Exception as error:
                failure = error
            try:
                loop.call_soon_threadsafe(settle, future, item, failure)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    threading.Thread(target=read, name="camera-frames", daemon=True).start()
    try:
        while True:
            future = loop.create_future()
            wanted.put(future)
            if (item := await future) is _END:
                return
            yield item
    finally:
        wanted.put(None)
