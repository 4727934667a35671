"""A model on a GPU, run only at batch sizes that were prepared.

It pads images to the next prepared size; padded rows never leave this module. `Runs` is how the
rest of the server sees it. It knows images and outputs, and nothing of requests, labels or callers.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
import weakref
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle.execution.device_thread import DeviceThread, Urgency
from limelens.serve.bundle.execution.prepared import DevicePlacement, PreparedRun
from limelens.serve.errors import LimelensError

INPUT: Final = "images"
MAX_BATCH_SIZE: Final = 64
"""Images of requests in one run, by default."""
_NUM_STAGINGS: Final = 4
_log = logging.getLogger(__name__)

preparing: Final = threading.RLock()
"""Held while sessions are opened, planned and captured: another thread's allocations break a
capture."""


def batch_sizes(largest: int) -> list[int]:
    """The sizes that are prepared: 1, 2, 4 … and the largest, which is 1 or more."""
    sizes = [1 << power for power in range(largest.bit_length()) if 1 << power < largest]
    return [*sizes, largest]


def first_sizes(largest: int) -> list[int]:
    """A few of these sizes, enough to start with; the others make small batches faster."""
    sizes = batch_sizes(largest)
    return sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]})


@dataclass(eq=False)
class OpenedSession:
    """An onnxruntime session and its runs at prepared batch sizes.

    Args:
        no_graph_reason: Why its runs cannot be CUDA graphs; empty if they can.
    """

    session: Any = field(repr=False)
    no_graph_reason: str = ""
    runs: dict[int, PreparedRun] = field(default_factory=dict, repr=False)
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Staging:
    """Memory that a device copies one batch from.

    Args:
        images: `(size, H, W, 3)` uint8.
    """

    images: NDArray[np.uint8]


class Runs(Protocol):
    """A model that runs batches; any thread may call, save for `run_batch`."""

    @property
    def thread(self) -> DeviceThread:
        """The thread that calls `run_batch`."""
        ...

    @property
    def session(self) -> Any:
        """Names the graph's inputs and outputs, as an `onnxruntime.InferenceSession` does."""
        ...

    @property
    def no_graph_reason(self) -> str:
        """Why runs are no CUDA graphs; empty if they are."""
        ...

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that are ready, ascending."""
        ...

    def borrow_staging(self) -> Staging:
        """Memory with room for the largest batch, until `return_staging`."""
        ...

    def return_staging(self, staging: Staging) -> None:
        """Takes back what `borrow_staging` gave."""
        ...

    def prepare_rest(self) -> None:
        """Prepares the sizes up to the largest that are not ready yet."""
        ...

    def run(self, outputs: Sequence[str], images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Runs `(N, H, W, 3)` uint8 images, any N; an `(N, …)` float32 array for each output."""
        ...

    def run_batch(
        self, outputs: Sequence[str], staging: Staging, count: int
    ) -> list[NDArray[np.float32]]:
        """Runs the first `count` images of borrowed memory, in halves if that is too many.

        Raises:
            Exception: Whatever the runtime raises.
        """
        ...


def run_in_parts(
    run: Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]],
    images: NDArray[np.uint8],
    most: int,
) -> list[NDArray[np.float32]]:
    """Runs `(N, H, W, 3)` images, at most `most` at once; joins the arrays of each output."""
    parts = [images[i : i + most] for i in range(0, len(images), most)] or [images]
    found = [run(part) for part in parts]
    if len(found) == 1:
        return found[0]
    return [np.concatenate(columns) for columns in zip(*found, strict=True)]


class StagingPool(ABC):
    """Memory of batches, which is used again while it has room for the largest."""

    def __init__(self) -> None:
        self._stagings: list[Staging] = []

    @property
    @abstractmethod
    def sizes(self) -> tuple[int, ...]:
        """See `Runs`."""

    @abstractmethod
    def _new_staging(self) -> Staging:
        """Memory for the largest batch; called in any thread."""

    def borrow_staging(self) -> Staging:
        """See `Runs`."""
        with contextlib.suppress(IndexError):
            staging = self._stagings.pop()
            if len(staging.images) >= self.sizes[-1]:
                return staging
        return self._new_staging()

    def return_staging(self, staging: Staging) -> None:
        """See `Runs`."""
        self._stagings.append(staging)


