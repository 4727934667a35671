"""Settings that suit the data: what is left open is chosen once the images are counted.

It knows numbers of images and their shape, and nothing of what a setting does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from limelens.train.architectures import DEFAULT_SIDE, default_input_size
from limelens.train.config import OPEN_SETTINGS, TrainConfig
from limelens.train.data.examples import Dataset

_FEWEST_EPOCHS: Final = 24
_MOST_EPOCHS: Final = 90
_MANY_IMAGES: Final = 5000
"""From here on an epoch has enough steps for the fewest epochs."""
_FEW_IMAGES: Final = 1000
"""Up to here, small batches: an epoch would have too few steps."""
_OBLONG: Final = 1.4
"""Images whose sides differ by more than this get a rectangle as input."""
_MOST_OBLONG: Final = 2.5
_SIDE_STEP: Final = 16


def suited(
    config: TrainConfig,
    dataset: Dataset,
    begun: Mapping[str, Any] | None = None,
) -> TrainConfig:
    """The settings, with those that were left open chosen for the data.

    - Epochs: 24 x (5,000 / training images)^(1/4), from 24 to 90, so that few images still make
      enough steps while ten times as many take only 5.6 times as long.
    - Batches of 16 up to 1,000 training images, else 32; the learning rate is 0.001 or 0.002.
    - Input: the architecture's square, or a rectangle of about the same area in the images' median
      shape, if they are oblong.

    Args:
        config: The settings that the user gave.
        dataset: The data after reading.
        begun: The settings of a run that is resumed, as in its `config.json`; they win.
    """
    chosen = _choice(config, dataset)
    if begun is not None:
        chosen |= {name: begun[name] for name in OPEN_SETTINGS if name in begun}
        chosen["input_size"] = tuple(chosen["input_size"])
    return replace(
        config, **{name: chosen[name] for name in OPEN_SETTINGS if getattr(config, name) is None}
    )


def _choice(config: TrainConfig, dataset: Dataset) -> dict[str, Any]:
    num_images = len(dataset.splits["train"])
    epochs = round(_FEWEST_EPOCHS * (_MANY_IMAGES / num_images) ** 0.25)
    batch_size = config.batch_size or (16 if num_images <= _FEW_IMAGES else 32)
    return {
        "input_size": input_size_for(config.arch, dataset.shape),
        "epochs": min(max(epochs, _FEWEST_EPOCHS), _MOST_EPOCHS),
        "batch_size": batch_size,
        "learning_rate": 1e-3 if batch_size <= 16 else 2e-3,
    }


def input_size_for(arch: str, shape: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width of a network's input for images of a shape, height and width."""
    side = default_input_size(arch)
    # Networks with a size of their own may take that alone.
    if shape is None or side != DEFAULT_SIDE:
        return side, side
    ratio = shape[0] / shape[1]
    if 1 / _OBLONG < ratio < _OBLONG:
        return side, side
    stretch = math.sqrt(min(max(ratio, 1 / _MOST_OBLONG), _MOST_OBLONG))
    height, width = (
        _SIDE_STEP * max(1, round(length / _SIDE_STEP))
        for length in (side * stretch, side / stretch)
    )
    return height, width


def summary(given: TrainConfig, config: TrainConfig, dataset: Dataset) -> str:
    """One line about the settings that were chosen for the data; empty if none was left open."""
    height, width = config.resize.height, config.resize.width
    words = {
        "epochs": f"{config.epochs} epochs",
        "input_size": f"input size {height}x{width}",
        "batch_size": f"batch size {config.batch_size}",
        "learning_rate": f"learning rate {config.learning_rate:g}",
    }
    chosen = [word for name, word in words.items() if getattr(given, name) is None]
    if not chosen:
        return ""
    about = "" if dataset.shape is None else " of about {}x{}".format(*dataset.shape)
    return (
        f"For {len(dataset.splits['train'])} training images{about}: {', '.join(chosen)}, "
        f"{config.augment} augmentation; options of these names change it"
    )
