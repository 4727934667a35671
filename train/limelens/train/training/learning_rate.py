"""The learning rate range test: how the loss changes while the rate grows.

It runs the first steps of a training run, and writes only a plot.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from limelens.train.config import TrainConfig
from limelens.train.data.label_table import Images
from limelens.train.data.sampling import EpochBatches
from limelens.train.report import plots
from limelens.train.training.distributed import Processes
from limelens.train.training.recipe import build_criterion, build_optimizer
from limelens.train.training.setup import build_model, read_data, training_batches
from limelens.train.training.suited import suited

_LOWEST: Final = 1e-6
_HIGHEST: Final = 1.0
_NUM_STEPS: Final = 100
_SMOOTHING: Final = 0.9
_DIVERGED: Final = 4.0
"""The test ends at this multiple of the lowest loss."""
_NOISY_STEPS: Final = 10
"""First steps, in which the moving average is noise."""


def find_learning_rate(
    data: Path, config: TrainConfig, plot: Path, *, images: Images = None
) -> float:
    """Trains for a hundred steps while the rate grows from 1e-6 to 1 (Smith 2017, section 3.3).

    Returns the rate at which the smoothed loss falls fastest; the plot shows it. The other
    arguments are those of `train`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = read_data(data, config, images)
    config = suited(config, dataset)
    torch.manual_seed(config.seed)
    model = build_model(config, dataset).to(device)
    examples = dataset.splits["train"]
    criterion = build_criterion(config, dataset.task, examples, len(dataset.labels)).to(device)
    optimizer = build_optimizer(model, config)
    order = EpochBatches(np.ones(len(examples)), config.batch_size, config.seed)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        loader = training_batches(dataset, config, order, Processes(0, 1, device))
        while True:
            yield from loader
            order.epoch += 1

    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    for step, (batch, targets) in zip(range(_NUM_STEPS), batches(), strict=False):
        rate = _LOWEST * (_HIGHEST / _LOWEST) ** (step / (_NUM_STEPS - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = criterion(model(batch), targets)
        average = _SMOOTHING * average + (1 - _SMOOTHING) * float(loss.detach())
        smoothed = average / (1 - _SMOOTHING ** (step + 1))
        if not math.isfinite(smoothed) or (losses and smoothed > _DIVERGED * min(losses)):
            break
        rates.append(rate)
        losses.append(smoothed)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    slope = np.gradient(np.array(losses), np.log(rates))
    start = min(_NOISY_STEPS, len(rates) - 2)
    best = rates[start + int(slope[start:].argmin())]
    plots.save(plots.learning_rates(rates, losses, best), plot)
    return best
