"""Fits a surrogate to the samples by each method: LIME, KernelSHAP, occlusion, RISE.

Knows samples and targets. Does not know images, labels or the model. Every method gives a linear
surrogate, so that weights, errors, score and drawings mean the same as for LIME.

    Covert, Lee: Improving KernelSHAP, AISTATS 2021. https://arxiv.org/abs/2012.01536
    Zeiler, Fergus: Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2.
        https://arxiv.org/abs/1311.2901
    Petsiuk, Das, Saenko: RISE, BMVC 2018. https://arxiv.org/abs/1806.07421
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limelens.explain.explanation import Samples
from limelens.explain.settings import Check
from limelens.explain.surrogate.ridge import Surrogate, blocks, r_squared, ridge
from limelens.explain.surrogate.stability import covariance, in_clusters

_JITTER = 1e-13  # of the mean diagonal: carries a design of too few rows, changes no other


@dataclass(frozen=True, eq=False)
class Estimate:
    """A method's result for one target.

    Attributes:
        coefficients: `(K,)`.
        intercept: The surrogate's value with every segment hidden.
        score: Weighted R² on the samples; 0 where the target does not vary.
        covariance: `(K, K)` of the coefficients over seeds.
    """

    coefficients: NDArray[np.float64]
    intercept: float
    score: float
    covariance: NDArray[np.float64]


def estimate(
    samples: Samples, visible: NDArray[np.bool_], targets: NDArray[np.float64], check: Check
) -> list[Estimate]:
    """Weigh the segments by the method that the samples were drawn for.

    Args:
        samples: The neighbourhood.
        visible: `(N, K)` bool, its design, or some columns of it.
        targets: `(N, L)` float64.
        check: May stop the work.

    Returns:
        L estimates.
    """
    if samples.method == "occlusion":
        return _occlusion(visible, targets)
    if samples.method == "rise":
        return _rise(samples, visible, targets, check)
    if samples.method == "kernel_shap":
        fitted = _kernel_shap(samples, visible, targets, check)
    else:
        fitted = ridge(visible, targets, samples.weights, samples.alpha, check)
    paired = samples.sampling == "paired"
    return [
        Estimate(
            fitted.coefficients[:, place],
            float(fitted.intercept[place]),
            float(fitted.score[place]),
            covariance(fitted, place, visible, samples.weights, paired=paired, check=check),
        )
        for place in range(targets.shape[1])
    ]


def _kernel_shap(
    samples: Samples, visible: NDArray[np.bool_], targets: NDArray[np.float64], check: Check
) -> Surrogate:
    """Shapley values by constrained weighted least squares.

    With v the prediction when all is hidden and d that for the image less v, minimise
    `sum w (y - v - z b)^2` subject to `sum b = d`: with `A = Z'WZ` and `c = Z'W(y - v)`,
    `b = A^-1 (c - 1 (1'A^-1 c - d) / (1'A^-1 1))` (Covert and Lee, equation 7). Intercept plus
    weights therefore equal the model's probability.
    """
    num_segments, weights = visible.shape[1], samples.weights
    base = targets[1]
    above = targets - base
    nothing = np.zeros(num_segments)
    gram = np.zeros((num_segments, num_segments))
    cross = np.zeros((num_segments, targets.shape[1]))
    for rows, design in blocks(visible, nothing, check):
        weighted = design * weights[rows, np.newaxis]
        gram += weighted.T @ design
        cross += weighted.T @ above[rows]
    jitter = _JITTER * float(np.trace(gram)) / num_segments + np.finfo(np.float64).tiny ** 0.5
    inverse = np.linalg.inv(gram + jitter * np.eye(num_segments))
    ones = inverse.sum(axis=1)
    free = inverse @ cross
    coefficients = free - np.outer(ones, (free.sum(axis=0) - above[0]) / ones.sum())
    # Spread the rounding error evenly, so that the sum is the probability to the last digit.
    coefficients += (above[0] - coefficients.sum(axis=0)) / num_segments
    residuals = above - visible @ coefficients
    return Surrogate(
        coefficients=coefficients,
        intercept=base,
        score=r_squared(residuals, targets, weights),
        residuals=residuals,
        centre=nothing,
        inverse=inverse - np.outer(ones, ones) / ones.sum(),
        degrees=float(num_segments - 1),
    )


def _occlusion(visible: NDArray[np.bool_], targets: NDArray[np.float64]) -> list[Estimate]:
    """How far the probability drops when one segment is hidden (Zeiler and Fergus, section 4.2).

    The error is the standard error of the mean where a segment was hidden more than once, else 0.
    Segments that were never hidden weigh 0.
    """
    hidden = ~visible
    times = hidden.sum(axis=0)
    drops = targets[0] - targets
    mean = (hidden.T @ drops) / np.maximum(times, 1)[:, np.newaxis]
    residuals = (drops - hidden @ mean)[1:]
    squares = hidden[1:].T @ residuals**2
    variance = squares / np.maximum(times * (times - 1), 1)[:, np.newaxis]
    score = r_squared(residuals, targets[1:], np.ones(residuals.shape[0]))
    return [
        Estimate(
            mean[:, place],
            float(targets[0, place] - mean[:, place].sum()),
            float(score[place]),
            np.diag(variance[:, place]),
        )
        for place in range(targets.shape[1])
    ]


def _rise(
    samples: Samples, visible: NDArray[np.bool_], targets: NDArray[np.float64], check: Check
) -> list[Estimate]:
    """The mean prediction over masks that show a segment, less that over masks that hide it.

    RISE's map is `S = E[y | z = 1]`, estimated by `sum y z / (N E[z])` (Petsiuk et al., equations
    4 and 6), all of it positive. Weights are `2 (S - E[y]) = E[y | z = 1] - E[y | z = 0]`: the
    same map on the scale of the other methods.
    """
    num_segments, weights = visible.shape[1], samples.weights
    paired = samples.sampling == "paired"
    num_masks = max(1.0, weights.sum())
    mean = weights @ targets / num_masks
    half = np.full(num_segments, 0.5)
    coefficients = np.zeros((num_segments, targets.shape[1]))
    residuals = targets - mean
    for rows, design in blocks(visible, half, check):
        shown = design * weights[rows, np.newaxis]
        coefficients += 4.0 / num_masks * (shown.T @ residuals[rows])
    deviations = residuals.copy()
    for rows, design in blocks(visible, half, check):
        residuals[rows] -= design @ coefficients
    score = r_squared(residuals, targets, weights)
    num_clusters = num_masks / (2 if paired else 1)
    correction = num_clusters / max(1.0, num_clusters - 1.0)
    found = []
    for place in range(targets.shape[1]):
        # U = 4 (y - mean) (z - 1/2) is the estimate from one mask; its spread is the error's.
        influence = 4.0 * weights * deviations[:, place]
        meat = np.zeros((num_segments, num_segments))
        for rows, design in blocks(visible, half, check):
            scores = design * influence[rows, np.newaxis]
            scores -= weights[rows, np.newaxis] * coefficients[:, place]
            scores = in_clusters(scores, paired=paired)
            meat += scores.T @ scores
        found.append(
            Estimate(
                coefficients[:, place],
                float(mean[place] - coefficients[:, place].sum() / 2),
                float(score[place]),
                meat * correction / num_masks**2,
            )
        )
    return found
