"""Compares images with an index: how far from its images they are, and how sure the model is.

For each quantity the two-sample test of Kolmogorov and Smirnov compares the new images with those
of the index, each of which is measured against the others. It is one-sided: images that lie nearer
than usual, or that the model is surer of, are not drift. Of many images even a trifle is certain to
be a difference (a tiny p), so that drift must also be large (KS).

It knows vectors and probabilities, and nothing of images, servers or time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
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
    """

    distances: NDArray[np.float64]
    confidences: NDArray[np.float64] | None

    def __len__(self) -> int:
        return len(self.distances)


@dataclass(frozen=True, eq=False)
class Reference:
    """An index, and the sample of its own images."""

    index: SimilarIndex
    own: Sample
    ks_test: Any = field(repr=False)

    def sample(
        self, vectors: NDArray[np.float32], confidences: NDArray[np.float32] | None
    ) -> Sample:
        """Measures new images.

        Args:
            vectors: `(N, D)` feature vectors of the index's model.
            confidences: `(N,)` highest probabilities of the model; None if they are unknown.
        """
        return Sample(
            self.index.distances(vectors, _NEIGHBOURS),
            None if confidences is None else confidences.astype(np.float64),
        )


@dataclass(frozen=True)
class Shift:
    """How one quantity of the new images differs from the reference.

    Args:
        name: `distance` or `confidence`.
        reference_median: Of the reference.
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
class Comparison:
    """The tests of new images against a reference, distance first."""

    shifts: tuple[Shift, ...]

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
    try:
        from scipy.stats import ks_2samp
    except ImportError as error:
        raise MissingExtraError(
            "scipy, which tests for drift, is not installed; pip install 'limelens[explain]'"
        ) from error
    if len(index) < FEWEST:
        raise TooFewImagesError(
            f"the index has {len(index)} images; a test for drift needs at least {FEWEST}"
        )
    confidences = index.confidences
    own = Sample(
        index.own_distances(_NEIGHBOURS, _MOST_MEASURED),
        None if confidences is None else confidences.astype(np.float64),
    )
    return Reference(index, own, ks_2samp)


def compare(reference: Reference, sample: Sample) -> Comparison:
    """Tests new images against a reference; confidence only if both have it.

    Raises:
        TooFewImagesError: There are fewer than `FEWEST` images.
    """
    if len(sample) < FEWEST:
        raise TooFewImagesError(
            f"{counted(len(sample), 'image')}; a test for drift needs at least {FEWEST}"
        )
    own = reference.own
    # "less" is about distribution functions: the first sample has the larger values.
    shifts = [_shift(reference, "distance", own.distances, sample.distances, "less")]
    if own.confidences is not None and sample.confidences is not None:
        sure = own.confidences, sample.confidences
        shifts.append(_shift(reference, "confidence", *sure, "greater"))
    corrected = _holm([one.p_value for one in shifts])
    return Comparison(
        tuple(replace(one, p_value=p) for one, p in zip(shifts, corrected, strict=True))
    )


def _shift(
    reference: Reference,
    name: str,
    old: NDArray[np.float64],
    new: NDArray[np.float64],
    alternative: str,
) -> Shift:
    found = reference.ks_test(new, old, alternative=alternative, method="asymp")
    return Shift(
        name,
        float(np.median(old)),
        float(np.median(new)),
        max(0.0, float(found.statistic)),  # may be -0.0
        float(found.pvalue),
    )


def _holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for their number (Holm 1979), so that together they err as one."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
