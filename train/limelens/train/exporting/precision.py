"""Converts an exported graph to half-precision floats or 8-bit integers.

It knows a graph's layers and onnxruntime's tools for converting them. It knows nothing of labels,
metrics or files. In every precision the graph takes uint8 and returns float32, and computes
normalisation, temperature and softmax or sigmoid in float32.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx.compose
import onnx.utils
from numpy.typing import NDArray
from onnx import numpy_helper

from limelens.serve.bundle.devices import CPU, CUDA, TF32
from limelens.serve.errors import LimelensError

PRECISIONS: Final = ("fp32", "fp16", "int8")
TEMPERATURE: Final = "temperature"
"""Name of the initializer that divides a graph's logits."""
CALIBRATION_SIZE: Final = 256
"""Images for the ranges of activations; 64 and 512 gave the same metrics."""
TOLERANCES: Final[Mapping[str, Mapping[str, float]]] = {
    # TF32 rounds factors to 10 bits; `benchmarks.device --only precision` shows how much
    # probabilities change.
    "fp32": {CPU: 1e-4, CUDA: 1e-3, TF32: 1e-2},
    # x86 stores half-precision weights and computes in float32, ARM and CUDA compute in half
    # precision: probabilities differed by up to 3.4e-3 on 320 images.
    "fp16": {CPU: 1e-2, CUDA: 1e-2, TF32: 1e-2},
    # Sums of 8-bit products are exact on every CPU. The float32 layers between them (on CUDA: all
    # layers) may round the last bit differently, which sometimes moves an activation by one of
    # 256 steps: by up to 6e-4 on emulated CPUs without VNNI, and by up to 7e-3 on 1284 images
    # with all sums in float32.
    "int8": {CPU: 2e-2, CUDA: 5e-2, TF32: 5e-2},
}
"""How far probabilities may differ from the golden vector, by precision and provider."""
_LARGEST_HALF: Final = float(np.finfo(np.float16).max)
_CALIBRATION_BATCH: Final = 32
_WEIGHTED: Final = ("Conv", "Gemm", "MatMul")


class PrecisionError(LimelensError):
    """The graph cannot be converted; the message says why."""


def convert(
    model: onnx.ModelProto, precision: str, calibration: NDArray[np.uint8]
) -> onnx.ModelProto:
    """Returns a graph in another precision and leaves the given one unchanged.

    The ranges of activations are calibrated on training images, `(N, H, W, 3)` uint8.

    Raises:
        PrecisionError: The precision is unknown, there are no images, activations are too large
            for fp16, or the graph has no layer that int8 helps.
    """
    if precision not in PRECISIONS:
        raise PrecisionError(f"precision {precision!r}; expected one of {', '.join(PRECISIONS)}")
    converted = deepcopy(model)
    if precision != "fp32":
        if len(calibration) == 0:
            raise PrecisionError(f"{precision} is calibrated on training images; there are none")
        try:
            with _quiet():
                convert_to = _to_fp16 if precision == "fp16" else _to_int8
                converted = convert_to(converted, calibration)
        except LimelensError:
            raise
        # The tools raise many kinds of errors for graphs that they do not support.
        except Exception as error:
            raise PrecisionError(
                f"onnxruntime's tools cannot convert this network to {precision}: {error}; "
                "export fp32"
            ) from error
        converted.producer_name = model.producer_name
        converted.producer_version = model.producer_version
    del converted.metadata_props[:]
    return converted


def with_temperature(model: onnx.ModelProto, temperature: float) -> onnx.ModelProto:
    """A copy that divides its logits by another temperature."""
    copy = deepcopy(model)
    for tensor in copy.graph.initializer:
        if tensor.name == TEMPERATURE:
            tensor.CopyFrom(
                numpy_helper.from_array(np.array(temperature, dtype=np.float32), TEMPERATURE)
            )
            return copy
    raise PrecisionError(f"the graph has no initializer {TEMPERATURE!r} to set")


def logits_of(graph: onnx.GraphProto) -> str:
    """The name of the tensor that is divided by the temperature."""
    for node in graph.node:
        if node.op_type == "Div" and node.input[1] == TEMPERATURE:
            name: str = node.input[0]
            return name
    raise PrecisionError(f"the graph does not divide its logits by an initializer {TEMPERATURE!r}")


