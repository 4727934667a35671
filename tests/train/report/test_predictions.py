from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle import Task
from limelens.serve.image import ResizeRule
from limelens.train.data.examples import Example
from limelens.train.evaluation.evaluate import Evaluation, assess
from limelens.train.evaluation.metrics import compute_metrics
from limelens.train.evaluation.model import Model
from limelens.train.report.predictions import write_predictions


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_image_has_a_row_that_agrees_with_the_metrics(
    trained_run: Path, divided: Path, tmp_path: Path
) -> None:
    evaluation = assess(trained_run, divided, split="test")
    write_predictions(evaluation, tmp_path / "predictions.csv", data=divided)
    rows = _rows(tmp_path / "predictions.csv")
    assert [*rows[0]] == [
        "id", "label", "predicted", "label_1", "probability_1", "label_2", "probability_2",
        "correct",
    ]  # fmt: skip
    assert rows[0]["id"] == "test/green/000.png"
    correct = [row["correct"] == "true" for row in rows]
    assert correct == [row["label"] == row["predicted"] for row in rows]
    assert np.mean(correct) == evaluation.metrics["accuracy"]
    for row in rows:
        assert row["label_1"] == row["predicted"]
        assert float(row["probability_1"]) >= float(row["probability_2"])


def test_several_labels_are_joined_and_images_named_as_in_the_table(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text('id,labels\n007,"a|c"\nsub/008.png,b\n', encoding="utf-8")
    labels = ("a", "b", "c")
    examples = (
        Example(tmp_path / "images" / "007.jpg", (0, 2)),
        Example(tmp_path / "images" / "sub" / "008.png", (1,)),
    )
    probabilities = np.array([[0.9, 0.1, 0.6], [0.2, 0.3, 0.7]])
    targets = np.array([[1, 0, 1], [0, 1, 0]])
    thresholds = (0.5, 0.25, 0.5)
    metrics = compute_metrics(
        probabilities, targets, labels, Task.MULTILABEL, thresholds=thresholds
    )

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise AssertionError(f"{len(images)} images are predicted again")

    model = Model(
        "genres", labels, Task.MULTILABEL, ResizeRule(24, 24), predict, predict,
        label_thresholds=thresholds, macro_labels={"a": "X", "b": "Y", "c": "X"},
    )  # fmt: skip
    evaluation = Evaluation(metrics, examples, probabilities, model)
    write_predictions(evaluation, tmp_path / "predictions.csv", data=tmp_path)
    first, second = _rows(tmp_path / "predictions.csv")
    assert (first["id"], first["label"], first["predicted"]) == ("007", "a|c", "a|c")
    assert (first["correct"], first["macro_label"]) == ("true", "X")
    assert (second["id"], second["predicted"], second["correct"]) == ("sub/008.png", "b|c", "false")
    assert second["macro_label"] == "Y|X"
