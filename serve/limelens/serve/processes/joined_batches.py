"""Batches that several processes hand over, joined into runs of one model.

When the device is free it runs the batch that has waited longest, with all that fit beside it. A
batch that runs alone is copied to the device from the memory that it was written into. It knows
batches and their rows, and nothing of connections.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Bundle
from limelens.serve.bundle.execution.batch_sizes import Runs, is_out_of_memory
from limelens.serve.bundle.remote.shared_batch import SharedBatch
from limelens.serve.errors import LimelensError, OverloadedError
from limelens.serve.wording import first_line

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class HandedBatch:
    """A batch of another process.

    Args:
        outputs: Names of those that it wants.
        count: How many images are in it.
        on_end: Called when the outputs are in its memory, or with the error of the run.
    """

    batch: SharedBatch
    outputs: Sequence[str]
    count: int
    on_end: Callable[[Exception | None], None]


class JoinedBatches:
    """The batches that wait for one model."""

    def __init__(self, bundle: Bundle) -> None:
        assert bundle.runs is not None
        self._runs: Runs = bundle.runs
        self._lock = threading.Lock()
        self._waiting: deque[HandedBatch] = deque()
        self._is_queued = False

    def run(self, handed: HandedBatch) -> None:
        """Queues a batch; returns at once."""
        with self._lock:
            self._waiting.append(handed)
            is_queued, self._is_queued = self._is_queued, True
        if not is_queued:
            self._runs.thread.submit(self._run_next)

    def _run_next(self) -> None:
        """Runs the batch that has waited longest, with others; in the device's thread."""
        joined = self._take()
        error: Exception | None = None
        try:
            self._run(joined)
        # Nothing may end the device's thread, and every process gets an answer.
        except Exception as one:
            error = _to_be_sent(one).with_traceback(None)  # which would keep the batches
        for handed in joined:
            try:
                handed.on_end(error)
            # The others are waiting.
            except Exception:
                _log.exception("the end of a batch could not be told")
        with self._lock:
            self._is_queued = bool(self._waiting)
            is_queued = self._is_queued
        if is_queued:
            self._runs.thread.submit(self._run_next)

    def _take(self) -> list[HandedBatch]:
        most = self._runs.sizes[-1]
        with self._lock:
            joined = [self._waiting.popleft()]
            count = joined[0].count
            while self._waiting and count + self._waiting[0].count <= most:
                joined.append(self._waiting.popleft())
                count += joined[-1].count
        return joined

    def _run(self, joined: Sequence[HandedBatch]) -> None:
        outputs = list(dict.fromkeys(name for handed in joined for name in handed.outputs))
        results = self._results(outputs, joined)
        begin = 0
        for handed in joined:
            end = begin + handed.count
            for name, values in zip(outputs, results, strict=True):
                if name in handed.outputs:
                    handed.batch.outputs[name][: handed.count] = values[begin:end]
            begin = end

    def _results(
        self, outputs: Sequence[str], joined: Sequence[HandedBatch]
    ) -> list[NDArray[np.float32]]:
        runs, first, count = self._runs, joined[0], sum(handed.count for handed in joined)
        if len(joined) == 1:
            # It may have been allocated when the device had more memory, or less.
            if count <= runs.sizes[-1] <= len(first.batch.images):
                return runs.run_batch(outputs, first.batch, count)
            return runs.run(outputs, first.batch.images[:count])
        staging = runs.borrow_staging()
        try:
            begin = 0
            for handed in joined:
                end = begin + handed.count
                np.copyto(staging.images[begin:end], handed.batch.images[: handed.count])
                begin = end
            return runs.run_batch(outputs, staging, count)
        finally:
            runs.return_staging(staging)


def _to_be_sent(error: Exception) -> Exception:
    """An error that the other process can load."""
    if is_out_of_memory(error):
        _log.error("the device has no memory left: %s", error)
        return OverloadedError("the device has no memory left", 1.0)
    if isinstance(error, LimelensError):
        return error
    _log.error("a batch could not be run", exc_info=error)
    return LimelensError(f"the model could not be run: {first_line(error)}")
