"""Faces that are blurred."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.data import astronaut
from skimage.metrics import structural_similarity

from limelens.serve.faces.blurring import blur_faces
from limelens.serve.image import Region

FACE = Region(0.35, 0.09, 0.53, 0.34)
BESIDE = Region(0.45, 0.15, 0.7, 0.4)


@pytest.fixture(scope="module")
def portrait() -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = astronaut()  # type: ignore[no-untyped-call]
    return pixels


def part(pixels: NDArray[np.uint8], region: Region) -> NDArray[np.uint8]:
    left, top, right, bottom = region.box(*pixels.shape[:2])
    return pixels[top:bottom, left:right]


def test_nothing_is_left_of_a_face_but_its_colours(portrait: NDArray[np.uint8]) -> None:
    blurred = blur_faces(portrait, [FACE])
    before, after = part(portrait, FACE).mean(axis=2), part(blurred, FACE).mean(axis=2)
    # Edges of eyes, nose and mouth are gone; light and skin are still there.
    assert np.abs(np.diff(after, axis=0)).max() < 0.1 * np.abs(np.diff(before, axis=0)).max()
    assert structural_similarity(before, after, data_range=255) < 0.4  # type: ignore[no-untyped-call]
    assert abs(before.mean() - after.mean()) < 25


def test_pixels_far_from_faces_stay(portrait: NDArray[np.uint8]) -> None:
    before = portrait.copy()
    blurred = blur_faces(portrait, [FACE])
    assert np.array_equal(portrait, before)
    changed = np.any(blurred != portrait, axis=2)
    rows, columns = np.nonzero(changed)
    left, top, right, bottom = FACE.box(512, 512)
    assert rows.min() < top
    assert rows.max() >= bottom
    assert columns.min() < left
    assert columns.max() >= right
    assert columns.min() > left - 0.3 * (right - left)
    assert rows.max() < bottom + 0.3 * (bottom - top)
    assert np.array_equal(blur_faces(portrait, []), portrait)


def test_the_face_that_was_asked_for_stays_except_where_another_covers_it(
    portrait: NDArray[np.uint8],
) -> None:
    blurred = blur_faces(portrait, [BESIDE], keep=FACE)
    # The margin of the other reaches further into the kept face than the other itself.
    left, top, right, bottom = FACE.box(512, 512)
    other_left, other_top, _, _ = BESIDE.box(512, 512)
    kept = np.ones((512, 512), np.bool_)
    kept[other_top:, other_left:] = False
    inside = np.zeros((512, 512), np.bool_)
    inside[top:bottom, left:right] = True
    assert np.array_equal(blurred[inside & kept], portrait[inside & kept])
    assert not np.array_equal(blurred[inside & ~kept], portrait[inside & ~kept])


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (9, 9)])
def test_faces_at_the_edges_of_tiny_images_are_blurred_too(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    blurred = blur_faces(pixels, [Region(0, 0, 1, 1), Region(0.99, 0.99, 1, 1)])
    assert blurred.shape == pixels.shape
    if min(size) > 1:
        assert not np.array_equal(blurred, pixels)
