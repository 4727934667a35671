"""Statistics of batch normalisation, computed anew for the weights that are kept.

The running averages that training leaves behind belong to weights of many steps ago, and averaged
weights never had any of their own. It knows networks and batches of images, and neither epochs nor
files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from limelens.serve.image import ResizeRule
from limelens.train.data.decoded import DecodedImages
from limelens.train.data.examples import Example
from limelens.train.data.shared_files import Once

MAX_IMAGES: Final = 512
"""Enough for the statistics, and few beside an epoch of more."""
_BATCH: Final = 64


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a network has batch normalisation."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def statistics_images(
    examples: Sequence[Example],
    resize: ResizeRule,
    seed: int,
    num_threads: int = 0,
    once: Once | None = None,
) -> DecodedImages:
    """Up to 512 random examples as a network sees them when it is used, without augmentation."""
    order = np.random.default_rng(seed).permutation(len(examples))[:MAX_IMAGES]
    paths = [examples[index].path for index in order]
    return DecodedImages(paths, resize, num_threads, once=once)


def statistics_batches(images: DecodedImages) -> Iterator[Tensor]:
    """Batches of `(N, 3, H, W)` uint8, N at most 64.

    Each counts the same in the statistics, so they are equally large, give or take one; and none
    holds images of one label alone, as the images are in random order.
    """
    indices = np.arange(len(images))
    for part in np.array_split(indices, math.ceil(len(indices) / _BATCH)):
        yield torch.from_numpy(images.pixels(part.tolist()))


def renew_statistics(model: nn.Module, images: Iterable[Tensor]) -> None:
    """Replaces the running mean and variance of every batch norm by those over batches of images.

    Dropout and stochastic depth are off, as when the network is evaluated. The network's mode is
    kept.

    Args:
        model: Without batch normalisation it is left as it is.
        images: Batches of `(N, 3, H, W)` uint8, N at least 2.
    """
    was_training = model.training
    device = next(model.parameters()).device
    update_bn(images, _OnlyBatchNormTrains(model), device)
    model.train(was_training)


class _OnlyBatchNormTrains(nn.Module):
    """A network that is evaluated, but for its batch norms."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def train(self, mode: bool = True) -> _OnlyBatchNormTrains:
        """Gathers statistics, or evaluates."""
        self.model.eval()
        for module in self.model.modules():
            if isinstance(module, _BatchNorm):
                module.train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """What the network computes."""
        logits: Tensor = self.model(images.to(memory_format=torch.channels_last))
        return logits
