"""Decodes slow images in other processes, a few at a time, with fair turns.

Slow images never take a worker's thread, so clients with quick images do not wait for them. Clients
with slow images take turns, and none may use all processes. It knows images and who calls, but no
models.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.access.shares import Holder, holder
from limelens.serve.errors import OverloadedError
from limelens.serve.image import ResizeRule
from limelens.serve.scheduling.inference import FittedImage, PendingImage
from limelens.serve.scheduling.turns import Turns

_RETRY_AFTER_S: Final = 1.0
_MAX_HELD_S: Final = 0.005


class SlowImages:
    """Decodes slow images for one event loop, by default one per core at a time, at least two."""

    def __init__(self, max_running: int | None = None, *, max_waiting: int = 256) -> None:
        max_running = max_running or max(2, os.cpu_count() or 1)
        self._max_waiting = max_waiting
        self._pool = ThreadPoolExecutor(max_running, "limelens-decode")
        self._turns = Turns(max_running, most_each=max(1, max_running - 1))

    @property
    def num_running(self) -> int:
        """How many images are being decoded."""
        return self._turns.held

    @property
    def num_waiting(self) -> int:
        """How many images wait for their turn."""
        return self._turns.num_waiting

    async def decoded(
        self, images: Sequence[PendingImage], rule: ResizeRule
    ) -> Sequence[PendingImage]:
        """The images of one request, with each slow one replaced by its pixels."""
        await inspect(images)
        return [one if one.is_quick else await self.decode(one, rule) for one in images]

    async def decode(self, image: PendingImage, rule: ResizeRule) -> FittedImage:
        """Decodes one slow image."""
        who = holder()
        await self._wait_for_turn(who)
        try:
            work = self._pool.submit(image.fitted, rule)
        except BaseException:
            self._turns.release(who)
            raise
        loop = asyncio.get_running_loop()

        def done(_: Future[NDArray[np.uint8]]) -> None:
            # The client may have left: its place stays taken until the work ends.
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._turns.release, who)

        work.add_done_callback(done)
        return FittedImage(await asyncio.wrap_future(work))

    def close(self) -> None:
        """Ends the threads; work in other processes ends by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _wait_for_turn(self, who: Holder) -> None:
        if self.num_waiting >= self._max_waiting:
            raise OverloadedError(
                f"{self.num_waiting} slow images are waiting, which is the limit; expected fewer "
                "or smaller images",
                _RETRY_AFTER_S,
            )
        await self._turns.take(who)


async def inspect(images: Sequence[PendingImage]) -> None:
    """Finds out which images are quick, and lets others run meanwhile: that takes time, too."""
    started = time.monotonic()
    for image in images:
        image.is_quick  # noqa: B018 - images remember what was found
        if time.monotonic() - started > _MAX_HELD_S:
            await asyncio.sleep(0)
            started = time.monotonic()
