"""Masks cover the mouth and leave the eyes, on any face."""

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.train.synthetic import MASK_STYLES, Face, MaskStyle, draw_mask
from limelens.train.synthetic.face_masks import random_style

FACE = Face((85.0, 70.0), (125.0, 74.0))


def drawn_image(height: int = 200, width: int = 210) -> NDArray[np.uint8]:
    rng = np.random.default_rng(5)
    return rng.integers(90, 220, (height, width, 3), dtype=np.uint8)


def value_at(region: NDArray[np.bool_], point: tuple[float, float]) -> bool:
    return bool(region[round(point[1]), round(point[0])])


@pytest.mark.parametrize("name", MASK_STYLES)
@pytest.mark.parametrize("yaw", [-0.6, 0.0, 0.4])
def test_every_mask_covers_nose_mouth_and_chin_and_leaves_the_eyes(name: str, yaw: float) -> None:
    face = Face(FACE.left_eye, FACE.right_eye, yaw)
    image = drawn_image()
    before = image.copy()
    for seed in range(4):
        drawn, region = draw_mask(image, face, MASK_STYLES[name], np.random.default_rng(seed))
        assert drawn.shape == image.shape
        assert drawn.dtype == np.uint8
        assert region.shape == image.shape[:2]
        assert region.dtype == np.bool_
        assert value_at(region, face.mouth)
        for y, depth in ((0.6, 0.42), (1.75, 0.2)):  # nose and chin
            assert value_at(region, face.to_pixels(np.array([[0.0, y]]), depth)[0].tolist())
        assert not value_at(region, face.left_eye)
        assert not value_at(region, face.right_eye)
        for x, y in (face.left_eye, face.right_eye):
            eye = (slice(round(y) - 4, round(y) + 5), slice(round(x) - 7, round(x) + 8))
            assert np.array_equal(drawn[eye], image[eye])
        changed = np.abs(drawn.astype(int) - image).max(axis=2) > 0
        assert changed[region].mean() > 0.9
    assert np.array_equal(image, before)


def test_the_same_seed_draws_the_same_mask_and_another_one_does_not() -> None:
    style = MASK_STYLES["cloth-floral"]
    first, region = draw_mask(drawn_image(), FACE, style, np.random.default_rng(1))
    again, region_again = draw_mask(drawn_image(), FACE, style, np.random.default_rng(1))
    other, _ = draw_mask(drawn_image(), FACE, style, np.random.default_rng(2))
    assert np.array_equal(first, again)
    assert np.array_equal(region, region_again)
    assert not np.array_equal(first, other)


def test_random_styles_are_varied_and_repeatable() -> None:
    styles = [random_style(np.random.default_rng(seed)) for seed in range(200)]
    assert {style.kind for style in styles} == {style.kind for style in MASK_STYLES.values()}
    assert len({style.pattern for style in styles}) == 7
    assert styles[7] == random_style(np.random.default_rng(7))
    colours = np.array([style.colour for style in styles] + [style.accent for style in styles])
    assert colours.min() >= 0
    assert colours.max() <= 255


def test_a_mask_is_darker_in_a_darker_image() -> None:
    style = MASK_STYLES["surgical-white"]
    bright, region = draw_mask(drawn_image(), FACE, style, np.random.default_rng(0))
    dark, _ = draw_mask(drawn_image() // 4, FACE, style, np.random.default_rng(0))
    assert dark[region].mean() < 0.7 * bright[region].mean()


def test_a_grey_image_stays_grey_under_a_blue_mask() -> None:
    grey = np.repeat(drawn_image()[..., :1], 3, axis=2)
    drawn, region = draw_mask(grey, FACE, MASK_STYLES["surgical-blue"], np.random.default_rng(0))
    spread = drawn[region].max(axis=1).astype(int) - drawn[region].min(axis=1)
    assert spread.max() <= 2


@pytest.mark.parametrize("name", ["surgical-blue", "cup-white", "bandana-red", "cloth-noise"])
@pytest.mark.parametrize(
    "face",
    [
        Face((-30.0, 40.0), (10.0, 40.0)),
        Face((180.0, 150.0), (240.0, 160.0), 0.5),
        Face((60.0, -90.0), (140.0, -80.0)),
        Face((90.0, 195.0), (120.0, 195.0)),
    ],
)
def test_a_face_partly_outside_gets_the_visible_part_of_the_mask(name: str, face: Face) -> None:
    style = MASK_STYLES.get(name, MaskStyle("cloth", (90, 90, 90), "noise"))
    drawn, region = draw_mask(drawn_image(), face, style, np.random.default_rng(0))
    assert drawn.shape == (200, 210, 3)
    assert region.shape == (200, 210)


def test_a_face_far_outside_changes_nothing() -> None:
    face = Face((900.0, 900.0), (940.0, 900.0))
    drawn, region = draw_mask(
        drawn_image(), face, MASK_STYLES["sport-black"], np.random.default_rng(0)
    )
    assert np.array_equal(drawn, drawn_image())
    assert not region.any()


@pytest.mark.parametrize("name", ["surgical-blue", "cloth-floral", "cloth-teeth"])
def test_a_face_larger_than_the_image_gets_a_mask(name: str) -> None:
    face = Face((-120.0, -250.0), (310.0, -250.0))
    drawn, region = draw_mask(drawn_image(), face, MASK_STYLES[name], np.random.default_rng(0))
    assert region.all()
    assert not np.array_equal(drawn, drawn_image())


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (16, 12)])
@pytest.mark.parametrize("distance", [0.4, 3.0, 40.0])
def test_tiny_images_work(shape: tuple[int, int], distance: float) -> None:
    middle = shape[1] / 2
    face = Face((middle - distance / 2, shape[0] / 3), (middle + distance / 2, shape[0] / 3))
    for style in MASK_STYLES.values():
        drawn, region = draw_mask(drawn_image(*shape), face, style, np.random.default_rng(0))
        assert drawn.shape == (*shape, 3)
        assert region.shape == shape


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3))]
)
def test_an_array_that_is_no_rgb_image_is_refused(image: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        draw_mask(image, FACE, MASK_STYLES["sport-black"], np.random.default_rng(0))
