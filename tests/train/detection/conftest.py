"""Drawn people and places, as real as it takes to learn from."""

from __future__ import annotations

import numpy as np
import pytest

from limelens.train.detection.frames import Photograph, Sources
from limelens.train.detection.photographs import draw_portrait
from limelens.train.synthetic import random_background


@pytest.fixture(scope="session")
def drawn() -> Sources:
    """Twelve people with a mask, twelve without, and twelve places."""
    masked = [draw_portrait(np.random.default_rng((1, n)), True) for n in range(12)]
    bare = [draw_portrait(np.random.default_rng((2, n)), False) for n in range(12)]
    places = [Photograph(random_background(np.random.default_rng(n), 90, 120)) for n in range(12)]
    return Sources(masked, bare, [*masked, *bare], places)
