"""What config.pbtxt says of a model, for Triton's onnxruntime backend.

It knows bundles and Triton's schema, and nothing of folders.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final

from google.protobuf import text_format

from limelens.inference import model_config_pb2 as pb2
from limelens.serve.about import package_version
from limelens.serve.bundle import Bundle
from limelens.serve.bundle.execution.batch_sizes import MAX_BATCH_SIZE, batch_sizes, first_sizes
from limelens.serve.bundle.folder import FILE_NAME
from limelens.serve.bundle.metadata import CLASSIFYING
from limelens.serve.errors import BundleError

LABELS_NAME: Final = "labels.txt"
WARM_UP_NAME: Final = "golden_image"
PREFERRED_BATCH_SIZES: Final = batch_sizes(MAX_BATCH_SIZE)[2:]
MAX_QUEUE_DELAY_US: Final = 500
"""An image alone waits as long for others: a fraction of what one run of a small model takes."""
_CUDA: Final = {
    # As in limelens.serve.bundle.loading: TF32 misses golden vectors, and an exhaustive search
    # would delay the first batch of each size by seconds.
    "cudnn_conv_algo_search": "HEURISTIC",
    "use_tf32": "0",
}
_TYPES: Final = {"tensor(uint8)": pb2.TYPE_UINT8, "tensor(float)": pb2.TYPE_FP32}
_ANY: Final = -1
_VERSION: Final = "limelens.version."


def config_of(name: str, version: int, bundle: Bundle, sha256: str) -> pb2.ModelConfig:
    """The configuration of a model that has one version.

    Args:
        name: The model's.
        version: Its number, 1 or more.
        bundle: Its bundle; its graph says which inputs and outputs there are.
        sha256: Of its file, hexadecimal.

    Raises:
        BundleError: An input or output has a type that a bundle does not have, or a label has more
            than one line.
    """
    inputs = [
        pb2.ModelInput(format=pb2.ModelInput.FORMAT_NHWC, **_tensor(one))
        for one in bundle.session.get_inputs()
    ]
    outputs = [pb2.ModelOutput(**_tensor(one)) for one in bundle.session.get_outputs()]
    if bundle.task in CLASSIFYING:
        lines = [label for label in bundle.labels if len(label.splitlines()) != 1]
        if lines:
            raise BundleError(f"labels {lines!r}; Triton's {LABELS_NAME} has one line for each")
        for output in outputs:
            if output.name == "probabilities":
                output.label_filename = LABELS_NAME
    group = pb2.ModelInstanceGroup
    accelerators = pb2.ModelOptimizationPolicy.ExecutionAccelerators
    cuda = accelerators.Accelerator(name="cuda", parameters=_CUDA)
    parameters = {
        "limelens.labels": list(bundle.labels),
        "limelens.task": bundle.task.value,
        f"{_VERSION}{version}": _about(bundle, sha256),
    }
    return pb2.ModelConfig(
        name=name,
        platform="onnxruntime_onnx",
        backend="onnxruntime",
        version_policy=pb2.ModelVersionPolicy(all=pb2.ModelVersionPolicy.All()),
        max_batch_size=MAX_BATCH_SIZE,
        input=inputs,
        output=outputs,
        instance_group=[group(count=1, kind=group.KIND_AUTO)],
        default_model_filename=FILE_NAME,
        dynamic_batching=pb2.ModelDynamicBatching(
            preferred_batch_size=PREFERRED_BATCH_SIZES,
            max_queue_delay_microseconds=MAX_QUEUE_DELAY_US,
        ),
        optimization=pb2.ModelOptimizationPolicy(
            execution_accelerators=accelerators(gpu_execution_accelerator=[cuda])
        ),
        parameters={
            key: pb2.ModelParameter(string_value=json.dumps(value, ensure_ascii=False))
            for key, value in parameters.items()
        },
        model_warmup=[
            pb2.ModelWarmup(
                name=f"golden image x {size}",
                batch_size=size,
                inputs={
                    one.name: pb2.ModelWarmup.Input(
                        data_type=one.data_type, dims=one.dims, input_data_file=WARM_UP_NAME
                    )
                    for one in inputs
                },
            )
            for size in first_sizes(MAX_BATCH_SIZE)
        ],
    )


def differences(one: pb2.ModelConfig, other: pb2.ModelConfig) -> list[str]:
    """In what two versions differ that Triton wants to be the same for all of a model."""
    values = [
        {
            "name": config.name,
            "inputs": list(config.input),
            "outputs": list(config.output),
            "labels": config.parameters["limelens.labels"],
            "task": config.parameters["limelens.task"],
        }
        for config in (pb2.ModelConfig.FromString(c.SerializeToString()) for c in (one, other))
    ]
    return [what for what, value in values[0].items() if value != values[1][what]]


def to_text(config: pb2.ModelConfig) -> str:
    """The content of config.pbtxt."""
    return (
        f"# Written by limelens {package_version()}. Change what your servers need: exports that "
        f"follow keep it,\n# and add the parameter of each new version.\n{_as_text(config)}"
    )


def with_versions_of(text: str, present: pb2.ModelConfig, config: pb2.ModelConfig) -> str:
    """The content of a config.pbtxt with the parameters of further versions at its end.

    Args:
        text: The content so far, which people may have changed.
        present: What it says.
        config: The configuration of the versions to add.
    """
    new = {key: one for key, one in config.parameters.items() if key not in present.parameters}
    return f"{text.rstrip()}\n{_as_text(pb2.ModelConfig(parameters=new))}"


def from_text(text: str) -> pb2.ModelConfig:
    """Reads the content of a config.pbtxt; fields that limelens does not write are left out.

    Raises:
        ValueError: It is not text of Triton's schema.
    """
    try:
        return text_format.Parse(text, pb2.ModelConfig(), allow_unknown_field=True)
    except text_format.ParseError as error:
        raise ValueError(str(error)) from error


def _as_text(config: pb2.ModelConfig) -> str:
    return text_format.MessageToString(config, as_utf8=True, use_short_repeated_primitives=True)


def _tensor(value: Any) -> dict[str, Any]:
    """Name, type and dimensions, without the first one, of an input or output of a session."""
    if value.type not in _TYPES:
        raise BundleError(f"{value.name} is a {value.type}; expected {' or '.join(_TYPES)}")
    dims = [size if isinstance(size, int) else _ANY for size in value.shape[1:]]
    return {"name": value.name, "data_type": _TYPES[value.type], "dims": dims}


def _about(bundle: Bundle, sha256: str) -> dict[str, Any]:
    """What a client of Triton needs to know of a version."""
    metadata = bundle.metadata
    return {
        "sha256": sha256,
        "resize": asdict(metadata.resize),
        "crop": metadata.crop,
        "threshold": metadata.threshold,
        "label_thresholds": list(metadata.label_thresholds),
        "alert_labels": list(metadata.alert_labels),
        "precision": metadata.precision,
        "data_digest": metadata.data_digest,
        "limelens_version": metadata.limelens_version,
    }
