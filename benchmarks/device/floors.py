"""A model's time with onnxruntime alone, without any code of limelens.

The functions load onnxruntime when they are called, in separate processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.untrained import smooth_images
from limelens.serve.bundle import read_metadata
from limelens.serve.bundle.devices import CPU, CUDA

Device = Literal["cpu", "cuda"]
_CAPTURING_RUNS: Final = 5


def open_raw(model: Path, device: Device, *, tf32: bool = False, graphs: bool = False) -> Any:
    """A plain session.

    Args:
        model: A bundle's file.
        device: Where it runs.
        tf32: Whether inputs of products may be rounded to ten bits; of CUDA.
        graphs: Whether runs are captured as CUDA graphs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if device == "cpu":
        return onnxruntime.InferenceSession(model, options, providers=[CPU])
    preload = getattr(onnxruntime, "preload_dlls", None)
    if preload is not None:
        preload(directory="")
    settings = {"use_tf32": str(int(tf32)), "enable_cuda_graph": str(int(graphs))}
    session = onnxruntime.InferenceSession(model, options, providers=[(CUDA, settings), CPU])
    if session.get_providers()[0] != CUDA:
        raise RuntimeError("onnxruntime could not start CUDA")
    return session


def resident(
    model: Path, device: Device, count: int, *, tf32: bool = False
) -> tuple[Callable[[], None], bool]:
    """A run whose images are on the device before it begins, and whose outputs stay there.

    Args:
        model: A bundle's file.
        device: Where it runs.
        count: Images of a run.
        tf32: As for `open_raw`.

    Returns:
        A function that runs it once, and whether that replays a CUDA graph.
    """
    if device == "cuda":
        try:
            return _resident(model, device, count, tf32=tf32, graphs=True), True
        except Exception as error:  # the runtime may raise anything here
            print(f"without a CUDA graph: {error}", flush=True)
    return _resident(model, device, count, tf32=tf32, graphs=False), False


def _resident(
    model: Path, device: Device, count: int, *, tf32: bool, graphs: bool
) -> Callable[[], None]:
    import onnxruntime

    session = open_raw(model, device, tf32=tf32, graphs=graphs)
    rule = read_metadata(model).resize
    images = smooth_images(count, rule.height, rule.width)
    binding = session.io_binding()
    kept = [onnxruntime.OrtValue.ortvalue_from_numpy(images, device, 0)]
    binding.bind_ortvalue_input("images", kept[0])
    for output in session.get_outputs():
        shape = (count, int(output.shape[1]))
        kept.append(onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, device, 0))
        binding.bind_ortvalue_output(output.name, kept[-1])
    options = onnxruntime.RunOptions()
    if graphs:
        options.add_run_config_entry("gpu_graph_id", str(count))

    def run() -> None:
        assert kept  # the binding holds addresses, not values
        session.run_with_iobinding(binding, options)

    for _ in range(_CAPTURING_RUNS):
        run()
    return run


def resident_ms(
    model: Path, device: Device, count: int, seconds: float, *, tf32: bool = False
) -> float:
    """Milliseconds of one resident run, the median over some time."""
    run, _ = resident(model, device, count, tf32=tf32)
    return median_ms(run, seconds)


def batches_per_s(model: Path, device: Device, count: int, seconds: float) -> float:
    """Images a second by `session.run` on arrays of one size, one after the other."""
    session = open_raw(model, device)
    rule = read_metadata(model).resize
    feed = {"images": smooth_images(count, rule.height, rule.width)}

    def run() -> None:
        session.run(["probabilities"], feed)

    for _ in range(_CAPTURING_RUNS):
        run()
    return 1000 * count / median_ms(run, seconds)


def probabilities(
    model: Path, device: Device, images: NDArray[np.uint8], *, tf32: bool = False
) -> NDArray[np.float32]:
    """`(N, C)` of a plain session."""
    session = open_raw(model, device, tf32=tf32)
    found: NDArray[np.float32] = session.run(["probabilities"], {"images": images})[0]
    return found


def median_ms(run: Callable[[], object], seconds: float, *, most: int = 10_000) -> float:
    """Milliseconds of one call, the median of as many as fit into some time, at least 3."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < most):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return 1000 * float(np.median(times))
