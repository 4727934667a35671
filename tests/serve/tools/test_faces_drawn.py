"""Boxes and decisions drawn on a frame."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.serve.decisions.decision import (
    Decision,
    FaceIssue,
    FacePrediction,
    Prediction,
    Score,
)
from limelens.serve.image import Region
from limelens.serve.tools.faces.drawing import describe, draw_faces

UNKNOWN = Prediction(Decision.ABSTAINED, None, (), False, (), 0.5, None)
BARE = Prediction(Decision.LABEL, "bare", (), True, (Score("bare", 0.875),), 0.5, None)
MASKED = Prediction(Decision.LABEL, "masked", (), False, (Score("masked", 0.75),), 0.5, None)
TAGS = Prediction(Decision.LABEL, None, ("hat", "mask"), False, (Score("hat", 0.9),), 0.0, None)
BOX = Region(0.25, 0.25, 0.5, 0.5)


def frame(faces: list[FacePrediction], size: tuple[int, int] = (480, 640)) -> NDArray[np.uint8]:
    prediction = Prediction(Decision.LABEL, None, (), False, (), 0.5, None, (), tuple(faces))
    return draw_faces(np.full((*size, 3), 200, np.uint8), prediction)


def colour(prediction: Prediction) -> list[int]:
    """Of the box's left edge."""
    drawn = frame([FacePrediction(BOX, 0.9, prediction, alert=prediction.alert)])
    return drawn[180, 160].tolist()  # type: ignore[no-any-return]


def test_an_alert_is_red_what_is_unknown_grey_and_the_rest_green() -> None:
    red, green, blue = colour(BARE)
    assert red > 2 * max(green, blue)
    red, green, blue = colour(MASKED)
    assert green > 1.5 * max(red, blue)
    red, green, blue = colour(UNKNOWN)
    assert red == green == blue
    assert colour(TAGS) == colour(MASKED)


@pytest.mark.parametrize(
    ("face", "text"),
    [
        (FacePrediction(BOX, 0.9, BARE, alert=True), "bare 0.88"),
        (FacePrediction(BOX, 0.9, TAGS), "hat, mask"),
        (FacePrediction(BOX, 0.9, UNKNOWN), "unknown"),
        (FacePrediction(BOX, 0.9, UNKNOWN, issue=FaceIssue.CUT_OFF), "unknown, cut off"),
        (FacePrediction(BOX, 0.9, BARE, person=3), "3: unknown"),
        (FacePrediction(BOX, 0.9, BARE, person=3, smoothed_label="masked"), "3: masked"),
        (
            FacePrediction(BOX, 0.9, UNKNOWN, person=4, issue=FaceIssue.TOO_SMALL),
            "4: unknown, too small",
        ),
    ],
)
def test_a_face_is_described_in_a_few_words(face: FacePrediction, text: str) -> None:
    assert describe(face) == text


def test_words_stay_in_the_frame_and_do_not_cover_each_other() -> None:
    boxes = [
        Region(0, 0, 0.2, 0.2), Region(0.9, 0, 1, 0.2), Region(0, 0.8, 0.1, 1),
        Region(0.9, 0.9, 1, 1), Region(0.4, 0.4, 0.5, 0.5), Region(0.41, 0.4, 0.51, 0.5),
    ]  # fmt: skip
    faces = [FacePrediction(box, 0.9, MASKED) for box in boxes]
    plain, drawn = frame([]), frame(faces)
    white = np.all(drawn == 255, axis=2).sum()
    alone = [np.all(frame([face]) == 255, axis=2).sum() for face in faces]
    # As much of the words is seen as if each were drawn alone, but for a few crossing lines.
    assert white > 0.9 * sum(alone)
    assert drawn.shape == plain.shape


def test_a_small_frame_is_enlarged_and_an_empty_one_is_left_alone() -> None:
    assert frame([FacePrediction(BOX, 0.9, BARE)], (60, 80)).shape == (480, 640, 3)
    assert frame([], (1, 1)).shape == (640, 640, 3)
    assert np.all(frame([], (700, 900)) == 200)
