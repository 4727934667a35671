"""Runs of a session at shapes that were prepared: what a GPU needs to be fast.

Whenever the shape of its input changes, onnxruntime's CUDA provider plans every convolution anew,
which takes as long as hundreds of runs. So a session here only ever runs at a few shapes, each
with memory on the device that stays where it is and, where the whole graph is on the device, with
a CUDA graph that replays the run. Everything here is called on the device's thread, but for
`plan`. It knows onnxruntime's bindings and nothing of what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_NO_GRAPH: Final = -1
"""onnxruntime neither captures nor replays a run of this graph id."""


@dataclass(frozen=True)
class Place:
    """Where a session keeps its tensors.

    Args:
        kind: onnxruntime's name of the device, `cuda` or `cpu`.
        index: Which of several.
    """

    kind: str = "cuda"
    index: int = 0

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        """An `OrtValue` of that shape; its contents are arbitrary."""
        from onnxruntime import OrtValue

        return OrtValue.ortvalue_from_shape_and_type(
            list(shape), np.dtype(dtype).type, self.kind, self.index
        )


class PreparedRun:
    """One shape of a session: its memory on the device and its CUDA graph.

    Args:
        session: The `onnxruntime.InferenceSession`.
        inputs: An `OrtValue` for each of its inputs.
        place: Where outputs are kept.
        graph_id: By which onnxruntime knows the CUDA graph; another for each shape of a session.
            None runs without.
    """

    def __init__(
        self, session: Any, inputs: Mapping[str, Any], place: Place, graph_id: int | None
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

        Nothing else may run the session meanwhile: of a session that is in use, on the device's
        thread; of another, elsewhere, so that the thread is free.
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
        """Binds the outputs to memory that stays, and captures the graph; short after `plan`."""
        binding = self._session.io_binding()
        for name, value in self._inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            binding.bind_ortvalue_output(name, value)
        self._binding = binding
        self._options = _run_options(_NO_GRAPH if self._graph_id is None else self._graph_id)
        self.run()

    def write(self, name: str, array: NDArray[Any]) -> None:
        """Copies an input to the device.

        Args:
            name: Of the input.
            array: Of the prepared shape and dtype, contiguous.
        """
        self._inputs[name].update_inplace(array)

    def run(self) -> None:
        """Runs the session on what was written; returns when the device is done."""
        self._session.run_with_iobinding(self._binding, self._options)

    def read(self, name: str, count: int) -> NDArray[np.float32]:
        """Copies an output from the device.

        Args:
            name: Of the output.
            count: How many of its rows are wanted, the first ones.
        """
        # What `numpy` gives is a copy on a GPU, and the memory itself on the CPU.
        found: NDArray[np.float32] = self._outputs[name].numpy()[:count].copy()
        return found


def _run_options(graph_id: int) -> Any:
    from onnxruntime import RunOptions

    options = RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options
