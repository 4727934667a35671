"""A model file answered in this process, through the same messages as over the wire.

It stands where a gRPC stub stands in `Client`, so that a file and a server give the same answers.
It knows bundles and messages, and nothing of threads, queues or connections.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Bundle, load_bundle
from limelens.serve.bundle.session import CPU, Device
from limelens.serve.client import Client, ExplainArguments, ImageInput, explain_request
from limelens.serve.client.responses import explanation_update
from limelens.serve.client.results import ExplanationUpdate, ServedExplanation
from limelens.serve.decisions.decision import decide
from limelens.serve.explaining.explain_image import (
    RenderedExplanation,
    check_explained,
    explain_image,
    explain_image_progressively,
)
from limelens.serve.image.encoded import EncodedImage
from limelens.serve.repository.model_repository import ModelVersion
from limelens.serve.rpc.requests.classify import Limits, read_classify, read_embed
from limelens.serve.rpc.requests.explain import read_explain
from limelens.serve.rpc.responses import (
    embed_response,
    explain_response,
    explain_stream_response,
    model_message,
    model_ref,
    prediction_message,
)
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import prediction_pb2

if TYPE_CHECKING:
    from limelens.explain import Faithfulness

_Explaining = Generator[tuple[RenderedExplanation, service_pb2.ExplainStreamResponse], None, None]


def local_client(path: str | os.PathLike[str], device: Device = "auto") -> LocalClient:
    """A client that answers by itself with one bundle.

    Args:
        path: `model.onnx`, or the folder of a version that holds it.
        device: As for `load_bundle`.

    Returns:
        A client whose `classify`, `embed`, `explain`, `explain_stream`, `models` and `model` work
        without a server.

    Raises:
        BundleError: As `load_bundle`.
        ProviderError: As `load_bundle`.
        MissingExtraError: As `load_bundle`.
    """
    return LocalClient.over(LocalStub(Path(path), device))


class LocalClient(Client):
    """A client whose model is in this process; see `local_client`."""

    _stub: LocalStub

    @property
    def bundle(self) -> Bundle:
        """The model."""
        return self._stub.bundle

    def explain_fully(
        self,
        image: ImageInput,
        told: Callable[[ExplanationUpdate], None] = lambda _: None,
        **arguments: Unpack[ExplainArguments],
    ) -> tuple[ServedExplanation, RenderedExplanation]:
        """Explains an image, and gives away what it was explained from.

        Args:
            image: As for `explain`.
            told: Is given each explanation on the way, and the last.
            arguments: As for `explain`.

        Returns:
            What `explain` gives, and the samples and pixels behind it.

        Raises:
            LimelensError: As `explain`.
            OSError: The file cannot be read.
        """
        arguments.pop("timeout_s", None)
        request = explain_request(image, **arguments)
        for found in self._stub.explained(request, time.monotonic()):
            update = explanation_update(found[1])
            told(update)
        return update.explanation, found[0]

    def check(self, explained: RenderedExplanation) -> tuple[Faithfulness, ...]:
        """Whether the model follows an explanation; see `check_explained`."""
        return check_explained(self.bundle, explained)


class LocalStream:
    """Messages that are made while they are read, where gRPC has a call.

    Args:
        explained: What makes them.
    """

    def __init__(self, explained: _Explaining) -> None:
        self._explained = explained

    def __iter__(self) -> Iterator[service_pb2.ExplainStreamResponse]:
        return (response for _, response in self._explained)

    def cancel(self) -> None:
        """Stops the work."""
        self._explained.close()


class LocalStub:
    """The calls of `ClassifierService` but the cameras' on one bundle, in the caller's thread.

    Args:
        path: As for `load_bundle`.
        device: As for `load_bundle`.
        limits: What one request may ask for.
    """

    def __init__(self, path: Path, device: Device, limits: Limits | None = None) -> None:
        self.bundle = bundle = load_bundle(path, device)
        self._served = ModelVersion(bundle.name, bundle.version, bundle)
        self._limits = limits or Limits()

    def explained(self, request: service_pb2.ExplainRequest, start: float) -> _Explaining:
        """Explanations from more and more samples, each also as a message."""
        question = read_explain(request, self.bundle.metadata, self._limits)
        for update in explain_image_progressively(self.bundle, question):
            now = time.monotonic()
            yield update.explained, explain_stream_response(update, self._served, start, now)

    def Classify(
        self, request: service_pb2.ClassifyRequest, **_: Any
    ) -> service_pb2.ClassifyResponse:
        """See the contract."""
        start = time.monotonic()
        metadata = self._served.bundle.metadata
        images, answering = read_classify(request, metadata, self._limits)
        probabilities, embeddings, timings = self._run(images, start)
        return service_pb2.ClassifyResponse(
            predictions=[
                prediction_message(
                    decide(
                        row,
                        metadata,
                        top_k=answering.top_k,
                        threshold=answering.threshold,
                        embedding=embedding if answering.embed else None,
                    )
                )
                for row, embedding in zip(probabilities, embeddings, strict=True)
            ],
            model=model_ref(self._served),
            timings=timings,
        )

    def Embed(self, request: service_pb2.EmbedRequest, **_: Any) -> service_pb2.EmbedResponse:
        """See the contract."""
        start = time.monotonic()
        images = read_embed(request, self._limits)
        _probabilities, embeddings, timings = self._run(images, start)
        return embed_response(embeddings, self._served, timings, normalize=request.normalize)

    def Explain(self, request: service_pb2.ExplainRequest, **_: Any) -> service_pb2.ExplainResponse:
        """See the contract."""
        start = time.monotonic()
        bundle = self._served.bundle
        question = read_explain(request, bundle.metadata, self._limits)
        explained = explain_image(bundle, question)
        return explain_response(explained, self._served, start, time.monotonic())

    def ExplainStream(self, request: service_pb2.ExplainRequest, **_: Any) -> LocalStream:
        """See the contract."""
        return LocalStream(self.explained(request, time.monotonic()))

    def ListModels(
        self, _request: service_pb2.ListModelsRequest, **_: Any
    ) -> service_pb2.ListModelsResponse:
        """See the contract."""
        return service_pb2.ListModelsResponse(models=[model_message(self._served, self._limits)])

    def GetModel(
        self, _request: service_pb2.GetModelRequest, **_: Any
    ) -> service_pb2.GetModelResponse:
        """See the contract."""
        return service_pb2.GetModelResponse(
            model=model_message(self._served, self._limits, with_card=True)
        )

    def _run(
        self, encoded: Sequence[EncodedImage], start: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], prediction_pb2.Timings]:
        """Probabilities and feature vectors of some images, and where the time went."""
        bundle = self._served.bundle
        images = np.stack([p.fitted(bundle.metadata.resize) for p in encoded])
        decoded = time.monotonic()
        # As the server does: on the CPU an image's numbers do not depend on its companions.
        step = 1 if bundle.provider == CPU else len(images)
        parts = [
            bundle.predict_and_embed(images[first : first + step])
            for first in range(0, len(images), step)
        ]
        probabilities, embeddings = (np.concatenate(part) for part in zip(*parts, strict=True))
        done = time.monotonic()
        timings = prediction_pb2.Timings(
            decode_ms=1000 * (decoded - start),
            run_ms=1000 * (done - decoded),
            total_ms=1000 * (done - start),
        )
        return probabilities, embeddings, timings
