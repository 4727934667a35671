"""Images decoded once, kept as pixels of one size, for all epochs of a run.

Knows files and pixels; does not know labels or what is done with the pixels.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from limelens.serve.image import ResizeMode, ResizeRule, fit, read_image
from limelens.train.data.shared_files import (
    Once,
    file_in_memory,
    file_on_disk,
    locked,
    shared_files,
)

_IN_MEMORY_BYTES: Final = 2**30
_ENTRY_BYTES: Final = 9
"""What is noted of an image: its shape as a float64, and whether it is decoded."""


class DecodedImages:
    """The images of files, each decoded when it is first asked for.

    They take `len * H * W * 3` bytes: of memory up to 1 GiB, else of a file without a name in
    `folder`, which the system removes when the process ends, however it ends; the folder is made if
    it is missing. The processes of a machine share them on Linux; elsewhere each has its own.

    Args:
        paths: Of the images.
        rule: How they are fitted.
        num_threads: That decode; 0 uses one for each core.
        folder: For sets that are too large for memory; None uses the system's for temporary files.
        in_memory_bytes: How large a set may be to stay in memory.
        once: Shares the images with the machine's other processes, all of which make this object
            with the same arguments; the first must keep it until the others have made it.

    Raises:
        DataError: The disk has no place for them.
        LimelensError: The same, in the processes that share them.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        rule: ResizeRule,
        num_threads: int = 0,
        folder: Path | None = None,
        in_memory_bytes: int = _IN_MEMORY_BYTES,
        once: Once | None = None,
    ) -> None:
        self._paths = paths
        self._rule = rule
        self._pool = ThreadPoolExecutor(num_threads or os.cpu_count() or 1)
        count = len(paths)
        shape = (count, 3, rule.height, rule.width)
        size = math.prod(shape)
        is_small = size <= in_memory_bytes

        def files() -> list[BinaryIO]:
            pixels = file_in_memory(size) if is_small else file_on_disk(size, folder)
            return [file_in_memory(count * _ENTRY_BYTES), pixels]

        # Kept open: others open them through this process.
        self._files = shared_files(files, once) if once is not None and count else []
        for file in self._files:
            weakref.finalize(self, file.close)
        entries: NDArray[np.uint8]
        pixels: NDArray[np.uint8]
        if self._files:
            entries, pixels = (np.memmap(file, np.uint8, "r+") for file in self._files)
        else:
            entries = np.zeros(count * _ENTRY_BYTES, np.uint8)
            if is_small:
                pixels = np.empty(size, np.uint8)
            else:
                with file_on_disk(size, folder) as file:
                    pixels = np.memmap(file, np.uint8, "r+")
        self._pixels = pixels.reshape(shape)
        self._shapes = entries[: count * 8].view(np.float64)
        self._is_decoded = entries[count * 8 :].view(np.bool_)
        self._is_known = np.zeros(count, np.bool_)

    def __len__(self) -> int:
        return len(self._paths)

    def pixels(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """A copy of the pixels of some images, `(N, 3, H, W)`.

        Raises:
            InvalidImageError: A file is no image that can be read.
            OSError: A file cannot be read.
        """
        if not self._is_known[list(indices)].all():
            with self._alone():
                np.copyto(self._is_known, self._is_decoded)
            missing = sorted({index for index in indices if not self._is_known[index]})
            for _ in self._pool.map(self._decode, missing):
                pass
            with self._alone():
                self._is_decoded[missing] = True
            self._is_known[missing] = True
        return np.take(self._pixels, indices, 0)

    def shapes(self, indices: Sequence[int]) -> NDArray[np.float64]:
        """Widths of images whose pixels were asked for, divided by their heights, `(N,)`.

        Of images that are cut or padded, it is the rule's.
        """
        return self._shapes[list(indices)]

    def _alone(self) -> AbstractContextManager[None]:
        """Orders what processes write and read: pixels first, then that they are there."""
        return locked(self._files[0]) if self._files else nullcontext()

    def _decode(self, index: int) -> None:
        fitted = fit(read_image(self._paths[index].read_bytes()), self._rule)
        height, width = fitted.source_size
        if self._rule.mode is not ResizeMode.STRETCH:
            height, width = self._rule.height, self._rule.width
        self._pixels[index] = fitted.pixels.transpose(2, 0, 1)
        self._shapes[index] = width / height
