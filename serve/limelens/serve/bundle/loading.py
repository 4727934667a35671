"""Loads a bundle onto a device, and proves that it works there.

It knows how onnxruntime's sessions are set up on the CPU and on GPUs, and how well the golden
vector must be met. A device that another process owns is for `remote.loading`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from limelens.serve.bundle.checks import read_bundle_file
from limelens.serve.bundle.devices import (
    CPU,
    CUDA,
    DEVICE_PROCESS,
    gpu_index,
    missing_driver,
    no_cuda,
)
from limelens.serve.bundle.execution.batch_sizes import (
    MAX_BATCH_SIZE,
    BatchRuns,
    OpenedSession,
    batch_sizes,
    first_sizes,
)
from limelens.serve.bundle.execution.device_thread import device_thread
from limelens.serve.bundle.execution.perturbing import (
    RowRuns,
    open_row_runs,
    with_perturbation,
)
from limelens.serve.bundle.execution.prepared import DevicePlacement
from limelens.serve.bundle.folder import bundle_in, version_of
from limelens.serve.bundle.metadata import CLASSIFYING, Metadata, Task
from limelens.serve.bundle.session import Bundle, ExplanationRows, refusing_failures
from limelens.serve.errors import BundleError, MissingExtraError, ProviderError
from limelens.serve.wording import first_line

_NEAR_ONE: Final = 1e-3
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class OnDevice:
    """A graph on a device that runs prepared batch sizes.

    Args:
        file: The bundle's bytes.
        open: Opens a session for the bytes of a graph, which may be derived from `file`.
        tf32: Whether the device may round the inputs of products to 10 bits.
    """

    runs: BatchRuns
    place: DevicePlacement
    file: bytes = field(repr=False)
    open: Callable[[bytes], OpenedSession] = field(repr=False)
    tf32: bool = False


def load_bundle(
    path: str | os.PathLike[str],
    device: str = "auto",
    *,
    num_threads: int | None = None,
    tf32: bool = False,
    max_batch_size: int = MAX_BATCH_SIZE,
    few_sizes: bool = False,
    batches: bool = False,
    chunk: int | None = 0,
    read: Callable[[Path], tuple[bytes, Metadata]] = read_bundle_file,
    tasks: Collection[Task] = CLASSIFYING,
) -> Bundle:
    """Loads a bundle and proves that it works here.

    Args:
        path: `model.onnx`, or the folder of a version that holds it.
        device: `auto`, `cpu`, `cuda` (the first GPU) or `cuda:K` (GPU number K). `auto` uses a GPU
            if one works; `cuda` is an error if none does. `process:` and an address is a device
            that another process owns, see `limelens.serve.bundle.remote`.
        num_threads: How many threads will call `predict` on the CPU at once; each call runs in
            its caller's thread alone. None means one per core that this process may use.
        tf32: Whether a GPU may round the inputs of products to 10 bits (TensorFloat-32): faster,
            and probabilities change a little. The CPU never does.
        max_batch_size: Largest batch that a GPU prepares; `predict` splits larger ones.
        few_sizes: Whether a GPU prepares only a few batch sizes, to start sooner;
            `Bundle.prepare` adds the others.
        batches: Whether the CPU too runs prepared batch sizes on one thread, as a GPU does.
        chunk: Samples of an explanation in a run on a GPU; 0 chooses what suits the device, None
            leaves that to `Bundle.prepare`.
        read: Reads the file and checks it; its errors go to the caller.
        tasks: What the model may do; by default it must be a classifier.

    Returns:
        The bundle; it met its golden vector on this device.

    Raises:
        BundleError: The file is missing, is no bundle, misses its golden vector, or has another
            task.
        InvalidRequestError: There is no such kind of device.
        ProviderError: `cuda` was asked for and cannot be used.
        DeviceGoneError: No process owns the device.
        MissingExtraError: onnxruntime is not installed.
    """
    is_remote = device.startswith(DEVICE_PROCESS)
    index = None if is_remote else gpu_index(device)
    path = Path(path)
    if path.is_dir():
        path = bundle_in(path)
    data, metadata = read(path)
    if metadata.task not in tasks:
        raise BundleError(
            f"{path}: a bundle for {metadata.task}; expected one for {' or '.join(sorted(tasks))}"
        )
    if is_remote:
        # Linux only, and seldom needed.
        from limelens.serve.bundle.remote.loading import load_remote
        from limelens.serve.bundle.remote.protocol import OpenModel

        tasks = frozenset({metadata.task})
        message = OpenModel(0, path, data, metadata.to_props(), tasks, max_batch_size, few_sizes)
        return load_remote(message, metadata, device, chunk=chunk, check=_check_golden)
    onnxruntime = load_runtime(device)
    size = metadata.resize.height, metadata.resize.width
    found, reason = None, ""
    if index is not None:
        found, reason = _on_gpu(onnxruntime, data, size, index, tf32=tf32)
        if found is None and device != "auto":
            raise no_cuda(reason)
    provider = CPU if found is None else CUDA
    if found is None and batches:
        found = _on_cpu(onnxruntime, data, size, path)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    bundle = Bundle(
        metadata=metadata,
        version=version_of(path),
        path=path,
        provider=provider,
        provider_reason=reason,
        num_threads=(num_threads or cores or 1) if found is None else 1,
        session=_cpu_session(onnxruntime, data, path) if found is None else found.runs.session,
        runs=None if found is None else found.runs,
        rows=None if found is None else rows_of(metadata, found, provider, chunk=chunk),
        tf32=tf32 and provider == CUDA,
    )
    if found is not None:
        with refusing_failures(path):
            found.runs.prepare_all((first_sizes if few_sizes else batch_sizes)(max_batch_size))
        if found.runs.no_graph_reason:
            _log.warning("%s runs without CUDA graphs: %s", bundle.name, found.runs.no_graph_reason)
    _check_golden(bundle)
    return bundle


def load_runtime(device: str = "cpu") -> Any:
    """Loads onnxruntime, and for a GPU CUDA's libraries too, which takes a while.

    Returns:
        The module.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "onnxruntime is not installed; pip install 'limelens[serve-cpu]' or "
            "'limelens[serve-gpu]'"
        ) from error
    preload = getattr(onnxruntime, "preload_dlls", None)
    has_cuda = CUDA in onnxruntime.get_available_providers() and not missing_driver()
    if gpu_index(device) is not None and has_cuda and preload is not None:
        preload(directory="")
    return onnxruntime


