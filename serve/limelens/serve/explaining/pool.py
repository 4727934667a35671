"""The threads that explain, at a lower priority than classification.

Few explanations run at a time, in threads that the operating system schedules last; they stop
within one chunk when no caller waits. Does not know messages, nor how
`limelens.serve.explaining.explain_image` explains.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from limelens.serve.bundle import Bundle
from limelens.serve.errors import ExpiredError, OverloadedError
from limelens.serve.explaining.explain_image import explain_image, explain_image_progressively
from limelens.serve.explaining.rendering import RenderedExplanation
from limelens.serve.explaining.spec import ExplainSpec
from limelens.serve.priority import lower_thread_priority

_NICENESS: Final = 19  # the lowest priority
_T = TypeVar("_T")


class _Stop:
    """Whether a caller still waits."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._left = threading.Event()

    def leave(self) -> None:
        self._left.set()

    def check(self) -> None:
        if self._left.is_set():
            raise ExpiredError("the caller left")
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise ExpiredError("the deadline passed before the explanation was done")


class Explainer:
    """The threads that explain.

    Args:
        max_running: Explanations at a time; each uses as many threads for the model as its
            bundle has.
        max_waiting: Explanations that wait; more are refused.
        low_priority: Whether the threads have a lower priority than all others, which suits models
            on the CPU. On a GPU, others would wait for what such a thread holds.
    """

    def __init__(self, *, max_running: int, max_waiting: int, low_priority: bool) -> None:
        self._max_running = max_running
        self._most = max_running + max_waiting
        self._pool = ThreadPoolExecutor(
            max_running,
            "limelens-explain",
            lambda: lower_thread_priority(_NICENESS) if low_priority else None,
        )
        self._lock = threading.Lock()
        self._count = 0
        self._seconds_each = 2.0

    @property
    def num_open(self) -> int:
        """Explanations that run or wait."""
        return self._count

    async def explain(
        self, bundle: Bundle, spec: ExplainSpec, *, deadline: float | None = None
    ) -> RenderedExplanation:
        """Waits for an explanation. Cancelling stops the work.

        Unfinished work also stops at the deadline, by `time.monotonic`.

        Raises:
            OverloadedError: Too many are waiting.
            ExpiredError: The deadline passed first.
            LimelensError: As `explain_image`.
        """
        return await self.explain_newest(lambda: (bundle, spec), deadline=deadline)

    async def explain_newest(
        self, take: Callable[[], tuple[Bundle, ExplainSpec]], *, deadline: float | None = None
    ) -> RenderedExplanation:
        """Waits for an explanation of the newest image at the time when its turn comes.

        `take` gives the model and the specification when the work begins; it is called at most
        once, in the thread that explains.
        """
        stop = _Stop(deadline)

        def work() -> RenderedExplanation:
            stop.check()
            return explain_image(*take(), stop.check)

        future = self._submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            stop.leave()
            raise

    async def explain_progressively(
        self, bundle: Bundle, spec: ExplainSpec, *, deadline: float | None = None
    ) -> AsyncGenerator[RenderedExplanation, None]:
        """Better and better explanations, always including the final one.

        The work never waits for its reader: while one explanation is unread, no other is rendered
        but the final one, which replaces it. Closing the iterator stops the work. Takes and raises
        what `explain` does.
        """
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        newest: list[RenderedExplanation] = []
        is_done = False

        def put(found: RenderedExplanation) -> None:
            newest[:] = [found]
            changed.set()

        def finish() -> None:
            nonlocal is_done
            is_done = True
            changed.set()

        def work() -> None:
            for found in explain_image_progressively(
                bundle, spec, stop.check, is_wanted=lambda: not newest
            ):
                loop.call_soon_threadsafe(put, found)

        stop = _Stop(deadline)
        future = self._submit(work)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(finish))
        try:
            while newest or not is_done:
                await changed.wait()
                changed.clear()
                if newest:
                    yield newest.pop()
            future.result()
        finally:
            stop.leave()
            future.cancel()

    def close(self) -> None:
        """Ends the threads after the running explanations are done."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def check_room(self) -> None:
        """Refuses at once an explanation for which work has to be done beforehand.

        Raises:
            OverloadedError: Too many are waiting.
        """
        if self._count >= self._most:
            raise OverloadedError(
                f"limit reached: {self._count} explanations are running or waiting",
                self._seconds_each * self._count / self._max_running,
            )

    def _submit(self, work: Callable[[], _T]) -> Future[_T]:
        with self._lock:
            self.check_room()
            self._count += 1
        future = self._pool.submit(self._timed, work)
        future.add_done_callback(self._left)
        return future

    def _left(self, _future: Future[_T]) -> None:
        with self._lock:
            self._count -= 1

    def _timed(self, work: Callable[[], _T]) -> _T:
        began = time.monotonic()
        done = work()
        with self._lock:
            self._seconds_each += 0.3 * (time.monotonic() - began - self._seconds_each)
        return done
