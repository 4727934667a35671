"""Connections that bring nothing, or take nothing, are closed: others need their place.

uvicorn itself waits for ever for a request to begin, and for a response to be taken.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

LOOK_S: Final = 7.0
"""Between two looks; a connection that did nothing from one to the next is closed."""


class WatchedProtocol(H11Protocol):
    """HTTP/1.1 of uvicorn, with a look at each connection now and then."""

    look_s = LOOK_S

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to look."""
        super().connection_made(transport)
        self._seen: tuple[Any, int] | None = None
        self._next = self.loop.call_later(self.look_s, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends looking."""
        self._next.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        cycle = self.cycle
        is_answering = cycle is not None and not cycle.response_complete
        now = cycle, self.transport.get_write_buffer_size()
        if (self.transport.is_closing() or not is_answering) and now == self._seen:
            self.transport.abort()
            return
        self._seen = now
        self._next = self.loop.call_later(self.look_s, self._look)
