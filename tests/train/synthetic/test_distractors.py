"""Distractors leave the eyes, and the mouth where they say so."""

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.train.synthetic import Face
from limelens.train.synthetic.distractors import (
    DISTRACTORS,
    DISTRACTORS_CLEAR_OF_MOUTH,
    Distractor,
    draw_distractor,
)

FACE = Face((85.0, 70.0), (125.0, 74.0))


def drawn_image(height: int = 200, width: int = 210) -> NDArray[np.uint8]:
    rng = np.random.default_rng(5)
    return rng.integers(90, 220, (height, width, 3), dtype=np.uint8)


def around(point: tuple[float, float], half: int) -> tuple[slice, slice]:
    x, y = round(point[0]), round(point[1])
    return slice(y - half, y + half + 1), slice(x - half, x + half + 1)


@pytest.mark.parametrize("kind", DISTRACTORS)
def test_distractors_leave_the_eyes_and_some_the_mouth(kind: Distractor) -> None:
    image = drawn_image()
    changed_any = False
    for seed in range(12):
        drawn = draw_distractor(image, FACE, np.random.default_rng(seed), kind)
        assert drawn.shape == image.shape
        assert drawn.dtype == np.uint8
        changed_any |= not np.array_equal(drawn, image)
        # A blob's shadow may brush a pixel; an eye must stay an eye.
        for eye in (FACE.left_eye, FACE.right_eye):
            assert np.array_equal(drawn[around(eye, 3)], image[around(eye, 3)])
        if kind in DISTRACTORS_CLEAR_OF_MOUTH:
            mouth = around(FACE.mouth, 5)
            assert np.array_equal(drawn[mouth], image[mouth])
    assert changed_any


def test_a_hand_hides_the_mouth() -> None:
    for seed in range(6):
        drawn = draw_distractor(drawn_image(), FACE, np.random.default_rng(seed), "hand")
        mouth = around(FACE.mouth, 3)
        assert not np.array_equal(drawn[mouth], drawn_image()[mouth])


def test_distractors_are_repeatable() -> None:
    first = draw_distractor(drawn_image(), FACE, np.random.default_rng(3))
    assert np.array_equal(first, draw_distractor(drawn_image(), FACE, np.random.default_rng(3)))


def test_an_unknown_distractor_is_named() -> None:
    with pytest.raises(ValueError, match=r"'moustache'.*known are hand"):
        draw_distractor(drawn_image(), FACE, np.random.default_rng(0), "moustache")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", DISTRACTORS)
@pytest.mark.parametrize(
    "face",
    [
        Face((-30.0, 40.0), (10.0, 40.0)),
        Face((180.0, 150.0), (240.0, 160.0), 0.5),
        Face((60.0, -90.0), (140.0, -80.0)),
        Face((90.0, 195.0), (120.0, 195.0)),
    ],
)
def test_a_face_partly_outside_gets_the_visible_part(kind: Distractor, face: Face) -> None:
    drawn = draw_distractor(drawn_image(), face, np.random.default_rng(0), kind)
    assert drawn.shape == (200, 210, 3)


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (16, 12)])
@pytest.mark.parametrize("distance", [0.4, 3.0, 40.0])
def test_tiny_images_work(shape: tuple[int, int], distance: float) -> None:
    middle = shape[1] / 2
    face = Face((middle - distance / 2, shape[0] / 3), (middle + distance / 2, shape[0] / 3))
    for kind in DISTRACTORS:
        drawn = draw_distractor(drawn_image(*shape), face, np.random.default_rng(0), kind)
        assert drawn.shape == (*shape, 3)


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3))]
)
def test_an_array_that_is_no_rgb_image_is_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        draw_distractor(image, FACE, np.random.default_rng(0))
