"""The engine process: takes images out of slots, runs them in batches, writes results back.

Its main thread copies images into page-locked memory while the device's thread runs the previous
batch. The device's thread takes what is ready when it is free, and never waits for more.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.handover.callers import Job
from benchmarks.handover.slots import Plan, Slots, Wake
from limelens.serve.bundle import Bundle, load_bundle
from limelens.serve.bundle.execution.batch_sizes import (
    MAX_BATCH_SIZE,
    BatchRuns,
    OpenedSession,
    batch_sizes,
)
from limelens.serve.bundle.execution.device_thread import device_thread
from limelens.serve.bundle.execution.prepared import DevicePlacement

_OUTPUTS: Final = ("probabilities",)


def run_engine(
    pipe: Connection, job: Job, plan: Plan, wake: Wake, answered: Sequence[Wake]
) -> None:
    """Runs the images from the fronts, for ever.

    Args:
        pipe: Is sent None when the model is ready.
        job: Names the model and its device.
        plan: Of the memory.
        wake: Is sent when images are ready.
        answered: One for each front.
    """
    bundle = load_bundle(job.model, job.device)
    runs = bundle.runs or _runs_on_cpu(bundle)
    failures: list[BaseException] = []

    def failed(error: BaseException) -> None:
        failures.append(error)
        wake.send()

    batching = Batching(bundle, runs, plan, answered, failed)
    pipe.send(None)
    while not failures:
        wake.wait()
        batching.fill()
    raise failures[0]


def _runs_on_cpu(bundle: Bundle) -> BatchRuns:
    """The same code for the CPU, where it gains nothing but can be tested."""
    opened = OpenedSession(bundle.session)
    thread = device_thread("cpu")
    runs = BatchRuns(lambda: opened, bundle.input_size, thread, DevicePlacement("cpu", 0))
    runs.prepare_all(batch_sizes(MAX_BATCH_SIZE))
    return runs


class Batching:
    """The batch that is filled and the one that runs.

    Args:
        bundle: The model.
        runs: Its runs.
        plan: Of the slots.
        answered: One for each front.
        on_failure: Called with the error that ended it, on the device's thread.
    """

    def __init__(
        self,
        bundle: Bundle,
        runs: BatchRuns,
        plan: Plan,
        answered: Sequence[Wake],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._bundle = bundle
        self._runs = runs
        self._slots = Slots(plan)
        self._num_each = plan.num_each
        self._answered = answered
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._staging = runs.borrow_staging()
        self._spare = runs.borrow_staging()
        self._filled: list[NDArray[np.intp]] = []
        self._count = 0
        self._is_queued = False

    def fill(self) -> None:
        """Copies ready slots and has them run."""
        with self._lock:
            self._fill()
            if self._is_queued or not self._count:
                return
            self._is_queued = True
        self._runs.thread.submit(self._run_next)

    def _fill(self) -> None:
        """Copies as many images as the batch has room for; the lock is held."""
        taken = self._slots.take(self._runs.sizes[-1] - self._count)
        if not len(taken):
            return
        count = self._count + len(taken)
        # Modes other than `raise` write into `out` without a copy.
        np.take(self._slots.pixels, taken, 0, self._staging[self._count : count], mode="clip")
        self._filled.append(taken)
        self._count = count

    def _run_next(self) -> None:
        """Runs the copied slots; on the device's thread."""
        try:
            with self._lock:
                self._fill()  # the images that had no room before
                count, filled = self._count, self._filled
                if not count:
                    self._is_queued = False
                    return
                self._count, self._filled = 0, []
                staging = self._staging
                self._staging, self._spare = self._spare, staging
            (found,) = self._runs.run_staged(_OUTPUTS, staging, count)
            self._bundle.check_outputs(_OUTPUTS, [found], count)
            self._answer(np.concatenate(filled), found)
        # The main thread ends the process for any error.
        except BaseException as error:
            self._on_failure(error)
            return
        self._runs.thread.submit(self._run_next)

    def _answer(self, slots: NDArray[np.intp], probabilities: NDArray[np.float32]) -> None:
        self._slots.probabilities[slots] = probabilities
        self._slots.batch_sizes[slots] = len(slots)
        self._slots.done[slots] = True
        for front in np.unique(slots // self._num_each).tolist():
            self._answered[front].send()
