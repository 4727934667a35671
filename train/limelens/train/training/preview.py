"""A sheet of augmented images, to check before a run.

It knows settings and images, and no network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image

from limelens.serve.files import writing_whole
from limelens.train.config import TrainConfig
from limelens.train.data.augmentation import Transform, for_training
from limelens.train.data.label_table import Images
from limelens.train.training.setup import read_data

_NUM_VARIATIONS: Final = 9


def preview(
    data: Path, path: Path, config: TrainConfig, num_rows: int = 8, images: Images = None
) -> None:
    """Writes a PNG with a training image in each row, followed by variations of it.

    Args:
        data: As for `train`.
        path: The PNG to write.
        config: Its augmentation, size and seed are used.
        num_rows: How many images.
        images: As for `train`.
    """
    torch.manual_seed(config.seed)
    examples = read_data(data, config, images).splits["train"]
    rng = np.random.default_rng(config.seed)
    chosen = rng.choice(len(examples), size=min(num_rows, len(examples)), replace=False)
    original = Transform(config.resize)
    variation = for_training(config.augment, config.resize, config.min_crop)
    rule = config.resize
    gap = max(4, rule.width // 16)
    row_px, width = rule.height + gap, (1 + _NUM_VARIATIONS) * rule.width + gap
    sheet = np.full((len(chosen) * row_px - gap, width, 3), 255, dtype=np.uint8)
    for row, index in enumerate(chosen):
        encoded = examples[int(index)].path.read_bytes()
        for column, transform in enumerate([original, *[variation] * _NUM_VARIATIONS]):
            left = column * rule.width + (gap if column else 0)
            sheet[row * row_px :][: rule.height, left : left + rule.width] = (
                transform.read(encoded).permute(1, 2, 0).numpy()
            )
    with writing_whole(path) as file:
        Image.fromarray(sheet).save(file, "PNG")
