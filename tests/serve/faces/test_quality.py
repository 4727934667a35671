"""Which faces can be judged."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from limelens.serve.decisions.decision import FaceIssue
from limelens.serve.faces.boxes import Face
from limelens.serve.faces.quality import QualityGate, sharpness

FRAME = np.random.default_rng(3).integers(0, 256, (200, 300, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("face", "issue"),
    [
        (Face(50, 50, 90, 90, 0.9), None),
        (Face(50, 50, 70, 70, 0.9), FaceIssue.TOO_SMALL),
        (Face(50, 50, 60, 90, 0.9), None),  # the longer side counts
        (Face(-20, 50, 20, 90, 0.9), FaceIssue.CUT_OFF),
        (Face(-5, 50, 35, 90, 0.9), None),
        (Face(290, 190, 340, 240, 0.9), FaceIssue.CUT_OFF),
    ],
)
def test_small_and_cut_off_faces_are_not_judged(face: Face, issue: FaceIssue | None) -> None:
    assert QualityGate().issue(face, FRAME) is issue


def test_a_blurred_face_is_less_sharp_and_can_be_refused() -> None:
    face = Face(50, 50, 150, 150, 0.9)
    blurred = np.asarray(Image.fromarray(FRAME).filter(ImageFilter.GaussianBlur(6)))
    sharp, soft = sharpness(face, FRAME), sharpness(face, blurred)
    assert sharp > 3 * soft
    gate = QualityGate(min_sharpness=(sharp + soft) / 2)
    assert gate.issue(face, FRAME) is None
    assert gate.issue(face, blurred) is FaceIssue.BLURRED


def test_dim_light_does_not_pass_for_blur() -> None:
    face = Face(50, 50, 150, 150, 0.9)
    assert sharpness(face, FRAME // 4) == pytest.approx(sharpness(face, FRAME), rel=0.05)


def test_a_face_without_contrast_is_not_blurred() -> None:
    face, even = Face(10, 10, 60, 60, 0.9), np.full((80, 80, 3), 90, np.uint8)
    assert sharpness(face, even) == 1.0
    assert QualityGate().issue(face, even) is None


def test_the_default_gate_refuses_what_has_no_details() -> None:
    face = Face(50, 50, 150, 150, 0.9)
    ramp = np.broadcast_to(np.linspace(0, 255, 300)[:, np.newaxis], (200, 300, 3)).astype(np.uint8)
    assert QualityGate().issue(face, FRAME) is None
    assert QualityGate().issue(face, ramp) is FaceIssue.BLURRED
