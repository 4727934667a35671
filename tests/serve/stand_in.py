"""A session that stands in for one on a GPU, and fails where a GPU would be slow or wrong.

The code under test is the real one: device thread, prepared runs, engine. Only the session is
onnxruntime's CPU session, behind the same bindings. It fails on a shape that was not planned, on a
graph that is replayed in another thread or with other memory than it was captured with, and on a
run without bindings.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from limelens.serve.bundle import Bundle, load_bundle
from limelens.serve.bundle.devices import CUDA
from limelens.serve.bundle.execution.batch_sizes import BatchRuns, OpenedSession, batch_sizes
from limelens.serve.bundle.execution.device_thread import DeviceThread
from limelens.serve.bundle.execution.prepared import DevicePlacement
from limelens.serve.bundle.loading import OnDevice, rows_of

OnRun = Callable[[dict[str, NDArray[Any]]], None]


class Binding:
    """A binding that remembers what was bound."""

    def __init__(self, binding: Any) -> None:
        self.binding = binding
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}

    def bind_ortvalue_input(self, name: str, value: Any) -> None:
        self.inputs[name] = value
        self.binding.bind_ortvalue_input(name, value)

    def bind_ortvalue_output(self, name: str, value: Any) -> None:
        self.outputs[name] = value
        self.binding.bind_ortvalue_output(name, value)

    def bind_output(self, name: str, kind: str, index: int) -> None:
        self.binding.bind_output(name, kind, index)

    def get_outputs(self) -> Any:
        return self.binding.get_outputs()


class StrictSession:
    """See the module.

    Args:
        data: The graph's bytes.
        on_run: Called with the inputs before every run, except those that plan.
    """

    def __init__(self, data: bytes, on_run: OnRun | None = None) -> None:
        self.session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        self.on_run = on_run
        self.planned: Any = None
        self.graphs: dict[int, tuple[Any, Any, int]] = {}
        self.running = threading.Lock()

    def get_inputs(self) -> Any:
        return self.session.get_inputs()

    def get_outputs(self) -> Any:
        return self.session.get_outputs()

    def get_providers(self) -> list[str]:
        return [CUDA]

    def io_binding(self) -> Binding:
        return Binding(self.session.io_binding())

    def run(self, *_arguments: Any) -> Any:
        raise AssertionError("a run without bindings: its size was not prepared")

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        assert self.running.acquire(blocking=False), "two threads run one session"
        try:
            graph_id = int(options.get_run_config_entry("gpu_graph_id"))
            shapes = {name: tuple(value.shape()) for name, value in binding.inputs.items()}
            if not binding.outputs:
                assert graph_id == -1
                self.planned = shapes
            elif graph_id == -1:
                assert shapes == self.planned, "a session without graphs changes its shape"
            else:
                values = {**binding.inputs, **binding.outputs}
                memory = {name: value.data_ptr() for name, value in values.items()}
                here = threading.get_ident()
                if graph_id not in self.graphs:
                    assert shapes == self.planned, "a shape is captured that was not planned last"
                    self.graphs[graph_id] = shapes, memory, here
                assert self.graphs[graph_id] == (shapes, memory, here)
            if binding.outputs and self.on_run is not None:
                self.on_run({name: value.numpy() for name, value in binding.inputs.items()})
            self.session.run_with_iobinding(binding.binding, options)
        finally:
            self.running.release()


def on_gpu(
    data: bytes,
    size: tuple[int, int],
    *,
    on_run: OnRun | None = None,
    no_graph_reason: str = "",
    thread: DeviceThread | None = None,
    open_session: Callable[[bytes], Any] | None = None,
) -> tuple[OnDevice, str]:
    """As `_on_gpu` of `limelens.serve.bundle.loading`."""
    thread = thread or DeviceThread("stand-in")
    place = DevicePlacement("cpu", 0)

    def opened(graph: bytes) -> OpenedSession:
        session = open_session(graph) if open_session else StrictSession(graph, on_run)
        return OpenedSession(session, no_graph_reason)

    runs = BatchRuns(lambda: opened(data), size, thread, place)
    return OnDevice(runs, place, data, opened), ""


def stand_in(
    path: Path, *, max_batch_size: int = 8, chunk: int | None = 0, **options: Any
) -> Bundle:
    """A bundle as on a GPU.

    Args:
        path: Of the bundle.
        max_batch_size: The largest size that is prepared.
        chunk: As for `load_bundle`.
        options: As for `on_gpu`.
    """
    bundle = load_bundle(path, "cpu")
    device, _ = on_gpu(bundle.path.read_bytes(), bundle.input_size, **options)
    device.runs.prepare_all(batch_sizes(max_batch_size))
    return replace(
        bundle,
        provider=CUDA,
        num_threads=1,
        session=device.runs.session,
        runs=device.runs,
        rows=rows_of(bundle.metadata, device, chunk=chunk),
    )


class Busy:
    """Keeps the device's thread busy until `end`."""

    def __init__(self, thread: DeviceThread) -> None:
        self.go_on, entered = threading.Event(), threading.Event()

        def work() -> None:
            entered.set()
            assert self.go_on.wait(120)

        thread.submit(work)
        assert entered.wait(60)

    def end(self) -> None:
        self.go_on.set()


def images_run(seen: list[list[int]]) -> OnRun:
    """Records the first byte of each image of each run, padding included."""

    def note(inputs: dict[str, NDArray[Any]]) -> None:
        if "images" in inputs:
            seen.append(inputs["images"][:, 0, 0, 0].tolist())

    return note


def random_images(count: int, size: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    """`(count, size, size, 3)` pixels."""
    rng = np.random.default_rng([seed, count])
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
