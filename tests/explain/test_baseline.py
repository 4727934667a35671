"""The baseline: what the model predicts with every segment hidden, and what follows from it."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.explain import Explanation, WarningKind, contrast, explain
from limelens.explain.drawing.steps import perturbation_of

SEGMENTS = np.arange(64)[:, np.newaxis] // 16 * 4 + np.arange(64) // 16


def scene() -> NDArray[np.uint8]:
    pixels = np.random.default_rng(0).integers(60, 140, (64, 64, 3), dtype=np.uint8)
    pixels[16:32, 32:48] = 250
    return pixels


def whiteness(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How much of one segment is white; two more labels for contrasts."""
    white = (images[:, 16:32, 32:48].min(axis=3) > 240).mean(axis=(1, 2))
    return np.stack([1 - white, white, 0.25 * white], axis=1).astype(np.float32)


def explained(predict: Any = whiteness, **options: Any) -> Explanation:
    options = {"segments": SEGMENTS, "labels": [1], "seed": 3, "num_samples": 120, **options}
    return explain(scene(), predict, **options)


@pytest.mark.parametrize("method", ["lime", "kernel_shap", "occlusion", "rise"])
@pytest.mark.parametrize("sampling", ["paired", "independent"])
def test_every_method_tells_what_is_left_with_everything_hidden(method: Any, sampling: Any) -> None:
    found = explained(method=method, sampling=sampling, hide=(0, 0, 0))
    assert found.for_label(1).baseline == 0.0
    assert explained(method=method, sampling=sampling, hide="mean").for_label(1).baseline == 1.0


def test_fills_that_differ_are_averaged() -> None:
    seen: list[NDArray[np.uint8]] = []

    def brightness(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        seen.extend(images.copy())
        mean = images.mean(axis=(1, 2, 3)) / 255
        return np.stack([mean, 1 - mean], axis=1).astype(np.float32)

    found = explained(brightness, hide="shuffle")
    hidden = np.stack(seen[found.num_samples :])
    assert found.sampling == "paired"
    assert len(hidden) == len(np.unique(hidden, axis=0)) == 8
    # The first of them hides with the fill of the first pair.
    nothing = np.zeros((1, found.num_segments), dtype=np.bool_)
    assert np.array_equal(hidden[0], perturbation_of(scene(), found).images(nothing, 0)[0])
    assert found.for_label(1).baseline == pytest.approx(1 - hidden.mean() / 255, abs=1e-5)
    assert explained(brightness, hide="shuffle").explanations == found.explanations


def test_pairs_of_one_fill_hold_the_baseline_already() -> None:
    num_predicted = 0

    def counting(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        nonlocal num_predicted
        num_predicted += len(images)
        return whiteness(images)

    explained(counting, sampling="paired")
    assert num_predicted == 120
    explained(counting, sampling="independent")
    assert num_predicted == 2 * 120 + 1


def test_a_contrast_has_the_difference_of_two_baselines() -> None:
    found = explained(hide=(255, 255, 255))
    assert contrast(found, 1, 2).baseline == pytest.approx(0.75)
    assert contrast(found, 2, 1).baseline == pytest.approx(-0.75)


def test_the_fit_is_the_same_with_and_without_the_baseline() -> None:
    found = explained(sampling="independent", hide=(0, 0, 0))
    assert found.samples.visible.shape == (120, 16)
    assert found.samples.probabilities.shape == (120, 3)
    assert found.samples.hidden is not None
    assert found.samples.hidden.shape == (1, 3)


def test_an_explanation_says_so_where_hiding_everything_changes_little() -> None:
    def nearly_constant(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray([[0.02, 0.98, 0.0]] + 0.006 * whiteness(images), dtype=np.float32)

    (warning,) = explained(nearly_constant, hide=(0, 0, 0)).warnings
    assert warning.kind is WarningKind.LITTLE_EFFECT
    text = warning.sentence(["a", "b"])
    assert text.startswith("Label 'b': hiding everything moves its probability only from 0.986 to ")
    assert text.endswith("such as blur.")
    other = explained(nearly_constant, hide="blur").warnings
    assert other[0].numbers["other"] == "shuffle"
    assert explained(hide=(0, 0, 0)).warnings == ()


def test_an_explanation_says_so_where_no_segment_matters_by_itself() -> None:
    """The label goes only when hardly anything is left: no single segment tells."""

    def robust(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        shown = (images.max(axis=3) > 0).mean(axis=(1, 2)) > 0.1
        return np.stack([~shown, shown], axis=1).astype(np.float32)

    kinds = [one.kind for one in explained(robust, hide=(0, 0, 0), num_samples=400).warnings]
    assert WarningKind.WEAK_WEIGHTS in kinds
    assert WarningKind.LITTLE_EFFECT not in kinds