def load_and_warm(
    path: Path,
    checked: tuple[bytes, Metadata],
    device: str,
    *,
    num_threads: int | None,
    max_batch_size: int,
    tf32: bool = False,
    is_starting: bool = False,
    chunk: int | None = 0,
) -> Bundle:
    """As `load_bundle`, of checked bytes, with first runs so that no request waits for them.

    Before anything is served (`is_starting`), what only explanations need is prepared afterwards.
    """
    bundle = load_bundle(
        path,
        device,
        num_threads=num_threads,
        tf32=tf32,
        max_batch_size=max_batch_size,
        few_sizes=is_starting,
        chunk=chunk,
        read=lambda _path: checked,
    )
    if bundle.runs is None:
        bundle.warm_up()
    elif chunk is not None and is_starting:
        threading.Thread(target=bundle.prepare, name="limelens-prepare", daemon=True).start()
    elif chunk is not None:
        bundle.prepare()
    return bundle


def rows_of(
    metadata: Metadata, device: OnDevice, provider: str = CUDA, *, chunk: int | None = 0
) -> ExplanationRows:
    """Opens, on first use, what makes a bundle's perturbed images on its device."""
    runs = device.runs

    def open_rows(chunk: int) -> RowRuns | None:
        largest = runs.sizes[-1]
        each_s = runs.seconds(largest) / largest
        try:
            height, width = metadata.resize.height, metadata.resize.width
            derived = with_perturbation(device.file, height, width)
            return open_row_runs(
                metadata,
                open_session=lambda: device.open(derived),
                thread=runs.thread,
                place=device.place,
                tolerance=metadata.golden.tolerance_for(provider, tf32=device.tf32),
                estimate_s=lambda size: size * each_s,
                chunk=chunk,
            )
        except BundleError as error:
            _log.warning("%s: perturbed images are made on the CPU: %s", metadata.name, error)
            return None

    return ExplanationRows(open_rows, chunk)


