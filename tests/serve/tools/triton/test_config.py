"""config.pbtxt by Triton's own schema, which tritonclient ships, and by the graphs.

One process cannot hold tritonclient's messages and those of limelens: they bear the same names.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from limelens.serve.bundle import Metadata, Task, read_metadata

READ = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
found = {}
for path in sys.argv[1:]:
    config = text_format.Parse(open(path, encoding="utf-8").read(), model_config_pb2.ModelConfig())
    found[path] = json_format.MessageToDict(config, preserving_proto_field_name=True)
print(json.dumps(found))
"""
TYPES = {"TYPE_UINT8": TensorProto.UINT8, "TYPE_FP32": TensorProto.FLOAT}
MODELS = [("colours", 1), ("tags", 1), ("faces", 1), ("facemask", 2)]


@pytest.fixture(scope="module")
def configs(exported: tuple[Path, Path]) -> dict[str, Any]:
    """By model, what tritonclient reads from config.pbtxt; a field that it does not know fails."""
    pytest.importorskip("tritonclient")
    paths = sorted(exported[1].glob("*/config.pbtxt"))
    read = subprocess.run(
        [sys.executable, "-c", READ, *paths],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return {Path(path).parent.name: one for path, one in json.loads(read.stdout).items()}


def dims(value: onnx.ValueInfoProto) -> list[str]:
    """Dimensions as JSON has them, without that of the batch, which must be free."""
    batch, *others = value.type.tensor_type.shape.dim
    assert not batch.HasField("dim_value")
    return [str(one.dim_value) for one in others]


@pytest.mark.parametrize(("name", "version"), MODELS)
def test_tensors_are_those_of_the_graph(
    exported: tuple[Path, Path], configs: dict[str, Any], name: str, version: int
) -> None:
    graph = onnx.load(exported[1] / name / str(version) / "model.onnx").graph
    config = configs[name]
    for said, found in ((config["input"], graph.input), (config["output"], graph.output)):
        assert [one["name"] for one in said] == [one.name for one in found]
        for one, value in zip(said, found, strict=True):
            assert TYPES[one["data_type"]] == value.type.tensor_type.elem_type
            assert one["dims"] == dims(value)
    assert config["input"][0]["format"] == "FORMAT_NHWC"


@pytest.mark.parametrize("name", [name for name, _version in MODELS])
def test_it_says_how_the_model_is_run(
    exported: tuple[Path, Path], configs: dict[str, Any], name: str
) -> None:
    config = configs[name]
    assert config["name"] == name
    assert config["backend"] == "onnxruntime"
    assert config["default_model_filename"] == "model.onnx"
    assert config["version_policy"] == {"all": {}}
    batching = config["dynamic_batching"]
    assert max(batching["preferred_batch_size"]) == config["max_batch_size"] == 64
    assert int(batching["max_queue_delay_microseconds"]) < 1000
    for warm_up in config["model_warmup"]:
        assert warm_up["batch_size"] <= config["max_batch_size"]
        (one,) = warm_up["inputs"].values()
        sample = exported[1] / name / "warmup" / one["input_data_file"]
        assert sample.stat().st_size == np.prod([int(size) for size in one["dims"]])


def about(configs: dict[str, Any], name: str, version: int) -> tuple[Any, Any, Any]:
    """Labels, task and the version, as the parameters say."""
    parameters = configs[name]["parameters"]
    keys = ("limelens.labels", "limelens.task", f"limelens.version.{version}")
    labels, task, own = (json.loads(parameters[key]["string_value"]) for key in keys)
    return labels, task, own


@pytest.mark.parametrize(("name", "version"), MODELS)
def test_parameters_say_what_a_client_must_know(
    exported: tuple[Path, Path], configs: dict[str, Any], name: str, version: int
) -> None:
    metadata: Metadata = read_metadata(exported[1] / name / str(version) / "model.onnx")
    labels, task, own = about(configs, name, version)
    assert tuple(labels) == metadata.labels
    assert task == metadata.task
    assert own["resize"]["height"] == metadata.resize.height
    assert own["resize"]["mode"] == metadata.resize.mode
    assert own["crop"] == metadata.crop
    assert own["threshold"] == metadata.threshold
    assert tuple(own["label_thresholds"]) == metadata.label_thresholds
    assert tuple(own["alert_labels"]) == metadata.alert_labels


def test_labels_are_lines_of_their_file_where_there_are_some(
    exported: tuple[Path, Path], configs: dict[str, Any]
) -> None:
    for name, version in MODELS:
        folder = exported[1] / name
        metadata = read_metadata(folder / str(version) / "model.onnx")
        names = {one["name"]: one.get("label_filename") for one in configs[name]["output"]}
        assert names["embedding"] is None
        if metadata.task is Task.DETECTION:
            assert names["probabilities"] is None
            assert not (folder / "labels.txt").exists()
        else:
            lines = (folder / str(names["probabilities"])).read_text(encoding="utf-8")
            assert tuple(lines.splitlines()) == metadata.labels


@pytest.mark.parametrize(("name", "version"), MODELS)
def test_the_file_meets_its_golden_vector_on_the_sample_of_the_warm_up(
    exported: tuple[Path, Path], name: str, version: int
) -> None:
    folder = exported[1] / name
    path = folder / str(version) / "model.onnx"
    golden = read_metadata(path).golden
    sample = np.frombuffer((folder / "warmup" / "golden_image").read_bytes(), np.uint8)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = np.stack([sample.reshape(golden.image.shape)] * 3)
    (found,) = session.run(["probabilities"], {"images": images})
    assert np.abs(found - golden.probabilities).max() <= golden.tolerance["CPUExecutionProvider"]
