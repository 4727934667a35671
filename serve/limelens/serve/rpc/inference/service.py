"""The protocol's RPCs: each reads its request, asks whoever does the work, and puts the answer.

It knows the contract and who does what. Images wait in the same queues, by the same limits, as
those of our own service, and statuses are `limelens.serve.status`'s business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from limelens.inference import inference_service_pb2 as pb2
from limelens.inference import inference_service_pb2_grpc as pb2_grpc
from limelens.serve.access.caller import charge, current
from limelens.serve.access.shares import Shares
from limelens.serve.bundle import Bundle
from limelens.serve.call_context import answered_by
from limelens.serve.decisions.decision import decide
from limelens.serve.errors import (
    ExpiredError,
    InvalidRequestError,
    NotFoundError,
    NotOfferedError,
    OverloadedError,
    UnavailableError,
)
from limelens.serve.observing.observer import Answered, Observer
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.repository.registry import ModelRegistry
from limelens.serve.rpc.inference.describing import (
    model_config,
    model_metadata,
    model_statistics,
    repository_index,
    server_metadata,
)
from limelens.serve.rpc.inference.replies import infer_response
from limelens.serve.rpc.inference.requests import (
    PROBABILITIES,
    InferSpec,
    find,
    read_infer,
    read_timeout,
    read_version,
)
from limelens.serve.rpc.inference.stream import RequestStream
from limelens.serve.rpc.requests.classify import Limits
from limelens.serve.rpc.slow_images import SlowImages
from limelens.serve.scheduling.engine import Engine
from limelens.serve.scheduling.inference import InferenceResult
from limelens.serve.scheduling.memory_budget import Budget
from limelens.serve.scheduling.statistics import Statistics

SERVICE_NAME: Final = "inference.GRPCInferenceService"


@dataclass(frozen=True, eq=False)
class Dependencies:
    """What the service shares with our own.

    Args:
        repository: What is served.
        engine: What runs a bundle.
        budget: Bytes of images that may wait.
        limits: What one request may ask for.
        statistics: What a version has done since the start, by its file.
        shares: Who has how many of the images that wait.
        slow_images: Where images are decoded that take long.
        max_streams: Streams at a time.
        stream_idle_s: A stream that sends or reads nothing for so long is ended.
        refresh: Looks at the folder of models; None where the server does not do that.
        observer: Is told of answers.
    """

    repository: ModelRegistry
    engine: Callable[[Bundle], Engine]
    budget: Budget
    limits: Limits
    statistics: Callable[[Path], Awaitable[Statistics]]
    shares: Shares
    slow_images: SlowImages
    max_streams: int
    stream_idle_s: float
    refresh: Callable[[], Awaitable[object]] | None = None
    observer: Observer = field(default_factory=Observer)


class InferenceService(pb2_grpc.GRPCInferenceServiceServicer):
    """Answers `inference.GRPCInferenceService`.

    Args:
        backing: What it shares with our own service.
    """

    def __init__(self, backing: Dependencies) -> None:
        self._backing = backing
        self._repository = backing.repository
        self._streams: set[RequestStream] = set()
        self._stopping = False

    def stop(self) -> None:
        """Reports that it is not ready, and ends streams, which would never end by themselves."""
        self._stopping = True
        for stream in self._streams:
            stream.stop()

    async def ServerLive(
        self, _request: pb2.ServerLiveRequest, _context: Any
    ) -> pb2.ServerLiveResponse:
        """See the contract."""
        return pb2.ServerLiveResponse(live=True)

    async def ServerReady(
        self, _request: pb2.ServerReadyRequest, _context: Any
    ) -> pb2.ServerReadyResponse:
        """See the contract."""
        return pb2.ServerReadyResponse(ready=not self._stopping)

    async def ModelReady(
        self, request: pb2.ModelReadyRequest, _context: Any
    ) -> pb2.ModelReadyResponse:
        """See the contract."""
        try:
            find(self._repository, request.name, request.version)
        except NotFoundError:
            return pb2.ModelReadyResponse(ready=False)
        return pb2.ModelReadyResponse(ready=not self._stopping)

    async def ServerMetadata(
        self, _request: pb2.ServerMetadataRequest, _context: Any
    ) -> pb2.ServerMetadataResponse:
        """See the contract."""
        return server_metadata()

    async def ModelMetadata(
        self, request: pb2.ModelMetadataRequest, _context: Any
    ) -> pb2.ModelMetadataResponse:
        """See the contract."""
        served = find(self._repository, request.name, request.version)
        versions = [one.version for one in self._repository.served if one.name == served.name]
        return model_metadata(served, versions)

    async def ModelConfig(
        self, request: pb2.ModelConfigRequest, _context: Any
    ) -> pb2.ModelConfigResponse:
        """See the contract."""
        served = find(self._repository, request.name, request.version)
        return pb2.ModelConfigResponse(config=model_config(served, self._backing.limits))

    async def ModelStatistics(
        self, request: pb2.ModelStatisticsRequest, _context: Any
    ) -> pb2.ModelStatisticsResponse:
        """See the contract."""
        chosen = [
            model_statistics(served, await self._backing.statistics(served.bundle.path))
            for served in self._chosen(request)
        ]
        return pb2.ModelStatisticsResponse(model_stats=chosen)

    async def RepositoryIndex(
        self, request: pb2.RepositoryIndexRequest, _context: Any
    ) -> pb2.RepositoryIndexResponse:
        """See the contract."""
        _check_folder(request.repository_name)
        repository = self._repository
        return repository_index(repository.served, repository.rejected, only_ready=request.ready)

    async def RepositoryModelLoad(
        self, request: pb2.RepositoryModelLoadRequest, _context: Any
    ) -> pb2.RepositoryModelLoadResponse:
        """See the contract."""
        _check_folder(request.repository_name)
        if request.parameters:
            key = sorted(request.parameters)[0][:100]
            raise InvalidRequestError(
                f"parameters[{key}]",
                "a model is what its file says; expected no parameters",
            )
        if not request.model_name:
            raise InvalidRequestError("model_name", "not given; expected a model's name")
        if self._backing.refresh is None:
            raise NotOfferedError(
                "this server serves what it found when it started; start it so that it looks for "
                "new versions (limelens serve --reload request, or watch)"
            )
        await self._backing.refresh()
        self._check_loaded(request.model_name)
        return pb2.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, _request: pb2.RepositoryModelUnloadRequest, _context: Any
    ) -> pb2.RepositoryModelUnloadResponse:
        """See the contract."""
        raise NotOfferedError(
            "models are not unloaded by callers: what is served follows from the server's folder "
            "of models; remove the version's folder there"
        )

    async def ModelInfer(
        self, request: pb2.ModelInferRequest, context: Any
    ) -> pb2.ModelInferResponse:
        """See the contract."""
        return await self._infer(request, context, beside=request.ByteSize())

    async def ModelStreamInfer(self, _requests: Any, context: Any) -> None:
        """See the contract."""
        if self._stopping:
            raise UnavailableError("the server is going down")
        if len(self._streams) >= self._backing.max_streams:
            raise OverloadedError(f"{len(self._streams)} streams are open, which is the most", 5.0)
        # What one client may do at a time holds within a stream, too.
        caller = current.get()
        most = caller.limits.max_calls if caller is not None else None
        stream = RequestStream(
            lambda request: self._infer(request, context),
            idle_s=self._backing.stream_idle_s,
            most=most,
        )
        self._streams.add(stream)
        try:
            await stream.run(context)
        finally:
            self._streams.discard(stream)

    async def _infer(
        self, request: pb2.ModelInferRequest, context: Any, *, beside: int | None = None
    ) -> pb2.ModelInferResponse:
        """Answers one request.

        Args:
            request: It.
            context: Of the call.
            beside: Bytes that are counted for it already; None where it came in a stream, whose
                requests nobody has counted.
        """
        now = time.monotonic()
        served = find(self._repository, request.model_name, request.model_version, "model_")
        answered_by(served.name, served.version)
        own_deadline = read_timeout(request, now)
        question = read_infer(request, served.bundle, self._backing.limits)
        own_id = request.id
        del request  # as in Classify
        await charge(question.num_images - (beside is not None))
        count = question.size_bytes if beside is None else question.unpacked_bytes
        try:
            # The call itself ends at gRPC's deadline; this is the request's own.
            async with asyncio.timeout(None if own_deadline is None else own_deadline - now):
                with (
                    self._backing.budget.holding(count, beside=beside or 0),
                    self._backing.shares.holding(question.num_images),
                ):
                    outcomes = await self._classify(
                        served, question, _earliest(context, own_deadline)
                    )
        except TimeoutError:
            raise ExpiredError("the request's own timeout passed before it was answered") from None
        self._tell(served, question, outcomes, now)
        return infer_response(outcomes, question.wanted, served, own_id)

    def _tell(
        self,
        served: ModelVersion,
        question: InferSpec,
        outcomes: list[InferenceResult],
        arrived_at: float,
    ) -> None:
        """Whoever asks for probabilities decides alone; counted is what the model would say."""
        predictions = [
            decide(one.probabilities, served.bundle.metadata)
            for one in outcomes
            if any(wanted.name == PROBABILITIES for wanted in question.wanted)
        ]
        self._backing.observer.answered(Answered(served, outcomes, predictions, arrived_at))

    async def _classify(
        self, served: ModelVersion, question: InferSpec, deadline: float | None
    ) -> list[InferenceResult]:
        prepare = question.prepare or await self._backing.slow_images.prepared(
            question.encoded, served.bundle.metadata.resize
        )
        return await self._backing.engine(served.bundle).classify(
            served.bundle, prepare, deadline=deadline, embed=question.embed
        )

    def _chosen(self, request: pb2.ModelStatisticsRequest) -> list[ModelVersion]:
        """The versions that statistics are wanted of."""
        if request.version:
            read_version(request.version, "version")
            return [find(self._repository, request.name, request.version)]
        if not request.name:
            return list(self._repository.served)
        name = find(self._repository, request.name, "").name
        return [one for one in self._repository.served if one.name == name]

    def _check_loaded(self, name: str) -> None:
        try:
            self._repository.get(name)
        except NotFoundError:
            for refused in self._repository.rejected:
                if refused.name == name:
                    raise NotFoundError(
                        f"{name!r} version {refused.version} was refused: {refused.reason}",
                        kind="model",
                        name=name,
                    ) from None
            raise


def _check_folder(name: str) -> None:
    if name:
        raise InvalidRequestError(
            "repository_name", f"{name[:100]!r}; there is one folder of models: expected nothing"
        )


def _earliest(context: Any, own_deadline: float | None) -> float | None:
    remaining = context.time_remaining()
    if remaining is None:
        return own_deadline
    deadline: float = time.monotonic() + remaining
    return deadline if own_deadline is None else min(deadline, own_deadline)
