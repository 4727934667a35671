"""Where an index compares its vectors: centred, and whitened if there are enough of them.

A trained network's features mostly point the same way, so that the cosines of any two images of one
label round to 1.0000. Without the mean of all images, and with the directions in which they differ
most made less important, figures tell images apart. It knows vectors alone.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle.session import unit_length

MIN_TO_CENTRE: Final = 30
"""With fewer images the mean is a few images' own."""
SHRINKAGE: Final = 0.95
"""How far the variance of each direction is brought to the mean of all."""


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """A change of feature vectors of length 1, before their cosines are taken.

    Args:
        mean: `(D,)` float32, subtracted; None subtracts nothing.
        whitening: `(D, D)` float32, symmetric, multiplied after that; None multiplies by nothing.
    """

    mean: NDArray[np.float32] | None = None
    whitening: NDArray[np.float32] | None = None

    @classmethod
    def fitted(cls, vectors: NDArray[np.float32]) -> FeatureSpace:
        """The space of an index's vectors, `(N, D)`.

        From `MIN_TO_CENTRE` images they are centred. From D images they are also whitened (ZCA,
        Kessy et al. 2018), by their covariance shrunk towards equal variances (Ledoit and Wolf
        2004, with a fixed share): with fewer, an index's own images lie elsewhere than others.
        """
        count, size = vectors.shape
        if count < MIN_TO_CENTRE:
            return cls()
        units = unit_length(vectors)
        mean = units.mean(axis=0, dtype=np.float64)
        if count < size:
            return cls(mean.astype(np.float32))
        centred = units - mean
        variances, directions = np.linalg.eigh(centred.T @ centred / count)
        variances = np.maximum(variances, 0)
        shrunk = (1 - SHRINKAGE) * variances + SHRINKAGE * variances.mean()
        if variances.mean() == 0:  # all images are the same
            return cls(mean.astype(np.float32))
        # So scaled that a direction of mean variance keeps its length.
        scales = np.sqrt(variances.mean() / shrunk)
        whitening = (directions * scales) @ directions.T
        return cls(mean.astype(np.float32), whitening.astype(np.float32))

    def placed(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Feature vectors of any length, `(N, D)`, in this space, with length 1 or 0."""
        return np.ascontiguousarray(unit_length(self.moved(vectors)))

    def moved(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `placed`, with the lengths that they have here."""
        units = unit_length(vectors)
        if self.mean is not None:
            # A vector of length 0 has no direction, and gets none.
            units = np.where(units.any(axis=1, keepdims=True), units - self.mean, units)
        if self.whitening is not None:
            units = units @ self.whitening
        return units

    def given(self, moved: NDArray[np.float32]) -> NDArray[np.float32]:
        """The inverse of `moved`: the vectors as the model gives them, with length 1."""
        vectors: NDArray[np.floating] = moved.astype(np.float64)
        if self.whitening is not None:
            vectors = np.linalg.solve(self.whitening.astype(np.float64), vectors.T).T
        if self.mean is not None:
            vectors = vectors + self.mean
        return np.ascontiguousarray(unit_length(vectors.astype(np.float32)))

    def to_bytes(self) -> bytes:
        """For `from_bytes`."""
        arrays: dict[str, Any] = {"mean": self.mean, "whitening": self.whitening}
        with io.BytesIO() as file:
            np.savez(file, **{name: one for name, one in arrays.items() if one is not None})
            return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, size: int) -> FeatureSpace:
        """What `to_bytes` wrote, for vectors of a size.

        Raises:
            ValueError: It is something else.
        """
        found: dict[str, NDArray[np.float32]] = {}
        shapes = {"mean": (size,), "whitening": (size, size)}
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            for name in arrays.files:
                one = found[name] = arrays[name]
                if one.shape != shapes[name] or one.dtype != np.float32:
                    raise ValueError(f"{name} of shape {one.shape} and {one.dtype}")
                if not np.isfinite(one).all():
                    raise ValueError(f"{name} is not finite")
        return cls(**found)
