"""Drift: samples around one place compared with samples around another, by real indexes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.serve.tools.drift import (
    FEWEST,
    LEAST_KS,
    MOST_P,
    Reference,
    Sample,
    TooFewImagesError,
    compare,
    reference_of,
)
from limelens.serve.tools.similar import (
    IndexedImage,
    Made,
    SimilarIndex,
    build_index,
    load_index,
    save_index,
)

SIZE = 8


def around(centre: float, count: int, seed: int, spread: float = 0.3) -> NDArray[np.float32]:
    """Vectors around a place: (centre, 1, 1, …)."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(1, spread, (count, SIZE))
    vectors[:, 0] += centre - 1
    return vectors.astype(np.float32)


def sure(around: float, count: int, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(around, 0.03, count), 0, 1).astype(np.float32)


def index_of(
    vectors: NDArray[np.float32],
    confidences: NDArray[np.float32] | None = None,
    predicted: Sequence[str] | None = None,
) -> SimilarIndex:
    images = [IndexedImage(f"{row}.png", "") for row in range(len(vectors))]
    made = Made("m", 1, "digest", vectors.shape[1], "/data")
    return build_index(vectors, images, made, confidences=confidences, predicted=predicted)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return reference_of(index_of(around(1, 400, 1), sure(0.9, 400, 2)))


def test_images_of_the_same_kind_are_no_drift(reference: Reference) -> None:
    for seed in range(10, 20):
        found = compare(reference, reference.sample(around(1, 200, seed), sure(0.9, 200, seed)))
        assert [one.name for one in found.shifts] == ["distance", "confidence"]
        assert not found.is_drift, found


def test_images_farther_away_are_drift(reference: Reference) -> None:
    found = compare(reference, reference.sample(around(-3, 100, 3), sure(0.9, 100, 4)))
    distance, confidence = found.shifts
    assert found.is_drift
    assert distance.is_drift
    assert distance.ks > 0.9
    assert distance.median > 2 * distance.reference_median
    assert not confidence.is_drift


def test_a_model_that_is_less_sure_is_drift(reference: Reference) -> None:
    found = compare(reference, reference.sample(around(1, 100, 5), sure(0.8, 100, 6)))
    distance, confidence = found.shifts
    assert confidence.is_drift
    assert not distance.is_drift
    assert confidence.median < confidence.reference_median


def test_images_nearer_and_surer_than_usual_are_no_drift(reference: Reference) -> None:
    vectors = around(1, 200, 7, spread=0.05)
    found = compare(reference, reference.sample(vectors, sure(0.99, 200, 8)))
    assert not found.is_drift
    assert max(one.ks for one in found.shifts) < LEAST_KS


def test_a_certain_trifle_is_no_drift(reference: Reference) -> None:
    own = reference.own
    assert own.confidences is not None
    slightly = np.resize(own.distances, 20_000) * 1.08
    (found, _) = compare(reference, Sample(slightly, np.resize(own.confidences, 20_000))).shifts
    assert found.p_value < MOST_P
    assert found.ks < LEAST_KS
    assert not found.is_drift


def test_a_large_difference_of_few_images_is_no_drift_if_it_may_be_chance() -> None:
    old = reference_of(index_of(around(1, FEWEST, 1)))
    distances = np.quantile(old.own.distances, np.linspace(0.25, 1, FEWEST))
    (found,) = compare(old, Sample(distances, None)).shifts
    assert found.ks >= LEAST_KS
    assert found.p_value > MOST_P
    assert not found.is_drift


def test_p_values_are_corrected_for_their_number(reference: Reference) -> None:
    vectors = around(1.4, 60, 11)
    alone = compare(reference, reference.sample(vectors, None)).shifts
    both = compare(reference, reference.sample(vectors, sure(0.9, 60, 12))).shifts
    smaller = min(both, key=lambda one: one.p_value)
    assert smaller.name == "distance"
    assert smaller.p_value == pytest.approx(2 * alone[0].p_value)


def test_indexed_images_are_measured_against_the_others() -> None:
    vectors = around(1, 30, 1)
    vectors[7] = vectors[3]  # a copy
    index = index_of(vectors)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarities = units @ units.T
    np.fill_diagonal(similarities, -2)
    expected = 1 - np.sort(similarities, axis=1)[:, -3:].mean(axis=1)
    np.testing.assert_allclose(index.own_distances(3, np.arange(30)), expected, atol=1e-5)
    np.testing.assert_allclose(
        index.own_distances(3, np.array([0, 29])), expected[[0, 29]], atol=1e-5
    )
    np.testing.assert_allclose(index.distances(vectors[:2], 1), 0, atol=1e-5)


