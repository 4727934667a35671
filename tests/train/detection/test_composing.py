from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from limelens.train.detection.composing import Scenery, compose
from limelens.train.detection.distortion import distort
from limelens.train.detection.frames import Boxes, Photograph, Pixels, Sources, clipped, mirrored
from limelens.train.synthetic import random_background

CLEAR = Scenery(size=(160, 224), face_px=(14, 90), distorted=False)
BOX = np.array([[20, 12, 44, 46]], dtype=np.float32)


def person(colour: tuple[int, int, int], masked: bool) -> Photograph:
    """A grey image with a face of one bright colour."""
    pixels = np.full((60, 70, 3), 90, dtype=np.uint8)
    left, top, right, bottom = BOX[0].astype(int)
    pixels[top:bottom, left:right] = colour
    return Photograph(pixels, BOX, masked=masked)


@pytest.fixture
def coloured() -> Sources:
    """Masked faces are green, bare ones red, and nothing else is."""
    masked, bare = person((0, 250, 0), True), person((250, 0, 0), False)
    greys = [np.repeat(random_background(np.random.default_rng(n), 80, 90).mean(
        axis=2, keepdims=True).astype(np.uint8), 3, axis=2) for n in range(4)]  # fmt: skip
    return Sources([masked], [bare], [masked, bare], [Photograph(grey) for grey in greys])


def is_colour(image: Pixels, channel: int) -> NDArray[np.bool_]:
    values = image.astype(int)
    others = np.delete(values, channel, axis=2).max(axis=2)
    result: NDArray[np.bool_] = values[..., channel] > 60 + 2 * others
    return result


def test_boxes_are_where_the_faces_are(coloured: Sources) -> None:
    shares, found = [], 0
    for seed in range(60):
        frame = compose(coloured, CLEAR, np.random.default_rng(seed))
        assert frame.image.shape == (160, 224, 3)
        for (left, top, right, bottom), masked in zip(frame.faces, frame.masked, strict=True):
            assert 0 <= left < right <= 224
            assert 0 <= top < bottom <= 160
            inner = frame.image[round(top) : round(bottom), round(left) : round(right)]
            shares.append(is_colour(inner, 1 if masked else 0).mean())
            found += 1
    assert found > 60
    # A few are half covered, or turned, or cut to an oval.
    assert np.median(shares) > 0.95
    assert min(shares) > 0.35


def test_faces_that_are_whole_are_in_the_list(coloured: Sources) -> None:
    scenery = replace(CLEAR, whole=0.0, num_faces=(0.0, 1.0))
    for seed in range(40):
        frame = compose(coloured, scenery, np.random.default_rng(seed))
        known = np.zeros(frame.image.shape[:2], dtype=bool)
        for left, top, right, bottom in np.concatenate([frame.faces, frame.unsure]):
            known[int(top) - 4 if top > 4 else 0 : int(bottom) + 5,
                  int(left) - 4 if left > 4 else 0 : int(right) + 5] = True  # fmt: skip
        red = is_colour(frame.image, 0) & ~known
        # Things that cover faces may be red, but seldom reach far beyond them.
        assert red.mean() < 0.25
        assert len(frame.faces) + len(frame.unsure) <= 1


def test_same_numbers_give_the_same_frame(coloured: Sources) -> None:
    scenery = replace(CLEAR, distorted=True)
    first, second = (compose(coloured, scenery, np.random.default_rng(7)) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.faces, second.faces)


def test_a_face_that_is_cut_off_or_covered_is_unsure_and_not_lost(coloured: Sources) -> None:
    scenery = replace(CLEAR, whole=0.0, num_faces=(0.0, 1.0))
    frames = [compose(coloured, scenery, np.random.default_rng(seed)) for seed in range(150)]
    assert all(len(frame.masked) == len(frame.faces) for frame in frames)
    num_unsure = 0
    for frame in frames:
        for left, top, right, bottom in frame.unsure:
            num_unsure += 1
            part = frame.image[int(top) : int(bottom) + 1, int(left) : int(right) + 1]
            assert max(is_colour(part, channel).mean() for channel in (0, 1)) > 0.2
    assert num_unsure > 3


def test_distorted_image_keeps_its_size_and_its_content() -> None:
    scene = person((250, 0, 0), masked=False).pixels
    alike = []
    for seed in range(40):
        changed = distort(Image.fromarray(scene), np.random.default_rng(seed))
        assert changed.shape == scene.shape
        assert changed.dtype == np.uint8
        alike.append(np.array_equal(changed, scene))
        # The face differs from what is around it by more than both do within themselves.
        left, top, right, bottom = BOX[0].astype(int)
        greens = changed[..., 1].astype(float)
        is_face = np.zeros(greens.shape, dtype=bool)
        is_face[top:bottom, left:right] = True
        assert greens[~is_face].mean() > greens[is_face].mean() + greens[~is_face].std()
    assert sum(alike) < 10


def test_mirroring_twice_changes_nothing() -> None:
    boxes: Boxes = np.array([[1, 2, 5, 9], [0, 0, 3, 3]], dtype=np.float32)
    assert np.array_equal(mirrored(mirrored(boxes, 20), 20), boxes)
    assert mirrored(boxes, 20)[0].tolist() == [15, 2, 19, 9]


def test_clipping_says_how_much_is_left() -> None:
    inside, shares = clipped(np.array([[-5, 0, 5, 10], [30, 0, 40, 9]], np.float32), 20, 10)
    assert inside[0].tolist() == [0, 0, 5, 10]
    assert shares.tolist() == [0.5, 0.0]
