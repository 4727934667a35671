"""Bundles measured on the faces of whole photographs, found by a real detector."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tests.detectors import BLUE, GREEN, RED, Square, frame_of, save_detector

from limelens.serve.errors import BundleError
from limelens.serve.faces.options import FaceOptions
from limelens.train import DataError, evaluate
from limelens.train.evaluation.faces import FaceChoice, WhichFace

SMALL, LARGE = (40, 80, 40), (320, 160, 160)
"""Places in a frame of 480x640 where the detector finds squares: left, top, side."""


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return save_detector(tmp_path / "detector")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Large faces of their label's colour; small red ones beside them; one image of nobody."""
    frames: dict[str, list[Square]] = {
        "red/alone": [(*LARGE, RED)],
        "green/alone": [(*LARGE, GREEN)],
        "green/beside": [(*LARGE, GREEN), (*SMALL, RED)],
        "blue/alone": [(*LARGE, BLUE)],
        "blue/nobody": [],
    }
    for name, squares in frames.items():
        path = tmp_path / "photographs" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame_of(squares)).save(path)
    tiny = frame_of([(20, 20, 10, BLUE)], 120, 160)
    Image.fromarray(tiny).save(tmp_path / "photographs" / "blue" / "tiny.png")
    return tmp_path / "photographs"


@pytest.mark.parametrize(("which", "accuracy"), [("largest", 1.0), ("worst", 0.75)])
def test_one_face_of_each_photograph_is_measured(
    one_model: Path, detector: Path, photographs: Path, which: WhichFace, accuracy: float
) -> None:
    bundle = one_model / "colours" / "1"
    choice = FaceChoice(which, detector, FaceOptions(min_size_px=8))
    found = evaluate(bundle, photographs, faces=choice)
    assert found["num_images"] == 4
    assert found["accuracy"] == accuracy
    faces = found["faces"]
    assert (faces["which"], faces["detector"]) == (which, str(detector))
    assert [Path(path).name for path in faces["not_found"]] == ["nobody.png"]
    assert [Path(path).name for path in faces["not_judged"]] == ["tiny.png"]


def test_whole_images_are_measured_as_before(one_model: Path, photographs: Path) -> None:
    found = evaluate(one_model / "colours" / "1", photographs)
    assert found["num_images"] == 6
    assert "faces" not in found


def test_what_cannot_be_measured_is_said(
    one_model: Path, detector: Path, photographs: Path, tmp_path: Path
) -> None:
    bundle = one_model / "colours" / "1"
    choice = FaceChoice("largest", detector, FaceOptions(min_size_px=400))
    with pytest.raises(DataError, match="no face is found, and can be judged, in 6 images"):
        evaluate(bundle, photographs, faces=choice)
    with pytest.raises(BundleError, match=r"nothing\.onnx"):
        evaluate(bundle, photographs, faces=FaceChoice(detector=tmp_path / "nothing.onnx"))
    with pytest.raises(DataError, match="is no bundle; faces are classified by bundles"):
        evaluate(tmp_path, photographs, faces=FaceChoice(detector=detector))
