"""Runs a network on images, several at a time, and makes a row of each image's output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from limelens.bulk.batch_runner import BatchRunner
from limelens.bulk.columns import Rows
from limelens.bulk.work import BulkImage
from limelens.serve.bundle import Bundle
from limelens.serve.image import Region

_Output = TypeVar("_Output")


class BatchWork(Generic[_Output]):
    """A `Work` that needs nothing but a network's outputs.

    Args:
        bundle: Whose input the images are fitted to.
        predict: Runs `(N, H, W, 3)` uint8 images; gives an output for each.
        values: Makes the columns of an image from its output.
        num_threads: Of decoding, and on the CPU of the model.
        region: The part of each image that the model sees.
    """

    def __init__(
        self,
        bundle: Bundle,
        predict: Callable[[NDArray[np.uint8]], Iterable[_Output]],
        values: Callable[[_Output], Mapping[str, Any]],
        num_threads: int,
        region: Region | None,
    ) -> None:
        self._rows = Rows(bundle)
        self._values = values
        self._run = BatchRunner(bundle, predict, num_threads, region)

    @property
    def batch_size(self) -> int:
        """See `Work`."""
        return self._run.batch_size

    def __call__(self, images: Sequence[BulkImage]) -> list[Mapping[str, Any]]:
        """See `Work`."""
        return [
            self._rows.failed(image, found)
            if isinstance(found, Exception)
            else self._rows.of(image, self._values(found))
            for image, found in zip(images, self._run(images), strict=True)
        ]
