"""Page-locked memory, from which a GPU copies at full speed.

It knows CUDA's runtime library and arrays, and nothing of what they hold.
"""

from __future__ import annotations

import ctypes
import logging
import weakref
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_RUNTIMES: Final = ("libcudart.so.13", "libcudart.so.12")
_log = logging.getLogger(__name__)


def pinned_empty(shape: tuple[int, ...], dtype: Any = np.uint8) -> NDArray[Any]:
    """An array in page-locked memory; in plain memory, which copies slower, where CUDA has none.

    The pages are unlocked when the array is gone.

    Args:
        shape: Of the array.
        dtype: Of its elements.
    """
    array: NDArray[Any] = np.empty(shape, dtype)
    runtime = _runtime()
    if runtime is None or array.nbytes == 0:
        return array
    address = array.ctypes.data
    code = runtime.cudaHostRegister(
        ctypes.c_void_p(address), ctypes.c_size_t(array.nbytes), ctypes.c_uint(0)
    )
    if code:
        _log.info("memory could not be page-locked (CUDA error %d)", code)
        return array
    # At exit the process gives its memory back anyway, and modules may be gone already.
    weakref.finalize(array, _unlock, runtime, address).atexit = False
    return array


def _unlock(runtime: Any, address: int) -> None:
    runtime.cudaHostUnregister(ctypes.c_void_p(address))


def _runtime() -> Any:
    for name in _RUNTIMES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    _log.info("memory is not page-locked: CUDA's runtime was not found")
    return None
