"""The regression and its uncertainty, on designs without images."""

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from limelens.explain.explanation import LabelExplanation, Samples
from limelens.explain.sampling.design import distances, draw, proximity
from limelens.explain.surrogate.fit import fit_labels
from limelens.explain.surrogate.ridge import ridge
from limelens.explain.surrogate.stability import ties

NUM_SEGMENTS = 30


def bent(visible: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A model with interactions, so that the linear surrogate leaves something unexplained."""
    rng = np.random.default_rng(1)
    main = rng.normal(size=NUM_SEGMENTS) * rng.exponential(size=NUM_SEGMENTS)
    pairs = rng.normal(size=(NUM_SEGMENTS, NUM_SEGMENTS)) * 0.3
    shown = visible - 0.5
    logit = shown @ main + np.einsum("ni,ij,nj->n", shown, pairs, shown)
    return np.asarray(1 / (1 + np.exp(-logit)), dtype=np.float32)[:, np.newaxis]


def fitted(seed: int, num_samples: int, sampling: Any) -> LabelExplanation:
    visible = draw(np.random.default_rng(seed), num_samples, NUM_SEGMENTS, sampling)
    samples = Samples(
        visible=visible,
        probabilities=bent(visible),
        weights=proximity(distances(visible, "cosine"), 0.25),
        columns=np.arange(NUM_SEGMENTS, dtype=np.int32),
        alpha=1.0,
        sampling=sampling,
    )
    (found,) = fit_labels(samples, (0,))
    return found


@pytest.mark.parametrize("num_segments", [1, 7, 40, 150])
@pytest.mark.parametrize("alpha", [0.01, 1.0, 30.0])
def test_closed_form_equals_scikit_learn(num_segments: int, alpha: float) -> None:
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(num_segments)
    visible = draw(rng, 301, num_segments, "independent")
    targets = rng.random((301, 3))
    weights = proximity(distances(visible, "cosine"), 0.25)
    ours = ridge(visible, targets, weights, alpha)
    for column in range(3):
        theirs = Ridge(alpha=alpha).fit(visible, targets[:, column], sample_weight=weights)
        score = theirs.score(visible, targets[:, column], sample_weight=weights)
        np.testing.assert_allclose(ours.coefficients[:, column], theirs.coef_, atol=1e-10)
        assert ours.intercept[column] == pytest.approx(theirs.intercept_, abs=1e-10)
        assert ours.score[column] == pytest.approx(score, abs=1e-10)


def test_pairs_complement_each_other_and_smaller_draws_are_prefixes() -> None:
    paired = draw(np.random.default_rng(0), 101, 13, "paired")
    np.testing.assert_array_equal(paired[0:100:2], ~paired[1:100:2])
    assert paired[0].all()
    for sampling in ("paired", "independent"):
        large = draw(np.random.default_rng(3), 500, 17, sampling)
        small = draw(np.random.default_rng(3), 123, 17, sampling)
        np.testing.assert_array_equal(large[:123], small)


@pytest.mark.parametrize("sampling", ["paired", "independent"])
def test_standard_errors_match_the_spread_over_seeds(sampling: Any) -> None:
    weights, errors = np.zeros((40, NUM_SEGMENTS)), np.zeros((40, NUM_SEGMENTS))
    for seed in range(40):
        for one in fitted(seed, 500, sampling).weights:
            weights[seed, one.segment] = one.weight
            errors[seed, one.segment] = one.std_error
    spread = np.sqrt(weights.var(axis=0, ddof=1).mean())
    assert 0.85 < np.sqrt((errors**2).mean()) / spread < 1.2


@pytest.mark.parametrize("sampling", ["paired", "independent"])
def test_stability_predicts_the_agreement_of_seeds(sampling: Any) -> None:
    runs = [fitted(seed, 500, sampling) for seed in range(20)]
    heaviest = [{one.segment for one in run.weights[:5]} for run in runs]
    agreement = np.mean([len(a & b) / len(a | b) for a, b in itertools.combinations(heaviest, 2)])
    assert np.mean([run.stability for run in runs]) == pytest.approx(float(agreement), abs=0.08)


def test_pairs_are_steadier_than_independent_rows() -> None:
    error = {
        sampling: np.mean([one.std_error for one in fitted(0, 1000, sampling).weights])
        for sampling in ("paired", "independent")
    }
    assert error["paired"] < 0.9 * error["independent"]


def test_ties_are_named_around_the_cut_alone() -> None:
    sizes = np.array([9.0, 5.0, 3.1, 3.0, 2.9, 0.1])
    assert ties(sizes, np.full(6, 0.1), 3).tolist() == [2, 3, 4]
    assert ties(sizes, np.full(6, 0.01), 3).tolist() == []
    assert ties(sizes, np.full(6, 0.1), 6).tolist() == []
    assert ties(sizes, np.full(6, 0.1), 1).tolist() == []
