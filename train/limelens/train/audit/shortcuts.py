"""Finds whether an image's size alone reveals its label, so that a network could ignore the pixels.

Knows numbers and labels, not images.
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
    """How well one number predicts the label.

    Args:
        label: The label that it predicts; empty for all of them.
        accuracy: Of a decision stump on it, cross-validated.
        majority: Accuracy of always predicting the commonest label.
        telling: Whether the stump is better than chance.
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
    """Fits a decision stump (a tree with one split) to each number alone.

    Args:
        features: `(N,)` each, by name.
        targets: `(N,)` indices, or `(N, C)` of 0 and 1: then each label is tried alone, and the
            best predicted one is returned.
        labels: C names.
        seed: The seed of the folds.

    Returns:
        The largest gain over the majority first; features that cannot be tried, because labels
        have fewer than five images or all are the same, are left out.
    """
    by_label = dict(zip(labels, targets.T, strict=True)) if targets.ndim > 1 else {"": targets}
    found = []
    for name, values in features.items():
        tried = [_try(name, values, label, target, seed) for label, target in by_label.items()]
        found.append(max(filter(None, tried), key=_gain, default=None))
    return tuple(sorted(filter(None, found), key=_gain, reverse=True))


def _gain(shortcut: Shortcut) -> float:
    return shortcut.accuracy - shortcut.majority


def _try(
    name: str, values: NDArray[np.floating], label: str, target: NDArray[np.integer], seed: int
) -> Shortcut | None:
    # A stump could not learn labels too rare for the folds anyway.
    kept = np.bincount(target)[target] >= _NUM_FOLDS
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
