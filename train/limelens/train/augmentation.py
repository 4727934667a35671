"""What is done to a picture before a network learns from it, by preset name.

Every preset takes an upright uint8 picture of any size and ends in one of the input's size.
Evaluation has its own function, which is serving's.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from limelens.serve.image import ResizeMode, ResizeRule, fit

Transform = Callable[[NDArray[np.uint8]], Tensor]

PRESETS: Final = ("none", "light", "standard", "strong")


def for_evaluation(rule: ResizeRule) -> Transform:
    """What serving does: `(H, W, 3)` uint8 of any size to `(3, rule.height, rule.width)` uint8."""
    return partial(_fitted, rule)


def _fitted(rule: ResizeRule, pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(fit(pixels, rule).pixels.copy()).permute(2, 0, 1)


def for_training(preset: str, rule: ResizeRule, min_crop: float = 0.0) -> Transform:
    """A random variation of a picture.

    Args:
        preset: `none`; `light`: flips and slight crops; `standard`: crops from a half, rotation,
            colour; `strong`: free aspect ratios, zooming out over a plain ground, shear, colour,
            grey, blur, noise, JPEG's traces, erasing: for models that meet pictures from other
            sources than they were trained on.
        rule: The input's size.
        min_crop: The least share of the picture that a crop keeps; 0 takes the preset's.

    Returns:
        As `for_evaluation`, drawing from torch's global generator.

    Raises:
        ValueError: There is no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"no augmentation preset {preset!r}; there are {', '.join(PRESETS)}")
    if preset == "none":
        return for_evaluation(rule)
    size = (rule.height, rule.width)
    # Padded or cut as evaluation does it, with pixels to spare for crops and rotations.
    larger = ResizeRule(2 * rule.height, 2 * rule.width, rule.mode)
    chain = v2.Compose([*_STEPS[preset](size, min_crop), v2.ToDtype(torch.uint8)])

    # A partial and no closure: where processes are spawned, readers get it pickled.
    return partial(_varied, chain, None if rule.mode is ResizeMode.STRETCH else larger)


def _varied(chain: v2.Compose, larger: ResizeRule | None, pixels: NDArray[np.uint8]) -> Tensor:
    if larger is not None:
        pixels = fit(pixels, larger).pixels
    image: Tensor = chain(Image.fromarray(pixels))
    return image.as_subclass(Tensor)


def _crop(
    size: tuple[int, int], least: float, ratio: float, *, flip: float = 0.5
) -> list[v2.Transform]:
    return [
        v2.RandomResizedCrop(size, scale=(least, 1.0), ratio=(1 / ratio, ratio), antialias=True),
        v2.RandomHorizontalFlip(flip),
    ]


def _light(size: tuple[int, int], min_crop: float) -> list[v2.Transform]:
    return [v2.ToImage(), *_crop(size, min_crop or 0.8, 1.15), v2.ColorJitter(0.1, 0.1, 0.1)]


def _standard(size: tuple[int, int], min_crop: float) -> list[v2.Transform]:
    return [
        v2.ToImage(),
        *_crop(size, min_crop or 0.5, 1.33),
        v2.RandomApply([v2.RandomAffine(15, translate=(0.1, 0.1), shear=5, fill=128)], 0.5),
        v2.ColorJitter(0.25, 0.25, 0.25, 0.03),
    ]


def _strong(size: tuple[int, int], min_crop: float) -> list[v2.Transform]:
    return [
        v2.RandomApply([v2.Lambda(_jpeg)], 0.2),
        v2.ToImage(),
        v2.RandomApply([v2.RandomZoomOut(fill=128, side_range=(1.0, 1.6), p=1.0)], 0.2),
        *_crop(size, min_crop or 0.5, 1.5),
        v2.RandomApply([v2.RandomAffine(15, translate=(0.1, 0.1), shear=8, fill=128)], 0.4),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.06),
        v2.RandomGrayscale(0.1),
        v2.RandomApply([v2.GaussianBlur(5, sigma=(0.1, 2.0))], 0.15),
        v2.RandomApply([v2.GaussianNoise(sigma=0.05)], 0.15),
        v2.RandomErasing(0.15, scale=(0.02, 0.1)),
    ]


def _jpeg(picture: Image.Image) -> Image.Image:
    """The traces of a JPEG file of low quality; torchvision's own is deprecated."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=int(torch.randint(20, 80, ())))
    return Image.open(file)


_STEPS: Final = {"light": _light, "standard": _standard, "strong": _strong}
