"""KernelSHAP, occlusion and RISE against their closed forms."""

import itertools
import math
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.explain import (
    Explanation,
    InvalidArgumentError,
    contrast,
    explain,
    explain_progressively,
)
from limelens.explain.sampling.design import shap_design
from limelens.explain.settings import ExplainMethod

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
METHODS: tuple[Any, ...] = get_args(ExplainMethod)
SIDE = 4  # pixels of a segment; segments lie in one row


def strip(num_segments: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A white strip, and its segments from left to right."""
    image = np.full((SIDE, SIDE * num_segments, 3), 255, dtype=np.uint8)
    return image, np.tile(np.repeat(np.arange(num_segments), SIDE), (SIDE, 1))


def game(value: Callable[[NDArray[np.bool_]], NDArray[np.float64]]) -> Predict:
    """A model whose first label is a function of which segments are white, not black."""

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        answer = value(images[:, 0, ::SIDE, 0] == 255)
        return np.stack([answer, 1 - answer], axis=1)

    return predict


def bent(visible: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Every pair and triple of segments plays together."""
    num_segments = visible.shape[1]
    rng = np.random.default_rng(num_segments)
    pairs = rng.normal(size=(num_segments, num_segments))
    triple = visible[:, 0] & visible[:, num_segments // 2] & visible[:, -1]
    total = np.einsum("ni,ij,nj->n", visible, pairs, visible) + 2.0 * triple
    return np.asarray(1 / (1 + np.exp(-total)), dtype=np.float64)


def weights_of(found: Explanation, label: int = 0) -> NDArray[np.float64]:
    one = found.for_label(label)
    weights = np.zeros(found.num_segments)
    weights[[w.segment for w in one.weights]] = [w.weight for w in one.weights]
    return weights


def errors_of(found: Explanation) -> NDArray[np.float64]:
    errors = np.zeros(found.num_segments)
    for one in found.for_label(0).weights:
        errors[one.segment] = one.std_error
    return errors


def shapley(num_segments: int) -> NDArray[np.float64]:
    """The definition: what a segment adds, averaged over all orders of arrival."""
    values = {
        subset: float(bent(np.isin(np.arange(num_segments), subset)[np.newaxis])[0])
        for size in range(num_segments + 1)
        for subset in itertools.combinations(range(num_segments), size)
    }
    found = np.zeros(num_segments)
    for subset, value in values.items():
        for player in set(range(num_segments)) - set(subset):
            size = len(subset)
            share = 1 / (num_segments * math.comb(num_segments - 1, size))
            found[player] += share * (values[tuple(sorted((*subset, player)))] - value)
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("num_segments", "exact"), [(6, True), (25, False)])
def test_every_method_finds_the_weights_of_a_linear_model(
    method: Any, num_segments: int, exact: bool
) -> None:
    true = np.random.default_rng(0).normal(size=num_segments) / 20
    image, segments = strip(num_segments)
    found = explain(
        image,
        game(lambda visible: 0.4 + visible @ true),
        method=method,
        segments=segments,
        labels=[0],
        hide=(0, 0, 0),
        alpha=1e-6,
        num_samples=4000,
        seed=1,
    )
    one = found.for_label(0)
    assert found.method == method
    is_noisy = method == "rise" and not exact  # the other segments are its noise
    np.testing.assert_allclose(weights_of(found), true, atol=0.02 if is_noisy else 1e-8)
    assert one.intercept == pytest.approx(0.4, abs=0.05 if is_noisy else 1e-7)
    assert one.score == pytest.approx(1.0, abs=0.05 if is_noisy else 1e-7)
    assert one.probability == pytest.approx(0.4 + true.sum(), abs=1e-12)


@pytest.mark.parametrize("num_segments", [1, 2, 3, 5, 8])
def test_kernel_shap_equals_shapley_values_where_all_coalitions_are_taken(
    num_segments: int,
) -> None:
    image, segments = strip(num_segments)
    found = explain(
        image,
        game(bent),
        method="kernel_shap",
        segments=segments,
        labels=[0],
        hide=(0, 0, 0),
        num_samples=2**num_segments,
        seed=5,
    )
    np.testing.assert_allclose(weights_of(found), shapley(num_segments), atol=1e-10)
    assert found.num_samples == 2**num_segments
    assert found.for_label(0).stability == 1.0
    assert not errors_of(found).any()


@pytest.mark.parametrize("sampling", ["paired", "independent"])
def test_sampled_kernel_shap_nears_shapley_values_within_its_errors(sampling: Any) -> None:
    image, segments = strip(11)
    true = shapley(11)
    deviations = []
    for seed in range(12):
        found = explain(
            image,
            game(bent),
            method="kernel_shap",
            segments=segments,
            labels=[0],
            hide=(0, 0, 0),
            num_samples=900,
            sampling=sampling,
            seed=seed,
        )
        one = found.for_label(0)
        total = one.intercept + sum(w.weight for w in one.weights)
        assert total == pytest.approx(one.probability, abs=1e-12)
        assert one.local_prediction == pytest.approx(one.probability, abs=1e-12)
        deviations.append((weights_of(found) - true) / errors_of(found))
    assert 0.75 < np.sqrt(np.mean(np.square(deviations))) < 1.25


@pytest.mark.parametrize("sampling", ["paired", "independent"])
def test_rises_errors_match_the_spread_over_seeds(sampling: Any) -> None:
    image, segments = strip(15)
    runs = [
        explain(
            image,
            game(bent),
            method="rise",
            segments=segments,
            labels=[0],
            hide=(0, 0, 0),
            num_samples=400,
            sampling=sampling,
            seed=seed,
        )
        for seed in range(40)
    ]
    spread = np.sqrt(np.var([weights_of(run) for run in runs], axis=0, ddof=1).mean())
    stated = np.sqrt(np.mean([errors_of(run) ** 2 for run in runs]))
    assert 0.85 < stated / spread < 1.2


def test_rise_is_the_mean_with_a_segment_less_the_mean_without_it() -> None:
    image, segments = strip(7)
    found = explain(image, game(bent), method="rise", segments=segments, labels=[0], hide=(0, 0, 0))
    masks = np.array(list(itertools.product([False, True], repeat=7)))
    answers = bent(masks)
    expected = [answers[masks[:, j]].mean() - answers[~masks[:, j]].mean() for j in range(7)]
    np.testing.assert_allclose(weights_of(found), expected, atol=1e-12)
    assert found.num_samples == 128


def test_occlusion_hides_each_segment_once_and_weighs_the_drop() -> None:
    image, segments = strip(9)
    found = explain(
        image, game(bent), method="occlusion", segments=segments, labels=[0], hide=(0, 0, 0)
    )
    whole = np.ones((1, 9), dtype=np.bool_)
    expected = bent(whole) - bent(~np.eye(9, dtype=np.bool_))
    np.testing.assert_allclose(weights_of(found), expected, atol=1e-12)
    assert found.num_samples == 10
    assert found.warnings == ()
    assert found.for_label(0).stability == 1.0


def test_repeated_occlusion_by_shuffled_tiles_has_errors_of_its_spread() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (36, 36, 3), dtype=np.uint8)

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        seen = images[:, :18, :18].astype(np.float64).std(axis=(1, 2, 3)) / 128
        return np.stack([seen, 1 - seen], axis=1)

    runs = [
        explain(
            image,
            predict,
            method="occlusion",
            segmentation="grid",
            num_segments=9,
            labels=[0],
            hide="shuffle",
            num_samples=100,
            seed=seed,
        )
        for seed in range(30)
    ]
    assert runs[0].num_samples == 100
    spread = np.sqrt(np.var([weights_of(run) for run in runs], axis=0, ddof=1).mean())
    stated = np.sqrt(np.mean([errors_of(run) ** 2 for run in runs]))
    assert 0.7 < stated / spread < 1.3