class BatchRuns(StagingPool):
    """Runs of a model on a device of this process; see `Runs`.

    If runs cannot be CUDA graphs, each size gets a session of its own: a session that changes sizes
    plans anew each time.
    """

    def __init__(
        self,
        open_session: Callable[[], OpenedSession],
        input_size: tuple[int, int],
        thread: DeviceThread,
        place: DevicePlacement,
    ) -> None:
        super().__init__()
        self._open = open_session
        self._input_size = input_size
        self._place = place
        self.thread = thread
        self._is_rebuilding = False
        self._is_used = False
        with preparing:
            self._opened = open_session()
        self._held = [self._opened]
        free_on(thread, self, self._held)

    @property
    def session(self) -> Any:
        """The `onnxruntime.InferenceSession`."""
        return self._opened.session

    @property
    def no_graph_reason(self) -> str:
        """Why runs are no CUDA graphs; empty if they are."""
        return self._opened.no_graph_reason

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes that are ready, ascending."""
        return self._opened.sizes

    def _new_staging(self) -> Staging:
        shape = self.sizes[-1], *self._input_size, 3
        # In the device's thread, where it cannot disturb a capture.
        return Staging(self.thread.call(lambda: self._place.empty_on_host(shape)))

    def prepare_rest(self) -> None:
        """See `Runs`."""
        self.prepare_all(batch_sizes(self.sizes[-1]))

    def prepare_all(self, sizes: Sequence[int]) -> None:
        """Prepares batch sizes, given in ascending order.

        Sizes that do not fit the device's memory are left out: larger batches run in parts.

        Raises:
            Exception: Any error of the runtime for the smallest size; for others, any but a lack of
                memory.
        """
        with preparing:
            self._prepare_all(self._opened, sizes)
            # The first batches need not wait for the device to allocate them.
            if not self._stagings:
                self._stagings = [self._new_staging() for _ in range(_NUM_STAGINGS)]

    def rebuild(self, failed_size: int) -> None:
        """Opens the session anew, after the device had no memory for a batch of `failed_size`.

        That size and larger ones are dropped at once; the new session takes over when it is ready.
        """

        def work() -> None:
            try:
                with preparing:
                    fresh = self._open()
                    self._prepare_all(fresh, batch_sizes(max(1, failed_size // 2)))
                    self.thread.call(lambda: self._take(fresh))
                _log.warning("a session was rebuilt; at most %d images a run", fresh.sizes[-1])
            # The old session goes on.
            except Exception:
                _log.exception("a session could not be rebuilt")
            finally:
                self._is_rebuilding = False

        smaller = tuple(size for size in self.sizes if size < failed_size)
        self._opened.sizes = smaller or self.sizes[:1]
        if not self._is_rebuilding:
            self._is_rebuilding = True
            threading.Thread(target=work, name="limelens-rebuild", daemon=True).start()

    def seconds(self, size: int, rounds: int = 5) -> float:
        """The shortest of several runs of a prepared size, in seconds."""
        run = self._opened.runs[size]
        return self.thread.call(lambda: min(timed(run.run) for _ in range(rounds)))

    def run(self, outputs: Sequence[str], images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Runs `(N, H, W, 3)` uint8 images, any N; an `(N, …)` float32 array for each output."""

        def run(part: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
            return self.thread.call(functools.partial(self._run_part, outputs, part))

        return run_in_parts(run, images, self.sizes[-1])

    def run_batch(
        self, outputs: Sequence[str], staging: Staging, count: int
    ) -> list[NDArray[np.float32]]:
        """See `Runs`; in the device's thread."""
        images = staging.images
        try:
            return self._run_staged(outputs, images, count)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            _log.warning("the device has no memory for a batch of %d: it is halved", count)
            self.rebuild(count)
            if count == 1:
                raise
        half = (count + 1) // 2
        return run_in_parts(functools.partial(self.run, outputs), images[:count], half)

    def _run_staged(
        self, outputs: Sequence[str], staged: NDArray[np.uint8], count: int
    ) -> list[NDArray[np.float32]]:
        self._is_used = True
        opened = self._opened
        size = opened.sizes[bisect_left(opened.sizes, count)]
        run = opened.runs[size]
        run.write(INPUT, staged[:size])
        run.run()
        return [run.read(name, count) for name in outputs]

    def _run_part(
        self, outputs: Sequence[str], images: NDArray[np.uint8]
    ) -> list[NDArray[np.float32]]:
        staging = self.borrow_staging()
        try:
            np.copyto(staging.images[: len(images)], images)
            return self._run_staged(outputs, staging.images, len(images))
        finally:
            self.return_staging(staging)

    def _prepare_all(self, opened: OpenedSession, sizes: Sequence[int]) -> None:
        for size in sizes:
            try:
                self._prepare(opened, size)
            except Exception as error:
                if not opened.sizes or not is_out_of_memory(error):
                    raise
                _log.warning(
                    "batches of %d do not fit the device's memory: at most %d images a run",
                    size,
                    opened.sizes[-1],
                )
                return

    def _prepare(self, opened: OpenedSession, size: int) -> None:
        if size in opened.runs:
            return
        session = opened.session
        if opened.no_graph_reason and opened.runs:
            session = self._open().session
        images = self._place.empty((size, *self._input_size, 3), np.uint8)
        graph_id = None if opened.no_graph_reason else size
        run = PreparedRun(session, {INPUT: images}, self._place, graph_id)
        if self._is_used and opened is self._opened:
            # Runs of one session share memory on the device, so they must not overlap.
            self.thread.call(run.plan)
        else:
            run.plan()
        self.thread.call(run.capture)
        opened.runs[size] = run
        opened.sizes = tuple(sorted(opened.runs))

    def _take(self, fresh: OpenedSession) -> None:
        self._opened = fresh
        self._held[:] = [fresh]


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is an out-of-memory error of the runtime, which has no type for it."""
    text = str(error).lower()
    return not isinstance(error, LimelensError) and (
        "failed to allocate memory" in text or "out of memory" in text or "bfcarena" in text
    )


def timed(function: Callable[[], object]) -> float:
    """How long a call takes, in seconds."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def free_on(thread: DeviceThread, owner: object, held: list[Any]) -> None:
    """Frees an object's memory in the device's thread, where it cannot disturb a capture."""

    def free() -> None:
        thread.submit(held.clear, Urgency.CHUNK)

    weakref.finalize(owner, free).atexit = False
