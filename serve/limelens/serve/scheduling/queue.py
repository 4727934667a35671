"""Who is next: the work-conserving queue that both engines have in front of their models.

Each image of each request is one item. Worker threads take the most urgent item and prepare its
pixels; nothing waits for a batch to fill. Camera frames go first. Among requests the first come
first, except that the images of a large request let a few later requests pass between them. What
nobody waits for any more is dropped when its turn comes, and never runs.

It knows deadlines and order, and nothing of devices, images' encodings, decisions or gRPC.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.errors import ExpiredError, ModelOutputError, OverloadedError
from limelens.serve.scheduling.engine import (
    Completion,
    Counts,
    InferenceResult,
    InferenceStatus,
    Prepare,
    Priority,
)

if TYPE_CHECKING:
    from limelens.serve.bundle import Bundle

_STRIDE: Final = 8
"""How many later requests may pass between two images of one request."""
_log = logging.getLogger(__name__)


class QueuedRequest:
    """One caller's images; every field but the first six is guarded by the engine's lock."""

    __slots__ = (
        "bundle",
        "deadline",
        "embed",
        "error",
        "loop",
        "missing",
        "on_done",
        "outcomes",
        "over",
        "prepare",
        "waiting",
    )

    def __init__(
        self,
        bundle: Bundle,
        prepare: Sequence[Prepare],
        deadline: float | None,
        embed: bool,
        loop: asyncio.AbstractEventLoop,
        on_done: Callable[[QueuedRequest], None],
    ) -> None:
        self.bundle = bundle
        self.prepare = prepare
        self.deadline = deadline
        self.embed = embed
        self.loop = loop
        self.on_done = on_done
        self.outcomes: list[InferenceResult | None] = [None] * len(prepare)
        self.missing = len(prepare)
        self.waiting = len(prepare)
        self.error: Exception | None = None
        self.over = False


@dataclass(slots=True, eq=False)
class WorkItem:
    """`urgency` is the priority, the turn and, so that no two are equal, a serial number."""

    urgency: tuple[Priority, int, int]
    ticket: QueuedRequest
    index: int
    arrived_at: float
    pixels: NDArray[np.uint8] | None = None
    started_at: float = 0.0
    decode_s: float = 0.0

    def __lt__(self, other: WorkItem) -> bool:
        return self.urgency < other.urgency


class IdleThreads:
    """Threads that wait for work. Who began to wait last is woken first: its caches are warm.

    A condition wakes the first come first, which sends calls that come one by one round all
    threads.

    Args:
        lock: Is held when any of this is called.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._waiting: list[threading.Lock] = []

    def wait(self) -> None:
        """Lets go of the lock until it is notified."""
        called = threading.Lock()
        called.acquire()
        self._waiting.append(called)
        self._lock.release()
        try:
            called.acquire()
        finally:
            self._lock.acquire()

    def notify(self, count: int = 1) -> None:
        """Wakes so many, or all that there are."""
        for _ in range(min(count, len(self._waiting))):
            self._waiting.pop().release()

    def notify_all(self) -> None:
        """Wakes every one."""
        self.notify(len(self._waiting))