@pytest.mark.parametrize("paired", ["paired", "independent"])
def test_a_smaller_draw_of_coalitions_begins_a_larger_one(paired: Any) -> None:
    large = shap_design(np.random.default_rng(3), 500, 17, paired)
    small = shap_design(np.random.default_rng(3), 123, 17, paired)
    np.testing.assert_array_equal(large.visible[:123], small.visible)
    assert large.visible[0].all()
    assert not large.visible[1].any()
    size = large.visible[2:].sum(axis=1)
    assert size.min() >= 1
    assert size.max() <= 16
    # drawn by the kernel: sizes 1 and 16 are 16 times likelier than its middle is on average
    assert np.mean((size == 1) | (size == 16)) > 0.25


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("hide", [(0, 0, 0), "shuffle"])
@pytest.mark.parametrize("grid", [5, 36])
def test_rounds_end_in_what_explain_returns_and_contrasts_follow(
    photo: NDArray[np.uint8], linear_softmax: Any, method: Any, hide: Any, grid: int
) -> None:
    predict = linear_softmax((96, 80))
    how: dict[str, Any] = {
        "method": method,
        "hide": hide,
        "segmentation": "grid",
        "num_segments": grid,
        "labels": [2, 5],
        "num_samples": 301,
        "seed": 4,
    }
    found = explain(photo, predict, **how)
    *_, last = explain_progressively(photo, predict, **how)
    assert [one.weights for one in last.explanations] == [one.weights for one in found.explanations]
    difference = {w.segment: w.weight for w in contrast(found, 2, 5).weights}
    expected = weights_of(found, 2) - weights_of(found, 5)
    np.testing.assert_allclose(
        [difference[i] for i in range(found.num_segments)], expected, atol=1e-9
    )
    assert all(np.isfinite(w.std_error) for one in found.explanations for w in one.weights)


@pytest.mark.parametrize("method", METHODS)
def test_a_deadline_leaves_finite_weights(photo: NDArray[np.uint8], method: Any) -> None:
    def predict(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        seen = images[:, :40].astype(np.float64).mean(axis=(1, 2, 3)) / 255
        return np.stack([seen, 1 - seen], axis=1)

    found = explain(
        photo, predict, method=method, batch_size=1, deadline_ms=1e-6, hide=(0, 0, 0), seed=0
    )
    assert found.num_samples <= 2
    assert any("deadline" in str(warning) for warning in found.warnings)
    for one in found.explanations[0].weights:
        assert np.isfinite([one.weight, one.std_error]).all()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"method": "gradcam"}, "expected one of 'lime', 'kernel_shap', 'occlusion', 'rise'"),
        ({"method": "rise", "compat": "lime"}, "which compat='lime' lacks"),
        ({"method": "rise", "num_features": 3}, "weighs every segment"),
        ({"method": "kernel_shap", "feature_selection": "auto"}, "weighs every segment"),
        ({"hide": "shuffle", "compat": "lime"}, "'shuffle' needs compat=None"),
    ],
)
def test_options_that_a_method_does_not_take_are_named(
    photo: NDArray[np.uint8], arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=sentence):
        explain(photo, lambda images: np.ones((len(images), 1)), **arguments)
