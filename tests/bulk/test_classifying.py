from __future__ import annotations

import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper
from PIL import Image
from tests.bulk.collection import BAD, GOOD, answers, read_images, rows_of, write_images
from tests.conftest import BundleMaker
from tests.detectors import BLUE, GREEN, MAGENTA, RED, frame_of, save_detector

from limelens.bulk.classifying import classify_work
from limelens.bulk.work import BulkImage
from limelens.serve.bundle import Task
from limelens.serve.errors import BundleError, InvalidRequestError
from limelens.serve.faces.options import FaceOptions
from limelens.serve.image import Region

REGION = Region(0.25, 0.0, 0.75, 0.6)
TOLERANCE = 1e-5
"""Sums of float32 numbers depend a little on how many images run together."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"))


def check_equal(rows: list[Any], expected: list[Any]) -> None:
    """Rows of the table against the documents of `limelens classify --json`."""
    assert [row["path"] for row in rows] == [one["path"] for one in expected]
    for row, one in zip(rows, expected, strict=True):
        if "error" in one:
            assert row["error"] == one["error"]
            assert row["error_code"]
            assert row["decision"] is row["probabilities"] is row["alert"] is None
            continue
        assert row["error"] is row["error_code"] is None
        same = ("decision", "label", "labels", "alert", "macro_label", "model", "version")
        assert {key: row[key] for key in same} == {key: one[key] for key in same}
        assert row["threshold"] == pytest.approx(one["threshold"])
        scores = [(score["label"], score["probability"]) for score in one["scores"]]
        assert [label for label, _ in row["probabilities"]] == [label for label, _ in scores]
        assert [p for _, p in row["probabilities"]] == pytest.approx(
            [p for _, p in scores], abs=TOLERANCE
        )


@pytest.mark.parametrize("name", ["colours/1", "colours/2", "tags/1"])
def test_rows_say_what_classify_says_of_the_same_files(
    models: Path, folder: Path, name: str
) -> None:
    model = models / name / "model.onnx"
    rows = rows_of(classify_work(model), read_images(folder))
    assert (len(rows), sum(row["error"] is not None for row in rows)) == (GOOD + BAD, BAD)
    check_equal(rows, answers("classify", folder, "--model", model))


def test_options_are_those_of_classify(models: Path, folder: Path) -> None:
    model = models / "colours" / "1"
    spec = classify_work(model, region=REGION, top_k=2, threshold=0.8)
    options = ("--region", "0.25,0,0.75,0.6", "--top-k", 2, "--threshold", 0.8)
    check_equal(
        rows_of(spec, read_images(folder)), answers("classify", folder, "--model", model, *options)
    )


def test_hostile_files_say_what_classify_says(models: Path, data_folder: Path) -> None:
    model = models / "colours" / "1"
    rows = rows_of(classify_work(model), read_images(data_folder / "badimages"))
    codes = {Path(row["path"]).name: row["error_code"] for row in rows}
    assert codes["bomb_12000.png"] == "IMAGE_TOO_LARGE"
    assert codes["truncated_half.jpg"] == "INVALID_IMAGE"
    check_equal(rows, answers("classify", data_folder / "badimages", "--model", model))


def test_an_image_that_could_not_be_read_is_a_row_with_the_reason(models: Path) -> None:
    images = [BulkImage("gone.jpg", None, "No such file or directory")]
    (row,) = rows_of(classify_work(models / "colours" / "1"), images)
    assert row["error_code"] == "UNREADABLE"
    assert row["error"] == "No such file or directory"
    assert (row["model"], row["version"]) == ("colours", 1)


def test_an_image_has_the_same_row_in_any_company(models: Path, folder: Path) -> None:
    images, spec = read_images(folder), classify_work(models / "colours" / "1")
    together = rows_of(spec, images, num_threads=3)
    work = spec.open(1)
    alone = [row for image in images for row in work([image])]
    assert work([]) == []
    for one, other in zip(
        pa.Table.from_pylist(alone, spec.schema).to_pylist(), together, strict=True
    ):
        ours, theirs = one.pop("probabilities"), other.pop("probabilities")
        assert one == other
        if ours is not None:
            assert dict(ours) == pytest.approx(dict(theirs), abs=TOLERANCE)


def test_only_the_image_whose_numbers_are_not_finite_has_an_error(
    tmp_path: Path, bundles: BundleMaker
) -> None:
    graph = bundles.graph(Task.MULTICLASS)
    # 0/0 for a black image, and for no other.
    graph.node[1].input[:] = ["floats", "divisor"]
    graph.node.insert(1, helper.make_node("Mul", ["most", "any"], ["divisor"]))
    graph.node.insert(1, helper.make_node("Sign", ["brightest"], ["any"]))
    graph.node.insert(
        1, helper.make_node("ReduceMax", ["floats", "sides"], ["brightest"], keepdims=1)
    )
    graph.initializer.append(helper.make_tensor("sides", TensorProto.INT64, [3], [1, 2, 3]))
    path = tmp_path / "model.onnx"
    onnx.save(bundles.model(bundles.metadata(), graph), path)
    images = [BulkImage(f"{level}", _png((level, 0, 0))) for level in (200, 0, 180, 190, 170)]
    rows = rows_of(classify_work(path), images, num_threads=1)
    assert [row["error_code"] for row in rows] == [
        None, "MODEL_OUTPUT_NOT_FINITE", None, None, None,
    ]  # fmt: skip
    assert [row["label"] for row in rows] == ["red", None, "red", "red", "red"]


def test_the_worst_face_decides_as_in_classify(models: Path, tmp_path: Path) -> None:
    detector = save_detector(tmp_path)
    squares = [(40, 80, 40, BLUE), (560, 0, 80, MAGENTA), (320, 160, 160, GREEN)]
    for name, more in {"alert": [(0, 320, 80, RED)], "calm": []}.items():
        Image.fromarray(frame_of([*squares, *more])).save(tmp_path / f"{name}.png")
    Image.fromarray(frame_of()).save(tmp_path / "nobody.png")
    (tmp_path / "page.jpg").write_bytes(b"<html>")
    model = models / "colours" / "1"
    spec = classify_work(model, faces=True, face_detector=str(detector))
    rows = rows_of(spec, read_images(tmp_path))
    assert [row["decision"] for row in rows] == ["label", "abstained", "no_face", None]
    expected = answers(
        "classify", tmp_path, "--model", model, "--faces", "--face-detector", detector
    )
    check_equal(rows, expected)
    for row, one in zip(rows[:3], expected[:3], strict=True):
        assert len(row["faces"]) == len(one["faces"])
        for face, other in zip(row["faces"], one["faces"], strict=True):
            same = ("box", "box_px", "decision", "label", "alert", "issue")
            assert {key: face[key] for key in same} == {key: other[key] for key in same}


def test_a_spec_travels_whole_and_is_equal_to_itself(
    tmp_path: Path, bundles: BundleMaker, folder: Path
) -> None:
    path = bundles.save(tmp_path, bundles.metadata(), 3)
    spec = classify_work(path, region=REGION, threshold=0.6)
    path.unlink()  # workers on other machines have no such file
    sent = pickle.loads(pickle.dumps(spec))
    assert sent == spec
    assert sent.fingerprint() == spec.fingerprint()
    assert {row["version"] for row in rows_of(sent, read_images(folder))} == {3}


def test_the_fingerprint_changes_with_whatever_changes_rows(models: Path, tmp_path: Path) -> None:
    model, detector = models / "colours" / "1", str(save_detector(tmp_path / "one"))
    other = str(save_detector(tmp_path / "other", threshold=0.4))
    specs = [
        classify_work(model),
        classify_work(models / "colours" / "2"),
        classify_work(models / "tags" / "1"),
        classify_work(model, top_k=1),
        classify_work(model, threshold=0.6),
        classify_work(model, region=REGION),
        classify_work(model, faces=FaceOptions(), face_detector=detector),
        classify_work(model, faces=FaceOptions(min_size_px=50), face_detector=detector),
        classify_work(model, faces=FaceOptions(), face_detector=other),
    ]
    assert len({spec.fingerprint() for spec in specs}) == len(specs)
    assert classify_work(model, device="cpu").fingerprint() == specs[0].fingerprint()


def test_wrong_options_and_models_are_refused_before_anything_runs(
    models: Path, tmp_path: Path, bundles: BundleMaker
) -> None:
    model = models / "colours" / "1"
    with pytest.raises(InvalidRequestError, match="top_k: 4; expected 1 to 3"):
        classify_work(model, top_k=4)
    with pytest.raises(InvalidRequestError, match="threshold: 2; expected 0 to 1"):
        classify_work(model, threshold=2)
    with pytest.raises(InvalidRequestError, match=r"faces\.max_faces: 99; expected 1 to 20"):
        classify_work(model, faces=FaceOptions(max_faces=99))
    with pytest.raises(BundleError, match="No such file"):
        classify_work(tmp_path / "nothing.onnx")
    metadata = bundles.metadata()
    wrong = replace(metadata.golden, probabilities=np.array([0, 0, 1], np.float32))
    path = bundles.save(tmp_path, replace(metadata, golden=wrong))
    with pytest.raises(BundleError, match="golden vector is missed"):
        classify_work(path)


def _png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), colour).save(file, "PNG")
    return file.getvalue()
