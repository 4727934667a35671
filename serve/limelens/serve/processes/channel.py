"""Messages between the supervisor and a worker, over a pair of connected sockets.

Each side sends messages, or requests and waits for the reply, errors included. Messages are
pickles: both ends are the same program, and no other process holds an end. It knows nothing of what
the messages mean.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from limelens.serve.errors import LimelensError, UnavailableError

Handler = Callable[..., Any]
"""Handles the content of a message; its result, awaited if need be, is the reply."""

_SIZE: Final = struct.Struct("!Q")
_log = logging.getLogger(__name__)


class GoneError(UnavailableError):
    """The process at the other end of a channel ended."""

    def __init__(self, message: str = "the process at the other end is gone") -> None:
        super().__init__(message)


class Channel:
    """One end; it finds the handler of a message by its first word."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        handlers: Mapping[str, Handler],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._handlers = handlers
        self._numbers = itertools.count()
        self._requests: dict[int, asyncio.Future[Any]] = {}
        self._replying: dict[int, asyncio.Task[None]] = {}
        self._is_over = False

    @classmethod
    async def over(cls, end: socket.socket, handlers: Mapping[str, Handler]) -> Channel:
        """A channel over one of two connected sockets."""
        return cls(*await asyncio.open_connection(sock=end), handlers)

    async def run(self) -> None:
        """Receives messages until the other end is gone."""
        try:
            while True:
                size = _SIZE.unpack(await self._reader.readexactly(_SIZE.size))[0]
                number, word, content = pickle.loads(await self._reader.readexactly(size))
                self._receive(number, word, content)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._is_over = True
            self._writer.close()
            for task in self._replying.values():
                task.cancel()
            for request in self._requests.values():
                if not request.done():
                    request.set_exception(GoneError())

    def send(self, word: str, *content: object) -> None:
        """Sends a message that needs no reply; it is lost if the other end is gone."""
        self._write(None, word, content)

    async def request(self, word: str, *content: object) -> Any:
        """Sends a message and waits for the reply; cancelling the wait cancels the handler.

        Raises:
            GoneError: The other end is gone.
            LimelensError: What the handler raised.
        """
        if self._is_over:
            raise GoneError()
        number = next(self._numbers)
        reply = self._requests[number] = asyncio.get_running_loop().create_future()
        try:
            self._write(number, word, content)
            return await reply
        except asyncio.CancelledError:
            self._write(number, "", ("cancelled", None))
            raise
        finally:
            del self._requests[number]

    def _write(self, number: int | None, word: str, content: tuple[object, ...]) -> None:
        if self._is_over or self._writer.is_closing():
            return
        data = pickle.dumps((number, word, content), protocol=pickle.HIGHEST_PROTOCOL)
        self._writer.writelines((_SIZE.pack(len(data)), data))

    def _receive(self, number: int | None, word: str, content: tuple[Any, ...]) -> None:
        if number is None:
            self._handlers[word](*content)
        elif not word:
            self._receive_reply(number, *content)
        else:
            task = asyncio.create_task(self._reply(number, word, content))
            self._replying[number] = task
            task.add_done_callback(lambda _: self._replying.pop(number, None))

    def _receive_reply(self, number: int, kind: str, value: Any) -> None:
        if kind == "cancelled":
            task = self._replying.get(number)
            if task is not None:
                task.cancel()
            return
        request = self._requests.get(number)
        if request is None or request.done():
            return
        if kind == "raised":
            request.set_exception(value)
        else:
            request.set_result(value)

    async def _reply(self, number: int, word: str, content: tuple[Any, ...]) -> None:
        try:
            value = self._handlers[word](*content)
            if isinstance(value, Awaitable):
                value = await value
        except LimelensError as error:
            self._write(number, "", ("raised", error))
        except Exception as error:
            _log.exception("%r failed", word)
            text = f"{type(error).__name__}: {error}"
            self._write(number, "", ("raised", LimelensError(text)))
        else:
            self._write(number, "", ("returned", value))


def send_first(end: socket.socket, message: object) -> None:
    """Sends a message before the other process has a loop; it must fit a socket's buffer."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    end.sendall(_SIZE.pack(len(data)) + data)


def receive_first(end: socket.socket) -> Any:
    """Receives what `send_first` sent."""
    head = end.recv(_SIZE.size, socket.MSG_WAITALL)
    data = end.recv(_SIZE.unpack(head)[0], socket.MSG_WAITALL) if head else b""
    if not data:
        raise GoneError()
    return pickle.loads(data)
