"""The engine of one device: a work-conserving queue, and threads that prepare pixels.

Each image of each request is one work item. Worker threads take the most urgent item and prepare
its pixels; nothing waits for a batch to fill. Camera frames go first. Requests run in the order of
their arrival, except that the images of a large request let a few later requests pass between them.
An item whose caller left, or whose deadline passed, is dropped when its turn comes and never runs.

`cpu` and `gpu` say how prepared pixels are run. The engine knows deadlines and order, and nothing
of gRPC, rights, encodings or decisions.
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

from limelens.serve.bundle.execution.batch_sizes import is_out_of_memory
from limelens.serve.errors import ExpiredError, ModelOutputError, OverloadedError, UnavailableError
from limelens.serve.scheduling.inference import (
    Completion,
    Counts,
    InferenceResult,
    InferenceStatus,
    NotNeededError,
    PendingImage,
    Priority,
    Sampler,
)

if TYPE_CHECKING:
    from limelens.serve.bundle import Bundle

_STRIDE: Final = 8
"""How many later requests may pass between two images of one request."""
_HEAD_START: Final = 64
"""How many requests that came before it may be passed by work that has begun already."""
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """One caller's images; all fields after `future` are guarded by the engine's lock."""

    bundle: Bundle
    images: Sequence[PendingImage]
    deadline: float | None
    embed: bool
    future: asyncio.Future[list[InferenceResult]]
    results: list[InferenceResult | None]
    num_missing: int
    num_waiting: int
    error: Exception | None = None
    is_over: bool = False

    def settle(self) -> None:
        """Wakes the caller, on its loop."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result([one for one in self.results if one is not None])


@dataclass(slots=True, eq=False)
class WorkItem:
    """One image of a request.

    Args:
        urgency: Its priority, its turn, and a serial number, so that no two are equal.
        arrived_at: By `time.monotonic`, as `started_at`.
    """

    urgency: tuple[Priority, int, int]
    request: QueuedRequest
    index: int
    arrived_at: float
    pixels: NDArray[np.uint8] | None = None
    started_at: float = 0.0
    decode_s: float = 0.0

    def __lt__(self, other: WorkItem) -> bool:
        return self.urgency < other.urgency


class _IdleThreads:
    """The threads that wait for work; the lock is held whenever a method is called.

    The one that began to wait last is woken first: its caches are warm. A condition wakes the
    one that has waited longest, so calls that come one by one would visit all threads.
    """

    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock
        self._waiting: list[threading.Lock] = []

    def wait(self) -> None:
        """Releases the lock until this thread is woken."""
        woken = threading.Lock()
        woken.acquire()
        self._waiting.append(woken)
        self._lock.release()
        try:
            woken.acquire()
        finally:
            self._lock.acquire()

    def notify(self, count: int) -> None:
        """Wakes up to `count` threads."""
        for _ in range(min(count, len(self._waiting))):
            self._waiting.pop().release()

    def notify_all(self) -> None:
        """Wakes every thread."""
        self.notify(len(self._waiting))


