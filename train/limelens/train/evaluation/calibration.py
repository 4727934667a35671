"""Probabilities that can be believed: temperature, label bias and thresholds, fitted on images.

It knows logits, figures and checkpoints, and nothing of how a network was trained.
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
    figures_of,
    fit_label_bias,
    fit_temperature,
    fit_temperature_multilabel,
    fit_thresholds,
)
from limelens.train.evaluation.prediction import logits_of, probabilities_of


def calibrated_figures(
    logits: NDArray[np.floating],
    targets: NDArray[np.integer],
    labels: Sequence[str],
    task: Task,
    macro_labels: Mapping[str, str],
) -> dict[str, Any]:
    """Fits the calibration on images and gives their figures with it.

    Args:
        logits: `(N, C)`, as the network gives them.
        targets: As from `targets_of`.
        labels: C names.
        task: The network's.
        macro_labels: Label to coarser category; empty where there are none.

    Returns:
        As `figures_of`, with `temperature`, `label_bias` (added to the logits before they are
        divided by it; empty where it is 0) and `label_thresholds` (multilabel).
    """
    thresholds: tuple[float, ...] = ()
    bias = np.zeros(len(labels))
    if task is Task.MULTILABEL:
        temperature = fit_temperature_multilabel(logits, targets)
    else:
        bias = fit_label_bias(logits, targets, fit_temperature(logits, targets))
        temperature = fit_temperature(logits + bias, targets)
    probabilities = probabilities_of(logits + bias, temperature, task)
    if task is Task.MULTILABEL:
        thresholds = fit_thresholds(probabilities, targets)
    figures = figures_of(
        probabilities, targets, labels, task, thresholds=thresholds, macro_labels=macro_labels
    )
    return {
        **figures,
        "temperature": temperature,
        "label_bias": bias.tolist() if bias.any() else [],
        "label_thresholds": list(thresholds),
    }


def calibrate(
    run: Path, data: Path, *, split: str | None = "val", images: Images = None
) -> dict[str, Any]:
    """Fits the calibration of a run's best checkpoint again, on other images say.

    Where a model will work among other images than it was trained on, some hundred labelled
    ones of the place make its probabilities believable there.

    Args:
        run: A run's folder; its best checkpoint is written anew.
        data: As for `read_dataset`.
        split: Of the data; data without splits is taken whole.
        images: As for `read_dataset`.

    Returns:
        The figures on these images, as `calibrated_figures`.

    Raises:
        CheckpointError: The run holds no checkpoint.
        DataError: The data cannot be used.
    """
    path = run / checkpoint.BEST
    state = checkpoint.load_state(path)
    # Without the bias of before: it is fitted anew.
    state["figures"] = {**state["figures"], "label_bias": []}
    loaded = checkpoint.of_state(state, path)
    _, examples = read_examples(data, loaded.labels, split, images)
    figures = calibrated_figures(
        logits_of(loaded.model, examples, loaded.resize),
        targets_of(examples, len(loaded.labels), loaded.task),
        loaded.labels,
        loaded.task,
        loaded.macro_labels,
    )
    checkpoint.save(path, {**state, "figures": figures})
    return figures
