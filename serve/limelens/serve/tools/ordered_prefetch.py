"""Work on many things side by side, with answers in the order of the things.

It knows threads, and nothing of what is worked on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")


def in_order(
    work: Callable[[_Item], _Answer], items: Iterable[_Item], at_once: int
) -> Generator[_Answer, None, None]:
    """Answers in the order of the items; one more than are worked on is taken ahead.

    Args:
        work: Is called from several threads.
        items: Taken as they are needed.
        at_once: How many are worked on at a time.

    Yields:
        What `work` returned for each; what it raised is raised here.
    """
    pool = ThreadPoolExecutor(at_once, "limelens-in-order")
    waiting: deque[Future[_Answer]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # Stopped in the middle: what has not begun never does.
        pool.shutdown(cancel_futures=True)
