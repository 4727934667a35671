"""The memory of one batch, shared by the process that fills it and the one that runs it.

It has no name that another process could open, and is gone with the last process that maps it,
however that ends.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from limelens.serve.bundle.execution.batch_sizes import Staging


@dataclass(frozen=True, slots=True)
class BatchShape:
    """How the memory is laid out: the images, then one output after the other.

    Args:
        num_images: Room for so many.
        input_size: Height and width of an image, in pixels.
        outputs: Name and length of an image's outputs.
    """

    num_images: int
    input_size: tuple[int, int]
    outputs: tuple[tuple[str, int], ...]

    @property
    def num_bytes(self) -> int:
        """Of the whole."""
        return self._num_image_bytes + sum(
            4 * self.num_images * length for _, length in self.outputs
        )

    @property
    def _num_image_bytes(self) -> int:
        height, width = self.input_size
        # Outputs begin at a multiple of four bytes.
        return -(-self.num_images * height * width * 3 // 4) * 4

    def arrays(
        self, memory: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.float32]]]:
        """The images and outputs in `(num_bytes,)` uint8 memory, as arrays; see `SharedBatch`."""
        count, at = self.num_images, self._num_image_bytes
        images = memory[: count * np.prod(self.input_size) * 3].reshape(count, *self.input_size, 3)
        outputs = {}
        for name, length in self.outputs:
            end = at + 4 * count * length
            outputs[name] = memory[at:end].view(np.float32).reshape(count, length)
            at = end
        return images, outputs


@dataclass(frozen=True, eq=False)
class SharedBatch(Staging):
    """A batch in shared memory.

    Args:
        memory: All of it, `(num_bytes,)` uint8.
        outputs: By name `(size, length)` float32, written by the process that runs the batch.
        file: Descriptor of the memory, to be sent, in the process that allocated it; else -1.
    """

    shape: BatchShape
    memory: NDArray[np.uint8] = field(repr=False)
    outputs: Mapping[str, NDArray[np.float32]] = field(repr=False)
    file: int = -1

    @classmethod
    def create(cls, shape: BatchShape) -> SharedBatch:
        """Allocates a batch.

        Raises:
            OSError: There is no memory or no descriptor left.
        """
        file = os.memfd_create("limelens-batch", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(file, shape.num_bytes)
            # Whoever maps it can rely on its size.
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
            batch = replace(cls.over(file, shape), file=file)
        except BaseException:
            os.close(file)
            raise
        weakref.finalize(batch, os.close, file).atexit = False
        return batch

    @classmethod
    def over(cls, file: int, shape: BatchShape) -> SharedBatch:
        """Maps a batch that was allocated; its descriptor may be closed then.

        Raises:
            ValueError: It is smaller than its shape.
        """
        memory = np.frombuffer(mmap.mmap(file, shape.num_bytes), np.uint8)
        images, outputs = shape.arrays(memory)
        return cls(images, shape, memory, outputs)
