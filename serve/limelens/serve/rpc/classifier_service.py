"""The RPCs of `limelens.v1.ClassifierService`: read the request, do the work, write the response.

Errors become statuses in `limelens.serve.status`; models run by way of
`limelens.serve.rpc.model_runner`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final

import grpc.aio
import numpy as np

from limelens.serve.access.caller import charge, require
from limelens.serve.access.rights import Right
from limelens.serve.bundle import Bundle
from limelens.serve.decisions.decision import FacePrediction, Prediction, decide
from limelens.serve.errors import (
    ExpiredError,
    InvalidRequestError,
    LimelensError,
    ModelOutputError,
    OverloadedError,
    UnavailableError,
)
from limelens.serve.explaining.pool import Explainer
from limelens.serve.explaining.spec import ExplainSpec
from limelens.serve.image.encoded import EncodedImage
from limelens.serve.observing.observer import ExplanationRecord, RequestClassified, explaining
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.rpc.camera_stream import END, Camera
from limelens.serve.rpc.faces.face_runner import FaceRunner
from limelens.serve.rpc.model_runner import ModelRunner, deadline_of
from limelens.serve.rpc.on_change import Changes, Report
from limelens.serve.rpc.requests.classify import ClassifyOptions, read_classify, read_embed
from limelens.serve.rpc.requests.explain import read_explain
from limelens.serve.rpc.requests.faces import WantedFace, read_wanted_face
from limelens.serve.rpc.requests.stream import read_stream_config
from limelens.serve.rpc.responses import (
    embed_response,
    explain_response,
    explain_stream_response,
    model_message,
    model_ref,
    prediction_message,
    rejected_message,
    timings_message,
)
from limelens.serve.scheduling.inference import InferenceResult
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import classifier_service_pb2_grpc as service_grpc

SERVICE_NAME: Final = "limelens.v1.ClassifierService"
_Context = grpc.aio.ServicerContext[Any, Any]
_StreamContext = grpc.aio.ServicerContext[
    service_pb2.ClassifyStreamRequest, service_pb2.ClassifyStreamResponse
]


class ClassifierService(service_grpc.ClassifierServiceServicer):
    """Implements `limelens.v1.ClassifierService`."""

    def __init__(self, runner: ModelRunner, face_runner: FaceRunner) -> None:
        self._runner = runner
        self._face_runner = face_runner
        self._observer = runner.observer
        self._repository = runner.repository
        self._settings = settings = runner.settings
        self._cameras: set[Camera] = set()
        self._opening: set[asyncio.Timeout] = set()  # streams that have sent no configuration yet
        self._stopping = False
        self.explainer = Explainer(
            max_running=settings.max_explanations,
            max_waiting=settings.max_waiting_explanations,
            low_priority=all(one.bundle.runs is None for one in self._repository.served),
        )

    @property
    def cameras(self) -> tuple[Camera, ...]:
        """The open camera streams."""
        return tuple(self._cameras)

    def stop_streams(self) -> None:
        """Ends camera streams, which never end by themselves."""
        self._stopping = True
        for camera in self._cameras:
            camera.stop()
        for opening in self._opening:
            if not opening.expired():
                opening.reschedule(0.0)

    def close(self) -> None:
        """Ends all threads; no call may be in flight."""
        self.explainer.close()

    async def Classify(
        self, request: service_pb2.ClassifyRequest, context: _Context
    ) -> service_pb2.ClassifyResponse:
        arrived_at = time.monotonic()
        model = self._runner.find(request.model, request.version)
        images, options = read_classify(request, model.bundle.metadata, self._runner.limits)
        del request  # the images are copies: holding both would take twice the memory
        if options.embed:
            require(Right.EMBED)
        await charge(len(images) - 1)
        results, predictions = await self._classified(
            model.bundle, images, options, deadline_of(context)
        )
        self._observer.request_classified(
            RequestClassified(model, results, predictions, arrived_at)
        )
        return service_pb2.ClassifyResponse(
            predictions=[prediction_message(one) for one in predictions],
            model=model_ref(model),
            timings=timings_message(results, arrived_at, time.monotonic()),
        )

    async def _classified(
        self,
        bundle: Bundle,
        images: list[EncodedImage],
        options: ClassifyOptions,
        deadline: float | None,
    ) -> tuple[list[InferenceResult], list[Prediction]]:
        """What the models gave, and the decision about each image."""
        metadata, top_k, threshold = bundle.metadata, options.top_k, options.threshold
        if options.faces is not None:
            found = await self._face_runner.classify(
                bundle, images, options.faces, deadline=deadline
            )
            return (
                [run for one in found for run in one.runs],
                [one.prediction(metadata, top_k=top_k, threshold=threshold) for one in found],
            )
        results = await self._runner.run(bundle, images, deadline=deadline, embed=options.embed)
        return results, [
            decide(
                one.probabilities,
                metadata,
                top_k=top_k,
                threshold=threshold,
                embedding=one.embedding,
            )
            for one in results
        ]

    async def Embed(
        self, request: service_pb2.EmbedRequest, context: _Context
    ) -> service_pb2.EmbedResponse:
        arrived_at = time.monotonic()
        model = self._runner.find(request.model, request.version)
        images = read_embed(request, self._runner.limits)
        normalize = request.normalize
        del request  # as in Classify
        await charge(len(images) - 1)
        results = await self._runner.run(
            model.bundle, images, deadline=deadline_of(context), embed=True
        )
        self._observer.request_classified(RequestClassified(model, results, (), arrived_at))
        vectors = np.stack([one.embedding for one in results if one.embedding is not None])
        timings = timings_message(results, arrived_at, time.monotonic())
        return embed_response(vectors, model, timings, normalize=normalize)

    async def ClassifyStream(self, _requests: object, context: _StreamContext) -> None:
        first = await self._first_message(context)
        if first is END or first.WhichOneof("message") != "config":
            raise InvalidRequestError("message", "expected the configuration as the first message")
        name, version = first.config.model, first.config.version
        try:
            model = self._runner.find(name, version)
        except InvalidRequestError as error:
            raise InvalidRequestError(f"config.{error.field}", error.description) from error
        settings = read_stream_config(first.config, model.bundle.metadata, self._runner.limits)
        if settings.explaining is not None:
            require(Right.EXPLAIN)
        name = model.name

        def changes(report: Report) -> Changes:
            return Changes(self.explainer, self._runner.budget, report, self._accounted)

        camera = Camera(
            settings,
            model,
            self._runner,
            self._face_runner,
            newest=lambda: self._repository.get(name, version),
            changes=None if settings.explaining is None else changes,
        )
        del model  # the camera moves to newer versions, and nothing may hold the old one
        self._cameras.add(camera)
        try:
            await camera.run(context)
        finally:
            self._cameras.discard(camera)

    async def _first_message(self, context: _StreamContext) -> service_pb2.ClassifyStreamRequest:
        """Waits for a stream's first message; the stream counts as open meanwhile."""
        self._check_not_stopping()
        num_open = len(self._cameras) + len(self._opening)
        if num_open >= self._settings.max_streams:
            raise OverloadedError(f"stream limit reached ({num_open} open)", 5.0)
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
        self, request: service_pb2.ExplainRequest, context: _Context
    ) -> service_pb2.ExplainResponse:
        arrived_at = time.monotonic()
        model = self._runner.find(request.model, request.version)
        spec = read_explain(request, model.bundle.metadata, self._runner.limits)
        wanted = read_wanted_face(request)
        del request  # as in Classify
        spec, face = await self._with_face(model.bundle, spec, wanted, deadline_of(context))
        with self._accounted(model, arrived_at) as record:
            record.explained = explained = await self.explainer.explain(
                model.bundle, spec, deadline=deadline_of(context)
            )
        return explain_response(explained, model, arrived_at, time.monotonic(), face)

    async def ExplainStream(self, request: service_pb2.ExplainRequest, context: _Context) -> None:
        arrived_at = time.monotonic()
        model = self._runner.find(request.model, request.version)
        spec = read_explain(request, model.bundle.metadata, self._runner.limits)
        wanted = read_wanted_face(request)
        del request  # as in Classify
        spec, face = await self._with_face(model.bundle, spec, wanted, deadline_of(context))
        with self._accounted(model, arrived_at) as record:
            steps = self.explainer.explain_progressively(
                model.bundle, spec, deadline=deadline_of(context)
            )
            is_first = True
            async with aclosing(steps) as reading:
                async for step in reading:
                    record.explained = step
                    if is_first:
                        # Sent apart from the first message for the reason given in `Camera.run`,
                        # but no sooner: clients retry only what fails before the metadata.
                        await context.send_initial_metadata(())
                        is_first = False
                    now = time.monotonic()
                    message = explain_stream_response(step, model, arrived_at, now, face)
                    await self._write(context, message)

    async def _with_face(
        self, bundle: Bundle, spec: ExplainSpec, wanted: WantedFace | None, deadline: float | None
    ) -> tuple[ExplainSpec, FacePrediction | None]:
        """What to explain, and the face that it is about; charges for it."""
        if wanted is not None:
            self._face_runner.require()
            self.explainer.check_room()
        await charge(spec.num_samples - 1)
        if wanted is None:
            return spec, None
        return await self._face_runner.choose(bundle, spec, wanted, deadline=deadline)

    async def _write(self, context: _Context, message: object) -> None:
        idle_s = self._settings.stream_idle_s
        try:
            async with asyncio.timeout(idle_s):
                await context.write(message)
        except TimeoutError:
            raise ExpiredError(f"no message was read for {idle_s:g} seconds") from None

    @contextmanager
    def _accounted(
        self, model: ModelVersion, began: float | None = None
    ) -> Iterator[ExplanationRecord]:
        """Counts one explanation, and notes for the rollback of new versions whether it failed."""
        try:
            with explaining(self._observer, model, began) as record:
                yield record
        except Exception as error:
            # Other errors of ours are caused by the client; after gRPC's, nobody listens.
            is_ours = isinstance(error, (LimelensError, grpc.aio.BaseError))
            if isinstance(error, ModelOutputError) or not is_ours:
                self._repository.record(model.bundle, ok=False)
            raise
        self._repository.record(model.bundle, ok=True)

    async def ListModels(
        self, _request: service_pb2.ListModelsRequest, _context: _Context
    ) -> service_pb2.ListModelsResponse:
        limits = self._runner.limits
        rejected = {(one.name, one.version): one for one in self._repository.rejected}
        models = [
            model_message(one, limits, rejected=rejected.pop((one.name, one.version), None))
            for one in self._repository.served
        ]
        models += [rejected_message(one) for one in rejected.values()]
        models.sort(key=lambda model: (model.name, model.version))
        return service_pb2.ListModelsResponse(models=models)

    async def GetModel(
        self, request: service_pb2.GetModelRequest, _context: _Context
    ) -> service_pb2.GetModelResponse:
        model = self._runner.find(request.model, request.version)
        return service_pb2.GetModelResponse(
            model=model_message(model, self._runner.limits, with_card=True)
        )
