"""Classifies images into rows that say what `limelens classify --json` says of each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from limelens.bulk.batch_runner import encoded
from limelens.bulk.batch_work import BatchWork
from limelens.bulk.columns import Rows, fingerprint_of, schema_of
from limelens.bulk.model_file import ModelFile
from limelens.bulk.predictions import FACE, PREDICTION, face_values, prediction_values
from limelens.bulk.work import BulkImage, Work
from limelens.serve.bundle import Bundle
from limelens.serve.client.requests import faces_message
from limelens.serve.decisions.decision import decide
from limelens.serve.errors import InvalidRequestError
from limelens.serve.faces.classifying import classify_faces, find_faces
from limelens.serve.faces.detector import load_detector
from limelens.serve.faces.options import DEFAULT_DETECTOR, FaceOptions
from limelens.serve.image import Region
from limelens.serve.rpc.requests.faces import read_faces

_IMAGES_PER_THREAD: Final = 4
"""How many images with faces are handed over at once for each thread."""


@dataclass(frozen=True)
class ClassifyWork:
    """How to classify images; see `classify_work`."""

    model: ModelFile
    region: Region | None
    top_k: int
    threshold: float | None
    faces: FaceOptions | None
    face_detector: str
    detector_digest: str

    @property
    def schema(self) -> pa.Schema:
        """See `WorkSpec`."""
        faces = () if self.faces is None else (pa.field("faces", pa.list_(FACE)),)
        return schema_of(*PREDICTION, *faces)

    def fingerprint(self) -> str:
        """See `WorkSpec`."""
        return fingerprint_of(
            self.schema,
            model=self.model.identity,
            region=self.region,
            top_k=self.top_k,
            threshold=self.threshold,
            faces=self.faces,
            detector=self.detector_digest,
        )

    def open(self, num_threads: int) -> Work:
        """See `WorkSpec`."""
        bundle = self.model.load(num_threads)
        if self.faces is not None:
            return _ClassifyFaces(self, self.faces, bundle, num_threads)

        def values(probabilities: NDArray[np.float32]) -> Mapping[str, Any]:
            return prediction_values(
                decide(probabilities, bundle.metadata, top_k=self.top_k, threshold=self.threshold)
            )

        return BatchWork(bundle, bundle.predict, values, num_threads, self.region)


def classify_work(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    region: Region | None = None,
    top_k: int = 0,
    threshold: float | None = None,
    faces: bool | FaceOptions = False,
    face_detector: str = DEFAULT_DETECTOR,
) -> ClassifyWork:
    """Reads a bundle, and checks how it shall classify images.

    Args:
        path: `model.onnx`, or the folder of a version that holds it.
        device: Of the workers, as for `load_bundle`.
        region: The part of each image that the model sees, or where faces are looked for.
        top_k: How many of the most probable labels get their probabilities; 0 is all.
        threshold: Replaces the bundle's (multilabel: every label's) threshold, 0 to 1.
        faces: Whether, or how, to find faces and classify each instead of the whole image.
        face_detector: As for `load_detector`; a path must lead to the file on every worker.

    Raises:
        BundleError, MissingExtraError: As `load_bundle` and `load_detector`.
        InvalidRequestError: An option is out of its range.
    """
    model, bundle = ModelFile.read(path, device)
    num_labels = len(bundle.labels)
    if not 0 <= top_k <= num_labels:
        raise InvalidRequestError(
            "top_k", f"{top_k}; expected 1 to {num_labels}, the number of labels, or 0 for all"
        )
    if threshold is not None and not 0 <= threshold <= 1:  # NaN fails too
        raise InvalidRequestError("threshold", f"{threshold:g}; expected 0 to 1")
    message = faces_message(faces)
    detector = None if message is None else load_detector(face_detector, "cpu", num_threads=1)
    return ClassifyWork(
        model=model,
        region=region,
        top_k=top_k or num_labels,
        threshold=threshold,
        faces=None if message is None else read_faces(message, "faces"),
        face_detector=face_detector,
        detector_digest="" if detector is None else detector.bundle.digest,
    )


class _ClassifyFaces:
    def __init__(
        self, spec: ClassifyWork, options: FaceOptions, bundle: Bundle, num_threads: int
    ) -> None:
        self._spec, self._options, self._bundle = spec, options, bundle
        self._rows = Rows(bundle)
        self._detector = load_detector(
            spec.face_detector, spec.model.device, num_threads=num_threads
        )
        self._pool = ThreadPoolExecutor(num_threads, "limelens-bulk")
        self.batch_size = num_threads * _IMAGES_PER_THREAD

    def __call__(self, images: Sequence[BulkImage]) -> list[Mapping[str, Any]]:
        return list(self._pool.map(self._row, images))

    def _row(self, image: BulkImage) -> Mapping[str, Any]:
        spec = self._spec
        try:
            pixels = encoded(image).read()
            prediction = classify_faces(
                find_faces(self._detector, pixels, self._options, spec.region),
                pixels,
                self._bundle.metadata,
                self._bundle.predict,
                top_k=spec.top_k,
                threshold=spec.threshold,
            )
        except Exception as error:
            return self._rows.failed(image, error)
        size = pixels.shape[0], pixels.shape[1]
        faces = [face_values(face, size) for face in prediction.faces]
        return self._rows.of(image, prediction_values(prediction) | {"faces": faces})
