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
        after, shown = hide_around(portrait, region, rng, chance=0.0)
        assert shown == 1
        # A segment with less than a quarter of itself in the region may be hidden.
        assert changed(portrait, after)[region].mean() < 0.25
        assert changed(portrait, after)[~region].mean() > 0.05


def test_a_hidden_region_shows_nothing_of_itself(
    portrait: NDArray[np.uint8], region: NDArray[np.bool_]
) -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        after, shown = hide_around(portrait, region, rng, chance=1.0)
        assert shown == 0
        assert changed(portrait, after)[region].mean() > 0.7


def test_what_is_shown_of_a_region_follows_its_hidden_pixels(
    portrait: NDArray[np.uint8], region: NDArray[np.bool_]
) -> None:
    shares = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        after, shown = hide_around(portrait, region, rng, chance=0.5)
        # Filled pixels may by chance have their own colour, and small parts do not count.
        assert 1 - changed(portrait, after)[region].mean() == pytest.approx(shown, abs=0.25)
        shares.append(shown)
    assert min(shares) < 0.4 < 0.6 < max(shares)


def test_the_same_generator_hides_the_same(
    portrait: NDArray[np.uint8], region: NDArray[np.bool_]
) -> None:
    first, second = (
        hide_around(portrait, region, np.random.default_rng(1), chance=0.5)[0] for _ in range(2)
    )
    assert np.array_equal(first, second)
