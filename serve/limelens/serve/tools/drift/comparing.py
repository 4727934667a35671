"""Compares images with an index: how far from its images they are, and how sure the model is.

For each quantity the two-sample test of Kolmogorov and Smirnov compares the new images with those
of the index, each of which is measured against the others. It is one-sided: images that lie nearer
than usual, or that the model is surer of, are not drift. Of many images even a trifle is certain to
be a difference (a tiny p), so that drift must also be large (KS).

A model may be surer of one label than of another. So that another mix of labels is no drift, the
reference is first drawn anew in the mix of labels that are predicted for the new images.

It knows vectors and probabilities, and nothing of images, servers or time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.errors import LimelensError, MissingExtraError
from limelens.serve.tools.similar.index import SimilarIndex
from limelens.serve.wording import counted

FEWEST: Final = 20
"""A reference or a sample of fewer images proves nothing."""
LEAST_KS: Final = 0.2
"""Smaller differences are no drift, however certain. `python -m benchmarks.drift` shows both."""
MOST_P: Final = 0.01
_NEIGHBOURS: Final = 5
_MOST_MEASURED: Final = 2000
"""Images of a reference that are measured against all of it."""


class TooFewImagesError(LimelensError):
    """There are too few images for a test."""


@dataclass(frozen=True, eq=False)
class Sample:
    """What is measured of some images.

    Args:
        distances: `(N,)` mean cosine distances to the nearest images of the index, 0 to 2.
        confidences: `(N,)` highest probabilities, 0 to 1; None if they are unknown.
        predicted: `(N,)` labels of these probabilities; None if they are unknown.
    """

    distances: NDArray[np.float64]
    confidences: NDArray[np.float64] | None
    predicted: NDArray[np.str_] | None = None

    def __len__(self) -> int:
        return len(self.distances)


@dataclass(frozen=True, eq=False)
class Reference:
    """An index, and the sample of its own images, of many up to 2,000, evenly spread."""

    index: SimilarIndex
    own: Sample

    def sample(
        self,
        vectors: NDArray[np.float32],
        confidences: NDArray[np.float32] | None,
        predicted: Sequence[str] | None = None,
    ) -> Sample:
        """Measures new images.

        Args:
            vectors: `(N, D)` feature vectors of the index's model.
            confidences: `(N,)` highest probabilities of the model; None if they are unknown.
            predicted: N labels of these probabilities; None if they are unknown.
        """
        return Sample(
            self.index.distances(vectors, _NEIGHBOURS),
            None if confidences is None else confidences.astype(np.float64),
            None if predicted is None else np.array(predicted, np.str_),
        )


@dataclass(frozen=True)
class Shift:
    """How one quantity of the new images differs from the reference.

    Args:
        name: `distance` or `confidence`.
        reference_median: Of the reference, in the mix of labels of the new images.
        median: Of the new images.
        ks: By how much more of the new images exceed (for confidence: fall below) some value than
            of the reference, 0 to 1: the one-sided statistic of Kolmogorov and Smirnov.
        p_value: How likely that is by chance, 0 to 1, corrected for the number of tests (Holm).
    """

    name: str
    reference_median: float
    median: float
    ks: float
    p_value: float

    @property
    def is_drift(self) -> bool:
        """Whether the difference is both large and certain."""
        return self.ks >= LEAST_KS and self.p_value < MOST_P


@dataclass(frozen=True)
class LabelShare:
    """How often a label is predicted.

    Args:
        label: The label.
        reference_share: Of the reference's images, 0 to 1.
        share: Of the new images, 0 to 1.
        num_reference: Images of the reference with this label.
    """

    label: str
    reference_share: float
    share: float
    num_reference: int

    @property
    def is_matched(self) -> bool:
        """Whether new images of this label are compared with the reference's images of it.

        Otherwise the reference has fewer than `FEWEST`, and they are compared with all of it.
        """
        return self.num_reference >= FEWEST


@dataclass(frozen=True)
class Comparison:
    """The tests of new images against a reference, distance first.

    `mix` has the labels that are predicted for either, largest change first; None if those of one
    side are unknown, and then the mix is not matched.
    """

    shifts: tuple[Shift, ...]
    mix: tuple[LabelShare, ...] | None = None

    @property
    def mix_change(self) -> float | None:
        """The share of images that another label is predicted for, 0 to 1 (total variation)."""
        if self.mix is None:
            return None
        return sum(abs(one.share - one.reference_share) for one in self.mix) / 2

    @property
    def is_drift(self) -> bool:
        """Whether any quantity has drifted."""
        return any(one.is_drift for one in self.shifts)


def reference_of(index: SimilarIndex) -> Reference:
    """Measures an index's own images, each against the others.

    Raises:
        MissingExtraError: scipy is not installed.
        TooFewImagesError: It has fewer than `FEWEST` images.
    """
    _load_test()  # fails before images are measured
    if len(index) < FEWEST:
        raise TooFewImagesError(
            f"the index has {len(index)} images; a test for drift needs at least {FEWEST}"
        )
    rows = np.linspace(0, len(index) - 1, min(_MOST_MEASURED, len(index))).astype(np.int64)
    own = Sample(
        index.own_distances(_NEIGHBOURS, rows),
        None if index.confidences is None else index.confidences[rows].astype(np.float64),
        None if index.predicted is None else np.array(index.predicted, np.str_)[rows],
    )
    return Reference(index, own)


def compare(reference: Reference, sample: Sample) -> Comparison:
    """Tests new images against a reference; confidence and the mix only if both have them.

    Raises:
        TooFewImagesError: There are fewer than `FEWEST` images.
    """
    if len(sample) < FEWEST:
        raise TooFewImagesError(
            f"{counted(len(sample), 'image')}; a test for drift needs at least {FEWEST}"
        )
    own = reference.own
    mix = matched = None
    if own.predicted is not None and sample.predicted is not None:
        mix = _mix(own.predicted, sample.predicted)
        matched = _weights(own.predicted, mix)
    # "less" is about distribution functions: the first sample has the larger values.
    far = _drawn(own.distances, matched), sample.distances
    shifts = [_shift("distance", *far, "less")]
    if own.confidences is not None and sample.confidences is not None:
        sure = _drawn(own.confidences, matched), sample.confidences
        shifts.append(_shift("confidence", *sure, "greater"))
    corrected = _holm([one.p_value for one in shifts])
    return Comparison(
        tuple(replace(one, p_value=p) for one, p in zip(shifts, corrected, strict=True)), mix
    )


def _mix(own: NDArray[np.str_], new: NDArray[np.str_]) -> tuple[LabelShare, ...]:
    old_counts, new_counts = Counter(own.tolist()), Counter(new.tolist())
    shares = [
        LabelShare(one, old_counts[one] / len(own), new_counts[one] / len(new), old_counts[one])
        for one in sorted(old_counts | new_counts)
    ]
    return tuple(sorted(shares, key=lambda one: -abs(one.share - one.reference_share)))


def _weights(own: NDArray[np.str_], mix: Sequence[LabelShare]) -> NDArray[np.float64]:
    """How much each image of a reference weighs, so that its labels have the new images' mix.

    Returns:
        `(N,)` weights, of sum 1.
    """
    weights = np.zeros(len(own))
    for one in mix:
        is_same = own == one.label if one.is_matched else np.ones(len(own), np.bool_)
        weights[is_same] += one.share / is_same.sum()
    return weights


def _drawn(values: NDArray[np.float64], weights: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Weighted values as a sample without weights: evenly spaced quantiles, without any chance.

    There are as many as the effective sample size (Kish 1965), so that p knows how few images of
    the reference stand for many new ones.
    """
    if weights is None:
        return values
    count = max(1, round(float(1 / np.sum(weights**2))))
    levels = (np.arange(count) + 0.5) / count
    drawn: NDArray[np.float64] = np.quantile(values, levels, weights=weights, method="inverted_cdf")
    return drawn


def _shift(
    name: str, old: NDArray[np.float64], new: NDArray[np.float64], alternative: str
) -> Shift:
    found = _load_test()(new, old, alternative=alternative, method="asymp")
    return Shift(
        name,
        float(np.median(old)),
        float(np.median(new)),
        max(0.0, float(found.statistic)),  # may be -0.0
        float(found.pvalue),
    )


def _load_test() -> Callable[..., Any]:
    try:
        from scipy.stats import ks_2samp
    except ImportError as error:
        raise MissingExtraError(
            "scipy, which tests for drift, is not installed; pip install 'limelens[explain]'"
        ) from error
    test: Callable[..., Any] = ks_2samp
    return test


def _holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for their number (Holm 1979), so that together they err as one."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
