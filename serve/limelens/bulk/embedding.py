"""Embeds images: a row has the feature vector that `Client.embed` gives, and the decision.

The model gives both in one run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from limelens.bulk.batch_work import BatchWork
from limelens.bulk.columns import fingerprint_of, schema_of
from limelens.bulk.model_file import ModelFile
from limelens.bulk.predictions import PREDICTION, prediction_values
from limelens.bulk.work import Work
from limelens.serve.bundle.session import unit_length
from limelens.serve.decisions.decision import decide
from limelens.serve.image import Region

_Output = tuple[NDArray[np.float32], NDArray[np.float32]]


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
        bundle = self.model.load(num_threads)

        def embed(images: NDArray[np.uint8]) -> Iterable[_Output]:
            probabilities, vectors = bundle.predict_and_embed(images)
            return zip(
                probabilities, unit_length(vectors) if self.normalize else vectors, strict=True
            )

        def values(output: _Output) -> Mapping[str, Any]:
            probabilities, vector = output
            prediction = decide(probabilities, bundle.metadata, top_k=len(bundle.labels))
            return prediction_values(prediction) | {"embedding": vector}

        return BatchWork(bundle, embed, values, num_threads, self.region)


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
