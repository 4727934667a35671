"""How accurate a model is on groups of images, such as small, dark or tall ones.

It knows pixels and counts, and neither models nor how accuracy is decided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.train.data.examples import Skipped
from limelens.train.data.reading import read_each
from limelens.train.evaluation.interval import accuracy_interval

MIN_IMAGES: Final = 20
"""Groups with fewer are too small to say anything."""

Bounds = Sequence[tuple[float, str]]

_MOST_GROUPS: Final = 20
_SAMPLED_SIDE: Final = 128
_LUMA: Final = np.array([0.299, 0.587, 0.114])
# Upper ends, exclusive; the last group has none.
_SIZES: Final[Bounds] = (
    (64, "under 64 px"), (128, "64 to 127 px"), (256, "128 to 255 px"), (512, "256 to 511 px"),
    (np.inf, "512 px or more"),
)  # fmt: skip
_BRIGHTNESS: Final[Bounds] = ((80, "dark"), (170, "medium"), (np.inf, "bright"))
_SHAPES: Final[Bounds] = ((0.8, "tall"), (1.25, "about square"), (np.inf, "wide"))


@dataclass(frozen=True)
class Appearance:
    """What can be measured of any upright image.

    Args:
        height: In pixels.
        width: In pixels.
        brightness: The mean luma (ITU-R BT.601), 0 to 255.
    """

    height: int
    width: int
    brightness: float


def appearance(pixels: NDArray[np.uint8]) -> Appearance:
    """Measures `(H, W, 3)` uint8 RGB; of a large image only some rows and columns are read."""
    height, width = pixels.shape[:2]
    down, across = (max(1, side // _SAMPLED_SIDE) for side in (height, width))
    sample = pixels[::down, ::across]
    return Appearance(height, width, float(sample.mean(axis=(0, 1)) @ _LUMA))


def read_appearances(paths: Iterable[Path]) -> list[Appearance | Skipped]:
    """The appearance of each file, in their order."""
    return list(read_each(paths, lambda _encoded, pixels: appearance(pixels)))


def measured_groupings(appearances: Sequence[Appearance | Skipped]) -> dict[str, list[str]]:
    """The group of each image by its shorter side, its brightness and its shape.

    It is empty for a file that could not be read.
    """

    def groups(bounds: Bounds, measure: Callable[[Appearance], float]) -> list[str]:
        return [
            _below(bounds, measure(one)) if isinstance(one, Appearance) else ""
            for one in appearances
        ]

    return {
        "size": groups(_SIZES, lambda one: min(one.height, one.width)),
        "brightness": groups(_BRIGHTNESS, lambda one: one.brightness),
        "shape": groups(_SHAPES, lambda one: one.width / one.height),
    }


def group_metrics(
    groupings: Mapping[str, Sequence[str]],
    correct: NDArray[np.bool_],
    decided: NDArray[np.bool_] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """The accuracy of each group, by the name of the grouping.

    Args:
        groupings: The group of each image, empty if unknown. Those with one group alone, or with
            more than twenty, are left out.
        correct: `(N,)` whether the most probable label is true.
        decided: `(N,)` whether the model's threshold is reached; None if it has none.

    Returns:
        For each group `group`, `num_images`, `accuracy`, `low` and `high` (the 95 % interval of
        Wilson 1927), `accuracy_of_others` (in the other groups of the grouping), `too_small`
        (under 20 images) and `worse` (not too small, and `high` is below that of others); with
        `decided` also `coverage` and `decided_accuracy` (None if nothing is decided).
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for name, groups in groupings.items():
        of_image = np.array(groups)
        known = [group for group in _in_order(name, groups) if group]
        if not 2 <= len(known) <= _MOST_GROUPS:
            continue
        found[name] = [
            _row(group, of_image == group, (of_image != group) & (of_image != ""), correct, decided)
            for group in known
        ]
    return found


def _row(
    group: str,
    inside: NDArray[np.bool_],
    others: NDArray[np.bool_],
    correct: NDArray[np.bool_],
    decided: NDArray[np.bool_] | None,
) -> dict[str, Any]:
    num, right = int(inside.sum()), int(correct[inside].sum())
    low, high = accuracy_interval(right, num)
    too_small = num < MIN_IMAGES
    row = {
        "group": group,
        "num_images": num,
        "accuracy": right / num,
        "low": low,
        "high": high,
        "accuracy_of_others": float(correct[others].mean()),
        "too_small": too_small,
        "worse": not too_small and bool(high < correct[others].mean()),
    }
    if decided is not None:
        those = inside & decided
        row["coverage"] = float(decided[inside].mean())
        row["decided_accuracy"] = float(correct[those].mean()) if those.any() else None
    return row


def _in_order(name: str, groups: Sequence[str]) -> list[str]:
    """The groups that occur: measured ones from small to large, others by name."""
    measured = {"size": _SIZES, "brightness": _BRIGHTNESS, "shape": _SHAPES}
    bounds: Bounds = measured.get(name, ())
    order = [group for _, group in bounds]
    return sorted({*groups}, key=lambda one: (order.index(one) if one in order else -1, one))


def _below(bounds: Bounds, value: float) -> str:
    return next(name for bound, name in bounds if value < bound)
