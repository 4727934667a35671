"""Rendered people: repeatable, of the requested size, their faces in the image."""

import numpy as np
import pytest

from limelens.train.synthetic import render_portrait


@pytest.mark.parametrize("size", [16, 160, (48, 90), (90, 48), (200, 17)])
def test_a_face_has_the_requested_size(size: int | tuple[int, int]) -> None:
    expected = (size, size) if isinstance(size, int) else size
    for seed in range(4):
        image = render_portrait(np.random.default_rng(seed), size).image
        assert image.shape == (*expected, 3)
        assert image.dtype == np.uint8
        assert image.std() > 3


def test_the_same_seed_renders_the_same_person() -> None:
    first, again, other = (render_portrait(np.random.default_rng(k)).image for k in (4, 4, 5))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("size", [(160, 160), (160, 115), (115, 160)])
def test_eyes_and_mouth_are_inside_of_the_image(size: tuple[int, int]) -> None:
    for seed in range(60):
        face = render_portrait(np.random.default_rng(seed), size).face
        for x, y in (face.left_eye, face.right_eye, face.mouth):
            assert 0 <= x < size[1]
            assert 0 <= y < size[0]


@pytest.mark.parametrize("share", [0.06, 0.2, 0.45])
def test_a_face_is_as_large_as_requested(share: float) -> None:
    for seed in range(5):
        face = render_portrait(np.random.default_rng(seed), (90, 120), unit=(share, share)).face
        assert face.unit == pytest.approx(90 * share)


def test_too_small_an_image_is_refused() -> None:
    with pytest.raises(ValueError, match="8x8"):
        render_portrait(np.random.default_rng(0), 8)
    with pytest.raises(ValueError, match="40x15"):
        render_portrait(np.random.default_rng(0), (40, 15))
