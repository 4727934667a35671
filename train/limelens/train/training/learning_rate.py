"""The learning rate range test: how the loss moves while the rate grows.

It knows the first steps of a run and leaves nothing behind but a plot.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np
import torch
from matplotlib.figure import Figure

from limelens.train.config import TrainConfig
from limelens.train.data.augmentation import for_training
from limelens.train.data.dataset import read_dataset
from limelens.train.data.label_table import Images
from limelens.train.data.loading import Examples, drawn_batches
from limelens.train.data.sampling import EpochBatches
from limelens.train.report.plots import save_figure
from limelens.train.training.loop import build_model
from limelens.train.training.recipe import build_criterion, build_optimizer

_LOWEST: Final = 1e-6
_HIGHEST: Final = 1.0
_NUM_STEPS: Final = 100
_SMOOTHING: Final = 0.9
_DIVERGED: Final = 4.0


def find_learning_rate(
    data: Path, config: TrainConfig, plot: Path, *, images: Images = None
) -> float:
    """Trains for a hundred steps while the rate grows from 1e-6 to 1 (Smith 2017, section 3.3).

    Args:
        data: As for `train`.
        config: Its network, size, augmentation and batch size are used.
        plot: The PNG to write: the smoothed loss over the rate.
        images: As for `train`.

    Returns:
        The rate at which the smoothed loss falls fastest.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = read_dataset(
        data,
        seed=config.seed,
        images=images,
        task=config.task,
        val_from_train=config.val_from_train,
    )
    torch.manual_seed(config.seed)
    model = build_model(config, dataset).to(device)
    examples, num_labels = dataset.splits["train"], len(dataset.labels)
    criterion = build_criterion(config, dataset.task, examples, num_labels).to(device)
    optimizer = build_optimizer(model, config)
    order = EpochBatches(np.ones(len(examples)), config.batch_size, config.seed)
    batches = drawn_batches(
        Examples(
            examples,
            for_training(config.augment, config.resize, config.min_crop),
            num_labels,
            dataset.task,
        ),
        order,
    )
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    while len(rates) < _NUM_STEPS:
        for batch, targets in batches:
            rate = _LOWEST * (_HIGHEST / _LOWEST) ** (len(rates) / (_NUM_STEPS - 1))
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = criterion(model(batch.to(device)), targets.to(device))
            average = _SMOOTHING * average + (1 - _SMOOTHING) * float(loss.detach())
            smoothed = average / (1 - _SMOOTHING ** (len(rates) + 1))
            if not math.isfinite(smoothed) or (losses and smoothed > _DIVERGED * min(losses)):
                return _steepest(rates, losses, plot)
            rates.append(rate)
            losses.append(smoothed)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if len(rates) == _NUM_STEPS:
                break
        order.epoch += 1
    return _steepest(rates, losses, plot)


def _steepest(rates: list[float], losses: list[float], plot: Path) -> float:
    slope = np.gradient(np.array(losses), np.log(rates))
    # The first steps are noise of the moving average.
    start = min(10, len(rates) - 2)
    best = start + int(slope[start:].argmin())
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color="#4477aa")
    axes.axvline(rates[best], color="#ee6677", linestyle="--", label=f"steepest: {rates[best]:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    save_figure(figure, plot)
    return rates[best]
