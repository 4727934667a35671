"""Boxes of faces."""

from __future__ import annotations

import numpy as np
import pytest

from limelens.serve.faces.boxes import Face, overlaps, suppress_repeats
from limelens.serve.image import Region


def test_overlap_is_intersection_over_union() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30]], np.float32)
    found = overlaps(boxes[:1], boxes)
    assert found == pytest.approx(np.array([[1.0, 50 / 150, 0.0]]))


def test_of_boxes_that_overlap_the_best_stays() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 1, 11, 11], [30, 0, 40, 10], [2, 2, 12, 12]], np.float32)
    scores = np.array([0.6, 0.9, 0.5, 0.8], np.float32)
    assert suppress_repeats(boxes, scores).tolist() == [1, 2]


def test_neighbours_that_hardly_overlap_both_stay() -> None:
    boxes = np.array([[0, 0, 10, 10], [8, 0, 18, 10]], np.float32)
    assert suppress_repeats(boxes, np.array([0.6, 0.9], np.float32)).tolist() == [1, 0]


def test_no_boxes_stay_of_none() -> None:
    assert not len(suppress_repeats(np.empty((0, 4)), np.empty(0)))


def test_the_part_around_a_face_is_widened_and_cut_at_the_edges() -> None:
    face = Face(10, 40, 30, 60, 0.9)
    assert face.region(0.5, 100, 200) == Region(0.0, 0.3, 0.2, 0.7)
    assert face.region(0.0, 100, 200).box(100, 200) == (10, 40, 30, 60)
    assert Face(-50, -50, -10, -10, 0.9).region(0.0, 100, 200).box(100, 200) == (0, 0, 1, 1)
    beyond = Face(300, 300, 310, 310, 0.9).region(0.0, 100, 200).box(100, 200)
    assert beyond == (199, 99, 200, 100)


def test_the_visible_share_is_that_of_the_box_within_the_image() -> None:
    assert Face(10, 10, 30, 30, 0.9).visible_share(100, 100) == 1.0
    assert Face(-10, -10, 10, 10, 0.9).visible_share(100, 100) == 0.25
    assert Face(-30, 0, -10, 20, 0.9).visible_share(100, 100) == 0.0
