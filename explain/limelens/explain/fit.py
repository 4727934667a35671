"""From samples to finished label explanations, for any label or difference of two.

Knows samples. Does not know pictures, nor asks the model.
"""

import numpy as np
from numpy.typing import NDArray

from limelens.explain.errors import UnknownLabelError
from limelens.explain.explanation import Explanation, LabelExplanation, Samples, SegmentWeight
from limelens.explain.neighbourhood import Sampling
from limelens.explain.selection import FeatureSelection, select
from limelens.explain.stability import covariance, expected_agreement, ties, top_k
from limelens.explain.stopping import Check, go_on
from limelens.explain.surrogate import Surrogate, ridge

_JUDGING_SEED = 20160813  # stability is judged by the same draws in every run and round


def fit_labels(
    samples: Samples,
    labels: tuple[int, ...],
    *,
    sampling: Sampling,
    feature_selection: FeatureSelection = "none",
    num_features: int | None = None,
    check: Check = go_on,
) -> tuple[LabelExplanation, ...]:
    """Explain labels from samples already predicted.

    Args:
        samples: the neighbourhood.
        labels: columns of its probabilities.
        sampling: how its rows were drawn.
        feature_selection: how each label's segments are chosen.
        num_features: how many at most; None for all.
        check: may stop the work.
    """
    targets = samples.probabilities[:, list(labels)].astype(np.float64)
    return _fit_targets(
        samples,
        targets,
        [(label, None) for label in labels],
        sampling=sampling,
        feature_selection=feature_selection,
        num_features=num_features,
        check=check,
    )


def contrast(explanation: Explanation, label: int, against: int) -> LabelExplanation:
    """Why one label rather than another: the surrogate of the difference of probabilities.

    Costs a fit; the model is not asked again.

    Args:
        explanation: any explanation of the picture, whichever labels it explains.
        label: the label that positive weights speak for.
        against: the label that negative weights speak for.

    Returns:
        An explanation whose probability is the difference of the two, with all segments used.

    Raises:
        UnknownLabelError: the model has no such label.
    """
    samples = explanation.samples
    num_labels = samples.probabilities.shape[1]
    for argument, value in (("label", label), ("against", against)):
        if not 0 <= value < num_labels:
            raise UnknownLabelError(
                argument, f"{argument} is {value}; the model has labels 0 to {num_labels - 1}"
            )
    both = samples.probabilities[:, [label, against]].astype(np.float64)
    (found,) = _fit_targets(
        samples,
        both[:, :1] - both[:, 1:],
        [(label, against)],
        sampling=explanation.sampling,
        feature_selection="none",
        num_features=None,
    )
    return found


def _fit_targets(
    samples: Samples,
    targets: NDArray[np.float64],
    names: list[tuple[int, int | None]],
    *,
    sampling: Sampling,
    feature_selection: FeatureSelection,
    num_features: int | None,
    check: Check = go_on,
) -> tuple[LabelExplanation, ...]:
    num_segments = samples.visible.shape[1]
    num_kept = num_segments if num_features is None else min(num_features, num_segments)
    # Whoever keeps every segment need not choose; the lasso alone may still leave some out.
    if feature_selection == "none" or (
        num_kept == num_segments and feature_selection != "lasso_path"
    ):
        fitted = ridge(samples.visible, targets, samples.weights, samples.alpha, check)
        every = np.arange(num_segments)
        return tuple(
            _finish(samples, samples.visible, fitted, place, every, targets, name, sampling, check)
            for place, name in enumerate(names)
        )
    found = []
    for place, name in enumerate(names):
        target = targets[:, place : place + 1]
        chosen = select(
            feature_selection, samples.visible, target[:, 0], samples.weights, num_kept, check
        )
        visible = samples.visible[:, chosen]
        fitted = ridge(visible, target, samples.weights, samples.alpha, check)
        found.append(_finish(samples, visible, fitted, 0, chosen, target, name, sampling, check))
    return tuple(found)


def _finish(
    samples: Samples,
    visible: NDArray[np.bool_],
    fitted: Surrogate,
    place: int,
    chosen: NDArray[np.intp],
    targets: NDArray[np.float64],
    name: tuple[int, int | None],
    sampling: Sampling,
    check: Check,
) -> LabelExplanation:
    coefficients = fitted.coefficients[:, place]
    paired = sampling == "paired"
    spread = covariance(fitted, place, visible, samples.weights, paired=paired, check=check)
    k = top_k(coefficients.size)
    stability = expected_agreement(coefficients, spread, k, np.random.default_rng(_JUDGING_SEED))
    order = np.argsort(-np.abs(coefficients), kind="stable")
    weights = coefficients[order]
    std_errors = np.sqrt(np.diag(spread))[order]
    segments = samples.columns[chosen][order]
    return LabelExplanation(
        label=name[0],
        against=name[1],
        probability=float(targets[0, place]),
        intercept=float(fitted.intercept[place]),
        local_prediction=float(fitted.local_prediction[place]),
        score=float(fitted.score[place]),
        stability=stability,
        top_k=k,
        ties=tuple(segments[ties(weights, std_errors, k)].tolist()),
        weights=tuple(map(SegmentWeight, segments.tolist(), weights.tolist(), std_errors.tolist())),
    )
