"""What is refused as a bundle, and why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from limelens.serve import load_bundle
from limelens.serve.bundle import Golden, Metadata, Task
from limelens.serve.errors import BundleError, InvalidRequestError, ModelOutputError, ProviderError


def refused(tmp_path: Path, model: onnx.ModelProto | bytes, words: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    with pytest.raises(BundleError, match=words) as caught:
        load_bundle(path, "cpu")
    assert str(path) in str(caught.value)


def test_a_bundle_answers(one_model: Path, bundles: Any) -> None:
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


def test_metadata_survives_the_file(bundles: Any) -> None:
    metadata = bundles.metadata("tags", Task.MULTILABEL)
    again = Metadata.from_props(metadata.to_props())
    for field in ("name", "task", "labels", "resize", "label_thresholds", "alert_labels", "card"):
        assert getattr(again, field) == getattr(metadata, field)
    assert np.array_equal(again.golden.image, metadata.golden.image)


def test_pictures_of_another_size_are_refused(one_model: Path) -> None:
    bundle = load_bundle(one_model / "colours" / "1", "cpu")
    with pytest.raises(InvalidRequestError, match=r"expects uint8 \(N, 32, 32, 3\)"):
        bundle.predict(np.zeros((1, 31, 32, 3), np.uint8))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="No such file"):
        load_bundle(tmp_path / "model.onnx")


def test_what_is_not_onnx_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, b"\x89PNG not onnx at all", "not an ONNX file")
    refused(tmp_path, b"", "no limelens metadata|not an ONNX file|not a valid")


def test_a_truncated_file_is_refused(tmp_path: Path, one_model: Path) -> None:
    whole = (one_model / "colours" / "1" / "model.onnx").read_bytes()
    for share in (0.1, 0.5, 0.9, 0.99):
        refused(tmp_path, whole[: int(len(whole) * share)], r"model\.onnx: ")


def test_a_model_of_somebody_else_is_refused(tmp_path: Path, bundles: Any) -> None:
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


def test_weights_of_a_constant_node_are_looked_at_too(tmp_path: Path, bundles: Any) -> None:
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


def test_a_missed_golden_vector_is_refused(tmp_path: Path, bundles: Any) -> None:
    metadata = bundles.metadata()
    wrong = metadata.golden.probabilities + np.array([0.01, 0, -0.01], np.float32)
    golden = Golden(metadata.golden.image, wrong, metadata.golden.tolerance)
    refused(tmp_path, bundles.model(replace(metadata, golden=golden)), "golden vector is missed")


def test_a_golden_vector_must_know_the_provider(tmp_path: Path, bundles: Any) -> None:
    metadata = bundles.metadata()
    golden = Golden(metadata.golden.image, metadata.golden.probabilities, {"Other": 1.0})
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


def test_numbers_that_are_not_finite_at_run_time_are_an_error(one_model: Path) -> None:
    bundle = load_bundle(one_model / "colours" / "1", "cpu")

    class NotFinite:
        def run(self, *_args: object) -> list[np.ndarray]:
            return [np.full((1, 3), np.nan, np.float32)]

    broken = replace(bundle, session=NotFinite())
    with pytest.raises(ModelOutputError, match="not finite"):
        broken.predict(np.zeros((1, 32, 32, 3), np.uint8))


def test_cuda_is_refused_where_there_is_none(one_model: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("CUDA is there")
    with pytest.raises(ProviderError, match="CUDA was asked for and cannot be used"):
        load_bundle(one_model / "colours" / "1", "cuda")
    bundle = load_bundle(one_model / "colours" / "1", "auto")
    assert bundle.provider == "CPUExecutionProvider"
    assert "without CUDA" in bundle.provider_reason
