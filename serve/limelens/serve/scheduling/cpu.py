"""The engine of the CPU: each image runs by itself on its worker's thread.

So an answer is the same, byte for byte, whoever else is there, and nothing waits for a batch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np

from limelens.serve.bundle.execution.batch_sizes import is_out_of_memory
from limelens.serve.errors import OverloadedError
from limelens.serve.scheduling.engine import Completion, InferenceResult
from limelens.serve.scheduling.queue import QueueingEngine, WorkItem

_log = logging.getLogger(__name__)


class CpuEngine(QueueingEngine):
    """Worker threads that take an image, prepare it and run it.

    Args:
        num_threads: Worker threads.
        max_queue: Most images of requests that wait; more are refused.
        on_ended: See `QueueingEngine`.
    """

    def __init__(
        self,
        *,
        num_threads: int,
        max_queue: int = 256,
        on_ended: Callable[[Completion], None] | None = None,
    ) -> None:
        super().__init__(num_threads=num_threads, max_queue=max_queue, on_ended=on_ended)
        self._start()

    def _take(self) -> list[WorkItem] | None:
        items = super()._take()
        if items:
            with self._lock:
                self._leave_queue(items)
        return items

    def _respond(self, item: WorkItem) -> None:
        try:
            outcome = _outcome(item)
        # Nothing that a model answers may end the thread that asked it.
        except Exception as error:
            if is_out_of_memory(error):
                _log.error("there is no memory left for one image: %s", error)
                error = OverloadedError("the device has no memory left", 1.0)
            self._fail_run(item, error)
            return
        self._finish([item], [outcome])


def _outcome(item: WorkItem) -> InferenceResult:
    ticket, pixels = item.ticket, item.pixels
    assert pixels is not None  # it was prepared
    images = pixels[np.newaxis]
    begun = time.monotonic()
    embedding = None
    if ticket.embed:
        probabilities, embeddings = ticket.bundle.predict_and_embed(images)
        embedding = embeddings[0]
    else:
        probabilities = ticket.bundle.predict(images)
    run_s = time.monotonic() - begun
    return InferenceResult(
        probabilities[0], embedding, item.started_at, item.decode_s, run_s, begun
    )
