"""Loads examples as tensors: reads files, transforms them, makes batches.

Does not know what a batch is used for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from limelens.serve.bundle import Task
from limelens.train.data.augmentation import Transform
from limelens.train.data.examples import Example, targets_of
from limelens.train.data.sampling import Draw, EpochBatches


class Examples(Dataset[tuple[Tensor, Tensor]]):
    """Examples, read and transformed on access, by index or by draw.

    A draw carries the seed of its own random numbers, so that its image is the same in any process
    and order. Multiclass targets are int64 indices, multilabel ones float32 `(C,)` of 0 and 1.
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
            encoded = self._examples[drawn].path.read_bytes()
            return self._transform.read(encoded), self._targets[drawn]
        index, seed = drawn
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would also seed the GPU that the network draws from.
            torch.default_generator.manual_seed(seed)
            return self[index]


def ordered_batches(
    examples: Sequence[Example], transform: Transform, batch_size: int
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches in the examples' order, of `(N, 3, H, W)` uint8 images; all targets are 0."""
    plain = [Example(example.path, (0,)) for example in examples]
    return DataLoader(Examples(plain, transform, 1, Task.MULTICLASS), batch_size=batch_size)


def drawn_batches(
    examples: Examples, batches: EpochBatches, num_workers: int = 0
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of an epoch: `(N, 3, H, W)` uint8 images and targets.

    `num_workers` processes read them; with 0, this one does.
    """
    return DataLoader(
        examples,
        batch_sampler=batches,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        # With the global generator, the network's random numbers would depend on the workers.
        generator=torch.Generator(),
    )
