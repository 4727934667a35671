"""Varies the images of a batch at random, each in its own way, on any device.

Knows pixels and presets; does not know files or labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limelens.serve.image import ResizeRule
from limelens.train.config import PRESETS
from limelens.train.data.colour import Jitter, jittered
from limelens.train.data.disturbances import add_noise, blur, coarsen, compress, erase
from limelens.train.data.draws import Draws
from limelens.train.data.geometry import (
    Boxes,
    flipped,
    free_crops,
    relative_crops,
    sample,
    tilts,
    zoomed_out,
)

_LARGEST: Final = 2.0
_NOISE: Final = 0.05 * 255


@dataclass(frozen=True)
class _Preset:
    """What a preset does.

    Args:
        least: Least share of the image that a crop keeps.
        ratio: Largest ratio of a crop's shape to the image's; to a square for a free crop.
        jitter: Changes of colour.
        tilted: Share of images that are rotated by up to 15 degrees and shifted by a tenth.
        shear: Largest shear of those, in degrees.
        disturbed: Whether crops have any shape, and images are zoomed out, blurred and so on.
    """

    least: float
    ratio: float
    jitter: Jitter
    tilted: float = 0.0
    shear: float = 0.0
    disturbed: bool = False


_PRESETS: Final = {
    "light": _Preset(0.8, 1.15, Jitter(0.1, 0.1, 0.1)),
    "standard": _Preset(0.5, 1.33, Jitter(0.25, 0.25, 0.25, 0.03), tilted=0.5, shear=5),
    "strong": _Preset(
        0.5, 1.5, Jitter(0.4, 0.4, 0.4, 0.06, grey=0.1), tilted=0.4, shear=8, disturbed=True
    ),
}


@dataclass(frozen=True)
class Batch:
    """Images before they are varied.

    Args:
        pixels: `(N, 3, h, w)` uint8, of the augmentation's `stored` size.
        shapes: `(N,)` widths of the images divided by their heights.
        draws: Their random numbers.
    """

    pixels: Tensor
    shapes: NDArray[np.float64]
    draws: Draws


class Augmentation:
    """A preset for an input's size.

    Args:
        preset: `none`; `light`: flips and slight crops; `standard`: crops from a half, rotation,
            colour; `strong`: free aspect ratios, zooming out over a plain background, shear,
            colour, grey, fewer pixels, blur, noise, JPEG artefacts, erasing: for models that will
            get images from new sources.
        rule: The input's size.
        min_crop: Least share of the image that a crop keeps; 0 takes the preset's.

    Raises:
        ValueError: There is no such preset.
    """

    def __init__(self, preset: str, rule: ResizeRule, min_crop: float = 0.0) -> None:
        if preset not in PRESETS:
            expected = ", ".join(PRESETS)
            raise ValueError(f"no augmentation preset {preset!r}; expected one of {expected}")
        self._preset = _PRESETS.get(preset)
        self._size = (rule.height, rule.width)
        self._least = (min_crop or self._preset.least) if self._preset else 1.0
        self._rule = rule

    @property
    def stored(self) -> ResizeRule:
        """How images are fitted beforehand: so large that the smallest crop has enough pixels."""
        scale = min(_LARGEST, 1 / math.sqrt(self._least))
        height, width = (round(side * scale) for side in self._size)
        return ResizeRule(height, width, self._rule.mode)

    def prepared(
        self, pixels: NDArray[np.uint8], shapes: NDArray[np.float64], seeds: Sequence[int]
    ) -> Batch:
        """Draws the random numbers of images and does what only the processor can.

        Args:
            pixels: `(N, 3, h, w)` of the `stored` size; may be changed.
            shapes: `(N,)` widths of the images divided by their heights.
            seeds: Of the images.
        """
        draws = Draws(seeds)
        if self._preset is not None and self._preset.disturbed:
            compress(pixels, draws, 0.2)
        return Batch(torch.from_numpy(pixels), shapes, draws)

    def __call__(self, batch: Batch, device: torch.device) -> Tensor:
        """Varies a batch, on a device: `(N, 3, H, W)` uint8."""
        images = batch.pixels.to(device, non_blocking=True)
        if self._preset is None:
            return images
        return self._varied(images.float(), batch, self._preset)

    def _varied(self, images: Tensor, batch: Batch, preset: _Preset) -> Tensor:
        draws = batch.draws
        images = sample(images, self._boxes(batch, preset), self._tilts(draws, preset), self._size)
        images = jittered(images, draws, preset.jitter).clamp_(0, 255)
        if preset.disturbed:
            coarsen(images, draws, 0.2)
            blur(images, draws, 0.15)
            add_noise(images, draws, 0.15, _NOISE)
            erase(images, draws, 0.15)
        return images.add_(0.5).clamp_(0, 255).to(torch.uint8)

    def _boxes(self, batch: Batch, preset: _Preset) -> Boxes:
        draws = batch.draws
        if preset.disturbed:
            # Not in the image's shape, which must not reveal the label.
            crops = free_crops(draws, batch.shapes, self._least, preset.ratio)
            crops = zoomed_out(crops, draws, share=0.2, most=1.6)
        else:
            crops = relative_crops(draws, self._least, preset.ratio)
        return flipped(crops, draws)

    def _tilts(self, draws: Draws, preset: _Preset) -> NDArray[np.float64] | None:
        if not preset.tilted:
            return None
        return tilts(draws, self._size, preset.tilted, degrees=15, shift=0.1, shear=preset.shear)
