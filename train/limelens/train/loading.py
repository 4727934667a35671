"""Examples as tensors: reads files, transforms them, makes batches.

It knows nothing of what a batch is used for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from limelens.serve.image import read_image
from limelens.train.augmentation import Transform
from limelens.train.data import Example

Batch = tuple[Tensor, Tensor]


class Examples(Dataset[tuple[Tensor, int]]):
    """Examples, read and transformed when they are asked for.

    Args:
        examples: All must be readable.
        transform: Pixels to a tensor.
    """

    def __init__(self, examples: Sequence[Example], transform: Transform) -> None:
        self.examples = examples
        self.transform = transform

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        example = self.examples[index]
        return self.transform(read_pixels(example)), example.target


def read_pixels(example: Example) -> NDArray[np.uint8]:
    """The upright picture of an example, `(H, W, 3)` uint8."""
    return read_image(example.path.read_bytes())


def batches(
    examples: Sequence[Example],
    transform: Transform,
    batch_size: int,
    *,
    shuffle_seed: int | None = None,
    num_workers: int = 0,
) -> DataLoader[tuple[Tensor, int]]:
    """Batches of uint8 images `(N, 3, H, W)` and int64 targets `(N,)`.

    Args:
        examples: At least one.
        transform: Pixels to a tensor.
        batch_size: At least 1.
        shuffle_seed: None keeps the order; else a new order each epoch, and no incomplete batch
            where there is a whole one.
        num_workers: Processes that read; 0 reads in this one.
    """
    generator = None
    if shuffle_seed is not None:
        generator = torch.Generator().manual_seed(shuffle_seed)
    return DataLoader(
        Examples(examples, transform),
        batch_size=batch_size,
        shuffle=shuffle_seed is not None,
        drop_last=shuffle_seed is not None and len(examples) >= batch_size,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        generator=generator,
    )
