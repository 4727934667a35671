"""Makes batches of images as tensors: in their order, or drawn and varied at random.

Does not know what a batch is used for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from limelens.serve.bundle import Task
from limelens.train.data.augmentation import Augmentation, Batch
from limelens.train.data.decoded import DecodedImages
from limelens.train.data.examples import Example, targets_of
from limelens.train.data.sampling import Draw, EpochBatches
from limelens.train.data.shared_files import Once


def ordered_batches(images: DecodedImages, batch_size: int) -> Iterator[Tensor]:
    """All images in their order, `(N, 3, H, W)` uint8."""
    for start in range(0, len(images), batch_size):
        yield torch.from_numpy(images.pixels(range(start, min(start + batch_size, len(images)))))


class TrainingBatches:
    """The batches of an epoch: `(N, 3, H, W)` uint8 images and their targets, on the device.

    A draw carries the seed of its own random numbers, so that its image is the same in any process
    and order. Multiclass targets are int64 indices, multilabel ones float32 `(C,)` of 0 and 1.

    Args:
        examples: What is drawn from.
        num_labels: Number of labels.
        task: What the targets are.
        augmentation: How images are varied.
        order: What is drawn.
        device: Where the batches are used.
        num_threads: As for `DecodedImages`.
        folder: As for `DecodedImages`.
        once: As for `DecodedImages`.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        num_labels: int,
        task: Task,
        augmentation: Augmentation,
        order: EpochBatches,
        device: torch.device,
        num_threads: int = 0,
        folder: Path | None = None,
        once: Once | None = None,
    ) -> None:
        self.images = DecodedImages(
            [example.path for example in examples],
            augmentation.stored,
            num_threads,
            folder,
            once=once,
        )
        targets = torch.from_numpy(targets_of(examples, num_labels, task))
        self._targets = targets.float() if task is Task.MULTILABEL else targets
        self._augmentation = augmentation
        self._order = order
        self._device = device

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The epoch of the order; while one batch is used, the next is prepared."""
        with ThreadPoolExecutor(1) as beside:
            coming: Future[tuple[Batch, Tensor]] | None = None
            for draws in self._order:
                ready, coming = coming, beside.submit(self._prepared, draws)
                if ready is not None:
                    yield self._moved(*ready.result())
            if coming is not None:
                yield self._moved(*coming.result())

    def _prepared(self, draws: Sequence[Draw]) -> tuple[Batch, Tensor]:
        indices, seeds = zip(*draws, strict=True)
        pixels = self.images.pixels(indices)
        batch = self._augmentation.prepared(pixels, self.images.shapes(indices), seeds)
        return batch, self._targets[np.array(indices)]

    def _moved(self, batch: Batch, targets: Tensor) -> tuple[Tensor, Tensor]:
        images = self._augmentation(batch, self._device)
        return images, targets.to(self._device)
