"""Ends watching by Ctrl-C or SIGTERM, so that what was sent is still answered."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stopping(*stops: Callable[[], object]) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM calls functions in a thread, the second ends the process."""
    reading, writing = os.pipe()

    def handle(_number: int, _frame: Any) -> None:
        # Nothing else is safe here: the main thread may hold any lock.
        os.write(writing, b".")
        for number, handler in before.items():
            signal.signal(number, handler)

    def wait() -> None:
        if os.read(reading, 1) == b".":
            for stop in stops:
                stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(writing, b"-")
        thread.join()
        os.close(reading)
        os.close(writing)