def _cpu_session(ort: Any, data: bytes, path: Path) -> Any:
    try:
        return ort.InferenceSession(data, _options(ort), providers=[CPU])
    except Exception as error:
        raise BundleError(f"{path}: onnxruntime cannot run it: {first_line(error)}") from error


def _on_cpu(ort: Any, data: bytes, size: tuple[int, int], path: Path) -> OnDevice:
    """The CPU as a device that runs batches; it plans nothing anew when their size changes."""

    def opened(graph: bytes) -> OpenedSession:
        return OpenedSession(_cpu_session(ort, graph, path))

    thread, place = device_thread("cpu"), DevicePlacement("cpu")
    return OnDevice(BatchRuns(lambda: opened(data), size, thread, place), place, data, opened)


def _on_gpu(
    ort: Any, data: bytes, size: tuple[int, int], index: int, *, tf32: bool
) -> tuple[OnDevice | None, str]:
    """How a graph runs on a GPU, or why it does not: onnxruntime would fall back silently."""
    if CUDA not in ort.get_available_providers():
        return None, "this onnxruntime was built without CUDA (install limelens[serve-gpu])"
    if reason := missing_driver():  # onnxruntime would say it in three lines of its own
        return None, reason
    thread, place = device_thread(f"cuda:{index}"), DevicePlacement("cuda", index)

    def opened(graph: bytes) -> OpenedSession:
        return _cuda_session(ort, graph, index, tf32=tf32)

    try:
        runs = BatchRuns(lambda: opened(data), size, thread, place)
    except Exception as error:
        return None, first_line(error)
    return OnDevice(runs, place, data, opened, tf32), ""


def _cuda_session(ort: Any, data: bytes, index: int, *, tf32: bool) -> OpenedSession:
    """Opens a session whose runs are CUDA graphs, or else one that says why they are not."""
    settings = {
        "device_id": str(index),
        # TF32 rounds inputs to 10 bits: the result differs from the CPU's.
        "use_tf32": str(int(tf32)),
        # An exhaustive search would prepare sizes much more slowly.
        "cudnn_conv_algo_search": "HEURISTIC",
    }

    def session(more: Mapping[str, str]) -> Any:
        found = ort.InferenceSession(data, _options(ort), providers=[(CUDA, {**settings, **more})])
        if found.get_providers()[0] != CUDA:
            raise ProviderError(
                "onnxruntime could not start it (a library of CUDA or cuDNN is missing)"
            )
        return found

    try:
        return OpenedSession(session({"enable_cuda_graph": "1"}))
    except ProviderError:
        raise
    # Some of its nodes have no kernel on the GPU.
    except Exception as error:
        return OpenedSession(session({}), first_line(error))


def _options(ort: Any) -> Any:
    options = ort.SessionOptions()
    # One thread a call: the callers' threads run side by side on one session. That costs less CPU
    # per image than one call spread over cores, and nothing spins while it waits.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _check_golden(bundle: Bundle) -> None:
    golden = bundle.metadata.golden
    try:
        tolerance = golden.tolerance_for(bundle.provider, tf32=bundle.tf32)
    except KeyError:
        raise BundleError(
            f"{bundle.path}: the golden vector has no tolerance for {bundle.provider}"
        ) from None
    with refusing_failures(bundle.path):
        found, _ = bundle.predict_and_embed(np.stack([golden.image, golden.image]))
    difference = float(np.abs(found - golden.probabilities).max())
    if not difference <= tolerance:
        raise BundleError(
            f"{bundle.path}: the golden vector is missed by {difference:.2g} on "
            f"{bundle.provider}; {tolerance:.2g} is accepted"
        )
    sums = found.sum(axis=1)
    if found.min() < 0 or found.max() > 1 + _NEAR_ONE:
        raise BundleError(
            f"{bundle.path}: its outputs are {found.min():.3g} to {found.max():.3g}; "
            "expected probabilities, 0 to 1"
        )
    if bundle.task is Task.MULTICLASS and np.abs(sums - 1).max() > _NEAR_ONE:
        raise BundleError(
            f"{bundle.path}: its probabilities add up to {sums.max():.4g}; "
            "expected 1 for a multiclass bundle"
        )
