"""Explanations on a GPU: in chunks so short that whoever is more urgent hardly waits.

How many pictures a chunk holds follows from how long the last ones took, not from a number that
fits one model on one device. It knows times and counts, and nothing of pictures or queues.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

import numpy as np
from numpy.typing import NDArray

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
Turn = Callable[[], AbstractContextManager[object]]
"""Waits until a chunk may run; the device is the chunk's until the context ends."""

CHUNK_S: Final = 0.008
"""How long a chunk is to take, in seconds."""
MOST: Final = 256
"""Pictures in a chunk, however fast the device is; also how many are to be handed over at once."""
_FIRST: Final = 8
_GROWTH: Final = 2


class TimedChunks:
    """A model that is asked in chunks of about the same time.

    Args:
        predict: `(N, H, W, 3)` uint8 to `(N, C)` probabilities.
        turn: Waited for before every chunk.
        clock: Seconds.
    """

    def __init__(
        self, predict: Predict, turn: Turn, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._predict = predict
        self._turn = turn
        self._clock = clock
        self._count = _FIRST

    @property
    def count(self) -> int:
        """Pictures in the next chunk."""
        return self._count

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities of all pictures, chunk by chunk."""
        return self.run(lambda part: self._predict(images[part]), len(images))

    def run(
        self, work: Callable[[slice], NDArray[np.float32]], num_all: int
    ) -> NDArray[np.float32]:
        """The same where pictures are something else than an array: `work` answers a part."""
        parts: list[NDArray[np.float32]] = []
        start = 0
        while start < num_all:
            count = self._count
            with self._turn():
                began = self._clock()
                parts.append(work(slice(start, start + count)))
                self._learn(len(parts[-1]), self._clock() - began)
            start += count
        return np.concatenate(parts)

    def _learn(self, count: int, spent_s: float) -> None:
        """Fewer at once where a chunk took too long, more only step by step: one may be lucky."""
        fitting = int(count * CHUNK_S / spent_s) if spent_s > 0 else MOST
        if fitting < self._count or count == self._count:
            self._count = max(1, min(fitting, self._count * _GROWTH, MOST))
