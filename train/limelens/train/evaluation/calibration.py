"""Fits temperature, label bias and thresholds, so that probabilities match observed shares.

It knows logits, metrics and checkpoints, and nothing of how a network was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Task
from limelens.train import checkpoint
from limelens.train.data.examples import targets_of
from limelens.train.data.label_table import Images
from limelens.train.data.listing import read_examples
from limelens.train.evaluation.metrics import (
    compute_metrics,
    fit_label_bias,
    fit_temperature,
    fit_thresholds,
    probabilities_of,
)
from limelens.train.evaluation.prediction import logits_of
from limelens.train.runs import BEST


def calibrated_metrics(
    logits: NDArray[np.floating],
    targets: NDArray[np.integer],
    labels: Sequence[str],
    task: Task,
    macro_labels: Mapping[str, str],
) -> dict[str, Any]:
    """Fits the calibration on images and measures it on the same ones.

    Args:
        logits: `(N, C)`, as the network returns them.
        targets: As from `targets_of`.
        labels: C names.
        task: The network's.
        macro_labels: Label to coarser category; empty if there are none.

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

    If a model will get images from a new source, a few hundred labelled ones from there make its
    probabilities trustworthy.

    Args:
        run: A run's folder; its best checkpoint is overwritten.
        data: As for `read_dataset`.
        split: Of the data; data without splits is used whole.
        images: As for `read_dataset`.

    Returns:
        The metrics on these images, as `calibrated_metrics`.

    Raises:
        CheckpointError: The run holds no checkpoint.
        DataError: The data cannot be used.
    """
    path = run / BEST
    state = checkpoint.load_state(path)
    # The earlier bias is left out, because it is fitted again.
    state["figures"] = {**state["figures"], "label_bias": []}
    loaded = checkpoint.of_state(state, path)
    _, examples = read_examples(data, loaded.labels, split, images)
    metrics = calibrated_metrics(
        logits_of(loaded.model, examples, loaded.resize),
        targets_of(examples, len(loaded.labels), loaded.task),
        loaded.labels,
        loaded.task,
        loaded.macro_labels,
    )
    checkpoint.save(path, {**state, "figures": metrics})
    return metrics
