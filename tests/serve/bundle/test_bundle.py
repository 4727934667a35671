"""The reasons to refuse a bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from limelens.serve import load_bundle
from limelens.serve.bundle import Golden, Metadata, Task, check_model, seal
from limelens.serve.bundle.checks import MAX_BYTES
from limelens.serve.bundle.devices import CUDA, TF32
from limelens.serve.errors import BundleError, InvalidRequestError, ModelOutputError, ProviderError

SHIPPED = Path(__file__).parents[3] / "models" / "facemask" / "2" / "model.onnx"


def refused(tmp_path: Path, model: onnx.ModelProto | bytes, words: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    with pytest.raises(BundleError, match=words) as caught:
        load_bundle(path, "cpu")
    assert str(path) in str(caught.value)


def test_a_bundle_gives_probabilities(one_model: Path, bundles: Any) -> None:
    bundle = load_bundle(one_model / "colours" / "1", "cpu")
    assert (bundle.name, bundle.version, bundle.task) == ("colours", 1, Task.MULTICLASS)
    assert bundle.input_size == (32, 32)
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    found = bundle.predict(images)
    expected = [bundles.probabilities(image, Task.MULTICLASS) for image in images]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    probabilities, embedding = bundle.predict_and_embed(images)
    assert np.array_equal(probabilities, found)
    np.testing.assert_allclose(embedding, images.mean(axis=(1, 2)) / 255, atol=1e-5)


def test_a_models_folder_is_refused_by_its_newest_version(one_model: Path) -> None:
    model = one_model / "colours"
    with pytest.raises(BundleError, match="a model's folder; expected one of its ver") as caught:
        load_bundle(model, "cpu")
    newest = max(int(one.name) for one in model.iterdir() if one.name.isdecimal())
    assert str(caught.value).endswith(str(model / str(newest)))


def test_metadata_survives_the_file(bundles: Any) -> None:
    metadata = bundles.metadata("tags", Task.MULTILABEL)
    again = Metadata.from_props(metadata.to_props())
    for field in ("name", "task", "labels", "resize", "label_thresholds", "alert_labels", "card"):
        assert getattr(again, field) == getattr(metadata, field)
    assert np.array_equal(again.golden.image, metadata.golden.image)


def test_a_weight_damaged_within_the_golden_vectors_tolerance_is_found(
    tmp_path: Path, bundles: Any
) -> None:
    metadata = bundles.metadata()
    model = bundles.model(metadata)
    (gain,) = (one for one in model.graph.initializer if one.name == "gain")
    seal(model, metadata)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert load_bundle(path, "cpu").labels == metadata.labels
    (whole,) = numpy_helper.to_array(gain).reshape(1)
    gain.CopyFrom(
        helper.make_tensor("gain", TensorProto.FLOAT, [], [np.nextafter(whole, whole + 1)])
    )
    refused(tmp_path, model, "damaged or changed after its export")
    unsealed = [one for one in model.metadata_props if one.key != "limelens.graph_digest"]
    del model.metadata_props[:]
    model.metadata_props.extend(unsealed)
    path.write_bytes(model.SerializeToString())
    load_bundle(path, "cpu")  # as those that were made before there were digests


def test_a_flipped_bit_in_the_graph_of_the_shipped_model_is_found(tmp_path: Path) -> None:
    whole = SHIPPED.read_bytes()
    graph = onnx.load_model_from_string(whole).graph.SerializeToString(deterministic=True)
    begin = whole.index(graph)
    draw = np.random.default_rng(5)
    for at in begin + draw.integers(0, len(graph), 30):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << draw.integers(0, 8)
        refused(tmp_path, bytes(damaged), r"model\.onnx: ")


def test_images_of_another_size_are_refused(one_model: Path) -> None:
    bundle = load_bundle(one_model / "colours" / "1", "cpu")
    with pytest.raises(InvalidRequestError, match=r"expects uint8 \(N, 32, 32, 3\)"):
        bundle.predict(np.zeros((1, 31, 32, 3), np.uint8))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="No such file"):
        load_bundle(tmp_path / "model.onnx")


def test_a_pipe_is_refused_before_it_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "model.onnx"
    os.mkfifo(pipe)  # reading it waits for a writer that never comes
    with pytest.raises(BundleError, match="not a regular file"):
        load_bundle(pipe)


def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, b"\x89PNG not onnx at all", "not an ONNX file")
    refused(tmp_path, b"", "no limelens metadata|not an ONNX file|not a valid")


def test_a_truncated_file_is_refused(tmp_path: Path, one_model: Path) -> None:
    whole = (one_model / "colours" / "1" / "model.onnx").read_bytes()
    for share in (0.1, 0.5, 0.9, 0.99):
        refused(tmp_path, whole[: int(len(whole) * share)], r"model\.onnx: ")


def test_a_model_of_another_maker_is_refused(tmp_path: Path, bundles: Any) -> None:
    model = bundles.model(bundles.metadata())
    del model.metadata_props[:]
    refused(tmp_path, model, "no limelens metadata")


def test_missing_metadata_are_named(tmp_path: Path, bundles: Any) -> None:
    model = bundles.model(bundles.metadata())
    kept = [p for p in model.metadata_props if p.key != "limelens.labels"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    refused(tmp_path, model, "lacks limelens.labels")


@pytest.mark.parametrize("kind", ["plain", "hard link", "symbolic link"])
def test_external_data_is_refused(tmp_path: Path, bundles: Any, kind: str) -> None:
    model = bundles.model(bundles.metadata())
    gain = next(t for t in model.graph.initializer if t.name == "gain")
    gain.CopyFrom(numpy_helper.from_array(np.full(1, 6.0, np.float32), "gain"))
    external_data_helper.set_external_data(gain, location="weights.bin")
    gain.ClearField("raw_data")
    (tmp_path / "real.bin").write_bytes(np.full(1, 6.0, np.float32).tobytes())
    if kind == "hard link":
        (tmp_path / "weights.bin").hardlink_to(tmp_path / "real.bin")
    elif kind == "symbolic link":
        (tmp_path / "weights.bin").symlink_to(tmp_path / "real.bin")
    else:
        (tmp_path / "real.bin").rename(tmp_path / "weights.bin")
    refused(tmp_path, model, "'gain' lie in another file")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(
    tmp_path: Path, bundles: Any, value: float
) -> None:
    model = bundles.model(bundles.metadata())
    gain = next(t for t in model.graph.initializer if t.name == "gain")
    gain.CopyFrom(helper.make_tensor("gain", TensorProto.FLOAT, [], [value]))
    refused(tmp_path, model, "'gain' are not all finite")


def test_weights_of_a_constant_node_are_checked_too(tmp_path: Path, bundles: Any) -> None:
    model = bundles.model(bundles.metadata())
    tensor = helper.make_tensor("hidden", TensorProto.FLOAT, [], [float("nan")])
    model.graph.node.insert(0, helper.make_node("Constant", [], ["unused"], value=tensor))
    refused(tmp_path, model, "'hidden' are not all finite")


def test_labels_must_be_as_many_as_outputs(tmp_path: Path, bundles: Any) -> None:
    metadata = bundles.metadata()
    four = replace(
        metadata,
        labels=("red", "green", "blue", "grey"),
        golden=Golden(
            metadata.golden.image, np.full(4, 0.25, np.float32), metadata.golden.tolerance
        ),
    )
    refused(tmp_path, bundles.model(four), "4 labels for 3 outputs")


def test_a_system_without_linux_s_modules_loads_bundles(one_model: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['fcntl', 'resource', 'termios'], None))\n"
        "from limelens.serve import load_bundle\n"
        "bundle = load_bundle(sys.argv[1], 'cpu')\n"
        "print(len(bundle.predict(bundle.metadata.golden.image[None])))\n"
    )
    command = [sys.executable, "-c", program, str(one_model / "colours" / "1")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "1\n"


def test_a_missed_golden_vector_is_refused(tmp_path: Path, bundles: Any) -> None:
    metadata = bundles.metadata()
    wrong = metadata.golden.probabilities + np.array([0.01, 0, -0.01], np.float32)
    golden = Golden(metadata.golden.image, wrong, metadata.golden.tolerance)
    refused(tmp_path, bundles.model(replace(metadata, golden=golden)), "golden vector is missed")


def test_a_golden_vector_must_know_the_provider(tmp_path: Path, bundles: Any) -> None:
    metadata = bundles.metadata()
    golden = Golden(metadata.golden.image, metadata.golden.probabilities, {"Other": 0.1})
    refused(tmp_path, bundles.model(replace(metadata, golden=golden)), "no tolerance for CPU")


def test_a_graph_with_another_input_is_refused(tmp_path: Path, bundles: Any) -> None:
    metadata = bundles.metadata()
    refused(
        tmp_path,
        bundles.model(metadata, bundles.graph(metadata.task, 16)),
        "expected one, images: uint8",
    )


def test_a_batch_of_fixed_size_is_refused(tmp_path: Path, bundles: Any) -> None:
    model = bundles.model(bundles.metadata())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    refused(tmp_path, model, "N free")


def test_numbers_that_are_not_finite_at_run_time_are_an_error(tmp_path: Path, bundles: Any) -> None:
    metadata = bundles.metadata()
    graph = bundles.graph(metadata.task)
    # The logarithm of the mean colour: that of black is not finite, and nothing else shows it.
    graph.node.insert(3, helper.make_node("Log", ["embedding"], ["log"]))
    graph.node.insert(4, helper.make_node("Mul", ["log", "nothing"], ["zero"]))
    graph.node.insert(5, helper.make_node("Add", ["embedding", "zero"], ["sum"]))
    next(node for node in graph.node if node.op_type == "Sub").input[0] = "sum"
    graph.initializer.append(helper.make_tensor("nothing", TensorProto.FLOAT, [], [0.0]))
    path = tmp_path / "model.onnx"
    path.write_bytes(bundles.model(metadata, graph).SerializeToString())
    bundle = load_bundle(path, "cpu")
    grey = np.full((1, 32, 32, 3), 90, np.uint8)
    assert np.isfinite(bundle.predict(grey)).all()
    with pytest.raises(ModelOutputError, match="not finite"):
        bundle.predict(np.concatenate([grey, np.zeros_like(grey)]))


def test_weights_shorter_than_their_shape_are_refused(tmp_path: Path, bundles: Any) -> None:
    model = bundles.model(bundles.metadata())
    model.graph.initializer.append(
        TensorProto(name="short", data_type=TensorProto.FLOAT, dims=[10], raw_data=bytes(12))
    )
    refused(tmp_path, model, "'short' do not fill their shape")


def test_any_error_of_a_check_is_a_refusal(
    tmp_path: Path, bundles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_args: object) -> None:
        raise RuntimeError("never seen before")

    monkeypatch.setattr(onnx.checker, "check_model", fails)
    refused(tmp_path, bundles.model(bundles.metadata()), "cannot be checked: RuntimeError: never")


def sparse() -> onnx.SparseTensorProto:
    return helper.make_sparse_tensor(
        numpy_helper.from_array(np.ones(1, np.float32), "values"),
        numpy_helper.from_array(np.ones(1, np.int64), "indices"),
        [3],
    )


def test_sparse_tensors_are_refused_wherever_they_lie(tmp_path: Path, bundles: Any) -> None:
    model = bundles.model(bundles.metadata())
    model.graph.sparse_initializer.append(sparse())
    refused(tmp_path, model, "'values' is a sparse tensor; expected dense ones")
    model = bundles.model(bundles.metadata())
    node = helper.make_node("Constant", [], ["unused"], sparse_value=sparse())
    external_data_helper.set_external_data(
        node.attribute[0].sparse_tensor.indices, location="somewhere.bin"
    )
    model.graph.node.append(node)
    refused(tmp_path, model, r"'Constant\.sparse_value' is a sparse tensor")


def test_functions_are_refused(tmp_path: Path, bundles: Any) -> None:
    model = bundles.model(bundles.metadata())
    hidden = helper.make_tensor("hidden", TensorProto.FLOAT, [], [float("nan")])
    model.functions.append(
        helper.make_function(
            "local",
            "Sly",
            ["a"],
            ["b"],
            [
                helper.make_node("Constant", [], ["k"], value=hidden),
                helper.make_node("Add", ["a", "k"], ["b"]),
            ],
            [helper.make_opsetid("", 18)],
        )
    )
    refused(tmp_path, model, r"defines functions \['Sly'\]; expected a graph of plain nodes")


@pytest.mark.parametrize("value", [{"value_float": np.nan}, {"value_floats": [1.0, np.inf]}])
def test_numbers_in_a_nodes_attributes_must_be_finite(
    tmp_path: Path, bundles: Any, value: dict[str, Any]
) -> None:
    model = bundles.model(bundles.metadata())
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], **value))
    refused(tmp_path, model, r"Constant\.value_floats? is not finite")


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_precision_is_checked_without_being_blown_up(
    tmp_path: Path, bundles: Any, kind: int
) -> None:
    count = 4_000_000
    model = bundles.model(bundles.metadata())
    tensor = TensorProto(name="half_size", data_type=kind, dims=[count], raw_data=bytes(2 * count))
    model.graph.initializer.append(tensor)
    tracemalloc.start()
    check_model(model)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2 * count
    model.graph.initializer[-1].raw_data = bytes(2 * count - 2) + b"\xff\x7f"
    refused(tmp_path, model, "'half_size' are not all finite")


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # sparse: takes no room
    tracemalloc.start()
    with pytest.raises(BundleError, match="2,000,000,001 bytes; a bundle has at most"):
        load_bundle(path, "cpu")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("card", "[" * 200_000 + "]" * 200_000, "cannot be read"),
        ("card", "[1]", "card is a list; expected a mapping"),
        ("macro_labels", "[]", "macro_labels is a list; expected a mapping"),
        ("macro_labels", '{"red": 1}', "macro_labels .*expected text"),
        ("labels", "[1, 2, 3]", "labels .*expected text"),
        ("labels", '"abc"', "expected a list"),
        ("name", "7", "name .*expected text"),
        ("threshold", "NaN", "threshold nan; expected 0 to 1"),
        ("threshold", "2", "threshold 2; expected 0 to 1"),
        ("threshold", '"0.5"', "threshold '0.5'; expected 0 to 1"),
        ("label_thresholds", "[-0.1]", "threshold -0.1; expected 0 to 1"),
        ("golden", "[]", "cannot be read"),
        ("resize", "3", "cannot be read"),
    ],
)
def test_metadata_of_another_kind_are_refused(
    tmp_path: Path, bundles: Any, key: str, value: str, words: str
) -> None:
    model = bundles.model(bundles.metadata())
    next(p for p in model.metadata_props if p.key == f"limelens.{key}").value = value
    refused(tmp_path, model, words)


@pytest.mark.parametrize(
    ("tolerance", "words"),
    [
        (None, "tolerance None; expected numbers by provider"),
        ({"CPUExecutionProvider": "1e-4"}, "is '1e-4'; expected 0 to 0.1"),
        ({"CPUExecutionProvider": float("inf")}, "is inf; expected 0 to 0.1"),
        ({"CPUExecutionProvider": 0.5}, "is 0.5; expected 0 to 0.1"),
    ],
)
def test_a_tolerance_that_tolerates_anything_is_refused(
    tmp_path: Path, bundles: Any, tolerance: Any, words: str
) -> None:
    model = bundles.model(bundles.metadata())
    golden = next(p for p in model.metadata_props if p.key == "limelens.golden")
    golden.value = json.dumps({**json.loads(golden.value), "tolerance": tolerance})
    refused(tmp_path, model, words)


def test_a_graph_that_fails_when_it_is_run_is_refused(tmp_path: Path, bundles: Any) -> None:
    metadata = bundles.metadata()
    graph = bundles.graph(metadata.task)
    for node in graph.node:
        if node.output[0] == "embedding":
            node.output[0] = "means"
        if node.input[0] == "embedding":
            node.input[0] = "means"
    graph.node.append(helper.make_node("Reshape", ["means", "shape"], ["embedding"]))
    graph.initializer.append(helper.make_tensor("shape", TensorProto.INT64, [2], [7, -1]))
    refused(tmp_path, bundles.model(metadata, graph), "it cannot be run: ")


def test_a_graph_that_mixes_its_images_up_is_refused(tmp_path: Path, bundles: Any) -> None:
    metadata = bundles.metadata()
    graph = bundles.graph(metadata.task)
    graph.node[-1].output[0] = "each"
    graph.initializer.append(helper.make_tensor("first", TensorProto.INT64, [1], [0]))
    graph.node.append(helper.make_node("ReduceMean", ["each", "first"], ["probabilities"]))
    graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    refused(
        tmp_path,
        bundles.model(metadata, graph),
        r"gave probabilities of shape \(1, 3\) for 2 images",
    )


def test_a_second_row_that_differs_is_refused(tmp_path: Path, bundles: Any) -> None:
    metadata = bundles.metadata()
    graph = bundles.graph(metadata.task)
    # Softmax over the batch's running sum: right for the first image alone.
    graph.initializer.append(helper.make_tensor("batch", TensorProto.INT64, [], [0]))
    graph.node.insert(5, helper.make_node("CumSum", ["logits", "batch"], ["summed"]))
    graph.node[6].input[0] = "summed"
    refused(tmp_path, bundles.model(metadata, graph), "golden vector is missed")


def test_outputs_that_are_not_probabilities_are_refused(tmp_path: Path, bundles: Any) -> None:
    metadata = bundles.metadata()
    pixels = np.full_like(metadata.golden.image, 200)
    logits = np.full(3, (200 / 255 - 0.5) * 6, np.float32)
    for golden, kind, task, words in (
        (logits, "Identity", Task.MULTILABEL, "its outputs are 1.71 to 1.71; expected prob"),
        (1 / (1 + np.exp(-logits)), "Sigmoid", Task.MULTICLASS, "add up to 2.539; expected 1"),
    ):
        graph = bundles.graph(Task.MULTILABEL)
        graph.node[-1].op_type = kind
        changed = replace(
            bundles.metadata("colours", task),
            golden=Golden(pixels, golden.astype(np.float32), metadata.golden.tolerance),
        )
        refused(tmp_path, bundles.model(changed, graph), words)


def test_cuda_is_refused_where_there_is_none(one_model: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is there")
    with pytest.raises(ProviderError, match="CUDA was asked for and cannot be used"):
        load_bundle(one_model / "colours" / "1", "cuda")
    bundle = load_bundle(one_model / "colours" / "1", "auto")
    assert bundle.provider == "CPUExecutionProvider"
    assert "without CUDA" in bundle.provider_reason


def test_tf32_has_a_larger_tolerance_unless_the_bundle_sets_one(bundles: Any) -> None:
    golden = bundles.metadata().golden
    assert golden.tolerance_for(CUDA, tf32=False) == 1e-3
    assert golden.tolerance_for(CUDA, tf32=True) == pytest.approx(1e-2)
    named = replace(golden, tolerance={**golden.tolerance, TF32: 0.02})
    assert named.tolerance_for(CUDA, tf32=True) == 0.02
