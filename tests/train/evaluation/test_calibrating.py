from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from limelens.serve.bundle import load_bundle
from limelens.train import checkpoint, evaluate, export
from limelens.train.data.examples import DataError
from limelens.train.evaluation.calibration import calibrate


@pytest.fixture
def biased_run(trained_run: Path, tmp_path: Path) -> Path:
    """A run whose network predicts green far too often."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    state = checkpoint.load_state(run / "best.pt")
    state["model"]["head.bias"] = state["model"]["head.bias"] + torch.tensor([8.0, 0.0])
    checkpoint.save(run / "best.pt", state)
    return run


def test_a_checkpoint_of_the_first_release_has_metrics(trained_run: Path, tmp_path: Path) -> None:
    state = checkpoint.load_state(trained_run / "best.pt")
    checkpoint.save(tmp_path / "best.pt", {**state, "figures": state["metrics"], "metrics": None})
    assert checkpoint.load(tmp_path).metrics == state["metrics"]


def test_calibration_removes_the_bias_also_in_the_bundle(
    biased_run: Path, divided: Path, between: Path, tmp_path: Path
) -> None:
    before = evaluate(biased_run, between, split="val")
    metrics = calibrate(biased_run, between)
    after = evaluate(biased_run, between, split="val")
    assert after["loss"] == pytest.approx(metrics["loss"], abs=1e-6)
    assert after["loss"] < before["loss"]
    assert after["accuracy"] > before["accuracy"]
    green, red = metrics["label_bias"]
    assert green < 0 < red
    again = calibrate(biased_run, between)
    assert again["label_bias"] == pytest.approx(metrics["label_bias"], rel=1e-3)
    report = export(biased_run, "colours", models=tmp_path / "models", data=divided)
    bundled = evaluate(Path(report["path"]), between, split="val")
    assert bundled["loss"] == pytest.approx(after["loss"], abs=1e-4)
    metadata = load_bundle(Path(report["path"]), "cpu").metadata
    assert metadata.card["temperature"] == pytest.approx(metrics["temperature"])


def test_calibration_needs_images_of_the_split(biased_run: Path, between: Path) -> None:
    with pytest.raises(DataError, match="expected 'test'"):
        calibrate(biased_run, between, split="test")
    assert np.isfinite(checkpoint.load(biased_run).temperature)
