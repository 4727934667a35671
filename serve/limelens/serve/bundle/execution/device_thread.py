"""The one thread that talks to a GPU.

onnxruntime keeps a CUDA graph with the thread that captured it, so each device has one thread that
captures and replays all graphs. Callers submit short pieces of work, which run one at a time, the
most urgent first. Inputs are prepared, and results used, in the callers' threads, so that the
device does not wait for them. It knows order and time, and nothing of sessions or images.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

PATIENCE_S: Final = 0.1
"""How long a chunk of an explanation waits for requests, in seconds."""


class Urgency(IntEnum):
    """What runs first."""

    REQUEST = 0
    """A caller waits for a decision."""
    CHUNK = 1
    """A chunk of an explanation: runs when no request waits, or after `PATIENCE_S`."""


class _Work(Generic[T]):
    """A piece of work and its result."""

    __slots__ = ("_done", "_error", "_function", "_result", "queued_at")

    def __init__(self, function: Callable[[], T]) -> None:
        self._function: Callable[[], T] | None = function
        self._result: T | None = None
        self._error: BaseException | None = None
        self._done = threading.Lock()
        self._done.acquire()
        self.queued_at = time.monotonic()

    def run(self) -> None:
        function, self._function = self._function, None
        try:
            self._result = function() if function is not None else None
        # Any error is raised in the caller.
        except BaseException as error:
            self._error = error
        finally:
            self._done.release()

    def wait(self) -> T:
        self._done.acquire()
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # breaks the cycle of the traceback, this frame and the error
        return self._result  # type: ignore[return-value]


class DeviceThread:
    """Runs pieces of work on one thread of its own, the most urgent first."""

    def __init__(self, name: str, *, patience_s: float = PATIENCE_S) -> None:
        self.name = name
        self._patience_s = patience_s
        self._queue: list[tuple[Urgency, int, _Work[Any]]] = []
        self._count = 0
        self._arrived = threading.Condition()
        self._began_at: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"limelens-{name}", daemon=True)
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Whether the caller is this thread."""
        return threading.get_ident() == self._thread.ident

    @property
    def at_work_s(self) -> float:
        """For how long, in seconds, it has been at the same piece of work; 0 if it waits."""
        began_at = self._began_at
        return 0.0 if began_at is None else time.monotonic() - began_at

    def submit(self, function: Callable[[], T], urgency: Urgency = Urgency.REQUEST) -> _Work[T]:
        """Queues a short piece of work, whose result or error `wait()` gives.

        Pieces of the same urgency run in the order of submission.
        """
        work = _Work(function)
        with self._arrived:
            self._count += 1
            heapq.heappush(self._queue, (urgency, self._count, work))
            self._arrived.notify()
        return work

    def call(self, function: Callable[[], T], urgency: Urgency = Urgency.REQUEST) -> T:
        """Submits a piece of work and waits for it; runs it at once if called in this thread."""
        if self.is_current:
            return function()
        return self.submit(function, urgency).wait()

    def _next(self) -> _Work[Any]:
        with self._arrived:
            while not self._queue:
                self._arrived.wait()
            if self._queue[0][0] is not Urgency.CHUNK:
                patient = [entry for entry in self._queue if entry[0] is Urgency.CHUNK]
                if patient:
                    oldest = min(patient)
                    if oldest[2].queued_at + self._patience_s <= time.monotonic():
                        self._queue.remove(oldest)
                        heapq.heapify(self._queue)
                        return oldest[2]
            return heapq.heappop(self._queue)[2]

    def _run(self) -> None:
        while True:
            work: _Work[Any] | None = self._next()
            assert work is not None
            self._began_at = time.monotonic()
            work.run()
            self._began_at = None
            work = None  # an idle thread must not hold a model that was replaced


_threads: Final[dict[str, DeviceThread]] = {}
_starting: Final = threading.Lock()


def device_thread(name: str) -> DeviceThread:
    """The only thread of a device, such as `cuda:0`, in this process."""
    with _starting:
        found = _threads.get(name)
        if found is None:
            found = _threads[name] = DeviceThread(name)
        return found
