"""What the network should say about a frame, and how wrong it is.

Knows maps and boxes; does not know how frames are made or how the network works.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from limelens.train.detection.frames import Boxes, Frame
from limelens.train.detection.network import STRIDE

_SPREAD: Final = 9.0
"""A face's width is this many standard deviations of the hill around its centre."""
_LEAST_SPREAD: Final = 0.6
_REACH: Final = 2.0
"""So many cells from the centre the network learns the box as well."""
_LEAST: Final = 0.02
"""Below this height a hill ends."""


@dataclass(frozen=True, eq=False)
class Targets:
    """Of one frame or, with a first dimension N, of a batch.

    Args:
        heat: `(H, W)` 0 to 1: hills around the centres, 1 at each centre.
        counts: `(H, W)` 0 or 1: whether the heat of this cell matters.
        boxes: `(4, H, W)`: what the network's last four channels should be.
        has_box: `(H, W)` 0 or 1: whether the box of this cell matters.
    """

    heat: Tensor
    counts: Tensor
    boxes: Tensor
    has_box: Tensor


def targets_of(frame: Frame) -> Targets:
    """The maps for a frame, each a `STRIDE`-th of its size."""
    height, width = (side // STRIDE for side in frame.image.shape[:2])
    heat = np.zeros((height, width), dtype=np.float32)
    counts = np.ones((height, width), dtype=np.float32)
    boxes = np.zeros((4, height, width), dtype=np.float32)
    has_box = np.zeros((height, width), dtype=np.float32)
    for left, top, right, bottom in (frame.unsure / STRIDE).tolist():
        rows = slice(max(0, int(top) - 1), int(bottom) + 2)
        counts[rows, max(0, int(left) - 1) : int(right) + 2] = 0
    # Small faces last: their boxes win where two meet.
    for left, top, right, bottom in _largest_first(frame.faces) / STRIDE:
        x, y = (left + right) / 2, (top + bottom) / 2
        wide, tall = max(right - left, 0.5), max(bottom - top, 0.5)
        column, row = min(int(x), width - 1), min(int(y), height - 1)
        spread_x, spread_y = max(_LEAST_SPREAD, wide / _SPREAD), max(_LEAST_SPREAD, tall / _SPREAD)
        columns, rows = np.arange(width) - column, np.arange(height) - row
        across = np.exp(-(columns**2) / (2 * spread_x**2))
        hill = np.exp(-(rows**2) / (2 * spread_y**2))[:, None] * across
        hill[hill < _LEAST] = 0
        np.maximum(heat, hill, out=heat)
        counts[row, column] = 1
        near_x, near_y = (int(min(_REACH, side / 8)) for side in (wide, tall))
        part = (
            slice(max(0, row - near_y), row + near_y + 1),
            slice(max(0, column - near_x), column + near_x + 1),
        )
        has_box[part] = 1
        boxes[0][part] = (x - np.arange(width))[None, part[1]]
        boxes[1][part] = (y - np.arange(height))[part[0], None]
        boxes[2][part], boxes[3][part] = np.log(wide), np.log(tall)
    return Targets(*(torch.from_numpy(values) for values in (heat, counts, boxes, has_box)))


def _largest_first(boxes: Boxes) -> NDArray[np.float32]:
    return boxes[np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))]


def loss_of(found: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """How far a map is from its targets.

    Args:
        found: `(N, 5, H, W)` float32, as from the network.
        targets: Of the batch.

    Returns:
        The focal loss of the heat for each centre, equation 1 of "Objects as Points" with
        alpha 2 and beta 4; and the smooth L1 loss of the boxes for each cell that has one.
    """
    heat, logits = targets.heat, found[:, 0]
    probability = torch.sigmoid(logits).clamp(1e-4, 1 - 1e-4)
    is_centre = (heat == 1).float() * targets.counts
    at_centres = torch.log(probability) * (1 - probability) ** 2 * is_centre
    rest = targets.counts * (1 - is_centre) * (1 - heat) ** 4
    elsewhere = torch.log(1 - probability) * probability**2 * rest
    focal = -(at_centres + elsewhere).sum() / is_centre.sum().clamp(min=1)
    errors = functional.smooth_l1_loss(found[:, 1:], targets.boxes, reduction="none", beta=0.2)
    box = (errors.sum(dim=1) * targets.has_box).sum() / targets.has_box.sum().clamp(min=1)
    return focal, box
