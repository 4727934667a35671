"""The parts of a face follow its eyes and the turn of its head."""

import numpy as np
import pytest

from limelens.train.synthetic import Face

NOSE, CHIN = (0.6, 0.42), (1.75, 0.2)


def part(face: Face, place: tuple[float, float]) -> tuple[float, float]:
    """x and y in pixels of a point of the face's middle line, given by y and depth."""
    y, depth = place
    column, row = face.to_pixels(np.array([[0.0, y]]), depth)[0].tolist()
    return column, row


def test_a_detector_box_gives_a_face_with_its_parts_in_order() -> None:
    face = Face.from_box(20, 10, 100, 100)
    assert face.left_eye == pytest.approx((49.5, 48.5))
    assert face.right_eye == pytest.approx((91.5, 48.5))
    assert 48.5 < part(face, NOSE)[1] < face.mouth[1] < part(face, CHIN)[1]
    assert face.mouth[1] == pytest.approx(10 + 0.8 * 100, abs=12)


def test_parts_follow_the_roll() -> None:
    face = Face((80.0, 60.0), (120.0, 90.0))
    assert face.unit == pytest.approx(50.0)
    assert face.mouth[0] < face.centre[0]


def test_the_nose_goes_where_the_head_turns() -> None:
    straight, turned = Face((80, 60), (110, 60)), Face((80, 60), (110, 60), yaw=0.6)
    assert part(turned, NOSE)[0] > part(straight, NOSE)[0] + 3


@pytest.mark.parametrize("yaw", [-0.9, -0.3, 0.0, 0.2, 0.9])
def test_pixels_go_back_to_the_face_units_they_came_from(yaw: float) -> None:
    face = Face((80.0, 60.0), (118.0, 71.0), yaw)
    points = np.array([[0.0, 0.0], [0.3, 1.0], [-0.4, 1.7], [0.05, 0.6]])
    pixels = face.to_pixels(points)
    x, y = face.from_pixels(pixels[:, 0], pixels[:, 1])
    assert np.allclose(np.stack([x, y], 1), points, atol=1e-3)


@pytest.mark.parametrize(
    ("left", "right", "yaw", "message"),
    [
        ((50.0, 20.0), (20.0, 20.0), 0.0, "swap"),
        ((20.0, 20.0), (50.0, float("nan")), 0.0, "finite"),
        ((20.0, 20.0), (50.0, 20.0), 1.5, "yaw"),
    ],
)
def test_an_impossible_face_is_refused(
    left: tuple[float, float], right: tuple[float, float], yaw: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Face(left, right, yaw)


def test_an_empty_box_is_refused() -> None:
    with pytest.raises(ValueError, match="over 0"):
        Face.from_box(0, 0, 0, 10)


def test_a_face_follows_its_image_when_that_is_enlarged() -> None:
    face = Face((80.0, 60.0), (118.0, 71.0), 0.3)
    larger = face.scaled(2.5)
    assert larger.yaw == face.yaw
    assert larger.unit == pytest.approx(2.5 * face.unit)
    assert larger.mouth == pytest.approx((2.5 * face.mouth[0], 2.5 * face.mouth[1]))


def test_a_face_follows_its_image_when_that_is_mirrored() -> None:
    face = Face((80.0, 60.0), (118.0, 71.0), 0.3)
    mirrored = face.mirrored(200)
    for place in (NOSE, CHIN):
        column, row = part(face, place)
        assert part(mirrored, place) == pytest.approx((200 - column, row))
    assert mirrored.mirrored(200).left_eye == pytest.approx(face.left_eye)
