"""The RPCs: each reads its request, asks whoever does the work, and puts the answer.

It knows the contract and who does what. Statuses are `limelens.serve.status`'s business, and
images are decoded in the workers' threads, never on the event loop.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final

import grpc.aio
import numpy as np

from limelens.serve.access.caller import charge, require
from limelens.serve.access.rights import Right
from limelens.serve.access.shares import Shares
from limelens.serve.bundle import Bundle
from limelens.serve.call_context import answered_by
from limelens.serve.decisions.decision import decide
from limelens.serve.errors import (
    ExpiredError,
    InvalidRequestError,
    LimelensError,
    ModelOutputError,
    OverloadedError,
    UnavailableError,
)
from limelens.serve.explaining.pool import Explainer
from limelens.serve.observing.observer import Answered, Observer, Told, explaining
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.repository.registry import ModelRegistry
from limelens.serve.rpc.camera_stream import END, Camera
from limelens.serve.rpc.on_change import Changes, Tell
from limelens.serve.rpc.requests.classify import read_classify, read_embed
from limelens.serve.rpc.requests.explain import read_explain
from limelens.serve.rpc.requests.stream import read_stream_config
from limelens.serve.rpc.responses import (
    embed_response,
    explain_response,
    explain_stream_response,
    model_message,
    model_ref,
    prediction_message,
    refused_message,
    timings_message,
)
from limelens.serve.rpc.server_config import ServiceSettings as ServiceSettings
from limelens.serve.rpc.slow_images import SlowImages
from limelens.serve.scheduling.cpu import CpuEngine
from limelens.serve.scheduling.engine import Engine
from limelens.serve.scheduling.gpu import GpuEngine
from limelens.serve.scheduling.inference import Completion, InferenceStatus
from limelens.serve.scheduling.memory_budget import Budget
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc

SERVICE_NAME: Final = "limelens.v1.ClassifierService"


class ClassifierService(service_grpc.ClassifierServiceServicer):
    """Answers `limelens.v1.ClassifierService`.

    Args:
        repository: What is served.
        settings: How much is taken on.
        on_ended: Is told of every image that leaves an engine; see `Completion`.
        observer: Is told of answers, frames and explanations.
        budget: In which messages are counted before they come here; None is a new one.
    """

    def __init__(
        self,
        repository: ModelRegistry,
        settings: ServiceSettings,
        on_ended: Callable[[Completion], None] | None = None,
        observer: Observer | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._on_ended = on_ended
        self._observer = observer or Observer()
        self._repository = repository
        self._settings = settings
        self._limits = settings.request_limits
        self._budget = budget or Budget(settings.max_waiting_bytes)
        worked_on = max((self._num_at_a_time(one.bundle) for one in repository.served), default=1)
        self._shares = Shares(settings.max_queue + worked_on, "images are waiting or worked on")
        self._slow = SlowImages(max_waiting=settings.max_queue)
        self._engines: dict[str, Engine] = {}
        self._making = threading.Lock()  # of engines: explainers' threads ask for them too
        self._cameras: set[Camera] = set()
        self._opening: set[asyncio.Timeout] = set()  # streams whose configuration is waited for
        self._stopping = False
        self._explainer = Explainer(
            max_running=settings.max_explanations,
            max_waiting=settings.max_waiting_explanations,
            step_back=all(one.bundle.gpu is None for one in repository.served),
        )
        for served in repository.served:
            self.engine(served.bundle)

    @property
    def budget(self) -> Budget:
        """Bytes of images that may wait, whichever service they came to."""
        return self._budget

    def engine(self, bundle: Bundle) -> Engine:
        """What runs a bundle; all bundles of a device share it."""
        with self._making:
            found = self._engines.get(bundle.provider)
            if found is None:
                found = self._engines[bundle.provider] = self._new_engine(bundle)
        return found

    def _new_engine(self, bundle: Bundle) -> Engine:
        max_queue = self._settings.max_queue
        if bundle.gpu is None:
            return CpuEngine(
                num_threads=bundle.num_threads, max_queue=max_queue, on_completion=self._ended
            )
        return GpuEngine(
            bundle.gpu.thread,
            num_threads=_num_decoders(),
            max_queue=max_queue,
            on_completion=self._ended,
        )

    def _num_at_a_time(self, bundle: Bundle) -> int:
        """Images of a bundle's device that no longer wait, at most."""
        if bundle.runs is None:
            return bundle.num_threads
        return self._settings.max_batch_size + _num_decoders()

    def _ended(self, ended: Completion) -> None:
        """The repository takes a version back that fails; whoever counts is told as well."""
        if ended.status in (InferenceStatus.ANSWERED, InferenceStatus.FAILED):
            self._repository.record(ended.bundle, ok=ended.status is InferenceStatus.ANSWERED)
        if self._on_ended is not None:
            self._on_ended(ended)

    @contextmanager
    def _noting(self, bundle: Bundle) -> Iterator[None]:
        """The same for explanations, which go past the engines."""
        try:
            yield
        except ModelOutputError:
            self._repository.record(bundle, ok=False)
            raise
        except (LimelensError, grpc.aio.BaseError):  # the caller's fault, or it cannot be told
            raise
        except Exception:
            self._repository.record(bundle, ok=False)
            raise
        self._repository.record(bundle, ok=True)

    @contextmanager
    def _accounting(self, served: ModelVersion, began: float | None = None) -> Iterator[Told]:
        """Around every explanation, whatever asked for it; see `explaining`."""
        with (
            self._noting(served.bundle),
            explaining(self._observer, served, began) as told,
        ):
            yield told

    @property
    def shares(self) -> Shares:
        """Who has how many of the images that wait."""
        return self._shares

    @property
    def slow_images(self) -> SlowImages:
        """Where images are decoded that take long."""
        return self._slow

    @property
    def num_streams(self) -> int:
        """Camera streams that are open."""
        return len(self._cameras)

    @property
    def num_waiting_bytes(self) -> int:
        """Of the images of all requests that wait or are worked on."""
        return self._budget.held

    @property
    def engines(self) -> dict[str, Engine]:
        """The engines so far, by execution provider."""
        return dict(self._engines)

    def stop_streams(self) -> None:
        """Ends camera streams, which would never end by themselves."""
        self._stopping = True
        for camera in self._cameras:
            camera.stop()
        for opening in self._opening:
            if not opening.expired():
                opening.reschedule(0.0)

    def close(self) -> None:
        """Ends all threads; no call may be under way."""
        for engine in self._engines.values():
            engine.close()
        self._slow.close()
        self._explainer.close()

    async def Classify(
        self, request: service_pb2.ClassifyRequest, context: Any
    ) -> service_pb2.ClassifyResponse:
        """See the contract."""
        arrived_at = time.monotonic()
        served = self._serving(request.model, request.version)
        metadata = served.bundle.metadata
        images, answering = read_classify(request, metadata, self._limits)
        del request  # the images are copies: holding both would take twice the memory
        if answering.embed:
            require(Right.EMBED)
        await charge(len(images) - 1)
        deadline = _deadline(context, arrived_at)
        with self._shares.holding(len(images)):
            outcomes = await self.engine(served.bundle).classify(
                served.bundle,
                await self._slow.prepared(images, metadata.resize),
                deadline=deadline,
                embed=answering.embed,
            )
        predictions = [
            decide(
                outcome.probabilities,
                metadata,
                top_k=answering.top_k,
                threshold=answering.threshold,
                embedding=outcome.embedding,
            )
            for outcome in outcomes
        ]
        self._observer.answered(Answered(served, outcomes, predictions, arrived_at))
        return service_pb2.ClassifyResponse(
            predictions=[prediction_message(one) for one in predictions],
            model=model_ref(served),
            timings=timings_message(outcomes, arrived_at, time.monotonic()),
        )

    async def ClassifyStream(self, _requests: Any, context: Any) -> None:
        """See the contract."""
        idle_s = self._settings.stream_idle_s
        first = await self._first_message(context)
        if first is END or first.WhichOneof("message") != "config":
            raise InvalidRequestError("message", "expected the configuration as the first message")
        try:
            served = self._serving(first.config.model, first.config.version)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"config.{error.field}", error.description) from error
        settings = read_stream_config(first.config, served.bundle.metadata, self._limits)
        if settings.explaining is not None:
            require(Right.EXPLAIN)
        name, version = served.name, first.config.version

        def changes(tell: Tell) -> Changes:
            return Changes(self._explainer, self._budget, tell, self._accounting)

        camera = Camera(
            settings,
            served,
            self.engine,
            self._limits,
            idle_s=idle_s,
            newest=lambda: self._repository.get(name, version),
            slow=self._slow,
            observer=self._observer,
            changes=None if settings.explaining is None else changes,
        )
        del served  # the camera follows to the next version, and nothing holds the one before
        self._cameras.add(camera)
        try:
            await camera.run(context)
        finally:
            self._cameras.discard(camera)

    async def _first_message(self, context: Any) -> Any:
        """What a stream begins with; while it is waited for, the stream has its place already."""
        self._check_not_stopping()
        num_open = len(self._cameras) + len(self._opening)
        if num_open >= self._settings.max_streams:
            raise OverloadedError(f"{num_open} streams are open, which is the most", 5.0)
        idle_s = self._settings.stream_idle_s
        opening = asyncio.timeout(idle_s)
        self._opening.add(opening)
        try:
            async with opening:
                first = await context.read()
        except TimeoutError:
            self._check_not_stopping()
            raise ExpiredError(f"no configuration for {idle_s:g} seconds") from None
        finally:
            self._opening.discard(opening)
        self._check_not_stopping()
        return first

    def _check_not_stopping(self) -> None:
        if self._stopping:
            raise UnavailableError("the server is going down")

    async def Explain(
        self, request: service_pb2.ExplainRequest, context: Any
    ) -> service_pb2.ExplainResponse:
        """See the contract."""
        arrived_at = time.monotonic()
        served = self._serving(request.model, request.version)
        question = read_explain(request, served.bundle.metadata, self._limits)
        del request  # as in Classify
        await charge(question.num_samples - 1)
        with self._accounting(served) as told:
            explained = told(
                await self._explainer.explain(
                    served.bundle, question, deadline=_deadline(context, arrived_at)
                )
            )
        return explain_response(explained, served, arrived_at, time.monotonic())

    async def ExplainStream(self, request: service_pb2.ExplainRequest, context: Any) -> None:
        """See the contract."""
        arrived_at = time.monotonic()
        served = self._serving(request.model, request.version)
        question = read_explain(request, served.bundle.metadata, self._limits)
        del request  # as in Classify
        deadline = _deadline(context, arrived_at)
        await charge(question.num_samples - 1)
        with self._accounting(served) as told:
            updates = self._explainer.explain_progressively(
                served.bundle, question, deadline=deadline
            )
            is_first = True
            async with aclosing(updates) as reading:
                async for update in reading:
                    told(update)
                    if is_first:
                        # Apart from the first message, for the reason that cameras do it; but
                        # no sooner: what is refused before it is tried again by clients.
                        await context.send_initial_metadata(())
                        is_first = False
                    await self._write(
                        context,
                        explain_stream_response(update, served, arrived_at, time.monotonic()),
                    )

    def _serving(self, model: str, version: int) -> ModelVersion:
        """The model that is meant; the call is known to be answered by it."""
        served = self._repository.get(model, version)
        answered_by(served.name, served.version)
        return served

    async def _write(self, context: Any, message: Any) -> None:
        idle_s = self._settings.stream_idle_s
        try:
            async with asyncio.timeout(idle_s):
                await context.write(message)
        except TimeoutError:
            raise ExpiredError(f"no message was read for {idle_s:g} seconds") from None

    async def Embed(
        self, request: service_pb2.EmbedRequest, context: Any
    ) -> service_pb2.EmbedResponse:
        """See the contract."""
        arrived_at = time.monotonic()
        served = self._serving(request.model, request.version)
        bundle = served.bundle
        images = read_embed(request, self._limits)
        normalize = request.normalize
        del request  # as in Classify
        await charge(len(images) - 1)
        deadline = _deadline(context, arrived_at)
        with self._shares.holding(len(images)):
            outcomes = await self.engine(bundle).classify(
                bundle,
                await self._slow.prepared(images, bundle.metadata.resize),
                deadline=deadline,
                embed=True,
            )
        self._observer.answered(Answered(served, outcomes, (), arrived_at))
        vectors = np.stack([one.embedding for one in outcomes if one.embedding is not None])
        timings = timings_message(outcomes, arrived_at, time.monotonic())
        return embed_response(vectors, served, timings, normalize=normalize)

    async def ListModels(
        self, _request: service_pb2.ListModelsRequest, _context: Any
    ) -> service_pb2.ListModelsResponse:
        """See the contract."""
        reasons = {(one.name, one.version): one for one in self._repository.rejected}
        served = [
            model_message(one, self._limits, refused=reasons.pop((one.name, one.version), None))
            for one in self._repository.served
        ]
        refused = [refused_message(one) for one in reasons.values()]
        models = sorted([*served, *refused], key=lambda model: (model.name, model.version))
        return service_pb2.ListModelsResponse(models=models)

    async def GetModel(
        self, request: service_pb2.GetModelRequest, _context: Any
    ) -> service_pb2.GetModelResponse:
        """See the contract."""
        served = self._serving(request.model, request.version)
        return service_pb2.GetModelResponse(
            model=model_message(served, self._limits, with_card=True)
        )


def _deadline(context: Any, now: float) -> float | None:
    remaining = context.time_remaining()
    return None if remaining is None else now + remaining


def _num_decoders() -> int:
    """Threads that prepare images for a GPU."""
    return max(2, min(8, (os.cpu_count() or 2) - 1))