class QueueingEngine(ABC):
    """A queue of items, and threads that prepare their pixels.

    Args:
        num_threads: Worker threads.
        max_queue: Most images of requests that wait; more are refused.
        on_ended: Is called for every image that leaves, from the thread that had it; must be quick
            and may not raise.
    """

    def __init__(
        self,
        *,
        num_threads: int,
        max_queue: int = 256,
        on_ended: Callable[[Completion], None] | None = None,
    ) -> None:
        self._on_ended = on_ended
        self._max_queue = max_queue
        self._num_threads = num_threads
        self._lock = threading.Lock()
        self._idle = IdleThreads(self._lock)
        self._arrivals: list[WorkItem] = []
        self._requests_waiting = 0
        self._turn = 0
        self._serial = 0
        self._closed = False
        self._seconds_each = 0.01
        self._run = self._dropped = self._refused = self._not_finite = self._overdue = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"limelens-worker-{i}", daemon=True)
            for i in range(num_threads)
        ]

    def _start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def counts(self) -> Counts:
        """See `Engine`."""
        with self._lock:
            return Counts(self._run, self._dropped, self._refused, self._not_finite, self._overdue)

    @property
    def num_waiting(self) -> int:
        """See `Engine`."""
        return self._requests_waiting

    async def classify(
        self,
        bundle: Bundle,
        prepare: Sequence[Prepare],
        *,
        priority: Priority = Priority.REQUEST,
        deadline: float | None = None,
        embed: bool = False,
    ) -> list[InferenceResult]:
        """See `Engine`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[InferenceResult]] = loop.create_future()

        def settle(ticket: QueuedRequest) -> None:
            if future.done():
                return
            if ticket.error is not None:
                future.set_exception(ticket.error)
            else:
                future.set_result([one for one in ticket.outcomes if one is not None])

        ticket = QueuedRequest(bundle, prepare, deadline, embed, loop, settle)
        self._submit(ticket, priority)
        try:
            return await future
        finally:
            # Without effect where the response has come.
            with self._lock:
                self._end(ticket)

    def close(self) -> None:
        """See `Engine`."""
        with self._lock:
            self._closed = True
            self._idle.notify_all()
        self._drain()
        for thread in self._threads:
            thread.join()
        # What was being prepared in the meantime.
        self._drain()

    @abstractmethod
    def _respond(self, item: WorkItem) -> None:
        """Takes an item whose pixels are ready; from a worker's thread."""

    def _has_room(self) -> bool:
        """Whether more items may be prepared; the lock is held."""
        return True

    def _num_at_once(self) -> int:
        """How many items a worker takes at once; the lock is held."""
        return 1

    def _staged(self) -> Iterable[WorkItem]:
        """Items beyond the queue that have not run yet; the lock is held."""
        return ()

    def _drain(self) -> None:
        with self._lock:
            left = [item.ticket for item in (*self._arrivals, *self._staged())]
            self._arrivals.clear()
        for ticket in left:
            self._fail(ticket, _going_down())

    def _submit(self, ticket: QueuedRequest, priority: Priority) -> None:
        count = len(ticket.prepare)
        arrived_at = time.monotonic()
        with self._lock:
            if self._closed:
                raise _going_down()
            if priority is Priority.REQUEST:
                if self._requests_waiting + count > self._max_queue:
                    self._refused += count
                    raise OverloadedError(
                        f"{self._requests_waiting} images are waiting and {count} more do not "
                        f"fit; the queue holds {self._max_queue}",
                        max(0.05, self._requests_waiting * self._seconds_each / self._num_threads),
                    )
                self._requests_waiting += count
            else:
                # Frames are bounded by the number of streams: not counted as waiting.
                ticket.waiting = 0
            self._turn += 1
            for index in range(count):
                self._serial += 1
                turn = self._turn + index * _STRIDE
                item = WorkItem((priority, turn, self._serial), ticket, index, arrived_at)
                heapq.heappush(self._arrivals, item)
            self._idle.notify(count)

    def _work(self) -> None:
        while (items := self._take()) is not None:
            for item in items:
                if self._prepare(item):
                    self._respond(item)
            # A thread that waits must not hold the image, nor the model that was replaced.
            item = None  # type: ignore[assignment]
            items.clear()

    def _take(self) -> list[WorkItem] | None:
        """The most urgent items; waits for one. None when it is over."""
        taken: list[WorkItem] = []
        dropped: list[WorkItem] = []
        expired: list[QueuedRequest] = []
        with self._lock:
            while not self._closed and not taken and not dropped:
                now = time.monotonic()
                limit = self._num_at_once() if self._has_room() else 0
                while self._arrivals and len(taken) < limit:
                    item = heapq.heappop(self._arrivals)
                    ticket = item.ticket
                    if ticket.over:
                        dropped.append(item)
                    elif ticket.deadline is not None and ticket.deadline <= now:
                        dropped.append(item)
                        expired.append(ticket)
                    else:
                        taken.append(item)
                if not taken and not dropped:
                    self._idle.wait()
            self._dropped += len(dropped)
            closed = self._closed
        for ticket in expired:
            self._fail(ticket, ExpiredError("the deadline passed before the work began"))
        for item in dropped:
            self._notify(item, InferenceStatus.DROPPED)
        if closed:
            for item in taken:
                self._fail(item.ticket, _going_down())
            return None
        return taken

    def _leave_queue(self, items: Sequence[WorkItem]) -> None:
        """Counts items as no longer waiting; the lock is held."""
        for item in items:
            if item.ticket.waiting:
                item.ticket.waiting -= 1
                self._requests_waiting -= 1

    def _prepare(self, item: WorkItem) -> bool:
        """Whether the item's pixels are there, and still waited for."""
        ticket = item.ticket
        item.started_at = time.monotonic()
        prepare = ticket.prepare
        if not prepare:  # the caller left after the item was taken
            return self._drop(item)
        try:
            item.pixels = prepare[item.index]()
        except ExpiredError as error:
            self._fail(ticket, error)
            return self._drop(item)
        except Exception as error:
            item.decode_s = time.monotonic() - item.started_at
            self._notify(item, InferenceStatus.UNREADABLE, error=error)
            self._fail(ticket, error)
            return False
        item.decode_s = time.monotonic() - item.started_at
        return self._is_waited_for(item)

    def _is_waited_for(self, item: WorkItem) -> bool:
        """Whether it is still worth running; what is not is dropped."""
        ticket = item.ticket
        if ticket.over:
            return self._drop(item)
        if ticket.deadline is not None and ticket.deadline <= time.monotonic():
            self._fail(ticket, ExpiredError("the deadline passed before the model was run"))
            return self._drop(item)
        return True

    def _drop(self, item: WorkItem) -> bool:
        with self._lock:
            self._dropped += 1
        self._notify(item, InferenceStatus.DROPPED)
        return False

    def _notify(
        self,
        item: WorkItem,
        fate: InferenceStatus,
        run_s: float = 0.0,
        batch_size: int = 0,
        error: Exception | None = None,
    ) -> None:
        if self._on_ended is None:
            return
        waited_s = (item.started_at or time.monotonic()) - item.arrived_at
        self._on_ended(
            Completion(
                item.ticket.bundle,
                item.urgency[0],
                fate,
                waited_s,
                item.decode_s,
                run_s,
                batch_size,
                error,
            )
        )

    def _finish(self, items: Sequence[WorkItem], outcomes: Sequence[InferenceResult]) -> None:
        """Hands out what the model gave for the items of one run."""
        for item, outcome in zip(items, outcomes, strict=True):
            # Counted first, so that a client that sees its response sees the metric.
            self._notify(item, InferenceStatus.ANSWERED, outcome.run_s, len(items))
        done: list[QueuedRequest] = []
        with self._lock:
            for item, outcome in zip(items, outcomes, strict=True):
                ticket = item.ticket
                self._run += 1
                self._overdue += ticket.deadline is not None and ticket.deadline <= outcome.run_at
                spent = outcome.decode_s + outcome.run_s / len(items)
                self._seconds_each += 0.05 * (spent - self._seconds_each)
                ticket.outcomes[item.index] = outcome
                ticket.missing -= 1
                if not ticket.missing and not ticket.over:
                    ticket.over = True
                    done.append(ticket)
        for loop in {ticket.loop for ticket in done}:
            _settle(loop, [ticket for ticket in done if ticket.loop is loop])

    def _fail_run(self, item: WorkItem, error: Exception, batch_size: int = 1) -> None:
        """Ends an item that a model was run for in vain."""
        with self._lock:
            self._run += 1
            self._not_finite += isinstance(error, ModelOutputError)
        self._notify(item, InferenceStatus.FAILED, batch_size=batch_size, error=error)
        self._fail(item.ticket, error)

    def _fail(self, ticket: QueuedRequest, error: Exception) -> None:
        with self._lock:
            if ticket.over:
                return
            self._end(ticket)
            ticket.error = error
        _settle(ticket.loop, [ticket])

    def _end(self, ticket: QueuedRequest) -> None:
        """Marks a ticket as one that nobody waits for; the lock is held."""
        if ticket.over:
            return
        ticket.over = True
        ticket.prepare = ()  # frees the images at once; the items go when their turn comes
        self._requests_waiting -= ticket.waiting
        ticket.waiting = 0
        # A flood of cancelled calls must not grow the heap while the workers are busy.
        heap = self._arrivals
        if len(heap) > 2 * self._max_queue + 1024:
            kept = [item for item in heap if not item.ticket.over]
            self._dropped += len(heap) - len(kept)
            heap[:] = kept
            heapq.heapify(heap)


def _going_down() -> OverloadedError:
    return OverloadedError("the server is going down", 1.0)


def _settle(loop: asyncio.AbstractEventLoop, tickets: list[QueuedRequest]) -> None:
    """Wakes those who wait for tickets, all at once: each wake of a loop costs a system call."""

    def settle() -> None:
        for ticket in tickets:
            ticket.on_done(ticket)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop was closed: nobody waits any more
        _log.debug("a response came after the server stopped")
