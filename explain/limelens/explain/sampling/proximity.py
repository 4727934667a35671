"""How near a sample is to the image, and what it therefore counts (the paper's pi_x).

Knows rows of the design matrix. Does not know pixels or predictions.
"""

import numpy as np
from numpy.typing import NDArray

from limelens.explain.settings import Distance


def distances(visible: NDArray[np.bool_], distance: Distance) -> NDArray[np.float64]:
    """Each row's distance to the all-visible row.

    Args:
        visible: `(N, K)` bool.
        distance: "cosine" gives `1 - sqrt(k / K)` for k visible of K segments, 1 for none;
            "euclidean" or "l2" gives `sqrt(K - k)`.

    Returns:
        `(N,)` float64, 0 for row 0.
    """
    num_segments = visible.shape[1]
    num_visible = np.count_nonzero(visible, axis=1)
    if distance == "cosine":
        return np.asarray(1.0 - np.sqrt(num_visible / num_segments))
    return np.asarray(np.sqrt(num_segments - num_visible), dtype=np.float64)


def proximity(distance: NDArray[np.float64], kernel_width: float) -> NDArray[np.float64]:
    """The exponential kernel `sqrt(exp(-d^2 / width^2))`, as lime computes it.

    Args:
        distance: `(N,)`.
        kernel_width: The distance at which a sample counts `exp(-1/2)`.

    Returns:
        `(N,)` float64, 0 to 1.
    """
    return np.asarray(np.exp(-0.5 * (distance / kernel_width) ** 2))


def effective_samples(weights: NDArray[np.float64]) -> float:
    """Kish's effective number of equally weighted samples, `(sum w)^2 / sum w^2`."""
    return float(weights.sum() ** 2 / (weights**2).sum())
