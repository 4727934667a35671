"""How certain the weights are: standard errors, the expected agreement of two runs, and ties.

Another seed draws other samples and finds other weights. The sandwich covariance of the weighted
ridge estimates the difference from a single run. Knows the fitted surrogate and the design. Does
not know images, nor how far the surrogate is from the model (the score).
"""

import numpy as np
from numpy.typing import NDArray

from limelens.explain.settings import Check, go_on
from limelens.explain.surrogate.ridge import Surrogate, block_rows, blocks

TOP_K = 5
"""The number of heaviest segments by which two runs are compared."""

_NUM_DRAWS = 200
_JITTER = (1e-9, 1e-6, 1e-3, 1.0)
_NUM_LAGS = 8  # each draw is compared with this many others
_CONFIDENCE = 1.96  # two-sided 95 %


def top_k(num_segments: int) -> int:
    """`TOP_K`, or half of the segments where there are fewer than twice as many."""
    return min(TOP_K, max(1, num_segments // 2))


def covariance(
    surrogate: Surrogate,
    target: int,
    visible: NDArray[np.bool_],
    weights: NDArray[np.float64],
    *,
    paired: bool,
    check: Check = go_on,
) -> NDArray[np.float64]:
    """The sandwich covariance of one target's coefficients over other seeds' samples.

    `A^-1 (sum_g s_g s_g') A^-1` with `A = Z'WZ + alpha I` and `s_g` the sum of `w e z` over the
    rows of cluster g: a pair z, 1 - z where sampling is paired, else a row. The cluster of row 0
    is the same in every run and adds nothing. Scaled by `G / (G - degrees of freedom)`
    (MacKinnon and White's HC1).

    Args:
        surrogate: The fit.
        target: The column to treat.
        visible: `(N, K)` bool design.
        weights: `(N,)` sample weights.
        paired: Rows 2i and 2i+1 complement each other.
        check: May stop the work.

    Returns:
        `(K, K)` float64.
    """
    meat = np.zeros_like(surrogate.inverse)
    influence = weights * surrogate.residuals[:, target]
    influence[: 2 if paired else 1] = 0.0
    for rows, design in blocks(visible, surrogate.centre, check):
        scores = in_clusters(design * influence[rows, np.newaxis], paired=paired)
        meat += scores.T @ scores
    num_clusters = (visible.shape[0] + 1) // 2 if paired else visible.shape[0]
    correction = num_clusters / max(1.0, num_clusters - surrogate.degrees)
    return np.asarray(surrogate.inverse @ meat @ surrogate.inverse * correction)


def in_clusters(scores: NDArray[np.float64], *, paired: bool) -> NDArray[np.float64]:
    """Scores `(B, K)`, those of a pair added up where rows are paired."""
    if not paired:
        return scores
    whole = scores.shape[0] // 2 * 2
    pairs = scores[:whole].reshape(-1, 2, scores.shape[1]).sum(axis=1)
    return np.concatenate([pairs, scores[whole:]])


def expected_agreement(
    coefficients: NDArray[np.float64],
    covariance: NDArray[np.float64],
    k: int,
    rng: np.random.Generator,
) -> float:
    """The mean Jaccard index of the top k segments of two runs that differ in their seed.

    Args:
        coefficients: `(K,)`.
        covariance: `(K, K)`.
        k: How many of the heaviest to compare.
        rng: The source of randomness for the 200 vectors drawn from N(coefficients, covariance).

    Returns:
        0 to 1.
    """
    # Cholesky, not eigh: LAPACK's eigh wakes threads at any size (see block_rows).
    root = _root(covariance)
    noise = rng.standard_normal((_NUM_DRAWS, coefficients.size))
    step = block_rows(coefficients.size)
    spread = [noise[at : at + step] @ root.T for at in range(0, _NUM_DRAWS, step)]
    size = np.abs(coefficients + np.concatenate(spread))
    heaviest = np.argsort(-size, axis=1, kind="stable")[:, :k]
    member = np.zeros(size.shape, dtype=np.bool_)
    np.put_along_axis(member, heaviest, True, axis=1)
    others = [np.roll(member, lag, axis=0) for lag in range(1, _NUM_LAGS + 1)]
    shared = np.stack([np.count_nonzero(member & other, axis=1) for other in others])
    return float(np.mean(shared / (2 * k - shared)))


def _root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Cholesky factor of a covariance whose rank may be below K.

    Jitter far below any standard error makes it positive definite; more jitter is needed where
    fewer samples than segments left larger rounding errors.
    """
    size = covariance.shape[0]
    total = float(np.abs(np.diag(covariance)).sum())
    for share in _JITTER:
        jitter = share * total + np.finfo(np.float64).tiny
        try:
            root = np.linalg.cholesky(covariance + jitter * np.eye(size))
            return np.asarray(root, dtype=np.float64)
        except np.linalg.LinAlgError:
            continue
    # Only rounding is left: each coefficient is drawn alone.
    return np.asarray(np.diag(np.sqrt(np.abs(np.diag(covariance)))), dtype=np.float64)


def ties(
    coefficients: NDArray[np.float64], std_errors: NDArray[np.float64], k: int
) -> NDArray[np.intp]:
    """Which segments may lie inside or outside of the top k.

    Args:
        coefficients: `(K,)` sorted by size, largest first.
        std_errors: `(K,)` in the same order.
        k: The position of the cut.

    Returns:
        Positions, ascending: those above the cut that do not differ (at 95 %) from the first
        below it, and those below that do not differ from the last above. Empty if the cut is
        clear.
    """
    size = np.abs(coefficients)
    if size.size <= k:
        return np.empty(0, dtype=np.intp)
    rival = np.where(np.arange(size.size) < k, k, k - 1)
    margin = _CONFIDENCE * np.hypot(std_errors, std_errors[rival])
    tied = np.abs(size - size[rival]) <= margin
    return np.flatnonzero(tied) if tied[:k].any() and tied[k:].any() else np.empty(0, np.intp)
