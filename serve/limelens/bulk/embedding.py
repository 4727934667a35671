"""Embeds images: a row has the feature vector that `Client.embed` gives, and the decision.

The model gives both in one run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from limelens.bulk.batch_runner import BatchRunner
from limelens.bulk.columns import Rows, fingerprint_of, schema_of
from limelens.bulk.model_file import ModelFile
from limelens.bulk.predictions import PREDICTION, prediction_values
from limelens.bulk.work import BulkImage, Work
from limelens.serve.bundle import Bundle
from limelens.serve.bundle.session import unit_length
from limelens.serve.decisions.decision import decide
from limelens.serve.image import Region


@dataclass(frozen=True)
class EmbedWork:
    """How to embed images; see `embed_work`."""

    model: ModelFile
    region: Region | None
    normalize: bool
    embedding_size: int

    @property
    def schema(self) -> pa.Schema:
        """See `WorkSpec`."""
        vector = pa.list_(pa.float32(), self.embedding_size)
        return schema_of(*PREDICTION, pa.field("embedding", vector))

    def fingerprint(self) -> str:
        """See `WorkSpec`."""
        return fingerprint_of(
            self.schema,
            model=self.model.identity,
            region=self.region,
            normalize=self.normalize,
        )

    def open(self, num_threads: int) -> Work:
        """See `WorkSpec`."""
        return _EmbedImages(self, self.model.load(num_threads), num_threads)


def embed_work(
    path: str | os.PathLike[str],
    *,
    device: str = "auto",
    region: Region | None = None,
    normalize: bool = False,
) -> EmbedWork:
    """Reads a bundle, and how it shall embed images.

    Args:
        path: `model.onnx`, or the folder of a version that holds it.
        device: Of the workers, as for `load_bundle`.
        region: The part of each image that the model sees.
        normalize: Whether to divide each vector by its length.

    Raises:
        BundleError, MissingExtraError: As `load_bundle`.
    """
    model, bundle = ModelFile.read(path, device)
    return EmbedWork(model, region, normalize, bundle.embedding_size)


class _EmbedImages:
    def __init__(self, spec: EmbedWork, bundle: Bundle, num_threads: int) -> None:
        self._bundle, self._normalize = bundle, spec.normalize
        self._rows = Rows(bundle)
        self._run = BatchRunner(bundle, self._embed, num_threads, spec.region)

    @property
    def batch_size(self) -> int:
        return self._run.batch_size

    def __call__(self, images: Sequence[BulkImage]) -> list[Mapping[str, Any]]:
        return [
            self._rows.failed(image, found)
            if isinstance(found, Exception)
            else self._row(image, *found)
            for image, found in zip(images, self._run(images), strict=True)
        ]

    def _row(
        self, image: BulkImage, probabilities: NDArray[np.float32], vector: NDArray[np.float32]
    ) -> Mapping[str, Any]:
        metadata = self._bundle.metadata
        prediction = decide(probabilities, metadata, top_k=len(metadata.labels))
        return self._rows.of(image, prediction_values(prediction) | {"embedding": vector})

    def _embed(
        self, images: NDArray[np.uint8]
    ) -> Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        probabilities, vectors = self._bundle.predict_and_embed(images)
        return zip(probabilities, unit_length(vectors) if self._normalize else vectors, strict=True)
