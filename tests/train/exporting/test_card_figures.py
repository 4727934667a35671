"""Figures of a card: tables of groups with and without a threshold, and what follows from them."""

import numpy as np
import pytest

from limelens.serve.bundle import Task
from limelens.train.evaluation.groups import group_metrics
from limelens.train.evaluation.metrics import compute_metrics, is_decided
from limelens.train.exporting.card_figures import figures, weak_groups


@pytest.mark.parametrize("threshold", [0.0, 0.8])
def test_groups_are_tables_and_small_ones_have_no_accuracy(threshold: float) -> None:
    targets = np.array([0, 1] * 50 + [0] * 5)
    confidence = np.where(np.arange(105) < 60, 0.9, 0.7)
    is_right = np.arange(105) % 3 > 0
    first = np.where(is_right == (targets == 0), confidence, 1 - confidence)
    probabilities = np.stack([first, 1 - first], axis=1)
    metrics = compute_metrics(
        probabilities, targets, ["a", "b"], Task.MULTICLASS, threshold=threshold
    )
    groups = ["far_off"] * 60 + ["near"] * 40 + ["rare"] * 5
    decided = is_decided(probabilities, threshold) if threshold else None
    few = ["x", "y"] * 9 + [""] * 87
    by = group_metrics({"how_far": groups, "by_few": few}, is_right, decided)
    metrics["groups"] = {"measure": "accuracy", "by": by}
    lines = figures(metrics).splitlines()
    header = "| how far | images | accuracy | 95 % interval |"
    decides = " decided | of these right |" if threshold else ""
    assert header + decides in lines
    (row,) = (line for line in lines if line.startswith("| far_off"))
    assert row.startswith("| far_off | 60 | 0.667 | 0.541 to 0.773 |")
    assert row.endswith("| 1.000 | 0.667 |") == bool(threshold)
    (rare,) = (line for line in lines if line.startswith("| rare"))
    assert rare.startswith("| rare | 5 | too few images |")
    assert len({line.count("|") for line in lines if line[:6] in ("| rare", "| near")}) == 1
    assert ("abstains from the rest" in lines[0]) == bool(threshold)
    assert "There are too few images to say anything by by few." in lines
    assert weak_groups(metrics["groups"])[1] == ["how far rare", "by few x", "by few y"]


def test_a_group_that_is_worse_is_named_with_both_figures() -> None:
    correct = np.array([True] * 50 + [False] * 25 + [True] * 25)
    by = group_metrics({"light": ["day"] * 50 + ["night"] * 50}, correct)
    worse, small = weak_groups({"by": by})
    assert worse == ["light night (50.0% of 50, against 100.0% of the others)"]
    assert small == []
