"""Other ways to weigh segments than LIME's: KernelSHAP, occlusion, RISE.

Each is two functions: which samples to draw, and what to make of the answers. Knows designs and
targets. Does not know images, labels or the model. All of them give a linear surrogate, so that
weights, errors, score and images mean for them what they mean for LIME.

    Lundberg, Lee: A Unified Approach to Interpreting Model Predictions, NeurIPS 2017.
        https://arxiv.org/abs/1705.07874
    Covert, Lee: Improving KernelSHAP, AISTATS 2021. https://arxiv.org/abs/2012.01536
    Zeiler, Fergus: Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2.
        https://arxiv.org/abs/1311.2901
    Petsiuk, Das, Saenko: RISE, BMVC 2018. https://arxiv.org/abs/1806.07421
"""

from dataclasses import dataclass
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from limelens.explain.sampling.perturbation import Sampling, draw
from limelens.explain.stopping import Check, go_on
from limelens.explain.surrogate.ridge import Surrogate, blocks, ridge
from limelens.explain.surrogate.stability import covariance

ExplainMethod = Literal["lime", "kernel_shap", "occlusion", "rise"]

_JITTER = 1e-13  # of the mean diagonal: carries a design of too few rows, changes no other


@dataclass(frozen=True, eq=False)
class Design:
    """Which samples to predict, and what each counts.

    Attributes:
        visible: `(N, K)` bool; row 0 shows the whole image.
        weights: `(N,)` float64; 0 for rows that are not drawn by lot.
        complete: nothing was drawn by lot, every seed has these rows.
    """

    visible: NDArray[np.bool_]
    weights: NDArray[np.float64]
    complete: bool


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a method found for one target.

    Attributes:
        coefficients: `(K,)`.
        intercept: the surrogate's value with every segment hidden.
        score: weighted R² on the samples; 0 where the target does not vary.
        covariance: `(K, K)` of the coefficients over seeds.
    """

    coefficients: NDArray[np.float64]
    intercept: float
    score: float
    covariance: NDArray[np.float64]


def shap_design(
    rng: np.random.Generator, num_samples: int, num_segments: int, sampling: Sampling
) -> Design:
    """Coalitions for KernelSHAP: rows 0 and 1 show all and nothing.

    Every coalition, with the Shapley kernel `(K-1) / (C(K,k) k (K-k))` for k visible of K
    segments as its weight (Lundberg and Lee, theorem 2), where `num_samples` suffices for that.
    Else coalitions drawn in proportion to the kernel, of weight 1 (Covert and Lee, section 3).
    """
    if _all_fit(num_samples, num_segments):
        visible = _all_rows(rng, num_segments)
        size = np.arange(1, num_segments)
        kernel = np.zeros(num_segments + 1)
        ways = np.array([comb(num_segments, int(k)) for k in size], dtype=np.float64)
        kernel[1:-1] = (num_segments - 1) / (ways * size * (num_segments - size))
        return Design(visible, kernel[visible.sum(axis=1)], complete=True)
    paired = sampling == "paired"
    num_drawn = (num_samples + 1) // 2 if paired else num_samples
    size = np.arange(1, num_segments)
    share = np.cumsum(1.0 / (size * (num_segments - size)))
    # One stream row by row, so that a smaller draw is the beginning of a larger one.
    lots = rng.random((num_drawn, num_segments + 1))
    drawn = 1 + np.searchsorted(share / share[-1], lots[:, 0], side="right")
    rank = np.argsort(np.argsort(lots[:, 1:], axis=1), axis=1)
    rows = rank < np.minimum(drawn, num_segments - 1)[:, np.newaxis]
    if paired:
        visible = np.empty((num_samples, num_segments), dtype=np.bool_)
        visible[0::2] = rows
        visible[1::2] = ~rows[: num_samples // 2]
    else:
        visible = rows
    visible[0], visible[1] = True, False
    weights = np.ones(num_samples)
    weights[:2] = 0.0
    return Design(visible, weights, complete=False)


def occlusion_design(num_samples: int, num_segments: int, *, repeated: bool) -> Design:
    """The whole image, then each segment hidden alone.

    Args:
        num_samples: how many there may be, where `repeated`; else there are `num_segments + 1`.
        num_segments: K.
        repeated: hide each again and again, at least twice: what hides it differs every time.
    """
    times = max(2, (num_samples - 1) // num_segments) if repeated else 1
    alone = ~np.eye(num_segments, dtype=np.bool_)
    visible = np.concatenate(
        [np.ones((1, num_segments), dtype=np.bool_), np.tile(alone, (times, 1))]
    )
    weights = np.ones(visible.shape[0])
    weights[0] = 0.0
    return Design(visible, weights, complete=True)


def rise_design(
    rng: np.random.Generator, num_samples: int, num_segments: int, sampling: Sampling
) -> Design:
    """Masks that show each segment with probability 1/2, all alike; or all masks there are."""
    if _all_fit(num_samples, num_segments):
        visible = _all_rows(rng, num_segments)
        return Design(visible, np.ones(visible.shape[0]), complete=True)
    weights = np.ones(num_samples)
    weights[: 2 if sampling == "paired" else 1] = 0.0
    return Design(draw(rng, num_samples, num_segments, sampling), weights, complete=False)


def lime(
    visible: NDArray[np.bool_],
    targets: NDArray[np.float64],
    weights: NDArray[np.float64],
    alpha: float,
    *,
    sampling: Sampling,
    check: Check = go_on,
) -> list[Estimate]:
    """The weighted ridge of `surrogate`, for all targets.

    Args:
        visible: `(N, K)` bool.
        targets: `(N, L)` float64.
        weights: `(N,)` the samples' proximity.
        alpha: the penalty.
        sampling: how the rows were drawn.
        check: may stop the work.
    """
    return _with_covariance(
        ridge(visible, targets, weights, alpha, check), visible, weights, sampling, check
    )


def kernel_shap(
    visible: NDArray[np.bool_],
    targets: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    sampling: Sampling,
    check: Check = go_on,
) -> list[Estimate]:
    """Shapley values by constrained weighted least squares.

    With v the answer when all is hidden and d that for the image less v, minimise
    `sum w (y - v - z b)^2` subject to `sum b = d`: with `A = Z'WZ` and `c = Z'W(y - v)`,
    `b = A^-1 (c - 1 (1'A^-1 c - d) / (1'A^-1 1))` (Covert and Lee, equation 7). Intercept plus
    weights therefore equal the model's probability.

    Args:
        visible: `(N, K)` bool from `shap_design`, or its first rows, two or more.
        targets: `(N, L)` float64.
        weights: `(N,)`.
        sampling: how the rows were drawn.
        check: may stop the work.
    """
    num_segments = visible.shape[1]
    base = targets[1]
    above = targets - base
    nothing = np.zeros(num_segments)
    gram = np.zeros((num_segments, num_segments))
    cross = np.zeros((num_segments, targets.shape[1]))
    for rows, design in blocks(visible, nothing, check):
        weighted = design * weights[rows, np.newaxis]
        gram += weighted.T @ design
        cross += weighted.T @ above[rows]
    ridge_ = _JITTER * float(np.trace(gram)) / num_segments + np.finfo(np.float64).tiny ** 0.5
    inverse = np.linalg.inv(gram + ridge_ * np.eye(num_segments))
    ones = inverse.sum(axis=1)
    free = inverse @ cross
    coefficients = free - np.outer(ones, (free.sum(axis=0) - above[0]) / ones.sum())
    # Rounding is put right evenly, so that the sum is the probability to the last digit.
    coefficients += (above[0] - coefficients.sum(axis=0)) / num_segments
    residuals = above - visible @ coefficients
    fitted = Surrogate(
        coefficients=coefficients,
        intercept=base,
        score=_score(residuals, targets, weights),
        residuals=residuals,
        centre=nothing,
        inverse=inverse - np.outer(ones, ones) / ones.sum(),
        degrees=float(num_segments - 1),
    )
    return _with_covariance(fitted, visible, weights, sampling, check)


def occlusion(visible: NDArray[np.bool_], targets: NDArray[np.float64]) -> list[Estimate]:
    """How far the answer drops when one segment is hidden (Zeiler and Fergus, section 4.2).

    Args:
        visible: `(N, K)` bool from `occlusion_design`, or its first rows.
        targets: `(N, L)` float64.

    Returns:
        Weights with the standard error of the mean where a segment was hidden more than once,
        else 0; 0 and 0 for segments never hidden.
    """
    hidden = ~visible
    times = hidden.sum(axis=0)
    drops = targets[0] - targets
    mean = (hidden.T @ drops) / np.maximum(times, 1)[:, np.newaxis]
    residuals = (drops - hidden @ mean)[1:]
    squares = hidden[1:].T @ residuals**2
    variance = squares / np.maximum(times * (times - 1), 1)[:, np.newaxis]
    score = _score(residuals, targets[1:], np.ones(residuals.shape[0]))
    return [
        Estimate(
            mean[:, place],
            float(targets[0, place] - mean[:, place].sum()),
            float(score[place]),
            np.diag(variance[:, place]),
        )
        for place in range(targets.shape[1])
    ]


def rise(
    visible: NDArray[np.bool_],
    targets: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    sampling: Sampling,
    check: Check = go_on,
) -> list[Estimate]:
    """The mean answer over masks that show a segment, above that over masks that hide it.

    RISE's map is `S = E[y | z = 1]`, estimated by `sum y z / (N E[z])` (Petsiuk et al., equations
    4 and 6), all of it positive. Weights are `2 (S - E[y]) = E[y | z = 1] - E[y | z = 0]`: the
    same map, put on the scale of the other methods.

    Args:
        visible: `(N, K)` bool from `rise_design`, or its first rows.
        targets: `(N, L)` float64.
        weights: `(N,)`, 1 or 0.
        sampling: how the rows were drawn.
        check: may stop the work.
    """
    num_segments = visible.shape[1]
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
    score = _score(residuals, targets, weights)
    size = 2 if sampling == "paired" else 1
    found = []
    for place in range(targets.shape[1]):
        # U = 4 (y - mean) (z - 1/2) is the estimate from one mask; its spread is the error's.
        influence = 4.0 * weights * deviations[:, place]
        meat = np.zeros((num_segments, num_segments))
        for rows, design in blocks(visible, half, check):
            scores = design * influence[rows, np.newaxis]
            scores -= weights[rows, np.newaxis] * coefficients[:, place]
            whole = scores.shape[0] // size * size
            clusters = scores[:whole].reshape(-1, size, num_segments).sum(axis=1)
            clusters = np.concatenate([clusters, scores[whole:]])
            meat += clusters.T @ clusters
        num_clusters = num_masks / size
        correction = num_clusters / max(1.0, num_clusters - 1.0)
        found.append(
            Estimate(
                coefficients[:, place],
                float(mean[place] - coefficients[:, place].sum() / 2),
                float(score[place]),
                meat * correction / num_masks**2,
            )
        )
    return found


def _with_covariance(
    fitted: Surrogate,
    visible: NDArray[np.bool_],
    weights: NDArray[np.float64],
    sampling: Sampling,
    check: Check,
) -> list[Estimate]:
    paired = sampling == "paired"
    return [
        Estimate(
            fitted.coefficients[:, place],
            float(fitted.intercept[place]),
            float(fitted.score[place]),
            covariance(fitted, place, visible, weights, paired=paired, check=check),
        )
        for place in range(fitted.coefficients.shape[1])
    ]


def _all_fit(num_samples: int, num_segments: int) -> bool:
    return num_segments < 31 and 2**num_segments <= num_samples


def _all_rows(rng: np.random.Generator, num_segments: int) -> NDArray[np.bool_]:
    """Every subset once: all, none, and the rest by lot, so that the first of them are a sample."""
    numbers = np.arange(2**num_segments)
    rest = rng.permutation(numbers[1:-1])
    order = np.concatenate([numbers[-1:], numbers[:1], rest])
    return (order[:, np.newaxis] >> np.arange(num_segments) & 1).astype(np.bool_)


def _score(
    residuals: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted R² of each target."""
    total_weight = weights.sum()
    if total_weight == 0:
        return np.zeros(targets.shape[1])
    mean = weights @ targets / total_weight
    total = weights @ (targets - mean) ** 2
    varies = total > 1e-24 * total_weight * mean**2
    unexplained = weights @ residuals**2
    return np.where(varies, 1.0 - unexplained / np.where(varies, total, 1.0), 0.0)