def two_labels(
    seed: int, num_sure: int, num_unsure: int, change: float = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32], list[str]]:
    """Vectors, confidences and labels; the model is surer of one label than of the other."""
    vectors = np.concatenate(
        [around(1, num_sure, seed), around(1, num_unsure, seed + 1000, spread=0.5)]
    )
    confidences = [sure(0.95, num_sure, seed), sure(0.7, num_unsure, seed + 1000)]
    labels = ["sure"] * num_sure + ["unsure"] * num_unsure
    return vectors, np.concatenate(confidences) - np.float32(change), labels


@pytest.fixture(scope="module")
def of_two_labels() -> Reference:
    return reference_of(index_of(*two_labels(1, 360, 40)))


@pytest.mark.parametrize(("num_sure", "num_unsure"), [(180, 20), (10, 190), (0, 60), (200, 0)])
def test_another_mix_of_labels_is_no_drift(
    of_two_labels: Reference, num_sure: int, num_unsure: int
) -> None:
    for seed in range(10, 20):
        sample = of_two_labels.sample(*two_labels(seed, num_sure, num_unsure))
        found = compare(of_two_labels, sample)
        assert not found.is_drift, found
        assert found.mix is not None
        share = num_unsure / (num_sure + num_unsure)
        assert found.mix_change == pytest.approx(abs(share - 0.1))
        (unsure,) = (one for one in found.mix if one.label == "unsure")
        assert (unsure.reference_share, unsure.share) == pytest.approx((0.1, share))


def test_drift_is_found_in_another_mix_of_labels(of_two_labels: Reference) -> None:
    found = compare(of_two_labels, of_two_labels.sample(*two_labels(5, 10, 190, change=0.1)))
    assert found.shifts[1].is_drift
    assert found.shifts[1].reference_median == pytest.approx(0.7, abs=0.02)


def test_few_images_of_a_label_prove_little() -> None:
    """The p-value knows that 20 images of the reference stand for 500 new ones."""
    many, few = (reference_of(index_of(*two_labels(1, 360, count))) for count in (200, 20))
    new = two_labels(5, 0, 500, change=0.02)
    p_many, p_few = (compare(one, one.sample(*new)).shifts[1].p_value for one in (many, few))
    assert p_many < 1e-6
    assert p_few > 1e-3


def test_the_same_mix_is_compared_as_if_labels_were_unknown(of_two_labels: Reference) -> None:
    vectors, confidences, labels = two_labels(7, 180, 20)
    matched = compare(of_two_labels, of_two_labels.sample(vectors, confidences, labels))
    unmatched = compare(of_two_labels, of_two_labels.sample(vectors, confidences))
    assert matched.mix_change == pytest.approx(0)
    assert unmatched.mix is None
    for one, other in zip(matched.shifts, unmatched.shifts, strict=True):
        assert (one.ks, one.p_value) == pytest.approx((other.ks, other.p_value))


def test_labels_that_the_reference_lacks_are_compared_with_all_of_it() -> None:
    old = reference_of(index_of(*two_labels(1, 360, 5)))
    vectors, confidences, _ = two_labels(9, 0, 100)
    found = compare(old, old.sample(vectors, confidences, ["other"] * 90 + ["unsure"] * 10))
    assert found.mix is not None
    assert {one.label: (one.num_reference, one.is_matched) for one in found.mix} == {
        "sure": (360, True),
        "other": (0, False),
        "unsure": (5, False),
    }
    assert found.shifts[1].is_drift
    assert found.shifts[1].reference_median > 0.9


def test_too_few_images_are_refused(reference: Reference) -> None:
    with pytest.raises(TooFewImagesError, match=r"the index has 19 images; .* at least 20"):
        reference_of(index_of(around(1, 19, 1)))
    with pytest.raises(TooFewImagesError, match=r"19 images; .* at least 20"):
        compare(reference, reference.sample(around(1, 19, 1), None))


def test_confidences_and_labels_are_kept_in_the_file_and_may_be_missing(tmp_path: Path) -> None:
    vectors, confidences = around(1, 25, 1), sure(0.9, 25, 2)
    save_index(index_of(vectors, confidences, ["a"] * 24 + ["b"]), tmp_path / "new")
    new = load_index(tmp_path / "new")
    np.testing.assert_array_equal(new.confidences, confidences)
    assert new.predicted == ("a",) * 24 + ("b",)
    save_index(index_of(vectors), tmp_path / "old")
    old = reference_of(load_index(tmp_path / "old"))
    found = compare(old, old.sample(around(1, 25, 3), confidences, ["a"] * 25))
    assert found.mix is None
    assert [one.name for one in found.shifts] == ["distance"]
