"""Random numbers for each image of a batch, from the image's own seed.

Knows seeds, and nothing of what the numbers decide. An image gets the same numbers in any batch,
order, process and on any device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_NUM_NUMBERS: Final = 64


class Draws:
    """Uniform random numbers for images, in the order in which they are asked for.

    Args:
        seeds: One for each of N images, 0 to below 2^63.

    Raises:
        IndexError: More numbers are asked for than an image has.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = seeds
        self._numbers = np.array(
            [np.random.default_rng(seed).random(_NUM_NUMBERS) for seed in seeds]
        )
        self._used = 0

    def __len__(self) -> int:
        return len(self._seeds)

    def many(self, low: float, high: float, count: int) -> NDArray[np.float64]:
        """`(N, count)` numbers from `low` to below `high`."""
        end = self._used + count
        if end > _NUM_NUMBERS:
            raise IndexError(f"an image has {_NUM_NUMBERS} random numbers; {end} were asked for")
        numbers = self._numbers[:, self._used : end]
        self._used = end
        return low + (high - low) * numbers

    def uniform(self, low: float, high: float) -> NDArray[np.float64]:
        """`(N,)` numbers from `low` to below `high`."""
        return self.many(low, high, 1)[:, 0]

    def chance(self, share: float) -> NDArray[np.bool_]:
        """`(N,)` booleans, of which this share is true."""
        return self.uniform(0, 1) < share

    def normal(self, index: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Numbers of mean 0 and variance 1 for one image; always the same ones."""
        generator = np.random.default_rng(self._seeds[index]).spawn(1)[0]
        return generator.standard_normal(shape, np.float32)
