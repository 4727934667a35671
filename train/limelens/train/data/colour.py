"""Random brightness, contrast, saturation, hue and grey, each with a factor for every image.

All of them together are one affine map of red, green and blue an image, so that pixels are touched
once. Knows no positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limelens.train.data.draws import Draws

# ITU-R BT.601, as Pillow and torchvision convert to grey.
_LUMA: Final = np.array([0.299, 0.587, 0.114])
# RGB to YIQ, in which a rotation about the first axis changes the hue alone.
_YIQ: Final = np.array([_LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


@dataclass(frozen=True)
class Jitter:
    """The largest changes, as of torchvision's ColorJitter: factors 1 - x to 1 + x, turns of hue.

    `grey` is the share of images that lose their colours afterwards.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float = 0.0
    grey: float = 0.0


def jittered(images: Tensor, draws: Draws, jitter: Jitter) -> Tensor:
    """Changes the colours of `(N, 3, H, W)` float32 images; results may leave 0 to 255.

    Brightness, contrast, saturation and hue follow in an order of each image's own. Hue turns in
    YIQ instead of HSV, which is linear and, by the few degrees used here, looks the same.
    """
    means = images.mean((2, 3)).cpu().numpy().astype(np.float64)
    matrix, offset = _maps(draws, jitter, means)
    flat = torch.baddbmm(
        torch.from_numpy(offset[:, :, None].astype(np.float32)).to(images.device),
        torch.from_numpy(matrix.astype(np.float32)).to(images.device),
        images.flatten(2),
    )
    return flat.view(images.shape)


def _maps(
    draws: Draws, jitter: Jitter, means: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The map of each image with the mean colours `means`: `(N, 3, 3)` and `(N, 3)`."""
    num_images = len(draws)
    identity, grey = np.eye(3), np.tile(_LUMA, (3, 1))
    brightness, contrast, saturation = (
        draws.uniform(1 - most, 1 + most)[:, None, None]
        for most in (jitter.brightness, jitter.contrast, jitter.saturation)
    )
    angle = 2 * math.pi * draws.uniform(-jitter.hue, jitter.hue)
    turned = np.tile(identity, (num_images, 1, 1))
    turned[:, 1, 1] = turned[:, 2, 2] = np.cos(angle)
    turned[:, 2, 1] = np.sin(angle)
    turned[:, 1, 2] = -np.sin(angle)
    steps = np.stack(
        [
            brightness * identity,
            contrast * identity,
            saturation * identity + (1 - saturation) * grey,
            np.linalg.inv(_YIQ) @ turned @ _YIQ,
        ],
        1,
    )
    order = draws.many(0, 1, 4).argsort(1)
    matrix = np.tile(identity, (num_images, 1, 1))
    offset = np.zeros((num_images, 3))
    every = np.arange(num_images)
    for step in order.T:
        # Contrast is about the mean grey of the image as it is by now.
        middle = ((matrix @ means[:, :, None])[:, :, 0] + offset) @ _LUMA
        added = np.where(step == 1, (1 - contrast[:, 0, 0]) * middle, 0)
        chosen = steps[every, step]
        matrix = chosen @ matrix
        offset = (chosen @ offset[:, :, None])[:, :, 0] + added[:, None]
    without = draws.chance(jitter.grey)
    matrix[without] = grey @ matrix[without]
    offset[without] = offset[without] @ grey.T
    return matrix, offset
