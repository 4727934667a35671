"""What is done to an image before a network learns from it, by preset name.

Every preset takes an upright uint8 image of any size and ends in one of the input's size.
Evaluation has its own function, which is serving's.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from limelens.serve.image import ResizeMode, ResizeRule, fit
from limelens.train.config import PRESETS

Transform = Callable[[NDArray[np.uint8]], Tensor]


def for_evaluation(rule: ResizeRule) -> Transform:
    """What serving does: `(H, W, 3)` uint8 of any size to `(3, rule.height, rule.width)` uint8."""
    return partial(_fitted, rule)


def _fitted(rule: ResizeRule, pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(fit(pixels, rule).pixels.copy()).permute(2, 0, 1)


def for_training(preset: str, rule: ResizeRule, min_crop: float = 0.0) -> Transform:
    """A random variation of an image.

    Args:
        preset: `none`; `light`: flips and slight crops; `standard`: crops from a half, rotation,
            colour; `strong`: free aspect ratios, zooming out over a plain ground, shear, colour,
            grey, blur, noise, JPEG's traces, erasing: for models that meet images from other
            sources than they were trained on.
        rule: The input's size.
        min_crop: The least share of the image that a crop keeps; 0 takes the preset's.

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


class RelativeCrop(v2.Transform):  # type: ignore[misc]
    """A random crop, resized: of about the image's own shape, as evaluation sees all of it.

    torchvision's RandomResizedCrop takes the shape for itself: of a bottle that is three times as
    high as wide it would never show more than the middle.

    Args:
        size: Height and width that come out.
        least: The least share of the image's area that is kept.
        ratio: By how much the crop's aspect ratio may differ from the image's, at least 1.
    """

    def __init__(self, size: tuple[int, int], least: float, ratio: float) -> None:
        super().__init__()
        self.size = size
        self.least = least
        self.ratio = ratio

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draws the crop's place and size in pixels."""
        height, width = flat_inputs[0].shape[-2:]
        share = float(torch.empty(1).uniform_(self.least, 1.0))
        limit = math.log(self.ratio)
        stretch = math.exp(float(torch.empty(1).uniform_(-limit, limit)))
        across = max(1, round(width * min(1.0, math.sqrt(share * stretch))))
        down = max(1, round(height * min(1.0, math.sqrt(share / stretch))))
        left = int(torch.randint(width - across + 1, ()))
        top = int(torch.randint(height - down + 1, ()))
        return {"top": top, "left": left, "height": down, "width": across}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cuts and resizes."""
        return v2.functional.resized_crop(inpt, **params, size=list(self.size), antialias=True)


def _light(size: tuple[int, int], min_crop: float) -> list[v2.Transform]:
    crop = RelativeCrop(size, min_crop or 0.8, 1.15)
    return [v2.ToImage(), crop, v2.RandomHorizontalFlip(), v2.ColorJitter(0.1, 0.1, 0.1)]


def _standard(size: tuple[int, int], min_crop: float) -> list[v2.Transform]:
    return [
        v2.ToImage(),
        RelativeCrop(size, min_crop or 0.5, 1.33),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.RandomAffine(15, translate=(0.1, 0.1), shear=5, fill=128)], 0.5),
        v2.ColorJitter(0.25, 0.25, 0.25, 0.03),
    ]


def _strong(size: tuple[int, int], min_crop: float) -> list[v2.Transform]:
    return [
        v2.RandomApply([v2.Lambda(_jpeg)], 0.2),
        v2.ToImage(),
        v2.RandomApply([v2.RandomZoomOut(fill=128, side_range=(1.0, 1.6), p=1.0)], 0.2),
        # Of any shape, whatever the image's own: shapes tell labels apart that should not.
        v2.RandomResizedCrop(
            size, scale=(min_crop or 0.5, 1.0), ratio=(1 / 1.5, 1.5), antialias=True
        ),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.RandomAffine(15, translate=(0.1, 0.1), shear=8, fill=128)], 0.4),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.06),
        v2.RandomGrayscale(0.1),
        v2.RandomApply([v2.GaussianBlur(5, sigma=(0.1, 2.0))], 0.15),
        v2.RandomApply([v2.GaussianNoise(sigma=0.05)], 0.15),
        v2.RandomErasing(0.15, scale=(0.02, 0.1)),
    ]


def _jpeg(image: Image.Image) -> Image.Image:
    """The traces of a JPEG file of low quality; torchvision's own is deprecated."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(torch.randint(20, 80, ())))
    return Image.open(file)


_STEPS: Final = {"light": _light, "standard": _standard, "strong": _strong}
