"""Feature vectors: brought to length 1, and which model they are of.

Plain arrays and a bundle's metadata. It knows nothing of messages, of indexes or of images.
"""

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
    """Each vector divided by its Euclidean length.

    Args:
        vectors: `(N, D)`, finite.

    Returns:
        `(N, D)`; vectors of zeros, which have no direction, stay as they are.
    """
    # In 64 bits: squares of large float32 numbers would overflow.
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    units: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
    return units


def model_digest(bundle: Bundle) -> str:
    """Tells one model from another, whatever name and version it is served under.

    The bytes of the file are not kept once it is loaded, and the file may have been replaced. The
    metadata are of the loaded model and hold its golden vector, which other weights would miss.

    Returns:
        SHA-256 over the bundle's metadata, hexadecimal.
    """
    found = _digests.get(bundle)
    if found is None:
        digest = hashlib.sha256()
        for key, value in sorted(bundle.metadata.to_props().items()):
            digest.update(f"{key}={value}\n".encode("utf-8", "surrogatepass"))
        found = _digests[bundle] = digest.hexdigest()
    return found
