from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from limelens.serve.bundle import Task
from limelens.train.evaluation.metrics import compute_metrics
from limelens.train.evaluation.verdict import advice, is_overfitted, no_better_than_guessing

CONFIG = {"augment": "standard", "epochs": 24, "learning_rate": 1e-3, "input_size": [112, 96]}


def metrics_of(num_right: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """Multiclass metrics from the right and all images of each label."""
    labels = tuple(num_right)
    targets, predicted = [], []
    for index, (right, count) in enumerate(num_right.values()):
        targets += [index] * count
        predicted += [index] * right + [(index + 1) % len(labels)] * (count - right)
    probabilities = np.full((len(targets), len(labels)), 0.1 / (len(labels) - 1))
    probabilities[np.arange(len(targets)), predicted] = 0.9
    return compute_metrics(probabilities, np.array(targets), labels, Task.MULTICLASS)


def test_a_model_at_chance_is_no_better_than_the_commonest_label() -> None:
    found = no_better_than_guessing(metrics_of({"still": (0, 8), "sparkling": (7, 7)}))
    assert found == (
        "The model is no better than always answering 'still': 7 of 15 images are right, "
        "8 would be."
    )


def test_a_few_more_right_images_may_be_chance() -> None:
    found = no_better_than_guessing(metrics_of({"still": (5, 8), "sparkling": (4, 7)}))
    assert "may be no better than always answering 'still': 9 of 15 images are right" in found
    # The share of 15 fair draws with at least 9 of probability 8/15.
    assert "(p = 0.40)" in found


@pytest.mark.parametrize(
    "num_right",
    [
        {"still": (7, 8), "sparkling": (6, 7)},
        {"still": (2, 2), "sparkling": (2, 2)},  # no mistake, though two in four are chance
        {"a": (60, 100), "b": (50, 100), "c": (40, 100)},
    ],
)
def test_a_better_model_is_not_accused(num_right: dict[str, tuple[int, int]]) -> None:
    metrics = metrics_of(num_right)
    assert no_better_than_guessing(metrics) == ""
    assert advice(metrics, [], CONFIG, 100) == []


def test_unbalanced_labels_are_guessed_by_the_commonest() -> None:
    # 0.9 right is good only if no label makes up nine tenths.
    assert no_better_than_guessing(metrics_of({"rare": (0, 10), "common": (90, 90)})) != ""
    assert no_better_than_guessing(metrics_of({"rare": (45, 50), "common": (45, 50)})) == ""


def test_several_labels_are_guessed_by_their_base_rates() -> None:
    rng = np.random.default_rng(0)
    targets = (rng.random((200, 2)) < (0.2, 0.6)).astype(np.int64)
    shares = np.broadcast_to(targets.mean(axis=0), targets.shape)
    labels, thresholds = ("a", "b"), (0.5, 0.5)

    def found(probabilities: Any) -> str:
        return no_better_than_guessing(
            compute_metrics(probabilities, targets, labels, Task.MULTILABEL, thresholds=thresholds)
        )

    assert "no better than always predicting how common each label is" in found(shares)
    assert found(0.8 * shares + 0.2 * targets) == ""


def test_nothing_is_said_without_metrics() -> None:
    assert no_better_than_guessing({}) == ""


def test_learning_by_heart_is_told_from_learning_nothing() -> None:
    at_chance = metrics_of({"still": (20, 50), "sparkling": (28, 50)})
    by_heart, nothing = [{"train_accuracy": 0.97}], [{"train_accuracy": 0.52}]
    assert is_overfitted(at_chance, by_heart)
    assert not is_overfitted(at_chance, nothing)
    assert not is_overfitted(metrics_of({"a": (45, 50), "b": (46, 50)}), by_heart)
    first = advice(at_chance, by_heart, CONFIG, 80)
    assert first[0] == "--augment strong, or --mix both"
    assert "80" in first[1]
    other = advice(at_chance, nothing, CONFIG, 80)
    assert other[0] == "more epochs than 24 (--epochs)"
    assert any("112x96" in step for step in other)
    # A good model may overfit too.
    usable = metrics_of({"a": (40, 50), "b": (38, 50)})
    assert "--augment strong, or --mix both" in advice(usable, by_heart, CONFIG, 80)
    assert advice(usable, [{"train_accuracy": 0.8}], CONFIG, 80) == []


def test_two_validation_images_do_not_show_overfitting() -> None:
    assert not is_overfitted(metrics_of({"a": (1, 1), "b": (0, 1)}), [{"train_accuracy": 0.75}])
