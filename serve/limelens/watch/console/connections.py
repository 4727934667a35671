"""Connections: how many there may be, and which are closed because others need their place.

uvicorn itself takes any number of them, and waits for ever for a request to begin, and for a
response to be taken. The process that serves the page may also watch: connections must not use up
its open files, whoever makes them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection
from typing import Any, Final
from weakref import WeakKeyDictionary

from uvicorn.protocols.http.h11_impl import H11Protocol

from limelens.watch.console.addresses import Network, is_within, network_of

LOOK_S: Final = 7.0
"""Between two looks; a connection that did nothing from one to the next is closed."""
MAX_CONNECTIONS: Final = 400
"""Far fewer than the 1,024 files that a process may often have open."""
MAX_PER_ADDRESS: Final = 64
_MOST_AHEAD: Final = 64 * 1024
"""Bytes of further requests that a client may send before the response to its last one."""


class LimitedSocket(socket.socket):
    """A listening socket that hangs up on whoever has too many connections.

    Those that are still in their TLS handshake count, too.

    Args:
        listening: It is taken over.
        exempt: Addresses that connections of many people come from, such as a proxy's.
    """

    def __init__(self, listening: socket.socket, exempt: Collection[Network] = ()) -> None:
        super().__init__(fileno=listening.detach())
        self._exempt = exempt
        self._opened: WeakKeyDictionary[socket.socket, str] = WeakKeyDictionary()

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection.

        Raises:
            ConnectionAbortedError: There was one too many; an event loop goes on after that.
        """
        connection, address = super().accept()
        place = network_of(address[0])
        taken = [place for one, place in list(self._opened.items()) if one.fileno() >= 0]
        is_many = taken.count(place) >= MAX_PER_ADDRESS and not is_within(address[0], self._exempt)
        if len(taken) >= MAX_CONNECTIONS or is_many:
            connection.close()
            raise ConnectionAbortedError
        self._opened[connection] = place
        return connection, address


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

    def data_received(self, data: bytes) -> None:
        """Takes data; uvicorn would keep any number of requests that come ahead of their turn."""
        super().data_received(data)
        if self.flow.read_paused and len(self.conn.trailing_data[0]) > _MOST_AHEAD:
            self.transport.abort()

    def _look(self) -> None:
        cycle, num_untaken = self.cycle, self.transport.get_write_buffer_size()
        is_working = cycle is not None and not cycle.response_complete and not num_untaken
        now = cycle, num_untaken
        if (self.transport.is_closing() or not is_working) and now == self._seen:
            self.transport.abort()
            return
        self._seen = now
        self._next = self.loop.call_later(self.look_s, self._look)
