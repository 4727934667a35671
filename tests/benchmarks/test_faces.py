"""Frames with known faces, and what is counted of them; no test asserts how good a detector is."""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from benchmarks.faces.cost import with_people
from benchmarks.faces.degraded import SIZES, cut, smaller
from benchmarks.faces.frames import HEIGHT, WIDTH, Condition, Frame, TrueFace, drawn, empty, pasted
from benchmarks.faces.outcomes import FalseFace, Outcome, Outcomes, is_right, matches, outcomes
from benchmarks.faces.sources import LABELS, Portrait, backgrounds, portraits
from numpy.typing import NDArray
from PIL import Image
from tests.detectors import frame_of, save_detector

from limelens.serve.bundle import load_bundle
from limelens.serve.decisions.decision import FaceIssue
from limelens.serve.errors import LimelensError
from limelens.serve.faces.boxes import Face
from limelens.serve.faces.detector import load_detector
from limelens.serve.faces.quality import QualityGate

DATA = os.environ.get("LIMELENS_DATA")
RED, BLUE = (230, 20, 20), (20, 20, 230)


@pytest.fixture
def green(tmp_path: Path) -> list[Path]:
    path = tmp_path / "green.png"
    Image.new("RGB", (300, 200), (20, 160, 20)).save(path)
    return [path]


def flags() -> list[Portrait]:
    """Blue images whose face is red, at another place for each label."""
    found = []
    for label, box in zip(LABELS, ((10, 30, 70, 110), (50, 20, 110, 100)), strict=True):
        pixels = np.full((140, 120, 3), BLUE, np.uint8)
        pixels[box[1] : box[3], box[0] : box[2]] = RED
        found.append(Portrait(pixels, box, label))
    return found


def some_frames(green: list[Path], count: int = 25) -> list[Frame]:
    return [pasted(np.random.default_rng(i), flags(), green, (40, 120)) for i in range(count)]


