from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from limelens.serve import Client
from limelens.serve.bundle import Bundle, Task, load_bundle
from limelens.serve.image import ResizeMode, ResizeRule
from limelens.train import ExportError, export
from limelens.train.architectures import build
from limelens.train.data.examples import Example
from limelens.train.exporting.graph import BundleNetwork, golden_image, to_onnx
from limelens.train.exporting.precision import (
    PrecisionError,
    convert,
    logits_of,
    with_temperature,
)
from limelens.train.exporting.variants import compare_speed, make_variant

SIZE = 64
RESIZE = ResizeRule(SIZE, SIZE, ResizeMode.STRETCH)
_FLOAT, _FLOAT16 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


@functools.cache  # exporting takes seconds, and no test changes the graph
def _mobilenet(task: Task) -> onnx.ModelProto:
    torch.manual_seed(0)
    classifier = build("mobilenet_v3_small", 3, input_size=(SIZE, SIZE))
    torch.nn.init.normal_(classifier.head.weight, std=5.0)
    return to_onnx(BundleNetwork(classifier, 1.0, task), RESIZE)


@pytest.fixture(scope="module")
def mobilenet() -> onnx.ModelProto:
    """The default network with fresh weights, depthwise convolutions and squeeze-excite."""
    return _mobilenet(Task.MULTICLASS)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    return coarse.repeat(SIZE // 8, axis=1).repeat(SIZE // 8, axis=2)


def _run(model: onnx.ModelProto, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    results: list[NDArray[np.float32]] = session.run(
        ["probabilities", "embedding"], {"images": images}
    )
    return results


@pytest.mark.parametrize(
    "task", [Task.MULTICLASS, pytest.param(Task.MULTILABEL, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_converted_graph_is_smaller_and_nearly_as_exact(
    images: NDArray[np.uint8], task: Task, precision: str
) -> None:
    model = _mobilenet(task)
    before = model.SerializeToString()
    converted = convert(model, precision, images)
    assert model.SerializeToString() == before  # the given graph is unchanged
    size = len(converted.SerializeToString()) / len(before)
    assert size < {"fp16": 0.6, "int8": 0.4}[precision]
    onnx.checker.check_model(converted, full_check=True)
    for number in (1, 5):
        expected, embedding = _run(model, images[:number])
        found, other = _run(converted, images[:number])
        assert found.dtype == other.dtype == np.float32
        assert found.shape == expected.shape
        assert other.shape == embedding.shape
        assert np.abs(found - expected).max() < {"fp16": 5e-3, "int8": 0.2}[precision]


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_normalisation_temperature_and_softmax_stay_in_float32(
    mobilenet: onnx.ModelProto, images: NDArray[np.uint8], precision: str
) -> None:
    graph = convert(mobilenet, precision, images).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    constants = ("classifier.mean", "classifier.std", "temperature")
    assert [types[name] for name in constants] == [_FLOAT] * 3
    by_output = {output: node for node in graph.node for output in node.output}
    softmax = by_output["probabilities"]
    assert softmax.op_type == "Softmax"
    divided = by_output[softmax.input[0]]
    assert list(divided.input) == [logits_of(graph), "temperature"]
    # From the pixels to the first layer there is one cast, to float32.
    normalised = next(node for node in graph.node if "classifier.std" in node.input)
    shifted = by_output[normalised.input[0]]
    cast = by_output[shifted.input[0]]
    assert [node.op_type for node in (normalised, shifted, cast)] == ["Div", "Sub", "Cast"]
    assert cast.attribute[0].i == _FLOAT


def test_first_last_and_depthwise_layers_stay_in_float32_for_int8(
    mobilenet: onnx.ModelProto, images: NDArray[np.uint8]
) -> None:
    graph = convert(mobilenet, "int8", images).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    in_float = [node for node in layers if node.input[1] in weights]
    groups = [
        next((a.i for a in node.attribute if a.name == "group"), 1)
        for node in in_float
        if node.op_type == "Conv"
    ]
    assert in_float[0].input[1] == "classifier.backbone.features.0.0.weight"
    assert in_float[-1].input[1] == "classifier.head.weight"
    assert groups[0] == 1
    assert len(groups) == 12
    assert all(group > 1 for group in groups[1:])
    assert len(layers) == 54


def test_int8_weights_leave_room_for_cpus_without_vnni(
    mobilenet: onnx.ModelProto, images: NDArray[np.uint8]
) -> None:
    graph = convert(mobilenet, "int8", images).graph
    weights = [
        onnx.numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    assert len(weights) == 41
    # 255 * 64 * 2 fits into 16 bits.
    assert max(np.abs(array.astype(int)).max() for array in weights) <= 64


def test_int8_is_the_same_for_the_same_images(
    mobilenet: onnx.ModelProto, images: NDArray[np.uint8]
) -> None:
    once, again = (convert(mobilenet, "int8", images) for _ in range(2))
    np.testing.assert_array_equal(_run(once, images)[0], _run(again, images)[0])


def test_the_temperature_can_be_set_again(
    mobilenet: onnx.ModelProto, images: NDArray[np.uint8]
) -> None:
    for precision in ("fp32", "fp16", "int8"):
        converted = convert(mobilenet, precision, images)
        (warm, _), (warmer, _) = (
            _run(with_temperature(converted, temperature), images[:4]) for temperature in (1, 2)
        )
        halved = np.sqrt(warm)
        np.testing.assert_allclose(warmer, halved / halved.sum(1, keepdims=True), atol=1e-5)


def test_converting_prints_and_logs_nothing(
    mobilenet: onnx.ModelProto,
    images: NDArray[np.uint8],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    handlers, disabled = list(logging.root.handlers), logging.root.manager.disable
    for precision in ("fp16", "int8"):
        convert(mobilenet, precision, images)
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert caplog.text == ""
    assert (logging.root.handlers, logging.root.manager.disable) == (handlers, disabled)


def test_graphs_that_cannot_be_converted_are_reported(
    mobilenet: onnx.ModelProto, images: NDArray[np.uint8]
) -> None:
    with pytest.raises(PrecisionError, match="'int4'; expected one of fp32, fp16, int8"):
        convert(mobilenet, "int4", images)
    with pytest.raises(PrecisionError, match="int8 is calibrated on training images"):
        convert(mobilenet, "int8", images[:0])
    nameless = onnx.ModelProto()
    nameless.CopyFrom(mobilenet)
    for tensor in nameless.graph.initializer:
        tensor.name = tensor.name.replace("temperature", "warmth")
    for node in nameless.graph.node:
        node.input[:] = [name.replace("temperature", "warmth") for name in node.input]
    with pytest.raises(PrecisionError, match="does not divide its logits"):
        convert(nameless, "fp16", images)
    with pytest.raises(PrecisionError, match="no initializer 'temperature'"):
        with_temperature(nameless, 1.0)


@pytest.fixture(scope="module")
def reports(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The reports of `export` for one run in all precisions."""
    models = tmp_path_factory.mktemp("models")
    return {
        precision: export(trained_run, f"colours-{precision}", models=models, precision=precision)
        for precision in ("fp32", "fp16", "int8")
    }


def _bundle(reports: dict[str, Any], precision: str) -> Bundle:
    return load_bundle(reports[precision]["path"], "cpu")


@pytest.mark.ci
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_variant_is_compared_with_fp32(reports: dict[str, Any], precision: str) -> None:
    report, fp32 = reports[precision], reports["fp32"]
    assert {*fp32} == {
        "model", "version", "path", "precision", "size_bytes", "max_abs_difference", "metrics",
        "threshold", "crop", "num_golden_images", "explain", "explain_remark",
    }  # fmt: skip
    assert {*report} == {*fp32, "fp32", "speed", "remarks"}
    assert report["precision"] == precision
    assert report["size_bytes"] == Path(report["path"]).stat().st_size < fp32["size_bytes"]
    assert abs(report["fp32"]["size_bytes"] - fp32["size_bytes"]) < 100  # the name's length
    assert report["fp32"]["accuracy"] == fp32["metrics"]["accuracy"]
    assert report["metrics"]["accuracy"] >= fp32["metrics"]["accuracy"] - 0.005
    on_cpu = [row for row in report["speed"] if row["provider"] == "CPUExecutionProvider"]
    assert [row["batch_size"] for row in on_cpu] == [1, 32]
    for row in report["speed"]:
        assert row["ratio"] == pytest.approx(row["ms"] / row["fp32_ms"])
        slower = f"{precision} is slower than fp32 here: {row['ratio']:.2f} times"
        assert any(slower in remark for remark in report["remarks"]) == (row["ratio"] >= 1.05)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_variant_is_one_file_that_names_its_precision(
    reports: dict[str, Any], precision: str
) -> None:
    bundle = _bundle(reports, precision)
    assert bundle.metadata.precision == precision
    assert bundle.metadata.card["val"]["loss"] == reports[precision]["metrics"]["loss"]
    assert sorted(path.name for path in bundle.path.parent.iterdir()) == [
        "README.md", "calibration.png", "coverage.png", "model.onnx"
    ]  # fmt: skip
    card = (bundle.path.parent / "README.md").read_text()
    assert f"| precision | {precision} |" in card
    assert f"## {precision} compared with fp32" in card
    assert "| ms per call of 32, CPUExecutionProvider |" in card
    for remark in reports[precision]["remarks"]:
        assert remark in card
    assert (
        "compared with fp32" not in (_bundle(reports, "fp32").path.parent / "README.md").read_text()
    )


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_variants_golden_vector_is_its_own_and_bears_other_rounding(
    reports: dict[str, Any], precision: str
) -> None:
    bundle = _bundle(reports, precision)
    golden = bundle.metadata.golden
    np.testing.assert_array_equal(golden.image, golden_image(bundle.metadata.resize))
    found = bundle.predict(golden.image[np.newaxis])[0]
    np.testing.assert_allclose(found, golden.probabilities, atol=1e-5)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        bundle.path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    (rounded,) = session.run(["probabilities"], {"images": golden.image[np.newaxis]})
    assert np.abs(rounded[0] - golden.probabilities).max() < min(golden.tolerance.values())


def test_activations_beyond_half_precision_are_refused(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    state = torch.load(run / "best.pt", weights_only=True)
    # An embedding beyond the range of half floats; the head scales it back, exactly in fp32.
    state["model"]["backbone.10.weight"] *= 1e6
    state["model"]["backbone.10.bias"] *= 1e6
    state["model"]["head.weight"] /= 1e6
    torch.save(state, run / "best.pt")
    models = tmp_path / "models"
    with pytest.raises(PrecisionError, match=r"reach .* and overflow in fp16"):
        export(run, "m", models=models, precision="fp16")
    assert not models.exists()


@pytest.mark.ci
def test_a_variant_that_loses_too_much_is_refused_without_traces(
    trained_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    state = torch.load(run / "best.pt", weights_only=True)
    # An unused channel, so large that 256 steps leave nothing of the others.
    state["model"]["backbone.3.bias"][0] = 1e4
    state["model"]["backbone.6.weight"][:, 0] = 0
    torch.save(state, run / "best.pt")
    models = tmp_path / "models"
    message = r"int8 has accuracy .*%.*, fp32 .*%: .* points less, 0.5 are accepted"
    with pytest.raises(ExportError, match=message):
        export(run, "m", models=models, precision="int8")
    assert not models.exists()
    export(run, "m", models=models)
    with pytest.raises(ExportError, match=message):
        export(run, "m", models=models, precision="int8")
    assert [path.name for path in (models / "m").iterdir()] == ["1"]


def test_an_unknown_precision_is_refused(trained_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="'int4'; expected one of fp32, fp16, int8"):
        export(trained_run, "m", models=tmp_path / "models", precision="int4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ci
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_multilabel_variant_gets_its_own_thresholds(
    bundles: Any, divided: Path, precision: str
) -> None:
    labels = ("dark", "green", "red")
    paths = sorted((divided / "train").rglob("*.png"))
    examples = [Example(path, (1,) if path.parent.name == "green" else (0, 2)) for path in paths]
    template = bundles.metadata(task=Task.MULTILABEL)
    metadata = type(template)(
        name="tags",
        task=Task.MULTILABEL,
        labels=labels,
        resize=RESIZE,
        golden=type(template.golden)(golden_image(RESIZE), np.zeros(3, np.float32), {}),
        label_thresholds=(0.9, 0.9, 0.9),
        card={"temperature": 1.0, "note": "kept"},
    )
    model = _mobilenet(Task.MULTILABEL)
    made, own = make_variant(model, metadata, precision, train=examples, val=examples, seed=0)
    assert own.precision == precision
    assert len(own.label_thresholds) == 3
    assert own.label_thresholds != metadata.label_thresholds
    assert own.card["note"] == "kept"
    temperature = own.card["temperature"]
    assert temperature != 1.0
    (stored,) = [t for t in made.graph.initializer if t.name == "temperature"]
    assert float(onnx.numpy_helper.to_array(stored)) == temperature
    found, _ = _run(made, own.golden.image[np.newaxis])
    np.testing.assert_allclose(found[0], own.golden.probabilities, atol=1e-5)


def test_speed_is_measured_for_both_batch_sizes(reports: dict[str, Any]) -> None:
    speeds = compare_speed(Path(reports["fp32"]["path"]), Path(reports["fp32"]["path"]))
    assert {speed.batch_size for speed in speeds} == {1, 32}
    assert all(speed.fp32_ms > 0 and speed.ms > 0 for speed in speeds)


def test_a_server_serves_every_precision(
    reports: dict[str, Any], divided: Path, start_server: Callable[..., Any]
) -> None:
    server = start_server(Path(reports["fp32"]["path"]).parents[2])
    paths = sorted((divided / "test").rglob("*.png"))
    with Client(server.address) as client:
        for precision in ("fp32", "fp16", "int8"):
            answers = client.classify(paths, model=f"colours-{precision}")
            right = [a.label == p.parent.name for a, p in zip(answers, paths, strict=True)]
            assert np.mean(right) >= 0.9
            why = client.explain(paths[0], model=f"colours-{precision}", num_samples=64)
            assert why.explanations
