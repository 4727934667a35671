"""From probabilities to a decision, and from decisions to a steady one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from limelens.serve.bundle import Task
from limelens.serve.bundle.metadata import CLASSIFYING
from limelens.serve.decisions.decision import Decision, decide, spoken_label
from limelens.serve.decisions.smoothing import Smoothing


def probabilities(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_the_best_label_over_the_threshold_is_decided(bundles: Any) -> None:
    found = decide(probabilities(0.7, 0.2, 0.1), bundles.metadata())
    assert found.decision is Decision.LABEL
    assert (found.label, found.alert, found.macro_label) == ("red", True, "warm")
    assert [score.label for score in found.scores] == ["red", "green", "blue"]
    assert found.threshold == 0.5
    assert found.labels == ()


def test_below_the_threshold_the_model_abstains(bundles: Any) -> None:
    found = decide(probabilities(0.45, 0.3, 0.25), bundles.metadata())
    assert found.decision is Decision.ABSTAINED
    assert (found.label, found.alert, found.macro_label) == (None, False, None)
    assert found.scores[0].label == "red"


def test_a_threshold_that_is_exactly_met_decides(bundles: Any) -> None:
    metadata = replace(bundles.metadata(), threshold=0.7)
    assert decide(probabilities(0.7, 0.2, 0.1), metadata).label == "red"


def test_the_request_overrides_the_bundle(bundles: Any) -> None:
    found = decide(probabilities(0.45, 0.3, 0.25), bundles.metadata(), threshold=0.0)
    assert (found.label, found.threshold) == ("red", 0.0)
    assert decide(probabilities(0.6, 0.3, 0.1), bundles.metadata(), threshold=0.9).label is None


def test_top_k_limits_scores_and_ties_keep_the_order_of_labels(bundles: Any) -> None:
    found = decide(probabilities(0.2, 0.4, 0.4), bundles.metadata(), top_k=2)
    assert [score.label for score in found.scores] == ["green", "blue"]


def test_multilabel_gives_every_label_over_its_own_threshold(bundles: Any) -> None:
    metadata = bundles.metadata("tags", Task.MULTILABEL)
    found = decide(probabilities(0.55, 0.9, 0.69), metadata)
    assert found.labels == ("green", "red")
    assert (found.label, found.alert, found.threshold) == (None, True, 0.0)
    none = decide(probabilities(0.1, 0.1, 0.1), metadata)
    assert (none.decision, none.labels, none.alert) == (Decision.ABSTAINED, (), False)
    all_three = decide(probabilities(0.55, 0.9, 0.69), metadata, threshold=0.25)
    assert all_three.labels == ("green", "blue", "red")
    assert all_three.threshold == 0.25


def test_an_alert_label_stands_for_a_multilabel_frame(bundles: Any) -> None:
    metadata = bundles.metadata("tags", Task.MULTILABEL)
    found = decide(probabilities(0.55, 0.9, 0.1), metadata)
    assert spoken_label(found, metadata.alert_labels) == "red"
    assert spoken_label(found, ()) == "green"


def test_the_embedding_is_carried_along(bundles: Any) -> None:
    found = decide(
        probabilities(1, 0, 0), bundles.metadata(), embedding=np.array([1, 2.5], np.float32)
    )
    assert found.embedding == (1.0, 2.5)


def test_smoothing_changes_once_enough_frames_agree() -> None:
    smoothing = Smoothing(5, 3)
    smoothed = ["a", "a", "b", "a", "b", "b", None, "b", None, None, None]
    found = [smoothing.add(label) for label in smoothed]
    assert found == [None, None, None, "a", "a", "b", "b", "b", "b", None, None]


def test_smoothing_over_one_frame_is_the_frame() -> None:
    smoothing = Smoothing()
    assert [smoothing.add(label) for label in ("a", None, "b")] == ["a", None, "b"]


def test_forgetting_makes_the_decision_unknown() -> None:
    smoothing = Smoothing(3, 2)
    smoothing.add("a")
    smoothing.add("a")
    smoothing.forget()
    assert smoothing.label is None
    assert smoothing.add("a") is None


RULES = st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(n // 2 + 1, n)))


@given(RULES, st.lists(st.sampled_from(["a", "b", None]), max_size=60))
def test_smoothing_only_changes_if_enough_frames_agree(
    rule: tuple[int, int], smoothed: list[str | None]
) -> None:
    window, required = rule
    smoothing = Smoothing(window, required)
    before = None
    for i, label in enumerate(smoothed):
        after = smoothing.add(label)
        if after != before:
            assert smoothed[max(0, i + 1 - window) : i + 1].count(after) >= required
        before = after


@pytest.mark.parametrize("task", sorted(CLASSIFYING))
def test_decisions_do_not_depend_on_other_requests(bundles: Any, task: Task) -> None:
    metadata = bundles.metadata("x", task)
    values = probabilities(0.3, 0.3, 0.4)
    assert decide(values, metadata) == decide(values.copy(), metadata)