def is_red(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    red, green, blue = np.moveaxis(pixels.astype(int), -1, 0)
    return np.asarray((red > 1.25 * green) & (red > 1.25 * blue) & (red > 40))


def test_pasted_faces_are_where_the_frame_says(green: list[Path]) -> None:
    for frame in some_frames(green):
        assert frame.pixels.shape == (HEIGHT, WIDTH, 3)
        red = is_red(frame.pixels)
        outside = np.ones(red.shape, bool)
        for face in frame.faces:
            left, top, right, bottom = (round(side) for side in face.box)
            x, y = (left + right) // 2, (top + bottom) // 2
            if face.condition is not Condition.RIM:
                assert red[y - 5 : y + 5, x - 5 : x + 5].mean() > 0.9
            if face.condition is Condition.PLAIN:
                box = red[max(0, top) : bottom, max(0, left) : right]
                assert box.mean() > 0.8
            outside[max(0, top - 6) : bottom + 6, max(0, left - 6) : max(0, right + 6)] = False
        assert red[outside].mean() < 0.001


def test_faces_have_the_sizes_that_were_asked_for_and_do_not_overlap(green: list[Path]) -> None:
    for frame in some_frames(green):
        assert 1 <= len(frame.faces) <= 8
        for face in frame.faces:
            assert 39 <= face.size_px <= 121
        for one, other in combinations(frame.faces, 2):
            assert (
                one.box[2] <= other.box[0] + 1
                or other.box[2] <= one.box[0] + 1
                or one.box[3] <= other.box[1] + 1
                or other.box[3] <= one.box[1] + 1
            )


def test_only_faces_at_the_rim_reach_out_of_the_frame(green: list[Path]) -> None:
    faces = [face for frame in some_frames(green, 60) for face in frame.faces]
    assert {face.condition for face in faces} == {*Condition}
    for face in faces:
        left, top, right, bottom = face.box
        reaches_out = left < -1 or top < -1 or right > WIDTH + 1 or bottom > HEIGHT + 1
        assert reaches_out == (face.condition is Condition.RIM)


def test_both_labels_are_equally_frequent(green: list[Path]) -> None:
    labels = [face.label for frame in some_frames(green, 60) for face in frame.faces]
    assert 0.4 < labels.count(LABELS[0]) / len(labels) < 0.6


def test_a_frame_follows_from_its_seed(green: list[Path]) -> None:
    first, again, other = (pasted(np.random.default_rng(i), flags(), green) for i in (3, 3, 4))
    assert first.faces == again.faces
    assert np.array_equal(first.pixels, again.pixels)
    assert first.faces != other.faces


def test_drawn_people_are_in_their_own_part_of_the_frame() -> None:
    for seed in range(4):
        frame, again = (drawn(np.random.default_rng(seed), (40, 150)) for _ in range(2))
        assert frame.faces == again.faces
        width = WIDTH // len(frame.faces)
        for index, face in enumerate(frame.faces):
            centre = (face.box[0] + face.box[2]) / 2
            assert index * width < centre < (index + 1) * width
            assert 25 < face.size_px < 190


def test_a_frame_without_anybody_has_no_face(green: list[Path]) -> None:
    frame = empty(np.random.default_rng(0), green)
    assert frame.faces == ()
    assert not is_red(frame.pixels).any()


def test_each_box_is_that_of_one_face_at_most() -> None:
    true = [TrueFace((0, 0, 100, 100), LABELS[0]), TrueFace((50, 0, 150, 100), LABELS[1])]
    shared = Face(40, 0, 140, 100, 0.9)
    assert matches(true, [shared]) == [None, 0]
    assert matches(true, [shared, Face(5, 0, 80, 100, 0.3)]) == [1, 0]
    assert matches(true, [Face(300, 0, 400, 100, 0.9)]) == [None, None]
    assert matches([], [shared]) == []
    assert matches(true, []) == [None, None]


def test_what_is_under_the_threshold_is_not_found() -> None:
    face = TrueFace((0, 0, 40, 60), LABELS[1])
    seen = Outcome(face, 0.8, labels={0.35: LABELS[1], 0.5: LABELS[0]})
    counted = Outcomes(
        0.5, 4, [seen, Outcome(face, 0.4), Outcome(face, 0.0)],
        [FalseFace(0.9, LABELS[1]), FalseFace(0.2, LABELS[1])],
    )  # fmt: skip
    assert counted.found() == [seen]
    assert counted.false_per_frame() == 0.25
    assert counted.false_per_frame(0.1) == 0.5
    assert is_right(seen, 0.35)
    assert not is_right(seen, 0.5)


def test_detector_gate_and_classifier_are_counted_as_they_serve(
    tmp_path: Path, one_model: Path
) -> None:
    detector = load_detector(save_detector(tmp_path), "cpu")
    classifier = load_bundle(one_model / "colours" / "1", "cpu")
    squares = [(80, 80, 80, RED), (400, 80, 40, (20, 230, 20)), (320, 320, 160, RED)]
    true = (
        TrueFace((80, 80, 160, 160), "red"),
        TrueFace((400, 80, 440, 120), "red"),  # it is green
        TrueFace((500, 300, 560, 360), "blue"),  # there is none
    )
    gate = QualityGate(min_size_px=50)
    found = outcomes(
        [Frame(frame_of(squares), true)], {"squares": detector}, classifier,
        min_size_px=24, margins=(0.0, 0.35), margin=0.35, gate=gate,
    )["squares"]  # fmt: skip
    first, second, missing = found.faces
    assert first.issue is None
    assert first.labels == {0.0: "red", 0.35: "red"}
    assert second.issue is FaceIssue.TOO_SMALL
    assert second.labels == {0.0: "green", 0.35: "green"}
    assert not is_right(second, 0.35)
    assert missing == Outcome(true[2], 0.0)
    assert [one.label for one in found.false_faces if found.is_found(one)] == ["red"]
    assert found.num_frames == 1


def test_a_face_is_cut_off_at_the_side_that_is_meant() -> None:
    pixels = np.zeros((100, 100, 3), np.uint8)
    box = np.array([20.0, 30.0, 60.0, 90.0])
    for side, (size, left, top, right, bottom) in enumerate(
        [
            ((100, 70), -10, 30, 30, 90),
            ((100, 50), 20, 30, 60, 90),
            ((55, 100), 20, -15, 60, 45),
            ((75, 100), 20, 30, 60, 90),
        ]
    ):
        part, moved = cut(pixels, box, 0.25, side)
        assert part.shape[:2] == size
        assert moved.tolist() == [left, top, right, bottom]
        visible = Face(left, top, right, bottom, 1.0).visible_share(*size)
        assert visible == pytest.approx(0.75)


def test_the_share_of_right_labels_is_told_for_each_size(one_model: Path) -> None:
    bundle = load_bundle(one_model / "colours" / "1", "cpu")
    faces = [Portrait(np.full((200, 200, 3), RED, np.uint8), (50, 50, 150, 150), "red")]
    degrees = smaller(faces, bundle, 0.2)
    assert [one.name for one in degrees] == [f"{size} px" for size in SIZES]
    assert all(one.accuracy == one.lower == 1 and one.num_faces == 1 for one in degrees)
    wrong = [Portrait(faces[0].pixels, faces[0].box, "blue")]
    assert {one.accuracy for one in smaller(wrong, bundle, 0.2)} == {0.0}


def test_people_of_a_film_walk_to_and_fro_within_the_frame() -> None:
    hall = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    people = [Portrait(np.full((150, 120, 3), RED, np.uint8), (0, 0, 120, 150), LABELS[0])] * 3
    places = []
    for at_s in (0.0, 5.0, 20.0):
        red = is_red(with_people(hall, people, at_s))
        places.append([int(np.flatnonzero(lane.any(axis=0))[0]) for lane in np.split(red, 3)])
        for lane, size in zip(np.split(red, 3), (60, 90, 130), strict=True):
            assert lane.any(axis=1).sum() == size
            assert lane.any(axis=0).sum() == pytest.approx(size * 0.8, abs=1)
    for one in np.transpose(places):
        assert len({*one.tolist()}) == 3


@pytest.mark.skipif(DATA is None, reason="LIMELENS_DATA names no real images")
@pytest.mark.parametrize("split", ["val", "test"])
def test_known_faces_of_the_real_set_lie_in_their_images(split: str) -> None:
    faces = portraits(Path(str(DATA)), split)
    for label in LABELS:
        assert sum(face.label == label for face in faces) > 140
    for face in faces:
        height, width = face.pixels.shape[:2]
        left, top, right, bottom = face.box
        assert left > -0.15 * width
        assert top > -0.15 * height
        assert right < 1.15 * width
        assert bottom < 1.15 * height
        assert face.size_px >= 0.3 * max(height, width)


@pytest.mark.skipif(DATA is None, reason="LIMELENS_DATA names no real images")
def test_images_with_people_are_no_backgrounds() -> None:
    assert 1400 < len(backgrounds(Path(str(DATA)))) < 1524


def test_a_missing_set_is_said(tmp_path: Path) -> None:
    with pytest.raises(LimelensError, match="facemask/val/with_mask does not exist"):
        portraits(tmp_path, "val")
