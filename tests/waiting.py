"""Waits for what other threads and processes bring about, and slows fakes down.

Tests wait for conditions, and sleep only to slow something by `slow_by`. Knows nothing of limelens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

PATIENCE_S = 120.0
"""As long as a very busy machine may take."""
_POLL_S = 0.01


def until(condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> float:
    """Waits until a condition holds.

    Args:
        condition: Called again and again; anything true ends the wait.
        timeout_s: How long to wait at most.

    Returns:
        How long it took, in seconds.

    Raises:
        AssertionError: It did not hold in time.
    """
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"not so after {timeout_s:g} s"
        time.sleep(_POLL_S)
    return time.monotonic() - began


async def until_async(condition: Callable[[], Any], timeout_s: float = PATIENCE_S) -> float:
    """The same on an event loop, which goes on meanwhile."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"not so after {timeout_s:g} s"
        await asyncio.sleep(_POLL_S)
    return time.monotonic() - began


def ever_longer(seconds: float) -> Iterator[float]:
    """Times within which something has to happen that a busy machine may be too late for.

    A test goes on to the next where the machine was too late, and ends the loop where it was not.

    Args:
        seconds: The first and shortest.

    Raises:
        AssertionError: Even the longest was too short.
    """
    for factor in (1, 4, 16, 64):
        yield seconds * factor
    raise AssertionError(f"not even within {64 * seconds:g} s")


def slow_by(seconds: float) -> None:
    """Sleeps in place of something slow, such as a device, a camera or a reader.

    This is not for waiting until something has happened: `until` does that.
    """
    time.sleep(seconds)


async def slow_by_async(seconds: float) -> None:
    """The same on an event loop, which goes on meanwhile."""
    await asyncio.sleep(seconds)
