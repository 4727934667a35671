"""Parallel work in threads, with results in the order of the items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_order(
    work: Callable[[_Item], _Result], items: Iterable[_Item], at_once: int
) -> Generator[_Result, None, None]:
    """Calls `work` for each item in threads; an error of `work` is raised here.

    Unlike `Executor.map` it does not read all items at once: it takes one more than it works on.

    Yields:
        The results in the order of the items.
    """
    pool = ThreadPoolExecutor(at_once, "limelens-in-order")
    waiting: deque[Future[_Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # If the caller stops early, work that has not begun is dropped.
        pool.shutdown(cancel_futures=True)
