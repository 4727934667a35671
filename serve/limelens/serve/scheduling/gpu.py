"""The engine of a GPU: images are joined into batches of prepared sizes.

Worker threads prepare images and write each once, into the page-locked memory that the device
copies from. When the device is free, its own thread runs the batch that has waited longest, with
all images that joined it meanwhile; chunks of explanations run between batches. It knows batches
and their rows, and nothing of sessions.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Bundle
from limelens.serve.bundle.execution.batch_sizes import Staging
from limelens.serve.bundle.execution.device_thread import DeviceThread
from limelens.serve.errors import InvalidRequestError, ModelOutputError, OverloadedError
from limelens.serve.scheduling.engine import Engine, WorkItem, going_down
from limelens.serve.scheduling.inference import Completion, InferenceResult, Sampler

_AHEAD: Final = 2
"""Full batches that may wait for the device; more images stay in the queue, in its order."""
_MOST_AT_ONCE: Final = 8
"""Items that a worker takes at once if many wait."""
_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Batch:
    """Images that will run together.

    Args:
        images: `(size, H, W, 3)` uint8: room in the staging for the largest batch that may run.
        items: Those whose images lie there, in the order of the rows.
    """

    bundle: Bundle
    images: NDArray[np.uint8]
    staging: Staging
    items: list[WorkItem] = field(default_factory=list)
    num_writing: int = 0

    @property
    def is_full(self) -> bool:
        return len(self.items) == len(self.images)


class GpuEngine(Engine):
    """Joins prepared images into batches, for the device of a thread; see `Engine`."""

    def __init__(
        self,
        thread: DeviceThread,
        *,
        num_threads: int,
        max_queue: int = 256,
        on_completion: Callable[[Completion], None] | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self._thread = thread
        self._batches: deque[_Batch] = deque()
        self._is_queued = False
        super().__init__(
            num_threads=num_threads,
            max_queue=max_queue,
            on_completion=on_completion,
            sampler=sampler,
        )
        self._written = threading.Condition(self._lock)

    @property
    def num_staged(self) -> int:
        """Images in batches that wait for the device."""
        with self._lock:
            return sum(len(batch.items) for batch in self._batches)

    def close(self) -> None:
        """See `Engine`."""
        super().close()
        self._thread.call(lambda: None)  # waits for the batches that are queued there

    def _has_room(self) -> bool:
        return sum(batch.is_full for batch in self._batches) < _AHEAD

    def _num_at_once(self) -> int:
        return max(1, min(_MOST_AT_ONCE, len(self._arrivals) // self._num_threads))

    def _staged(self) -> Iterable[WorkItem]:
        return (item for batch in self._batches for item in batch.items)

    def _run_item(self, item: WorkItem) -> None:
        """Writes an item's image into a batch, and has the batch run."""
        pixels = item.pixels
        assert pixels is not None  # it was prepared
        try:
            item.request.bundle.check_images(pixels[np.newaxis])
        except InvalidRequestError as error:
            self._fail(item.request, error)
            return
        try:
            batch, row = self._slot(item)
        # Such as no memory, or no more files. The thread goes on.
        except Exception as error:
            _log.error("no memory for a batch: %s", error)
            self._fail(item.request, OverloadedError("no memory for a batch", 1.0))
            return
        if batch is None:
            return
        np.copyto(batch.images[row], pixels)
        item.pixels = None
        with self._lock:
            batch.num_writing -= 1
            if not batch.num_writing:
                self._written.notify_all()
            is_queued, self._is_queued = self._is_queued, True
        if not is_queued:
            self._thread.submit(self._run_next)

    def _slot(self, item: WorkItem) -> tuple[_Batch | None, int]:
        """A row for an item in a batch that waits for the device; None if the engine is closed."""
        runs = item.request.bundle.runs
        assert runs is not None  # bundles of this engine are on its device
        spare: Staging | None = None
        try:
            while True:
                with self._lock:
                    if self._closed:
                        break
                    bundle = item.request.bundle
                    has_room = (b for b in self._batches if b.bundle is bundle and not b.is_full)
                    batch = next(has_room, None)
                    if batch is None and spare is not None:
                        batch = _Batch(bundle, spare.images[: runs.sizes[-1]], spare)
                        self._batches.append(batch)
                        spare = None
                    if batch is not None:
                        batch.items.append(item)
                        batch.num_writing += 1
                        return batch, len(batch.items) - 1
                # Without the lock: if none is left, the device's thread makes one and may need it.
                spare = runs.borrow_staging()
        finally:
            if spare is not None:
                runs.return_staging(spare)
        self._fail(item.request, going_down())
        return None, 0

    def _run_next(self) -> None:
        """Runs the batch that has waited longest; in the device's thread."""
        with self._lock:
            if not self._batches:
                self._is_queued = False
                return
            batch = self._batches.popleft()
            while batch.num_writing:
                self._written.wait()
            self._leave_queue(batch.items)
            if self._arrivals:
                self._idle.notify_all()
        try:
            self._run_batch(batch)
        # Nothing may end the device's thread.
        except Exception:
            _log.exception("a batch could not be run")
            for item in batch.items:
                self._fail(item.request, OverloadedError("the batch could not be run", 1.0))
        runs = batch.bundle.runs
        if runs is not None:
            runs.return_staging(batch.staging)
        with self._lock:
            self._is_queued = bool(self._batches)
            is_queued = self._is_queued
        if is_queued:
            self._thread.submit(self._run_next)

    def _run_batch(self, batch: _Batch) -> None:
        items = _compacted(batch, self._is_wanted)
        if not items:
            return
        bundle, runs = batch.bundle, batch.bundle.runs
        assert runs is not None
        outputs = ["probabilities"]
        sampled = {row for row, item in enumerate(items) if self._is_sampled(item)}
        if sampled or any(item.request.embed for item in items):
            outputs.append("embedding")
        try:
            began = time.monotonic()
            results = runs.run_batch(outputs, batch.staging, len(items))
            run_s = time.monotonic() - began
        # A runtime may raise anything.
        except Exception as error:
            self._fail_run(items, error)
            return
        rows: Sequence[int] = range(len(items))
        try:
            bundle.check_outputs(outputs, results, len(items))
        except ModelOutputError:
            rows = self._usable(bundle, items, outputs, results)
        if self._sampler is not None:
            for row in sampled.intersection(rows):
                self._sampler.take(bundle, results[0][row], results[1][row])
        self._finish(
            [items[row] for row in rows],
            [
                InferenceResult(
                    results[0][row],
                    results[1][row] if items[row].request.embed else None,
                    items[row].started_at,
                    items[row].decode_s,
                    run_s,
                    began,
                )
                for row in rows
            ],
        )

    def _usable(
        self,
        bundle: Bundle,
        items: Sequence[WorkItem],
        outputs: Sequence[str],
        results: Sequence[NDArray[np.float32]],
    ) -> list[int]:
        """The rows whose output is usable; ends the items of the others."""
        rows = []
        for row, item in enumerate(items):
            try:
                bundle.check_outputs(outputs, [values[row : row + 1] for values in results], 1)
            except ModelOutputError as error:
                self._fail_run([item], error, len(items))
            else:
                rows.append(row)
        return rows


def _compacted(batch: _Batch, is_wanted: Callable[[WorkItem], bool]) -> list[WorkItem]:
    """The items that are still wanted, moved to the first rows of their batch."""
    kept: list[WorkItem] = []
    for row, item in enumerate(batch.items):
        if is_wanted(item):
            if row != len(kept):
                np.copyto(batch.images[len(kept)], batch.images[row])
            kept.append(item)
    return kept
