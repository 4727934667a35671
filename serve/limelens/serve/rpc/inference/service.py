"""The RPCs of the Open Inference Protocol: read the request, do the work, write the response.

Images wait in the same queues, with the same limits, as those of our own service.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import grpc.aio

from limelens.inference import inference_service_pb2 as pb2
from limelens.inference import inference_service_pb2_grpc as pb2_grpc
from limelens.serve.about import package_version
from limelens.serve.access.caller import charge, current_caller, may, require
from limelens.serve.access.rights import Right
from limelens.serve.decisions.decision import decide
from limelens.serve.errors import (
    BundleError,
    ExpiredError,
    InvalidRequestError,
    NotFoundError,
    NotOfferedError,
    OverloadedError,
    UnavailableError,
)
from limelens.serve.observing.observer import RequestClassified
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.rpc.inference.pipelining import RequestStream
from limelens.serve.rpc.inference.requests import (
    EMBEDDING,
    PROBABILITIES,
    Output,
    find,
    read_infer,
    read_timeout,
    read_version,
)
from limelens.serve.rpc.inference.responses import (
    infer_response,
    model_config,
    model_metadata,
    model_statistics,
    repository_index,
)
from limelens.serve.rpc.model_runner import ModelRunner, deadline_of
from limelens.serve.scheduling.statistics import Statistics

SERVICE_NAME: Final = "inference.GRPCInferenceService"
_EXTENSIONS: Final = ("classification", "model_configuration", "model_repository", "statistics")
_Context = grpc.aio.ServicerContext[Any, Any]


class InferenceService(pb2_grpc.GRPCInferenceServiceServicer):
    """Implements `inference.GRPCInferenceService`."""

    def __init__(
        self,
        runner: ModelRunner,
        statistics: Callable[[Path], Awaitable[Statistics]],
        refresh: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._runner = runner
        self._repository = runner.repository
        self._statistics = statistics
        self._refresh = refresh
        self._streams: set[RequestStream] = set()
        self.is_stopping = False

    @property
    def num_streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def stop(self) -> None:
        """Reports that it is not ready, and ends streams, which never end by themselves."""
        self.is_stopping = True
        for stream in self._streams:
            stream.stop()

    async def ServerLive(
        self, _request: pb2.ServerLiveRequest, _context: _Context
    ) -> pb2.ServerLiveResponse:
        return pb2.ServerLiveResponse(live=True)

    async def ServerReady(
        self, _request: pb2.ServerReadyRequest, _context: _Context
    ) -> pb2.ServerReadyResponse:
        return pb2.ServerReadyResponse(ready=not self.is_stopping)

    async def ModelReady(
        self, request: pb2.ModelReadyRequest, _context: _Context
    ) -> pb2.ModelReadyResponse:
        try:
            self._find(request.name, request.version)
        except NotFoundError:
            return pb2.ModelReadyResponse(ready=False)
        return pb2.ModelReadyResponse(ready=not self.is_stopping)

    async def ServerMetadata(
        self, _request: pb2.ServerMetadataRequest, _context: _Context
    ) -> pb2.ServerMetadataResponse:
        return pb2.ServerMetadataResponse(
            name="limelens", version=package_version(), extensions=_EXTENSIONS
        )

    async def ModelMetadata(
        self, request: pb2.ModelMetadataRequest, _context: _Context
    ) -> pb2.ModelMetadataResponse:
        model = self._find(request.name, request.version)
        versions = [one.version for one in self._repository.served if one.name == model.name]
        return model_metadata(model, versions)

    async def ModelConfig(
        self, request: pb2.ModelConfigRequest, _context: _Context
    ) -> pb2.ModelConfigResponse:
        model = self._find(request.name, request.version)
        return pb2.ModelConfigResponse(config=model_config(model, self._runner.limits))

    async def ModelStatistics(
        self, request: pb2.ModelStatisticsRequest, _context: _Context
    ) -> pb2.ModelStatisticsResponse:
        statistics = [
            model_statistics(model, await self._statistics(model.bundle.path))
            for model in self._chosen(request)
        ]
        return pb2.ModelStatisticsResponse(model_stats=statistics)

    async def RepositoryIndex(
        self, request: pb2.RepositoryIndexRequest, _context: _Context
    ) -> pb2.RepositoryIndexResponse:
        _check_repository(request.repository_name)
        repository = self._repository
        return repository_index(repository.served, repository.rejected, only_ready=request.ready)

    async def RepositoryModelLoad(
        self, request: pb2.RepositoryModelLoadRequest, _context: _Context
    ) -> pb2.RepositoryModelLoadResponse:
        _check_repository(request.repository_name)
        if request.parameters:
            key = sorted(request.parameters)[0][:100]
            raise InvalidRequestError(
                f"parameters[{key}]", "a model's file alone configures it; expected no parameters"
            )
        if not request.model_name:
            raise InvalidRequestError("model_name", "not given; expected a model's name")
        if self._refresh is None:
            raise NotOfferedError(
                "this server serves what it found when it started; start it so that it looks for "
                "new versions (limelens serve --reload request, or watch)"
            )
        await self._refresh()
        name = request.model_name
        rejected = [one for one in self._repository.rejected if one.name == name]
        try:
            served = self._repository.get(name)
        except NotFoundError:
            for one in rejected:
                text = f"{name!r} version {one.version} {one.what_happened}"
                raise NotFoundError(text, kind="model", name=name) from None
            raise
        for one in rejected:
            if one.held_back_by and one.version >= served.version:
                raise BundleError(f"{name!r} version {one.version} {one.what_happened}")
        return pb2.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, _request: pb2.RepositoryModelUnloadRequest, _context: _Context
    ) -> pb2.RepositoryModelUnloadResponse:
        raise NotOfferedError(
            "clients cannot unload models: the server serves what lies in its model repository; "
            "remove the version's folder there"
        )

    async def ModelInfer(
        self, request: pb2.ModelInferRequest, context: _Context
    ) -> pb2.ModelInferResponse:
        return await self._infer(request, context, counted_bytes=request.ByteSize())

    async def ModelStreamInfer(self, _requests: object, context: _Context) -> None:
        if self.is_stopping:
            raise UnavailableError("the server is going down")
        settings = self._runner.settings
        if len(self._streams) >= settings.max_streams:
            raise OverloadedError(f"stream limit reached ({len(self._streams)} open)", 5.0)
        # A client's limit of calls in flight holds within a stream, too.
        caller = current_caller.get()
        stream = RequestStream(
            lambda request: self._infer(request, context),
            idle_s=settings.stream_idle_s,
            max_in_flight=None if caller is None else caller.limits.max_calls,
        )
        self._streams.add(stream)
        try:
            await stream.run(context)
        finally:
            self._streams.discard(stream)

    async def _infer(
        self, request: pb2.ModelInferRequest, context: _Context, *, counted_bytes: int | None = None
    ) -> pb2.ModelInferResponse:
        """Answers one request; the budget does not count those of a stream yet (None)."""
        now = time.monotonic()
        runner = self._runner
        model = find(runner.find, request.model_name, request.model_version, "model_")
        own_deadline = read_timeout(request, now)
        spec = read_infer(request, model.bundle, runner.limits)
        own_id = request.id
        del request  # as in Classify
        if any(one.name == EMBEDDING for one in spec.outputs):
            require(Right.EMBED)
        outputs = spec.outputs
        if not outputs:  # all that the client may have
            names = (PROBABILITIES, EMBEDDING) if may(Right.EMBED) else (PROBABILITIES,)
            outputs = tuple(map(Output, names))
        is_streamed = counted_bytes is None
        await charge(len(spec.images) - (not is_streamed))
        count = spec.size_bytes if is_streamed else spec.extra_bytes
        deadlines = [one for one in (deadline_of(context), own_deadline) if one is not None]
        try:
            # gRPC ends the call at its own deadline; this is the request's.
            async with asyncio.timeout(None if own_deadline is None else own_deadline - now):
                with runner.budget.holding(count, beside=counted_bytes or 0):
                    results = await runner.run(
                        model.bundle,
                        spec.images,
                        deadline=min(deadlines, default=None),
                        embed=any(one.name == EMBEDDING for one in outputs),
                    )
        except TimeoutError:
            raise ExpiredError("the request's own timeout passed before the response") from None
        # The client decides by itself; metrics count what the model would have decided.
        wants_decisions = any(one.name == PROBABILITIES for one in outputs)
        predictions = [
            decide(one.probabilities, model.bundle.metadata) for one in results if wants_decisions
        ]
        runner.observer.request_classified(RequestClassified(model, results, predictions, now))
        return infer_response(results, outputs, model, own_id)

    def _find(self, name: str, version: str) -> ModelVersion:
        return find(self._repository.get, name, version)

    def _chosen(self, request: pb2.ModelStatisticsRequest) -> list[ModelVersion]:
        """The versions whose statistics are requested."""
        if request.version:
            read_version(request.version, "version")
            return [self._find(request.name, request.version)]
        if not request.name:
            return list(self._repository.served)
        name = self._find(request.name, "").name
        return [one for one in self._repository.served if one.name == name]


def _check_repository(name: str) -> None:
    if name:
        raise InvalidRequestError(
            "repository_name", f"{name[:100]!r}; there is one model repository: expected nothing"
        )
