"""Runs of a session at prepared shapes, and page-locked memory: what a GPU needs to be fast.

Whenever the shape of an input changes, onnxruntime's CUDA provider plans every convolution anew,
which takes as long as hundreds of runs. So a session runs only at a few shapes. Each has fixed
memory on the device and, if the whole graph is on the device, a CUDA graph that replays the run.
All but `plan` is called in the device's thread. It knows onnxruntime's bindings, and nothing of
what the numbers mean.
"""

from __future__ import annotations

import ctypes
import logging
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_NO_GRAPH: Final = -1
"""With this graph id onnxruntime neither captures nor replays."""
_CUDA_RUNTIMES: Final = ("libcudart.so.13", "libcudart.so.12")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DevicePlacement:
    """Where a session keeps its tensors: `cuda` or `cpu`, and which of several."""

    kind: str = "cuda"
    index: int = 0

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """An `OrtValue` with arbitrary contents."""
        from onnxruntime import OrtValue

        return OrtValue.ortvalue_from_shape_and_type(
            list(shape), np.dtype(dtype).type, self.kind, self.index
        )

    def empty_on_host(self, shape: Sequence[int]) -> NDArray[np.uint8]:
        """A uint8 array to copy from; a GPU's is page-locked, see `pin`."""
        array = np.empty(shape, np.uint8)
        if self.kind == "cuda":
            pin(array)
        return array


class PreparedRun:
    """One shape of a session: its memory on the device and its CUDA graph.

    Args:
        graph_id: Of the CUDA graph in onnxruntime, unique within a session; None runs without one.
    """

    def __init__(
        self, session: Any, inputs: Mapping[str, Any], place: DevicePlacement, graph_id: int | None
    ) -> None:
        self._session = session
        self._inputs = dict(inputs)
        self._place = place
        self._graph_id = graph_id
        self._outputs: dict[str, Any] = {}
        self._binding: Any = None
        self._options: Any = None

    def plan(self) -> None:
        """Plans the convolutions for this shape, which takes long.

        Nothing else may run the session meanwhile. So call it in the device's thread if the session
        is in use, else in another thread, which leaves the device's thread free.
        """
        binding = self._session.io_binding()
        for name, value in self._inputs.items():
            binding.bind_ortvalue_input(name, value)
        names = [output.name for output in self._session.get_outputs()]
        for name in names:
            binding.bind_output(name, self._place.kind, self._place.index)
        self._session.run_with_iobinding(binding, _run_options(_NO_GRAPH))
        for name, value in zip(names, binding.get_outputs(), strict=True):
            self._outputs[name] = self._place.empty(value.shape(), np.float32)

    def capture(self) -> None:
        """Binds the outputs to fixed memory and captures the graph; quick after `plan`."""
        binding = self._session.io_binding()
        for name, value in self._inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            binding.bind_ortvalue_output(name, value)
        self._binding = binding
        self._options = _run_options(_NO_GRAPH if self._graph_id is None else self._graph_id)
        self.run()

    def write(self, name: str, array: NDArray[Any]) -> None:
        """Copies a contiguous array of the prepared shape and dtype to an input."""
        self._inputs[name].update_inplace(array)

    def run(self) -> None:
        """Runs the session on the inputs; returns when the device is done."""
        self._session.run_with_iobinding(self._binding, self._options)

    def read(self, name: str, count: int) -> NDArray[np.float32]:
        """Copies the first `count` rows of an output from the device."""
        # `numpy` returns a copy on a GPU, and the memory itself on the CPU.
        found: NDArray[np.float32] = self._outputs[name].numpy()[:count].copy()
        return found


def _run_options(graph_id: int) -> Any:
    from onnxruntime import RunOptions

    options = RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options


def pin(array: NDArray[Any]) -> None:
    """Locks the pages of an array, so that a GPU copies from it at full speed.

    It stays plain memory if CUDA cannot; otherwise CUDA starts, which takes memory of the GPU. The
    pages are unlocked when the array is freed.
    """
    runtime = _runtime()
    if runtime is None or array.nbytes == 0:
        return
    address = array.ctypes.data
    code = runtime.cudaHostRegister(
        ctypes.c_void_p(address), ctypes.c_size_t(array.nbytes), ctypes.c_uint(0)
    )
    if code:
        _log.info("memory could not be page-locked (CUDA error %d)", code)
        return
    # At exit the memory is freed anyway, and modules may be gone already.
    weakref.finalize(array, _unlock, runtime, address).atexit = False


def _unlock(runtime: Any, address: int) -> None:
    runtime.cudaHostUnregister(ctypes.c_void_p(address))


def _runtime() -> Any:
    for name in _CUDA_RUNTIMES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    _log.info("memory is not page-locked: CUDA's runtime was not found")
    return None
