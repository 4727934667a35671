"""Signals as words in a queue: what the main thread of `limelens watch` waits for."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Any, Final


class Order(Enum):
    """What somebody wants."""

    STOP = b"s"
    RELOAD = b"r"


_RELOADING: Final = getattr(signal, "SIGHUP", None)


class Orders:
    """What was ordered and not done yet."""

    def __init__(self, reading: int) -> None:
        self._reading = reading

    def wait(self, timeout_s: float) -> Order | None:
        """The next order; None if there is none within some seconds."""
        ready, _, _ = select.select([self._reading], [], [], timeout_s)
        return Order(os.read(self._reading, 1)) if ready else None


@contextmanager
def orders() -> Iterator[Orders]:
    """SIGTERM and Ctrl-C order to stop, SIGHUP to reload; a second one to stop ends the process."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    stopping = (signal.SIGINT, signal.SIGTERM)

    def handle(number: int, _frame: Any) -> None:
        # Nothing else is safe here: the main thread may hold any lock.
        if number == _RELOADING:
            order = Order.RELOAD
        else:
            order = Order.STOP
            for one in stopping:
                signal.signal(one, signal.SIG_DFL)
        with suppress(BlockingIOError):  # so many wait that one more changes nothing
            os.write(writing, order.value)

    numbers = [*stopping, *([] if _RELOADING is None else [_RELOADING])]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield Orders(reading)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
