"""A network's logits, and the temperature, label bias and thresholds that are fitted to them.

So probabilities match observed shares. It knows logits, metrics and checkpoints, and nothing of how
a network was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from limelens.serve.bundle import Task
from limelens.serve.image import ResizeRule
from limelens.train import checkpoint, run_lock
from limelens.train.architectures import Classifier
from limelens.train.data.batching import ordered_batches
from limelens.train.data.decoded import DecodedImages
from limelens.train.data.examples import Example, targets_of
from limelens.train.data.label_table import Images
from limelens.train.data.listing import read_examples
from limelens.train.evaluation.metrics import (
    compute_metrics,
    fit_label_bias,
    fit_temperature,
    fit_thresholds,
    probabilities_of,
)
from limelens.train.runs import BEST, check_best

_BATCH: Final = 64


def decoded(
    examples: Sequence[Example],
    resize: ResizeRule,
    num_threads: int = 0,
    folder: Path | None = None,
) -> DecodedImages:
    """The images of examples as serving fits them; see `DecodedImages`."""
    return DecodedImages([example.path for example in examples], resize, num_threads, folder)


def logits_of(model: Classifier, images: DecodedImages) -> NDArray[np.float32]:
    """A network's logits for images as they are, `(N, C)`; restores its mode.

    There must be an image.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    outputs: list[torch.Tensor] = []
    with torch.inference_mode():
        for batch in ordered_batches(images, _BATCH):
            pixels = batch.to(device, memory_format=torch.channels_last)
            outputs.append(model(pixels).float().cpu())
    model.train(was_training)
    return torch.cat(outputs).numpy()


def calibrated_metrics(
    logits: NDArray[np.floating],
    targets: NDArray[np.integer],
    labels: Sequence[str],
    task: Task,
    macro_labels: Mapping[str, str],
) -> dict[str, Any]:
    """Fits the calibration on images and measures it on the same ones.

    Returns:
        The keys of `compute_metrics`, and `temperature`, `label_bias` (added to the logits before
        they are divided by the temperature; empty if it is 0) and `label_thresholds` (multilabel).
    """
    thresholds: tuple[float, ...] = ()
    bias = np.zeros(len(labels))
    temperature = fit_temperature(logits, targets, task)
    if task is Task.MULTICLASS:
        bias = fit_label_bias(logits, targets, temperature)
        temperature = fit_temperature(logits + bias, targets)
    probabilities = probabilities_of(logits + bias, temperature, task)
    if task is Task.MULTILABEL:
        thresholds = fit_thresholds(probabilities, targets)
    metrics = compute_metrics(
        probabilities, targets, labels, task, thresholds=thresholds, macro_labels=macro_labels
    )
    return {
        **metrics,
        "temperature": temperature,
        "label_bias": bias.tolist() if bias.any() else [],
        "label_thresholds": list(thresholds),
    }


def calibrate(
    run: Path, data: Path, *, split: str | None = "val", images: Images = None
) -> dict[str, Any]:
    """Fits the calibration of a run's best checkpoint again, for example on other images.

    The checkpoint is overwritten. If a model will see other images than it was trained on, a few
    hundred labelled ones from the new source make its probabilities trustworthy there. Data
    without splits is used whole; see `read_dataset`.

    Raises:
        CheckpointError: The run has no checkpoint that can be used.
        DataError: The data cannot be used.
        RunInUseError: Another process trains or calibrates the run.
    """
    path = run / BEST
    check_best(run)
    with run_lock.writing(run, "limelens calibrate"):
        state = checkpoint.load_state(path)
        # The earlier bias is left out, because it is fitted again.
        state["metrics"] = {**state["metrics"], "label_bias": []}
        loaded = checkpoint.of_state(state, path)
        _, examples, _ = read_examples(data, loaded.labels, split, images)
        metrics = calibrated_metrics(
            logits_of(loaded.model, decoded(examples, loaded.resize)),
            targets_of(examples, len(loaded.labels), loaded.task),
            loaded.labels,
            loaded.task,
            loaded.macro_labels,
        )
        checkpoint.save(path, {**state, "metrics": metrics})
    return metrics
