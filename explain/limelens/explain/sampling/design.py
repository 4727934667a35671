"""The design: which segments each sample shows, and each sample's weight (section 3.3).

Knows random numbers and the methods' designs. Does not know pixels or the model.

    Lundberg, Lee: A Unified Approach to Interpreting Model Predictions, NeurIPS 2017.
        https://arxiv.org/abs/1705.07874
    Covert, Lee: Improving KernelSHAP, AISTATS 2021. https://arxiv.org/abs/2012.01536
"""

from dataclasses import dataclass, replace
from math import comb

import numpy as np
from numpy.typing import NDArray

from limelens.explain.settings import VARYING_FILLS, Distance, Sampling, Settings

_HALF = 0.5
_PAIRED_FROM = 5  # samples per segment for "auto"; with fewer, pairs leave too few distinct rows


@dataclass(frozen=True, eq=False)
class Design:
    """The samples to predict, and the weight of each.

    Attributes:
        visible: `(N, K)` bool; sample 0 shows the whole image.
        weights: `(N,)` float64; 0 for rows that are not random.
        sampling: How the rows were drawn.
        complete: Whether nothing is random, so that every seed has these rows.
    """

    visible: NDArray[np.bool_]
    weights: NDArray[np.float64]
    sampling: Sampling = "independent"
    complete: bool = False


