"""Whether an image's size gives its label away, so that a network need not look at it.

It knows numbers and labels, and no images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.tree import DecisionTreeClassifier

_NUM_FOLDS: Final = 5
_LEAST_GAIN: Final = 0.02


@dataclass(frozen=True)
class Shortcut:
    """What one number alone says of the label.

    Args:
        feature: The number's name.
        label: The label that it is about; empty where it is about all of them.
        accuracy: Of a decision stump on it, cross-validated.
        majority: Of always answering the commonest label.
        telling: Whether the stump is better by more than chance.
    """

    feature: str
    label: str
    accuracy: float
    majority: float
    telling: bool


def find_shortcuts(
    features: Mapping[str, NDArray[np.floating]],
    targets: NDArray[np.integer],
    labels: Sequence[str],
    seed: int = 0,
) -> tuple[Shortcut, ...]:
    """How well a stump (a tree of one question) on each number alone finds the label.

    Args:
        features: `(N,)` each, by name.
        targets: `(N,)` indices, or `(N, C)` of 0 and 1: then each label is a question of its own,
            and the label that a number tells most about is returned.
        labels: C names.
        seed: Of the folds.

    Returns:
        One for each feature, the largest gain over the majority first; without those that could
        not be tried because a label has fewer than five images or all have the same.
    """
    found = []
    questions = (
        {"": targets}
        if targets.ndim == 1
        else {label: targets[:, column] for column, label in enumerate(labels)}
    )
    for name, values in features.items():
        tried = [
            shortcut
            for label, target in questions.items()
            if (shortcut := _try(name, values, label, target, seed)) is not None
        ]
        if tried:
            found.append(max(tried, key=_gain))
    return tuple(sorted(found, key=_gain, reverse=True))


def _gain(shortcut: Shortcut) -> float:
    return shortcut.accuracy - shortcut.majority


def _try(
    name: str,
    values: NDArray[np.floating],
    label: str,
    target: NDArray[np.integer],
    seed: int,
) -> Shortcut | None:
    counts = np.bincount(target)
    # Labels too rare for the folds cannot be learnt by a stump anyway.
    kept = counts[target] >= _NUM_FOLDS
    target, values = target[kept], values[kept]
    if len(np.unique(target)) < 2:
        return None
    folds = StratifiedKFold(_NUM_FOLDS, shuffle=True, random_state=seed)
    stump = DecisionTreeClassifier(max_depth=1, random_state=seed)
    accuracy = float(cross_val_score(stump, values[:, np.newaxis], target, cv=folds).mean())
    majority = float(np.bincount(target).max() / len(target))
    error = math.sqrt(majority * (1 - majority) / len(target))
    return Shortcut(
        name, label, accuracy, majority, accuracy - majority > max(_LEAST_GAIN, 3 * error)
    )
