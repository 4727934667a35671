"""What is served, in the protocol's words: the server, models, their statistics, the folder.

It knows the messages and plain values, and decides nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from limelens.inference import inference_service_pb2 as pb2
from limelens.inference import model_config_pb2 as config_pb2
from limelens.serve.about import package_version
from limelens.serve.bundle import Bundle
from limelens.serve.bundle.devices import CPU
from limelens.serve.bundle.folder import FILE_NAME
from limelens.serve.repository.model_version import WHOLE, ModelVersion, RejectedVersion
from limelens.serve.rpc.inference.requests import EMBEDDING, INPUT, PROBABILITIES
from limelens.serve.rpc.requests.classify import Limits
from limelens.serve.scheduling.statistics import Statistics
from limelens.serve.status import without_paths

PLATFORM: Final = "onnxruntime_onnx"
BACKEND: Final = "onnxruntime"
EXTENSIONS: Final = ("classification", "model_configuration", "model_repository", "statistics")
READY: Final = "READY"
UNAVAILABLE: Final = "UNAVAILABLE"
_ANY: Final = -1


def server_metadata() -> pb2.ServerMetadataResponse:
    """What the server is."""
    return pb2.ServerMetadataResponse(
        name="limelens", version=package_version(), extensions=EXTENSIONS
    )


def model_metadata(served: ModelVersion, versions: Sequence[int]) -> pb2.ModelMetadataResponse:
    """What a model takes and gives.

    Args:
        served: The version that is meant.
        versions: All that answer under its name.
    """
    tensor = pb2.ModelMetadataResponse.TensorMetadata
    height, width = served.bundle.input_size
    return pb2.ModelMetadataResponse(
        name=served.name,
        versions=[str(version) for version in sorted(versions)],
        platform=PLATFORM,
        inputs=[tensor(name=INPUT, datatype="UINT8", shape=[_ANY, height, width, 3])],
        outputs=[
            tensor(name=name, datatype="FP32", shape=[_ANY, size])
            for name, size in _output_sizes(served.bundle).items()
        ],
    )


def model_config(served: ModelVersion, limits: Limits) -> config_pb2.ModelConfig:
    """How a model is set up."""
    bundle = served.bundle
    height, width = bundle.input_size
    on_cpu = bundle.provider == CPU
    group = config_pb2.ModelInstanceGroup
    parameters = {
        "limelens.labels": json.dumps(list(bundle.labels), ensure_ascii=False),
        "limelens.task": json.dumps(bundle.task.value),
    }
    return config_pb2.ModelConfig(
        name=served.name,
        platform=PLATFORM,
        backend=BACKEND,
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


def model_statistics(served: ModelVersion, found: Statistics) -> pb2.ModelStatistics:
    """What one version has done."""
    answered = found.answered
    response = pb2.ModelStatistics(
        name=served.name,
        version=str(served.version),
        last_inference=round(1000 * found.last_answered_at),
        inference_count=answered,
        inference_stats=pb2.InferStatistics(
            success=_duration(answered, found.waited_s + found.decode_s + found.run_s),
            fail=_duration(found.failed, found.failed_s),
            queue=_duration(answered, found.waited_s),
            compute_input=_duration(answered, found.decode_s),
            compute_infer=_duration(answered, found.run_s),
        ),
    )
    for batch_size, runs in sorted(found.runs.items()):
        # A run whose images are just being told one after the other counts from its first.
        count = -(-runs.images // batch_size)
        response.execution_count += count
        response.batch_stats.add(
            batch_size=batch_size,
            compute_input=_duration(count, runs.decode_s),
            compute_infer=_duration(count, runs.run_s / batch_size),
        )
    return response


def repository_index(
    served: Sequence[ModelVersion], refused: Sequence[RejectedVersion], *, only_ready: bool
) -> pb2.RepositoryIndexResponse:
    """What lies in the folder of models.

    Args:
        served: What answers.
        refused: What does not; a version that answers with an older file is not listed twice.
        only_ready: Whether only what answers is wanted.
    """
    index = pb2.RepositoryIndexResponse.ModelIndex
    found = {
        (one.name, one.version): index(name=one.name, version=str(one.version), state=READY)
        for one in served
    }
    for one in () if only_ready else refused:
        version = str(one.version) if one.version != WHOLE else ""
        found.setdefault(
            (one.name, one.version),
            index(
                name=one.name,
                version=version,
                state=UNAVAILABLE,
                reason=without_paths(one.reason),
            ),
        )
    return pb2.RepositoryIndexResponse(models=[found[key] for key in sorted(found)])


def _output_sizes(bundle: Bundle) -> dict[str, int]:
    shapes = {output.name: output.shape for output in bundle.session.get_outputs()}
    size = shapes[EMBEDDING][-1]
    return {
        PROBABILITIES: len(bundle.labels),
        EMBEDDING: size if isinstance(size, int) else _ANY,
    }


def _duration(count: int, seconds: float) -> pb2.StatisticDuration:
    return pb2.StatisticDuration(count=count, ns=round(1e9 * seconds))
