"""Answers of a model as messages of the protocol. It decides nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from limelens.inference import inference_service_pb2 as pb2
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.rpc.inference.requests import EMBEDDING, PROBABILITIES, Wanted
from limelens.serve.rpc.inference.tensors import pack_elements, pack_floats
from limelens.serve.scheduling.inference import InferenceResult


def infer_response(
    outcomes: Sequence[InferenceResult],
    wanted: Sequence[Wanted],
    served: ModelVersion,
    request_id: str,
) -> pb2.ModelInferResponse:
    """What a model said of some images.

    Args:
        outcomes: One for each image.
        wanted: Which outputs, in which order.
        served: Who answered.
        request_id: The request's own.
    """
    values = {PROBABILITIES: np.stack([one.probabilities for one in outcomes])}
    embeddings = [one.embedding for one in outcomes if one.embedding is not None]
    if embeddings:
        values[EMBEDDING] = np.stack(embeddings)
    labels = {PROBABILITIES: served.bundle.labels}
    response = pb2.ModelInferResponse(
        model_name=served.name, model_version=str(served.version), id=request_id
    )
    for one in wanted:
        rows = values[one.name]
        if one.top:
            elements = [_largest(row, one.top, labels.get(one.name)) for row in rows]
            shape, datatype = (len(rows), len(elements[0])), "BYTES"
            data = pack_elements(element for row in elements for element in row)
        else:
            shape, datatype, data = rows.shape, "FP32", pack_floats(rows)
        response.outputs.add(name=one.name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(data)
    return response


def _largest(values: NDArray[np.float32], count: int, labels: Sequence[str] | None) -> list[bytes]:
    """`value:index:label` of the largest values; equal ones in the model's order."""
    order = np.argsort(-values, kind="stable")[:count]
    return [f"{values[i]:f}:{i}{'' if labels is None else ':' + labels[i]}".encode() for i in order]
