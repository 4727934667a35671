"""What is done with images, many at a time: the seam between Ray's workers and the model.

It knows neither Ray nor onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class BulkImage:
    """One image of the input.

    Args:
        path: Its name in the output: a path below the input's folder, a URL, or a shard and a key.
        data: The encoded image; None if it could not be read.
        error: Why it could not be read, empty if it could.
    """

    path: str
    data: bytes | None
    error: str = ""


class Work(Protocol):
    """One model in one worker, made there once."""

    @property
    def batch_size(self) -> int:
        """How many images to hand over at once."""

    def __call__(self, images: Sequence[BulkImage]) -> list[Mapping[str, Any]]:
        """One row an image, in their order, of the schema; what is wrong with an image is a row."""


class WorkSpec(Protocol):
    """What to do, as it is sent to the workers: it pickles, and is equal for equal work."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of the output."""

    def fingerprint(self) -> str:
        """Changes with the model and whatever changes rows: a run is resumed only by the same."""

    def open(self, num_threads: int) -> Work:
        """Loads the model in this process.

        Args:
            num_threads: Of onnxruntime.

        Raises:
            BundleError, ProviderError, MissingExtraError: As `load_bundle`.
        """
