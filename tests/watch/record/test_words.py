"""Where segments are, in words."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from limelens.serve.client.results import (
    ExplanationTimings,
    LabelExplanation,
    ModelRef,
    SegmentWeight,
    ServedExplanation,
)
from limelens.serve.decisions.decision import Decision, FacePrediction, Prediction
from limelens.serve.image import UNSEEN, Region
from limelens.watch.record.words import doubts, strongest_regions


def explained(
    segments: NDArray[np.uint16],
    weights: dict[int, float],
    face: Region | None = None,
    against: str | None = None,
    score: float = 0.9,
    stability: float = 0.95,
) -> ServedExplanation:
    file = io.BytesIO()
    Image.fromarray(segments).save(file, "PNG")
    one = LabelExplanation(
        label="without_mask",
        probability=0.9,
        intercept=0.1,
        local_prediction=0.9,
        score=score,
        stability=stability,
        weights=tuple(SegmentWeight(*pair, std_error=0.01) for pair in weights.items()),
        overlay_png=b"",
        heat_map_png=b"",
        against=against,
    )
    nobody = Prediction(Decision.ABSTAINED, None, (), False, (), 0.5, None)
    return ServedExplanation(
        explanations=(one,),
        num_segments=len(weights),
        num_samples=100,
        seed=1,
        warnings=(),
        segments_png=file.getvalue(),
        model=ModelRef("facemask", 2, "CPUExecutionProvider"),
        timings_ms=ExplanationTimings(1, 1, 1, 1, 4),
        face=None if face is None else FacePrediction(face, 0.9, nobody),
    )


def grid(height: int = 90, width: int = 90) -> NDArray[np.uint16]:
    """Nine segments, row by row."""
    rows, columns = np.mgrid[0:3, 0:3]
    cells = (3 * rows + columns).astype(np.uint16)
    return np.kron(cells, np.ones((height // 3, width // 3), np.uint16))


def sentences(found: ServedExplanation) -> list[str]:
    return [one.sentence for one in strongest_regions(found, found.explanations[0], 9)]


def test_a_segment_is_named_by_its_place_and_what_it_speaks_for() -> None:
    assert sentences(explained(grid(), {7: 0.25, 0: -0.1, 4: 0.05})) == [
        "lower middle of the image: +0.25 for without_mask",
        "upper left of the image: -0.10 against without_mask",
        "middle of the image: +0.05 for without_mask",
    ]
    contrast = explained(grid(), {5: -0.2}, against="with_mask")
    assert sentences(contrast) == ["middle right of the image: -0.20 for with_mask"]


def test_places_are_those_of_the_face_if_there_is_one() -> None:
    # The face is the middle cell: its neighbours lie outside, and a part of it within.
    segments = grid()
    segments[52:60, 40:50] = 9
    face = Region(1 / 3, 1 / 3, 2 / 3, 2 / 3)
    found = explained(segments, {9: 0.3, 1: 0.2, 7: 0.1, 3: 0.1, 5: 0.1, 4: 0.1}, face)
    assert [one.partition(":")[0] for one in sentences(found)] == [
        "lower middle of the face",
        "above the face",
        "below the face",
        "left of the face",
        "right of the face",
        "most of the face",
    ]


def test_a_background_around_the_middle_is_not_the_middle() -> None:
    segments = np.zeros((90, 90), np.uint16)
    segments[20:70, 20:70] = 1
    assert sentences(explained(segments, {0: 0.2, 1: 0.1})) == [
        "edges of the image: +0.20 for without_mask",
        "middle of the image: +0.10 for without_mask",
    ]


def test_what_the_model_never_saw_does_not_count() -> None:
    segments = np.full((100, 200), UNSEEN, np.uint16)
    segments[10:55, 100:190] = grid(45, 90)
    assert sentences(explained(segments, {6: 0.4, 77: 0.3})) == [
        "lower left of the region: +0.40 for without_mask"
    ]


@pytest.mark.parametrize(
    ("score", "stability", "weight", "says"),
    [
        (0.2, 0.9, 0.3, "fit"),
        (float("nan"), 0.9, 0.3, "fit"),
        (0.9, 0.4, 0.3, "stability"),
        (0.9, 0.9, 0.015, "No region's weight"),
    ],
)
def test_a_doubtful_explanation_says_why(
    score: float, stability: float, weight: float, says: str
) -> None:
    found = explained(grid(), {1: weight}, score=score, stability=stability)
    (doubt,) = doubts(found, found.explanations[0])
    assert says in doubt


def test_a_good_explanation_raises_no_doubt() -> None:
    found = explained(grid(), {1: 0.3})
    assert doubts(found, found.explanations[0]) == ()
