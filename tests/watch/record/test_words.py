"""Where segments are, in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.watch.record.made import explanation, grid, png

from limelens.serve.client.results import SegmentWeight, ServedExplanation
from limelens.serve.decisions.decision import Decision, FacePrediction, Prediction
from limelens.serve.image import UNSEEN, Region
from limelens.watch.record.words import doubts, strongest_regions


def explained(
    segments: NDArray[np.uint16],
    weights: dict[int, float],
    face: Region | None = None,
    **changes: Any,
) -> ServedExplanation:
    found = explanation("x").explanation
    assert found is not None
    (one,) = found.explanations
    weighted = tuple(SegmentWeight(*pair, std_error=0.01) for pair in weights.items())
    nobody = Prediction(Decision.ABSTAINED, None, (), False, (), 0.5, None)
    return replace(
        found,
        explanations=(replace(one, weights=weighted, **changes),),
        segments_png=png(segments),
        face=None if face is None else FacePrediction(face, 0.9, nobody),
    )


def sentences(found: ServedExplanation) -> list[str]:
    return [one.sentence for one in strongest_regions(found, found.explanations[0], 9)]


def test_a_segment_is_named_by_its_place_and_what_it_speaks_for() -> None:
    assert sentences(explained(grid(90, 90), {7: 0.25, 0: -0.1, 4: 0.05})) == [
        "lower middle of the image: +0.25 for without_mask",
        "upper left of the image: -0.10 against without_mask",
        "middle of the image: +0.05 for without_mask",
    ]
    contrast = explained(grid(90, 90), {5: -0.2}, against="with_mask")
    assert sentences(contrast) == ["middle right of the image: -0.20 for with_mask"]


def test_weights_that_print_as_zero_name_no_region() -> None:
    assert sentences(explained(grid(90, 90), {7: 0.25, 0: 4e-4, 4: -1e-9})) == [
        "lower middle of the image: +0.25 for without_mask"
    ]
    none = explained(grid(90, 90), {7: -4e-4, 0: 1e-9})
    assert sentences(none) == []
    assert "No region's weight" in " ".join(doubts(none, none.explanations[0]))


def test_places_are_those_of_the_face_if_there_is_one() -> None:
    # The face is the middle cell: its neighbours lie outside, and a part of it within.
    segments = grid(90, 90)
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
    found = explained(grid(90, 90), {1: weight}, score=score, stability=stability)
    (doubt,) = doubts(found, found.explanations[0])
    assert says in doubt


def test_a_good_explanation_raises_no_doubt() -> None:
    found = explained(grid(90, 90), {1: 0.3})
    assert doubts(found, found.explanations[0]) == ()
