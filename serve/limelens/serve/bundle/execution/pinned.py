"""Page-locked memory, from which a GPU copies at full speed.

It knows arrays and the runtime library of CUDA, and nothing of what the arrays hold.
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
    """An array in page-locked memory, or in plain memory if CUDA has none.

    The pages are unlocked when the array is freed.
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
    # At exit the memory is freed anyway, and modules may be gone already.
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
