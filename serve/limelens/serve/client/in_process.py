"""A client whose model runs in this process, through the same messages as over the wire.

Its stub takes the place of gRPC's, so that a file and a server give the same results. It knows
bundles and messages, and nothing of threads, queues or connections.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Bundle, load_bundle
from limelens.serve.bundle.devices import CPU
from limelens.serve.client import Client, ExplainArguments, ImageInput, explain_request
from limelens.serve.client.responses import explanation_update
from limelens.serve.client.results import ExplanationUpdate, ServedExplanation
from limelens.serve.decisions.decision import FacePrediction, Prediction, decide
from limelens.serve.explaining.explain_image import (
    explain_image,
    explain_image_progressively,
)
from limelens.serve.explaining.rendering import RenderedExplanation
from limelens.serve.explaining.spec import ExplainSpec
from limelens.serve.faces.classifying import classify_faces, find_faces
from limelens.serve.faces.detector import FaceDetector, load_detector
from limelens.serve.faces.judging import crop_of
from limelens.serve.faces.options import DEFAULT_DETECTOR
from limelens.serve.image.encoded import EncodedImage
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.rpc.requests.classify import ClassifyOptions, read_classify, read_embed
from limelens.serve.rpc.requests.explain import read_explain
from limelens.serve.rpc.requests.faces import read_wanted_face
from limelens.serve.rpc.responses import (
    embed_response,
    explain_response,
    explain_stream_response,
    model_message,
    model_ref,
    prediction_message,
)
from limelens.serve.rpc.server_config import Limits
from limelens.v1 import classifier_service_pb2 as service_pb2
from limelens.v1 import prediction_pb2

_Explanations = Generator[tuple[RenderedExplanation, service_pb2.ExplainStreamResponse], None, None]


def local_client(
    path: str | os.PathLike[str], device: str = "auto", face_detector: str = DEFAULT_DETECTOR
) -> LocalClient:
    """A client that runs one bundle itself; only its `stream` needs a server.

    Args:
        path: `model.onnx`, or the folder of a version that holds it.
        device: As for `load_bundle`.
        face_detector: As for `load_detector`; it is loaded by the first call that asks for faces.

    Raises:
        BundleError, ProviderError, MissingExtraError: As `load_bundle`.
    """
    stub = LocalStub(load_bundle(path, device), lambda: load_detector(face_detector, device))
    client = LocalClient.over(stub)
    client.stub = stub
    return client


class LocalClient(Client):
    """A client whose model is in this process; see `local_client`."""

    stub: LocalStub

    @property
    def bundle(self) -> Bundle:
        """The model."""
        return self.stub.bundle

    def explain_fully(
        self,
        image: ImageInput,
        notify: Callable[[ExplanationUpdate], None] = lambda _: None,
        **arguments: Unpack[ExplainArguments],
    ) -> tuple[ServedExplanation, RenderedExplanation]:
        """Explains an image; also returns the samples and pixels behind the explanation.

        Arguments and errors are those of `explain`. `notify` is called with each explanation on
        the way, and with the last.
        """
        arguments.pop("timeout_s", None)
        request = explain_request(image, **arguments)
        for found in self.stub.explanations(request, time.monotonic()):
            update = explanation_update(found[1])
            notify(update)
        return update.explanation, found[0]


class LocalStream:
    """Messages that are made while they are read, in place of a gRPC call."""

    def __init__(self, explanations: _Explanations) -> None:
        self._explanations = explanations

    def __iter__(self) -> Iterator[service_pb2.ExplainStreamResponse]:
        return (response for _, response in self._explanations)

    def cancel(self) -> None:
        """Stops the work."""
        self._explanations.close()


class LocalStub:
    """The calls of `ClassifierService`, except the camera stream, on one bundle.

    Args:
        bundle: Runs them.
        open_detector: Loads a detector, for the first call that asks for faces.
    """

    def __init__(self, bundle: Bundle, open_detector: Callable[[], FaceDetector]) -> None:
        self.bundle = bundle
        self._served = ModelVersion(bundle.name, bundle.version, bundle)
        self._limits = Limits()
        self._open_detector = open_detector

    @cached_property
    def _detector(self) -> FaceDetector:
        return self._open_detector()

    def explained(
        self, request: service_pb2.ExplainRequest
    ) -> tuple[service_pb2.ExplainResponse, RenderedExplanation]:
        """An explanation as a message, and the samples and pixels behind it."""
        start = time.monotonic()
        spec, face = self._read_explain(request)
        found = explain_image(self.bundle, spec)
        return explain_response(found, self._served, start, time.monotonic(), face), found

    def explanations(self, request: service_pb2.ExplainRequest, start: float) -> _Explanations:
        """Explanations from more and more samples, each also as a message."""
        spec, face = self._read_explain(request)
        for update in explain_image_progressively(self.bundle, spec):
            now = time.monotonic()
            yield update, explain_stream_response(update, self._served, start, now, face)

    def Classify(
        self, request: service_pb2.ClassifyRequest, **_: Any
    ) -> service_pb2.ClassifyResponse:
        """See the contract."""
        start = time.monotonic()
        metadata = self._served.bundle.metadata
        images, options = read_classify(request, metadata, self._limits)
        if options.faces is not None:
            predictions, timings = self._classify_faces(images, options, start)
        else:
            probabilities, embeddings, timings = self._run(images, start)
            predictions = [
                decide(
                    row,
                    metadata,
                    top_k=options.top_k,
                    threshold=options.threshold,
                    embedding=embedding if options.embed else None,
                )
                for row, embedding in zip(probabilities, embeddings, strict=True)
            ]
        return service_pb2.ClassifyResponse(
            predictions=[prediction_message(one) for one in predictions],
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
        return self.explained(request)[0]

    def ExplainStream(self, request: service_pb2.ExplainRequest, **_: Any) -> LocalStream:
        """See the contract."""
        return LocalStream(self.explanations(request, time.monotonic()))

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

    def _read_explain(
        self, request: service_pb2.ExplainRequest
    ) -> tuple[ExplainSpec, FacePrediction | None]:
        """What to explain, and the face that it is about."""
        metadata = self.bundle.metadata
        spec = read_explain(request, metadata, self._limits)
        wanted = read_wanted_face(request)
        if wanted is None:
            return spec, None
        pixels = spec.image.read()
        found = find_faces(self._detector, pixels, wanted.options, spec.image.region)
        faces = classify_faces(found, pixels, metadata, self._probabilities).faces
        index = wanted.choose(faces)
        region = crop_of(found[index].face, metadata, pixels.shape[0], pixels.shape[1])
        return replace(spec, image=replace(spec.image, region=region)), faces[index]

    def _run(
        self, encoded: Sequence[EncodedImage], start: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], prediction_pb2.Timings]:
        """Probabilities and feature vectors of some images, and the time they took."""
        rule = self.bundle.metadata.resize
        images = np.stack([one.fitted(rule) for one in encoded])
        decoded = time.monotonic()
        probabilities, embeddings = self._predict(images)
        return probabilities, embeddings, _timings(start, decoded - start)

    def _predict(
        self, images: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        bundle = self.bundle
        # As the server: on the CPU an image's numbers must not depend on the rest of its batch.
        step = 1 if bundle.provider == CPU else len(images)
        parts = [
            bundle.predict_and_embed(images[first : first + step])
            for first in range(0, len(images), step)
        ]
        probabilities, embeddings = (np.concatenate(part) for part in zip(*parts, strict=True))
        return probabilities, embeddings

    def _probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._predict(images)[0]

    def _classify_faces(
        self, encoded: Sequence[EncodedImage], options: ClassifyOptions, start: float
    ) -> tuple[list[Prediction], prediction_pb2.Timings]:
        """Predictions of images by their faces, and the time they took."""
        assert options.faces is not None  # the caller has checked
        detector, decode_s = self._detector, 0.0
        predictions: list[Prediction] = []
        for image in encoded:  # of many large images only one is held decoded
            began = time.monotonic()
            pixels = image.read()
            decode_s += time.monotonic() - began
            predictions.append(
                classify_faces(
                    find_faces(detector, pixels, options.faces, image.region),
                    pixels,
                    self.bundle.metadata,
                    self._probabilities,
                    top_k=options.top_k,
                    threshold=options.threshold,
                )
            )
        return predictions, _timings(start, decode_s)


def _timings(start: float, decode_s: float) -> prediction_pb2.Timings:
    """The times of a call that began at `start` and ends now, by `time.monotonic`."""
    total_s = time.monotonic() - start
    return prediction_pb2.Timings(
        decode_ms=1000 * decode_s, run_ms=1000 * (total_s - decode_s), total_ms=1000 * total_s
    )