def _to_fp16(model: onnx.ModelProto, calibration: NDArray[np.uint8]) -> onnx.ModelProto:
    """Half precision from the first layer to the logits.

    The part after the logits is removed and put back, because the converter would round it.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    largest = _largest_activation(model, calibration)
    if not largest <= _LARGEST_HALF:
        raise PrecisionError(
            f"the network's activations reach {largest:.3g} and overflow in fp16, whose largest "
            f"number is {_LARGEST_HALF:g}; export another precision"
        )
    logits = logits_of(model.graph)
    extractor = onnx.utils.Extractor(model)
    layers = extractor.extract_model(["images"], [logits, "embedding"])
    rest = extractor.extract_model([logits], ["probabilities"])
    first = _weighted(layers.graph)[0]
    position = next(i for i, node in enumerate(layers.graph.node) if node.name == first.name)
    before = layers.graph.node[:position]
    del layers.graph.value_info[:]
    layers = onnx.shape_inference.infer_shapes(layers)
    # The converter treats every tensor with a known type as half precision. Tensors between nodes
    # before the first layer are hidden from it.
    read = {name for node in layers.graph.node[position:] for name in node.input}
    hidden = {name for node in before for name in node.output} - read
    known = [value for value in layers.graph.value_info if value.name not in hidden]
    del layers.graph.value_info[:]
    layers.graph.value_info.extend(known)
    layers = convert_float_to_float16(
        layers,
        keep_io_types=True,
        disable_shape_infer=True,
        node_block_list=[node.name for node in before],
    )
    OnnxModel(layers).topological_sort(is_deterministic=True)
    # The merge refuses names that occur in both parts.
    del layers.graph.value_info[:]
    del rest.graph.value_info[:]
    return onnx.compose.merge_models(
        layers, rest, io_map=[(logits, logits)], outputs=["probabilities", "embedding"]
    )


def _largest_activation(model: onnx.ModelProto, images: NDArray[np.uint8]) -> float:
    """The largest absolute value in the graph, as a CPU computing in float32 hides overflows."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path)
        calibrator = create_calibrator(
            path,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        calibrator.collect_data(_reader(images))
        ranges = calibrator.compute_data()
        return max(
            float(np.abs(value).max()) for _, found in ranges.items() for value in found.range_value
        )


def _to_int8(model: onnx.ModelProto, calibration: NDArray[np.uint8]) -> onnx.ModelProto:
    """Weights and activations in 8 bits, except in layers that are better in float32.

    Weights use 7 bits: pairs of 8-bit products overflow on x86 without VNNI, where probabilities
    then differed by 0.08; with 7 bits they are the same. Ranges are the smallest and largest
    values (MinMax): entropy gave the same ranges, percentiles the same accuracy or less, and both
    hold the activations of all images in memory.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    kept = _kept_in_float(model)
    if len(kept) == len(_weighted(model.graph)):
        raise PrecisionError(
            "the network has no layer that int8 helps (all are first, last or depthwise); "
            "export fp16 or fp32"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantize_static(
            model,
            path,
            _reader(calibration),
            quant_format=QuantFormat.QDQ,
            # Relu and Clip become part of the range of the layer before them.
            op_types_to_quantize=[*_WEIGHTED, "Relu", "Clip"],
            nodes_to_exclude=kept,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            # Products of two activations, as in attention, stay in float32.
            extra_options={"MatMulConstBOnly": True},
        )
        return onnx.load(path)


def _kept_in_float(model: onnx.ModelProto) -> list[str]:
    """Names of the layers that stay in float32.

    These are the first, whose few channels are slow in 8 bits (a MobileNetV3-small took 1.8 times
    as long), the last, which determines the probabilities directly, and depthwise convolutions,
    which are no faster and caused half of the error.
    """
    logits = logits_of(model.graph)
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    weighted = _weighted(model.graph)

    def is_depthwise(node: onnx.NodeProto) -> bool:
        shape: Any = shapes.get(node.input[1], ())
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        return node.op_type == "Conv" and groups > 1 and len(shape) == 4 and shape[1] == 1

    return [
        node.name
        for node in weighted
        if node.name == weighted[0].name or logits in node.output or is_depthwise(node)
    ]


def _weighted(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The layers that have weights, in the order of the graph."""
    weights = {tensor.name for tensor in graph.initializer}
    found = [
        node
        for node in graph.node
        if node.op_type in _WEIGHTED and any(name in weights for name in node.input)
    ]
    if not found:
        raise PrecisionError("the graph has no layer with weights")
    return found


def _reader(images: NDArray[np.uint8]) -> Any:
    """Hands the images to onnxruntime's tools in batches."""
    from onnxruntime.quantization import CalibrationDataReader

    starts = range(0, len(images), _CALIBRATION_BATCH)
    batches = iter([{"images": images[start : start + _CALIBRATION_BATCH]} for start in starts])

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(batches, None)

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the tools' output, log lines and warnings."""
    handler = logging.NullHandler()
    disabled = logging.root.manager.disable
    # Without a handler, `logging.warning` would configure the process's logging.
    logging.root.addHandler(handler)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.removeHandler(handler)
