"""The threads that explain, without getting in the way of those who classify.

Few explanations run at a time, in threads which the operating system schedules after everybody
else's; they stop within one chunk when nobody waits any more. It knows nothing of messages, and
leaves what an explanation is to `limelens.serve.explaining.explain_image`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from limelens.serve.bundle import Bundle
from limelens.serve.errors import ExpiredError, OverloadedError
from limelens.serve.explaining.explain_image import (
    ExplanationProgress,
    RenderedExplanation,
    explain_image,
    explain_image_progressively,
)
from limelens.serve.explaining.spec import ExplainSpec

_NICENESS: Final = 19
_T = TypeVar("_T")


class _Stop:
    """Whether anybody still waits."""

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
        step_back: Whether the threads have a lower priority than all others, as is best where
            models run on the CPU. On a GPU what such a thread holds, others would wait for.
    """

    def __init__(
        self, *, max_running: int = 1, max_waiting: int = 8, step_back: bool = True
    ) -> None:
        self._max_running = max_running
        self._most = max_running + max_waiting
        self._pool = ThreadPoolExecutor(
            max_running, "limelens-explain", initializer=_step_back if step_back else None
        )
        self._lock = threading.Lock()
        self._count = 0
        self._seconds_each = 2.0

    async def explain(
        self, bundle: Bundle, question: ExplainSpec, *, deadline: float | None = None
    ) -> RenderedExplanation:
        """Waits for an explanation. If the waiting is cancelled, the work stops.

        Args:
            bundle: The model whose answer is explained.
            question: What is asked.
            deadline: By `time.monotonic`; work that is not done by then stops.

        Raises:
            OverloadedError: Too many are waiting.
            ExpiredError: The deadline passed first.
            InvalidRequestError: The image or a parameter cannot be used.
            ModelOutputError: The model gave numbers that are not finite.
            MissingExtraError: `limelens[explain]` is not installed.
        """
        return await self.explain_newest(lambda: (bundle, question), deadline=deadline)

    async def explain_newest(
        self, take: Callable[[], tuple[Bundle, ExplainSpec]], *, deadline: float | None = None
    ) -> RenderedExplanation:
        """Waits for an explanation of what is the newest once its turn has come.

        Args:
            take: Gives the model and the question when the work begins; called once, in the
                thread that explains, or never.
            deadline: As for `explain`.

        Raises:
            LimelensError: As `explain`, and whatever `take` raises.
        """
        stop = _Stop(deadline)

        def work() -> RenderedExplanation:
            stop.check()
            bundle, question = take()
            return explain_image(bundle, question, stop.check)

        future = self._submit(work)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            stop.leave()
            raise

    async def explain_progressively(
        self, bundle: Bundle, question: ExplainSpec, *, deadline: float | None = None
    ) -> AsyncGenerator[ExplanationProgress, None]:
        """Explanations that become better, the last of them always.

        The work never waits for its reader: while one waits to be read, no other is made but the
        last, which takes its place. Closing the iterator stops the work.

        Args:
            bundle: As for `explain`.
            question: As for `explain`.
            deadline: As for `explain`.

        Raises:
            LimelensError: As `explain`.
        """
        loop = asyncio.get_running_loop()
        something = asyncio.Event()
        newest: list[ExplanationProgress] = []
        ended: list[bool] = []

        def put(update: ExplanationProgress) -> None:
            newest[:] = [update]
            something.set()

        def end() -> None:
            ended.append(True)
            something.set()

        def work() -> None:
            updates = explain_image_progressively(
                bundle,
                question,
                stop.check,
                is_wanted=lambda: not newest,
            )
            for update in updates:
                loop.call_soon_threadsafe(put, update)

        stop = _Stop(deadline)
        future = self._submit(work)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(end))
        try:
            while newest or not ended:
                await something.wait()
                something.clear()
                if newest:
                    yield newest.pop()
            future.result()
        finally:
            stop.leave()
            future.cancel()

    def close(self) -> None:
        """Ends the threads, once what is running is done."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, work: Callable[[], _T]) -> Future[_T]:
        with self._lock:
            if self._count >= self._most:
                raise OverloadedError(
                    f"{self._count} explanations are running or waiting, which is the most",
                    self._seconds_each * self._count / self._max_running,
                )
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


def _step_back() -> None:
    """Lets every other thread go first. Threads that this one starts inherit it."""
    # Only Linux gives each thread a niceness of its own; elsewhere it would be the process's.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
