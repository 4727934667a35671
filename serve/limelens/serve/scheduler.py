"""Who is next: a work-conserving queue in front of the models of one device.

Each picture of each request is one item. Worker threads take the most urgent item, prepare its
pixels and run the model; nothing waits for a batch to fill. On the CPU every picture runs by
itself on its worker's thread, so that an answer is the same, byte for byte, whoever else is
there. On a GPU threads prepare pictures ahead, and one runner joins those that wait; chunks of
explanations run between its batches, when nobody waits.

Camera frames go first. Among requests the first come first, except that the pictures of a large
request let a few later requests pass between them. What nobody waits for any more is dropped
when its turn comes, and never runs.

It knows deadlines and order, and nothing of pictures' encodings, decisions or gRPC.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle.session import is_out_of_memory
from limelens.serve.errors import ExpiredError, ModelOutputError, OverloadedError

if TYPE_CHECKING:
    from limelens.serve.bundle import Bundle

Prepare = Callable[[], NDArray[np.uint8]]
"""Makes the pixels that the model sees; runs in a worker's thread when the item's turn has come."""

_STRIDE: Final = 8
"""How many later requests may pass between two pictures of one request."""
_PATIENCE_S: Final = 0.25
"""How long a chunk of an explanation lets others go first: under full load it is a small share."""
_log = logging.getLogger(__name__)


class Priority(IntEnum):
    """What goes first."""

    FRAME = 0
    """A camera's frame. One for each stream at a time, so it is never refused for a full queue."""
    REQUEST = 1
    """A picture of a request."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """One picture's answer.

    Args:
        probabilities: `(C,)` float32.
        embedding: `(D,)` float32 where it was asked for.
        started_at: When its turn came, by `time.monotonic`.
        decode_s: Preparing its pixels, in seconds.
        run_s: The model, in seconds; on a GPU that of the whole batch.
        run_at: When the model was begun, by `time.monotonic`.
    """

    probabilities: NDArray[np.float32]
    embedding: NDArray[np.float32] | None
    started_at: float
    decode_s: float
    run_s: float
    run_at: float = 0.0


class Fate(StrEnum):
    """How it ended for one picture."""

    ANSWERED = "answered"
    """The model was run and its numbers are usable."""
    FAILED = "failed"
    """The model was run, and failed or gave numbers that are no probabilities."""
    UNREADABLE = "unreadable"
    """Its pixels could not be prepared; the model was not run."""
    DROPPED = "dropped"
    """Nobody waited for it any more when its turn came; the model was not run."""


@dataclass(frozen=True, slots=True, eq=False)
class Ended:
    """One picture that left the scheduler, for whoever counts.

    Args:
        bundle: The model.
        priority: What it was.
        fate: How it ended.
        waited_s: From its arrival until its turn came, in seconds.
        decode_s: Preparing its pixels, in seconds; 0 where that was not begun.
        run_s: The model, in seconds, that of the whole batch; 0 where it was not run.
        batch_size: Pictures in the run; 0 where there was none.
        error: Why it failed or could not be read; else None.
    """

    bundle: Bundle
    priority: Priority
    fate: Fate
    waited_s: float
    decode_s: float
    run_s: float
    batch_size: int
    error: Exception | None = None


@dataclass(frozen=True)
class Counts:
    """What a scheduler has done so far.

    Args:
        run: Pictures that a model was run for.
        dropped: Pictures that nobody waited for any more when their turn came.
        refused: Pictures refused because the queue was full.
        not_finite: Pictures for which the model's numbers were unusable.
        overdue: Pictures that a model was run for although their deadline had passed when the
            run began.
    """

    run: int
    dropped: int
    refused: int
    not_finite: int
    overdue: int = 0


class _Ticket:
    """One caller's pictures; every field but the first five is guarded by the scheduler's lock."""

    __slots__ = (
        "bundle",
        "deadline",
        "embed",
        "error",
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
        on_done: Callable[[_Ticket], None],
    ) -> None:
        self.bundle = bundle
        self.prepare = prepare
        self.deadline = deadline
        self.embed = embed
        self.on_done = on_done
        self.outcomes: list[Outcome | None] = [None] * len(prepare)
        self.missing = len(prepare)
        self.waiting = len(prepare)
        self.error: Exception | None = None
        self.over = False


@dataclass(slots=True, eq=False)
class _Item:
    """`urgency` is the priority, the turn and, so that no two are equal, a serial number."""

    urgency: tuple[Priority, int, int]
    ticket: _Ticket
    index: int
    arrived_at: float
    pixels: NDArray[np.uint8] | None = None
    started_at: float = 0.0
    decode_s: float = 0.0

    def __lt__(self, other: _Item) -> bool:
        return self.urgency < other.urgency


class _Idle:
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


class Scheduler:
    """The queue and the threads of one device.

    Args:
        num_threads: Worker threads; on a GPU those that prepare pictures.
        max_batch_size: Most pictures joined into one run; 1 joins none, as is best on the CPU.
        max_queue: Most pictures of requests that wait; more are refused.
        has_runner: Whether one thread alone runs the model, as is best on a GPU; None says so where
            pictures are joined.
        on_ended: Is told of every picture that leaves, from the thread that had it; must be quick
            and may not raise.
    """

    def __init__(
        self,
        *,
        num_threads: int,
        max_batch_size: int = 1,
        max_queue: int = 256,
        has_runner: bool | None = None,
        on_ended: Callable[[Ended], None] | None = None,
    ) -> None:
        if has_runner is None:
            has_runner = max_batch_size > 1
        self._on_ended = on_ended
        self._max_batch_size = max_batch_size
        self._max_queue = max_queue
        self._num_threads = num_threads
        self._lock = threading.Lock()
        self._arrived = _Idle(self._lock)
        self._prepared = _Idle(self._lock)
        self._calm = threading.Condition(self._lock)
        self._device = threading.Lock()
        self._arrivals: list[_Item] = []
        self._ready: list[_Item] = []
        self._requests_waiting = 0
        self._turn = 0
        self._serial = 0
        self._closed = False
        self._seconds_each = 0.01
        self._run = self._dropped = self._refused = self._not_finite = self._overdue = 0
        work = self._prepare_ahead if has_runner else self._work
        self._threads = [
            threading.Thread(target=work, name=f"limelens-worker-{i}", daemon=True)
            for i in range(num_threads)
        ]
        if has_runner:
            self._threads.append(
                threading.Thread(target=self._run_joined, name="limelens-runner", daemon=True)
            )
        for thread in self._threads:
            thread.start()

    @property
    def counts(self) -> Counts:
        """What was done so far."""
        with self._lock:
            return Counts(self._run, self._dropped, self._refused, self._not_finite, self._overdue)

    @contextmanager
    def between(self) -> Iterator[None]:
        """The device, for one chunk of an explanation, once nobody more urgent waits for it.

        For devices whose pictures are joined: there one run is on the device at a time. A chunk
        that has waited for long goes although others wait.
        """
        until = time.monotonic() + _PATIENCE_S
        while True:
            with self._lock:
                while self._is_urgent(until):
                    self._calm.wait(until - time.monotonic())
            with self._device:
                with self._lock:
                    is_overtaken = self._is_urgent(until)
                if not is_overtaken:
                    yield
                    return

    def _is_urgent(self, until: float) -> bool:
        """Whether a chunk must let others go first; the lock is held."""
        return bool(self._ready) and not self._closed and time.monotonic() < until

    @property
    def num_waiting(self) -> int:
        """Pictures of requests that wait."""
        return self._requests_waiting

    async def classify(
        self,
        bundle: Bundle,
        prepare: Sequence[Prepare],
        *,
        priority: Priority = Priority.REQUEST,
        deadline: float | None = None,
        embed: bool = False,
    ) -> list[Outcome]:
        """Waits for the answers to some pictures. If the waiting is cancelled, they are dropped.

        Args:
            bundle: The model to run.
            prepare: One for each picture.
            priority: What goes first.
            deadline: By `time.monotonic`; pictures whose turn comes later are not run.
            embed: Whether feature vectors are wanted.

        Returns:
            One outcome for each picture, in the order given.

        Raises:
            OverloadedError: The queue is full.
            ExpiredError: The deadline passed first.
            Exception: Whatever `prepare` or the bundle raised for the first picture that failed.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Outcome]] = loop.create_future()

        def settle(ticket: _Ticket) -> None:
            if future.done():
                return
            if ticket.error is not None:
                future.set_exception(ticket.error)
            else:
                future.set_result([one for one in ticket.outcomes if one is not None])

        def on_done(ticket: _Ticket) -> None:
            try:
                loop.call_soon_threadsafe(settle, ticket)
            except RuntimeError:  # the loop was closed: nobody waits any more
                _log.debug("an answer came after the server stopped")

        ticket = _Ticket(bundle, prepare, deadline, embed, on_done)
        self._submit(ticket, priority)
        try:
            return await future
        finally:
            # Without effect where the answer has come.
            with self._lock:
                self._end(ticket)

    def close(self) -> None:
        """Ends the threads. What still waits is answered with `OverloadedError`."""
        with self._lock:
            self._closed = True
            self._arrived.notify_all()
            self._prepared.notify_all()
            self._calm.notify_all()
        self._drain()
        for thread in self._threads:
            thread.join()
        # What was being prepared in the meantime.
        self._drain()

    def _drain(self) -> None:
        with self._lock:
            left = [item.ticket for item in (*self._arrivals, *self._ready)]
            self._arrivals.clear()
            self._ready.clear()
        for ticket in left:
            self._fail(ticket, _going_down())

    def _submit(self, ticket: _Ticket, priority: Priority) -> None:
        count = len(ticket.prepare)
        arrived_at = time.monotonic()
        with self._lock:
            if self._closed:
                raise _going_down()
            if priority is Priority.REQUEST:
                if self._requests_waiting + count > self._max_queue:
                    self._refused += count
                    raise OverloadedError(
                        f"{self._requests_waiting} pictures are waiting and {count} more do not "
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
                item = _Item((priority, turn, self._serial), ticket, index, arrived_at)
                heapq.heappush(self._arrivals, item)
            self._arrived.notify(count)

    def _take(self, heap: list[_Item], ready: _Idle, limit: int) -> list[_Item] | None:
        """The most urgent items, all of one bundle; waits for one. None when it is over."""
        taken: list[_Item] = []
        others: list[_Item] = []
        dropped: list[_Item] = []
        expired: list[_Ticket] = []
        with self._lock:
            while not self._closed and not taken and not dropped:
                now = time.monotonic()
                while heap and len(taken) < limit:
                    item = heapq.heappop(heap)
                    ticket = item.ticket
                    if ticket.over:
                        self._dropped += 1
                        dropped.append(item)
                    elif ticket.deadline is not None and ticket.deadline <= now:
                        self._dropped += 1
                        dropped.append(item)
                        expired.append(ticket)
                    elif taken and ticket.bundle is not taken[0].ticket.bundle:
                        others.append(item)
                    else:
                        taken.append(item)
                if not taken and not dropped:
                    ready.wait()
            for item in others:
                heapq.heappush(heap, item)
            if others:
                ready.notify()
            closed = self._closed
        for ticket in expired:
            self._fail(ticket, ExpiredError("the deadline passed before the work began"))
        for item in dropped:
            self._tell(item, Fate.DROPPED)
        if closed:
            for item in taken:
                self._fail(item.ticket, _going_down())
            return None
        return taken

    def _work(self) -> None:
        """A worker on the CPU: takes one picture, prepares it, runs it by itself."""
        while (items := self._take(self._arrivals, self._arrived, 1)) is not None:
            for item in items:
                self._leave_queue(item)
                if self._prepare(item):
                    self._answer([item])
            # A thread that waits must not hold the picture, nor the model that was replaced.
            item = None  # type: ignore[assignment]
            items.clear()

    def _prepare_ahead(self) -> None:
        """A helper of the GPU's runner: prepares one picture after the other."""
        while (items := self._take(self._arrivals, self._arrived, 1)) is not None:
            for item in items:
                if self._prepare(item):
                    with self._lock:
                        heapq.heappush(self._ready, item)
                        self._prepared.notify()
            item = None  # type: ignore[assignment]
            items.clear()

    def _run_joined(self) -> None:
        """The GPU's runner: runs whatever is prepared, joined."""
        while (items := self._take(self._ready, self._prepared, self._max_batch_size)) is not None:
            for item in items:
                self._leave_queue(item)
            if items:
                with self._device:
                    # A chunk was perhaps waited for.
                    items[:] = [item for item in items if self._is_waited_for(item)]
                    if items:
                        self._answer(items)
            with self._lock:
                if not self._ready:
                    self._calm.notify_all()
            item = None  # type: ignore[assignment]
            items.clear()

    def _leave_queue(self, item: _Item) -> None:
        with self._lock:
            if item.ticket.waiting:
                item.ticket.waiting -= 1
                self._requests_waiting -= 1

    def _prepare(self, item: _Item) -> bool:
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
            self._tell(item, Fate.UNREADABLE, error=error)
            self._fail(ticket, error)
            return False
        item.decode_s = time.monotonic() - item.started_at
        return self._is_waited_for(item)

    def _is_waited_for(self, item: _Item) -> bool:
        """Whether it is still worth running; what is not is dropped."""
        ticket = item.ticket
        if ticket.over:
            return self._drop(item)
        if ticket.deadline is not None and ticket.deadline <= time.monotonic():
            self._fail(ticket, ExpiredError("the deadline passed before the model was run"))
            return self._drop(item)
        return True

    def _drop(self, item: _Item) -> bool:
        with self._lock:
            self._dropped += 1
        self._tell(item, Fate.DROPPED)
        return False

    def _tell(
        self,
        item: _Item,
        fate: Fate,
        run_s: float = 0.0,
        batch_size: int = 0,
        error: Exception | None = None,
    ) -> None:
        if self._on_ended is None:
            return
        waited_s = (item.started_at or time.monotonic()) - item.arrived_at
        self._on_ended(
            Ended(
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

    def _answer(self, items: list[_Item]) -> None:
        try:
            outcomes = _outcomes(items)
        # Nothing that a model answers may end the thread that asked it.
        except Exception as error:
            self._answer_in_halves(items, error)
            return
        for item, outcome in zip(items, outcomes, strict=True):
            # Told first: who has an answer finds it counted.
            self._tell(item, Fate.ANSWERED, outcome.run_s, len(items))
            self._finish(item, outcome)

    def _answer_in_halves(self, items: list[_Item], error: Exception) -> None:
        """One picture must not spoil its batch-mates, nor a batch that is too large for memory."""
        if len(items) > 1:
            middle = len(items) // 2
            self._answer(items[:middle])
            self._answer(items[middle:])
            return
        with self._lock:
            self._run += 1
            self._not_finite += isinstance(error, ModelOutputError)
        if is_out_of_memory(error):
            _log.error("the device has no memory left for one picture: %s", error)
            error = OverloadedError("the device has no memory left", 1.0)
        self._tell(items[0], Fate.FAILED, batch_size=1, error=error)
        self._fail(items[0].ticket, error)

    def _finish(self, item: _Item, outcome: Outcome) -> None:
        ticket = item.ticket
        with self._lock:
            self._run += 1
            self._overdue += ticket.deadline is not None and ticket.deadline <= outcome.run_at
            spent = outcome.decode_s + outcome.run_s
            self._seconds_each += 0.05 * (spent - self._seconds_each)
            ticket.outcomes[item.index] = outcome
            ticket.missing -= 1
            if ticket.missing or ticket.over:
                return
            ticket.over = True
        ticket.on_done(ticket)

    def _fail(self, ticket: _Ticket, error: Exception) -> None:
        with self._lock:
            if ticket.over:
                return
            self._end(ticket)
            ticket.error = error
        ticket.on_done(ticket)

    def _end(self, ticket: _Ticket) -> None:
        """Marks a ticket as one that nobody waits for; the lock is held."""
        if ticket.over:
            return
        ticket.over = True
        ticket.prepare = ()  # frees the pictures at once; the items go when their turn comes
        self._requests_waiting -= ticket.waiting
        ticket.waiting = 0
        # A flood of cancelled calls must not grow the heaps while the workers are busy.
        for heap in (self._arrivals, self._ready):
            if len(heap) > 2 * self._max_queue + 1024:
                kept = [item for item in heap if not item.ticket.over]
                self._dropped += len(heap) - len(kept)
                heap[:] = kept
                heapq.heapify(heap)


def _going_down() -> OverloadedError:
    return OverloadedError("the server is going down", 1.0)


def _outcomes(items: list[_Item]) -> list[Outcome]:
    """Runs the model for some pictures at once."""
    bundle = items[0].ticket.bundle
    pixels = [item.pixels for item in items if item.pixels is not None]
    images = pixels[0][np.newaxis] if len(pixels) == 1 else np.stack(pixels)
    begun = time.monotonic()
    embeddings = None
    if any(item.ticket.embed for item in items):
        probabilities, embeddings = bundle.predict_and_embed(images)
    else:
        probabilities = bundle.predict(images)
    run_s = time.monotonic() - begun
    return [
        Outcome(
            probabilities[row],
            embeddings[row] if embeddings is not None and item.ticket.embed else None,
            item.started_at,
            item.decode_s,
            run_s,
            begun,
        )
        for row, item in enumerate(items)
    ]
