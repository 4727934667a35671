"""Images decoded once, kept as pixels of one size, for all epochs of a run.

Knows files and pixels; does not know labels or what is done with the pixels.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.image import ResizeMode, ResizeRule, fit, read_image
from limelens.train.data.examples import DataError

_IN_MEMORY_BYTES: Final = 2**30


class DecodedImages:
    """The images of files, each decoded when it is first asked for.

    They take `len * H * W * 3` bytes: of memory up to 1 GiB, else of a file without a name in
    `folder`, which the system removes when the process ends, however it ends; the folder is made if
    it is missing.

    Args:
        paths: Of the images.
        rule: How they are fitted.
        num_threads: That decode; 0 uses one for each core.
        folder: For sets that are too large for memory; None uses the system's for temporary files.
        in_memory_bytes: How large a set may be to stay in memory.

    Raises:
        DataError: The disk has no place for them.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        rule: ResizeRule,
        num_threads: int = 0,
        folder: Path | None = None,
        in_memory_bytes: int = _IN_MEMORY_BYTES,
    ) -> None:
        self._paths = paths
        self._rule = rule
        self._pool = ThreadPoolExecutor(num_threads or os.cpu_count() or 1)
        shape = (len(paths), 3, rule.height, rule.width)
        self._pixels = _reserved(shape, folder, in_memory_bytes)
        self._shapes = np.ones(len(paths))
        self._is_decoded = np.zeros(len(paths), bool)

    def __len__(self) -> int:
        return len(self._paths)

    def pixels(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """A copy of the pixels of some images, `(N, 3, H, W)`.

        Raises:
            InvalidImageError: A file is no image that can be read.
            OSError: A file cannot be read.
        """
        missing = {index for index in indices if not self._is_decoded[index]}
        for _ in self._pool.map(self._decode, missing):
            pass
        return np.take(self._pixels, indices, 0)

    def shapes(self, indices: Sequence[int]) -> NDArray[np.float64]:
        """Widths of images whose pixels were asked for, divided by their heights, `(N,)`.

        Of images that are cut or padded, it is the rule's.
        """
        return self._shapes[list(indices)]

    def _decode(self, index: int) -> None:
        fitted = fit(read_image(self._paths[index].read_bytes()), self._rule)
        height, width = fitted.source_size
        if self._rule.mode is not ResizeMode.STRETCH:
            height, width = self._rule.height, self._rule.width
        self._pixels[index] = fitted.pixels.transpose(2, 0, 1)
        self._shapes[index] = width / height
        self._is_decoded[index] = True


def _reserved(
    shape: tuple[int, ...], folder: Path | None, in_memory_bytes: int
) -> NDArray[np.uint8]:
    size = math.prod(shape)
    if size <= in_memory_bytes:
        return np.empty(shape, np.uint8)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            # Writing to a mapped file beyond a full disk would end the process without a word.
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            raise DataError(
                f"the decoded images need {size / 2**30:.1f} GiB in "
                f"{folder or tempfile.gettempdir()}: {error.strerror}; free some, choose another "
                "folder with --out, or a smaller --input-size"
            ) from error
        return np.memmap(file, np.uint8, "r+", shape=shape)
