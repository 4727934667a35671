"""What a network says of examples, without augmentation.

It knows networks and files of images, and nothing of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from limelens.serve.bundle import Task
from limelens.serve.image import ResizeRule
from limelens.train.architectures import Classifier
from limelens.train.data.augmentation import for_evaluation
from limelens.train.data.examples import Example
from limelens.train.data.loading import ordered_batches
from limelens.train.evaluation.metrics import softmax

_BATCH: Final = 64


def logits_of(
    model: Classifier, examples: Sequence[Example], resize: ResizeRule
) -> NDArray[np.float32]:
    """A network's raw outputs.

    Args:
        model: In whichever mode; it is left as it was.
        examples: At least one.
        resize: How images are brought to its input.

    Returns:
        `(N, C)`, in the order of the examples.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    outputs: list[Tensor] = []
    with torch.inference_mode():
        for images, _ in ordered_batches(examples, for_evaluation(resize), _BATCH):
            images = images.to(device, memory_format=torch.channels_last)
            outputs.append(model(images).float().cpu())
    model.train(was_training)
    return torch.cat(outputs).numpy()


def predict(
    model: Classifier,
    examples: Sequence[Example],
    resize: ResizeRule,
    temperature: float = 1.0,
    task: Task = Task.MULTICLASS,
) -> NDArray[np.float64]:
    """As `logits_of`, but probabilities: softmax or sigmoid of the logits over the temperature."""
    return probabilities_of(logits_of(model, examples, resize), temperature, task)


def probabilities_of(
    logits: NDArray[np.floating], temperature: float, task: Task
) -> NDArray[np.float64]:
    """Softmax or sigmoid of logits `(N, C)` over a temperature."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    if task is Task.MULTILABEL:
        sigmoid: NDArray[np.float64] = expit(scaled)
        return sigmoid
    return softmax(scaled)
