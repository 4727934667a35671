"""A network on disk, with what is needed to use it or to continue its training.

It knows the file, and not how the network was trained.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from limelens.serve.bundle import Task
from limelens.serve.errors import LimelensError
from limelens.serve.files import writing_whole
from limelens.serve.image import ResizeMode, ResizeRule
from limelens.train.architectures import Classifier, build
from limelens.train.runs import BEST, LAST, CheckpointError


@dataclass(frozen=True)
class Checkpoint:
    """A trained network.

    Args:
        model: In evaluation mode; its last layer includes the bias fitted on validation.
        config: The training configuration, as in `config.json`.
        metrics: On the validation images after that epoch.
    """

    model: Classifier
    labels: tuple[str, ...]
    resize: ResizeRule
    epoch: int
    config: dict[str, Any]
    data_digest: str
    metrics: dict[str, Any]
    task: Task
    macro_labels: Mapping[str, str]

    @property
    def temperature(self) -> float:
        """The divisor of the logits, fitted on validation."""
        return float(self.metrics.get("temperature", 1.0))

    @property
    def label_thresholds(self) -> tuple[float, ...]:
        """Fitted on validation, for multilabel; 0.5 each if no epoch was finished."""
        if self.task is Task.MULTICLASS:
            return ()
        return tuple(self.metrics.get("label_thresholds") or [0.5] * len(self.labels))


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint; after a crash there is either the old file or the new one.

    Raises:
        OSError: It cannot be written.
    """
    # In memory, because torch turns the error of a full disk into a RuntimeError of its own.
    content = io.BytesIO()
    torch.save(state, content)
    with writing_whole(path) as file:
        file.write(content.getbuffer())


def load(path: Path) -> Checkpoint:
    """Reads a checkpoint: a .pt file, or the best one in a run's folder.

    Raises:
        CheckpointError: The file is missing, damaged, or another program's.
    """
    if path.is_dir():
        path = path / BEST if (path / BEST).exists() else path / LAST
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; expected a run of `limelens train`")
    return of_state(load_state(path), path)


def of_state(state: dict[str, Any], path: Path) -> Checkpoint:
    """Builds the network of a state that `load_state` read from a path."""
    try:
        config = state["config"]
        height, width = config["input_size"]
        model = build(config["arch"], len(state["labels"]), input_size=(height, width))
        model.load_state_dict(state["model"])
        bias = state["metrics"].get("label_bias")
        if bias:
            with torch.no_grad():
                model.head.bias.add_(torch.tensor(bias, dtype=torch.float32))
        return Checkpoint(
            model.eval(),
            tuple(state["labels"]),
            ResizeRule(height, width, ResizeMode(config["resize_mode"])),
            state["epoch"],
            config,
            state["data_digest"],
            state["metrics"],
            # Files of the first version lack these two.
            Task(state.get("task", Task.MULTICLASS)),
            state.get("macro_labels", {}),
        )
    except LimelensError:
        raise
    # Another program's file may lack anything.
    except Exception as error:
        raise CheckpointError(f"{path} is not a readable checkpoint: {error}") from error


def load_state(path: Path) -> dict[str, Any]:
    """Reads what `save` wrote, onto the CPU; raises as `load`."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    # torch.load raises many kinds of errors for damaged bytes.
    except Exception as error:
        raise CheckpointError(f"{path} is not a readable checkpoint: {error}") from error
    if isinstance(state, dict) and "figures" in state:  # its name up to 0.1
        state["metrics"] = state.pop("figures")
    return state
