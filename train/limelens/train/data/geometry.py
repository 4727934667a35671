"""Where each pixel of a varied image comes from: zoom, crop, flip, rotation, shift and shear.

All of them together are one affine map an image, so that an image is sampled once. Positions are
those of torch's `grid_sample`: x and y from -1 to 1 between the outer edges. Knows no colours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

from limelens.train.data.draws import Draws

_ATTEMPTS: Final = 10
_EDGE: Final = 1 + 1e-4
_GREY: Final = 128.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Boxes:
    """A part of each image: its centre and half its size, `(N, 2)` each, x before y."""

    centres: Floats
    halves: Floats


def relative_crops(draws: Draws, least: float, ratio: float) -> Boxes:
    """Crops of about the image's own shape.

    torchvision's RandomResizedCrop ignores the image's shape: of a bottle three times as high as
    wide it would only ever show the middle.

    Args:
        draws: Of the images.
        least: Least share of the image's area that is kept.
        ratio: Largest ratio of the crop's aspect ratio to the image's, at least 1.
    """
    share = draws.uniform(least, 1)
    stretch = np.exp(draws.uniform(-math.log(ratio), math.log(ratio)))
    halves = np.sqrt(np.stack([share * stretch, share / stretch], 1)).clip(max=1)
    return Boxes(draws.many(-1, 1, 2) * (1 - halves), halves)


def free_crops(draws: Draws, shapes: Floats, least: float, ratio: float) -> Boxes:
    """Crops of any shape, as torchvision's RandomResizedCrop takes them.

    Args:
        draws: Of the images.
        shapes: `(N,)` widths of the images divided by their heights.
        least: Least share of the image's area that is kept.
        ratio: Largest ratio of width to height, and of height to width.
    """
    limit = math.log(ratio)
    share = draws.many(least, 1, _ATTEMPTS)
    aspect = np.exp(draws.many(-limit, limit, _ATTEMPTS)) / shapes[:, None]
    tried = np.sqrt(np.stack([share * aspect, share / aspect], 2))
    fits: NDArray[np.bool_] = tried.max(2) <= 1
    first = fits.argmax(1)
    halves = np.take_along_axis(tried, first[:, None, None], 1)[:, 0]
    # None fits: the middle of the image, of the nearest shape that is allowed.
    allowed = shapes.clip(1 / ratio, ratio) / shapes
    middle = np.stack([allowed.clip(max=1), (1 / allowed).clip(max=1)], 1)
    found = fits.max(1, keepdims=True)
    halves = np.where(found, halves, middle)
    return Boxes(np.where(found, draws.many(-1, 1, 2) * (1 - halves), 0), halves)


def zoomed_out(boxes: Boxes, draws: Draws, share: float, most: float) -> Boxes:
    """Takes boxes in canvases that are up to `most` times as large as a share of the images."""
    side = np.where(draws.chance(share), draws.uniform(1, most), 1)[:, None]
    centres = draws.many(-1, 1, 2) * (side - 1) + boxes.centres * side
    return Boxes(centres, boxes.halves * side)


def flipped(boxes: Boxes, draws: Draws) -> Boxes:
    """Mirrors half of the boxes: they run from right to left."""
    signs = np.where(draws.chance(0.5), -1, 1)
    return Boxes(boxes.centres, boxes.halves * np.stack([signs, np.ones(len(draws))], 1))


def tilts(
    draws: Draws, size: tuple[int, int], share: float, degrees: float, shift: float, shear: float
) -> Floats:
    """Rotates, shears and shifts a share of images about their middle.

    Args:
        draws: Of the images.
        size: Height and width in pixels.
        share: Of the images.
        degrees: Largest angle, to both sides.
        shift: Largest shift, in widths and heights.
        shear: Largest angle of the shear.

    Returns:
        `(N, 2, 3)` maps from a pixel's new position to its old one.
    """
    tilted = draws.chance(share)
    angle = np.radians(np.where(tilted, draws.uniform(-degrees, degrees), 0))
    slope = np.tan(np.radians(np.where(tilted, draws.uniform(-shear, shear), 0)))
    shifts = np.where(tilted[:, None], 2 * draws.many(-shift, shift, 2), 0)
    cos, sin = np.cos(angle), np.sin(angle)
    # The inverses of the rotation, then of the shear, in pixels.
    turned = np.stack([np.stack([cos, sin], 1), np.stack([-sin, cos], 1)], 1)
    turned[:, 0] += slope[:, None] * turned[:, 1]
    height, width = size
    turned[:, 0, 1] *= height / width
    turned[:, 1, 0] *= width / height
    return np.concatenate([turned, -(turned @ shifts[:, :, None])], 2)


def sample(images: Tensor, boxes: Boxes, maps: Floats | None, size: tuple[int, int]) -> Tensor:
    """Samples images bilinearly; pixels from outside a box or an image are grey.

    Args:
        images: `(N, 3, h, w)` float32, 0 to 255.
        boxes: What is seen of each.
        maps: Of `tilts`; None tilts none.
        size: Height and width of the result.

    Returns:
        `(N, 3, H, W)` float32.
    """
    if maps is None:
        maps = np.tile(np.eye(2, 3), (len(images), 1, 1))
    whole = maps * boxes.halves[:, :, None]
    whole[:, :, 2] += boxes.centres
    x, y = _positions(whole, size, images.device)
    grid = torch.stack((x, y), -1)
    sampled = grid_sample(images, grid, padding_mode="border", align_corners=False)
    beyond = (np.abs(boxes.centres) + np.abs(boxes.halves) > _EDGE).any(1)
    tilted = (maps != np.eye(2, 3)).any((1, 2))
    chosen = np.flatnonzero(beyond | tilted)
    if len(chosen):
        index = torch.from_numpy(chosen).to(images.device)
        seen = _is_inside(x[index], y[index])
        seen &= _is_inside(*_positions(maps[chosen], size, images.device))
        sampled[index] = sampled[index].where(seen[:, None], _GREY)
    return sampled


def _positions(maps: Floats, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the pixels of a size come from by `(N, 2, 3)` maps: x and y, `(N, H, W)` each."""
    height, width = size
    across = ((2 * np.arange(width) + 1) / width - 1) * maps[:, :, 0, None] + maps[:, :, 2, None]
    down = ((2 * np.arange(height) + 1) / height - 1) * maps[:, :, 1, None]
    columns, rows = (torch.from_numpy(v.astype(np.float32)).to(device) for v in (across, down))
    x, y = (columns[:, :, None] + rows[:, :, :, None]).unbind(1)
    return x, y


def _is_inside(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) <= _EDGE
