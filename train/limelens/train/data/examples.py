"""Images with their labels, by split: the data after reading.

Knows neither files nor networks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Task
from limelens.serve.errors import LimelensError
from limelens.serve.folders import Skipped as Skipped


class DataError(LimelensError):
    """The data cannot be used; the message names the folder or file."""


@dataclass(frozen=True)
class Example:
    """One image, and the ascending indices of its labels; exactly one for multiclass."""

    path: Path
    targets: tuple[int, ...]

    @property
    def target(self) -> int:
        """The index of its only label."""
        return self.targets[0]


@dataclass(frozen=True)
class Dataset:
    """Examples by split.

    Args:
        labels: Sorted; an example's targets are indices into them.
        splits: Those of `train`, `val` and `test` that exist.
        digest: SHA-256 over labels, splits and file contents, hexadecimal.
        crossing: Images of val and test, each with its near duplicate in train.
        macro_labels: The superclass of each label; empty if there are none.
        shape: Height and width in pixels of a typical training image; None if unknown.
    """

    labels: tuple[str, ...]
    splits: Mapping[str, tuple[Example, ...]]
    skipped: tuple[Skipped, ...]
    digest: str
    crossing: tuple[tuple[Path, Path], ...] = ()
    task: Task = Task.MULTICLASS
    macro_labels: Mapping[str, str] = field(default_factory=dict)
    shape: tuple[int, int] | None = None

    def counts(self, split: str) -> dict[str, int]:
        """How many examples of each label a split has."""
        found = label_counts(self.splits[split], len(self.labels))
        return dict(zip(self.labels, found.tolist(), strict=True))


def label_counts(examples: Sequence[Example], num_labels: int) -> NDArray[np.int64]:
    """How many examples have each label, `(C,)`."""
    found = Counter(target for example in examples for target in example.targets)
    return np.array([found[index] for index in range(num_labels)], dtype=np.int64)


def targets_of(
    examples: Sequence[Example], num_labels: int, task: Task = Task.MULTICLASS
) -> NDArray[np.int64]:
    """The targets as an array: `(N,)` indices; for multilabel `(N, C)` of 0 and 1."""
    if task is Task.MULTICLASS:
        return np.array([example.target for example in examples], dtype=np.int64)
    table = np.zeros((len(examples), num_labels), dtype=np.int64)
    for row, example in zip(table, examples, strict=True):
        row[list(example.targets)] = 1
    return table
