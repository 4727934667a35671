"""Calls that nobody waits for, each in a daemon thread: one that hangs delays no end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_Result = TypeVar("_Result")


def aside(function: Callable[[], _Result]) -> Future[_Result]:
    """Calls a function in another thread; returns its future result."""
    future: Future[_Result] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, name="limelens-aside", daemon=True).start()
    return future
