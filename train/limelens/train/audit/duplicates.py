"""Finds images that occur in the data more than once: exactly, nearly, or cut out of one another.

Knows facts about files, their labels and their splits; reads nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

import numpy as np

from limelens.train.audit.cropped_copies import find_crops
from limelens.train.audit.image_facts import ImageFacts
from limelens.train.data.near_duplicates import LISTED, nearest_before

Kind = Literal["bytes", "pixels", "near", "cropped"]
_KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


class ImageLocation(NamedTuple):
    """An image in the data; its split is `all` if the data is not divided."""

    path: Path
    split: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Duplicate:
    """Two images that are the same or nearly so, in the order of the data.

    Args:
        kind: The same file, the same pixels encoded differently, nearly the same pixels, or one cut
            out of the other, whichever is first.
    """

    first: ImageLocation
    second: ImageLocation
    kind: Kind

    @property
    def cross_splits(self) -> bool:
        """Whether they are in two splits, so that metrics are too good."""
        return self.first.split != self.second.split

    @property
    def differ_in_label(self) -> bool:
        """Whether their labels contradict each other."""
        return self.first.labels != self.second.labels


def find_duplicates(
    places: Sequence[ImageLocation], facts: Sequence[ImageFacts]
) -> tuple[Duplicate, ...]:
    """Pairs each repeated image with one before it: the first copy, or the nearest.

    Args:
        places: Those of `train` first.
        facts: Of the same images.

    Returns:
        Those with different labels first, then those across splits; exact ones first in each.
    """
    found: dict[int, Duplicate] = {}
    for kind in _KINDS[:2]:
        first_with: dict[str, int] = {}
        for index, fact in enumerate(facts):
            first = first_with.setdefault(fact.content if kind == "bytes" else fact.pixels, index)
            if first != index and index not in found:
                found[index] = Duplicate(places[first], places[index], kind)
    # An exact copy is listed once: it is not compared again as a near duplicate.
    single = [index for index in range(len(facts)) if index not in found]
    nearest = nearest_before([facts[index].hash for index in single], LISTED)
    for index, before in zip(single, nearest.tolist(), strict=True):
        if before >= 0:
            found[index] = Duplicate(places[single[before]], places[index], "near")
    for crop in find_crops(np.stack([facts[index].thumbnail for index in single])):
        first, second = sorted((single[crop.whole], single[crop.part]))
        found.setdefault(second, Duplicate(places[first], places[second], "cropped"))
    return tuple(
        sorted(
            found.values(),
            key=lambda pair: (
                not pair.differ_in_label,
                not pair.cross_splits,
                _KINDS.index(pair.kind),
                str(pair.second.path),
            ),
        )
    )
