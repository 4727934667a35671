"""Pages of runs, evaluations and inspections fit a phone."""

from pathlib import Path

import numpy as np
import pytest
from tests.phone import WIDTH, widths_on_a_phone

from limelens.serve.bundle import Task
from limelens.serve.image import ResizeRule
from limelens.train.audit.inspection import inspect
from limelens.train.data.examples import Example
from limelens.train.evaluation.evaluate import Evaluation, assess, metrics_by_group
from limelens.train.evaluation.metrics import compute_metrics
from limelens.train.evaluation.model import Model
from limelens.train.report.page import write_inspection, write_report


@pytest.mark.ci
def test_pages_fit_a_phone(trained_run: Path, divided: Path, tmp_path: Path) -> None:
    found = assess(trained_run, divided, split="test")
    inspection = inspect(divided)
    # Many labels, long names, abstentions and curves.
    labels = tuple(f"a_label_with_a_rather_long_name_{number:02}" for number in range(14))
    rows = np.random.default_rng(0).dirichlet(np.full(14, 0.2), len(found.examples))
    targets = np.arange(len(found.examples)) % 14
    model = Model(
        "wide", labels, Task.MULTICLASS, ResizeRule(32, 32),
        lambda images: np.full((len(images), 14), 1 / 14, np.float32),
        lambda images: np.ones((len(images), 2), np.float32), threshold=0.5,
    )  # fmt: skip
    examples = tuple(
        Example(one.path, (int(target),))
        for one, target in zip(found.examples, targets, strict=True)
    )
    metrics = compute_metrics(rows, targets, labels, Task.MULTICLASS, threshold=0.5)
    metrics["groups"] = metrics_by_group(model, examples, rows, divided)
    epochs = [
        {"epoch": n, "train_loss": 1 / n, "val_loss": 2 / n, "val_accuracy": 0.5} for n in (1, 2)
    ]
    write_report(
        Evaluation(metrics, examples, rows, model), tmp_path / "wide.html", rows=epochs,
        inspection=inspection, num_mistakes=1,
    )  # fmt: skip
    write_inspection(inspection, tmp_path / "inspection.html")
    pages = {
        "run": trained_run / "report.html",
        "wide": tmp_path / "wide.html",
        "inspection": tmp_path / "inspection.html",
    }
    assert widths_on_a_phone(pages, tmp_path) == dict.fromkeys(pages, WIDTH)
