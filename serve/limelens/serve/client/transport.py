"""How a client waits: what differs between plain code and asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Protocol

from limelens.serve.client.channels import Channel
from limelens.serve.client.connection import Connection


class Transport(Protocol):
    """How a client waits: all that `Client` and `AsyncClient` do not share."""

    def open(self, connection: Connection) -> Channel:
        """Makes a channel without connecting it."""

    async def is_ready(self, channel: Channel, timeout_s: float) -> bool:
        """Connects a channel; False if that fails or takes longer than `timeout_s`."""

    async def close(self, channel: Channel) -> None:
        """Closes a channel, connected or not; its calls are cancelled."""

    async def token(self, give: Callable[[], Any]) -> str | None:
        """Calls the caller's function that returns a fresh token."""

    async def unary(self, method: Any, request: Any, **options: Any) -> Any:
        """Sends one request and waits for its response."""

    def responses(self, call: Any) -> AsyncGenerator[Any, None]:
        """Yields the responses of a stream as they come."""

    def requests(self, messages: AsyncGenerator[Any, None]) -> Any:
        """Turns the messages of a stream into what gRPC reads."""

    def items(self, source: Any) -> AsyncIterator[Any]:
        """Reads a caller's iterable without holding anything else up."""

    async def in_thread(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Calls a function that reads files or encodes images."""

    async def sleep(self, seconds: float) -> None:
        """Waits."""

    def signal(self) -> Any:
        """A lock for the state of one stream, entered by `with`.

        While it is entered, `notify_all()` wakes those who wait for a change, and
        `await until(condition)` waits until a condition holds.
        """

    def start(self, function: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> Any:
        """Runs a coroutine in the background; the handle is for `result` and `stop`."""

    async def result(self, handle: Any) -> Any:
        """Waits for the result of what was started."""

    async def stop(self, handles: Sequence[Any], *, may_hang: bool) -> None:
        """Ends what was started; of what `may_hang`, such as a camera, it only asks that."""
