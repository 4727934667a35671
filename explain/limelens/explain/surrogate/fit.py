"""From samples to finished label explanations, for any label or difference of two.

Knows samples. Does not know images, and makes no predictions.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from limelens.explain.errors import UnknownLabelError
from limelens.explain.explanation import Explanation, LabelExplanation, Samples, SegmentWeight
from limelens.explain.settings import Settings
from limelens.explain.surrogate.methods import Estimate, estimate
from limelens.explain.surrogate.selection import select
from limelens.explain.surrogate.stability import expected_agreement, ties, top_k

_STABILITY_SEED = 20160813  # stability is estimated from the same draws in every run and round
_DEFAULTS = Settings()


def fit_labels(
    samples: Samples, labels: Sequence[int], settings: Settings = _DEFAULTS
) -> tuple[LabelExplanation, ...]:
    """Explain labels from samples already predicted.

    Args:
        samples: The neighbourhood.
        labels: Columns of its probabilities.
        settings: How each label's segments are selected, and a check that may stop the work.
    """
    samples = samples.by_row()
    targets = samples.probabilities[:, list(labels)].astype(np.float64)
    return _fit_targets(samples, targets, [(label, None) for label in labels], settings)


def contrast(explanation: Explanation, label: int, against: int) -> LabelExplanation:
    """Why one label rather than another: the surrogate of the difference of probabilities.

    Costs a fit and no predictions.

    Args:
        explanation: Any explanation of the image, with any labels.
        label: The label that positive weights support.
        against: The label that negative weights support.

    Returns:
        An explanation whose probability is the difference of the two, with all segments used.

    Raises:
        UnknownLabelError: The model has no such label.
    """
    samples = explanation.samples.by_row()
    num_labels = samples.probabilities.shape[1]
    for argument, value in (("label", label), ("against", against)):
        if not 0 <= value < num_labels:
            raise UnknownLabelError(
                argument, f"{argument} is {value}; the model has labels 0 to {num_labels - 1}"
            )
    both = samples.probabilities[:, [label, against]].astype(np.float64)
    (found,) = _fit_targets(samples, both[:, :1] - both[:, 1:], [(label, against)], _DEFAULTS)
    return found


def _fit_targets(
    samples: Samples,
    targets: NDArray[np.float64],
    names: list[tuple[int, int | None]],
    settings: Settings,
) -> tuple[LabelExplanation, ...]:
    visible, check = samples.visible, settings.check
    num_segments = visible.shape[1]
    num_kept = min(settings.num_features or num_segments, num_segments)
    selection = settings.feature_selection or ("auto" if settings.like_lime else "none")
    # Keeping every segment needs no selection; only the lasso may still leave some out.
    if selection == "none" or (num_kept == num_segments and selection != "lasso_path"):
        every = np.arange(num_segments)
        return tuple(
            _finish(samples, one, every, float(targets[0, place]), name)
            for place, (one, name) in enumerate(
                zip(estimate(samples, visible, targets, check), names, strict=True)
            )
        )
    found = []
    for place, name in enumerate(names):
        target = targets[:, place : place + 1]
        chosen = select(selection, visible, target[:, 0], samples.weights, num_kept, check)
        (one,) = estimate(samples, visible[:, chosen], target, check)
        found.append(_finish(samples, one, chosen, float(target[0, 0]), name))
    return tuple(found)


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
    rng = np.random.default_rng(_STABILITY_SEED)
    order = np.argsort(-np.abs(coefficients), kind="stable")
    weights = coefficients[order]
    # With hardly any samples, rounding may leave a variance below 0.
    std_errors = np.sqrt(np.maximum(np.diag(spread), 0.0))[order]
    segments = samples.columns[chosen][order]
    return LabelExplanation(
        label=name[0],
        against=name[1],
        probability=probability,
        intercept=estimate.intercept,
        local_prediction=float(estimate.intercept + coefficients.sum()),
        score=estimate.score,
        stability=1.0 if samples.exact else expected_agreement(coefficients, spread, k, rng),
        top_k=k,
        ties=() if samples.exact else tuple(segments[ties(weights, std_errors, k)].tolist()),
        weights=tuple(map(SegmentWeight, segments.tolist(), weights.tolist(), std_errors.tolist())),
        baseline=_baseline(samples, *name),
    )


def _baseline(samples: Samples, label: int, against: int | None) -> float | None:
    """The model's probability with everything hidden, or the difference of two."""
    if samples.hidden is None:
        return None
    mean = samples.hidden.mean(axis=0, dtype=np.float64)
    return float(mean[label] - (0.0 if against is None else mean[against]))
