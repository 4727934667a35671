"""Reads and decodes many image files in threads.

Knows files and pixels; does not know labels or splits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from limelens.serve.errors import InvalidImageError
from limelens.serve.image import read_image
from limelens.train.data.examples import Skipped

Description = TypeVar("Description")


def read_each(
    paths: Iterable[Path], describe: Callable[[bytes, NDArray[np.uint8]], Description]
) -> Iterator[Description | Skipped]:
    """Describes each file by its content and upright pixels, in their order.

    An unreadable one gives a `Skipped`.
    """

    def read(path: Path) -> Description | Skipped:
        try:
            encoded = path.read_bytes()
            return describe(encoded, read_image(encoded))
        except OSError as error:
            return Skipped(path, str(error.strerror))
        except InvalidImageError as error:
            return Skipped(path, str(error))

    with ThreadPoolExecutor() as pool:
        yield from pool.map(read, paths)
