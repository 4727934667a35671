"""The engine of the CPU: each image runs by itself, in the worker thread that prepared it.

So its result is the same, byte for byte, whatever else runs, and nothing waits for a batch.
"""

from __future__ import annotations

import time

import numpy as np

from limelens.serve.scheduling.engine import Engine, WorkItem
from limelens.serve.scheduling.inference import InferenceResult


class CpuEngine(Engine):
    """Worker threads that prepare an image and run it."""

    def _take(self) -> list[WorkItem] | None:
        items = super()._take()
        if items:
            with self._lock:
                self._leave_queue(items)
        return items

    def _run_item(self, item: WorkItem) -> None:
        bundle, pixels = item.request.bundle, item.pixels
        assert pixels is not None  # it was prepared
        embedding = None
        is_sampled = self._is_sampled(item)
        began = time.monotonic()
        try:
            if item.request.embed or is_sampled:
                all_probabilities, embeddings = bundle.predict_and_embed(pixels[np.newaxis])
                embedding = embeddings[0]
            else:
                all_probabilities = bundle.predict(pixels[np.newaxis])
            probabilities = all_probabilities[0]
        # No output of a model may end the thread that ran it.
        except Exception as error:
            self._fail_run([item], error)
            return
        run_s = time.monotonic() - began
        if is_sampled and self._sampler is not None and embedding is not None:
            self._sampler.take(bundle, probabilities, embedding)
            embedding = None  # its caller did not ask for it
        times = item.started_at, item.decode_s, run_s, began
        self._finish([item], [InferenceResult(probabilities, embedding, *times)])
