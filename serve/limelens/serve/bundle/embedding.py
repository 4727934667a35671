"""Feature vectors: their normalisation, and the digest of the model that made them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from limelens.serve.bundle import Bundle

_digests: WeakKeyDictionary[Bundle, str] = WeakKeyDictionary()


def unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Divides finite `(N, D)` float32 vectors by their Euclidean lengths, unless those are 0."""
    # In 64 bits: squares of large float32 numbers would overflow.
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    units: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
    return units


def model_digest(bundle: Bundle) -> str:
    """Identifies a model regardless of its name and version: SHA-256 of its metadata, hexadecimal.

    The metadata include the golden vector, so models with other weights differ. The file itself is
    no longer in memory, and may have been replaced.
    """
    found = _digests.get(bundle)
    if found is None:
        digest = hashlib.sha256()
        for key, value in sorted(bundle.metadata.to_props().items()):
            digest.update(f"{key}={value}\n".encode("utf-8", "surrogatepass"))
        found = _digests[bundle] = digest.hexdigest()
    return found