class Engine(ABC):
    """Runs the models of one device.

    Args:
        num_threads: Worker threads.
        max_queue: Images of requests that may wait; more are refused.
        on_completion: Called for every image that leaves, in the thread that had it; must be quick
            and may not raise.
        sampler: Looks at some images of requests that ask for no feature vector.

    The threads start at once: a subclass first sets what `_has_room` and `_num_at_once` read.
    """

    def __init__(
        self,
        *,
        num_threads: int,
        max_queue: int = 256,
        on_completion: Callable[[Completion], None] | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self._on_completion = on_completion
        self._sampler = sampler
        self._max_queue = max_queue
        self._num_threads = num_threads
        self._lock = threading.Lock()
        self._idle = _IdleThreads(self._lock)
        self._arrivals: list[WorkItem] = []
        self._requests_waiting = 0
        self._turn = 0
        self._serial = 0
        self._closed = False
        self._seconds_each = 0.01
        self._at_work_since: dict[int, float] = {}  # by thread
        self._run = self._dropped = self._refused = self._not_finite = self._overdue = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"limelens-worker-{i}", daemon=True)
            for i in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def counts(self) -> Counts:
        """What it has done so far."""
        with self._lock:
            return Counts(self._run, self._dropped, self._refused, self._not_finite, self._overdue)

    @property
    def num_waiting(self) -> int:
        """Images of requests that wait."""
        return self._requests_waiting

    @property
    def num_queued(self) -> int:
        """Work items in the queue, camera frames and items to be dropped included."""
        return len(self._arrivals)

    @property
    def longest_at_work_s(self) -> float:
        """For how long, in seconds, a thread has been at the same work; 0 if none works."""
        now = time.monotonic()
        return max((now - since for since in tuple(self._at_work_since.values())), default=0.0)

    async def classify(
        self,
        bundle: Bundle,
        images: Sequence[PendingImage],
        *,
        priority: Priority = Priority.REQUEST,
        deadline: float | None = None,
        embed: bool = False,
        continues: bool = False,
    ) -> list[InferenceResult]:
        """Waits for the model's output for some images, in their order.

        If the wait is cancelled, images that have not run are dropped; so are images whose turn
        comes after the deadline, by `time.monotonic`. If a request that was accepted `continues`
        with them, such as with the faces in its image, they are never refused, and pass requests
        that have not begun.

        Raises:
            OverloadedError: The queue is full, or the device has no memory left.
            ExpiredError: The deadline passed first.
            Exception: Whatever decoding or the bundle raised for the first image that failed.
        """
        count = len(images)
        future: asyncio.Future[list[InferenceResult]] = asyncio.get_running_loop().create_future()
        request = QueuedRequest(
            bundle, images, deadline, embed, future, [None] * count, count, count
        )
        self._submit(request, priority, continues=continues)
        try:
            return await future
        finally:
            # Has no effect if the results are set.
            with self._lock:
                self._end(request)

    def close(self) -> None:
        """Ends the threads. What still waits ends with `OverloadedError`."""
        with self._lock:
            self._closed = True
            self._idle.notify_all()
        self._drain()
        for thread in self._threads:
            thread.join()
        # Items whose pixels were being prepared in the meantime.
        self._drain()

    @abstractmethod
    def _run_item(self, item: WorkItem) -> None:
        """Runs an item whose pixels are ready, or queues it; in a worker thread."""

    def _has_room(self) -> bool:
        """Whether more items may be prepared; the lock is held."""
        return True

    def _num_at_once(self) -> int:
        """How many items a worker takes at once; the lock is held."""
        return 1

    def _staged(self) -> Iterable[WorkItem]:
        """Items that left the queue and have not run yet; the lock is held."""
        return ()

    def _is_sampled(self, item: WorkItem) -> bool:
        """Whether the sampler takes an item's result; asked once for each run."""
        sampler, request = self._sampler, item.request
        # Who asks for vectors compares or collects images: that is no use of the model.
        return sampler is not None and not request.embed and sampler.wants(request.bundle)

    def _drain(self) -> None:
        with self._lock:
            left = [item.request for item in (*self._arrivals, *self._staged())]
            self._arrivals.clear()
        for request in left:
            self._fail(request, going_down())

    def _submit(
        self, request: QueuedRequest, priority: Priority, *, continues: bool = False
    ) -> None:
        count = len(request.images)
        arrived_at = time.monotonic()
        with self._lock:
            if self._closed:
                raise going_down()
            if priority is Priority.REQUEST and not continues:
                if self._requests_waiting + count > self._max_queue:
                    self._refused += count
                    raise OverloadedError(
                        f"{self._requests_waiting} images are waiting and {count} more do not "
                        f"fit; the queue holds {self._max_queue}",
                        max(0.05, self._requests_waiting * self._seconds_each / self._num_threads),
                    )
                self._requests_waiting += count
            else:
                # The number of streams bounds frames, and that of images the faces in them: they do
                # not count as waiting.
                request.num_waiting = 0
            self._turn += 1
            for index in range(count):
                self._serial += 1
                turn = self._turn + index * _STRIDE - (_HEAD_START if continues else 0)
                item = WorkItem((priority, turn, self._serial), request, index, arrived_at)
                heapq.heappush(self._arrivals, item)
            self._idle.notify(count)

    def _work(self) -> None:
        me = threading.get_ident()
        while (items := self._take()) is not None:
            for item in items:
                self._at_work_since[me] = time.monotonic()
                if self._prepare(item):
                    self._run_item(item)
            self._at_work_since.pop(me, None)
            # A thread that waits must not hold the image, nor a model that was replaced.
            item = None  # type: ignore[assignment]
            items.clear()

    def _take(self) -> list[WorkItem] | None:
        """Waits for the most urgent items; None once the engine is closed."""
        taken: list[WorkItem] = []
        dropped: list[WorkItem] = []
        expired: list[QueuedRequest] = []
        with self._lock:
            while not self._closed and not taken and not dropped:
                now = time.monotonic()
                limit = self._num_at_once() if self._has_room() else 0
                while self._arrivals and len(taken) < limit:
                    item = heapq.heappop(self._arrivals)
                    request = item.request
                    if request.is_over:
                        dropped.append(item)
                    elif request.deadline is not None and request.deadline <= now:
                        dropped.append(item)
                        expired.append(request)
                    else:
                        taken.append(item)
                if not taken and not dropped:
                    self._idle.wait()
            self._dropped += len(dropped)
            closed = self._closed
        for request in expired:
            self._fail(request, ExpiredError("the deadline passed before the work began"))
        for item in dropped:
            self._report(item, InferenceStatus.DROPPED)
        if closed:
            for item in taken:
                self._fail(item.request, going_down())
            return None
        return taken

    def _leave_queue(self, items: Sequence[WorkItem]) -> None:
        """Counts items as no longer waiting; the lock is held."""
        for item in items:
            if item.request.num_waiting:
                item.request.num_waiting -= 1
                self._requests_waiting -= 1

    def _prepare(self, item: WorkItem) -> bool:
        """Prepares an item's pixels; returns whether they are there and still wanted."""
        request = item.request
        item.started_at = time.monotonic()
        images = request.images
        if not images:  # the caller left after the item was taken
            return self._drop(item)
        try:
            item.pixels = images[item.index].fitted(request.bundle.metadata.resize)
        except ExpiredError as error:
            self._fail(request, error)
            return self._drop(item)
        except NotNeededError as error:
            self._fail(request, error)
            return False
        except Exception as error:
            item.decode_s = time.monotonic() - item.started_at
            self._report(item, InferenceStatus.UNREADABLE, error=error)
            self._fail(request, error)
            return False
        item.decode_s = time.monotonic() - item.started_at
        return self._is_wanted(item)

    def _is_wanted(self, item: WorkItem) -> bool:
        """Returns whether an item is still worth running; drops it if not."""
        request = item.request
        if request.is_over:
            return self._drop(item)
        if request.deadline is not None and request.deadline <= time.monotonic():
            self._fail(request, ExpiredError("the deadline passed before the model was run"))
            return self._drop(item)
        return True

    def _drop(self, item: WorkItem) -> bool:
        with self._lock:
            self._dropped += 1
        self._report(item, InferenceStatus.DROPPED)
        return False

    def _report(
        self,
        item: WorkItem,
        status: InferenceStatus,
        run_s: float = 0.0,
        batch_size: int = 0,
        error: Exception | None = None,
    ) -> None:
        if self._on_completion is None:
            return
        waited_s = (item.started_at or time.monotonic()) - item.arrived_at
        bundle, priority = item.request.bundle, item.urgency[0]
        self._on_completion(
            Completion(bundle, priority, status, waited_s, item.decode_s, run_s, batch_size, error)
        )

    def _finish(self, items: Sequence[WorkItem], results: Sequence[InferenceResult]) -> None:
        """Hands out the results of one run."""
        for item, result in zip(items, results, strict=True):
            # Count first, so that a client that sees its response sees the metric.
            self._report(item, InferenceStatus.ANSWERED, result.run_s, len(items))
        done: list[QueuedRequest] = []
        with self._lock:
            for item, result in zip(items, results, strict=True):
                request = item.request
                self._run += 1
                self._overdue += request.deadline is not None and request.deadline <= result.run_at
                spent = result.decode_s + result.run_s / len(items)
                self._seconds_each += 0.05 * (spent - self._seconds_each)
                request.results[item.index] = result
                request.num_missing -= 1
                if not request.num_missing and not request.is_over:
                    request.is_over = True
                    done.append(request)
        for loop in {request.future.get_loop() for request in done}:
            _settle(loop, [request for request in done if request.future.get_loop() is loop])

    def _fail_run(self, items: Sequence[WorkItem], error: Exception, batch_size: int = 0) -> None:
        """Ends the items for which a run, by default of just these, failed."""
        if is_out_of_memory(error):
            _log.error("the device has no memory left for %d images: %s", len(items), error)
            error = OverloadedError("the device has no memory left", 1.0)
        for item in items:
            if isinstance(error, UnavailableError):  # no model is to blame
                self._drop(item)
                self._fail(item.request, error)
                continue
            with self._lock:
                self._run += 1
                self._not_finite += isinstance(error, ModelOutputError)
            size = batch_size or len(items)
            self._report(item, InferenceStatus.FAILED, batch_size=size, error=error)
            self._fail(item.request, error)

    def _fail(self, request: QueuedRequest, error: Exception) -> None:
        with self._lock:
            if request.is_over:
                return
            self._end(request)
            request.error = error
        _settle(request.future.get_loop(), [request])

    def _end(self, request: QueuedRequest) -> None:
        """Marks a request as over; the lock is held."""
        if request.is_over:
            return
        request.is_over = True
        request.images = ()  # frees the images at once; the items go when their turn comes
        self._requests_waiting -= request.num_waiting
        request.num_waiting = 0
        # A flood of cancelled calls must not grow the heap while the workers are busy.
        heap = self._arrivals
        if len(heap) > 2 * self._max_queue + 1024:
            kept = [item for item in heap if not item.request.is_over]
            self._dropped += len(heap) - len(kept)
            heap[:] = kept
            heapq.heapify(heap)


def going_down() -> OverloadedError:
    """The error of items that a closed engine no longer runs."""
    return OverloadedError("the server is going down", 1.0)


def _settle(loop: asyncio.AbstractEventLoop, requests: list[QueuedRequest]) -> None:
    """Wakes the callers of a loop all at once: each wake of a loop costs a system call."""

    def settle() -> None:
        for request in requests:
            request.settle()

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop was closed, and its callers are gone
        _log.debug("a result came after the server stopped")
