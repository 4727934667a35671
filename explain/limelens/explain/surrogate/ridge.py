"""The surrogate: ridge regression of the predictions on the segments (the paper's equation 1).

Knows the design matrix, targets and sample weights. Does not know images, labels or random
numbers. Works through blocks of rows, so that memory does not grow with the number of samples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limelens.explain.settings import Check, go_on

_BLOCK_ELEMENTS = 1 << 20  # 8 MiB of float64
_UNTHREADED = 1 << 18  # multiplications up to which OpenBLAS uses the calling thread alone
_NOISE = 1e-24  # relative variance below which a float64 target is constant but for rounding


@dataclass(frozen=True, eq=False)
class Moments:
    """Weighted, centred second moments: all that ridge and feature selection need.

    Attributes:
        centre: `(K,)` weighted mean of the design rows.
        target_mean: `(L,)` weighted mean of the targets.
        gram: `(K, K)` sum of w (z - centre)(z - centre)'.
        cross: `(K, L)` sum of w (z - centre)(y - target_mean)'.
        total: `(L,)` sum of w (y - target_mean)^2.
    """

    centre: NDArray[np.float64]
    target_mean: NDArray[np.float64]
    gram: NDArray[np.float64]
    cross: NDArray[np.float64]
    total: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A linear model of the predictions around the image, one column per target.

    Attributes:
        coefficients: `(K, L)`.
        intercept: `(L,)`.
        score: `(L,)` weighted R² on the samples; 0 where the target does not vary.
        residuals: `(N, L)` prediction less model.
        centre: `(K,)` weighted mean of the design rows.
        inverse: `(K, K)` inverse of gram + alpha I.
        degrees: The degrees of freedom that the fit uses, intercept included.
    """

    coefficients: NDArray[np.float64]
    intercept: NDArray[np.float64]
    score: NDArray[np.float64]
    residuals: NDArray[np.float64]
    centre: NDArray[np.float64]
    inverse: NDArray[np.float64]
    degrees: float


def block_rows(num_segments: int) -> int:
    """How many rows to take at a time: even, so that pairs stay together.

    Few enough that a product with `(K, K)` stays on the calling thread. Other threads save nothing
    on so small a job, and on a machine that is busy with the model each hand-over waits for the
    scheduler: measured, 100 ms a fit instead of 2.
    """
    rows = _UNTHREADED // num_segments**2
    if rows < 16:  # with this many segments, threads pay off
        rows = _BLOCK_ELEMENTS // num_segments
    return max(2, rows // 2 * 2)


def blocks(
    visible: NDArray[np.bool_], centre: NDArray[np.float64], check: Check = go_on
) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Centred rows of the design as float64, `block_rows` at a time, with a check before each."""
    num_rows = block_rows(visible.shape[1])
    for start in range(0, visible.shape[0], num_rows):
        check()
        rows = slice(start, start + num_rows)
        yield rows, visible[rows] - centre


def moments(
    visible: NDArray[np.bool_],
    targets: NDArray[np.float64],
    weights: NDArray[np.float64],
    check: Check = go_on,
) -> Moments:
    """Gather the moments of a weighted sample.

    Args:
        visible: `(N, K)` bool design.
        targets: `(N, L)` float64.
        weights: `(N,)` float64, at least one of them positive.
        check: May stop the work.
    """
    total_weight = weights.sum()
    centre = np.zeros(visible.shape[1])
    for rows, design in blocks(visible, centre, check):
        centre = centre + weights[rows] @ design
    centre = centre / total_weight
    target_mean = weights @ targets / total_weight
    deviations = targets - target_mean
    gram = np.zeros((visible.shape[1], visible.shape[1]))
    cross = np.zeros((visible.shape[1], targets.shape[1]))
    for rows, design in blocks(visible, centre, check):
        weighted = design * weights[rows, np.newaxis]
        gram += weighted.T @ design
        cross += weighted.T @ deviations[rows]
    return Moments(centre, target_mean, gram, cross, np.asarray(weights @ deviations**2))


def ridge(
    visible: NDArray[np.bool_],
    targets: NDArray[np.float64],
    weights: NDArray[np.float64],
    alpha: float,
    check: Check = go_on,
) -> Surrogate:
    """Solve the weighted ridge for all targets from one factorisation.

    `beta = (Z'WZ + alpha I)^-1 Z'Wy` with Z and y centred at their weighted means; the intercept
    is not penalised.

    Args:
        visible: `(N, K)` bool design.
        targets: `(N, L)` float64.
        weights: `(N,)` float64 sample weights.
        alpha: The penalty, above 0.
        check: May stop the work.
    """
    known = moments(visible, targets, weights, check)
    system = known.gram + alpha * np.eye(visible.shape[1])
    coefficients = np.asarray(np.linalg.solve(system, known.cross), dtype=np.float64)
    inverse = np.asarray(np.linalg.inv(system), dtype=np.float64)
    residuals = targets - known.target_mean
    for rows, design in blocks(visible, known.centre, check):
        residuals[rows] -= design @ coefficients
    return Surrogate(
        coefficients=coefficients,
        intercept=known.target_mean - known.centre @ coefficients,
        score=r_squared(residuals, targets, weights),
        residuals=residuals,
        centre=known.centre,
        inverse=inverse,
        degrees=float(np.sum(inverse * known.gram)) + 1.0,
    )


def r_squared(
    residuals: NDArray[np.float64], targets: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted R² of each target, `(L,)`; 0 where the target does not vary."""
    total_weight = weights.sum()
    if total_weight == 0:
        return np.zeros(targets.shape[1])
    mean = weights @ targets / total_weight
    total = weights @ (targets - mean) ** 2
    varies = total > _NOISE * total_weight * mean**2
    unexplained = weights @ residuals**2
    return np.where(varies, 1.0 - unexplained / np.where(varies, total, 1.0), 0.0)
