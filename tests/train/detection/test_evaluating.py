from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.train.detection.evaluating import choose_threshold, examine, match, table
from limelens.train.detection.frames import Boxes, Frame, Pixels, no_boxes

FACES = np.array([[0, 0, 30, 40], [100, 0, 160, 60]], dtype=np.float32)


def finding(boxes: list[list[float]], scores: list[float]):  # type: ignore[no-untyped-def]
    """A detector that always says the same."""

    def find(_: Pixels) -> tuple[Boxes, NDArray[np.float32]]:
        return np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32)

    return find


def frame(unsure: Boxes | None = None) -> Frame:
    image = np.zeros((100, 200, 3), dtype=np.uint8)
    return Frame(image, FACES, no_boxes() if unsure is None else unsure, np.array([True, False]))


def test_face_is_found_by_its_best_box() -> None:
    boxes = np.array([[1, 1, 31, 41], [0, 0, 30, 40], [50, 50, 60, 60]], dtype=np.float32)
    scores = np.array([0.5, 0.9, 0.8], dtype=np.float32)
    assert match(boxes, scores, FACES).tolist() == [1, -1]


def test_recall_is_by_size_and_mask() -> None:
    found = examine(finding([[0, 0, 30, 40]], [0.6]), [frame()])
    assert found.recall(0.5) == 0.5
    assert found.recall(0.5, masked=True) == 1
    assert found.recall(0.5, masked=False) == 0
    assert found.recall(0.5, 32, 48) == 1
    assert found.recall(0.7, 32, 48) == 0
    assert np.isnan(found.recall(0.5, 96, 200))


def test_second_box_of_a_face_is_false() -> None:
    boxes: list[list[float]] = [[0, 0, 30, 40], [0, 12, 30, 52]]
    found = examine(finding(boxes, [0.9, 0.4]), [frame()])
    assert found.false_per_frame(0.3) == 1
    assert found.false_per_frame(0.5) == 0


def test_box_where_nobody_knows_is_not_false() -> None:
    box: list[float] = [60, 60, 80, 80]
    unsure = np.array([box], dtype=np.float32)
    assert examine(finding([box], [0.9]), [frame(unsure)]).false_per_frame(0.5) == 0
    assert examine(finding([box], [0.9]), [frame()]).false_per_frame(0.5) == 1


def test_threshold_is_the_lowest_that_all_findings_allow() -> None:
    one = examine(finding([[60, 60, 80, 80]], [0.425]), [frame()])
    other = examine(finding([[60, 60, 80, 80]], [0.315]), [frame()])
    assert choose_threshold([other], 0) == pytest.approx(0.32)
    assert choose_threshold([one, other], 0) == pytest.approx(0.43)
    assert choose_threshold([one, other], 1) == pytest.approx(0.2)
    sure = examine(finding([[60, 60, 80, 80]], [0.99]), [frame()])
    assert choose_threshold([sure], 0) == pytest.approx(0.95)


def test_table_has_a_row_for_each_detector() -> None:
    found = examine(finding([[0, 0, 30, 40]], [0.6]), [frame()])
    lines = table([("own", found, 0.5), ("other", found, 0.7)]).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| own | nan | 1.000 |")
    assert lines[3].startswith("| other | nan | 0.000 |")
