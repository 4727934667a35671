"""Validation, shared by the processes of a run: each sees its part of the images.

It knows networks and metrics, and neither epochs nor files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from limelens.train.architectures import Classifier
from limelens.train.config import TrainConfig
from limelens.train.data.examples import Dataset, targets_of
from limelens.train.evaluation.calibration import calibrated_metrics, decoded, logits_of
from limelens.train.training.distributed import Processes


class Validation:
    """The validation images of a run, each decoded by the one process that needs it.

    Args:
        dataset: Whose validation images they are.
        config: How images are fitted.
        processes: That share them.
        folder: As for `DecodedImages`.

    Raises:
        DataError: The disk has no place for them.
    """

    def __init__(
        self, dataset: Dataset, config: TrainConfig, processes: Processes, folder: Path
    ) -> None:
        self._dataset = dataset
        self._processes = processes
        examples = dataset.splits["val"]
        start, end = (
            len(examples) * rank // processes.world_size
            for rank in (processes.rank, processes.rank + 1)
        )
        # Empty if there are more processes than images.
        self._own = slice(start, end)
        num_threads = processes.num_threads(config.num_workers)
        self._images = decoded(examples[self._own], config.resize, num_threads, folder)

    def metrics(self, model: Classifier) -> dict[str, Any] | None:
        """Metrics of a network, on which the calibration is fitted too; all processes call this.

        Returns:
            As `calibrated_metrics`; None in all processes but the first.
        """
        dataset = self._dataset
        examples = dataset.splits["val"]
        logits = torch.zeros(len(examples), len(dataset.labels))
        if len(self._images):
            logits[self._own] = torch.from_numpy(logits_of(model, self._images))
        # The others' rows are 0, so that the sum is what each process computed, to the bit.
        logits = self._processes.total(logits)
        if not self._processes.is_first:
            return None
        return calibrated_metrics(
            logits.numpy(),
            targets_of(examples, len(dataset.labels), dataset.task),
            dataset.labels,
            dataset.task,
            dataset.macro_labels,
        )
