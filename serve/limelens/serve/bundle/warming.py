"""The first runs of a bundle, made before anybody waits for them.

A runtime plans memory when it first sees a batch. It knows bundles and nothing of who is served.
"""

from __future__ import annotations

import numpy as np

from limelens.serve.bundle import Bundle
from limelens.serve.errors import BundleError

_ROUNDS = 2


def warm_up(bundle: Bundle) -> None:
    """Runs the golden image.

    Args:
        bundle: What is about to answer.

    Raises:
        BundleError: It fails.
    """
    images = bundle.metadata.golden.image[np.newaxis]
    for _ in range(_ROUNDS):
        try:
            bundle.predict_and_embed(images)
        # Whatever a runtime may raise.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise BundleError(f"{bundle.path}: it cannot be run: {reason}") from error
