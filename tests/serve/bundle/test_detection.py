"""Bundles of detectors, and the crop that classifiers of faces name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import GraphProto, TensorProto, helper
from tests.conftest import BundleMaker

from limelens.serve.bundle import Golden, Metadata, Task, load_bundle
from limelens.serve.bundle.checks import check_model
from limelens.serve.errors import BundleError

CPU = "CPUExecutionProvider"


def two_boxes(num_numbers: int = 8) -> GraphProto:
    """A graph whose two boxes lie in the same places whatever it sees."""
    constants: dict[str, Any] = {
        "axes": (TensorProto.INT64, [2], [1, 2]),
        "zero": (TensorProto.FLOAT, [], [0.0]),
        "scores": (TensorProto.FLOAT, [1, 2], [0.9, 0.2]),
        "places": (TensorProto.FLOAT, [1, 8], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]),
        "first": (TensorProto.INT64, [1], [0]),
        "one": (TensorProto.INT64, [1], [1]),
    }
    return helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["floats", "axes"], ["means"], keepdims=0),
            helper.make_node("Slice", ["means", "first", "one", "one"], ["mean"]),
            helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
            helper.make_node("Add", ["nothing", "scores"], ["probabilities"]),
            helper.make_node("Add", ["nothing", "places"], ["embedding"]),
        ],
        "two_boxes",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 32, 32, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 2]),
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", num_numbers]),
        ],
        [helper.make_tensor(name, *rest) for name, rest in constants.items()],
    )


def detector_metadata(colours: Metadata) -> Metadata:
    golden = Golden(
        colours.golden.image, np.array([0.9, 0.2], np.float32), colours.golden.tolerance
    )
    return replace(
        colours, task=Task.DETECTION, labels=("face",), golden=golden, alert_labels=(),
        macro_labels={},
    )  # fmt: skip


def test_a_detector_has_a_score_and_four_numbers_for_each_box(
    tmp_path: Path, bundles: BundleMaker
) -> None:
    model = bundles.model(detector_metadata(bundles.metadata()), two_boxes())
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    detector = load_bundle(path, "cpu", tasks={Task.DETECTION})
    scores, boxes = detector.predict_and_embed(np.zeros((3, 32, 32, 3), np.uint8))
    assert scores.shape == (3, 2)
    assert boxes.shape == (3, 8)
    assert boxes[2, 4:] == pytest.approx([0.5, 0.6, 0.7, 0.8])


def test_only_a_classifier_is_taken_for_one(tmp_path: Path, bundles: BundleMaker) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(
        bundles.model(detector_metadata(bundles.metadata()), two_boxes()).SerializeToString()
    )
    with pytest.raises(BundleError, match="for detection; expected one for multiclass or multi"):
        load_bundle(path, "cpu")
    path.write_bytes(bundles.model(bundles.metadata()).SerializeToString())
    with pytest.raises(BundleError, match="for multiclass; expected one for detection"):
        load_bundle(path, "cpu", tasks={Task.DETECTION})


def test_boxes_must_fit_the_scores(bundles: BundleMaker) -> None:
    model = bundles.model(detector_metadata(bundles.metadata()), two_boxes(num_numbers=7))
    with pytest.raises(BundleError, match="2 scores for 7 numbers"):
        check_model(model)


def test_the_crop_is_kept_and_older_bundles_have_none(bundles: BundleMaker) -> None:
    metadata: Metadata = bundles.metadata()
    assert metadata.crop is None
    assert "limelens.crop" not in metadata.to_props()
    cropped = replace(metadata, crop=0.35)
    assert Metadata.from_props(cropped.to_props()).crop == 0.35


@pytest.mark.parametrize("crop", [-0.1, 2.5, float("nan"), "wide"])
def test_impossible_crops_are_refused(bundles: BundleMaker, crop: Any) -> None:
    with pytest.raises(BundleError, match="crop"):
        replace(bundles.metadata(), crop=crop)
