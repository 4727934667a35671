"""Trains classifiers on images, evaluates them and exports bundles: the public names of this part.

They load on first use, so that torch is not imported before it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import limelens.serve  # noqa: F401  # before onnxruntime: switches its usage reports off

if TYPE_CHECKING:
    from limelens.serve.fetching import FetchError
    from limelens.train.architectures import ArchitectureError
    from limelens.train.config import ConfigError, TrainConfig
    from limelens.train.data.dataset import read_dataset
    from limelens.train.data.examples import DataError
    from limelens.train.evaluation.evaluate import evaluate
    from limelens.train.exporting.export import export
    from limelens.train.exporting.graph import ExportError
    from limelens.train.exporting.precision import PrecisionError
    from limelens.train.run_lock import RunInUseError
    from limelens.train.runs import CheckpointError
    from limelens.train.training.loop import TrainingError, train

__all__ = [
    "ArchitectureError",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "ExportError",
    "FetchError",
    "PrecisionError",
    "RunInUseError",
    "TrainConfig",
    "TrainingError",
    "evaluate",
    "export",
    "read_dataset",
    "train",
]

_HOMES = {
    "ArchitectureError": "architectures",
    "CheckpointError": "runs",
    "ConfigError": "config",
    "DataError": "data.examples",
    "ExportError": "exporting.graph",
    "FetchError": "ingest.pipeline",
    "PrecisionError": "exporting.precision",
    "RunInUseError": "run_lock",
    "TrainConfig": "config",
    "TrainingError": "training.loop",
    "evaluate": "evaluation.evaluate",
    "export": "exporting.export",
    "read_dataset": "data.dataset",
    "train": "training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
