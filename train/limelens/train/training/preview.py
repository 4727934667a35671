"""A sheet of augmented images, to check before a run.

It knows settings and images, and no network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from torchvision.utils import make_grid

from limelens.serve.image.writing import write_image
from limelens.train.config import TrainConfig
from limelens.train.data.augmentation import Augmentation
from limelens.train.data.decoded import DecodedImages
from limelens.train.data.label_table import Images
from limelens.train.training.setup import read_data
from limelens.train.training.suited import suited

_NUM_VARIATIONS: Final = 9


def preview(
    data: Path, path: Path, config: TrainConfig, num_rows: int = 8, images: Images = None
) -> None:
    """Writes an image with a training image in each row, followed by variations of it.

    The arguments are those of `train`.
    """
    dataset = read_data(data, config, images)
    config = suited(config, dataset)
    examples = dataset.splits["train"]
    rng = np.random.default_rng(config.seed)
    chosen = rng.choice(len(examples), size=min(num_rows, len(examples)), replace=False)
    paths = [examples[int(index)].path for index in chosen]
    rows = range(len(paths))
    augmentation = Augmentation(config.augment, config.resize, config.min_crop)
    larger = DecodedImages(paths, augmentation.stored, config.num_workers)
    columns = [torch.from_numpy(DecodedImages(paths, config.resize).pixels(rows))]
    for _ in range(_NUM_VARIATIONS):
        pixels = larger.pixels(rows)
        seeds = rng.integers(2**63, size=len(paths)).tolist()
        batch = augmentation.prepared(pixels, larger.shapes(rows), seeds)
        columns.append(augmentation(batch, torch.device("cpu")))
    tiles = torch.stack(columns, 1).flatten(0, 1)
    sheet = make_grid(tiles, len(columns), max(4, config.resize.width // 16), pad_value=255)
    write_image(path, sheet.permute(1, 2, 0).numpy())
