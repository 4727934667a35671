from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.serve.bundle import Task
from limelens.train.evaluation.metrics import (
    calibration_error,
    coverage,
    fit_label_bias,
    fit_temperature,
    fit_thresholds,
    multiclass_metrics,
    multilabel_metrics,
    probabilities_of,
    softmax,
    threshold_for,
)


def test_metrics_of_a_small_case_counted_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]])
    metrics = multiclass_metrics(probabilities, np.array([0, 1, 1, 2]), ["a", "b", "c"])
    assert metrics["accuracy"] == 0.75
    assert metrics["top5_accuracy"] == 1.0
    assert metrics["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert metrics["per_class"]["a"] == {
        "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1,
    }  # fmt: skip
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert metrics["loss"] == pytest.approx(-np.log([0.9, 0.5, 0.3, 0.8]).mean())


def test_abstentions_are_a_column_of_their_own() -> None:
    # 0.7 is not a float32: a probability of the nearest float32 reaches it, as in serving.
    probabilities = np.array(
        [[0.9, 0.1, 0.0], [0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.3, 0.6, 0.1], [0.1, 0.1, 0.8]],
        dtype=np.float32,
    )
    metrics = multiclass_metrics(
        probabilities, np.array([0, 1, 1, 2, 2]), ["a", "b", "c"], threshold=0.7
    )
    assert metrics["accuracy"] == 0.6
    assert metrics["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    assert metrics["at_threshold"] == {
        "threshold": 0.7,
        "coverage": 0.6,
        "accuracy": pytest.approx(2 / 3),
        "confusion": [[1, 0, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1]],
    }
    assert [row["abstained"] for row in metrics["per_class"].values()] == [0, 1, 1]


def test_a_threshold_that_nothing_reaches_has_no_accuracy() -> None:
    metrics = multiclass_metrics(np.array([[0.6, 0.4]]), np.array([0]), ["a", "b"], threshold=0.9)
    assert metrics["at_threshold"]["coverage"] == 0.0
    assert metrics["at_threshold"]["accuracy"] is None


def test_a_label_without_images_does_not_lower_macro_f1() -> None:
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
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    assert calibration_error(confidence, predicted == np.array([0, 0, 0, 1])) == 0.0
    assert calibration_error(confidence, predicted == np.array([1, 1, 1, 1])) == 0.75


def test_the_temperature_of_logits_that_were_scaled_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, (4000, 3))
    targets = np.array([rng.choice(3, p=row) for row in softmax(logits)])
    assert fit_temperature(logits * 4, targets) == pytest.approx(4, rel=0.1)
    assert fit_temperature(logits, targets) == pytest.approx(1, rel=0.1)


def test_few_images_move_the_temperature_little() -> None:
    # Sure of each, and right in two of three: 6 / T = ln 2 makes them right by their confidence.
    logits, targets = np.tile([6.0, 0.0], (15, 1)), np.array([0, 0, 1] * 5)
    many = fit_temperature(np.tile(logits, (200, 1)), np.tile(targets, 200))
    assert many == pytest.approx(6 / np.log(2), rel=0.03)
    few = [fit_temperature(logits[:n], targets[:n]) for n in (3, 6, 15)]
    assert [1.0, *few, many] == sorted([1.0, *few, many])
    assert few[0] < 3 < few[2] < 0.8 * many


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
    metrics = multiclass_metrics(probabilities, targets, list("abcde"))
    assert metrics["macro_f1"] == pytest.approx(expected)


def test_softmax_of_large_logits_stays_finite() -> None:
    assert softmax(np.array([[1e4, 0.0], [-1e4, 0.0]])).tolist() == [[1.0, 0.0], [0.0, 1.0]]


def multilabel_case(seed: int = 0, num: int = 300) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Logits that depend on the targets; label 3 is rare, label 4 never true."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num, 5)) < [0.5, 0.3, 0.1, 0.015, 0.0]).astype(np.int64)
    return rng.normal(0, 1.5, (num, 5)) + 2.0 * targets - 1.0, targets


def test_multilabel_metrics_are_scikit_learns() -> None:
    from sklearn import metrics as sk

    logits, targets = multilabel_case()
    p = probabilities_of(logits, 1.0, Task.MULTILABEL)
    thresholds = [0.5, 0.4, 0.6, 0.5, 1.0]
    metrics = multilabel_metrics(p, targets, list("abcde"), thresholds)
    predicted = p >= np.array(thresholds)
    known = targets[:, :4]
    expected = {
        "loss": np.mean([sk.log_loss(targets[:, i], p[:, i], labels=[0, 1]) for i in range(5)]),
        "mean_average_precision": sk.average_precision_score(known, p[:, :4], average="macro"),
        "macro_auc": sk.roc_auc_score(known, p[:, :4], average="macro"),
        "micro_f1": sk.f1_score(targets, predicted, average="micro"),
        "macro_f1": sk.f1_score(known, predicted[:, :4], average="macro"),
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value), name
    assert metrics["per_class"]["e"]["auc"] is None
    assert metrics["per_class"]["e"]["average_precision"] is None
    assert metrics["per_class"]["c"]["threshold"] == 0.6
    assert metrics["per_class"]["b"]["f1"] == pytest.approx(
        sk.f1_score(targets[:, 1], predicted[:, 1])
    )
    # The base rates alone give the entropy of each label.
    share = np.clip(targets.mean(axis=0), 1e-12, 1)
    entropy = -(share * np.log(share) + (1 - share) * np.log1p(-share))
    assert metrics["base_rate_loss"] == pytest.approx(entropy.mean())


