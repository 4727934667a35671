"""What sinks share: a bounded mailbox, and an event loop in a thread that empties it.

It knows neither disks nor networks. `put` only appends to a list, whatever the thread is waiting
for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection
from typing import Final

from limelens.serve.wording import counted, first_line
from limelens.watch.event import Event, EventExplanation, EventType
from limelens.watch.sinks.message import Message, message_of

_log = logging.getLogger(__name__)

_MAX_WAITING: Final = 10_000
"""Messages that wait for the thread; some kilobytes each."""
_PAUSE_S: Final = 5.0
_MORE_S: Final = 2.0
"""Beyond its time a sink may take this long to end."""


class Mailbox:
    """Messages on their way to a sink's thread. If it is full, the oldest gives way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._messages: deque[Message] = deque(maxlen=_MAX_WAITING)
        self._bell: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self.num_dropped = 0
        """Messages that gave way."""

    def put(self, message: Message) -> None:
        """Adds one, from any thread."""
        with self._lock:
            self.num_dropped += len(self._messages) == self._messages.maxlen
            self._messages.append(message)
        self.ring()

    def take(self) -> list[Message]:
        """All that there are, oldest first."""
        with self._lock:
            messages = list(self._messages)
            self._messages.clear()
        return messages

    def listen(self) -> None:
        """Lets the running event loop wait for messages."""
        self._bell = asyncio.get_running_loop(), asyncio.Event()

    def ring(self) -> None:
        """Ends the wait of the event loop, from any thread."""
        if self._bell is not None:
            loop, bell = self._bell
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(bell.set)

    async def arrived(self, timeout_s: float | None = None) -> None:
        """Waits for a message or a ring, at most for some seconds."""
        assert self._bell is not None
        bell = self._bell[1]
        if not self._messages:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await bell.wait()
        bell.clear()


class ThreadedSink(ABC):
    """A sink whose work is a coroutine on an event loop in a thread of its own.

    Args:
        name: What it is called in messages.
        types: The types of events that it takes.
    """

    def __init__(self, name: str, types: Collection[EventType]) -> None:
        self._name = name
        self._types = frozenset(types)
        self._mailbox = Mailbox()
        self._closes_at: float | None = None
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name=f"sink {name}", daemon=True)

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self._name

    def put(self, event: Event) -> None:
        """Takes an event if it is of a type that this sink sends. Never waits."""
        if event.type in self._types and self._closes_at is None:
            self._mailbox.put(message_of(event))

    def explain(self, explanation: EventExplanation) -> None:  # noqa: B027
        """Explanations are for the record; nothing is sent."""

    @property
    def problem(self) -> str:
        """What keeps it from delivering now, for people; empty if nothing does."""
        lost = self._mailbox.num_dropped
        said = [self._failure, *self._problems()]
        if lost:
            said.append(
                f"{counted(lost, 'event')} came faster than they could be taken, and are lost"
            )
        return "; ".join(one for one in said if one)

    def close(self, timeout_s: float) -> None:
        """Delivers what it can within some seconds, and ends."""
        if self._closes_at is None:
            self._closes_at = time.monotonic() + timeout_s
        self._mailbox.ring()
        self._thread.join(timeout_s + _MORE_S)

    @property
    def _is_closing(self) -> bool:
        return self._closes_at is not None

    @property
    def _left_s(self) -> float:
        """Seconds until it must have ended; infinite unless it closes."""
        closes_at = self._closes_at
        return float("inf") if closes_at is None else max(closes_at - time.monotonic(), 0.0)

    @abstractmethod
    async def _work(self) -> None:
        """Delivers until the sink closes. If it raises, it is called again after a pause."""

    @abstractmethod
    def _problems(self) -> list[str]:
        """What keeps it from delivering now; empty texts are left out."""

    def _run(self) -> None:
        asyncio.run(self._work_on())

    async def _work_on(self) -> None:
        # A library's callback may still touch a socket that is gone; the loss itself is noticed
        # where it matters, and must not be printed into a table.
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: _log.debug("%s: %s", self._name, context.get("message"))
        )
        self._mailbox.listen()
        while True:
            try:
                return await self._work()
            except Exception as error:
                # Without this, one mistake of ours would end a sink for good, in silence.
                _log.exception("the sink %s failed", self._name)
                self._failure = f"failed: {first_line(error)}; it goes on"
            if self._is_closing:
                return None
            await asyncio.sleep(_PAUSE_S)
