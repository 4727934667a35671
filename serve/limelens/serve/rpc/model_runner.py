"""Images to a model's numbers: the one path of every RPC that classifies or embeds.

It finds the model, keeps each client to its share, has slow images decoded in other processes, and
hands the images to the engine of the model's device. It knows neither messages nor decisions.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from limelens.serve.access.shares import Shares
from limelens.serve.bundle import Bundle
from limelens.serve.call_context import note_model
from limelens.serve.observing.observer import Observer
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.repository.registry import ModelRegistry
from limelens.serve.rpc.server_config import ServiceSettings
from limelens.serve.rpc.slow_images import SlowImages
from limelens.serve.scheduling.cpu import CpuEngine
from limelens.serve.scheduling.engine import Engine
from limelens.serve.scheduling.gpu import GpuEngine
from limelens.serve.scheduling.inference import (
    Completion,
    InferenceResult,
    InferenceStatus,
    PendingImage,
    Sampler,
)
from limelens.serve.scheduling.memory_budget import Budget
from limelens.serve.scheduling.statistics import StatisticsCollector

if TYPE_CHECKING:
    import grpc.aio


class ModelRunner:
    """Runs models for all services of a server.

    Args:
        sampler: Looks at what the models give for some images.
    """

    def __init__(
        self,
        repository: ModelRegistry,
        settings: ServiceSettings,
        observer: Observer | None = None,
        budget: Budget | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        self._sampler = sampler
        self.repository = repository
        self.settings = settings
        self.limits = settings.request_limits
        self.observer = observer or Observer()
        self.budget = budget or Budget(settings.max_waiting_bytes)
        self.counting = StatisticsCollector()  # what each model has done so far
        num_running = max((self._num_running(one.bundle) for one in repository.served), default=1)
        self.shares = Shares(settings.max_queue + num_running, "images are waiting or worked on")
        """How many of the waiting images belong to each client."""
        self.slow_images = SlowImages(max_waiting=settings.max_queue)
        self.engines: dict[str, Engine] = {}  # by execution provider
        self._lock = threading.Lock()  # explanation threads ask for engines too
        for model in repository.served:
            self.engine(model.bundle)

    def find(self, name: str, version: int) -> ModelVersion:
        """The requested model, which is also noted on the current call; see `ModelRegistry.get`."""
        model = self.repository.get(name, version)
        note_model(model.name, model.version)
        return model

    async def run(
        self,
        bundle: Bundle,
        images: Sequence[PendingImage],
        *,
        deadline: float | None = None,
        embed: bool = False,
    ) -> list[InferenceResult]:
        """Waits for the model's numbers for the images of one request, in their order.

        Images that would run later than the deadline, by `time.monotonic`, are dropped.

        Raises:
            InvalidImageError: An image cannot be decoded.
            OverloadedError: The queue is full, or the client holds more than its share.
            ExpiredError: The deadline passed first.
        """
        with self.shares.holding(len(images)):
            images = await self.slow_images.decoded(images, bundle.metadata.resize)
            return await self.engine(bundle).classify(
                bundle, images, deadline=deadline, embed=embed
            )

    def engine(self, bundle: Bundle) -> Engine:
        """The engine of a bundle's device; all bundles of a device share it."""
        with self._lock:
            engine = self.engines.get(bundle.provider)
            if engine is None:
                engine = self.engines[bundle.provider] = self._new_engine(bundle)
        return engine

    def close(self) -> None:
        """Ends all threads; no call may be in flight."""
        for engine in self.engines.values():
            engine.close()
        self.slow_images.close()

    def _new_engine(self, bundle: Bundle) -> Engine:
        max_queue = self.settings.max_queue
        if bundle.runs is None:
            return CpuEngine(
                num_threads=bundle.num_threads,
                max_queue=max_queue,
                on_completion=self._completed,
                sampler=self._sampler,
            )
        return GpuEngine(
            bundle.runs.thread,
            num_threads=_num_decoders(),
            max_queue=max_queue,
            on_completion=self._completed,
            sampler=self._sampler,
        )

    def _num_running(self, bundle: Bundle) -> int:
        """How many images at most have left the queue of a bundle's device and are worked on."""
        if bundle.runs is None:
            return bundle.num_threads
        return self.settings.max_batch_size + _num_decoders()

    def _completed(self, completion: Completion) -> None:
        """Counts an image; called from a worker's thread."""
        if completion.status in (InferenceStatus.ANSWERED, InferenceStatus.FAILED):
            # The repository rolls a new version back that fails.
            is_ok = completion.status is InferenceStatus.ANSWERED
            self.repository.record(completion.bundle, ok=is_ok)
        self.counting.record(completion)
        self.observer.image_completed(completion)


def deadline_of(context: grpc.aio.ServicerContext[Any, Any]) -> float | None:
    """When a call's client stops waiting, by `time.monotonic`; None means never."""
    remaining_s: float | None = context.time_remaining()
    return None if remaining_s is None else time.monotonic() + remaining_s


def _num_decoders() -> int:
    """How many threads decode images for a GPU."""
    return max(2, min(8, (os.cpu_count() or 2) - 1))
