"""A tiny real detector, and frames in which it finds "faces": squares of a bright colour.

Its input is 96x128; it finds squares of 8, 16 and 32 pixels there that lie on a grid of their own
size, and have no colour around them. In a frame of 480x640 that is 40, 80 and 160 pixels. What the
squares' colours are is up to the classifier: the tests' own calls them red, green and blue. A white
frame makes its numbers not finite.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from limelens.serve.bundle import Golden, Metadata, Task
from limelens.serve.bundle.checks import seal
from limelens.serve.image import ResizeMode, ResizeRule

HEIGHT, WIDTH = 96, 128
SIDES = (8, 16, 32)
NUM_BOXES = 32
THRESHOLD = 0.5
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
MAGENTA = (255, 0, 255)
"""Half red and half blue: the detector finds it, and the tests' classifier abstains."""
PALE = (150, 75, 75)
"""Found with a score of 0.29 only."""
_GREY = 40

Square = tuple[int, int, int, tuple[int, int, int]]
"""Left, top and side in pixels, and the colour."""


def frame_of(
    squares: Iterable[Square] = (), height: int = 480, width: int = 640
) -> NDArray[np.uint8]:
    """A grey `(height, width, 3)` uint8 frame with squares; what lies outside is cut off."""
    frame = np.full((height, width, 3), _GREY, np.uint8)
    for left, top, side, colour in squares:
        frame[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = colour
    return frame


def save_detector(folder: Path, *, threshold: float = THRESHOLD) -> Path:
    """Writes the detector's bundle to `folder/model.onnx`, and returns its path."""
    model = helper.make_model(_graph(), opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    image = frame_of([(8, 16, 8, RED), (64, 32, 16, GREEN)], HEIGHT, WIDTH)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    scores = session.run(["probabilities"], {"images": image[np.newaxis]})[0][0]
    tolerance = {"CPUExecutionProvider": 1e-4, "CUDAExecutionProvider": 1e-3}
    metadata = Metadata(
        name="squares",
        task=Task.DETECTION,
        labels=("face",),
        resize=ResizeRule(HEIGHT, WIDTH, ResizeMode.PAD),
        golden=Golden(image, scores, tolerance),
        threshold=threshold,
    )
    seal(model, metadata)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _graph() -> onnx.GraphProto:
    """images -> colourfulness -> for each side: that inside a cell, less that around it."""
    places = np.concatenate([_cells(side) for side in SIDES])
    constants: dict[str, Any] = {
        "most": np.array(255, np.float32),
        "channel": np.array([3], np.int64),
        "sides": np.array([1, 2, 3], np.int64),
        "middle": np.array([1], np.int64),
        "flat": np.array([0, -1], np.int64),
        "nine": np.array(9, np.float32),
        "eight": np.array(8, np.float32),
        "two": np.array(2, np.float32),
        "k": np.array([NUM_BOXES], np.int64),
        "places": places,
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["floats", "most"], ["scaled"]),
        helper.make_node("ReduceMax", ["scaled", "channel"], ["high"], keepdims=0),
        helper.make_node("ReduceMin", ["scaled", "channel"], ["low"], keepdims=0),
        helper.make_node("Sub", ["high", "low"], ["colourful"]),
        helper.make_node("Unsqueeze", ["colourful", "middle"], ["plane"]),
    ]
    for side in SIDES:
        pool: dict[str, Any] = {"strides": [side, side]}
        wide = {"kernel_shape": [3 * side] * 2, "pads": [side] * 4, "count_include_pad": 1, **pool}
        nodes += [
            helper.make_node(
                "AveragePool", ["plane"], [f"in{side}"], kernel_shape=[side, side], **pool
            ),
            helper.make_node("AveragePool", ["plane"], [f"all{side}"], **wide),
            helper.make_node("Mul", [f"all{side}", "nine"], [f"sum{side}"]),
            helper.make_node("Sub", [f"sum{side}", f"in{side}"], [f"ring{side}"]),
            helper.make_node("Div", [f"ring{side}", "eight"], [f"around{side}"]),
            helper.make_node("Mul", [f"around{side}", "two"], [f"twice{side}"]),
            helper.make_node("Sub", [f"in{side}", f"twice{side}"], [f"alone{side}"]),
            helper.make_node("Reshape", [f"alone{side}", "flat"], [f"scores{side}"]),
        ]
    nodes += [
        helper.make_node("Concat", [f"scores{side}" for side in SIDES], ["all"], axis=1),
        helper.make_node("Clip", ["all", "zero", "one"], ["clipped"]),
        helper.make_node("ReduceMean", ["scaled", "sides"], ["light"], keepdims=0),
        helper.make_node("Sub", ["one", "light"], ["dark"]),
        helper.make_node("Log", ["dark"], ["infinite"]),  # if it is white
        helper.make_node("Mul", ["infinite", "zero"], ["nothing"]),
        helper.make_node("Unsqueeze", ["nothing", "middle"], ["column"]),
        helper.make_node("Add", ["clipped", "column"], ["finite"]),
        helper.make_node("TopK", ["finite", "k"], ["probabilities", "best"]),
        helper.make_node("Gather", ["places", "best"], ["boxes"], axis=0),
        helper.make_node("Reshape", ["boxes", "flat"], ["embedding"]),
    ]
    constants |= {"zero": np.array(0, np.float32), "one": np.array(1, np.float32)}
    return helper.make_graph(
        nodes,
        "squares",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", HEIGHT, WIDTH, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", NUM_BOXES]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", 4 * NUM_BOXES]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )


def _cells(side: int) -> NDArray[np.float32]:
    """`(rows * columns, 4)` left, top, right, bottom of a grid's cells, in fractions."""
    top, left = np.mgrid[0:HEIGHT:side, 0:WIDTH:side].reshape(2, -1)
    edges = np.stack([left, top, left + side, top + side], axis=1)
    return (edges / (WIDTH, HEIGHT, WIDTH, HEIGHT)).astype(np.float32)
