"""What cameras and files do to some images of a batch: JPEG artefacts, few pixels, blur, noise.

Each function changes a share of the images and leaves the others alone.
"""

from __future__ import annotations

import io
import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from limelens.train.data.draws import Draws

_BLUR_RADIUS: Final = 2


def compress(images: NDArray[np.uint8], draws: Draws, share: float) -> None:
    """Adds the artefacts of JPEGs of quality 20 to 79, in place, to `(N, 3, H, W)` pixels."""
    quality = draws.uniform(20, 80).astype(int)
    for index in np.flatnonzero(draws.chance(share)):
        file = io.BytesIO()
        pixels = np.ascontiguousarray(images[index].transpose(1, 2, 0))
        Image.fromarray(pixels).save(file, "JPEG", quality=int(quality[index]))
        images[index] = np.asarray(Image.open(file)).transpose(2, 0, 1)


def coarsen(images: Tensor, draws: Draws, share: float) -> None:
    """Enlarges `(N, 3, H, W)` float32 images from 0.22 to 0.75 of their height and width, in place.

    As far cameras and small files give them.
    """
    scales = draws.uniform(0.22, 0.75)
    size = images.shape[-2:]
    for index in np.flatnonzero(draws.chance(share)):
        fewer = [max(1, round(side * scales[index])) for side in size]
        small = interpolate(images[index, None], fewer, mode="bilinear", antialias=True)
        images[index] = interpolate(small, size, mode="bilinear")[0]


def blur(images: Tensor, draws: Draws, share: float) -> None:
    """Blurs `(N, 3, H, W)` float32 images in place: Gaussians of 0.1 to 2 pixels, over 5 pixels."""
    sigmas = draws.uniform(0.1, 2.0)
    chosen = np.flatnonzero(draws.chance(share))
    if not len(chosen):
        return
    index = torch.from_numpy(chosen).to(images.device)
    offsets = np.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1)
    kernels = np.exp(-0.5 * (offsets / sigmas[chosen, None]) ** 2)
    kernels /= kernels.sum(1, keepdims=True)
    taps = torch.from_numpy(kernels.astype(np.float32)).to(images.device)
    taps = taps.T[:, :, None, None, None]
    blurred = images[index]
    around = (_BLUR_RADIUS, _BLUR_RADIUS)
    for axis, margins in ((2, (0, 0, *around)), (3, (*around, 0, 0))):
        length = images.shape[axis]
        padded = pad(blurred, margins, mode="reflect")
        blurred = taps[0] * padded.narrow(axis, 0, length)
        for offset, tap in enumerate(taps[1:], start=1):
            blurred.addcmul_(tap, padded.narrow(axis, offset, length))
    images[index] = blurred


def add_noise(images: Tensor, draws: Draws, share: float, sigma: float) -> None:
    """Adds Gaussian noise of `sigma`, of 0 to 255, to `(N, 3, H, W)` float32 images in place."""
    for index in np.flatnonzero(draws.chance(share)):
        noise = torch.from_numpy(draws.normal(int(index), tuple(images.shape[1:])))
        images[index] += sigma * noise.to(images.device)


def erase(images: Tensor, draws: Draws, share: float) -> None:
    """Blackens a rectangle of 2 to 10 % of the area of `(N, 3, H, W)` images, in place."""
    height, width = images.shape[-2:]
    area = draws.uniform(0.02, 0.1) * height * width
    ratio = np.exp(draws.uniform(math.log(0.3), math.log(3.3)))
    down = np.sqrt(area * ratio).round().clip(1, height).astype(int)
    across = np.sqrt(area / ratio).round().clip(1, width).astype(int)
    top = (draws.uniform(0, 1) * (height - down + 1)).astype(int)
    left = (draws.uniform(0, 1) * (width - across + 1)).astype(int)
    for i in np.flatnonzero(draws.chance(share)):
        images[i, :, top[i] : top[i] + down[i], left[i] : left[i] + across[i]] = 0
