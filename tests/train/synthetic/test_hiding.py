from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.data import astronaut

from limelens.train.synthetic.hiding import hide_around


@pytest.fixture(scope="module")
def portrait() -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = astronaut()[0:200:2, 120:320:2]  # type: ignore[no-untyped-call]
    return np.ascontiguousarray(pixels)


@pytest.fixture(scope="module")
def region() -> NDArray[np.bool_]:
    mouth = np.zeros((100, 100), dtype=bool)
    mouth[60:85, 35:70] = True
    return mouth


def changed(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.bool_]:
    differs: NDArray[np.bool_] = (before != after).any(axis=2)
    return differs


def test_a_shown_region_keeps_its_pixels(
    portrait: NDArray[np.uint8], region: NDArray[np.bool_]
) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        after = hide_around(portrait, region, rng, hide_region=False)
        # A segment with less than a quarter of itself in the region may be hidden.
        assert changed(portrait, after)[region].mean() < 0.25
        assert changed(portrait, after)[~region].mean() > 0.05


def test_a_hidden_region_shows_nothing_of_itself(
    portrait: NDArray[np.uint8], region: NDArray[np.bool_]
) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        after = hide_around(portrait, region, rng, hide_region=True)
        assert changed(portrait, after)[region].mean() > 0.7


def test_the_same_generator_hides_the_same(
    portrait: NDArray[np.uint8], region: NDArray[np.bool_]
) -> None:
    first, second = (
        hide_around(portrait, region, np.random.default_rng(1), hide_region=True) for _ in range(2)
    )
    assert np.array_equal(first, second)
