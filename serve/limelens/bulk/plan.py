"""What is left to do, as units on disk: a worker reads the one it is told the number of.

The list may be of millions of images; neither the driver nor a worker holds it in memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from limelens.bulk.sources import Item, Place
from limelens.serve.files import naming

_SCHEMA: Final = pa.schema(
    [
        ("name", pa.string()),
        ("identity", pa.binary()),
        ("place", pa.uint8()),
        ("file", pa.binary()),
        ("position", pa.int64()),
        ("size_bytes", pa.int64()),
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class Planned:
    """What a plan holds, and how much was done before."""

    num_units: int
    num_images: int
    num_done: int


def write_plan(path: Path, chunks: Iterable[list[Item]], done: NDArray[np.uint64]) -> Planned:
    """Writes the units that are left.

    Args:
        path: The file.
        chunks: All images; each piece becomes a unit, without those that are done.
        done: `(N,)` sorted digests of the images that are in the output.

    Raises:
        OSError: It cannot be written.
    """
    num_units = num_images = num_done = 0
    with (
        naming(path),
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, _SCHEMA) as writer,
    ):
        for chunk in chunks:
            left = _left(chunk, done)
            num_done += len(chunk) - len(left)
            if left:
                columns = [
                    pa.array([getattr(item, field.name) for item in left], field.type)
                    for field in _SCHEMA
                ]
                writer.write_batch(pa.record_batch(columns, _SCHEMA))
                num_units += 1
                num_images += len(left)
    return Planned(num_units, num_images, num_done)


def _left(chunk: list[Item], done: NDArray[np.uint64]) -> list[Item]:
    if not len(done):
        return chunk
    digests = np.array([item.digest for item in chunk], np.uint64)
    at = np.minimum(np.searchsorted(done, digests), len(done) - 1)
    return [item for item, known in zip(chunk, done[at] == digests, strict=True) if not known]


class Plan:
    """The units of a file from `write_plan`."""

    def __init__(self, path: Path) -> None:
        self._file: Any = pa.ipc.open_file(pa.memory_map(str(path)))

    def unit(self, number: int) -> list[Item]:
        """The images of a unit."""
        rows = self._file.get_batch(number).to_pylist()
        return [Item(**{**row, "place": Place(row["place"])}) for row in rows]
