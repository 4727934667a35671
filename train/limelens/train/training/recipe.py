"""The parts of a training step: loss, optimiser, schedule, averaged weights, mixed images.

It knows networks and settings, and neither epochs nor files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms import v2

from limelens.serve.bundle import Task
from limelens.train.config import TrainConfig
from limelens.train.data.examples import Example, label_counts
from limelens.train.data.sampling import label_weights

_MANY_WEIGHTS: Final = 1_000_000

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class SmoothedBinaryCrossEntropy(nn.Module):
    """Binary cross-entropy with targets smoothed towards each label's share, `(C,)`, of the images.

    `weights`, `(C,)`, are for images that have the label; None means 1.
    """

    def __init__(
        self,
        shares: NDArray[np.float64],
        smoothing: float,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("shares", torch.tensor(shares, dtype=torch.float32))
        self.register_buffer(
            "weights", None if weights is None else torch.tensor(weights, dtype=torch.float32)
        )

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over images and labels; logits and targets are `(N, C)`."""
        shares = cast(Tensor, self.shares)
        smoothed = targets * (1 - self.smoothing) + shares * self.smoothing
        return nn.functional.binary_cross_entropy_with_logits(
            logits, smoothed, pos_weight=cast("Tensor | None", self.weights)
        )


def build_criterion(
    config: TrainConfig, task: Task, examples: Sequence[Example], num_labels: int
) -> nn.Module:
    """The loss: cross-entropy, or binary cross-entropy for multilabel."""
    weights = label_weights(examples, num_labels) if config.balance == "weight" else None
    if task is Task.MULTILABEL:
        shares = label_counts(examples, num_labels) / len(examples)
        if weights is not None:
            # A weight of 1000 for a label that one image in 1000 has would add noise.
            weights = np.sqrt(np.maximum(weights, 1.0))
        return SmoothedBinaryCrossEntropy(shares, config.label_smoothing, weights)
    tensor = None if weights is None else torch.tensor(weights, dtype=torch.float32)
    return nn.CrossEntropyLoss(tensor, label_smoothing=config.label_smoothing)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW: weight decay for matrices and kernels, none for biases and normalisation."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def build_schedule(
    optimizer: torch.optim.Optimizer, config: TrainConfig, num_steps: int
) -> LRScheduler:
    """The learning rate over all steps."""
    if config.schedule == "one-cycle":
        return OneCycleLR(optimizer, config.learning_rate, num_steps)
    return CosineAnnealingLR(optimizer, num_steps)


def averaged_weights(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a network's weights, with a lower decay at the start.

    The decay of step t is min(decay, (1 + t) / (10 + t)), as in TensorFlow's
    ExponentialMovingAverage, so that the first random weights are soon forgotten. Buffers are the
    network's own: those of batch normalisation need new values anyway (`batch_norm`), and averages
    of whole numbers, such as the positions in a Swin transformer's table, would be wrong.
    """

    def update(averaged: Any, current: Any, num_averaged: Any) -> None:
        step = int(num_averaged)
        rate = min(decay, (1 + step) / (10 + step))
        get_ema_multi_avg_fn(rate)(averaged, current, num_averaged)  # type: ignore[no-untyped-call]

    return AveragedModel(model, multi_avg_fn=update)


def build_mix(mix: str, num_labels: int, task: Task) -> Mix | None:
    """Returns a function that mixes the images and targets of a batch; None for `none`.

    MixUp (Zhang et al. 2018) with alpha 0.2, CutMix (Yun et al. 2019) with alpha 1. Multiclass
    targets are indices, multilabel ones `(N, C)`.
    """
    num_classes = None if task is Task.MULTILABEL else num_labels
    mixup = v2.MixUp(alpha=0.2, num_classes=num_classes)
    cutmix = v2.CutMix(alpha=1.0, num_classes=num_classes)
    chosen: dict[str, Mix | None] = {
        "none": None,
        "mixup": mixup,
        "cutmix": cutmix,
        "both": v2.RandomChoice([mixup, cutmix]),
    }
    return chosen[mix]


def mixed_precision(
    config: TrainConfig, device: torch.device, model: nn.Module
) -> AbstractContextManager[None]:
    """A context that computes in bfloat16 if the settings say so, or `auto` and it is faster."""
    enabled = config.mixed_precision == "bf16" or (
        config.mixed_precision == "auto" and _is_faster_in_bf16(model, device)
    )
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _is_faster_in_bf16(model: nn.Module, device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices, and they are most of the network's work.

    A processor with AMX trains ResNets in half the time, and networks of depthwise convolutions in
    twice the time; small networks gain little.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # torch 2.9 cannot tell yet.
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is None or not capabilities().get("amx_bf16", False):
        return False
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    num_weights = sum(layer.weight.numel() for layer in layers)
    return num_weights >= _MANY_WEIGHTS and all(layer.groups == 1 for layer in layers)


def num_correct(logits: Tensor, targets: Tensor) -> int:
    """The number of correct images in a batch; in mixed ones the larger part counts."""
    labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
    return int((logits.argmax(dim=1) == labels).sum())
