"""Images in, checkpoint and report out, ONNX bundle written.

The names below load on first use: torch is not imported before it is needed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import limelens.serve  # noqa: F401  # before onnxruntime: switches off what that would report

if TYPE_CHECKING:
    from limelens.train.config import TrainConfig
    from limelens.train.data.dataset import read_dataset
    from limelens.train.data.examples import DataError
    from limelens.train.evaluation.evaluate import evaluate
    from limelens.train.exporting.export import ExportError, export
    from limelens.train.training.loop import train

__all__ = [
    "DataError",
    "ExportError",
    "TrainConfig",
    "evaluate",
    "export",
    "read_dataset",
    "train",
]

_HOMES = {
    "DataError": "data.examples",
    "ExportError": "exporting.export",
    "TrainConfig": "config",
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
