"""Runs on a GPU from memory that is made once, instead of from new memory each time.

The input is gathered in page-locked memory, from which the device copies by itself at full speed.
It knows onnxruntime's bindings and nothing of what the numbers mean.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MOST: Final = 256
"""Larger batches are rare and run from memory of their own."""
_FIRST: Final = 32
_INPUT: Final = "images"
_RUNTIMES: Final = ("libcudart.so.13", "libcudart.so.12")
_log = logging.getLogger(__name__)


class BoundRuns:
    """Runs one session; may be called from several threads at once.

    Args:
        session: The `onnxruntime.InferenceSession`.
        size: Height and width of its input.
        lock_pages: Whether memory is made page-locked, where CUDA's runtime is there to do it.
    """

    def __init__(self, session: Any, size: tuple[int, int], *, lock_pages: bool) -> None:
        self._session = session
        self._size = size
        self._lock_pages = lock_pages
        self._lock = threading.Lock()
        self._free: list[_Buffer] = []
        self.num_buffers = 0
        """How many were made: as many as threads ran at once, and a few more as batches grew."""

    def run(
        self, outputs: Sequence[str], images: NDArray[np.uint8]
    ) -> Sequence[NDArray[np.float32]]:
        """As `session.run(outputs, {"images": images})`."""
        count = len(images)
        if count == 0 or count > MOST:
            found: Sequence[NDArray[np.float32]] = self._session.run(
                list(outputs), {_INPUT: images}
            )
            return found
        buffer = self._take(count)
        try:
            return buffer.run(self._session, outputs, images)
        finally:
            with self._lock:
                self._free.append(buffer)

    def _take(self, count: int) -> _Buffer:
        with self._lock:
            if self._free:
                buffer = self._free.pop()
                if buffer.capacity >= count:
                    return buffer
            self.num_buffers += 1
        capacity = _FIRST
        while capacity < count:
            capacity *= 2
        return _Buffer(self._session, capacity, self._size, lock_pages=self._lock_pages)


class _Buffer:
    """Memory for the pictures of one run at a time."""

    def __init__(
        self, session: Any, capacity: int, size: tuple[int, int], *, lock_pages: bool
    ) -> None:
        self.capacity = capacity
        self._images = np.empty((capacity, *size, 3), np.uint8)
        self._binding = session.io_binding()
        self._locked = _lock_pages(self._images) if lock_pages else None

    def run(
        self, session: Any, outputs: Sequence[str], images: NDArray[np.uint8]
    ) -> Sequence[NDArray[np.float32]]:
        bound = self._images[: len(images)]
        np.copyto(bound, images)
        binding = self._binding
        binding.bind_input(_INPUT, "cpu", 0, np.uint8, bound.shape, bound.ctypes.data)
        for name in outputs:
            binding.bind_output(name, "cpu")
        try:
            session.run_with_iobinding(binding)
            found: Sequence[NDArray[np.float32]] = binding.copy_outputs_to_cpu()
        finally:
            binding.clear_binding_outputs()
        return found

    def __del__(self) -> None:
        runtime = getattr(self, "_locked", None)
        if runtime is not None:
            runtime.cudaHostUnregister(ctypes.c_void_p(self._images.ctypes.data))


def _lock_pages(memory: NDArray[np.uint8]) -> Any:
    """CUDA's runtime, which locked the pages; None where it could not: copies are then slower."""
    for name in _RUNTIMES:
        try:
            runtime = ctypes.CDLL(name)
        except OSError:
            continue
        address, size = ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(memory.nbytes)
        code = runtime.cudaHostRegister(address, size, ctypes.c_uint(0))
        if code == 0:
            return runtime
        _log.info("memory could not be page-locked (CUDA error %d)", code)
        return None
    _log.info("memory is not page-locked: CUDA's runtime was not found")
    return None