def test_multilabel_metrics_of_a_small_case_counted_by_hand() -> None:
    p = np.array([[0.9, 0.2, 0.1, 0.3], [0.6, 0.7, 0.1, 0.2], [0.4, 0.8, 0.3, 0.9]])
    targets = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]])
    metrics = multilabel_metrics(p, targets, list("abcd"), [0.5] * 4)
    # a: 1 right, 1 wrong, 1 missed; b: 1 right, 1 wrong; c: 1 missed; d: 1 wrong.
    assert metrics["micro_f1"] == pytest.approx(2 * 2 / (2 * 2 + 3 + 2))
    assert metrics["macro_f1"] == pytest.approx((1 / 2 + 2 / 3 + 0 + 0) / 4)
    # The best three are a, d, b and d, b, a.
    assert metrics["top3_accuracy"] == 1.0
    assert metrics["top3_recall"] == pytest.approx(3 / 4)
    assert metrics["per_class"]["a"]["auc"] == pytest.approx(1 / 2)
    assert metrics["per_class"]["c"]["support"] == 1


def test_images_without_labels_are_measured_without_warnings() -> None:
    metrics = multilabel_metrics(
        np.full((3, 2), 0.2), np.zeros((3, 2), dtype=np.int64), ["a", "b"], [0.5, 0.5]
    )
    assert metrics["mean_average_precision"] is None
    assert metrics["macro_auc"] is None
    assert metrics["top3_accuracy"] is None
    assert metrics["macro_f1"] == metrics["micro_f1"] == 0.0


def test_fitted_thresholds_have_the_highest_f1() -> None:
    from sklearn.metrics import f1_score

    logits, targets = multilabel_case()
    p = probabilities_of(logits, 1.0, Task.MULTILABEL)
    thresholds = fit_thresholds(p, targets)
    for label in range(3):
        best = max(f1_score(targets[:, label], p[:, label] >= t) for t in p[:, label])
        found = f1_score(targets[:, label], p[:, label] >= thresholds[label])
        assert found == pytest.approx(best)
        # Not equal to a probability, so that other rounding decides the same.
        assert np.abs(p[:, label] - thresholds[label]).min() > 1e-6


def test_rare_labels_share_the_threshold_of_all() -> None:
    logits, targets = multilabel_case()
    assert 0 < targets[:, 3].sum() < 10
    thresholds = fit_thresholds(probabilities_of(logits, 1.0, Task.MULTILABEL), targets)
    assert thresholds[3] == thresholds[4]
    assert thresholds[3] not in thresholds[:3]
    nothing = np.zeros((4, 2), dtype=np.int64)
    assert fit_thresholds(np.full((4, 2), 0.3), nothing) == (0.5, 0.5)


def test_the_threshold_for_a_wanted_accuracy_decides_most_images() -> None:
    confidence = np.array([0.95, 0.9, 0.8, 0.7, 0.6])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    found = threshold_for(probabilities, np.array([0, 0, 1, 0, 1]), 0.75)
    assert found == {"wanted": 0.75, "threshold": 0.7, "coverage": 0.8, "accuracy": 0.75}
    assert threshold_for(probabilities, np.array([0, 0, 1, 0, 1]), 0.5)["coverage"] == 1.0


def test_equal_confidences_are_decided_together() -> None:
    confidence = np.array([0.9, 0.8, 0.8, 0.8])
    probabilities = np.stack([confidence, 1 - confidence], axis=1)
    # The first two are right, the others not: 0.8 takes all of them.
    found = threshold_for(probabilities, np.array([0, 0, 1, 1]), 1.0)
    assert found == {"wanted": 1.0, "threshold": 0.9, "coverage": 0.25, "accuracy": 1.0}


def test_an_accuracy_that_no_threshold_reaches_has_none() -> None:
    found = threshold_for(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([1, 0]), 0.9)
    assert found == {"wanted": 0.9, "threshold": None, "coverage": None, "accuracy": None}


def test_the_temperature_of_scaled_multilabel_logits_is_found() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 1.5, (3000, 3))
    targets = (rng.random((3000, 3)) < probabilities_of(logits, 1.0, Task.MULTILABEL)).astype(int)
    assert fit_temperature(logits * 4, targets, Task.MULTILABEL) == pytest.approx(4, rel=0.1)
    assert fit_temperature(logits, targets, Task.MULTILABEL) == pytest.approx(1, rel=0.1)
    perfect = np.array([[3.0, -1.0]])
    assert fit_temperature(perfect, np.array([[1, 0]]), Task.MULTILABEL) == 1.0


def test_a_mistake_within_a_macro_label_counts_as_correct_there() -> None:
    probabilities = np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.9, 0.0, 0.1]])
    targets = np.array([0, 1, 2])
    macro = {"a": "first", "b": "first", "c": "second"}
    metrics = multiclass_metrics(probabilities, targets, list("abc"), macro_labels=macro)
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert metrics["macro_label_accuracy"] == pytest.approx(2 / 3)
    assert "macro_label_accuracy" not in multiclass_metrics(probabilities, targets, list("abc"))


def test_a_label_that_is_predicted_too_often_gets_a_negative_bias() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 1.5, (4000, 3))
    targets = np.array([rng.choice(3, p=row) for row in softmax(logits)])
    shift = np.array([1.0, 0.0, -1.0])
    assert fit_label_bias(logits + shift, targets, 1.0) == pytest.approx(-shift, abs=0.15)
    assert fit_label_bias(logits, targets, 1.0) == pytest.approx(np.zeros(3), abs=0.15)


def test_few_images_or_no_mistake_give_no_bias() -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 1, (40, 2))
    targets = rng.integers(0, 2, 40)
    assert not fit_label_bias(logits, targets, 1.0).any()
    sure = np.eye(2)[np.arange(100) % 2] * 5
    assert not fit_label_bias(sure, np.arange(100) % 2, 1.0).any()
