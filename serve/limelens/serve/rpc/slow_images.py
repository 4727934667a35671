"""Images that take long to decode: in other processes, a few at a time, and in turn.

They never take a worker's thread, so those whose images are quick do not wait for them. Of several
callers with slow images each comes in turn, and none has all places. It knows images and who
calls, and nothing of models.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.access.shares import Holder, holder
from limelens.serve.errors import OverloadedError
from limelens.serve.image import ResizeRule
from limelens.serve.image.encoded import EncodedImage

Prepare = Callable[[], NDArray[np.uint8]]
_RETRY_AFTER_S: Final = 1.0
_MAX_HELD_S: Final = 0.005


class SlowImages:
    """Decodes what is not quick, for one event loop.

    Args:
        most: Images at a time; None is as many as there are cores, at least two.
        max_waiting: Images that wait for their turn; more are refused.
    """

    def __init__(self, most: int | None = None, *, max_waiting: int = 256) -> None:
        self._most = most or max(2, os.cpu_count() or 1)
        self._most_each = max(1, self._most - 1)
        self._max_waiting = max_waiting
        self._pool = ThreadPoolExecutor(self._most, "limelens-decode")
        self._running: dict[Holder, int] = {}
        self._waiting: OrderedDict[Holder, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def num_waiting(self) -> int:
        """Images that wait for their turn."""
        return sum(map(len, self._waiting.values()))

    async def prepared(self, images: Sequence[EncodedImage], rule: ResizeRule) -> list[Prepare]:
        """For each image what makes its pixels, quickly: slow ones are decoded before.

        Args:
            images: Of one request; the slow ones one after the other.
            rule: What they are fitted to.

        Raises:
            InvalidImageError: A slow one cannot be read.
            OverloadedError: Too many wait.
        """
        prepared: list[Prepare] = []
        began = time.monotonic()
        for image in images:
            is_quick = image.is_quick
            if time.monotonic() - began > _MAX_HELD_S:
                await asyncio.sleep(0)  # looking at many takes time, too
                began = time.monotonic()
            if is_quick:
                prepared.append(_fitting(image, rule))
            else:
                prepared.append(_giving(await self.fitted(image, rule)))
        return prepared

    async def fitted(self, image: EncodedImage, rule: ResizeRule) -> NDArray[np.uint8]:
        """A slow image as the network sees it.

        Raises:
            InvalidImageError: It cannot be read.
            OverloadedError: Too many wait.
        """
        who = holder()
        await self._turn(who)
        try:
            work = self._pool.submit(image.fitted, rule)
        except BaseException:
            self._leave(who)
            raise
        loop = asyncio.get_running_loop()

        def done(_: Future[NDArray[np.uint8]]) -> None:
            # Whoever waited may be gone: the place is taken as long as the work goes on.
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._leave, who)

        work.add_done_callback(done)
        return await asyncio.wrap_future(work)

    def close(self) -> None:
        """Ends the threads; what is decoded ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _turn(self, who: Holder) -> None:
        """Waits for a place."""
        if not self._waiting and self._has_place(who):
            self._running[who] = self._running.get(who, 0) + 1
            return
        if self.num_waiting >= self._max_waiting:
            raise OverloadedError(
                f"{self.num_waiting} images that take long to decode are waiting, which is the "
                "most; expected fewer, or smaller ones",
                _RETRY_AFTER_S,
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(who)
            else:
                self._drop(who, turn)
            raise

    def _has_place(self, who: Holder) -> bool:
        is_full = sum(self._running.values()) >= self._most
        return not is_full and self._running.get(who, 0) < self._most_each

    def _admit(self) -> None:
        """Gives places that are free to those who wait, to each in turn."""
        for who in list(self._waiting):
            while who in self._waiting and self._has_place(who):
                turns = self._waiting[who]
                turn = turns.popleft()
                if turns:
                    self._waiting.move_to_end(who)
                else:
                    del self._waiting[who]
                self._running[who] = self._running.get(who, 0) + 1
                turn.set_result(None)

    def _drop(self, who: Holder, turn: asyncio.Future[None]) -> None:
        turns = self._waiting.get(who)
        if turns is not None and turn in turns:
            turns.remove(turn)
            if not turns:
                del self._waiting[who]

    def _leave(self, who: Holder) -> None:
        self._running[who] -= 1
        if not self._running[who]:
            del self._running[who]
        self._admit()


def _fitting(image: EncodedImage, rule: ResizeRule) -> Prepare:
    return lambda: image.fitted(rule)


def _giving(pixels: NDArray[np.uint8]) -> Prepare:
    return lambda: pixels
