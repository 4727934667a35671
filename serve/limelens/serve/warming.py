"""The first runs of a bundle, made before anybody waits for them.

A runtime plans memory, and a GPU chooses its kernels, when it first sees a batch of some size. It
knows bundles and nothing of who is served.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from limelens.serve.bundle import Bundle
from limelens.serve.errors import BundleError

_ROUNDS = 2


def warm_up(bundle: Bundle, batch_sizes: Sequence[int] = (1,)) -> None:
    """Runs the golden picture in batches of the sizes that will come.

    Args:
        bundle: What is about to answer.
        batch_sizes: Pictures in a run.

    Raises:
        BundleError: It fails for one of the sizes.
    """
    golden = bundle.metadata.golden.image
    for size in batch_sizes:
        images = np.repeat(golden[np.newaxis], size, axis=0)
        for _ in range(_ROUNDS):
            try:
                bundle.predict_and_embed(images)
            # Whatever a runtime may raise.
            except Exception as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise BundleError(
                    f"{bundle.path}: it cannot be run for {size} pictures at once: {reason}"
                ) from error
