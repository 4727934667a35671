"""Feature selection: which segments the surrogate may use (the paper's K-Lasso, and lime's others).

Knows one target's samples. Does not know images or labels.
"""

import numpy as np
from numpy.typing import NDArray

from limelens.explain.errors import MissingPackageError
from limelens.explain.settings import Check, FeatureSelection, go_on
from limelens.explain.surrogate.ridge import Moments, moments

_ALPHA = 0.01  # the ridge penalty with which highest_weights ranks


def select(
    method: FeatureSelection,
    visible: NDArray[np.bool_],
    target: NDArray[np.float64],
    weights: NDArray[np.float64],
    num_features: int,
    check: Check = go_on,
) -> NDArray[np.intp]:
    """The columns to keep, in the order in which the method ranks them.

    Args:
        method: "auto" is forward_selection up to 6 features, else highest_weights; "none" keeps
            all and ignores `num_features`.
        visible: `(N, K)` bool design; row 0 all true.
        target: `(N,)` float64.
        weights: `(N,)` float64.
        num_features: How many to keep at most.
        check: May stop the work.

    Raises:
        MissingPackageError: "lasso_path" without scikit-learn.
    """
    num_features = min(num_features, visible.shape[1])
    if method == "none":
        return np.arange(visible.shape[1])
    if method == "lasso_path":
        return _lasso_path(visible, target, weights, num_features)
    known = moments(visible, target[:, np.newaxis], weights, check)
    if method == "forward_selection" or (method == "auto" and num_features <= 6):
        return _forward_selection(known, num_features, check)
    system = known.gram + _ALPHA * np.eye(visible.shape[1])
    coefficients = np.linalg.solve(system, known.cross)[:, 0]
    return np.argsort(-np.abs(coefficients), kind="stable")[:num_features]


def _forward_selection(known: Moments, num_features: int, check: Check) -> NDArray[np.intp]:
    """Greedy by weighted R² of ordinary least squares; among equals the lowest column.

    Each choice is swept out of the moments (Gram-Schmidt), so the rest of a column is its
    contribution; one sweep replaces K regressions.
    """
    gram, cross = known.gram.copy(), known.cross[:, 0].copy()
    size = np.diag(gram).copy()
    unexplained = total = float(known.total[0])
    chosen: list[int] = []
    for _ in range(num_features):
        check()
        left = np.diag(gram)
        usable = left > 1e-10 * np.maximum(size, 1e-300)
        gain = np.where(usable, cross**2 / np.where(usable, left, 1.0), 0.0)
        score = 1.0 - (unexplained - gain) / total if total > 0 else np.zeros(gain.size)
        score[chosen] = -np.inf
        best = int(np.argmax(score))
        chosen.append(best)
        if usable[best]:
            unexplained -= float(gain[best])
            pivot, column = gram[best, best], gram[:, best].copy()
            cross -= column * (cross[best] / pivot)
            gram -= np.outer(column, column / pivot)
    return np.array(chosen, dtype=np.intp)


def _lasso_path(
    visible: NDArray[np.bool_],
    target: NDArray[np.float64],
    weights: NDArray[np.float64],
    num_features: int,
) -> NDArray[np.intp]:
    """Walk the lasso path back from its end until at most `num_features` are not zero."""
    try:
        from sklearn.linear_model import lars_path
    except ImportError as error:
        raise MissingPackageError(
            "feature_selection='lasso_path' needs scikit-learn: pip install scikit-learn, or use "
            "'forward_selection' or 'highest_weights'"
        ) from error
    root = np.sqrt(weights)
    design = (visible - np.average(visible, axis=0, weights=weights)) * root[:, np.newaxis]
    centred = (target - np.average(target, weights=weights)) * root
    _, _, path = lars_path(design, centred, method="lasso")
    for step in range(path.shape[1] - 1, 0, -1):
        used = np.flatnonzero(path[:, step])
        if used.size <= num_features:
            return used
    return np.flatnonzero(path[:, 1]) if path.shape[1] > 1 else np.arange(visible.shape[1])
