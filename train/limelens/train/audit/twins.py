"""Images that are in the data more than once, exactly or nearly.

It knows facts about files, their labels and their splits, and reads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from limelens.train.audit.image_facts import ImageFacts
from limelens.train.data.duplicates import MAX_DISTANCE, PerceptualHash, differences

Kind = Literal["bytes", "pixels", "near"]
_MAX_DIFFERENCE: Final = 5.5
"""Less than keeps images on one side of a split: people look at each of these."""


@dataclass(frozen=True)
class Place:
    """An image in the data.

    Args:
        path: Where it lies.
        split: `train`, `val`, `test`, or `all` where the data is not divided.
        labels: Its own.
    """

    path: Path
    split: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Twins:
    """Two images that are the same or nearly so.

    Args:
        first: The one that comes first in the data.
        second: The other.
        kind: `bytes` (the same file), `pixels` (the same image, written otherwise), `near`.
    """

    first: Place
    second: Place
    kind: Kind

    @property
    def cross_splits(self) -> bool:
        """Whether they are in two splits: figures then flatter."""
        return self.first.split != self.second.split

    @property
    def differ_in_label(self) -> bool:
        """Whether they contradict each other."""
        return self.first.labels != self.second.labels


def find_twins(places: Sequence[Place], facts: Sequence[ImageFacts]) -> tuple[Twins, ...]:
    """Each image that comes again, with one before it: the first, or the nearest.

    Args:
        places: Those of `train` first.
        facts: Of the same images.

    Returns:
        Those with different labels first, then those across splits; exact ones first in each.
    """
    found: dict[int, Twins] = {}
    kinds: tuple[tuple[Kind, list[str]], ...] = (
        ("bytes", [fact.content for fact in facts]),
        ("pixels", [fact.pixels for fact in facts]),
    )
    for kind, keys in kinds:
        seen: dict[str, int] = {}
        for index, key in enumerate(keys):
            first = seen.setdefault(key, index)
            if first != index and index not in found:
                found[index] = Twins(places[first], places[index], kind)
    if facts:
        # One of each exact kind is enough, else a triple would come as near twins again.
        single = [index for index in range(len(facts)) if index not in found]
        nearest = _nearest_before([facts[index].look for index in single])
        for index, before in zip(single, nearest.tolist(), strict=True):
            if before >= 0:
                found[index] = Twins(places[single[before]], places[index], "near")
    order = {"bytes": 0, "pixels": 1, "near": 2}
    return tuple(
        sorted(
            found.values(),
            key=lambda twins: (
                not twins.differ_in_label,
                not twins.cross_splits,
                order[twins.kind],
                str(twins.second.path),
            ),
        )
    )


def _nearest_before(looks: Sequence[PerceptualHash]) -> NDArray[np.int64]:
    """For each image the nearest before it that is a near-copy, `(N,)`; -1 where none is."""
    hashes = np.array([look.gradients for look in looks], dtype=np.uint64)
    thumbnails = np.stack([look.thumbnail for look in looks])
    nearest = np.full(len(looks), -1)
    for index in range(1, len(looks)):
        like = np.flatnonzero(np.bitwise_count(hashes[:index] ^ hashes[index]) <= MAX_DISTANCE)
        if not len(like):
            continue
        apart = differences(thumbnails, like, np.full(len(like), index))
        if apart.min() <= _MAX_DIFFERENCE:
            nearest[index] = like[apart.argmin()]
    return nearest
