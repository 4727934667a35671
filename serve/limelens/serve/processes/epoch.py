"""A number that all processes of a server read from the same memory.

One process writes it, in one store of eight bytes: every reader sees the number before or the
number after. It knows nothing of what the number stands for.
"""

from __future__ import annotations

import mmap
import os


class Epoch:
    """The number, mapped into this process.

    Args:
        file: Descriptor of the memory that holds it, to be passed on to others; None makes some.
    """

    def __init__(self, file: int | None = None) -> None:
        if file is None:
            file = os.memfd_create("limelens-epoch")  # no file that anybody could open or fill
            os.ftruncate(file, mmap.PAGESIZE)
        self.file = file
        self._memory = memoryview(mmap.mmap(file, mmap.PAGESIZE)).cast("Q")

    def read(self) -> int:
        """The number as it is now."""
        return self._memory[0]

    def write(self, number: int) -> None:
        """Replaces it, for everybody at once."""
        self._memory[0] = number
