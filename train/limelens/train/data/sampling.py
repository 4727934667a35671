"""Chooses which images an epoch uses, in which order, and with which random numbers.

Knows counts and seeds. Everything follows from the seed and the epoch's number, so that a resumed
run, or one of several processes, uses the same images as one uninterrupted run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from limelens.train.data.examples import Example, label_counts

Draw = tuple[int, int]
"""An example's index and the seed of its augmentation."""
PERCENTILE: Final = 98.0


def repeats(examples: Sequence[Example], num_labels: int) -> NDArray[np.float64]:
    """How often a balanced epoch uses each example.

    With one label each, every label is raised to the 98th percentile of the labels' counts; larger
    counts stay. With several labels each: max over its labels of max(1, sqrt(t / f)), where f is
    the label's count and t that percentile (Gupta et al. 2019, LVIS, section 5.1), because a
    repeated image repeats its common labels too.

    Returns:
        `(N,)`, each at least 1.
    """
    counts = label_counts(examples, num_labels)
    wanted = np.percentile(counts[counts > 0], PERCENTILE) if counts.any() else 1.0
    factor = np.maximum(1.0, wanted / np.maximum(counts, 1))
    if any(len(example.targets) != 1 for example in examples):
        factor = np.sqrt(factor)
    return np.array([factor[list(e.targets)].max(initial=1.0) for e in examples])


def label_weights(examples: Sequence[Example], num_labels: int) -> NDArray[np.float64]:
    """`(C,)` loss weights inverse to the labels' counts, with mean 1 over the examples.

    Labels without examples have 1.
    """
    counts = label_counts(examples, num_labels)
    present = counts > 0
    weights = np.ones(num_labels)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


class EpochBatches(Sampler[list[Draw]]):
    """Batches of one epoch in its own order; set `epoch` to choose it.

    Args:
        repeats: How often an epoch uses each example, on average; whole numbers are exact.
        batch_size: Of all processes together. An incomplete batch is dropped if there is a whole
            one.
        seed: Of everything.
        rank: Of this process, 0 to `world_size` - 1; it gets every `world_size`-th of a batch, so
            the processes' parts differ by one at most.
        world_size: Processes.

    Attributes:
        batch_size: Of all processes together; less than asked for if there are fewer images.
    """

    def __init__(
        self,
        repeats: NDArray[np.float64],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.epoch = 0
        self._edges = np.cumsum(repeats)
        self._num_draws = max(1, round(float(self._edges[-1])))
        self.batch_size = min(batch_size, self._num_draws)
        self._seed = seed
        self._rank = rank
        self._world_size = world_size

    def __len__(self) -> int:
        return self._num_draws // self.batch_size

    def __iter__(self) -> Iterator[list[Draw]]:
        rng = np.random.default_rng((self._seed, self.epoch))
        # Systematic sampling: each example floor or ceil of its share, with a fixed total.
        points = (rng.random() + np.arange(self._num_draws)) * (self._edges[-1] / self._num_draws)
        drawn = np.minimum(np.searchsorted(self._edges, points, "right"), len(self._edges) - 1)
        order = rng.permutation(drawn)
        seeds = rng.integers(2**63, size=self._num_draws)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            own = slice(start + self._rank, start + self.batch_size, self._world_size)
            yield list(zip(order[own].tolist(), seeds[own].tolist(), strict=True))
