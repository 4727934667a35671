"""Messages of the protocol: results, and what the server, its models and its repository are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.inference import inference_service_pb2 as pb2
from limelens.inference import model_config_pb2 as config_pb2
from limelens.serve.bundle import Bundle
from limelens.serve.bundle.devices import CPU
from limelens.serve.bundle.folder import FILE_NAME
from limelens.serve.repository.model_version import WHOLE, ModelVersion, RejectedVersion
from limelens.serve.rpc.inference.requests import EMBEDDING, INPUT, PROBABILITIES, Output
from limelens.serve.rpc.inference.tensors import pack_elements, pack_floats
from limelens.serve.rpc.server_config import Limits
from limelens.serve.scheduling.inference import InferenceResult
from limelens.serve.scheduling.statistics import Statistics
from limelens.serve.status import without_paths

_PLATFORM: Final = "onnxruntime_onnx"
_ANY: Final = -1


def infer_response(
    results: Sequence[InferenceResult],
    outputs: Sequence[Output],
    model: ModelVersion,
    request_id: str,
) -> pb2.ModelInferResponse:
    """A model's numbers for the images of a request."""
    values = {PROBABILITIES: np.stack([one.probabilities for one in results])}
    embeddings = [one.embedding for one in results if one.embedding is not None]
    if embeddings:
        values[EMBEDDING] = np.stack(embeddings)
    labels = {PROBABILITIES: model.bundle.labels}
    response = pb2.ModelInferResponse(
        model_name=model.name, model_version=str(model.version), id=request_id
    )
    for output in outputs:
        rows = values[output.name]
        if output.top:
            elements = [_largest(row, output.top, labels.get(output.name)) for row in rows]
            shape, datatype = (len(rows), len(elements[0])), "BYTES"
            data = pack_elements(element for row in elements for element in row)
        else:
            shape, datatype, data = rows.shape, "FP32", pack_floats(rows)
        response.outputs.add(name=output.name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(data)
    return response


def model_metadata(model: ModelVersion, versions: Sequence[int]) -> pb2.ModelMetadataResponse:
    """A model's inputs and outputs."""
    tensor = pb2.ModelMetadataResponse.TensorMetadata
    height, width = model.bundle.input_size
    return pb2.ModelMetadataResponse(
        name=model.name,
        versions=[str(version) for version in sorted(versions)],
        platform=_PLATFORM,
        inputs=[tensor(name=INPUT, datatype="UINT8", shape=[_ANY, height, width, 3])],
        outputs=[
            tensor(name=name, datatype="FP32", shape=[_ANY, size])
            for name, size in _output_sizes(model.bundle).items()
        ],
    )


def model_config(model: ModelVersion, limits: Limits) -> config_pb2.ModelConfig:
    """A model's configuration."""
    bundle = model.bundle
    height, width = bundle.input_size
    on_cpu = bundle.provider == CPU
    group = config_pb2.ModelInstanceGroup
    parameters = {
        "limelens.labels": json.dumps(list(bundle.labels), ensure_ascii=False),
        "limelens.task": json.dumps(bundle.task.value),
    }
    return config_pb2.ModelConfig(
        name=model.name,
        platform=_PLATFORM,
        backend="onnxruntime",
        max_batch_size=limits.max_images,
        input=[
            config_pb2.ModelInput(
                name=INPUT,
                data_type=config_pb2.TYPE_UINT8,
                format=config_pb2.ModelInput.FORMAT_NHWC,
                dims=[height, width, 3],
            )
        ],
        output=[
            config_pb2.ModelOutput(name=name, data_type=config_pb2.TYPE_FP32, dims=[size])
            for name, size in _output_sizes(bundle).items()
        ],
        instance_group=[
            group(
                name=bundle.provider,
                count=bundle.num_threads,
                kind=group.KIND_CPU if on_cpu else group.KIND_GPU,
            )
        ],
        default_model_filename=FILE_NAME,
        parameters={
            key: config_pb2.ModelParameter(string_value=value) for key, value in parameters.items()
        },
    )


def model_statistics(model: ModelVersion, statistics: Statistics) -> pb2.ModelStatistics:
    """What a version has done since the start."""
    answered = statistics.answered
    response = pb2.ModelStatistics(
        name=model.name,
        version=str(model.version),
        last_inference=round(1000 * statistics.last_answered_at),
        inference_count=answered,
        inference_stats=pb2.InferStatistics(
            success=_duration(
                answered, statistics.waited_s + statistics.decode_s + statistics.run_s
            ),
            fail=_duration(statistics.failed, statistics.failed_s),
            queue=_duration(answered, statistics.waited_s),
            compute_input=_duration(answered, statistics.decode_s),
            compute_infer=_duration(answered, statistics.run_s),
        ),
    )
    for batch_size, runs in sorted(statistics.runs.items()):
        # A run counts from its first image: its images are counted one after the other.
        count = -(-runs.images // batch_size)
        response.execution_count += count
        response.batch_stats.add(
            batch_size=batch_size,
            compute_input=_duration(count, runs.decode_s),
            compute_infer=_duration(count, runs.run_s / batch_size),
        )
    return response


def repository_index(
    served: Sequence[ModelVersion], rejected: Sequence[RejectedVersion], *, only_ready: bool
) -> pb2.RepositoryIndexResponse:
    """The versions in the model repository; one of which an older file is served is listed once."""
    index = pb2.RepositoryIndexResponse.ModelIndex
    found = {
        (one.name, one.version): index(name=one.name, version=str(one.version), state="READY")
        for one in served
    }
    for one in () if only_ready else rejected:
        version = str(one.version) if one.version != WHOLE else ""
        found.setdefault(
            (one.name, one.version),
            index(
                name=one.name,
                version=version,
                state="UNAVAILABLE",
                reason=without_paths(one.reason),
            ),
        )
    return pb2.RepositoryIndexResponse(models=[found[key] for key in sorted(found)])


def _output_sizes(bundle: Bundle) -> dict[str, int]:
    shapes = {output.name: output.shape for output in bundle.session.get_outputs()}
    size = shapes[EMBEDDING][-1]
    return {PROBABILITIES: len(bundle.labels), EMBEDDING: size if isinstance(size, int) else _ANY}


def _duration(count: int, seconds: float) -> pb2.StatisticDuration:
    return pb2.StatisticDuration(count=count, ns=round(1e9 * seconds))


def _largest(values: NDArray[np.float32], count: int, labels: Sequence[str] | None) -> list[bytes]:
    """The largest values as `value:index:label`; ties in the model's order."""
    order = np.argsort(-values, kind="stable")[:count]
    return [f"{values[i]:f}:{i}{'' if labels is None else ':' + labels[i]}".encode() for i in order]
