from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from limelens.serve.bundle import Task
from limelens.train.data.examples import Example
from limelens.train.evaluation.evaluate import Evaluation, assess
from limelens.train.evaluation.metrics import figures_of
from limelens.train.report.predictions import write_predictions


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_image_has_a_row_that_agrees_with_the_figures(
    trained_run: Path, divided: Path, tmp_path: Path
) -> None:
    evaluation = assess(trained_run, divided, split="test")
    write_predictions(evaluation, tmp_path / "said.csv", data=divided)
    rows = _rows(tmp_path / "said.csv")
    assert [*rows[0]] == [
        "id", "label", "predicted", "label_1", "probability_1", "label_2", "probability_2",
        "correct",
    ]  # fmt: skip
    assert rows[0]["id"] == "test/green/000.png"
    right = [row["correct"] == "true" for row in rows]
    assert right == [row["label"] == row["predicted"] for row in rows]
    assert np.mean(right) == evaluation.figures["accuracy"]
    for row in rows:
        assert row["label_1"] == row["predicted"]
        assert float(row["probability_1"]) >= float(row["probability_2"])


def test_several_labels_are_joined_and_named_as_the_table_names_them(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text('id,labels\n007,"a|c"\nsub/008.png,b\n', encoding="utf-8")
    labels = ("a", "b", "c")
    examples = (
        Example(tmp_path / "images" / "007.jpg", (0, 2)),
        Example(tmp_path / "images" / "sub" / "008.png", (1,)),
    )
    probabilities = np.array([[0.9, 0.1, 0.6], [0.2, 0.3, 0.7]])
    targets = np.array([[1, 0, 1], [0, 1, 0]])
    figures = figures_of(
        probabilities, targets, labels, Task.MULTILABEL, thresholds=(0.5, 0.25, 0.5)
    )
    macro_labels = {"a": "X", "b": "Y", "c": "X"}
    evaluation = Evaluation(figures, examples, probabilities, labels, Task.MULTILABEL, macro_labels)
    write_predictions(evaluation, tmp_path / "said.csv", data=tmp_path)
    first, second = _rows(tmp_path / "said.csv")
    assert (first["id"], first["label"], first["predicted"]) == ("007", "a|c", "a|c")
    assert (first["correct"], first["macro_label"]) == ("true", "X")
    assert (second["id"], second["predicted"], second["correct"]) == ("sub/008.png", "b|c", "false")
    assert second["macro_label"] == "Y|X"
