"""Divides examples into splits and finds near duplicates across them.

Knows labels, paths and perceptual hashes; reads nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.train.data.examples import Example, label_counts
from limelens.train.data.near_duplicates import PerceptualHash, near_duplicate_groups

SHARES: Final = {"train": 0.8, "val": 0.1, "test": 0.1}
"""How data that comes without splits is divided."""


def divide(
    examples: Sequence[Example],
    groups: Sequence[int] | NDArray[np.integer],
    shares: Mapping[str, float],
    seed: int,
) -> dict[str, list[Example]]:
    """Divides by label; a group, as from `near_duplicate_groups`, stays together.

    An image with several labels counts for the rarest of them.

    Args:
        examples: Their paths are distinct.
        groups: The number of each one's group.
        shares: Of each split; they sum to 1.
        seed: Of the order in which groups are assigned.

    Returns:
        Examples by split, sorted by targets and path.
    """
    rng = np.random.default_rng(seed)
    frequency = label_counts(
        examples, 1 + max((t for example in examples for t in example.targets), default=0)
    )

    def stratum(example: Example) -> int:
        return min(example.targets, key=lambda target: (frequency[target], target), default=-1)

    members: dict[int, list[Example]] = {}
    for example, group in zip(examples, groups, strict=True):
        members.setdefault(int(group), []).append(example)
    # Of a label with at least two images, every split but the first gets one.
    least = {split: float(number > 0) for number, split in enumerate(shares)}
    room = {
        (split, target): max(share * count, least[split] if count > 1 else 0.0)
        for target, count in Counter(map(stratum, examples)).items()
        for split, share in shares.items()
    }
    splits: dict[str, list[Example]] = {split: [] for split in shares}
    order = [members[key] for key in sorted(members)]
    shuffled = [order[int(index)] for index in rng.permutation(len(order))]
    # The largest first, each to the split with most room: a burst of images goes to train.
    for group_of in sorted(shuffled, key=len, reverse=True):
        target = stratum(group_of[0])
        split = max(shares, key=lambda split: room[split, target])
        splits[split].extend(group_of)
        for example in group_of:
            room[split, stratum(example)] -= 1
    return {
        split: sorted(chosen, key=lambda example: (example.targets, str(example.path)))
        for split, chosen in splits.items()
    }


def crossing(
    splits: Mapping[str, Sequence[Example]], hashes: Mapping[Path, PerceptualHash]
) -> tuple[tuple[Path, Path], ...]:
    """Images outside of train, each with a near duplicate in train."""
    examples = [(split, example) for split, own in splits.items() for example in own]
    groups = near_duplicate_groups([hashes[example.path] for _, example in examples]).tolist()
    in_train = {
        number: example.path
        for number, (split, example) in zip(groups, examples, strict=True)
        if split == "train"
    }
    return tuple(
        (example.path, in_train[number])
        for number, (split, example) in zip(groups, examples, strict=True)
        if split != "train" and number in in_train
    )
