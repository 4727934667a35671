"""A model repository of Triton with every kind of bundle."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limelens.serve.bundle import Task
from limelens.serve.tools.triton.repository import write_models

ROOT = Path(__file__).parents[4]
DETECTOR = ROOT / "serve" / "limelens" / "serve" / "faces" / "detector" / "model.onnx"


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, bundles: Any) -> tuple[Path, Path]:
    """A model repository, and the same written for Triton."""
    source, folder = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("triton")
    labels = ('a "quoted" \\ label', "grün", "blue")
    bundles.save(
        source, replace(bundles.metadata(), labels=labels, alert_labels=(), macro_labels={})
    )
    bundles.save(source, bundles.metadata("tags", Task.MULTILABEL))
    shutil.copytree(ROOT / "models" / "facemask", source / "facemask")
    (source / "faces" / "1").mkdir(parents=True)
    shutil.copy(DETECTOR, source / "faces" / "1" / "model.onnx")
    write_models(source, folder)
    return source, folder
