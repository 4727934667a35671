"""From samples to finished label explanations, for any label or difference of two.

Knows samples. Does not know images, nor asks the model.
"""

import numpy as np
from numpy.typing import NDArray

from limelens.explain.errors import UnknownLabelError
from limelens.explain.explanation import Explanation, LabelExplanation, Samples, SegmentWeight
from limelens.explain.sampling.perturbation import Sampling
from limelens.explain.stopping import Check, go_on
from limelens.explain.surrogate import methods
from limelens.explain.surrogate.methods import Estimate
from limelens.explain.surrogate.selection import FeatureSelection, select
from limelens.explain.surrogate.stability import expected_agreement, ties, top_k

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
        explanation: any explanation of the image, whichever labels it explains.
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
        every = np.arange(num_segments)
        estimates = _estimates(samples, samples.visible, targets, sampling, check)
        return tuple(
            _finish(samples, estimate, every, float(targets[0, place]), name)
            for place, (estimate, name) in enumerate(zip(estimates, names, strict=True))
        )
    found = []
    for place, name in enumerate(names):
        target = targets[:, place : place + 1]
        chosen = select(
            feature_selection, samples.visible, target[:, 0], samples.weights, num_kept, check
        )
        visible = samples.visible[:, chosen]
        (estimate,) = _estimates(samples, visible, target, sampling, check)
        found.append(_finish(samples, estimate, chosen, float(target[0, 0]), name))
    return tuple(found)


def _estimates(
    samples: Samples,
    visible: NDArray[np.bool_],
    targets: NDArray[np.float64],
    sampling: Sampling,
    check: Check,
) -> list[Estimate]:
    weights = samples.weights
    if samples.method == "kernel_shap":
        return methods.kernel_shap(visible, targets, weights, sampling=sampling, check=check)
    if samples.method == "occlusion":
        return methods.occlusion(visible, targets)
    if samples.method == "rise":
        return methods.rise(visible, targets, weights, sampling=sampling, check=check)
    return methods.lime(visible, targets, weights, samples.alpha, sampling=sampling, check=check)


def _finish(
    samples: Samples,
    estimate: Estimate,
    chosen: NDArray[np.intp],
    probability: float,
    name: tuple[int, int | None],
) -> LabelExplanation:
    coefficients, spread = estimate.coefficients, estimate.covariance
    if samples.exact:
        spread = np.zeros_like(spread)
    k = top_k(coefficients.size)
    judge = np.random.default_rng(_JUDGING_SEED)
    order = np.argsort(-np.abs(coefficients), kind="stable")
    weights = coefficients[order]
    # From hardly any samples a variance of nothing may come out below it, by rounding.
    std_errors = np.sqrt(np.maximum(np.diag(spread), 0.0))[order]
    segments = samples.columns[chosen][order]
    return LabelExplanation(
        label=name[0],
        against=name[1],
        probability=probability,
        intercept=estimate.intercept,
        local_prediction=float(estimate.intercept + coefficients.sum()),
        score=estimate.score,
        stability=1.0 if samples.exact else expected_agreement(coefficients, spread, k, judge),
        top_k=k,
        ties=() if samples.exact else tuple(segments[ties(weights, std_errors, k)].tolist()),
        weights=tuple(map(SegmentWeight, segments.tolist(), weights.tolist(), std_errors.tolist())),
    )
