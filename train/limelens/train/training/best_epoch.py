"""Which epoch of a run is kept: a score that is no noise, whatever the number of images.

It knows rows of finished epochs, and nothing of networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final

from limelens.serve.bundle import Task

_FEW_IMAGES: Final = 200
"""With fewer validation images, the loss after one epoch is too much a matter of chance."""
_NUM_AVERAGED: Final = 5
_MANY_IMAGES: Final = 1000
"""From here on accuracy, which users want, is known well enough to decide."""


def epoch_score(
    rows: Sequence[Mapping[str, float]], num_images: int, task: Task
) -> tuple[float, ...]:
    """How good a network is after the last of some epochs; higher is better.

    The validation loss decides; with fewer than 200 validation images its mean over that epoch and
    the four before it. Multiclass with at least 1,000 images: accuracy, then loss. Of few images,
    accuracy takes few values, and the highest is that of a lucky epoch.

    Args:
        rows: Of metrics.csv, from the first epoch on; at least one.
        num_images: Validation images.
        task: Whether there is an accuracy.
    """
    losses = [row["val_loss"] for row in rows]
    if num_images < _FEW_IMAGES:
        # Rounded: equal losses must not look better for having been added up.
        return (-round(fmean(losses[-_NUM_AVERAGED:]), 9),)
    if task is Task.MULTICLASS and num_images >= _MANY_IMAGES:
        return rows[-1]["val_accuracy"], -losses[-1]
    return (-losses[-1],)
