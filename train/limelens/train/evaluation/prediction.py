"""The raw outputs of a network for examples, without augmentation.

It knows networks and image files, and nothing of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limelens.serve.image import ResizeRule
from limelens.train.architectures import Classifier
from limelens.train.data.augmentation import Transform
from limelens.train.data.examples import Example
from limelens.train.data.loading import ordered_batches

_BATCH: Final = 64


def logits_of(
    model: Classifier, examples: Sequence[Example], resize: ResizeRule
) -> NDArray[np.float32]:
    """A network's logits, `(N, C)`, in the order of the examples.

    Args:
        model: In either mode, which is restored.
        examples: At least one.
        resize: How images are fitted to its input.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    outputs: list[Tensor] = []
    with torch.inference_mode():
        for images, _ in ordered_batches(examples, Transform(resize), _BATCH):
            images = images.to(device, memory_format=torch.channels_last)
            outputs.append(model(images).float().cpu())
    model.train(was_training)
    return torch.cat(outputs).numpy()
