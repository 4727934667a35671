"""Images handed to another process through shared memory, and the results that come back.

A front writes pixels into one of its own slots, then the time into `ready_at`, then wakes the
engine process. The engine takes ready slots, oldest first, runs them, writes the results into the
slots, then `done`, then wakes their fronts. So only one side writes to a slot at any time, and no
lock is shared. Wakes are eventfds: one write covers any number of ready slots, and a slot may be
seen before its wake, never after. It relies on a machine that keeps the order of writes (x86-64).
It does not know sessions.
"""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.scheduling.engine import Engine, WorkItem
from limelens.serve.scheduling.inference import InferenceResult

_PAGE: Final = 4096


class Wake:
    """Wakes another process; may be given to one that is being spawned. Linux only."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = os.eventfd(0) if fd is None else fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self.fd),)

    def send(self) -> None:
        """Wakes the waiting thread, or makes the next `wait` return at once."""
        os.eventfd_write(self.fd, 1)

    def wait(self) -> None:
        """Waits for `send`; one return stands for all calls of it up to then."""
        os.eventfd_read(self.fd)

    def close(self) -> None:
        """Closes this process's own handle."""
        os.close(self.fd)


def _received(fd: Any) -> Wake:
    return Wake(fd.detach())


@dataclass(frozen=True)
class Plan:
    """How the memory is laid out.

    Args:
        num_fronts: Processes that hand images over.
        num_each: Slots of each of them.
        input_size: Height and width of an image, in pixels.
        num_labels: Probabilities of an image.
        name: The shared memory's name.
    """

    num_fronts: int
    num_each: int
    input_size: tuple[int, int]
    num_labels: int
    name: str = ""

    @property
    def count(self) -> int:
        """All slots."""
        return self.num_fronts * self.num_each

    @property
    def size_bytes(self) -> int:
        """Of the memory."""
        return self._pixels_at + 3 * self.count * self.input_size[0] * self.input_size[1]

    @property
    def _pixels_at(self) -> int:
        return -(-self.count * (8 + 4 * self.num_labels + 4 + 1) // _PAGE) * _PAGE


class Slots:
    """The memory as arrays, one row per slot; its creator unlinks it.

    Args:
        plan: Its layout, with its name.
    """

    def __init__(self, plan: Plan) -> None:
        self._memory = SharedMemory(plan.name)
        count, buffer = plan.count, self._memory.buf
        at = 0

        def array(dtype: Any, *shape: int) -> NDArray[Any]:
            nonlocal at
            found: NDArray[Any] = np.ndarray(shape, dtype, buffer, at)
            at += found.nbytes
            return found

        self.ready_at = array(np.float64, count)
        self.probabilities = array(np.float32, count, plan.num_labels)
        self.batch_sizes = array(np.int32, count)
        self.done = array(np.bool_, count)
        at = plan._pixels_at
        self.pixels = array(np.uint8, count, *plan.input_size, 3)

    def take(self, most: int) -> NDArray[np.intp]:
        """Slots that are ready, the longest first; they are ready no more.

        Args:
            most: How many at most.
        """
        # A copy, because fronts go on writing and numpy would find that its count was wrong.
        found = np.flatnonzero(self.ready_at.copy())
        if len(found) > 1:
            found = found[np.argsort(self.ready_at[found], kind="stable")][:most]
        elif most == 0:
            found = found[:0]
        self.ready_at[found] = 0
        return found


class FrontEngine(Engine):
    """An engine that prepares images itself and has another process run them.

    Args:
        plan: Of the memory; a slot for each image that may be under way, and for each thread.
        index: Which of the fronts this is.
        wake: Of the engine process.
        answered: Is sent when results are ready; then call `take_answers` from the event loop.
        num_threads: Threads that prepare images.
        max_queue: See `Engine`.
    """

    def __init__(
        self,
        plan: Plan,
        index: int,
        wake: Wake,
        answered: Wake,
        *,
        num_threads: int,
        max_queue: int,
    ) -> None:
        super().__init__(num_threads=num_threads, max_queue=max_queue)
        first = index * plan.num_each
        self.answered = answered
        self.batch_sizes: list[int] = []
        self._wake = wake
        self._slots = Slots(plan)
        self._mine = slice(first, first + plan.num_each)
        self._free = deque(range(first, first + plan.num_each))
        self._handed: dict[int, WorkItem] = {}

    def _run_item(self, item: WorkItem) -> None:
        assert item.pixels is not None  # it was prepared
        item.request.bundle.check_images(item.pixels[np.newaxis])
        with self._lock:
            slot = self._free.pop()  # used last, so it may still be in a cache
            self._handed[slot] = item
        np.copyto(self._slots.pixels[slot], item.pixels)
        item.pixels = None
        self._slots.ready_at[slot] = time.monotonic()
        self._wake.send()

    def take_answers(self) -> None:
        """Hands out all results that are ready; waits if there are none."""
        self.answered.wait()
        found = np.flatnonzero(self._slots.done[self._mine]) + self._mine.start
        if not len(found):  # an earlier call took the results of this wake
            return
        self._slots.done[found] = False
        probabilities = self._slots.probabilities[found]
        self.batch_sizes.extend(self._slots.batch_sizes[found].tolist())
        slots = found.tolist()
        with self._lock:
            items = [self._handed.pop(slot) for slot in slots]
            self._free.extend(slots)
            self._leave_queue(items)
        results = [
            InferenceResult(row, None, item.started_at, item.decode_s, 0.0)
            for item, row in zip(items, probabilities, strict=True)
        ]
        self._finish(items, results)
