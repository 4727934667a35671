"""The client for plain code and threads.

It runs the calls of `Calls` in the caller's thread: its transport blocks where asyncio would
wait, so a coroutine never suspends, and one step takes it to its end.
"""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Sequence
from concurrent.futures import Future, wait
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar, Unpack

import grpc

from limelens.serve.client.calls import Calls
from limelens.serve.client.channels import Channel
from limelens.serve.client.connection import ConnectArguments, Connection
from limelens.serve.client.requests import (
    ExplainArguments,
    ImageInput,
    check_arguments,
    explain_request,
)
from limelens.serve.client.results import ExplanationUpdate
from limelens.serve.errors import InvalidRequestError
from limelens.v1 import classifier_service_pb2_grpc as service_grpc

_WATCHED_S: Final = 2.0
"""How long gRPC's thread may take to look at a connection again: 0.2 s, more on a busy machine."""

P = ParamSpec("P")
T = TypeVar("T")


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Takes a coroutine to its end; it never suspends, as its transport blocks instead."""
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        result: T = stopped.value
        return result
    raise AssertionError("a call of the blocking client was suspended")


def _iterate(source: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Reads an asynchronous generator that never suspends; closing the one closes the other."""
    try:
        while True:
            try:
                item = _run(source.__anext__())
            except StopAsyncIteration:
                return
            yield item
    finally:
        _run(source.aclose())


def _blocking(
    method: Callable[Concatenate[Calls, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Client, P], T]:
    """The same call for plain code."""

    @functools.wraps(method)
    def call(self: Client, /, *arguments: P.args, **named: P.kwargs) -> T:
        return _run(method(self._calls, *arguments, **named))

    return call


def _iterated(
    method: Callable[Concatenate[Calls, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Client, P], Generator[T, None, None]]:
    """The same generator for plain code."""

    @functools.wraps(method)
    def call(self: Client, /, *arguments: P.args, **named: P.kwargs) -> Generator[T, None, None]:
        return _iterate(method(self._calls, *arguments, **named))

    return call


class Client:
    """Connections to a limelens server; may be shared by threads.

    One caller has one connection; calls that are under way at once are spread over several. Calls
    that fail because the server is busy or not there yet are tried again a few times, within
    their deadline.

        with Client("127.0.0.1:8500") as client:
            print(client.classify(["door.jpg"])[0].label)

    Args:
        address: `HOST:PORT`, or another of gRPC's names; see `Connection`.
        settings: TLS, token, deadline, retries; see `Connection`.

    Raises:
        InvalidRequestError: As `Connection`.
        OSError: A certificate cannot be read.
    """

    def __init__(self, address: str, **settings: Unpack[ConnectArguments]) -> None:
        check_arguments(type(self).__name__, settings, ConnectArguments)
        self._calls = Calls(Connection(address, **settings), _ThreadTransport())

    @classmethod
    def over(cls, stub: Any) -> Self:
        """A client that calls a stub without a gRPC channel.

        Args:
            stub: Has the unary methods of `ClassifierService` and `ExplainStream` by their names,
                each called with a request, `timeout` in seconds and `metadata`.
        """
        client = cls.__new__(cls)
        connection = Connection("", timeout_s=None, max_connections=1)  # nothing is dialled
        client._calls = Calls(connection, _ThreadTransport(stub))
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; calls under way are cancelled."""
        _run(self._calls.close())

    classify = _blocking(Calls.classify)
    classify_many = _iterated(Calls.classify_many)
    embed = _blocking(Calls.embed)
    explain = _blocking(Calls.explain)
    stream = _iterated(Calls.stream)
    models = _blocking(Calls.models)
    model = _blocking(Calls.model)

    def explain_stream(
        self, image: ImageInput, **arguments: Unpack[ExplainArguments]
    ) -> Generator[ExplanationUpdate, None, None]:
        """Explanations from more and more samples; see `AsyncClient.explain_stream`."""
        request = explain_request(image, **arguments)  # raises now, not with the first update
        return _iterate(self._calls.explanation_updates(request, arguments))


class _ThreadTransport:
    """Blocks the calling thread; calls a stub in place of a server if there is one."""

    def __init__(self, stub: Any = None) -> None:
        self._stub = stub
        self._lock = threading.Lock()  # no channel is closed while gRPC begins to watch it
        self._connecting: dict[Channel, Any] = {}
        self._watched_until: dict[Channel, float] = {}

    def open(self, connection: Connection) -> Channel:
        if self._stub is not None:
            return Channel(None, self._stub)
        channel = connection.channel(grpc)
        return Channel(channel, service_grpc.ClassifierServiceStub(channel))  # type: ignore[no-untyped-call]

    async def is_ready(self, channel: Channel, timeout_s: float) -> bool:
        with self._lock:
            try:
                future = grpc.channel_ready_future(channel.channel)
            except ValueError:  # the client was closed meanwhile
                return False
            self._connecting[channel] = future
        try:
            future.result(timeout=timeout_s)
        except (grpc.FutureTimeoutError, grpc.FutureCancelledError):
            return False
        with self._lock:
            self._connecting.pop(channel, None)
            self._watched_until[channel] = time.monotonic() + _WATCHED_S
        return True

    async def close(self, channel: Channel) -> None:
        if channel.channel is None:
            return
        # gRPC's thread that watches a connection being made looks again within 0.2 s, and would
        # raise if the channel were closed between two looks.
        with self._lock:
            watched_s = self._watched_until.pop(channel, 0.0) - time.monotonic()
            if (future := self._connecting.pop(channel, None)) is not None:
                watched_s = _WATCHED_S
            if watched_s <= 0:
                channel.channel.close()
                return
        if future is not None:
            future.cancel()
        closing = threading.Timer(watched_s, channel.channel.close)
        closing.daemon = True
        closing.start()

    async def token(self, give: Callable[[], Any]) -> str | None:
        token: Any = give()
        if not inspect.isawaitable(token):
            return token  # type: ignore[no-any-return]
        if inspect.iscoroutine(token):
            token.close()
        raise InvalidRequestError(
            "token", "its function is asynchronous; expected a plain one, or an AsyncClient"
        )

    async def unary(self, method: Any, request: Any, **options: Any) -> Any:
        return method(request, **options)

    async def responses(self, call: Any) -> AsyncGenerator[Any, None]:
        for response in call:
            yield response

    def requests(self, messages: AsyncGenerator[Any, None]) -> Generator[Any, None, None]:
        return _iterate(messages)  # runs in one of gRPC's threads

    async def items(self, source: Iterable[Any]) -> AsyncGenerator[Any, None]:
        for item in source:
            yield item

    async def in_thread(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def signal(self) -> _Signal:
        return _Signal()

    def start(
        self, function: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any
    ) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(_run(function(*arguments)))
            except BaseException as error:
                future.set_exception(error)

        # A daemon: a silent camera cannot be interrupted.
        threading.Thread(target=work, name="limelens-client", daemon=True).start()
        return future

    async def result(self, handle: Future[Any]) -> Any:
        return handle.result()

    async def stop(self, handles: Sequence[Future[Any]], *, may_hang: bool) -> None:
        if not may_hang:
            wait(handles)


class _Signal(threading.Condition):
    async def until(self, holds: Callable[[], bool]) -> None:
        self.wait_for(holds)
