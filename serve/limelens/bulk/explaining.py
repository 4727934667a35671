"""Explains images into rows that say what `limelens explain --json` says of each.

Each image is explained in one thread: several side by side keep all cores busy, also while one of
them is cut into segments.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Unpack

import numpy as np
import pyarrow as pa

from limelens.bulk.batch_runner import given_bytes
from limelens.bulk.columns import Rows, fingerprint_of, schema_of
from limelens.bulk.explanations import explanation_fields, explanation_values
from limelens.bulk.model_file import ModelFile
from limelens.bulk.predictions import FACE, PREDICTION, face_values, prediction_values
from limelens.bulk.work import BulkImage, Work
from limelens.serve.client.in_process import LocalStub
from limelens.serve.client.requests import ExplainArguments, explain_request
from limelens.serve.client.responses import served_explanation
from limelens.serve.decisions.decision import decide
from limelens.serve.errors import InvalidRequestError
from limelens.serve.faces.detector import load_detector
from limelens.serve.faces.options import DEFAULT_DETECTOR
from limelens.serve.rpc.requests.explain import read_explain
from limelens.serve.rpc.requests.faces import read_wanted_face
from limelens.serve.rpc.server_config import Limits

_NOT_OFFERED: Final = {
    "deadline_ms": "rows would depend on how busy the machine is",
    "model": "the work is for one model",
    "pictures": "they are named renderings",
    "request_id": "there is no server",
    "segments": "images differ in size",
    "timeout_s": "there is no server",
    "version": "the work is for one model",
}
_AT_ONCE_ON_A_GPU: Final = 2
"""One explanation is cut or fitted while the samples of another run."""
_IMAGES_PER_THREAD: Final = 2


@dataclass(frozen=True)
class ExplainWork:
    """How to explain images; see `explain_work`.

    Args:
        arguments: Of `Client.explain`.
        defaults: The model's own settings, of which its digest says nothing.
    """

    model: ModelFile
    arguments: ExplainArguments
    face_detector: str
    detector_digest: str
    defaults: Mapping[str, Any]

    @property
    def schema(self) -> pa.Schema:
        """See `WorkSpec`."""
        drawn = list(self.arguments["renderings"])
        face = [pa.field("face", FACE)] if self.arguments.get("faces") else []
        return schema_of(*PREDICTION, *explanation_fields(drawn), *face)

    def fingerprint(self) -> str:
        """See `WorkSpec`."""
        return fingerprint_of(
            self.schema,
            model=self.model.identity,
            arguments=self.arguments,
            detector=self.detector_digest,
            defaults=self.defaults,
        )

    def open(self, num_threads: int) -> Work:
        """See `WorkSpec`."""
        return _ExplainImages(self, num_threads)


def explain_work(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    face_detector: str = DEFAULT_DETECTOR,
    **arguments: Unpack[ExplainArguments],
) -> ExplainWork:
    """Reads a bundle, and checks how it shall explain images.

    Args:
        path: `model.onnx`, or the folder of a version that holds it.
        device: Of the workers, as for `load_bundle`.
        face_detector: As for `load_detector`; a path must lead to the file on every worker.
        arguments: Of `Client.explain`, without those of a call. Seeds default to 0, so that an
            image has the same row whoever explains it; renderings become columns.

    Raises:
        BundleError, MissingExtraError: As `load_bundle` and `load_detector`.
        InvalidRequestError: An argument cannot be used.
    """
    for name in sorted(_NOT_OFFERED.keys() & arguments.keys()):
        raise InvalidRequestError(name, f"given; expected none: {_NOT_OFFERED[name]}")
    model, bundle = ModelFile.read(path, device)
    arguments = {**arguments, "renderings": sorted({*arguments.get("renderings", ())})}
    if arguments.get("seed") is None:
        arguments["seed"] = 0
    request = explain_request(b"no image", **arguments)
    read_explain(request, bundle.metadata, Limits())
    read_wanted_face(request)
    detector = None
    if arguments.get("faces"):
        detector = load_detector(face_detector, "cpu", num_threads=1)
    defaults = bundle.metadata.explain
    return ExplainWork(
        model=model,
        arguments=arguments,
        face_detector=face_detector,
        detector_digest="" if detector is None else detector.bundle.digest,
        defaults={} if defaults is None else defaults.to_json(),
    )


class _ExplainImages:
    def __init__(self, spec: ExplainWork, num_threads: int) -> None:
        bundle = spec.model.load(1)
        detector = partial(load_detector, spec.face_detector, spec.model.device, num_threads=1)
        if spec.arguments.get("faces"):
            opened = detector()  # before threads ask for it
            self._stub = LocalStub(bundle, lambda: opened)
        else:
            self._stub = LocalStub(bundle, detector)
        self._arguments = spec.arguments
        self._rows = Rows(bundle)
        if bundle.runs is not None:
            num_threads = _AT_ONCE_ON_A_GPU
        self._pool = ThreadPoolExecutor(num_threads, "limelens-bulk")
        self.batch_size = num_threads * _IMAGES_PER_THREAD

    def __call__(self, images: Sequence[BulkImage]) -> list[Mapping[str, Any]]:
        return list(self._pool.map(self._row, images))

    def _row(self, image: BulkImage) -> Mapping[str, Any]:
        try:
            request = explain_request(given_bytes(image), **self._arguments)
            response, rendered = self._stub.explained(request)
            found = served_explanation(response)
            if found.face is not None:
                prediction = found.face.prediction
                face = {"face": face_values(found.face, rendered.fitted.source_size)}
            else:
                bundle = self._stub.bundle
                probabilities = bundle.predict(rendered.pixels[np.newaxis])[0]
                prediction = decide(probabilities, bundle.metadata, top_k=len(bundle.labels))
                face = {}
        except Exception as error:
            return self._rows.failed(image, error)
        values = prediction_values(prediction) | explanation_values(found, rendered)
        return self._rows.of(image, values | face)