def design_for(
    settings: Settings, num_segments: int, seed: int | None, state: np.random.RandomState | None
) -> Design:
    """The samples of an explanation.

    Args:
        settings: The method, and how to draw how many samples.
        num_segments: K.
        seed: Of the rows, unless `state` is given.
        state: Lime's random stream.
    """
    num_samples, times = settings.sample_limit, settings.fills_per_row
    rng = np.random.default_rng(seed)
    num_rows = -(-num_samples // times)
    sampling: Sampling = "independent"
    is_enough = num_rows >= _PAIRED_FROM * num_segments
    if not settings.like_lime and (
        settings.sampling == "paired"
        or (settings.sampling == "auto" and is_enough and settings.hiding == _HALF)
    ):
        sampling = "paired"
    if times > 1:
        num_rows += num_rows % 2  # whole pairs, which take turns
    if settings.method == "kernel_shap":
        design = shap_design(rng, num_rows, num_segments, sampling)
    elif settings.method == "occlusion":
        is_repeated = settings.hide in VARYING_FILLS
        return occlusion_design(num_samples, num_segments, repeated=is_repeated)
    elif settings.method == "rise":
        design = rise_design(rng, num_rows, num_segments, sampling)
    else:
        if state is not None:
            visible = state.randint(0, 2, num_rows * num_segments).astype(np.bool_)
            visible = visible.reshape(num_rows, num_segments)
            visible[0] = True
        else:
            visible = draw(rng, num_rows, num_segments, sampling, settings.hiding)
        near = proximity(distances(visible, settings.distance), settings.kernel_width)
        design = Design(visible, near, sampling)
    return design if times == 1 else _repeated(design, times, num_samples)


def _repeated(design: Design, times: int, num_samples: int) -> Design:
    """Each row several times, at most `num_samples` in all; of pairs z, 1 - z, z, 1 - z."""
    together = 2 if design.sampling == "paired" else 1
    rows = np.arange(design.visible.shape[0]).reshape(-1, 1, together)
    order = np.repeat(rows, times, axis=1).ravel()[:num_samples]
    return replace(design, visible=design.visible[order], weights=design.weights[order])


def draw(
    rng: np.random.Generator,
    num_samples: int,
    num_segments: int,
    sampling: Sampling,
    hidden_share: float = 0.5,
) -> NDArray[np.bool_]:
    """Which segments each sample shows.

    The rows of a smaller draw are the first rows of a larger one from the same seed.

    Args:
        rng: The source of randomness.
        num_samples: N.
        num_segments: K.
        sampling: "paired" follows each row z by 1 - z, so that rows 2i and 2i+1 complement each
            other and odd errors of the surrogate cancel.
        hidden_share: The probability of hiding a segment; 1/2 where rows are paired.

    Returns:
        `(N, K)` bool, true where the segment is visible. Row 0 shows the whole image; of pairs,
        row 1 hides it all.
    """
    num_drawn = num_samples if sampling == "independent" else (num_samples + 1) // 2
    if hidden_share == _HALF:
        rows = rng.integers(0, 2, size=(num_drawn, num_segments), dtype=np.bool_)
    else:
        rows = rng.random((num_drawn, num_segments)) >= hidden_share
    rows[0] = True
    return rows if sampling == "independent" else _with_complements(rows, num_samples)


def shap_design(
    rng: np.random.Generator, num_samples: int, num_segments: int, sampling: Sampling
) -> Design:
    """Coalitions for KernelSHAP: rows 0 and 1 show all and nothing.

    Every coalition, with the Shapley kernel `(K-1) / (C(K,k) k (K-k))` for k visible of K
    segments as its weight (Lundberg and Lee, theorem 2), where `num_samples` suffices for that.
    Else coalitions drawn in proportion to the kernel, of weight 1 (Covert and Lee, section 3).
    """
    size = np.arange(1, num_segments)
    if _all_fit(num_samples, num_segments):
        visible = _all_rows(rng, num_segments)
        kernel = np.zeros(num_segments + 1)
        ways = np.array([comb(num_segments, int(k)) for k in size], dtype=np.float64)
        kernel[1:-1] = (num_segments - 1) / (ways * size * (num_segments - size))
        return Design(visible, kernel[visible.sum(axis=1)], complete=True)
    num_drawn = num_samples if sampling == "independent" else (num_samples + 1) // 2
    share = np.cumsum(1.0 / (size * (num_segments - size)))
    # One stream row by row, so that a smaller draw is the beginning of a larger one.
    random = rng.random((num_drawn, num_segments + 1))
    drawn = 1 + np.searchsorted(share / share[-1], random[:, 0], side="right")
    rank = np.argsort(np.argsort(random[:, 1:], axis=1), axis=1)
    visible = rank < np.minimum(drawn, num_segments - 1)[:, np.newaxis]
    if sampling == "paired":
        visible = _with_complements(visible, num_samples)
    visible[0], visible[1] = True, False
    weights = np.ones(num_samples)
    weights[:2] = 0.0
    return Design(visible, weights, sampling)


def occlusion_design(num_samples: int, num_segments: int, *, repeated: bool) -> Design:
    """The whole image, then each segment hidden alone.

    Args:
        num_samples: How many there may be, where `repeated`; else there are `num_segments + 1`.
        num_segments: K.
        repeated: Hide each segment at least twice: its fill differs every time.
    """
    times = max(2, (num_samples - 1) // num_segments) if repeated else 1
    alone = ~np.eye(num_segments, dtype=np.bool_)
    visible = np.concatenate([np.ones((1, num_segments), np.bool_), np.tile(alone, (times, 1))])
    weights = np.ones(visible.shape[0])
    weights[0] = 0.0
    return Design(visible, weights, complete=True)


def rise_design(
    rng: np.random.Generator, num_samples: int, num_segments: int, sampling: Sampling
) -> Design:
    """Masks that show each segment with probability 1/2; all masks where `num_samples` suffices."""
    if _all_fit(num_samples, num_segments):
        visible = _all_rows(rng, num_segments)
        return Design(visible, np.ones(visible.shape[0]), complete=True)
    weights = np.ones(num_samples)
    weights[: 2 if sampling == "paired" else 1] = 0.0
    return Design(draw(rng, num_samples, num_segments, sampling), weights, sampling)


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


def _with_complements(rows: NDArray[np.bool_], num_samples: int) -> NDArray[np.bool_]:
    visible = np.empty((num_samples, rows.shape[1]), dtype=np.bool_)
    visible[0::2] = rows
    visible[1::2] = ~rows[: num_samples // 2]
    return visible


def _all_fit(num_samples: int, num_segments: int) -> bool:
    return num_segments < 31 and 2**num_segments <= num_samples


def _all_rows(rng: np.random.Generator, num_segments: int) -> NDArray[np.bool_]:
    """Every subset once: all, none, and the rest in random order, so that a prefix is a sample."""
    numbers = np.arange(2**num_segments)
    rest = rng.permutation(numbers[1:-1])
    order = np.concatenate([numbers[-1:], numbers[:1], rest])
    return (order[:, np.newaxis] >> np.arange(num_segments) & 1).astype(np.bool_)
