"""Turns an image into a network's input, with random variations for training.

Evaluation does what serving does. Knows pixels; does not know files or labels.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from limelens.serve.image import ResizeMode, ResizeRule, fit, read_fitted, read_image
from limelens.train.config import PRESETS


@dataclass(frozen=True)
class Transform:
    """Turns an image of any size into a `(3, H, W)` uint8 tensor of the input's size.

    A rule alone does what serving does, for evaluation.

    Args:
        rule: How the image is fitted first; None keeps its size.
        variation: What follows, drawing from torch's global generator.
    """

    rule: ResizeRule | None
    variation: v2.Compose | None = None

    def __call__(self, pixels: NDArray[np.uint8]) -> Tensor:
        """The input for upright pixels, `(H, W, 3)` uint8."""
        return self._varied(fit(pixels, self.rule).pixels if self.rule else pixels)

    def read(self, encoded: bytes) -> Tensor:
        """The input for a file's content; decodes no more of it than needed."""
        return self._varied(read_fitted(encoded, self.rule) if self.rule else read_image(encoded))

    def _varied(self, pixels: NDArray[np.uint8]) -> Tensor:
        if self.variation is None:
            return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
        image: Tensor = self.variation(Image.fromarray(pixels))
        return image.as_subclass(Tensor)


def for_training(preset: str, rule: ResizeRule, min_crop: float = 0.0) -> Transform:
    """Varies an image at random.

    Args:
        preset: `none`; `light`: flips and slight crops; `standard`: crops from a half, rotation,
            colour; `strong`: free aspect ratios, zooming out over a plain background, shear,
            colour, grey, blur, noise, JPEG artefacts, erasing: for models that will get images
            from new sources.
        rule: The input's size.
        min_crop: Least share of the image that a crop keeps; 0 takes the preset's.

    Raises:
        ValueError: There is no such preset.
    """
    if preset not in PRESETS:
        raise ValueError(f"no augmentation preset {preset!r}; expected one of {', '.join(PRESETS)}")
    if preset == "none":
        return Transform(rule)
    steps = _steps((rule.height, rule.width), min_crop)[preset]
    # Padded or cut as for evaluation, with pixels to spare for crops and rotations.
    larger = ResizeRule(2 * rule.height, 2 * rule.width, rule.mode)
    return Transform(
        None if rule.mode is ResizeMode.STRETCH else larger,
        v2.Compose([*steps, v2.ToDtype(torch.uint8)]),
    )


class RelativeCrop(v2.Transform):  # type: ignore[misc]
    """A random crop of about the image's own shape, resized.

    torchvision's RandomResizedCrop ignores the image's shape: of a bottle three times as high as
    wide it would only ever show the middle.

    Args:
        size: Height and width of the result.
        least: Least share of the image's area that is kept.
        ratio: Largest ratio of the crop's aspect ratio to the image's, at least 1.
    """

    def __init__(self, size: tuple[int, int], least: float, ratio: float) -> None:
        super().__init__()
        self.size = size
        self.least = least
        self.ratio = ratio

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Samples the crop's place and size in pixels."""
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


def _steps(size: tuple[int, int], min_crop: float) -> dict[str, list[v2.Transform]]:
    return {
        "light": [
            v2.ToImage(),
            RelativeCrop(size, min_crop or 0.8, 1.15),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(0.1, 0.1, 0.1),
        ],
        "standard": [
            v2.ToImage(),
            RelativeCrop(size, min_crop or 0.5, 1.33),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.RandomAffine(15, translate=(0.1, 0.1), shear=5, fill=128)], 0.5),
            v2.ColorJitter(0.25, 0.25, 0.25, 0.03),
        ],
        "strong": [
            v2.RandomApply([v2.Lambda(_jpeg)], 0.2),
            v2.ToImage(),
            v2.RandomApply([v2.RandomZoomOut(fill=128, side_range=(1.0, 1.6), p=1.0)], 0.2),
            # Not in the image's shape, which must not reveal the label.
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
        ],
    }


def _jpeg(image: Image.Image) -> Image.Image:
    """Adds the artefacts of a low-quality JPEG; torchvision's transform for that is deprecated."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=int(torch.randint(20, 80, ())))
    return Image.open(file)
