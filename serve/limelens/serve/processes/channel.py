"""Messages between the supervisor and a worker, over a pair of connected sockets.

Each side tells the other something, or asks and waits for what comes back, errors included.
Messages are pickles: both ends are the same program, and nobody else holds an end. It knows
nothing of what is said.
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
"""Takes what was said; may be a coroutine function, whose result then answers who asked."""

_SIZE: Final = struct.Struct("!Q")
_log = logging.getLogger(__name__)


class Channel:
    """One end.

    Args:
        reader: From the other end.
        writer: To it.
        handlers: By the word with which a message begins.
    """

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
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._answering: dict[int, asyncio.Task[None]] = {}
        self._over = False

    @classmethod
    async def over(cls, end: socket.socket, handlers: Mapping[str, Handler]) -> Channel:
        """A channel over one of two connected sockets."""
        return cls(*await asyncio.open_connection(sock=end), handlers)

    async def run(self) -> None:
        """Hears the other end out, until it is gone."""
        try:
            while True:
                size = _SIZE.unpack(await self._reader.readexactly(_SIZE.size))[0]
                number, word, content = pickle.loads(await self._reader.readexactly(size))
                self._hear(number, word, content)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._over = True
            self._writer.close()
            for task in self._answering.values():
                task.cancel()
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_exception(_gone())

    def tell(self, word: str, *content: object) -> None:
        """Says something that needs no answer; where the other end is gone, nobody hears it."""
        self._send(None, word, content)

    async def ask(self, word: str, *content: object) -> Any:
        """Says something and waits for the answer; to be asked no longer is told too.

        Raises:
            UnavailableError: The other end is gone.
            LimelensError: What the other end raised.
        """
        if self._over:
            raise _gone()
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(number, word, content)
            return await answer
        except asyncio.CancelledError:
            self._send(number, "", ("cancelled", None))
            raise
        finally:
            del self._asked[number]

    def _send(self, number: int | None, word: str, content: tuple[object, ...]) -> None:
        if self._over or self._writer.is_closing():
            return
        data = pickle.dumps((number, word, content), protocol=pickle.HIGHEST_PROTOCOL)
        self._writer.writelines((_SIZE.pack(len(data)), data))

    def _hear(self, number: int | None, word: str, content: tuple[Any, ...]) -> None:
        if not word:
            self._hear_answer(number, *content)
        elif number is None:
            self._handlers[word](*content)
        else:
            task = asyncio.create_task(self._answer(number, word, content))
            self._answering[number] = task
            task.add_done_callback(lambda _: self._answering.pop(number, None))

    def _hear_answer(self, number: int | None, how: str, what: Any) -> None:
        if how == "cancelled":
            task = self._answering.get(number) if number is not None else None
            if task is not None:
                task.cancel()
            return
        asked = self._asked.get(number) if number is not None else None
        if asked is None or asked.done():
            return
        if how == "raised":
            asked.set_exception(what)
        else:
            asked.set_result(what)

    async def _answer(self, number: int, word: str, content: tuple[Any, ...]) -> None:
        try:
            found = self._handlers[word](*content)
            if isinstance(found, Awaitable):
                found = await found
        except LimelensError as error:
            self._send(number, "", ("raised", error))
        except Exception as error:
            _log.exception("%r could not be answered", word)
            text = f"{type(error).__name__}: {error}"
            self._send(number, "", ("raised", LimelensError(text)))
        else:
            self._send(number, "", ("returned", found))


def send_first(end: socket.socket, message: object) -> None:
    """Sends what the other process reads before it has a loop; it fits into a socket's buffer."""
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    end.sendall(_SIZE.pack(len(data)) + data)


def receive_first(end: socket.socket) -> Any:
    """Reads that.

    Raises:
        UnavailableError: The other end is gone.
    """
    head = end.recv(_SIZE.size, socket.MSG_WAITALL)
    data = end.recv(_SIZE.unpack(head)[0], socket.MSG_WAITALL) if head else b""
    if not data:
        raise _gone()
    return pickle.loads(data)


def _gone() -> UnavailableError:
    return UnavailableError("the process at the other end is gone")
