"""A model file answered in this process, through the same messages as over the wire.

It stands where a gRPC stub stands in `Client`, so that a file and a server give the same answers.
It knows bundles and messages, and nothing of threads, queues or connections.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import load_bundle
from limelens.serve.bundle.session import CPU, Device
from limelens.serve.client import Client
from limelens.serve.decision import decide
from limelens.serve.explanation import explain_picture
from limelens.serve.image import fit
from limelens.serve.replies import (
    embed_response,
    explain_response,
    model_message,
    model_ref,
    prediction_message,
)
from limelens.serve.repository import Served
from limelens.serve.requests import (
    Limits,
    Picture,
    read_classify,
    read_embed,
    read_explain,
)
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import prediction_pb2


def local_client(path: str | os.PathLike[str], device: Device = "auto") -> Client:
    """A client that answers by itself with one bundle.

    Args:
        path: `model.onnx`, or the folder of a version that holds it.
        device: As for `load_bundle`.

    Returns:
        A client whose `classify`, `embed`, `explain`, `models` and `model` work without a server.

    Raises:
        BundleError: As `load_bundle`.
        ProviderError: As `load_bundle`.
        MissingExtraError: As `load_bundle`.
    """
    return Client.over(LocalStub(Path(path), device))


class LocalStub:
    """The unary calls of `ClassifierService` on one bundle, in the caller's thread.

    Args:
        path: As for `load_bundle`.
        device: As for `load_bundle`.
        limits: What one request may ask for.
    """

    def __init__(self, path: Path, device: Device, limits: Limits | None = None) -> None:
        bundle = load_bundle(path, device)
        self._served = Served(bundle.name, bundle.version, bundle)
        self._limits = limits or Limits()

    def Classify(
        self, request: service_pb2.ClassifyRequest, **_: Any
    ) -> service_pb2.ClassifyResponse:
        """See the contract."""
        start = time.monotonic()
        metadata = self._served.bundle.metadata
        pictures, answering = read_classify(request, metadata, self._limits)
        probabilities, embeddings, timings = self._run(pictures, start)
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
        pictures = read_embed(request, self._limits)
        _probabilities, embeddings, timings = self._run(pictures, start)
        return embed_response(embeddings, self._served, timings, normalize=request.normalize)

    def Explain(self, request: service_pb2.ExplainRequest, **_: Any) -> service_pb2.ExplainResponse:
        """See the contract."""
        start = time.monotonic()
        bundle = self._served.bundle
        question = read_explain(request, bundle.metadata, self._limits)
        explained = explain_picture(bundle, question)
        return explain_response(explained, self._served, start, time.monotonic())

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
        self, pictures: Sequence[Picture], start: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], prediction_pb2.Timings]:
        """Probabilities and feature vectors of some pictures, and where the time went."""
        bundle = self._served.bundle
        images = np.stack(
            [fit(p.read(), bundle.metadata.resize, p.region).pixels for p in pictures]
        )
        decoded = time.monotonic()
        # As the server does: on the CPU a picture's numbers do not depend on its companions.
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
