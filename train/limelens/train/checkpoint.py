"""A network on disk, with what is needed to use it or to train on.

It knows the file, and not how the network came about.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from limelens.serve.bundle import Task
from limelens.serve.errors import LimelensError
from limelens.serve.image import ResizeMode, ResizeRule
from limelens.train.architectures import Classifier, build
from limelens.train.runs import BEST, LAST, CheckpointError

__all__ = [
    "BEST",
    "LAST",
    "Checkpoint",
    "CheckpointError",
    "load",
    "load_state",
    "of_state",
    "save",
]


@dataclass(frozen=True)
class Checkpoint:
    """A trained network.

    Args:
        model: In evaluation mode; its last layer holds the bias that was fitted on validation.
        labels: In the order of its outputs.
        resize: How images are brought to its input.
        epoch: Finished epochs.
        config: The training configuration, as `config.json` has it.
        data_digest: Of the training data.
        figures: Of the validation at that epoch.
        task: Whether an image has one label or any number.
        macro_labels: Label to its coarser category; empty where there are none.
    """

    model: Classifier
    labels: tuple[str, ...]
    resize: ResizeRule
    epoch: int
    config: dict[str, Any]
    data_digest: str
    figures: dict[str, Any]
    task: Task
    macro_labels: Mapping[str, str]

    @property
    def temperature(self) -> float:
        """By which the logits are divided; fitted on validation."""
        return float(self.figures.get("temperature", 1.0))

    @property
    def label_thresholds(self) -> tuple[float, ...]:
        """Fitted on validation, for multilabel; a half each before an epoch was finished."""
        if self.task is Task.MULTICLASS:
            return ()
        return tuple(self.figures.get("label_thresholds") or [0.5] * len(self.labels))


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint so that a crash leaves either the old file or the new one."""
    beside = path.with_suffix(".tmp")
    with beside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint.

    Args:
        path: A run's folder (its best checkpoint is taken) or a .pt file.

    Raises:
        CheckpointError: The file is missing, damaged, or another program's.
    """
    if path.is_dir():
        path = path / BEST if (path / BEST).exists() else path / LAST
    if not path.is_file():
        raise CheckpointError(f"{path} is not there; expected a run of `limelens train`")
    return of_state(load_state(path), path)


def of_state(state: dict[str, Any], path: Path) -> Checkpoint:
    """The checkpoint that `load_state` read from a path.

    Raises:
        CheckpointError: It is another program's.
    """
    try:
        config = state["config"]
        height, width = config["input_size"]
        resize = ResizeRule(height, width, ResizeMode(config["resize_mode"]))
        model = build(config["arch"], len(state["labels"]), input_size=(height, width))
        model.load_state_dict(state["model"])
        bias = state["figures"].get("label_bias")
        if bias:
            with torch.no_grad():
                model.head.bias.add_(torch.tensor(bias, dtype=torch.float32))
        return Checkpoint(
            model.eval(),
            tuple(state["labels"]),
            resize,
            state["epoch"],
            config,
            state["data_digest"],
            state["figures"],
            # Missing in the files of the first version.
            Task(state.get("task", Task.MULTICLASS)),
            state.get("macro_labels", {}),
        )
    except LimelensError:
        raise
    # Whatever another program's file happens to lack.
    except Exception as error:
        raise CheckpointError(f"{path} is no checkpoint that can be read: {error}") from error


def load_state(path: Path) -> dict[str, Any]:
    """What `save` wrote, on the CPU.

    Raises:
        CheckpointError: The file is damaged or another program's.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    # torch.load raises whatever the damaged bytes happen to hit.
    except Exception as error:
        raise CheckpointError(f"{path} is no checkpoint that can be read: {error}") from error
    return state
