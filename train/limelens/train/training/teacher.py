"""A trained network that another one learns from (Hinton et al. 2015, arXiv:1503.02531).

It knows losses, and neither data nor epochs.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from limelens.serve.bundle import Task
from limelens.train.checkpoint import Checkpoint


class Teacher:
    """Says what it sees in the images that a network is trained on.

    Args:
        loaded: The trained network; its input may have another size.
        weight: Its share of the loss, above 0 up to 1.
        temperature: Divides both networks' logits before they are compared.
    """

    def __init__(self, loaded: Checkpoint, weight: float, temperature: float) -> None:
        self._model = loaded.model.eval().requires_grad_(requires_grad=False)
        self._size = (loaded.resize.height, loaded.resize.width)
        self._task = loaded.task
        self._weight = weight
        self._temperature = temperature

    def to(self, device: torch.device) -> None:
        """Moves it."""
        self._model.to(device).to(memory_format=torch.channels_last)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Its `(N, C)` float32 logits for `(N, 3, H, W)` pixels."""
        if images.shape[-2:] != self._size:
            images = functional.interpolate(
                images.float(), self._size, mode="bilinear", antialias=True
            )
        return cast(Tensor, self._model(images)).float()

    def mixed(self, loss: Tensor, logits: Tensor, taught: Tensor) -> Tensor:
        """The loss on labels, mixed with how far `(N, C)` logits are from the teacher's.

        The distance is the Kullback-Leibler divergence (for multilabel the cross-entropy of each
        label), times the temperature squared, so that its gradients keep their size.
        """
        cooled, target = logits / self._temperature, taught / self._temperature
        if self._task is Task.MULTILABEL:
            distance = functional.binary_cross_entropy_with_logits(cooled, target.sigmoid())
        else:
            distance = functional.kl_div(
                cooled.log_softmax(dim=1),
                target.log_softmax(dim=1),
                reduction="batchmean",
                log_target=True,
            )
        return (1 - self._weight) * loss + self._weight * self._temperature**2 * distance
