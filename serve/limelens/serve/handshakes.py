"""Closes connections whose TLS handshake was given up. It knows httpx only by names of events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any


def closing_given_up() -> Callable[[str, dict[str, Any]], Awaitable[None]]:
    """A function for the extension `trace` of one request of an `httpx.AsyncClient`.

    httpx closes a connection whose handshake failed, but not one whose handshake was cancelled, as
    by a timeout: it would take a file until it is collected as garbage.
    """
    connected: list[Any] = []

    async def trace(event: str, info: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            connected[:] = [info["return_value"]]
        elif event == "connection.start_tls.failed":
            for stream in connected:
                await stream.aclose()

    return trace
