"""Deletion and insertion curves, on models whose curves are known."""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.explain import (
    UNSEEN,
    Explanation,
    Faithfulness,
    InvalidArgumentError,
    UnknownLabelError,
    check,
    draw_curves,
    explain,
)

WEIGHTS = np.array([0.05, 0.4, 0.1, 0.2, -0.1])
STEPS = np.array([0.0, 0.4, 0.6, 0.7, 0.75, 0.65])  # the best first, summed up


def linear(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Five vertical bars, each of which adds its weight where it is white."""
    answer = 0.1 + (images[:, 0, ::4, 0] == 255) @ WEIGHTS
    return np.stack([answer, 1 - answer], axis=1)


def bars() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    image = np.full((8, 20, 3), 255, dtype=np.uint8)
    return image, np.tile(10 * np.repeat(np.arange(5), 4), (8, 1))


def explained(**options: Any) -> Explanation:
    image, segments = bars()
    how: dict[str, Any] = {"segments": segments, "hide": (0, 0, 0), "labels": [0], "seed": 0}
    return explain(image, linear, **{**how, **options})


def test_curves_of_a_linear_model_are_its_weights_summed_up() -> None:
    found = check(explained(), linear, bars()[0])
    np.testing.assert_allclose(found.insertion, 0.1 + STEPS, atol=1e-12)
    np.testing.assert_allclose(found.deletion, 0.75 - STEPS, atol=1e-12)
    np.testing.assert_allclose(found.changed_share, np.arange(6) / 5)
    assert found.insertion_area == pytest.approx(np.trapezoid(0.1 + STEPS, dx=0.2))
    assert found.deletion_area == pytest.approx(np.trapezoid(0.75 - STEPS, dx=0.2))
    # over all orders the mean curve is a straight line
    assert found.random_insertion_area == pytest.approx(0.425, abs=3 * 0.1 / 10**0.5)
    assert found.random_deletion_spread > 0.01
    assert found.better_than_random
    assert found.num_samples == 11 * 2 * 6


def test_a_random_explanation_is_no_better_than_random() -> None:
    noise = np.random.default_rng(0)

    def lots(images: NDArray[np.uint8]) -> NDArray[np.float64]:
        return noise.random((len(images), 2))

    found = check(explained(), lots, bars()[0], num_random=30)
    assert not found.better_than_random
    assert abs(found.deletion_gain) < 3 * found.random_deletion_spread


def test_the_hide_rule_is_that_of_the_explanation_unless_another_is_given() -> None:
    assert check(explained(), linear, bars()[0]).hide == (0, 0, 0)
    blurred = check(explained(), linear, bars()[0], hide="mean")
    assert blurred.hide == "mean"
    assert blurred.deletion == pytest.approx(
        [0.75] * 6
    )  # white bars in their mean colour are white


def test_areas_count_pixels_inside_the_input_region() -> None:
    image, segments = bars()
    segments[:, 4:8] = 0
    segments[:, 16:] = UNSEEN
    found = check(explained(segments=segments), linear, image)
    assert found.changed_share == pytest.approx((0.0, 0.5, 0.75, 1.0))
    np.testing.assert_allclose(found.insertion, (0.0, 0.45, 0.65, 0.75), atol=1e-12)


@pytest.mark.parametrize("hide", ["mean", "blur", "shuffle", (1, 2, 3)])
def test_the_same_seed_measures_the_same_and_all_of_it_is_json(
    photo: NDArray[np.uint8], linear_softmax: Any, hide: Any
) -> None:
    predict = linear_softmax((96, 80))
    explanation = explain(photo, predict, hide=hide, top_labels=2, num_samples=200, seed=0)
    label = explanation.explanations[1].label
    found = check(explanation, predict, photo, label=label, num_random=3, seed=8)
    assert found == check(explanation, predict, photo, label=label, num_random=3, seed=8)
    assert found.label == label
    text = json.loads(json.dumps(found.to_json()))
    assert text["insertion"] == list(found.insertion)
    assert text["hide"] == (list(hide) if isinstance(hide, tuple) else hide)
    assert text["better_than_random"] == found.better_than_random
    ends = found.deletion[0], found.insertion[-1]
    assert ends[0] == pytest.approx(ends[1], abs=1e-6)
    assert found.random_deletion[0] == pytest.approx(ends[0], abs=1e-6)


def test_explanations_like_limes_are_checked_too(
    photo: NDArray[np.uint8], linear_softmax: Any
) -> None:
    predict = linear_softmax((96, 80))
    found = explain(
        photo,
        predict,
        compat="lime",
        segmentation="slic",
        segmentation_options={"n_segments": 12},
        num_features=4,
        num_samples=200,
        seed=0,
    )
    measured = check(found, predict, photo)
    assert len(measured.deletion) == found.num_segments + 1


def test_curves_are_drawn_in_both_colours() -> None:
    found = check(explained(), linear, bars()[0])
    plain = draw_curves(found, label_name="with_mask")
    assert plain.dtype == np.uint8
    assert plain.shape[2] == 3
    colours = {tuple(colour) for colour in plain.reshape(-1, 3).tolist()}
    assert {(0, 158, 60), (214, 39, 40), (255, 255, 255)} <= colours
    other = draw_curves(found, palette="blue-orange")
    assert (0, 98, 178) in {tuple(colour) for colour in other.reshape(-1, 3).tolist()}


def test_what_cannot_be_checked_is_reported() -> None:
    image, _ = bars()
    with pytest.raises(InvalidArgumentError, match="image is 8x19; the explanation is of 8x20"):
        check(explained(), linear, image[:, 1:])
    with pytest.raises(InvalidArgumentError, match="expected at least 2"):
        check(explained(), linear, image, num_random=1)
    with pytest.raises(UnknownLabelError, match="explains 0"):
        check(explained(), linear, image, label=1)


def test_faithfulness_is_a_plain_value() -> None:
    found = check(explained(), linear, bars()[0])
    assert isinstance(found, Faithfulness)
    assert hash(found) == hash(check(explained(), linear, bars()[0]))
