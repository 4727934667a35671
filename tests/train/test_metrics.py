from __future__ import annotations

import numpy as np
import pytest

from limelens.train.metrics import (
    coverage,
    expected_calibration_error,
    fit_temperature,
    multiclass_metrics,
    softmax,
)


def test_figures_of_a_small_case_counted_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    figures = multiclass_metrics(probabilities, np.array([0, 1, 1, 2]), ["a", "b", "c"])
    assert figures["accuracy"] == 0.75
    assert figures["top5_accuracy"] == 1.0
    assert figures["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert figures["per_class"]["a"] == {
        "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1,
    }  # fmt: skip
    assert figures["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert figures["loss"] == pytest.approx(-np.log([0.9, 0.5, 0.3, 0.8]).mean())


def test_a_label_without_pictures_does_not_lower_macro_f1() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]])
    assert multiclass_metrics(probabilities, np.array([0, 1]), ["a", "b", "c"])["macro_f1"] == 1.0


def test_coverage_counts_only_what_is_decided() -> None:
    probabilities = np.array([[0.95, 0.05], [0.7, 0.3], [0.4, 0.6], [0.2, 0.8]])
    rows = coverage(probabilities, np.array([0, 1, 1, 1]), [0.0, 0.75, 0.99])
    assert rows == [
        {"threshold": 0.0, "coverage": 1.0, "accuracy": 0.75},
        {"threshold": 0.75, "coverage": 0.5, "accuracy": 1.0},
        {"threshold": 0.99, "coverage": 0.0, "accuracy": None},
    ]


def test_calibration_error_is_zero_when_confidence_is_right() -> None:
    probabilities = np.tile([0.75, 0.25], (4, 1))
    assert expected_calibration_error(probabilities, np.array([0, 0, 0, 1])) == 0.0
    assert expected_calibration_error(probabilities, np.array([1, 1, 1, 1])) == 0.75


def test_the_temperature_of_logits_that_were_scaled_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (4000, 3))
    targets = np.array([rng.choice(3, p=row) for row in softmax(logits)])
    assert fit_temperature(logits * 4, targets) == pytest.approx(4, rel=0.1)
    assert fit_temperature(logits, targets) == pytest.approx(1, rel=0.1)


def test_without_a_mistake_no_temperature_is_fitted() -> None:
    logits = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 0.5]])
    assert fit_temperature(logits, np.array([0, 1, 0])) == 1.0


def test_macro_f1_is_scikit_learns() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(1)
    probabilities = softmax(rng.normal(0, 1, (60, 5)))
    # Label 4 is never true, but it is predicted.
    targets = rng.integers(0, 4, 60)
    expected = f1_score(targets, probabilities.argmax(axis=1), average="macro")
    figures = multiclass_metrics(probabilities, targets, list("abcde"))
    assert figures["macro_f1"] == pytest.approx(expected)


def test_softmax_of_large_logits_stays_finite() -> None:
    assert softmax(np.array([[1e4, 0.0], [-1e4, 0.0]])).tolist() == [[1.0, 0.0], [0.0, 1.0]]
