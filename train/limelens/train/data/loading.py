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

from limelens.serve.bundle import Task
from limelens.serve.image import read_image
from limelens.train.data.augmentation import Transform
from limelens.train.data.examples import Example, targets_of
from limelens.train.data.sampling import Draw, EpochBatches


class Examples(Dataset[tuple[Tensor, Tensor]]):
    """Examples, read and transformed when they are asked for, by index or by draw.

    A draw brings the seed of its own random numbers: its image comes out the same in whichever
    process and order it is read.

    Args:
        examples: All must be readable.
        transform: Pixels to a tensor.
        num_labels: C.
        task: Multiclass gives int64 indices, multilabel float32 `(C,)` of 0 and 1.
    """

    def __init__(
        self, examples: Sequence[Example], transform: Transform, num_labels: int, task: Task
    ) -> None:
        self._examples = examples
        self._transform = transform
        targets = torch.from_numpy(targets_of(examples, num_labels, task))
        self._targets = targets.float() if task is Task.MULTILABEL else targets

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, drawn: int | Draw) -> tuple[Tensor, Tensor]:
        if isinstance(drawn, int):
            return self._transform(read_pixels(self._examples[drawn])), self._targets[drawn]
        index, seed = drawn
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would also seed the GPU that the network draws from.
            torch.default_generator.manual_seed(seed)
            return self._transform(read_pixels(self._examples[index])), self._targets[index]


def read_pixels(example: Example) -> NDArray[np.uint8]:
    """The upright image of an example, `(H, W, 3)` uint8."""
    return read_image(example.path.read_bytes())


def ordered_batches(
    examples: Sequence[Example], transform: Transform, batch_size: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches in the examples' order, of uint8 images `(N, 3, H, W)`; targets are all 0."""
    plain = [Example(example.path, (0,)) for example in examples]
    return DataLoader(Examples(plain, transform, 1, Task.MULTICLASS), batch_size=batch_size)


def drawn_batches(
    examples: Examples, batches: EpochBatches, num_workers: int = 0
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of an epoch: uint8 images `(N, 3, H, W)` and targets.

    Args:
        examples: Those that `batches` draws from.
        batches: Says which and in which order.
        num_workers: Processes that read; 0 reads in this one.
    """
    return DataLoader(
        examples,
        batch_sampler=batches,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        # Of its own: else a loader would take numbers from those that the network draws, more or
        # less often as there are workers or not.
        generator=torch.Generator(),
    )
