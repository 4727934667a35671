"""What a camera and a network do to an image: light, focus, movement, noise, compression.

Knows pixels; does not know what is in them.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageFilter

from limelens.train.detection.frames import Pixels


def distort(image: Image.Image, rng: np.random.Generator) -> Pixels:
    """A copy as another camera would have taken it.

    Args:
        image: RGB.
        rng: Of everything that changes.

    Returns:
        `(H, W, 3)` RGB, 0 to 255, of the same size.
    """
    if rng.random() < 0.55:
        image = image.point(_tones(rng))
    kind = rng.random()
    if kind < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.2))))
    elif kind < 0.4:
        image = image.filter(_movement(rng))
    elif kind < 0.5:  # enlarged from fewer pixels
        factor = float(rng.uniform(0.45, 0.9))
        fewer = (round(image.width * factor), round(image.height * factor))
        image = image.resize(fewer, Image.Resampling.BILINEAR).resize(
            image.size, Image.Resampling.BILINEAR
        )
    if rng.random() < 0.06:
        image = image.convert("L").convert("RGB")
    if rng.random() < 0.45:
        image = _noisy(image, rng)
    if rng.random() < 0.5:
        image = _compressed(image, int(rng.integers(30, 93)))
    return np.asarray(image)


def _tones(rng: np.random.Generator) -> list[int]:
    """A table of 256 values for each channel: exposure, contrast, gamma, cast."""
    values = np.arange(256, dtype=np.float32)[None] / 255
    gains = np.exp(rng.normal(0, 0.25) + rng.normal(0, 0.07, (3, 1)))
    gamma = float(np.exp(rng.normal(0, 0.2)))
    contrast = float(rng.uniform(0.7, 1.2))
    tones = ((values**gamma - 0.45) * contrast + 0.45 + rng.normal(0, 0.04)) * gains
    table: list[int] = np.clip(255 * tones, 0, 255).astype(np.uint8).ravel().tolist()
    return table


def _movement(rng: np.random.Generator) -> ImageFilter.Kernel:
    """Blur along a line of five pixels."""
    lines = (np.eye(5), np.eye(5)[::-1], np.eye(5)[2:3].repeat(5, 0).T, np.eye(5)[2:3].repeat(5, 0))
    line = lines[int(rng.integers(4))]
    return ImageFilter.Kernel((5, 5), [float(v) for v in line.ravel()])


def _noisy(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    values = np.asarray(image, dtype=np.float32)
    height, width = values.shape[:2]
    shape = (height, width, 3) if rng.random() < 0.5 else (height, width, 1)
    noise = rng.standard_normal(shape, dtype=np.float32) * np.float32(rng.uniform(0, 13))
    return Image.fromarray(np.clip(values + noise, 0, 255).astype(np.uint8))


def _compressed(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    with Image.open(file) as reread:
        return reread.convert("RGB")
