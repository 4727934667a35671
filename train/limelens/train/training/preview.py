"""A sheet of augmented images, to be looked at before a run.

It knows settings and images, and no network.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from limelens.train.config import TrainConfig
from limelens.train.data.augmentation import for_evaluation, for_training
from limelens.train.data.dataset import read_dataset
from limelens.train.data.label_table import Images
from limelens.train.report.plots import write_sheet


def preview(
    data: Path, path: Path, config: TrainConfig, num_rows: int = 8, images: Images = None
) -> None:
    """Writes a sheet: in each row a training image as evaluation sees it, and variations.

    Args:
        data: As for `train`.
        path: The PNG to write.
        config: Its augmentation, size and seed are used.
        num_rows: How many images.
        images: As for `train`.
    """
    torch.manual_seed(config.seed)
    examples = read_dataset(
        data,
        seed=config.seed,
        images=images,
        task=config.task,
        val_from_train=config.val_from_train,
    ).splits["train"]
    rng = np.random.default_rng(config.seed)
    chosen = rng.choice(len(examples), size=min(num_rows, len(examples)), replace=False)
    transforms = [
        for_evaluation(config.resize),
        *[for_training(config.augment, config.resize, config.min_crop)] * 9,
    ]
    rows = []
    for index in chosen:
        encoded = examples[int(index)].path.read_bytes()
        rows.append([one.read(encoded).permute(1, 2, 0).numpy() for one in transforms])
    write_sheet(rows, path)
